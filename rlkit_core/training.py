"""Training: the only loop."""

from __future__ import annotations

import contextlib
import gc
import math
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
from rlkit_core.errors import Diverged, RlkitError, StorageError, UsageError
from rlkit_core.presets import configure
from rlkit_core.progress import Mode, Progress, progress
from rlkit_core.provenance import provenance
from rlkit_core.registry import Registry, import_modules
from rlkit_core.run_folder import Journal, RunFolder, write_json
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.tracking import TrackingProcess

# torch is imported where training begins, not here: until then the tracking process already starts beside us.
if TYPE_CHECKING:
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
) -> Result:
    """Do a run with complete settings; see `train`."""
    env = config.env.resolve(config.algorithm.collector.num_envs)
    threshold = _threshold(config)
    config = config.model_copy(update={"env": env, "device": _device(config.device)})
    hooks = registry.hooks(config.hooks) if config.hooks else None
    source = RunFolder.open(init_from).path if init_from is not None else None
    if run_dir is not None:
        folder = RunFolder.create(Path(run_dir))
    else:
        folder = RunFolder.create_new(config.resolved_group, config.seed)
    display = progress(progress_mode, config.total_steps)
    try:
        write_json(folder.config_path, config.dump())
        about = provenance(config, registry, run_name=folder.path.name, preset=preset)
        write_json(folder.provenance_path, {**about, "init_from": None if source is None else str(source)})
        folder.write_status("running")
        display.line(_headline(config, preset, threshold))
        tracking = TrackingProcess.start(folder.path) if config.tracker.active else None
        result = Result(folder.path)
        try:
            with _own_world(config):
                _Training(config, folder, display, result, threshold, hooks, source, registry).run(profile)
            folder.write_status(result.state, result=_plain(result))
        except BaseException as error:
            _record_failure(folder, error)
            raise
        finally:
            display.close()
            if tracking is not None:
                result.warning = _flush(tracking, folder)
        return result
    finally:
        folder.release()


def _flush(tracking: TrackingProcess, folder: RunFolder) -> str | None:
    """Wait for the last records to be sent; Ctrl-C ends the waiting, not the run's result."""
    try:
        return tracking.finish()
    except KeyboardInterrupt:
        return f"not waiting for the tracker any longer\nsend what is missing with: rlkit sync {folder.path}"


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


def _record_failure(folder: RunFolder, error: BaseException) -> None:
    code = error.exit_code if isinstance(error, RlkitError) else 130 if isinstance(error, KeyboardInterrupt) else 70
    # The failure itself is what the user has to see, even where it cannot be written down.
    with contextlib.suppress(StorageError):
        write_json(
            folder.path / "error.json",
            {
                "type": type(error).__name__,
                "message": str(error),
                "exit_code": code,
                "traceback": traceback.format_exception(error),
            },
        )
        error.add_note(f"the traceback is in {folder.path / 'error.json'}")
        folder.write_status("interrupted" if code == 130 else "failed", error=str(error))


@contextlib.contextmanager
def _own_world(config: RunConfig) -> Iterator[None]:
    """Torch's threads and all global generators set for the run, and set back afterwards."""
    import torch

    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise UsageError("another run is training in this process\ntake a process each: they would share generators")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    # What is there now stays to the end: the garbage collector need not look through torch's modules again.
    frozen = gc.get_freeze_count()
    gc.freeze()
    # Once a block of this size has come and gone, glibc keeps freed memory of up to twice that. Else an update with
    # batches of 256 rows gives its memory back and gets it again, page by page: 8 % of SAC's time.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    try:
        with global_generators(SeedStream(config.seed, "global")):
            yield
    finally:
        if not frozen:
            gc.unfreeze()
        torch.set_num_threads(threads)
        _ONE_AT_A_TIME.release()


