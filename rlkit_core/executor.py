"""Executors: where and how many at a time the runs of a group are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """A run that is to be done.

    Attributes:
        run_dir: its folder, which lies where both sides can read and write it. It holds `task.json` (settings, and what
            `rlkit_core.group.do_task` needs besides), or, where the run was begun before, a run to go on with.
    """

    run_dir: Path


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        task: which one.
        exit_code: 0, or what `rlkit run` would have returned; negative: the signal that ended its process.
        error: what went wrong, for people, or None.
    """

    task: Task
    exit_code: int
    error: str | None = None


class Executor(ABC):
    """Computes tasks. How a run stands meanwhile is read from its folder, not asked of the executor."""

    @abstractmethod
    def start(self, task: Task) -> None:
        """Begin a task as soon as there is room for it; returns at once."""

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Ended]:
        """Tasks that have ended since the last call; waits so long for one at most."""

    @abstractmethod
    def stop(self, task: Task) -> None:
        """End a task early, as Ctrl-C would; it still comes out of `wait`. One that waits for room never starts."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything that is still computed, and wait for it."""
