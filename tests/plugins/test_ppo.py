"""PPO's update: the clipped objective, what a minibatch holds, and what changes when."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plugin_cases import (
    SMALL,
    acted_rollout,
    assert_close,
    before_each_step,
    build_from,
    gradients_of,
    one_thread,  # noqa: F401
    recorded,
    same,
    shaken,
    weights,
)
from torch import Tensor

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.estimators import LambdaConfig
from rlkit_core.builtin.explorations import GaussianConfig, StateDependentConfig
from rlkit_core.errors import Diverged
from rlkit_core.returns import Returns
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream
from rlkit_ppo.config import PPOConfig
from rlkit_ppo.ppo import PPO
from tests.contracts.contract_cases import copied

ACTIONS = {"Discrete": spaces.Discrete(4), "Box": spaces.Box(-1, 1, (2,), np.float32)}
EVERY_ACTION_SPACE = pytest.mark.parametrize("action_space", ACTIONS)
EVERY_NETWORK = pytest.mark.parametrize("value_network", ["shared", "separate"])
MINIBATCH = ("obs", "taken", "targets", "advantages", "old_values", "old_log_probs")


def build(action_space: str = "Discrete", *, total_steps: int = 1000, seed: int = 0, **settings: Any) -> PPO:
    settings = {"network": SMALL, "epochs": 3, "minibatch_size": 8, **settings}
    return build_from(PPOConfig(**settings), ACTIONS[action_space], total_steps=total_steps, seed=seed)


def make_rollout(learner: PPO, T: int = 6, N: int = 4, seed: int = 0, dummy_rows: bool = False) -> Rollout:
    return acted_rollout(learner.policy, T, N, seed, dummy_rows)


def minibatches(monkeypatch: pytest.MonkeyPatch, learner: PPO) -> list[dict[str, Any]]:
    """What `losses` is given from now on, by name."""
    seen: list[dict[str, Any]] = []
    losses = learner.losses

    def spy(*args: Any, clip_range: float) -> Any:
        seen.append({**dict(zip(MINIBATCH, args, strict=True)), "clip_range": clip_range})
        return losses(*args, clip_range=clip_range)

    monkeypatch.setattr(learner, "losses", spy)
    return seen


def distribution(policy: Any, obs: Tensor) -> Any:
    """torch's own, from the outputs of the policy."""
    obs = policy.preprocessor(obs)
    features = policy.trunk(obs) if policy.trunk is not None else policy.trunks.one(0, obs)
    params = policy.policy_head(features)
    if policy.exploration is None:
        return torch.distributions.Categorical(logits=params)
    normal = torch.distributions.Normal(params, policy.exploration.log_std(features).exp())
    return torch.distributions.Independent(normal, 1)


# The ratio


