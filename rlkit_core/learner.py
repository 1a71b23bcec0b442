"""Learner: what improves a Policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from rlkit_core.policy import Policy
from rlkit_core.rollout import Rollout


class Part(Protocol):
    """Something with state to be stored: nn.Module, optimiser, normaliser, schedule."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors, numbers, strings, and lists and dicts of them."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take the state back."""


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
