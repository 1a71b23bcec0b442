"""Stored runs as they are read to list and to compare them, wherever they lie: run folders, or a tracker's store."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_filter import matching, parse_filter
from rlkit_core.run_folder import RunFolder, last_record, read_journal, read_json

if TYPE_CHECKING:
    import numpy as np

    from rlkit_core.component import TrackerConfig

STATES = ("running", "finished", "interrupted", "failed", "killed", "lost", "damaged")
DEPTH = 3
"""Levels of folders that are looked through for runs, below the one that holds them."""


@dataclass(frozen=True)
class Curve:
    """A metric over a run.

    Attributes:
        steps: environment steps at which it was recorded, ascending. For evaluations the nominal ones, at which they
            were due: those of runs with equal settings are equal.  # [K] int64
        seconds: wall time since the run began.  # [K]
        values: the metric.  # [K]
    """

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class StoredRun:
    """A run as a store tells of it.

    Attributes:
        place: where it lies, as one types it: the run folder, or the id in the tracker's store.
        run_id: rlkit's own id of the run, the same in every store; `place` where there is none.
        name: its name.
        state: `running`, `finished`, `interrupted`, `failed`, `killed`, or `lost` (it says that it is running, but its
            process is gone) or `damaged` (its files cannot be read).
        algorithm: name of the algorithm.
        environment: id of the environment.
        seed: of the run.
        group: name under which it is compared; `a/b` belongs to `a`, too.
        parent: id of the group of runs that it was started with, the same for all of them, or None.
        init_from: run whose last policy it started from, or None.
        settings: all settings, plain values by dotted name, such as `algorithm.gamma`.
        versions: of packages.
        code: hashes of the code that it was made with, by module: `rlkit_core`, and each plugin's.
        dirty: whether the working folder's repository had changes that no commit has; None: there was none.
        started: milliseconds since 1970.
        steps: environment steps taken.
        budget: nominal budget in environment steps.
        reached: why it stopped before its budget, or None.
        final: metrics of the last policy's evaluation, without `final/`: `return`, `return_std`, `episodes`.
        curves: by metric, where they were asked for.
    """

    place: str
    run_id: str
    name: str = ""
    state: str = "finished"
    algorithm: str | None = None
    environment: str | None = None
    seed: int | None = None
    group: str = ""
    parent: str | None = None
    init_from: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    dirty: bool | None = None
    started: int | None = None
    steps: int | None = None
    budget: int | None = None
    reached: str | None = None
    final: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredGroup:
    """What a group of runs that were started together was meant to hold.

    Attributes:
        parent: its id; see `StoredRun.parent`.
        name: its name.
        planned: runs that belong to it: `(group, environment, seed)` of each.
    """

    parent: str
    name: str
    planned: tuple[tuple[str, str, int], ...] = ()


class RunStore(ABC):
    """Where runs are read from, and where a comparison of them is kept."""

    @abstractmethod
    def runs(
        self, selection: Sequence[str] = (), *, where: str | None = None, curves: Sequence[str] = ()
    ) -> list[StoredRun]:
        """Stored runs, the oldest first.

        Args:
            selection: names of groups, experiments, and runs (folders, ids); empty: all that there are.
            where: only runs of which that is true, such as `algorithm = a2c and seed < 5`.
            curves: metrics of which curves are read, such as `evaluation/return`; none is read unasked.

        Raises:
            UsageError: something selected is not there, or `where` cannot be understood.
            StorageError: the store cannot be read.
        """

    @abstractmethod
    def groups(self) -> list[StoredGroup]:
        """Groups of runs that were started together."""

    def fetch(self, run: str, folder: Path) -> Path:
        """The folder of a run, or, where it is not at hand, what the store has of it in the form of a run's folder.

        Args:
            run: its name, id or folder.
            folder: an empty one, to write into.

        Raises:
            UsageError: there is no such run, or several are called so.
            StorageError: the store cannot be read, or does not have the run's settings.
        """
        raise UsageError("runs of this store cannot be fetched")

    def keep(self, name: str, folder: Path, tags: Mapping[str, str]) -> str | None:
        """Store the files of a folder as a run of its own, such as a comparison; returns where it is seen, for people.

        None where the store keeps nothing.
        """
        return None


# ---- what stores have in common ----


def chosen(
    runs: Iterable[StoredRun],
    selection: Sequence[str],
    where: str | None,
    called: Callable[[StoredRun], Sequence[str]] = lambda run: (),
) -> tuple[list[StoredRun], list[str]]:
    """Some runs out of all, the oldest first, and what of the selection is no name of any of them.

    Args:
        runs: all runs of a store.
        selection: see `RunStore.runs`.
        where: see `RunStore.runs`.
        called: further names that a run goes by in that store.

    Raises:
        UsageError: `where` cannot be understood, or is about settings that no run has.
    """
    conditions = () if where is None else parse_filter(where)
    found = sorted(runs, key=lambda run: (run.started or 0, run.name, run.place))
    missing: list[str] = []
    if selection:
        groups = tuple(f"{name}/" for name in selection)
        names = set(selection)
        of_each = [{run.place, run.run_id, run.name, run.group, run.parent, *called(run)} for run in found]
        missing = [
            name
            for name in selection
            if not any(name in own for own in of_each) and not any(run.group.startswith(f"{name}/") for run in found)
        ]
        found = [run for run, own in zip(found, of_each, strict=True) if names & own or run.group.startswith(groups)]
    return matching(found, conditions), missing


def curve(points: Iterable[tuple[float, float, float]]) -> Curve:
    """A curve from `(step, seconds, value)` in any order; points without a step or a time are left out."""
    import numpy as np

    known = [point for point in points if abs(point[0]) < 2**62 and math.isfinite(point[1])]
    steps = np.array([point[0] for point in known], dtype=np.int64)
    order = np.argsort(steps, kind="stable")
    seconds, values = (np.array([point[i] for point in known], dtype=np.float64)[order] for i in (1, 2))
    return Curve(steps[order], seconds, values)


def nominal_step_of(metric: str) -> str:
    """The metric that says at which step an evaluation's metric was due, such as `evaluation/nominal_step`."""
    return f"{metric.rpartition('/')[0]}/nominal_step"


