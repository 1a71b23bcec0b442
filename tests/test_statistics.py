"""Statistics of few seeds: against their definitions, against brute force, and against what rliable says."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit_core import statistics
from rlkit_core.statistics import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    bootstrap_interval,
    first_reached,
    holm,
    improvement_interval,
    iqm,
    kaplan_meier,
    median_interval,
    median_steps,
    optimality_gap,
    performance_profile,
    permutation_test,
    permutation_tests,
    prediction_interval,
    probability_of_improvement,
    profile_band,
    restricted_steps,
    seeds_needed,
    verdicts,
)

Array = np.ndarray[Any, Any]

# Whole numbers: sums are exact, ties happen.
numbers = st.integers(-20, 20).map(float)
few = st.lists(numbers, min_size=1, max_size=6)
enough = st.lists(numbers, min_size=2, max_size=12)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# --- Intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "places", "covers"),
    [(1, (0, 0), 0.0), (3, (0, 2), 0.75), (5, (0, 4), 0.9375), (6, (0, 5), 0.96875), (8, (0, 7), 0.9921875)],
)
def test_the_interval_of_the_median_of_few(n: int, places: tuple[int, int], covers: float) -> None:
    interval = median_interval(np.arange(n)[::-1])
    assert (interval.low, interval.high) == places
    assert interval.confidence == covers
    assert f"{100 * covers:.1f} %" in interval.method


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_the_interval_of_the_median_covers_as_the_binomial_says(n: int, confidence: float) -> None:
    """In exact rationals: which of the n scores are below the median is n fair coins."""
    interval = median_interval(np.arange(n), confidence)
    low, high = int(interval.low), int(interval.high)
    # It covers if more than `low` scores and at most `high` of them are below.
    exact = sum(Fraction(math.comb(n, below), 2**n) for below in range(low + 1, high + 1))
    assert interval.confidence == pytest.approx(float(exact), abs=1e-12)
    assert low + high == n - 1
    if interval.confidence >= confidence and low + 1 < high:
        narrower = sum(Fraction(math.comb(n, below), 2**n) for below in range(low + 2, high))
        assert narrower < confidence
    else:
        assert low == 0 or interval.confidence >= confidence


@given(enough, st.floats(0.1, 9), st.floats(-50, 50), st.randoms())
def test_intervals_move_with_the_scores(scores: list[float], scale: float, shift: float, random: Any) -> None:
    shuffled = random.sample(scores, len(scores))
    for interval in (median_interval, prediction_interval):
        one, other = interval(np.array(scores)), interval(np.array(shuffled))
        assert one.low <= one.high
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9, abs=1e-9)
        moved = interval(scale * np.array(scores) + shift)
        assert moved.low == pytest.approx(scale * one.low + shift, rel=1e-9, abs=1e-7)
        assert moved.high == pytest.approx(scale * one.high + shift, rel=1e-9, abs=1e-7)


def test_a_prediction_by_hand() -> None:
    """Mean 3, standard deviation sqrt(2.5), t(4, 0.975) = 2.7764."""
    scores = np.array([1.0, 2, 3, 4, 5])
    one = prediction_interval(scores)
    assert one.high == pytest.approx(3 + 2.776445 * math.sqrt(2.5 * (1 + 1 / 5)), abs=1e-5)
    assert "67 %" in one.method
    three = prediction_interval(scores, seeds=3)
    assert three.low == pytest.approx(3 - 2.776445 * math.sqrt(2.5 * (1 / 3 + 1 / 5)), abs=1e-5)
    assert "36 %" in three.method


def test_a_prediction_takes_in_what_was_seen() -> None:
    # Student's interval ends below 100.
    scores = np.array([0.0] * 99 + [100.0])
    assert prediction_interval(scores).high == 100
    assert prediction_interval(scores).low < -10
    assert prediction_interval(-scores).low == -100


def test_equal_scores_do_not_tell_their_spread() -> None:
    ten = prediction_interval(np.full(10, 500.0))
    assert (ten.low, ten.high, ten.confidence) == (500, 500, pytest.approx(9 / 11))
    assert prediction_interval(np.full(39, 500.0)).confidence == 0.95
    assert prediction_interval(np.full(38, 500.0)).confidence < 0.95


@pytest.mark.parametrize(("n", "seeds"), [(2, 1), (5, 1), (6, 2), (10, 3)])
def test_the_range_covers_what_is_said(n: int, seeds: int) -> None:
    """By counting orders: all further ones lie between the first n."""
    drawn = generator().random((20_000, n + seeds))
    seen, further = drawn[:, :n], drawn[:, n:]
    inside = (further > seen.min(1)[:, None]).all(1) & (further < seen.max(1)[:, None]).all(1)
    said = prediction_interval(np.ones(n), seeds=seeds).confidence
    assert np.mean(inside) == pytest.approx(said, abs=5 * math.sqrt(said * (1 - said) / 20_000))


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_what_is_no_score_is_refused(scores: Any) -> None:
    with pytest.raises(ValueError, match="score"):
        prediction_interval(scores)
    with pytest.raises(ValueError, match="score"):
        permutation_test(np.array([1.0]), scores, generator())


def test_one_score_predicts_nothing() -> None:
    with pytest.raises(ValueError, match="two scores"):
        prediction_interval(np.array([1.0]))


# --- Steps to a threshold --------------------------------------------------------------------------------------------


def test_the_first_evaluation_at_the_threshold_counts() -> None:
    steps, values = np.array([10, 20, 30, 40]), np.array([1.0, 5.0, 2.0, 7.0])
    assert first_reached(steps, values, 5.0) == 20
    assert first_reached(steps, values, 5.1) == 40
    assert first_reached(steps, values, 8.0) == math.inf


def test_kaplan_meier_by_hand() -> None:
    """Six runs, of which one broke off at 25 and one never got there within 50."""
    first = np.array([10, 20, math.inf, 30, 40, math.inf])
    watched = np.array([50, 50, 25, 50, 50, 50])
    steps, share = kaplan_meier(first, watched)
    assert list(steps) == [10, 20, 30, 40]
    assert share == pytest.approx([5 / 6, 4 / 6, 4 / 6 * 2 / 3, 4 / 6 * 1 / 3])
    assert median_steps(first, watched) == 30


@given(st.lists(st.integers(1, 99), min_size=1, max_size=11))
def test_without_censoring_it_is_the_median(values: list[int]) -> None:
    first = np.array(values, float)
    assert median_steps(first, np.full(len(values), 100)) == np.median(first)


def test_half_of_the_runs_is_not_reached_by_the_median() -> None:
    budget = np.full(4, 100)
    assert median_steps(np.array([10, 20, math.inf, math.inf]), budget) == math.inf
    assert median_steps(np.array([10, 20, 30, math.inf]), budget) == 25
    # Reached after it was no longer watched: not seen.
    assert median_steps(np.array([10.0, 20, 30, 40]), np.array([100, 100, 25, 25])) == math.inf


def test_steps_are_cut_where_the_first_run_was_no_longer_watched() -> None:
    x = (np.array([10, 90, math.inf]), np.array([100, 100, 80]))
    y = (np.array([20, math.inf]), np.array([20, 100]))
    (of_x, of_y), horizon = restricted_steps([x, y])
    assert horizon == 80
    assert list(of_x) == [10, 80, 80]
    assert list(of_y) == [20, 80]
    (of_x, of_y), horizon = restricted_steps([(np.array([10.0]), np.array([50])), (np.array([30.0]), np.array([40]))])
    assert (list(of_x), list(of_y), horizon) == ([10], [30], 30)


# --- Aggregates ------------------------------------------------------------------------------------------------------


class Given:
    """In place of a generator: draws what it is given, one environment after another."""

    def __init__(self, *drawn: Any) -> None:
        arrays = [np.array(indices) for indices in drawn]
        self.drawn = iter([indices[..., task] for indices in arrays for task in range(indices.shape[2])])

    def integers(self, high: int, *, size: tuple[int, int]) -> Array:
        indices = next(self.drawn)
        assert indices.shape == size
        return indices


RLIABLE = json.loads((Path(__file__).parent / "rliable.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RLIABLE["cases"], ids=lambda case: f"{len(case['x'])}x{len(case['x'][0])}")
def test_aggregates_are_rliables(case: dict[str, Any]) -> None:
    """To what tests/benchmarks/oracle.py stored; its bootstraps drew the resamples that are stored with it."""
    expected, thresholds = case["rliable"], np.array(RLIABLE["thresholds"])
    xs, ys = list(np.array(case["x"]).T), list(np.array(case["y"]).T)
    resamples = len(case["drawn"])

    def close(value: Any, name: str) -> None:
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-9, err_msg=name)

    aggregates = {
        "mean": aggregate_mean,
        "median": aggregate_median,
        "iqm": aggregate_iqm,
        "optimality_gap": optimality_gap,
    }
    for name, aggregate in aggregates.items():
        close(aggregate(xs), name)
        drawn: Any = Given(case["drawn"])
        interval = bootstrap_interval(xs, aggregate, drawn, resamples=resamples)
        close((interval.low, interval.high), f"{name}_interval")
    close(probability_of_improvement(xs, ys), "improvement")
    drawn = Given(case["drawn_x"], case["drawn_y"])
    interval = improvement_interval(xs, ys, drawn, resamples=resamples)
    close((interval.low, interval.high), "improvement_interval")
    close(performance_profile(xs, thresholds), "profile")
    close(profile_band(xs, thresholds, drawn_again(case), resamples=resamples), "profile_band")


def drawn_again(case: dict[str, Any]) -> Any:
    return Given(case["drawn"])


@given(st.lists(numbers, min_size=1, max_size=30))
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores: list[float]) -> None:
    from scipy.stats import trim_mean

    assert iqm(np.array(scores)) == pytest.approx(trim_mean(scores, 0.25), abs=1e-12)


@given(st.lists(few, min_size=1, max_size=4), st.floats(0.1, 9), st.floats(-50, 50))
def test_aggregates_move_with_the_scores(strata: list[list[float]], scale: float, shift: float) -> None:
    arrays = [np.array(scores) for scores in strata]
    moved = [scale * scores[::-1] + shift for scores in arrays]
    for aggregate in (aggregate_mean, aggregate_median, aggregate_iqm):
        value = aggregate(arrays)
        assert aggregate(moved) == pytest.approx(scale * value + shift, abs=1e-7)
        assert min(map(min, strata)) - 1e-9 <= value <= max(map(max, strata)) + 1e-9
    assert optimality_gap(moved, scale + shift) == pytest.approx(scale * optimality_gap(arrays, 1.0), abs=1e-7)


@given(st.lists(st.tuples(few, few), min_size=1, max_size=3))
def test_the_probability_of_improvement_is_its_definition(sides: list[tuple[list[float], list[float]]]) -> None:
    xs, ys = ([np.array(side[i]) for side in sides] for i in (0, 1))
    naive = np.mean([np.mean([(a > b) + (a == b) / 2 for a in x for b in y]) for x, y in sides])
    assert probability_of_improvement(xs, ys) == pytest.approx(naive)
    assert probability_of_improvement(ys, xs) == pytest.approx(1 - naive)


def test_a_profile_counts_what_is_above() -> None:
    strata = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0])]
    assert list(performance_profile(strata, np.array([-1.0, 0.5, 1.0, 3.0]))) == [1.0, 0.875, 0.25, 0.0]


def test_environments_are_resampled_apart() -> None:
    """Each from its own scores, as many as there were: the mean of the two never leaves the middle."""
    strata = [np.zeros(3), np.full(5, 10.0)]
    interval = bootstrap_interval(strata, aggregate_mean, generator(), resamples=200)
    assert (interval.low, interval.high) == (5, 5)
    assert interval.method == "stratified bootstrap, 200 resamples, percentiles"
    sizes: list[tuple[int, ...]] = []

    def statistic(drawn: Sequence[Array]) -> Array:
        sizes.extend(array.shape for array in drawn)
        return np.asarray(aggregate_mean(drawn))

    bootstrap_interval(strata, statistic, generator(), resamples=7)
    assert sizes == [(7, 3), (7, 5)]


def test_the_same_seed_draws_the_same_interval() -> None:
    scores = [np.random.default_rng(1).normal(size=8)]
    first, second = (bootstrap_interval(scores, aggregate_iqm, generator()) for _ in range(2))
    assert first == second
    assert first.low < iqm(scores[0]) < first.high
    wide = bootstrap_interval(scores, aggregate_iqm, generator(), confidence=0.99)
    assert wide.low <= first.low <= first.high <= wide.high


# --- Tests -----------------------------------------------------------------------------------------------------------


def exact_p(x: Sequence[float], y: Sequence[float]) -> Fraction:
    """By brute force in exact rationals, over all ways to choose the first side."""
    both = [Fraction(value) for value in (*x, *y)]

    def parts(scores: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
        n = len(scores)
        mean = sum(scores, Fraction(0)) / n
        return mean, sum(((score - mean) ** 2 for score in scores), Fraction(0)) / (n * max(n - 1, 1))

    def of(chosen: Sequence[int]) -> tuple[Fraction, Fraction]:
        """Welch's t, squared: its numerator and its denominator."""
        (mean, variance), (other, its_variance) = (
            parts([score for i, score in enumerate(both) if (i in chosen) == first]) for first in (True, False)
        )
        known = min(len(x), len(y)) > 1
        return (mean - other) ** 2, variance + its_variance if known else Fraction(1)

    top, bottom = of(range(len(x)))
    splits = [of(chosen) for chosen in itertools.combinations(range(len(both)), len(x))]
    return Fraction(sum(a * bottom >= top * b for a, b in splits), len(splits))


