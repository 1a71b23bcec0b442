"""The MLflow tracker; runs in the tracking process."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import posixpath
import re
import sqlite3
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlkit_core.builtin.mlflow_group import close_group, open_group
from rlkit_core.builtin.trackers import MlflowConfig, resolve_uri, sqlite_path, without_password
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_folder import read_json
from rlkit_core.run_store import code_of
from rlkit_core.tracking import Record, TrackedGroup, TrackedRun, Tracker, numbers

# Before the import of mlflow. Without these, a call to a dead server takes 246 s, usage data is sent out, and
# `rlkit sync` is full of MLflow's own messages.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, event

# MLflow's limits, in characters and in items per call.
LONGEST_NAME = 250
LONGEST_PARAMETER = 6000
LONGEST_TAG = 5000
METRICS_PER_CALL = 1000
ITEMS_PER_CALL = 100
CALL_SIZE = 200_000
"""Characters of values per call: a request may have a million bytes, a character up to four (six as JSON escape)."""

PROBE_SECONDS = 3.0
LOCK_SECONDS = 30.0


def _saved_view() -> str:
    """A saved view of MLflow's own page, as it stores them in tags of an experiment.

    Runs of one group are one line of its table, and one line, with a band, of each chart; the charts that runs are
    compared by come first.
    """

    def chart(kind: str, metric: str, title: str, **more: Any) -> dict[str, Any]:
        about = {"type": kind, "uuid": f"rlkit {title}", "metricSectionId": "rlkit", "displayName": title}
        keys = {"metricKey": metric, "selectedMetricKeys": [metric], "runsCountToCompare": 20}
        return {**about, **keys, "deleted": False, "isGenerated": False, **more}

    line = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "yAxisKey": "metric"}
    line |= {"range": {}, "selectedXAxisMetricKey": "", "yAxisExpressions": [], "useGlobalXaxisKey": False}
    metric = "evaluation/return"
    state = {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "group"}]},
        "searchFilter": "tags.seed LIKE '%'",  # neither groups nor comparisons
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [{"uuid": "rlkit", "name": "rlkit", "display": True, "isReordered": True}],
        "isAccordionReordered": True,
        "compareRunCharts": [
            chart("LINE", metric, "Return against environment steps", xAxisKey="step", **line),
            chart("BAR", "final/return", "Return of the last policy"),
        ],
    }
    return json.dumps({"name": "rlkit: by group", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


VIEW_TAG = "mlflow.sharedViewState.rlkit"
"""Of an experiment; MLflow's page shows it with `?viewStateShareKey=rlkit`, and lists it under Views."""
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}


