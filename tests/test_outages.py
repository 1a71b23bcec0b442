"""Tracking under faults: MLflow servers that die and lie, killed and resumed runs, many runs into one store.

Everything is real: `rlkit run` and `rlkit resume`, their tracking processes, the MLflow server. What MLflow shows is
read from its database, past the server.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import MlflowServer, Proxy
from test_tracking import client_of, history_of, journal_of, made, tracking_of, wait_until

from rlkit_core import tracking
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_folder import Journal, RunFolder, read_json, write_json
from rlkit_core.tracking import Feed, TrackingProcess, sync

RLKIT = str(Path(sys.executable).with_name("rlkit"))

PACE = """
import os, time
from rlkit_core import hookimpl

@hookimpl
def rlkit_iteration_finished(step, metrics):
    time.sleep(0.02)
    return os.path.exists(os.environ["RLKIT_TEST_STOP"])
"""


class Training:
    """A real run of `rlkit`, which trains until it is told to stop; a record of the journal for every few updates."""

    def __init__(self, folder: Path, uri: str | None, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "pace.py").write_text(PACE)
        self.folder = folder
        self.run_dir = folder / "run"
        self._stop = folder / "stop"
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self._environ |= {"RLKIT_TEST_STOP": str(self._stop)}
        if uri is not None:
            self._environ["MLFLOW_TRACKING_URI"] = uri
        options = ["--env", "CartPole-v1", "--total-steps", "1000000", "--stop-at", "never", "--hooks", "pace"]
        options += ["--collector.num-envs", "2", "--collector.num-steps", "4", "--eval-max-steps", "5"]
        options += ["--log-every", "16", "--run-dir", "run", "--progress", "none", "--import", "pace"]
        self.process = self._start("run", "a2c", *options, *arguments)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [RLKIT, *arguments],
            cwd=self.folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def resume(self, *arguments: str) -> None:
        """`rlkit resume`."""
        self.process = self._start("resume", "run", "--import", "pace", "--progress", "none", *arguments)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of `rlkit`, in the same place."""
        return subprocess.run(
            [RLKIT, *arguments], cwd=self.folder, env=self._environ, capture_output=True, text=True, timeout=120
        )

    @property
    def records(self) -> int:
        """How many lines the journal has."""
        path = self.run_dir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    @property
    def state(self) -> str | None:
        """What `status.json` says."""
        return RunFolder(self.run_dir).status().get("state")

    def wait_for_records(self, number: int) -> None:
        """Wait until the journal has so many more."""
        wanted = self.records + number
        wait_until(lambda: self.records >= wanted or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.process.communicate()

    def wait_until_sent(self) -> None:
        """Wait until some of it has reached the store."""
        wait_until(lambda: tracking_of(self.run_dir)["offset"] > 0, 60)

    def stop(self) -> None:
        """Let the present update be the last one."""
        self._stop.touch()

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit code and stderr."""
        _, err = self.process.communicate(timeout=120)
        return self.process.returncode, err

    def kill(self) -> None:
        """SIGKILL, and nothing more."""
        self.process.kill()
        self.process.communicate()

    def synced(self, seconds: float = 120.0) -> None:
        """`rlkit sync`, again as long as the old tracking process or the server's recovery are in its way."""
        deadline = time.monotonic() + seconds
        while (done := self.call("sync", "run")).returncode:
            assert done.returncode in (6, 7), done.stderr
            assert 1 <= len(done.stderr.splitlines()) <= 3, done.stderr
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.5)


@functools.cache
def client(store: str) -> Any:
    """A client that reads the database itself, past the server."""
    return client_of(store)


