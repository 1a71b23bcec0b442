"""`lambda_returns` against exact rationals, and the properties that define it.

The numbers (R1, B5, …) are those of the list of properties that the module was written to: R algebra, B boundaries,
D types, F range, G side effects.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rlkit_core.returns import lambda_returns
from rlkit_core.testing import rollouts
from rlkit_core.testing.strategies import RolloutArrays

Array = np.ndarray[Any, Any]


def returns(x: RolloutArrays, **changes: Any) -> Array:
    settings = {"gamma": x.gamma, "gae_lambda": x.gae_lambda, "valid": x.valid} | changes
    return lambda_returns(x.rewards, x.next_values, x.terminated, x.truncated, **settings)


def same_bits(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def exact(
    x: RolloutArrays, *, tail: bool = False, bootstrap: bool = True, absolute: bool = False
) -> list[list[Fraction]]:
    """The closed form in exact rationals, O(T^2), without recursion.

    G_t = sum_{k=t}^{end} (gamma lambda)^(k-t) (r_k + gamma c_k V'_k) [+ (gamma lambda)^(T-t) tail], with c = 0 at a
    termination, 1 where it stops otherwise, 1 - lambda elsewhere. `absolute` sums absolute values: the scale of errors.
    """
    T, N = x.shape
    gamma, lam = Fraction(x.gamma), Fraction(x.gae_lambda)
    powers = [(gamma * lam) ** k for k in range(T + 1)]

    def number(v: float) -> Fraction:
        return abs(Fraction(float(v))) if absolute else Fraction(float(v))

    result = [[Fraction(0)] * N for _ in range(T)]
    for n in range(N):
        for t in range(T):
            if not x.valid[t, n]:
                continue
            for k in range(t, T):
                ends = x.terminated[k, n] or x.truncated[k, n]
                stops = ends or (k == T - 1 and not tail)
                term = number(x.rewards[k, n])
                if bootstrap and not x.terminated[k, n]:
                    term += gamma * (1 if stops else 1 - lam) * number(x.next_values[k, n])
                result[t][n] += powers[k - t] * term
                if stops:
                    break
            else:
                result[t][n] += powers[T - t] * number(x.tail[n])
    return result


def assert_exact(G: Array, x: RolloutArrays, **options: Any) -> None:
    """Every element within the rounding errors that its sum may have in G's type."""
    T, N = x.shape
    assert G.shape == (T, N)
    info = np.finfo(G.dtype)
    unit, least = Fraction(float(info.eps)) / 2, Fraction(float(info.smallest_subnormal))
    largest = max([1.0, *np.abs(np.nan_to_num(np.concatenate([x.rewards, x.next_values, x.tail[None]]))).ravel()])
    truth, scale = exact(x, **options), exact(x, absolute=True, **options)
    for t in range(T):
        for n in range(N):
            error = abs(Fraction(float(G[t, n])) - truth[t][n])
            bound = (3 * (T - t) + 8) * (unit * scale[t][n] + least * Fraction(float(largest)))
            assert error <= bound, (t, n, float(G[t, n]), float(truth[t][n]))
            if not x.valid[t, n]:
                assert G[t, n] == 0


def assert_close(a: Array, b: Array, scale: Array) -> None:
    """Equal within 64 roundings of a float64 of size `scale`."""
    assert np.all(np.abs(a - b) <= 2.0**-47 * scale), (a, b)


def magnitude(x: RolloutArrays, **changes: Any) -> Array:
    """The same sums over absolute values."""
    return returns(replace(x, rewards=np.abs(x.rewards), next_values=np.abs(x.next_values)), **changes)


def column(
    rewards: list[float],
    next_values: list[float],
    terminated: list[int],
    truncated: list[int],
    gamma: float = 0.5,
    gae_lambda: float = 1.0,
) -> RolloutArrays:
    """One environment, by hand."""
    r = np.array(rewards, float)[:, None]
    V_next = np.array(next_values, float)[:, None]
    return RolloutArrays(
        rewards=r,
        values=np.concatenate([[[7.0]], V_next[:-1]]) if len(r) else r,
        next_values=V_next,
        terminated=np.array(terminated, bool)[:, None],
        truncated=np.array(truncated, bool)[:, None],
        valid=np.ones(r.shape, bool),
        tail=np.zeros(1),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )


# What each published fault got wrong, as a column and the result by hand.
HISTORIC = {
    "last value off by one (SB3#105, #375)": (column([1, 2, 4], [10, 20, 40], [0, 0, 0], [0, 0, 0]), [8, 14, 24]),
    "vectorised differs from serial (torchrl#401)": (
        column([1, 2, 4, 8], [10, 20, 40, 80], [0, 1, 0, 0], [0, 0, 0, 0], gae_lambda=0.5),
        [1 + 2.5 + 0.5, 2, 4 + 10 + 12, 8 + 40],
    ),
    "done for terminated (torchrl#2773)": (column([1, 2, 4], [10, 20, 40], [0, 0, 1], [0, 1, 0]), [7, 12, 4]),
    "reads the next trajectory at a truncation (torchrl#4209)": (
        column([1, 2, 1000], [10, 20, 3000], [0, 0, 0], [0, 1, 0], gae_lambda=0.5),
        [1 + 2.5 + 3, 12, 2500],
    ),
    "start flag for end flag (stable-baselines#385)": (
        column([1, 2, 4, 8], [10, 20, 40, 80], [1, 0, 1, 0], [0] * 4),
        [1, 4, 4, 48],
    ),
    "values leak through np.roll (tianshou#886)": (
        column([1e6, 2, 4], [1e6, 20, 40], [1, 0, 0], [0, 0, 0], gae_lambda=0.5),
        [1e6, 2 + 5 + 6, 24],
    ),
    "truncation as termination (cleanrl#198)": (column([1, 2], [10, 20], [0, 0], [0, 1]), [7, 12]),
    "boundary not cut, V(s_t) for V(s_t+1) (skrl#449)": (
        column([1, 2, 4], [10, 20, 40], [0, 0, 0], [1, 0, 1]),
        [6, 14, 24],
    ),
    "both flags count as terminated": (column([1, 2], [10, 20], [0, 1], [0, 1]), [2, 2]),
    "bootstrapped where the rollout ends": (column([1], [10], [0], [0], gae_lambda=0.5), [6]),
}


def historic(test: Any) -> Any:
    for x, _ in HISTORIC.values():
        test = example(x)(test)
    return test


@pytest.mark.parametrize("name", HISTORIC)
def test_historic_fault(name: str) -> None:
    x, expected = HISTORIC[name]
    assert_array_equal(returns(x)[:, 0], expected)


# R: definition and algebra


@historic
@given(rollouts(poison=True))
def test_r1_is_the_closed_form(x: RolloutArrays) -> None:
    assert_exact(returns(x), x)


@historic
@given(rollouts(poison=True))
def test_r1_is_the_closed_form_with_a_tail(x: RolloutArrays) -> None:
    assert_exact(returns(x, tail=x.tail), x, tail=True)


@given(rollouts(poison=True, dtype=np.float32))
def test_r1_is_the_closed_form_in_float32(x: RolloutArrays) -> None:
    G = returns(x, tail=x.tail)
    assert G.dtype == np.float32
    assert_exact(G, x, tail=True)


@given(rollouts(poison=True), st.booleans())
def test_r1_is_the_closed_form_without_bootstrap(x: RolloutArrays, tail: bool) -> None:
    x = replace(x, gae_lambda=1.0)
    G = lambda_returns(
        x.rewards,
        None,
        x.terminated,
        x.truncated,
        gamma=x.gamma,
        bootstrap=False,
        valid=x.valid,
        tail=x.tail if tail else None,
    )
    assert_exact(G, x, bootstrap=False, tail=tail)


@given(rollouts(max_columns=2), st.floats(-4, 4), st.floats(-4, 4), st.data())
def test_r2_is_linear(x: RolloutArrays, a: float, b: float, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    other = replace(x, rewards=rng.normal(size=x.shape), next_values=rng.normal(size=x.shape))
    both = replace(
        x,
        rewards=a * x.rewards + b * other.rewards,
        next_values=a * x.next_values + b * other.next_values,
    )
    scale = abs(a) * magnitude(x) + abs(b) * magnitude(other)
    assert_close(returns(both), a * returns(x) + b * returns(other), scale + 1e-300)


@given(rollouts())
def test_r3_without_discount_is_the_reward(x: RolloutArrays) -> None:
    assert_array_equal(returns(x, gamma=0.0), np.where(x.valid, x.rewards, 0))


@given(rollouts(poison=True))
def test_r4_lambda_0_is_the_one_step_target(x: RolloutArrays) -> None:
    target = x.rewards + x.gamma * np.where(x.terminated, 0, x.next_values)
    assert_array_equal(returns(x, gae_lambda=0.0), np.where(x.valid, target, 0))


def test_r4_lambda_0_reads_one_step_only() -> None:
    x = column([1, 2, np.nan, 4], [10, np.inf, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], gae_lambda=0.0)
    assert_array_equal(returns(x)[:, 0], [6, np.inf, np.nan, 4])


def test_r5_lambda_1_reads_values_at_ends_only() -> None:
    x = column([1, 2, 4], [np.nan, np.inf, 8], [0, 0, 0], [0, 0, 0])
    assert_array_equal(returns(x)[:, 0], [4, 6, 8])


@given(rollouts(dummy_rows=False))
def test_r5_r6_minus_the_value_is_the_generalised_advantage(x: RolloutArrays) -> None:
    """A_t = sum_k (gamma lambda)^(k-t) delta_k, Schulman et al. 2016, eq. 16; at lambda = 1 A = G - V."""
    T, N = x.shape
    G = returns(x)
    gamma, lam = Fraction(x.gamma), Fraction(x.gae_lambda)
    for n in range(N):
        r, V, V_next = ([Fraction(float(v)) for v in a[:, n]] for a in (x.rewards, x.values, x.next_values))
        for t in range(T):
            A = size = Fraction(0)
            for k in range(t, T):
                after = Fraction(0) if x.terminated[k, n] else gamma * V_next[k]
                A += (gamma * lam) ** (k - t) * (r[k] + after - V[k])
                size += (gamma * lam) ** (k - t) * (abs(r[k]) + abs(after) + abs(V[k]))
                if x.terminated[k, n] or x.truncated[k, n]:
                    break
            assert abs(Fraction(float(G[t, n])) - (A + V[t])) <= Fraction(2) ** -47 * size + Fraction(2) ** -900


@given(rollouts(max_rows=6, max_columns=2, dummy_rows=False))
def test_r7_is_the_mixture_of_n_step_returns(x: RolloutArrays) -> None:
    T, N = x.shape
    G = returns(x)
    gamma, lam = Fraction(x.gamma), Fraction(x.gae_lambda)
    for n in range(N):
        for t in range(T):
            end = next((k for k in range(t, T) if x.terminated[k, n] or x.truncated[k, n]), T - 1)
            left = end - t + 1
            total = size = Fraction(0)
            for steps in range(1, left + 1):
                terms = [gamma**k * Fraction(float(x.rewards[t + k, n])) for k in range(steps)]
                if not x.terminated[t + steps - 1, n]:
                    terms.append(gamma**steps * Fraction(float(x.next_values[t + steps - 1, n])))
                weight = lam ** (steps - 1) * (1 if steps == left else 1 - lam)
                total += weight * sum(terms)
                size += weight * sum(map(abs, terms))
            assert abs(Fraction(float(G[t, n])) - total) <= Fraction(2) ** -47 * size + Fraction(2) ** -900


@given(rollouts(min_rows=1, dummy_rows=False), st.integers(1, 10))
def test_r8_first_row_of_a_window_is_the_n_step_return(x: RolloutArrays, steps: int) -> None:
    def window(start: int, stop: int) -> Array:
        rows = slice(start, stop)
        part = (x.rewards[rows], x.next_values[rows], x.terminated[rows], x.truncated[rows])
        return lambda_returns(*part, gamma=x.gamma)[0]

    T, _ = x.shape
    whole = returns(x, gae_lambda=1.0)
    for t in range(T):
        n_step = window(t, t + steps)
        if steps == 1:
            assert_array_equal(n_step, x.rewards[t] + x.gamma * np.where(x.terminated[t], 0, x.next_values[t]))
        elif t + steps <= T:
            ends = x.terminated[t] | x.truncated[t]
            assert_array_equal(n_step[~ends], (x.rewards[t] + x.gamma * window(t + 1, t + steps))[~ends])
        if t + steps >= T:
            assert_array_equal(n_step, whole[t])


@given(st.integers(1, 60), st.floats(-10, 10), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_r9_constant_reward_is_the_geometric_series(n: int, c: float, gamma: float) -> None:
    ends = np.zeros((n, 1), bool)
    ends[-1] = True
    G = lambda_returns(np.full((n, 1), c), None, ends, ~ends & False, gamma=gamma, bootstrap=False)
    left = np.arange(n, 0, -1)
    series = c * left if gamma == 1 else c * (1 - gamma**left) / (1 - gamma)
    np.testing.assert_allclose(G[:, 0], series, rtol=1e-12, atol=1e-300)


@given(rollouts(nasty=False), st.floats(-10, 10))
def test_r10_shift_of_rewards(x: RolloutArrays, c: float) -> None:
    shifted = replace(x, rewards=x.rewards + c)
    series = returns(replace(x, rewards=np.ones(x.shape), next_values=np.zeros(x.shape)), gae_lambda=1.0)
    scale = magnitude(x, gae_lambda=1.0) + abs(c) * series
    assert_close(returns(shifted, gae_lambda=1.0), returns(x, gae_lambda=1.0) + c * series, scale)


@given(rollouts(), st.integers(0, 100), st.floats(0, 1e30))
def test_r11_is_bounded_and_monotone(x: RolloutArrays, cell: int, more: float) -> None:
    T, N = x.shape
    assume(x.rewards.size)
    G = returns(x)
    largest = np.abs(x.rewards).max() * np.arange(T, 0, -1)[:, None] + np.abs(x.next_values).max()
    assert np.all(np.abs(G) <= largest * (1 + 1e-12))
    rewards = x.rewards.copy()
    rewards[cell % T, cell % N] += more
    assert np.all(returns(replace(x, rewards=rewards)) >= G)


@given(rollouts(nasty=False, dummy_rows=False), st.integers(0, 2**32 - 1))
def test_r12_potential_shaping_leaves_advantages(x: RolloutArrays, seed: int) -> None:
    """Ng, Harada & Russell 1999: r + gamma phi' - phi with values V - phi."""
    T, N = x.shape
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(T + 1, N))
    ends = x.terminated | x.truncated
    phi_next = np.where(ends, rng.normal(size=(T, N)), phi[1:])
    shaped = replace(
        x,
        rewards=x.rewards + x.gamma * np.where(x.terminated, 0, phi_next) - phi[:-1],
        next_values=x.next_values - phi_next,
    )
    A = returns(x) - x.values
    np.testing.assert_allclose(returns(shaped) - (x.values - phi[:-1]), A, rtol=0, atol=1e-11)


@given(rollouts(nasty=False, dummy_rows=False))
def test_r13_true_values_have_no_advantage(x: RolloutArrays) -> None:
    V = returns(x, gae_lambda=1.0)
    ends = x.terminated | x.truncated
    ends[-1:] = True
    V_next = np.where(ends, x.next_values, np.concatenate([V[1:], V[:1]]))
    np.testing.assert_allclose(returns(replace(x, next_values=V_next)), V, rtol=0, atol=1e-10)


@given(rollouts(nasty=False, dummy_rows=False))
def test_r14_frame_skip(x: RolloutArrays) -> None:
    T, N = x.shape
    rows = T // 2 * 2
    r, V_next = x.rewards[:rows], x.next_values[:rows]
    even = np.zeros((rows, N), bool)
    m, u = (even.copy(), even.copy())
    m[1::2], u[1::2] = x.terminated[1:rows:2], x.truncated[1:rows:2]
    G = lambda_returns(r, V_next, m, u, gamma=x.gamma)
    skipped = lambda_returns(r[::2] + x.gamma * r[1::2], V_next[1::2], m[1::2], u[1::2], gamma=x.gamma**2)
    np.testing.assert_allclose(skipped, G[::2], rtol=0, atol=1e-11)


# B: boundaries


def episodes(x: RolloutArrays) -> Array:
    """A number for the episode of every row and column."""
    ends = np.cumsum(x.terminated | x.truncated, axis=0)
    before = np.concatenate([np.zeros((1, x.shape[1]), int), ends])[:-1]
    return np.asarray(before + 1000 * np.arange(x.shape[1]))


@given(rollouts(min_rows=1, min_columns=1), st.data())
def test_b1_poison_stays_in_its_episode(x: RolloutArrays, data: st.DataObject) -> None:
    of = episodes(x)
    victim = of == data.draw(st.sampled_from(sorted(set(of.ravel().tolist()))))
    poison = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 1.7e308]))
    poisoned = replace(
        x,
        rewards=np.where(victim, poison, x.rewards),
        next_values=np.where(victim, poison, x.next_values),
    )
    for changes in ({}, {"gae_lambda": 1.0}, {"gae_lambda": 0.0}):
        assert same_bits(returns(x, **changes)[~victim], returns(poisoned, **changes)[~victim])