@pytest.mark.parametrize(
    ("env", "exploration"),
    [
        (GymnasiumConfig(id="CartPole-v1", vectorization="native"), GaussianConfig()),
        (GymnasiumConfig(id="Pendulum-v1", vectorization="sync"), GaussianConfig()),
        (GymnasiumConfig(id="Pendulum-v1", vectorization="sync"), StateDependentConfig(std=0.4)),
    ],
    ids=["Discrete", "Box", "gsde"],
)
@EVERY_NETWORK
def test_the_first_ratio_is_1(
    env: GymnasiumConfig, exploration: Any, value_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities at the moment of acting, of one row of environments, against those that the update starts from."""
    collector = StepsConfig(num_envs=4, num_steps=32).build(env, SeedStream(0, "collector"), "cpu")
    config = PPOConfig(
        network=SMALL,
        exploration=exploration,
        value_network=value_network,
        epochs=2,
        minibatch_size=32,
        learning_rate=3e-3,
        normalize_observations=True,
    )
    learner = build_from(config, collector.action_space, collector.observation_space)
    policy = learner.policy
    when_acting: dict[bytes, float] = {}
    act = policy.act

    def watched(obs: Any, *state: Any, generator: torch.Generator) -> Any:
        answer = act(obs, *state, generator=generator)
        obs = torch.as_tensor(obs)
        with torch.no_grad():
            log_probs = distribution(policy, obs).log_prob(answer.extras.get("raw_action", answer.action))
        when_acting.update(zip((row.numpy().tobytes() for row in obs), log_probs.tolist(), strict=True))
        return answer

    monkeypatch.setattr(policy, "act", watched)
    ratios: list[Tensor] = []
    losses = learner.losses

    def spy(obs: Tensor, taken: Tensor, *args: Any, clip_range: float) -> Any:
        acted = torch.tensor([when_acting[row.numpy().tobytes()] for row in obs])
        torch.testing.assert_close((args[-1] - acted).exp(), torch.ones(len(obs)), rtol=0, atol=1e-5)
        with torch.no_grad():
            ratios.append((policy.evaluate(obs, taken)[0] - acted).exp())
        return losses(obs, taken, *args, clip_range=clip_range)

    monkeypatch.setattr(learner, "losses", spy)
    dummies = clipped = 0
    for iteration in range(5):
        when_acting.clear()
        ratios.clear()
        rollout = collector.collect(policy)
        dummies += int((~rollout.valid).sum())
        if "raw_action" in rollout.extras:
            clipped += int((rollout.extras["raw_action"].abs() > 1).sum())
        assert float(policy.preprocessor.normalizer.count) > 0 or iteration == 0
        learner.update(rollout)
        assert len(ratios) == 2 * round(rollout.num_steps / 32)
        torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), rtol=0, atol=1e-5)
        assert (ratios[-1] - 1).abs().max() > 1e-3  # it is not for want of learning
    collector.close()
    assert dummies or env.id != "CartPole-v1"
    assert clipped or env.id != "Pendulum-v1"


# The objective


def textbook(
    learner: PPO,
    obs: Tensor,
    taken: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_values: Tensor,
    old_log_probs: Tensor,
    *,
    clip_range: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 9 of the paper, as one would write it down."""
    config = learner.config
    actions = distribution(learner.policy, obs)
    log_ratio = actions.log_prob(taken) - old_log_probs
    ratio = log_ratio.exp()
    limited = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(ratio * advantages, limited * advantages).mean()
    values = learner.policy.value(obs)
    errors = (values - targets) ** 2
    if config.value_clip is not None:
        near = old_values + torch.clamp(values - old_values, -config.value_clip, config.value_clip)
        errors = torch.max(errors, (near - targets) ** 2)
    value_loss, entropy = errors.mean(), actions.entropy().mean()
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    numbers = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(),
    }
    return loss, {name: number.detach() for name, number in numbers.items()}


