"""Settings that change over a run."""

from __future__ import annotations

from collections.abc import Mapping


class Schedule:
    """A number that stays (`constant`) or falls in a straight line to zero (`linear`), counted in environment steps.

    Args:
        initial: value at the run's beginning.
        shape: `constant` or `linear`.
        total_steps: environment steps at which `linear` reaches zero.
    """

    def __init__(self, initial: float, shape: str, total_steps: int) -> None:
        self._initial = initial
        self._shape = shape
        self._total_steps = total_steps
        self._steps = 0

    @property
    def value(self) -> float:
        """The number now."""
        if self._shape == "constant":
            return self._initial
        return self._initial * max(0.0, 1.0 - self._steps / self._total_steps)

    def advance(self, num_steps: int) -> None:
        """Let environment steps pass."""
        self._steps += num_steps

    def state_dict(self) -> dict[str, int]:
        """Steps so far."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the state back."""
        self._steps = int(state["steps"])
