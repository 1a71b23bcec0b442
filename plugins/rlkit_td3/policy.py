"""The deterministic policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from rlkit_core.builtin.action_bounds import bounds_for
from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.encoding import Preprocessor, features_for_acting
from rlkit_core.component import ExplorationConfig, NetworkConfig
from rlkit_core.policy import Act, StatefulPolicy
from rlkit_core.rollout import Tree


class Actor(nn.Module):
    """The network of the policy: from observations to actions in [-1, 1].

    Args:
        observation_space: of a single environment.
        num_actions: numbers in an action.
        network: builds what lies below the actions.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], num_actions: int, network: NetworkConfig) -> None:
        super().__init__()
        self.network = network.build(observation_space)
        self.head = nn.Linear(self.network.num_features, num_actions)

    def forward(self, obs: Tree) -> Tensor:
        """Actions `[B, A]` of observations `[B, ...]`."""
        return self.actions(self.network(obs))

    def actions(self, features: Tensor) -> Tensor:
        """Actions `[B, A]` of the network's features `[B, F]`."""
        return linear(features, self.head).tanh()


class DeterministicPolicy(StatefulPolicy):
    """One action for each observation, with noise when it samples.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        network: builds what lies below the actions.
        exploration: builds the noise.
        warming_up: tells whether actions are still drawn uniformly, at the time of asking.
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
        exploration: ExplorationConfig,
        warming_up: Callable[[], bool],
        *,
        normalize_observations: bool,
        device: str,
    ) -> None:
        super().__init__()
        self.bounds = bounds_for(action_space, "td3")
        self.num_actions = self.bounds.num_actions
        self.preprocessor = Preprocessor(observation_space, normalize=normalize_observations, device=device)
        self.actor = Actor(observation_space, self.num_actions, network)
        self.exploration = exploration.build(self.actor.network.num_features, self.num_actions, "fixed")
        self._warming_up = warming_up
        self.to(device)

    def initial_state(self, num_envs: int) -> Tree:
        """The exploration's."""
        return self.exploration.initial_state(num_envs)

    @torch.no_grad()
    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """The action; with a generator, noise is added and what then lies outside the bounds is clipped."""
        features = features_for_acting(self.actor.network, self.preprocessor, obs)
        unit = self.actor.actions(features)
        if generator is not None:
            # In the warm-up too, because noise that has a memory begins where an episode starts.
            noise, state = self.exploration.noise(features, state, starts, generator)
            unit = unit + noise
            if self._warming_up():
                unit.uniform_(-1, 1, generator=generator)
        return Act(self.bounds.to_space(unit), state=state)