def random_minibatch(learner: PPO, B: int = 96) -> dict[str, Tensor]:
    """Advantages of both signs, and ratios within and beyond the clip range of 0.2."""
    rollout = make_rollout(learner, T=B // 4, seed=5)
    obs, taken = rollout.columns(rollout.obs, learner.policy.taken_actions(rollout))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        log_probs, _, values = learner.policy.evaluate(obs, taken)
    old_log_probs = log_probs + torch.rand(B, generator=generator) - 0.5
    old_log_probs[:8] = log_probs[:8]  # and a ratio of 1, where both terms are equal
    advantages = torch.randn(B, generator=generator)
    advantages[7] = 0.0
    ratio = (log_probs - old_log_probs).exp()
    for sign in (-1, 1):
        for where in (ratio < 0.8, (ratio > 0.81) & (ratio < 1.19), ratio > 1.2):
            assert ((advantages.sign() == sign) & where).sum() > 3
    return {
        "obs": obs,
        "taken": taken,
        "targets": torch.randn(B, generator=generator),
        "advantages": advantages,
        "old_values": values + torch.randn(B, generator=generator),
        "old_log_probs": old_log_probs,
    }


@EVERY_ACTION_SPACE
@EVERY_NETWORK
@pytest.mark.parametrize(
    "settings",
    [{"value_coef": 0.0}, {"value_coef": 0.7, "entropy_coef": 0.1}, {"value_clip": 0.4}],
    ids=["policy alone", "entropy", "value_clip"],
)
def test_the_gradient_is_that_of_the_textbook(action_space: str, value_network: str, settings: dict[str, Any]) -> None:
    learner = build(action_space, value_network=value_network, head_init="default", **settings)
    learner.update(make_rollout(learner, seed=1))  # statistics leave 0 and 1
    shaken(learner.policy)
    batch = random_minibatch(learner)
    objective, numbers = learner.losses(*batch.values(), clip_range=0.2)
    loss, expected = textbook(learner, *batch.values(), clip_range=0.2)
    assert_close(gradients_of(objective, learner.policy), gradients_of(loss, learner.policy))
    assert_close(numbers, expected)
    assert not any(number.requires_grad for number in numbers.values())


def test_a_clip_range_of_0_leaves_what_makes_things_worse() -> None:
    """Where a linear schedule ends: only steps whose ratio went against their advantage have a gradient."""
    learner = build(head_init="default", value_coef=0.0)
    batch = random_minibatch(learner)
    # A ratio of 1 is on the border of both sides: left out, whatever is said about it.
    inside = slice(8, None)
    some = {name: tensor[inside] for name, tensor in batch.items()}
    objective, _ = learner.losses(*some.values(), clip_range=0.0)
    loss, _ = textbook(learner, *some.values(), clip_range=0.0)
    assert_close(gradients_of(objective, learner.policy), gradients_of(loss, learner.policy))


def test_value_clipping() -> None:
    learner = build(value_clip=0.4)
    batch = random_minibatch(learner)
    values = learner.policy.value(batch["obs"]).detach().numpy()
    targets, old = batch["targets"].numpy(), batch["old_values"].numpy()
    near = np.clip(values, old - 0.4, old + 0.4)
    errors = np.maximum((values - targets) ** 2, (near - targets) ** 2)
    assert 0.2 < np.mean(errors > (values - targets) ** 2) < 0.8
    value_loss = learner.losses(*batch.values(), clip_range=0.2)[1]["value_loss"]
    assert float(value_loss) == pytest.approx(errors.mean(), rel=1e-5)


def test_a_huge_value_clip_is_none() -> None:
    huge, none = build(value_clip=1e6), build()
    batch = random_minibatch(none)
    answers = [learner.losses(*batch.values(), clip_range=0.2) for learner in (huge, none)]
    assert_close(*(gradients_of(answer[0], of.policy) for answer, of in zip(answers, (huge, none), strict=True)))
    assert_close(answers[0][1], answers[1][1])


# What a minibatch holds


def test_old_values_are_in_the_units_of_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update moves the statistics of the targets; the old values move with them."""
    learner = build(
        normalize_advantages=False,
        minibatch_size=1000,
        epochs=1,
        estimator=LambdaConfig(normalize="running"),
        normalize_observations=True,
    )
    for seed in range(3):
        rollout = make_rollout(learner, seed=seed)
        rollout.rewards.mul_(3 + seed).add_(seed)
        learner.update(rollout)
    seen = minibatches(monkeypatch, learner)
    rollout = make_rollout(learner, seed=3)
    rollout.rewards.add_(20)
    values, _ = rollout.values(learner.policy.value)
    raw = learner.estimator.to_raw(values)
    learner.update(rollout)
    [batch] = seen
    statistics = learner.estimator.statistics
    expected = ((raw - statistics.mean) / statistics.std).flatten()
    torch.testing.assert_close(batch["old_values"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch["old_values"], batch["targets"] - batch["advantages"], rtol=1e-5, atol=1e-6)
    assert (batch["old_values"] - values.flatten()).abs().min() > 0.1


def test_advantages_are_normalised_in_each_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build()
    seen = minibatches(monkeypatch, learner)
    learner.update(make_rollout(learner))
    assert len(seen) == 9
    for batch in seen:
        assert float(batch["advantages"].mean()) == pytest.approx(0, abs=1e-6)
        assert float(batch["advantages"].std(correction=0)) == pytest.approx(1, abs=1e-6)
        raw = batch["targets"] - batch["old_values"]
        expected = (raw - raw.mean()) / raw.std(correction=0)
        torch.testing.assert_close(batch["advantages"], expected, rtol=1e-4, atol=1e-5)


def test_advantages_may_be_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(normalize_advantages=False)
    seen = minibatches(monkeypatch, learner)
    answers = recorded(monkeypatch, learner.estimator, "estimate")
    learner.update(make_rollout(learner))
    everything = answers[0].answer.advantages.flatten()
    for epoch in range(3):
        some = torch.cat([batch["advantages"] for batch in seen[3 * epoch : 3 * epoch + 3]])
        assert torch.equal(some.sort().values, everything.sort().values)


def test_equal_advantages_are_0(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build()
    seen = minibatches(monkeypatch, learner)
    returns = Returns(torch.full((6, 4), 1.7), torch.full((6, 4), 0.1))
    monkeypatch.setattr(learner.estimator, "estimate", lambda *args, **kwargs: returns)
    learner.update(make_rollout(learner))
    assert all(not batch["advantages"].any() for batch in seen)


def test_minibatches_whose_advantages_would_all_be_0_are_refused() -> None:
    with pytest.raises(ValueError, match=r"minibatch_size 1 leaves nothing to learn from"):
        PPOConfig(minibatch_size=1)


@pytest.mark.parametrize("normalize_advantages", [True, False])
@EVERY_ACTION_SPACE
def test_minibatches_of_one_row_are_finite(action_space: str, normalize_advantages: bool) -> None:
    for T, N in ((1, 1), (3, 1)):
        minibatch_size = 2 if normalize_advantages else 1
        learner = build(action_space, minibatch_size=minibatch_size, normalize_advantages=normalize_advantages)
        metrics = learner.update(make_rollout(learner, T, N))
        assert all(math.isfinite(float(number)) for number in metrics.values())
        assert all(tensor.isfinite().all() for tensor in weights(learner.policy).values())
        assert metrics["gradient_steps"] == 3 * max(1, round(T * N / minibatch_size))


@EVERY_ACTION_SPACE
@pytest.mark.parametrize("dummy_rows", [False, True])
@pytest.mark.parametrize("minibatch_size", [1, 5, 7, 16, 23, 24, 25, 1000])
def test_each_epoch_has_each_step_once(
    action_space: str, dummy_rows: bool, minibatch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole rows of numbers that belong together, dummy rows never, in parts of the same size to one step."""
    learner = build(action_space, minibatch_size=minibatch_size, epochs=4, normalize_advantages=False)
    rollout = make_rollout(learner, dummy_rows=dummy_rows)
    numbers = torch.arange(24).view(6, 4)
    rollout.all_obs[:-1, :, 0] = numbers
    returns = Returns(numbers * 3.0, numbers * 2.0 + 1.0)
    monkeypatch.setattr(learner.estimator, "estimate", lambda *args, **kwargs: returns)
    with torch.no_grad():
        log_probs = learner.policy.evaluate(
            rollout.obs.flatten(0, 1), learner.policy.taken_actions(rollout).flatten(0, 1)
        )[0]
    seen = minibatches(monkeypatch, learner)
    steps = before_each_step(monkeypatch, learner.optimizer, lambda: None)
    metrics = learner.update(rollout)

    B = 22 if dummy_rows else 24
    parts = max(1, round(B / minibatch_size))
    assert len(seen) == len(steps) == metrics["gradient_steps"] == 4 * parts
    orders = []
    for epoch in range(4):
        batches = seen[epoch * parts : (epoch + 1) * parts]
        sizes = [len(batch["obs"]) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        orders.append(torch.cat([batch["obs"][:, 0].long() for batch in batches]))
        assert torch.equal(orders[-1].sort().values, numbers[rollout.valid])
        for batch in batches:
            row = batch["obs"][:, 0].long()
            assert torch.equal(batch["obs"], rollout.obs.flatten(0, 1)[row])
            assert torch.equal(batch["taken"], learner.policy.taken_actions(rollout).flatten(0, 1)[row])
            assert torch.equal(batch["targets"], row * 3.0)
            assert torch.equal(batch["advantages"], row * 2.0 + 1.0)
            assert torch.equal(batch["old_values"], row - 1.0)
            torch.testing.assert_close(batch["old_log_probs"], log_probs[row])
    if parts > 1:
        assert len({tuple(order.tolist()) for order in orders}) == 4


# When it ends, and what moves meanwhile


def test_target_kl_leaves_the_rollout_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step on the minibatch that is too far; the clock and the statistics go on as ever."""
    learner = build(target_kl=0.01, learning_rate=3e-3, epochs=100, normalize_observations=True)
    answers = recorded(monkeypatch, learner, "losses")
    steps = before_each_step(monkeypatch, learner.optimizer, lambda: None)
    metrics = learner.update(make_rollout(learner, dummy_rows=True))
    divergences = [float(call.answer[1]["approx_kl"]) for call in answers]
    assert 1 < len(divergences) < 60
    assert 0.01 < max(divergences[:-1]) <= 0.015
    assert divergences[-1] > 0.015
    assert metrics["gradient_steps"] == len(steps) == len(divergences) - 1
    assert metrics["approx_kl"] == pytest.approx(np.mean(divergences[:-1]), abs=1e-6)
    assert learner.clock.steps == 22
    assert float(learner.policy.preprocessor.normalizer.count) == 22


def test_a_target_kl_that_is_never_reached_changes_nothing() -> None:
    one, other = build(target_kl=1e6), build()
    for seed in range(2):
        one.update(make_rollout(one, seed=seed))
        other.update(make_rollout(other, seed=seed))
    assert same(weights(one.policy), weights(other.policy))


def test_schedules_fall_to_zero_by_environment_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(
        total_steps=240, learning_rate=1e-2, clip_range=0.3, learning_rate_schedule="linear", clip_schedule="linear"
    )
    seen = minibatches(monkeypatch, learner)
    used = before_each_step(monkeypatch, learner.optimizer, lambda: learner.optimizer.learning_rate)
    steps = 0
    while steps <= 264:
        seen.clear()
        used.clear()
        rollout = make_rollout(learner, dummy_rows=True, seed=steps)
        metrics = learner.update(rollout)
        left = max(0.0, 1 - steps / 240)
        steps += 22
        assert {batch["clip_range"] for batch in seen} == {metrics["clip_range"]}
        assert set(used) == {metrics["learning_rate"]}
        assert metrics["clip_range"] == pytest.approx(0.3 * left, abs=1e-12)
        assert metrics["learning_rate"] == pytest.approx(1e-2 * left, abs=1e-12)
    assert left == metrics["clip_range"] == 0


def test_constant_schedules_stay() -> None:
    learner = build(total_steps=48)
    for seed in range(4):
        metrics = learner.update(make_rollout(learner, seed=seed))
        assert (metrics["learning_rate"], metrics["clip_range"]) == (3e-4, 0.2)


def test_the_normaliser_changes_only_at_the_end_of_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes in each valid row once, however many epochs there are."""
    learner = build(normalize_observations=True)
    normalizer = learner.policy.preprocessor.normalizer
    learner.update(make_rollout(learner, seed=1))
    before = weights(normalizer)
    rollout = make_rollout(learner, dummy_rows=True)
    learner.policy.value(rollout.obs.flatten(0, 1))
    during = before_each_step(monkeypatch, learner.optimizer, lambda: weights(normalizer))
    learner.update(rollout)
    assert len(during) == 9
    assert all(same(before, statistics) for statistics in during)
    assert float(normalizer.count) == 24 + 22
    everything = torch.cat([make_rollout(learner, seed=1).obs.flatten(0, 1), rollout.obs[rollout.valid]])
    torch.testing.assert_close(normalizer.mean_0.float(), everything.mean(0))


@EVERY_ACTION_SPACE
def test_what_dummy_rows_hold_changes_nothing(action_space: str) -> None:
    learned = []
    for poison in (0.0, 1e6):
        learner = build(action_space)
        for seed in range(2):
            rollout = make_rollout(learner, seed=seed, dummy_rows=True)
            dummies = ~rollout.valid
            rollout.rewards[dummies] = poison
            rollout.actions[dummies] = 0
            for extra in rollout.extras.values():
                extra[dummies] = poison
            learner.update(rollout)
        learned.append(weights(learner.policy))
    assert same(*learned)


@EVERY_ACTION_SPACE
def test_separate_networks_learn_of_their_own_loss_only(action_space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a whole update: without a loss of its own, a network keeps its bits."""

    def parts(learner: PPO) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        of_policy, of_value = {}, {}
        for name, tensor in weights(learner.policy).items():
            if name.startswith("trunks"):
                of_policy[name], of_value[name] = tensor
            elif not name.startswith("preprocessor"):
                (of_value if name.startswith("value_head") else of_policy)[name] = tensor
        return of_policy, of_value

    settings = {"value_network": "separate", "normalize_advantages": False, "entropy_coef": 0.0}
    learner = build(action_space, value_coef=0.0, **settings)
    before = parts(learner)
    learner.update(make_rollout(learner))
    after = parts(learner)
    assert same(before[1], after[1])
    assert all(not torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())

    learner = build(action_space, value_coef=0.5, **settings)
    returns = Returns(torch.ones(6, 4), torch.zeros(6, 4))
    monkeypatch.setattr(learner.estimator, "estimate", lambda *args, **kwargs: returns)
    before = parts(learner)
    learner.update(make_rollout(learner))
    after = parts(learner)
    assert same(before[0], after[0])
    assert all(not torch.equal(tensor, after[1][name]) for name, tensor in before[1].items())


def test_a_shared_network_learns_of_both_losses() -> None:
    for settings in ({"value_coef": 0.0}, {"value_coef": 0.5}):
        learner = build(value_network="shared", normalize_advantages=False, head_init="default", **settings)
        batch = random_minibatch(learner)
        if settings["value_coef"]:
            batch["advantages"] = torch.zeros(96)
        gradient = gradients_of(learner.losses(*batch.values(), clip_range=0.2)[0], learner.policy)
        assert gradient["trunk.layers.0.weight"].any()


def test_equal_seeds_give_equal_bits() -> None:
    """Whatever else draws from torch's global generator; another seed has other weights or other minibatches."""
    learned = []
    for seed, noise in ((0, 0), (0, 1), (1, 0)):
        learner = build(seed=seed)
        learner.policy.load_state_dict(build(seed=0).policy.state_dict())
        for i in range(2):
            torch.rand(3 * noise)
            learner.update(make_rollout(learner, seed=i))
        learned.append(weights(learner.policy))
    assert same(learned[0], learned[1])
    assert not same(learned[0], learned[2])


def test_parts_continue_with_the_same_bits() -> None:
    learner = build(learning_rate_schedule="linear", clip_schedule="linear")
    for seed in range(3):
        learner.update(make_rollout(learner, seed=seed))
    fresh = build(learning_rate_schedule="linear", clip_schedule="linear", seed=9)
    for name, state in {name: copied(part.state_dict()) for name, part in learner.parts().items()}.items():
        fresh.parts()[name].load_state_dict(state)
    for seed in range(3, 6):
        rollout = make_rollout(learner, seed=seed)
        assert dict(learner.update(rollout)) == dict(fresh.update(rollout))
    assert same(weights(learner.policy), weights(fresh.policy))


@pytest.mark.parametrize("minibatch", [0, 1, 4])
def test_a_gradient_that_is_not_finite_leaves_the_parameters(minibatch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after the last minibatch whose gradient was finite, as `Learner.update` promises."""
    learner = build()
    learner.update(make_rollout(learner))
    before: dict[str, torch.Tensor] = {}
    losses, calls = learner.losses, []

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        objective, numbers = losses(*args, **kwargs)
        before.update(weights(learner.policy))
        calls.append(None)
        return objective * (float("nan") if len(calls) == minibatch + 1 else 1.0), numbers

    monkeypatch.setattr(learner, "losses", poisoned)
    with pytest.raises(Diverged, match="not finite"):
        learner.update(make_rollout(learner, seed=1))
    assert same(before, weights(learner.policy))


def test_nothing_is_clipped_in_one_batch() -> None:
    learner = build(epochs=1, minibatch_size=1000)
    metrics = learner.update(make_rollout(learner))
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["gradient_steps"] == 1
