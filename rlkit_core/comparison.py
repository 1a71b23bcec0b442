"""Comparison of groups of runs: from stored runs to numbers, intervals, tests and verdicts, as plain data.

`compare` gives what `comparison.json` holds and charts and reports are made from. Numbers are finite. An interval is a
table `{"value", "low", "high", "confidence", "method"}`; of steps to a threshold, what is not reached is None in it.

    format             1
    name               of the comparison
    by                 what the verdict is about: `final` (return of the last policy), `steps` (environment steps to the
                       threshold, fewer are better), `curve` (mean of the evaluations over the run)
    measure            the same, for people
    better             `higher` or `lower`
    alpha              probability of calling sides different anywhere in the comparison that are not
    paired             whether scores were paired by seed
    seed, resamples    of the bootstrap and of Monte-Carlo tests
    correction         `Holm`
    num_tests          tests of the whole comparison, which p was corrected for
    sides              names, in the order given; the first is the baseline
    environments       list, by name, of:
        environment    its id (several, joined by " / ", where versions were allowed to differ)
        budget         nominal budget in environment steps, or None
        threshold      return that counts as solved, or None
        reference      [low, high] for normalised scores, or None
        protocol       table for people: eval_every, eval_episodes, eval_max_steps, final_episodes
        sides          list, in the order of `sides`, of those that have runs here:
            side       name
            seeds      ascending [n]
            runs       where each lies, to be typed [n]
            scores     what the verdict is about, in the order of the seeds [n]
            censored   by `steps`: whether the threshold was not reached, the score then being the steps for which all
                       runs were watched; else all false [n]
            median     interval, exact (order statistics)
            iqm, mean  intervals (stratified bootstrap)
            final      returns of the last policies [n], None where there is none
            steps_to_threshold   None without a threshold, else {"steps": [n], "reached": [n] booleans, "num_reached",
                       "median": interval}; `steps` of a run that has not reached it are those that were watched
            curves     {"steps": curve, "seconds": curve} or None each, where a curve is {"x": [K], "median": [K],
                       "iqm": [K], "low": [K], "high": [K], "confidence", "method", "runs": [n][K]}: evaluations at
                       the nominal steps that all runs of the side have; or at K wall times, the last one before each
            settings   settings of the side that another side here has not, by dotted name
        pairs          list of:
            side, baseline       names: what is said is about `side`
            n                    [seeds of side, seeds of baseline]; if paired, pairs twice
            difference           interval: what was tested, of `side` less that of `baseline`
            statistic            what that is: `difference of the means`, or `mean of the differences` of pairs
            probability_of_improvement   interval: a run of `side` is better than one of `baseline` (ties count half)
            p, p_corrected       of the permutation test; the latter is None where there were too few seeds for any
            method               `exact` or `Monte Carlo`
            splits, smallest_p   see `statistics.Test`
            verdict              `better`, `worse` or `cannot tell`
            reason               why, in words
            more_seeds           how many more a side are needed before any difference could be told; 0 if enough
            text                 the verdict in one sentence
        profiles       None, or {"thresholds": [M], "sides": [{"side", "fraction": [M], "low": [M], "high": [M]}]}: the
                       fraction of runs that score above (by `steps`: need fewer than) each threshold
        notes          list of sentences
    overall            list per pair of sides that share several environments, of:
        side, baseline, environments   whose probabilities of improvement were averaged
        probability_of_improvement     interval
    normalised         None, or, where every shared environment has a reference: {"environments", "sides": [{"side",
                       "median", "iqm", "mean", "optimality_gap"}] intervals, "profiles": as above}
    allowed            list of {"key", "reason"}: what would mislead and was let pass
    notes              list of sentences about the whole
    versions           package: version, or versions joined by ", ", of the runs
    code               module: beginning of its files' hash, or of several, likewise
    made_with          {"rlkit-core": version, "time": ISO 8601}
    reproduce          command line
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

from rlkit_core import statistics
from rlkit_core.errors import UsageError
from rlkit_core.refusals import (
    EVALUATION,
    LARGEST,
    TRAINING,
    By,
    Refusal,
    by_seed,
    counted,
    eval_every,
    has_stopped,
    other_versions,
    score_from,
)
from rlkit_core.run_store import Curve, StoredRun

Array = np.ndarray[Any, Any]
Table = dict[str, Any]

MEASURES = {
    "final": "return of the last policy",
    "steps": "environment steps to the threshold",
    "curve": "mean return of the evaluations over the run",
}
NOT_SHOWN = ("seed", "group", "tracker", "requires", "imports", "hooks", "log_every", "episode_log_every")
"""Settings, by the first part of their names, that are not worth telling apart by."""
TIMES = 101
"""Points of a curve against wall time."""
LEVELS = 101
"""Thresholds of a performance profile."""


def compare(
    runs: Sequence[StoredRun],
    *,
    sides: Sequence[str] | None = None,
    name: str = "",
    by: By = "final",
    thresholds: Mapping[str, float | None] | None = None,
    references: Mapping[str, tuple[float, float]] | None = None,
    paired: bool = False,
    all_pairs: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = 2_000,
    allowed: Sequence[Refusal] = (),
    details: bool = True,
) -> Table:
    """Compare groups of runs; what would mislead is not looked for here, but by `rlkit_core.refusals`.

    The order of the runs changes nothing, and two sides that are swapped swap the answer, to the last bit.

    Args:
        runs: with curves; those that have not finished or have no score are left out.
        sides: names of groups, the baseline first; default: all there are, by name.
        name: of the comparison.
        by: what the verdict is about.
        thresholds: returns that count as solved, by environment.
        references: for normalised scores, by environment: the returns that count as 0 and as 1.
        paired: pair scores by seed: for seeds that sides share in all that is random.
        all_pairs: test every two sides, not only each against the baseline.
        alpha: probability of calling sides different anywhere in the comparison that are not.
        seed: of the bootstrap and of Monte-Carlo tests.
        resamples: of the bootstrap.
        allowed: what was found to mislead and is let pass.
        details: curves and profiles, too.

    Raises:
        UsageError: scores cannot be had: there is no threshold, or no step at which all were evaluated.
    """
    given, runs = runs, counted(runs, by)
    order = list(dict.fromkeys(sides)) if sides is not None else sorted({run.group for run in runs})
    merge = any(refusal.key == "environment-versions" for refusal in allowed)
    options = _Options(by, paired, alpha, seed, resamples, details)
    environments = [
        _Environment.of(name, members, by, thresholds or {}, references or {})
        for name, members in _by_environment(runs, order, merge).items()
    ]
    asked = [
        _Pair(environment, environment.sides[side], environment.sides[baseline])
        for environment in environments
        for baseline, side in _pairs(order, all_pairs)
        if side in environment.sides and baseline in environment.sides
    ]
    answers = _answers(asked, options)
    normalised, note = _normalised(environments, order, options)
    return {
        "format": 1,
        "name": name,
        "by": by,
        "measure": MEASURES[by],
        "better": "lower" if by == "steps" else "higher",
        "alpha": alpha,
        "paired": paired,
        "seed": seed,
        "resamples": resamples,
        "correction": "Holm",
        "num_tests": sum(answer["p_corrected"] is not None for answer in answers),
        "sides": order,
        "environments": [
            {
                **_about(environment, options),
                "pairs": [
                    answer for pair, answer in zip(asked, answers, strict=True) if pair.environment is environment
                ],
            }
            for environment in environments
        ],
        "overall": _overall(asked, options),
        "normalised": normalised,
        "allowed": [{"key": refusal.key, "reason": refusal.reason} for refusal in allowed],
        "notes": [*_left_out(given, runs, order), *([note] if note else [])],
        "versions": _joined([run.versions for run in runs]),
        "code": _joined([{module: digest[:12] for module, digest in run.code.items()} for run in runs]),
        "made_with": {},
        "reproduce": "",
    }


@dataclass(frozen=True)
class _Options:
    """How it is compared; see `compare`."""

    by: By
    paired: bool
    alpha: float
    seed: int
    resamples: int
    details: bool

    def generator(self) -> np.random.Generator:
        """A new one for each use: no number depends on what else is computed."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class _Side:
    """A side in one environment.

    Attributes:
        name: its name.
        runs: in the order of their seeds.
        curves: evaluations of each, without what is no finite number.
        scores: what the verdict is about.  # [n]
        first: steps at which each reached the threshold, infinity if it never did; None without a threshold.  # [n]
        watched: steps for which each was watched.  # [n]
    """

    name: str
    runs: list[StoredRun]
    curves: list[Curve]
    scores: Array
    first: Array | None
    watched: Array


