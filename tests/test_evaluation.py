"""Evaluation: a number of whole episodes, every started one counted, nothing of the caller's touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import EnvironmentConfig
from rlkit_core.environment import Environments
from rlkit_core.evaluation import Evaluation, evaluate_policy
from rlkit_core.policy import Act, Policy
from rlkit_core.rollout import Tree
from rlkit_core.seeding import SeedStream
from tests.probes import MODES, CountingPolicy, NoisyPolicy, counting, plan, real_steps, reward_of


class Fixed(EnvironmentConfig):
    """Gives the environments that a test has made."""

    id: str = "fixed"
    given: Callable[[], Environments]

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        return self.given()


def expected(lane: int, episode: int, max_steps: int = 99) -> tuple[float, int]:
    length = min(plan(lane, episode)[0], max_steps)
    return sum(reward_of(lane, episode, step + 1) for step in range(length)), length


@pytest.mark.parametrize("num_episodes", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("nested", [False, True], ids=["box", "nested"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_every_started_episode_counts(kind: str, mode: AutoresetMode, nested: bool, num_episodes: int) -> None:
    env = Fixed(given=lambda: counting(kind, mode, nested, 3))
    evaluation = evaluate_policy(NoisyPolicy(), env, SeedStream(0), num_episodes, 1000)
    assert evaluation.num_cut == 0
    assert len(evaluation.returns) == num_episodes
    got = sorted(zip(evaluation.returns, evaluation.lengths, strict=True))
    # Which episodes were started: of each lane the first so many, with none left out.
    everything = {expected(lane, episode): (lane, episode) for lane in range(3) for episode in range(12)}
    found = sorted(everything[pair] for pair in got)
    assert len(set(found)) == num_episodes
    for lane in range(3):
        episodes = [episode for where, episode in found if where == lane]
        assert episodes == list(range(len(episodes)))
        assert bool(episodes) == (lane < num_episodes)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_bounded(kind: str, mode: AutoresetMode) -> None:
    made: list[Environments] = []

    def make() -> Environments:
        made.append(counting(kind, mode, False, 3))
        return made[0]

    evaluation = evaluate_policy(NoisyPolicy(), Fixed(given=make), SeedStream(0), 20, 2)
    assert len(evaluation.returns) == 20
    assert max(evaluation.lengths) == 2
    lengths = [plan(lane, 0)[0] for lane in range(3)]
    assert evaluation.num_cut >= sum(length > 2 for length in lengths)
    whole = {expected(lane, episode, 2) for lane in range(3) for episode in range(30)}
    assert set(zip(evaluation.returns, evaluation.lengths, strict=True)) <= whole
    assert real_steps(made[0]) <= 3 * 2 * 20


def test_never_ending_episodes() -> None:
    env = GymnasiumConfig.model_validate({"id": "Pendulum-v1"})

    class Still(Policy):
        def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
            return Act(torch.zeros(len(obs), 1))

    evaluation = evaluate_policy(Still(), env, SeedStream(0), 20, 3)
    assert evaluation.lengths == (3,) * 20
    assert evaluation.num_cut == 20
    assert len(set(evaluation.returns)) == 20
    assert evaluation.metrics("evaluation")["evaluation/episodes_cut"] == 20


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_state_starts_anew(mode: AutoresetMode) -> None:
    seen: list[tuple[int, bool, int]] = []

    class Recorder(CountingPolicy):
        def act(self, obs: Tree, state: Tree, starts: torch.Tensor, *, generator: torch.Generator | None = None) -> Act:
            assert generator is None
            act = super().act(obs, state, starts)
            for lane in range(3):
                step = int(obs[lane, 2])
                if step < plan(lane, int(obs[lane, 1]))[0]:  # not the dummy row
                    seen.append((int(state["count"][lane]), bool(starts[lane]), step))
            return act

    evaluate_policy(Recorder(), Fixed(given=lambda: counting("sync", mode, False, 3)), SeedStream(0), 9, 1000)
    assert len(seen) > 15
    assert all(count == step and start == (step == 0) for count, start, step in seen)


class Greedy(Policy):
    """Leans where the pole leans; has a part that must stay in evaluation mode, and one that draws when training."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.train()
        self.frozen.eval()

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        assert generator is None
        assert not self.training
        assert not torch.is_grad_enabled()
        random.random(), np.random.rand(), torch.rand(1)  # an environment may draw from the global ones
        x = self.dropout(self.frozen(obs))
        return Act((x[:, 2] > 0).long())


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_nothing_of_the_callers_changes(vectorization: str) -> None:
    env = GymnasiumConfig.model_validate({"id": "CartPole-v1", "vectorization": vectorization})
    policy = Greedy()

    def draws() -> list[float]:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        result = evaluate_policy(policy, env, SeedStream(5, "evaluation"), 20, 1000)
        results.append(result)
        return [torch.rand(1).item(), np.random.rand(), random.random()]

    results: list[Evaluation] = []
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    untouched = [torch.rand(1).item(), np.random.rand(), random.random()]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    assert draws() == untouched
    torch.rand(100)
    assert draws() == untouched
    assert results[0] == results[1]
    assert len(results[0].returns) == 20
    assert min(results[0].lengths) > 0
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert policy.training
    assert policy.dropout.training
    assert not policy.frozen.training
    assert evaluate_policy(policy, env, SeedStream(6, "evaluation"), 20, 1000) != results[0]


def test_state_is_restored_after_an_error() -> None:
    class Failing(Greedy):
        def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Any:
            raise KeyError("typo")

    policy = Failing()
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    with pytest.raises(KeyError):
        evaluate_policy(policy, GymnasiumConfig.model_validate({"id": "CartPole-v1"}), SeedStream(0), 2, 10)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy.training
    assert not policy.frozen.training


def test_numbers() -> None:
    evaluation = Evaluation((1.0, 2.0, 6.0), (1, 2, 3), 1)
    assert evaluation.mean == 3.0
    assert evaluation.quantile(0.5) == 2.0
    metrics = evaluation.metrics("evaluation")
    assert metrics["evaluation/return_min"] == 1.0
    assert metrics["evaluation/return_max"] == 6.0
    assert metrics["evaluation/episode_length"] == 2.0
    assert metrics["evaluation/return_std"] == pytest.approx(np.std([1, 2, 6]))
