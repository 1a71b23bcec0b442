"""`rlkit tune ALGO`: search for good settings."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlkit_core.cli.group import check_environments, executor_of, progress_option
from rlkit_core.cli.options import Plan, Setting
from rlkit_core.cli.root import CONTEXT, AtLeast, common_options
from rlkit_core.cli.run import AlgorithmCommand, Algorithms, configure_plan
from rlkit_core.cli.settings import shown
from rlkit_core.cli.toml import key, table, value
from rlkit_core.config import read_config_file
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.presets import offered_presets, presets
from rlkit_core.registry import Registry, import_modules
from rlkit_core.run_folder import replace_file
from rlkit_core.search_space import Searched, Space, space_from, space_of

if TYPE_CHECKING:
    from rlkit_core.tuning import Outcome, Report, Trial


class Tunable(Algorithms):
    """`rlkit tune`: the algorithms are its sub-commands, with the options that `rlkit run` gives them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of an algorithm."""
        return TuneCommand(cmd_name)


class TuneCommand(AlgorithmCommand):
    """`rlkit tune ALGO`."""

    def own_options(self, plan: Plan) -> list[click.Parameter]:
        """The options of the command itself."""
        named = [*presets(plan.algorithm_class), *offered_presets(plan.algorithm_class, plan.registry)]
        return _own_options(f"[{', '.join([*named, 'none'])}]")

    def invoke(self, ctx: click.Context) -> int:
        """Search."""
        assert self.plan is not None
        own, all_given = ctx.params, self.given(ctx)
        given = {setting: texts for setting, texts in all_given.items() if setting.path[0] != "executor"}
        fixed = {setting.path for setting in given}
        if any(setting.path == ("stop_at",) and [*texts][-1:] != ["never"] for setting, texts in given.items()):
            raise UsageError(
                "--stop-at: trials are compared at equal budgets, and stop never\n"
                "leave it out; the budget is --total-steps"
            )
        config, preset = configure_plan(self.plan, given, own["preset"], {"stop_at": "never"})
        if config.group is None:
            group = f"tune-{config.algorithm.name}-{config.env.id}".replace("/", "-")
            config = config.model_copy(update={"group": group})
        if own["space"] is not None:
            space = space_from(read_config_file(Path(own["space"])), own["space"], config, self.registry)
            _check_free(space, given, own["space"])
        else:
            space = space_of(config, self.registry, sorted(fixed))
        if own["print_space"]:
            click.echo("\n".join(space_as_toml(space)))
            return 0
        named_here = any(setting.path == ("imports",) for setting in given)
        import_modules(config.imports, from_here=named_here)
        check_environments([config])
        # Now rather than after hours.
        output = Path(own["output"])
        _check_writable(output)

        from rlkit_core.tuning import Plan as Searching
        from rlkit_core.tuning import search_seeds, tune

        executor = executor_of(all_given, self.registry)
        plan = Searching(
            config, space, search_seeds(config.seed, own["seeds_per_trial"]), by=own["by"], pruner=own["pruner"]
        )
        if own["by"] == "curve" and plan.evaluations == 0:
            raise UsageError("--by curve: there is no evaluation within the budget\ntake a smaller --eval-every")
        outcome = tune(
            plan,
            self.registry,
            lambda: executor.build(own["jobs"]),
            trials=own["trials"],
            jobs=own["jobs"],
            report_seeds=own["report_seeds"],
            imports=config.imports if named_here else (),
            preset=preset,
            progress_mode=own["progress"],
        )
        return conclude(outcome, output, self.registry)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """`Usage: rlkit tune a2c --env ID [OPTIONS]`."""
        formatter.write_usage(ctx.command_path, "--env ID --trials N [OPTIONS]")


def _own_options(preset_names: str) -> list[click.Parameter]:
    """The options of the command itself."""
    return [
        click.Option(["--config"], metavar="FILE", help="settings before the search, from a TOML, YAML or JSON file"),
        click.Option(
            ["--preset"],
            metavar="NAME",
            help=f"named settings before the search, below those of the file; default: the one made for the "
            f"environment, if any {preset_names}",
        ),
        click.Option(
            ["--trials"],
            type=AtLeast(1),
            default=50,
            metavar="N",
            help="settings that are tried [at least 1; default 50]",
        ),
        click.Option(
            ["--seeds-per-trial"],
            type=AtLeast(1),
            default=3,
            metavar="N",
            help="runs of each trial, one after the other, on the same seeds in all trials [at least 1; default 3]",
        ),
        click.Option(
            ["--report-seeds"],
            type=AtLeast(0),
            default=5,
            metavar="N",
            help="fresh seeds on which the best settings and those from before the search are run afterwards; 0: no "
            "report [at least 0; default 5]",
        ),
        click.Option(
            ["--jobs"],
            type=AtLeast(1),
            default=1,
            metavar="N",
            help="trials at the same time, of which each has one run at a time; with more than one, what is tried also "
            "depends on which trial ends first [at least 1; default 1]",
        ),
        click.Option(
            ["--by"],
            type=click.Choice(["final", "curve"]),
            default="final",
            metavar="SCORE",
            help="what a run counts: final: the last policy's evaluation; curve: the mean of all evaluations on the "
            "way, which also rewards learning fast [final, curve; default final]",
        ),
        click.Option(
            ["--pruner"],
            type=click.Choice(["median", "hyperband", "none"]),
            default="median",
            metavar="NAME",
            help="when trials are given up: median: behind the median of the others at the same evaluation; hyperband: "
            "successive halving; none: never [median, hyperband, none; default median]",
        ),
        click.Option(
            ["--space"],
            metavar="FILE",
            help="what is searched, from a TOML, YAML or JSON file; default: what the settings declare, or their "
            "bounds",
        ),
        click.Option(
            ["--print-space"], is_flag=True, help="print what is searched, as --space reads it, and do nothing"
        ),
        click.Option(
            ["--output"],
            metavar="FILE",
            default="tuned.toml",
            help="where the best settings are written, for rlkit run --config [default tuned.toml]",
        ),
        progress_option(),
        *common_options(),
    ]


def _check_free(space: Space, given: Mapping[Setting, Sequence[str]], file: str) -> None:
    """Raise UsageError where a file searches what an option sets."""
    flags = {setting.path: setting.flag for setting in given}
    for searched in space.settings:
        if searched.path in flags:
            raise UsageError(f"{file}: {searched.name}: {flags[searched.path]} sets it\nleave out one of the two")


def _check_writable(output: Path) -> None:
    """Raise where the result could not be written in the end."""
    if output.suffix != ".toml":
        raise UsageError(f"--output {output}: the name should end in .toml")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}, or it is one itself")


def space_as_toml(space: Space) -> Iterator[str]:
    """A space as `--space` reads it, with a note of what each setting is before the search."""
    for setting in space.settings:
        written = ".".join(map(key, setting.name.split(".")))
        yield f"{written} = {_range(setting)}  # {shown(setting.default)} before; {SOURCES[setting.source]}"


SOURCES = {"file": "from the file", "declared": "declared", "bounds": "its bounds"}


def _range(setting: Searched) -> str:
    range_ = setting.range
    if range_.choices:
        return value(["none" if choice is None else choice for choice in range_.choices])
    log = {"log": True} if range_.log else {}
    return value({"low": range_.low, "high": range_.high, **log})


def conclude(outcome: Outcome, output: Path, registry: Registry) -> int:
    """Say what was found, and write it; returns the exit code."""
    study = outcome.study
    words = {"complete": "complete", "pruned": "given up", "failed": "failed", "running": "not done"}
    counts = {state: sum(trial.state == state for trial in study.trials) for state in words}
    said = [f"{count} {words[state]}" for state, count in counts.items() if count or state == "complete"]
    click.echo(f"{len(study.trials)} trials in {study.path.parent}: {', '.join(said)}")
    if outcome.signal is not None:
        click.echo("go on       with the same command")
        return 128 + outcome.signal
    best = study.best
    if best is None:
        reasons = [trial.reason for trial in study.trials if trial.reason]
        raise UsageError(f"no trial is complete: there is no best one\nthe last one: {(reasons or ['?'])[-1]}".strip())
    text = "\n".join(tuned_toml(outcome, registry)) + "\n"
    try:
        replace_file(output, text.encode())
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}") from error
    for line in _summary(outcome, best):
        click.echo(line)
    click.echo(f"written     {output}: rlkit run {study.plan.config.algorithm.name} --config {output}")
    if outcome.report is not None and outcome.report.tuned is not None:
        name = study.plan.config.group
        click.echo(f"compare     rlkit compare {name}/default {name}/tuned-{best.number:03d}")
    if outcome.warning is not None:
        click.echo("warning: " + outcome.warning.replace("\n", "\n         "), err=True)
    return 0 if outcome.report is None else outcome.report.group.exit_code


def _summary(outcome: Outcome, best: Trial) -> Iterator[str]:
    """What was reached, by the report; the search's own scores choose, and say nothing more."""
    study, report = outcome.study, outcome.report
    if best.unchanged:
        yield "nothing was found that is better than the settings before the search"
    else:
        changed = study.plan.space
        values = study.values(best)
        before = {setting.name: setting.default for setting in changed.settings}
        different = [f"{_option(name)} {shown(found)}" for name, found in values.items() if found != before[name]]
        yield f"best        trial {best.number}: {', '.join(different)}"
    if report is None:
        yield "report      none: the best trial's own score is too good, it was chosen for being high"
        return
    sides = {"before": report.default, **({"tuned": report.tuned} if report.tuned is not None else {})}
    seeds, steps = max(map(len, sides.values())), study.plan.config.total_steps
    yield f"report      mean return of the last policy on {seeds} fresh seeds, {steps:,} steps each:"
    for side, scores in sides.items():
        if scores:
            mean = sum(scores.values()) / len(scores)
            each = ", ".join(f"{score:.1f}" for score in scores.values())
            yield f"  {side:<9} {mean:.1f}  ({each})"
        else:
            yield f"  {side:<9} no run has finished"
    if report.tuned is not None:
        yield _verdict(report)