@dataclass(frozen=True)
class _Environment:
    """An environment, with the sides that have runs in it."""

    name: str
    sides: dict[str, _Side]
    threshold: float | None
    reference: tuple[float, float] | None

    @classmethod
    def of(
        cls,
        name: str,
        members: Mapping[str, list[StoredRun]],
        by: By,
        thresholds: Mapping[str, float | None],
        references: Mapping[str, tuple[float, float]],
    ) -> _Environment:
        """Give every run its score."""
        ids = sorted({run.environment or "" for runs in members.values() for run in runs})
        threshold = next((thresholds[id] for id in ids if thresholds.get(id) is not None), None)
        reference = next((references[id] for id in ids if id in references), None)
        curves = {side: [_finite(run.curves.get(EVALUATION)) for run in runs] for side, runs in members.items()}
        watched = {side: _watched(runs, curves[side]) for side, runs in members.items()}
        first: dict[str, Array | None] = dict.fromkeys(members)
        if threshold is not None:
            for side, of_side in curves.items():
                first[side] = np.array([statistics.first_reached(c.steps, c.values, threshold) for c in of_side])
        if by == "final":
            scores = {
                side: np.array([_final(run, c) for run, c in zip(runs, curves[side], strict=True)])
                for side, runs in members.items()
            }
        elif by == "curve":
            steps = _common_steps([curve for of_side in curves.values() for curve in of_side])
            if not len(steps):
                raise UsageError(
                    f"there is no nominal step at which all runs on {name} were evaluated\n"
                    "compare by final, or run one side again with the other's --eval-every"
                )
            scores = {
                side: np.array([_at(curve, steps).mean() for curve in of_side]) for side, of_side in curves.items()
            }
        else:
            if threshold is None:
                raise UsageError(f"{name} has no return that counts as solved\ngive one: --threshold {ids[0]}=RETURN")
            reached = [(first[side], watched[side]) for side in members]
            cut, _ = statistics.restricted_steps([(one, end) for one, end in reached if one is not None])
            scores = dict(zip(members, cut, strict=True))
        sides = {
            side: _Side(side, runs, curves[side], scores[side], first[side], watched[side])
            for side, runs in members.items()
        }
        return cls(name, sides, threshold, reference)


