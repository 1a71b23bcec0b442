"""Runs read back from MLflow: a database directly, which takes a tenth of the time, any other store by its client.

mlflow is imported only where its client is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from rlkit_core.builtin.trackers import MlflowConfig, sqlite_path, without_password
from rlkit_core.errors import RlkitError, StorageError, UsageError
from rlkit_core.run_folder import RunFolder, parse_json, read_json, write_json
from rlkit_core.run_store import (
    Curve,
    RunStore,
    StoredGroup,
    StoredRun,
    chosen,
    curve,
    default_group,
    final_metrics,
    nominal_step_of,
    planned_of,
    the_one,
)

COMPARISONS = "rlkit/comparisons"
"""MLflow experiment of comparisons whose runs lie in several."""
STATES = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
PER_PAGE = 1000
THREADS = 8
"""Requests to a server at the same time."""
TABLES = {
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
    "runs": {"run_uuid", "name", "status", "start_time", "lifecycle_stage", "experiment_id", "artifact_uri"},
    "tags": {"run_uuid", "key", "value"},
    "params": {"run_uuid", "key", "value"},
    "latest_metrics": {"run_uuid", "key", "value", "step", "is_nan"},
    "metrics": {"run_uuid", "key", "value", "step", "timestamp", "is_nan"},
}
"""What a database has to have to be read directly."""
FILES = ("config.json", "provenance.json", "error.json", "policy/last/policy.json", "policy/last/policy.safetensors")
"""Artifacts of a run that it is made again from, and compared by."""
STILL_SENDING = 60.0
"""Seconds after its end in which a run may still be being sent."""


@dataclass
class _Row:
    """A run as MLflow has it.

    Attributes:
        final: its metrics `final/…`, the latest of each.
        last_step: largest step of its metrics, if it is known.
    """

    id: str
    name: str
    status: str
    started: int | None
    experiment_id: str
    experiment: str
    artifacts: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    final: Mapping[str, float] = field(default_factory=dict)
    last_step: int | None = None


_Points = dict[str, list[tuple[int, int, float]]]
"""Of each run, a metric's points as `(step, time in ms, value)`."""


class _Unexpected(Exception):
    """Something that only MLflow's client can read."""


_T = TypeVar("_T")


