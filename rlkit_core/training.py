"""Training: the only loop."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from rlkit_core.component import AlgorithmConfig, NetworkConfig, Setup, slots_of
from rlkit_core.config import RunConfig
from rlkit_core.continuation import Continuation, check_drift, choose_checkpoint
from rlkit_core.drift import MADE_WITH, made_with
from rlkit_core.errors import Diverged, RlkitError, StorageError, UsageError
from rlkit_core.presets import configure
from rlkit_core.progress import Mode, Progress, progress
from rlkit_core.provenance import provenance, stored_config
from rlkit_core.registry import Registry, import_modules
from rlkit_core.run_folder import Journal, RunFolder, read_json, set_tail_aside, write_json
from rlkit_core.seeding import SeedStream, generator_states, global_generators, set_generator_states
from rlkit_core.signals import received
from rlkit_core.tracking import TrackingProcess

# torch is imported where training begins, not here: until then the tracking process already starts beside us.
if TYPE_CHECKING:
    from rlkit_core.checkpoint import Checkpoint
    from rlkit_core.evaluation import Evaluation
    from rlkit_core.learner import Learner
    from rlkit_core.rollout import Rollout

CONFIRMATIONS = (100, 200)
"""Episodes of the two greedy evaluations in a row that `stop_at` asks for."""


_ONE_AT_A_TIME = threading.Lock()


@dataclass
class Result:
    """What a run reached.

    Attributes:
        run_dir: the run folder.
        state: `finished`, or `interrupted` by a signal.
        steps: environment steps taken.
        updates: updates of the learner.
        seconds: duration of training, evaluations included.
        reached: why the run stopped before its budget, or None.
        evaluation_return: mean return of the last greedy evaluation, or None where there was none.
        evaluation_episodes: its number of episodes.
        signal: number of the signal that interrupted it, or None.
        warning: what went wrong in tracking, or None.
        profile: seconds of training by what they were spent on (`rlkit_core.profiling.SECTIONS`), where that was asked.
    """

    run_dir: Path
    state: str = "running"
    steps: int = 0
    updates: int = 0
    seconds: float = 0.0
    reached: str | None = None
    evaluation_return: float | None = None
    evaluation_episodes: int = 0
    signal: int | None = None
    warning: str | None = None
    profile: dict[str, float] | None = None


def train(
    algorithm: str | AlgorithmConfig | RunConfig | Mapping[str, Any],
    *,
    plugins: Sequence[ModuleType] = (),
    run_dir: str | Path | None = None,
    preset: str | None = None,
    init_from: str | Path | None = None,
    progress: Mode = "auto",
    profile: bool = False,
    **settings: Any,
) -> Result:
    """Train, as `rlkit run` does, and leave a run folder.

    Args:
        algorithm: its name or config, or a whole `RunConfig`, or one as plain data.
        plugins: plugin modules that are not installed.
        run_dir: where the run goes; default: a new folder in `runs/`.
        preset: named settings of the algorithm; `none` for none, default: those made for the environment, where the
            algorithm is given by name; an instance of its config is taken as it is.
        init_from: run whose last policy the new one starts from.
        progress: `auto`, `rich`, `plain` or `none`.
        profile: measure what the time is spent on; the result has it.
        settings: of the run, for example `env="CartPole-v1", total_steps=50_000, seed=3, tracker="none"`.

    One run at a time in a process: it sets torch's threads and the global generators, and gives them back.

    Raises:
        RlkitError: one of its subclasses in `rlkit_core.errors`; each says what to do.

    Example:
        ```python
        result = train("a2c", env="CartPole-v1", seed=1)
        policy = load_policy(result.run_dir)
        ```
    """
    registry = Registry(plugins)
    if isinstance(algorithm, RunConfig):
        layer = {name: getattr(algorithm, name) for name in RunConfig.model_fields}
    elif isinstance(algorithm, Mapping):
        layer = dict(algorithm)
    else:
        layer = {"algorithm": algorithm}
    import_modules(settings.get("imports") or layer.get("imports") or (), from_here=True)
    config, preset = configure([layer, settings], registry, preset)
    return run(
        config,
        registry,
        preset=preset,
        run_dir=run_dir,
        init_from=init_from,
        progress_mode=progress,
        profile=profile,
    )


def run(
    config: RunConfig,
    registry: Registry,
    *,
    preset: str | None = None,
    run_dir: str | Path | None = None,
    init_from: str | Path | None = None,
    progress_mode: Mode = "auto",
    profile: bool = False,
    more: Mapping[str, Any] | None = None,
    followed: bool = False,
) -> Result:
    """Do a run with complete settings; see `train`.

    Args:
        config: the settings.
        registry: where parts are looked up.
        preset: name of the preset that is in them.
        run_dir: see `train`, as the rest.
        init_from: see `train`.
        progress_mode: see `train`.
        profile: see `train`.
        more: what `provenance.json` says besides, or instead.
        followed: a tracking process of somebody else sends the run's record.
    """
    env = config.env.resolve(config.algorithm.collector.num_envs)
    _threshold(config)
    config = config.model_copy(update={"env": env, "device": _device(config.device)})
    source = RunFolder.open(init_from).path if init_from is not None else None
    hooks = registry.hooks(config.hooks) if config.hooks else None
    if run_dir is not None:
        folder = RunFolder.create(Path(run_dir))
    else:
        folder = RunFolder.create_new(config.resolved_group, config.seed)
    try:
        about = {**provenance(config, registry, run_name=folder.path.name, preset=preset), **(more or {})}
        write_json(folder.provenance_path, {**about, "init_from": None if source is None else str(source)})
        # With it there is a run, which can be resumed.
        write_json(folder.config_path, stored_config(config, registry, preset))
        job = Job(config, registry, folder, about, hooks, init_from=source, followed=followed)
        return go(job, progress_mode=progress_mode, profile=profile)
    finally:
        folder.release()


@dataclass(frozen=True)
class Job:
    """A run to be done in its folder, from the beginning or from a checkpoint.

    Attributes:
        config: complete settings.
        registry: where parts are looked up.
        folder: the run folder, locked, with `config.json` and `provenance.json` in it.
        about: content of `provenance.json`.
        hooks: what the plugins that act during it are called by, or None where there are none.
        init_from: run whose last policy this one starts from.
        continuation: how the run goes on, if it was begun before.
        followed: a tracking process of somebody else sends its record, from when `status.json` says
            `"journal": "ready"`.
    """

    config: RunConfig
    registry: Registry
    folder: RunFolder
    about: dict[str, Any]
    hooks: Any
    init_from: Path | None = None
    continuation: Continuation | None = None
    followed: bool = False


def go(job: Job, *, progress_mode: Mode = "auto", profile: bool = False) -> Result:
    """Train in a run folder that has been made ready."""
    config, folder = job.config, job.folder
    threshold = _threshold(config)
    display = progress(progress_mode, config.total_steps)
    folder.write_status("running", result=None, error=None, journal=None)
    display.line(_headline(config, job.about.get("preset"), threshold))
    # Beside us while torch is imported; where a run goes on, only once it is known how.
    tracking = _start_tracking(job) if job.continuation is None else None
    result = Result(folder.path)
    try:
        with _own_world(config):
            training = _Training(job, display, result, threshold)
            if job.continuation is not None:
                display.line(job.continuation.note(folder, job.about, training.inexact))
                tracking = _start_tracking(job)
            training.run(profile)
            if job.continuation is not None and training.journal.deviates is not None:
                display.line(job.continuation.note_deviation(folder, training.journal.deviates))
        folder.write_status(result.state, result=_plain(result))
    except BaseException as error:
        _record_failure(folder, error)
        raise
    finally:
        display.close()
        if tracking is not None:
            result.warning = flush(tracking, folder.path)
    return result


def resume(
    run_dir: str | Path,
    *,
    total_steps: int | None = None,
    checkpoint: int | None = None,
    allow_drift: bool = False,
    plugins: Sequence[ModuleType] = (),
    imports: Sequence[str] = (),
    progress: Mode = "auto",
    profile: bool = False,
    followed: bool = False,
) -> Result:
    """Go on with a run from its last checkpoint, as `rlkit resume` does.

    Args:
        run_dir: the run folder.
        total_steps: another budget; what has finished goes on only with a larger one.
        checkpoint: step of the checkpoint to go on from; default: the last one.
        allow_drift: go on although settings, code, packages or the machine are other than they were and results
            change by that; it is recorded.
        plugins: plugin modules that are not installed.
        imports: modules that the caller vouches for, besides the installed ones that the run names itself.
        progress: `auto`, `rich`, `plain` or `none`.
        profile: measure what the time is spent on; the result has it.
        followed: a tracking process of somebody else sends the run's record.

    Returns:
        what the run has reached; where it had finished and nothing was to be done, what it had reached then.

    Raises:
        ResumeRefused: it would go on other than it began; `differences` says how.
        RunInUse: another process is writing to the folder.
        StorageError: the checkpoint is damaged.
        RlkitError: see `train`.
    """
    from rlkit_core.evaluation import open_run

    folder = RunFolder.open(run_dir)
    folder.take(timeout=2.0)  # a process that was killed a moment ago
    try:
        registry = Registry(plugins)
        config = open_run(run_dir, imports=imports, registry=registry)
        about = _dict_in(folder.provenance_path)
        status = folder.status()
        finished = status.get("state") == "finished"
        if finished and total_steps is None:
            return _result_of(folder, status)
        start = choose_checkpoint(folder, checkpoint)
        now = provenance(config, registry, run_name=str(about.get("run_name")), preset=about.get("preset"))
        then = made_with(config.dump(), about) if start is None else start.made_with
        found = check_drift(then, made_with(config.dump(), now), allow_drift)
        if total_steps is not None:
            config = _with_budget(config, total_steps, 0 if start is None else start.step, folder)
            write_json(folder.config_path, stored_config(config, registry, about.get("preset")))
        new_budget = None if total_steps is None else config.total_steps
        source = about.get("init_from")
        job = Job(
            config.model_copy(update={"device": _device(config.device)}),
            registry,
            folder,
            {**about, **{key: now[key] for key in MADE_WITH}},
            registry.hooks(config.hooks) if config.hooks else None,
            init_from=Path(source) if isinstance(source, str) else None,
            continuation=Continuation(start, found, new_budget, extends=finished and start is not None),
            followed=followed,
        )
        return go(job, progress_mode=progress, profile=profile)
    finally:
        folder.release()


def _dict_in(path: Path) -> dict[str, Any]:
    """A JSON file's table; an empty one where there is none that can be read."""
    try:
        data = read_json(path)
    except StorageError:
        return {}
    return data if isinstance(data, dict) else {}


