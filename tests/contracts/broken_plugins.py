"""For each check a small plugin that fails it and no other: the plugins of a kind are one that is good, broken once.

`BROKEN` has them by the check's name. What is good is in `GOOD`, one of each kind.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pydantic import ConfigDict, Field, field_validator
from torch import nn

from rlkit_core import (
    Act,
    EnvironmentConfig,
    EstimatorConfig,
    Executor,
    ExecutorConfig,
    ExplorationConfig,
    Network,
    NetworkConfig,
    StatefulPolicy,
    Tracker,
    TrackerConfig,
)
from rlkit_core.builtin.actor_critic import ActorCritic
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.mlp import MLP, ParallelMLP
from rlkit_core.builtin.networks import GRUConfig, MLPConfig
from rlkit_core.builtin.noise import OrnsteinUhlenbeckNoise
from rlkit_core.builtin.policies import ActorCriticConfig
from rlkit_core.builtin.recurrent import Recurrent
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.component import CollectorConfig
from rlkit_core.environment import CheckedEnv, Environments
from rlkit_core.errors import UsageError
from rlkit_core.executor import Ended, Task
from rlkit_core.group import do_task
from rlkit_core.returns import LambdaEstimator, Returns
from rlkit_core.rollout import tree_leaves
from rlkit_core.seeding import SeedStream
from rlkit_reinforce.config import ReinforceConfig
from rlkit_reinforce.reinforce import Reinforce

BROKEN: dict[str, Any] = {}
GOOD: list[Any] = []


def breaks(check: str) -> Callable[[Any], Any]:
    """Note down a config class as the one that fails that check."""

    def note(cls: Any) -> Any:
        assert check not in BROKEN, check
        BROKEN[check] = cls
        return cls

    return note


def good(cls: Any) -> Any:
    """Note down a config class that keeps the contract."""
    GOOD.append(cls)
    return cls


# Estimators -----------------------------------------------------------------------------------------------------------


class Estimator(LambdaEstimator):
    def __init__(self) -> None:
        super().__init__(gamma=0.99, normalize="running")


@good
class GoodEstimator(EstimatorConfig):
    """An estimator that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Estimator

    rate: float = Field(0.5, gt=0, description="of no use")

    def build(self) -> Any:
        return self.built()


