"""Exploration noise: of the announced deviation in every step, and starting anew exactly where episodes do."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rlkit_core.builtin.actor_critic import ActorCritic, ExploringActorCritic, actor_critic
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.episodes_collector import EpisodesCollector
from rlkit_core.builtin.explorations import GaussianConfig, OrnsteinUhlenbeckConfig, StateDependentConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.collector import Collector
from rlkit_core.component import Deviation, ExplorationConfig, NetworkConfig
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.exploration import Exploration
from rlkit_core.network import Network
from rlkit_core.policy import Act, Policy
from rlkit_core.rollout import Rollout, Tree, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream
from tests.probes import MODES, box_space, counting, plan

F, A = 3, 2
CONFIGS: dict[str, ExplorationConfig] = {
    "gaussian": GaussianConfig(std=0.7),
    "ou": OrnsteinUhlenbeckConfig(std=0.3, theta=0.2),
    "gsde": StateDependentConfig(std=0.4),
    "gsde, resampled": StateDependentConfig(std=0.4, resample_every=3),
}
DEVIATIONS = get_args(Deviation)
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
EVERY_DEVIATION = pytest.mark.parametrize("deviation", DEVIATIONS)
STATEFUL = {name: config for name, config in CONFIGS.items() if config.has_state}
ALL_WITH_STATE = pytest.mark.parametrize("config", STATEFUL.values(), ids=STATEFUL)
ALL_MODES = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: ExplorationConfig, deviation: Deviation = "learned") -> Exploration:
    """With a deviation that has been learned meanwhile, where it can be, so that it differs from action to action."""
    torch.manual_seed(0)
    exploration = config.build(F, A, deviation)
    with torch.no_grad():
        for parameter in exploration.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(9)) * 0.3)
    return exploration


def random_features(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, F, generator=generator(seed)) + 0.5


def run(
    exploration: Exploration,
    features: Tensor | list[Tensor],
    starts: Tensor,
    seed: int = 0,
    state: Tree | None = None,
) -> tuple[Tensor, Tree]:
    """Noise `[T, N, A]` where `starts` `[T, N]` says that episodes start, and the state behind it."""
    source = generator(seed)
    state = exploration.initial_state(starts.shape[1]) if state is None else state
    rows = []
    with torch.no_grad():
        for t, row in enumerate(starts):
            noise, state = exploration.noise(
                features if isinstance(features, Tensor) else features[t], state, row, source
            )
            rows.append(noise)
    return torch.stack(rows), state


def starts_at_first(T: int, N: int) -> Tensor:
    return (torch.arange(T) == 0)[:, None].expand(T, N)


# One step


@ALL
@EVERY_DEVIATION
def test_each_step_is_normal_with_the_deviation_it_says(config: ExplorationConfig, deviation: Deviation) -> None:
    """Also in later steps, and where the features change from step to step."""
    N = 8_000
    exploration = build(config, deviation)
    features = [random_features(N, seed=t) for t in range(11)]
    noise, _ = run(exploration, features, starts_at_first(11, N))
    for t in (0, 1, 10):
        unit = noise[t] / exploration.log_std(features[t]).detach().exp()
        assert unit.shape == (N, A)
        assert (unit.mean(0).abs() < 5 / math.sqrt(N)).all()
        assert ((unit.std(0) - 1).abs() < 5 / math.sqrt(2 * N)).all()
        for limit, share in ((0.5, 0.3829), (1.0, 0.6827), (2.0, 0.9545)):
            inside = (unit.abs() < limit).float().mean(0)
            assert ((inside - share).abs() < 5 * math.sqrt(share * (1 - share) / N)).all()


@ALL
@EVERY_DEVIATION
def test_environments_and_actions_have_nothing_to_do_with_each_other(
    config: ExplorationConfig, deviation: Deviation
) -> None:
    """Although all see the same; at the first step and at a later one."""
    N = 8_000
    exploration = build(config, deviation)
    noise, _ = run(exploration, torch.ones(N, F), starts_at_first(6, N))
    for t in (0, 5):
        unit = noise[t] / noise[t].std(0)
        for product in (unit[:-1] * unit[1:], unit[: N // 2] * unit[N // 2 :], unit[:, 0] * unit[:, 1]):
            assert (product.mean(0).abs() < 5 / math.sqrt(len(product))).all()


@ALL
def test_what_other_environments_see_does_not_matter(config: ExplorationConfig) -> None:
    exploration = build(config)
    features = random_features(5)
    changed = features.clone()
    changed[1:] *= -7
    starts = torch.rand(8, 5, generator=generator()) < 0.3
    starts[0] = True
    assert torch.equal(run(exploration, features, starts)[0][:, 0], run(exploration, changed, starts)[0][:, 0])


@pytest.mark.parametrize("std", [0.05, 3.0])
def test_a_fixed_deviation_is_that_of_the_setting(std: float) -> None:
    for config in (GaussianConfig(std=std), OrnsteinUhlenbeckConfig(std=std)):
        log_std = config.build(F, A, "fixed").log_std(random_features(4))
        torch.testing.assert_close(log_std.exp(), torch.full((4, A), std))
    features = random_features(4)
    log_std = StateDependentConfig(std=std).build(F, A, "fixed").log_std(features)
    torch.testing.assert_close(log_std.exp(), std * features.norm(dim=1, keepdim=True).expand(4, A), rtol=1e-3, atol=0)


@ALL
def test_a_learned_deviation_starts_from_the_setting(config: ExplorationConfig) -> None:
    features = random_features(4)
    learned, fixed = (config.build(F, A, deviation).log_std(features) for deviation in ("learned", "fixed"))
    assert torch.equal(learned, fixed)


@pytest.mark.parametrize("config", [GaussianConfig(std=0.05), OrnsteinUhlenbeckConfig(std=3)], ids=["gaussian", "ou"])
def test_a_deviation_from_features_starts_around_the_setting(config: Any) -> None:
    torch.manual_seed(0)
    log_std = config.build(F, 1000, "from_features").log_std(torch.zeros(1, F))
    assert abs(float(log_std.detach().mean()) - math.log(config.std)) < 0.1


def test_a_deviation_from_features_is_bounded() -> None:
    exploration = GaussianConfig().build(F, A, "from_features")
    log_std = exploration.log_std(torch.cat([random_features(50) * 1e6, -random_features(50) * 1e6]))
    assert log_std.min() == -20
    assert log_std.max() == 2


# From step to step


@pytest.mark.parametrize("theta", [0.05, 0.15, 1.0])
def test_ornstein_uhlenbeck_correlates_by_exp_of_minus_theta_k(theta: float) -> None:
    N, T = 5000, 30
    exploration = OrnsteinUhlenbeckConfig(std=0.5, theta=theta).build(F, A, "fixed")
    x = run(exploration, torch.ones(N, F), starts_at_first(T, N))[0] / 0.5
    for k in (1, 2, 5, 20):
        for t in (0, T - 1 - k):
            correlation = (x[t] * x[t + k]).mean(0)
            assert ((correlation - math.exp(-theta * k)).abs() < 5 * math.sqrt(2 / N)).all(), (k, t)


def test_gaussian_noise_does_not_correlate_in_time() -> None:
    N = 20_000
    x, _ = run(GaussianConfig(std=1).build(F, A, "fixed"), torch.ones(N, F), starts_at_first(3, N))
    assert ((x[0] * x[1]).mean(0).abs() < 5 / math.sqrt(N)).all()
    assert ((x[0] * x[2]).mean(0).abs() < 5 / math.sqrt(N)).all()


def test_gsde_is_one_function_of_the_features_per_episode_and_environment() -> None:
    """Equal features get equal noise, twice the features twice the noise; another episode is another function."""
    exploration = build(CONFIGS["gsde"])
    here, there = random_features(4), random_features(4, seed=1)
    starts = torch.zeros(8, 4, dtype=torch.bool)
    starts[0] = True
    starts[5, :2] = True
    noise, _ = run(exploration, [here, there, here, 2 * here, here + there, here, here, there], starts)
    assert torch.equal(noise[2], noise[0])
    torch.testing.assert_close(noise[3], 2 * noise[0])
    torch.testing.assert_close(noise[4], noise[0] + noise[1])
    assert torch.equal(noise[5, 2:], noise[0, 2:])
    assert torch.equal(noise[7, 2:], noise[1, 2:])
    assert ((noise[5, :2] - noise[0, :2]).abs() > 1e-3).all()
    assert torch.equal(noise[6, :2], noise[5, :2])
    same = run(exploration, torch.ones(4, F), starts)[0][0]
    assert len(same[:, 0].unique()) == 4


def test_gsde_draws_anew_after_that_many_steps_of_each_episode() -> None:
    exploration = build(StateDependentConfig(resample_every=3))
    starts = torch.zeros(9, 2, dtype=torch.bool)
    starts[0] = True
    starts[4, 1] = True
    noise, _ = run(exploration, torch.ones(2, F), starts)
    functions = [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 1, 2, 2, 2, 3, 3]]
    for lane, numbers in enumerate(functions):
        for t in range(9):
            for u in range(9):
                assert torch.equal(noise[t, lane], noise[u, lane]) == (numbers[t] == numbers[u]), (lane, t, u)


def test_gsde_keeps_its_function_when_the_deviation_is_learned_meanwhile() -> None:
    exploration = build(CONFIGS["gsde"])
    features = random_features(4)
    before, state = run(exploration, features, torch.ones(1, 4, dtype=torch.bool))
    with torch.no_grad():
        for parameter in exploration.parameters():
            parameter.add_(math.log(3))
    after, _ = run(exploration, features, torch.zeros(1, 4, dtype=torch.bool), state=state)
    torch.testing.assert_close(after, 3 * before)


# Where episodes start


def poisoned(state: Tree, lanes: Tensor) -> Tree:
    """The same with NaN, or what is nonsense in a whole number, in these lanes."""

    def poison(leaf: Tensor) -> Tensor:
        leaf = leaf.clone()
        leaf[lanes] = float("nan") if leaf.dtype.is_floating_point else -12345
        return leaf

    return tree_map(poison, state)


@ALL
@EVERY_DEVIATION
def test_where_an_episode_starts_nothing_of_the_old_state_is_used(
    config: ExplorationConfig, deviation: Deviation
) -> None:
    exploration = build(config, deviation)
    starts = torch.tensor([True, False, True, False, False])
    features = random_features(5)
    _, state = run(exploration, features, starts_at_first(4, 5))
    then = torch.stack([starts, torch.zeros(5, dtype=torch.bool)])
    clean, clean_state = run(exploration, features, then, seed=1, state=state)
    noise, new_state = run(exploration, features, then, seed=1, state=poisoned(state, starts))
    assert noise.isfinite().all()
    assert torch.equal(noise, clean)
    for (_, leaf), (_, expected) in zip(tree_leaves(new_state), tree_leaves(clean_state), strict=True):
        assert torch.equal(leaf, expected)


@ALL
def test_an_episode_starts_as_the_first_one_did(config: ExplorationConfig) -> None:
    """A start in all environments, with the same generator, gives the first episode again."""
    exploration = build(config)
    starts = starts_at_first(5, 3)
    first, state = run(exploration, random_features(3), starts)
    assert torch.equal(run(exploration, random_features(3), starts, state=state)[0], first)


@ALL_WITH_STATE
def test_environments_that_do_not_start_go_on(config: ExplorationConfig) -> None:
    """What another one's start does to them: nothing but the numbers that it draws."""
    exploration = build(config)
    features = torch.ones(4, F)
    before, state = run(exploration, features, starts_at_first(2, 4))
    starts = torch.tensor([[False, True, False, False]])
    noise, _ = run(exploration, features, starts, seed=1, state=state)
    if isinstance(config, OrnsteinUhlenbeckConfig):
        renewal = torch.randn(4, A, generator=generator(1))
        x = before[1] / exploration.log_std(features).detach().exp()
        expected = torch.where(
            starts.T, renewal, math.exp(-config.theta) * x + math.sqrt(1 - math.exp(-2 * config.theta)) * renewal
        )
        torch.testing.assert_close(noise[0], expected * exploration.log_std(features).detach().exp())
    else:
        going_on = ~starts[0]
        assert torch.equal(noise[0, going_on], before[1, going_on])
        assert not torch.equal(noise[0, 1], before[1, 1])