@given(rollouts(poison=True), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_b2_the_value_after_a_termination_is_not_read(x: RolloutArrays, poison: float) -> None:
    G = returns(x)
    assert np.isfinite(G).all()
    other = np.where(x.terminated, poison, x.next_values)
    assert same_bits(G, returns(replace(x, next_values=other)))


@given(rollouts(max_columns=1, min_columns=1), rollouts(max_columns=1, min_columns=1), st.booleans())
def test_b4_concatenation_of_episodes(x: RolloutArrays, y: RolloutArrays, terminated: bool) -> None:
    assume(x.shape[0])
    x.terminated[-1], x.truncated[-1], x.valid[-1] = terminated, not terminated, True
    y = replace(y, gamma=x.gamma, gae_lambda=x.gae_lambda)
    names = ("rewards", "values", "next_values", "terminated", "truncated", "valid")
    both = replace(x, **{name: np.concatenate([getattr(x, name), getattr(y, name)]) for name in names})
    assert same_bits(returns(both), np.concatenate([returns(x), returns(y)]))


@given(rollouts(), st.integers(0, 10), st.booleans())
def test_b5_split_with_a_carry(x: RolloutArrays, cut: int, tail: bool) -> None:
    cut = min(cut, x.shape[0])
    names = ("rewards", "values", "next_values", "terminated", "truncated", "valid")
    first, last = (
        replace(x, **{name: getattr(x, name)[rows] for name in names}) for rows in (slice(cut), slice(cut, None))
    )
    end = x.tail if tail else None
    assume(cut < x.shape[0] or tail)  # an empty rest has no return to carry
    G_last = returns(last, tail=end)
    carry = G_last[0] if len(G_last) else end
    assert same_bits(returns(x, tail=end), np.concatenate([returns(first, tail=carry), G_last]))


@given(rollouts(), st.sampled_from([np.nan, np.inf, 1e300, 5.0]), st.booleans(), st.booleans())
def test_b6_dummy_rows_change_nothing(x: RolloutArrays, garbage: float, tail: bool, flag: bool) -> None:
    dirty = replace(
        x,
        rewards=np.where(x.valid, x.rewards, garbage),
        next_values=np.where(x.valid, x.next_values, garbage),
        terminated=np.where(x.valid, x.terminated, flag),
        truncated=np.where(x.valid, x.truncated, not flag),
    )
    changes = {"tail": x.tail} if tail else {}
    G = returns(x, **changes)
    assert same_bits(G, returns(dirty, **changes))
    assert not G[~x.valid].any()


def test_b6_without_the_dummy_rows() -> None:
    x = column([1, 2, 99, 4, 8, 99], [10, 20, 99, 40, 80, 99], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], gae_lambda=0.5)
    x.valid[[2, 5]] = False
    names = ("rewards", "values", "next_values", "terminated", "truncated", "valid")
    dense = replace(x, **{name: getattr(x, name)[x.valid[:, 0]] for name in names})
    assert same_bits(returns(x)[x.valid], returns(dense)[:, 0])
    assert not returns(x, tail=np.array([1e6]))[~x.valid].any()


