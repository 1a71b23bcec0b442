"""Tracking with real processes, stores and servers; the training process is a script that writes the run folder."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import rlkit_core
from rlkit_core import tracking
from rlkit_core.builtin.trackers import (
    MlflowConfig,
    NoTrackerConfig,
    TensorboardConfig,
    resolve_uri,
    sqlite_path,
    without_password,
)
from rlkit_core.errors import RunInUse, StorageError, UsageError
from rlkit_core.run_folder import Journal, RunFolder, read_journal, read_json, write_json
from rlkit_core.run_store import nominal_step_of
from rlkit_core.tracking import Record, TrackedRun, Tracker, sync

ROOT = Path(next(iter(rlkit_core.__path__))).parent

PARENT = """
import json, sys, time, signal, os
from pathlib import Path
from rlkit_core.run_folder import Journal, RunFolder, write_json
from rlkit_core.tracking import TrackingProcess

what = json.loads(sys.argv[1])
folder = RunFolder.create(Path(what["run_dir"]))
write_json(folder.config_path, what["config"])
write_json(folder.provenance_path, {**what["provenance"], "cwd": os.getcwd()})
for which in ("last", "best"):
    folder.policy_path(which).mkdir(parents=True)
    (folder.policy_path(which) / "policy.json").write_text("{}")
folder.write_status("running")
t = time.perf_counter()
tracker = TrackingProcess.start(folder.path)
start_ms = 1000 * (time.perf_counter() - t)
journal = Journal(folder.journal_path)
for i in range(what["records"]):
    journal.append(100 * i, {"train/loss": 1 / (i + 3), "train/return": float(i), "odd @name//": -0.1 * i})
print("ready", flush=True)
time.sleep(what["seconds"])
worst = 0.0
for i in range(what["records"], what["records"] + what["later"]):
    t = time.perf_counter()
    journal.append(100 * i, {"train/loss": 1 / (i + 3)})
    worst = max(worst, time.perf_counter() - t)
    time.sleep(0.02)
if what["state"] == "hang":
    if os.fork() == 0:
        time.sleep(1.5)  # a worker that outlives its parent and holds its copy of the pipe
        os._exit(0)
    print("hanging", flush=True)
    time.sleep(60)
if what["state"]:
    folder.write_status(what["state"])
t = time.perf_counter()
warning = tracker.finish(what["timeout"])
print(json.dumps({"warning": warning, "finish_s": time.perf_counter() - t, "start_ms": start_ms, "worst_s": worst,
                  "mlflow": "mlflow" in sys.modules, "tracking_pid": tracker._process.pid}))
