"""Groups: many runs that are planned together, computed by an executor, and gone on with where they were left.

`make_group` writes the plan and a folder with a task for each run; `compute` has them done, shows how they stand, and
follows their records with one tracking process. An executor's processes call `do_task`:

python -m rlkit_core.group RUN_DIR              do a task, in a process of its own
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlkit_core.config import RunConfig
from rlkit_core.drift import differences
from rlkit_core.errors import ResumeRefused, RlkitError, StorageError, UsageError
from rlkit_core.executor import Ended, Executor, Task, die_with
from rlkit_core.group_folder import (
    ASIDE,
    STUDY_FILE,
    GroupRecord,
    PlannedRun,
    is_group,
    open_group,
    read_group,
    run_folder_of,
)
from rlkit_core.progress import Mode, RunRow, group_progress
from rlkit_core.provenance import command_line, stored_config
from rlkit_core.registry import Registry, given_files, import_modules
from rlkit_core.run_folder import RunFolder, make_folder, read_journal, read_json, write_json
from rlkit_core.signals import noting, raising
from rlkit_core.tracking import TrackingProcess, let_tracking_end, set_aside
from rlkit_core.training import exit_code_of, flush, resume, run, write_error

TASK_FILE = "task.json"
TASK_FORMAT = 1


# ---- a task ----


def write_task(
    run_dir: Path,
    config: RunConfig,
    registry: Registry,
    *,
    preset: str | None = None,
    init_from: Path | None = None,
    more: Mapping[str, Any] = {},
) -> None:
    """Make a run's folder, with what it takes to begin the run.

    Args:
        run_dir: the folder.
        config: the run's settings.
        registry: where their parts are looked up.
        preset: name of the preset that is in them.
        init_from: run whose last policy the new one starts from.
        more: what the run's `provenance.json` will say besides, or instead.

    Raises:
        StorageError: it cannot be written.
    """
    _make_folder(run_dir)
    settings = stored_config(config, registry, preset)
    source = None if init_from is None else str(init_from.absolute())
    task = {"format": TASK_FORMAT, "config": settings, "preset": preset, "init_from": source, "more": dict(more)}
    write_json(run_dir / TASK_FILE, task)


def do_task(run_dir: str | Path, *, imports: Sequence[str] = ()) -> int:
    """Do a run as its folder says: begin it by `task.json`, or go on with it. What goes wrong is in `error.json`.

    The run's record is sent by whoever follows the group, not from here.

    Args:
        run_dir: its folder.
        imports: modules that the user has named, and so vouches for; others must be installed.

    Returns:
        the exit code that `rlkit run` would have.
    """
    path = Path(run_dir)
    try:
        with raising():
            result = _do(path, imports)
        print(f"{result.state} after {result.steps:,} steps in {result.seconds:.1f} s", flush=True)
        return 0 if result.signal is None else 128 + result.signal
    except BaseException as error:
        with contextlib.suppress(StorageError):
            write_error(path, error)
        with contextlib.suppress(OSError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return exit_code_of(error)


def _do(path: Path, imports: Sequence[str]) -> Any:
    if (path / "config.json").exists():
        return resume(path, imports=imports, progress="plain", followed=True)
    task = _read_task(path)
    import_modules(imports, from_here=True)
    named = task["config"].get("imports")
    if isinstance(named, list):  # what is none is refused below
        import_modules([str(name) for name in named if name not in imports], from_here=False)
    registry = Registry()
    config = RunConfig.parse(task["config"], registry=registry)
    about = {key: task[key] for key in ("preset", "init_from", "more")}
    return run(config, registry, run_dir=path, progress_mode="plain", followed=True, **about)


def _read_task(run_dir: Path) -> dict[str, Any]:
    path = run_dir / TASK_FILE
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != TASK_FORMAT:
        raise StorageError(f"{path} is damaged: it describes no run, or one of another version of rlkit")
    preset, source = data.get("preset"), data.get("init_from")
    config, more = data.get("config"), data.get("more")
    texts = isinstance(preset, str | None) and isinstance(source, str | None)
    if not isinstance(config, dict) or not isinstance(more, dict) or not texts:
        raise StorageError(f"{path} is damaged: it has no settings")
    # Texts only: the rest of a provenance is found out where the run is made.
    about = {key: more[key] for key in ("parent", "run_name", "command") if isinstance(more.get(key), str)}
    return {"preset": preset, "init_from": source, "config": config, "more": about}


def import_all() -> None:
    """Import what every run imports; nothing is computed, and no thread started."""
    for module in ("torch", "gymnasium", *(f"rlkit_core.{name}" for name in _IMPORTED)):
        importlib.import_module(module)


_IMPORTED = ("checkpoint", "collector", "environment", "evaluation", "learner", "policy", "stored_policy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a task in this process."""
    parser = argparse.ArgumentParser(prog="python -m rlkit_core.group")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--parent-pid", type=int, help="process that this one ends with")
    parser.add_argument("--plugin", action="append", default=[], help="a Python file that is a plugin")
    parser.add_argument("--import", dest="imports", action="append", default=[], help="a module to import first")
    options = parser.parse_args(arguments)
    if options.parent_pid is not None:
        die_with(options.parent_pid)
    try:
        with given_files(options.plugin):
            return do_task(options.run_dir, imports=options.imports)
    except RlkitError as error:  # of a plugin file
        write_error(options.run_dir, error)
        return error.exit_code


