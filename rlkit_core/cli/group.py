"""What the commands have in common that compute a group of runs: seeds, jobs, the executor, and the report."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.options import Setting, build_executor, executor_settings
from rlkit_core.cli.root import AtLeast
from rlkit_core.component import ExecutorConfig
from rlkit_core.config import Problems, RunConfig
from rlkit_core.errors import ResumeRefused, UsageError
from rlkit_core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from rlkit_core.executor import Executor
    from rlkit_core.group import GroupResult, PlanEntry

MOST_SEEDS = 10_000


def parse_seeds(text: str, start: int | None = None) -> list[int]:
    """The seeds that are meant: `10` are ten of them, from `start` or 0 on; `0-4,7` are these.

    Raises:
        ValueError: it cannot be understood.
    """
    if re.fullmatch(r"\d{1,20}", text):
        number, first = int(text), start or 0
        if not 1 <= number <= MOST_SEEDS:
            raise ValueError(f"should be at least 1 and at most {MOST_SEEDS:,} seeds, not {text}")
        return list(range(first, first + number))
    if start is not None:
        raise ValueError(f"a list of seeds, {text[:50]}, says where it starts; leave --seed out")
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise ValueError(
                f"should be a number of seeds, such as 10, or a list of them, such as 0-4,7; not {text[:50]}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MOST_SEEDS:
            raise ValueError(f"should be a range from a seed to a larger one, not {part.strip()}")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"has a seed twice: {text[:50]}")
    return seeds


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as one would type them: `0-4,7`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and parts[-1][-1] == seed - 1:
            parts[-1][1:] = [seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def jobs_option(beside: str = "") -> click.Option:
    """`--jobs`."""
    text = f"runs that are computed at the same time{beside}; default: the number of cores"
    return click.Option(["--jobs"], type=AtLeast(1), metavar="INT", help=text)


def progress_option() -> click.Option:
    """`--progress`."""
    return click.Option(
        ["--progress"],
        type=click.Choice(["auto", "rich", "plain", "none"]),
        default="auto",
        metavar="MODE",
        help="what is shown meanwhile: rich: a live table; plain: a line for each run that ends, and one every few "
        "seconds; auto: rich on a terminal, else plain [auto, rich, plain, none; default auto]",
    )


class GroupCommand(click.Command):
    """A command that computes runs of a group, with the options of the executor that its arguments name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the options of the executor, then read all."""
        try:
            settings = executor_settings(Registry(), args)
        except Exception:
            # While a shell completes a line, half of it may be wrong.
            if not ctx.resilient_parsing:
                raise
            settings = []
        self.settings = {f"executor_{i}": setting for i, setting in enumerate(settings)}
        rest = [param for param in self.params if not str(param.name).startswith("executor_")]
        new = [
            click.Option([name, setting.flag], metavar=_metavar(setting), help=f"{setting.text} {setting.facts}")
            for name, setting in self.settings.items()
        ]
        common = next(i for i, param in enumerate(rest) if not param.expose_value)
        self.params = [*rest[:common], *new, *rest[common:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """With the executor's options apart, which the callback does not know."""
        self.given = {
            setting: [text] for name, setting in self.settings.items() if (text := ctx.params.pop(name)) is not None
        }
        return super().invoke(ctx)

    @property
    def executor_given(self) -> list[str]:
        """The options of the executor that were given."""
        return [setting.flag for setting in self.given]

    def chosen_executor(self) -> ExecutorConfig:
        """The executor that the options choose.

        Raises:
            UsageError: its settings do not fit.
        """
        return executor_of(self.given, Registry())


def _metavar(setting: Setting) -> str:
    return "NAME" if setting.kind else setting.form.metavar()


def executor_of(given: Mapping[Setting, Sequence[str]], registry: Registry) -> ExecutorConfig:
    """The executor that options choose.

    Raises:
        UsageError: its settings do not fit.
    """
    problems: Problems = []
    config = build_executor(given, registry, problems)
    if problems:
        flags = {setting.path: setting.flag for setting in given}
        lines = [f"{flags.get(path, '--' + '.'.join(path))}: {message}" for path, message in problems]
        raise UsageError("\n".join(dict.fromkeys(lines)))
    assert isinstance(config, ExecutorConfig)
    return config


