"""Stored runs read from their folders: what is told of each, selecting, filtering, and folders that cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_runs import BEGAN, config_of, make_run

from rlkit_core.errors import UsageError
from rlkit_core.run_filter import parse_filter
from rlkit_core.run_folder import last_record, read_journal, write_json
from rlkit_core.run_store import FolderStore, StoredGroup, StoredRun

GONE = 2**22 + 1
"""A pid that no process has."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(runs: list[StoredRun]) -> list[str]:
    return [run.name for run in runs]


def test_what_is_told_of_a_run() -> None:
    make_run(Path("runs/one"), config=config_of(seed=3, group="mine/a"), returns=[1.0, 2.0], parent="p" * 32)
    (run,) = FolderStore().runs(curves=["evaluation/return", "rollout/return", "nowhere"])
    assert (run.place, run.name, run.state) == ("runs/one", "one", "finished")
    assert (run.algorithm, run.environment, run.seed, run.group) == ("a2c", "CartPole-v1", 3, "mine/a")
    assert (run.parent, run.started, run.steps, run.budget) == ("p" * 32, BEGAN, 10_005, 10_000)
    assert len(run.run_id) == 32
    assert run.dirty is False
    assert run.settings["algorithm.estimator.gamma"] == 0.99
    assert run.settings["algorithm.network.hidden"] == [128]
    assert run.settings["env.kwargs"] == {}
    assert run.versions["torch"] == "2.13.0"
    assert set(run.code) == {"rlkit_core", "rlkit_a2c", "rlkit_core.builtin"}
    assert run.final == {"return": 2.0, "return_std": 0.2, "episodes": 10.0}
    assert set(run.curves) == {"evaluation/return", "rollout/return"}
    evaluations = run.curves["evaluation/return"]
    np.testing.assert_array_equal(evaluations.steps, [5_000, 10_000])  # the nominal ones
    assert evaluations.steps.dtype == np.int64
    np.testing.assert_array_equal(evaluations.seconds, [1.0, 2.0])
    np.testing.assert_array_equal(evaluations.values, [1.0, 2.0])
    np.testing.assert_array_equal(run.curves["rollout/return"].steps, [4_997, 9_997])
    assert FolderStore().runs()[0].curves == {}


def test_runs_are_found_three_levels_down_and_in_no_run() -> None:
    for i, place in enumerate(("runs/a", "runs/g/b", "runs/g/h/c", "runs/g/h/i/d", "runs/a/policy/no", "runs/.old/no")):
        make_run(Path(place), started=BEGAN - i)
    assert names(FolderStore().runs()) == ["c", "b", "a"]
    assert names(FolderStore("runs/g").runs()) == ["d", "c", "b"]
    assert [run.place for run in FolderStore(Path("runs/a")).runs()] == ["runs/a"]
    with pytest.raises(UsageError, match="there is no folder elsewhere"):
        FolderStore("elsewhere").runs()


def test_selecting_runs_and_groups() -> None:
    make_run(Path("runs/one"), config=config_of(group="g"), started=BEGAN)
    make_run(Path("runs/two"), config=config_of(group="g/a lr=0.1"), started=BEGAN + 1, run_id="e" * 32)
    make_run(Path("runs/three"), config=config_of(group="gg"), started=BEGAN + 2)
    make_run(Path("runs/four"), config=config_of(algorithm="ppo"), started=BEGAN + 3, parent="9" * 32)
    make_run(Path("far/five"), started=BEGAN + 4)
    store = FolderStore()
    assert names(store.runs(["g"])) == ["one", "two"]
    assert names(store.runs(["g/a lr=0.1"])) == ["two"]
    assert names(store.runs(["ppo-CartPole-v1"])) == ["four"]  # the group of a run that was given none
    assert names(store.runs(["9" * 32])) == ["four"]
    assert names(store.runs(["e" * 32, "one"])) == ["one", "two"]
    assert names(store.runs(["runs/three/"])) == ["three"]
    assert names(store.runs(["./runs/three", "three", os.path.abspath("runs/three")])) == ["three"]
    assert names(store.runs(["far"])) == ["five"]
    assert names(store.runs(["far/five", "g"])) == ["one", "two", "five"]
    assert names(FolderStore("not/there").runs(["far"])) == ["five"]
    with pytest.raises(UsageError, match=r"there is no run and no group nine in runs\n"):
        store.runs(["one", "nine"])


