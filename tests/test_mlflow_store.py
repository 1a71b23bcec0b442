"""Runs read back from MLflow: a database directly, the same by MLflow's client, and from `rlkit ui`, a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import BEGAN, config_of, make_run

from rlkit_core.builtin import mlflow_store
from rlkit_core.builtin.trackers import MlflowConfig
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_folder import RunFolder, read_journal, read_json, write_json
from rlkit_core.run_store import FolderStore, RunStore, StoredGroup, StoredRun, open_store
from rlkit_core.tracking import TrackedRun, sync

GONE = 2**22 + 1
"""A pid that no process has."""
METRICS = ("evaluation/return", "rollout/return")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of every kind in `runs/`, and a database that was sent them."""
    top = tmp_path_factory.mktemp("stores")
    tracker = {"name": "mlflow", "uri": f"sqlite:///{top}/mlflow.db", "experiment": None}

    def make(name: str, i: int, state: str = "finished", **config: Any) -> Path:
        settings = {**config_of(**config), "tracker": tracker}
        more = {"parent": "9" * 32, "init_from": "runs/before"} if config.get("group") == "g/a" else {}
        return make_run(
            top / "runs" / name, config=settings, state=state, started=BEGAN + i, cwd=str(top), returns=[i, 2.0], **more
        )

    sync(make("one", 1, seed=1, group="g/a", gamma_of_mine="0.5x"))
    sync(make("two", 2, seed=2, group="g/a"))
    sync(make("pendulum", 3, algorithm="sac", environment="Pendulum-v1"))
    sync(make("failed", 4, "failed"))
    sync(make("killed", 5, "killed"))
    sync(make("interrupted", 6, "interrupted"))
    _start_sending(make("running", 7, "running"))
    _start_sending(make("lost", 8, "running"))
    status = json.loads((top / "runs/lost/status.json").read_text())
    write_json(top / "runs/lost/status.json", {**status, "pid": GONE})
    return top


def _start_sending(path: Path) -> None:
    from rlkit_core.builtin.mlflow_tracker import MlflowTracker

    run = TrackedRun(RunFolder(path), read_json(path / "config.json"), read_json(path / "provenance.json"))
    tracker = MlflowTracker(
        MlflowConfig.model_validate({k: v for k, v in run.config["tracker"].items() if k != "name"})
    )
    tracker.start(run)
    tracker.log([record for _, record in read_journal(path / "metrics.jsonl")])


@pytest.fixture
def store(folder: Path) -> RunStore:
    return open_store(f"sqlite:///{folder}/mlflow.db", {})