def in_mlflow(store: str, run_dir: Path) -> Any:
    """The one MLflow run of a run; there must be no other, and its history must be the journal, each point once."""
    ours = read_json(run_dir / "provenance.json")["run_id"]
    experiments = [experiment.experiment_id for experiment in client(store).search_experiments()]
    runs = client(store).search_runs(experiments, f"tags.`rlkit.run_id` = '{ours}'")
    assert [run.info.run_id for run in runs] == [tracking_of(run_dir)["ids"]["run_id"]]
    assert history_of(client(store), runs[0].info.run_id) == journal_of(run_dir)
    return runs[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for all tests of this file: it takes 6 s to start. Whoever kills it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


# ---- outages of the server ----

KINDS = ("killed", "stopped", "errors", "late", "lost")
MOMENTS = ("start", "middle", "end")


def begin_outage(kind: str, server: MlflowServer, proxy: Proxy) -> None:
    if kind == "killed":
        server.kill()
    elif kind == "stopped":
        server.stop()
    else:
        proxy.mode = kind


def end_outage(kind: str, server: MlflowServer, proxy: Proxy) -> None:
    if kind == "killed":
        server.start()
    elif kind == "stopped":
        server.go_on()
    else:
        proxy.mode = "good"


def survive(
    kinds: Sequence[str],
    moment: str,
    folder: Path,
    server: MlflowServer,
    proxy: Proxy,
    chance: random.Random | None = None,
) -> None:
    """A run with outages of the server, of which the last one lasts to its end, if that is the moment.

    Args:
        moment: start: the first begins before the run; middle: all are over before the run is.
        chance: when exactly they begin, and for how long; None: as short as can be.
    """
    uri = server.uri if {"killed", "stopped"} & set(kinds) else proxy.uri
    records = 20 if chance else 3
    try:
        if moment == "start":
            begin_outage(kinds[0], server, proxy)
        training = Training(folder, uri)
        training.wait_for_records(1)
        for kind in kinds:
            if moment != "start":
                training.wait_until_sent()
                time.sleep(chance.random() if chance else 0.0)
                begin_outage(kind, server, proxy)
            training.wait_for_records(records)
            time.sleep(chance.uniform(0, 4) if chance else 0.0)
            if moment != "end":
                end_outage(kind, server, proxy)
                training.wait_for_records(records)
        training.stop()
        code, err = training.end()
    finally:
        for kind in reversed(kinds):
            end_outage(kind, server, proxy)
    assert code == 0, err
    assert err.count("warning") <= 1, err
    assert "Traceback" not in err
    if moment == "end":
        assert f"warning: {'the record' if 'still being sent' in err else 'not everything'}" in err
        assert uri in err
    training.synced()
    assert in_mlflow(server.store, training.run_dir).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("kinds", "moment"),
    [
        pytest.param(["errors"], "start", id="errors", marks=pytest.mark.thorough),
        pytest.param(["stopped", "killed"], "middle", id="stopped and killed"),
    ],
)
def test_an_outage_loses_and_doubles_nothing(
    kinds: list[str], moment: str, server: MlflowServer, proxy: Proxy, tmp_path: Path
) -> None:
    survive(kinds, moment, tmp_path, server, proxy)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_outages(kind: str, moment: str, seed: int, server: MlflowServer, proxy: Proxy, tmp_path: Path) -> None:
    survive([kind], moment, tmp_path, server, proxy, random.Random(f"{kind} {moment} {seed}"))


# ---- answers that are wrong or lost ----


