"""Results of comparisons, made by hand, as `rlkit_core.comparison` describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def interval(value: float | None, half: float | None = None, method: str = "stratified bootstrap") -> dict[str, Any]:
    low, high = (None, None) if half is None or value is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high, "confidence": 0.95, "method": method}


def curve(xs: Sequence[float], runs: np.ndarray, *, has_band: bool = True) -> dict[str, Any]:
    """A curve of runs.  # [n, K]"""
    nothing = [None] * len(xs)
    return {
        "x": list(xs),
        "median": np.median(runs, axis=0).tolist(),
        "iqm": np.mean(runs, axis=0).tolist(),
        "low": runs.min(0).tolist() if has_band else nothing,
        "high": runs.max(0).tolist() if has_band else nothing,
        "confidence": 0.95,
        "method": "order statistics of the median",
        "runs": runs.tolist(),
    }


def side(name: str, seeds: int, level: float, *, points: int = 20, has_curves: bool = True) -> dict[str, Any]:
    generator = np.random.default_rng(seeds + int(level))
    xs = np.arange(1, points + 1) * 10_000
    runs = level * (1 - np.exp(-np.arange(1, points + 1) / 6)) + generator.normal(0, level / 15, (seeds, points))
    scores = runs[:, -1]
    reached = (runs >= 0.8 * 450).any(1)
    steps = np.where(reached, xs[(runs >= 0.8 * 450).argmax(1)], xs[-1])
    is_median_known = 2 * reached.sum() > seeds
    to_threshold = {
        "steps": steps.tolist(),
        "reached": reached.tolist(),
        "num_reached": int(reached.sum()),
        "median": {
            **{"value": float(np.median(steps)), "low": float(steps.min())},
            **{"high": float(steps.max()) if is_median_known and reached.all() else None},
            **{"confidence": 0.95, "method": "order statistics"},
        },
    }
    several = seeds > 1
    return {
        "side": name,
        "seeds": list(range(seeds)),
        "runs": [f"runs/{name}-{seed}" for seed in range(seeds)],
        "scores": scores.tolist(),
        "censored": [False] * seeds,
        "median": interval(float(np.median(scores)), 20.0 if several else None, "order statistics, exact"),
        "iqm": interval(float(np.mean(scores)), 18.0 if several else None),
        "mean": interval(float(np.mean(scores)), 17.0 if several else None),
        "final": scores.tolist(),
        "steps_to_threshold": to_threshold if has_curves else None,
        "curves": {
            "steps": curve(xs.tolist(), runs, has_band=several),
            "seconds": curve((xs / 900).tolist(), runs, has_band=several),
        }
        if has_curves
        else {"steps": None, "seconds": None},
        "settings": {"algorithm.learning_rate": level / 1e5, "algorithm.name": "a2c"},
    }


def result(
    names: Sequence[str] = ("classic/a2c", "classic/ppo"),
    environments: Sequence[str] = ("CartPole-v1",),
    *,
    seeds: int = 6,
    has_curves: bool = True,
) -> dict[str, Any]:
    """A comparison of sides with so many seeds each."""
    found = []
    for environment in environments:
        sides = [side(name, seeds, 470 - 90 * i % 400, has_curves=has_curves) for i, name in enumerate(names)]
        thresholds = np.linspace(0, 500, 30)
        pairs = [
            {
                **{"side": name, "baseline": names[0], "n": [seeds, seeds], "difference": interval(-40.0, 20.0)},
                "probability_of_improvement": interval(0.2, 0.15),
                **{"p": 0.01, "p_corrected": 0.02, "method": "exact", "splits": 924, "smallest_p": 2 / 924},
                **{"verdict": "worse", "reason": "p is below alpha", "more_seeds": 0},
                "text": f"{name} is worse than {names[0]} in {environment} (p = 0.02).",
            }
            for name in names[1:]
        ]
        fractions = [(np.array(item["scores"])[:, None] > thresholds).mean(0) for item in sides]
        profiles = {
            "thresholds": thresholds.tolist(),
            "sides": [
                {
                    **{"side": item["side"], "fraction": fraction.tolist()},
                    **{
                        "low": np.maximum(fraction - 0.1, 0).tolist(),
                        "high": np.minimum(fraction + 0.1, 1).tolist(),
                    },
                }
                for item, fraction in zip(sides, fractions, strict=True)
            ],
        }
        found.append(
            {
                **{"environment": environment, "budget": 200_000, "threshold": 360.0, "reference": None},
                **{"protocol": {"eval_every": "10000"}, "sides": sides, "pairs": pairs},
                **{"profiles": profiles, "notes": ["A note about this environment."]},
            }
        )
    overall = (
        [
            {
                **{"side": name, "baseline": names[0], "environments": list(environments)},
                "probability_of_improvement": interval(0.25, 0.1),
            }
            for name in names[1:]
        ]
        if len(environments) > 1
        else []
    )
    return {
        **{"format": 1, "name": "a comparison", "by": "final", "measure": "return of the last policy"},
        **{"better": "higher", "alpha": 0.05, "paired": False, "seed": 0, "resamples": 2000, "correction": "Holm"},
        **{"num_tests": len(environments) * (len(names) - 1), "sides": list(names), "environments": found},
        **{"overall": overall, "normalised": None, "allowed": [], "notes": ["A note about the whole."]},
        **{"versions": {"torch": "2.13.0"}, "made_with": {"rlkit-core": "0.1.0", "time": "2026-01-01T00:00:00"}},
        "reproduce": f"rlkit compare {' '.join(names)}",
    }
