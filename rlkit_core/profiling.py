"""Where the time of a run goes, by what it was spent on: `rlkit run --profile`."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from rlkit_core.collector import Collector
from rlkit_core.environment import Environments
from rlkit_core.learner import Learner
from rlkit_core.returns import ReturnEstimator

SECTIONS = {
    "environment": "steps and resets of the environments, episode statistics included",
    "acting": "the policy's choice of actions",
    "collecting": "the rest of the collector: copies, checks for numbers that are not finite",
    "returns": "the return estimator",
    "updating": "the rest of the learner: values, losses, gradients, optimiser, replay",
    "recording": "metrics, journal and progress",
}
"""What a training loop spends its time on; evaluations and checkpoints are beside the loop."""


class Profile:
    """Seconds by section. Where sections are inside one another, each is without what is inside it.

    It watches by putting a timer around methods for as long as it is open, so that nothing is slower without it; with
    it a call costs a microsecond more. What is computed stays the same.

    Attributes:
        seconds: by section.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(SECTIONS, 0.0)
        self._inside: list[float] = []  # of each open section, the seconds of the sections inside it
        self._undo = contextlib.ExitStack()

    def watch(self, owner: Any, method: str, section: str) -> None:
        """Count calls of a method of an object, or of all objects of a class, as a section."""
        self._replace(owner, method, functools.partial(self._timed, section))

    def leave_out(self, owner: Any, method: str) -> None:
        """Do not count what happens in calls of a method: an evaluation acts and steps, too."""
        self._replace(owner, method, self._uncounted)

    def watch_parts(self, collector: Collector, learner: Learner) -> None:
        """Watch what a training loop is made of, but for its recording."""
        for method in ("reset", "step"):
            self.watch(Environments, method, "environment")
        self.watch(learner.policy, "act", "acting")
        self.watch(collector, "collect", "collecting")
        for part in learner.parts().values():
            if isinstance(part, ReturnEstimator):
                self.watch(part, "estimate", "returns")
        self.watch(learner, "update", "updating")

    def _replace(self, owner: Any, method: str, around: Callable[..., Any]) -> None:
        inner = getattr(owner, method)
        self._undo.callback(*((setattr, owner, method, inner) if method in vars(owner) else (delattr, owner, method)))
        setattr(owner, method, functools.wraps(inner)(lambda *args, **kwargs: around(inner, *args, **kwargs)))

    def _timed(self, section: str, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._inside.append(0.0)
        began = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            took = time.perf_counter() - began
            self.seconds[section] = self.seconds.get(section, 0.0) + took - self._inside.pop()
            if self._inside:
                self._inside[-1] += took

    def _uncounted(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = dict(self.seconds)
        try:
            return inner(*args, **kwargs)
        finally:
            self.seconds = before

    def close(self) -> None:
        """Take all timers away."""
        self._undo.close()