class MlflowStore(RunStore):
    """Runs in an MLflow store, and what else is in it.

    Runs that were deleted are left out, and beginnings of runs that went on as other ones, inexactly.
    Besides names of groups and runs, a selection takes experiments and MLflow's own ids of runs.

    Args:
        uri: address of the store, the path of a database absolute.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.shown = without_password(uri)
        self._experiments: dict[str, str] = {}  # names by id, of the runs that were read last

    def runs(
        self, selection: Sequence[str] = (), *, where: str | None = None, curves: Sequence[str] = ()
    ) -> list[StoredRun]:
        """See `RunStore`."""
        return self._read(lambda reader: self._runs(reader, selection, where, curves))

    def _runs(
        self, reader: _Reader, selection: Sequence[str], where: str | None, curves: Sequence[str]
    ) -> list[StoredRun]:
        rows = {row.id: row for row in reader.rows()}
        resumed = {row.tags.get("resumed_from") for row in rows.values()}
        own = [row for row in rows.values() if "rlkit.kind" not in row.tags and row.id not in resumed]
        found, missing = chosen(
            map(_stored_run, own), selection, where, called=lambda run: (rows[run.place].experiment,)
        )
        if missing:
            raise UsageError(
                f"there is no run, group or experiment {missing[0]} in {self.shown}\n"
                "`rlkit runs --store` lists what there is"
            )
        self._experiments = {rows[run.place].experiment_id: rows[run.place].experiment for run in found}
        return _with_curves(found, curves, reader) if curves else found

    def groups(self) -> list[StoredGroup]:
        """See `RunStore`; a group has a run in each of its experiments."""
        return self._read(self._groups)

    def _groups(self, reader: _Reader) -> list[StoredGroup]:
        found: dict[str, StoredGroup] = {}
        for row in reader.rows(kind="group"):
            group = _stored_group(row, reader)
            if len(group.planned) >= len(found.get(group.parent, group).planned):  # a plan only grows
                found[group.parent] = group
        return list(found.values())

    def fetch(self, run: str, folder: Path) -> Path:
        """See `RunStore`: the run's artifacts, and its metrics as a journal."""
        stored = the_one(self.runs([run]), run)
        with self._errors("read"), _Client(self.uri) as client:
            for name in FILES:
                client.download(stored.place, name, folder)
            lines = [json.dumps(record) + "\n" for record in client.records(stored.place)]
        if not (folder / "config.json").is_file():
            raise StorageError(f"{self.shown} does not have the settings of {run}: its artifact config.json is missing")
        (folder / "metrics.jsonl").write_text("".join(lines))
        ended = stored.state in ("finished", "interrupted")
        reached = {"steps": stored.steps, "reached": stored.reached} if ended else None
        write_json(folder / "status.json", {"state": stored.state, "result": reached})
        return folder

    def keep(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        """Store the files of a folder as an MLflow run, beside the runs that were read last; see `RunStore`."""
        from rlkit_core.builtin.mlflow_tracker import MlflowTracker

        experiment = next(iter(self._experiments.values())) if len(self._experiments) == 1 else COMPARISONS
        with self._errors("write to"):
            experiment_id, run_id = MlflowTracker(MlflowConfig()).keep(self.uri, experiment, name, folder, tags)
        page = f"/#/experiments/{experiment_id}/runs/{run_id}"
        if self.uri.startswith(("http://", "https://")):
            return self.shown.rstrip("/") + page
        return f"rlkit ui, then http://127.0.0.1:5000{page}"

    def _read(self, action: Callable[[_Reader], _T]) -> _T:
        """Do something with the fastest reader that can."""
        path = sqlite_path(self.uri)
        if path is not None and not (path.exists() and path.stat().st_size):  # MLflow would make one
            raise UsageError(
                f"there is no store {self.shown}\n"
                "`rlkit run` makes it; name another one with --store, or set MLFLOW_TRACKING_URI"
            )
        with self._errors("read"):
            if path is not None:
                # One of another version of MLflow is left to its client, which knows all that there were.
                with contextlib.suppress(_Unexpected), _open(path) as connection:
                    return action(_Database(connection))
            with _Client(self.uri) as client:
                return action(client)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except RlkitError:
            raise
        except sqlite3.Error as error:
            raise StorageError(f"cannot {what} {self.shown}: {error}") from error
        except Exception as error:
            # MLflow's own, and those of what it talks to a server with.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StorageError(f"cannot {what} {self.shown}: {reason}") from error


class _Reader:
    """A way to read a store."""

    def rows(self, kind: str | None = None) -> list[_Row]:
        """All runs that were not deleted, or only those with that tag `rlkit.kind`, with their tags."""
        raise NotImplementedError

    def points(self, runs: Sequence[str], metric: str) -> _Points:
        """A metric of some runs."""
        raise NotImplementedError

    def artifact(self, row: _Row, name: str) -> Any:
        """A JSON file among a run's artifacts."""
        raise NotImplementedError


# ---- a database ----


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, and sees one state of the database."""
    connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN")
        for table, columns in TABLES.items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            if not columns <= there:
                raise _Unexpected
        yield connection


class _Database(_Reader):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, kind: str | None = None) -> list[_Row]:
        ask = self._connection.execute
        # What is no text is no UTF-8: a name with a sign or two that cannot be read is better than no list.
        self._connection.text_factory = lambda content: content.decode(errors="replace")
        rows = {
            id: _Row(id, name or "", status or "", _whole(start), str(experiment_id), experiment, artifacts or "")
            for id, name, status, start, experiment_id, experiment, artifacts in ask(
                "SELECT run_uuid, runs.name, status, start_time, experiment_id, experiments.name, artifact_uri "
                "FROM runs JOIN experiments USING (experiment_id) "
                "WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'"
            )
        }
        if kind is not None:
            own = {id for (id,) in ask("SELECT run_uuid FROM tags WHERE key = 'rlkit.kind' AND value = ?", (kind,))}
            rows = {id: row for id, row in rows.items() if id in own}
            for id, row in rows.items():
                tags = ask("SELECT key, value FROM tags WHERE run_uuid = ?", (id,))
                row.tags = {key: value for key, value in tags if isinstance(value, str)}
            return list(rows.values())
        for table in ("tags", "params"):
            tables: dict[str, dict[str, str]] = {id: {} for id in rows}
            for id, key, value in ask(f"SELECT run_uuid, key, value FROM {table}"):
                if id in tables and isinstance(value, str):
                    tables[id][key] = value
            for id, row in rows.items():
                setattr(row, table, tables[id])
        final: dict[str, dict[str, float]] = {id: {} for id in rows}
        for id, key, value, is_nan in ask(
            "SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE key >= 'final/' AND key < 'final0'"
        ):
            if id in final:
                final[id][key] = float("nan") if is_nan else value
        for id, step in ask("SELECT run_uuid, max(step) FROM latest_metrics GROUP BY run_uuid"):
            if id in rows:
                rows[id].last_step = _whole(step)
        for id, row in rows.items():
            row.final = final[id]
            row.name = row.name or row.tags.get("mlflow.runName", "")
        return list(rows.values())

    def points(self, runs: Sequence[str], metric: str) -> _Points:
        found: _Points = {run: [] for run in runs}
        self._connection.text_factory = str  # nothing but ids that we name: that saves a tenth
        for begin in range(0, len(runs), 500):  # sqlite takes so many arguments
            some = runs[begin : begin + 500]
            for id, step, when, value, is_nan in self._connection.execute(
                "SELECT run_uuid, step, timestamp, value, is_nan FROM metrics "
                f"WHERE key = ? AND run_uuid IN ({','.join('?' * len(some))})",
                (metric, *some),
            ):
                if type(step) is int and type(when) is int and isinstance(value, (int, float)):
                    found[id].append((step, when, float("nan") if is_nan else float(value)))
        return found

    def artifact(self, row: _Row, name: str) -> Any:
        parts = urllib.parse.urlsplit(row.artifacts)
        if parts.scheme not in ("", "file"):
            raise _Unexpected
        return read_json(Path(urllib.parse.unquote(parts.path) if parts.scheme else row.artifacts) / name)


# ---- a server ----


class _Client(_Reader):
    def __init__(self, uri: str) -> None:
        # First, because it sets what MLflow reads when it is imported.
        from rlkit_core.builtin.mlflow_tracker import probe  # isort: skip
        from mlflow.tracking import MlflowClient

        probe(uri)
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rows(self, kind: str | None = None) -> list[_Row]:
        experiments = {one.experiment_id: one.name for one in _pages(self._client.search_experiments)}
        ids = list(experiments)

        def search(**page: Any) -> Any:
            return self._client.search_runs(ids, "" if kind is None else f"tags.`rlkit.kind` = '{kind}'", **page)

        return [
            _Row(
                run.info.run_id,
                run.info.run_name or "",
                run.info.status,
                run.info.start_time,
                run.info.experiment_id,
                experiments[run.info.experiment_id],
                run.info.artifact_uri,
                run.data.tags,
                run.data.params,
                {key: value for key, value in run.data.metrics.items() if key.startswith("final/")},
            )
            for run in (_pages(search) if ids else ())
        ]

    def points(self, runs: Sequence[str], metric: str) -> _Points:
        return dict(zip(runs, self._pool.map(lambda run: self._points(run, metric), runs), strict=True))

    def _points(self, run: str, metric: str) -> list[tuple[int, int, float]]:
        return [(one.step, one.timestamp, one.value) for one in self._client.get_metric_history(run, metric)]

    def records(self, run: str) -> list[dict[str, Any]]:
        """All metrics of a run as records of a journal: those of one step and one time in one."""
        names = sorted(self._client.get_run(run).data.metrics)
        points = dict(zip(names, self._pool.map(lambda name: self._points(run, name), names), strict=True))
        # Evaluations are stored at their nominal steps, which are metrics at the steps at which they were made.
        made = {
            (name, when, due): step
            for name, of_metric in points.items()
            if name.endswith("/nominal_step")
            for step, when, due in of_metric
        }
        found: dict[tuple[int, int], dict[str, float]] = {}
        for name, of_metric in points.items():
            for step, when, value in of_metric:
                if not name.endswith("/nominal_step"):
                    step = made.get((nominal_step_of(name), when, step), step)
                found.setdefault((step, when), {})[name] = value
        return [{"step": step, "time": when, "metrics": values} for (step, when), values in sorted(found.items())]

    def download(self, run: str, name: str, folder: Path) -> None:
        """Copy an artifact into a folder, unless there is none of that name."""
        above = name.rpartition("/")[0]
        if any(one.path == name for one in self._client.list_artifacts(run, above or None)):
            self._client.download_artifacts(run, name, str(folder))

    def artifact(self, row: _Row, name: str) -> Any:
        with TemporaryDirectory() as folder:
            return read_json(Path(self._client.download_artifacts(row.id, name, folder)))


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    """Everything that a search gives, page by page."""
    token = None
    while True:
        page = search(max_results=PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


# ---- what they tell ----


def _stored_run(row: _Row) -> StoredRun:
    tags, ours = row.tags, "rlkit.run_id" in row.tags
    settings = {name: _value(text) for name, text in row.params.items() if not name.startswith("requires.")}
    algorithm = tags.get("algorithm") or _text(settings.get("algorithm.name"))
    environment = tags.get("environment") or _text(settings.get("env.id"))
    state = _state(row)
    budget = _number(tags.get("rlkit.budget")) or _whole(settings.get("total_steps"))
    if budget is not None and ours:
        settings["total_steps"] = budget
    steps = _number(tags.get("rlkit.steps")) if state != "running" else None
    return StoredRun(
        place=row.id,
        run_id=tags.get("rlkit.run_id") or row.id,
        name=row.name,
        state=state,
        algorithm=algorithm,
        environment=environment,
        seed=_number(tags.get("seed")),
        group=tags.get("group") or default_group(algorithm, environment),
        parent=tags.get("rlkit.parent"),
        init_from=tags.get("rlkit.init_from"),
        settings=settings,
        versions={key.removeprefix("version."): value for key, value in tags.items() if key.startswith("version.")},
        code={key.removeprefix("code."): value for key, value in tags.items() if key.startswith("code.")},
        dirty={"true": True, "false": False}.get(tags.get("git.dirty", "")),
        started=row.started,
        steps=row.last_step if steps is None else steps,
        budget=budget,
        reached=tags.get("rlkit.reached"),
        final=final_metrics(row.final) if state == "finished" else {},
    )


def _state(row: _Row) -> str:
    """How a run stands: in more words than MLflow has, where the run has said so."""
    state = STATES.get(row.status, "damaged")
    if state != "running":
        said = row.tags.get("rlkit.state")
        return "interrupted" if state == "killed" and said == "interrupted" else state
    return "lost" if "rlkit.run_id" in row.tags and _is_lost(row.tags) else state


def _is_lost(tags: Mapping[str, str]) -> bool:
    """Whether a run that MLflow believes to be running is not, as far as that can be seen from this machine."""
    path = Path(tags.get("rlkit.run_dir", ""))
    if tags.get("rlkit.host", socket.gethostname()) != socket.gethostname():
        return False
    try:
        about = read_json(path / "provenance.json")
        if not isinstance(about, dict) or about.get("run_id") != tags["rlkit.run_id"]:
            raise StorageError("another run's folder")
        folder = RunFolder(path)
        if folder.status().get("state", "running") == "running":
            return folder.is_orphaned() or folder.is_abandoned()
        return time.time() - os.path.getmtime(folder.status_path) > STILL_SENDING
    except (StorageError, OSError):
        # Of runs stored before hosts were noted it cannot be told whether their folder was on this machine.
        return "rlkit.host" in tags


def _stored_group(row: _Row, reader: _Reader) -> StoredGroup:
    planned: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        planned = parse_json(row.tags.get("rlkit.planned", "").encode())
    if planned is None:
        try:
            planned = reader.artifact(row, "group.json")
        except _Unexpected:
            raise
        except Exception:
            planned = None  # it cannot be told what belongs to the group
    planned = planned.get("planned") if isinstance(planned, dict) else planned
    return StoredGroup(row.tags.get("rlkit.group_id") or row.id, row.tags.get("group") or row.name, planned_of(planned))


def _with_curves(runs: Sequence[StoredRun], metrics: Sequence[str], reader: _Reader) -> list[StoredRun]:
    ids = [run.place for run in runs]
    points = {
        metric: reader.points(ids, metric) for metric in dict.fromkeys([*metrics, *map(nominal_step_of, metrics)])
    }
    found = []
    for run in runs:
        times = [when for metric in metrics for _, when, _ in points[metric][run.place]]
        began = run.started if run.started is not None else min(times, default=0)
        curves: dict[str, Curve] = {}
        for metric in metrics:
            due = {(step, when): value for step, when, value in points[nominal_step_of(metric)][run.place]}
            made = [
                (due.get((step, when), step), (when - began) / 1000, value)
                for step, when, value in points[metric][run.place]
            ]
            if made:
                curves[metric] = curve(made)
        found.append(replace(run, curves=curves))
    return found


@lru_cache(maxsize=10_000)
def _value(text: str) -> Any:
    """A setting from its parameter: they are stored as JSON, but for texts, which are stored as they are."""
    if text[:1] not in "-0123456789tfn[{":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**63 else None


def _number(text: str | None) -> int | None:
    """A whole number from a tag."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None