def _result_of(folder: RunFolder, status: Mapping[str, Any]) -> Result:
    """What a run that has finished had reached."""
    stored = status.get("result")
    fields = {field.name for field in dataclasses.fields(Result)} - {"run_dir"}
    result = Result(
        folder.path, **{k: v for k, v in (stored if isinstance(stored, dict) else {}).items() if k in fields}
    )
    if type(result.steps) is not int:
        raise StorageError(f"{folder.status_path} is damaged: its result has no whole number of steps")
    return result


def _with_budget(config: RunConfig, total_steps: int, done: int, folder: RunFolder) -> RunConfig:
    """The settings with another budget, and everything that follows from it as it was."""
    if total_steps <= done:
        raise UsageError(f"{folder.path} has done {done:,} steps already\ngive more than that as --total-steps")
    kept = {"eval_every": config.resolved_eval_every, "log_every": config.resolved_log_every}
    return config.model_copy(update={"total_steps": total_steps, **kept})


def _start_tracking(job: Job) -> TrackingProcess | None:
    if job.followed:
        job.folder.write_status("running", journal="ready")
        return None
    return TrackingProcess.start(job.folder.path) if job.config.tracker.active else None


def flush(tracking: TrackingProcess, folder: Path) -> str | None:
    """Wait for the last records to be sent; Ctrl-C ends the waiting, not the run's result."""
    try:
        return tracking.finish()
    except KeyboardInterrupt:
        return f"not waiting for the tracker any longer\nsend what is missing with: rlkit sync {folder}"