def estimator(check: str) -> Callable[[Any], Any]:
    """Note down an estimator that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodEstimator,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@breaks("name_can_be_typed")
class TwoWords(GoodEstimator):
    """Broken."""

    name: ClassVar[str] = "two words"


@breaks("everything_is_described")
class NotDescribed(GoodEstimator):
    """Broken."""

    rate: float = Field(0.5, gt=0)


@breaks("numbers_are_bounded")
class AnyNumber(GoodEstimator):
    """Broken."""

    rate: float = Field(0.5, description="of no use")


@breaks("settings_are_frozen")
class NotFrozen(GoodEstimator):
    """Broken."""

    model_config = ConfigDict(frozen=False)


@breaks("unknown_settings_are_refused")
class TakesAnything(GoodEstimator):
    """Broken."""

    model_config = ConfigDict(extra="ignore")


@breaks("settings_go_through_json")
class Doubles(GoodEstimator):
    """Broken."""

    @field_validator("rate")
    @classmethod
    def _double(cls, rate: float) -> float:
        return 2 * rate


@breaks("parts_are_in_slots")
class HalfASlot(GoodEstimator):
    """Broken."""

    inner: EstimatorConfig | None = Field(None, description="another one")


@breaks("building_leaves_settings_alone")
class NotesInSettings(GoodEstimator):
    """Broken."""

    notes: dict[str, int] = Field({}, description="of no use")

    def build(self) -> Any:
        self.notes["built"] = 1
        return Estimator()


@breaks("building_leaves_torch_alone")
class TakesThreads(GoodEstimator):
    """Broken."""

    def build(self) -> Any:
        torch.set_num_threads(3)
        return Estimator()


@breaks("builds_an_estimator")
class BuildsNothing(GoodEstimator):
    """Broken."""

    def build(self) -> Any:
        return SimpleNamespace(estimate=None)


class Changed(Estimator):
    """An estimator that changes what it is given, or what comes of it."""

    def before(self, arguments: dict[str, Any]) -> None: ...

    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        return returns

    def estimate(self, rollout: Any, next_values: Any, **others: Any) -> Returns:
        arguments = {"rollout": rollout, "next_values": next_values, "values": None, **others}
        self.before(arguments)
        return self.after(super().estimate(**arguments), arguments)


@estimator("returns_have_shape_and_type")
class Double(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        return Returns(returns.targets, returns.advantages.double())


@estimator("returns_have_no_gradient")
class KeepsGradient(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        values = arguments["values"]
        if values is None or not values.requires_grad:
            return returns
        return Returns(returns.targets, returns.advantages + 0 * values)


@estimator("returns_are_finite")
class DividesByZero(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        if arguments["rollout"].rewards.std() != 0:
            returns.targets[0, 0] = float("nan")
        return returns


@estimator("zero_variance_is_finite")
class DividesByTheDeviation(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        if arguments["rollout"].rewards.std() == 0:
            returns.targets[0, 0] = float("nan")
        return returns


@estimator("arguments_are_left_alone")
class WritesIntoRewards(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        arguments["rollout"].rewards.add_(1.0)
        return returns


@estimator("asking_changes_nothing")
class AlwaysCounts(Changed):
    def before(self, arguments: dict[str, Any]) -> None:
        arguments["update"] = True


@estimator("state_of_an_estimator_is_plain")
class StoresASet(Estimator):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": {1, 2}}


@estimator("a_second_estimator_goes_on_equally")
class Forgets(Estimator):
    def load_state_dict(self, state: Any, /) -> None: ...


@estimator("same_rollouts_same_returns")
class Shares(Changed):
    calls: ClassVar[list[int]] = []

    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        self.calls.append(1)
        return Returns(torch.where(arguments["rollout"].valid, returns.targets + len(self.calls), 0.0), returns[1])


@estimator("dummy_rows_count_nowhere")
class ReadsDummies(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        rollout = arguments["rollout"]
        return Returns(torch.where(rollout.valid, returns.targets + rollout.rewards.sum(), 0.0), returns[1])


@estimator("nothing_follows_a_terminated_step")
class Multiplies(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        zeros = torch.where(arguments["rollout"].terminated, 0 * arguments["next_values"].detach(), 0.0)
        return Returns(returns.targets + zeros, returns.advantages)


@estimator("a_truncated_step_goes_on")
class EndsWhereItIsCut(Changed):
    def before(self, arguments: dict[str, Any]) -> None:
        rollout = arguments["rollout"]
        ends = rollout.terminated | rollout.truncated
        arguments["rollout"] = replace(rollout, terminated=ends, truncated=torch.zeros_like(ends))


@estimator("nan_does_not_pass")
class CoversNaN(Changed):
    def before(self, arguments: dict[str, Any]) -> None:
        rollout = arguments["rollout"]
        arguments["rollout"] = replace(rollout, rewards=rollout.rewards.nan_to_num())


@estimator("values_may_be_missing")
class NeedsValues(Changed):
    def before(self, arguments: dict[str, Any]) -> None:
        assert arguments["values"] is not None


@estimator("columns_do_not_mix")
class FavoursTheFirst(Changed):
    def after(self, returns: Returns, arguments: dict[str, Any]) -> Returns:
        returns.targets[:, 0] += 5.0 * arguments["rollout"].valid[:, 0]
        return returns


# Networks -------------------------------------------------------------------------------------------------------------


class Net(MLP):
    def on_arrays(self, obs: Any) -> Any:
        return Network.on_arrays(self, obs)


@good
class GoodNetwork(MLPConfig):
    """A network that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Net

    def build(self, observation_space: Any) -> Any:
        return self.built(observation_space, self.hidden, self.activation, self.init)

    def build_parallel(self, observation_space: Any, number: int) -> Any:
        return NetworkConfig.build_parallel(self, observation_space, number)


def network(check: str) -> Callable[[Any], Any]:
    """Note down a network that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodNetwork,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@network("takes_or_refuses_each_space")
class NoDicts(Net):
    def __init__(self, space: Any, *others: Any) -> None:
        if isinstance(space, spaces.Dict):
            raise KeyError("shape")
        super().__init__(space, *others)


@network("features_are_as_announced")
class OneTooMany(Net):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.num_features += 1


@network("features_are_finite")
class Infinite(Net):
    def forward(self, obs: Any) -> Any:
        return super().forward(obs) + float("inf")


@network("features_are_repeatable")
class Noisy(Net):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, obs: Any) -> Any:
        features = super().forward(obs)
        return features + torch.rand(features.shape, generator=self.noise)


@network("every_weight_has_a_gradient")
class Unused(Net):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.spare = nn.Parameter(torch.zeros(1))


@network("same_seed_same_weights")
class OwnSeed(Net):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with torch.no_grad():
            self.layers[0].bias.add_(float(np.random.default_rng().normal()))


@network("features_of_rows_do_not_mix")
class NormalisesTheBatch(Net):
    def forward(self, obs: Any) -> Any:
        features = super().forward(obs)
        return features - features.mean(0)


@network("arrays_get_the_same_features")
class OtherOnArrays(Net):
    def on_arrays(self, obs: Any) -> Any:
        return super().on_arrays(obs) + 1


@network("forward_leaves_observations_alone")
class WritesIntoObservations(Net):
    def forward(self, obs: Any) -> Any:
        if not isinstance(obs, torch.Tensor) or not obs.is_floating_point():
            return super().forward(obs)
        features = super().forward(obs.clone())
        obs.mul_(0.5)
        return features


@network("weights_come_back")
class HiddenScale(Net):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scale = 1.0 + float(torch.rand(()))

    def forward(self, obs: Any) -> Any:
        return self.scale * super().forward(obs)


class OtherOnes(ParallelMLP):
    def one(self, index: int, obs: Any) -> Any:
        return super().one(index, obs) + 1


@breaks("parallel_networks_agree")
class Parallel(GoodNetwork):
    """Broken."""

    def build_parallel(self, observation_space: Any, number: int) -> Any:
        return OtherOnes([self.build(observation_space) for _ in range(number)])


@network("forward_leaves_torch_alone")
class Draws(Net):
    def forward(self, obs: Any) -> Any:
        torch.rand(1)
        return super().forward(obs)


@breaks("recurrence_is_announced")
class SaysItForgets(GRUConfig):
    """Broken."""

    name: ClassVar[str] = "good"
    recurrent: ClassVar[bool] = False


class Memory(Recurrent):
    """A network that remembers."""


class GoodMemory(GRUConfig):
    """A network that remembers and keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Memory

    def build(self, observation_space: Any) -> Any:
        below = self.below.build(observation_space)
        return self.built(below, nn.GRU(below.num_features, self.hidden_size), self.init)


