"""Tuning: a search for good settings, and an honest report about the best ones that it found.

A *trial* is one setting of what is searched, tried on several seeds, one after the other, the same ones in each trial:
a setting that is poor on the first costs one run (as SMAC's intensification, Hutter et al. 2011, section 4.2). Optuna
proposes the settings (TPE, Bergstra et al. 2011) and gives up trials that are behind.

The best trial's own score is too good, since it was chosen for being high (the winner's curse); and its seeds have
been looked at. So the best setting is run again on fresh seeds, and so are the settings from before the search.

    runs/<group>/study.json      what is searched and how, and the trials: all that Optuna is told
    runs/<group>/trial-007/…     the runs of a trial
    runs/<group>-report/         the runs of the report: default/…, tuned-007/…

Optuna's own storages are not used: its journal cannot be read any more after a torn line, and what is in `study.json`
is checked value by value. Optuna's study is made of it, in memory, so that one that is gone on with is the same.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlkit_core.config import Data, RunConfig
from rlkit_core.errors import ConfigError, ResumeRefused, StorageError, UsageError
from rlkit_core.executor import Ended, Executor, Task
from rlkit_core.group import Group, GroupResult, PlanEntry, add_runs, compute, group_path, make_group
from rlkit_core.group_folder import STUDY_FILE
from rlkit_core.progress import Mode, RunRow, group_progress
from rlkit_core.registry import Registry
from rlkit_core.run_folder import read_journal, read_json, write_json
from rlkit_core.search_space import Range, Space
from rlkit_core.seeding import SeedStream
from rlkit_core.signals import noting
from rlkit_core.tracking import TrackingProcess
from rlkit_core.training import flush

if TYPE_CHECKING:
    import optuna

FORMAT = 1
FIRST_SEARCH_SEED = 1_000_000
"""Seeds of searches are at least this: those that people type, and those of reports, are not used up by a search."""
HOPELESS = 3
"""Trials at the beginning that may fail before the study ends: then it is not their settings."""
OVERRUN = 0.1
"""Share of the budget that a run may take more than it, where the settings from before the search do not either.

A run ends with a whole rollout: where that is as long as the budget, it would win by the steps that it has more."""
PATIENCE = 5.0
"""Seconds that a run which is given up has to store its checkpoint."""

Score = Literal["final", "curve"]
Pruner = Literal["median", "hyperband", "none"]
State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Plan:
    """What is searched, and how.

    Attributes:
        config: all settings before the search; its `group` is the study's name.
        space: the settings that are searched.
        seeds: of the runs of each trial.
        by: what a run counts: its last policy's `final` evaluation, or the mean of its `curve` of evaluations.
        pruner: how trials that are behind are given up.
    """

    config: RunConfig
    space: Space
    seeds: tuple[int, ...]
    by: Score = "final"
    pruner: Pruner = "median"

    @property
    def evaluations(self) -> int:
        """Evaluations in a run, those of its budget's end not counted."""
        return self.config.total_steps // self.config.resolved_eval_every

    def signature(self) -> Data:
        """All that decides what the trials are, as plain JSON values."""
        return {
            "settings": {key: value for key, value in self.config.dump().items() if key != "group"},
            "space": [_as_data(setting.name, setting.range) for setting in self.space.settings],
            "seeds": list(self.seeds),
            "by": self.by,
            "pruner": self.pruner,
        }


def _as_data(name: str, range_: Range) -> Data:
    if range_.choices:
        return {"name": name, "choices": list(range_.choices)}
    return {"name": name, "low": range_.low, "high": range_.high, "log": range_.log}


def search_seeds(seed: int, number: int) -> tuple[int, ...]:
    """Seeds for the runs of trials: large ones, of a stream of the run's seed."""
    stream = SeedStream(seed, "tune", "search")
    return tuple(FIRST_SEARCH_SEED + stream.integer(i) % (2**31 - FIRST_SEARCH_SEED) for i in range(number))


