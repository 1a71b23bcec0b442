"""Refusals: what would make a comparison of runs mislead, found before anything is computed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlkit_core.drift import COMPUTES_NOTHING
from rlkit_core.run_store import Curve, StoredGroup, StoredRun

By = Literal["final", "steps", "curve"]
"""What a comparison is about: returns of last policies, steps to a threshold, or means over evaluation curves."""

EVALUATION = "evaluation/return"
TRAINING = "rollout/return"

KEYS = {
    "mixed-settings": "the spread of a group has to be that of its seeds: give other settings a group of their own",
    "same-seed": "a run made twice is one run: leave one of them out",
    "budgets": "more steps are an advantage of their own: give all the same --total-steps",
    "environment-versions": "scores in other environments are no better or worse: run one side again",
    "evaluation-protocol": "scores measured in other ways differ by that alone: run one side again",
    "training-returns": "they are of a policy that explores, and of many policies: evaluate, or compare them elsewhere",
    "episodes-as-seeds": "they share one training, so they are one seed: train as many times as you count",
    "missing-runs": "what is left out is seldom left out by chance: finish them (rlkit resume), or select all",
    "code": "what differs may be the code's doing: run one side again, from a state that is committed",
    "stopped-early": "stopping at a good evaluation picks lucky ones: compare with --by steps, or run --stop-at never",
}
"""Why each misleads and what to do, by what `--allow` takes."""

LARGEST = 1e100
"""Returns from which on nothing is computed: their squares and sums would be no numbers any more."""

PACKAGES_OF_ENVIRONMENTS = ("gymnasium", "mujoco", "box2d", "ale-py")
NOT_OF_A_GROUP = (*COMPUTES_NOTHING, "seed", "total_steps", "imports", "requires", "env")
"""Settings, by the first part of their names, in which runs of a group may differ, or that are looked at elsewhere."""
NOT_OF_AN_ENVIRONMENT = ("env.name", "env.id", "env.timeout", "env.autoreset")
"""Settings of the environment that change nothing about it, and its name, which is looked at by itself."""


@dataclass(frozen=True)
class Refusal:
    """Something that would mislead.

    Attributes:
        key: what `--allow` takes.
        reason: which runs and which values, in words, on one line.
    """

    key: str
    reason: str

    def lines(self) -> list[str]:
        """For people: what, and why it misleads."""
        return [f"{self.key}: {self.reason}", f"  {KEYS[self.key]}"]


BECAME = {"failed": "failed", "running": "is running", "damaged": "is damaged"}
"""What became of runs that did not finish, where it is not said like `was killed`."""

Cells = dict[tuple[str, str], list[StoredRun]]
"""Runs by group and environment, in the order of their seeds."""


def by_seed(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Runs in an order of their own: by group, environment, seed."""

    def key(run: StoredRun) -> tuple[Any, ...]:
        return run.group, run.environment or "", math.inf if run.seed is None else run.seed, run.run_id, run.place

    return sorted(runs, key=key)


def cells(runs: Iterable[StoredRun]) -> Cells:
    """Sort runs into cells."""
    found: Cells = {}
    for run in by_seed(runs):
        found.setdefault((run.group, run.environment or ""), []).append(run)
    return found


def score_from(run: StoredRun, by: By) -> Literal["final", "evaluation", "training"] | None:
    """Where a run's score comes from: its final evaluation, its curve of evaluations, its training; None: nowhere."""
    if by == "final" and abs(run.final.get("return", math.nan)) < LARGEST:
        return "final"
    if _has_numbers(run.curves.get(EVALUATION)):
        return "evaluation"
    return "training" if _has_numbers(run.curves.get(TRAINING)) else None


def counted(runs: Iterable[StoredRun], by: By) -> list[StoredRun]:
    """Runs that are compared: those of a group that finished and have a score."""
    return [
        run
        for run in runs
        if run.state == "finished" and run.group and run.environment and score_from(run, by) is not None
    ]