GOOD.append(GoodMemory)


def memory(check: str) -> Callable[[Any], Any]:
    """Note down a network that remembers and fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodMemory,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@memory("a_sequence_is_its_steps")
class SeesTheLastFirst(Memory):
    def forward(self, obs: Any, state: Any, starts: Any) -> Any:
        features, after = super().forward(obs, state, starts)
        return features + len(starts), after


@memory("a_start_forgets")
class NeverForgets(Memory):
    def forward(self, obs: Any, state: Any, starts: Any) -> Any:
        features, after = super().forward(obs, state, starts)
        marks = state.sum(1, keepdim=True)
        return (features + marks, after) if len(starts) == 1 and bool(starts.all()) else (features, after)


@memory("carried_states_have_rows_and_are_left_alone")
class WritesIntoTheState(Memory):
    def forward(self, obs: Any, state: Any, starts: Any) -> Any:
        answer = super().forward(obs, state.clone(), starts)
        if not starts.any() and len(starts) == 1 and not torch.is_grad_enabled():
            state.fill_(1.0)
        return answer


# Policies -------------------------------------------------------------------------------------------------------------


class GoodPolicy(ActorCriticConfig):
    """A policy with a value function that keeps the contract."""

    name: ClassVar[str] = "good"
    changes: ClassVar[Any] = None

    def build(self, setup: Any, network: Any, *, exploration: Any, **settings: Any) -> Any:
        policy = super().build(setup, network, exploration=exploration, **settings)
        if self.changes is not None:
            policy.__class__ = type("Policy", (self.changes, type(policy)), {})
            policy.space, policy.mark = setup.action_space, int(torch.randint(1_000, ()))
        return policy


GOOD.append(GoodPolicy)


def own_policy(check: str) -> Callable[[Any], Any]:
    """Note down a policy with a value function that fails a check, by what it does otherwise."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodPolicy,), {"__doc__": "Broken.", "changes": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@breaks("builds_or_refuses_each_action_space")
class NotForTuple(GoodPolicy):
    """Broken."""

    def build(self, setup: Any, network: Any, *, exploration: Any, **settings: Any) -> Any:
        if isinstance(setup.action_space, spaces.Tuple):
            return None
        return super().build(setup, network, exploration=exploration, **settings)


class ChangesEvaluation:
    def after(self, log_probs: Any, entropies: Any, values: Any) -> Any:
        return log_probs, entropies, values

    def evaluate(self, obs: Any, taken: Any) -> Any:
        return self.after(*super().evaluate(obs, taken))


@own_policy("values_are_as_announced")
class OtherNextValues:
    def values(self, rollout: Any) -> Any:
        values, next_values = super().values(rollout)
        return values, next_values + 1


@own_policy("evaluates_what_it_has_done")
class NaNEntropy(ChangesEvaluation):
    def after(self, log_probs: Any, entropies: Any, values: Any) -> Any:
        return log_probs, entropies * float("nan"), values


@own_policy("evaluates_with_gradient")
class WithoutGradient(ChangesEvaluation):
    def after(self, log_probs: Any, entropies: Any, values: Any) -> Any:
        return log_probs.detach(), entropies, values


@own_policy("evaluated_values_are_its_values")
class OtherValues(ChangesEvaluation):
    def after(self, log_probs: Any, entropies: Any, values: Any) -> Any:
        return log_probs, entropies, values + 1


@own_policy("log_probabilities_are_those_of_acting")
class OtherLogProbs(ChangesEvaluation):
    def after(self, log_probs: Any, entropies: Any, values: Any) -> Any:
        return 2 * log_probs, entropies, values


