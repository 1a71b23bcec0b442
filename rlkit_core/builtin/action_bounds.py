"""The bounds of a Box of actions, and the way between it and [-1, 1]."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit_core.errors import UsageError


class ActionBounds(nn.Module):
    """Maps flat actions `[B, A]`, -1 and 1 being the bounds, to a Box of floats and back.

    A dimension without two finite bounds is not scaled.

    Args:
        space: the Box.

    Attributes:
        num_actions: A, numbers in an action.
        bounded: whether every bound is finite.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    half_width: Tensor
    divisor: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self._shape = space.shape
        self.num_actions = int(np.prod(space.shape, dtype=np.int64))
        low, high = np.asarray(space.low), np.asarray(space.high)
        finite = np.isfinite(low) & np.isfinite(high)
        self.bounded = bool(finite.all())
        # Halves first: the difference of a space's own bounds may overflow.
        half_low, half_high = np.where(finite, low, -1.0) * 0.5, np.where(finite, high, 1.0) * 0.5
        centre, half_width = half_high + half_low, half_high - half_low
        divisor = np.where(half_width > 0, half_width, 1.0)
        for name, number in (
            ("low", low),
            ("high", high),
            ("centre", centre),
            ("half_width", half_width),
            ("divisor", divisor),
        ):
            self.register_buffer(name, torch.from_numpy(np.array(number, space.dtype)), persistent=False)

    def to_space(self, unit: Tensor) -> Tensor:
        """Members of the space `[B, ...]`, in its dtype; what lies outside the bounds is clipped."""
        scaled = unit.view(unit.shape[0], *self._shape).to(self.low.dtype) * self.half_width + self.centre
        # In the space's own dtype, so that rounding cannot lead past a bound.
        return torch.minimum(torch.maximum(scaled, self.low), self.high)

    def from_space(self, actions: Tensor) -> Tensor:
        """Flat float32 actions `[B, A]` of members of the space: `to_space` the other way round."""
        unit = (actions.to(self.low.device) - self.centre) / self.divisor
        return unit.flatten(1).float() if self._shape else unit.unsqueeze(1).float()


def bounds_for(space: gymnasium.Space[Any], algorithm: str) -> ActionBounds:
    """The bounds of an action space, for an algorithm that needs them.

    Raises:
        UsageError: it is no Box of floats, or not all its bounds are finite.
    """
    if isinstance(space, spaces.Box) and is_float_box(space):
        bounds = ActionBounds(space)
        if bounds.bounded:
            return bounds
    raise UsageError(f"{algorithm} takes a Box of floats with finite bounds as actions, not {space}")


def is_float_box(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is a Box of floats that torch knows."""
    return isinstance(space, spaces.Box) and np.dtype(space.dtype) in (np.float16, np.float32, np.float64)
