"""SAC: squashed actions and their probabilities, its three losses by hand, and who learns from which."""

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
    Step,
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
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.explorations import GaussianConfig, OrnsteinUhlenbeckConfig, StateDependentConfig
from rlkit_core.component import ExplorationConfig
from rlkit_core.errors import UsageError
from rlkit_core.rollout import Rollout, tree_leaves
from rlkit_sac.config import SACConfig
from rlkit_sac.sac import SAC
from tests.contracts.contract_cases import learn

GAMMA = 0.9
STEPS = 12 * 4
"""In a rollout of the size that `make_rollout` has by itself."""
EXPLORATIONS = {
    "gaussian": GaussianConfig(std=0.6),
    "ou": OrnsteinUhlenbeckConfig(),
    "gsde": StateDependentConfig(std=0.4),
}
EVERY_EXPLORATION = pytest.mark.parametrize("exploration", EXPLORATIONS.values(), ids=EXPLORATIONS)
ODD_BOXES = {
    "odd": BOX,
    "float64": spaces.Box(np.array([[0.1], [-1e6]]), np.array([[0.3], [1e-3]]), dtype=np.float64),
    "float16": spaces.Box(-0.1, 7.7, (3,), np.float16),
    "no shape": spaces.Box(1 / 3, 2 / 3, (), np.float32),
    "a single value": spaces.Box(np.float32([1, -1]), np.float32([1, 1])),
}
EVERY_BOX = pytest.mark.parametrize("space", ODD_BOXES.values(), ids=ODD_BOXES)


def build(
    action_space: Any = BOX, observation_space: Any = OBS, *, total_steps: int = 1000, seed: int = 0, **settings: Any
) -> SAC:
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
    config = SACConfig(**settings)
    return build_from(config, action_space, observation_space, total_steps=total_steps, seed=seed)


def make_rollout(seed: int = 0, **settings: Any) -> Rollout:
    return random_rollout(BOX, seed=seed, **settings)


# The policy


@pytest.mark.parametrize("std", [1e-3, 1.0, 5.0])
@pytest.mark.parametrize("mean", [0.0, 3.0, -12.0, 60.0])
@EVERY_EXPLORATION
def test_log_probabilities_are_those_of_torch(exploration: ExplorationConfig, mean: float, std: float) -> None:
    """Of actions far beyond where tanh is 1 in float32, too: computed in float64, with its inverse remembered."""
    config = type(exploration)(std=std)
    policy = build(exploration=config).policy
    with torch.no_grad():
        policy.mean_head.bias.add_(mean)
    obs = random_obs(200, 3)
    actions, log_probs = policy.sample(obs, torch.Generator().manual_seed(0))
    features = policy.network(obs)
    log_std = policy.exploration.log_std(features).double()
    mu = policy.mean_head(features).double()
    noise = torch.empty(200, 2).normal_(generator=torch.Generator().manual_seed(0)).double()
    squash = TanhTransform(cache_size=1)
    reference = TransformedDistribution(Normal(mu, log_std.exp()), squash)
    expected = squash(mu + log_std.exp() * noise)
    torch.testing.assert_close(actions.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs.double(), reference.log_prob(expected).sum(1), rtol=1e-6, atol=1e-4)
    assert log_probs.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients_of(log_probs.sum(), policy).values())


def test_the_density_is_one_in_all() -> None:
    """Without torch's own: the integral over all actions, from -1 to 1, of the probability that is said."""
    policy = build(spaces.Box(-1, 1, (1,), np.float32), exploration=GaussianConfig(std=0.8)).policy
    obs = random_obs(1, 3).expand(20_001, 3)

    actions, log_probs = policy.sample(obs, torch.Generator().manual_seed(0))
    order = actions[:, 0].argsort()
    x, density = actions[order, 0].detach().double(), log_probs[order].detach().double().exp()
    # From where the middle 0.998 of the draws lie, by trapezoids.
    inside = slice(20, -20)
    integral = torch.trapezoid(density[inside], x[inside])
    assert float(integral) == pytest.approx(1 - 40 / 20_001, abs=0.01)


