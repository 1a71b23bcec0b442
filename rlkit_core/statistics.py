"""Statistics of scores of few seeds: intervals, aggregates and tests that hold what they promise at n = 4.

A score is one number per training run (per seed): the unit that is drawn independently. Nothing here reads a run.
docs/statistics.md has the definitions, their sources and what was measured.

Aggregates over environments take one array of scores per environment (a *stratum*), `[..., seeds]`: the last axis is
reduced, so that all resamples of a bootstrap are aggregated at once. Environments may differ in their number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

MIN_SEEDS = 4
"""Seeds a side below which no two-sided permutation test reaches 5 %: 3 against 3 have 20 splits, p is 0.1 at least."""
MIN_PAIRS = 6
"""Likewise for pairs: 5 have 32 signs, p is 0.0625 at least."""
MIN_PREDICTED = 6
"""Seeds below which a published score is not judged: the interval is so wide that it would hold nearly everything."""
DRAWS = 50_000
"""Splits that a Monte-Carlo test draws: the error of p near 0.05 is then 0.001."""
_CHUNK = 1_000_000
"""Numbers that are held at once while splits are counted."""


@dataclass(frozen=True)
class Interval:
    """An interval, and how often such intervals hold the truth.

    Attributes:
        low, high: its ends.
        confidence: its coverage: exact where `method` says so, else what was aimed at.
        method: how it was made, for people.
    """

    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True)
class Test:
    """A permutation test of x against y.

    Attributes:
        p: two-sided p-value.
        method: `exact` or `Monte Carlo`.
        splits: how many ways of dealing the scores out were counted.
        smallest_p: what p can be at least with so many seeds.
        difference: x minus y, in units of the scores.
        statistic: what that is, for people.
    """

    p: float
    method: Literal["exact", "Monte Carlo"]
    splits: int
    smallest_p: float
    difference: float
    statistic: str


@dataclass(frozen=True)
class Verdict:
    """Whether x is better than y.

    Attributes:
        word: the answer.
        reason: why, in a sentence.
        test: the permutation test.
        p: its p-value after the correction for the number of tests; None where too few seeds were there for any.
        num_tests: how many tests the correction counted.
        seeds_missing: how many more seeds a side are needed at least for any difference to be told, however large.
    """

    word: Literal["better", "worse", "cannot tell"]
    reason: str
    test: Test
    p: float | None
    num_tests: int
    seeds_missing: int = 0


# --- One environment -------------------------------------------------------------------------------------------------


def median_interval(scores: Array, confidence: float = 0.95) -> Interval:
    """An interval for the median of the distribution that the scores come from, whatever it is.

    Between the k-th smallest and the k-th largest score. The median lies below the k-th smallest if fewer than k of n
    scores are below it, which has probability P(Bin(n, 1/2) < k), and likewise above: coverage is 1 - 2 P(Bin(n, 1/2)
    < k), and more where scores tie. (David & Nagaraja 2003, Order Statistics, section 7.1.) It is the narrowest of
    those that cover `confidence`; with fewer than 6 scores none covers 95 %, and it is the widest, with its true
    coverage.

    Args:
        scores: one per seed; infinity is allowed (a threshold that was never reached).
        confidence: coverage that is wanted.
    """
    ordered = np.sort(_scores(scores, allow_infinite=True))
    n = len(ordered)
    covers = [1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n for k in range(1, (n + 1) // 2 + 1)]
    # n = 1: a point, which covers nothing.
    k = max((k for k, covered in enumerate(covers, 1) if covered >= confidence), default=1)
    method = f"scores {k} and {n + 1 - k} of {n} in their order, covers {100 * covers[k - 1]:.1f} % (exact)"
    return Interval(float(ordered[k - 1]), float(ordered[n - k]), covers[k - 1], method)


def prediction_interval(scores: Array, confidence: float = 0.95, *, seeds: int = 1) -> Interval:
    """Where the mean score of so many further seeds, made and evaluated in the same way, will lie.

    mean ± t s sqrt(1/n + 1/seeds), t the quantile of Student's distribution with n - 1 degrees of freedom: exact for
    normal scores. (Hahn & Meeker 1991, Statistical Intervals, section 4.7.) It also takes in all scores that
    were seen, so that it covers something whatever the distribution is: all further scores lie in the range of the n
    if none of them is the lowest or the highest of all n + seeds, which has probability n (n - 1) / ((n + seeds) (n +
    seeds - 1)) (chapter 5 there). That alone reaches 95 % only with 39 seeds for one further.

    Where all scores are equal nothing is known of their spread; `confidence` is then what the range covers.

    Args:
        scores: one per seed, two at least.
        confidence: coverage that is wanted.
        seeds: how many further seeds are averaged: 1 for a published score of one run.
    """
    from scipy.special import stdtrit

    scores = _scores(scores)
    n = len(scores)
    if n < 2:
        raise ValueError("a prediction needs two scores at least")
    lowest, highest = float(scores.min()), float(scores.max())
    covers = n * (n - 1) / ((n + seeds) * (n + seeds - 1))
    if lowest == highest:
        method = f"all {n} scores are equal, covers {100 * covers:.0f} % at least"
        return Interval(lowest, highest, min(covers, confidence), method)
    t = float(stdtrit(n - 1, (1 + confidence) / 2))
    mean, half = float(scores.mean()), t * float(scores.std(ddof=1)) * math.sqrt(1 / n + 1 / seeds)
    method = f"Student's t of {n} seeds and their range, covers {100 * covers:.0f} % at least if scores are not normal"
    return Interval(min(mean - half, lowest), max(mean + half, highest), confidence, method)


def first_reached(steps: Array, values: Array, threshold: float) -> float:
    """Steps of the first evaluation at or above the threshold; infinity if there is none.

    Args:
        steps: of the evaluations, ascending.  # [K]
        values: their results.  # [K]
        threshold: what is to be reached.
    """
    reached = np.flatnonzero(np.asarray(values, float) >= threshold)
    return float(steps[reached[0]]) if len(reached) else math.inf


def kaplan_meier(first: Array, watched: Array) -> tuple[Array, Array]:
    """The share of runs that have not reached a threshold yet, after each step at which one did (Kaplan & Meier 1958).

    Args:
        first: steps at which each run reached it; infinity if it never did.  # [n]
        watched: steps for which each run was watched: its budget, or fewer where it broke off; what is later than that
            counts as not seen.  # [n]

    Returns:
        The steps, ascending, and the share after each.  # [K], [K]
    """
    first, watched = _scores(first, allow_infinite=True), _scores(watched)
    seen = first <= watched
    last = np.where(seen, first, watched)
    steps = np.unique(first[seen])
    at_risk = (last[None] >= steps[:, None]).sum(1)
    events = ((first[None] == steps[:, None]) & seen[None]).sum(1)
    return steps, np.cumprod(1 - events / at_risk)


def median_steps(first: Array, watched: Array) -> float:
    """The median of the steps to a threshold by Kaplan and Meier; infinity: not reached by half of the runs.

    Where the share is exactly one half for a while it is the middle of that while, as the median of an even number is.
    Arguments as those of `kaplan_meier`.
    """
    steps, share = kaplan_meier(first, watched)
    # A product of fractions: what should be one half may be a little off.
    below = np.flatnonzero(share <= 0.5 + 1e-12)
    if not len(below):
        return math.inf
    i = below[0]
    if share[i] < 0.5 - 1e-12:
        return float(steps[i])
    return float(steps[i] + steps[i + 1]) / 2 if i + 1 < len(steps) else math.inf


def restricted_steps(sides: Sequence[tuple[Array, Array]]) -> tuple[list[Array], float]:
    """Steps to a threshold, cut at a horizon until which every run was watched: numbers that can be tested.

    Args:
        sides: `first` and `watched` of each side; see `kaplan_meier`.

    Returns:
        min(first, horizon) of each side, and the horizon: the least `watched` of those that had not reached it.
    """
    pairs = [(_scores(first, allow_infinite=True), _scores(watched)) for first, watched in sides]
    # A run that reached it is known to the end, even if it stopped there.
    ends = np.concatenate([watched[first > watched] for first, watched in pairs])
    if len(ends):
        horizon = float(ends.min())
    else:
        horizon = max(float(first.max()) for first, _ in pairs)
    return [np.minimum(first, horizon) for first, _ in pairs], horizon


# --- Over environments -----------------------------------------------------------------------------------------------


def iqm(scores: Array) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter, `int(n / 4)` scores each.

    Agarwal et al. 2021, section 4.3; scipy's `trim_mean(scores, 0.25)`.

    Args:
        scores: those of one environment, or of all together.  # [..., n]

    Returns:
        A number, or an array of them.  # [...]
    """
    scores = np.asarray(scores, float)
    n = scores.shape[-1]
    cut = n // 4
    return np.sort(scores, -1)[..., cut : n - cut].mean(-1)


