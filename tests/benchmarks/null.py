"""How often verdicts on few seeds are wrong, and how often they find what there is.

    python tests/benchmarks/null.py [--simulations 5000] [--statistics]

Groups are drawn from five distributions of scores, 4, 5, 6 and 10 seeds a side, and go through the verdict that
`rlkit compare` gives. Printed are the share of *better* and *worse* where there is no difference, with the upper end of
its 95 % interval (Clopper and Pearson), in four times as many simulations; the same for three groups (any wrong verdict
among three pairs); the share found where there is a difference; and how often the intervals hold what they are for. It
exits with code 1 if an upper end is at 6 % or above. (The tests' own level is 5 % or just below, so that a share of
simulations is above 5 % about half of the time: with 5,000 alone one of the twenty upper ends is often above 6 %.)

`--statistics` prints what else could have been tested: means, interquartile means, ranks and medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import beta, norm, rankdata

from rlkit_core import statistics

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
SEEDS = (4, 5, 6, 10)
ALPHA = 0.05


@dataclass(frozen=True)
class Scores:
    """A distribution of scores, a better one, and the first one's median."""

    draw: Draw
    better: Draw
    median: float
    said: str


def capped(mean: float) -> Draw:
    return lambda g, size: np.minimum(g.normal(mean, 40, size), 500)


def bimodal(solved: float) -> Draw:
    return lambda g, size: np.where(g.random(size) < solved, g.normal(500, 5, size), g.normal(100, 30, size))


KINDS = {
    "normal": Scores(
        lambda g, size: g.normal(size=size),
        lambda g, size: g.normal(1.5, 1, size),
        0.0,
        "mean + 1.5 standard deviations",
    ),
    "capped at 500": Scores(capped(470), capped(520), 470.0, "mean before the cap 470 -> 520, deviation 40"),
    "bimodal": Scores(bimodal(0.6), bimodal(1.0), 500 + 5 * norm.ppf(1 / 6), "solved by 60 % -> 100 % of seeds"),
    "heavy tails": Scores(
        lambda g, size: g.standard_t(2, size), lambda g, size: g.standard_t(2, size) + 2, 0.0, "Student's t(2) + 2"
    ),
    "skewed": Scores(
        lambda g, size: -g.lognormal(0, 1.2, size),
        lambda g, size: 2 - g.lognormal(0, 1.2, size),
        -1.0,
        "-lognormal(1.2) + 2",
    ),
}


def upper(count: int, of: int) -> float:
    """Upper end of the 95 % interval of a share."""
    return 1.0 if count == of else float(beta.ppf(0.975, count + 1, of - count))


def told(x: Array, y: Array, generator: np.random.Generator) -> Array:
    """Whether each pair gets a verdict, +1 better, -1 worse, 0 cannot tell.  # [S, n], [S, n] -> [S]"""
    tests = statistics.permutation_tests(list(zip(x, y, strict=True)), generator)
    sizes = (x.shape[1], y.shape[1])
    number = {"better": 1, "worse": -1, "cannot tell": 0}
    return np.array([number[statistics.verdict(test, test.p, sizes).word] for test in tests])


