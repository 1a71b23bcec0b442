"""Reproducing: a stored run is made again from its record alone, and what comes out compared with what it left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rlkit_core.config import RunConfig
from rlkit_core.drift import Difference, differences, made_with
from rlkit_core.errors import Diverged, EnvironmentFault, ReproductionRefused, RlkitError, StorageError, UsageError
from rlkit_core.evaluation import open_run
from rlkit_core.progress import Mode
from rlkit_core.provenance import provenance, stored_config
from rlkit_core.registry import Registry
from rlkit_core.run_folder import RunFolder, read_journal, read_json, write_json
from rlkit_core.training import Job, go

TOLERANCE = 1e-6
"""Relative to the larger of 1 and the two numbers."""

Verdict = Literal["bit-equal", "within tolerance", "different"]
Records = dict[int, dict[str, float]]
"""Metrics by environment step, without those that depend on the clock."""


@dataclass(frozen=True)
class Deviation:
    """A number that came out other than it was.

    Attributes:
        what: the metric, or the weight.
        step: environment step; None for a weight.
        then: what it was; None: it was not there.
        now: what it is; None: it is not there.
    """

    what: str
    step: int | None
    then: float | None
    now: float | None

    @property
    def relative(self) -> float:
        """How far the two are apart, relative to the larger of 1 and them; infinite where one is missing."""
        if self.then is None or self.now is None or not math.isfinite(self.then - self.now):
            return math.inf
        return abs(self.then - self.now) / max(1.0, abs(self.then), abs(self.now))

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step:,}"
        then, now = ("none" if value is None else repr(value) for value in (self.then, self.now))
        return f"{self.what}{where}: {then} then, {now} now"


@dataclass(frozen=True)
class Reproduction:
    """What came of a run that was made again.

    Attributes:
        verdict: `bit-equal`; `within tolerance`; or `different`.
        original: folder of the run.
        run_dir: folder of the new one.
        steps: environment steps up to which they were compared.
        numbers: metrics that were compared, those of one step each counted.
        first: where the two differ first: the smallest step; None where they do not.
        largest: which metric or weight is furthest apart, or None.
        weights: what was found about the last policy's weights, in a few words.
        ended: what is other about how it ended, or None.
        made_with: what the new run is made with that the original was not; it explains what is different.
    """

    verdict: Verdict
    original: Path
    run_dir: Path
    steps: int
    numbers: int
    first: Deviation | None
    largest: Deviation | None
    weights: str
    ended: str | None
    made_with: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        data = asdict(self)
        data |= {"original": str(self.original), "run_dir": str(self.run_dir)}
        data["made_with"] = [dict(difference._asdict()) for difference in self.made_with]
        return json.loads(json.dumps(data, default=str), parse_constant=lambda _: None)  # type: ignore[no-any-return]


def reproduce(
    run: str | Path,
    *,
    run_dir: str | Path | None = None,
    tolerance: float = TOLERANCE,
    plugins: Sequence[ModuleType] = (),
    imports: Sequence[str] = (),
    progress: Mode = "auto",
) -> Reproduction:
    """Make a stored run again, as `rlkit reproduce` does, and compare.

    The new run has the same settings and seed, a group of its own (`reproduced/…`) and no tracker. A run that did not
    finish is made again as far as it came.

    Args:
        run: the run folder, or what a store gave of it (`RunStore.fetch`).
        run_dir: where the new run goes; default: a new folder in `runs/`.
        tolerance: relative to the larger of 1 and the two numbers, up to which numbers count as equal.
        plugins: plugin modules that are not installed.
        imports: modules that the caller vouches for, besides the installed ones that the run names itself.
        progress: `auto`, `rich`, `plain` or `none`.

    Raises:
        ReproductionRefused: nobody can make that run again from its record; says why.
        PluginError, UsageError: something that it needs is not there.
        RlkitError: see `train`.
    """
    original = RunFolder.open(run)
    registry = Registry(plugins)
    config = open_run(run, imports=imports, registry=registry)
    about, status = _table(original.provenance_path), _status(original)
    then = _records(original)
    stop_after = _check(original, config, about, status, then)
    expected = _expected_failure(original, status)
    config = _apart(config, registry)
    hooks = registry.hooks(config.hooks) if config.hooks else None
    source = about.get("init_from")
    now = provenance(config, registry, run_name="", preset=about.get("preset"))
    found = _differences(config, about, now)
    folder = _new_folder(run_dir, original)
    failure: RlkitError | None = None
    try:
        now |= {"run_name": folder.path.name, "init_from": source, "reproduces": about.get("run_id")}
        write_json(folder.provenance_path, now)
        write_json(folder.config_path, stored_config(config, registry, about.get("preset")))
        job = Job(
            config,
            registry,
            folder,
            now,
            hooks if stop_after is None else _StopAfter(stop_after, hooks),
            init_from=Path(source) if isinstance(source, str) else None,
        )
        try:
            result = go(job, progress_mode=progress)
        except (Diverged, EnvironmentFault) as error:
            failure = error
        else:
            if result.signal is not None:
                raise KeyboardInterrupt(result.signal)
    finally:
        folder.release()
    ended = _other_end(status, folder.status(), expected, failure)
    return _compare(original, folder, registry, then, tolerance, found, ended)


def _table(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise StorageError(f"{path} is damaged: it is no table")
    return data


def _differences(config: RunConfig, then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What the new run is made with that the original was not."""
    settings = config.dump()  # the same on both sides
    try:
        return tuple(differences(made_with(settings, then), made_with(settings, now)))
    except Exception as error:
        raise StorageError(f"what the run was made with is damaged: {type(error).__name__}: {error}") from error