def _headline(config: RunConfig, preset: str | None, threshold: float | None) -> str:
    collector = config.algorithm.collector
    how = getattr(config.env, "vectorization", "")
    many = "1 environment" if collector.num_envs == 1 else f"{collector.num_envs} environments"
    goal = f"until {threshold:g}, at most" if threshold is not None else "for"
    return (
        f"{config.algorithm.name} on {config.env.id} ({many}{', ' + how if how else ''}), "
        f"seed {config.seed}, {goal} {config.total_steps:,} steps" + (f", preset {preset}" if preset else "")
    )


def _threshold(config: RunConfig) -> float | None:
    """Return at which the run stops, or None where only the budget ends it."""
    if config.stop_at == "never":
        return None
    if isinstance(config.stop_at, float):
        return config.stop_at
    threshold = config.env.reward_threshold()
    if threshold is None and config.stop_at == "running-return":
        raise UsageError(f"{config.env.id} registers no reward threshold, which stop_at running-return needs")
    return threshold


def _plain(result: Result) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}


def exit_code_of(error: BaseException) -> int:
    """What the command returns for an error."""
    if isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args else None
        return 128 + (number if isinstance(number, int) else signal.SIGINT)
    return error.exit_code if isinstance(error, RlkitError) else RlkitError.exit_code


