"""Actor-critic policy: a policy and a value function, on one trunk or on two."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit_core.builtin.action_mask import ActionMask
from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.distributions import DiagonalGaussian, distribution_for
from rlkit_core.builtin.encoding import Preprocessor
from rlkit_core.builtin.mlp import orthogonal
from rlkit_core.builtin.parallel import NetworkList, build_parallel
from rlkit_core.builtin.sequences import Sequences
from rlkit_core.component import ExplorationConfig, NetworkConfig
from rlkit_core.errors import PluginError
from rlkit_core.network import ParallelNetworks, RecurrentNetwork
from rlkit_core.policy import Act, ActorCriticPolicy, StatefulPolicy
from rlkit_core.rollout import Rollout, Tree, tree_leaves, tree_map

_POLICY, _VALUE = 0, 1
_NO_STARTS = torch.zeros(0, dtype=torch.bool)


class ActorCritic(ActorCriticPolicy):
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
        mask: takes forbidden actions out, and what says which they are out of the observations.
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
        mask: ActionMask | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.distribution = distribution_for(action_space)
        self.mask = mask
        if mask is not None:
            observation_space = mask.seen_space
        self.preprocessor = Preprocessor(observation_space, normalize=normalize_observations, device=device)
        # One network, or two side by side: the policy's and the value's.
        self.trunk = network.build(observation_space) if value_network == "shared" else None
        self.trunks = self._build_two(network, observation_space) if value_network == "separate" else None
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
        if any(isinstance(module, RecurrentNetwork) for module in self.modules()) != network.recurrent:
            raise PluginError(
                f"network {network.name} does not build what its config says: recurrent is {network.recurrent}\n"
                "it should be True where a RecurrentNetwork is built, and only there"
            )
        # Found in the object itself, they need not be asked of nn.Module, which takes a microsecond each time.
        self.__dict__.update(self._modules)
        self.to(device)

    def _build_two(self, network: NetworkConfig, observation_space: gymnasium.Space[Any]) -> ParallelNetworks:
        return build_parallel(network, observation_space, 2)

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
        allowed, refused = None, None
        if self.mask is not None:
            allowed, refused = self._allowed(obs)
            obs = self.mask.seen(obs)
        # What has diverged is found in what comes of it; numpy's warnings would only come before.
        with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
            features = self._acting_features(*self.preprocessor.for_acting(obs))
            return self._choose(features, allowed, refused, state, starts, generator)

    def _allowed(self, obs: Tree) -> tuple[Any, tuple[NDArray[np.bool_], str] | None]:
        """Which actions may be taken, an array, and which rows have none."""
        assert self.mask is not None
        allowed = np.asarray(torch.as_tensor(self.mask.allowed(obs)).cpu())
        return allowed, self.mask.nothing_allowed(allowed)

    def _choose(
        self,
        features: Any,
        allowed: Any,
        refused: tuple[NDArray[np.bool_], str] | None,
        state: Tree,
        starts: Tensor,
        generator: torch.Generator | None,
    ) -> Act:
        """Actions given the policy's features; the state is the exploration's."""
        distribution = self.distribution
        raw = linear(features, self.policy_head)
        if not distribution.takes_arrays:
            features, raw = torch.as_tensor(features), torch.as_tensor(raw)
        if allowed is not None:
            raw = self.mask.apply(raw, allowed)  # type: ignore[union-attr]
        if self.exploration is None:
            raw = distribution.mode(raw) if generator is None else distribution.sample(raw, generator)
        elif generator is not None:
            noise, state = self.exploration.noise(features, state, starts, generator)
            raw = raw + noise
        action = torch.as_tensor(distribution.to_space(raw))
        return Act(action, {} if distribution.lossless else {"raw_action": raw}, state, refused)

    def taken_actions(self, rollout: Rollout) -> Tensor:
        """What `evaluate` wants to know of a rollout's actions, `[T, N, ...]`."""
        return rollout.actions if self.distribution.lossless else rollout.extras["raw_action"]  # type: ignore[no-any-return]

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """`[T, N]` each."""
        return rollout.values(self.value)

    def value(self, obs: Tree) -> Tensor:
        """Values `[B]` of observations `[B, ...]`, in the units of the targets they were trained on."""
        if self.mask is not None:
            obs = self.mask.seen(obs)
        features = self._features(_VALUE, self.preprocessor(obs))
        return linear(features, self.value_head).squeeze(1)

    def columns(self, rollout: Rollout, *rows: Tensor) -> tuple[Any, ...]:
        """Observations, actions, and what else is given: valid rows, `[B, ...]`."""
        return rollout.columns(rollout.obs, self.taken_actions(rollout), *rows)

    def evaluate(self, obs: Any, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, `[B]` each, differentiable.

        Args:
            obs: `[B, ...]`.
            taken: `[B, ...]`, rows of what `taken_actions` gives.
        """
        allowed = None
        if self.mask is not None:
            allowed, obs = self.mask.allowed(obs), self.mask.seen(obs)
        obs = self.preprocessor(obs)
        if self.trunks is not None:
            features, value_features = self.trunks(obs).unbind()
        else:
            features = value_features = self._features(_POLICY, obs)
        return self._judge(features, value_features, allowed, taken)

    def _judge(
        self, features: Tensor, value_features: Tensor, allowed: Any, taken: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, given the features below both heads."""
        taken = taken.to(self.policy_head.weight.device)
        raw = self.distribution.from_space(taken) if self.distribution.lossless else taken
        params = linear(features, self.policy_head)
        if allowed is not None:
            params = self.mask.apply(params, allowed)  # type: ignore[union-attr]
        if self.exploration is not None:
            params = torch.cat([params, self.exploration.log_std(features)], 1)
        log_probs, entropies = self.distribution.log_prob_and_entropy(params, raw)
        values = linear(value_features, self.value_head).squeeze(1)
        return log_probs, entropies, values

    def update_normalization(self, obs: Any) -> None:
        """Take rows `[B, ...]` that were newly collected into the normalisation of observations."""
        self.preprocessor.update(obs if self.mask is None else self.mask.seen(obs))


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


class RecurrentActorCritic(ActorCritic, StatefulPolicy):
    """The same on a network that remembers: it learns from sequences.

    Its state is that of the network (of both, where the value has its own) and that of the exploration.
    """

    def _build_two(self, network: NetworkConfig, observation_space: gymnasium.Space[Any]) -> NetworkList:
        return NetworkList([network.build(observation_space) for _ in range(2)])

    @property
    def _networks(self) -> list[RecurrentNetwork]:
        """The policy's and the value's, or the one of both."""
        networks: Any = [self.trunk] if self.trunk is not None else self.trunks.networks  # type: ignore[union-attr]
        return list(networks)

    def initial_state(self, num_envs: int) -> Tree:
        """The networks', and the exploration's."""
        exploration = () if self.exploration is None else self.exploration.initial_state(num_envs)
        return tuple(network.initial_state(num_envs) for network in self._networks), exploration

    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """As `ActorCritic.act`."""
        networks, exploration = state
        allowed, refused = None, None
        if self.mask is not None:
            allowed, refused = self._allowed(obs)
            obs = self.mask.seen(obs)
        with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
            (features, _), networks = self._run(self.preprocessor(obs), networks, starts.unsqueeze(0))
            on_arrays: Any = features.numpy() if features.is_cpu else features
            act = self._choose(on_arrays, allowed, refused, exploration, starts, generator)
        return act._replace(state=(networks, act.state))

    def _run(self, obs: Tree, state: Tree, starts: Tensor) -> tuple[list[Tensor], Tree]:
        """Features `[T * N, F]` below the policy's head and the value's, and the networks' state after them.

        Args:
            obs: `[T * N, ...]`, preprocessed.
            state: of the networks, before.
            starts: `[T, N]`.
        """
        starts = starts.to(self.policy_head.weight.device)
        done = [network(obs, part, starts) for network, part in zip(self._networks, state, strict=True)]
        return [done[_POLICY][0], done[-1][0]], tuple(state for _, state in done)

    def value(self, obs: Tree) -> Tensor:
        """Values `[B]` of observations `[B, ...]` with which episodes start."""
        B = len(tree_leaves(obs)[0][1])
        state = tuple(network.initial_state(B) for network in self._networks)
        return self._value(obs, state, torch.zeros(1, B, dtype=torch.bool))[0]

    def _value(self, obs: Tree, state: Tree, starts: Tensor) -> tuple[Tensor, Tree]:
        """Values `[T * N]` of observations `[T * N, ...]`, and the state after them."""
        if self.mask is not None:
            obs = self.mask.seen(obs)
        network, index = self._networks[-1], len(self._networks) - 1
        starts = starts.to(self.policy_head.weight.device)
        features, after = network(self.preprocessor(obs), state[index], starts)
        return linear(features, self.value_head).squeeze(1), (*state[:index], after)

    @torch.no_grad()
    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """`[T, N]` each; what follows a row is seen with the state after that row.

        So a final observation stands in its sequence behind its row, and moves the rows after it, with which the next
        episode starts, down by one.
        """
        T, N = rollout.shape
        lanes = torch.arange(N)
        rows = tree_map(lambda leaf: leaf.flatten(0, 1), rollout.all_obs)
        place = torch.arange(T + 1).unsqueeze(1).expand(-1, N)  # [T+1, N] where each row stands
        finals = rollout.finals
        if finals is not None:
            inserted = torch.zeros(T + 1, N, dtype=torch.int64)
            inserted[finals.time + 1, finals.lane] = 1
            place = place + inserted.cumsum(0)
            rows = tree_map(lambda leaf, final: torch.cat([leaf, final]), rows, finals.obs)
        length = int(place.max()) + 1
        source = torch.zeros(length, N, dtype=torch.int64)  # which of `rows`; shorter sequences end in any row
        source[place, lanes] = torch.arange((T + 1) * N).view(T + 1, N)
        starts = torch.zeros(length, N, dtype=torch.bool)
        starts[place[:-1], lanes] = rollout.starts
        if finals is not None:
            after = place[finals.time, finals.lane] + 1
            source[after, finals.lane] = (T + 1) * N + torch.arange(len(after))
        values, _ = self._value(tree_map(lambda leaf: leaf[source.flatten()], rows), rollout.state[0], starts)
        ordered = values.cpu().view(length, N)
        grid = ordered[place, lanes]
        next_values = grid[1:]
        if finals is not None:
            next_values = next_values.clone()
            next_values[finals.time, finals.lane] = ordered[after, finals.lane]
        return grid[:-1], next_values

    def columns(self, rollout: Rollout, *rows: Tensor) -> tuple[Any, ...]:
        """Sequences in the place of observations; actions, and what else is given, as elsewhere."""
        sequences = Sequences(rollout.obs, rollout.starts, rollout.valid, rollout.state[0])
        return sequences, *rollout.columns(self.taken_actions(rollout), *rows)

    def evaluate(self, obs: Any, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, `[B]` each, differentiable back to the sequences' first rows.

        Args:
            obs: `Sequences` in which B rows are valid.
            taken: `[B, ...]`.
        """
        assert isinstance(obs, Sequences)
        flat = tree_map(lambda leaf: leaf.flatten(0, 1), obs.obs)
        allowed = None
        if self.mask is not None:
            allowed, flat = self.mask.allowed(flat), self.mask.seen(flat)
        features, _ = self._run(self.preprocessor(flat), obs.state, obs.starts)
        if not obs.valid.all():
            index = obs.valid.flatten().nonzero().squeeze(1)
            allowed = None if allowed is None else allowed[index]
            features = [rows.index_select(0, index.to(rows.device)) for rows in features]
        return self._judge(features[0], features[1], allowed, taken)

    def update_normalization(self, obs: Any) -> None:
        """Take newly collected sequences into the normalisation of observations."""
        assert isinstance(obs, Sequences)
        super().update_normalization(tree_map(lambda leaf: leaf[obs.valid], obs.obs))


def actor_critic(
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    network: NetworkConfig,
    *,
    exploration: ExplorationConfig,
    **settings: Any,
) -> ActorCritic:
    """An actor-critic policy, with a state where its network or its exploration has one.

    Arguments are those of `ActorCritic`.
    """
    stateful = exploration.has_state and isinstance(action_space, spaces.Box)
    cls = RecurrentActorCritic if network.recurrent else ExploringActorCritic if stateful else ActorCritic
    return cls(observation_space, action_space, network, exploration=exploration, **settings)