def test_how_runs_stand() -> None:
    make_run(Path("runs/finished"))
    make_run(Path("runs/running"), state="running")
    make_run(Path("runs/lost"), state="running", pid=GONE)
    make_run(Path("runs/killed"), state="killed")
    (make_run(Path("runs/unborn")) / "status.json").unlink()
    (make_run(Path("runs/beginning")) / "status.json").unlink()
    owner = json.loads(Path("runs/running/status.json").read_text())
    write_json(Path("runs/beginning/.owner.json"), {key: owner[key] for key in ("pid", "host", "process_start")})
    runs = FolderStore().runs()
    assert {run.name: run.state for run in runs} == {
        **{"finished": "finished", "running": "running", "lost": "lost", "killed": "killed", "unborn": "lost"},
        "beginning": "running",
    }
    assert {run.name: run.final.get("return") for run in runs if run.final} == {"finished": 20.0}
    assert {run.steps for run in runs if run.state != "finished"} <= {10_005}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 10_000, b'{"state": 5}', b'{"seed": NaN}'])
def test_files_that_cannot_be_read_are_damaged_and_harm_no_other_run(content: bytes) -> None:
    make_run(Path("runs/good"))
    for file in ("config", "provenance", "status"):
        (make_run(Path("runs") / file) / f"{file}.json").write_bytes(content)
    (make_run(Path("runs/metrics")) / "metrics.jsonl").write_bytes(content)
    Path("runs/group.json").write_bytes(content)
    store = FolderStore()
    runs = {run.name: run for run in store.runs(curves=["evaluation/return"])}
    assert len(runs) == 5
    assert store.groups() == []
    assert runs["good"].final["return"] == 20.0
    # A table without what belongs into it tells nothing, but can be read.
    readable = {"provenance"} if content.startswith(b'{"state') else set()
    readable |= {"config"} if content.startswith(b'{"state') else set()
    for file in ("config", "provenance", "status"):
        assert runs[file].state == ("finished" if file in readable else "damaged"), file
    assert runs["metrics"].final == {}


def test_a_journal_that_is_no_file_is_damage() -> None:
    run = make_run(Path("runs/one"))
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert FolderStore().runs(curves=["evaluation/return"])[0].state == "damaged"


def test_odd_records_are_left_out_of_curves() -> None:
    run = make_run(Path("runs/one"), started=None)
    odd = [
        {"step": 5, "time": 1000, "metrics": {"x": 1.0}},
        {"step": 3, "time": 2000, "metrics": {"x": float("nan")}},
        {"step": "a", "time": 2000, "metrics": {"x": 2.0}},
        {"step": 6, "time": None, "metrics": {"x": 2.0}},
        {"step": 10**30, "time": 3000, "metrics": {"x": 2.0}},
        {"step": 7, "time": 3000, "metrics": {"x": 10**400}},
        {"step": 7, "time": 3000, "metrics": {"x": None, "y": "x"}},
        {"step": 7, "time": 3000, "metrics": {"x": True}},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in odd) + "{")
    (stored,) = FolderStore().runs(curves=["x"])
    np.testing.assert_array_equal(stored.curves["x"].steps, [3, 5])
    np.testing.assert_array_equal(stored.curves["x"].seconds, [1.0, 0.0])  # since the first one, for want of more
    np.testing.assert_array_equal(stored.curves["x"].values, [np.nan, 1.0])


def test_groups_are_read() -> None:
    planned = [{"group": "g/a", "environment": "CartPole-v1", "seed": 0, "run_dir": "x"}, {"group": 5}, None]
    make_run(Path("runs/g/x"))
    write_json(Path("runs/g/group.json"), {"format": 1, "id": "5" * 32, "name": "g", "planned": planned, "more": 1})
    assert FolderStore().groups() == [StoredGroup("5" * 32, "g", (("g/a", "CartPole-v1", 0),))]


