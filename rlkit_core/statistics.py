"""Statistics of scores of few seeds: intervals, aggregates and tests that hold what they promise at n = 4.

Scores are one number per training run (per seed): the unit that is drawn independently. Nothing here reads a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_SEEDS = 4
"""Seeds a side below which no two-sided permutation test reaches 5 %: 3 against 3 have 20 splits, p is 0.1 at least."""
MIN_PAIRS = 6
"""Likewise for pairs: 5 have 32 signs, p is 0.0625 at least."""


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
    """A permutation test.

    Attributes:
        p: two-sided p-value.
        method: `exact` or `Monte Carlo`.
        splits: how many ways of dealing the scores out were counted.
        smallest_p: what p can be at least with so many seeds.
    """

    p: float
    method: Literal["exact", "Monte Carlo"]
    splits: int
    smallest_p: float


def median_interval(
    scores: np.ndarray, confidence: float = 0.95
) -> Interval: ...  # two order statistics, binomial coverage


def iqm(scores: np.ndarray) -> float: ...  # rliable's interquartile mean


def bootstrap_interval(
    scores: Sequence[np.ndarray],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Interval: ...  # stratified


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float: ...


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray: ...


def permutation_test(
    x: np.ndarray, y: np.ndarray, generator: np.random.Generator, *, paired: bool = False, most_splits: int = 50_000
) -> Test: ...


def holm(p: Sequence[float]) -> list[float]: ...  # adjusted p-values


def seeds_needed(alpha: float, num_tests: int, *, paired: bool = False) -> int: ...


def prediction_interval(
    scores: np.ndarray, confidence: float = 0.95
) -> Interval: ...  # where another seed's score will lie