def write_error(folder: Path, error: BaseException) -> None:
    """Write `error.json` into a run folder.

    Raises:
        StorageError: it cannot be written.
    """
    content = {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": exit_code_of(error),
        "traceback": traceback.format_exception(error),
    }
    write_json(folder / "error.json", content)


def _record_failure(folder: RunFolder, error: BaseException) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    # The failure itself is what the user has to see, even where it cannot be written down.
    with contextlib.suppress(StorageError):
        write_error(folder.path, error)
        error.add_note(f"the traceback is in {folder.path / 'error.json'}")
        folder.write_status("interrupted" if interrupted else "failed", error=str(error))


@contextlib.contextmanager
def _own_world(config: RunConfig) -> Iterator[None]:
    """Torch's threads and all global generators set for the run, and set back afterwards."""
    import torch

    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise UsageError("another run is training in this process\ntake a process each: they would share generators")
    threads = torch.get_num_threads()
    # What is there now stays to the end: the garbage collector need not look through torch's modules again.
    frozen = gc.get_freeze_count()
    gc.freeze()
    # Once a block of this size has come and gone, glibc keeps freed memory of up to twice that. Else an update with
    # batches of 256 rows gives its memory back and gets it again, page by page: 8 % of SAC's time.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    try:
        torch.set_num_threads(config.threads)
        with global_generators(SeedStream(config.seed, "global")):
            yield
    finally:
        if not frozen:
            gc.unfreeze()
        torch.set_num_threads(threads)
        _ONE_AT_A_TIME.release()