def compute_plan(
    path: Path | None, name: str, plan: Sequence[PlanEntry], registry: Registry, executor: ExecutorConfig,
    jobs: int | None, imports: Sequence[str], progress: str,
) -> int:  # fmt: skip
    """Plan runs, have them computed and report; returns the exit code."""
    from rlkit_core.group import group_path, make_group

    check_environments([entry.config for entry in plan])
    path = path or group_path(name)
    try:
        group = make_group(path, name, plan, registry)
    except ResumeRefused as refused:
        from rlkit_core.cli.resume import show_differences

        show_differences(refused.differences)
        raise
    threads = max(entry.config.threads for entry in plan)
    return _compute(group, executor, jobs, threads, imports, progress, plan[0].config)


def go_on(path: str, executor: ExecutorConfig, jobs: int | None, imports: Sequence[str], progress: str) -> int:
    """Have computed what is missing of a group, and report; returns the exit code."""
    from rlkit_core.group import settings_of, take_group

    group = take_group(path)
    try:
        config = settings_of(group, imports, Registry())
    except BaseException:
        group.release()
        raise
    return _compute(group, executor, jobs, config.threads, imports, progress, config)


def _compute(
    group: Any, executor: ExecutorConfig, jobs: int | None, threads: int, imports: Sequence[str], progress: str,
    config: RunConfig,
) -> int:  # fmt: skip
    from rlkit_core.group import compute

    jobs = jobs or max(1, len(os.sched_getaffinity(0)) // threads if hasattr(os, "sched_getaffinity") else 1)

    def build() -> Executor:
        return executor.build(jobs)

    try:
        result = compute(group, build, imports=imports, progress_mode=progress)  # type: ignore[arg-type]
    finally:
        group.release()
    report(result, config)
    return result.exit_code


def check_environments(configs: Sequence[RunConfig]) -> None:
    """See that the environments are there, before anything is begun.

    Raises:
        UsageError: one is not.
    """
    seen: list[Any] = []
    for config in configs:
        if config.env not in seen:
            seen.append(config.env)
            config.env.resolve(config.algorithm.collector.num_envs)


def report(result: GroupResult, config: RunConfig) -> None:
    """What was reached, what went wrong, and what to do."""
    import statistics

    states = list(result.states.values())
    counts = {
        state: states.count(state) for state in dict.fromkeys(sorted(states, key=lambda state: _ORDER.get(state, 9)))
    }
    click.echo(f"{result.name}: {', '.join(f'{n} {state}' for state, n in counts.items())} in {result.seconds:.1f} s")
    sides: dict[str, list[float]] = {}
    for where, value in result.returns.items():
        sides.setdefault(result.sides[where], []).append(value)
    for side, values in sides.items():
        middle = f"median {statistics.median(values):.1f}, from {min(values):.1f} to {max(values):.1f}"
        click.echo(f"{side}: last policies' return of {len(values)} seed{'s' * (len(values) != 1)}: {middle}")
    folder = shlex.quote(str(result.path))
    rows = [("group folder", folder)]
    where_to_look = config.tracker.where(result.path, os.environ)
    if where_to_look is not None:
        then = "    then open http://127.0.0.1:5000" if where_to_look.startswith("mlflow ui") else ""
        rows.append(("look at it", where_to_look + then))
    if set(states) != {"finished"}:
        rows.append(("go on", f"rlkit resume {folder}"))
    for label, text in rows:
        click.echo(f"{label:<12} {text}")
    for ended in result.ended:
        if ended.error is not None:
            first, *rest = ended.error.splitlines() or [""]
            code = f"exit code {ended.exit_code}" if ended.exit_code >= 0 else "killed"
            place = shlex.quote(str(ended.task.run_dir))
            click.echo("\n       ".join([f"failed: {place} ({code}): {first}", *rest]), err=True)
    if result.warning is not None:
        click.echo("warning: " + result.warning.replace("\n", "\n         "), err=True)


_ORDER = {"finished": 0, "running": 1, "waiting": 2, "interrupted": 3, "failed": 4, "killed": 5}
