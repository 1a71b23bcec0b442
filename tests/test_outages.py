"""Tracking under faults: MLflow servers that die and lie, killed and resumed runs, many runs into one store.

Everything is real: `rlkit run` and `rlkit resume`, their tracking processes, the MLflow server. What MLflow shows is
read from its database, past the server.
"""

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
from typing import Any

import pytest
from mlflow_server import MlflowServer, Proxy
from test_tracking import client_of, history_of, journal_of, made, mlflow_run, tracking_of, wait_until

from rlkit_core.builtin.trackers import without_password
from rlkit_core.run_folder import Journal, RunFolder, read_json, write_json
from rlkit_core.tracking import Feed

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


def in_mlflow(store: str, run_dir: Path) -> Any:
    """The one MLflow run of a run; there must be no other, and its history must be the journal, each point once."""
    client = client_of(store)
    ours = read_json(run_dir / "provenance.json")["run_id"]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`rlkit.run_id` = '{ours}'")
    assert [run.info.run_id for run in runs] == [tracking_of(run_dir)["ids"]["run_id"]]
    assert history_of(client, runs[0].info.run_id) == journal_of(run_dir)
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


def survive(kind: str, moment: str, folder: Path, server: MlflowServer, proxy: Proxy, chance: random.Random) -> None:
    """A run with an outage of the server that begins before it, or in it, and lasts for a while, or to its end."""
    uri = server.uri if kind in ("killed", "stopped") else proxy.uri
    if moment == "start":
        begin_outage(kind, server, proxy)
    try:
        training = Training(folder, uri)
        training.wait_for_records(1)
        if moment != "start":
            training.wait_until_sent()
            time.sleep(chance.random())
            begin_outage(kind, server, proxy)
        training.wait_for_records(20)
        time.sleep(chance.uniform(0, 4))
        if moment != "end":
            end_outage(kind, server, proxy)
            training.wait_for_records(20)
        training.stop()
        code, err = training.end()
    finally:
        end_outage(kind, server, proxy)
    assert code == 0, err
    assert err.count("warning") <= 1, err
    assert "Traceback" not in err
    if moment == "end":
        assert f"warning: {'the record' if 'still being sent' in err else 'not everything'}" in err
        assert without_password(uri) in err
    training.synced()
    assert in_mlflow(server.store, training.run_dir).info.status == "FINISHED"


@pytest.mark.parametrize(("kind", "moment"), [("stopped", "middle"), ("lost", "start"), ("killed", "end")])
def test_an_outage_loses_and_doubles_nothing(
    kind: str, moment: str, server: MlflowServer, proxy: Proxy, tmp_path: Path
) -> None:
    survive(kind, moment, tmp_path, server, proxy, random.Random(1))


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_outages(kind: str, moment: str, seed: int, server: MlflowServer, proxy: Proxy, tmp_path: Path) -> None:
    survive(kind, moment, tmp_path, server, proxy, random.Random(f"{kind} {moment} {seed}"))


# ---- answers that are wrong or lost ----


def test_an_answer_that_was_lost_makes_no_second_run(server: MlflowServer, proxy: Proxy, tmp_path: Path) -> None:
    folder = made(tmp_path / "lost", {"name": "mlflow", "uri": proxy.uri})
    proxy.mode, proxy.only = "lost", "runs/create"
    feed = Feed(folder)
    with pytest.raises(Exception, match="runs/create"):
        feed.close("finished")
    proxy.mode = "good"
    feed.close("finished")
    assert in_mlflow(server.store, folder.path).info.status == "FINISHED"