def _status(folder: RunFolder) -> dict[str, Any]:
    """How the run stands; `lost` where its process is gone without a word."""
    status = folder.status()
    if status.get("state", "running") == "running" and (folder.is_orphaned() or folder.is_abandoned()):
        return {**status, "state": "lost"}
    return status


def _check(
    original: RunFolder, config: RunConfig, about: Mapping[str, Any], status: Mapping[str, Any], records: Records
) -> int | None:
    """The step after which the new run has to be stopped, or None where it stops by itself.

    Raises:
        ReproductionRefused: it cannot be made again.
    """
    path, state = original.path, status.get("state", "running")

    def refusal(reason: str, advice: str) -> ReproductionRefused:
        return ReproductionRefused(f"{path} cannot be reproduced: {reason}\n{advice}")

    resumes = about.get("resumes")
    resumes = resumes if isinstance(resumes, list) else []
    if about.get("resume_exact", True) is not True:
        reason = next((one.get("reason") for one in resumes if isinstance(one, dict) and one.get("reason")), "?")
        raise refusal(
            f"it was interrupted and did not go on as it would have: {reason}",
            "what it then became depends on when that was; run it anew with its config.json",
        )
    if any(isinstance(one, dict) and "total_steps" in one for one in resumes):
        raise refusal(
            "it was given more steps after it had ended",
            "what depends on the budget, such as schedules, was other before; run it anew with its config.json",
        )
    if state == "running":
        raise refusal("it is still running", "wait for its end")
    if not records:
        raise refusal("it left no records to compare with", f"run it anew: rlkit run --config {original.config_path}")
    source = about.get("init_from")
    if isinstance(source, str) and not (Path(source) / "config.json").exists():
        raise refusal(f"it began with the policy of {source}, which is not there", "bring that run's folder back")
    if state == "finished" or _expected_failure(original, status) is not None:
        return None
    result = status.get("result")
    steps = result.get("steps") if isinstance(result, dict) else None
    return steps if type(steps) is int else max(records)


def _expected_failure(original: RunFolder, status: Mapping[str, Any]) -> str | None:
    """The class of the error that the run ended with, where it comes of what it computed."""
    if status.get("state") != "failed":
        return None
    try:
        name = _table(original.path / "error.json").get("type")
    except StorageError:
        return None
    return name if name in (Diverged.__name__, EnvironmentFault.__name__) else None


def _apart(config: RunConfig, registry: Registry) -> RunConfig:
    """The settings, but that the run counts to no comparison and is sent nowhere."""
    apart = {"tracker": "none", "group": f"reproduced/{config.resolved_group}"}
    return RunConfig.parse(config.dump(), apart, registry=registry)


def _new_folder(run_dir: str | Path | None, original: RunFolder) -> RunFolder:
    if run_dir is not None:
        return RunFolder.create(Path(run_dir))
    name = original.path.absolute().name[:200]
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        try:
            return RunFolder.create(Path("runs") / f"{name}-reproduced{suffix}")
        except UsageError:
            continue
    raise StorageError(f"cannot find a free name for runs/{name}-reproduced")