@given(rollouts(max_columns=4, dtype=np.float32), st.randoms(use_true_random=False))
def test_b7_columns_are_independent(x: RolloutArrays, random: Any) -> None:
    order = random.sample(range(x.shape[1]), x.shape[1])
    names = ("rewards", "values", "next_values", "terminated", "truncated", "valid")

    def select(columns: list[int]) -> RolloutArrays:
        return replace(x, **{name: getattr(x, name)[:, columns] for name in names})

    G = returns(x)
    assert same_bits(returns(select(order)), np.ascontiguousarray(G[:, order]))
    for n in order:
        assert same_bits(returns(select([n])), np.ascontiguousarray(G[:, [n]]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_b7_is_the_plain_loop_bit_for_bit(dtype: Any) -> None:
    """One column and one step at a time, each operation rounded to the type of the arrays."""
    rng = np.random.default_rng(0)
    T, N = 50, 5
    r, V_next = rng.normal(size=(2, T, N)).astype(dtype)
    m, u = rng.random((2, T, N)) < 0.1
    tail = rng.normal(size=N).astype(dtype)
    gamma, mixed, decay = (dtype(g) for g in (0.99, 0.99 * (1 - 0.95), 0.99 * 0.95))
    expected = np.zeros((T, N), dtype)
    for n in range(N):
        ahead = tail[n]
        for t in reversed(range(T)):
            if m[t, n]:
                ahead = r[t, n]
            elif u[t, n]:
                ahead = r[t, n] + gamma * V_next[t, n]
            else:
                ahead = (r[t, n] + mixed * V_next[t, n]) + decay * ahead
            expected[t, n] = ahead
    assert same_bits(lambda_returns(r, V_next, m, u, gamma=0.99, gae_lambda=0.95, tail=tail), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_b7_columns_are_independent_in_a_wide_rollout(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    T, N = 33, 67
    r, V_next = rng.normal(size=(2, T, N)).astype(dtype)
    m, u = rng.random((2, T, N)) < 0.1
    G = lambda_returns(r, V_next, m, u, gamma=0.99, gae_lambda=0.95)
    for n in range(N):
        one = [a[:, [n]] for a in (r, V_next, m, u)]
        assert same_bits(lambda_returns(*one, gamma=0.99, gae_lambda=0.95), np.ascontiguousarray(G[:, [n]]))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1)])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("tail", [False, True])
def test_b8_edge_shapes(shape: tuple[int, int], flag: bool, tail: bool) -> None:
    ones, flags = np.ones(shape, np.float32), np.full(shape, flag)
    carry = np.full(shape[1], 3, np.float32) if tail else None
    G = lambda_returns(ones, ones, flags, ~flags & False, gamma=0.5, tail=carry, valid=np.ones(shape, bool))
    assert G.shape == shape
    assert_array_equal(G, np.full(shape, 1.0 if flag else 2.5 if tail else 1.5))


def test_b8_all_ended_and_none_ended() -> None:
    r, V_next, flag = np.arange(6.0).reshape(3, 2), np.full((3, 2), 10.0), np.ones((3, 2), bool)
    assert_array_equal(lambda_returns(r, V_next, flag, ~flag, gamma=0.5), r)
    assert_array_equal(lambda_returns(r, V_next, ~flag, flag, gamma=0.5), r + 5)
    assert_array_equal(lambda_returns(r, V_next, ~flag, ~flag, gamma=1.0), [[16, 19], [16, 18], [14, 15]])


# D: types and shapes


@pytest.mark.parametrize(
    ("given_as", "result"),
    [
        (bool, np.float32),
        (np.int8, np.float32),
        (np.int64, np.float64),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
    ],
)
@pytest.mark.parametrize("where", ["rewards", "next_values", "tail"])
def test_d1_types_are_promoted(given_as: Any, result: Any, where: str) -> None:
    flags = np.zeros((2, 1), bool)
    arrays = {"rewards": np.ones((2, 1), np.float32), "next_values": np.ones((2, 1), np.float32), "tail": np.ones(1)}
    arrays["tail"] = arrays["tail"].astype(np.float32)
    arrays[where] = arrays[where].astype(given_as)
    G = lambda_returns(
        arrays["rewards"], arrays["next_values"], flags, flags, gamma=0.1, gae_lambda=0.5, tail=arrays["tail"]
    )
    assert G.dtype == result
    np.testing.assert_allclose(G[:, 0], [1 + 0.05 + 0.05 * 1.1, 1.1], rtol=1e-6)


def test_d1_float64_keeps_its_digits() -> None:
    x = column([1, 2, 4], [10, 20, 40], [0, 0, 0], [0, 0, 0], gamma=0.1, gae_lambda=0.3)
    last = 4 + 0.1 * 40
    middle = 2 + 0.1 * (0.7 * 20 + 0.3 * last)
    np.testing.assert_allclose(returns(x)[:, 0], [1 + 0.1 * (0.7 * 10 + 0.3 * middle), middle, last], rtol=1e-15)


def test_d1_small_integers_do_not_wrap() -> None:
    r, flags = np.full((4, 1), 100, np.int8), np.zeros((4, 1), bool)
    assert_array_equal(lambda_returns(r, r, flags, flags, gamma=1)[:, 0], [500, 400, 300, 200])


def test_d1_lists_and_numbers_as_flags() -> None:
    G = lambda_returns([[1], [2]], [[3], [4]], [[0], [1]], [[0.0], [0.0]], gamma=0.5, valid=[[1], [1]], tail=[9])
    assert_array_equal(G, [[2], [2]])


GOOD: dict[str, Any] = {
    "rewards": np.ones((3, 2)),
    "next_values": np.ones((3, 2)),
    "terminated": np.zeros((3, 2), bool),
    "truncated": np.zeros((3, 2), bool),
    "valid": np.ones((3, 2), bool),
    "tail": np.ones(2),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (3,), (1, 2), (1,), (), (3, 2, 1), (0, 2)])