class _Training:
    """One run: what the loop works with."""

    def __init__(self, job: Job, display: Progress, result: Result, threshold: float | None) -> None:
        from rlkit_core.checkpoint import Checkpoints

        self.config = config = job.config
        self.folder = folder = job.folder
        self.made_with = made_with(config.dump(), job.about)
        self.display = display
        self.result = result
        self.threshold = threshold
        self.hooks = job.hooks
        self.seeds = SeedStream(config.seed)
        self.collector = config.algorithm.collector.build(config.env, self.seeds.stream("collector"), config.device)
        try:
            setup = Setup(
                observation_space=self.collector.observation_space,
                action_space=self.collector.action_space,
                num_envs=config.algorithm.collector.num_envs,
                total_steps=config.total_steps,
                device=config.device,
                seeds=self.seeds.stream("learner"),
            )
            try:
                self.learner: Learner = config.algorithm.build(setup)
            except (MemoryError, RuntimeError) as error:
                # torch has no class of its own for it, but on CUDA.
                if isinstance(error, RuntimeError) and not re.search("memory|Storage size", str(error)):
                    raise
                raise UsageError(
                    f"{config.algorithm.name} with these settings does not fit into memory\ntake smaller networks"
                ) from error
            before = job.continuation
            if job.init_from is not None and (before is None or before.checkpoint is None):
                self._take_over(job.init_from, job.registry)
            self.recorder = _Recorder()
            self.num_evaluations = 0
            self.best = -math.inf
            self.final: Evaluation | None = None
            self.next_log, self.next_evaluation = config.resolved_log_every, config.resolved_eval_every
            self.next_checkpoint = config.resolved_checkpoint_every
            self.save_seconds, self.saved = 0.05, time.perf_counter()  # a guess, before the first save
            self.evaluating = 0.0  # seconds
            self.seconds_before = 0.0
            self.checkpoints = Checkpoints(folder.checkpoints_path, config.keep_checkpoints)
            self.inexact: str | None = None
            position = None
            if before is not None:
                position = 0 if before.checkpoint is None else self._restore(before.checkpoint)
                if before.extends:
                    # What has been averaged since the last record is in the one that the run ended with.
                    self.recorder.take(result.steps)
                    self.num_evaluations += 1
                    position = None
                elif before.deviates or self.inexact:
                    set_tail_aside(folder.journal_path, position)
            self.journal = Journal(folder.journal_path, position)
        except BaseException:
            self.collector.close()
            raise

    def run(self, profile: bool = False) -> None:
        """The loop, watched if wanted."""
        with self._profile() if profile else contextlib.nullcontext():
            self._loop()

    def _loop(self) -> None:
        config, result, collector, learner = self.config, self.result, self.collector, self.learner
        self.started = time.perf_counter()
        self.display.start()
        with _Signals() as signals, contextlib.closing(collector), contextlib.closing(self.journal):
            if self.hooks is not None:
                self.hooks.rlkit_run_started(config=config.dump(), run_dir=self.folder.path)
            while True:
                self._do_what_is_due(signals)
                if result.steps >= config.total_steps or result.reached is not None or signals.received is not None:
                    break
                rollout = collector.collect(learner.policy)
                if rollout.num_steps == 0:
                    continue  # nothing but dummy rows of autoresets: nothing to learn from
                metrics = learner.update(rollout)
                result.steps += rollout.num_steps
                result.updates += 1
                self._episodes(rollout)
                numbers = self.recorder.add(metrics, rollout)
                if self.hooks is not None and any(
                    self.hooks.rlkit_iteration_finished(step=result.steps, metrics=numbers)
                ):
                    result.reached = "a hook stopped the run"
            result.signal = signals.received
            self._finish(signals)

    def _do_what_is_due(self, signals: _Signals) -> None:
        """Record, evaluate, store, show: whatever this many environment steps call for."""
        steps = self.result.steps
        if steps >= self.next_log:
            self.next_log = _next(self.next_log, self.config.resolved_log_every, steps)
            self.journal.append(steps, self.recorder.take(steps))
        if steps >= self.next_evaluation and signals.received is None:
            nominal = self.next_evaluation
            began, before = time.perf_counter(), self._counters()
            self.next_evaluation = _next(nominal, self.config.resolved_eval_every, steps)
            with self.recorder.pause():
                try:
                    self._evaluate(nominal, signals)
                except _StoppedEvaluating:
                    # As if it had not begun: a resumed run does it as a whole.
                    self._take_counters(before)
            self.evaluating += time.perf_counter() - began
        if self.next_checkpoint is not None and steps >= self.next_checkpoint and self._may_save():
            self.next_checkpoint = _next(self.next_checkpoint, self.config.resolved_checkpoint_every or 1, steps)
            with self.recorder.pause():
                self._save_checkpoint()
        if self.display.due():
            self.display.show(steps, self.recorder.latest)

    def _may_save(self) -> bool:
        """Whether a checkpoint is worth its time now: always where its period is set, else a twentieth of it."""
        since = time.perf_counter() - self.saved - self.evaluating
        return self.config.checkpoint_every is not None or since >= 20 * self.save_seconds

    def _save_checkpoint(self, counters: Mapping[str, Any] | None = None) -> None:
        """Store all that decides how the run goes on."""
        if self.next_checkpoint is None or self.checkpoints.latest == self.result.steps:
            return
        began = time.perf_counter()
        self.journal.sync()  # what the checkpoint counts on must not be younger than it
        state = {
            "counters": self._counters() if counters is None else counters,
            "recorder": self.recorder.state_dict(),
            "collector": self.collector.state_dict(),
            "generators": generator_states(),
        }
        self.checkpoints.save(self.result.steps, state, self.learner.parts(), self.made_with)
        self.saved = time.perf_counter()
        self.save_seconds, self.evaluating = self.saved - began, 0.0

    def _counters(self) -> dict[str, Any]:
        """Where the loop stands."""
        return {
            "steps": self.result.steps,
            "updates": self.result.updates,
            "seconds": self._seconds(),
            "evaluation_return": self.result.evaluation_return,
            "evaluation_episodes": self.result.evaluation_episodes,
            "next_log": self.next_log,
            "next_evaluation": self.next_evaluation,
            "next_checkpoint": self.next_checkpoint,
            "num_evaluations": self.num_evaluations,
            "best": self.best,
            "journal": self.journal.position,
        }

    def _take_counters(self, counters: Mapping[str, Any]) -> None:
        for name in ("steps", "updates", "evaluation_return", "evaluation_episodes"):
            setattr(self.result, name, counters[name])
        for name in ("next_log", "next_evaluation", "next_checkpoint", "num_evaluations", "best"):
            setattr(self, name, counters[name])

    def _check_counters(self, counters: Mapping[str, Any], step: int) -> None:
        """Raise where counters are none: the loop would stumble over them much later."""
        for name in ("steps", "updates", "evaluation_episodes", "next_log", "next_evaluation", "num_evaluations"):
            _check_number(name, counters[name], whole=True)
        if counters["next_checkpoint"] is not None:
            _check_number("next_checkpoint", counters["next_checkpoint"], whole=True)
        for name in ("evaluation_return", "seconds"):
            if name == "seconds" or counters[name] is not None:
                _check_number(name, counters[name])
                if not math.isfinite(counters[name]):
                    raise ValueError(f"{name} is {counters[name]}")
        _check_number("best", counters["best"])
        if counters["steps"] != step:
            raise ValueError(f"it counts {counters['steps']} steps")
        journal = self.folder.journal_path
        size = journal.stat().st_size if journal.exists() else 0
        _check_number("journal", counters["journal"], whole=True)
        if counters["journal"] > size:
            raise StorageError(
                f"{journal} is damaged: it has {size:,} bytes, and had {counters['journal']:,} at checkpoint {step}"
            )

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Go on from a checkpoint; returns where its journal ends.

        Raises:
            StorageError: it does not fit the run's settings.
        """
        from rlkit_core.environment import Inexact

        state = checkpoint.state
        checkpoint.restore(self.learner.parts())
        self.checkpoints.go_on_from(checkpoint)
        try:
            counters = state["counters"]
            self._check_counters(counters, checkpoint.step)
            self._take_counters(counters)
            if self.next_checkpoint is None or self.config.checkpoint_every == "never":
                self.next_checkpoint = self.config.resolved_checkpoint_every
            self.seconds_before = float(counters["seconds"])
            self.recorder.load_state_dict(state["recorder"], self.result.steps)
            try:
                if state["collector"] is None:
                    raise Inexact("the collector does not store its state")
                self.collector.load_state_dict(state["collector"])
            except Inexact as error:
                self.inexact = str(error)
            # Last of all: building and restoring have drawn from them.
            set_generator_states(state["generators"])
            return int(counters["journal"])
        except RlkitError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise StorageError(f"checkpoint {checkpoint.step} of {self.folder.path} does not fit it: {what}") from error

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    @contextlib.contextmanager
    def _profile(self) -> Iterator[None]:
        from rlkit_core.profiling import Profile

        with contextlib.closing(Profile()) as profile:
            profile.watch_parts(self.collector, self.learner)
            for owner, method in (
                *((self.recorder, name) for name in ("add", "take")),
                (self, "_episodes"),
                (self.journal, "append"),
                (self.display, "show"),
            ):
                profile.watch(owner, method, "recording")
            for method in ("_evaluate", "_save_checkpoint", "_finish"):
                profile.leave_out(self, method)
            yield
            self.result.profile = profile.seconds

    def _episodes(self, rollout: Rollout) -> None:
        """What the original notebook does after each episode: its running return, its log line, its stopping rule."""
        for episode in rollout.episodes:
            number, running = self.recorder.add_episode(episode.episode_return)
            every = self.config.episode_log_every
            if every and number % every == 0:
                self.display.line(
                    f"Episode {number}\tLast reward: {episode.episode_return:.2f}\tAverage reward: {running:.2f}"
                )
            rule = self.config.stop_at == "running-return" and self.result.reached is None
            if rule and self.threshold is not None and running > self.threshold:
                self.result.reached = (
                    f"running return {running:.1f} after {number} episodes "
                    "(the notebook's rule: an average of training returns, no evaluation)"
                )

    def _evaluate(self, nominal: int, signals: _Signals) -> None:
        """A regular evaluation; where it reaches the threshold, the two longer ones that decide about stopping."""
        goal = None if self.config.stop_at == "running-return" else self.threshold
        evaluation = self._greedy("evaluation", self.config.eval_episodes, signals, nominal)
        if evaluation.mean > self.best:
            self.best = evaluation.mean
            self._save_policy("best")
        if goal is None or evaluation.mean < goal:
            return
        for episodes in CONFIRMATIONS:
            evaluation = self._greedy(f"confirmation_{episodes}", episodes, signals, nominal)
            if evaluation.surely < goal:
                return
        self.result.reached = f"greedy return {evaluation.mean:.1f} over {episodes} episodes"
        self.final = evaluation

    def _greedy(self, prefix: str, episodes: int, signals: _Signals, nominal: int | None = None) -> Evaluation:
        from rlkit_core.evaluation import evaluate_policy

        seeds = self.seeds.stream("evaluation", self.num_evaluations)
        self.num_evaluations += 1
        with signals.stopping_at_once():
            evaluation = evaluate_policy(
                self.learner.policy, self.config.env, seeds, episodes, self.config.eval_max_steps
            )
        metrics = evaluation.metrics(prefix)
        self.recorder.latest.update(metrics)
        due = {} if nominal is None else {f"{prefix}/nominal_step": float(nominal)}
        self.journal.append(self.result.steps, {**metrics, **due})
        self.result.evaluation_return, self.result.evaluation_episodes = evaluation.mean, episodes
        return evaluation

    def _finish(self, signals: _Signals) -> None:
        result = self.result
        self._save_checkpoint()
        if result.signal is None:  # else the rest of the averages is in the checkpoint
            if self.recorder.updates:
                self.journal.append(result.steps, self.recorder.take(result.steps))
            # Before the last evaluation, which may take long and be broken off; and after it, with what it gave.
            self._save_policy("last")
            if self.final is not None:  # confirmation stopped the run: the policy has just been evaluated
                self.journal.append(result.steps, self.final.metrics("final"))
            else:
                try:
                    self._greedy("final", CONFIRMATIONS[0], signals)
                except _StoppedEvaluating:
                    result.signal = signals.received
        self._save_policy("last")
        result.state = "finished" if result.signal is None else "interrupted"
        result.seconds = self._seconds()
        self.display.finish(result.steps, self.recorder.latest)
        if self.hooks is not None:
            self.hooks.rlkit_run_finished(step=result.steps, result=_plain(result))

    def _save_policy(self, which: str) -> None:
        import torch

        from rlkit_core.stored_policy import save_policy

        for name, weight in self.learner.policy.state_dict().items():
            if weight.is_floating_point() and not torch.isfinite(weight).all():
                raise Diverged(f"{name} of the policy is not finite; no {which} policy is stored")
        save_policy(
            self.folder.policy_path(which),
            self.learner.policy,
            self.config.algorithm,
            self.collector.observation_space,
            self.collector.action_space,
            {"step": self.result.steps, "evaluation_return": self.result.evaluation_return},
        )

    def _take_over(self, source: Path, registry: Registry) -> None:
        """Start from the last policy of another run."""
        from rlkit_core.stored_policy import algorithm_from_data, load_policy, policy_about, space_from_data

        about = policy_about(source)
        theirs = algorithm_from_data(about["algorithm"], registry)
        ours = self.config.algorithm
        networks = [slot for slot, kind in slots_of(type(ours)).items() if kind is NetworkConfig]
        differs = [slot for slot in networks if getattr(theirs, slot, None) != getattr(ours, slot)]
        for name, space in (("observation", self.collector.observation_space), ("action", self.collector.action_space)):
            if space_from_data(about[f"{name}_space"]) != space:
                differs.append(f"{name} space")
        if differs:
            raise UsageError(
                f"the policy of {source} does not fit this run: {' and '.join(differs)} differ\n"
                "take the same settings and environment as that run"
            )
        weights = load_policy(source, registry=registry).state_dict()
        try:
            self.learner.policy.load_state_dict(weights)
        except RuntimeError as error:
            raise UsageError(
                f"the policy of {source} does not fit this run's: it is {theirs.name}'s, of other parts or sizes\n"
                "take the same algorithm, and the same settings of its networks, exploration and normalisation"
            ) from error
        self.learner.policy_replaced()


def _check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Raise ValueError where a stored value is no number, or, if it has to be whole, no count."""
    if whole and not (type(value) is int and 0 <= value < 2**63):
        raise ValueError(f"{name} is {value!r:.50}, not a count")
    if type(value) not in (int, float):
        raise ValueError(f"{name} is {value!r:.50}, not a number")


