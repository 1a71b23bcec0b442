"""DQN's update: its loss by hand, its target network, and when it explores and learns."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gymnasium import spaces
from plugin_cases import (
    OBS,
    SMALL,
    SPLITS,
    Step,
    act,
    assert_close,
    assert_continues,
    assert_members,
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

from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
from rlkit_core.rollout import FinalObservations, Rollout
from rlkit_dqn.config import DQNConfig
from rlkit_dqn.dqn import DQN

ACTIONS = spaces.Discrete(4, start=-2)
GAMMA = 0.9
STEPS = 12 * 4
"""In a rollout of the size that `make_rollout` has by itself."""
OTHERS = pytest.mark.parametrize("dueling", [False, True], ids=["plain", "dueling"])


def build(*, total_steps: int = 1000, seed: int = 0, **settings: Any) -> DQN:
    """One that takes one gradient step on each rollout of 48 steps, unless settings say otherwise."""
    settings = {
        "network": SMALL,
        "estimator": DiscountedConfig(gamma=GAMMA, normalize="off"),
        "warmup_steps": 0,
        "updates_per_step": 1 / STEPS,
        "batch_size": 64,
        "replay_size": 500,
        "target_every": 10**6,
        **settings,
    }
    return build_from(DQNConfig(**settings), ACTIONS, total_steps=total_steps, seed=seed)


def make_rollout(seed: int = 0, **settings: Any) -> Rollout:
    return random_rollout(ACTIONS, seed=seed, **settings)


# The loss


def target_by_hand(steps: Sequence[Step], online: Any, target: Any, *, double: bool) -> float:
    """Of the first of steps in a row, the last of which ends the window or the episode."""
    total = sum(GAMMA**k * step.reward for k, step in enumerate(steps))
    if steps[-1].terminated:
        return total
    values = target(steps[-1].next_obs[None])[0]
    best = online(steps[-1].next_obs[None])[0].argmax() if double else values.argmax()
    return total + GAMMA ** len(steps) * float(values[best])


def loss_by_hand(learner: DQN, drawn: Rollout, rollouts: Sequence[Rollout], online: Any, target: Any) -> Tensor:
    """Of each step of the draw `[B]`, from what happened and not from what the replay says that happened."""
    config = learner.config
    windows = happened(*rollouts, window=config.n_step)
    rows = [windows[float(reward)] for reward in drawn.rewards[0]]
    with torch.no_grad():
        targets = torch.tensor([target_by_hand(steps, online, target, double=config.double) for steps in rows])
    values = online(stacked([steps[0].obs for steps in rows]))
    values = values[torch.arange(len(rows)), torch.stack([steps[0].action for steps in rows]) + 2]
    error = values - targets
    if config.loss == "squared":
        return error.square()
    return torch.where(error.abs() < 1, 0.5 * error.square(), error.abs() - 0.5)


@pytest.mark.parametrize("double", [False, True], ids=["max", "double"])
@pytest.mark.parametrize("loss", ["huber", "squared"])
@pytest.mark.parametrize("n_step", [1, 3])
@OTHERS
def test_the_loss(double: bool, loss: str, n_step: int, dueling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: what terminated is worth nothing behind it, though NaN is there; only the online network has a gradient."""
    learner = build(double=double, loss=loss, n_step=n_step, dueling=dueling)
    shaken(learner.policy)
    shaken(learner.target.network, 0.5, seed=7)
    online, target = copy.deepcopy(learner.policy.q_network), copy.deepcopy(learner.target.network)
    rollout = make_rollout()
    if n_step == 3:  # every kind of window is there
        ends = {
            (len(steps), steps[-1].terminated, steps[-1].truncated) for steps in happened(rollout, window=3).values()
        }
        assert ends >= {(1, True, False), (1, False, True), (2, True, False), (2, False, True), (3, False, False)}
    drawn = recorded(monkeypatch, learner.replay, "sample")
    seen = before_each_step(monkeypatch, learner.optimizer, lambda: gradients(learner.policy))
    metrics = learner.update(rollout)
    assert len(seen) == len(drawn) == 1

    losses = loss_by_hand(learner, drawn[0].answer, [rollout], online, target)
    error = 2 * losses.detach()  # where it is small
    assert (error > 1).any()
    assert (error < 1).any()
    assert metrics["loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)
    expected = gradients_of(losses.mean(), online)
    assert_close({name.removeprefix("q_network."): gradient for name, gradient in seen[0].items()}, expected)
    assert same(weights(learner.target.network), weights(target))
    assert not any(parameter.requires_grad for parameter in learner.target.network.parameters())


def test_the_two_networks_of_this_file_choose_differently() -> None:
    """So that the test above can tell which of them chose."""
    learner = build()
    shaken(learner.policy)
    shaken(learner.target.network, 0.5, seed=7)
    next_obs = random_obs(100, 3)
    chosen = [network(next_obs).argmax(1) for network in (learner.policy.q_network, learner.target.network)]
    assert (chosen[0] != chosen[1]).float().mean() > 0.2


def test_windows_go_on_over_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of one row each, as the default collector gives them, make the same windows as one of all rows."""
    learner = build(n_step=3)
    shaken(learner.target.network, 0.5, seed=7)
    online, target = copy.deepcopy(learner.policy.q_network), copy.deepcopy(learner.target.network)
    drawn = recorded(monkeypatch, learner.replay, "sample")
    whole = make_rollout()
    for t in range(12):
        assert not drawn
        row = slice(t, t + 1)
        names = ("actions", "rewards", "terminated", "truncated", "valid")
        here = whole.finals.time == t
        lanes = whole.finals.lane[here]
        finals = FinalObservations(torch.zeros_like(lanes), lanes, whole.finals.obs[here])
        metrics = learner.update(
            Rollout(
                all_obs=whole.all_obs[t : t + 2],
                finals=finals if here.any() else None,
                **{name: getattr(whole, name)[row] for name in names},
            )
        )
    losses = loss_by_hand(learner, drawn[0].answer, [whole], online, target)
    assert metrics["loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_prioritised_losses_are_weighed(loss: str, n_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights undo the priorities with an exponent that grows; priorities become the size of the error."""
    settings = {"prioritized": True, "priority_alpha": 0.7, "priority_beta": 0.4, "loss": loss, "n_step": n_step}
    learner = build(total_steps=4 * STEPS, learning_rate=0.01, **settings)
    shaken(learner.policy)
    shaken(learner.target.network, 0.5, seed=7)
    rollouts = [make_rollout(seed) for seed in range(4)]
    drawn = recorded(monkeypatch, learner.replay, "sample")
    seen = before_each_step(monkeypatch, learner.optimizer, lambda: gradients(learner.policy))
    before: list[Tensor] = []
    sample = learner.replay.sample

    def watched(batch_size: int) -> Rollout:
        before.append(learner.replay.state_dict()["priorities"].clone())
        return sample(batch_size)

    monkeypatch.setattr(learner.replay, "sample", watched)
    for i, rollout in enumerate(rollouts):
        online, target = copy.deepcopy(learner.policy.q_network), copy.deepcopy(learner.target.network)
        metrics = learner.update(rollout)
        draw = drawn[i].answer
        index, weight = draw.extras["index"][0], draw.extras["weight"][0]
        expected_weight = before[i][index] ** -(0.4 + 0.6 * (i + 1) / 4)
        torch.testing.assert_close(weight.double(), expected_weight / expected_weight.max(), rtol=1e-5, atol=0)
        assert (weight.unique().numel() > 1) == (i > 0)

        losses = loss_by_hand(learner, draw, rollouts[: i + 1], online, target)
        assert metrics["loss"] == pytest.approx(float((weight * losses).detach().mean()), rel=1e-5)
        expected = gradients_of((weight * losses).mean(), online)
        assert_close({name.removeprefix("q_network."): gradient for name, gradient in seen[i].items()}, expected)

        losses = losses.detach()
        error = losses.sqrt() if loss == "squared" else torch.where(losses < 0.5, (2 * losses).sqrt(), losses + 0.5)
        after = learner.replay.state_dict()["priorities"][index]
        torch.testing.assert_close(after, (error.double() + 1e-6) ** 0.7, rtol=1e-3, atol=1e-4)


def test_a_uniform_replay_has_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build()
    drawn = recorded(monkeypatch, learner.replay, "sample")
    learner.update(make_rollout())
    assert set(drawn[0].answer.extras) == {"index"}


@pytest.mark.parametrize("estimator", [DiscountedConfig(), LambdaConfig(), DiscountedConfig(normalize="running")])
def test_normalised_targets_are_refused(estimator: DiscountedConfig) -> None:
    with pytest.raises(ValueError, match=r"normalize running does not go with a replay: take estimator.normalize off"):
        DQNConfig(estimator=estimator)


def test_windows_that_no_value_follows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bootstrap false does not go with a replay"):
        DQNConfig(estimator=DiscountedConfig(normalize="off", bootstrap=False))


def test_an_epsilon_that_rises_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon_final 0.5 is above epsilon_initial"):
        DQNConfig(epsilon_initial=0.2, epsilon_final=0.5)


def test_the_target_starts_where_a_policy_from_outside_does() -> None:
    learner, other = build(seed=0), build(seed=1)
    learner.policy.load_state_dict(other.policy.state_dict())
    assert not same(weights(learner.target.network), weights(learner.policy.q_network))
    learner.policy_replaced()
    assert same(weights(learner.target.network), weights(learner.policy.q_network))


# The networks


def test_duelling_advantages_have_mean_0() -> None:
    """The mean of all values is the state's own, whatever the advantages are."""
    network = build(dueling=True).policy.q_network
    shaken(network)
    obs = random_obs(20, 3)
    features = network.network(obs)
    advantages, own = network.head(features), network.value_head(features)
    values = network(obs)
    torch.testing.assert_close(values.mean(1, keepdim=True), own)
    torch.testing.assert_close(values - own, advantages - advantages.mean(1, keepdim=True))
    with torch.no_grad():
        network.head.bias.add_(5.0)
    torch.testing.assert_close(network(obs), values)
    assert build(dueling=False).policy.q_network.value_head is None


@pytest.mark.parametrize(("every", "tau"), [(1, 1.0), (3, 1.0), (1, 0.3), (2, 0.25)])
def test_the_target_follows(every: int, tau: float) -> None:
    """At each `target_every`-th gradient step, whichever update that is in; in between it stands still."""
    learner = build(target_every=every, target_tau=tau, learning_rate=0.01)
    expected = weights(learner.target.network)
    assert same(expected, weights(learner.policy.q_network))
    moves = 0
    for i in range(1, 8):
        learner.update(make_rollout(i))
        if i % every == 0:
            online = weights(learner.policy.q_network)
            expected = {name: old + tau * (online[name] - old) for name, old in expected.items()}
            moves += 1
        assert_close(weights(learner.target.network), expected, rtol=1e-5, atol=1e-7)
        assert not same(weights(learner.target.network), weights(learner.policy.q_network)) or (
            tau == 1 and i % every == 0
        )
    assert moves == 7 // every


# Exploring


def test_epsilon_is_1_in_the_warm_up_and_then_falls_by_environment_steps() -> None:
    settings = {"epsilon_initial": 0.9, "epsilon_final": 0.1, "epsilon_fraction": 0.5, "updates_per_step": 1 / 900}
    learner = build(warmup_steps=100, **settings)
    assert learner.epsilon() == 1
    steps = 0
    for i in range(30):
        rollout = make_rollout(i, T=9 if i % 2 else 12, dummy_rows=True)
        steps += int(rollout.valid.sum())
        assert learner.update(rollout)["epsilon"] == learner.epsilon()
        falling = max(0.1, 0.9 - 0.8 * steps / 500)
        assert learner.epsilon() == pytest.approx(1.0 if steps < 100 else falling, abs=1e-9)
    assert steps > 600
    assert learner.epsilon() == 0.1


def test_epsilon_without_a_fall_is_the_final_one() -> None:
    assert build(epsilon_fraction=0.0).epsilon() == 0.05


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_random_actions_are_as_frequent_as_epsilon_says(epsilon: float) -> None:
    """A random action may be the best one as well."""
    N = 40_000
    learner = build(epsilon_initial=epsilon, epsilon_final=epsilon)
    shaken(learner.policy)
    obs = random_obs(1, 3).expand(N, 3)
    greedy = act(learner.policy, obs).action
    best = int(greedy[0])
    assert (greedy == best).all()
    assert best == int(learner.policy.q_network(obs[:1]).argmax()) - 2
    actions = act(learner.policy, obs, seed=0).action
    assert_members(ACTIONS, actions[:100])
    for action in range(-2, 2):
        share = epsilon / 4 + (1 - epsilon) * (action == best)
        found = float((actions == action).float().mean())
        assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / N))
    assert torch.equal(act(learner.policy, obs).action, greedy)