class MlflowTracker(Tracker):
    """Sends a run to MLflow: settings as parameters, metrics by environment step, tags, files, and the final status.

    Uses the client only: there is no active run and no other global state.
    """

    def __init__(self, config: MlflowConfig) -> None:
        self._config = config
        self._uri = ""
        self._run_id = ""
        self._experiment_id = ""
        self._ours = ""
        self._run: TrackedRun | None = None
        self._client: Any = None

    def start(self, run: TrackedRun) -> None:
        """Find or create store, experiment and run; `run.ids` keeps uri, experiment, experiment_id and run_id.

        Raises:
            UsageError: the store's address or experiment cannot be used.
            StorageError: a sqlite store cannot be written.
            TimeoutError: another process holds it locked.
            ConnectionError: a server does not answer.
        """
        self._uri = self._find_store(run)
        name = run.ids.get("experiment") or self._config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        name = name or f"rlkit/{run.environment or 'unknown'}"
        run.ids.update(uri=without_password(self._uri), experiment=name)
        self._run = run
        with self._connected() as folder:
            self._open(run, name, _artifacts(folder, name))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Path | None]:
        """With a client of the store; of a database, which nobody else creates meanwhile, it gives the folder."""
        self._probe()
        path = sqlite_path(self._uri)
        if path is None:
            self._client = MlflowClient(tracking_uri=self._uri)
            yield None
            return
        # Processes that create one database at the same time break it, hence the lock.
        with _creation_lock(path):
            _create_sqlite(path)
            _probe_sqlite(path)
            self._client = MlflowClient(tracking_uri=self._uri)
            yield path.parent

    def keep(self, uri: str, experiment: str, name: str, folder: Path, tags: Mapping[str, str]) -> tuple[str, str]:
        """Store a folder's files as a run of its own, which has ended; returns the ids of experiment and run.

        Raises:
            UsageError, StorageError, TimeoutError, ConnectionError: as `start`.
        """
        self._uri = uri
        with self._connected() as below:
            self._experiment_id = self._experiment(experiment, _artifacts(below, experiment))
        tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "rlkit", "mlflow.user": _user() or "", **tags}
        kept = {_name(key): value[:LONGEST_TAG] for key, value in tags.items() if value}
        self._run_id = self._client.create_run(self._experiment_id, tags=kept, run_name=name).info.run_id
        try:
            self._client.log_artifacts(self._run_id, str(folder))
        except BaseException:
            self._client.set_terminated(self._run_id, "FAILED")
            raise
        self._client.set_terminated(self._run_id, "FINISHED")
        return self._experiment_id, self._run_id

    def _find_store(self, run: TrackedRun) -> str:
        """The store that the run began with, else the one that is set."""
        uri = resolve_uri(self._config.uri, os.environ, run.cwd)
        known = run.ids.get("uri", uri)
        if known == without_password(uri):
            return uri
        if ":***@" in known:
            raise UsageError(f"the run is in {known}, whose password is not stored\nset MLFLOW_TRACKING_URI to it")
        return known

    def _open(self, run: TrackedRun, experiment: str, artifacts: str | None) -> None:
        experiment_id = self._experiment(experiment, artifacts)
        found = self._find_run(run, experiment_id)
        family = {}
        if run.group is not None:
            parent = open_group(self._client, run.group, experiment_id)
            family = {"mlflow.parentRunId": parent, "rlkit.parent": run.group.record.id}
        if found is None:
            start = run.provenance.get("started")
            if type(start) is not int or not 0 <= start < 2**63:
                start = int(run.folder.config_path.stat().st_mtime * 1000)
            self._end_predecessor(run)
            found = self._client.create_run(
                experiment_id, start_time=start, tags=_tags(run) | family, run_name=run.name
            )
        elif found.info.lifecycle_stage != "active":
            raise UsageError(
                f"MLflow run {found.info.run_id} was deleted in {run.ids['uri']}\n"
                f"restore it with: mlflow runs restore --run-id {found.info.run_id}"
            )
        self._run_id, self._experiment_id = found.info.run_id, found.info.experiment_id
        self._ours = str(run.provenance.get("run_id", ""))
        run.ids.update(experiment_id=self._experiment_id, run_id=self._run_id)
        if found.info.status != "RUNNING" and run.folder.status().get("state") == "running":
            self._client.update_run(self._run_id, status="RUNNING")
            # A run that goes on: what its record says of that.
            for key, value in _resumed(run).items():
                self._client.set_tag(self._run_id, key, value)
        # A setting that has been sent stays as it was, also where a run was given more steps: MLflow refuses another.
        sent = found.data.params
        parameters = [Param(key, value) for key, value in _parameters(run.config).items() if key not in sent]
        for chunk in _chunks(parameters):
            self._client.log_batch(self._run_id, params=chunk)

    def _end_predecessor(self, run: TrackedRun) -> None:
        """End the MLflow run that has the beginning of this one, if nobody could do so when it was killed."""
        before = self._get_run(run.ids.get("resumed_from"))
        if before is not None and before.info.status == "RUNNING" and before.info.lifecycle_stage == "active":
            self._client.set_terminated(before.info.run_id, STATUS["killed"])

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(
                    self._client.create_experiment(name, artifact_location=artifacts, tags={VIEW_TAG: _saved_view()})
                )
            except MlflowException:
                # Someone else may have created it meanwhile.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UsageError(
                f"MLflow experiment {name} was deleted\n"
                f"restore it with: mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _find_run(self, run: TrackedRun, experiment_id: str) -> Any:
        """The MLflow run of earlier tries, or None."""
        if (found := self._get_run(run.ids.get("run_id"))) is not None:
            return found
        # Created, but the process died before it stored the id.
        return next(iter(self._runs_of(str(run.provenance.get("run_id", "")), experiment_id)), None)

    def _get_run(self, known: str | None) -> Any:
        """An MLflow run by its id there, or None."""
        try:
            return None if known is None else self._client.get_run(known)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _runs_of(self, ours: str, experiment_id: str) -> list[Any]:
        """MLflow runs with that id of ours."""
        if not re.fullmatch(r"[\w-]+", ours):
            return []
        return list(self._client.search_runs([experiment_id], f"tags.`rlkit.run_id` = '{ours}'"))

    def log(self, records: list[Record]) -> None:
        """Send metrics with the journal's own times: the store drops what it has already."""
        self._probe()
        metrics = [
            Metric(_name(key), value, time, _step(key, record))
            for record in records
            for key, value, _, time in numbers([record])
        ]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def artifact(self, path: Path, name: str) -> None:
        """Store a file as an artifact under its own path."""
        self._probe()
        self._client.log_artifact(self._run_id, str(path), posixpath.dirname(name) or None)

    def finish(self, state: str, time: int) -> None:
        """End the MLflow run as FINISHED, FAILED or KILLED."""
        self._probe()
        for double in self._runs_of(self._ours, self._experiment_id):
            # A server that is slow, or whose answer is lost, creates a run as often as it is asked to.
            if double.info.run_id != self._run_id and double.info.status == "RUNNING" and not double.data.metrics:
                self._client.delete_run(double.info.run_id)
        if self._run is not None:
            tags = [RunTag(key, value) for key, value in _reached(self._run, state).items()]
            self._client.log_batch(self._run_id, tags=tags)
        self._client.set_terminated(self._run_id, STATUS.get(state, "FAILED"), time)

    def finish_group(self, group: TrackedGroup, state: str, time: int) -> None:
        """End the MLflow run that stands for the group in this run's experiment."""
        self._probe()
        close_group(self._client, group, self._experiment_id, STATUS.get(state, "FAILED"), time)

    def _probe(self) -> None:
        probe(self._uri)