class _Training:
    """One run: what the loop works with."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        display: Progress,
        result: Result,
        threshold: float | None,
        hooks: Any,
        init_from: Path | None,
        registry: Registry,
    ) -> None:
        self.config = config
        self.folder = folder
        self.display = display
        self.result = result
        self.threshold = threshold
        self.hooks = hooks
        self.seeds = SeedStream(config.seed)
        self.collector = config.algorithm.collector.build(config.env, self.seeds.stream("collector"), config.device)
        try:
            self.learner: Learner = config.algorithm.build(
                Setup(
                    observation_space=self.collector.observation_space,
                    action_space=self.collector.action_space,
                    num_envs=config.algorithm.collector.num_envs,
                    total_steps=config.total_steps,
                    device=config.device,
                    seeds=self.seeds.stream("learner"),
                )
            )
            if init_from is not None:
                self._take_over(init_from, registry)
            self.journal = Journal(folder.journal_path)
        except BaseException:
            self.collector.close()
            raise
        self.recorder = _Recorder()
        self.num_evaluations = 0
        self.best = -math.inf
        self.final: Evaluation | None = None

    def run(self, profile: bool = False) -> None:
        """The loop, watched if wanted."""
        with self._profile() if profile else contextlib.nullcontext():
            self._loop()

    def _loop(self) -> None:
        config, result, collector, learner = self.config, self.result, self.collector, self.learner
        next_log, next_evaluation = config.resolved_log_every, config.resolved_eval_every
        started = time.perf_counter()
        self.display.start()
        with _Signals() as signals, contextlib.closing(collector), contextlib.closing(self.journal):
            if self.hooks is not None:
                self.hooks.rlkit_run_started(config=config.dump(), run_dir=self.folder.path)
            while result.steps < config.total_steps and result.reached is None and signals.received is None:
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
                if result.steps >= next_log:
                    next_log = _next(next_log, config.resolved_log_every, result.steps)
                    self.journal.append(result.steps, self.recorder.take(result.steps))
                if result.steps >= next_evaluation:
                    nominal = next_evaluation
                    next_evaluation = _next(next_evaluation, config.resolved_eval_every, result.steps)
                    with self.recorder.pause():
                        self._evaluate(nominal)
                if self.display.due():
                    self.display.show(result.steps, self.recorder.latest)
            result.signal = signals.received
            self._finish(signals, started)

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
            for method in ("_evaluate", "_finish"):
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

    def _evaluate(self, nominal: int) -> None:
        """A regular evaluation; where it reaches the threshold, the two longer ones that decide about stopping."""
        goal = None if self.config.stop_at == "running-return" else self.threshold
        evaluation = self._greedy("evaluation", self.config.eval_episodes, nominal)
        if evaluation.mean > self.best:
            self.best = evaluation.mean
            self._save_policy("best")
        if goal is None or evaluation.mean < goal:
            return
        for episodes in CONFIRMATIONS:
            evaluation = self._greedy(f"confirmation_{episodes}", episodes, nominal)
            if evaluation.surely < goal:
                return
        self.result.reached = f"greedy return {evaluation.mean:.1f} over {episodes} episodes"
        self.final = evaluation

    def _greedy(self, prefix: str, episodes: int, nominal: int | None = None) -> Evaluation:
        from rlkit_core.evaluation import evaluate_policy

        seeds = self.seeds.stream("evaluation", self.num_evaluations)
        self.num_evaluations += 1
        evaluation = evaluate_policy(self.learner.policy, self.config.env, seeds, episodes, self.config.eval_max_steps)
        metrics = evaluation.metrics(prefix)
        self.recorder.latest.update(metrics)
        due = {} if nominal is None else {f"{prefix}/nominal_step": float(nominal)}
        self.journal.append(self.result.steps, {**metrics, **due})
        self.result.evaluation_return, self.result.evaluation_episodes = evaluation.mean, episodes
        return evaluation

    def _finish(self, signals: _Signals, started: float) -> None:
        result = self.result
        if self.recorder.updates:
            self.journal.append(result.steps, self.recorder.take(result.steps))
        # Before the last evaluation, which may take long and be broken off; and after it, with what it gave.
        self._save_policy("last")
        if self.final is not None:  # confirmation stopped the run: the policy has just been evaluated
            self.journal.append(result.steps, self.final.metrics("final"))
        elif result.signal is None:  # a signal's sender waits for nothing
            signals.at_once = True
            try:
                self._greedy("final", CONFIRMATIONS[0])
                self._save_policy("last")
            except KeyboardInterrupt:
                result.signal = signals.received
            signals.at_once = False
        result.state = "finished" if result.signal is None else "interrupted"
        result.seconds = time.perf_counter() - started
        self.display.finish(result.steps, self.recorder.latest)
        if self.hooks is not None:
            self.hooks.rlkit_run_finished(step=result.steps, result=_plain(result))

    def _save_policy(self, which: str) -> None:
        import torch

        from rlkit_core.checkpoint import save_policy

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
        from rlkit_core.checkpoint import algorithm_from_data, load_policy, policy_about, space_from_data

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

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside does not count for steps per second."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


class _Signals:
    """SIGINT and SIGTERM ask the loop to stop after the present update; a second one forces out."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once = False
        """The first signal forces out, too."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = self.received or number
        if again or self.at_once:
            raise KeyboardInterrupt