small = st.integers(1, 5).flatmap(lambda n: st.lists(numbers, min_size=n, max_size=n))


@settings(max_examples=40)
@given(small, small, st.sampled_from([1.0, 0.1, 1e-12, 1e9]), st.sampled_from([0.0, 0.3, 500.0]))
def test_the_exact_test_is_brute_force(x: list[float], y: list[float], scale: float, shift: float) -> None:
    """Also where scores are no round numbers in binary: what ties still ties."""
    shift *= scale
    test = permutation_test(scale * np.array(x) + shift, scale * np.array(y) + shift, generator())
    assert test.method == "exact"
    assert test.splits == math.comb(len(x) + len(y), len(x))
    assert Fraction(test.p).limit_denominator(1000) == exact_p(x, y)
    assert test.p >= test.smallest_p - 1e-12


def test_equal_sides_have_the_order_of_the_means() -> None:
    drawn = generator()
    x, y = drawn.normal(1, 5, 6), drawn.normal(0, 1, 6)
    both = np.concatenate([x, y])
    means = [
        abs(both[list(chosen)].mean() - np.delete(both, chosen).mean())
        for chosen in itertools.combinations(range(12), 6)
    ]
    share = np.mean(np.array(means) >= means[0] - 1e-12)
    assert permutation_test(x, y, drawn).p == pytest.approx(share) == pytest.approx(float(exact_p(list(x), list(y))))