def test_d2_shapes_are_never_broadcast(name: str, shape: tuple[int, ...]) -> None:
    bad = GOOD | {name: np.ones(shape, GOOD[name].dtype)}
    with pytest.raises(ValueError, match=r"shape") as error:
        lambda_returns(**bad, gamma=0.9, gae_lambda=0.5)
    if name != "rewards":
        assert str(error.value) == f"{name} must be of shape {GOOD[name].shape}, not {shape}"
    elif len(shape) != 2:
        assert str(error.value) == f"rewards must be [T, N], not of shape {shape}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -0.1}, "gamma must be from 0 to 1, not -0.1"),
        ({"gamma": 1.1}, "gamma must be from 0 to 1, not 1.1"),
        ({"gamma": float("nan")}, "gamma must be from 0 to 1, not nan"),
        ({"gae_lambda": -0.1}, "gae_lambda must be from 0 to 1, not -0.1"),
        ({"gae_lambda": 1.1}, "gae_lambda must be from 0 to 1, not 1.1"),
        (
            {"bootstrap": False, "gae_lambda": 0.9},
            "bootstrap=False needs gae_lambda=1, not 0.9: a mixture reads next_values",
        ),
        ({"next_values": None}, "next_values are needed to bootstrap"),
    ],
)
def test_d2_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        lambda_returns(**(GOOD | {"gamma": 0.9} | settings))
    assert str(error.value) == message


