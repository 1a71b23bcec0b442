"""`normalize` and `RunningNormalizer`: what normalised numbers must be, whatever the numbers were."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rlkit_core.errors import Diverged
from rlkit_core.returns import RunningNormalizer, normalize
from rlkit_core.testing.strategies import NASTY

Array = np.ndarray[Any, Any]
DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def vectors(draw: st.DrawFn, min_size: int = 0, nasty: bool = True) -> Array:
    """A few numbers, or many drawn from a generator around some offset."""
    dtype = draw(DTYPES)
    if draw(st.booleans()):
        ordinary = st.floats(-100, 100, width=32)
        number = st.sampled_from(NASTY) | ordinary if nasty else ordinary
        return np.array(draw(st.lists(number, min_size=min_size, max_size=20)), dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(max(min_size, 1), 2000))
    offset, scale = draw(st.sampled_from([(0, 1), (1e3, 1), (-10, 1e-2), (0, 1e-8), (0, 1e12)]))
    return (offset + scale * rng.normal(size=n)).astype(dtype)


def unit(x: Array) -> float:
    return float(np.finfo(x.dtype).eps) / 2


def spread(x: Array) -> float:
    return float(x.astype(np.longdouble).std())


def varies(x: Array) -> bool:
    """Not a constant up to rounding, with a margin that keeps tests off the bound itself."""
    return len(x) > 1 and spread(x) > 1.001 * 16 * unit(x) * float(np.abs(x).max())


@given(vectors())
def test_n1_mean_is_0(x: Array) -> None:
    y = normalize(x)
    assert y.dtype == x.dtype
    if y.size:
        assert abs(math.fsum(y.tolist())) / len(y) <= 8 * unit(x) * np.abs(y).max()


@given(vectors(min_size=2), st.sampled_from([0, 1]))
def test_n2_standard_deviation_is_1(x: Array, ddof: int) -> None:
    assume(varies(x))
    assert normalize(x, ddof=ddof).astype(float).std(ddof=ddof) == pytest.approx(1, abs=1e-6)


@given(vectors(min_size=2), st.sampled_from([0, 1]), st.sampled_from([0.0, 1e-3, 2.0]))
def test_n2_is_the_textbook_formula(x: Array, ddof: int, epsilon: float) -> None:
    assume(varies(x))
    wide = x.astype(np.longdouble)
    expected = (wide - wide.mean()) / (wide.std(ddof=ddof) + np.longdouble(epsilon))
    y = normalize(x, ddof=ddof, epsilon=epsilon)
    # Rounding of a std next to the bound, where 2^-47 of the largest element is 2^-47 / (16 u) of it.
    tolerance = 4 * unit(x) + 2.0**-46 * float(np.abs(wide).max() / wide.std())
    assert_allclose(y, expected.astype(float), rtol=tolerance, atol=tolerance)


@given(st.floats(-1e30, 1e30), st.integers(0, 2000), st.sampled_from([0, 1]), DTYPES)
@example(1e6 + 0.1, 1000, 0, np.float32)
@example(1e6 + 0.1, 1000, 1, np.float32)
def test_n3_a_constant_gives_exactly_0(c: float, n: int, ddof: int, dtype: Any) -> None:
    x = np.full(n, c, dtype)
    assert_array_equal(normalize(x, ddof=ddof), np.zeros(n))
    assert_array_equal(normalize(x, ddof=ddof, epsilon=1e-8), np.zeros(n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [1.0, -1.0, 2.0**20, 2.0**-20])
def test_n3_rounding_noise_is_a_constant(dtype: Any, offset: float) -> None:
    """std is exactly k ulp / 2 for two neighbours k ulp apart: the bound, 16 u max|x|, is next to 16 ulp."""
    ulp = float(np.finfo(dtype).eps)
    below = np.array([offset, offset * (1 + 15 * ulp)], dtype)
    above = np.array([offset, offset * (1 + 18 * ulp)], dtype)
    assert_array_equal(normalize(below), [0, 0])
    assert_allclose(normalize(above), np.sign(offset) * np.array([-1, 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_n3_the_bound_itself_is_a_constant(dtype: Any) -> None:
    eps = float(np.finfo(dtype).eps)
    assert_array_equal(normalize(np.array([1 - 16 * eps, 1], dtype)), [0, 0])
    assert_allclose(normalize(np.array([1 - 16.5 * eps, 1], dtype)), [-1, 1])


@given(st.sampled_from(NASTY) | st.floats(-1e30, 1e30), st.sampled_from([0, 1, 2]))
@example(5.0, 1)
def test_n4_a_single_element_gives_0(c: float, ddof: int) -> None:
    """NaN at batch size 1: SB3#325, #1028."""
    for dtype in (np.float32, np.float64):
        assert_array_equal(normalize(np.array([c], dtype), ddof=ddof), [0])


