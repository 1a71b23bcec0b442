"""Actor-critic policy: a policy and a value function, on one trunk or on two."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.distributions import DiagonalGaussian, distribution_for
from rlkit_core.builtin.encoding import Preprocessor
from rlkit_core.builtin.mlp import orthogonal
from rlkit_core.builtin.parallel import build_parallel
from rlkit_core.component import ExplorationConfig, NetworkConfig
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Rollout, Tree

_POLICY, _VALUE = 0, 1
_NO_STARTS = torch.zeros(0, dtype=torch.bool)


class ActorCritic(Policy):
    """Policy and value function; `actor_critic` makes one.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        network: builds the trunk.
        exploration: builds the noise of continuous actions, whose deviation is learned; others sample by themselves.
        value_network: `shared`: policy and value are heads on one trunk; `separate`: a trunk each.
        normalize_observations: put an `ObservationNormalizer` before the trunk.
        orthogonal_init: heads orthogonal with gain 0.01 (policy) and 1 (value), else torch's default; "What Matters in
            On-Policy Reinforcement Learning?" (Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2) says why.
        device: where the weights live; observations and answers are moved there and stay there.

    Raises:
        UsageError: a space is not supported.
    """

    takes_arrays = True

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        network: NetworkConfig,
        *,
        exploration: ExplorationConfig,
        value_network: Literal["shared", "separate"] = "shared",
        normalize_observations: bool = False,
        orthogonal_init: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.distribution = distribution_for(action_space)
        self.preprocessor = Preprocessor(observation_space, normalize=normalize_observations, device=device)
        # One network, or two side by side: the policy's and the value's.
        self.trunk = network.build(observation_space) if value_network == "shared" else None
        self.trunks = build_parallel(network, observation_space, 2) if value_network == "separate" else None
        num_features = (self.trunk or self.trunks).num_features  # type: ignore[union-attr]
        self.policy_head = nn.Linear(num_features, self.distribution.num_params)
        self.value_head = nn.Linear(num_features, 1)
        if orthogonal_init:
            orthogonal(self.policy_head, 0.01)
            orthogonal(self.value_head, 1.0)
        self.exploration = (
            exploration.build(num_features, self.distribution.num_params, "learned")
            if isinstance(self.distribution, DiagonalGaussian)
            else None
        )
        # Found in the object itself, they need not be asked of nn.Module, which takes a microsecond each time.
        self.__dict__.update(self._modules)
        self.to(device)

    def _features(self, which: int, obs: Tree) -> Tensor:
        """Features `[B, F]` below one of the heads, of preprocessed observations."""
        return self.trunk(obs) if self.trunk is not None else self.trunks.one(which, obs)  # type: ignore[union-attr]

    def _acting_features(self, obs: Tree, on_arrays: bool) -> Any:
        """The policy's, as tensor or array."""
        if not on_arrays:
            return self._features(_POLICY, obs)
        return self.trunk.on_arrays(obs) if self.trunk is not None else self.trunks.one_on_arrays(_POLICY, obs)  # type: ignore[union-attr]

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        """Sample with the generator, or take the mode without one.

        Where the space's actions do not tell the raw ones (Box), these are in `extras["raw_action"]`;
        `taken_actions` finds them.
        """
        return self._act(obs, (), _NO_STARTS, generator)

    def _act(self, obs: Tree, state: Tree, starts: Tensor, generator: torch.Generator | None) -> Act:
        distribution = self.distribution
        # What has diverged is found in what comes of it; numpy's warnings would only come before.
        with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
            features = self._acting_features(*self.preprocessor.for_acting(obs))
            raw = linear(features, self.policy_head)
            if not distribution.takes_arrays:
                features, raw = torch.as_tensor(features), torch.as_tensor(raw)
            if self.exploration is None:
                raw = distribution.mode(raw) if generator is None else distribution.sample(raw, generator)
            elif generator is not None:
                noise, state = self.exploration.noise(features, state, starts, generator)
                raw = raw + noise
            action = torch.as_tensor(distribution.to_space(raw))
        return Act(action, {} if distribution.lossless else {"raw_action": raw}, state)

    def taken_actions(self, rollout: Rollout) -> Tensor:
        """What `evaluate` wants to know of a rollout's actions, `[T, N, ...]`."""
        return rollout.actions if self.distribution.lossless else rollout.extras["raw_action"]  # type: ignore[no-any-return]

    def value(self, obs: Tree) -> Tensor:
        """Values `[B]` of observations `[B, ...]`, in the units of the targets they were trained on."""
        features = self._features(_VALUE, self.preprocessor(obs))
        return linear(features, self.value_head).squeeze(1)

    def evaluate(self, obs: Tree, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, `[B]` each, differentiable.

        Args:
            obs: `[B, ...]`.
            taken: `[B, ...]`, rows of what `taken_actions` gives.
        """
        taken = taken.to(self.policy_head.weight.device)
        raw = self.distribution.from_space(taken) if self.distribution.lossless else taken
        obs = self.preprocessor(obs)
        if self.trunks is not None:
            features, value_features = self.trunks(obs).unbind()
        else:
            features = value_features = self._features(_POLICY, obs)
        params = linear(features, self.policy_head)
        if self.exploration is not None:
            params = torch.cat([params, self.exploration.log_std(features)], 1)
        log_probs, entropies = self.distribution.log_prob_and_entropy(params, raw)
        values = linear(value_features, self.value_head).squeeze(1)
        return log_probs, entropies, values


class ExploringActorCritic(ActorCritic, StatefulPolicy):
    """The same with exploration that carries something from step to step."""

    def initial_state(self, num_envs: int) -> Tree:
        """The exploration's."""
        assert self.exploration is not None
        return self.exploration.initial_state(num_envs)

    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """As `ActorCritic.act`."""
        return self._act(obs, state, starts, generator)


def actor_critic(
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    network: NetworkConfig,
    *,
    exploration: ExplorationConfig,
    **settings: Any,
) -> ActorCritic:
    """An actor-critic policy, with a state where its exploration has one; arguments as those of `ActorCritic`."""
    stateful = exploration.has_state and isinstance(action_space, spaces.Box)
    cls = ExploringActorCritic if stateful else ActorCritic
    return cls(observation_space, action_space, network, exploration=exploration, **settings)