@dataclass(frozen=True)
class _Pair:
    environment: _Environment
    side: _Side
    baseline: _Side

    def scores(self, paired: bool) -> tuple[Array, Array]:
        """Scores of the side and of the baseline; if paired, of the seeds that both have, in their order."""
        if not paired:
            return self.side.scores, self.baseline.scores
        mine, theirs = (
            {
                run.seed: score
                for run, score in zip(reversed(side.runs), side.scores[::-1], strict=True)
                if run.seed is not None
            }
            for side in (self.side, self.baseline)
        )
        shared = [seed for seed in dict.fromkeys(run.seed for run in self.side.runs) if seed in theirs and seed in mine]
        return np.array([mine[seed] for seed in shared]), np.array([theirs[seed] for seed in shared])


def _by_environment(
    runs: Iterable[StoredRun], order: Sequence[str], merge: bool
) -> dict[str, dict[str, list[StoredRun]]]:
    """Runs by environment and side; where versions are let pass, those of one environment are one."""
    runs = [run for run in by_seed(runs) if run.group in order]
    label: dict[str, str] = {}
    if merge:
        for ids in other_versions((run.group, run.environment or "") for run in runs).values():
            label |= dict.fromkeys(ids, " / ".join(sorted(ids)))
    found: dict[str, dict[str, list[StoredRun]]] = {}
    for run in runs:
        environment = run.environment or ""
        found.setdefault(label.get(environment, environment), {}).setdefault(run.group, []).append(run)
    return {
        environment: {side: found[environment][side] for side in order if side in found[environment]}
        for environment in sorted(found)
    }