def _next(at: int, every: int, steps: int) -> int:
    """The next nominal step after `steps`: where an update overran several, they count as one."""
    return at + every * ((steps - at) // every + 1)


def _device(name: str) -> str:
    """`cpu` or `cuda`, decided before a run folder exists; torch is asked only where it has to be."""
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UsageError("device cuda: torch finds no CUDA device here\ntake device cpu, or auto")
    return "cpu"


class _Recorder:
    """Averages metrics between two records of the journal."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.updates = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}  # not every update has every metric
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._num_episodes = 0
        self._running_return = 10.0  # where the notebook starts
        self._since, self._since_step = time.perf_counter(), 0

    def add(self, metrics: Mapping[str, Any], rollout: Rollout) -> dict[str, float]:
        """Take an update's metrics in, and return them as numbers.

        Raises:
            Diverged: one of them is not finite.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise Diverged(f"{name} is {number}")
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1
        self.updates += 1
        for episode in rollout.episodes:
            self._returns.append(episode.episode_return)
            self._lengths.append(episode.length)
        return numbers

    def add_episode(self, episode_return: float) -> tuple[int, float]:
        """Count a finished episode; returns its number from 1 and the notebook's running return (weight 0.05)."""
        self._num_episodes += 1
        self._running_return = 0.05 * episode_return + (1 - 0.05) * self._running_return
        return self._num_episodes, self._running_return

    def take(self, step: int) -> dict[str, float]:
        """The averages since the last call."""
        record = {f"learner/{name}": total / self._counts[name] for name, total in self._sums.items()}
        if self._returns:
            record["rollout/return"] = sum(self._returns) / len(self._returns)
            record["rollout/episode_length"] = sum(self._lengths) / len(self._lengths)
            record["rollout/running_return"] = self._running_return
        record["rollout/episodes"] = float(self._num_episodes)
        now = time.perf_counter()
        record["time/steps_per_second"] = (step - self._since_step) / max(now - self._since, 1e-9)
        self._since, self._since_step = now, step
        self._sums, self._counts, self._returns, self._lengths, self.updates = {}, {}, [], [], 0
        self.latest.update(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """All but the clock."""
        return {
            "latest": dict(self.latest),
            "updates": self.updates,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "num_episodes": self._num_episodes,
            "running_return": self._running_return,
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Go on from there, at an environment step."""
        self.latest, self._sums, self._counts = (dict(state[name]) for name in ("latest", "sums", "counts"))
        self._returns, self._lengths = list(state["returns"]), list(state["lengths"])
        for numbers in (self.latest.values(), self._sums.values(), self._returns):
            for number in numbers:
                _check_number("a recorded number", number)
        for count in (*self._counts.values(), *self._lengths, state["updates"], state["num_episodes"]):
            _check_number("a recorded count", count, whole=True)
        if self._sums.keys() != self._counts.keys() or 0 in self._counts.values():
            raise ValueError("recorded sums and counts do not belong together")
        _check_number("running_return", state["running_return"])
        self.updates, self._num_episodes = int(state["updates"]), int(state["num_episodes"])
        self._running_return = float(state["running_return"])
        self._since_step = step

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside does not count for steps per second."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


class _StoppedEvaluating(BaseException):
    """A signal came while a policy was evaluated, which nothing depends on; no error that somebody could handle."""


class _Signals:
    """SIGINT and SIGTERM ask the loop to stop after the present update; a second one forces out."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.received = received()  # one that came before, and was lost
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def stopping_at_once(self) -> Iterator[None]:
        """What is done inside is broken off by the first signal, with `_StoppedEvaluating`."""
        if self.received is not None:
            raise _StoppedEvaluating
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = self.received or number
        if again:
            raise KeyboardInterrupt(self.received)
        # Not by way of Python's own streams, which the signal may have interrupted.
        with contextlib.suppress(OSError):
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping after this update; once more stops at once\n".encode())
        if self._at_once:
            self._at_once = False
            raise _StoppedEvaluating