@EVERY_EXPLORATION
def test_acting_has_the_distribution_that_is_learned(exploration: ExplorationConfig) -> None:
    """The raw actions of acting, in one step, have mean and deviation of those of `sample`."""
    N = 20_000
    policy = build(spaces.Box(-1, 1, (2,), np.float64), exploration=exploration).policy
    shaken(policy, 0.1)
    obs = random_obs(1, 3).expand(N, 3)
    features = policy.network(obs)
    acted = act(policy, obs, seed=0).action.atanh()
    std = policy.exploration.log_std(features).exp()[0].detach().double()
    mean = policy.mean_head(features)[0].detach().double()
    torch.testing.assert_close(acted.mean(0), mean, rtol=0, atol=float(4 * std.max() / math.sqrt(N)))
    torch.testing.assert_close(acted.std(0), std, rtol=0.03, atol=0)


@EVERY_EXPLORATION
def test_the_deviation_is_learned(exploration: ExplorationConfig) -> None:
    """As a function of the observation, starting around the setting."""
    policy = build(exploration=exploration).policy
    obs = random_obs(50, 3)
    log_std = policy.exploration.log_std(policy.network(obs))
    assert (log_std.std(0) > 1e-3).all()
    for name, gradient in gradients_of(log_std.sum(), policy.exploration).items():
        assert gradient.any(), name
    _, log_probs = policy.sample(obs, torch.Generator().manual_seed(0))
    assert all(gradient.any() for gradient in gradients_of(log_probs.sum(), policy.exploration).values())


@EVERY_BOX
@EVERY_EXPLORATION
def test_actions_are_members(space: spaces.Box, exploration: ExplorationConfig) -> None:
    """In the warm-up, sampled, and greedy; also where the mean is far outside."""
    for warmup_steps, shift in ((100, 0.0), (0, 0.0), (0, 30.0), (0, -30.0)):
        policy = build(space, exploration=exploration, warmup_steps=warmup_steps).policy
        with torch.no_grad():
            policy.mean_head.bias.add_(shift)
        for seed in (None, 0):
            assert_members(space, act(policy, random_obs(100, 3), seed).action)


@EVERY_BOX
def test_greedy_actions_are_the_squashed_mean(space: spaces.Box) -> None:
    """Scaled to the bounds; also in the warm-up, and the same each time."""
    policy = build(space, warmup_steps=100).policy
    obs = random_obs(50, 3)
    mean = policy.mean_head(policy.network(obs)).detach().double().tanh().numpy().reshape(50, *space.shape)
    low, high = space.low.astype(float), space.high.astype(float)
    action = act(policy, obs).action
    rounding = np.finfo(space.dtype).eps * max(1, np.abs(low).max())
    np.testing.assert_allclose(
        action.double().numpy(), low + (mean + 1) / 2 * (high - low), atol=4 * rounding + 1e-7 * np.max(high - low)
    )
    assert torch.equal(action, act(policy, obs).action)


def test_actions_of_the_warm_up_are_uniform() -> None:
    """In the box, whatever the policy thinks; afterwards they are the policy's."""
    learner = build(warmup_steps=STEPS, exploration=GaussianConfig(std=0.01))
    with torch.no_grad():
        learner.policy.mean_head.bias.add_(5.0)
    obs = random_obs(20_000, 3)
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    for steps in (0, STEPS - 1):
        learner.clock.steps = steps
        for column in ((act(learner.policy, obs, seed=0).action - low) / (high - low)).T:
            assert_uniform(column)
    learner.clock.steps = STEPS
    assert (act(learner.policy, obs, seed=0).action > high - 0.1).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 1])),
        spaces.Box(0, 5, (2,), np.int64),
        spaces.Discrete(3),
        spaces.MultiBinary(2),
    ],
    ids=["unbounded", "unbounded on one side", "integers", "Discrete", "MultiBinary"],
)
def test_other_actions_are_refused_by_name(space: Any) -> None:
    with pytest.raises(UsageError) as raised:
        build(space)
    assert "sac takes a Box of floats with finite bounds" in str(raised.value)
    assert str(space) in str(raised.value)