class _StopAfter:
    """The run's hooks, and one that stops it where the original was ended."""

    def __init__(self, steps: int, hooks: Any) -> None:
        self._steps = steps
        self._hooks = hooks

    def rlkit_run_started(self, **about: Any) -> None:
        if self._hooks is not None:
            self._hooks.rlkit_run_started(**about)

    def rlkit_iteration_finished(self, *, step: int, metrics: Mapping[str, float]) -> list[bool]:
        others = [] if self._hooks is None else self._hooks.rlkit_iteration_finished(step=step, metrics=metrics)
        return [*others, step >= self._steps]

    def rlkit_run_finished(self, **about: Any) -> None:
        if self._hooks is not None:
            self._hooks.rlkit_run_finished(**about)


# ---- comparing ----


def _records(folder: RunFolder) -> Records:
    records: Records = {}
    for _, record in read_journal(folder.journal_path):
        step = record["step"]
        if type(step) is int:
            of_step = records.setdefault(step, {})
            for name, value in record["metrics"].items():
                if not name.startswith("time/") and (
                    type(value) is float or (type(value) is int and abs(value) < 2**1000)
                ):
                    of_step[name] = float(value)
    return records


def _deviations(then: Records, now: Records, *, whole: bool) -> Iterator[Deviation]:
    """All that is other, by step.

    Args:
        then: of the original.
        now: of the new run.
        whole: whether the original came to its end; else its last step may lack metrics, and nothing came after it.
    """
    last = max(then)
    for step in sorted(then.keys() | now.keys()):
        if step > last and not whole:
            return
        before, after = then.get(step, {}), now.get(step, {})
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one is None and step == last and not whole:
                continue
            if one != other and not (one != one and other != other):  # NaN equals itself here
                yield Deviation(name, step, one, other)


def _other_end(
    then: Mapping[str, Any], now: Mapping[str, Any], expected: str | None, failure: RlkitError | None
) -> str | None:
    """What is other about how the run ended, or None."""
    if failure is not None or expected is not None:
        if failure is None:
            return f"it ended with {expected} then, and does not now"
        if type(failure).__name__ == expected:
            return None
        line = str(failure).split("\n")[0]
        return f"it fails now: {line}"
    results = [one.get("result") for one in (then, now)]
    before, after = (result if isinstance(result, dict) else {} for result in results)
    if then.get("state") != "finished":
        return None
    for name in ("steps", "reached"):
        if name in before and before[name] != after.get(name):
            return f"{name}: {before.get(name)} then, {after.get(name)} now"
    return None


def _compare(
    original: RunFolder,
    folder: RunFolder,
    registry: Registry,
    then: Records,
    tolerance: float,
    found: tuple[Difference, ...],
    ended: str | None,
) -> Reproduction:
    whole = original.status().get("state") == "finished"
    now = _records(folder)
    deviations = list(_deviations(then, now, whole=whole))
    same, apart = _weights(original, folder, registry)
    largest = max([*deviations, *apart], key=lambda one: one.relative, default=None)
    equal = not deviations and not apart and ended is None and same is not False
    close = ended is None and (largest is None or largest.relative <= tolerance)
    numbers = sum(len(metrics) for step, metrics in then.items())
    weights = (
        "it left no policy to compare"
        if same is None
        else "the policy's weights are the same, bit by bit"
        if same
        else f"{len(apart)} of the policy's weights are other"
    )
    return Reproduction(
        "bit-equal" if equal else "within tolerance" if close else "different",
        original.path,
        folder.path,
        max(then),
        numbers,
        deviations[0] if deviations else None,
        largest,
        weights,
        ended,
        found,
    )


def _weights(original: RunFolder, folder: RunFolder, registry: Registry) -> tuple[bool | None, list[Deviation]]:
    """Whether the last policies' weights are the same (None: there are none of one step), and which differ how far."""
    from rlkit_core.stored_policy import load_policy, policy_about

    try:
        then, now = (policy_about(one.path) for one in (original, folder))
    except UsageError:
        return None, []
    if then.get("step") != now.get("step") and original.status().get("state") != "finished":
        return None, []
    if then.get("weights_sha256") == now.get("weights_sha256"):
        return True, []
    before, after = (load_policy(one.path, registry=registry).state_dict() for one in (original, folder))
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or before[name].shape != after[name].shape:
            found.append(Deviation(f"weight {name}", None, None, None))
            continue
        one, other = (tensors[name].double().flatten() for tensors in (before, after))
        if not bool((one == other).all()):
            at = int((one - other).abs().argmax())
            found.append(Deviation(f"weight {name}", None, float(one[at]), float(other[at])))
    return False, found