def test_rows_explore_independently() -> None:
    """Whether an action is random, and which one it is, has nothing to do with those of other environments."""
    learner = build(epsilon_initial=0.5, epsilon_final=0.5)
    obs = random_obs(1, 3).expand(20_000, 3)
    best = int(act(learner.policy, obs[:1]).action)
    other = (act(learner.policy, obs, seed=0).action != best).float()
    both = float((other[:10_000] * other[10_000:]).mean())
    assert both == pytest.approx(float(other.mean()) ** 2, abs=0.02)


def test_without_a_generator_it_is_greedy_also_in_the_warm_up() -> None:
    learner = build(warmup_steps=900)
    obs = random_obs(200, 3)
    best = learner.policy.q_network(obs).argmax(1) - 2
    assert learner.epsilon() == 1
    assert torch.equal(act(learner.policy, obs).action, best)
    assert (act(learner.policy, obs, seed=0).action != best).float().mean() > 0.5


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=5), spaces.Discrete(1, start=-7)])
def test_actions_are_members_wherever_the_space_starts(space: spaces.Discrete) -> None:
    """All of them; and they are learned from."""
    config = DQNConfig(network=SMALL, warmup_steps=0, updates_per_step=0.1, batch_size=8)
    learner = build_from(config, space)
    for seed in (None, 0):
        actions = act(learner.policy, random_obs(500, 3), seed).action
        assert_members(space, actions)
        assert seed is None or set(actions.tolist()) == set(range(int(space.start), int(space.start) + int(space.n)))
    before = weights(learner.policy)
    metrics = learner.update(random_rollout(space))
    assert math.isfinite(metrics["loss"])
    assert not same(before, weights(learner.policy))