def test_n4_fewer_elements_than_ddof_needs(recwarn: pytest.WarningsRecorder) -> None:
    assert_array_equal(normalize([1.0, 2.0], ddof=2), [0, 0])
    assert_allclose(normalize([1.0, 2.0, 3.0], ddof=2), np.array([-1, 0, 1]) / math.sqrt(2))
    assert_array_equal(normalize([1.0], ddof=1), [0])
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_n4_nothing_gives_nothing(shape: tuple[int, ...]) -> None:
    assert normalize(np.zeros(shape)).shape == shape
    assert_array_equal(normalize(np.ones((2, 2)), np.zeros((2, 2), bool)), np.zeros((2, 2)))


@given(vectors(min_size=2, nasty=False), st.floats(1e-12, 1e12), st.floats(-1e3, 1e3), st.booleans())
@example(np.array([0.0, 1.0, 3.0]), 1e-12, 0.0, False)
@example(np.array([0.0, 1e-8, 3e-8], np.float32), 1.0, 0.0, True)
def test_n5_shift_and_scale_do_not_matter(x: Array, a: float, offset: float, flip: bool) -> None:
    wide = x.astype(float)
    moved = a * wide + offset * a * wide.std()
    assume(varies(wide))
    assume(varies(moved))
    y, z = normalize(wide), normalize(-moved if flip else moved)
    # What moving rounds away, in units of the std.
    lost = 64 * 2.0**-53 * (1 + np.abs(wide).max() / wide.std() + np.abs(moved).max() / moved.std())
    assert_allclose(-z if flip else z, y, rtol=0, atol=lost * max(1, np.abs(y).max()))


@given(vectors(min_size=2))
def test_n6_order_is_kept(x: Array) -> None:
    y = normalize(x)[np.argsort(x)]
    assert np.all(np.diff(y) >= 0)


@given(vectors(min_size=2), st.sampled_from([0, 1]))
def test_n7_twice_is_once(x: Array, ddof: int) -> None:
    y = normalize(x, ddof=ddof)
    assert_allclose(normalize(y, ddof=ddof), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_n8_non_finite_is_an_error(bad: float) -> None:
    for x in ([1.0, bad, 3.0, bad], [bad]):
        with pytest.raises(Diverged):
            normalize(x)
    with pytest.raises(Diverged) as error:
        normalize([[1.0, bad], [bad, 3.0]], [[True, True], [False, True]])
    assert str(error.value) == f"1 of 3 values to be normalised are not finite, the first at [1]: {bad}"


@given(vectors(min_size=1), st.data())
def test_n9_masked_is_dense_on_the_valid_part(x: Array, data: st.DataObject) -> None:
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))), bool)
    dirty = np.where(valid, x, np.nan).astype(x.dtype)
    for ddof in (0, 1):
        y = normalize(dirty, valid, ddof=ddof)
        assert_array_equal(y[valid], normalize(x[valid], ddof=ddof))
        assert not y[~valid].any()


def test_any_shape_and_type() -> None:
    y = normalize(np.array([[1, 2], [3, 4]], np.int8))
    assert y.dtype == np.float32
    assert_allclose(y, np.array([[-3, -1], [1, 3]]) / math.sqrt(5), rtol=1e-6)
    assert normalize(np.array([1, 2])).dtype == np.float64
    assert_allclose(normalize([True, False]), [1, -1])
    assert normalize(3.0).shape == ()
    assert_allclose(normalize([1.0, np.nan, 3.0], [1, 0, 1]), [-1, 0, 1])
    statistics = RunningNormalizer()
    statistics.update([1.0, np.nan, 3.0], [1, 0, 1])
    assert (statistics.count, statistics.mean) == (2, 2)


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (3,), ()])
def test_shapes_are_never_broadcast(shape: tuple[int, ...]) -> None:
    message = f"valid must be of shape (3, 2), not {shape}"
    with pytest.raises(ValueError) as error:
        normalize(np.ones((3, 2)), np.ones(shape, bool))
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        RunningNormalizer().update(np.ones((3, 2)), np.ones(shape, bool))
    assert str(error.value) == message


def test_arguments_are_left_alone() -> None:
    x, valid = np.arange(6.0).reshape(3, 2).T, np.ones((2, 3), bool)
    x.flags.writeable = valid.flags.writeable = False
    before = x.copy()
    normalize(x, valid)
    RunningNormalizer().update(x, valid)
    RunningNormalizer().update(x)
    assert_array_equal(x, before)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    assert_allclose(normalize(np.array([-1, 0, 1]) * scale), np.array([-1, 0, 1]) * math.sqrt(1.5))


def test_epsilon_is_in_the_units_of_x() -> None:
    for scale in (1.0, 2.0**-20, 2.0**20, 3.0):
        x = np.array([-scale, scale])
        assert_allclose(normalize(x, epsilon=scale), [-0.5, 0.5])


# Running