# What is learned


@ALL
@EVERY_DEVIATION
def test_gradient_of_the_deviation(config: ExplorationConfig, deviation: Deviation) -> None:
    """It reaches all that is learned; the features only through a head of their own."""
    exploration = build(config, deviation)
    features = random_features(6).requires_grad_()
    log_std = exploration.log_std(features)
    state_dependent = isinstance(config, StateDependentConfig)
    if deviation == "fixed":
        assert not list(exploration.parameters())
        assert not exploration.state_dict()
        assert not log_std.requires_grad
        return
    log_std.sum().backward()
    assert len(exploration.state_dict()) == len(list(exploration.parameters()))
    for name, parameter in exploration.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name
    assert (features.grad is not None) == (deviation == "from_features" and not state_dependent)


@EVERY_DEVIATION
def test_gsde_passes_the_network_no_gradient(deviation: Deviation) -> None:
    exploration = build(CONFIGS["gsde"], deviation)
    features = random_features(6).requires_grad_()
    assert exploration.log_std(features).requires_grad == (deviation != "fixed")
    if deviation != "fixed":
        exploration.log_std(features).sum().backward()
    assert features.grad is None


@ALL
@EVERY_DEVIATION
def test_weights_are_stored_and_taken_back(config: ExplorationConfig, deviation: Deviation) -> None:
    exploration, other = build(config, deviation), config.build(F, A, deviation)
    other.load_state_dict(exploration.state_dict())
    features = random_features(4)
    assert torch.equal(other.log_std(features), exploration.log_std(features))
    starts = starts_at_first(3, 4)
    assert torch.equal(run(other, features, starts)[0], run(exploration, features, starts)[0])
    copy.deepcopy(exploration).to("cpu").eval()