def test_constant_sides_differ_as_much_as_can_be() -> None:
    """Their t is infinite."""
    for n, m in ((4, 4), (4, 6), (6, 4)):
        test = permutation_test(np.full(n, 500.0), np.full(m, 490.0), generator())
        assert test.p == pytest.approx(test.smallest_p)


@settings(max_examples=40)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_the_exact_test_of_pairs_is_brute_force(pairs: list[tuple[float, float]]) -> None:
    x, y = (0.1 * np.array(side) for side in zip(*pairs, strict=True))
    test = permutation_test(x, y, generator(), paired=True)
    differences = [Fraction(a) - Fraction(b) for a, b in pairs]
    observed = abs(sum(differences))
    signs = list(itertools.product((1, -1), repeat=len(pairs)))
    extreme = sum(abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= observed for sign in signs)
    assert test.p == pytest.approx(extreme / len(signs))
    assert test.splits == len(signs)


@given(enough, enough, st.floats(0.1, 9), st.floats(-50, 50), st.randoms())
def test_a_test_knows_neither_order_nor_unit(
    x: list[float], y: list[float], scale: float, shift: float, random: Any
) -> None:
    x, y = x[:5], y[:5]
    test = permutation_test(np.array(x), np.array(y), generator())
    shuffled = permutation_test(np.array(random.sample(x, len(x))), np.array(y), generator())
    moved = permutation_test(scale * np.array(x) + shift, scale * np.array(y) + shift, generator())
    swapped = permutation_test(np.array(y), np.array(x), generator())
    assert test.p == shuffled.p == moved.p == swapped.p
    assert moved.difference == pytest.approx(scale * test.difference, abs=1e-6)
    assert swapped.difference == pytest.approx(-test.difference)