def _option(name: str) -> str:
    """A setting's name as its option has it: which part it needs is said by the slot's own."""
    return re.sub("@[^.]*", "", name).removesuffix(".name")


def _verdict(report: Report) -> str:
    """What the fresh seeds say."""
    import numpy as np

    from rlkit_core.statistics import verdicts

    assert report.tuned is not None
    if not report.complete:
        return (
            f"  cannot tell: not all runs have finished, see {report.path}; the same command again does what is missing"
        )
    tuned, default = (np.array(list(scores.values())) for scores in (report.tuned, report.default))
    [found] = verdicts([(tuned, default)], np.random.default_rng(0))
    return f"  {found.word}: {found.reason}"


def tuned_toml(outcome: Outcome, registry: Registry) -> Iterator[str]:
    """The best settings as a file that `--config` reads, with where they come from."""
    study, report = outcome.study, outcome.report
    best, config = study.best, study.plan.config
    assert best is not None
    tuned = study.best_config(registry)
    yield f"# {config.algorithm.name} on {config.env.id}, tuned by rlkit on {time.strftime('%Y-%m-%d')}."
    yield f"# Search: {len(study.trials)} trials of up to {len(study.plan.seeds)} runs of {config.total_steps} steps;"
    yield f"# score {study.plan.by}, pruner {study.plan.pruner}, seed {config.seed}, Optuna {study.optuna_version};"
    yield f"# trial {best.number} of {study.path.parent}."
    if report is None:
        yield "# No report: the score in the search is too good, it was chosen for being high."
    else:
        for side, scores in (("before the search", report.default), ("with these settings", report.tuned or {})):
            if scores and report.complete:
                mean = sum(scores.values()) / len(scores)
                yield f"# Mean return of the last policy on {len(scores)} fresh seeds {side}: {mean:.4g}."
    values = study.values(best)
    notes = {}
    for setting in study.plan.space.settings:
        if setting.name in values and not best.unchanged:
            same = values[setting.name] == setting.default
            notes[setting.path] = "searched, as before" if same else f"tuned, {shown(setting.default)} before"
    yield f"total_steps = {config.total_steps}"
    yield from table(tuned.env, ("env",))
    yield from table(tuned.algorithm, ("algorithm",), notes)


command = Tunable(
    "tune",
    context_settings=CONTEXT,
    help="Search for good settings of an algorithm with Optuna, and report on fresh seeds what they are worth.",
    epilog="What is searched: rlkit tune a2c --env CartPole-v1 --print-space. The same command again goes on.",
    params=common_options(),
)
