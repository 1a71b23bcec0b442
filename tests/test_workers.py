"""Environment workers that die, hang or raise: named, closed in time, and none of them outlives its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlkit_core
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.workers import _Pipe, _Watch, _work
from rlkit_core.environment import Environments, LaneFault
from rlkit_core.errors import EnvironmentFault
from rlkit_core.run_folder import process_start_time
from rlkit_core.seeding import SeedStream
from tests.wayward import Wayward  # registers it

ROOT = Path(next(iter(rlkit_core.__path__))).parent
LANES = 3
TIMEOUT = 0.6
"""Seconds that a worker has to answer where one hangs; where none does it is longer, for the sake of busy machines."""


def make(folder: Path, timeout: float = 30.0, num_envs: int = LANES, **settings: Any) -> Environments:
    vector = {name: settings.pop(name) for name in ("autoreset",) if name in settings}
    return GymnasiumConfig.model_validate(
        {
            "id": "Wayward-v0",
            "kwargs": {"folder": str(folder), **settings},
            "vectorization": "async",
            "timeout": timeout,
            **vector,
        }
    ).make(num_envs, SeedStream(0))


def pids(folder: Path) -> dict[int, int]:
    """Pids of the workers, by lane."""
    names = [path.name.split("-") for path in folder.glob("made-*")]
    return {int(lane): int(pid) for _, lane, pid in names}


def closed_lanes(folder: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob("closed-*")}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def actions_for(environments: Environments) -> Any:
    return np.zeros_like(environments.vector_env.action_space.sample())


def use(environments: Environments, call: str) -> None:
    if call == "reset":
        environments.reset()
    elif call == "step":
        environments.step(actions_for(environments))
    else:
        environments.state_dict()


@contextlib.contextmanager
def fault_within(seconds: float, pattern: str) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=pattern) as caught:
        yield
    assert time.monotonic() - began < seconds
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) <= 3


def close_within(seconds: float, environments: Environments, folder: Path) -> None:
    """Close, and see that no process is left, nor a zombie."""
    began = time.monotonic()
    environments.close()
    assert time.monotonic() - began < seconds
    for pid in pids(folder).values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


NAMES = {"state_dict": "lane_state"}  # what is called in the worker


def message(how: str, lane: int, pid: int, call: str) -> str:
    name = NAMES.get(call, call)
    if how == "kill":
        return rf"^environment {lane}, its process {pid} was killed by SIGKILL during {name}$"
    if how == "hang":
        return rf"^environment {lane}, {name} has not answered for {TIMEOUT} seconds \(process {pid}\)$"
    raised = "reading its state" if call == "state_dict" else call
    return rf"^environment {lane}, episode \d, step \d: {raised} raised ZeroDivisionError: wheel came off$"


MATRIX = [
    (lane, idle, call, how)
    for lane in (0, LANES - 1)
    for idle in (True, False)
    for call in ("step", "reset", "state_dict")
    for how in ("kill", "hang", "raise")
    if (lane, call, how) != (0, "state_dict", "hang")  # for the time's sake
]


NAMED = [f"{lane}-{'idle' if idle else 'during'}-{call}-{how}" for lane, idle, call, how in MATRIX]


@pytest.mark.parametrize(("lane", "idle", "call", "how"), MATRIX, ids=NAMED)
def test_every_fault_is_named_and_closed(tmp_path: Path, lane: int, idle: bool, call: str, how: str) -> None:
    """Before the call that will notice it (idle) or inside."""
    timeout = TIMEOUT if how == "hang" else 30.0
    skip = 1 if call == "reset" else 0  # the first one begins the first episode
    armed = "" if idle else call
    environments = make(tmp_path, timeout, lane=lane, call=armed, how=how, skip=0 if idle else skip)
    environments.reset()
    pid = pids(tmp_path)[lane]
    if call != "step":
        use(environments, "step")
    if idle:
        if how == "raise":
            environments.vector_env.call("arm", call)  # type: ignore[attr-defined]
        else:
            os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    with fault_within(timeout + 5 if how == "hang" else 2, message(how, lane, pid, call)):
        use(environments, call)
    close_within(5, environments, tmp_path)
    assert closed_lanes(tmp_path) >= set(range(LANES)) - {lane}, "the others could close their environments"


def test_a_worker_that_has_been_dead_for_a_while_is_named(tmp_path: Path) -> None:
    environments = make(tmp_path)
    environments.reset()
    pid = pids(tmp_path)[1]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_start_time(pid) is None, 5)
    with fault_within(2, message("kill", 1, pid, "step")):
        use(environments, "step")
    close_within(5, environments, tmp_path)


def test_a_worker_that_ends_by_itself_is_named_with_its_status(tmp_path: Path) -> None:
    environments = make(tmp_path, lane=2, call="step", how="exit")
    environments.reset()
    with fault_within(2, rf"environment 2, its process {pids(tmp_path)[2]} ended with status 7 during step"):
        use(environments, "step")
    close_within(5, environments, tmp_path)


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_fault_is_named_while_another_environment_takes_its_time(tmp_path: Path, how: str) -> None:
    environments = make(tmp_path, lane=LANES - 1, call="step", how=how, nap=20.0, napping=0)
    environments.reset()
    with fault_within(2, rf"^environment {LANES - 1}, "):
        use(environments, "step")
    close_within(5, environments, tmp_path)


AFTER = [(how, autoreset) for how in ("kill", "raise") for autoreset in ("next_step", "same_step", "disabled")]


@pytest.mark.parametrize(("how", "autoreset"), [*AFTER, ("hang", "same_step")])
def test_a_fault_in_the_reset_after_an_episode(tmp_path: Path, how: str, autoreset: str) -> None:
    timeout = TIMEOUT if how == "hang" else 30.0
    settings: dict[str, Any] = {"lane": 1, "call": "reset", "how": how, "skip": 1, "length": 1}
    environments = make(tmp_path, timeout, autoreset=autoreset, **settings)
    environments.reset()
    with fault_within(timeout + 5 if how == "hang" else 2, "^environment 1, "):
        for _ in range(2):
            use(environments, "step")
    close_within(5, environments, tmp_path)


@pytest.mark.parametrize("how", ["raise", "kill", "exit", "hang", "odd"])
@pytest.mark.parametrize("lane", [0, LANES - 1])
def test_a_fault_while_its_environment_is_made(
    tmp_path: Path, lane: int, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    timeout = TIMEOUT if how == "hang" else 30.0
    expected = {
        "raise": "__init__ raised ZeroDivisionError: wheel came off",
        "kill": r"its process (\d+) was killed by SIGKILL during __init__",
        "exit": r"its process (\d+) ended with status 7 during __init__",
        "hang": rf"__init__ has not answered for {TIMEOUT} seconds \(process (\d+)\)",
        "odd": "__init__ raised Odd: cannot be pickled",
    }
    with fault_within((timeout if how == "hang" else 2) + 5, rf"^environment {lane}, {expected[how]}$"):
        make(tmp_path, timeout, lane=lane, call="__init__", how=how)
    assert multiprocessing.active_children() == []
    assert lane in pids(tmp_path)
    assert all(process_start_time(pid) is None for pid in pids(tmp_path).values())
    assert capfd.readouterr().err == ""


def test_large_spaces_do_not_block_for_ever_while_an_environment_is_made(tmp_path: Path) -> None:
    with fault_within(TIMEOUT + 5, "^environment 1, __init__ has not answered"):
        make(tmp_path, TIMEOUT, lane=1, call="__init__", how="hang", size=200_000)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("lane", [0, LANES - 1])
def test_large_actions_do_not_block_for_ever(tmp_path: Path, lane: int) -> None:
    """A pipe holds some 200 kB: sending more than that waits for the reader."""
    environments = make(tmp_path, TIMEOUT, size=500_000)
    environments.reset()
    use(environments, "step")
    pid = pids(tmp_path)[lane]
    os.kill(pid, signal.SIGSTOP)
    with fault_within(TIMEOUT + 5, message("hang", lane, pid, "step")):
        use(environments, "step")
    close_within(5, environments, tmp_path)


def test_closing_after_ctrl_c_does_not_wait_for_a_full_pipe(tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    environments = make(tmp_path, 60.0, size=500_000)
    environments.reset()
    os.kill(pids(tmp_path)[1], signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            use(environments, "step")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    close_within(5, environments, tmp_path)


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_large_actions_to_a_worker_that_is_gone(tmp_path: Path, how: str) -> None:
    environments = make(tmp_path, lane=1, call="step", how=how, size=500_000)
    environments.reset()
    pid = pids(tmp_path)[1]
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
    with fault_within(4, message(how, 1, pid, "step")):
        use(environments, "step")
    close_within(5, environments, tmp_path)


def test_an_error_that_cannot_be_pickled_is_told_all_the_same(tmp_path: Path) -> None:
    environments = make(tmp_path, lane=1, how="odd")
    environments.reset()
    with pytest.raises(LaneFault) as caught:
        environments.vector_env.call("explode")  # type: ignore[attr-defined]
    assert caught.value.lane_and_what() == (1, "explode raised Odd: cannot be pickled")
    close_within(5, environments, tmp_path)


def test_attributes_are_set_and_read_under_watch(tmp_path: Path) -> None:
    environments = make(tmp_path, TIMEOUT)
    vector_env: Any = environments.vector_env
    environments.reset()
    vector_env.set_attr("mark", [4, 5, 6])
    assert vector_env.get_attr("mark") == (4, 5, 6)
    pid = pids(tmp_path)[2]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(LaneFault) as caught:
        vector_env.set_attr("mark", 0)
    assert caught.value.lane_and_what() == (2, f"set_attr has not answered for {TIMEOUT} seconds (process {pid})")
    close_within(5, environments, tmp_path)


def pipe_to(process: Any, timeout: float) -> tuple[_Pipe, Any]:
    ours, theirs = multiprocessing.Pipe()
    watch = _Watch(timeout)
    pipe = _Pipe(ours, 0, watch)
    watch.call, watch.processes, watch.pipes = "step", [process], [pipe]
    return pipe, theirs


def test_an_answer_that_stops_in_the_middle() -> None:
    process = SimpleNamespace(pid=1, exitcode=None, join=lambda timeout: None, kill=lambda: None)
    pipe, theirs = pipe_to(process, 0.3)
    os.write(theirs.fileno(), b"\0\0\0\x64half")  # says that 100 bytes come
    began = time.monotonic()
    with pytest.raises(LaneFault, match=r"step has not answered for 0\.3 seconds"):
        pipe.recv()
    assert time.monotonic() - began < 3
    pipe, theirs = pipe_to(process, 5.0)
    os.write(theirs.fileno(), b"\0\0\0\x64half")
    theirs.close()
    with pytest.raises(LaneFault, match="its process 1 closed its connection during step"):
        pipe.recv()


def test_a_dead_worker_whose_pipe_somebody_else_keeps_open() -> None:
    pipe, theirs = pipe_to(SimpleNamespace(pid=1, exitcode=-9, join=lambda timeout: None), 30.0)
    began = time.monotonic()
    with pytest.raises(LaneFault, match="its process 1 was killed by SIGKILL during step"):
        pipe.recv()
    assert time.monotonic() - began < 3
    theirs.close()


# ---- the parent ----


def forked(work: Callable[[], None]) -> int:
    """Pid of a process, in a group of its own, that does that."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            work()
        finally:
            os._exit(1)
    return pid


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def all_gone(folder: Path) -> bool:
    return all(process_start_time(pid) is None for pid in pids(folder).values())


