"""Environments in processes of their own, watched: one that dies or hangs is named, and none is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from rlkit_core.environment import LaneFault


class Workers(AsyncVectorEnv):
    """Gymnasium's vector environment with a process per environment, which also ends well when one of them does not.

    Args:
        makers: make the environments.
        seeds: of Python's and numpy's global generators, one for each process.
        autoreset_mode: how they reset.
        timeout: seconds after which one that does not answer is given up.

    Raises:
        LaneFault: from `reset` and `step`: a process died or does not answer.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        seeds: Sequence[int],
        autoreset_mode: AutoresetMode,
        timeout: float,
    ) -> None:
        self._timeout = timeout
        self._broken = False
        with _quiet():
            super().__init__(
                [partial(_make, maker, seed, os.getpid()) for maker, seed in zip(makers, seeds, strict=True)],
                copy=False,
                autoreset_mode=autoreset_mode,
            )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """As gymnasium's."""
        with self._watching("reset"):
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(self._timeout)

    def step(self, actions: Any) -> Any:
        """As gymnasium's."""
        with self._watching("step"):
            self.step_async(actions)
            return self.step_wait(self._timeout)

    @contextlib.contextmanager
    def _watching(self, call: str) -> Iterator[None]:
        try:
            with _quiet():
                yield
        except multiprocessing.TimeoutError:
            self._broken = True
            silent = [i for i, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            lane = silent[0] if silent else 0
            what = f"{call} has not answered for {self._timeout:g} seconds (process {self.processes[lane].pid})"
            raise LaneFault(lane, what) from None
        except (EOFError, ConnectionError):
            self._broken = True
            lane, ended = self._first_dead()
            raise LaneFault(lane, f"its process {self.processes[lane].pid} {ended} during {call}") from None
        except BaseException:
            self._broken = True
            raise

    def _first_dead(self) -> tuple[int, str]:
        """Lane of a process that is dead or about to be, and how it ended."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            for lane, process in enumerate(self.processes):
                if process.exitcode is not None:
                    code = process.exitcode
                    return (
                        lane,
                        f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}",
                    )
            time.sleep(0.01)
        return 0, "closed its connection"

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the processes to close their environments, and kill those that do not in time."""
        for pipe in self.parent_pipes:
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
        deadline = time.monotonic() + (0.5 if self._broken or terminate else 10.0)
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()


def _make(maker: Callable[[], gymnasium.Env[Any, Any]], seed: int, parent: int) -> gymnasium.Env[Any, Any]:
    """Make an environment; in a worker, see first that the worker leaves signals to its parent and dies with it."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides what ends
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has its parent's handler
        if sys.platform == "linux":
            PR_SET_PDEATHSIG = 1
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # A forked worker has its parent's global generators: without this, all workers would draw the same numbers.
        random.seed(seed)
        np.random.seed(seed)
    return maker()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without gymnasium's own reports of workers' errors: the error itself says it all."""
    level = gymnasium.logger.min_level
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
    try:
        yield
    finally:
        gymnasium.logger.min_level = level
