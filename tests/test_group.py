"""Groups of runs: planned, computed, gone on with, and followed by one tracking process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from group_cases import OPTIONS, SETTINGS, alive, children, command, outcome, start, state_of, wait_for
from test_executors import make_task

from rlkit_core import group as groups
from rlkit_core import tracking
from rlkit_core.cli.group import parse_seeds, seeds_text
from rlkit_core.errors import ResumeRefused, RunInUse, StorageError, UsageError
from rlkit_core.executor import Ended, Executor, Task
from rlkit_core.group import GroupResult, PlanEntry, compute, do_task, make_group, take_group
from rlkit_core.group_folder import group_above, read_group, run_folder_of, runs_set_aside
from rlkit_core.presets import configure
from rlkit_core.progress import RunRow, group_progress
from rlkit_core.registry import Registry
from rlkit_core.run_folder import Journal, RunFolder, read_json, write_json
from rlkit_core.tracking import TrackedGroup, TrackedRun, Tracker, sync


class InTurn(Executor):
    """Does tasks in this process, one after the other, by a function."""

    def __init__(self, do: Any) -> None:
        self.do = do
        self.tasks: list[Task] = []
        self.done: list[str] = []
        self.stopped: list[Task] = []

    def start(self, task: Task) -> None:
        self.tasks.append(task)

    def wait(self, seconds: float) -> Sequence[Ended]:
        task = self.tasks.pop(0)
        if task in self.stopped:
            return [Ended(task, 130)]
        self.done.append(task.run_dir.name)
        return [Ended.of(task, self.do(task.run_dir))]

    def stop(self, task: Task) -> None:
        self.stopped.append(task)

    def close(self) -> None:
        self.tasks = []


def finish(run_dir: Path, state: str = "finished", code: int = 0) -> int:
    """Stands for a run: leaves what one leaves that matters here."""
    folder = RunFolder(run_dir)
    write_json(folder.config_path, read_json(run_dir / "task.json")["config"])
    write_json(folder.provenance_path, {"run_id": "x", **read_json(run_dir / "task.json")["more"]})
    if code:
        write_json(run_dir / "error.json", {"message": "went wrong", "exit_code": code})
    result = {"steps": 1200, "seconds": 2.0, "evaluation_return": 10.0}
    folder.write_status(state, result=result if state == "finished" else None)
    return code


def entries(seeds: Sequence[int], group: str | None = None, variant: str = "", **settings: Any) -> list[PlanEntry]:
    layer = {**SETTINGS, **settings, **({"group": group} if group else {})}
    config, preset = configure([layer], Registry(), None)
    return [PlanEntry(config.model_copy(update={"seed": seed}), preset, variant) for seed in seeds]


def computed(path: Path, plan: Sequence[PlanEntry], do: Any = finish, name: str = "g") -> tuple[GroupResult, InTurn]:
    group = make_group(path, name, plan, Registry())
    executor = InTurn(do)
    try:
        return compute(group, lambda: executor, progress_mode="none"), executor
    finally:
        group.release()


def test_a_plan_becomes_folders(tmp_path: Path) -> None:
    result, executor = computed(tmp_path / "g", entries(range(3)))
    assert executor.done == ["seed0", "seed1", "seed2"]
    assert set(result.states.values()) == {"finished"}
    assert result.exit_code == 0
    data = read_json(tmp_path / "g" / "group.json")
    assert (data["format"], data["name"]) == (1, "g")
    assert data["planned"][1] == {
        "group": "a2c-CartPole-v1", "environment": "CartPole-v1", "seed": 1, "run_dir": "seed1"
    }  # fmt: skip
    assert read_json(tmp_path / "g" / "seed1" / "provenance.json")["parent"] == data["id"]
    assert state_of(tmp_path / "g") == "finished"
    above = group_above(tmp_path / "g" / "seed1", data["id"])
    assert above is not None
    assert above[1] == read_group(tmp_path / "g")
    assert group_above(tmp_path / "g" / "seed1", "ab" * 16) is None


def test_runs_that_differ_in_more_than_the_seed_have_folders_of_their_own(tmp_path: Path) -> None:
    plan = [
        *entries([0], "g/a2c learning_rate=0.1", "a2c learning_rate=0.1"),
        *entries([0], "g/a2c learning_rate/0.1", "a2c learning_rate/0.1", total_steps=700),
        *entries([0], "g/a2c learning_rate=0.1", "a2c learning_rate=0.1", env="ALE/Pong-v5"),
    ]
    group = make_group(tmp_path / "g", "g", plan, Registry())
    group.release()
    folders = [run.run_dir for run in group.record.planned]
    assert folders == [
        "a2c-learning_rate=0.1/CartPole-v1-seed0",
        "a2c-learning_rate-0.1/CartPole-v1-seed0",
        "a2c-learning_rate=0.1/ALE-Pong-v5-seed0",
    ]
    same = [*entries([0], "g/x y", "x y"), *entries([0], "g/x-y", "x-y")]
    group = make_group(tmp_path / "h", "h", same, Registry())
    group.release()
    assert [run.run_dir for run in group.record.planned] == ["x-y/CartPole-v1-seed0", "x-y/CartPole-v1-seed0-2"]


def test_started_again_it_does_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "g"

    def badly(run_dir: Path) -> int:
        if run_dir.name == "seed1":
            return finish(run_dir, "failed", 4)
        if run_dir.name == "seed2":
            finish(run_dir, "interrupted")
            return 130
        return finish(run_dir)

    result, _ = computed(path, entries(range(3)), badly)
    assert result.states == {"seed0": "finished", "seed1": "failed", "seed2": "interrupted"}
    assert (result.exit_code, state_of(path)) == (130, "failed")
    assert [(ended.exit_code, ended.error) for ended in result.ended] == [(4, "went wrong"), (130, None)]
    left = {name: (path / name / "status.json").stat().st_mtime_ns for name in ("seed0", "seed2")}

    seen: dict[str, bool] = {}

    def well(run_dir: Path) -> int:
        seen[run_dir.name] = (run_dir / "config.json").exists()
        return finish(run_dir)

    result, executor = computed(path, entries(range(4)), well)
    assert executor.done == ["seed1", "seed2", "seed3"], "what has finished is kept, and the plan has become longer"
    assert seen == {"seed1": False, "seed2": True, "seed3": False}, "what failed is begun anew, the other goes on"
    assert (path / "seed0" / "status.json").stat().st_mtime_ns == left["seed0"]
    assert read_json(path / ".failed" / "seed1-1" / "error.json")["message"] == "went wrong"
    assert [run.path.name for run in runs_set_aside(path)] == ["seed1-1"]
    assert not (path / "seed1" / "error.json").exists()
    assert (result.exit_code, state_of(path)) == (0, "finished")
    result, executor = computed(path, entries(range(2)), well)
    assert executor.done == []
    assert len(result.states) == 4, "what was planned stays planned"


def test_a_run_that_failed_before_it_began_is_done_again(tmp_path: Path) -> None:
    def badly(run_dir: Path) -> int:
        write_json(run_dir / "error.json", {"message": "no such thing", "exit_code": 2})
        return 2

    result, _ = computed(tmp_path / "g", entries([0]), badly)
    assert (result.states, result.exit_code) == ({"seed0": "failed"}, 2)
    result, _ = computed(tmp_path / "g", entries([0]))
    assert (result.states, result.exit_code) == ({"seed0": "finished"}, 0)
    assert (tmp_path / "g" / ".failed" / "seed0-1" / "error.json").exists()
    assert not (tmp_path / "g" / "seed0" / "error.json").exists()


def test_the_exit_code_is_the_largest(tmp_path: Path) -> None:
    ended = [Ended(Task(tmp_path), 4), Ended(Task(tmp_path), -9), Ended(Task(tmp_path), 70)]
    assert GroupResult(tmp_path, "g", ended=ended).exit_code == 137
    assert GroupResult(tmp_path, "g", ended=ended[::2]).exit_code == 70
    assert GroupResult(tmp_path, "g", ended=ended, signal=2).exit_code == 130


def test_other_settings_are_refused(tmp_path: Path) -> None:
    computed(tmp_path / "g", entries(range(2)))
    for seeds in ([0], [7]):
        with pytest.raises(ResumeRefused) as refused:
            make_group(tmp_path / "g", "g", entries(seeds, total_steps=900, stop_at="threshold"), Registry())
        assert refused.value.exit_code == 7
        assert sorted(difference[:3] for difference in refused.value.differences) == [
            ("setting stop_at", "never", "threshold"),
            ("setting total_steps", "1200", "900"),
        ]
    assert len(read_group(tmp_path / "g").planned) == 2
    group = make_group(tmp_path / "g", "g", entries([0], env="Acrobot-v1"), Registry())
    group.release()
    assert len(group.record.planned) == 3, "another environment is another side"
    with pytest.raises(UsageError, match="holds the group g, not h"):
        make_group(tmp_path / "g", "h", entries([0]), Registry())
    with pytest.raises(UsageError, match="holds a run"):
        make_group(tmp_path / "g" / "seed0", "g", entries([0]), Registry())


@pytest.mark.thorough
def test_one_of_two_that_start_it_at_once_wins(tmp_path: Path) -> None:
    group = make_group(tmp_path / "g", "g", entries([0]), Registry())
    try:
        with pytest.raises(RunInUse, match=f"in use by process {os.getpid()}") as told:
            take_group(tmp_path / "g")
        assert told.value.exit_code == 7
        with pytest.raises(RunInUse):
            make_group(tmp_path / "g", "g", entries([1]), Registry())
    finally:
        group.release()
    assert len(read_group(tmp_path / "g").planned) == 1
    take_group(tmp_path / "g").release()


def test_of_many_that_start_it_at_once_one_wins(tmp_path: Path) -> None:
    outcomes: list[Any] = []

    def try_it(seed: int) -> None:
        try:
            outcomes.append(make_group(tmp_path / "g", "g", entries([seed]), Registry()))
        except RunInUse as error:
            outcomes.append(error)

    threads = [threading.Thread(target=try_it, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [one for one in outcomes if not isinstance(one, RunInUse)]
    assert len(won) == 1
    assert read_group(tmp_path / "g") == won[0].record
    won[0].release()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"id": "'; drop table runs"},
        {"id": 7},
        {"name": ""},
        {"name": ["x"]},
        {"planned": {}},
        {"planned": [3]},
        {"planned": [{"group": "g", "environment": "e", "seed": "0", "run_dir": "seed0"}]},
        {"planned": [{"group": "g", "environment": "e", "seed": True, "run_dir": "seed0"}]},
        *(
            {"planned": [{"group": "g", "environment": "e", "seed": 0, "run_dir": where}]}
            for where in ("../other", "/tmp", "", ".", "a/b/c/d", "a/../../b", "a\0b", "..")
        ),
    ],
)
def test_a_hostile_group_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    data = {"format": 1, "id": "ab" * 16, "name": "g", "planned": []}
    write_json(tmp_path / "group.json", data)
    assert read_group(tmp_path).name == "g"
    write_json(tmp_path / "group.json", data | change)
    with pytest.raises(StorageError):
        take_group(tmp_path)
    for content in ("[]", "{", "[" * 100_000, '{"format": 1e999}'):
        (tmp_path / "group.json").write_text(content)
        with pytest.raises(StorageError):
            take_group(tmp_path)


def test_a_link_out_of_a_group_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "seed0").symlink_to(tmp_path / "other")
    [planned] = [groups.PlannedRun("g", "e", 0, "seed0")]
    with pytest.raises(StorageError, match="leads out"):
        run_folder_of(tmp_path / "g", planned)


def test_seeds() -> None:
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("3", 5) == [5, 6, 7]
    assert parse_seeds("0-2,7, 9-9") == [0, 1, 2, 7, 9]
    assert seeds_text([7, 0, 1, 2, 9]) == "0-2,7,9"
    for wrong in ("0", "", "x", "3-1", "1,1", "0-2,1", "-3", "1-", "99999999999", "0-99999999", "1.5"):
        with pytest.raises(ValueError):
            parse_seeds(wrong)
    with pytest.raises(ValueError, match="leave --seed out"):
        parse_seeds("0-2", 5)


def test_signals_are_passed_on(tmp_path: Path) -> None:
    """The first one asks all that are left to stop, and the group is interrupted."""

    def interrupting(run_dir: Path) -> int:
        if run_dir.name == "seed1":
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(run_dir)

    result, executor = computed(tmp_path / "g", entries(range(4)), interrupting)
    assert executor.done == ["seed0", "seed1"]
    assert [task.run_dir.name for task in executor.stopped] == ["seed2", "seed3"]
    assert (result.exit_code, state_of(tmp_path / "g")) == (143, "interrupted")
    assert list(result.states.values()) == ["finished", "finished", "waiting", "waiting"]


def test_displays(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        RunRow("seed 0", 1000, "finished", 1000, 500.0, 480.0, 2.0),
        RunRow("seed 1", 1000, "running", 500, 100.0, 200.0),
        RunRow("seed 2", 1000, "failed", 100, error="broken\nand more"),
        RunRow("seed 3", 1000),
    ]
    display = group_progress("plain")
    display.start("g: 4 runs", rows)
    display.show(rows)
    display.ended(rows[0], rows)
    display.ended(rows[2], rows)
    display.close(rows)
    assert capsys.readouterr().out.splitlines() == [
        "g: 4 runs",
        "  1 of 4 done, 1 failed | seed 1: 50 %, greedy return 200 | at most 0:15 left",
        "seed 0: finished after 1,000 steps in 2.0 s, greedy return 480.0 (1 of 4 done, 1 failed)",
        "seed 2: failed after 100 steps: broken (1 of 4 done, 1 failed)",
    ]
    display = group_progress("rich")
    display.start("g: 4 runs", rows)
    display.ended(rows[2], rows)
    display.close(rows)
    shown = capsys.readouterr().out
    for text in ("g: 4 runs", "greedy return", "seed 1", "1 of 4 done, 1 failed, at most 0:15 left", "0:05"):
        assert text in shown
    display = group_progress("none")
    display.start("g", rows)
    display.show(rows)
    display.close(rows)
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError):
        group_progress("loud")  # type: ignore[arg-type]
    many = [replace(rows[1], name=f"seed {i}") for i in range(20)]
    display = group_progress("plain")
    display.show(many)
    assert "and 12 more" in capsys.readouterr().out


# ---- one tracking process for all, in a thread of this one ----


class Store(Tracker):
    """Notes what it is sent, by the run's name; may be away."""

    def __init__(self, sent: dict[str, list[Any]], away: list[Exception]) -> None:
        self.sent, self.away = sent, away

    def start(self, run: TrackedRun) -> None:
        if self.away:
            raise self.away.pop()
        run.ids["uri"] = "store://here"
        self.name = run.name
        assert run.group is not None
        self.sent.setdefault(run.group.record.name, [])

    def log(self, records: list[Any]) -> None:
        self.sent.setdefault(self.name, []).extend(record["step"] for record in records)

    def finish(self, state: str, time: int) -> None:
        self.sent.setdefault(self.name, []).append(state)

    def finish_group(self, group: TrackedGroup, state: str, time: int) -> None:
        self.sent[group.record.name].append(state)