@pytest.mark.parametrize("doing", ["idle", "stepping", "hanging", "stopped", "made"])
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path, doing: str) -> None:
    def work() -> None:
        settings = {"hanging": ("step", "hang"), "stopped": ("step", "stop"), "made": ("__init__", "hang")}
        call, how = settings.get(doing, ("", ""))
        environments = make(tmp_path, 60.0, lane=0, call=call, how=how, nap=0.01)
        environments.reset()
        (tmp_path / "ready").touch()
        if doing == "idle":
            time.sleep(60)
        while True:
            use(environments, "step")

    parent = forked(work)
    try:
        wait_until(lambda: len(pids(tmp_path)) == LANES and (doing == "made" or (tmp_path / "ready").exists()), 20)
        time.sleep(0.2)
        assert not all_gone(tmp_path)
    finally:
        end(parent)
    wait_until(lambda: all_gone(tmp_path), 5)


def test_a_worker_that_starts_after_its_parent_has_died_makes_nothing(tmp_path: Path) -> None:
    dead = forked(lambda: None)
    os.waitpid(dead, 0)
    nothing: Any = None
    worker = forked(lambda: _work([0], dead, 0, (tmp_path / "made").touch, *[nothing] * 6))
    os.waitpid(worker, 0)
    assert not (tmp_path / "made").exists()