def test_equal_scores_differ_by_chance() -> None:
    for value in (0.0, 500.0, 0.1 + 0.2):
        x = np.full(6, value)
        assert permutation_test(x, x, generator()).p == 1
        assert permutation_test(x, x, generator(), paired=True).p == 1
    # 0.3 and 0.1 + 0.2 differ by rounding only.
    assert permutation_test(np.full(6, 0.3), np.full(6, 0.1 + 0.2), generator()).p == 1
    assert permutation_test(np.full(6, 0.3), np.full(6, 0.1 + 0.2), generator(), paired=True).p == 1


def test_the_monte_carlo_test_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 20_000)
    drawn = generator()
    for shift in (0.0, 0.6, 1.5):
        for sizes in ((8, 8), (5, 9), (4, 4)):
            x, y = drawn.normal(shift, 1, sizes[0]), drawn.normal(0, 1, sizes[1])
            exact, drew = permutation_test(x, y, drawn), permutation_test(x, y, drawn, most_splits=10)
            assert (exact.method, drew.method) == ("exact", "Monte Carlo")
            assert drew.splits == 20_000
            assert drew.p == pytest.approx(exact.p, abs=5 * math.sqrt(exact.p * (1 - exact.p) / 20_000) + 2 / 20_000)
    x = drawn.normal(0.5, 1, 10)
    exact = permutation_test(x, np.zeros(10), drawn, paired=True)
    drew = permutation_test(x, np.zeros(10), drawn, paired=True, most_splits=10)
    assert (exact.method, drew.method) == ("exact", "Monte Carlo")
    assert drew.p == pytest.approx(exact.p, abs=5 * math.sqrt(exact.p / 20_000))


