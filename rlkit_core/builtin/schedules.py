"""Settings that change over a run, by the environment steps that a learner has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from rlkit_core.errors import UsageError

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


class GradientSteps:
    """Counts gradient steps, and says how many are due by the environment steps that have passed.

    Args:
        clock: whose steps count.
        per_step: gradient steps per environment step, on average: with 0.25 one is due every fourth step.
        warmup_steps: environment steps at first that do not count.
        total_steps: environment steps of the whole run.

    Attributes:
        number: how many have been taken.
    """

    def __init__(self, clock: Clock, per_step: float, warmup_steps: int, total_steps: int) -> None:
        self._clock = clock
        self._per_step = per_step
        self._warmup_steps = warmup_steps
        self._total_steps = total_steps
        self.number = 0

    def due(self) -> Iterator[int]:
        """The numbers, from 1, of those that are due; each counts as taken once the iterator has given it.

        Raises:
            UsageError: none would be due in the whole run.
        """
        # Asked where it learns and not where it is built: a stored policy is built for no run.
        if self._per_step * (self._total_steps - self._warmup_steps) < 1:
            raise UsageError(
                f"nothing would be learned: no gradient step is due within {self._total_steps:,} steps\n"
                f"warmup_steps is {self._warmup_steps:,}, updates_per_step {self._per_step:g}: "
                "change these, or take more steps"
            )
        while self.number < int(self._per_step * max(0, self._clock.steps - self._warmup_steps)):
            self.number += 1
            yield self.number

    def state_dict(self) -> dict[str, int]:
        """How many have been taken."""
        return {"number": self.number}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the number back."""
        self.number = int(state["number"])