def _pairs(order: Sequence[str], all_pairs: bool) -> list[tuple[str, str]]:
    """Baseline and side of each test."""
    return [(one, other) for one, other in combinations(order, 2) if all_pairs or one == order[0]]


# Scores of runs.


def _final(run: StoredRun, curve: Curve) -> float:
    """Return of the last policy: its final evaluation, else the last one; else the last tenth of training."""
    where = score_from(run, "final")
    if where == "final":
        return float(run.final["return"])
    if where == "evaluation":
        return float(curve.values[-1])
    training = _finite(run.curves.get(TRAINING))
    return float(training.values[training.steps >= 0.9 * training.steps[-1]].mean())


def _watched(runs: Sequence[StoredRun], curves: Sequence[Curve]) -> Array:
    """Steps for which each run was watched: its budget, or up to the last evaluation of one that stopped.  # [n]"""
    return np.array(
        [
            float(run.budget)
            if run.budget is not None and not has_stopped(run)
            else float(curve.steps[-1] if len(curve.steps) else run.steps or 0)
            for run, curve in zip(runs, curves, strict=True)
        ]
    )


def _finite(curve: Curve | None) -> Curve:
    """A curve's finite points, one per step: the last of those that have one."""
    if curve is None:
        return Curve(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    keep = np.flatnonzero((np.abs(curve.values) < LARGEST) & np.isfinite(curve.seconds))
    keep = keep[np.diff(curve.steps[keep], append=-1) != 0]
    return Curve(curve.steps[keep], curve.seconds[keep], curve.values[keep])


def _common_steps(curves: Sequence[Curve]) -> Array:
    """Nominal steps at which all were evaluated."""
    first = curves[0].steps
    if all(np.array_equal(curve.steps, first) for curve in curves[1:]):
        return first
    return reduce(lambda steps, curve: np.intersect1d(steps, curve.steps, assume_unique=True), curves[1:], first)


def _at(curve: Curve, steps: Array) -> Array:
    """Values at some of its steps."""
    return curve.values if len(steps) == len(curve.steps) else curve.values[np.searchsorted(curve.steps, steps)]


# Answers.


def _answers(asked: Sequence[_Pair], options: _Options) -> list[Table]:
    """What there is to say of each pair."""
    lower = options.by == "steps"
    # Always the same way around, whoever is the baseline.
    turned = [pair.side.name > pair.baseline.name for pair in asked]
    scores = [pair.scores(options.paired) for pair in asked]
    usual = [pair[::-1] if turn else pair for pair, turn in zip(scores, turned, strict=True)]
    known = [i for i, (x, y) in enumerate(usual) if len(x) and len(y)]
    found = dict(
        zip(
            known,
            statistics.verdicts(
                [usual[i] for i in known],
                options.generator(),
                alpha=options.alpha,
                paired=options.paired,
                higher_is_better=not lower,
            ),
            strict=True,
        )
        if known
        else ()
    )
    return [
        _answer(pair, usual[i], turned[i], found[i], options) if i in found else _no_answer(pair, options)
        for i, pair in enumerate(asked)
    ]


def _answer(
    pair: _Pair, usual: tuple[Array, Array], turned: bool, verdict: statistics.Verdict, options: _Options
) -> Table:
    x, y = usual
    test = verdict.test
    sign = -1.0 if options.by == "steps" else 1.0
    improvement = _interval(
        float(statistics.probability_of_improvement([sign * x], [sign * y])),
        statistics.improvement_interval([sign * x], [sign * y], options.generator(), resamples=options.resamples),
    )
    difference = _interval(test.difference, _difference_interval(x, y, options))
    if turned:
        improvement, difference = _mirrored(improvement, 1.0), _mirrored(difference, 0.0)
        verdict = statistics.verdict(
            replace(test, difference=0.0 - test.difference),
            1.0 if verdict.p is None else verdict.p,
            (len(y), len(x)),
            num_tests=verdict.num_tests,
            alpha=options.alpha,
            paired=options.paired,
            higher_is_better=options.by != "steps",
        )
    answer = {
        "side": pair.side.name,
        "baseline": pair.baseline.name,
        "n": [len(y), len(x)] if turned else [len(x), len(y)],
        "difference": difference,
        "statistic": test.statistic,
        "probability_of_improvement": improvement,
        "p": test.p,
        "p_corrected": verdict.p,
        "method": test.method,
        "splits": test.splits,
        "smallest_p": test.smallest_p,
        "verdict": verdict.word,
        "reason": verdict.reason,
        "more_seeds": verdict.seeds_missing,
    }
    return {**answer, "text": _text(pair, answer, verdict.num_tests, options)}


def _no_answer(pair: _Pair, options: _Options) -> Table:
    """For a pair that shares no seed."""
    fewest = statistics.MIN_PAIRS
    reason = f"no seed is in both; {fewest} pairs are needed at least"
    empty = {"value": None, "low": None, "high": None, "confidence": 0.95, "method": "none"}
    return {
        "side": pair.side.name,
        "baseline": pair.baseline.name,
        "n": [0, 0],
        "difference": empty,
        "statistic": "none",
        "probability_of_improvement": empty,
        "p": None,
        "p_corrected": None,
        "method": None,
        "splits": 0,
        "smallest_p": None,
        "verdict": "cannot tell",
        "reason": reason,
        "more_seeds": fewest,
        "text": f"cannot tell {_apart(pair)}: {reason}",
    }


def _difference_interval(x: Array, y: Array, options: _Options) -> statistics.Interval:
    if options.paired:
        return _bootstrap([x - y], statistics.aggregate_mean, options)
    return _bootstrap([x, y], lambda drawn: np.mean(drawn[0], -1) - np.mean(drawn[1], -1), options)


def _text(pair: _Pair, answer: Table, num_tests: int, options: _Options) -> str:
    """The verdict as a sentence."""
    if answer["verdict"] == "cannot tell":
        said = f"cannot tell {_apart(pair)}: "
    else:
        said = f"{pair.side.name} is {answer['verdict']} than {pair.baseline.name} on {pair.environment.name}: "
    pairs = f"{answer['n'][0]} pairs, " if options.paired else ""
    # The means are what is tested, the medians what is in the field's tables.
    said += f"{pairs}mean {_mean(pair.side, options)} against {_mean(pair.baseline, options)}, "
    said += f"median {_median(pair.side, options)} against {_median(pair.baseline, options)}"
    improvement = answer["probability_of_improvement"]
    said += (
        f", probability of improvement {improvement['value']:.2f} [{improvement['low']:.2f}, {improvement['high']:.2f}]"
    )
    if answer["p_corrected"] is None or (answer["verdict"] == "cannot tell" and answer["more_seeds"]):
        return f"{said}; {answer['reason']}"
    said += f", p = {_p(answer['p'])} {answer['method']}".replace("= less than", "<")
    if num_tests > 1:
        said += f", {_p(answer['p_corrected'])} after Holm's correction for {num_tests} tests"
    return said


def _apart(pair: _Pair) -> str:
    return f"{pair.side.name} and {pair.baseline.name} apart on {pair.environment.name}"


def _mean(side: _Side, options: _Options) -> str:
    value = float(side.scores.mean())
    return f"{value:,.0f} steps" if options.by == "steps" else number(value)


def _median(side: _Side, options: _Options) -> str:
    value = _median_interval(side, options)["value"]
    if value is None:
        return "not reached"
    return f"{value:,.0f} steps" if options.by == "steps" else number(value)


def number(value: float | None) -> str:
    """A return for people."""
    if value is None:
        return "-"
    size = abs(value)
    if 0 < size < 1 or size >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.{2 if 1 <= size < 100 else 1}f}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "less than 0.0001"