# ---- a plan ----


@dataclass(frozen=True)
class PlanEntry:
    """A run to be planned.

    Attributes:
        config: its settings.
        preset: name of the preset that is in them.
        variant: what tells its settings from others of the group, as its group's name says after the group's own.
        init_from: run whose last policy it starts from.
    """

    config: RunConfig
    preset: str | None = None
    variant: str = ""
    init_from: Path | None = None


@dataclass
class Group:
    """A group whose folder is ready, and locked.

    Attributes:
        folder: its folder, as one that has a lock and a status.
        record: what `group.json` says.
    """

    folder: RunFolder
    record: GroupRecord

    def run_folder(self, planned: PlannedRun) -> RunFolder:
        """The folder of one of its runs."""
        return run_folder_of(self.folder.path, planned)

    def release(self) -> None:
        """Give its lock back."""
        self.folder.release()


def group_path(name: str) -> Path:
    """Folder of a group below the working folder, where none is given."""
    return Path("runs") / _file_name(name)


def make_group(path: Path, name: str, plan: Sequence[PlanEntry], registry: Registry) -> Group:
    """Plan runs in a folder, or more runs in that of a group that is there; give its lock back with `release`.

    Args:
        path: folder of the group.
        name: of the group.
        plan: the runs, as far as they are known yet. Those that are planned already stay as they are.
        registry: where parts are looked up.

    Raises:
        RunInUse: another process computes the group.
        ResumeRefused: runs are planned there with other settings; `differences` says which.
        UsageError: there is another group, or a run, in that folder.
        StorageError: it cannot be written or read.
    """
    if (path / "config.json").exists():
        raise UsageError(f"{path} holds a run, not a group of runs\nchoose another folder with --run-dir")
    _make_folder(path)
    folder = RunFolder(path)
    folder.take(timeout=2.0)  # a process that was killed a moment ago
    try:
        known = read_group(path) if is_group(path) else None
        if known is not None and known.name != name:
            raise UsageError(
                f"{path} holds the group {known.name}, not {name}\nchoose another folder with --run-dir, or its name"
            )
        more = {"started": time.time_ns() // 1_000_000, "command": command_line(sys.argv), "cwd": os.getcwd()}
        group = Group(folder, known or GroupRecord(uuid.uuid4().hex, name, (), more))
        if known is None and not plan:
            group.record.write(path)
        add_runs(group, plan, registry)
        return group
    except BaseException:
        folder.release()
        raise


def add_runs(group: Group, plan: Sequence[PlanEntry], registry: Registry) -> list[PlannedRun]:
    """Plan runs of a group, unless they are planned already; returns all of them, as they are planned.

    Raises:
        ResumeRefused: runs are planned there with other settings; `differences` says which.
        StorageError: it cannot be written.
    """
    path, record = group.folder.path, group.record
    new = list(_new_runs(path, record, plan, registry))
    for planned, entry in new:
        about = {
            "parent": record.id,
            "run_name": f"{planned.group}-seed{planned.seed}",
            "command": command_line(sys.argv),
        }
        target = run_folder_of(path, planned).path
        write_task(target, entry.config, registry, preset=entry.preset, init_from=entry.init_from, more=about)
    if new:
        both = (*record.planned, *(planned for planned, _ in new))
        group.record = GroupRecord(record.id, record.name, both, record.more)
        group.record.write(path)
    there = {(run.group, run.environment, run.seed): run for run in group.record.planned}
    return [there[e.config.resolved_group, e.config.env.id, e.config.seed] for e in plan]


def take_group(path: Path | str) -> Group:
    """A group that is there, to go on with; give its lock back with `release`.

    Raises:
        UsageError: there is none.
        RunInUse: another process computes it.
        StorageError: it cannot be read.
    """
    folder, _ = open_group(path)
    if (folder.path / STUDY_FILE).exists():  # of its runs, some were given up
        raise UsageError(f"{path} holds a search for settings\ngo on with it by the same rlkit tune as before")
    folder.take(timeout=2.0)
    try:
        return Group(folder, read_group(folder.path))
    except BaseException:
        folder.release()
        raise


def settings_of(group: Group, imports: Sequence[str], registry: Registry) -> RunConfig:
    """Settings of a group's first run, with the modules imported that all runs need.

    Args:
        group: which.
        imports: modules that the caller vouches for; others must be installed.
        registry: where parts are looked up.
    """
    tasks = [_read_task(group.run_folder(planned).path)["config"] for planned in group.record.planned]
    if not tasks:
        raise StorageError(f"{group.folder.path} is damaged: no run is planned in it")
    import_modules(imports, from_here=True)
    named = [name for task in tasks if isinstance(names := task.get("imports"), list) for name in names]
    import_modules([str(name) for name in dict.fromkeys(map(str, named)) if name not in imports], from_here=False)
    return RunConfig.parse(tasks[0], registry=registry)


def _new_runs(
    path: Path, record: GroupRecord, plan: Sequence[PlanEntry], registry: Registry
) -> Iterator[tuple[PlannedRun, PlanEntry]]:
    """The runs of a plan that are not planned yet.

    Raises:
        ResumeRefused: of a group and an environment there are runs with other settings.
    """
    there = {(run.group, run.environment, run.seed): run for run in record.planned}
    one_of = {(run.group, run.environment): run for run in reversed(record.planned)}
    folders = {run.run_dir for run in record.planned}
    checked: set[tuple[str, str]] = set()
    for entry in plan:
        config = entry.config
        side = config.resolved_group, config.env.id
        if side in one_of and side not in checked:
            checked.add(side)
            _check_settings(path, record, one_of[side], entry, registry)
        if (*side, config.seed) in there:
            continue
        parts = [_file_name(entry.variant)] if entry.variant else []
        last = f"{_file_name(config.env.id)}-seed{config.seed}" if entry.variant else f"seed{config.seed}"
        run_dir = unique = "/".join([*parts, last])
        number = 1
        while unique in folders:  # two names may look the same as names of files
            number += 1
            unique = f"{run_dir}-{number}"
        folders.add(unique)
        planned = PlannedRun(*side, config.seed, unique)
        there[(*side, config.seed)] = planned
        yield planned, entry


def _check_settings(path: Path, record: GroupRecord, planned: PlannedRun, entry: PlanEntry, registry: Registry) -> None:
    then = {**_read_task(run_folder_of(path, planned).path)["config"], "seed": None}
    now = {**stored_config(entry.config, registry, entry.preset), "seed": None}
    found = differences({"config": then}, {"config": now})
    if found:
        named = ", ".join(difference.what.removeprefix("setting ") for difference in found[:3])
        named += ", …" if len(found) > 3 else ""
        raise ResumeRefused(
            f"the runs of {planned.group} in {planned.environment} were planned with other settings: {named}\n"
            f"they are in {path}; name this group otherwise: --group NAME",
            found,
        )


def _file_name(text: str) -> str:
    """A text as the name of a file that needs no quotes in a shell."""
    name = re.sub(r"[^\w.=+,-]+", "-", text).strip("-.") or "-"
    return name.encode()[:150].decode(errors="ignore")  # a file's name has 255 bytes at most


def _make_folder(path: Path) -> None:
    try:
        make_folder(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


# ---- computing ----


@dataclass
class GroupResult:
    """What a group has come to.

    Attributes:
        path: its folder.
        name: its name.
        states: of every planned run, by its folder relative to the group's: as in `status.json`, or `waiting`.
        returns: mean return of the last policy's evaluation of every finished run, likewise.
        sides: what every run is compared as, likewise: its group's name and its environment.
        ended: how the runs ended that were computed now and did not finish, with what went wrong.
        seconds: how long it took now.
        signal: number of the signal that interrupted it, or None.
        warning: what went wrong in tracking, or None.
    """

    path: Path
    name: str
    states: dict[str, str] = field(default_factory=dict)
    returns: dict[str, float] = field(default_factory=dict)
    sides: dict[str, str] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    seconds: float = 0.0
    signal: int | None = None
    warning: str | None = None

    @property
    def exit_code(self) -> int:
        """128 and the signal that interrupted it, else the largest of its runs', where a signal counts so, too."""
        if self.signal is not None:
            return 128 + self.signal
        codes = [128 - ended.exit_code if ended.exit_code < 0 else ended.exit_code for ended in self.ended]
        return max(codes, default=0)


def compute(
    group: Group, make_executor: Callable[[], Executor], *, imports: Sequence[str] = (), progress_mode: Mode = "auto"
) -> GroupResult:
    """Have all runs of a group done that have not finished; one that fails does not stop the others.

    A run that was interrupted or killed goes on from its checkpoint. One that failed is done again; its folder is kept
    in `.failed`.

    Args:
        group: which; it is locked.
        make_executor: makes what computes.
        imports: modules that the user has named; others must be installed.
        progress_mode: `auto`, `rich`, `plain` or `none`.
    """
    began = time.monotonic()
    path, folder = group.folder.path, group.folder
    let_tracking_end(folder)
    folder.write_status("running", result=None, error=None)
    try:
        rows = {planned.run_dir: _Row(group, planned) for planned in group.record.planned}
        todo = [row for row in rows.values() if row.prepare()]
    except BaseException:
        folder.write_status("interrupted")
        raise
    sides = {planned.run_dir: f"{planned.group} in {planned.environment}" for planned in group.record.planned}
    result = GroupResult(path, group.record.name, sides=sides)
    tracking = None
    try:
        with noting("all runs store a checkpoint and stop; once more stops them at once") as signals:
            try:
                if any(row.is_tracked for row in rows.values()):
                    tracking = TrackingProcess.start(path)
                if todo:
                    _compute(group, make_executor, todo, rows, imports, progress_mode, result, signals)
            finally:
                result.signal = signals.received
                for name, row in rows.items():
                    result.states[name] = row.state
                    if row.final is not None:
                        result.returns[name] = row.final
                result.seconds = time.monotonic() - began
                folder.write_status(_state_of(result), result={"states": result.states, "seconds": result.seconds})
    finally:
        if tracking is not None:
            result.warning = flush(tracking, path)
    return result


def _state_of(result: GroupResult) -> str:
    """A group's state, as a run's."""
    if all(state == "finished" for state in result.states.values()):
        return "finished"
    return "failed" if result.signal is None else "interrupted"


def _compute(
    group: Group, make_executor: Callable[[], Executor], todo: Sequence[_Row], rows: Mapping[str, _Row],
    imports: Sequence[str], progress_mode: Mode, result: GroupResult, signals: Any,
) -> None:  # fmt: skip
    executor = make_executor()
    display = group_progress(progress_mode)
    try:
        display.start(f"{group.record.name}: {len(rows)} runs in {group.folder.path}", _shown(rows))
        pending = {Task(row.folder.path, tuple(imports)): row for row in todo}
        for task in pending:
            executor.start(task)
        stopped = 0
        while pending:
            for ended in executor.wait(0.2):
                row = pending.pop(ended.task, None)
                if row is not None:
                    row.end(ended)
                    if row.state != "finished":
                        result.ended.append(ended)
                    display.ended(row.shown, _shown(rows))
            if signals.times > stopped:
                stopped = signals.times
                for task in pending:
                    executor.stop(task)
            if display.due():
                for row in pending.values():
                    row.look()
                display.show(_shown(rows))
    finally:
        try:
            executor.close()
        finally:
            display.close(_shown(rows))


def _shown(rows: Mapping[str, _Row]) -> list[RunRow]:
    return [row.shown for row in rows.values()]


class _Row:
    """A run of a group as it is seen while the group is computed."""

    def __init__(self, group: Group, planned: PlannedRun) -> None:
        self.folder = group.run_folder(planned)
        self._aside = group.folder.path / ASIDE
        self._planned = planned
        self._task = _read_task(self.folder.path)
        self._offset = 0
        self._first: tuple[int, int] | None = None
        self.state = "waiting"
        self.final: float | None = None
        several = len({(run.group, run.environment) for run in group.record.planned}) > 1
        total = self._task["config"].get("total_steps")
        self.shown = RunRow(
            name=f"{planned.group} {planned.environment} seed {planned.seed}" if several else f"seed {planned.seed}",
            total=total if type(total) is int else 0,
        )

    @property
    def is_tracked(self) -> bool:
        """Whether its record is sent anywhere."""
        tracker = self._task["config"].get("tracker")
        return (tracker.get("name") if isinstance(tracker, dict) else tracker) not in (None, "none")

    def prepare(self) -> bool:
        """See how it stands, and make it ready; whether there is something to be done."""
        self.look()
        if self.state == "finished":
            return False
        failed = self.state == "failed" or (
            self.state == "waiting" and (self.folder.path / "error.json").exists()  # before it had begun
        )
        if failed:
            self._set_aside()
        self.state = self.shown.state = "waiting"
        self._first, self.shown.speed = None, 0.0  # how fast it is now is what counts
        return True

    def _set_aside(self) -> None:
        """Keep what there is of it, and begin anew."""
        task = read_json(self.folder.path / TASK_FILE)
        _make_folder(self._aside)
        name = self._planned.run_dir.replace("/", "-")
        number = 1
        while (self._aside / f"{name}-{number}").exists():
            number += 1
        set_aside(self.folder, self._aside / f"{name}-{number}")
        _make_folder(self.folder.path)
        write_json(self.folder.path / TASK_FILE, task)
        self.shown.step, self.shown.evaluation, self._offset = 0, None, 0

    def look(self) -> None:
        """See how it stands now."""
        try:
            status = self.folder.status()
        except StorageError:
            status = {}
        state = status.get("state")
        self.state = self.shown.state = state if isinstance(state, str) else "waiting"
        if self.state == "finished":
            self._look_at_result(status.get("result"))
            return
        with contextlib.suppress(StorageError):
            for offset, record in read_journal(self.folder.journal_path, self._offset):
                self._offset = offset
                self._look_at(record)

    def _look_at(self, record: Mapping[str, Any]) -> None:
        step, when, metrics = record["step"], record["time"], record["metrics"]
        if type(step) is not int or type(when) is not int:
            return
        if self._first is None:
            self._first = step, when
        elif when > self._first[1]:
            self.shown.speed = 1000 * (step - self._first[0]) / (when - self._first[1])
        self.shown.step = step
        value = metrics.get("evaluation/return", metrics.get("final/return"))
        if isinstance(value, int | float):
            self.shown.evaluation = float(value)

    def _look_at_result(self, result: Any) -> None:
        if not isinstance(result, dict):
            return
        steps, value, seconds = result.get("steps"), result.get("evaluation_return"), result.get("seconds")
        if isinstance(steps, int):
            self.shown.step = steps
        if isinstance(value, int | float):
            self.final = self.shown.evaluation = float(value)
        if isinstance(seconds, int | float) and seconds > 0:
            self.shown.speed, self.shown.seconds = self.shown.step / seconds, float(seconds)

    def end(self, ended: Ended) -> None:
        """Its process has ended."""
        if ended.exit_code < 0 or ended.exit_code == RlkitError.exit_code:
            with contextlib.suppress(RlkitError):
                self._mark_killed()
        self.look()
        if self.state == "running" or (self.state == "waiting" and ended.exit_code not in (0, 130, 143)):
            self.state = "failed"
        self.shown.state, self.shown.error = self.state, ended.error

    def _mark_killed(self) -> None:
        """Write that it was killed, if it cannot say so any more."""
        if self.folder.is_orphaned():
            self.folder.take(timeout=2.0)
            try:
                if self.folder.is_orphaned():
                    self.folder.mark_killed()
            finally:
                self.folder.release()


if __name__ == "__main__":
    from rlkit_core.group import main as _main

    sys.exit(_main())