def aggregate_mean(strata: Sequence[Array]) -> Any:
    """Mean over environments of the mean over seeds.  # [..., seeds] each -> [...]"""
    return np.mean([np.mean(scores, -1, dtype=float) for scores in strata], 0)


def aggregate_median(strata: Sequence[Array]) -> Any:
    """Median over environments of the mean over seeds, as Agarwal et al. and the Atari papers have it.

    Not the median over seeds, which `np.median` and `median_interval` are for.  # [..., seeds] each -> [...]
    """
    return np.median([np.mean(scores, -1, dtype=float) for scores in strata], 0)


def aggregate_iqm(strata: Sequence[Array]) -> Any:
    """Interquartile mean of the scores of all environments together; they must be on one scale.

    One array per environment, `[..., seeds]`, gives `[...]`.
    """
    return iqm(np.concatenate([np.asarray(scores, float) for scores in strata], -1))


def optimality_gap(strata: Sequence[Array], target: float = 1.0) -> Any:
    """How much scores fall short of a target on average; what is above it makes up for nothing (Agarwal et al. 2021).

    One array per environment, `[..., seeds]`, gives `[...]`.
    """
    return target - np.minimum(np.concatenate([np.asarray(scores, float) for scores in strata], -1), target).mean(-1)


def probability_of_improvement(xs: Sequence[Array], ys: Sequence[Array]) -> Any:
    """P(X > Y) + P(X = Y) / 2 of a run of x against one of y, the mean over environments (Agarwal et al. 2021).

    Args:
        xs: one array per environment.  # [..., seeds of x] each
        ys: those of the other side, in the same order.  # [..., seeds of y] each

    Returns:
        A number, or an array of them.  # [...]
    """
    shares = []
    for x, y in zip(xs, ys, strict=True):
        x, y = np.asarray(x)[..., :, None], np.asarray(y)[..., None, :]
        pairs = x.shape[-2] * y.shape[-1]
        above = np.count_nonzero(x > y, (-2, -1)) + np.count_nonzero(x >= y, (-2, -1))
        shares.append(above / (2 * pairs))
    return np.mean(shares, 0)