@given(st.lists(vectors(nasty=False), max_size=5), st.integers(0, 2**32 - 1))
def test_running_is_pooled(batches: list[Array], seed: int) -> None:
    rng = np.random.default_rng(seed)
    statistics = RunningNormalizer()
    pool = []
    for x in batches:
        valid = rng.random(x.shape) < 0.8
        statistics.update(np.where(valid, x, np.nan).astype(x.dtype), valid)
        pool.append(x[valid].astype(np.longdouble))
    pooled = np.concatenate([np.zeros(0, np.longdouble), *pool])
    assert statistics.count == len(pooled)
    if len(pooled):
        size = float(np.abs(pooled).max())
        assert statistics.mean == pytest.approx(float(pooled.mean()), rel=1e-9, abs=1e-9 * float(pooled.std()))
        assert math.sqrt(statistics.m2 / statistics.count) == pytest.approx(
            float(pooled.std()), rel=1e-9, abs=1e-13 * size
        )


def test_running_by_hand() -> None:
    statistics = RunningNormalizer()
    statistics.update([[1.0, 3.0]])
    statistics.update(np.array([[8.0], [np.nan]]), [[True], [False]])
    assert statistics.state_dict() == {"count": 3, "mean": 4.0, "m2": 26.0, "noise": 16 * 2.0**-53 * 8}
    assert statistics.std == math.sqrt(26 / 3)
    assert_allclose(statistics.to_normalized([4.0, 4 + math.sqrt(26 / 3)]), [0, 1])
    assert_allclose(statistics.to_raw(np.array([0, 1], np.float32)), [4, 4 + math.sqrt(26 / 3)])


def test_running_accumulates_in_float64() -> None:
    rng = np.random.default_rng(0)
    x = (1e4 + rng.normal(size=(50, 1000))).astype(np.float32)
    statistics = RunningNormalizer()
    for batch in x:
        statistics.update(batch)
    assert statistics.mean == pytest.approx(x.astype(float).mean(), rel=1e-12)
    assert statistics.std == pytest.approx(x.astype(float).std(), rel=1e-9)
    assert statistics.to_raw(np.float32(0)).dtype == np.float64
    assert statistics.to_normalized(np.float32(0)).dtype == np.float64


@given(vectors(nasty=False), st.floats(-100, 100))
def test_running_up_and_down_is_the_identity(x: Array, y: float) -> None:
    statistics = RunningNormalizer()
    statistics.update(x)
    raw = statistics.to_raw(y)
    assert statistics.to_raw(statistics.to_normalized(raw)) == pytest.approx(float(raw), rel=1e-6)
    assert statistics.to_normalized(raw) == pytest.approx(
        y, rel=1e-6, abs=1e-14 * (1 + abs(statistics.mean) / statistics.std)
    )


@given(st.floats(-1e30, 1e30), st.integers(1, 100))
@example(1e6 + 0.1, 1000)
def test_running_constant_has_unit_1(c: float, n: int) -> None:
    statistics = RunningNormalizer()
    assert statistics.std == 1
    assert statistics.to_normalized(c) == c
    for _ in range(3):
        statistics.update(np.full(n, c, np.float32))
    assert statistics.std == 1
    assert_array_equal(statistics.to_normalized(np.full(2, c, np.float32)), [0, 0])


def test_running_noise_is_that_of_the_type_seen() -> None:
    x = np.array([1, 1 + 4 * 2.0**-23])
    single, double = RunningNormalizer(), RunningNormalizer()
    single.update(x.astype(np.float32))
    double.update(x)
    assert single.std == 1
    assert double.std == 2 * 2.0**-23
    single.update([0.0, 2.0])
    assert single.std == pytest.approx(math.sqrt(0.5), abs=1e-6)
    assert single.noise == 16 * 2.0**-24 * (1 + 4 * 2.0**-23)
    small = RunningNormalizer()
    small.update(np.array([1, 2], np.int8))
    assert small.noise == 16 * 2.0**-24 * 2


def test_running_bound_itself_is_a_constant() -> None:
    statistics = RunningNormalizer()
    statistics.load_state_dict({"count": 4, "mean": 0.0, "m2": 16.0, "noise": 2.0})
    assert statistics.std == 1
    statistics.load_state_dict({"count": 4, "mean": 0.0, "m2": 16.0, "noise": 1.99})
    assert statistics.std == 2


def test_running_nothing_valid_changes_nothing() -> None:
    statistics = RunningNormalizer()
    statistics.update([1.0, 2.0])
    before = statistics.state_dict()
    statistics.update([np.nan], [False])
    statistics.update(np.zeros((0, 3)))
    assert statistics.state_dict() == before


def test_running_refuses_what_is_not_finite() -> None:
    statistics = RunningNormalizer()
    statistics.update([1.0, 2.0])
    before = statistics.state_dict()
    with pytest.raises(Diverged) as error:
        statistics.update([1.0, np.inf])
    assert str(error.value) == "1 of 2 values to be normalised are not finite, the first at [1]: inf"
    assert statistics.state_dict() == before


@given(vectors(nasty=False), vectors(nasty=False))
def test_running_checkpoint_in_between_changes_nothing(x: Array, y: Array) -> None:
    whole, first, second = RunningNormalizer(), RunningNormalizer(), RunningNormalizer()
    whole.update(x)
    first.update(x)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    whole.update(y)
    second.update(y)
    assert whole.state_dict() == second.state_dict()
    assert type(second.count) is int
