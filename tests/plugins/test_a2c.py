"""A2C's update: what flows where, and what changes when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plugin_cases import acted_rollout

from rlkit_a2c.a2c import A2C
from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.chunks import in_chunks
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
from rlkit_core.component import Setup
from rlkit_core.errors import Diverged
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = {"Discrete": spaces.Discrete(4), "Box": spaces.Box(-1, 1, (2,), np.float32)}


def build(action_space: str = "Discrete", **settings: Any) -> A2C:
    with global_generators(SeedStream(0, "weights")):
        return A2CConfig(**settings).build(Setup(OBS, ACTIONS[action_space], 4, 1000, "cpu", SeedStream(0)))


def make_rollout(learner: A2C, T: int = 6, N: int = 4, seed: int = 0, dummy_rows: bool = False) -> Rollout:
    return acted_rollout(learner.policy, T, N, seed, dummy_rows)


def losses_of(learner: A2C, rollout: Rollout) -> dict[str, torch.Tensor]:
    values, next_values = rollout.values(learner.policy.value)
    returns = learner.estimator.estimate(rollout, next_values, values=values, update=False)
    return learner.losses(
        *rollout.columns(rollout.obs, learner.policy.taken_actions(rollout), returns.targets, returns.advantages)
    )


def gradients(learner: A2C, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    learner.optimizer.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in learner.policy.named_parameters()}


@pytest.mark.parametrize("action_space", ACTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("value_loss", ["squared", "smooth_l1"])
def test_the_two_losses_meet_in_the_trunk_only(action_space: str, reduction: str, value_loss: str) -> None:
    """The policy's loss does not reach the value head, nor the value's the policy head; the trunk gets both (G1)."""
    learner = build(action_space, reduction=reduction, value_loss=value_loss, value_coef=0.7, entropy_coef=0.1)
    losses = losses_of(learner, make_rollout(learner))
    of_policy = gradients(learner, losses["policy_loss"])
    of_value = gradients(learner, losses["value_loss"])
    of_entropy = gradients(learner, losses["entropy"])
    of_all = gradients(learner, losses["loss"])
    scale = 24 if reduction == "sum" else 1  # the logged entropy is a mean always
    for name in of_all:
        if name.startswith("value_head"):
            assert not of_policy[name].any()
            assert of_value[name].any()
        elif name.startswith("policy_head") or "log_std" in name:
            assert not of_value[name].any()
            assert of_policy[name].any()
        else:
            assert of_policy[name].any()
            assert of_value[name].any()
        parts = of_policy[name] + 0.7 * of_value[name] - 0.1 * scale * of_entropy[name]
        torch.testing.assert_close(of_all[name], parts, rtol=1e-5, atol=1e-6 * scale)


def test_targets_and_advantages_carry_no_gradient() -> None:
    learner = build()
    rollout = make_rollout(learner)
    values, next_values = rollout.values(learner.policy.value)
    returns = learner.estimator.estimate(rollout, next_values, values=values)
    assert not any(x.requires_grad for x in (values, next_values, returns.targets, returns.advantages))


def test_losses_are_the_equations() -> None:
    learner = build(entropy_coef=0.01)
    learner.update(make_rollout(learner, seed=1))  # the statistics of the observations leave 0 and 1
    rollout = make_rollout(learner)
    obs, actions = rollout.obs.flatten(0, 1), rollout.actions.flatten()
    targets, advantages = torch.randn(24), torch.randn(24)
    losses = learner.losses(obs, actions, targets, advantages)
    assert learner.policy.preprocessor.normalizer is not None
    normalized = learner.policy.preprocessor.normalizer(obs)
    assert not torch.allclose(normalized, obs, atol=0.1)
    features = learner.policy.trunk(normalized)
    distribution = torch.distributions.Categorical(logits=learner.policy.policy_head(features))
    values = learner.policy.value_head(features)[:, 0]
    policy_loss = -(distribution.log_prob(actions) * advantages).mean()
    value_loss = (values - targets).square().mean()
    entropy = distribution.entropy().mean()
    torch.testing.assert_close(losses["policy_loss"], policy_loss)
    torch.testing.assert_close(losses["value_loss"], value_loss)
    torch.testing.assert_close(losses["entropy"], entropy)
    torch.testing.assert_close(losses["loss"], policy_loss + 0.5 * value_loss - 0.01 * entropy)


@pytest.mark.parametrize("action_space", ACTIONS)
def test_what_dummy_rows_hold_changes_nothing(action_space: str) -> None:
    weights = []
    for poison in (0.0, 1e6):
        learner = build(action_space, normalize_observations=True)
        for seed in range(3):
            rollout = make_rollout(learner, seed=seed, dummy_rows=True)
            dummies = ~rollout.valid
            rollout.rewards[dummies] = poison
            rollout.actions[dummies] = rollout.actions[dummies] * 0
            # An observation of the dummy row is the finished episode's true successor: what is free is its own answer.
            learner.update(rollout)
        weights.append(learner.policy.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_the_normaliser_changes_only_at_the_end_of_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acting and evaluating see frozen statistics, and so does all of `update` before its last line."""
    learner = build(normalize_observations=True)
    normalizer = learner.policy.preprocessor.normalizer
    assert normalizer is not None

    def statistics() -> list[torch.Tensor]:
        return [buffer.clone() for buffer in normalizer.buffers()]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    before = statistics()
    rollout = make_rollout(learner)
    learner.policy.value(rollout.obs.flatten(0, 1))
    assert same(before, statistics())

    seen = []
    step = learner.optimizer.step
    monkeypatch.setattr(learner.optimizer, "step", lambda: (seen.append(statistics()), step())[1])
    learner.update(rollout)
    assert same(before, seen[0])
    assert not same(before, statistics())
    assert float(normalizer.count) == rollout.num_steps

    learner.update(make_rollout(learner, seed=1, dummy_rows=True))
    assert float(normalizer.count) == rollout.num_steps + 22  # each valid row once, the two dummy rows never


