"""Learner: what improves a Policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rlkit_core.policy import Policy
from rlkit_core.rollout import Rollout


class Part(Protocol):
    """Something with state to be stored: nn.Module, optimiser, normaliser, schedule."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors, numpy arrays, numbers, strings, and lists, tuples and dicts of them.

        Tensors of floating-point numbers hold finite ones only: a checkpoint with others is refused as diverged.
        """

    def load_state_dict(self, state: Any, /) -> Any:
        """Take the state back."""


@runtime_checkable
class GrowingPart(Part, Protocol):
    """A part most of whose state is rows that come and are forgotten, such as a replay.

    A checkpoint writes each row once, in segments, and besides them `state_dict(rows=False)`. All segments that hold
    rows still kept are given back, in the order they were taken in, before that state is.
    """

    def state_dict(self, rows: bool = True) -> Mapping[str, Any]:
        """As a part's, or all of it but the rows."""

    def position(self) -> list[int]:
        """How far the rows go, in numbers that only grow."""

    def rows_since(self, position: Sequence[int] | None) -> Mapping[str, Tensor] | None:
        """Rows that have come since then (None: all that are kept), as copies; None if there are none."""

    def add_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Take a segment back."""

    def keeps(self, position: Sequence[int]) -> bool:
        """Whether any row is still kept that had come by then."""


class Learner(ABC):
    """Owns a Policy and improves it; everything else it needs (optimiser, replay, estimator) is its own.

    Attributes:
        policy: the policy that acts; the same object from the first to the last update.
    """

    policy: Policy

    @abstractmethod
    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """Learn from a rollout.

        Returns:
            numbers or 0-d tensors to log, named as the algorithm's docs page names them.

        Raises:
            Diverged: a loss or gradient is not finite; it has changed no parameter.
        """

    def policy_replaced(self) -> None:  # noqa: B027
        """Called when a run that starts from another one's policy has loaded its weights, before the first update.

        A learner that holds copies of the policy, target networks say, makes them again here.
        """

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """All state that decides how learning goes on, by name: the policy and whatever else changes in `update`."""