def performance_profile(strata: Sequence[Array], thresholds: Array) -> Array:
    """Share of runs with a score above each threshold, the mean over environments (Agarwal et al. 2021, section 4.2).

    Args:
        strata: one array per environment.  # [..., seeds] each
        thresholds: ascending or not.  # [K]

    Returns:
        Shares.  # [..., K]
    """
    thresholds = np.asarray(thresholds, float)
    return np.asarray(
        np.mean([(np.asarray(scores)[..., None, :] > thresholds[:, None]).mean(-1) for scores in strata], 0)
    )


def bootstrap(
    strata: Sequence[Array],
    statistic: Callable[[Sequence[Array]], Array],
    generator: np.random.Generator,
    resamples: int = 2_000,
) -> Array:
    """A statistic of samples drawn with replacement from each environment's scores apart (stratified).

    Args:
        strata: one array per environment.  # [seeds] each
        statistic: takes them with the resamples as leading axis, as the aggregates do.  # [R, seeds] each -> [R, ...]
        generator: what draws.
        resamples: how many.

    Returns:
        The statistic of each.  # [R, ...]
    """
    arrays = [_scores(scores) for scores in strata]
    drawn = [scores[generator.integers(len(scores), size=(resamples, len(scores)))] for scores in arrays]
    return np.asarray(statistic(drawn))


