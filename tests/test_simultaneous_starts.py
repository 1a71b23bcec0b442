"""Processes that want one run folder at once: one gets it, and all others say who has it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rlkit_core
from rlkit_core import run_folder
from rlkit_core.errors import RunInUse
from rlkit_core.run_folder import RunFolder, read_json, write_json

ROOT = Path(next(iter(rlkit_core.__path__))).parent
ENVIRON = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
FOR_EVER = ("--tracker", "none", "--total-steps", "1000000000", "--stop-at", "never", "--progress", "none")
RUN = ("run", "a2c", "--env", "CartPole-v1", *FOR_EVER, "--env.vectorization", "async", "--collector.num-envs", "2")

# A parent that has imported everything, and forks it: a JSON line of `[arguments, how many, signal that ends the one
# that got the folder, folder for what they print]` is answered by one of `[pid of that one, {pid: exit code}]`.
WARM = """
import ctypes, json, os, sys, time
from pathlib import Path
import torch, rlkit_core.cli.run, rlkit_core.cli.resume, rlkit_core.training, rlkit_core.evaluation
import rlkit_core.checkpoint, rlkit_core.stored_policy, rlkit_a2c.a2c
from rlkit_core.cli.root import execute

torch.set_num_threads(1)
for line in sys.stdin:
    arguments, count, number, out = json.loads(line)
    run = arguments[arguments.index("--run-dir") + 1] if "--run-dir" in arguments else arguments[1]
    stands = Path(run) / "status.json"
    gate, gun = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            code = 70
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, 9)  # none is left behind if this parent dies of a fault
            try:
                os.close(gun)
                file = os.open(Path(out) / str(os.getpid()), os.O_WRONLY | os.O_CREAT)
                os.dup2(file, 1)
                os.dup2(file, 2)
                os.read(gate, 1)
                code = execute(arguments)
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(gate)
    os.close(gun)
    codes = {}
    deadline = time.monotonic() + 60
    while len(codes) < count - 1 and time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.02)
    for last in set(pids) - codes.keys():
        while time.monotonic() < deadline:
            if stands.exists() and f'"pid": {last},' in stands.read_text():
                break
            time.sleep(0.02)
        os.kill(last, number)
        codes[last] = os.waitstatus_to_exitcode(os.waitpid(last, 0)[1])
    print(json.dumps([last, codes]), flush=True)
