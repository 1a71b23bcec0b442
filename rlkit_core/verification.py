"""Verification: runs of an algorithm beside a score that somebody published for it.

Published scores come with how they were measured (rlkit_core/published/*.toml): they are data, and a file of one's own
can be given instead. What is compared is measured as they did it: greedy evaluations beside greedy evaluations, returns
of the last training episodes beside those.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlkit_core import statistics
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_store import StoredRun

FOLDER = Path(__file__).parent / "published"
RETURN, EPISODES = "rollout/return", "rollout/episodes"
CURVES = (RETURN, EPISODES)
"""Curves that are read where published scores are of training episodes."""
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Published:
    """A published score.

    Attributes:
        algorithm: as it is called there.
        environment: id of the environment.
        mean: the score.
        spread: what stands behind the ±, or None; `Source.spread` says of what.
        steps: environment steps of training.
        episodes: evaluation episodes, or training episodes at the end that are averaged; None if it is not said.
        seeds: training runs that are averaged.
    """

    algorithm: str
    environment: str
    mean: float
    spread: float | None
    steps: int
    episodes: int | None
    seeds: int


@dataclass(frozen=True)
class Source:
    """A table of published scores.

    Attributes:
        name: as it is typed.
        title, url: where it is.
        measured: `evaluation` of a trained policy, or the last episodes of `training`.
        policy: how it acted meanwhile, for people.
        spread: what ± is, for people.
        packages: what the environments were of, for people; empty if it is not said.
        notes: further sentences on how scores were made.
        scores: the scores.
    """

    name: str
    title: str
    url: str
    measured: Literal["evaluation", "training"]
    policy: str
    spread: str
    packages: str = ""
    notes: tuple[str, ...] = ()
    scores: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Check:
    """What our runs say of a published score.

    Attributes:
        word: `consistent`: the published score lies where further seeds of ours would; `better`: it lies below that;
            `worse`: above; or `cannot tell`.
        reason: why, in a sentence.
        source: name of the source.
        published: the score.
        seeds: of our runs, ascending.
        scores: theirs, in that order.
        interval: where the mean score of as many further seeds as were published will lie; None with fewer than two.
        differences: in what the runs differ from the published ones, a sentence each.
    """

    word: Literal["consistent", "better", "worse", "cannot tell"]
    reason: str
    source: str
    published: Published
    seeds: tuple[int | None, ...] = ()
    scores: tuple[float, ...] = ()
    interval: statistics.Interval | None = None
    differences: tuple[str, ...] = field(default_factory=tuple)

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def source_names() -> list[str]:
    """Names of the sources that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_source(name: str) -> Source:
    """A source by its name, or from a file like those in rlkit_core/published.

    Raises:
        UsageError: there is none of that name.
        StorageError: the file cannot be read, or is not such a file.
    """
    if name in source_names():
        path = FOLDER / f"{name}.toml"
    elif name.endswith(".toml"):
        path = Path(name)
    else:
        raise UsageError(
            f"there are no published scores called {name}\n"
            f"there are: {', '.join(source_names())}; or give a file like rlkit_core/published/zoo.toml"
        )
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        return _source(path.stem, tomllib.loads(content.decode()))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} has no published scores: {error}") from error


def _source(name: str, data: Mapping[str, Any]) -> Source:
    measured = data.get("measured")
    if measured not in ("evaluation", "training"):
        raise ValueError(f"measured should be evaluation or training, not {measured!r:.60}")
    rows = data.get("scores")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("scores should be a list of tables")
    notes = data.get("notes", [])
    if not isinstance(notes, list):
        raise ValueError("notes should be a list of sentences")
    texts = {key: _typed(data, key, str) for key in ("title", "url", "policy", "spread")}
    shared = {key: data[key] for key in ("seeds", "episodes") if key in data}
    return Source(
        name=name,
        measured=measured,
        packages=str(data.get("packages", "")),
        notes=tuple(str(note) for note in notes),
        scores=tuple(_published({**shared, **row}) for row in rows),
        **texts,
    )


def _published(row: Mapping[str, Any]) -> Published:
    score = Published(
        algorithm=_typed(row, "algorithm", str),
        environment=_typed(row, "environment", str),
        mean=float(_typed(row, "mean", int, float)),
        spread=float(_typed(row, "spread", int, float)) if "spread" in row else None,
        steps=_typed(row, "steps", int),
        episodes=_typed(row, "episodes", int) if "episodes" in row else None,
        seeds=_typed(row, "seeds", int),
    )
    if not math.isfinite(score.mean) or min(score.steps, score.seeds, score.episodes or 1) < 1:
        raise ValueError(f"the score of {score.algorithm} on {score.environment} has numbers that cannot be")
    return score


def _typed(table: Mapping[str, Any], key: str, *types: type) -> Any:
    value = table.get(key)
    if type(value) not in types:
        raise ValueError(f"{key} should be {' or '.join(kind.__name__ for kind in types)}, not {value!r:.60}")
    return value


def find(source: Source, algorithm: str, environment: str) -> Published:
    """The score of an algorithm on an environment, or on another version of it, the newest.

    Raises:
        UsageError: there is none; says what there is.
    """
    of_algorithm = [score for score in source.scores if score.algorithm == algorithm]
    exact = [score for score in of_algorithm if score.environment == environment]
    name, _ = _version_of(environment)
    others = [score for score in of_algorithm if _version_of(score.environment)[0] == name]
    found = exact or sorted(others, key=lambda score: _version_of(score.environment)[1], reverse=True)
    if not found:
        there = [score.environment for score in of_algorithm]
        if there:
            raise UsageError(f"{source.title} has no score of {algorithm} on {environment}, but on {', '.join(there)}")
        there = sorted({score.algorithm for score in source.scores})
        raise UsageError(f"{source.title} has no score of {algorithm}, but of {', '.join(there)}")
    return found[0]