def planned_of(data: Any) -> tuple[tuple[str, str, int], ...]:
    """Runs planned for a group, from plain data: a list of tables or lists of group, environment and seed.

    What is none of these is left out.
    """
    planned = []
    for item in data if isinstance(data, list) else ():
        run = [item.get(key) for key in ("group", "environment", "seed")] if isinstance(item, dict) else item
        if isinstance(run, list) and [type(part) for part in run[:3]] == [str, str, int]:
            planned.append((run[0], run[1], run[2]))
    return tuple(planned)


def default_tracker(uri: str | None = None) -> TrackerConfig:
    """The tracker that runs are sent to where nothing else is said.

    Args:
        uri: another store than its own, by its address.

    Raises:
        UsageError: that cannot be one.
    """
    from rlkit_core.component import TrackerConfig
    from rlkit_core.config import DEFAULT_COMPONENTS
    from rlkit_core.registry import Registry

    component = Registry().get("tracker", DEFAULT_COMPONENTS["tracker"])
    try:
        tracker = component.model_validate({} if uri is None else {"uri": uri})
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"that is no store: {reason[:300]}") from error
    assert isinstance(tracker, TrackerConfig)
    return tracker


def open_store(uri: str | None, environ: Mapping[str, str]) -> RunStore:
    """The store that runs are sent to where nothing else is said.

    Args:
        uri: another one of that kind, by its address.
        environ: environment variables, which may say which one it is.

    Raises:
        UsageError: the address cannot be one, or nothing can be read back from there.
    """
    tracker = default_tracker(uri)
    store = tracker.open_store(environ)
    if store is None:
        raise UsageError(f"the tracker {tracker.name} cannot be read back")
    return store