@own_policy("policies_come_back")
class HiddenMark:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        answer = super().act(obs, generator=generator)
        if generator is not None or not isinstance(self.space, spaces.Discrete):
            return answer
        return answer._replace(action=(answer.action + 1 + self.mark) % 3 - 1)


# Exploration ----------------------------------------------------------------------------------------------------------


class Noise(OrnsteinUhlenbeckNoise):
    pass


@good
class GoodExploration(ExplorationConfig):
    """Exploration that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Noise

    def build(self, num_features: int, num_actions: int, deviation: Any) -> Any:
        return self.built(num_features, num_actions, 0.5, deviation, theta=0.2)


def exploration(check: str) -> Callable[[Any], Any]:
    """Note down an exploration that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodExploration,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@breaks("builds_with_each_deviation")
class TwoOfThree(GoodExploration):
    """Broken."""

    def build(self, num_features: int, num_actions: int, deviation: Any) -> Any:
        return (
            SimpleNamespace() if deviation == "from_features" else super().build(num_features, num_actions, deviation)
        )


class ChangedNoise(Noise):
    def after(self, noise: Any, state: Any) -> Any:
        return noise

    def noise(self, features: Any, state: Any, starts: Any, generator: Any) -> Any:
        noise, after = super().noise(features, state, starts, generator)
        return self.after(noise, state), after


@exploration("noise_is_as_announced")
class DoubleNoise(ChangedNoise):
    def after(self, noise: Any, state: Any) -> Any:
        return noise.double()


@exploration("deviation_is_as_announced")
class OneRow(Noise):
    def log_std(self, features: Any) -> Any:
        return super().log_std(features)[:1]


@exploration("a_learned_deviation_has_a_gradient")
class Detached(Noise):
    def log_std(self, features: Any) -> Any:
        return super().log_std(features).detach()


@exploration("noise_follows_the_generator")
class OwnGenerator(Noise):
    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.own = torch.Generator().manual_seed(0)

    def noise(self, features: Any, state: Any, starts: Any, generator: Any) -> Any:
        return super().noise(features, state, starts, self.own)


@exploration("noise_leaves_global_generators_alone")
class DrawsGlobally(ChangedNoise):
    def after(self, noise: Any, state: Any) -> Any:
        random.random()
        return noise


@exploration("noise_has_the_deviation")
class TooLoud(ChangedNoise):
    def after(self, noise: Any, state: Any) -> Any:
        return 2 * noise


@exploration("an_episode_starts_without_past")
class Remembers(ChangedNoise):
    def after(self, noise: Any, state: Any) -> Any:
        return noise + 0.01 * state


@exploration("state_has_a_row_per_environment")
class OneForAll(Noise):
    def initial_state(self, num_envs: int) -> Any:
        return torch.zeros(1, 2)


@breaks("has_state_tells_the_truth")
class SaysNothing(GoodExploration):
    """Broken."""

    has_state: ClassVar[bool] = False


@exploration("exploration_comes_back")
class HiddenLoudness(ChangedNoise):
    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.loudness = 1.0 + 0.01 * float(torch.rand(()))

    def after(self, noise: Any, state: Any) -> Any:
        return self.loudness * noise


@exploration("features_are_left_alone")
class WritesIntoFeatures(Noise):
    def noise(self, features: Any, state: Any, starts: Any, generator: Any) -> Any:
        answer = super().noise(features, state, starts, generator)
        features.mul_(0.5)
        return answer


# Collectors -----------------------------------------------------------------------------------------------------------


class Collector(StepsCollector):
    def after(self, rollout: Any) -> Any:
        return rollout

    def collect(self, policy: Any) -> Any:
        return self.after(super().collect(policy))


@good
class GoodCollector(StepsConfig):
    """A collector that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Collector

    def seeds(self, seeds: SeedStream) -> SeedStream:
        return seeds

    def build(self, env: Any, seeds: SeedStream, device: str) -> Any:
        seeds = self.seeds(seeds)
        return self.built(env.make(self.num_envs, seeds.stream("environment")), self.num_steps, seeds, device)


def collector(check: str) -> Callable[[Any], Any]:
    """Note down a collector that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodCollector,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@collector("builds_and_collects")
class TwoModes(Collector):
    def __init__(self, environments: Any, *others: Any) -> None:
        if environments.autoreset_mode is AutoresetMode.SAME_STEP:
            raise NotImplementedError("this mode")
        super().__init__(environments, *others)


@collector("rollouts_have_shape_and_type")
class DoubleRewards(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, rewards=rollout.rewards.double())


@collector("rows_are_what_happened")
class ScalesRewards(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, rewards=rollout.rewards * 0.1)


@collector("next_obs_is_the_true_successor")
class NoFinals(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, finals=None)


@collector("every_step_is_there_once")
class OtherActions(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, actions=-rollout.actions)


@collector("episodes_are_counted_right")
class LosesEpisodes(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, episodes=rollout.episodes[1:])