# Intervals.


def _interval(value: float | None, interval: statistics.Interval) -> Table:
    """As plain data; what is infinite is None."""
    low, high = (end if math.isfinite(end) else None for end in (interval.low, interval.high))
    known = None if value is None or not math.isfinite(value) else float(value)
    return {"value": known, "low": low, "high": high, "confidence": interval.confidence, "method": interval.method}


def _mirrored(interval: Table, about: float) -> Table:
    """The interval of `about - x`, such as the probability that the other side is better."""
    return {
        **interval,
        "value": about - interval["value"],
        "low": about - interval["high"],
        "high": about - interval["low"],
    }


def _bootstrap(
    strata: Sequence[Array], statistic: Callable[[Sequence[Array]], Array], options: _Options
) -> statistics.Interval:
    return statistics.bootstrap_interval(strata, statistic, options.generator(), resamples=options.resamples)


def _aggregate(strata: Sequence[Array], statistic: Callable[[Sequence[Array]], Any], options: _Options) -> Table:
    return _interval(float(statistic(strata)), _bootstrap(strata, statistic, options))


def _median_interval(side: _Side, options: _Options) -> Table:
    """Of the scores; by steps of the steps to the threshold, as far as they are known."""
    return _median_steps(side) if options.by == "steps" else _median_of(side.scores)


