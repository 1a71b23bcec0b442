"""The executor of local processes, in a parent of its own: copies of a process in which torch has computed are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from group_cases import SETTINGS, alive, outcome, state_of, wait_for

from rlkit_core.builtin.executors import ProcessesConfig
from rlkit_core.errors import StorageError
from rlkit_core.executor import Ended, Task, command
from rlkit_core.group import do_task, write_task
from rlkit_core.presets import configure
from rlkit_core.registry import Registry
from rlkit_core.run_folder import read_json, write_json

# Starts the tasks that it is told of, then does what each line says, and prints how tasks end.
PARENT = """
import json, sys
from pathlib import Path
from rlkit_core.builtin.executors import ProcessesConfig
from rlkit_core.executor import Task

what = json.loads(sys.argv[1])
executor = ProcessesConfig(start_method=what["start_method"]).build(what["jobs"])
tasks = [Task(Path(path)) for path in what["tasks"]]
for task in tasks:
    executor.start(task)
print("started", flush=True)
left = len(tasks)
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "stop":
        executor.stop(tasks[int(number)])
    elif word == "close":
        executor.close()
    for ended in executor.wait(0.0 if word == "stop" else 60.0) if left else ():
        left -= 1
        print(json.dumps([tasks.index(ended.task), ended.exit_code, ended.error]), flush=True)
    print("-", flush=True)
print("torch" in sys.modules, flush=True)
"""


class Parent:
    def __init__(self, tasks: list[Path], start_method: str, jobs: int = 2, **misbehave: Any) -> None:
        what = {"start_method": start_method, "jobs": jobs, "tasks": [str(task) for task in tasks]}
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        told = json.dumps({seed.removeprefix("seed"): how for seed, how in misbehave.items()})
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, json.dumps(what)],
            env={**os.environ, "PYTHONPATH": path, "MISBEHAVE": told},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "started"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, text: str) -> list[Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        found = []
        while (line := self.line()) != "-":
            assert line, "the parent has died"
            found.append(json.loads(line))
        return found

    def rest(self, number: int) -> dict[int, Any]:
        """How that many tasks end."""
        found: dict[int, Any] = {}
        while len(found) < number:
            found.update({task: (code, error) for task, code, error in self.tell("wait")})
        return found


def make_task(folder: Path, seed: int, **settings: Any) -> Path:
    registry = Registry()
    config, preset = configure([{**SETTINGS, "seed": seed, "hooks": ["group_cases"], **settings}], registry, None)
    path = folder / f"seed{seed}"
    write_task(path, config, registry, preset=preset, more={"parent": "ab" * 16})
    return path


def test_a_task_is_done_as_its_folder_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = make_task(tmp_path, 3)
    assert do_task(path) == 0
    assert state_of(path) == "finished"
    about = read_json(path / "provenance.json")
    assert (about["seed"], about["parent"]) == (3, "ab" * 16)
    assert not (path / "tracking.json").exists()
    before = outcome(path)
    assert do_task(path) == 0, "what has finished is left alone"
    assert outcome(path) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"format": 2}, "is damaged"),
        ([], "is damaged"),
        ({"format": 1, "config": {}, "preset": 3, "more": {}}, "is damaged"),
        ({"format": 1, "config": {"algorithm": "no-such"}, "more": {}}, "there is no algorithm named no-such"),
        ({"format": 1, "config": {"imports": ["no_such_module"]}, "more": {}}, "cannot import no_such_module"),
    ],
)
def test_a_task_that_is_none_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    write_json(tmp_path / "task.json", content)
    assert do_task(tmp_path) in (2, 6)
    assert says in read_json(tmp_path / "error.json")["message"]
    assert not (tmp_path / "config.json").exists()


def test_modules_that_lie_here_are_imported_only_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lies_here.py").write_text("open('imported', 'w')")
    write_json(tmp_path / "task.json", {"format": 1, "config": {"imports": ["lies_here"]}, "more": {}})
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert do_task(tmp_path) == 2
    assert not (tmp_path / "imported").exists()
    do_task(tmp_path, imports=["lies_here"])
    assert (tmp_path / "imported").exists()
    sys.modules.pop("lies_here", None)


def test_processes_forked_from_a_warm_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is as if it were alone, one raises, one is killed, one is stopped, one never starts: each is told."""
    tasks = [make_task(tmp_path, seed) for seed in range(7)]
    told: dict[str, Any] = {"seed1": ("raise", 400), "seed2": ("kill", 400), "seed3": ("wait", 400)}
    parent = Parent(tasks, "auto", **told, seed5=("wait", 400), seed6=("wait", 0))
    assert parent.tell("stop 4") == [[4, 130, None]]
    ended = parent.rest(3)
    assert ended[0] == (0, None)
    assert ended[1] == (4, "environment 0 raised ZeroDivisionError: wheel came off")
    assert ended[2] == (-9, "its process was ended by signal 9 (SIGKILL)")
    wait_for((tasks[3] / "waiting").exists)
    parent.tell("stop 3")
    assert parent.rest(1)[3] == (130, None)
    assert [state_of(task) for task in tasks[:2]] == ["finished", "failed"]
    assert state_of(tasks[3]) == "interrupted"
    for task in tasks[5:]:
        wait_for((task / "waiting").exists)
    assert sorted(parent.tell("close")) == [[5, 130, None], [6, 130, None]]
    assert state_of(tasks[5]) == "interrupted"
    assert not (tasks[4] / "config.json").exists()
    assert "wheel came off" in (tasks[1] / "output.log").read_text()
    assert read_json(tasks[0] / "status.json")["pid"] != parent.process.pid
    parent.process.communicate(timeout=30)

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    alone = make_task(tmp_path / "alone", 0)
    assert do_task(alone) == 0
    assert outcome(tasks[0]) == outcome(alone)