def bootstrap_interval(
    strata: Sequence[Array],
    statistic: Callable[[Sequence[Array]], Array],
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile interval of the stratified bootstrap, as Agarwal et al. 2021 (section 4.1) and rliable make it.

    It is too narrow for few seeds: docs/statistics.md says by how much. No verdict depends on it.
    Arguments as those of `bootstrap`.
    """
    low, high = np.quantile(bootstrap(strata, statistic, generator, resamples), _ends(confidence), 0)
    return Interval(float(low), float(high), confidence, f"stratified bootstrap, {resamples:,} resamples, percentiles")


def improvement_interval(
    xs: Sequence[Array],
    ys: Sequence[Array],
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Interval:
    """The stratified bootstrap's interval of `probability_of_improvement`, both sides resampled."""
    n = len(xs)
    return bootstrap_interval(
        [*xs, *ys],
        lambda drawn: probability_of_improvement(drawn[:n], drawn[n:]),
        generator,
        resamples=resamples,
        confidence=confidence,
    )


def profile_band(
    strata: Sequence[Array],
    thresholds: Array,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> tuple[Array, Array]:
    """Ends of the stratified bootstrap's intervals of `performance_profile`, each threshold by itself.  # [K], [K]"""
    shares = bootstrap(strata, lambda drawn: performance_profile(drawn, thresholds), generator, resamples)
    low, high = np.quantile(shares, _ends(confidence), 0)
    return low, high


# --- Tests -----------------------------------------------------------------------------------------------------------


def permutation_test(
    x: Array,
    y: Array,
    generator: np.random.Generator,
    *,
    paired: bool = False,
    most_splits: int = 200_000,
) -> Test:
    """Whether x and y come from one distribution, by what would have been if the seeds had been dealt out otherwise.

    The p-value is the share of all ways to deal the scores out to the sides, the real one included, with a difference
    as large as the real one or larger, in absolute value: exact for any distribution and number of seeds. Where there
    are more than `most_splits` ways, as many as `DRAWS` are drawn, and the real one is counted with them (Phipson &
    Smyth 2010). What differs by no more than rounding counts as equal.

    What is compared is Welch's t: the difference of the means in units of its standard error. Sides of equally many
    scores, and signs of pairs, have the same order by the difference itself. Unlike other statistics it is near its
    level, too, where means are equal and spreads are not (Janssen 1997); see docs/statistics.md.

    Args:
        x, y: scores of the sides, one per seed.  # [n], [m]
        generator: what draws, where not all are counted.
        paired: scores of the same place belong together (a seed that both sides share in everything that is random):
            signs of their differences are flipped.
        most_splits: how many are counted exactly at most.
    """
    return permutation_tests([(x, y)], generator, paired=paired, most_splits=most_splits)[0]


def permutation_tests(
    pairs: Sequence[tuple[Array, Array]],
    generator: np.random.Generator,
    *,
    paired: bool = False,
    most_splits: int = 200_000,
) -> list[Test]:
    """`permutation_test` of many pairs; those of equal sizes share their splits, which makes hundreds of them quick."""
    arrays = [(_scores(x), _scores(y)) for x, y in pairs]
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, (x, y) in enumerate(arrays):
        if paired and len(x) != len(y):
            raise ValueError(f"pairs need equally many scores a side, not {len(x)} and {len(y)}")
        by_size.setdefault((len(x), len(y)), []).append(i)
    tests: dict[int, Test] = {}
    for indices in by_size.values():
        x, y = (np.stack([arrays[i][side] for i in indices]) for side in (0, 1))
        found = _paired_tests(x, y, generator, most_splits) if paired else _tests(x, y, generator, most_splits)
        tests.update(zip(indices, found, strict=True))
    return [tests[i] for i in range(len(arrays))]


def _tests(x: Array, y: Array, generator: np.random.Generator, most_splits: int) -> list[Test]:
    """Tests of pairs of equal sizes.  # [P, n], [P, m]"""
    n, m = x.shape[1], y.shape[1]
    pooled, unit, tolerance = _normed(np.concatenate([x, y], 1))
    differences = unit * (pooled[:, :n].mean(1) - pooled[:, n:].mean(1))
    total = math.comb(n + m, n)
    exact = total <= most_splits
    masks = _chunks(_all_splits(n, m)) if exact else _drawn_splits(n, m, generator)
    # Of equal sides Welch's t has the order of the difference itself; the spread of one score is not known.
    larger = _larger_mean if n == m or min(n, m) == 1 else _larger_welch
    counts, splits = _count(len(pooled), masks, larger(pooled, n, tolerance))
    # Equal sides: a split and its mirror image differ by the sign only, and each was counted once for both.
    smallest_p = (2 if n == m else 1) / total
    kind = "difference of the means"
    return _results(counts, splits, total if exact else None, smallest_p, differences, kind)


def _paired_tests(x: Array, y: Array, generator: np.random.Generator, most_splits: int) -> list[Test]:
    """Tests of pairs of scores that belong together.  # [P, n], [P, n]"""
    n = x.shape[1]
    scale = np.maximum(np.abs(x), np.abs(y)).max(1)
    scale[scale == 0] = 1.0
    differences = x / scale[:, None] - y / scale[:, None]
    largest = np.abs(differences).max(1)
    largest[largest == 0] = 1.0
    differences /= largest[:, None]
    tolerance = 1e-10 + 1e-13 / largest
    total = 2**n
    exact = total <= most_splits
    if exact:
        # The first sign is fixed: flipping all of them changes the sign only.
        bits = (np.arange(total // 2)[:, None] >> np.arange(n)) & 1
        signs = _chunks(1.0 - 2 * bits)
    else:
        signs = (generator.choice((-1.0, 1.0), (rows, n)) for rows in _rows(DRAWS, n))
    observed = differences.mean(1)
    bounds = (np.abs(observed) - tolerance)[:, None]
    counts, splits = _count(len(x), signs, lambda part, turned: np.abs(differences[part] @ turned) / n >= bounds[part])
    kind = "mean of the differences"
    return _results(counts, splits, total if exact else None, 2 / total, observed * largest * scale, kind)


def _normed(scores: Array) -> tuple[Array, Array, Array]:
    """Scores moved and scaled into [-1, 1], the unit of that, and what differs by no more than rounding there.

    # [P, N] -> [P, N], [P], [P]
    """
    scale = np.abs(scores).max(1)
    scale[scale == 0] = 1.0
    moved = scores / scale[:, None]
    moved = moved - (moved.max(1) + moved.min(1))[:, None] / 2
    spread = np.abs(moved).max(1)
    spread[spread == 0] = 1.0
    # Scores have rounding errors of their own, relative to their size, not to their spread.
    return moved / spread[:, None], spread * scale, 1e-10 + 1e-13 / spread


@lru_cache(maxsize=2)
def _all_splits(n: int, m: int) -> Array:
    """All splits, 1 for members of the first side, else 0; of equal sides only those where it has the first score.

    # [K, n + m]
    """
    fixed = 1 if n == m else 0
    chosen = combinations(range(fixed, n + m), n - fixed)
    K = math.comb(n + m - fixed, n - fixed)
    members = np.fromiter(chain.from_iterable(chosen), np.int64, K * (n - fixed)).reshape(K, n - fixed)
    mask = np.zeros((K, n + m))
    mask[:, :fixed] = 1
    np.put_along_axis(mask, members, 1, 1)
    mask.setflags(write=False)
    return mask


def _drawn_splits(n: int, m: int, generator: np.random.Generator) -> Iterator[Array]:
    """Splits drawn at random, in chunks.  # [k, n + m] each"""
    for rows in _rows(DRAWS, n + m):
        mask = np.zeros((rows, n + m))
        np.put_along_axis(mask, np.argpartition(generator.random((rows, n + m)), n - 1, 1)[:, :n], 1, 1)
        yield mask


def _rows(total: int, width: int) -> Iterator[int]:
    rows = max(_CHUNK // width, 1)
    for start in range(0, total, rows):
        yield min(rows, total - start)


def _chunks(weights: Array) -> Iterator[Array]:
    start = 0
    for rows in _rows(len(weights), weights.shape[1] * 10):
        yield weights[start : start + rows]
        start += rows


def _count(pairs: int, splits: Iterator[Array], larger: Callable[[slice, Array], Array]) -> tuple[Array, int]:
    """How many splits are as extreme as the real one, by pair, and how many there were.

    # [k, N] each -> [P]
    """
    counts, total = np.zeros(pairs, np.int64), 0
    for chunk in splits:
        total += len(chunk)
        turned = np.ascontiguousarray(chunk.T)
        start = 0
        for rows in _rows(pairs, len(chunk)):
            part = slice(start, start + rows)
            counts[part] += np.count_nonzero(larger(part, turned), 1)
            start += rows
    return counts, total


def _larger_mean(pooled: Array, n: int, tolerance: Array) -> Callable[[slice, Array], Array]:
    """Whether the means of splits differ as much as those of the first n scores and the others.  # [P, N], [P]"""
    m = pooled.shape[1] - n
    weight = 1 / n + 1 / m
    rest = pooled.sum(1)[:, None] / m
    bounds = np.abs(pooled[:, :n].sum(1)[:, None] * weight - rest) - tolerance[:, None]

    def larger(part: slice, turned: Array) -> Array:
        difference = (pooled[part] * weight) @ turned
        difference -= rest[part]
        return np.asarray(np.abs(difference, out=difference) >= bounds[part])

    return larger


def _larger_welch(pooled: Array, n: int, tolerance: Array) -> Callable[[slice, Array], Array]:
    """Whether Welch's t of splits is as large as that of the first n scores against the others.  # [P, N], [P]"""
    m = pooled.shape[1] - n
    squared = pooled * pooled
    sums, square_sums = pooled.sum(1)[:, None], squared.sum(1)[:, None]

    def parts(first: Array, first_squares: Array, part: slice) -> tuple[Array, Array]:
        """The difference of the means, squared, and its variance.  # [P, k], [P, k] -> [P, k], [P, k]"""
        other, other_squares = sums[part] - first, square_sums[part] - first_squares
        variance = (first_squares - first * first / n) / (n * (n - 1))
        variance += (other_squares - other * other / m) / (m * (m - 1))
        return (first / n - other / m) ** 2, np.maximum(variance, 0)

    everything = slice(None)
    observed, its_variance = parts(pooled[:, :n].sum(1)[:, None], squared[:, :n].sum(1)[:, None], everything)

    def larger(part: slice, turned: Array) -> Array:
        difference, variance = parts(pooled[part] @ turned, squared[part] @ turned, part)
        # Multiplied out: a variance is 0 where both sides are constant.
        return difference * its_variance[part] >= observed[part] * variance - tolerance[part, None]

    return larger


def _results(
    counts: Array, splits: int, total: int | None, smallest_p: float, differences: Array, kind: str
) -> list[Test]:
    """Tests from their counts; `total` is None where splits were drawn."""
    method: Literal["exact", "Monte Carlo"] = "exact"
    if total is None:
        # The real one is one of those that could be drawn: without counting it p would be too small, even 0.
        method, counts, splits, total = "Monte Carlo", counts + 1, splits + 1, splits
        smallest_p = max(smallest_p, 1 / splits)
    return [
        Test(float(count / splits), method, total, smallest_p, float(difference), kind)
        for count, difference in zip(counts, differences, strict=True)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's correction: those at or below alpha are told with at most alpha chance of any mistake.

    The i-th smallest of m times m + 1 - i, and never less than one before it (Holm 1979). It holds whatever the tests
    have to do with each other.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]


def seeds_needed(alpha: float = 0.05, num_tests: int = 1, *, paired: bool = False) -> int:
    """The fewest seeds a side with which the clearest of all differences is told among so many tests."""
    n = MIN_PAIRS if paired else MIN_SEEDS
    while _smallest_p(n, paired) * num_tests > alpha:
        n += 1
    return n


def _smallest_p(n: int, paired: bool) -> float:
    if paired:
        return float(2.0 ** (1 - n))
    return 2 / math.comb(2 * n, n)


def verdicts(
    pairs: Sequence[tuple[Array, Array]],
    generator: np.random.Generator,
    *,
    alpha: float = 0.05,
    paired: bool = False,
    higher_is_better: bool = True,
) -> list[Verdict]:
    """For each pair, whether the first side is better: the chance of any wrong *better* or *worse* among all is alpha.

    Pairs with too few seeds for any answer are not counted in the correction: that they have none is known before their
    scores are.

    Args:
        pairs: scores of both sides, one per seed.
        generator: what draws, where not all splits are counted.
        alpha: that chance.
        paired: see `permutation_test`.
        higher_is_better: false for steps to a threshold.
    """
    tests = permutation_tests(pairs, generator, paired=paired)
    fewest = MIN_PAIRS if paired else MIN_SEEDS
    enough = [i for i, (x, y) in enumerate(pairs) if min(len(x), len(y)) >= fewest]
    adjusted = dict(zip(enough, holm([tests[i].p for i in enough]), strict=True))
    return [
        verdict(
            test,
            adjusted.get(i, 1.0),
            (len(pairs[i][0]), len(pairs[i][1])),
            num_tests=max(len(enough), 1),
            alpha=alpha,
            paired=paired,
            higher_is_better=higher_is_better,
        )
        for i, test in enumerate(tests)
    ]


def verdict(
    test: Test,
    p: float,
    sizes: tuple[int, int],
    *,
    num_tests: int = 1,
    alpha: float = 0.05,
    paired: bool = False,
    higher_is_better: bool = True,
) -> Verdict:
    """What a test says of x, with its p-value after the correction for `num_tests` tests; `verdicts` does it all.

    Args:
        test: of x against y.
        p: its p-value after the correction.
        sizes: seeds of x and of y.
        num_tests: how many tests were corrected for.
        alpha: chance of a mistake that is accepted.
        paired: whether it was a test of pairs.
        higher_is_better: false for steps to a threshold.
    """
    n = min(sizes)
    unit, of = ("pair", "") if paired else ("seed", " a side")
    missing = max(seeds_needed(alpha, num_tests, paired=paired) - n, 0)
    among = f" among {num_tests} comparisons" if num_tests > 1 else ""
    if n < (MIN_PAIRS if paired else MIN_SEEDS):
        reason = (
            f"{_number(n, unit)}{of}: no test of so few can reach {100 * alpha:g} %{among}; {missing} more{of} needed"
        )
        return Verdict("cannot tell", reason, test, None, num_tests, missing)
    said = f"p = {_p(p)}"
    if num_tests > 1:
        said += f" after Holm's correction for {num_tests} comparisons"
    if p <= alpha:
        higher = test.difference > 0
        word: Literal["better", "worse"] = "better" if higher == higher_is_better else "worse"
        way = "higher" if higher else "lower"
        reason = f"mean {abs(test.difference):.4g} {way}, {said} ({test.method}, {test.splits:,} splits)"
        return Verdict(word, reason, test, p, num_tests)
    if missing and test.smallest_p * num_tests > alpha:
        reason = (
            f"{_number(n, unit)}{of}: no test of so few can reach {100 * alpha:g} %{among}; {missing} more{of} needed"
        )
        return Verdict("cannot tell", reason, test, p, num_tests, missing)
    return Verdict("cannot tell", f"{said}: chance alone makes such differences", test, p, num_tests)


def _number(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "less than 0.0001"


def _ends(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _scores(scores: Any, *, allow_infinite: bool = False) -> Array:
    """Scores as they are computed with, float64.  # [n]"""
    array = np.asarray(scores, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"scores are one number per seed, one at least; these have the shape {array.shape}")
    if np.isnan(array).any() or not (allow_infinite or np.isfinite(array).all()):
        raise ValueError("a score is not a finite number: what a failed run scored has to be said first")
    return array
