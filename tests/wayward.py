"""An environment that does what it is told not to: dies, hangs or raises in one lane and one call."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


def own_lane() -> int | None:
    """The lane of the worker process that this is, or None in their parent."""
    name = multiprocessing.current_process().name
    return int(name.rpartition("-")[2]) if name.startswith("Worker<") else None


class Odd(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


def misbehave(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(7)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "hang":
        time.sleep(120)
    elif how == "odd":
        raise Odd("cannot be pickled")
    else:
        raise ZeroDivisionError("wheel came off")


class Wayward(gymnasium.Env[Any, Any]):
    """Episodes of `length` steps.

    Args:
        folder: each process that makes one leaves a file named by its lane and pid there, and one when it is closed.
        lane: which one misbehaves; -1: none.
        call: in `__init__`, `reset`, `step` or `state_dict`.
        how: see `misbehave`.
        skip: calls of that name that go well before.
        size: numbers in an observation and in an action.
        nap: seconds that a step takes.
        napping: lane of which that holds; -1: all.
    """

    def __init__(
        self,
        folder: str,
        lane: int = -1,
        call: str = "",
        how: str = "raise",
        skip: int = 0,
        size: int = 1,
        nap: float = 0.0,
        napping: int = -1,
        length: int = 1000,
    ) -> None:
        self.folder, self.lane = Path(folder), own_lane()
        self.wayward = lane == self.lane
        self.call, self.how, self.skip = call, how, skip
        self.nap = nap if napping in (-1, self.lane) else 0.0
        self.length, self.count = length, 0
        low, high = np.full(size, -1, np.float32), np.ones(size, np.float32)
        self.observation_space = spaces.Box(low, high)
        self.action_space = spaces.Box(low, high) if size > 1 else spaces.Discrete(2)
        self._note("made")
        self._maybe("__init__")

    def _note(self, what: str) -> None:
        if self.lane is not None:
            (self.folder / f"{what}-{self.lane}-{os.getpid()}").touch()

    def _maybe(self, call: str) -> None:
        if self.wayward and call == self.call:
            self.skip -= 1
            if self.skip < 0:
                misbehave(self.how)

    def arm(self, call: str) -> None:
        """Misbehave at the next call of that name."""
        self.call = call

    def explode(self) -> None:
        if self.wayward:
            misbehave(self.how)

    def _obs(self) -> Any:
        return np.zeros(self.observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        self._maybe("reset")
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        time.sleep(self.nap)
        self._maybe("step")
        return self._obs(), 1.0, self.count >= self.length, False, {}

    def state_dict(self) -> dict[str, Any]:
        self._maybe("state_dict")
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]

    def close(self) -> None:
        self._note("closed")


gymnasium.register("Wayward-v0", Wayward)