def _median_of(scores: Array) -> Table:
    return _interval(float(np.median(scores)), statistics.median_interval(scores))


def _median_steps(side: _Side) -> Table:
    assert side.first is not None
    return _interval(statistics.median_steps(side.first, side.watched), statistics.median_interval(side.first))


# What is told of an environment.


def _about(environment: _Environment, options: _Options) -> Table:
    runs = [run for side in environment.sides.values() for run in side.runs]
    budgets = sorted({run.budget for run in runs if run.budget is not None})
    notes = []
    if len(environment.sides) == 1:
        notes.append(f"only {next(iter(environment.sides))} has runs here: there is nothing to compare them with")
    training = sorted({run.group for run in runs if score_from(run, options.by) == "training"})
    if training:
        notes.append(f"scores of {', '.join(training)} are means of training returns over the last tenth of each run")
    evaluations = sorted(
        {run.group for run in runs if options.by == "final" and score_from(run, "final") == "evaluation"}
    )
    if evaluations:
        notes.append(f"scores of {', '.join(evaluations)} are of the last regular evaluation: there is no final one")
    return {
        "environment": environment.name,
        "budget": budgets[-1] if budgets else None,
        "threshold": environment.threshold,
        "reference": None if environment.reference is None else list(environment.reference),
        "protocol": {
            "eval_every": _different(eval_every(run) for run in runs),
            "eval_episodes": _different(run.settings.get("eval_episodes") for run in runs),
            "eval_max_steps": _different(run.settings.get("eval_max_steps") for run in runs),
            "final_episodes": _different(_whole(run.final.get("episodes")) for run in runs),
        },
        "sides": [_about_side(side, environment, options) for side in environment.sides.values()],
        "profiles": _profiles({side.name: [side.scores] for side in environment.sides.values()}, options),
        "notes": notes,
    }


