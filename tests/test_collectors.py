"""What collectors report is what happened: every environment class, every autoreset mode, every kind of observation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.episodes_collector import EpisodesCollector
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.policy import Act
from rlkit_core.rollout import Rollout, Tree, tree_leaves
from rlkit_core.seeding import SeedStream
from tests.probes import (
    MODES,
    CountingPolicy,
    NoisyPolicy,
    Truth,
    counting,
    plan,
    real_steps,
    reward_of,
    truth_of,
)

KINDS = ("native", "batched", "sync", "async")


def steps_collector(kind: str, mode: AutoresetMode, nested: bool, num_envs: int, T: int) -> StepsCollector:
    return StepsCollector(counting(kind, mode, nested, num_envs), T, SeedStream(0), "cpu")


def leaves(rollout: Rollout) -> list[tuple[str, torch.Tensor]]:
    finals = {} if rollout.finals is None else vars(rollout.finals)
    fields = {"obs": rollout.all_obs, "actions": rollout.actions, "extras": dict(rollout.extras), "finals": finals}
    for name in ("rewards", "terminated", "truncated", "valid"):
        fields[name] = getattr(rollout, name)
    return tree_leaves(fields)


def assert_same(a: Rollout, b: Rollout) -> None:
    for (path, leaf), (other_path, other) in zip(leaves(a), leaves(b), strict=True):
        assert path == other_path
        assert leaf.dtype == other.dtype
        assert torch.equal(leaf, other), path
    assert a.episodes == b.episodes


@pytest.mark.parametrize("nested", [False, True], ids=["box", "nested"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_what_happened(kind: str, mode: AutoresetMode, nested: bool) -> None:
    collector = steps_collector(kind, mode, nested, 3, 7)
    truth = Truth(dict.fromkeys(range(3), (0, 0)))
    seen = 0
    try:
        for _ in range(4):
            rollout = collector.collect(NoisyPolicy())
            truth_before = dict(truth.where)
            if rollout.finals is None and mode is not AutoresetMode.NEXT_STEP:
                raise AssertionError("the plan ends episodes in every rollout")
            truth.check(rollout)
            assert truth.where != truth_before
            seen += rollout.num_steps
            # B10: steps that the learner sees are calls of the environments' own `step`.
            assert seen == real_steps(collector.environments)
            assert int(rollout.valid.sum()) == rollout.num_steps
            assert rollout.valid.all() or mode is AutoresetMode.NEXT_STEP
            # Actions and extras were copied before environment and policy wrote into theirs.
            assert torch.equal(rollout.actions, rollout.extras["raw"])
            assert rollout.actions.abs().min() > 0
            assert len(rollout.actions.unique()) == rollout.actions.numel()
            assert torch.equal(rollout.extras["lane"].long(), torch.arange(3).expand(7, 3))
    finally:
        collector.close()


@given(
    kind=st.sampled_from(("native", "batched", "sync")),
    mode=st.sampled_from(MODES),
    nested=st.booleans(),
    num_envs=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_any_shape(kind: str, mode: AutoresetMode, nested: bool, num_envs: int, lengths: list[int]) -> None:
    environments = counting(kind, mode, nested, num_envs)
    truth = Truth(dict.fromkeys(range(num_envs), (0, 0)))
    if mode is not AutoresetMode.NEXT_STEP:
        lengths = [max(T, 4) for T in lengths]  # long enough that each rollout has an end: `Truth` reads that
    seen = 0
    collector = StepsCollector(environments, 1, SeedStream(0), "cpu")
    for T in lengths:
        collector._num_steps = T
        rollout = collector.collect(NoisyPolicy())
        truth.check(rollout)
        seen += rollout.num_steps
        steps = rollout.steps()
        obs, next_obs, rewards = rollout.columns(rollout.obs, rollout.next_obs, rollout.rewards)
        assert steps.shape == (1, rollout.num_steps) == (1, len(rewards))
        assert torch.equal(steps.rewards[0], rewards)
        for b in range(len(rewards)):
            lane, episode, step = truth_of(obs, b)
            assert truth_of(next_obs, b) == (lane, episode, step + 1)
            assert truth_of(steps.obs, 0, b) == (lane, episode, step)
            assert truth_of(steps.next_obs, 0, b) == (lane, episode, step + 1)
            assert rewards[b] == reward_of(lane, episode, step + 1)
            length, terminated, truncated = plan(lane, episode)
            over = step + 1 == length
            assert (bool(steps.terminated[0, b]), bool(steps.truncated[0, b])) == (
                over and terminated,
                over and truncated,
            )
    assert seen == real_steps(environments)


def garble(obs: Tree) -> torch.Tensor:
    """A value that differs for any two observations, and rounds."""
    flat = (
        obs
        if isinstance(obs, torch.Tensor)
        else torch.stack([obs["where"][0].double(), obs["where"][1], obs["image"][:, 0, 0].double()], 1)
    )
    return (flat.float() @ torch.tensor([0.1, 1.7, 13.3])).sin()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("nested", [False, True], ids=["box", "nested"])
def test_values(mode: AutoresetMode, nested: bool) -> None:
    collector = steps_collector("native", mode, nested, 3, 20)
    rollout = collector.collect(NoisyPolicy())
    calls = []

    def value(obs: Tree) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        calls.append(tree_leaves(obs)[0][1].shape[0])
        return garble(obs)

    values, next_values = rollout.values(value)
    finals = 0 if rollout.finals is None else len(rollout.finals.time)
    assert calls == [21 * 3 + finals]  # each distinct observation once
    assert values.shape == next_values.shape == (20, 3)
    inside = rollout.valid & ~rollout.terminated & ~rollout.truncated
    assert torch.equal(next_values[:-1][inside[:-1]], values[1:][inside[:-1]])
    flat = [tree_flat.flatten(0, 1) for _, tree_flat in tree_leaves(rollout.next_obs)]
    assert all(leaf.shape[0] == 60 for leaf in flat)
    for t in range(20):
        for n in range(3):
            for obs, got in ((rollout.obs, values), (rollout.next_obs, next_values)):
                lane, episode, step = truth_of(obs, t, n)
                expected = garble(torch.tensor([[lane, episode + 0.1 * nested, step]], dtype=torch.float64))
                assert torch.allclose(got[t, n], expected, atol=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
def test_reset_observation_is_worth_nothing_at_an_end(mode: AutoresetMode) -> None:
    """B3: poisoning the value of the auto-reset observation changes no other row's next value."""
    rollout = steps_collector("sync", mode, False, 3, 20).collect(NoisyPolicy())
    _, clean = rollout.values(garble)

    def poisoned(obs: Tree) -> torch.Tensor:
        return torch.where(obs[:, 2] == 0, float("nan"), garble(obs))

    _, next_values = rollout.values(poisoned)
    assert torch.equal(next_values, clean)  # no successor is a first observation


