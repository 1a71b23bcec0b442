"""`LambdaEstimator` on rollouts: units, statistics, dummy rows, and what a learner sees."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlkit_core.testing
from rlkit_core.errors import Diverged
from rlkit_core.returns import LambdaEstimator, ReturnEstimator, Returns, lambda_returns, normalize
from rlkit_core.rollout import FinalObservations, Rollout
from rlkit_core.testing import rollouts
from rlkit_core.testing.strategies import RolloutArrays

MODES = ("off", "per_episode", "per_batch", "running")
PER = ("per_episode", "per_batch")


def to_rollout(x: RolloutArrays) -> Rollout:
    T, N = x.shape
    return Rollout(
        all_obs=torch.zeros(T + 1, N, 1),
        actions=torch.zeros(T, N, dtype=torch.int64),
        rewards=torch.tensor(x.rewards, dtype=torch.float32),
        terminated=torch.tensor(x.terminated),
        truncated=torch.tensor(x.truncated),
        valid=torch.tensor(x.valid),
    )


def rollout_of(rewards: Any, terminated: Any, truncated: Any = None, valid: Any = None) -> Rollout:
    r = np.array(rewards, float)
    m = np.array(terminated, bool)
    x = RolloutArrays(
        rewards=r,
        values=r,
        next_values=r,
        terminated=m,
        truncated=np.zeros_like(m) if truncated is None else np.array(truncated, bool),
        valid=np.ones_like(m) if valid is None else np.array(valid, bool),
        tail=r[0],
        gamma=0.5,
        gae_lambda=1.0,
    )
    return to_rollout(x)


def estimator(x: RolloutArrays, mode: Any) -> LambdaEstimator:
    if mode in PER:
        return LambdaEstimator(x.gamma, bootstrap=False, normalize=mode)
    return LambdaEstimator(x.gamma, x.gae_lambda, normalize=mode)


_NOTHING = np.zeros((0, 0))
_NO_FLAGS = _NOTHING.astype(bool)
NO_ROWS = RolloutArrays(_NOTHING, _NOTHING, _NOTHING, _NO_FLAGS, _NO_FLAGS, _NO_FLAGS, np.zeros(0), 0.5, 0.5)


def values_of(x: RolloutArrays) -> tuple[Tensor, Tensor]:
    return torch.tensor(x.values, dtype=torch.float32), torch.tensor(x.next_values, dtype=torch.float32)


def equal(a: Returns, b: Returns) -> bool:
    return torch.equal(a.targets, b.targets) and torch.equal(a.advantages, b.advantages)


@given(rollouts(poison=True, dtype=np.float32))
def test_off_is_the_lambda_return(x: RolloutArrays) -> None:
    V, V_next = values_of(x)
    targets, advantages = LambdaEstimator(x.gamma, x.gae_lambda).estimate(to_rollout(x), V_next, values=V)
    G = lambda_returns(
        x.rewards, x.next_values, x.terminated, x.truncated, gamma=x.gamma, gae_lambda=x.gae_lambda, valid=x.valid
    )
    assert targets.numpy().tobytes() == G.tobytes()
    np.testing.assert_array_equal(advantages.numpy(), np.where(x.valid, G - x.values, 0))


@given(rollouts(nasty=False, dtype=np.float32))
def test_per_batch_is_over_all_valid_rows(x: RolloutArrays) -> None:
    V, V_next = values_of(x)
    settings: dict[str, Any] = {"bootstrap": False, "normalize": "per_batch", "ddof": 1, "epsilon": 0.5}
    targets, advantages = LambdaEstimator(x.gamma, **settings).estimate(to_rollout(x), V_next, values=V)
    G = lambda_returns(x.rewards, None, x.terminated, x.truncated, gamma=x.gamma, bootstrap=False, valid=x.valid)
    expected = normalize(G, x.valid, ddof=1, epsilon=0.5)
    np.testing.assert_array_equal(targets.numpy(), expected)
    np.testing.assert_array_equal(advantages.numpy(), np.where(x.valid, expected - x.values, 0))


@given(rollouts(nasty=False, dtype=np.float32))
def test_per_episode_is_over_each_episode(x: RolloutArrays) -> None:
    V, V_next = values_of(x)
    settings: dict[str, Any] = {"bootstrap": False, "normalize": "per_episode", "ddof": 1, "epsilon": 0.5}
    targets, advantages = LambdaEstimator(x.gamma, **settings).estimate(to_rollout(x), V_next, values=V)
    expected = np.zeros(x.shape, np.float32)
    for n in range(x.shape[1]):
        rows: list[int] = []
        for t in range(x.shape[0]):
            if x.valid[t, n]:
                rows.append(t)
            if rows and (t == x.shape[0] - 1 or x.terminated[t, n] or x.truncated[t, n]):
                none = np.zeros((len(rows), 1), bool)
                G = lambda_returns(x.rewards[rows][:, [n]], None, none, none, gamma=x.gamma, bootstrap=False)
                expected[rows, n] = normalize(G[:, 0], ddof=1, epsilon=0.5)
                rows = []
    np.testing.assert_array_equal(targets.numpy(), expected)
    np.testing.assert_array_equal(advantages.numpy(), np.where(x.valid, expected - x.values, 0))


def raw_values(e: LambdaEstimator, x: RolloutArrays, V: torch.Tensor) -> np.ndarray[Any, Any]:
    """Raw values as `running` takes them: held between the lowest and the highest reward so far, over 1 - gamma."""
    raw = e.statistics.to_raw(V.numpy())
    if e.gamma == 1:
        return raw
    state = e.state_dict()
    seen = x.rewards[x.valid].astype(np.float32).astype(float)
    low, high = min([state["lowest_reward"], *seen]), max([state["highest_reward"], *seen])
    return np.clip(raw, low / (1 - e.gamma), high / (1 - e.gamma))


@pytest.mark.parametrize("mode", MODES)
@given(x=rollouts(nasty=False))
def test_without_values_advantages_are_returns(mode: Any, x: RolloutArrays) -> None:
    _, V_next = values_of(x)
    e = estimator(x, mode)
    for _ in range(2):  # the second time with statistics
        raw = raw_values(e, x, V_next) if mode == "running" else x.next_values
        G = lambda_returns(
            x.rewards,
            raw,
            x.terminated,
            x.truncated,
            gamma=e.gamma,
            gae_lambda=e.gae_lambda,
            bootstrap=e.bootstrap,
            valid=x.valid,
        )
        targets, advantages = e.estimate(to_rollout(x), V_next)
        if mode in ("off", "running"):
            unit = e.statistics.std if mode == "running" else 1.0  # that of the targets
            np.testing.assert_allclose(advantages * unit, G, rtol=1e-5, atol=1e-4)
        if mode != "running":
            assert torch.equal(targets, advantages)


@pytest.mark.parametrize("mode", MODES)
@given(x=rollouts(nasty=False), garbage=st.sampled_from([math.nan, math.inf, 1e30]))
def test_dummy_rows_change_nothing(mode: Any, x: RolloutArrays, garbage: float) -> None:
    names = ("rewards", "values", "next_values")
    dirty = replace(x, **{name: np.where(x.valid, getattr(x, name), garbage) for name in names})
    clean_estimator, dirty_estimator = estimator(x, mode), estimator(x, mode)
    for _ in range(2):
        results = []
        for each, arrays in ((clean_estimator, x), (dirty_estimator, dirty)):
            V, V_next = values_of(arrays)
            results.append(each.estimate(to_rollout(arrays), V_next, values=V))
        assert equal(*results)
        assert not results[0].targets[~torch.tensor(x.valid)].any()
        assert not results[0].advantages[~torch.tensor(x.valid)].any()
    assert clean_estimator.state_dict() == dirty_estimator.state_dict()


@pytest.mark.parametrize("mode", MODES)
def test_dummy_rows_can_be_left_out(mode: Any) -> None:
    rewards, ends = [[1.0], [5], [9], [2], [3], [7]], [[0], [1], [0], [0], [0], [1]]
    valid = np.array([[1], [1], [0], [1], [1], [1]], bool)
    keep = valid[:, 0]
    whole = rollout_of(rewards, ends, valid=valid)
    dense = rollout_of(np.array(rewards)[keep], np.array(ends)[keep])
    V = torch.tensor([[3.0], [1], [4], [1], [5], [9]])
    a, b = estimator(NO_ROWS, mode), estimator(NO_ROWS, mode)
    first, second = a.estimate(whole, 2 * V, values=V), b.estimate(dense, 2 * V[keep], values=V[keep])
    assert torch.equal(first.targets[keep], second.targets)
    assert torch.equal(first.advantages[keep], second.advantages)
    assert a.state_dict() == b.state_dict()


def test_b3_the_observation_after_a_reset_is_not_read() -> None:
    """The same steps in SAME_STEP autoreset, with other first observations of the second episode."""
    final = FinalObservations(time=torch.tensor([1]), lane=torch.tensor([0]), obs=torch.tensor([[2.0]]))
    results = []
    for reset in (0.0, 1e6):
        rollout = replace(
            rollout_of([[1.0], [2], [4]], [[0], [0], [0]], [[0], [1], [0]]),
            all_obs=torch.tensor([[[0.0]], [[1]], [[reset]], [[3]]]),
            finals=final,
        )
        _, V_next = rollout.values(lambda obs: 10 * obs.squeeze(-1))
        results.append(LambdaEstimator(0.5).estimate(rollout, V_next).targets[:, 0].tolist())
    assert results == [[7, 12, 19], [7, 12, 19]]


# Running


def test_running_by_hand() -> None:
    """Up, compute, take in, down: values come with one set of statistics, targets and advantages go with the next."""
    e = LambdaEstimator(0.5, normalize="running")
    statistics = {"count": 2, "mean": 3.0, "m2": 8.0, "noise": 0.0}  # std 2
    e.load_state_dict({**statistics, "lowest_reward": 0.0, "highest_reward": 3.0})  # values may be up to 6
    rollout = rollout_of([[1.0], [2]], [[0], [0]])
    V, V_next = torch.tensor([[0.5], [1.0]]), torch.tensor([[1.0], [1.5]])  # raw 4, 5 and 5, 6
    targets, advantages = e.estimate(rollout, V_next, values=V)
    # pooled: 1, 5 (mean 3, m2 8) and 3.5, 5
    pool = np.array([1, 5, 3.5, 5])
    np.testing.assert_allclose(advantages[:, 0], np.array([3.5 - 4, 5.0 - 5]) / pool.std(), rtol=1e-6)
    np.testing.assert_allclose(targets[:, 0], (np.array([3.5, 5]) - pool.mean()) / pool.std(), rtol=1e-6)
    assert e.statistics.count == 4
    np.testing.assert_allclose(e.to_raw(targets)[:, 0], [3.5, 5], rtol=1e-6)


def test_running_asked_again_leaves_statistics_alone() -> None:
    e = LambdaEstimator(0.9, 0.5, normalize="running")
    rng = np.random.default_rng(0)
    rollout = rollout_of(rng.normal(size=(20, 2)), np.zeros((20, 2)))
    V, V_next = torch.randn(2, 20, 2)
    e.estimate(rollout, V_next, values=V)
    before = e.state_dict()
    first = e.estimate(rollout, V_next, values=V, update=False)
    assert equal(first, e.estimate(rollout, V_next, values=V, update=False))
    assert e.state_dict() == before
    e.estimate(rollout, V_next, values=V)
    assert e.state_dict()["count"] == before["count"] + 40


@given(st.lists(rollouts(nasty=False, min_columns=1), max_size=4))
def test_running_statistics_are_those_of_all_returns(several: list[RolloutArrays]) -> None:
    e = LambdaEstimator(0.9, 0.5, normalize="running")
    pool = []
    for x in several:
        V, V_next = values_of(x)
        raw = raw_values(e, x, V_next)
        flags = x.terminated, x.truncated
        rewards = x.rewards.astype(np.float32)
        pool.append(lambda_returns(rewards, raw, *flags, gamma=0.9, gae_lambda=0.5, valid=x.valid)[x.valid])
        e.estimate(to_rollout(x), V_next, values=V)
    pooled = np.concatenate([np.zeros(0), *pool])
    assert e.statistics.count == len(pooled)
    if len(pooled):
        assert e.statistics.mean == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-9)
        assert e.statistics.m2 == pytest.approx(((pooled - pooled.mean()) ** 2).sum(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_running_reward_1_for_ever_is_worth_its_series(gamma: float, gae_lambda: float) -> None:
    """A table of one value, set to its target until it stays: 1 / (1 - gamma), also under a time limit."""
    e = LambdaEstimator(gamma, gae_lambda, normalize="running")
    V = torch.zeros(5, 1)
    rollout = rollout_of(np.ones((5, 1)), np.zeros((5, 1)), [[0], [0], [1], [0], [0]])
    for _ in range(int(20 / (1 - gamma))):
        targets, _ = e.estimate(rollout, V, values=V)
        V = targets.mean().expand(5, 1)
    assert e.to_raw(V).mean().item() == pytest.approx(1 / (1 - gamma), rel=1e-3)


def test_running_checkpoint_in_between_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    whole, first = (LambdaEstimator(0.9, 0.5, normalize="running") for _ in range(2))
    for k in range(6):
        rollout = rollout_of(rng.normal(3, 5, size=(7, 2)), rng.random((7, 2)) < 0.2)
        V, V_next = torch.randn(2, 7, 2)
        assert equal(whole.estimate(rollout, V_next, values=V), first.estimate(rollout, V_next, values=V)), k
        other = LambdaEstimator(0.9, 0.5, normalize="running")
        other.load_state_dict(json.loads(json.dumps(first.state_dict())))
        first = other


def test_running_values_cannot_run_away() -> None:
    """Every episode is cut off and the values are too high: unbounded, units and values raise each other for ever.

    Reward 1 and gamma 0.9 are worth 10 at most, whatever the values say; -1 is worth -10 at least; 0 between them.
    """
    ends = np.array([[0], [1]])
    for reward, bound in ((1.0, 10.0), (-1.0, -10.0), (0.0, 0.0)):
        e = LambdaEstimator(0.9, normalize="running")
        rollout = rollout_of(np.full((2, 1), reward), np.zeros((2, 1)), truncated=ends)
        for _ in range(50):
            V = torch.full((2, 1), 3.0 if reward >= 0 else -3.0)  # three deviations from the mean, again and again
            e.estimate(rollout, V, values=V)
        assert abs(e.statistics.mean) <= abs(bound) + 1e-6
        assert e.to_raw(torch.zeros(1)).abs() <= abs(bound) + 1e-4
    again = LambdaEstimator(0.9, normalize="running")
    again.load_state_dict(e.state_dict())
    assert again.state_dict() == e.state_dict()


def test_only_running_has_state() -> None:
    rollout = rollout_of([[1.0], [2]], [[0], [1]])
    for mode in ("off", "per_episode", "per_batch"):
        e = estimator(NO_ROWS, mode)
        e.estimate(rollout, torch.ones(2, 1))
        assert e.state_dict() == {}
        e.load_state_dict({})
        assert e.to_raw(rollout.rewards) is rollout.rewards
    names = {"count", "mean", "m2", "noise", "lowest_reward", "highest_reward"}
    assert set(estimator(NO_ROWS, "running").state_dict()) == names


def test_running_values_to_raw() -> None:
    e = LambdaEstimator(0.5, normalize="running")
    statistics = {"count": 2, "mean": 3.0, "m2": 8.0, "noise": 0.0}
    e.load_state_dict({**statistics, "lowest_reward": 0.0, "highest_reward": 3.0})
    values = torch.tensor([0.0, 1.0])
    assert e.to_raw(values).tolist() == [3, 5]
    assert e.to_raw(values).dtype == torch.float32


# The notebook


def test_notebook_normalises_like_torch() -> None:
    """PyTorch's actor-critic example: (G - G.mean()) / (G.std() + eps) for one episode."""
    eps = float(np.finfo(np.float32).eps)
    e = LambdaEstimator(0.99, bootstrap=False, normalize="per_episode", ddof=1, epsilon=eps)
    n = 37
    rollout = rollout_of(np.ones((n, 1)), np.eye(n)[-1][:, None])
    V = torch.randn(n, 1)
    targets, advantages = e.estimate(rollout, V, values=V)
    G: list[float] = []
    for _ in range(n):
        G.insert(0, 1 + 0.99 * (G[0] if G else 0))
    expected = torch.tensor(G)
    expected = (expected - expected.mean()) / (expected.std() + eps)
    torch.testing.assert_close(targets[:, 0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(advantages, targets - V)


def test_notebook_one_step_episodes_give_0() -> None:
    e = LambdaEstimator(0.99, bootstrap=False, normalize="per_episode", ddof=1, epsilon=1e-7)
    targets, advantages = e.estimate(rollout_of([[1.0], [5], [3]], [[1], [1], [1]]), torch.zeros(3, 1))
    assert targets[:, 0].tolist() == [0, 0, 0]
    assert advantages[:, 0].tolist() == [0, 0, 0]


# Settings, gradients, faults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 2.0}, "gamma must be from 0 to 1, not 2.0"),
        ({"gae_lambda": 2.0}, "gae_lambda must be from 0 to 1, not 2.0"),
        (
            {"gae_lambda": 0.5, "bootstrap": False},
            "bootstrap=False needs gae_lambda=1, not 0.5: a mixture reads next_values",
        ),
        (
            {"normalize": "per_episode"},
            "normalize=per_episode needs bootstrap=False: its values cannot be added to raw rewards",
        ),
        (
            {"normalize": "per_batch"},
            "normalize=per_batch needs bootstrap=False: its values cannot be added to raw rewards",
        ),
        ({"normalize": "x"}, "normalize must be one of off, per_episode, per_batch, running, not 'x'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        LambdaEstimator(**({"gamma": 0.9} | settings))
    assert str(error.value) == message


@pytest.mark.parametrize("mode", MODES)
def test_without_bootstrap_next_values_are_not_read(mode: Any) -> None:
    e = LambdaEstimator(0.5, bootstrap=False, normalize=mode)
    targets, _ = e.estimate(rollout_of([[1.0], [2], [6]], [[0], [0], [0]], [[0], [1], [0]]), torch.full((3, 1), np.nan))
    if mode == "off":
        assert targets[:, 0].tolist() == [2, 2, 6]


def test_defaults() -> None:
    e = LambdaEstimator(0.5)
    targets, advantages = e.estimate(rollout_of([[1.0], [2]], [[0], [0]]), torch.tensor([[8.0], [16]]))
    assert targets[:, 0].tolist() == [6, 10]
    assert advantages[:, 0].tolist() == [6, 10]
    e = LambdaEstimator(0.5, bootstrap=False, normalize="per_batch")
    targets, _ = e.estimate(rollout_of([[1.0], [3]], [[1], [1]]), torch.zeros(2, 1))
    assert targets[:, 0].tolist() == [-1, 1]
    e = LambdaEstimator(0.5, normalize="running")
    e.estimate(rollout_of([[1.0], [3]], [[1], [1]]), torch.zeros(2, 1))
    assert e.statistics.count == 2


@pytest.mark.parametrize("mode", MODES)
def test_g1_results_carry_no_gradient(mode: Any) -> None:
    V = torch.ones(2, 1, requires_grad=True)
    results = estimator(NO_ROWS, mode).estimate(rollout_of([[1.0], [2]], [[0], [1]]), 2 * V, values=V)
    for result in results:
        assert not result.requires_grad
        assert result.dtype == torch.float32
        assert result.shape == (2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_g2_arguments_are_left_alone(mode: Any) -> None:
    rollout = rollout_of([[1.0], [2], [4]], [[0], [1], [0]])
    V, V_next = torch.tensor([[3.0], [5], [7]]), torch.tensor([[5.0], [9], [8]])
    before = [t.clone() for t in (rollout.rewards, V, V_next)]
    results = estimator(NO_ROWS, mode).estimate(rollout, V_next, values=V)
    for result in results:
        result.fill_(99)
    assert all(torch.equal(a, b) for a, b in zip(before, (rollout.rewards, V, V_next), strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_advantages_can_be_changed_in_place(mode: Any) -> None:
    targets, advantages = estimator(NO_ROWS, mode).estimate(rollout_of([[1.0], [2]], [[0], [1]]), torch.zeros(2, 1))
    before = targets.clone()
    advantages.fill_(99)
    assert torch.equal(targets, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["rewards", "values", "next_values"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_is_an_error(mode: Any, where: str, bad: float) -> None:
    if mode in PER and where == "next_values":
        return
    e = estimator(NO_ROWS, mode)
    rollout = rollout_of([[1.0, 1], [2, 5]], [[0, 1], [0, 0]])
    V = torch.ones(2, 2)
    e.estimate(rollout, V, values=V)
    before = e.state_dict()
    arrays = {"rewards": rollout.rewards.clone(), "values": V.clone(), "next_values": V.clone()}
    arrays[where][1, 1] = bad
    with pytest.raises(Diverged) as error:
        e.estimate(replace(rollout, rewards=arrays["rewards"]), arrays["next_values"], values=arrays["values"])
    what = "advantages" if where == "values" else "returns"
    shown = -bad if where == "values" else bad
    assert str(error.value) == f"1 of 4 {what} are not finite, the first at [1, 1]: {shown}"
    assert e.state_dict() == before


def test_overflow_of_the_result_is_an_error(recwarn: pytest.WarningsRecorder) -> None:
    e = LambdaEstimator(1.0, normalize="running")
    e.load_state_dict({"count": 2, "mean": 0.0, "m2": 2e78, "noise": 0.0, "lowest_reward": 0.0, "highest_reward": 0.0})
    before = e.state_dict()
    with pytest.raises(Diverged, match="advantages"):
        e.estimate(rollout_of([[1.0]], [[0]]), torch.ones(1, 1), values=-torch.ones(1, 1))
    assert e.state_dict() == before
    e.load_state_dict({"count": 2, "mean": 0.0, "m2": 2e-60, "noise": 0.0, "lowest_reward": 0.0, "highest_reward": 0.0})
    with pytest.raises(Diverged) as error:
        e.estimate(rollout_of([[1e10]], [[1]]), torch.zeros(1, 1), update=False)
    assert str(error.value) == "1 of 1 targets are not finite, the first at [0, 0]: inf"
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (3, 2), (2,)])
def test_d2_shapes_are_never_broadcast(shape: tuple[int, ...]) -> None:
    rollout = rollout_of([[1.0, 1], [2, 5]], [[0, 1], [0, 0]])
    good, bad = torch.ones(2, 2), torch.ones(shape)
    for mode in ("off", "running"):
        e = LambdaEstimator(0.9, normalize=mode)
        with pytest.raises(ValueError, match="next_values must be of shape"):
            e.estimate(rollout, bad, values=good)
        with pytest.raises(ValueError) as error:
            e.estimate(rollout, good, values=bad)
        assert str(error.value) == f"values must be of shape (2, 2), not {shape}"


def test_an_estimator_needs_one_method() -> None:
    class Rewards(ReturnEstimator):
        def estimate(self, rollout: Rollout, next_values: Tensor, **_: Any) -> Returns:
            return Returns(rollout.rewards, rollout.rewards)

    e = Rewards()
    assert e.state_dict() == {}
    assert e.load_state_dict({}) is None  # type: ignore[func-returns-value]
    values = torch.ones(2)
    assert e.to_raw(values) is values
    with pytest.raises(TypeError):
        ReturnEstimator()  # type: ignore[abstract]


def test_the_test_kit_names_what_it_has() -> None:
    assert rlkit_core.testing.rollouts is rollouts
    with pytest.raises(AttributeError, match="nothing"):
        rlkit_core.testing.nothing  # noqa: B018


@given(rollouts(poison=True))
def test_strategy_keeps_its_promises(x: RolloutArrays) -> None:
    ends = x.terminated | x.truncated
    T, _ = x.shape
    for array in (x.values, x.next_values, ends, x.valid):
        assert array.shape == x.shape
    assert not (ends & ~x.valid).any()
    assert np.isfinite(x.rewards[x.valid]).all()
    assert np.isfinite(x.next_values[x.valid & ~x.terminated]).all()
    if T:
        inside = (x.valid & ~ends)[:-1]
        np.testing.assert_array_equal(x.next_values[:-1][inside], x.values[1:][inside])
        assert ends[:-1][~x.valid[1:]].all()


@given(rollouts(whole_episodes=True, dummy_rows=False, min_rows=1, min_columns=1, max_columns=2))
def test_strategy_of_whole_episodes(x: RolloutArrays) -> None:
    assert (x.terminated | x.truncated)[-1].all()