def has_stopped(run: StoredRun) -> bool:
    """Whether it ended before its budget."""
    if run.steps is None or run.budget is None:
        return run.reached is not None
    return run.steps < run.budget


def steps_to(curve: Curve | None, threshold: float) -> int | None:
    """The first nominal step at which an evaluation's mean return is at least the threshold, or None."""
    if curve is None:
        return None
    reached = curve.values >= threshold
    return int(curve.steps[reached.argmax()]) if reached.any() else None


def refusals(
    runs: Sequence[StoredRun],
    *,
    group_runs: Sequence[StoredRun] | None = None,
    groups: Sequence[StoredGroup] = (),
    narrowed: bool = False,
    by: By = "final",
    thresholds: Mapping[str, float | None] | None = None,
) -> list[Refusal]:
    """What would mislead in comparing these runs, each once.

    Args:
        runs: the runs that were selected, whatever became of them, with curves of evaluations (and of training
            returns, where there are no evaluations).
        group_runs: all runs of their groups; default: those selected.
        groups: what groups of runs were meant to hold.
        narrowed: whether runs were selected by more than the names of groups: then what is missing in other
            environments is nobody's loss.
        by: what the comparison is about.
        thresholds: returns to be reached, by environment; where it is about steps.
    """
    compared = counted(runs, by)
    by_cell = cells(compared)
    by_environment: dict[str, list[StoredRun]] = {}
    for (_, environment), members in by_cell.items():
        by_environment.setdefault(environment, []).extend(members)
    found = {
        "mixed-settings": _mixed_settings(by_cell),
        "same-seed": _same_seed(by_cell),
        "budgets": _budgets(by_environment),
        "environment-versions": _environment_versions(by_environment),
        "evaluation-protocol": _evaluation_protocol(by_environment, by),
        "training-returns": _training_returns(by_cell, by),
        "episodes-as-seeds": _episodes_as_seeds(by_cell),
        "missing-runs": _missing_runs(runs, compared, runs if group_runs is None else group_runs, groups, narrowed),
        "code": _code(compared),
        "stopped-early": _stopped_early(by_cell, by, thresholds or {}),
    }
    return [Refusal(key, _several(list(reasons))) for key in KEYS if (reasons := list(found[key]))]


def environment_settings(run: StoredRun) -> dict[str, Any]:
    """The settings that make a run's environment another one."""
    found = {
        name: value
        for name, value in run.settings.items()
        if name.startswith("env.") and name not in NOT_OF_AN_ENVIRONMENT
    }
    if found.get("env.vectorization") == "async":
        found["env.vectorization"] = "sync"  # the same environments, a process each
    return found


def versionless(environment: str) -> tuple[str, str]:
    """An id as its name and its version, such as `("ALE/Pong", "v5")`; the latter is empty where there is none."""
    match = re.fullmatch(r"(.+)-(v\d+)", environment)
    return (match[1], match[2]) if match else (environment, "")


