"""Stored runs as they are read to list and to compare them, wherever they lie: run folders, or a tracker's store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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
    def runs(self, selection: Sequence[str] = (), *, where: str | None = None, curves: Sequence[str] = ()) -> list[StoredRun]:
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

    def keep(self, name: str, folder: Path, tags: Mapping[str, str]) -> str | None:
        """Store the files of a folder as a run of its own, such as a comparison; returns where it is seen, for people.

        None where the store keeps nothing.
        """
        return None