@breaks("whole_episodes_are_whole")
class SaysWhole(GoodCollector):
    """Broken."""

    whole_episodes: ClassVar[bool] = True


@breaks("same_seed_same_rollouts")
class NoSeed(GoodCollector):
    """Broken."""

    def seeds(self, seeds: SeedStream) -> SeedStream:
        return SeedStream(int.from_bytes(os.urandom(4), "little"))


@breaks("other_seed_other_rollouts")
class OneSeed(GoodCollector):
    """Broken."""

    def seeds(self, seeds: SeedStream) -> SeedStream:
        return SeedStream(0)


@collector("earlier_rollouts_are_left_alone")
class WritesAgain(Collector):
    last: Any = None

    def after(self, rollout: Any) -> Any:
        if self.last is not None:
            self.last.rewards.zero_()
        self.last = rollout
        return rollout


@collector("rollouts_are_not_read_again")
class ReadsAgain(Collector):
    last: Any = None
    sum = 0.0

    def after(self, rollout: Any) -> Any:
        sum = self.sum if self.last is None else float(self.last.rewards.sum())
        self.last = rollout
        return replace(rollout, extras={**rollout.extras, "sum": torch.full(rollout.shape, sum)})

    def state_dict(self) -> Any:
        return {**super().state_dict(), "sum": float(self.last.rewards.sum())}

    def load_state_dict(self, state: Any) -> None:
        self.sum = state["sum"]
        super().load_state_dict(state)


@collector("collecting_leaves_global_generators_alone")
class Seeds(Collector):
    def after(self, rollout: Any) -> Any:
        np.random.seed(0)
        return rollout


@collector("policies_start_anew_with_each_episode")
class NeverAnew(Collector):
    def _act(self, policy: Any, obs: Any) -> Any:
        if self._state is not None:
            self._starts = np.zeros_like(self._starts)
        return super()._act(policy, obs)


@collector("extras_come_back")
class NoExtras(Collector):
    def after(self, rollout: Any) -> Any:
        return replace(rollout, extras={})


@collector("state_of_a_collector_is_plain")
class StoresAFunction(Collector):
    def state_dict(self) -> Any:
        return {**super().state_dict(), "function": len}


@collector("a_second_collector_goes_on_equally")
class OtherStream(Collector):
    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self._generator.manual_seed(0)


@collector("nan_from_an_environment_is_refused")
class LooksAtNothing(Collector):
    def _refuse_non_finite(self, *arguments: Any) -> None: ...


# Environments ---------------------------------------------------------------------------------------------------------


class Walk(gymnasium.Env[Any, Any]):
    """A walk on a line."""

    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = float(self.np_random.random())
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> Any:
        self.place += float(action[0])
        return np.array([self.place], np.float32), self.place, bool(self.np_random.random() < 0.1), False, {}


@good
class GoodEnvironment(EnvironmentConfig):
    """Environments that keep the contract."""

    name: ClassVar[str] = "good"
    lane: ClassVar[Any] = Walk

    id: str = Field("walk", description="which of them; there is one")

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Any:
        if self.id != "walk":
            raise UsageError(f"there is no environment {self.id}")
        makers = [lambda i=i: CheckedEnv(self.lane(), i) for i in range(num_envs)]
        return Environments(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), seeds, checked=True)


def environment(check: str) -> Callable[[Any], Any]:
    """Note down environments that fail a check, by the class of one."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodEnvironment,), {"__doc__": "Broken.", "lane": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@breaks("makes_environments")
class NoEvaluation(GoodEnvironment):
    """Broken."""

    def make_evaluation(self, num_episodes: int, seeds: SeedStream, *, render_mode: str | None = None) -> Any:
        return Walk()


@environment("steps_are_as_announced")
class OutOfBounds(Walk):
    observation_space = spaces.Box(-1e-3, 1e-3, (1,), np.float32)


@environment("same_seed_same_environments")
class OwnRandomness(Walk):
    def step(self, action: Any) -> Any:
        self.place += float(np.random.default_rng().normal())
        return super().step(action)


@environment("two_families_do_not_meet")
class SharedPlace(Walk):
    places: ClassVar[list[float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.places.clear()
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.places.append(float(action[0]))
        obs, _, *rest = super().step(action)
        return obs, sum(self.places), *rest


@environment("environments_leave_global_generators_alone")
class GlobalRandomness(Walk):
    def step(self, action: Any) -> Any:
        np.random.random()
        return super().step(action)


@environment("actions_are_left_alone")
class WritesIntoActions(Walk):
    def step(self, action: Any) -> Any:
        answer = super().step(action)
        action *= 0.0
        return answer


@breaks("what_is_resolved_stays")
class NeverDecided(GoodEnvironment):
    """Broken."""

    level: int = Field(0, ge=0, description="of no use")

    def resolve(self, num_envs: int) -> Any:
        return self.model_copy(update={"level": self.level + 1})


@breaks("threshold_is_a_number")
class NoNumber(GoodEnvironment):
    """Broken."""

    def reward_threshold(self) -> float | None:
        return float("nan")


@breaks("unknown_id_is_refused")
class AnyId(GoodEnvironment):
    """Broken."""

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Any:
        return GoodEnvironment().make(num_envs, seeds)


# Trackers -------------------------------------------------------------------------------------------------------------


class Notes(Tracker):
    """Keeps what it is sent."""

    def start(self, run: Any) -> None:
        run.ids.setdefault("run", "1")
        self.records: list[Any] = []

    def log(self, records: list[Any]) -> None:
        self.records += records

    def finish(self, state: str, time: int) -> None:
        self.records.clear()


@good
class GoodTracker(TrackerConfig):
    """A tracker that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Notes

    def build(self) -> Any:
        return self.built()