def test_a_monte_carlo_test_never_says_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real split is counted with those that were drawn: 99 draws give 0.01 at least."""
    monkeypatch.setattr(statistics, "DRAWS", 99)
    x = np.arange(30.0)
    assert permutation_test(x + 1000, x, generator()).p == pytest.approx(0.01)
    assert permutation_test(x + 1000, x, generator(), paired=True).p == pytest.approx(0.01)
    assert permutation_test(x + 1000, x, generator()).smallest_p == pytest.approx(0.01)


def test_many_tests_at_once_are_the_same_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    drawn = generator()
    pairs = [(drawn.normal(size=n), drawn.normal(size=m)) for n, m in ((4, 4), (6, 5), (4, 4), (3, 7), (7, 7), (6, 5))]
    assert permutation_tests(pairs, drawn) == [permutation_test(x, y, drawn) for x, y in pairs]
    with pytest.raises(ValueError, match="equally many"):
        permutation_tests(pairs, drawn, paired=True)
    assert permutation_tests([], drawn) == []


@pytest.mark.parametrize("n", range(1, 11))
def test_the_smallest_p_is_reached_and_not_undercut(n: int) -> None:
    """By sides that do not overlap."""
    x, y = np.arange(n) + 100.0, np.arange(n) * 1.0
    test = permutation_test(x, y, generator())
    assert test.p == pytest.approx(test.smallest_p if n > 1 else 1.0)
    paired = permutation_test(x, y + np.arange(n) / 7, generator(), paired=True)
    assert paired.p == pytest.approx(paired.smallest_p) == pytest.approx(2 / 2**n)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_its_definition(p: list[float]) -> None:
    """Rejected step by step, the smallest first, as long as p (m - i) <= alpha (Holm 1979)."""
    adjusted = holm(p)
    assert len(adjusted) == len(p)
    for alpha in (0.01, 0.05, 0.3, 0.9):
        rejected = set()
        for i, at in enumerate(sorted(range(len(p)), key=lambda at: p[at])):
            if p[at] * (len(p) - i) > alpha:
                break
            rejected.add(at)
        assert {at for at, value in enumerate(adjusted) if value <= alpha} == rejected
    assert all(value >= raw for value, raw in zip(adjusted, p, strict=True))
    assert all(value <= 1 for value in adjusted)


def test_how_many_seeds_are_needed() -> None:
    assert seeds_needed() == 4
    assert seeds_needed(paired=True) == 6
    for num_tests, paired in itertools.product((1, 2, 3, 10, 45, 450), (False, True)):
        n = seeds_needed(0.05, num_tests, paired=paired)

        def clearest(n: int, paired: bool = paired) -> float:
            return permutation_test(np.arange(n) + 100.0, np.arange(n) / 7, generator(), paired=paired).p

        assert clearest(n) * num_tests <= 0.05
        assert n in (4, 6) or clearest(n - 1) * num_tests > 0.05


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_a_verdict_has_a_word_and_a_reason() -> None:
    high, low = np.array([7.0, 8, 9, 10]), np.array([1.0, 2, 3, 4])
    [better] = verdicts([(high, low)], generator())
    assert (better.word, better.seeds_missing) == ("better", 0)
    assert better.reason == "mean 6 higher, p = 0.029 (exact, 70 splits)"
    assert better.p == better.test.p == pytest.approx(2 / 70)
    [worse] = verdicts([(low, high)], generator())
    assert (worse.word, worse.reason) == ("worse", "mean 6 lower, p = 0.029 (exact, 70 splits)")
    [slower] = verdicts([(high, low)], generator(), higher_is_better=False)
    assert (slower.word, slower.reason) == ("worse", "mean 6 higher, p = 0.029 (exact, 70 splits)")
    [unclear] = verdicts([(high, low + 4)], generator())
    assert (unclear.word, unclear.seeds_missing) == ("cannot tell", 0)
    assert unclear.reason.startswith("p = 0.")
    [with_five] = verdicts([(np.arange(5) + 10.0, np.arange(5.0))], generator())
    assert with_five.reason == "mean 10 higher, p = 0.0079 (exact, 252 splits)"


@pytest.mark.parametrize(
    ("n", "m", "paired", "reason"),
    [
        (3, 3, False, "3 seeds a side: no test of so few can reach 5 %; 1 more a side needed"),
        (1, 9, False, "1 seed a side: no test of so few can reach 5 %; 3 more a side needed"),
        (10, 3, False, "3 seeds a side: no test of so few can reach 5 %; 1 more a side needed"),
        (5, 5, True, "5 pairs: no test of so few can reach 5 %; 1 more needed"),
    ],
)
def test_too_few_seeds_tell_nothing(n: int, m: int, paired: bool, reason: str) -> None:
    [verdict] = verdicts([(np.arange(n) + 1e6, np.arange(m) / 7)], generator(), paired=paired)
    assert (verdict.word, verdict.reason, verdict.p) == ("cannot tell", reason, None)
    assert f"{verdict.seeds_missing} more" in reason


def test_several_verdicts_are_corrected_for_their_number() -> None:
    high, low = np.arange(4) + 10.0, np.arange(4.0)
    one, other, few = verdicts([(high, low), (high, high + 0.5), (high[:3], low[:3])], generator())
    assert one.num_tests == other.num_tests == 2  # that of three seeds is none
    assert one.p == pytest.approx(2 * 2 / 70)
    assert one.word == "cannot tell"
    assert one.reason == ("4 seeds a side: no test of so few can reach 5 % among 2 comparisons; 1 more a side needed")
    assert few.p is None
    high, low = np.arange(6) + 10.0, np.arange(6.0)
    one, other = verdicts([(high, low), (high, high + 0.5)], generator())
    assert one.word == "better"
    assert "after Holm's correction for 2 comparisons" in one.reason
    assert other.word == "cannot tell"


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("kind", ["normal", "capped", "bimodal", "heavy"])
def test_equal_distributions_are_seldom_told_apart(kind: str, n: int) -> None:
    """A short tests/benchmarks/null.py; 1,500 pairs may exceed 5 % by three standard errors."""
    drawn = np.random.default_rng(n)
    size = (3000, n)
    scores = {
        "normal": lambda: drawn.normal(size=size),
        "capped": lambda: np.minimum(drawn.normal(480, 40, size), 500),
        "bimodal": lambda: np.where(drawn.random(size) < 0.5, drawn.normal(500, 5, size), drawn.normal(100, 30, size)),
        "heavy": lambda: drawn.standard_t(2, size),
    }[kind]()
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    tests = permutation_tests(pairs, drawn)
    share = np.mean([test.p <= 0.05 for test in tests])
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_three_sides_are_seldom_told_apart_in_any_way() -> None:
    """The chance of any wrong verdict among three pairs is 5 %; without the correction it would be about 12 %."""
    drawn = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        sides = drawn.normal(size=(3, 6))
        pairs = [(sides[a], sides[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        wrong += any(verdict.word != "cannot tell" for verdict in verdicts(pairs, drawn))
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_what_differs_is_found() -> None:
    drawn = np.random.default_rng(2)
    pairs = [(drawn.normal(3, 1, 6), drawn.normal(0, 1, 6)) for _ in range(50)]
    tests = permutation_tests(pairs, drawn)
    assert np.mean([test.p <= 0.05 for test in tests]) > 0.9
