"""TD3: smoothed targets, the delayed policy, and noise on actions."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plugin_cases import (
    BOX,
    DICT_OBS,
    OBS,
    SMALL,
    SPLITS,
    act,
    assert_close,
    assert_continues,
    assert_members,
    assert_uniform,
    before_each_step,
    build_from,
    gradients,
    gradients_of,
    happened,
    num_steps,
    one_thread,  # noqa: F401
    random_obs,
    random_rollout,
    recorded,
    rollouts_of,
    same,
    shaken,
    stacked,
    weights,
)
from torch import Tensor

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.explorations import GaussianConfig, OrnsteinUhlenbeckConfig, StateDependentConfig
from rlkit_core.component import ExplorationConfig
from rlkit_core.errors import UsageError
from rlkit_core.rollout import Rollout
from rlkit_td3.config import TD3Config
from rlkit_td3.td3 import TD3
from tests.contracts.contract_cases import learn

GAMMA = 0.9
STEPS = 12 * 4
"""In a rollout of the size that `make_rollout` has by itself."""
EXPLORATIONS = {"gaussian": GaussianConfig(std=0.1), "ou": OrnsteinUhlenbeckConfig(), "gsde": StateDependentConfig()}
EVERY_EXPLORATION = pytest.mark.parametrize("exploration", EXPLORATIONS.values(), ids=EXPLORATIONS)


def build(
    action_space: Any = BOX, observation_space: Any = OBS, *, total_steps: int = 1000, seed: int = 0, **settings: Any
) -> TD3:
    """One that takes one gradient step on each rollout of 48 steps, unless settings say otherwise."""
    settings = {
        "network": SMALL,
        "estimator": DiscountedConfig(gamma=GAMMA, normalize="off"),
        "warmup_steps": 0,
        "updates_per_step": 1 / STEPS,
        "batch_size": 64,
        "replay_size": 500,
        **settings,
    }
    config = TD3Config(**settings)
    return build_from(config, action_space, observation_space, total_steps=total_steps, seed=seed)


def make_rollout(seed: int = 0, **settings: Any) -> Rollout:
    return random_rollout(BOX, seed=seed, **settings)


def unit(actions: Tensor) -> Tensor:
    """Members of the box, -1 and 1 being its bounds."""
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    return 2 * (actions - low) / (high - low) - 1


def networks(learner: TD3) -> dict[str, Any]:
    return {
        "actor": learner.policy.actor,
        "critics": learner.critics,
        "target_actor": learner.target_actor.network,
        "target_critics": learner.target_critics.network,
    }


def all_weights(learner: TD3) -> dict[str, dict[str, Tensor]]:
    return {name: weights(network) for name, network in networks(learner).items()}


# The targets


@pytest.mark.parametrize(("target_noise", "clip"), [(0.2, 0.5), (1.0, 0.3), (0.0, 0.5), (0.7, 0.0)])
@pytest.mark.parametrize("normalize_observations", [False, True])
def test_a_gradient_step_is_the_equations(
    target_noise: float, clip: float, normalize_observations: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it by hand: smoothed targets, both losses and whom they reach, and the targets' moves."""
    learner = build(
        target_noise=target_noise,
        target_noise_clip=clip,
        normalize_observations=normalize_observations,
        policy_delay=1,
        target_tau=0.1,
    )
    shaken(learner.policy)
    shaken(learner.target_actor.network, 0.5, seed=5)
    shaken(learner.target_critics.network, 0.2, seed=3)
    learner.policy.preprocessor.update(random_obs(100, 3) * 2 + 1)
    before = copy.deepcopy(networks(learner))
    preprocessor = copy.deepcopy(learner.policy.preprocessor)
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    drawn = recorded(monkeypatch, learner.replay, "sample")
    for parameter in learner.policy.parameters():  # a mark by which one sees who writes here
        parameter.grad.fill_(7.0)

    at_critics = before_each_step(
        monkeypatch,
        learner.critic_optimizer,
        lambda: (gradients(learner.critics), all((p.grad == 7.0).all() for p in learner.policy.parameters())),
    )
    at_policy = before_each_step(
        monkeypatch,
        learner.policy_optimizer,
        lambda: (gradients(learner.policy.actor), gradients(learner.critics), copy.deepcopy(learner.critics)),
    )
    rollout = make_rollout()
    metrics = learner.update(rollout)
    assert len(at_critics) == len(at_policy) == len(drawn) == 1
    windows = happened(rollout)
    steps = [windows[float(reward)][0] for reward in drawn[0].answer.rewards[0]]
    assert len({(step.terminated, step.truncated) for step in steps}) == 3

    obs = preprocessor(stacked([step.obs for step in steps]))
    next_obs = preprocessor(stacked([step.next_obs for step in steps]))
    over = torch.tensor([step.terminated for step in steps])
    noise = (torch.randn(64, 2, generator=generator) * target_noise).clamp(-clip, clip)
    with torch.no_grad():
        next_actions = torch.clamp(before["target_actor"](next_obs) + noise, -1, 1)
        both = before["target_critics"](next_obs, next_actions)
        assert both[:, ~over].argmin(0).unique().numel() == 2
        following = torch.where(over, 0.0, torch.minimum(both[0], both[1]))
        targets = torch.tensor([step.reward for step in steps]) + GAMMA * following
    values = before["critics"](obs, unit(stacked([step.action for step in steps])))
    critic_loss = ((values[0] - targets) ** 2).mean() + ((values[1] - targets) ** 2).mean()
    assert metrics["critic_loss"] == pytest.approx(float(critic_loss.detach()), rel=1e-4)
    assert metrics["value"] == pytest.approx(float(values.detach().mean()), rel=1e-4, abs=1e-6)
    of_critics, untouched = at_critics[0]
    assert_close(of_critics, gradients_of(critic_loss, before["critics"]), rtol=1e-3, atol=1e-5)
    assert untouched

    of_policy, of_critics_later, moved = at_policy[0]
    assert not same(weights(moved), weights(before["critics"]))
    policy_loss = -moved(obs, before["actor"](obs))[0].mean()
    assert metrics["policy_loss"] == pytest.approx(float(policy_loss.detach()), rel=1e-4, abs=1e-6)
    assert_close(of_policy, gradients_of(policy_loss, before["actor"]), rtol=1e-3, atol=1e-5)
    assert same(of_critics, of_critics_later)
    assert same(weights(learner.critics), weights(moved))

    for name, source in (("target_actor", "actor"), ("target_critics", "critics")):
        online = weights(networks(learner)[source])
        follows = {key: old + 0.1 * (online[key] - old) for key, old in weights(before[name]).items()}
        assert_close(weights(networks(learner)[name]), follows, rtol=1e-5, atol=1e-7)
        assert not any(parameter.requires_grad for parameter in networks(learner)[name].parameters())