def probe(uri: str) -> None:
    """Ask a server whether it is there: MLflow itself asks a dead or silent one much longer.

    Raises:
        ConnectionError: it is not, or answers with a server error.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health")
    shown = without_password(uri)
    try:
        with urllib.request.urlopen(address.geturl(), timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        # Any other answer, such as 401 or 404 from a gateway, is one: what it means is MLflow's business.
        if error.code >= 500:
            raise ConnectionError(f"{shown} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return
        if isinstance(error.reason, TimeoutError):
            raise ConnectionError(f"{shown} does not answer within {PROBE_SECONDS:.0f} s") from error
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise ConnectionError(f"{shown} cannot be reached: {reason}") from error
    except TimeoutError as error:
        raise ConnectionError(f"{shown} does not answer within {PROBE_SECONDS:.0f} s") from error
    except (OSError, ValueError) as error:
        raise ConnectionError(f"{shown} cannot be reached: {error}") from error


def _artifacts(folder: Path | None, experiment: str) -> str | None:
    """Where an experiment's files go: beside the database, where `mlflow ui` of that folder would put them too."""
    return None if folder is None else str(folder / "mlruns" / _name(experiment).replace("/", "_"))


@contextlib.contextmanager
def _creation_lock(path: Path) -> Iterator[None]:
    """Held while a database is opened, which creates it.

    Raises:
        StorageError: its folder does not exist or cannot be written.
        TimeoutError: another process holds the lock.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        # By ourselves first: filelock creates missing folders, and waits for a folder to become writable.
        os.close(os.open(lock.lock_file, os.O_RDWR | os.O_CREAT, 0o666))
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise TimeoutError(f"{path} has been locked by another process for {LOCK_SECONDS:.0f} s") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _create_sqlite(path: Path) -> None:
    """Create an MLflow database where there is none, under another name first.

    So a process that is killed leaves no half-made database behind, and the dozens of migrations need not each wait
    for the disk, which takes 1 s on an idle one and 5 s on a busy one.
    """
    if _holds_something(path):
        return
    for draft in path.parent.glob(f".{path.name}.*.new*"):
        draft.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    event.listen(Engine, "connect", _do_not_wait_for_disk)
    try:
        MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
    finally:
        event.remove(Engine, "connect", _do_not_wait_for_disk)
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    if _holds_something(path):  # someone without our lock, such as `mlflow ui`, was faster
        draft.unlink()
    else:
        os.replace(draft, path)


def _holds_something(path: Path) -> bool:
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def _do_not_wait_for_disk(connection: Any, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def _probe_sqlite(path: Path) -> None:
    """Make sure that a database can be written: MLflow tries for 102 s before it says why it cannot.

    Raises:
        StorageError: it cannot.
        TimeoutError: another process holds it locked.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise TimeoutError(f"{path} has been locked by another process for {LOCK_SECONDS:.0f} s") from error
        raise StorageError(f"cannot write {path}: {error}") from error


