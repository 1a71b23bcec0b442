"""Collector: what runs a Policy in environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium

from rlkit_core.environment import Inexact
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

    def state_dict(self) -> Mapping[str, Any] | None:
        """All state that decides what is collected next: environments, generators, what a stateful policy carries.

        Tensors, numpy arrays, numbers, texts, and lists, tuples and dicts of them. None: it cannot be stored, and a
        resumed run starts fresh episodes.
        """
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back, before the first `collect`.

        Raises:
            Inexact: the environments cannot be brought back to where they were; everything else has been, and the next
                `collect` starts fresh episodes.
        """
        raise Inexact("the collector does not store its state")

    def close(self) -> None:  # noqa: B027 (not every collector holds something)
        """Free environments and processes."""
