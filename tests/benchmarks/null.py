"""How often verdicts on few seeds are wrong, and how often they find what there is.

    python tests/benchmarks/null.py [--simulations 5000] [--statistics]

Groups are drawn from five distributions of scores, 4, 5, 6 and 10 seeds a side, and go through the verdict that
`rlkit compare` gives. Printed are the share of *better* and *worse* where there is no difference, with the upper end of
its 95 % interval (Clopper and Pearson), the same for three groups (any wrong verdict among three pairs), the share
found where there is a difference, and how often the intervals hold what they are for. It exits with code 1 if a share
without a difference is above 5 % or its upper end is at 6 % or above, where simulations are enough for that (2,000).

A share of exactly 5 % is seen above 5 % half of the time; tests of few seeds stay below, because their p-values come in
coarse steps. What is held is therefore the p-values' own level, which can be told from the upper end.

`--statistics` prints what else could have been tested: means, interquartile means, ranks and medians.
"""

from __future__ import annotations

import argparse
import math
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
            wrong = int(np.count_nonzero(told(kind.draw(generator, size), kind.draw(generator, size), generator)))
            found = told(kind.better(generator, size), kind.draw(generator, size), generator)
            family = three_groups(kind.draw(generator, (simulations, 3, n)), generator)
            bound = upper(wrong, simulations)
            family_bound = upper(round(family * simulations), simulations)
            fine &= bound < 0.06 and family_bound < 0.06
            print(
                f"| {name} | {n} | {wrong / simulations:.2%} | {bound:.2%} | {np.mean(found > 0):.1%} "
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


def statistics_table(simulations: int, generator: np.random.Generator) -> None:
    """Print the power of other statistics, by the same splits."""

    def cut(share: int) -> Any:
        return lambda n, m: ((n // share if share else 0, m // share if share else 0), "")

    def median(n: int, m: int) -> Any:
        return ((n - 1) // 2, (m - 1) // 2), ""

    candidates = {
        "used": (statistics._cut, False),
        "mean": (cut(0), False),
        "IQM": (cut(4), False),
        "ranks": (cut(0), True),
        "median": (median, False),
    }
    for alpha in (ALPHA, ALPHA / 3):
        print(f"\nFound at alpha {alpha:.2g}:\n\n| scores | seeds a side | " + " | ".join(candidates) + " |")
        print("|---|---:|" + "---:|" * len(candidates))
        for name, kind in KINDS.items():
            for n in SEEDS:
                x, y = kind.better(generator, (simulations, n)), kind.draw(generator, (simulations, n))
                found = []
                for function, ranked in candidates.values():
                    both = np.concatenate([x, y], 1)
                    if ranked:
                        both = rankdata(both, axis=1)
                    with mock.patch.object(statistics, "_cut", function):
                        pairs = list(zip(both[:, :n], both[:, n:], strict=True))
                        tests = statistics.permutation_tests(pairs, generator)
                    found.append(np.mean([test.p <= alpha and test.difference > 0 for test in tests]))
                print(f"| {name} | {n} | " + " | ".join(f"{share:.1%}" for share in found) + " |", flush=True)
    print("\nEqual means, one side with four times the deviation (told apart at 5 %):\n")
    print("| scores | seeds a side | used | mean | ranks |\n|---|---:|---:|---:|---:|")
    for name in ("normal", "skewed"):
        mean = {"normal": 0.0, "skewed": -math.exp(1.2**2 / 2)}[name]
        for n in SEEDS:
            x, y = KINDS[name].draw(generator, (simulations, n)), KINDS[name].draw(generator, (simulations, n))
            x = mean + 4 * (x - mean)
            shares = []
            for key in ("used", "mean", "ranks"):
                function, ranked = candidates[key]
                both = np.concatenate([x, y], 1)
                if ranked:
                    both = rankdata(both, axis=1)
                with mock.patch.object(statistics, "_cut", function):
                    tests = statistics.permutation_tests(list(zip(both[:, :n], both[:, n:], strict=True)), generator)
                shares.append(np.mean([test.p <= ALPHA for test in tests]))
            print(f"| {name} | {n} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)


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
    if not fine and options.simulations >= 2000:
        sys.exit("more is told apart than there is")


if __name__ == "__main__":
    main()