def _about_side(side: _Side, environment: _Environment, options: _Options) -> Table:
    final = [run.final.get("return") for run in side.runs]
    steps = None
    if side.first is not None:
        reached = np.isfinite(side.first)
        steps = {
            "steps": np.where(reached, side.first, side.watched).tolist(),
            "reached": reached.tolist(),
            "num_reached": int(reached.sum()),
            "median": _median_steps(side),
        }
    by_steps = options.by == "steps" and side.first is not None
    return {
        "side": side.name,
        "seeds": [run.seed for run in side.runs],
        "runs": [run.place for run in side.runs],
        "scores": side.scores.tolist(),
        "censored": [bool(first > score) for first, score in zip(side.first, side.scores, strict=True)]  # type: ignore[arg-type]
        if by_steps
        else [False] * len(side.runs),
        "median": _median_interval(side, options),
        "iqm": _aggregate([side.scores], statistics.aggregate_iqm, options),
        "mean": _aggregate([side.scores], statistics.aggregate_mean, options),
        "final": [value if value is not None and abs(value) < LARGEST else None for value in final],
        "steps_to_threshold": steps,
        "curves": {"steps": _curve_by_steps(side), "seconds": _curve_by_seconds(side)}
        if options.details
        else {"steps": None, "seconds": None},
        "settings": _own_settings(side, environment),
    }


def _curve_by_steps(side: _Side) -> Table | None:
    """Evaluations at the nominal steps that all runs have: nothing is interpolated."""
    steps = _common_steps(side.curves)
    if not len(steps):
        return None
    return _curve(steps.tolist(), np.array([_at(curve, steps) for curve in side.curves]))


def _curve_by_seconds(side: _Side) -> Table | None:
    """Evaluations against wall time: at each time of a grid, the last one before.

    The grid goes from when all runs have been evaluated once to when the last one ended; a run that has ended by then
    keeps its last evaluation, since its policy is what one has.
    """
    if any(not len(curve.steps) for curve in side.curves):
        return None
    begin = max(float(curve.seconds[0]) for curve in side.curves)
    end = max(float(curve.seconds[-1]) for curve in side.curves)
    times = np.linspace(begin, end, TIMES) if end > begin else np.array([begin])
    rows = [curve.values[np.searchsorted(curve.seconds, times, side="right") - 1] for curve in side.curves]
    return _curve(times.tolist(), np.array(rows))


def _curve(xs: list[float], values: Array) -> Table:
    """Median, IQM and the median's exact interval at each point by itself.  # [n, K]"""
    ordered = np.sort(values, 0)
    # The interval's ends are two of the sorted scores: which, is the same at every point.
    ranks = statistics.median_interval(np.arange(float(len(values))))
    return {
        "x": xs,
        "median": np.median(ordered, 0).tolist(),
        "iqm": statistics.iqm(ordered.T).tolist(),
        "low": ordered[int(ranks.low)].tolist(),
        "high": ordered[int(ranks.high)].tolist(),
        "confidence": ranks.confidence,
        "method": f"median's interval: {ranks.method}",
        "runs": values.tolist(),
    }


def _profiles(scores: Mapping[str, Sequence[Array]], options: _Options) -> Table | None:
    """The fraction of runs that are better than each of many thresholds, from the worst score to the best."""
    if not options.details:
        return None
    every = np.concatenate([stratum for strata in scores.values() for stratum in strata])
    levels = np.linspace(every.min(), every.max(), LEVELS) if every.max() > every.min() else every[:1]
    sign = -1.0 if options.by == "steps" else 1.0
    sides = []
    for name, strata in scores.items():
        signed = [sign * stratum for stratum in strata]
        low, high = statistics.profile_band(signed, sign * levels, options.generator(), resamples=options.resamples)
        fraction = statistics.performance_profile(signed, sign * levels)
        sides.append({"side": name, "fraction": fraction.tolist(), "low": low.tolist(), "high": high.tolist()})
    return {"thresholds": levels.tolist(), "sides": sides}


