"""Action values, and the policy that takes the best or a random action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.encoding import Preprocessor, features_for_acting
from rlkit_core.component import NetworkConfig
from rlkit_core.errors import UsageError
from rlkit_core.policy import Act, Policy
from rlkit_core.rollout import Tree


class QNetwork(nn.Module):
    """Values of all actions.

    Args:
        observation_space: of a single environment.
        num_actions: how many actions there are.
        network: builds what lies below the values.
        dueling: Q = V + A - mean(A), as Wang et al. 2016, arXiv:1511.06581, equation 9.
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], num_actions: int, network: NetworkConfig, *, dueling: bool
    ) -> None:
        super().__init__()
        self.network = network.build(observation_space)
        self.head = nn.Linear(self.network.num_features, num_actions)
        self.value_head = nn.Linear(self.network.num_features, 1) if dueling else None

    def forward(self, obs: Tree) -> Tensor:
        """Values `[B, num_actions]` of observations `[B, ...]`."""
        return self.values(self.network(obs))

    def values(self, features: Tensor) -> Tensor:
        """Values `[B, num_actions]` of features `[B, F]`."""
        values = linear(features, self.head)
        if self.value_head is not None:
            values = values - values.mean(1, keepdim=True) + self.value_head(features)
        return values


class EpsilonGreedy(Policy):
    """Takes the action of highest value or, when it samples, with a certain probability a random one.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        network: builds the network below the values.
        epsilon: tells the probability of a random action at the time of asking.
        dueling: see `QNetwork`.
        normalize_observations: put an `ObservationNormalizer` before the network.
        device: where the weights live.

    Raises:
        UsageError: a space is not supported.
    """

    takes_arrays = True

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        network: NetworkConfig,
        epsilon: Callable[[], float],
        *,
        dueling: bool,
        normalize_observations: bool,
        device: str,
    ) -> None:
        super().__init__()
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(f"dqn takes Discrete actions, not {action_space}")
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.preprocessor = Preprocessor(observation_space, normalize=normalize_observations, device=device)
        self.q_network = QNetwork(observation_space, self.num_actions, network, dueling=dueling)
        self._epsilon = epsilon
        self.to(device)

    @torch.no_grad()
    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        """The action of highest value; with a generator, a random one with probability epsilon."""
        features = features_for_acting(self.q_network.network, self.preprocessor, obs)
        actions = self.q_network.values(features).argmax(1)
        if generator is not None:
            drawn = torch.rand(2, len(actions), generator=generator, device=actions.device)
            # Both numbers are drawn always, so that the stream does not depend on what was explored.
            actions = torch.where(drawn[0] < self._epsilon(), (drawn[1] * self.num_actions).long(), actions)
        return Act(actions + self.first_action)