def tracker(check: str) -> Callable[[Any], Any]:
    """Note down a tracker that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodTracker,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@tracker("builds_a_tracker")
class NoTracker:
    pass


@tracker("takes_a_run")
class KnowsNoKilled(Notes):
    def finish(self, state: str, time: int) -> None:
        if state == "killed":
            raise KeyError(state)


@tracker("ids_are_texts")
class NumberAsId(Notes):
    def start(self, run: Any) -> None:
        super().start(run)
        run.ids["number"] = 1


@tracker("starts_again_where_it_was")
class AlwaysNew(Notes):
    def start(self, run: Any) -> None:
        super().start(run)
        run.ids["run"] = str(uuid.uuid4())


@tracker("records_are_left_alone")
class TakesThemOut(Notes):
    def log(self, records: list[Any]) -> None:
        records.clear()


@breaks("tells_where_the_run_is")
class SaysAnEmptyWord(GoodTracker):
    """Broken."""

    def where(self, run_dir: Any, environ: Any) -> str:
        return " "


# Executors ------------------------------------------------------------------------------------------------------------


class InTurn(Executor):
    """Does tasks in this process, one after the other, where it is waited for."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.ended: list[Ended] = []

    def start(self, task: Task) -> None:
        self.tasks.append(task)

    def wait(self, seconds: float) -> list[Ended]:
        if not self.ended and self.tasks:
            task = self.tasks.pop(0)
            with contextlib.redirect_stderr(None):
                self.ended.append(self.as_ended(task, do_task(task.run_dir)))
        ended, self.ended = self.ended, []
        return ended

    def as_ended(self, task: Task, code: int) -> Ended:
        return Ended.of(task, code)

    def stop(self, task: Task) -> None:
        if task in self.tasks:
            self.tasks.remove(task)
            self.ended.append(Ended(task, 130))

    def close(self) -> None:
        self.tasks = []


@good
class GoodExecutor(ExecutorConfig):
    """An executor that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = InTurn

    def build(self, jobs: int) -> Any:
        return self.built()


def executor(check: str) -> Callable[[Any], Any]:
    """Note down an executor that fails a check, by the class that does the work."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodExecutor,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


@executor("builds_an_executor")
class NoExecutor:
    pass


@executor("every_task_comes_out_once")
class ForgetsTheStopped(InTurn):
    def stop(self, task: Task) -> None:
        self.tasks.remove(task)


@executor("tasks_end_as_they_do")
class TellsNoReason(InTurn):
    def as_ended(self, task: Task, code: int) -> Ended:
        return Ended(task, code)


@executor("what_waits_can_be_stopped")
class StopsNothing(InTurn):
    def stop(self, task: Task) -> None:
        pass


# Algorithms -----------------------------------------------------------------------------------------------------------


class Learner(Reinforce):
    """REINFORCE with values that follow where an episode is cut off: A2C, nearly."""

    policy_class: ClassVar[Any] = None

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        if self.policy_class is not None:
            self.policy.__class__ = type("Policy", (self.policy_class, type(self.policy)), {})
            self.policy.space = setup.action_space
            self.policy.calls = 0


@good
class GoodAlgorithm(ReinforceConfig):
    """An algorithm that keeps the contract."""

    name: ClassVar[str] = "good"
    built: ClassVar[Any] = Learner
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "Box")
    collector: CollectorConfig = Field(StepsConfig(), description="how experience is gathered")
    estimator: EstimatorConfig = Field(DiscountedConfig(), description="returns")

    def build(self, setup: Any) -> Any:
        if not isinstance(setup.action_space, (spaces.Discrete, spaces.Box)):
            raise UsageError(f"this takes Discrete and Box actions, not {setup.action_space}")
        return self.built(self, setup)


def learner(check: str) -> Callable[[Any], Any]:
    """Note down an algorithm that fails a check, by its learner."""

    def note(cls: Any) -> Any:
        config = type(cls.__name__, (GoodAlgorithm,), {"__doc__": "Broken.", "built": cls, "__module__": __name__})
        return breaks(check)(config)

    return note