def test_bootstraps_and_mixes_nothing_unless_asked_otherwise() -> None:
    arrays = {name: GOOD[name] for name in ("rewards", "next_values", "terminated", "truncated")}
    arrays["next_values"] = arrays["next_values"] * 8
    assert_array_equal(lambda_returns(**arrays, gamma=0.5)[:, 0], [2.75, 3.5, 5])


# F: range and precision


@pytest.mark.parametrize("gamma", [0.0, 5e-324, 1e-8, 1 - 1e-16, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_f1_finite_in_finite_out(gamma: float, dtype: Any) -> None:
    T = 100_000
    r = np.full((T, 1), 1e30, dtype)
    flags = np.zeros((T, 1), bool)
    G = lambda_returns(r, -r, flags, flags, gamma=gamma, gae_lambda=0.999)
    assert np.isfinite(G).all()


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99, 0.999, 1.0])
def test_f2_float32_error_is_bounded(gamma: float) -> None:
    rng = np.random.default_rng(1)
    T, N = 1000, 16
    r, V_next = rng.normal(size=(2, T, N)).astype(np.float32)
    m, u = rng.random((2, T, N)) < 0.002
    single = lambda_returns(r, V_next, m, u, gamma=gamma)
    double = lambda_returns(r.astype(float), V_next.astype(float), m, u, gamma=gamma)
    horizon = T if gamma == 1 else min(T, 1 / (1 - gamma))
    assert np.abs(single - double).max() <= 4 * 2.0**-24 * np.abs(double).max() * horizon


