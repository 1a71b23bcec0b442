"""Actor-critic policy: a shared trunk with a policy head and a value head."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlkit_core.builtin.distributions import distribution_for
from rlkit_core.builtin.encoding import ObservationNormalizer
from rlkit_core.builtin.mlp import orthogonal
from rlkit_core.component import NetworkConfig
from rlkit_core.policy import Act, Policy
from rlkit_core.rollout import Rollout, Tree, tree_map


class ActorCritic(Policy):
    """Policy and value function on one trunk.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        network: builds the trunk.
        normalize_observations: put an `ObservationNormalizer` before the trunk.
        log_std_init: initial logarithm of the deviation of continuous actions.
        orthogonal_init: heads orthogonal with gain 0.01 (policy) and 1 (value), else torch's default; "What Matters in
            On-Policy Reinforcement Learning?" (Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2) says why.
        device: where the weights live; observations and answers are moved there and stay there.

    Raises:
        UsageError: a space is not supported.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        network: NetworkConfig,
        *,
        normalize_observations: bool = False,
        log_std_init: float = 0.0,
        orthogonal_init: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.distribution = distribution_for(action_space, log_std_init)
        self.normalizer = ObservationNormalizer(observation_space) if normalize_observations else None
        self.trunk = network.build(observation_space)
        self.policy_head = nn.Linear(self.trunk.num_features, self.distribution.num_params)
        self.value_head = nn.Linear(self.trunk.num_features, 1)
        if orthogonal_init:
            orthogonal(self.policy_head, 0.01)
            orthogonal(self.value_head, 1.0)
        self.to(device)
        self._device = None if device == "cpu" else torch.device(device)

    def _features(self, obs: Tree) -> Tensor:
        if self._device is not None:
            obs = tree_map(lambda leaf: torch.as_tensor(leaf).to(self._device), obs)
        if self.normalizer is not None:
            obs = self.normalizer(obs)
        return self.trunk(obs)  # type: ignore[no-any-return]

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        """Sample with the generator, or take the mode without one.

        Where the space's actions do not tell the raw ones (Box), these are in `extras["raw_action"]`;
        `taken_actions` finds them.
        """
        with torch.no_grad():
            params = linear(self._features(obs), self.policy_head.weight, self.policy_head.bias)
            distribution = self.distribution
            raw = distribution.mode(params) if generator is None else distribution.sample(params, generator)
            action = distribution.to_space(raw)
        return Act(action) if distribution.lossless else Act(action, {"raw_action": raw})

    def taken_actions(self, rollout: Rollout) -> Tensor:
        """What `evaluate` wants to know of a rollout's actions, `[T, N, ...]`."""
        return rollout.actions if self.distribution.lossless else rollout.extras["raw_action"]  # type: ignore[no-any-return]

    def value(self, obs: Tree) -> Tensor:
        """Values `[B]` of observations `[B, ...]`, in the units of the targets they were trained on."""
        return linear(self._features(obs), self.value_head.weight, self.value_head.bias).squeeze(1)

    def evaluate(self, obs: Tree, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, `[B]` each, differentiable, of one pass through the trunk.

        Args:
            obs: `[B, ...]`.
            taken: `[B, ...]`, rows of what `taken_actions` gives.
        """
        if self._device is not None:
            taken = taken.to(self._device)
        raw = self.distribution.from_space(taken) if self.distribution.lossless else taken
        features = self._features(obs)
        params = linear(features, self.policy_head.weight, self.policy_head.bias)
        log_probs, entropies = self.distribution.log_prob_and_entropy(params, raw)
        values = linear(features, self.value_head.weight, self.value_head.bias).squeeze(1)
        return log_probs, entropies, values

    def update_normalizer(self, obs: Tree) -> None:
        """Take newly collected observations `[B, ...]` into the normalisation: at the end of a learner's update."""
        if self.normalizer is not None:
            self.normalizer.update(obs)