# The losses


def unit(actions: Tensor) -> Tensor:
    """Members of the box, -1 and 1 being its bounds."""
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    return 2 * (actions - low) / (high - low) - 1


def one_step(
    learner: SAC, monkeypatch: pytest.MonkeyPatch, rollout: Rollout
) -> tuple[list[Step], dict[str, Any], dict[str, float]]:
    """An update of one gradient step: what was drawn, what was seen on the way, and the metrics."""
    drawn = recorded(monkeypatch, learner.replay, "sample")
    for parameter in learner.policy.parameters():  # a mark by which one sees who writes here
        parameter.grad.fill_(7.0)

    def at_critics() -> Any:
        return {
            "critic": gradients(learner.critics),
            "policy untouched": all((p.grad == 7.0).all() for p in learner.policy.parameters()),
        }

    def at_policy() -> Any:
        return {
            "policy": gradients(learner.policy),
            "critic": gradients(learner.critics),
            "critics": copy.deepcopy(learner.critics),
        }

    critics = before_each_step(monkeypatch, learner.critic_optimizer, at_critics)
    policy = before_each_step(monkeypatch, learner.policy_optimizer, at_policy)
    temperature = before_each_step(
        monkeypatch, learner.temperature_optimizer, lambda: float(learner.log_temperature.grad)
    )
    metrics = learner.update(rollout)
    assert len(critics) == len(policy) == len(drawn) == 1
    windows = happened(rollout)
    steps = [windows[float(reward)][0] for reward in drawn[0].answer.rewards[0]]
    return steps, {"critics": critics[0], "policy": policy[0], "temperature": temperature}, dict(metrics)