class Trial(BaseModel):
    """A trial, as it is stored.

    Attributes:
        number: from 0 on.
        params: what Optuna knows of its settings: numbers as they were drawn, choices as JSON text.
        unchanged: whether it has the settings from before the search, which need not be in the ranges.
        state: running; or complete, pruned (given up), failed.
        score: mean over its seeds, where it is complete.
        scores: of each seed that is done.
        steps: environment steps of the longest of its runs.
        curve: what Optuna was told on the way: for each evaluation of each seed, the mean so far.
        rungs: Optuna's notes for Hyperband.
        reason: why it failed or was given up.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    number: int
    params: dict[str, int | float | str]
    unchanged: bool = False
    state: State = "running"
    score: float | None = None
    scores: list[float] = []
    steps: int = 0
    curve: list[float] = []
    rungs: dict[str, float] = {}
    reason: str | None = None


class Study:
    """The trials of a search, on disk and as Optuna sees them.

    Args:
        folder: where it is kept.
        plan: what is searched; a study that is there already has to be the same.

    Raises:
        UsageError: Optuna is not installed.
        ResumeRefused: there is another study in the folder.
        StorageError: what is there is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.path = folder / STUDY_FILE
        self.plan = plan
        self.trials: list[Trial] = []
        self._optuna = _import_optuna()
        self._asked: dict[int, optuna.Trial] = {}
        if self.path.exists():
            self._read()
        self._rebuild()

    def ask(self) -> Trial:
        """The next trial, and a note of it on disk. The first one is the settings as they are."""
        number = len(self.trials)
        defaults = self.plan.space.defaults() if number == 0 else None
        if defaults is not None:
            params = {name: _told(self._range(name), value) for name, value in defaults.items()}
            self.study.enqueue_trial(params)
        asked = self._ask(number)
        trial = Trial(number=number, params=dict(asked.params), unchanged=defaults is not None)
        self._asked[number] = asked
        self.trials.append(trial)
        self.write()
        return trial

    def report(self, trial: Trial, value: float) -> bool:
        """Tell how a trial is after one more evaluation; returns whether it is to be given up."""
        trial.curve.append(value)
        asked = self._asked[trial.number]
        asked.report(value, len(trial.curve))
        return bool(asked.should_prune())

    def end(self, trial: Trial, state: State, score: float | None = None, reason: str | None = None) -> None:
        """Note how a trial ended, on disk too."""
        notes = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        trial.rungs = {key: float(note) for key, note in notes.items() if key.startswith("completed_rung_")}
        trial.state, trial.score, trial.reason = state, score, reason
        self.write()
        self._rebuild()

    def values(self, trial: Trial) -> dict[str, Any]:
        """Values of what is searched, by name, as the trial has them."""
        return {name: _meant(self._range(name), param) for name, param in trial.params.items()}

    def config(self, trial: Trial, registry: Registry) -> RunConfig:
        """All settings of a trial, but for its seed and group.

        Raises:
            ConfigError: they do not go together.
        """
        if trial.unchanged:
            return self.plan.config
        layer = self.plan.space.layer(self.values(trial))
        return RunConfig.parse(self.plan.config.dump(), layer, registry=registry)

    @property
    def optuna_version(self) -> str:
        """Optuna's version now: another one may propose other settings."""
        return str(self._optuna.__version__)

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest score; of equal ones, the first."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(complete, key=lambda trial: trial.score or 0.0) if complete else None

    def best_config(self, registry: Registry) -> RunConfig:
        """All settings of the best trial."""
        assert self.best is not None
        return self.config(self.best, registry)

    def write(self) -> None:
        """Write it to disk."""
        trials = [
            trial.model_dump(exclude={"curve", "scores", "steps"} if trial.state == "running" else None)
            for trial in self.trials
        ]
        about = {"optuna": self.optuna_version}
        write_json(self.path, {"format": FORMAT, **about, **self.plan.signature(), "trials": trials})

    def _range(self, name: str) -> Range:
        return next(setting.range for setting in self.plan.space.settings if setting.name == name)

    def _read(self) -> None:
        data = read_json(self.path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise StorageError(f"{self.path} is damaged: it describes no study of format {FORMAT}")
        now = json.loads(json.dumps(self.plan.signature()))
        differences = list(_differences({key: data.get(key) for key in now}, now))
        if differences:
            what, then, today = differences[0][:3]
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise ResumeRefused(
                f"{self.path} holds another study: {what} was {then}, and is {today} now{more}\n"
                "go on with the same settings, or give this one a name of its own with --group",
                differences,
            )
        try:
            trials = data.get("trials")
            self.trials = [Trial.model_validate(trial) for trial in (trials if isinstance(trials, list) else ["?"])]
            for number, trial in enumerate(self.trials):
                self._check(trial, number)
        except (ValidationError, ValueError, LookupError) as error:
            message = " ".join(str(error).split())[:200]
            raise StorageError(f"{self.path} is damaged: {message}") from error

    def _check(self, trial: Trial, number: int) -> None:
        """Raise ValueError or LookupError where a stored trial is none of this study."""
        if trial.number != number:
            raise ValueError(f"trial {number} has the number {trial.number}")
        if (trial.state == "complete") != (trial.score is not None):
            raise ValueError(f"trial {number} is {trial.state}, with the score {trial.score}")
        if trial.state == "running" and (trial.curve or trial.scores or trial.steps):
            raise ValueError(f"trial {number} is running, and has scores")
        if len(trial.curve) > len(self.plan.seeds) * self.plan.evaluations or len(trial.rungs) > 100:
            raise ValueError(f"trial {number} has more values than evaluations")
        values: dict[str, Any] = {}
        for setting in self.plan.space.active(values):
            values[setting.name] = _meant(setting.range, trial.params[setting.name])
        if values.keys() != trial.params.keys():
            raise ValueError(f"trial {number} has settings that are not searched")

    def _rebuild(self) -> None:
        """Make Optuna's study of the trials."""
        optuna = self._optuna
        with _quiet():
            self.study = optuna.create_study(direction="maximize", pruner=self._pruner(), study_name="rlkit")
            # What waits is asked for in the order of its numbers, when all are there.
            for trial in self.trials:
                if trial.state == "running":
                    self.study.enqueue_trial(trial.params)
                    continue
                # A failed one is worse than all others: Optuna sorts so what was given up before it said anything.
                told = trial.curve if trial.state != "failed" else []
                self.study.add_trial(
                    optuna.trial.create_trial(
                        state=optuna.trial.TrialState.COMPLETE
                        if trial.state == "complete"
                        else optuna.trial.TrialState.PRUNED,
                        value=trial.score,
                        params=dict(trial.params),
                        distributions={name: self._distribution(name) for name in trial.params},
                        intermediate_values=dict(enumerate(told, 1)),
                        system_attrs=dict(trial.rungs) if trial.state != "failed" else {},
                    )
                )
            self._asked = {}
            for trial in self.trials:
                if trial.state == "running":
                    asked = self._asked[trial.number] = self._ask(trial.number)
                    for step, value in enumerate(trial.curve, 1):
                        asked.report(value, step)
                        asked.should_prune()  # notes its rungs

    def _ask(self, number: int) -> optuna.Trial:
        """Let Optuna propose a trial. What it draws depends on the seed, the number and the trials that have ended."""
        seed = SeedStream(self.plan.config.seed, "tune", "sampler").integer(number)
        with _quiet():
            self.study.sampler = self._optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            asked: optuna.Trial = self.study.ask()
            values: dict[str, Any] = {}
            for setting in self.plan.space.active(values):
                param = _suggest(asked, setting.name, setting.range)
                values[setting.name] = _meant(setting.range, param)
        return asked

    def _distribution(self, name: str) -> Any:
        return _distribution(self._optuna, self._range(name))

    def _pruner(self) -> Any:
        pruners, evaluations = self._optuna.pruners, self.plan.evaluations
        if self.plan.pruner == "none" or evaluations == 0:
            return pruners.NopPruner()
        if self.plan.pruner == "hyperband":
            most = evaluations * len(self.plan.seeds)
            return pruners.HyperbandPruner(min_resource=max(1, most // 27), max_resource=most, reduction_factor=3)
        # As rl-baselines3-zoo does: nothing is given up in the first third of a run.
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=evaluations // 3)


def _differences(then: Any, now: Any, path: str = "") -> Iterator[tuple[str, str, str, bool]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(key), now.get(key), f"{path}.{key}" if path else str(key)[:100])
    elif then != now:
        yield path, json.dumps(then)[:200], json.dumps(now)[:200], True


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "tuning needs Optuna, which is not installed\nget it with: pip install 'rlkit-core[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of Optuna's: that arguments are experimental is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _suggest(asked: optuna.Trial, name: str, range_: Range) -> Any:
    if range_.choices:
        return asked.suggest_categorical(name, [json.dumps(choice) for choice in range_.choices])
    low: Any = range_.low
    high: Any = range_.high
    if range_.whole:
        return asked.suggest_int(name, low, high, log=range_.log)
    return asked.suggest_float(name, low, high, log=range_.log)


def _distribution(optuna: Any, range_: Range) -> Any:
    if range_.choices:
        return optuna.distributions.CategoricalDistribution([json.dumps(choice) for choice in range_.choices])
    kind = optuna.distributions.IntDistribution if range_.whole else optuna.distributions.FloatDistribution
    return kind(range_.low, range_.high, log=range_.log)


def _told(range_: Range, value: Any) -> Any:
    """A value as Optuna has it: it takes no lists."""
    return json.dumps(range_.choices[range_.index(value)]) if range_.choices else value


def _meant(range_: Range, param: Any) -> Any:
    """The value that a parameter of Optuna stands for.

    Raises:
        ValueError, LookupError: it is none of the range's.
    """
    if range_.choices:
        return range_.choices[range_.index(json.loads(param) if isinstance(param, str) else param)]
    if type(param) not in (int, float) or (range_.whole and type(param) is not int) or range_.clip(param) != param:
        raise ValueError(f"{param!r:.50} is not between {range_.low} and {range_.high}")
    return range_.rounded(param)


# ---- the search ----


@dataclass
class _Evaluations:
    """The evaluations of a run, read from its journal as it grows.

    Attributes:
        values: at each nominal step that has been reached: where an update overran several, the same evaluation is that
            of all of them.
        final: the last policy's, or None.
        steps: environment steps taken.
    """

    path: Path
    every: int
    number: int
    values: list[float] = field(default_factory=list)
    final: float | None = None
    steps: int = 0
    _offset: int = 0

    def look(self) -> None:
        """Read what is new."""
        for offset, record in read_journal(self.path, self._offset):
            self._offset = offset
            metrics, step = record["metrics"], record["step"]
            value, last = metrics.get("evaluation/return"), metrics.get("final/return")
            if type(step) is not int:
                continue
            self.steps = step
            if _is_number(value) and "evaluation/nominal_step" in metrics:
                reached = min(step // self.every, self.number)
                self.values += [float(value)] * (reached - len(self.values))
            if _is_number(last):
                self.final = float(last)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


@dataclass
class _Running:
    """A trial that is being computed: the run of one of its seeds, and what has been read of it.

    Attributes:
        config: the trial's settings, but for seed and group.
        task: the run, or None where it had finished before.
        seen: evaluations of this run that Optuna has been told.
        ended: how the run ended, once it has.
    """

    trial: Trial
    config: RunConfig
    task: Task | None = None
    evaluations: _Evaluations | None = None
    seen: int = 0
    ended: Ended | None = None


class Stopped(Exception):
    """A signal asks the search to end; started again, it goes on."""


class Search:
    """Tries settings until there are as many trials as wanted.

    Args:
        study: the trials so far.
        group: the group that their runs are in; locked.
        registry: where parts are looked up.
        executor: computes the runs.
        jobs: trials at the same time, one run each.
        imports: modules that the user has named, and so vouches for.
        preset: name of the preset that is in the settings.
    """

    def __init__(
        self,
        study: Study,
        group: Group,
        registry: Registry,
        executor: Executor,
        *,
        jobs: int = 1,
        imports: Sequence[str] = (),
        preset: str | None = None,
    ) -> None:
        self.study = study
        self._group = group
        self._registry = registry
        self._executor = executor
        self._jobs = jobs
        self._imports = tuple(imports)
        self._preset = preset
        self._running: list[_Running] = []
        self._stopping: dict[Task, float] = {}

    def trials(self, number: int) -> Iterator[list[Trial]]:
        """Do trials until there are that many; yields those that have ended since the last time, a few times a second.

        Raises:
            RlkitError: what is wrong is not a trial's settings.
        """
        for trial in [trial for trial in self.study.trials if trial.state == "running"]:
            self._begin(trial)
        while True:
            while len(self._running) + len(self._stopping) < self._jobs and len(self.study.trials) < number:
                self._begin(self.study.ask())
            if not self._running and not self._stopping:
                return
            for ended in self._executor.wait(0.1):
                self._stopping.pop(ended.task, None)
                for running in self._running:
                    if running.task == ended.task:
                        running.ended = ended
            for task, since in self._stopping.items():
                if time.monotonic() - since > PATIENCE:
                    self._stopping[task] = math.inf
                    self._executor.stop(task)  # a second time: at once
            before = [running.trial for running in self._running]
            for running in list(self._running):
                self._follow(running)
            yield [trial for trial in before if trial.state != "running"]

    def progress(self) -> dict[int, tuple[int, float | None]]:
        """Of the trials that run: environment steps of all their runs so far, and their score so far."""
        found = {}
        for running in self._running:
            every, total = self.study.plan.config.resolved_eval_every, self.study.plan.config.total_steps
            curve = running.trial.curve
            found[running.trial.number] = (
                len(running.trial.scores) * total + running.seen * every,
                curve[-1] if curve else None,
            )
        return found

    def _begin(self, trial: Trial) -> None:
        try:
            config = self.study.config(trial, self._registry)
        except ConfigError as error:
            self._fail(trial, str(error))
            return
        running = _Running(trial, config)
        self._running.append(running)
        self._begin_run(running)

    def _begin_run(self, running: _Running) -> None:
        """Begin the run of the trial's next seed, or read it where it had finished before."""
        plan, trial = self.study.plan, running.trial
        label = f"trial-{trial.number:03d}"
        group = f"{self._group.record.name}/{label}"
        config = running.config.model_copy(update={"seed": plan.seeds[len(trial.scores)], "group": group})
        [planned] = add_runs(self._group, [PlanEntry(config, self._preset, label)], self._registry)
        folder = self._group.run_folder(planned)
        running.evaluations = _Evaluations(folder.journal_path, config.resolved_eval_every, plan.evaluations)
        running.seen, running.ended = 0, None
        task = Task(folder.path, self._imports)
        if folder.status().get("state") == "finished":
            running.task, running.ended = None, Ended(task, 0)
        else:
            running.task = task
            self._executor.start(task)

    def _follow(self, running: _Running) -> None:
        """Tell Optuna what is new, and see whether the run or the trial has ended."""
        plan, trial, evaluations = self.study.plan, running.trial, running.evaluations
        assert evaluations is not None
        evaluations.look()
        last = len(plan.seeds) * plan.evaluations
        while running.seen < len(evaluations.values):
            running.seen += 1
            so_far = evaluations.values[: running.seen]
            now = so_far[-1] if plan.by == "final" else sum(so_far) / len(so_far)
            given_up = self.study.report(trial, (sum(trial.scores) + now) / (len(trial.scores) + 1))
            # What is known to the end has a score: there is nothing left to save.
            if given_up and len(trial.curve) < last:
                self._give_up(running)
                return
        ended = running.ended
        if ended is None:
            return
        score = evaluations.final if plan.by == "final" else _mean(evaluations.values)
        if ended.exit_code != 0 or score is None:
            self._running.remove(running)
            _check_blame(ended)
            self._fail(trial, ended.error or "its run left no evaluation")
            return
        trial.steps = max(trial.steps, evaluations.steps)
        if trial.steps > self._most_steps():
            self._running.remove(running)
            self._fail(trial, f"its runs take {trial.steps:,} steps, and the budget is {plan.config.total_steps:,}")
            return
        trial.scores.append(score)
        if len(trial.scores) < len(plan.seeds):
            self._begin_run(running)
            return
        self._running.remove(running)
        self.study.end(trial, "complete", sum(trial.scores) / len(trial.scores))

    def _most_steps(self) -> float:
        unchanged = [trial.steps for trial in self.study.trials if trial.unchanged]
        return max([(1 + OVERRUN) * self.study.plan.config.total_steps, *unchanged])

    def _give_up(self, running: _Running) -> None:
        trial, plan = running.trial, self.study.plan
        steps = running.seen * plan.config.resolved_eval_every
        at = f"{steps:,} steps of seed {len(trial.scores) + 1} of {len(plan.seeds)}"
        self._running.remove(running)
        if running.task is not None and running.ended is None:
            self._stopping[running.task] = time.monotonic()
            self._executor.stop(running.task)
        self.study.end(trial, "pruned", reason=f"behind the others after {at}")

    def _fail(self, trial: Trial, reason: str) -> None:
        self.study.end(trial, "failed", reason=reason)
        ended = [other for other in self.study.trials if other.state != "running"]
        if len(ended) >= HOPELESS and all(other.state == "failed" for other in ended):
            raise UsageError(
                f"the first {len(ended)} trials have all failed, the last one so: {_first_line(reason)}\n"
                "this is not for their settings; see whether a single run works: rlkit run"
            )


def _check_blame(ended: Ended) -> None:
    """Raise where a run ended for what no setting can do anything about: the trial is to be done again.

    Raises:
        StorageError, Stopped: accordingly.
    """
    if ended.exit_code in (StorageError.exit_code, ResumeRefused.exit_code):
        error = StorageError(f"{ended.task.run_dir}: {_first_line(ended.error or 'cannot be written')}")
        error.exit_code = ended.exit_code
        raise error
    if ended.exit_code in (130, 143):
        raise Stopped


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass
class Outcome:
    """What a search has come to.

    Attributes:
        study: its trials.
        report: how the best setting, and the one from before the search, did on fresh seeds; None without a report.
        signal: number of the signal that interrupted it, or None.
        warning: what went wrong in tracking, or None.
    """

    study: Study
    report: Report | None = None
    signal: int | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Report:
    """Scores on seeds that the search has not seen.

    Attributes:
        path: folder of its runs.
        default: of the settings from before the search, by seed.
        tuned: of the best trial's; None where the best trial is the one with the settings from before.
        group: what has become of its runs.
    """

    path: Path
    default: dict[int, float]
    tuned: dict[int, float] | None
    group: GroupResult

    @property
    def complete(self) -> bool:
        """Whether all its runs have finished: what is left of a side where some failed says nothing about it."""
        return all(state == "finished" for state in self.group.states.values())


def tune(
    plan: Plan,
    registry: Registry,
    make_executor: Callable[[], Executor],
    *,
    trials: int,
    jobs: int = 1,
    report_seeds: int = 5,
    imports: Sequence[str] = (),
    preset: str | None = None,
    progress_mode: Mode = "auto",
) -> Outcome:
    """Search, and report; what has been done of it before, in the same folder, is not done again.

    Args:
        plan: what is searched. Its config's group is the study's name, and names the folder in `runs/`.
        registry: where parts are looked up.
        make_executor: makes what computes runs.
        trials: how many in all.
        jobs: how many at the same time.
        report_seeds: seeds 0, 1, … of the report.
        imports: modules that the user has named, and so vouches for.
        preset: name of the preset that is in the settings.
        progress_mode: `auto`, `rich`, `plain` or `none`.

    Raises:
        RlkitError: see `Study` and `Search`.
    """
    name = plan.config.resolved_group
    path = group_path(name)
    _import_optuna()  # before anything is written
    group = make_group(path, name, (), registry)
    tracking = None
    outcome: Outcome | None = None
    state = "failed"
    try:
        study = Study(path, plan)
        outcome = Outcome(study)
        group.folder.write_status("running", result=None, error=None)
        if plan.config.tracker.active:
            tracking = TrackingProcess.start(path)
        outcome.signal = _search(study, group, registry, make_executor, trials, jobs, imports, preset, progress_mode)
        state = "finished" if outcome.signal is None else "interrupted"
    finally:
        if outcome is not None:
            group.folder.write_status(state)
        if tracking is not None and outcome is not None:
            outcome.warning = flush(tracking, path)
        group.release()
    if outcome.signal is None and study.best is not None and report_seeds:
        outcome.report = _report(study, name, registry, make_executor, report_seeds, imports, preset, progress_mode)
        outcome.signal = outcome.report.group.signal
        outcome.warning = outcome.warning or outcome.report.group.warning
    return outcome


def _search(
    study: Study, group: Group, registry: Registry, make_executor: Callable[[], Executor], trials: int, jobs: int,
    imports: Sequence[str], preset: str | None, progress_mode: Mode,
) -> int | None:  # fmt: skip
    """Do the trials; returns the signal that has interrupted them, or None."""
    total = study.plan.config.total_steps * len(study.plan.seeds)
    rows = {number: RunRow(f"trial {number}", total) for number in range(trials)}
    rows |= {trial.number: _row(trial, study.plan) for trial in study.trials}
    display = group_progress(progress_mode)
    with noting("all runs store a checkpoint and stop") as signals:
        executor = make_executor()
        try:
            search = Search(study, group, registry, executor, jobs=jobs, imports=imports, preset=preset)
            done = len([trial for trial in study.trials if trial.state != "running"])
            again = f", {done} of them done before" if done else ""
            display.start(f"{group.record.name}: {trials} trials{again}, in {group.folder.path}", list(rows.values()))
            for ended in search.trials(trials):
                for number, (step, score) in search.progress().items():
                    row = rows[number]
                    row.name, row.state, row.step, row.evaluation = _name(study.trials[number]), "running", step, score
                for trial in ended:
                    rows[trial.number] = _row(trial, study.plan)
                    display.ended(rows[trial.number], list(rows.values()))
                if signals.received is not None:
                    return signals.received
                if display.due():
                    display.show(list(rows.values()))
        except Stopped:
            return signals.received or signal.SIGINT
        finally:
            try:
                executor.close()
            finally:
                display.close(list(rows.values()))
    return None


def _name(trial: Trial) -> str:
    return f"trial {trial.number}" + (" (unchanged)" if trial.unchanged else "")


def _row(trial: Trial, plan: Plan) -> RunRow:
    """A trial for display."""
    total = plan.config.total_steps * len(plan.seeds)
    states = {"complete": "finished", "pruned": "given up"}
    return RunRow(
        name=_name(trial),
        total=total,
        state=states.get(trial.state, trial.state),
        step=total if trial.state == "complete" else len(trial.curve) * plan.config.resolved_eval_every,
        evaluation=trial.score if trial.score is not None else trial.curve[-1] if trial.curve else None,
        error=trial.reason,
    )


def _report(
    study: Study, name: str, registry: Registry, make_executor: Callable[[], Executor], seeds: int,
    imports: Sequence[str], preset: str | None, progress_mode: Mode,
) -> Report:  # fmt: skip
    """Run the settings from before the search, and the best that it found, on fresh seeds."""
    best = study.best
    assert best is not None
    sides = {"default": study.plan.config}
    if not best.unchanged:
        sides[f"tuned-{best.number:03d}"] = study.config(best, registry)
    entries = [
        PlanEntry(config.model_copy(update={"seed": seed, "group": f"{name}/{side}"}), preset, side)
        for side, config in sides.items()
        for seed in range(seeds)
    ]
    group = make_group(group_path(f"{name}/report"), f"{name}/report", entries, registry)
    try:
        result = compute(group, make_executor, imports=imports, progress_mode=progress_mode)
        scores: dict[str, dict[int, float]] = {side: {} for side in sides}
        for planned in group.record.planned:
            side = planned.group.rpartition("/")[2]
            if side in sides and planned.seed < seeds and planned.run_dir in result.returns:
                scores[side][planned.seed] = result.returns[planned.run_dir]
    finally:
        group.release()
    tuned = None if best.unchanged else scores[f"tuned-{best.number:03d}"]
    return Report(group.folder.path, scores["default"], tuned, result)