def test_a_job_that_is_stopped_and_goes_on_blames_no_worker(tmp_path: Path) -> None:
    """Ctrl-Z, and `fg` after longer than the time-out."""

    def work() -> None:
        environments = make(tmp_path, 1.0, nap=0.3)
        environments.reset()
        for count in range(1000):
            use(environments, "step")
            (tmp_path / "count").write_text(str(count))

    def count() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((tmp_path / "count").read_text())
        return -1

    job = forked(work)
    try:
        wait_until(lambda: count() >= 1, 20)
        os.killpg(job, signal.SIGSTOP)
        time.sleep(2.0)
        stopped_at = count()
        os.killpg(job, signal.SIGCONT)
        wait_until(lambda: count() >= stopped_at + 2, 10)
    finally:
        end(job)
    wait_until(lambda: all_gone(tmp_path), 5)


# ---- the command ----


def test_the_command_names_the_fault_and_exits_with_4(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [str(Path(sys.executable).with_name("rlkit")), "run", "a2c", "--env", "Wayward-v0", "--tracker", "none"]
    command += ["--import", Wayward.__module__, "--env.vectorization", "async", "--collector.num-envs", "2"]
    processes = {}
    for how in ("kill", "hang", "raise"):
        folder = tmp_path / how
        folder.mkdir()
        kwargs = f"folder={folder},lane=1,call=step,how={how},skip=9"
        more = ["--env.kwargs", kwargs, "--run-dir", str(folder / "run")]
        more += ["--env.timeout", "2" if how == "hang" else "60"]
        processes[how] = subprocess.Popen(
            [*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ
        )
    errors = {how: process.communicate(timeout=60)[1] for how, process in processes.items()}
    assert {how: process.returncode for how, process in processes.items()} == dict.fromkeys(processes, 4), errors
    lanes = {how: pids(tmp_path / how) for how in processes}
    assert f"error: environment 1, its process {lanes['kill'][1]} was killed by SIGKILL during step" in errors["kill"]
    assert "error: environment 1, step has not answered for 2 seconds" in errors["hang"]
    assert f"(process {lanes['hang'][1]})" in errors["hang"]
    assert "error: environment 1, episode 0, step 10: step raised ZeroDivisionError: wheel" in errors["raise"]
    for how in processes:
        assert "Traceback" not in errors[how]
        assert all_gone(tmp_path / how)
