"""Collector: what runs a Policy in environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium

from rlkit_core.policy import Policy
from rlkit_core.rollout import Rollout


class Collector(ABC):
    """Runs a policy in environments and reports what was seen.

    Attributes:
        observation_space: of a single environment.
        action_space: likewise.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]

    @abstractmethod
    def collect(self, policy: Policy) -> Rollout:
        """Run `policy` for as long as one update needs.

        The tensors of the Rollout belong to the caller: they are not written to again.

        Raises:
            EnvironmentFault: an environment raised or returned what its spaces do not allow.
        """

    def close(self) -> None:  # noqa: B027 (not every collector holds something)
        """Free environments and processes."""