def test_an_answer_that_was_lost_makes_no_second_run(
    server: MlflowServer, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # MLflow's own tries, at once
    folder = made(tmp_path / "lost", {"name": "mlflow", "uri": proxy.uri})
    proxy.mode, proxy.only = "lost", "runs/create"
    feed = Feed(folder)
    with pytest.raises(Exception, match="runs/create"):
        feed.close("finished")
    proxy.mode = "good"
    feed.close("finished")
    assert in_mlflow(server.store, folder.path).info.status == "FINISHED"


def test_a_request_that_was_late_makes_no_second_run(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the server did only after it had been asked again, as a stopped one does when it is continued."""
    folder = made(tmp_path / "late", {"name": "mlflow", "uri": server.uri}, records=3)
    feed = Feed(folder)
    feed.send()
    client(server.store).create_run(tracking_of(folder.path)["ids"]["experiment_id"], tags={"rlkit.run_id": "late"})
    feed.close("finished")
    assert in_mlflow(server.store, folder.path).info.status == "FINISHED"


def test_a_page_of_html_is_no_answer(proxy: Proxy, server: MlflowServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "html", {"name": "mlflow", "uri": proxy.uri})
    feed = Feed(folder)
    # What each call meets: a page for everything, as of a gateway that wants a login; or for one request only.
    for only in (None, "runs/create", "runs/log-batch", "runs/update"):
        proxy.mode, proxy.only = "html", only
        with pytest.raises(Exception) as raised:
            feed.close("finished")
        assert not isinstance(raised.value, UsageError), "it is tried again"
        assert "\n" not in tracking_of(folder.path)["error"]
        with pytest.raises(StorageError, match="nothing is lost") as told:
            sync(folder.path)
        assert len(str(told.value).splitlines()) == 2
        assert proxy.uri in str(told.value)
    proxy.mode = "good"
    assert "sent" in sync(folder.path) or "all records" in sync(folder.path)
    assert in_mlflow(server.store, folder.path).info.status == "FINISHED"


def test_a_run_that_is_gone_meanwhile_is_sent_anew(server: MlflowServer, tmp_path: Path) -> None:
    """The server's database was put back to an older one, while the tracking process was at work."""
    folder = made(tmp_path / "gone", {"name": "mlflow", "uri": server.uri}, state="running", records=30)
    feed = Feed(folder)
    assert feed.send() == 30
    lost = tracking_of(folder.path)["ids"]["run_id"]
    with contextlib.closing(sqlite3.connect(server.folder / "server.db")) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [lost])
        database.commit()
    journal = Journal(folder.journal_path)
    journal.append(1000, {"loss": 1.0})
    journal.close()
    folder.write_status("finished")
    with pytest.raises(Exception, match=lost):
        feed.send()
    assert feed.close("finished") == 31
    run = in_mlflow(server.store, folder.path)
    assert run.info.run_id != lost
    assert run.info.status == "FINISHED"


def test_torn_lines_do_not_stop_the_tracking_process(server: MlflowServer, tmp_path: Path) -> None:
    """What a full disk or a kill leaves in the journal, while it is followed."""
    folder = made(tmp_path / "torn", {"name": "mlflow", "uri": server.uri}, state="running", records=0)
    tracker = TrackingProcess.start(folder.path)
    whole = b'{"step":%d,"time":%d,"metrics":{"loss":0.5}}\n'
    pieces = [
        whole % (1, 1),
        (whole % (2, 2))[:20],
        b"\n" + whole % (2, 2),
        b"\0" * 4096 + b"\n",
        b"\xff\xfe{\n[]\n7\n\n",
        b"[" * 100_000 + b"\n",
        (whole % (3, 3))[:25],
        (whole % (3, 3))[25:] + b'{"step":4,"time":4,"metr',
    ]
    with open(folder.journal_path, "ab", buffering=0) as journal:
        for piece in pieces:
            before = tracking_of(folder.path)["offset"]
            journal.write(piece)
            if piece.endswith(whole[-10:]):
                wait_until(lambda before=before: tracking_of(folder.path)["offset"] > before)
            else:
                time.sleep(0.3)  # a look of the tracking process in between
    assert tracking_of(folder.path)["error"] is None
    folder.write_status("finished")
    assert tracker.finish(30.0) is None
    assert [step for _, step, _, _ in journal_of(folder.path)] == [1, 2, 3]
    assert in_mlflow(server.store, folder.path).info.status == "FINISHED"


# ---- many runs into one store ----


@pytest.mark.long
def test_eight_runs_into_one_new_store(tmp_path: Path) -> None:
    """Each in a process of its own, all at the same moment, into a database that does not exist."""
    runs, records = 8, 10_000
    folders = [made(tmp_path / str(i), {"name": "mlflow"}, records=records) for i in range(runs)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "rlkit_core.tracking", str(folder.path)], stdin=subprocess.DEVNULL
        )
        for folder in folders
    ]
    assert [process.wait(600) for process in processes] == [0] * runs
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM metrics").fetchone() == (runs * records,)
    for folder in folders:
        assert in_mlflow(store, folder.path).info.status == "FINISHED"


# ---- runs that are killed, and go on ----


def mlflow_status(store: str, run_dir: Path) -> str | None:
    """What MLflow shows the run as; None where it has no run yet."""
    known = tracking_of(run_dir)["ids"].get("run_id")
    return None if known is None else str(client(store).get_run(known).info.status)


def tracking_process_of(training: Training) -> int:
    """The pid of its tracking process."""
    pid = training.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def change_a_setting(run_dir: Path) -> None:
    """Let the run be another one than it was: it goes on only with --allow-drift."""
    config = read_json(run_dir / "config.json")
    config["algorithm"]["learning_rate"] = 0.001
    write_json(run_dir / "config.json", config)