def _version_of(environment: str) -> tuple[str, int]:
    """The name of an environment without its version, and the version; -1 if it has none."""
    match = re.fullmatch(r"(.+)-v(\d{1,9})", environment)
    return (match[1], int(match[2])) if match else (environment, -1)


def score_of(run: StoredRun, source: Source, episodes: int | None) -> float:
    """A run's score, measured as the source does; NaN where it has none.

    Args:
        run: with the curves of `CURVES` where the source's scores are of training.
        source: what says how.
        episodes: training episodes that are averaged at least: those of whole records of the journal, from its end.
    """
    if source.measured == "evaluation":
        return float(run.final.get("return", math.nan))
    returns, counts = run.curves.get(RETURN), run.curves.get(EPISODES)
    if returns is None or counts is None:
        return math.nan
    # A record without an ended episode has a count, but no return.
    ended = np.diff(counts.values, prepend=0.0)
    number_at = dict(zip(counts.steps.tolist(), ended.tolist(), strict=True))
    total = summed = 0.0
    for step, value in zip(returns.steps[::-1].tolist(), returns.values[::-1].tolist(), strict=True):
        number = number_at.get(step, 0.0)
        total, summed = total + number, summed + number * value
        if total >= (episodes or 1):
            return float(summed / total)
    return math.nan


def verify(published: Published, source: Source, runs: Sequence[StoredRun], confidence: float = 0.95) -> Check:
    """Whether a published score lies where further seeds of ours would.

    Args:
        published: the score.
        source: where it comes from.
        runs: finished runs of one algorithm on one environment that differ in the seed only; with the curves of
            `CURVES` where the source's scores are of training.
        confidence: of the prediction interval.
    """
    runs = sorted(runs, key=lambda run: -1 if run.seed is None else run.seed)
    scored = [(run, score_of(run, source, published.episodes)) for run in runs]
    known = [(run, score) for run, score in scored if math.isfinite(score)]
    scores = np.array([score for _, score in known])
    n, fewest = len(scores), statistics.MIN_PREDICTED
    of = "another seed" if published.seeds == 1 else f"the mean of {published.seeds} further seeds"
    interval = statistics.prediction_interval(scores, confidence, seeds=published.seeds) if n > 1 else None
    word: Literal["consistent", "better", "worse", "cannot tell"]
    if n < fewest:
        word, reason = "cannot tell", f"{n} seed{'s' * (n != 1)}, and {fewest} are needed: {fewest - n} more"
    else:
        assert interval is not None
        low, high = _number(interval.low), _number(interval.high)
        where = f"{of} of ours lies between {low} and {high}"
        if interval.low <= published.mean <= interval.high:
            word, reason = "consistent", f"{where}, and so does {_number(published.mean)}"
        elif interval.confidence < confidence:
            word = "cannot tell"
            reason = f"all {n} scores are {low}, which does not tell how far others may lie from it"
        elif published.mean < interval.low:
            word, reason = "better", f"{where}, and {_number(published.mean)} is below"
        else:
            word, reason = "worse", f"{where}, and {_number(published.mean)} is above"
    differences = tuple(_differences(published, source, runs, len(runs) - n))
    weighty = [what for what in ("environment", "budget") if any(text.startswith(what) for text in differences)]
    if weighty and n >= fewest:
        reason += f"; but {' and '.join(weighty)} differ{'s' * (len(weighty) == 1)}"
    return Check(
        word,
        reason,
        source.name,
        published,
        seeds=tuple(run.seed for run, _ in known),
        scores=tuple(scores.tolist()),
        interval=interval,
        differences=differences,
    )


def _differences(published: Published, source: Source, runs: Sequence[StoredRun], without: int) -> list[str]:
    """In what the runs differ from the published ones, as far as both are known."""
    said = []
    if without:
        said.append(f"runs: {without} of ours have no such score and are left out")
    environments = sorted({str(run.environment) for run in runs} - {published.environment})
    if environments:
        said.append(f"environment: published {published.environment}, ours {', '.join(environments)}")
    if source.packages:
        versions = sorted({run.versions["gymnasium"] for run in runs if "gymnasium" in run.versions})
        said.append(f"packages: published {source.packages}, ours gymnasium {', '.join(versions) or 'unknown'}")
    budgets = sorted({run.budget for run in runs if run.budget is not None} - {published.steps})
    if budgets:
        said.append(f"budget: published {published.steps:,} steps, ours {_listed(budgets)}")
    stopped = [run for run in runs if run.reached is not None]
    if stopped:
        said.append(f"budget: {len(stopped)} of ours stopped before it")
    if source.measured == "evaluation":
        ours = sorted({int(run.final["episodes"]) for run in runs if "episodes" in run.final})
        if ours != [published.episodes]:
            theirs = "an unknown number" if published.episodes is None else f"{published.episodes:,}"
            said.append(f"episodes: published score of {theirs}, ours of {_listed(ours) or 'an unknown number'} each")
    if published.seeds == 1:
        said.append("seeds: published is one training run, so that nothing is known of its spread")
    return said


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def _number(value: float) -> str:
    return f"{value:,.1f}"