def policy(check: str) -> Callable[[Any], Any]:
    """Note down an algorithm that fails a check, by what its policy does otherwise."""

    def note(cls: Any) -> Any:
        return learner(check)(type(cls.__name__, (Learner,), {"policy_class": cls}))

    return note


@breaks("hides_no_setting_of_the_run")
class OwnSeedSetting(GoodAlgorithm):
    """Broken."""

    seed: int = Field(0, ge=0, description="another seed")


@breaks("declares_action_spaces")
class Misspelled(GoodAlgorithm):
    """Broken."""

    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "Box", "Boxx")


@learner("builds_on_declared_action_spaces")
class NotForBox(Learner):
    def __init__(self, config: Any, setup: Any) -> None:
        assert not isinstance(setup.action_space, spaces.Box)
        super().__init__(config, setup)


@breaks("refuses_other_action_spaces")
class RefusesWithoutAWord(GoodAlgorithm):
    """Broken."""

    def build(self, setup: Any) -> Any:
        if isinstance(setup.action_space, (spaces.Discrete, spaces.Box)):
            return super().build(setup)
        raise UsageError("no")


@learner("takes_or_refuses_each_observation_space")
class NotForDict(Learner):
    def __init__(self, config: Any, setup: Any) -> None:
        if isinstance(setup.observation_space, spaces.Dict):
            raise TypeError("no array")
        super().__init__(config, setup)


@policy("acts_where_it_collects")
class NotForTwo:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        if isinstance(self.space, spaces.Box) and len(obs) == 2:
            raise RuntimeError("two are too many")
        return super().act(obs, generator=generator)


@policy("actions_are_members")
class DoubleActions:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        answer = super().act(obs, generator=generator)
        return answer._replace(action=answer.action.double()) if isinstance(self.space, spaces.Box) else answer


@policy("acting_without_generator_is_repeatable")
class Alternates:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        answer = super().act(obs, generator=generator)
        if generator is not None or len(obs) < 2:
            return answer
        self.calls += 1
        return answer._replace(action=answer.action[torch.arange(len(obs)).roll(self.calls)])


@policy("sampling_follows_the_generator")
class OwnSampling:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        self.calls += 1
        own = None if generator is None else torch.Generator().manual_seed(self.calls)
        return super().act(obs, generator=own)


@policy("acting_leaves_global_generators_alone")
class DrawsWhileActing:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        torch.rand(1)
        return super().act(obs, generator=generator)


@policy("acting_leaves_observations_alone")
class HalvesObservations:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        answer = super().act(obs, generator=generator)
        if isinstance(obs, torch.Tensor) and obs.is_floating_point():
            obs *= 0.5
        return answer


class CountsActing(Learner):
    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.policy.register_buffer("acted", torch.zeros(()))


class CountingPolicy:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        self.acted += 1
        return super().act(obs, generator=generator)


learner("acting_changes_no_state")(type("CountsActs", (CountsActing,), {"policy_class": CountingPolicy}))


@policy("rows_of_a_batch_do_not_mix")
class Compares:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        return super().act(obs - obs.mean(0) if len(obs) >= 32 else obs, generator=generator)


@policy("arrays_and_tensors_act_alike")
class OtherForArrays:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        return super().act(-obs if isinstance(obs, np.ndarray) and len(obs) >= 32 else obs, generator=generator)


@policy("extras_have_a_row_per_lane")
class OneExtra:
    def act(self, obs: Any, *, generator: Any = None) -> Any:
        answer = super().act(obs, generator=generator)
        return answer._replace(extras={**answer.extras, "count": torch.ones(())})


class OneState(ActorCritic, StatefulPolicy):
    def initial_state(self, num_envs: int) -> Any:
        return torch.zeros(1)

    def act(self, obs: Any, state: Any, starts: Any, *, generator: Any = None) -> Act:
        return super().act(obs, generator=generator)._replace(state=state)


@learner("carried_state_has_a_row_per_lane")
class OneStateForAll(Learner):
    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.policy.__class__ = OneState


@learner("updates_change_parameters")
class StandsStill(Learner):
    def update(self, rollout: Any) -> Any:
        self.optimizer.learning_rate = 0.0
        return super().update(rollout)


class ChangedLearner(Learner):
    """A learner that changes what it is given, or what comes of it."""

    def before(self, rollout: Any) -> Any:
        return rollout

    def after(self, rollout: Any, metrics: Any) -> Any:
        return metrics

    def update(self, rollout: Any) -> Any:
        return self.after(rollout, super().update(self.before(rollout)))


