"""Rollout: views on what was seen, held to plain loops."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.rollout import FinalObservations, Rollout, Tree, tree_leaves, tree_map, tree_where
from rlkit_core.testing.strategies import RolloutArrays, rollouts

DTYPES = (torch.float32, torch.float64, torch.uint8, torch.uint16, torch.int64, torch.bool)


def build(arrays: RolloutArrays, within: bool, dtype: torch.dtype) -> tuple[Rollout, torch.Tensor]:
    """A rollout with those flags, and its true successors `[T, N]` by number; `within`: resets come within the step."""
    T, N = arrays.shape
    numbers = torch.arange((T + 1) * N).view(T + 1, N)
    ended = torch.from_numpy(arrays.terminated | arrays.truncated)
    truth = numbers[1:].clone()
    finals = None
    if within and bool(ended.any()):
        time, lane = ended.nonzero(as_tuple=True)
        final = torch.arange(len(time)) + 1000
        truth[time, lane] = final
        finals = FinalObservations(time, lane, {"x": final.to(dtype), "y": (final[:, None].double(),)})
    rollout = Rollout(
        all_obs={"x": numbers.to(dtype), "y": (numbers[..., None].double(),)},
        actions=numbers[:-1].clone(),
        rewards=torch.from_numpy(arrays.rewards).float(),
        terminated=torch.from_numpy(arrays.terminated),
        truncated=torch.from_numpy(arrays.truncated),
        valid=torch.from_numpy(arrays.valid),
        finals=finals,
        extras={"log_prob": numbers[:-1].float(), "deep": {"a": (numbers[:-1],)}},
    )
    return rollout, truth


@given(rollouts(min_columns=1, min_rows=1, nasty=False), st.booleans(), st.sampled_from(DTYPES))
def test_views(arrays: RolloutArrays, within: bool, dtype: torch.dtype) -> None:
    rollout, truth = build(arrays, within, dtype)
    T, N = arrays.shape
    assert rollout.shape == (T, N)
    assert rollout.num_steps == arrays.valid.sum()
    assert torch.equal(rollout.obs["y"][0][..., 0], torch.arange(T * N).view(T, N).double())
    assert torch.equal(rollout.next_obs["x"], truth.to(dtype))
    assert torch.equal(rollout.next_obs["y"][0][..., 0], truth.double())
    assert rollout.next_obs is rollout.next_obs  # made once

    calls = []

    def value(obs: Tree) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        calls.append(obs["y"][0].shape[0])
        return (obs["y"][0][:, 0] * 0.37).sin()

    values, next_values = rollout.values(value)
    assert calls == [(T + 1) * N + (0 if rollout.finals is None else len(rollout.finals.time))]
    ended = rollout.terminated | rollout.truncated
    inside = ~ended[:-1]
    assert torch.equal(next_values[:-1][inside], values[1:][inside])
    assert torch.allclose(next_values, (truth.double() * 0.37).sin())

    rows = [(t, n) for t in range(T) for n in range(N) if arrays.valid[t, n]]
    steps = rollout.steps()
    assert steps.shape == (1, len(rows))
    assert steps.num_steps == len(rows)
    assert steps.valid.all()
    obs, deep = rollout.columns(rollout.obs, rollout.extras["deep"])
    for b, (t, n) in enumerate(rows):
        assert obs["y"][0][b] == deep["a"][0][b] == t * N + n
        assert steps.obs["y"][0][0, b] == steps.actions[0, b] == steps.extras["log_prob"][0, b] == t * N + n
        assert steps.next_obs["y"][0][0, b] == truth[t, n]
        for name in ("rewards", "terminated", "truncated"):
            assert getattr(steps, name)[0, b] == getattr(rollout, name)[t, n]
    if rows:
        step_values, step_next = steps.values(value)
        index = tuple(zip(*rows, strict=True))
        assert torch.allclose(step_values[0], values[index])
        assert torch.allclose(step_next[0], next_values[index])


@given(rollouts(min_columns=1, min_rows=1, nasty=False))
def test_reset_observations_are_no_successors(arrays: RolloutArrays) -> None:
    """B3: where resets come within the step, the next row's value at an end changes nothing."""
    arrays = dataclasses.replace(arrays, valid=np.ones_like(arrays.valid))
    rollout, _ = build(arrays, True, torch.float32)
    ended = rollout.terminated | rollout.truncated
    first = torch.zeros(ended.shape[0] + 1, ended.shape[1], dtype=torch.bool)
    first[1:] = ended
    resets = set(torch.arange(first.numel()).view_as(first)[first].tolist())

    def value(obs: Tree) -> torch.Tensor:
        return obs["y"][0][:, 0].clone()

    def poisoned(obs: Tree) -> torch.Tensor:
        values = value(obs)
        values[[int(v) in resets for v in values.tolist()]] = float("nan")
        return values

    assert torch.equal(rollout.values(value)[1], rollout.values(poisoned)[1])


