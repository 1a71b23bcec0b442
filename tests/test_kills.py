"""Processes that are killed at any moment, by SIGKILL, and resumed: they come to what one comes to that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from resume_cases import all_that_decides, assert_equal, resume_exact

import rlkit_core
from rlkit_core.run_folder import RunFolder, read_json

ROOT = Path(next(iter(rlkit_core.__path__))).parent
RLKIT = str(Path(sys.executable).with_name("rlkit"))
PATHS = [str(ROOT), str(ROOT / "plugins"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
ENVIRON = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}

SMALL = ("--network.hidden", "32")
# Algorithm and environment, and the steps of a run of about a second.
CASES: dict[str, tuple[tuple[str, ...], int]] = {
    "a2c native": (("a2c", "--env", "CartPole-v1", *SMALL), 40_000),
    "ppo sync": (("ppo", "--env", "LunarLander-v3", "--env.vectorization", "sync", *SMALL), 6_000),
    "dqn native": (("dqn", "--env", "CartPole-v1", "--replay-size", "3000", *SMALL), 2_000),
    "sac sync": (("sac", "--env", "Pendulum-v1", "--batch-size", "32", "--warmup-steps", "100", *SMALL), 600),
    "a2c sync": (("a2c", "--env", "CartPole-v1", "--env.vectorization", "sync", *SMALL), 20_000),
    "ppo native": (("ppo", "--env", "CartPole-v1", *SMALL), 25_000),
    "dqn sync": (("dqn", "--env", "Acrobot-v1", "--preset", "none", "--prioritized", "--n-step", "3", *SMALL), 1_000),
    "sac native": (
        ("sac", "--import", "resume_cases", "--env", "resume/Walk-v0", "--env.kwargs", "continuous=true", *SMALL),
        500,
    ),
}

# A parent that has imported everything, and forks it: a JSON list of arguments is answered by a pid, a pid by how that
# process ended.
WARM = """
import json, os, sys
import torch, rlkit_core.cli.run, rlkit_core.cli.resume, rlkit_core.training, rlkit_core.evaluation
import rlkit_core.checkpoint, rlkit_core.stored_policy, gymnasium.wrappers, gymnasium.vector, safetensors.torch
from rlkit_core.cli.root import execute

torch.set_num_threads(1)
for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, int):
        print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = execute(asked)
        finally:
            os._exit(code)
    print(pid, flush=True)
"""


class Started(Protocol):
    """A process of the command."""

    pid: int

    def wait(self) -> int: ...


Start = Callable[..., Started]


class Forked:
    """A process that the warm parent has forked."""

    def __init__(self, warm: subprocess.Popen[str], arguments: tuple[str, ...]) -> None:
        self._warm = warm
        self.pid = self._ask(arguments)

    def _ask(self, what: Any) -> int:
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        print(json.dumps(what), file=self._warm.stdin, flush=True)
        return int(self._warm.stdout.readline())

    def wait(self) -> int:
        return self._ask(self.pid)


@pytest.fixture(scope="module")
def forked() -> Iterator[Start]:
    """Starts of the command that take no time."""
    warm = subprocess.Popen(
        [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRON
    )
    yield lambda *arguments: Forked(warm, arguments)
    assert warm.stdin is not None
    warm.stdin.close()
    warm.wait(timeout=60)


def command(*arguments: str) -> Started:
    """The real one."""
    return subprocess.Popen([RLKIT, *arguments], stdout=subprocess.DEVNULL, env=ENVIRON)


def last_step(run: Path) -> int:
    """Step of the last whole record of the journal, or -1."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError):
        return -1


def being_saved(run: Path) -> bool:
    """Whether a checkpoint is half written."""
    folder = run / "checkpoints"
    for place in (folder, folder / "segments"):
        try:
            if any(name.endswith(".tmp") for name in os.listdir(place)):
                return True
        except OSError:
            pass
    return False


def resumes(run: Path) -> int:
    try:
        return len(json.loads((run / "provenance.json").read_text()).get("resumes", []))
    except (OSError, ValueError):
        return 0


def kill(started: Started, run: Path, attempt: int, at: int, inside_a_save: bool, dice: random.Random) -> bool:
    """Kill it when it has come to a step, or in the first save after that; returns whether it was inside one."""

    def wait_for(condition: Callable[[], bool], pause: float) -> None:
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end
            assert (Path("/proc") / str(started.pid)).exists(), "it came to its end"
            time.sleep(pause)

    wait_for(lambda: resumes(run) == attempt and (run / "metrics.jsonl").exists(), 0.002)
    wait_for(lambda: last_step(run) >= at, 0.002)
    if inside_a_save:
        wait_for(lambda: being_saved(run), 0.0)
    else:
        time.sleep(dice.uniform(0.0, 0.05))
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert RunFolder.open(run).is_orphaned()  # what `rlkit runs` shows as killed
    return being_saved(run)


def survives(case: str, seconds: int, kills: list[int], start: Start, tmp_path: Path) -> None:
    """A run that is never killed, and others that are, so often each: all come to the same."""
    arguments, steps_per_second = CASES[case]
    total_steps = seconds * steps_per_second
    dice = random.Random(case)
    settings = (
        *("--total-steps", str(total_steps), "--stop-at", "never", "--tracker", "none", "--progress", "none"),
        *("--checkpoint-every", str(total_steps // 25), "--log-every", str(total_steps // 500)),
        *("--eval-every", str(total_steps // 4), "--eval-episodes", "2", "--eval-max-steps", "100"),
    )
    whole = tmp_path / "whole"
    assert start("run", *arguments, *settings, "--run-dir", str(whole)).wait() == 0
    expected = all_that_decides(whole)
    took = read_json(whole / "status.json")["result"]["seconds"]
    count, inside = 0, 0
    for number, times in enumerate(kills):
        run = tmp_path / f"killed{number}"
        # By the steps that it has come to: uniform over the training, wherever a noisy machine spends its time.
        moments = sorted(dice.uniform(0.0, 0.9) for _ in range(times))
        started = start("run", *arguments, *settings, "--run-dir", str(run))
        for attempt, moment in enumerate(moments):
            count += 1
            inside += kill(started, run, attempt, int(moment * total_steps), count % 5 == 0, dice)
            started = start("resume", str(run), "--progress", "none")
        assert started.wait() == 0
        assert_equal(expected, all_that_decides(run))
        assert resume_exact(run)
        assert resumes(run) == times
    print(f"{case}: {count} kills, {inside} inside a save, of runs of {took:.1f} s; all came to the same")
    assert inside >= count // 5


@pytest.mark.parametrize("case", list(CASES)[:4])
def test_five_kills_change_no_bit(case: str, forked: Start, tmp_path: Path) -> None:
    survives(case, 4, [5], forked, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_hundred_kills_change_no_bit(case: str, tmp_path: Path) -> None:
    """13 kills of each of 8, the runs of half a minute."""
    survives(case, 40, [5, 5, 3], command, tmp_path)
    assert read_json(tmp_path / "whole" / "status.json")["result"]["seconds"] >= 30