# Randomness


@ALL
@EVERY_DEVIATION
def test_all_randomness_is_the_generators(config: ExplorationConfig, deviation: Deviation) -> None:
    exploration = build(config, deviation)
    starts = torch.rand(10, 4, generator=generator()) < 0.3
    starts[0] = True
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    runs = [run(exploration, random_features(4), starts, seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.random.get_rng_state(), before[2])


@ALL
def test_a_stored_generator_and_state_go_on(config: ExplorationConfig) -> None:
    exploration, features = build(config), random_features(4)
    source = generator()
    going_on = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        _, state = exploration.noise(features, exploration.initial_state(4), ~going_on, source)
        stored = source.get_state(), tree_map(torch.clone, state)
        noise = []
        for _ in range(2):
            for _ in range(4):  # beyond the time after which gSDE draws anew
                last, state = exploration.noise(features, state, going_on, source)
            noise.append(last)
            source.set_state(stored[0])
            state = stored[1]
    assert torch.equal(*noise)


# In a policy, run by a collector


class Constant(Network):
    """The same features whatever is seen."""

    num_features = F

    def forward(self, obs: Tree) -> Tensor:
        return torch.ones(tree_leaves(obs)[0][1].shape[0], F)


class ConstantConfig(NetworkConfig):
    """Builds it."""

    name = "constant"

    def build(self, observation_space: Any) -> Network:
        return Constant()


def policy_for(
    config: ExplorationConfig, observation_space: Any = None, action_space: Any = None, network: Any = None
) -> ActorCritic:
    """Of the counting environments, with means that are 0 on constant features."""
    torch.manual_seed(0)
    policy = actor_critic(
        observation_space or box_space(),
        action_space or spaces.Box(-1, 1, (A,), np.float32),
        network or ConstantConfig(),
        exploration=config,
    )
    with torch.no_grad():
        policy.policy_head.weight.zero_()
    return policy


def by_hand(policy: ActorCritic, episode_starts: list[Tensor], seeds: SeedStream) -> Tensor:
    """The noise of a column of environments `[T, N, A]`, given where episodes start."""
    assert policy.exploration is not None
    features = torch.ones(len(episode_starts[0]), F)
    return run(policy.exploration, features, torch.stack(episode_starts), seeds.integer("actions"))[0]


def steps_in_episodes(rollouts: list[Rollout]) -> Tensor:
    """`[T, N]`: what the counting environments say, the finished episode's last number on dummy rows."""
    return torch.cat([rollout.obs[..., 2] for rollout in rollouts])


@ALL
@ALL_MODES
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_in_rollouts_noise_starts_anew_exactly_with_each_episode(
    config: ExplorationConfig, mode: AutoresetMode, kind: str
) -> None:
    """The noise of rollouts is that of the exploration run by hand, bit for bit, dummy rows included."""
    collector = StepsCollector(counting(kind, mode, False, 3), 7, SeedStream(0), "cpu")
    policy = policy_for(config)
    rollouts = [collector.collect(policy) for _ in range(5)]
    noise = torch.cat([rollout.extras["raw_action"] for rollout in rollouts])
    assert torch.cat([~rollout.valid for rollout in rollouts]).any() == (mode is AutoresetMode.NEXT_STEP)
    starts = list(steps_in_episodes(rollouts) == 0)
    assert torch.equal(noise, by_hand(policy, starts, SeedStream(0)))


@ALL_MODES
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_in_rollouts_gsde_is_constant_in_an_episode_and_only_there(mode: AutoresetMode, kind: str) -> None:
    """Constant features: one number per lane and episode."""
    collector = StepsCollector(counting(kind, mode, False, 3), 7, SeedStream(0), "cpu")
    policy = policy_for(CONFIGS["gsde"])
    seen: dict[tuple[int, ...], set[tuple[float, ...]]] = {}
    for _ in range(5):
        rollout = collector.collect(policy)
        for obs, noise in zip(rollout.obs.flatten(0, 1), rollout.extras["raw_action"].flatten(0, 1), strict=True):
            lane, episode, _ = (int(x) for x in obs)
            seen.setdefault((lane, episode), set()).add(tuple(noise.tolist()))
    assert len(seen) > 25
    assert all(len(noises) == 1 for noises in seen.values())
    assert len(set.union(*seen.values())) == len(seen)


def episodes_of(rollout: Rollout) -> Iterator[Tensor]:
    """Noise `[L, A]` of each whole episode."""
    yield from rollout.extras["raw_action"][:, 0].split([episode.length for episode in rollout.episodes])


@ALL_MODES
def test_whole_episodes_have_noise_of_their_own(mode: AutoresetMode) -> None:
    """Also while some environments stand still."""
    lanes = [counting("sync", mode, False, 1, first=lane) for lane in range(4)]
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    policy = policy_for(CONFIGS["gsde"])
    seen = []
    for episode in range(3):
        rollout = collector.collect(policy)
        assert [e.length for e in rollout.episodes] == [plan(lane, episode)[0] for lane in range(4)]
        for noise in episodes_of(rollout):
            assert len(noise.unique(dim=0)) == 1
            seen.append(tuple(noise[0].tolist()))
    assert len(set(seen)) == 12


def test_whole_episodes_with_drifting_noise() -> None:
    """Each row that is left goes on with its own lane's process, whoever has finished before."""
    lanes = [counting("sync", AutoresetMode.DISABLED, False, 1, first=lane) for lane in range(4)]
    rollout = EpisodesCollector(lanes, SeedStream(0), "cpu").collect(policy_for(OrnsteinUhlenbeckConfig(theta=1e-10)))
    lengths = [episode.length for episode in rollout.episodes]
    assert sorted(lengths, reverse=True) != lengths  # one in the middle finishes first
    for noise in episodes_of(rollout):
        torch.testing.assert_close(noise, noise[:1].expand_as(noise), rtol=0, atol=1e-3)
    assert len({round(float(noise[0, 0]), 2) for noise in episodes_of(rollout)}) == len(lengths)


def pendulum(autoreset: str = "disabled") -> GymnasiumConfig:
    return GymnasiumConfig.model_validate(
        {"id": "Pendulum-v1", "vectorization": "sync", "autoreset": autoreset, "max_episode_steps": 5}
    )


def pendulum_policy(config: ExplorationConfig, network: Any = None) -> ActorCritic:
    with pendulum().make(1, SeedStream(0)) as environments:
        return policy_for(config, environments.observation_space, environments.action_space, network)


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
def test_pendulum_step_by_step(autoreset: str) -> None:
    collector = StepsConfig(num_envs=3, num_steps=8).build(pendulum(autoreset), SeedStream(1), "cpu")
    policy = pendulum_policy(CONFIGS["gsde"])
    noise = torch.cat([collector.collect(policy).extras["raw_action"] for _ in range(5)])[..., 0]  # [40, 3]
    collector.close()
    period = 6 if autoreset == "next_step" else 5  # with the dummy row, which the episode before it still owns
    assert len(noise.unique()) == 3 * math.ceil(40 / period)
    for episode in noise.split(period):
        assert torch.equal(episode, episode[:1].expand_as(episode))


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
def test_pendulum_by_whole_episodes(autoreset: str) -> None:
    collector = EpisodesConfig(num_envs=3).build(pendulum(autoreset), SeedStream(1), "cpu")
    policy = pendulum_policy(CONFIGS["gsde"])
    noise = torch.cat([collector.collect(policy).extras["raw_action"] for _ in range(4)])[..., 0]  # [60, 1]
    collector.close()
    assert len(noise.unique()) == 12
    for episode in noise.split(5):
        assert len(episode.unique()) == 1


def mean_of(policy: ActorCritic, obs: Tensor) -> Tensor:
    """By numpy, to which the policy acts on few observations: to the same bits."""
    assert policy.trunk is not None
    features = policy.trunk.on_arrays(obs.numpy())
    return torch.from_numpy(features @ policy.policy_head.weight.detach().numpy().T) + policy.policy_head.bias.detach()


class Mean(Policy):
    """Acts by the mean of another one."""

    def __init__(self, policy: ActorCritic) -> None:
        super().__init__()
        self.policy = policy

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        return Act(self.policy.distribution.to_space(mean_of(self.policy, obs)))


@ALL
def test_evaluation_is_deterministic_and_disturbs_nobody(config: ExplorationConfig) -> None:
    """Without a generator there is no noise; a collector's rollouts are the same with evaluations in between."""
    runs: list[list[Tensor]] = []
    scores = []
    for evaluating in (False, True):
        policy = pendulum_policy(config, MLPConfig(hidden=(F,)))
        with torch.no_grad():
            policy.policy_head.weight.fill_(0.3)
        collector: Collector = StepsConfig(num_envs=2, num_steps=3).build(pendulum(), SeedStream(1), "cpu")
        runs.append([])
        for _ in range(4):
            rollout = collector.collect(policy)
            runs[-1] += [rollout.extras["raw_action"], rollout.all_obs, rollout.rewards]
            if evaluating:
                before = torch.random.get_rng_state()
                scores.append(evaluate_policy(policy, pendulum(), SeedStream(5), 3, 100).returns)
                assert torch.equal(torch.random.get_rng_state(), before)
        collector.close()
    assert set(scores) == {evaluate_policy(Mean(policy), pendulum(), SeedStream(5), 3, 100).returns}
    for plain, with_evaluation in zip(*runs, strict=True):
        assert torch.equal(plain, with_evaluation)


@ALL_WITH_STATE
def test_without_a_generator_a_policy_acts_by_its_mean(config: ExplorationConfig) -> None:
    """It asks for no noise and leaves the state as it was."""
    policy = policy_for(config, network=MLPConfig(hidden=(F,)))
    assert isinstance(policy, ExploringActorCritic)
    with torch.no_grad():
        policy.policy_head.weight.fill_(0.3)
    obs = torch.randn(4, 3, generator=generator())
    everywhere = torch.ones(4, dtype=torch.bool)
    sampled = policy.act(obs, policy.initial_state(4), everywhere, generator=generator())
    for starts in (everywhere, ~everywhere):
        act = policy.act(obs, sampled.state, starts)
        mean = mean_of(policy, obs)
        assert torch.equal(act.extras["raw_action"], mean)
        assert not torch.equal(sampled.extras["raw_action"], mean)
        for (_, leaf), (_, expected) in zip(tree_leaves(act.state), tree_leaves(sampled.state), strict=True):
            assert torch.equal(leaf, expected)


@ALL
def test_log_probabilities_need_no_history(config: ExplorationConfig) -> None:
    """They are those of a normal distribution around the mean with the deviation of that step alone."""
    policy = policy_for(config, network=MLPConfig(hidden=(F,)))
    assert policy.exploration is not None
    obs, taken = torch.randn(5, 3, generator=generator()), torch.randn(5, A, generator=generator(1))
    features = policy.trunk(obs)  # type: ignore[misc]
    normal = torch.distributions.Normal(policy.policy_head(features), policy.exploration.log_std(features).exp())
    log_probs, entropies, _ = policy.evaluate(obs, taken)
    torch.testing.assert_close(log_probs, normal.log_prob(taken).sum(1))
    torch.testing.assert_close(entropies, normal.entropy().sum(1))
    log_probs.sum().backward()
    assert all((parameter.grad != 0).any() for parameter in policy.exploration.parameters())


@ALL
def test_only_continuous_actions_make_it_stateful(config: ExplorationConfig) -> None:
    assert isinstance(policy_for(config), ExploringActorCritic) == config.has_state
    discrete = policy_for(config, action_space=spaces.Discrete(3))
    assert not isinstance(discrete, ExploringActorCritic)
    assert discrete.exploration is None