def _own_settings(side: _Side, environment: _Environment) -> Table:
    """Settings in which a side differs from another one here; those of a mixed group are its first run's."""
    all_settings = [other.runs[0].settings for other in environment.sides.values()]
    mine = side.runs[0].settings
    return {
        name: _plain(value)
        for name, value in mine.items()
        if name.partition(".")[0] not in NOT_SHOWN
        and any(name not in settings or settings[name] != value for settings in all_settings)
    }


# Over environments.


def _overall(asked: Sequence[_Pair], options: _Options) -> list[Table]:
    """Probabilities of improvement, the only thing in common to returns of different scales, averaged."""
    by_names: dict[tuple[str, str], list[_Pair]] = {}
    for pair in asked:
        by_names.setdefault((pair.side.name, pair.baseline.name), []).append(pair)
    sign = -1.0 if options.by == "steps" else 1.0
    found = []
    for (side, baseline), pairs in by_names.items():
        if len(pairs) < 2:
            continue
        turned = side > baseline
        xs, ys = ([sign * scores for scores in of] for of in zip(*(p.scores(False) for p in pairs), strict=True))
        xs, ys = (ys, xs) if turned else (xs, ys)
        improvement = _interval(
            float(statistics.probability_of_improvement(xs, ys)),
            statistics.improvement_interval(xs, ys, options.generator(), resamples=options.resamples),
        )
        found.append(
            {
                "side": side,
                "baseline": baseline,
                "environments": [pair.environment.name for pair in pairs],
                "probability_of_improvement": _mirrored(improvement, 1.0) if turned else improvement,
            }
        )
    return found


def _normalised(
    environments: Sequence[_Environment], order: Sequence[str], options: _Options
) -> tuple[Table | None, str | None]:
    """Scores of all environments on one scale, where every one has a reference; else why there are none."""
    # Environments that all sides share: an average over others would say who was where.
    present = [side for side in order if any(side in environment.sides for environment in environments)]
    shared = [environment for environment in environments if all(side in environment.sides for side in present)]
    if options.by == "steps" or not any(environment.reference is not None for environment in shared):
        return None, None
    without = [environment.name for environment in shared if environment.reference is None]
    if without:
        return None, f"no scores over environments: there is no reference for {', '.join(without)}"
    scores: dict[str, list[Array]] = {side: [] for side in present}
    for environment in shared:
        assert environment.reference is not None
        low, high = environment.reference
        for side in present:
            scores[side].append((environment.sides[side].scores - low) / (high - low))
    sides = [
        {
            "side": side,
            "median": _aggregate(strata, statistics.aggregate_median, options),
            "iqm": _aggregate(strata, statistics.aggregate_iqm, options),
            "mean": _aggregate(strata, statistics.aggregate_mean, options),
            "optimality_gap": _aggregate(strata, statistics.optimality_gap, options),
        }
        for side, strata in scores.items()
    ]
    names = [environment.name for environment in shared]
    return {"environments": names, "sides": sides, "profiles": _profiles(scores, options)}, None


# Small things.


def _left_out(given: Sequence[StoredRun], runs: Sequence[StoredRun], order: Sequence[str]) -> Iterable[str]:
    """What is not compared, and no refusal speaks of."""
    there = {run.group for run in runs}
    yield from (f"{side} has no finished run" for side in order if side not in there)
    nowhere = sum(not run.group for run in given)
    if nowhere:
        yield f"{nowhere} run{'s' * (nowhere > 1)} of no group left out"


def _joined(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Values by name, different ones joined by commas."""
    names = sorted({name for table in tables for name in table})
    return {name: ", ".join(sorted({table[name] for table in tables if name in table})) for name in names}


def _different(values: Iterable[Any]) -> Any:
    """The value, or different ones joined by commas."""
    found = {json.dumps(value, default=str): value for value in values}
    return _plain(next(iter(found.values()))) if len(found) == 1 else ", ".join(sorted(found))


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return (
        value if isinstance(value, (str, int)) or value is None else json.loads(json.dumps(value), parse_constant=str)
    )


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None