def test_the_journal_is_read_from_its_end_and_by_metric(tmp_path: Path) -> None:
    path = make_run(Path("runs/one"), returns=[float(i) for i in range(100)]) / "metrics.jsonl"
    assert last_record(path)["metrics"]["final/return"] == 99.0  # type: ignore[index]
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "time": 1, "metrics": {}}')  # may still be being written
    assert "final/return" in last_record(path)["metrics"]  # type: ignore[index]
    for filler in (b"x" * 5_000, b"y" * 200_000):
        with open(path, "ab") as file:
            file.write(b"\n" + filler + b"\n")
        assert (last_record(path) is None) == (len(filler) > 100_000)
    found = list(read_journal(path, containing=["final/return"]))
    assert [record["metrics"]["final/return"] for _, record in found] == [99.0]
    assert list(read_journal(path, containing=["return"])) == []


# ---- the filter language ----


@pytest.fixture(scope="module")
def some() -> list[StoredRun]:
    a2c = {"algorithm.gamma": 0.99, "algorithm.hidden": [64, 64], "stop_at": "never", "algorithm.switch": True}
    return [
        StoredRun("r/0", "0", "zero", algorithm="a2c", seed=0, group="g/x y", settings=a2c, final={"return": 400.0}),
        StoredRun("r/1", "1", "one", algorithm="a2c", seed=5, group="5", settings={**a2c, "algorithm.gamma": 0.9}),
        StoredRun("r/2", "2", "two", "lost", algorithm="ppo", environment="CartPole-v1", settings={"stop_at": 475.0}),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm = a2c", "zero one"),
        ("algorithm == a2c and seed < 5", "zero"),
        ("algorithm=a2c and seed<=5 and settings.algorithm.gamma>=0.99", "zero"),
        ("seed > 0", "one"),
        ("seed = 5.0", "one"),
        ("seed = none", "two"),
        ("seed != 5", "zero two"),
        ("seed in (0, 5)", "zero one"),
        ("name in (one,two)", "one two"),
        ("env = CartPole-v1 and state in (lost, damaged)", "two"),
        ('group = "g/x y"', "zero"),
        ("group = '5'", "one"),
        ("group = 5", "one"),
        ("group ~ g/", "zero"),
        ("group ~ ' '", "zero"),
        ("settings.algorithm.hidden = [64, 64]", "zero one"),
        ("settings.algorithm.hidden ~ 64", "zero one"),
        ("settings.algorithm.switch = true", "zero one"),
        ("settings.algorithm.switch = 1", ""),
        ("settings.algorithm.switch > 0", ""),
        ("settings.stop_at = 475", "two"),
        ("settings.stop_at > 100", "two"),
        ("settings.stop_at = never", "zero one"),
        ("return > 300", "zero"),
        ("final.return_std > 0", ""),
        ("seed ~ 5", "one"),
        ("dirty = none and steps = none", "zero one two"),
    ],
)
def test_filters(text: str, expected: str, some: list[StoredRun]) -> None:
    found = [run.name for run in some if all(condition.is_true(run) for condition in parse_filter(text))]
    assert found == expected.split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "filter '': it ends too early: there should be a field"),
        ("seed", "ends too early: there should be one of ="),
        ("seed <", "ends too early: there should be a value"),
        ("seed 5", "after seed there should be one of = != < <= > >= ~ in, not 5"),
        ("seed < x", "seed < needs a number, not x"),
        ("seed < true", "seed < needs a number, not true"),
        ("seed = 1 or seed = 2", "or is not understood there: conditions are joined by and"),
        ("seed in 1, 2", "after in there should be a list in brackets"),
        ("seed in (1 2)", "after 1 there should be , or ), not 2"),
        ("seed in (1, 2", "ends too early: there should be , or"),
        ("seed = = 2", "there should be a value, not =: texts with such signs need quotes"),
        ("sed = 1", "runs have no field sed; did you mean seed?"),
        ("settings. = 1", "runs have no field settings."),
        ("__class__ = 1", "runs have no field __class__"),
        ("curves.x = 1", "runs have no field curves.x"),
        ("name = 'one", "'one is not understood"),
        ("seed = 1 and", "ends too early"),
    ],
)
def test_filters_that_cannot_be_understood(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_filter(text)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_a_setting_that_no_run_has_is_an_error() -> None:
    make_run(Path("runs/one"))
    with pytest.raises(
        UsageError, match=r"none of the runs has settings\.gamma; did you mean settings\.algorithm\.est"
    ):
        FolderStore().runs(where="settings.gamma = 1")
    assert FolderStore().runs(where="settings.algorithm.estimator.gamma = 0.9") == []
    assert names(FolderStore().runs(["one"], where="settings.algorithm.estimator.gamma > 0.9")) == ["one"]
