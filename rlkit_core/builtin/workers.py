"""Environments in processes of their own, watched: one that dies or hangs is named, and none is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import _async_worker

from rlkit_core.environment import LaneFault

_LOOK_EVERY = 0.25
"""Seconds of waiting for one process after which all of them are looked at."""


class Workers(AsyncVectorEnv):
    """Gymnasium's vector environment with a process per environment, which also ends well when one of them does not.

    Args:
        makers: make the environments.
        seeds: of Python's and numpy's global generators, one for each process.
        autoreset_mode: how they reset.
        timeout: seconds after which one that does not answer is given up.

    Raises:
        LaneFault: from this and every call: an environment raised, a process died or does not answer.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        seeds: Sequence[int],
        autoreset_mode: AutoresetMode,
        timeout: float,
    ) -> None:
        self.parent_pipes, self.processes = [], []
        self._watch = _Watch(timeout)
        self._broken = False
        try:
            worker = partial(_work, tuple(seeds), os.getpid())
            super().__init__(tuple(makers), copy=False, worker=worker, autoreset_mode=autoreset_mode)
        except BaseException:
            self._broken = True
            self.close()
            raise

    def _check_spaces(self) -> None:
        """Gymnasium's first exchange with the processes, as soon as they run: from here on they are watched."""
        self._watch.processes = self.processes
        self._watch.pipes = [_Pipe(pipe, lane, self._watch) for lane, pipe in enumerate(self.parent_pipes)]
        self.parent_pipes = [*self._watch.pipes]
        with self._watching("__init__"):
            super()._check_spaces()  # type: ignore[no-untyped-call]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """As gymnasium's."""
        with self._watching("reset"):
            return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """As gymnasium's."""
        with self._watching("step"):
            return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As gymnasium's."""
        with self._watching(name):
            return super().call(name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        """As gymnasium's."""
        with self._watching("set_attr"):
            super().set_attr(name, values)

    @contextlib.contextmanager
    def _watching(self, call: str) -> Iterator[None]:
        self._watch.call, self._watch.left = call, self._watch.timeout
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the processes to close their environments, and kill those that do not in time."""
        for pipe in self.parent_pipes:
            with contextlib.suppress(OSError):
                os.set_blocking(pipe.fileno(), False)  # it may be full still, if Ctrl-C broke off the sending
                Connection.send(pipe, ("close", None))
        deadline = time.monotonic() + (0.5 if self._broken or terminate else 10.0)
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            pipe.close()


class _Watch:
    """What the pipes to the processes share.

    Attributes:
        timeout: seconds that a call may take.
        left: how many of them the present call has left.
        call: its name.
        processes: the processes, by lane.
        pipes: the pipes to them.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = self.left = timeout
        self.call = ""
        self.processes: Sequence[Any] = ()
        self.pipes: Sequence[_Pipe] = ()

    def look_for_dead(self) -> None:
        """Raise the fault of a process that has ended, if one has."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            if process.exitcode is not None:
                pipe.end()


class _Pipe(Connection):
    """The parent's end of the pipe to a process: it never blocks for long, and says which lane is gone or silent.

    Args:
        connection: what it takes the place of.
        lane: whose it is.
        watch: how long to wait.
    """

    def __init__(self, connection: Connection, lane: int, watch: _Watch) -> None:
        super().__init__(os.dup(connection.fileno()))
        connection.close()
        self._lane, self._watch = lane, watch
        # The kernel ends what would block for ever: receiving from a process that stopped in the middle of a message,
        # and sending a long one to a process that does not read. The latter blocks twice: once with a part sent.
        with socket.socket(fileno=os.dup(self.fileno())) as end:
            end.settimeout(None)
            for option, seconds in ((socket.SO_RCVTIMEO, watch.timeout), (socket.SO_SNDTIMEO, watch.timeout / 2)):
                seconds = max(seconds, 0.001)  # 0 would mean for ever
                time_value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
                end.setsockopt(socket.SOL_SOCKET, option, time_value)

    def send(self, message: Any) -> None:
        """Send a command."""
        try:
            super().send(message)
        except BlockingIOError:
            raise self._silent() from None
        except OSError:
            self.end()

    def recv(self) -> Any:
        """Wait for the answer to a command, and for any process to end."""
        while True:
            began = time.monotonic()
            answered = self.poll(max(0.0, min(_LOOK_EVERY, self._watch.left)))
            # Where the whole job was stopped for a while (Ctrl-Z), the clock went on.
            self._watch.left -= min(_LOOK_EVERY, time.monotonic() - began)
            if answered:
                return self.read()
            self._watch.look_for_dead()
            if self._watch.left <= 0:
                raise self._silent()

    def read(self) -> Any:
        """An answer that has begun to come."""
        try:
            answer, success = super().recv()
        except BlockingIOError:
            raise self._silent() from None
        except (EOFError, OSError):
            raise self._gone() from None
        if not success:
            raise answer if isinstance(answer, LaneFault) else LaneFault(self._lane, f"{self._watch.call} {answer}")
        return answer, success

    def end(self) -> NoReturn:
        """Raise what the process said last, or else how it ended."""
        while self.poll():
            self.read()
        raise self._gone()

    def _gone(self) -> LaneFault:
        process = self._watch.processes[self._lane]
        process.join(1.0)
        code = process.exitcode
        if code is None:
            ended = "closed its connection"
        else:
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return LaneFault(self._lane, f"its process {process.pid} {ended} during {self._watch.call}")

    def _silent(self) -> LaneFault:
        process, watch = self._watch.processes[self._lane], self._watch
        process.kill()  # it is given up: closing need not wait for it
        what = f"{watch.call} has not answered for {watch.timeout:g} seconds (process {process.pid})"
        return LaneFault(self._lane, what)


class _Errors:
    """Stands in for gymnasium's queue of errors in a process: sends what went wrong to the parent, as text.

    A queue pickles errors. Where one cannot be pickled, or its process dies first, the parent waits for it for ever.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def put(self, item: tuple[int, type[BaseException], BaseException, str]) -> None:
        """Send an error `(lane, class, error, traceback)`."""
        _, kind, error, _ = item
        text = f"raised {kind.__name__}: {' '.join(str(error).split())}"
        try:
            self._pipe.send((error if isinstance(error, LaneFault) else text, False))
        except OSError:
            sys.exit(1)  # the parent has gone


def _work(
    seeds: Sequence[int], parent: int, index: int, make: Any, pipe: Connection, parent_pipe: Connection, buffer: Any,
    error_queue: Any, autoreset_mode: AutoresetMode, semaphore: Any,
) -> None:  # fmt: skip
    """Gymnasium's worker, in a process that leaves signals to its parent and dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has its parent's handler
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
            os._exit(1)  # it died before that
    # A forked worker has its parent's global generators: without this, all workers would draw the same numbers.
    random.seed(seeds[index])
    np.random.seed(seeds[index])
    errors = _Errors(pipe)
    try:
        env = make()
    except Exception as error:
        errors.put((index, type(error), error, ""))
        return
    _async_worker(index, lambda: env, pipe, parent_pipe, buffer, errors, autoreset_mode, semaphore)  # type: ignore[arg-type]
