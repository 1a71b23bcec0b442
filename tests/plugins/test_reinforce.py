"""REINFORCE: short, and just the equation."""

from __future__ import annotations

import ast
from pathlib import Path
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
    gradients,
    gradients_of,
    one_thread,  # noqa: F401
    same,
    shaken,
    weights,
)
from torch import Tensor

import rlkit_reinforce
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.errors import Diverged
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream
from rlkit_core.testing import probes
from rlkit_reinforce.config import ReinforceConfig
from rlkit_reinforce.reinforce import Reinforce
from tests.contracts.contract_cases import copied

ACTIONS = {"Discrete": spaces.Discrete(4, start=1), "Box": spaces.Box(-1, 1, (2,), np.float32)}
EVERY_ACTION_SPACE = pytest.mark.parametrize("action_space", ACTIONS)
GAMMA = 0.99


def build(action_space: str = "Discrete", *, seed: int = 0, **settings: Any) -> Reinforce:
    return build_from(ReinforceConfig(network=SMALL, **settings), ACTIONS[action_space], seed=seed)


def make_rollout(learner: Reinforce, seed: int = 0) -> Rollout:
    """Whole episodes end to end in one column, as the episodes collector lays them."""
    rollout = acted_rollout(learner.policy, T=30, N=1, seed=seed)
    rollout.truncated[-1] = ~rollout.terminated[-1]
    ends = rollout.terminated | rollout.truncated
    assert 3 < int(ends.sum()) < 15
    return rollout


def returns_by_hand(rollout: Rollout) -> Tensor:
    """Discounted sums to the end of each episode, nothing behind it, to mean 0 and deviation 1 over all."""
    returns, after = [], 0.0
    for t in reversed(range(rollout.shape[0])):
        if rollout.terminated[t, 0] or rollout.truncated[t, 0]:
            after = 0.0
        after = float(rollout.rewards[t, 0]) + GAMMA * after
        returns.append(after)
    found = torch.tensor(returns[::-1])
    return (found - found.mean()) / found.std(correction=0)


def log_probs_by_hand(learner: Reinforce, rollout: Rollout) -> Tensor:
    policy = learner.policy
    features = policy.trunk(rollout.obs[:, 0])
    params = policy.policy_head(features)
    if policy.exploration is None:
        return torch.distributions.Categorical(logits=params).log_prob(rollout.actions[:, 0] - 1)
    normal = torch.distributions.Normal(params, policy.exploration.log_std(features).exp())
    return normal.log_prob(rollout.extras["raw_action"][:, 0]).sum(1)