class Training:
    """Stands for the process that computes the group."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else pid
        self.over = threading.Event()

    def ended(self, seconds: float) -> bool:
        return self.over.wait(seconds)

    def gone(self) -> bool:
        return False


def begin(run_dir: Path, **status: Any) -> RunFolder:
    """Stands for a run that has begun, with two records."""
    folder = RunFolder(run_dir)
    task = read_json(run_dir / "task.json")
    write_json(folder.config_path, task["config"])
    write_json(folder.provenance_path, task["more"])
    with contextlib.closing(Journal(folder.journal_path)) as journal:
        journal.append(1, {"a": 1.0})
        journal.append(2, {"a": 2.0})
    folder.write_status("running", **status)
    return folder


def test_one_process_sends_what_all_runs_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[Any]] = {}
    away: list[Exception] = []
    monkeypatch.setattr(tracking, "GROUP_POLL", 0.01)
    monkeypatch.setattr(tracking, "_build", lambda config: Store(sent, away))
    group = make_group(tmp_path / "g", "g", entries(range(5), "g", tracker="mlflow"), Registry())
    group.release()
    group.folder.write_status("running")
    training, answers = Training(), []
    thread = threading.Thread(
        target=lambda: answers.append(tracking.follow_group(group.folder, training)),  # type: ignore[arg-type]
        daemon=True,
    )
    old = begin(tmp_path / "g" / "seed4", journal="ready")  # of an earlier time, and never sent
    old.write_status("interrupted")
    early = begin(tmp_path / "g" / "seed3", journal="ready")  # before that process looks for the first time
    thread.start()
    wait_for(lambda: sent.get("g-seed3") == [1, 2])
    first = begin(tmp_path / "g" / "seed0")
    time.sleep(0.3)
    assert "g-seed0" not in sent, "it may still be decided that what comes is to be a new run of the tracker"
    first.write_status("running", journal="ready")
    wait_for(lambda: sent.get("g-seed0") == [1, 2])
    first.write_status("finished")
    wait_for(lambda: sent["g-seed0"] == [1, 2, "finished"])

    away += [ConnectionError("the store is away")] * 2
    second = begin(tmp_path / "g" / "seed1", journal="ready")
    wait_for(lambda: tracking.read_tracking(group.folder)["error"] == "the store is away")
    wait_for(lambda: sent.get("g-seed1") == [1, 2])
    wait_for(lambda: tracking.read_tracking(group.folder)["error"] is None)
    second.write_status("failed")

    third = begin(tmp_path / "g" / "seed2", journal="ready")
    write_json(third.status_path, {**third.status(), "process_start": 1.0})  # its process has gone
    wait_for(lambda: sent.get("g-seed2") == [1, 2, "killed"])
    assert state_of(third.path) == "killed"
    early.write_status("finished")
    wait_for(lambda: sent.get("g-seed3") == [1, 2, "finished"])
    assert "g-seed4" not in sent, "what may still be gone on with waits for the end"

    group.folder.write_status("failed")
    training.over.set()
    thread.join(30)
    assert answers == [True]
    assert sent["g-seed1"] == [1, 2, "failed"]
    assert sent["g-seed4"] == [1, 2, "interrupted"]
    assert sent["g"] == ["failed"]
    assert read_json(group.folder.tracking_path)["state"] == "ok"
    assert sync(group.folder.path) == (
        "all records were there already of 5 runs; mlflow at store://here shows the group as failed"
    )
    assert sent["g"] == ["failed", "failed"]


def test_a_group_whose_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[Any]] = {}
    monkeypatch.setattr(tracking, "_build", lambda config: Store(sent, []))
    group = make_group(tmp_path / "g", "g", entries(range(2), "g", tracker="mlflow"), Registry())
    group.release()
    for folder in (begin(tmp_path / "g" / "seed0", journal="ready"), group.folder):
        folder.write_status("running")
        write_json(folder.status_path, {**folder.status(), "process_start": 1.0})
    training = Training(pid=group.folder.status()["pid"])
    monkeypatch.setattr(training, "gone", lambda: True)
    training.over.set()
    assert tracking.follow_group(group.folder, training)  # type: ignore[arg-type]
    assert sent == {"g": ["killed"], "g-seed0": [1, 2, "killed"]}
    assert [state_of(tmp_path / "g" / "seed0"), state_of(tmp_path / "g")] == ["killed"] * 2


def test_it_gives_way_to_the_process_of_a_group_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_build", lambda config: Store({}, [ConnectionError("away")] * 99))
    group = make_group(tmp_path / "g", "g", entries([0], "g", tracker="mlflow"), Registry())
    group.release()
    begin(tmp_path / "g" / "seed0", journal="ready").write_status("interrupted")
    group.folder.write_status("running")  # by this process, which is not the one that it was started by
    training = Training(pid=1)
    training.over.set()
    began = time.monotonic()
    assert not tracking.follow_group(group.folder, training)  # type: ignore[arg-type]
    assert time.monotonic() - began < 20


def test_what_cannot_be_sent_is_sent_by_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[Any]] = {}
    away: list[Exception] = []
    group = make_group(tmp_path / "g", "g", entries(range(3), "g", tracker="mlflow"), Registry())
    group.release()
    begin(tmp_path / "g" / "seed0").write_status("finished")
    running = begin(tmp_path / "g" / "seed1")
    group.folder.write_status("running")

    def build(config: Any) -> Tracker:
        return Store(sent, away)

    with pytest.raises(UsageError, match="still being computed"):
        sync(group.folder.path, build)
    group.folder.write_status("interrupted")
    with pytest.raises(UsageError, match="seed1 is still running"):
        sync(group.folder.path, build)
    running.write_status("interrupted")
    away.append(ConnectionError("the store is away"))
    with pytest.raises(StorageError, match=r"seed0 to .*: the store is away"):
        sync(group.folder.path, build)
    said = sync(group.folder.path, build)
    assert said == "sent 2 records of 2 runs; mlflow at store://here shows the group as interrupted"
    assert sent == {"g": ["interrupted"], "g-seed0": [1, 2, "finished", "finished"], "g-seed1": [1, 2, "interrupted"]}
    none = make_group(tmp_path / "h", "h", entries([0]), Registry())
    none.release()
    assert sync(tmp_path / "h").endswith("has no run with a tracker: there is nothing to send")


# ---- the command, with real processes ----


def runs_in(store: Path) -> dict[str, tuple[str, str, dict[str, str]]]:
    """Runs of a sqlite store by name: status, id and tags."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        found = {}
        for name, status, run_id in connection.execute("select name, status, run_uuid from runs"):
            tags = dict(connection.execute("select key, value from tags where run_uuid = ?", (run_id,)))
            assert name not in found, f"{name} is there twice"
            found[name] = status, run_id, tags
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.thorough
def test_a_group_whose_runs_come_to_grief(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is killed, one raises; MLflow knows; started again, all is as if nothing had been."""
    arguments = ("run", "a2c", *OPTIONS, "--seeds", "3", "--jobs", "2", "--group", "paper/a2c")
    code, out = command(folder, *arguments, misbehave={1: ("kill", 700), 2: ("raise", 400)})
    group = folder / "runs" / "paper-a2c"
    assert code == 137, out
    assert "paper/a2c: 1 finished, 1 failed, 1 killed" in out
    assert "failed: runs/paper-a2c/seed2 (exit code 4): environment 0 raised" in out
    assert "runs/paper-a2c/seed1 (killed): its process was ended by signal 9 (SIGKILL)" in out
    assert "go on        rlkit resume runs/paper-a2c" in out
    assert [state_of(group / f"seed{seed}") for seed in range(3)] == ["finished", "killed", "failed"]
    known = read_group(group)
    wait_for(lambda: read_json(group / "tracking.json")["state"] == "ok")  # on a slow machine it takes longer
    found = runs_in(folder / "mlflow.db")
    status, parent, tags = found.pop("paper/a2c")
    assert status == "FAILED"
    assert (tags["rlkit.kind"], tags["rlkit.group_id"], tags["group"]) == ("group", known.id, "paper/a2c")
    assert json.loads(tags["rlkit.planned"]) == [["paper/a2c", "CartPole-v1", seed] for seed in range(3)]
    assert {name: status for name, (status, _, _) in found.items()} == {
        "paper/a2c-seed0": "FINISHED", "paper/a2c-seed1": "KILLED", "paper/a2c-seed2": "FAILED"
    }  # fmt: skip
    for _, _, tags in found.values():
        assert (tags["mlflow.parentRunId"], tags["rlkit.parent"], tags["group"]) == (parent, known.id, "paper/a2c")
    assert list(folder.glob(f"mlruns/**/{parent}/artifacts/group.json"))

    code, out = command(folder, "resume", "runs/paper-a2c")
    assert code == 0, out
    assert "paper/a2c: 3 finished" in out
    assert read_json(group / "seed1" / "provenance.json")["resume_exact"] is True
    assert (group / ".failed" / "seed2-1" / "error.json").exists()
    wait_for(lambda: read_json(group / "tracking.json")["state"] == "ok")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        found_now = list(connection.execute("select name, status from runs order by name, status"))
        [(aside,)] = connection.execute("select run_uuid from runs where status = 'FAILED'")
        [(kind,)] = connection.execute("select value from tags where key = 'rlkit.kind' and run_uuid = ?", (aside,))
    assert kind == "set-aside", "else it would be there twice in a comparison"
    assert found_now == [
        ("paper/a2c", "FINISHED"),
        ("paper/a2c-seed0", "FINISHED"),
        ("paper/a2c-seed1", "FINISHED"),
        ("paper/a2c-seed2", "FAILED"),  # the one that was set aside
        ("paper/a2c-seed2", "FINISHED"),
    ]
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for seed in range(3):
        alone = make_task(folder / "alone", seed)
        assert do_task(alone) == 0
        assert outcome(group / f"seed{seed}") == outcome(alone)


@pytest.mark.thorough
def test_a_group_that_is_killed_then_interrupted_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process computes on; a second starter is told; Ctrl-C stops all; at the end it is as if nothing had been."""
    arguments = ("run", "a2c", *OPTIONS, "--seeds", "0,5", "--jobs", "2", "--tracker", "none", "--run-dir", "g")
    runs = [folder / "g" / f"seed{seed}" for seed in (0, 5)]
    process = start(folder, *arguments, misbehave={0: ("wait", 500), 5: ("wait", 300)})
    for run in runs:
        wait_for((run / "waiting").exists)
    code, out = command(folder, "resume", "g")
    assert code == 7, out
    assert f"in use by process {process.pid}" in out
    started = children(process.pid)
    assert len(started) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    wait_for(lambda: not any(map(alive, started)), 10)

    for run in runs:
        (run / "waiting").unlink()
    process = start(folder, *arguments, misbehave={0: ("wait", 500)})
    wait_for((runs[0] / "waiting").exists)
    wait_for(lambda: state_of(runs[1]) == "finished")
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "all runs store a checkpoint and stop" in out
    assert "a2c-CartPole-v1: 1 finished, 1 interrupted" in out
    assert [state_of(runs[0]), state_of(folder / "g")] == ["interrupted"] * 2

    code, out = command(folder, *arguments)
    assert code == 0, out
    assert "2 finished" in out
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for run, seed in zip(runs, (0, 5), strict=True):
        alone = make_task(folder / "alone", seed)
        assert do_task(alone) == 0
        assert outcome(run) == outcome(alone)
        assert read_json(run / "provenance.json")["resume_exact"] is True


@pytest.mark.long
def test_a_dead_server_harms_no_run(folder: Path) -> None:
    arguments = ("run", "a2c", *OPTIONS, "--seeds", "1", "--run-dir", "g")
    code, out = command(folder, *arguments, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 0, out
    assert "1 finished" in out
    assert "warning: not everything was sent to mlflow at http://127.0.0.1:9" in out
    assert "rlkit sync g" in out
    assert read_json(folder / "g" / "tracking.json")["state"] == "pending"
    code, out = command(folder, "sync", "g", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/other.db")
    assert code == 6, "a run stays where it began"


# ---- the command's options, in this process ----


def test_options_of_a_group_need_seeds(rlkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ("run", "a2c", "--env", "CartPole-v1", "--tracker", "none")
    for more, said in [
        (["--jobs", "2"], "--jobs is for several runs"),
        (["--executor.start-method", "spawn"], "--executor.start-method is for several runs"),
        (["--seeds", "x"], "--seeds: should be a number of seeds"),
        (["--seeds", "0-3", "--seed", "2"], "leave --seed out"),
        (["--seeds", "2", "--executor", "no-such"], "there is no executor named no-such"),
        (["--seeds", "2", "--executor.start-method", "fast"], "--executor.start-method: should be"),
        (["--seeds", "2", "--profile"], "--profile measures one run"),
        (["--seeds", "2", "--jobs", "0"], "--jobs: should be a whole number, at least 1"),
        (["--seeds", "2", "--env", "CartPoll-v1"], "CartPoll"),
    ]:
        code, _, err = rlkit(*run, *more)
        assert code == 2, (more, err)
        assert said in err
    assert not list(tmp_path.iterdir())
    for seeds, rule in ([], "threshold"), (["--seeds", "2"], "never"), (["--seeds", "2", "--stop-at", "300"], "300"):
        code, out, _ = rlkit(*run, *seeds, "--print-config")
        assert code == 0
        assert f'stop_at = "{rule}"' in out or f"stop_at = {rule}" in out
    _, out, _ = rlkit("run", "a2c", "--help")
    assert "--stop-at is never then" in " ".join(out.split())


def test_what_is_of_one_run_is_refused_for_a_group(rlkit: Any, tmp_path: Path) -> None:
    make_group(tmp_path / "g", "g", entries([0]), Registry()).release()
    for more in (["--total-steps", "9"], ["--checkpoint", "9"], ["--allow-drift"], ["--profile"]):
        code, _, err = rlkit("resume", tmp_path / "g", *more)
        assert code == 2
        assert f"{more[0]} is for one run" in err
    code, _, err = rlkit("resume", make_task(tmp_path, 0), "--jobs", "2")
    assert code == 2