def the_one(runs: Sequence[StoredRun], name: str) -> StoredRun:
    """The only one of some runs.

    Raises:
        UsageError: there are several.
    """
    if len(runs) != 1:
        raise UsageError(
            f"{len(runs)} runs are called {name}\ngive the folder or the id of one: rlkit runs --group {name}"
        )
    return runs[0]


# ---- run folders ----


class FolderStore(RunStore):
    """Runs as their own folders have them. One that cannot be read is `damaged`, and keeps nobody from the others.

    Besides names of groups and runs, a selection takes run folders and folders that hold some, wherever they are.

    Args:
        top: folder that holds the runs, three levels down at most; or a run's own.
    """

    def __init__(self, top: Path | str = "runs") -> None:
        self.top = Path(top)

    def runs(
        self, selection: Sequence[str] = (), *, where: str | None = None, curves: Sequence[str] = ()
    ) -> list[StoredRun]:
        """See `RunStore`."""
        if not selection and not self.top.is_dir():
            raise UsageError(
                f"there is no folder {self.top}\ngive the one that holds the runs; `rlkit run` makes them in runs/"
            )
        here = [_stored_run(path) for path in _run_folders(self.top)]
        known = {name: os.path.normpath(name) if os.sep in name else name for name in selection}
        _, missing = chosen(here, list(known.values()), None)
        paths = {os.path.realpath(run.place): run for run in here}
        wanted = [name for name in known.values() if name not in missing]
        for name in missing:
            there = list(_run_folders(Path(name)))
            if not there:
                raise UsageError(
                    f"there is no run and no group {name} in {self.top}\n"
                    "`rlkit runs` lists them; a folder that holds runs can be given, too"
                )
            for path in there:
                run = paths.setdefault(os.path.realpath(path), _stored_run(path))
                wanted.append(run.place)
        found, _ = chosen(paths.values(), wanted, where)
        return [_with_curves(run, curves) for run in found] if curves else found

    def fetch(self, run: str, folder: Path) -> Path:
        """See `RunStore`; nothing is written."""
        return Path(the_one(self.runs([run]), run).place)

    def groups(self) -> list[StoredGroup]:
        """See `RunStore`; what cannot be read is no group."""
        return [group for path in _folders_with(self.top, "group.json") if (group := _stored_group(path)) is not None]


def _folders_with(top: Path, file: str) -> Iterator[Path]:
    """Folders down from `top` that hold a file, in order; nothing is looked for inside of run folders."""
    level = [top]
    for depth in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            path = os.fspath(folder)
            if os.path.exists(f"{path}/{file}"):
                yield folder
            if depth < DEPTH and not os.path.exists(f"{path}/config.json"):
                below.extend(_subfolders(folder))
        level = below


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _run_folders(top: Path) -> Iterator[Path]:
    return _folders_with(top, "config.json")


def _stored_run(path: Path) -> StoredRun:
    """A run as far as its files can be read."""
    config, broken = _table(path / "config.json")
    about, also_broken = _table(path / "provenance.json", optional=True)
    state, status = ("damaged", {}) if broken or also_broken else _standing(path)
    result = _table_in(status, "result")
    algorithm, environment = _name(config.get("algorithm"), "name"), _name(config.get("env"), "id")
    last = last_record(path / "metrics.jsonl") if state != "damaged" else None
    steps = result.get("steps") if type(result.get("steps")) is int else None
    if steps is None and last is not None and type(last["step"]) is int:
        steps = last["step"]
    git = _table_in(about, "git")
    return StoredRun(
        place=str(path),
        run_id=_text(about.get("run_id")) or str(path),
        name=_text(about.get("run_name")) or path.absolute().name,
        state=state,
        algorithm=algorithm,
        environment=environment,
        seed=_count(config.get("seed")),
        group=_text(config.get("group")) or default_group(algorithm, environment),
        parent=_text(about.get("parent")),
        init_from=_text(about.get("init_from")),
        settings=dict(flat_settings(config)),
        versions={name: text for name, text in _table_in(about, "versions").items() if isinstance(text, str)},
        code=code_of(about),
        dirty=git.get("dirty") if isinstance(git.get("dirty"), bool) else None,
        started=_count(about.get("started")),
        steps=steps,
        budget=_count(config.get("total_steps")),
        reached=_text(result.get("reached")),
        final=final_metrics({} if last is None else last["metrics"]) if state == "finished" else {},
    )