def test_columns_before_the_forward_pass_keep_gradients_small() -> None:
    rollout, _ = build(
        RolloutArrays(
            *(np.zeros((3, 2)) for _ in range(3)),
            *(np.zeros((3, 2), bool) for _ in range(2)),
            valid=np.array([[True, True], [False, True], [True, True]]),
            tail=np.zeros(2),
            gamma=1.0,
            gae_lambda=1.0,
        ),
        False,
        torch.float32,
    )
    obs, rewards = rollout.columns(rollout.obs, rollout.rewards)
    assert obs["x"].tolist() == [0, 1, 3, 4, 5]
    assert rewards.shape == (5,)
    assert not obs["x"].requires_grad


def test_frozen() -> None:
    rollout = Rollout(*(torch.zeros(1, 1) for _ in range(3)), *(torch.zeros(1, 1, dtype=torch.bool) for _ in range(3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout.rewards = torch.ones(1, 1)  # type: ignore[misc]
    assert rollout == rollout
    assert rollout in {rollout}  # comparing tensors would have no truth value


def test_trees() -> None:
    tree: Any = {"a": (torch.tensor([1, 2]), {"b": torch.tensor([3, 4])}), "c": torch.tensor([5, 6])}
    assert [path for path, _ in tree_leaves(tree, "obs")] == ["obs.a.0", "obs.a.1.b", "obs.c"]
    assert tree_leaves(tree["c"]) == [("", tree["c"])]
    total = tree_map(lambda x, y: x + y, tree, tree)
    assert total["a"][1]["b"].tolist() == [6, 8]
    assert isinstance(total["a"], tuple)
    with pytest.raises(ValueError, match="argument"):
        tree_map(lambda x, y: x, tree, {**tree, "a": (tree["c"],)})
    mixed = tree_where(torch.tensor([True, False]), tree, tree_map(lambda x: -x, tree))
    assert mixed["a"][1]["b"].tolist() == [3, -4]
    rows = tree_where(torch.tensor([True, False]), torch.ones(2, 3), torch.zeros(2, 3))
    assert rows.tolist() == [[1, 1, 1], [0, 0, 0]]


@given(rollouts(min_columns=1, min_rows=1, nasty=False))
def test_values_of_many_are_computed_in_parts(arrays: RolloutArrays) -> None:
    """Which changes none of them, and asks for each observation once."""
    rollout, _ = build(arrays, True, torch.float32)
    asked: list[int] = []

    def value(obs: Tree) -> torch.Tensor:
        leaf = obs["y"][0]
        asked.append(len(leaf))
        return leaf.flatten(1).sum(1) * 3

    expected = rollout.values(value)
    (number,), asked[:] = tuple(asked), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlkit_core.rollout._LARGEST", 3)
        in_parts = rollout.values(value)
    assert max(asked) <= 3
    assert sum(asked) == number
    for part, whole in zip(in_parts, expected, strict=True):
        assert torch.equal(part, whole)