def _step(key: str, record: Record) -> int:
    """The environment step at which MLflow has a metric: for evaluations the nominal one.

    Updates overshoot it by other amounts for each seed, and MLflow takes the mean of a group at each step over the runs
    that have that very step. The nominal step itself keeps the one at which it was made.
    """
    nominal = f"{key.rpartition('/')[0]}/nominal_step"
    due = record["metrics"].get(nominal)
    step: int = record["step"]
    return int(due) if key != nominal and isinstance(due, (int, float)) and abs(due) < 2**53 else step


def _name(text: str) -> str:
    """A metric's or parameter's name in MLflow's characters, as a path that MLflow finds unambiguous."""
    text = re.sub(r"[^\w/.:\- ]", "_", text, flags=re.ASCII)
    parts = [re.sub(r"^\.+$", "_", part) for part in text.split("/") if part]
    return "/".join(parts)[:LONGEST_NAME].rstrip("/") or "_"


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    """All settings by dotted name."""
    flat: dict[str, str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[_name(prefix)] = text[:LONGEST_PARAMETER]

    add("", config)
    return flat


def _tags(run: TrackedRun) -> dict[str, str]:
    """What runs are found and grouped by."""
    origin = run.provenance
    tags: dict[str, Any] = {
        "algorithm": run.algorithm,
        "environment": run.environment,
        "seed": run.config.get("seed"),
        "group": run.config.get("group") or f"{run.algorithm}-{run.environment}",
        "preset": origin.get("preset"),
        "rlkit.run_id": origin.get("run_id"),
        "rlkit.run_dir": run.folder.path.absolute(),
        "rlkit.host": _dict(origin.get("machine")).get("host"),
        "rlkit.parent": origin.get("parent"),
        "rlkit.init_from": origin.get("init_from"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": origin.get("command") or "rlkit",
        "mlflow.user": _user(),
    }
    tags |= _resumed(run)
    for package, version in _dict(origin.get("versions")).items():
        tags[f"version.{package}"] = version
    for plugin in origin.get("plugins") or []:
        if isinstance(plugin, dict) and plugin.get("distribution"):
            tags[f"plugin.{plugin['distribution']}"] = plugin.get("version") or "?"
    for module, digest in code_of(origin).items():
        tags[f"code.{module}"] = digest
    git = _dict(origin.get("git"))
    if git.get("commit"):
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["git.dirty"] = json.dumps(bool(git.get("dirty")))
    return {_name(key): str(value)[:LONGEST_TAG] for key, value in tags.items() if value not in (None, "")}


def _resumed(run: TrackedRun) -> dict[str, str]:
    """Tags of a run that was resumed: whether exactly, and which MLflow run has its beginning if this one has not."""
    tags = {}
    if "resume_exact" in run.provenance:
        tags["resume_exact"] = json.dumps(bool(run.provenance["resume_exact"]))
    if "resumed_from" in run.ids:
        tags["resumed_from"] = run.ids["resumed_from"]
    return tags


def _reached(run: TrackedRun, state: str) -> dict[str, str]:
    """Tags of a run that has ended: what MLflow's own status does not say, as its record has it now."""
    try:
        result, config = _dict(run.folder.status().get("result")), _dict(read_json(run.folder.config_path))
    except StorageError:
        result, config = {}, {}
    # Another budget than it began with is no parameter: MLflow refuses to change one.
    tags = {"state": state, "budget": config.get("total_steps"), "kind": "set-aside" if run.is_set_aside else None}
    if state in ("finished", "interrupted"):
        tags |= {"steps": result.get("steps"), "reached": result.get("reached")}
    return {f"rlkit.{key}": str(value)[:LONGEST_TAG] for key, value in tags.items() if value not in (None, "")}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def _chunks(parameters: Iterable[Param]) -> Iterator[list[Param]]:
    """Parameters in calls that MLflow takes."""
    chunk: list[Param] = []
    size = 0
    for parameter in parameters:
        size += len(parameter.key) + len(parameter.value)
        if chunk and (len(chunk) == ITEMS_PER_CALL or size > CALL_SIZE):
            yield chunk
            chunk, size = [], len(parameter.key) + len(parameter.value)
        chunk.append(parameter)
    if chunk:
        yield chunk
