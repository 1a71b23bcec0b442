"""The folder of a group: what was planned, and beside it the folders of its runs.

group.json          the plan: id, name, and which runs belong to it
status.json         how the group stands, and which process computes it
tracking.json       whether the trackers know how it ended
…/task.json         in each run's folder: what it takes to begin the run
.failed/            folders of failed runs that have been done again, which are no runs of the group any more
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_folder import RunFolder, read_json, write_json

GROUP_FILE = "group.json"
ASIDE = ".failed"
STUDY_FILE = "study.json"
"""File in the folder of a group whose runs are the trials of a search for settings, with what was tried."""
FORMAT = 1
DEEPEST = 3
"""Folders between a group's and a run's, at most, the run's own counted."""


@dataclass(frozen=True)
class PlannedRun:
    """A run that belongs to a group.

    Attributes:
        group: name under which it is compared.
        environment: id of its environment.
        seed: of the run.
        run_dir: its folder, relative to the group's, with slashes.
    """

    group: str
    environment: str
    seed: int
    run_dir: str


@dataclass(frozen=True)
class GroupRecord:
    """What `group.json` says.

    Attributes:
        id: of the group; its runs name it as their parent.
        name: the group's name.
        planned: the runs that belong to it.
        more: what else it says: `started` (ms since 1970), `command`, `cwd`.
    """

    id: str
    name: str
    planned: tuple[PlannedRun, ...]
    more: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write it into a group's folder.

        Raises:
            StorageError: it cannot be written.
        """
        planned = [vars(run) for run in self.planned]
        record = {"format": FORMAT, "id": self.id, "name": self.name, **self.more, "planned": planned}
        write_json(folder / GROUP_FILE, record)


def is_group(folder: Path) -> bool:
    """Whether there is a group in a folder."""
    return (folder / GROUP_FILE).is_file()


def read_group(folder: Path) -> GroupRecord:
    """The group in a folder.

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    path = folder / GROUP_FILE
    data = read_json(path)
    if not isinstance(data, dict) or "format" not in data:
        raise StorageError(f"{path} is damaged: it describes no group")
    if data["format"] != FORMAT:
        raise StorageError(f"{path} has format {data['format']!r:.20}; this version of rlkit reads format {FORMAT}")
    known, name, planned = data.pop("id", None), data.pop("name", None), data.pop("planned", None)
    if not (isinstance(known, str) and re.fullmatch("[0-9a-f]{8,64}", known)):
        raise StorageError(f"{path} is damaged: its id is {known!r:.50}")
    if not (isinstance(name, str) and name) or not isinstance(planned, list):
        raise StorageError(f"{path} is damaged: it has no name, or no list of planned runs")
    del data["format"]
    return GroupRecord(known, name, tuple(_planned(one, path) for one in planned), data)


def _planned(data: Any, path: Path) -> PlannedRun:
    wanted = {"group": str, "environment": str, "seed": int, "run_dir": str}
    if not isinstance(data, dict) or any(type(data.get(key)) is not kind for key, kind in wanted.items()):
        raise StorageError(f"{path} is damaged: {data!r:.100} is no planned run")
    run = PlannedRun(**{key: data[key] for key in wanted})
    parts = PurePosixPath(run.run_dir).parts
    # It may come from anywhere: nothing outside of the group's folder is one of its runs.
    if not 0 < len(parts) <= DEEPEST or any(part in ("..", "/") or "\0" in part for part in parts):
        raise StorageError(f"{path} is damaged: {run.run_dir!r:.100} is no folder of a run of the group")
    return run


def run_folder_of(folder: Path, run: PlannedRun) -> RunFolder:
    """The folder of a planned run, which need not be there yet.

    Raises:
        StorageError: it leads out of the group's folder.
    """
    path = folder / run.run_dir
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"{path} is damaged: it leads out of the folder of its group")
    return RunFolder(path)


def runs_set_aside(folder: Path) -> list[RunFolder]:
    """Folders of failed runs of a group that have been done again."""
    found = sorted((folder / ASIDE).glob("*/config.json"))
    return [RunFolder(path.parent) for path in found if path.resolve().is_relative_to(folder.resolve())]


def open_group(folder: Path | str) -> tuple[RunFolder, GroupRecord]:
    """The folder of a group, as one that can be locked and has a status, and what is in it.

    Raises:
        UsageError: there is no group in it.
        StorageError: it cannot be read.
    """
    path = Path(folder)
    if not is_group(path):
        what = f"holds no group of runs (no {GROUP_FILE})" if path.is_dir() else "does not exist"
        raise UsageError(f"folder {path} {what}\ngive the folder that `rlkit run --seeds` named at its end")
    return RunFolder(path), read_group(path)


def group_above(run_dir: Path, parent: Any) -> tuple[Path, GroupRecord] | None:
    """The group that a run belongs to, from the folders above its own.

    Args:
        run_dir: folder of the run.
        parent: the id that its `provenance.json` names, or None.
    """
    if not isinstance(parent, str):
        return None
    for folder in list(run_dir.absolute().parents)[:DEEPEST]:
        if is_group(folder):
            try:
                record = read_group(folder)
            except StorageError:
                return None
            return (folder, record) if record.id == parent else None
    return None