@pytest.mark.parametrize("kind", ["native", "sync"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_kept_rollout_does_not_change(kind: str, mode: AutoresetMode) -> None:
    collector = steps_collector(kind, mode, False, 3, 5)
    policy = NoisyPolicy()
    kept = [collector.collect(policy) for _ in range(2)]
    copies = copy.deepcopy(kept)
    collector.collect(policy)
    for rollout, before in zip(kept, copies, strict=True):
        assert_same(rollout, before)


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
def test_sync_and_async_are_bit_equal_and_repeatable(autoreset: str) -> None:
    def collect(vectorization: str, seed: int = 3) -> list[Rollout]:
        env = GymnasiumConfig.model_validate(
            {"id": "Pendulum-v1", "vectorization": vectorization, "autoreset": autoreset, "max_episode_steps": 7}
        )
        collector = StepsConfig(num_envs=2, num_steps=10).build(env, SeedStream(seed), "cpu")

        class Torques(NoisyPolicy):
            def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Any:
                act = super().act(obs, generator=generator)
                return act._replace(action=act.action[:, :1].clone())

        rollouts = [collector.collect(Torques()) for _ in range(3)]
        collector.close()
        return rollouts

    sync = collect("sync")
    for other in (collect("sync"), collect("async")):
        for a, b in zip(sync, other, strict=True):
            assert_same(a, b)
    assert not torch.equal(sync[0].all_obs, collect("sync", seed=4)[0].all_obs)


def test_disabled_gives_each_episode_its_own_seed() -> None:
    seen: list[int] = []
    for run_seed in range(4):
        environments = counting("sync", AutoresetMode.DISABLED, False, 3, seed=run_seed)
        StepsCollector(environments, 60, SeedStream(run_seed), "cpu").collect(NoisyPolicy())
        for env in environments.vector_env.envs:  # type: ignore[attr-defined]
            assert len(env.unwrapped.seeds) == env.unwrapped.episode + 1 > 10
            seen += env.unwrapped.seeds
    assert None not in seen
    assert len(set(seen)) == len(seen)
    again = counting("sync", AutoresetMode.DISABLED, False, 3, seed=3)
    StepsCollector(again, 60, SeedStream(3), "cpu").collect(NoisyPolicy())
    repeated = [seed for env in again.vector_env.envs for seed in env.unwrapped.seeds]  # type: ignore[attr-defined]
    assert repeated == seen[-len(repeated) :]


def test_native_is_seeded_once() -> None:
    environments = counting("native", AutoresetMode.DISABLED, False, 3)
    StepsCollector(environments, 20, SeedStream(0), "cpu").collect(NoisyPolicy())
    first, *others = environments.vector_env.seeds  # type: ignore[attr-defined]
    assert isinstance(first, int)
    assert others
    assert set(others) == {None}  # else all lanes would begin the generator's stream again


@pytest.mark.parametrize("kind", ["native", "sync", "async"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_state_starts_anew_exactly_with_each_episode(kind: str, mode: AutoresetMode) -> None:
    collector = steps_collector(kind, mode, False, 3, 6)
    policy = CountingPolicy()
    try:
        for _ in range(4):
            rollout = collector.collect(policy)
            valid = rollout.valid
            assert torch.equal(rollout.extras["count"][valid].float(), rollout.obs[..., 2][valid])
            assert torch.equal(rollout.extras["starts"][valid], (rollout.obs[..., 2] == 0)[valid])
    finally:
        collector.close()


@pytest.mark.parametrize("nested", [False, True], ids=["box", "nested"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_episodes(kind: str, mode: AutoresetMode, nested: bool) -> None:
    if kind == "async":
        lanes = [counting(kind, mode, nested, 1, first=lane) for lane in range(2)]
    else:
        lanes = [counting(kind, mode, nested, 1, first=lane) for lane in range(4)]
    for lane, environments in enumerate(lanes):
        if kind in ("native", "batched"):
            environments.vector_env.lanes[0].lane = lane  # type: ignore[attr-defined]
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    seen = 0
    for episode in range(4):
        rollout = collector.collect(NoisyPolicy())
        plans = [plan(lane, episode) for lane in range(len(lanes))]
        T = sum(length for length, _, _ in plans)
        assert rollout.shape == (T, 1)
        assert rollout.valid.all()
        assert [e.length for e in rollout.episodes] == [length for length, _, _ in plans]
        assert torch.equal(rollout.actions, rollout.extras["raw"])
        t = 0
        values, next_values = rollout.values(garble)
        for lane, (length, terminated, truncated) in enumerate(plans):
            for step in range(length):
                over = step + 1 == length
                assert truth_of(rollout.obs, t, 0) == (lane, episode, step)
                assert truth_of(rollout.next_obs, t, 0) == (lane, episode, step + 1)
                assert rollout.rewards[t, 0] == reward_of(lane, episode, step + 1)
                assert bool(rollout.terminated[t, 0]) == (over and terminated)
                assert bool(rollout.truncated[t, 0]) == (over and truncated)
                assert over or torch.equal(next_values[t], values[t + 1])
                assert rollout.extras["lane"][t, 0] == lane
                t += 1
            total = sum(reward_of(lane, episode, step + 1) for step in range(length))
            assert rollout.episodes[lane].episode_return == total
        seen += rollout.num_steps
        assert seen == sum(real_steps(environments) for environments in lanes)  # the others stood still
    collector.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_whole_episodes_with_state(mode: AutoresetMode) -> None:
    lanes = [counting("sync", mode, False, 1, first=lane) for lane in range(4)]
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    for _ in range(3):
        rollout = collector.collect(CountingPolicy())
        assert torch.equal(rollout.extras["count"].float(), rollout.obs[..., 2])
        assert torch.equal(rollout.extras["starts"], rollout.obs[..., 2] == 0)


def test_kept_whole_episodes_do_not_change() -> None:
    lanes = [counting("sync", AutoresetMode.SAME_STEP, False, 1, first=lane) for lane in range(2)]
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    policy = NoisyPolicy()
    kept = collector.collect(policy)
    before = copy.deepcopy(kept)
    collector.collect(policy)
    assert_same(kept, before)


def test_episodes_of_cartpole() -> None:
    for vectorization in ("native", "sync"):
        env = GymnasiumConfig.model_validate({"id": "CartPole-v1", "vectorization": vectorization})

        class Coin(NoisyPolicy):
            def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Any:
                return super().act(obs, generator=generator)._replace(action=torch.zeros(len(obs), dtype=torch.int64))

        rollout = EpisodesConfig(num_envs=3).build(env, SeedStream(0), "cpu").collect(Coin())
        assert len(rollout.episodes) == 3
        assert rollout.num_steps == sum(episode.length for episode in rollout.episodes)
        first_rows = np.cumsum([0] + [episode.length for episode in rollout.episodes])[:-1]
        starts = rollout.obs[first_rows, 0]
        assert (starts.abs() <= 0.05).all()
        assert len(starts.unique(dim=0)) == 3  # each lane its own seed


@pytest.mark.parametrize("takes_arrays", [False, True])
@pytest.mark.parametrize("kind", ["steps", "episodes", "evaluation"])
def test_policies_get_arrays_where_they_take_them(kind: str, takes_arrays: bool) -> None:
    seen = set()

    class Watching(NoisyPolicy):
        def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Any:
            seen.add(type(obs))
            action = torch.zeros(len(obs), dtype=torch.int64)
            return Act(action)

    policy = Watching()
    policy.takes_arrays = takes_arrays
    env = GymnasiumConfig(id="CartPole-v1", vectorization="sync")
    if kind == "evaluation":
        evaluate_policy(policy, env, SeedStream(0), 2, 50)
    else:
        config = StepsConfig(num_envs=2, num_steps=4) if kind == "steps" else EpisodesConfig(num_envs=2)
        config.build(env, SeedStream(0), "cpu").collect(policy)
    assert seen == {np.ndarray if takes_arrays else torch.Tensor}