@pytest.mark.thorough
def test_a_killed_run_is_shown_killed_and_goes_on_in_its_mlflow_run(server: MlflowServer, tmp_path: Path) -> None:
    training = Training(tmp_path, server.uri, "--checkpoint-every", "160")
    training.wait_until_sent()
    training.wait_for_records(15)
    training.kill()
    wait_until(lambda: mlflow_status(server.store, training.run_dir) == "KILLED", 60)
    assert training.state == "killed"
    before = in_mlflow(server.store, training.run_dir)
    training.resume()
    wait_until(lambda: mlflow_status(server.store, training.run_dir) == "RUNNING", 60)
    training.wait_for_records(10)
    training.stop()
    code, err = training.end()
    assert (code, "warning" in err) == (0, False), err
    after = in_mlflow(server.store, training.run_dir)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert after.data.tags["resume_exact"] == "true"
    assert "resumed_from" not in after.data.tags


@pytest.mark.long
def test_twenty_kills_at_any_moment_are_told(server: MlflowServer, tmp_path: Path) -> None:
    """Also at moments when neither training nor the tracking process is ready yet."""
    chance = random.Random(2)
    waited = []
    for index in range(20):
        training = Training(tmp_path / str(index), server.uri)
        # Before that there is nobody to tell: `rlkit sync` finds such a run by itself.
        wait_until(lambda training=training: (training.run_dir / "tracking.log").exists(), 60)
        time.sleep(5 * chance.random())
        training.kill()
        began = time.monotonic()
        wait_until(lambda training=training: tracking_of(training.run_dir)["state"] == "ok", 60)
        waited.append(time.monotonic() - began)
        assert training.state == "killed"
        assert in_mlflow(server.store, training.run_dir).info.status == "KILLED"
    print(f"told after {sorted(waited)[10]:.1f} s, at most {max(waited):.1f} s")


@pytest.mark.thorough
def test_the_old_tracking_process_leaves_a_resumed_run_alone(server: MlflowServer, tmp_path: Path) -> None:
    training = Training(tmp_path, server.uri, "--checkpoint-every", "160")
    training.wait_until_sent()
    training.wait_for_records(15)
    tracker = tracking_process_of(training)
    os.kill(tracker, signal.SIGSTOP)
    training.kill()
    training.resume()
    training.wait_for_records(1)
    os.kill(tracker, signal.SIGCONT)
    # It gives way, and what it had not sent is sent by the new one.
    sent = tracking_of(training.run_dir)["offset"]
    wait_until(lambda: tracking_of(training.run_dir)["offset"] > sent)
    assert training.state == "running"
    assert mlflow_status(server.store, training.run_dir) == "RUNNING"
    training.stop()
    code, err = training.end()
    assert (code, "warning" in err) == (0, False), err
    assert in_mlflow(server.store, training.run_dir).info.status == "FINISHED"


@pytest.mark.thorough
def test_a_run_that_goes_on_otherwise_gets_an_mlflow_run_of_its_own(
    server: MlflowServer, proxy: Proxy, tmp_path: Path
) -> None:
    """The server is away when it is killed: the old tracking process, which tries for a minute, is not waited for."""
    training = Training(tmp_path, proxy.uri, "--checkpoint-every", "160")
    training.wait_until_sent()
    training.wait_for_records(15)
    proxy.mode = "errors"
    old = tracking_of(training.run_dir)["ids"]["run_id"]
    training.kill()
    wait_until(lambda: training.state == "killed")
    change_a_setting(training.run_dir)
    training.resume("--allow-drift")
    training.wait_for_records(1)
    proxy.mode = "good"
    training.stop()
    code, err = training.end()
    assert code == 0, err
    training.synced()
    new = in_mlflow(server.store, training.run_dir)
    assert new.info.run_id != old
    assert new.info.status == "FINISHED"
    assert new.data.tags["resumed_from"] == old
    assert new.data.tags["resume_exact"] == "false"
    # Nobody could say so when it was.
    assert client(server.store).get_run(old).info.status == "KILLED"


def test_a_resume_that_is_refused_leaves_the_killed_run_to_its_old_tracking_process(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", {"name": "none"}, state="running")
    taken = threading.Event()

    def refused() -> None:
        other = RunFolder(folder.path)
        other.take()
        taken.set()
        time.sleep(0.5)
        other.release()

    resuming = threading.Thread(target=refused)
    resuming.start()
    assert taken.wait(10)
    # This process is not its own parent: its parent is gone.
    assert tracking._final_state(folder, tracking._Parent(0, os.getpid())) == "killed"
    resuming.join()
    assert folder.status()["state"] == "killed"