def test_the_estimator_sees_raw_observations_of_one_set_of_statistics() -> None:
    """Log-probabilities of the actions, before and in the update, are equal bit for bit: nothing moved in between."""
    learner = build("Box", normalize_observations=True)
    learner.update(make_rollout(learner))
    rollout = make_rollout(learner, seed=1)
    obs, raw = rollout.columns(rollout.obs, learner.policy.taken_actions(rollout))
    first, again = learner.policy.evaluate(obs, raw)[0], learner.policy.evaluate(obs, raw)[0]
    assert torch.equal(first, again)


def test_a_non_finite_gradient_leaves_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(normalize_observations=True)
    learner.update(make_rollout(learner))
    before = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
    original = learner.losses
    monkeypatch.setattr(learner, "losses", lambda *a: {"loss": original(*a)["loss"] * float("nan")})
    with pytest.raises(Diverged, match="not finite"):
        learner.update(make_rollout(learner, seed=1))
    for name, tensor in learner.policy.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_linear_schedule_falls_to_zero() -> None:
    learner = build(learning_rate=1e-2, learning_rate_schedule="linear")
    rates = [float(learner.update(make_rollout(learner, T=25, seed=i))["learning_rate"]) for i in range(11)]
    np.testing.assert_allclose(rates, [1e-2 * (1 - i / 10) for i in range(11)], atol=1e-12)


def test_a_rollout_of_one_step_is_finite() -> None:
    for settings in ({}, {"normalize_advantages": True}, {"estimator": LambdaConfig()}):
        learner = build(**settings)
        metrics = learner.update(make_rollout(learner, T=1, N=1))
        assert all(np.isfinite(float(value)) for value in metrics.values())


def test_normalised_returns_want_whole_episodes() -> None:
    for normalize in ("per_episode", "per_batch"):
        estimator = DiscountedConfig(bootstrap=False, normalize=normalize)
        A2CConfig(collector=EpisodesConfig(), estimator=estimator)
        with pytest.raises(ValueError, match="whole episodes"):
            A2CConfig(collector=StepsConfig(), estimator=estimator)


def test_explained_variance_has_no_unit() -> None:
    """Targets and advantages are in one unit: the share is that of the raw returns."""
    learner = build()
    learner.update(make_rollout(learner))
    rollout = make_rollout(learner, seed=1)
    values, next_values = rollout.values(learner.policy.value)
    returns = learner.estimator.estimate(rollout, next_values, values=values)
    A, G = returns.advantages, returns.targets
    expected = 1 - float(A.var()) / float(G.var())
    learner = build()
    learner.update(make_rollout(learner))
    assert float(learner.update(rollout)["explained_variance"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_large_batches_in_chunks(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, hence weights, and what is logged are those of the whole; chunks need not divide it."""
    updates = []
    for largest in (24, 7):
        monkeypatch.setattr("rlkit_core.builtin.chunks.LARGEST", largest)
        learner = build(reduction=reduction, entropy_coef=0.1)
        metrics = learner.update(make_rollout(learner))
        updates.append((metrics, learner.optimizer._grad.clone()))
    (whole, whole_gradient), (chunked, gradient) = updates
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-4, atol=1e-7)
    assert whole.keys() == chunked.keys()
    for name, number in whole.items():
        assert float(chunked[name]) == pytest.approx(float(number), rel=1e-4, abs=1e-6), name


def test_chunks_have_every_row_once() -> None:
    rows = torch.arange(5000)
    obs = {"a": rows[:, None], "b": rows.float()}
    parts = list(in_chunks(obs, rows))
    assert len(parts) == 3
    assert sum(share for share, _ in parts) == pytest.approx(1)
    assert torch.equal(torch.cat([part[1] for _, part in parts]), rows)
    assert torch.equal(torch.cat([part[0]["a"] for _, part in parts]), obs["a"])