def seen_by_target_critics(learner: TD3, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The actions of an update's first gradient step that are valued, but for those behind a termination."""
    calls = recorded(monkeypatch, learner.target_critics.network, "forward")
    learner.update(make_rollout())
    next_obs, actions = calls[0].args
    return actions[next_obs.isfinite().all(1)]


def test_target_noise_is_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is clipped, and each number of each action has its own."""
    learner = build(target_noise=0.05, target_noise_clip=0.5, batch_size=20_000)
    for parameter in learner.target_actor.network.head.parameters():
        parameter.zero_()
    noise = seen_by_target_critics(learner, monkeypatch)
    torch.testing.assert_close(noise.std(0), torch.tensor([0.05, 0.05]), rtol=0.03, atol=0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(2), rtol=0, atol=0.002)
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 0.05**2 / 20


def test_target_noise_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(target_noise=1.0, target_noise_clip=0.3, batch_size=2_000)
    for parameter in learner.target_actor.network.head.parameters():
        parameter.zero_()
    noise = seen_by_target_critics(learner, monkeypatch)
    assert float(noise.min()) == pytest.approx(-0.3)
    assert float(noise.max()) == pytest.approx(0.3)
    inside = (noise.abs() < 0.299).float().mean()
    assert float(inside) == pytest.approx(math.erf(0.3 / math.sqrt(2)), abs=0.03)


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_target_actions_are_within_the_bounds(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build()
    with torch.no_grad():
        learner.target_actor.network.head.bias.add_(shift)
    actions = seen_by_target_critics(learner, monkeypatch)
    assert actions.abs().max() == 1
    assert (actions.abs() < 1).any()


def test_the_target_starts_where_a_policy_from_outside_does() -> None:
    learner, other = build(seed=0), build(seed=1)
    learner.policy.load_state_dict(other.policy.state_dict())
    assert not same(weights(learner.target_actor.network), weights(learner.policy.actor))
    learner.policy_replaced()
    assert same(weights(learner.target_actor.network), weights(learner.policy.actor))


def test_normalised_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normalize running does not go with a replay: take estimator.normalize off"):
        TD3Config(estimator=DiscountedConfig())


# What learns when


@pytest.mark.parametrize("policy_delay", [1, 2, 3])
@pytest.mark.parametrize("steps_per_update", [1, 4])
def test_the_policy_and_all_targets_wait(
    policy_delay: int, steps_per_update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each `policy_delay`-th gradient step, whichever update that is in; the critics learn at each."""
    learner = build(policy_delay=policy_delay, updates_per_step=steps_per_update / STEPS, target_tau=0.1)
    expected = all_weights(learner)
    assert same(expected["actor"], expected["target_actor"])
    assert same(expected["critics"], expected["target_critics"])
    history: list[dict[str, dict[str, Tensor]]] = []
    before_each_step(monkeypatch, learner.critic_optimizer, lambda: history.append(all_weights(learner)))
    metrics = [learner.update(make_rollout(seed)) for seed in range(12 // steps_per_update)]
    history.append(all_weights(learner))
    assert len(history) == 13
    for i in range(1, 13):
        before, after = history[i - 1], history[i]
        moves = i % policy_delay == 0
        assert not same(before["critics"], after["critics"])
        for name in ("actor", "target_actor", "target_critics"):
            assert same(before[name], after[name]) == (not moves), (i, name)
        if moves:
            for name, source in (("target_actor", "actor"), ("target_critics", "critics")):
                follows = {key: old + 0.1 * (after[source][key] - old) for key, old in before[name].items()}
                assert_close(after[name], follows, rtol=1e-5, atol=1e-7)
    if steps_per_update == 1:
        assert ["policy_loss" in record for record in metrics] == [i % policy_delay == 0 for i in range(1, 13)]


@pytest.mark.parametrize("splits", SPLITS, ids=["rows", "mixed", "whole"])
@pytest.mark.parametrize("updates_per_step", [0.25, 1, 0.3])
def test_gradient_steps_are_a_share_of_the_steps_behind_the_warm_up(
    splits: list[int], updates_per_step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the steps come; none in the warm-up, which leaves all weights alone."""
    learner = build(updates_per_step=updates_per_step, warmup_steps=20, batch_size=4)
    critics, policy = (
        before_each_step(monkeypatch, optimizer, lambda: None)
        for optimizer in (learner.critic_optimizer, learner.policy_optimizer)
    )
    initial = all_weights(learner)
    rollouts = rollouts_of(splits, BOX)
    for i in range(len(rollouts)):
        learner.update(rollouts[i])
        steps = num_steps(rollouts[: i + 1])
        assert len(critics) == math.floor(updates_per_step * max(0, steps - 20))
        assert len(policy) == len(critics) // 2
        assert same(initial["critics"], weights(learner.critics)) == (not critics)
        for name in ("actor", "target_actor", "target_critics"):
            assert same(initial[name], all_weights(learner)[name]) == (not policy)
    assert 20 < learner.clock.steps == steps


def test_the_step_size_falls_by_environment_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(total_steps=2 * STEPS, learning_rate_schedule="linear", updates_per_step=1 / 12, policy_delay=1)
    used = [
        before_each_step(monkeypatch, one, lambda one=one: one.learning_rate)
        for one in (learner.policy_optimizer, learner.critic_optimizer)
    ]
    for i in range(3):
        assert learner.update(make_rollout(i))["learning_rate"] == learner.policy_optimizer.learning_rate
    for rates in used:
        assert rates == [pytest.approx(1e-3 * left) for left in (0.5, 0.0, 0.0) for _ in range(4)]


def test_replay_draws_leave_the_normaliser_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes in each new step once, at the end; the networks see observations as it stood before."""
    learner = build(normalize_observations=True, updates_per_step=4 / STEPS)
    normalizer = learner.policy.preprocessor.normalizer
    during = before_each_step(monkeypatch, learner.critic_optimizer, lambda: weights(normalizer))
    steps = 0
    for seed, dummy_rows in enumerate([False, True, False]):
        before = weights(normalizer)
        during.clear()
        rollout = make_rollout(seed, dummy_rows=dummy_rows)
        steps += rollout.num_steps
        learner.update(rollout)
        assert len(during) >= 3
        assert all(same(before, statistics) for statistics in during)
        assert float(normalizer.count) == steps


# Acting


def test_the_default_noise_is_a_twentieth_of_the_range() -> None:
    """0.1 where the bounds are at -1 and 1; what lies outside is clipped; greedy actions have none."""
    N = 20_000
    learner = build(exploration=TD3Config().exploration)
    half = torch.from_numpy((BOX.high - BOX.low) / 2)
    obs = random_obs(1, 3).expand(N, 3)
    greedy = act(learner.policy, obs).action
    assert (greedy == greedy[0]).all()
    mean = learner.policy.actor(obs[:1])[0].detach()
    torch.testing.assert_close(unit(greedy[0]), mean, rtol=0, atol=1e-6)
    assert mean.abs().max() < 0.5  # nothing is clipped
    noise = (act(learner.policy, obs, seed=0).action - greedy) / half
    torch.testing.assert_close(noise.std(0), torch.tensor([0.1, 0.1]), rtol=0.03, atol=0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(2), rtol=0, atol=0.003)

    with torch.no_grad():
        learner.policy.actor.head.bias.add_(20.0)
    actions = act(learner.policy, obs, seed=0).action
    assert_members(BOX, actions[:200])
    at_bound = (actions == torch.from_numpy(BOX.high)).float().mean(0)
    torch.testing.assert_close(at_bound, torch.tensor([0.5, 0.5]), rtol=0, atol=0.02)


@EVERY_EXPLORATION
def test_the_deviation_of_the_noise_is_a_setting(exploration: ExplorationConfig) -> None:
    """Nothing of it is learned, whatever kind of noise it is."""
    learner = build(exploration=exploration, policy_delay=1)
    policy = learner.policy
    assert not list(policy.exploration.parameters())
    features = policy.actor.network(random_obs(50, 3))
    before = policy.exploration.log_std(features)
    learner.update(make_rollout())
    assert torch.equal(policy.exploration.log_std(features), before)


@pytest.mark.parametrize(
    "space",
    [
        BOX,
        spaces.Box(np.array([[0.1], [-1e6]]), np.array([[0.3], [1e-3]]), dtype=np.float64),
        spaces.Box(-0.1, 7.7, (3,), np.float16),
        spaces.Box(1 / 3, 2 / 3, (), np.float32),
    ],
    ids=["odd", "float64", "float16", "no shape"],
)
@EVERY_EXPLORATION
def test_actions_are_members(space: spaces.Box, exploration: ExplorationConfig) -> None:
    """In the warm-up, with noise, and greedy; also where the policy is at a bound."""
    for warmup_steps, shift in ((100, 0.0), (0, 0.0), (0, 30.0), (0, -30.0)):
        policy = build(space, exploration=exploration, warmup_steps=warmup_steps).policy
        with torch.no_grad():
            policy.actor.head.bias.add_(shift)
        for seed in (None, 0):
            assert_members(space, act(policy, random_obs(100, 3), seed).action)


def test_actions_of_the_warm_up_are_uniform() -> None:
    """In the box, whatever the policy thinks, but for greedy ones; afterwards they are the policy's."""
    learner = build(warmup_steps=STEPS)
    with torch.no_grad():
        learner.policy.actor.head.bias.add_(5.0)
    obs = random_obs(20_000, 3)
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    for steps in (0, STEPS - 1):
        learner.clock.steps = steps
        for column in ((act(learner.policy, obs, seed=0).action - low) / (high - low)).T:
            assert_uniform(column)
        assert (unit(act(learner.policy, obs).action) > 0.9).all()
    learner.clock.steps = STEPS
    assert (unit(act(learner.policy, obs, seed=0).action) > 0.4).all()


def test_what_is_learned_from_is_the_clipped_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critics see what the environment got: numbers from -1 to 1."""
    learner = build(exploration=GaussianConfig(std=3.0), collector=StepsConfig(num_envs=4, num_steps=12))
    calls = recorded(monkeypatch, learner.critics, "forward")
    _, [rollout] = learn(learner.config, learner, OBS, BOX, 1)
    learned = calls[0].args[1]
    assert learned.abs().max() <= 1 + 1e-6
    assert (learned.abs() > 1 - 1e-6).float().mean() > 0.5
    taken = {tuple(row.tolist()) for row in unit(rollout.actions.flatten(0, 1)).mul(1e4).round()}
    assert {tuple(row.tolist()) for row in learned.mul(1e4).round()} <= taken


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 1])),
        spaces.Box(0, 5, (2,), np.int64),
        spaces.Discrete(3),
    ],
    ids=["unbounded", "unbounded on one side", "integers", "Discrete"],
)
def test_other_actions_are_refused_by_name(space: Any) -> None:
    with pytest.raises(UsageError) as raised:
        build(space)
    assert "td3 takes a Box of floats with finite bounds" in str(raised.value)
    assert str(space) in str(raised.value)


@EVERY_EXPLORATION
@pytest.mark.parametrize("observation_space", [OBS, DICT_OBS], ids=["Box", "Dict"])
def test_it_learns_with_any_exploration_and_observation(exploration: ExplorationConfig, observation_space: Any) -> None:
    """Collected from environments that check each action; every weight of policy and critics moves."""
    learner = build(
        BOX,
        observation_space,
        exploration=exploration,
        collector=StepsConfig(num_envs=2, num_steps=4),
        warmup_steps=8,
        updates_per_step=0.5,
        batch_size=16,
        normalize_observations=True,
    )
    before = all_weights(learner)
    metrics, _ = learn(learner.config, learner, observation_space, BOX, 6)
    assert all(math.isfinite(number) for record in metrics for number in record.values())
    for network, old in before.items():
        for name, tensor in all_weights(learner)[network].items():
            assert tensor.isfinite().all(), name
            assert not torch.equal(tensor, old[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate_schedule": "linear"},
        {"exploration": StateDependentConfig(), "normalize_observations": True, "policy_delay": 7},
        {"exploration": OrnsteinUhlenbeckConfig(), "policy_delay": 5},
    ],
    ids=["gaussian", "gsde", "ou"],
)
def test_parts_continue_with_the_same_bits(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rollouts of 16 steps, eight of which are warm-up; with a delay of 5 or 7 in between two policy steps."""

    def make(seed: int) -> TD3:
        return build(seed=seed, warmup_steps=8, updates_per_step=0.5, batch_size=16, **settings)

    assert_continues(make, BOX, of="critic_optimizer", expected_steps=36, monkeypatch=monkeypatch)


def test_equal_seeds_give_equal_bits() -> None:
    """Whatever else draws from torch's global generator."""
    learned = []
    for seed, noise in ((0, 0), (0, 1), (1, 0)):
        learner = build(seed=seed)
        for name in ("policy", "critics", "target_actor", "target_critics"):
            learner.parts()[name].load_state_dict(build().parts()[name].state_dict())
        for i in range(2):
            torch.rand(3 * noise)
            learner.update(make_rollout(i))
        learned.append(weights(learner.critics))
    assert same(learned[0], learned[1])
    assert not same(learned[0], learned[2])