def default_group(algorithm: str | None, environment: str | None) -> str:
    """Name of the group of a run that was given none."""
    return f"{algorithm}-{environment}" if algorithm and environment else ""


def flat_settings(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All settings as `(dotted name, value)`, from the content of `config.json`; lists and empty tables are values."""
    # `requires` is no setting: it says what the run takes.
    pending = [(key, value) for key, value in reversed(config.items()) if key != "requires"]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict) and value:
            pending += [(f"{name}.{key}", part) for key, part in reversed(value.items())]
        else:
            yield name, value


def code_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the code that a run was made with by module, from the content of `provenance.json`."""
    code = {"rlkit_core": about.get("core_files_sha256"), **_table_in(about, "modules")}
    plugins = about.get("plugins")
    for plugin in plugins if isinstance(plugins, list) else ():
        if isinstance(plugin, dict) and isinstance(plugin.get("module"), str):
            code[plugin["module"]] = plugin.get("files_sha256")
    return {module: digest for module, digest in code.items() if isinstance(digest, str)}


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a record says of the last policy's evaluation, without `final/`."""
    return {
        name.removeprefix("final/"): float(value)
        for name, value in metrics.items()
        if name.startswith("final/") and _is_number(value)
    }


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)  # larger ones are no floats


def _standing(path: Path) -> tuple[str, dict[str, Any]]:
    """How a run stands, and the content of its `status.json`."""
    status, broken = _table(path / "status.json", optional=True)
    state = status.get("state", "running")
    if broken or state not in STATES:
        return "damaged", {}
    try:
        # It is asked about itself only where it may be gone: that takes a lock's object, and reads the file again.
        folder = RunFolder(path) if state == "running" else None
        gone = folder is not None and (folder.is_orphaned() or folder.is_abandoned())
    except StorageError:
        return "damaged", {}
    return ("lost" if gone else state), status


def _table(path: Path, *, optional: bool = False) -> tuple[dict[str, Any], bool]:
    """A JSON file's table, and whether it cannot be read; a missing one can be empty."""
    try:
        data = read_json(path)
    except StorageError:
        return {}, not optional or os.path.lexists(path)
    return (data, False) if isinstance(data, dict) else ({}, True)


def _table_in(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _name(part: Any, key: str) -> str | None:
    return _text(part.get(key) if isinstance(part, dict) else part)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**63 else None


def _with_curves(run: StoredRun, metrics: Sequence[str]) -> StoredRun:
    """The run with its journal's metrics."""
    began = run.started
    points: dict[str, list[tuple[float, float, float]]] = {metric: [] for metric in metrics}
    try:
        for _, record in read_journal(Path(run.place) / "metrics.jsonl", containing=metrics):
            when, values = record["time"], record["metrics"]
            if type(when) is not int or type(record["step"]) is not int:
                continue
            began = when if began is None else began
            for metric in metrics:
                value = values.get(metric)
                step = values.get(nominal_step_of(metric), record["step"])
                if _is_number(value) and _is_number(step):
                    points[metric].append((step, (when - began) / 1000, value))
    except StorageError:
        return replace(run, state="damaged")
    return replace(run, curves={metric: curve(found) for metric, found in points.items() if found})


def _stored_group(path: Path) -> StoredGroup | None:
    data, broken = _table(path / "group.json")
    parent, name = _text(data.get("id")), _text(data.get("name"))
    return (
        None if broken or parent is None or name is None else StoredGroup(parent, name, planned_of(data.get("planned")))
    )
