"""The squashed Gaussian policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from rlkit_core.builtin.action_bounds import bounds_for
from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.encoding import Preprocessor, features_for_acting
from rlkit_core.component import ExplorationConfig, NetworkConfig
from rlkit_core.policy import Act, StatefulPolicy
from rlkit_core.rollout import Tree


class SquashedGaussian(StatefulPolicy):
    """Normally distributed actions, squashed by tanh into the bounds of the action space.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        network: builds what lies below mean and deviation.
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
        self.bounds = bounds_for(action_space, "sac")
        self.num_actions = self.bounds.num_actions
        self.preprocessor = Preprocessor(observation_space, normalize=normalize_observations, device=device)
        self.network = network.build(observation_space)
        self.mean_head = nn.Linear(self.network.num_features, self.num_actions)
        self.exploration = exploration.build(self.network.num_features, self.num_actions, "from_features")
        self._warming_up = warming_up
        self.to(device)

    def initial_state(self, num_envs: int) -> Tree:
        """The exploration's."""
        return self.exploration.initial_state(num_envs)

    @torch.no_grad()
    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """Sample with the generator; without one, the squashed mean."""
        features = features_for_acting(self.network, self.preprocessor, obs)
        raw = linear(features, self.mean_head)
        if generator is not None:
            # In the warm-up too, because noise that has a memory begins where an episode starts.
            noise, state = self.exploration.noise(features, state, starts, generator)
            raw = raw + noise
        unit = raw.tanh()
        if generator is not None and self._warming_up():
            unit.uniform_(-1, 1, generator=generator)
        return Act(self.bounds.to_space(unit), state=state)

    def sample(self, obs: Tree, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions `[B, A]` in [-1, 1] with their log-probabilities `[B]`, differentiable in the weights.

        Haarnoja et al. 2018, arXiv:1812.05905, appendix C: log pi(a) = log N(raw) - sum log(1 - tanh(raw)^2), the
        last term in a form that does not overflow.

        Args:
            obs: `[B, ...]`, preprocessed.
            generator: what the noise is drawn from.
        """
        features = self.network(obs)
        mean = linear(features, self.mean_head)
        log_std = self.exploration.log_std(features)
        noise = torch.empty_like(mean).normal_(generator=generator)
        raw = mean + log_std.exp() * noise
        log_normal = -(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi))
        log_squash = 2 * (math.log(2) - raw - softplus(-2 * raw))
        return raw.tanh(), (log_normal - log_squash).sum(1)