def three_groups(sides: Array, generator: np.random.Generator) -> float:
    """Share of studies with any verdict among the three pairs.  # [S, 3, n]"""
    by_pair = [
        statistics.permutation_tests(list(zip(sides[:, a], sides[:, b], strict=True)), generator)
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    n = sides.shape[2]
    wrong = 0
    for tests in zip(*by_pair, strict=True):
        adjusted = statistics.holm([test.p for test in tests])
        words = [statistics.verdict(test, p, (n, n), num_tests=3).word for test, p in zip(tests, adjusted, strict=True)]
        wrong += any(word != "cannot tell" for word in words)
    return wrong / len(sides)


def verdict_table(simulations: int, generator: np.random.Generator) -> bool:
    """Print how often verdicts are wrong and right; whether it is as it should be."""
    print("| scores | seeds a side | told apart without a difference | upper end | found | worse instead | 3 groups |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    fine = True
    for name, kind in KINDS.items():
        for n in SEEDS:
            size = (simulations, n)
            many = (4 * simulations, n)
            wrong = int(np.count_nonzero(told(kind.draw(generator, many), kind.draw(generator, many), generator)))
            found = told(kind.better(generator, size), kind.draw(generator, size), generator)
            family = three_groups(kind.draw(generator, (simulations, 3, n)), generator)
            bound = upper(wrong, 4 * simulations)
            fine &= bound < 0.06
            print(
                f"| {name} | {n} | {wrong / (4 * simulations):.2%} | {bound:.2%} | {np.mean(found > 0):.1%} "
                f"| {np.mean(found < 0):.2%} | {family:.2%} |",
                flush=True,
            )
    return fine


def interval_table(simulations: int, generator: np.random.Generator) -> None:
    """Print how often intervals hold what they are for."""
    print(
        "\n| scores | seeds | median interval | as computed | prediction | bootstrap of the IQM | bootstrap differs |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, kind in KINDS.items():
        truth = float(statistics.iqm(kind.draw(generator, (1_000_000,))))
        for n in (3, *SEEDS):
            x, y = kind.draw(generator, (simulations, n)), kind.draw(generator, (simulations, n))
            another = kind.draw(generator, (simulations,))
            median = [statistics.median_interval(scores) for scores in x]
            predicted = [statistics.prediction_interval(scores) for scores in x]
            some = min(simulations, 1000)
            boot = [
                statistics.bootstrap_interval([scores], statistics.aggregate_iqm, generator, resamples=1000)
                for scores in x[:some]
            ]
            apart = [
                statistics.bootstrap_interval(
                    [a, b], lambda drawn: statistics.iqm(drawn[0]) - statistics.iqm(drawn[1]), generator, resamples=1000
                )
                for a, b in zip(x[:some], y[:some], strict=True)
            ]
            print(
                f"| {name} | {n} | {_held(median, kind.median):.1%} | {median[0].confidence:.1%} "
                f"| {_held(predicted, another):.1%} | {_held(boot, truth):.1%} | {1 - _held(apart, 0.0):.1%} |",
                flush=True,
            )


def _held(intervals: Sequence[statistics.Interval], truth: float | Array) -> float:
    low, high = np.array([[interval.low, interval.high] for interval in intervals]).T
    # Ties at a cap are inside; a hair more, for rounding.
    return float(np.mean((low <= np.asarray(truth) + 1e-9) & (np.asarray(truth) <= high + 1e-9)))


def trimmed_p(x: Array, y: Array, cut: int) -> Array:
    """p-values of the permutation test of trimmed means, of sides of equal size.  # [S, n], [S, n] -> [S]

    Splits are of places in the sorted scores: what is left out is then the same for all pairs.
    """
    n = x.shape[1]
    mask = statistics._all_splits(n, n) > 0
    weights = np.zeros(mask.shape)
    for side, sign in ((mask, 1), (~mask, -1)):
        places = np.flatnonzero(side.ravel()).reshape(len(mask), n)[:, cut : n - cut]
        weights.ravel()[places] = sign / (n - 2 * cut)
    observed = np.abs(np.sort(x, 1)[:, cut : n - cut].mean(1) - np.sort(y, 1)[:, cut : n - cut].mean(1))
    both = np.sort(np.concatenate([x, y], 1), 1)
    counts = np.zeros(len(x))
    for part in np.array_split(weights, max(1, len(weights) // 1000)):
        counts += np.count_nonzero(np.abs(both @ part.T) >= observed[:, None] - 1e-9, 1)
    return counts / len(weights)


def used_p(x: Array, y: Array, generator: np.random.Generator) -> Array:
    """p-values of the test that is used.  # [S, n], [S, m] -> [S]"""
    return np.array([test.p for test in statistics.permutation_tests(list(zip(x, y, strict=True)), generator)])


def ranked(x: Array, y: Array) -> tuple[Array, Array]:
    """Scores as their ranks among both sides.  # [S, n], [S, m]"""
    both = rankdata(np.concatenate([x, y], 1), axis=1)
    return both[:, : x.shape[1]], both[:, x.shape[1] :]


def statistics_table(simulations: int, generator: np.random.Generator) -> None:
    """Print the power of other statistics by the same splits, and what they make of equal means."""
    print("| scores | seeds a side | means (used) | interquartile means | ranks | medians |\n" + "|---" * 6 + "|")
    for name, kind in KINDS.items():
        for n in SEEDS:
            x, y = kind.better(generator, (simulations, n)), kind.draw(generator, (simulations, n))
            found = [
                used_p(x, y, generator),
                trimmed_p(x, y, n // 4),
                used_p(*ranked(x, y), generator),
                trimmed_p(x, y, (n - 1) // 2),
            ]
            print(f"| {name} | {n} | " + " | ".join(f"{np.mean(p <= ALPHA):.1%}" for p in found) + " |", flush=True)
    print("\nNormal scores with equal means, the first side with a larger deviation; told apart:\n")
    print("| deviation | seeds | Welch's t (used) | difference of means | interquartile means | ranks |")
    print("|---|---:|---:|---:|---:|---:|")
    for times in (2, 4):
        for n, m in ((4, 4), (5, 5), (6, 6), (10, 10), (4, 10), (5, 10), (10, 5)):
            x, y = generator.normal(0, times, (simulations, n)), generator.normal(0, 1, (simulations, m))
            with mock.patch.object(statistics, "_larger_welch", statistics._larger_mean):
                plain = used_p(x, y, generator)
            found = [used_p(x, y, generator), plain]
            found += [trimmed_p(x, y, n // 4)] if n == m else []
            texts = [f"{np.mean(p <= ALPHA):.1%}" for p in found] + [""] * (n != m)
            texts.append(f"{np.mean(used_p(*ranked(x, y), generator) <= ALPHA):.1%}")
            print(f"| {times} × | {n} and {m} | " + " | ".join(texts) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000)
    parser.add_argument("--statistics", action="store_true", help="compare statistics instead")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    if options.statistics:
        statistics_table(options.simulations, generator)
        return
    for name, kind in KINDS.items():
        print(f"{name}: {kind.said}")
    print()
    fine = verdict_table(options.simulations, generator)
    interval_table(options.simulations, generator)
    if not fine:
        sys.exit("more is told apart than there is")


if __name__ == "__main__":
    main()
