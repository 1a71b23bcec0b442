"""Settings that change over a run, by the environment steps that a learner has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Shape = Literal["constant", "linear", "step"]


class Clock:
    """Counts environment steps, for all schedules of a learner."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, num_steps: int) -> None:
        """Let environment steps pass."""
        self.steps += num_steps

    def state_dict(self) -> dict[str, int]:
        """Steps so far."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the state back."""
        self.steps = int(state["steps"])


class Counter:
    """Counts whatever a learner has to remember the number of."""

    def __init__(self) -> None:
        self.number = 0

    def add(self) -> None:
        """Count one more."""
        self.number += 1

    def state_dict(self) -> dict[str, int]:
        """The number."""
        return {"number": self.number}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the number back."""
        self.number = int(state["number"])


class Schedule:
    """A number that stays (`constant`), goes in a straight line (`linear`), or changes at once (`step`).

    Args:
        clock: whose steps count.
        initial: value at the run's beginning.
        shape: see above.
        duration: environment steps after which `linear` and `step` are at `final`, and stay there.
        final: where they go to.
    """

    def __init__(self, clock: Clock, initial: float, shape: Shape, duration: float, final: float = 0.0) -> None:
        self._clock = clock
        self._initial, self._final = initial, final
        self._shape = shape
        self._duration = duration

    @property
    def value(self) -> float:
        """The number now."""
        if self._shape == "constant":
            return self._initial
        steps = self._clock.steps
        if steps >= self._duration:
            return self._final
        if self._shape == "step":
            return self._initial
        return self._final + (self._initial - self._final) * (1.0 - steps / self._duration)


def updates_due(before: int, after: int, updates_per_step: float, warmup_steps: int) -> int:
    """Updates that are due when the steps of a run go from `before` to `after`.

    Args:
        before: environment steps.
        after: likewise.
        updates_per_step: updates per environment step, on average: with 0.25 one is due every fourth step.
        warmup_steps: the first steps, which do not count.
    """
    owed = [int(updates_per_step * max(0, steps - warmup_steps)) for steps in (before, after)]
    return owed[1] - owed[0]