@pytest.mark.parametrize("temperature", ["auto", 0.3, 0])
@pytest.mark.parametrize("normalize_observations", [False, True])
@EVERY_EXPLORATION
def test_a_gradient_step_is_the_equations(
    temperature: Any, normalize_observations: bool, exploration: ExplorationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it by hand: targets, the losses and whom they reach, the temperature, and the target's move."""
    learner = build(
        temperature=temperature,
        temperature_initial=0.5,
        normalize_observations=normalize_observations,
        exploration=exploration,
        target_tau=0.1,
    )
    shaken(learner.policy)
    shaken(learner.target.network, 0.2, seed=3)
    learner.policy.preprocessor.update(random_obs(100, 3) * 2 + 1)
    policy, critics, target = (copy.deepcopy(x) for x in (learner.policy, learner.critics, learner.target.network))
    noise = torch.Generator()
    noise.set_state(learner.generator.get_state())
    steps, seen, metrics = one_step(learner, monkeypatch, make_rollout())
    assert len({(step.terminated, step.truncated) for step in steps}) == 3

    obs = policy.preprocessor(stacked([step.obs for step in steps]))
    next_obs = policy.preprocessor(stacked([step.next_obs for step in steps]))
    over = torch.tensor([step.terminated for step in steps])
    rewards = torch.tensor([step.reward for step in steps])
    alpha = 0.5 if temperature == "auto" else float(temperature)
    with torch.no_grad():
        next_actions, next_log_probs = policy.sample(next_obs, noise)
        both = target(next_obs, next_actions)
        soft = torch.where(over, 0.0, torch.minimum(both[0], both[1]) - alpha * next_log_probs)
    assert both[:, ~over].argmin(0).unique().numel() == 2
    targets = rewards + GAMMA * soft
    values = critics(obs, unit(stacked([step.action for step in steps])))
    critic_loss = ((values[0] - targets) ** 2).mean() + ((values[1] - targets) ** 2).mean()
    assert metrics["critic_loss"] == pytest.approx(float(critic_loss.detach()), rel=1e-4)
    assert metrics["value"] == pytest.approx(float(values.detach().mean()), rel=1e-4, abs=1e-6)
    assert_close(seen["critics"]["critic"], gradients_of(critic_loss, critics), rtol=1e-3, atol=1e-5)
    assert seen["critics"]["policy untouched"]

    moved = seen["policy"]["critics"]  # the policy learns from critics that have had their step
    assert not same(weights(moved), weights(critics))
    actions, log_probs = policy.sample(obs, noise)
    of_both = moved(obs, actions)
    assert of_both.argmin(0).unique().numel() == 2
    policy_loss = (alpha * log_probs - torch.minimum(of_both[0], of_both[1])).mean()
    assert metrics["policy_loss"] == pytest.approx(float(policy_loss.detach()), rel=1e-4, abs=1e-6)
    assert_close(seen["policy"]["policy"], gradients_of(policy_loss, policy), rtol=1e-3, atol=1e-5)
    assert same(seen["policy"]["critic"], seen["critics"]["critic"])
    assert same(weights(learner.critics), weights(moved))

    entropy = -float(log_probs.detach().mean())
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert metrics["temperature"] == pytest.approx(alpha, abs=1e-6)
    expected = [pytest.approx(entropy + 2, rel=1e-4)] if temperature == "auto" else []  # the target is -2
    assert seen["temperature"] == expected

    online = weights(learner.critics)
    follows = {name: old + 0.1 * (online[name] - old) for name, old in weights(target).items()}
    assert_close(weights(learner.target.network), follows, rtol=1e-5, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in learner.target.network.parameters())


def test_the_target_follows_at_every_gradient_step() -> None:
    learner = build(target_tau=0.25, learning_rate=0.01, updates_per_step=1 / STEPS)
    expected = weights(learner.target.network)
    assert same(expected, weights(learner.critics))
    for seed in range(4):
        learner.update(make_rollout(seed))
        online = weights(learner.critics)
        expected = {name: old + 0.25 * (online[name] - old) for name, old in expected.items()}
        assert_close(weights(learner.target.network), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("target_entropy", "rises"), [(10.0, True), (-50.0, False)])
def test_an_automatic_temperature_goes_where_the_entropy_is_missing(target_entropy: float, rises: bool) -> None:
    learner = build(target_entropy=target_entropy, updates_per_step=3 / STEPS, learning_rate=0.01)
    temperatures = [1.0]
    for seed in range(4):
        metrics = learner.update(make_rollout(seed))
        assert (metrics["entropy"] < target_entropy) == rises
        temperatures.append(float(learner.log_temperature.detach().exp()))
    assert sorted(temperatures, reverse=not rises) == temperatures
    assert len(set(temperatures)) == 5


@pytest.mark.parametrize("temperature", [0, 0.0, 0.2, 3])
def test_a_temperature_that_is_given_stays(temperature: float) -> None:
    learner = build(temperature=temperature, target_entropy=10.0, learning_rate=0.01, temperature_initial=0.7)
    for seed in range(3):
        metrics = learner.update(make_rollout(seed))
        assert metrics["temperature"] == pytest.approx(temperature, rel=1e-6, abs=1e-20)
    assert float(learner.log_temperature.exp()) == pytest.approx(temperature, rel=1e-6, abs=1e-20)


def test_what_a_temperature_can_be() -> None:
    for wrong in (-0.1, "automatic", None):
        with pytest.raises(ValueError, match="temperature"):
            SACConfig(temperature=wrong)
    with pytest.raises(ValueError, match="temperature_initial"):
        SACConfig(temperature_initial=0)


def test_the_target_entropy_is_minus_the_numbers_in_an_action() -> None:
    assert build().target_entropy == -2
    assert build(spaces.Box(-1, 1, (2, 3), np.float32)).target_entropy == -6
    assert build(target_entropy=0.0).target_entropy == 0


def test_normalised_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normalize running does not go with a replay: take estimator.normalize off"):
        SACConfig(estimator=DiscountedConfig())


# When it learns, and from what


@pytest.mark.parametrize("splits", SPLITS, ids=["rows", "mixed", "whole"])
@pytest.mark.parametrize("updates_per_step", [0.25, 1, 0.3])
def test_gradient_steps_are_a_share_of_the_steps_behind_the_warm_up(
    splits: list[int], updates_per_step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the steps come; none in the warm-up, which leaves all weights alone."""
    learner = build(updates_per_step=updates_per_step, warmup_steps=20, batch_size=4)
    optimizers = (learner.policy_optimizer, learner.critic_optimizer, learner.temperature_optimizer)
    taken = [before_each_step(monkeypatch, optimizer, lambda: None) for optimizer in optimizers]
    initial = [weights(network) for network in (learner.policy, learner.critics, learner.target.network)]
    rollouts = rollouts_of(splits, BOX)
    for i in range(len(rollouts)):
        learner.update(rollouts[i])
        steps = num_steps(rollouts[: i + 1])
        assert [len(some) for some in taken] == [math.floor(updates_per_step * max(0, steps - 20))] * 3
        for network, before in zip((learner.policy, learner.critics, learner.target.network), initial, strict=True):
            assert same(before, weights(network)) == (not taken[0])
    assert 20 < learner.clock.steps == steps


def test_the_step_size_falls_by_environment_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(total_steps=2 * STEPS, learning_rate_schedule="linear", updates_per_step=1 / 12)
    optimizers = (learner.policy_optimizer, learner.critic_optimizer, learner.temperature_optimizer)
    used = [before_each_step(monkeypatch, one, lambda one=one: one.learning_rate) for one in optimizers]
    for i in range(3):
        assert learner.update(make_rollout(i))["learning_rate"] == learner.policy_optimizer.learning_rate
    for rates in used:
        assert rates == [pytest.approx(3e-4 * left) for left in (0.5, 0.0, 0.0) for _ in range(4)]


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
    before = [weights(learner.policy), weights(learner.critics)]
    metrics, rollouts = learn(learner.config, learner, observation_space, BOX, 6)
    assert all(math.isfinite(number) for record in metrics for number in record.values())
    for network, old in zip((learner.policy, learner.critics), before, strict=True):
        for name, tensor in weights(network).items():
            assert tensor.isfinite().all(), name
            assert not torch.equal(tensor, old[name])
    assert len({float(x) for rollout in rollouts for x in rollout.actions.flatten()}) == 6 * 8 * 2
    obs = rollouts[0].obs
    assert {path for path, _ in tree_leaves(obs)} == ({"a", "b"} if observation_space is DICT_OBS else {""})


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate_schedule": "linear"},
        {"exploration": StateDependentConfig(), "normalize_observations": True, "temperature": 0.1},
        {"exploration": OrnsteinUhlenbeckConfig()},
    ],
    ids=["automatic", "gsde", "ou"],
)
def test_parts_continue_with_the_same_bits(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rollouts of 16 steps, eight of which are warm-up."""

    def make(seed: int) -> SAC:
        return build(seed=seed, warmup_steps=8, updates_per_step=0.5, batch_size=16, **settings)

    assert_continues(make, BOX, of="critic_optimizer", expected_steps=36, monkeypatch=monkeypatch)


def test_equal_seeds_give_equal_bits() -> None:
    """Whatever else draws from torch's global generator."""
    learned = []
    for seed, noise in ((0, 0), (0, 1), (1, 0)):
        learner = build(seed=seed)
        for name in ("policy", "critics", "target"):
            learner.parts()[name].load_state_dict(build().parts()[name].state_dict())
        for i in range(2):
            torch.rand(3 * noise)
            learner.update(make_rollout(i))
        learned.append(weights(learner.policy))
    assert same(learned[0], learned[1])
    assert not same(learned[0], learned[2])