"""


def config_of(tracker: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "algorithm": {"name": "a2c", "estimator": {"name": "lambda", "gae_lambda": 0.95}},
        "env": {"name": "gymnasium", "id": "CartPole-v1"},
        "seed": 7,
        "total_steps": 1000,
        "tracker": tracker,
        "group": None,
        **more,
    }


def provenance_of(run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "run_name": f"a2c-{run_id}",
        "preset": "classic",
        "versions": {"rlkit-core": "0.1.0", "torch": "2.9", "gymnasium": "1.2", "python": "3.11"},
        "plugins": [{"distribution": "rlkit-a2c", "version": "0.1.0"}],
        "git": {"commit": "c0ffee", "dirty": True},
        "command": "rlkit run a2c",
    }


class Parent:
    """A training process, of which the test decides how it ends."""

    def __init__(
        self,
        cwd: Path,
        run_dir: Path,
        tracker: dict[str, Any],
        *,
        records: int = 20,
        later: int = 0,
        seconds: float = 0.0,
        state: str = "finished",
        timeout: float = 30.0,
        environ: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        what = {
            "run_dir": str(run_dir),
            "config": config_of(tracker, **(config or {})),
            "provenance": provenance_of(run_dir.name),
            "records": records,
            "later": later,
            "seconds": seconds,
            "state": state,
            "timeout": timeout,
        }
        env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | (environ or {})
        env["PYTHONPATH"] = os.pathsep.join([env.get("PYTHONPATH", ""), str(ROOT)]).lstrip(os.pathsep)
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, json.dumps(what)], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) != f"{word}\n":
            assert line, f"the parent ended before it was {word}"

    def result(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return dict(json.loads(out.splitlines()[-1]))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def tracking_of(run_dir: Path) -> dict[str, Any]:
    return tracking.read_tracking(RunFolder(run_dir))


def kill(parent: Parent) -> None:
    parent.wait_for("hanging")
    parent.process.kill()
    parent.process.communicate()


def journal_of(run_dir: Path) -> list[tuple[str, int, int, float]]:
    """The journal as MLflow should show it: (name, step, time, value), sorted; evaluations at their nominal steps."""
    names = {"odd @name//": "odd _name"}
    points = []
    for _, record in read_journal(run_dir / "metrics.jsonl"):
        for name, value in record["metrics"].items():
            nominal = nominal_step_of(name)
            step = record["step"] if name == nominal else int(record["metrics"].get(nominal, record["step"]))
            points.append((names.get(name, name), step, record["time"], value))
    return sorted(points)


def client_of(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def history_of(client: Any, run_id: str) -> list[tuple[str, int, int, float]]:
    return sorted(
        (name, point.step, point.timestamp, point.value)
        for name in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, name)
    )


def mlflow_run(client: Any, run_dir: Path) -> Any:
    return client.get_run(tracking_of(run_dir)["ids"]["run_id"])


def made(run_dir: Path, tracker: dict[str, Any], state: str = "finished", records: int = 5) -> RunFolder:
    """A run folder as a run leaves it that had no tracking process."""
    folder = RunFolder.create(run_dir)
    write_json(folder.config_path, config_of(tracker))
    write_json(folder.provenance_path, {**provenance_of(run_dir.name), "cwd": str(run_dir.parent)})
    journal = Journal(folder.journal_path)
    for step in range(records):
        journal.append(step, {"loss": 0.5 * step})
    journal.close()
    folder.write_status(state)
    folder.release()
    return folder


class Memory(Tracker):
    """A tracker whose store is a list, and which fails when told to."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.calls: list[int] = []
        self.files: list[str] = []
        self.ends: list[tuple[str, int]] = []
        self.starts = 0
        self.fail: set[str] = set()
        self.error: Exception = ConnectionError("the store is down")

    def _maybe_fail(self, call: str) -> None:
        if call in self.fail:
            raise self.error

    def start(self, run: TrackedRun) -> None:
        self.starts += 1
        self._maybe_fail("start")
        run.ids.setdefault("uri", "memory")

    def log(self, records: list[Record]) -> None:
        self._maybe_fail("log")
        self.calls.append(len(records))
        self.records += records

    def artifact(self, path: Path, name: str) -> None:
        self._maybe_fail("artifact")
        self.files.append(name)

    def finish(self, state: str, time: int) -> None:
        self._maybe_fail("finish")
        self.ends.append((state, time))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose default store several tests share: a fresh one takes 1.5 s."""
    return tmp_path_factory.mktemp("work folder")


@pytest.fixture(scope="session")
def finished(work: Path) -> tuple[Path, dict[str, Any]]:
    """Two runs that started at once in a folder without a store; the first of them and what its parent said."""
    (work / ".mlflow.db.1.new").write_text("half a store, whose creation was killed")
    parents = [Parent(work, work / "runs" / name, {"name": "mlflow"}, records=400) for name in ("first", "second")]
    results = [parent.result() for parent in parents]
    return parents[0].run_dir, results[0] | {"second": results[1]}


# ---- the whole way, to MLflow ----


def test_a_finished_run_is_in_mlflow_as_the_journal_has_it(work: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    run_dir, said = finished
    assert said["warning"] is None
    assert said["mlflow"] is False, "training imported mlflow"
    assert said["start_ms"] < 200
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, run_dir)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a2c-first"
    assert client.get_experiment(run.info.experiment_id).name == "rlkit/CartPole-v1"
    assert history_of(client, run.info.run_id) == journal_of(run_dir)
    assert run.data.params["algorithm.estimator.gae_lambda"] == "0.95"
    assert run.data.params["env.id"] == "CartPole-v1"
    assert run.data.params["group"] == "null"
    expected = {
        "algorithm": "a2c",
        "environment": "CartPole-v1",
        "seed": "7",
        "group": "a2c-CartPole-v1",
        "preset": "classic",
        "rlkit.run_id": "first",
        "version.torch": "2.9",
        "plugin.rlkit-a2c": "0.1.0",
        "mlflow.source.git.commit": "c0ffee",
        "mlflow.source.name": "rlkit run a2c",
    }
    assert expected.items() <= run.data.tags.items()
    state = tracking_of(run_dir)
    assert (state["state"], state["error"]) == ("ok", None)
    assert state["offset"] == (run_dir / "metrics.jsonl").stat().st_size


def test_artifacts_lie_beside_the_store(work: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    run_dir, _ = finished
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, run_dir)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
        "config.json",
        "policy",
        "provenance.json",
    }
    assert Path(run.info.artifact_uri).is_relative_to(work / "mlruns")
    assert (Path(run.info.artifact_uri) / "policy" / "best" / "policy.json").read_text() == "{}"


def test_two_first_runs_at_once(work: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    assert finished[1]["second"]["warning"] is None
    assert {path.name for path in work.iterdir()} == {".mlflow.db.lock", "mlflow.db", "mlruns", "runs"}
    client = client_of(f"sqlite:///{work}/mlflow.db")
    runs = [mlflow_run(client, work / "runs" / name) for name in ("first", "second")]
    assert runs[0].info.experiment_id == runs[1].info.experiment_id
    assert history_of(client, runs[1].info.run_id) == journal_of(work / "runs" / "second")


def test_sync_of_what_was_sent_changes_nothing(
    work: Path, finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_dir, _ = finished
    # From elsewhere, with another store set: the run stays where it began.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    client = client_of(f"sqlite:///{work}/mlflow.db")
    before = mlflow_run(client, run_dir).info
    for _ in range(2):
        assert "all records were there already" in sync(run_dir)
    # Also if all that is known of the sending is lost: the run is found by its tag, the points by their times.
    (run_dir / "tracking.json").unlink()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "sent 400 records" in sync(run_dir)
    after = mlflow_run(client, run_dir).info
    assert (after.run_id, after.status, after.end_time) == (before.run_id, before.status, before.end_time)
    assert history_of(client, after.run_id) == journal_of(run_dir)
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_how_a_run_ended(
    work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, state: str, status: str
) -> None:
    parent = Parent(work, tmp_path / state, {"name": "mlflow", "experiment": "ends"}, state=state)
    assert parent.result()["warning"] is None
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, parent.run_dir)
    assert run.info.status == status
    assert client.get_experiment(run.info.experiment_id).name == "ends"


def test_kill_9_of_training_is_told(work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    parent = Parent(work, tmp_path / "killed", {"name": "mlflow"}, state="hang")
    parent.wait_for("hanging")
    pid = parent.process.pid
    parent.process.kill()
    # Not waited for yet: a zombie must count as gone. Its forked child still holds the pipe.
    wait_until(lambda: tracking_of(parent.run_dir)["state"] == "ok")
    parent.process.communicate()
    status = RunFolder(parent.run_dir).status()
    assert (status["state"], status["pid"]) == ("killed", pid)
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, parent.run_dir)
    assert run.info.status == "KILLED"
    assert history_of(client, run.info.run_id) == journal_of(parent.run_dir)


def test_kill_9_of_the_tracking_process_costs_nothing(
    work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    parent = Parent(work, tmp_path / "lonely", {"name": "mlflow"}, later=50, seconds=0.1)
    parent.wait_for("ready")
    children = Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    said = parent.result()
    assert "signal 9" in said["warning"]
    assert f"rlkit sync {parent.run_dir}" in said["warning"]
    sync(parent.run_dir)
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, parent.run_dir)
    assert run.info.status == "FINISHED"
    assert history_of(client, run.info.run_id) == journal_of(parent.run_dir)


def test_odd_settings_and_values_do_not_stop_it(
    work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = made(tmp_path / "odd", {"name": "mlflow", "uri": f"sqlite:///{work}/mlflow.db"}, records=0)
    config = read_json(folder.config_path)
    config["algorithm"] |= {f"setting {i} ü": "ü" * 7000 for i in range(130)} | {"..": 1, "": 2, "x" * 300: None}
    write_json(folder.config_path, config)
    lines = [
        {"step": 1, "time": 5, "metrics": {"nan": float("nan"), "text": "x", "flag": True, "../up": 1.0, "": 2.0}},
        {"step": 2, "time": 6, "metrics": {"inf": float("inf"), "int": 3, "a": {"b": 1}}},
        {"step": "3", "time": 7, "metrics": {"a": 1.0}},
        {"step": 4, "time": None, "metrics": {"a": 1.0}},
        {"step": 5, "time": 8, "metrics": [1]},
        {"step": 6, "time": 9, "metrics": {f"many {i}": float(i) for i in range(2500)}},
        {"step": 10**30, "time": 9, "metrics": {"a": 1.0}},
    ]
    folder.journal_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder.path / "policy" / "last").mkdir(parents=True)
    (folder.path / "policy" / "last" / "stolen").symlink_to("/etc/passwd")
    for _ in range(2):
        sync(folder.path)
    client = client_of(f"sqlite:///{work}/mlflow.db")
    run = mlflow_run(client, folder.path)
    assert len(run.data.params["algorithm.setting 0 _"]) == 6000
    assert len([name for name in run.data.params if name.startswith("algorithm.setting")]) == 130
    assert {"nan", "_/up", "_", "inf", "int", "many 2499"} <= run.data.metrics.keys()
    assert not {"text", "flag", "a"} & run.data.metrics.keys()
    assert len(run.data.metrics) == 2505
    assert not client.list_artifacts(run.info.run_id, "policy")


def test_run_is_sent_anew_when_the_store_lost_it(
    work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = made(tmp_path / "lost", {"name": "mlflow", "uri": f"sqlite:///{work}/mlflow.db"})
    write_json(
        folder.tracking_path,
        {
            "offset": folder.journal_path.stat().st_size,
            "ids": {"uri": f"sqlite:///{work}/mlflow.db", "run_id": "0" * 32},
        },
    )
    assert "sent 5 records" in sync(folder.path)
    client = client_of(f"sqlite:///{work}/mlflow.db")
    assert history_of(client, tracking_of(folder.path)["ids"]["run_id"]) == journal_of(folder.path)


# ---- stores that cannot be used ----


@pytest.mark.parametrize("place", ["missing/mlflow.db", "file/mlflow.db", "folder", "file"])
def test_a_sqlite_store_that_cannot_be_written_is_named_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no database, but long enough to be looked at as if it were one" * 100)
    (tmp_path / "folder").mkdir()
    folder = made(tmp_path / "run", {"name": "mlflow", "uri": f"sqlite:///{place}"})
    before = time.monotonic()
    with pytest.raises(StorageError, match=f"cannot write {tmp_path / place}: "):
        sync(folder.path)
    assert time.monotonic() - before < 10
    assert str(tmp_path / place) in str(tracking_of(folder.path)["error"])


def test_an_unwritable_store_does_not_hold_training_up(tmp_path: Path) -> None:
    parent = Parent(tmp_path, tmp_path / "run", {"name": "mlflow", "uri": "sqlite:////proc/mlflow.db"})
    said = parent.result()
    assert said["finish_s"] < 10
    assert "/proc/mlflow.db" in said["warning"]
    assert f"rlkit sync {parent.run_dir}" in said["warning"]
    assert len(said["warning"].splitlines()) == 2
    assert Path(parent.run_dir / "tracking.log").read_text().count("Traceback") <= 2


class Server:
    """A server that answers every request with a status, or never."""

    def __init__(self, status: int | None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if status is None:
                    time.sleep(30)
                else:
                    self.send_response(status)
                    self.end_headers()

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(
    params=[
        "refuses",
        pytest.param("answers 500", marks=pytest.mark.thorough),
        pytest.param("does not answer", marks=pytest.mark.thorough),
    ]
)
def dead_server(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "refuses":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    else:
        server = Server(500 if request.param == "answers 500" else None)
        yield server.uri
        server.server.shutdown()
        server.server.server_close()


def test_a_dead_server_costs_training_nothing(dead_server: str, tmp_path: Path) -> None:
    parent = Parent(
        tmp_path,
        tmp_path / "run",
        {"name": "mlflow"},
        later=20,
        seconds=0.5,
        timeout=1.0,
        environ={"MLFLOW_TRACKING_URI": dead_server},
    )
    said = parent.result()
    assert said["worst_s"] < 0.05
    assert said["finish_s"] < 2.0
    assert f"rlkit sync {parent.run_dir}" in said["warning"]
    wait_until(lambda: tracking_of(parent.run_dir)["error"] is not None, 10)
    assert dead_server in str(tracking_of(parent.run_dir)["error"])
    assert len(list(read_journal(parent.run_dir / "metrics.jsonl"))) == 40
    if "still being sent" in said["warning"]:  # nobody knows yet that the server is dead: it is being waited for
        with pytest.raises(RunInUse):
            sync(parent.run_dir)
        os.kill(said["tracking_pid"], signal.SIGKILL)
    else:
        assert dead_server in said["warning"]
        with pytest.raises(ProcessLookupError):
            os.kill(said["tracking_pid"], 0)  # gone, so that `rlkit sync` may begin at once
    before = time.monotonic()
    with pytest.raises(StorageError, match="nothing is lost"):
        sync(parent.run_dir)
    assert time.monotonic() - before < 8


def test_what_a_dead_store_missed_is_synced_without_a_double(
    work: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    uri = f"sqlite:///{store}/mlflow.db"
    parent = Parent(tmp_path, tmp_path / "run", {"name": "mlflow", "uri": uri}, later=10)
    said = parent.result()
    assert "No such file" in said["warning"]
    store.mkdir()
    (store / "mlflow.db").write_bytes((work / "mlflow.db").read_bytes())  # a store that is there already: 1.5 s less
    assert "sent 30 records" in sync(parent.run_dir)
    assert "all records were there already" in sync(parent.run_dir)
    client = client_of(uri)
    run = mlflow_run(client, parent.run_dir)
    assert run.info.status == "FINISHED"
    assert history_of(client, run.info.run_id) == journal_of(parent.run_dir)


@pytest.mark.long
def test_a_server_that_comes_and_goes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/art"]

    def serve() -> subprocess.Popen[bytes]:
        with open(tmp_path / "server.log", "ab") as log:
            return subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)

    uri = f"http://127.0.0.1:{port}"
    parent = Parent(tmp_path, tmp_path / "run", {"name": "mlflow", "uri": uri}, later=900, timeout=10)
    server = serve()
    try:
        parent.wait_for("ready")
        wait_until(lambda: tracking_of(parent.run_dir)["offset"] > 0, 40)
        os.killpg(server.pid, signal.SIGSTOP)
        time.sleep(4)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        said = parent.result()
        assert said["worst_s"] < 0.05
        assert said["warning"] is not None
        assert uri in said["warning"]
        server = serve()

        def synced() -> bool:
            try:
                sync(parent.run_dir)
            except StorageError:
                return False
            return True

        wait_until(synced, 40)
        client = client_of(uri)
        run = mlflow_run(client, parent.run_dir)
        assert run.info.status == "FINISHED"
        assert history_of(client, run.info.run_id) == journal_of(parent.run_dir)
        assert {item.path for item in client.list_artifacts(run.info.run_id, "policy")} == {
            "policy/best",
            "policy/last",
        }
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


# ---- the feed itself, with a store in memory ----


def test_each_record_is_sent_once_however_the_store_fails(tmp_path: Path) -> None:
    memory = Memory()
    folder = made(tmp_path / "run", {"name": "memory"}, records=2500)
    feed = tracking.Feed(folder, lambda config: memory)
    for failing in ("start", "log", "artifact", "finish"):
        memory.fail = {failing}
        with pytest.raises(ConnectionError):
            feed.close("finished")
        assert tracking_of(folder.path)["error"] == "the store is down"
    memory.fail = set()
    feed.close("finished")
    assert memory.calls == [1000, 1000, 500]
    assert [record["step"] for record in memory.records] == list(range(2500))
    assert [state for state, _ in memory.ends] == ["finished"]
    assert tracking_of(folder.path)["state"] == "ok"
    assert tracking_of(folder.path)["error"] is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"offset": -1}', '{"offset": 1e9, "ids": [1], "error": {}}', '{"offset": 99999999}']
)
def test_a_damaged_tracking_file_means_sending_again(tmp_path: Path, content: str) -> None:
    memory = Memory()
    folder = made(tmp_path / "run", {"name": "memory"})
    folder.tracking_path.write_text(content)
    assert "sent 5 records" in sync(folder.path, lambda config: memory)
    assert len(memory.records) == 5


def test_files_that_are_sent(tmp_path: Path) -> None:
    memory = Memory()
    folder = made(tmp_path / "run", {"name": "memory"})
    (folder.path / "error.json").write_text("{}")
    last = folder.policy_path("last")
    last.mkdir(parents=True)
    (last / "weights.safetensors").write_text("w")
    (last / ".policy.json.1.tmp").write_text("half")
    (tmp_path / "secret").write_text("s")
    (last / "link").symlink_to(tmp_path / "secret")
    sync(folder.path, lambda config: memory)
    assert memory.files == ["config.json", "provenance.json", "error.json", "policy/last/weights.safetensors"]


def test_sync_repairs_an_orphan_and_refuses_a_living_run(tmp_path: Path) -> None:
    memory = Memory()
    living = made(tmp_path / "living", {"name": "memory"}, state="running")
    with pytest.raises(UsageError, match=f"still running .process {os.getpid()}"):
        sync(living.path, lambda config: memory)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.3)
    write_json(living.status_path, {**living.status(), "pid": dead.pid})  # a zombie
    assert sync(living.path, lambda config: memory).endswith("as killed")
    dead.wait()
    assert living.status()["state"] == "killed"
    assert living.status()["pid"] == dead.pid
    assert [state for state, _ in memory.ends] == ["killed"]


def test_only_one_feeds_a_run(tmp_path: Path) -> None:
    memory = Memory()
    folder = made(tmp_path / "run", {"name": "memory"})
    with tracking._tracking_lock(folder), pytest.raises(RunInUse):
        sync(folder.path, lambda config: memory)
    assert not memory.records


def test_sync_without_a_tracker_or_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        sync(tmp_path / "nothing")
    assert "no tracker" in sync(made(tmp_path / "run", {"name": "none"}).path)
    with pytest.raises(UsageError, match="no tracker named wandb"):
        sync(made(tmp_path / "other", {"name": "wandb"}).path)
    with pytest.raises(UsageError, match="do not fit"):
        sync(made(tmp_path / "wrong", {"name": "mlflow", "url": "x"}).path)


def test_a_tracker_that_cannot_be_made_still_lets_kill_9_be_seen(tmp_path: Path) -> None:
    parent = Parent(tmp_path, tmp_path / "run", {"name": "wandb"}, state="hang")
    kill(parent)
    wait_until(lambda: RunFolder(parent.run_dir).status()["state"] == "killed")
    with tracking._tracking_lock(RunFolder(parent.run_dir)).acquire(timeout=10):  # it gives up at once
        assert "wandb" in str(tracking_of(parent.run_dir)["error"])


def test_the_process_ignores_what_is_meant_for_training(tmp_path: Path) -> None:
    parent = Parent(tmp_path, tmp_path / "run", {"name": "tensorboard"}, later=100)
    parent.wait_for("ready")
    wait_until(lambda: tracking_of(parent.run_dir)["offset"] > 0)
    child = int(Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children").read_text().split()[0])
    assert os.getsid(child) == child
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    assert parent.result()["warning"] is None


# ---- TensorBoard ----


def test_tensorboard_has_the_journal(tmp_path: Path) -> None:
    parent = Parent(tmp_path, tmp_path / "run", {"name": "tensorboard"})
    assert parent.result()["warning"] is None
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped,unused-ignore]
        EventAccumulator,
    )

    events = EventAccumulator(str(parent.run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    got = [(event.step, round(event.wall_time * 1000), event.value) for event in events.Scalars("train/return")]
    journal = [record for _, record in read_journal(parent.run_dir / "metrics.jsonl")]
    assert got == [(r["step"], r["time"], r["metrics"]["train/return"]) for r in journal]
    assert "torch" not in (parent.run_dir / "tracking.log").read_text()


def test_tensorboard_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    monkeypatch.delitem(sys.modules, "rlkit_core.builtin.tensorboard_tracker", raising=False)
    folder = made(tmp_path / "run", {"name": "tensorboard"})
    with pytest.raises(UsageError, match=r"pip install 'rlkit-core\[tensorboard\]'"):
        sync(folder.path)
    assert "not installed" in str(tracking_of(folder.path)["error"])


# ---- settings ----


def test_a_password_is_neither_taken_nor_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        MlflowConfig(uri="http://me:secret@127.0.0.1:1")
    folder = made(tmp_path / "run", {"name": "mlflow"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    with pytest.raises(StorageError) as raised:
        sync(folder.path)
    assert "secret" not in str(raised.value) + folder.tracking_path.read_text()
    assert "http://me:***@127.0.0.1:1" in str(raised.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="password is not stored"):
        sync(folder.path)


def test_which_store(tmp_path: Path) -> None:
    assert resolve_uri(None, {}, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(None, {"MLFLOW_TRACKING_URI": "http://h:1"}, tmp_path) == "http://h:1"
    assert resolve_uri("sqlite:///a/b.db", {"MLFLOW_TRACKING_URI": "http://h:1"}, tmp_path) == (
        f"sqlite:///{tmp_path}/a/b.db"
    )
    assert resolve_uri("sqlite:////x/b.db?timeout=1", {}, tmp_path) == "sqlite:////x/b.db?timeout=1"
    assert sqlite_path("sqlite:///:memory:") is None
    assert sqlite_path("postgresql://h/db") is None
    assert without_password("http://me:secret@h:1/x") == "http://me:***@h:1/x"
    assert without_password("http://h:1/a@b:c@d") == "http://h:1/a@b:c@d"


def test_how_a_run_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "runs" / "x"
    run_dir.mkdir(parents=True)
    assert MlflowConfig().where(run_dir, {}) == "mlflow ui"
    assert MlflowConfig(uri="sqlite:///mlflow.db").where(run_dir, {"MLFLOW_TRACKING_URI": "http://h"}) == "mlflow ui"
    other = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/my.db"
    assert MlflowConfig(uri="sqlite:///my.db").where(run_dir, {}) == other
    assert MlflowConfig().where(run_dir, {"MLFLOW_TRACKING_URI": "https://h/"}) == "https://h"
    write_json(run_dir / "tracking.json", {"ids": {"experiment_id": "3", "run_id": "abc"}})
    assert MlflowConfig(uri="http://h").where(run_dir, {}) == "http://h/#/experiments/3/runs/abc"
    old = tmp_path / "mlruns" / "0"
    old.mkdir(parents=True)
    (old / "meta.yaml").write_text("")
    assert MlflowConfig().where(run_dir, {}) == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert TensorboardConfig().where(run_dir, {}) == f"tensorboard --logdir {run_dir}/tensorboard"
    assert NoTrackerConfig().where(run_dir, {}) is None
    assert not NoTrackerConfig.active


def test_importing_tracking_is_cheap() -> None:
    code = (
        "import sys, rlkit_core.tracking, rlkit_core.builtin.trackers as t; t.MlflowConfig(); "
        "print([m for m in ('torch', 'mlflow', 'tensorboard', 'gymnasium') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ast.literal_eval(out.stdout) == []