"""

Race = Callable[..., tuple[int, dict[int, int], dict[int, str]]]


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Race]:
    """Start that many processes of `rlkit` at once; returns the pid of the last one left, exit codes and texts."""
    process = subprocess.Popen(
        [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRON
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def start(arguments: tuple[str, ...], count: int, number: int) -> tuple[int, dict[int, int], dict[int, str]]:
        out = tmp_path_factory.mktemp("out")
        print(json.dumps([arguments, count, number, str(out)]), file=process.stdin, flush=True)
        last, codes = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        texts = {int(path.name): path.read_text() for path in out.iterdir()}
        return last, {int(pid): code for pid, code in codes.items()}, texts

    yield start
    process.stdin.close()
    process.wait(timeout=60)


def one_of_them_got_it(winner: int, codes: dict[int, int], texts: dict[int, str]) -> None:
    losers = codes.keys() - {winner}
    assert {pid: codes[pid] for pid in losers} == dict.fromkeys(losers, 7), texts
    for pid in losers:
        assert f" is in use by process {winner} on {socket.gethostname()}\n" in texts[pid]
        assert texts[pid].startswith("error: ")
        assert len(texts[pid].splitlines()) <= 3


def test_fifty_runs_then_ten_resumes_then_a_dead_owner(race: Race, tmp_path: Path) -> None:
    run = tmp_path / "run"
    winner, codes, texts = race((*RUN, "--run-dir", str(run)), 50, signal.SIGTERM)
    assert codes[winner] == 143
    one_of_them_got_it(winner, codes, texts)
    assert read_json(run / "status.json")["pid"] == winner

    winner, codes, texts = race(("resume", str(run), "--progress", "none"), 10, signal.SIGKILL)
    assert codes[winner] == -signal.SIGKILL
    one_of_them_got_it(winner, codes, texts)

    # Its lock has gone with it and with its environments' processes.
    winner, codes, texts = race(("resume", str(run), "--progress", "none"), 3, signal.SIGTERM)
    assert codes[winner] == 143, texts[winner]
    one_of_them_got_it(winner, codes, texts)
    assert read_json(run / "status.json")["state"] == "interrupted"


def test_real_commands(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("rlkit")), *RUN, "--run-dir", str(tmp_path / "run")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRON)
        for _ in range(4)
    ]
    try:
        deadline = time.monotonic() + 60
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (winner,) = [process for process in processes if process.returncode is None]
    finally:
        for process in processes:
            process.terminate()
    texts = {process.pid: process.communicate(timeout=60)[1] for process in processes}
    assert winner.returncode == 143
    one_of_them_got_it(winner.pid, {process.pid: process.returncode for process in processes}, texts)


# ---- the folder itself ----


def refusal_of(take: Callable[[], Any]) -> str | None:
    try:
        KEPT.append(take())
    except RunInUse as error:
        return str(error).splitlines()[0]
    return None


KEPT: list[Any] = []
"""What has been taken: a lock that nobody holds any more is given back."""


def race_in_here(count: int, take: Callable[[], Any]) -> tuple[int, dict[int, str | None]]:
    """Forks that do that at once and then wait for the others; returns the pid of the one that was not refused."""
    gate, gun = os.pipe()
    said, says = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(gun)
                os.close(said)
                os.read(gate, 1)
                refusal = refusal_of(take)
                os.write(says, json.dumps([os.getpid(), refusal]).encode() + b"\n")
                if refusal is None:
                    time.sleep(60)
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(gate)
    os.close(gun)
    os.close(says)
    outcomes: dict[int, str | None] = {}
    try:
        with open(said) as lines:
            for _ in range(count):
                pid, refusal = json.loads(lines.readline())
                outcomes[pid] = refusal
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    (winner,) = [pid for pid, refusal in outcomes.items() if refusal is None]
    return winner, outcomes


def slowly(path: Path, data: Any) -> None:
    time.sleep(0.5)
    write_json(path, data)


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "slow to say its name"])
def test_the_owner_is_named_before_it_has_written_anything_else(
    tmp_path: Path, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slow:
        monkeypatch.setattr(run_folder, "write_json", slowly)
    path = tmp_path / "run"
    winner, outcomes = race_in_here(20, lambda: RunFolder.create(path))
    named = f"{path} is in use by process {winner} on {socket.gethostname()}"
    assert [outcome for outcome in outcomes.values() if outcome is not None] == [named] * 19
    assert not (path / "status.json").exists()


def test_a_dead_owner_is_not_named_for_the_living_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "write_json", slowly)
    for _ in range(2):  # the first one is killed, and its name stays
        winner, outcomes = race_in_here(4, lambda: RunFolder(tmp_path).take())
        named = f"{tmp_path} is in use by process {winner} on {socket.gethostname()}"
        assert [outcome for outcome in outcomes.values() if outcome is not None] == [named] * 3
        assert read_json(tmp_path / ".owner.json")["pid"] == winner


def test_an_owner_that_never_says_its_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder._lock.acquire()  # as an older version did
    assert refusal_of(RunFolder(tmp_path).take) == f"{tmp_path} is in use by another process"
    folder.release()


def test_an_owner_on_another_machine_is_taken_at_its_word(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.take()
    write_json(tmp_path / ".owner.json", {"pid": 1, "host": "elsewhere", "process_start": 1.0})
    assert refusal_of(RunFolder(tmp_path).take) == f"{tmp_path} is in use by process 1 on elsewhere"
    folder.release()


def test_a_released_folder_names_nobody(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.take()
    other = RunFolder(tmp_path)
    assert refusal_of(other.take) is not None
    other.release()  # it has nothing to give back
    assert refusal_of(other.take) == f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}"
    folder.release()
    assert not (tmp_path / ".owner.json").exists()
    other.take()
    other.release()
