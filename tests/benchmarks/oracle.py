"""Aggregates and bootstrap intervals beside rliable's, on definitions that both share.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/oracle.py [--write]

Random scores of several sizes and shapes, with ties, go through both; the largest difference of each aggregate is
printed, and more than 1e-9 ends it with exit code 1. The bootstraps are given the same resamples. `--write` stores what
rliable says of a few of them in tests/rliable.json, to which the ordinary tests hold rlkit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rlkit_core import statistics

_arch = importlib.util.find_spec("arch")
if _arch is None or _arch.submodule_search_locations is None:
    sys.exit("rliable is not installed\npip install -c constraints.txt -e '.[bench]'")
# rliable needs arch's bootstrap only; importing arch itself fails with the tested pandas (arch 7.2, pandas 3.1).
_package = types.ModuleType("arch")
_package.__path__ = list(_arch.submodule_search_locations)
sys.modules["arch"] = _package

from rliable import library, metrics  # noqa: E402

Array = np.ndarray[Any, Any]
FIXTURE = Path(__file__).parents[1] / "rliable.json"
LIMIT = 1e-9
RESAMPLES = 40
THRESHOLDS = np.linspace(-1, 2, 13)


class Given:
    """In place of a generator: draws what it is given, one environment after another."""

    def __init__(self, *drawn: Array) -> None:
        self.drawn = iter([indices[..., task] for indices in drawn for task in range(indices.shape[2])])

    def integers(self, high: int, *, size: tuple[int, int]) -> Array:
        indices = next(self.drawn)
        assert indices.shape == size
        assert indices.max() < high
        return indices


def scores(generator: np.random.Generator, runs: int, tasks: int, kind: str) -> Array:
    """Scores as rliable wants them.  # [runs, tasks]"""
    made = generator.normal(0.5, 0.7, (runs, tasks))
    if kind == "tied":
        made = np.round(made * 2) / 2
    elif kind == "capped":
        made = np.minimum(made, 0.8)
    elif kind == "heavy":
        made = generator.standard_t(1.5, (runs, tasks))
    return made


def drawn_by_rliable(seed: int, *shapes: tuple[int, int]) -> list[Array]:
    """The indices that rliable draws: it takes them from numpy's global generator, whatever it is told.

    # [resamples, runs, tasks] each
    """
    np.random.seed(seed)
    each = [[np.random.choice(shape[0], shape, replace=True) for shape in shapes] for _ in range(RESAMPLES)]
    return [np.stack([indices[i] for indices in each]) for i in range(len(shapes))]


def rliables_interval(seed: int, given: Any, function: Callable[..., Array]) -> Array:
    """# [2, K]"""
    np.random.seed(seed)
    _, intervals = library.get_interval_estimates({"x": given}, function, reps=RESAMPLES)
    return np.asarray(intervals["x"])


def theirs(x: Array, y: Array, seed: int) -> dict[str, Any]:
    """What rliable says of two sides."""
    aggregates = [
        metrics.aggregate_mean,
        metrics.aggregate_median,
        metrics.aggregate_iqm,
        metrics.aggregate_optimality_gap,
    ]
    intervals = rliables_interval(seed, x, lambda x: np.array([aggregate(x) for aggregate in aggregates]))
    improvement = rliables_interval(seed, [x, y], lambda x, y: np.array([metrics.probability_of_improvement(x, y)]))
    np.random.seed(seed)
    profile, band = library.create_performance_profile({"x": x}, THRESHOLDS, reps=RESAMPLES)
    names = ("mean", "median", "iqm", "optimality_gap")
    return {
        **{name: float(aggregate(x)) for name, aggregate in zip(names, aggregates, strict=True)},
        **{f"{name}_interval": intervals[:, i].tolist() for i, name in enumerate(names)},
        "improvement": float(metrics.probability_of_improvement(x, y)),
        "improvement_interval": improvement[:, 0].tolist(),
        "profile": profile["x"].tolist(),
        "profile_band": np.asarray(band["x"]).tolist(),
    }


def ours(x: Array, y: Array, drawn: Array, drawn_x: Array, drawn_y: Array) -> dict[str, Any]:
    """The same by rlkit, from the same resamples."""
    xs, ys = list(x.T), list(y.T)

    def ends(interval: statistics.Interval) -> list[float]:
        return [interval.low, interval.high]

    aggregates: dict[str, Callable[[Any], Any]] = {
        "mean": statistics.aggregate_mean,
        "median": statistics.aggregate_median,
        "iqm": statistics.aggregate_iqm,
        "optimality_gap": statistics.optimality_gap,
    }
    generator: Any = Given
    return {
        **{name: float(aggregate(xs)) for name, aggregate in aggregates.items()},
        **{
            f"{name}_interval": ends(
                statistics.bootstrap_interval(xs, aggregate, generator(drawn), resamples=RESAMPLES)
            )
            for name, aggregate in aggregates.items()
        },
        "improvement": float(statistics.probability_of_improvement(xs, ys)),
        "improvement_interval": ends(
            statistics.improvement_interval(xs, ys, generator(drawn_x, drawn_y), resamples=RESAMPLES)
        ),
        "profile": statistics.performance_profile(xs, THRESHOLDS).tolist(),
        "profile_band": [
            list(end) for end in statistics.profile_band(xs, THRESHOLDS, generator(drawn), resamples=RESAMPLES)
        ],
    }


def cases() -> Iterator[tuple[int, Array, Array]]:
    """Seeds and scores of two sides."""
    generator = np.random.default_rng(0)
    seed = 0
    for kind in ("normal", "tied", "capped", "heavy"):
        for runs, other_runs, tasks in ((3, 3, 1), (4, 6, 2), (5, 5, 5), (10, 7, 3), (10, 10, 26), (33, 20, 4)):
            yield seed, scores(generator, runs, tasks, kind), scores(generator, other_runs, tasks, kind)
            seed += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write tests/{FIXTURE.name}")
    options = parser.parse_args()
    largest: dict[str, float] = {}
    stored = []
    for seed, x, y in cases():
        expected = theirs(x, y, seed)
        [drawn] = drawn_by_rliable(seed, x.shape)
        drawn_x, drawn_y = drawn_by_rliable(seed, x.shape, y.shape)
        found = ours(x, y, drawn, drawn_x, drawn_y)
        for name, value in expected.items():
            difference = float(np.abs(np.asarray(found[name]) - value).max())
            largest[name] = max(largest.get(name, 0.0), difference)
        if x.size <= 25:
            indices = {"drawn": drawn, "drawn_x": drawn_x, "drawn_y": drawn_y}
            stored.append(
                {"x": x.tolist(), "y": y.tolist(), "rliable": expected}
                | {name: value.tolist() for name, value in indices.items()}
            )
    for name, difference in largest.items():
        print(f"{name:24} largest difference {difference:.1e}")
    print(f"{seed + 1} pairs of sides, rliable {version('rliable')}")
    if options.write:
        content = {"rliable": version("rliable"), "thresholds": THRESHOLDS.tolist(), "cases": stored}
        FIXTURE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    if max(largest.values()) > LIMIT:
        sys.exit(f"more than {LIMIT:g} apart")


if __name__ == "__main__":
    main()