@pytest.mark.long
def test_spawned_processes_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tmp_path, 0)
    parent = Parent([task], "spawn")
    assert parent.rest(1) == {0: (0, None)}
    out, _ = parent.process.communicate(timeout=30)
    assert out.split() == ["False"], "the parent has imported torch for nothing"
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    alone = make_task(tmp_path / "alone", 0)
    assert do_task(alone) == 0
    assert outcome(task) == outcome(alone)


@pytest.mark.long
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_processes_die_with_their_parent(start_method: str, tmp_path: Path) -> None:
    task = make_task(tmp_path, 0)
    parent = Parent([task], start_method, seed0=("wait", 0))
    wait_for((task / "waiting").exists)
    pid = read_json(task / "status.json")["pid"]
    assert alive(pid)
    parent.process.send_signal(signal.SIGKILL)
    parent.process.wait(30)
    wait_for(lambda: not alive(pid), 10)


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    """A folder that is not there is no reason for the others to stop."""
    executor = ProcessesConfig(start_method="spawn").build(1)
    executor.start(Task(tmp_path / "nowhere"))
    [ended] = executor.wait(1.0)
    assert ended.exit_code == 6
    assert "cannot be started" in str(ended.error)
    assert not executor.wait(0.0)
    executor.close()


def test_how_a_task_ended_is_read_from_its_folder(tmp_path: Path) -> None:
    task = Task(tmp_path)
    assert Ended.of(task, 0) == Ended(task, 0)
    assert Ended.of(task, -15).error == "its process was ended by signal 15 (SIGTERM)"
    assert Ended.of(task, -64).error == "its process was ended by signal 64 (SIGRTMAX)"
    assert Ended.of(task, 4).error == "its process ended with exit code 4"
    write_json(tmp_path / "error.json", {"message": "why", "exit_code": 4})
    assert Ended.of(task, 4).error == "why"
    assert Ended.of(task, 5).error == "its process ended with exit code 5", "that was another end"
    (tmp_path / "error.json").write_text("{")
    assert Ended.of(task, 4).error == "its process ended with exit code 4"


def test_the_command_of_a_task(tmp_path: Path) -> None:
    words = command(Task(tmp_path, ("some_envs",)))
    assert words[:4] == [sys.executable, "-P", "-m", "rlkit_core.group"]
    assert words[4:] == [str(tmp_path), "--import=some_envs"]
    with pytest.raises(StorageError):
        read_json(tmp_path / "task.json")
