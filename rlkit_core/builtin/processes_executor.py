"""The executor `processes`: forks runs from one warm process, or starts interpreters for them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from rlkit_core.errors import UsageError
from rlkit_core.executor import OUTPUT, Ended, Executor, Task, command, die_with
from rlkit_core.run_folder import check_regular

POLL = 0.01
"""Seconds between two looks at the processes."""
PATIENCE = 30.0
"""Seconds that `close` gives a run to store its checkpoint; then it is killed, and resumed from the one before."""


class ProcessesExecutor(Executor):
    """Local processes. Each has a session of its own: Ctrl-C in the terminal reaches this process only, which decides.

    Forked ones are copies of this process, in which everything that a run imports has been imported, and no torch
    operation been done: torch's threads, and CUDA, do not survive a fork. What they compute is what a process of its
    own would. They die with this process, and what they print is in their folders.

    Args:
        jobs: how many at the same time.
        start_method: fork, spawn, or auto.

    Raises:
        UsageError: the start method cannot be used here.
    """

    def __init__(self, jobs: int, start_method: str = "auto") -> None:
        if start_method == "fork" and not hasattr(os, "fork"):
            raise UsageError("start_method fork: this system has none\ntake spawn, or auto")
        self._jobs = jobs
        self._start_method = start_method
        self._waiting: deque[Task] = deque()
        self._running: dict[int, Task] = {}
        self._ended: list[Ended] = []
        self._warm = self._frozen = False

    def start(self, task: Task) -> None:
        """Begin a task as soon as there is room for it."""
        self._waiting.append(task)
        self._fill()

    def wait(self, seconds: float) -> Sequence[Ended]:
        """Tasks that have ended; waits so long for one at most."""
        deadline = time.monotonic() + seconds
        while True:
            self._reap()
            self._fill()
            left = deadline - time.monotonic()
            if self._ended or left <= 0 or not (self._running or self._waiting):
                ended, self._ended = self._ended, []
                return ended
            time.sleep(min(POLL, left))

    def stop(self, task: Task) -> None:
        """Let a task store a checkpoint and end; a second call ends it at once."""
        if task in self._waiting:
            self._waiting.remove(task)
            self._ended.append(Ended(task, 128 + signal.SIGINT))
        for pid in [pid for pid, running in self._running.items() if running == task]:
            _send(pid, signal.SIGINT)

    def close(self) -> None:
        """Stop everything; what does not end is killed."""
        self._waiting.clear()
        for pid in self._running:
            _send(pid, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        killed = False
        while self._running:
            self._reap()
            if not killed and time.monotonic() > deadline:
                killed = True
                for pid in self._running:
                    _send(pid, signal.SIGKILL)
            time.sleep(POLL)
        if self._frozen:
            gc.unfreeze()

    def _fill(self) -> None:
        """Begin tasks that wait, as far as there is room."""
        while self._waiting and len(self._running) < self._jobs:
            task = self._waiting.popleft()
            try:
                check_regular(task.run_dir / OUTPUT, link=False)
                pid = self._fork(task) if self._forks() else _spawn(task)
            except Exception as error:  # no more processes, or no disk: the others go on
                self._ended.append(Ended(task, 6, f"its process cannot be started: {error}"))
            else:
                self._running[pid] = task

    def _forks(self) -> bool:
        if self._start_method == "auto":
            return sys.platform == "linux" and _may_fork()
        return self._start_method == "fork"

    def _fork(self, task: Task) -> int:
        self._warm_up()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # else the copy has it, too
        parent = os.getpid()
        # Until the copy can receive them: a signal that came to our own handlers in there would be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                _child(task, parent, before)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _warm_up(self) -> None:
        """Import what every run imports, once; nothing in there starts threads or computes."""
        if not self._warm:
            from rlkit_core.group import import_all

            import_all()
            gc.collect()
            # The collector of a copy would touch, and so copy, every page.
            self._frozen = gc.get_freeze_count() == 0
            gc.freeze()
            self._warm = True

    def _reap(self) -> None:
        for pid in list(self._running):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # somebody else has waited for it
                found, code = pid, 70
            if found:
                self._ended.append(Ended.of(self._running.pop(pid), code))


def _may_fork() -> bool:
    """Whether a copy of this process could go on: it has no threads but the one that made it, and no CUDA."""
    torch = sys.modules.get("torch")
    if threading.active_count() > 1 or (torch is not None and torch.cuda.is_initialized()):
        return False
    # OpenBLAS starts one for each core but one when numpy is imported, and takes them down around a fork. More are of
    # something that has been computed here, and does not.
    return len(os.listdir("/proc/self/task")) <= (os.cpu_count() or 1)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _spawn(task: Task) -> int:
    with open(task.run_dir / OUTPUT, "ab") as output:
        process = subprocess.Popen(
            [*command(task), "--parent-pid", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    process.returncode = 0  # we wait for it by its id: Popen shall not
    return process.pid


def _child(task: Task, parent: int, mask: set[signal.Signals | int]) -> None:
    """What a forked process does; it never returns."""
    code = 70
    try:
        os.setsid()
        die_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        output = os.open(task.run_dir / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        # Streams of its own: the parent's may stand for a display, or a test.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        from rlkit_core.group import do_task

        code = do_task(task.run_dir, imports=task.imports)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)  # nothing of the parent's is to be ended here