def other_versions(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Ids that are versions of one environment which not all its groups share, by the environment's name.

    Args:
        pairs: group and environment's id of each run.
    """
    ids: dict[str, dict[str, set[str]]] = {}
    for group, environment in pairs:
        ids.setdefault(versionless(environment)[0], {}).setdefault(group, set()).add(environment)
    return {
        name: set().union(*of_groups.values())
        for name, of_groups in ids.items()
        if len({frozenset(each) for each in of_groups.values()}) > 1
    }


def eval_every(run: StoredRun) -> int | None:
    """Environment steps between its evaluations, as set or as it follows from the budget."""
    every = run.settings.get("eval_every")
    if type(every) is int:
        return every
    if "eval_every" in run.settings and run.budget is not None:
        return max(1, run.budget // 50)
    curve = run.curves.get(EVALUATION)
    return int(curve.steps[0]) if curve is not None and len(curve.steps) else None


# One function for each refusal: it gives the reasons, one for each cell or environment where there is one.


def _mixed_settings(by_cell: Cells) -> Iterator[str]:
    for cell, runs in by_cell.items():
        names = {name for run in runs for name in run.settings if name.partition(".")[0] not in NOT_OF_A_GROUP}
        names |= {"env.autoreset"} & {name for run in runs for name in run.settings}
        differing = [
            (name, by_value)
            for name in sorted(names)
            if len(by_value := _by_value(runs, lambda run, name=name: run.settings.get(name))) > 1  # type: ignore[misc]
        ]
        by_algorithm = _by_value(runs, lambda run: run.algorithm)
        if len(by_algorithm) > 1 and not any(name == "algorithm.name" for name, _ in differing):
            differing.insert(0, ("algorithm", by_algorithm))
        if differing:
            yield f"{_place(cell)} has " + _several([_values(name, by_value) for name, by_value in differing])


def _same_seed(by_cell: Cells) -> Iterator[str]:
    for cell, runs in by_cell.items():
        known = [run for run in _distinct(runs) if run.seed is not None]
        for seed, of_seed in _by_value(known, lambda run: run.seed).items():
            if len(of_seed) > 1:
                yield f"{_place(cell)} has seed {seed} {len(of_seed)} times: {_places(of_seed)}"


def _budgets(by_environment: Mapping[str, list[StoredRun]]) -> Iterator[str]:
    for environment, runs in by_environment.items():
        budgets = _by_value([run for run in runs if run.budget is not None], lambda run: run.budget)
        if len(budgets) > 1:
            yield f"on {environment}, " + _and(
                f"{_groups(members)} had {members[0].budget:,} steps" for members in budgets.values()
            )


def _environment_versions(by_environment: Mapping[str, list[StoredRun]]) -> Iterator[str]:
    runs = [run for of_environment in by_environment.values() for run in of_environment]
    for name, ids in sorted(other_versions((run.group, run.environment or "") for run in runs).items()):
        yield f"{name} is " + _and(
            f"{environment} in {_groups(by_environment[environment])}" for environment in sorted(ids)
        )
    for environment, members in by_environment.items():
        settings = {run.place: environment_settings(run) for run in members}
        for name in sorted({name for each in settings.values() for name in each}):
            by_value = _by_value(members, lambda run: settings[run.place].get(name))  # noqa: B023
            if len(by_value) > 1:
                yield f"{environment} has " + _values(name, by_value, _groups)
        for package in PACKAGES_OF_ENVIRONMENTS:
            # A package that only one side has installed is none that the environment needs.
            with_it = [run for run in members if package in run.versions]
            by_value = _by_value(with_it, lambda run: run.versions[package])  # noqa: B023
            if len(by_value) > 1:
                yield f"{environment} was made by " + _values(package, by_value, _groups)


def _evaluation_protocol(by_environment: Mapping[str, list[StoredRun]], by: By) -> Iterator[str]:
    for environment, members in by_environment.items():
        evaluated = [run for run in members if score_from(run, by) != "training"]
        same_budget = len({run.budget for run in evaluated}) == 1
        # Where budgets differ, and that is said, evaluations follow them.
        every = eval_every if same_budget else (lambda run: run.settings.get("eval_every"))
        asked: list[tuple[str, Callable[[StoredRun], Any], list[StoredRun]]] = [
            ("eval_every", every, evaluated),
            ("eval_episodes", lambda run: run.settings.get("eval_episodes"), evaluated),
            ("eval_max_steps", lambda run: run.settings.get("eval_max_steps"), evaluated),
        ]
        if by == "final":
            # What stopped early was evaluated over other numbers of episodes for that, which is said by itself.
            to_the_end = [run for run in evaluated if not has_stopped(run)]
            asked.append(("episodes of the final evaluation", lambda run: run.final.get("episodes"), to_the_end))
        differing = [(name, by_value) for name, key, runs in asked if len(by_value := _by_value(runs, key)) > 1]
        if differing:
            yield f"{environment} has " + _several([_values(name, by_value, _groups) for name, by_value in differing])


def _training_returns(by_cell: Cells, by: By) -> Iterator[str]:
    for cell, runs in by_cell.items():
        without = [run for run in runs if score_from(run, by) == "training"]
        if without:
            yield f"{_place(cell)} has no evaluations, only returns of training, in {_seeds(without)}"


def _episodes_as_seeds(by_cell: Cells) -> Iterator[str]:
    everywhere = [run for runs in by_cell.values() for run in runs]
    same_id = [runs for runs in _by_value(everywhere, lambda run: run.run_id).values() if len(runs) > 1]
    for runs in same_id:
        yield f"{_places(runs)} are records of one training run, {runs[0].run_id[:12]}"
    known = {run.place for runs in same_id for run in runs}
    for cell, runs in by_cell.items():
        rest = [run for run in runs if run.place not in known]
        for begun in _by_value([run for run in rest if run.init_from is not None], lambda run: run.init_from).values():
            if len(begun) > 1:
                yield f"{_place(cell)}: {_seeds(begun)} all began from the policy of {begun[0].init_from}"
        for copies in _by_value([run for run in rest if _telling(run)], _fingerprint).values():
            # The same seed twice is said by itself, and unknown seeds are no excuse.
            if len(copies) > 1 and (len({run.seed for run in copies}) > 1 or copies[0].seed is None):
                yield f"{_place(cell)}: {_seeds(copies)} have one and the same curve, point by point"


def _missing_runs(
    selected: Sequence[StoredRun],
    compared: Sequence[StoredRun],
    group_runs: Sequence[StoredRun],
    groups: Sequence[StoredGroup],
    narrowed: bool,
) -> Iterator[str]:
    sides = {run.group for run in selected if run.group}
    parents = {run.parent for run in compared if run.parent}
    environments = {run.environment for run in compared}
    have = {(run.group, run.environment, run.seed) for run in compared if run.seed is not None}
    there, places = {run.place for run in compared}, {run.place for run in selected}

    def matters(group: str, environment: str | None) -> bool:
        return group in sides and (environment is None or not narrowed or environment in environments)

    missing: dict[str, dict[tuple[str, str], set[str]]] = {}

    def add(what: str, group: str, environment: str | None, seed: int | None, place: str | None = None) -> None:
        name = f"seed {seed}" if seed is not None else place or "a run"
        missing.setdefault(what, {}).setdefault((group, environment or "?"), set()).add(name)

    seen = set()
    for run in {run.place: run for run in (*selected, *group_runs)}.values():
        key = (run.group, run.environment, run.seed)
        of_ours = matters(run.group, run.environment) or (run.state == "damaged" and run.parent in parents)
        # A seed that was run again, and then finished, is not missing.
        if not of_ours or run.place in there or key in have:
            continue
        seen.add(key)
        if run.state != "finished":
            add(BECAME.get(run.state, f"was {run.state}"), *key, run.place)
        elif run.place in places:
            add("finished without a score", *key, run.place)
        else:
            add("is left out", *key, run.place)
    for group in groups:
        for key in group.planned:
            if matters(key[0], key[1]) and key not in have and key not in seen:
                add("was planned and is not there", *key)
    for what, of_cells in missing.items():
        listed = [f"{', '.join(sorted(names, key=natural))} of {_place(cell)}" for cell, names in of_cells.items()]
        yield f"{_several(listed)} {what}"


def _code(compared: Sequence[StoredRun]) -> Iterator[str]:
    differing = []
    for module in sorted({module for run in compared for module in run.code}):
        known = [run for run in compared if run.code.get(module)]
        by_value = _by_value(known, lambda run: run.code[module][:12])  # noqa: B023
        if len(by_value) > 1:
            differing.append(_values(f"files of {module}", by_value, _groups))
    if differing:
        yield _several(differing)
    dirty = [run for run in compared if run.dirty]
    if dirty:
        yield f"{_groups(dirty)} ran with changes in the working folder that no commit has"


def _stopped_early(by_cell: Cells, by: By, thresholds: Mapping[str, float | None]) -> Iterator[str]:
    for cell, runs in by_cell.items():
        stopped = [run for run in runs if has_stopped(run)]
        threshold = thresholds.get(cell[1])
        if by == "steps":
            if threshold is None:
                continue
            # A run that stops where it reaches what is asked has lost nothing; one that stops before has.
            stopped = [run for run in stopped if steps_to(run.curves.get(EVALUATION), threshold) is None]
        if stopped:
            first = stopped[0]
            after = "" if first.steps is None or first.budget is None else f" after {first.steps:,} of {first.budget:,}"
            why = f" ({first.reached})" if first.reached else ""
            before = f" below {threshold:g}" if by == "steps" else ""
            yield f"{_place(cell)}: {_seeds(stopped)} stopped early{before}, the first{after} steps{why}"


# How things are said.


def _place(cell: tuple[str, str]) -> str:
    return f"{cell[0]} on {cell[1]}" if cell[0] else cell[1]


def _groups(runs: Sequence[StoredRun]) -> str:
    """Groups, with the seeds where there are few enough to be told."""
    of_groups = _by_value(runs, lambda run: run.group)
    return _several([f"{members[0].group} ({_seeds(members)})" for members in of_groups.values()])


def _places(runs: Sequence[StoredRun]) -> str:
    return _several(sorted((run.place for run in runs), key=natural), most=3)


def _seeds(runs: Sequence[StoredRun]) -> str:
    """Seeds, such as `seeds 0-4, 7`."""
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    if not seeds:
        return _places(runs)
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(texts[:6])}{', …' * (len(texts) > 6)}"


def _values(
    name: str, by_value: Mapping[str, list[StoredRun]], runs: Callable[[Sequence[StoredRun]], str] | None = None
) -> str:
    """What the values of something are, and in which runs, such as `gamma 0.9 (seeds 0-4) and 0.99 (seeds 5-9)`."""
    tell = runs or _seeds
    texts = [f"{_short(value)} ({_plain(tell(members))})" for value, members in list(by_value.items())[:3]]
    more = f" and {len(by_value) - 3} more" if len(by_value) > 3 else ""
    return f"{name} {_and(texts)}{more}"


def _plain(text: str) -> str:
    """Without brackets, to stand in brackets."""
    return text.replace(" (", ", ").replace(")", "")


def _several(texts: Sequence[str], most: int = 2) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ("; " if any("," in text for text in texts) else ", ").join(texts[:most]) + more


def _and(texts: Iterable[str]) -> str:
    return " and ".join(texts)


def _short(value: str) -> str:
    return value if len(value) <= 40 else value[:37] + "…"


def natural(text: str) -> list[tuple[int, str]]:
    """Key to sort by, numbers within a text as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


# What is asked of runs.


def _by_value(runs: Iterable[StoredRun], key: Callable[[StoredRun], Any]) -> dict[str, list[StoredRun]]:
    """Runs by a value of theirs, as text, in the order in which values come first."""
    members = list(runs)
    values = [key(run) for run in members]
    # Nearly always all are the same: that is seen at once.
    texts = [_as_text(values[0])] * len(values) if values and values.count(values[0]) == len(values) else None
    found: dict[str, list[StoredRun]] = {}
    for run, text in zip(members, texts or map(_as_text, values), strict=True):
        found.setdefault(text, []).append(run)
    return found


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _distinct(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """One of each that have the same id."""
    return list({run.run_id: run for run in runs}.values())


def _has_numbers(curve: Curve | None) -> bool:
    return curve is not None and len(curve.values) > 0 and bool(abs(curve.values[-1]) < LARGEST)


def _telling(run: StoredRun) -> bool:
    """Whether no other training has this run's curve of evaluations."""
    curve = run.curves.get(EVALUATION)
    return curve is not None and max(len(set(curve.values.tolist())) - 3, len(set(curve.seconds.tolist()))) >= 2


def _fingerprint(run: StoredRun) -> str:
    """What copies of one training share: many different returns, or the same ones at the same milliseconds."""
    curve = run.curves[EVALUATION]
    many = len(set(curve.values.tolist())) >= 5
    return (curve.values.tobytes() + (b"" if many else curve.seconds.tobytes())).hex()