@learner("metrics_are_numbers")
class Lists(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": torch.zeros(1)}


@learner("metrics_are_finite")
class NoNumbers(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": float("nan")}


@learner("metrics_are_documented")
class Secret(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "secret": 1.0}


@learner("the_policy_stays_the_same_object")
class NewPolicy(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        self.policy = copy.copy(self.policy)
        return metrics


@learner("the_policy_is_a_part")
class NoPolicyPart(Learner):
    def parts(self) -> Any:
        return {name: part for name, part in super().parts().items() if name != "policy"}


@learner("same_seed_same_results")
class OwnWeights(Learner):
    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        with torch.no_grad():
            self.policy.value_head.bias.add_(float(np.random.default_rng().normal()))


@learner("updates_leave_global_generators_alone")
class SeedsTorch(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        torch.manual_seed(0)
        return metrics


@learner("results_do_not_depend_on_global_generators")
class ReadsGlobally(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": metrics["loss"] + random.getstate()[1][1] % 1000}


@learner("updates_leave_torch_alone")
class MoreThreads(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        torch.set_num_threads(3)
        return metrics


@learner("results_do_not_depend_on_threads")
class CountsThreads(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": metrics["loss"] + torch.get_num_threads()}


@learner("results_do_not_depend_on_the_default_dtype")
class TakesTheDefault(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": metrics["loss"] + float(torch.get_default_dtype() is torch.float64)}


@learner("rollouts_are_left_alone")
class ScalesInPlace(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        rollout.rewards.mul_(0.1)
        return metrics


class Part:
    """A part of a learner, with a state that is one number or tensor."""

    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def state_dict(self) -> Any:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"]


class WithPart(ChangedLearner):
    part_class: ClassVar[Any] = Part

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.part = self.part_class()

    def parts(self) -> Any:
        return {**super().parts(), "part": self.part}


@learner("keeps_no_view_of_a_rollout")
class KeepsAView(WithPart):
    def after(self, rollout: Any, metrics: Any) -> Any:
        ends = torch.as_tensor(self.part.value).sum()
        self.part.value = rollout.terminated
        return {**metrics, "loss": metrics["loss"] + ends}


class SetPart(Part):
    def state_dict(self) -> Any:
        return {"value": {1, 2}}


@learner("state_is_plain")
class StoresSets(WithPart):
    part_class: ClassVar[Any] = SetPart


class ForgetfulPart(Part):
    def load_state_dict(self, state: Any) -> None: ...


@learner("state_comes_back")
class ForgetsItsCount(WithPart):
    part_class: ClassVar[Any] = ForgetfulPart

    def after(self, rollout: Any, metrics: Any) -> Any:
        self.part.value += 1
        return metrics


@learner("goes_on_equally")
class HiddenCount(ChangedLearner):
    count = 0

    def after(self, rollout: Any, metrics: Any) -> Any:
        self.count += 1
        return {**metrics, "loss": metrics["loss"] + self.count}


class FlaggedPolicy:
    flag = False

    def act(self, obs: Any, *, generator: Any = None) -> Any:
        return super().act(-obs if self.flag and len(obs) >= 32 else obs, generator=generator)


@learner("policy_can_be_stored")
class HiddenFlag(WithPart):
    policy_class: ClassVar[Any] = FlaggedPolicy

    def after(self, rollout: Any, metrics: Any) -> Any:
        self.policy.flag = True
        self.part.value = 1
        return metrics


@learner("reads_no_invalid_rows")
class SumsAllRows(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": metrics["loss"] + rollout.rewards.sum()}


@learner("reads_nothing_after_an_end")
class SumsNextObservations(ChangedLearner):
    def after(self, rollout: Any, metrics: Any) -> Any:
        return {**metrics, "loss": metrics["loss"] + tree_leaves(rollout.next_obs)[0][1].sum()}


@learner("takes_single_step_episodes")
class NeedsTwoSteps(ChangedLearner):
    def before(self, rollout: Any) -> Any:
        assert not (rollout.terminated | rollout.truncated).all()
        return rollout


@learner("takes_constant_rewards")
class DividesByDeviation(ChangedLearner):
    def before(self, rollout: Any) -> Any:
        std = float(rollout.rewards.std())
        assert std != 0
        return rollout


@learner("nan_reaches_no_parameter")
class LetsNaNIn(ChangedLearner):
    def before(self, rollout: Any) -> Any:
        if bool(rollout.rewards.isnan().any()):
            with torch.no_grad():
                self.policy.value_head.bias.fill_(float("nan"))
        return rollout


@learner("learns_which_action_pays")
class WrongSign(ChangedLearner):
    def before(self, rollout: Any) -> Any:
        return replace(rollout, rewards=-rollout.rewards)


@learner("values_what_follows_a_truncation")
class EndsWhereCut(ChangedLearner):
    def before(self, rollout: Any) -> Any:
        ends = rollout.terminated | rollout.truncated
        return replace(rollout, terminated=ends, truncated=torch.zeros_like(ends))


def _presets() -> Any:
    from broken_presets import BrokenPresets

    return BrokenPresets


def broken(check: str) -> Any:
    """The plugin that fails a check."""
    return _presets() if check == "presets_fit" else BROKEN[check]