# When it learns


@pytest.mark.parametrize("splits", SPLITS, ids=["rows", "mixed", "whole"])
@pytest.mark.parametrize("updates_per_step", [0.25, 1, 0.3])
def test_gradient_steps_are_a_share_of_the_steps_behind_the_warm_up(
    splits: list[int], updates_per_step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the steps come; none in the warm-up, which leaves the weights alone."""
    learner = build(updates_per_step=updates_per_step, warmup_steps=20, batch_size=4)
    taken = before_each_step(monkeypatch, learner.optimizer, lambda: None)
    initial = weights(learner.policy)
    rollouts = rollouts_of(splits, ACTIONS)
    for i in range(len(rollouts)):
        learner.update(rollouts[i])
        steps = num_steps(rollouts[: i + 1])
        assert len(taken) == math.floor(updates_per_step * max(0, steps - 20))
        assert same(initial, weights(learner.policy)) == (not taken)
    assert 20 < learner.clock.steps == steps


def test_the_step_size_falls_by_environment_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(total_steps=2 * STEPS, learning_rate_schedule="linear", updates_per_step=1 / 12)
    used = before_each_step(monkeypatch, learner.optimizer, lambda: learner.optimizer.learning_rate)
    for i in range(3):
        assert learner.update(make_rollout(i))["learning_rate"] == learner.optimizer.learning_rate
    assert used == [pytest.approx(1e-3 * left) for left in (0.5, 0.0, 0.0) for _ in range(4)]


@pytest.mark.parametrize("n_step", [2, 5])
def test_no_gradient_step_where_no_window_is_complete_yet(n_step: int) -> None:
    """Many environments, or no warm-up: steps are due before the replay has n rows of any environment."""
    learner = build(n_step=n_step, warmup_steps=0, updates_per_step=1)
    initial = weights(learner.policy)
    obs = random_obs(12, 4, 3)
    for seed in range(10):
        rollout = make_rollout(seed, T=1)
        rollout.all_obs.copy_(obs[seed : seed + 2])
        rollout.terminated.zero_()
        learner.update(dataclasses.replace(rollout, finals=None, truncated=torch.zeros(1, 4, dtype=torch.bool)))
    assert not same(initial, weights(learner.policy))


def test_replay_draws_leave_the_normaliser_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes in each new step once, at the end; the networks see observations as it stood before."""
    learner = build(normalize_observations=True, updates_per_step=8 / STEPS, target_every=2)
    normalizer = learner.policy.preprocessor.normalizer
    during = before_each_step(monkeypatch, learner.optimizer, lambda: weights(normalizer))
    steps = 0
    for i, dummy_rows in itertools.product(range(2), [False, True]):
        before = weights(normalizer)
        during.clear()
        rollout = make_rollout(i, dummy_rows=dummy_rows)
        steps += rollout.num_steps
        learner.update(rollout)
        assert len(during) >= 6
        assert all(same(before, statistics) for statistics in during)
        assert float(normalizer.count) == steps


def test_networks_see_normalised_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now as they are stored, with the statistics of today, in both networks."""
    learner = build(normalize_observations=True)
    shaken(learner.target.network, 0.5, seed=7)
    learner.policy.preprocessor.update(random_obs(100, 3) * 2 + 1)
    normalizer = copy.deepcopy(learner.policy.preprocessor.normalizer)
    online, target = copy.deepcopy(learner.policy.q_network), copy.deepcopy(learner.target.network)
    drawn = recorded(monkeypatch, learner.replay, "sample")
    rollout = make_rollout()
    metrics = learner.update(rollout)
    losses = loss_by_hand(
        learner, drawn[0].answer, [rollout], lambda obs: online(normalizer(obs)), lambda obs: target(normalizer(obs))
    )
    assert metrics["loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate_schedule": "linear"},
        {"prioritized": True, "dueling": True, "n_step": 3, "normalize_observations": True},
    ],
    ids=["uniform", "prioritised"],
)
def test_parts_continue_with_the_same_bits(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rollouts of 16 steps, eight of which are warm-up; the target is between two moves."""

    def make(seed: int) -> DQN:
        return build(seed=seed, warmup_steps=8, updates_per_step=0.5, batch_size=16, target_every=5, **settings)

    assert_continues(make, ACTIONS, OBS, of="optimizer", expected_steps=36, monkeypatch=monkeypatch)
