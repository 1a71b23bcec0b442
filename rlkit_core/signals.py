"""SIGINT and SIGTERM outside the training loop, which has a way of its own to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
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


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or number
    raise KeyboardInterrupt(number)