# G2: side effects


@given(rollouts(min_columns=1, min_rows=1))
def test_g2_arguments_are_left_alone(x: RolloutArrays) -> None:
    names = ("rewards", "next_values", "terminated", "truncated", "valid", "tail")
    given = {name: np.asfortranarray(getattr(x, name).copy()) for name in names}
    for array in given.values():
        array.flags.writeable = False
    reference = returns(x, tail=x.tail)
    G = lambda_returns(**given, gamma=x.gamma, gae_lambda=x.gae_lambda)
    assert same_bits(G, reference)
    assert G.flags.writeable
    assert G.flags.c_contiguous
    wide = {name: np.repeat(getattr(x, name), 2, axis=-1)[..., ::2] for name in names}
    assert same_bits(lambda_returns(**wide, gamma=x.gamma, gae_lambda=x.gae_lambda), reference)
    assert not any(np.shares_memory(G, array) for array in given.values())


def test_g2_no_warnings_from_poison(recwarn: pytest.WarningsRecorder) -> None:
    x = column([np.nan, np.inf, 1e308, 1e308], [np.inf, -np.inf, -np.inf, 1e308], [0] * 4, [0] * 4, 1.0, 0.5)
    returns(x)
    lambda_returns(x.rewards, x.next_values, x.terminated, x.truncated, gamma=1.0)
    assert not recwarn.list


@pytest.mark.parametrize("block", [1, 7, 40])
@pytest.mark.parametrize("few_columns", [0, 100])
@given(rollouts())
def test_blocks_and_few_columns_change_no_bit(block: int, few_columns: int, x: RolloutArrays) -> None:
    """However many rows are computed at a time, and whether number by number or row by row."""
    for settings in ({}, {"tail": x.tail}, {"bootstrap": False, "gae_lambda": 1.0}):
        expected = returns(x, **settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlkit_core.returns._BLOCK", block)
            patch.setattr("rlkit_core.returns._FEW_COLUMNS", few_columns)
            assert same_bits(returns(x, **settings), expected)