def same(ours: list[StoredRun], theirs: list[StoredRun]) -> None:
    """Assert that all is equal but where they lie and the budget of an odd parameter."""
    assert [run.name for run in ours] == [run.name for run in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert replace(one, place="", curves={}) == replace(other, place="", curves={})
        assert set(one.curves) == set(other.curves)
        for metric, curve in one.curves.items():
            for part in ("steps", "seconds", "values"):
                np.testing.assert_array_equal(getattr(curve, part), getattr(other.curves[metric], part))
            assert curve.steps.dtype == other.curves[metric].steps.dtype == np.int64


def test_a_database_tells_of_runs_what_their_folders_tell(folder: Path, store: RunStore) -> None:
    from_folders = FolderStore(folder / "runs").runs(curves=METRICS)
    assert [run.state for run in from_folders] == [
        *("finished", "finished", "finished", "failed", "killed", "interrupted", "running", "lost")
    ]
    same(store.runs(curves=METRICS), from_folders)


def test_a_database_is_read_without_mlflow(folder: Path) -> None:
    code = (
        "import sys, os\nfrom rlkit_core.run_store import open_store\n"
        f"runs = open_store({str(folder / 'mlflow.db')!r}, os.environ).runs(curves=['evaluation/return'])\n"
        "print(len(runs), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "8 False\n", done.stderr


def test_the_client_tells_the_same(folder: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    directly = store.runs(curves=METRICS)
    # A database that is not as expected is left to MLflow's own client.
    monkeypatch.setitem(mlflow_store.TABLES, "runs", {"run_uuid", "what_there_will_be"})
    by_client = store.runs(curves=METRICS)
    # It does not say at which step a metric was: how far a run is that goes on.
    known = [replace(run, steps=other.steps) if run.state in ("running", "lost", "killed", "failed") else run
             for run, other in zip(by_client, directly, strict=True)]  # fmt: skip
    same(known, directly)


def test_selecting_by_group_experiment_name_and_id(store: RunStore) -> None:
    everything = {run.name: run for run in store.runs()}

    def names(*selection: str, where: str | None = None) -> list[str]:
        return [run.name for run in store.runs(selection, where=where)]

    assert names("g") == names("g/a") == ["one", "two"]
    assert names("rlkit/Pendulum-v1") == ["pendulum"]
    assert names("9" * 32) == ["one", "two"]
    assert names(everything["two"].run_id, everything["one"].place, "pendulum") == ["one", "two", "pendulum"]
    assert names("rlkit/CartPole-v1", where="state = finished and seed in (1, 2)") == ["one", "two"]
    assert names(where="settings.algorithm.gamma_of_mine = 0.5x") == ["one"]
    with pytest.raises(UsageError, match="there is no run, group or experiment nine in sqlite:///"):
        names("g", "nine")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the database that may be changed."""
    return Path(shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db"))


def test_what_is_not_rlkits_and_what_is_no_run(copied: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{copied}")
    store = open_store(str(copied), {})
    before = {run.name: run for run in store.runs()}
    experiment = client.create_experiment("others", artifact_location=str(copied.parent / "files"))
    other = client.create_run(experiment, run_name="other").info
    client.log_param(other.run_id, "lr", 0.1)
    client.log_metric(other.run_id, "final/return", 3.0, step=5)
    client.set_terminated(other.run_id, "FINISHED")
    client.create_run(experiment, tags={"rlkit.kind": "comparison"})
    planned = [{"group": "g/a", "environment": "CartPole-v1", "seed": seed, "run_dir": "x"} for seed in (1, 2)]
    plans = (
        {"rlkit.planned": json.dumps(planned)},
        {"rlkit.planned": json.dumps(planned[:1])},
        {"rlkit.planned": "[[[["},
    )
    # One group has runs in two experiments, and in one of them an older plan.
    for group, tags in (("g", plans[0]), ("g", plans[1]), ("h", {}), ("bare", plans[2])):
        tags |= {"rlkit.kind": "group", "rlkit.group_id": group * 4, "group": group}
        parent = client.create_run(experiment, tags=tags).info.run_id
        if group == "h":
            client.log_text(parent, json.dumps({"planned": [["h", "Pendulum-v1", 0]]}), "group.json")
    client.delete_run(before["failed"].place)
    client.set_tag(before["interrupted"].place, "resumed_from", before["killed"].place)
    found = {run.name: run for run in store.runs()}
    assert before.keys() - found.keys() == {"failed", "killed"}
    assert found.keys() - before.keys() == {"other"}
    assert found["other"] == StoredRun(
        **{"place": other.run_id, "run_id": other.run_id, "name": "other", "state": "finished"},
        **{"settings": {"lr": 0.1}, "started": other.start_time, "steps": 5, "final": {"return": 3.0}},
    )
    assert {group.parent: group for group in store.groups()} == {
        "gggg": StoredGroup("gggg", "g", (("g/a", "CartPole-v1", 1), ("g/a", "CartPole-v1", 2))),
        "hhhh": StoredGroup("hhhh", "h", (("h", "Pendulum-v1", 0),)),
        "barebarebarebare": StoredGroup("barebarebarebare", "bare"),
    }
    client.delete_experiment(experiment)
    assert store.groups() == []
    assert "other" not in {run.name for run in store.runs()}


def test_files_are_kept_as_a_run_beside_those_compared(copied: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "report" / "plots").mkdir(parents=True)
    (tmp_path / "report" / "report.md").write_text("better")
    (tmp_path / "report" / "plots" / "one.html").write_text("<p>")
    client = MlflowClient(tracking_uri=f"sqlite:///{copied}")
    store = open_store(str(copied), {})
    for selection, experiment in ((["g"], "rlkit/CartPole-v1"), (["g", "pendulum"], "rlkit/comparisons")):
        store.runs(selection)
        where = store.keep("one against two", tmp_path / "report", {"rlkit.kind": "comparison", "verdict": "better"})
        page = re.fullmatch(r"rlkit ui, then http://127.0.0.1:5000/#/experiments/(\d+)/runs/(\w{32})", str(where))
        assert page is not None
        assert client.get_experiment(page[1]).name == experiment
        run = client.get_run(page[2])
        assert (run.info.status, run.info.run_name, run.data.tags["verdict"]) == (
            "FINISHED",
            "one against two",
            "better",
        )
        assert {file.path for file in client.list_artifacts(page[2])} == {"plots", "report.md"}
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(copied.parent / "mlruns") or (
            experiment != "rlkit/comparisons"
        )
    assert "one against two" not in {run.name for run in store.runs()}


def test_a_run_is_fetched_in_the_form_of_its_folder(folder: Path, store: RunStore, tmp_path: Path) -> None:
    from rlkit_core.reproduction import _records

    original = folder / "runs" / "one"
    (tmp_path / "one").mkdir()
    fetched = store.fetch("one", tmp_path / "one")
    for name in ("config.json", "provenance.json"):
        assert (fetched / name).read_bytes() == (original / name).read_bytes()
    assert _records(RunFolder(fetched)) == _records(RunFolder(original))
    assert read_json(fetched / "status.json") == {"state": "finished", "result": {"steps": 10_005, "reached": None}}
    with pytest.raises(UsageError, match="2 runs are called g"):
        store.fetch("g", tmp_path / "one")
    (tmp_path / "lost").mkdir()
    with pytest.raises(StorageError, match=r"does not have the settings of lost: its artifact config\.json is missing"):
        store.fetch("lost", tmp_path / "lost")


def test_runs_stored_before_more_was_noted(copied: Path) -> None:
    with sqlite3.connect(copied) as connection:
        connection.execute("DELETE FROM tags WHERE key LIKE 'code.%' OR key LIKE 'rlkit.%' AND key != 'rlkit.run_id'")
    connection.close()
    runs = {run.name: run for run in open_store(str(copied), {}).runs()}
    assert [run.state for run in runs.values()] == [
        *("finished", "finished", "finished", "failed", "killed", "killed", "running", "running")
    ]
    assert (runs["one"].code, runs["one"].parent, runs["one"].reached) == ({}, None, None)
    assert (runs["one"].budget, runs["one"].steps, runs["one"].final["return"]) == (10_000, 10_005, 2.0)


@pytest.mark.parametrize("content", [b"", b"no database at all, but a text", b"SQLite format 3\0" + b"\xff" * 4096])
def test_files_that_are_no_store(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(
        StorageError if content else UsageError, match=r"cannot read sqlite:///|there is no store sqlite"
    ):
        open_store(str(tmp_path / "mlflow.db"), {}).runs()
    assert (tmp_path / "mlflow.db").read_bytes() == content
    with pytest.raises(UsageError, match="there is no store sqlite:///"):
        open_store(str(tmp_path / "other.db"), {}).runs()
    with pytest.raises(UsageError, match="should hold no password"):
        open_store("https://me:secret@host", {})


def test_a_database_with_odd_content_is_read_nevertheless(copied: Path) -> None:
    with sqlite3.connect(copied) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE tags SET value = x'ff' WHERE key = 'seed'")
        connection.execute("UPDATE runs SET status = 'x', start_time = 'y', name = x'00ff41' WHERE name = 'two'")
        connection.execute("UPDATE params SET value = '[[[' WHERE key = 'total_steps'")
        connection.execute("UPDATE tags SET value = 'ten' WHERE key IN ('rlkit.steps', 'rlkit.budget')")
        connection.execute("UPDATE metrics SET step = 'a' WHERE key = 'evaluation/return' AND step < 6000")
        connection.execute("UPDATE metrics SET value = 9e999 WHERE key = 'evaluation/nominal_step'")
        connection.execute("UPDATE latest_metrics SET is_nan = 1 WHERE key = 'final/return'")
    connection.close()
    runs = {run.name: run for run in open_store(str(copied), {}).runs(curves=["evaluation/return"])}
    (two,) = (run for run in runs.values() if run.state == "damaged")
    assert (two.started, two.seed) == (None, None)
    assert np.isnan(runs["one"].final["return"])
    assert runs["one"].budget is None


# ---- rlkit runs --store, rlkit ui ----


def test_rlkit_runs_lists_a_store(rlkit: Callable[..., tuple[int, str, str]], folder: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, out, err = rlkit("runs", "--store")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["run", "name", "state", "algorithm", "env", "seed", "group", "steps", "return"]
    assert lines[1].split()[1:] == ["one", "finished", "a2c", "CartPole-v1", "1", "g/a", "10,005", "2.0"]
    assert [line.split()[2] for line in lines[-2:]] == ["running", "lost"]
    assert rlkit("runs", "--store", "mlflow.db", "--env", "Pendulum-v1")[1].splitlines()[1].split()[1] == "pendulum"
    assert rlkit("runs", "--store", "other.db")[0] == 2
    assert rlkit("runs", "elsewhere", "--store", "mlflow.db")[0] == 2


@pytest.fixture(scope="module")
def ui(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`rlkit ui`, and the address that it names."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from rlkit_core.cli import main; raise SystemExit(main())", "ui"],
        **{"cwd": folder, "env": environ, "stdout": subprocess.PIPE, "text": True},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.fullmatch(rf"MLflow, with sqlite:///{folder}/mlflow.db, is at (http://127.0.0.1:\d+)\n", line)
    assert address is not None, line
    yield process, address[1]
    process.kill()
    process.wait()


def test_rlkit_ui_shows_the_store_and_ends_with_all_of_its_processes(
    ui: tuple[subprocess.Popen[str], str], folder: Path, store: RunStore
) -> None:
    process, address = ui
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"<title>MLflow</title>" in page.read()
    # The server tells of the runs what the database tells.
    from_server = open_store(address, {})
    directly = store.runs(["g", "pendulum"], curves=METRICS)
    same(from_server.runs(["g", "pendulum"], curves=METRICS), directly)
    children = _children(process.pid)
    assert 1 <= len(children) <= 3  # MLflow's command, the server, and Python's resource tracker
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists() and _runs(pid)]
    with pytest.raises(StorageError, match="cannot be reached"):
        from_server.runs()


def _children(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in _children(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_mlflow_has_evaluations_at_the_steps_at_which_they_were_due(folder: Path) -> None:
    """Else its mean over seeds, which overshoot by other amounts, would have one seed at each step."""
    with sqlite3.connect(f"file:{folder}/mlflow.db?mode=ro", uri=True) as connection:
        query = "SELECT DISTINCT step FROM metrics WHERE key = ? ORDER BY step"
        evaluated, trained = (
            [step for (step,) in connection.execute(query, (key,))] for key in ("evaluation/return", "rollout/return")
        )
    connection.close()
    assert evaluated == [5000, 10_000]
    assert trained == [4997, 9997]  # as the journal has them


def test_an_experiment_has_a_saved_view_of_mlflows_page(folder: Path) -> None:
    with sqlite3.connect(f"file:{folder}/mlflow.db?mode=ro", uri=True) as connection:
        query = "SELECT value FROM experiment_tags WHERE key = 'mlflow.sharedViewState.rlkit'"
        views = [json.loads(text) for (text,) in connection.execute(query)]
    connection.close()
    assert [view["name"] for view in views] == ["rlkit: by group"] * 2  # one for each environment
    state = json.loads(views[0]["state"])
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "group"}]
    assert state["compareRunCharts"][0]["metricKey"] == "evaluation/return"