def code_lines(source: str) -> int:
    """Lines that are not blank, and neither comment nor docstring."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and line.strip()[0] != "#" and number not in documented for number, line in lines)


def test_it_is_under_80_lines() -> None:
    """All files of the plugin together; 51 when this was written, and 79 with blank lines and docstrings."""
    files = sorted(Path(rlkit_reinforce.__file__).parent.glob("*.py"))
    assert [file.name for file in files] == ["__init__.py", "config.py", "reinforce.py"]
    assert 20 < sum(code_lines(file.read_text(encoding="utf-8")) for file in files) < 80


def test_what_counts_as_a_line() -> None:
    assert (
        code_lines(
            '"""Doc\n\nmore."""\n\n# comment\nx = 1  # and more\n\n\ndef f():\n    """Doc."""\n    return """\n"""\n'
        )
        == 4
    )


@EVERY_ACTION_SPACE
@pytest.mark.parametrize("baseline", [False, True])
def test_the_loss_is_the_equation(action_space: str, baseline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(action_space, baseline=baseline)
    shaken(learner.policy, 0.2)
    rollout = make_rollout(learner)
    G, log_probs = returns_by_hand(rollout), log_probs_by_hand(learner, rollout)
    values = learner.policy.value(rollout.obs[:, 0])
    if baseline:
        advantages = G - values.detach()
        loss = -(log_probs * advantages).mean() + 0.5 * (values - G).square().mean()
    else:
        loss = -(log_probs * G).mean()
    expected = gradients_of(loss, learner.policy)
    seen = before_each_step(monkeypatch, learner.optimizer, lambda: gradients(learner.policy))
    metrics = learner.update(rollout)
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-6)
    assert len(seen) == 1
    assert_close(seen[0], expected, rtol=1e-3, atol=1e-5)
    assert expected["value_head.weight"].any() == baseline


@pytest.mark.parametrize("baseline", [False, True])
def test_the_baseline_is_the_value(baseline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advantages are targets minus values, in the same unit; without a baseline the targets themselves."""
    learner = build(baseline=baseline)
    shaken(learner.policy, 0.2)
    answers = []
    estimate = learner.estimator.estimate
    monkeypatch.setattr(
        learner.estimator, "estimate", lambda *args, **kwargs: answers.append(estimate(*args, **kwargs)) or answers[-1]
    )
    rollout = make_rollout(learner)
    values = learner.policy.value(rollout.obs[:, 0]).detach()
    learner.update(rollout)
    targets, advantages = answers[0].targets[:, 0], answers[0].advantages[:, 0]
    torch.testing.assert_close(targets, returns_by_hand(rollout), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(advantages, targets - values if baseline else targets)
    assert values.abs().min() > 1e-4


def test_without_a_baseline_values_say_nothing() -> None:
    """Whatever the value's head gives, the policy learns the same."""
    learned = []
    for shift in (0.0, 100.0):
        learner = build(baseline=False)
        with torch.no_grad():
            learner.policy.value_head.bias.add_(shift)
        learner.update(make_rollout(learner))
        learned.append({name: tensor for name, tensor in weights(learner.policy).items() if "value" not in name})
    assert same(*learned)


def test_it_takes_whole_episodes() -> None:
    """One of each environment by default; and nothing else, in the units that returns have by default."""
    config = ReinforceConfig()
    assert isinstance(config.collector, EpisodesConfig)
    assert config.collector.num_envs == 8
    with pytest.raises(ValueError, match="whole episodes"):
        ReinforceConfig(collector=StepsConfig())
    collector = config.collector.build(GymnasiumConfig(id="CartPole-v1"), SeedStream(0), "cpu")
    learner = build_from(config, collector.action_space, collector.observation_space)
    for _ in range(2):
        rollout = collector.collect(learner.policy)
        learner.update(rollout)
        ends = rollout.terminated | rollout.truncated
        assert int(ends.sum()) == 8 == len(rollout.episodes)
        assert ends[-1].all()
        assert sum(episode.length for episode in rollout.episodes) == rollout.num_steps == rollout.shape[0]
    collector.close()


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_it_learns_on_a_probe(baseline: bool, continuous: bool) -> None:
    """The action that is rewarded, from 150 updates of eight episodes of one step."""
    config = ReinforceConfig(network=SMALL, learning_rate=2e-2, baseline=baseline)
    env = GymnasiumConfig(id=probes.ActionReward.id, kwargs={"continuous": continuous})
    collector = config.collector.build(env, SeedStream(0, "collector"), "cpu")
    learner = build_from(config, collector.action_space, collector.observation_space)
    obs = torch.ones(1, 1)
    if not continuous:  # against what it begins with
        with torch.no_grad():
            learner.policy.policy_head.bias[0] = 1.0
    before = learner.policy.act(obs).action
    assert float(before) < 0.5
    for _ in range(150):
        learner.update(collector.collect(learner.policy))
    collector.close()
    assert float(learner.policy.act(obs).action) == pytest.approx(1, abs=0.2 if continuous else 0)
    if not continuous:
        rewards = collector.collect(learner.policy).rewards
        assert float(rewards.mean()) > 0.5


def test_a_gradient_that_is_not_finite_leaves_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build()
    before = weights(learner.policy)
    evaluate = learner.policy.evaluate

    def poisoned(*args: Any) -> Any:
        log_probs, entropies, values = evaluate(*args)
        return log_probs * float("nan"), entropies, values

    monkeypatch.setattr(learner.policy, "evaluate", poisoned)
    with pytest.raises(Diverged, match="not finite"):
        learner.update(make_rollout(learner))
    assert same(before, weights(learner.policy))


def test_parts_continue_with_the_same_bits() -> None:
    learner, fresh = build(), build(seed=9)
    for seed in range(3):
        learner.update(make_rollout(learner, seed))
    for name, state in {name: copied(part.state_dict()) for name, part in learner.parts().items()}.items():
        fresh.parts()[name].load_state_dict(state)
    for seed in range(3, 6):
        rollout = make_rollout(learner, seed)
        ours, theirs = ({k: float(v) for k, v in one.update(rollout).items()} for one in (learner, fresh))
        assert ours == theirs
    assert same(weights(learner.policy), weights(fresh.policy))
