"""SIGINT and SIGTERM outside the training loop, which has a way of its own to stop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_received: int | None = None


def received() -> int | None:
    """The signal that has asked this process to end, or None.

    One that comes while Python runs a finaliser or forks is raised where nobody can catch it, and would be lost.
    """
    return _received


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Inside, both raise KeyboardInterrupt with their number, unless they are ignored."""
    global _received
    before: dict[int, Any] = {}
    _received = None
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _raise)
    except ValueError:  # not in the main thread
        pass
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
        _received = None


@dataclass
class Noted:
    """What was asked for by signals.

    Attributes:
        received: number of the first one, or None.
        times: how many there were.
    """

    received: int | None = None
    times: int = 0


@contextlib.contextmanager
def noting(message: str) -> Iterator[Noted]:
    """Inside, both are only noted, and the message printed at the first: who is asked ends what it does in its own way.

    Args:
        message: what will happen now, and what at another one.
    """
    noted = Noted(_received, int(_received is not None))  # one that came before, and was lost

    def note(number: int, frame: FrameType | None) -> None:
        noted.received = noted.received or number
        noted.times += 1
        if noted.times == 1:
            # Not by way of Python's own streams, which the signal may have interrupted.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: {message}\n".encode())

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or number
    raise KeyboardInterrupt(number)
