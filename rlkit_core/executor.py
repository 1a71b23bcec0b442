"""Executors: where and how many at a time the runs of a group are computed.

An executor gets tasks, which are folders. To do one, a process calls `rlkit_core.group.do_task` with that folder; by
`command` any process anywhere can be told to. How a run stands meanwhile is read from its folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlkit_core.errors import StorageError
from rlkit_core.registry import files_given
from rlkit_core.run_folder import read_json

OUTPUT = "output.log"
"""File in a task's folder with what its process prints."""


@dataclass(frozen=True)
class Task:
    """A run that is to be done.

    Attributes:
        run_dir: its folder, which lies where both sides can read and write it. It holds `task.json` (settings, and what
            `rlkit_core.group.do_task` needs besides), or, where the run was begun before, a run to go on with.
        imports: modules that the user has named, and so vouches for; others must be installed.
    """

    run_dir: Path
    imports: tuple[str, ...] = ()


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

    @classmethod
    def of(cls, task: Task, exit_code: int) -> Ended:
        """From the exit code of the process that did the task: what went wrong is in `error.json` of its folder."""
        if exit_code < 0:
            return cls(task, exit_code, f"its process was ended by {_signal_name(-exit_code)}")
        if exit_code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
            return cls(task, exit_code)
        try:
            error = read_json(task.run_dir / "error.json")
        except StorageError:
            error = None
        said = error.get("message") if isinstance(error, dict) and error.get("exit_code") == exit_code else None
        return cls(task, exit_code, str(said) if said else f"its process ended with exit code {exit_code}")


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


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
        """End a task early, as Ctrl-C would; it still comes out of `wait`. One that waits for room never starts.

        A second call ends it at once, as a second Ctrl-C would. One that has ended is left alone.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop everything that is still computed, and wait for it."""


def command(task: Task) -> list[str]:
    """The command that does a task in a process of its own, with the plugin files that are known here."""
    # -P: a file `json.py` in the working folder is not meant.
    return [
        *(sys.executable, "-P", "-m", "rlkit_core.group", str(task.run_dir.absolute())),
        *(f"--plugin={os.path.abspath(path)}" for path in files_given()),
        *(f"--import={module}" for module in task.imports),
    ]


def die_with(parent: int) -> None:
    """Let this process be killed when its parent ends, by whatever means: none computes on without one.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    with contextlib.suppress(OSError):
        os.kill(os.getpid(), signal.SIGKILL)
