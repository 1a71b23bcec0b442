"""`rlkit run ALGO`: train."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rlkit_core.cli.group import compute_plan, executor_of, jobs_option, parse_seeds
from rlkit_core.cli.options import (
    Plan,
    Setting,
    explain,
    file_algorithm,
    flags_layer,
    last_value,
    make_plan,
    parse_error,
)
from rlkit_core.cli.root import CONTEXT, Names, common_options
from rlkit_core.config import Data, Problems, RunConfig, read_config_file
from rlkit_core.errors import ConfigError, UsageError
from rlkit_core.presets import configure, offered_presets, presets
from rlkit_core.registry import Registry, import_modules

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from rlkit_core.training import Result

WIDE, NARROW = 36, 30
"""Width of the help's first column, in wide terminals and in others; a longer option has a line of its own."""


class Algorithms(Names):
    """`rlkit run`: the algorithms are its sub-commands."""

    def named(self) -> dict[str, str]:
        """The registered algorithms, each with the distribution that offers it; no plugin is imported."""
        entries = Registry().entries("algorithm")
        names = [entry.name for entry in entries]
        return {
            entry.name if names.count(entry.name) == 1 else f"{entry.distribution}:{entry.name}": (
                f"from {entry.distribution} {entry.version}"
            )
            for entry in entries
        }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the algorithm from the config file where none is named."""
        if not ctx.resilient_parsing and not {"--help", "-h"} & {*args[:1]} and (not args or args[0].startswith("-")):
            file = last_value(args, "--config")
            name = file_algorithm(read_config_file(Path(file))) if file is not None else None
            if name is None:
                registered = ", ".join(Registry().names("algorithm"))
                raise UsageError(
                    f"which algorithm? registered: {registered or 'none'}\n"
                    f"for example: {ctx.command_path} a2c --env CartPole-v1"
                )
            args = [name, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """`Usage: rlkit run ALGO --env ID [OPTIONS]`."""
        formatter.write_usage(ctx.command_path, "ALGO --env ID [OPTIONS]")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of an algorithm.

        Raises:
            UsageError: there is none of that name.
        """
        return AlgorithmCommand(cmd_name)


class AlgorithmCommand(click.Command):
    """`rlkit run ALGO`, with the options that its arguments call for."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithm, context_settings=CONTEXT)
        self.registry = Registry()
        self.plan: Plan | None = None
        self.settings: dict[str, Setting] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the options for these arguments, then read them."""
        assert self.name is not None
        try:
            self.plan = make_plan(self.name, self.registry, args)
        except Exception:
            # While a shell completes a line, half of it may be wrong.
            if not ctx.resilient_parsing:
                raise
            return []
        self.settings = {f"setting_{i}": setting for i, setting in enumerate(self.plan.settings)}
        own = self.own_options(self.plan)
        self.params = [*(self._option(name, setting) for name, setting in self.settings.items()), *own]
        return super().parse_args(ctx, args)

    def own_options(self, plan: Plan) -> list[click.Parameter]:
        """The options of the command itself."""
        return _own_options(plan)

    def _option(self, name: str, setting: Setting) -> click.Option:
        def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
            from click.shell_completion import CompletionItem

            words = self.registry.names(setting.kind) if setting.kind else [str(word) for word in setting.form.words]
            return [CompletionItem(word) for word in words if word.startswith(incomplete)]

        # A switch alone turns on; `--switch false` turns off.
        switch: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if setting.form.is_switch else {}
        repeatable = setting.form.repeatable
        return click.Option([name, setting.flag], type=str, multiple=repeatable, shell_complete=complete, **switch)

    def given(self, ctx: click.Context) -> dict[Setting, Sequence[str]]:
        """The settings that options give, with their texts."""
        return {
            setting: texts if isinstance(texts := ctx.params[name], tuple) else (texts,)
            for name, setting in self.settings.items()
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        }

    def invoke(self, ctx: click.Context) -> int:
        """Train."""
        assert self.plan is not None
        own = ctx.params
        all_given = self.given(ctx)
        given = {setting: texts for setting, texts in all_given.items() if setting.path[0] != "executor"}
        config, preset = configure_plan(self.plan, given, own["preset"])
        seeds = self._seeds(config, own["seeds"], given)
        if own["print_config"] is not None:
            from rlkit_core.cli.toml import as_json, as_toml

            click.echo(as_json(config) if own["print_config"] == "json" else as_toml(config))
            return 0
        # Modules in the working folder count only where they are named here: a file must not make code run.
        named_here = any(setting.path == ("imports",) for setting in given)
        import_modules(config.imports, from_here=named_here)
        if seeds is not None:
            if own["profile"]:
                raise UsageError("--profile measures one run\nleave it out, or --seeds")
            executor = executor_of(all_given, self.registry)
            source = None if own["init_from"] is None else _run_folder(own["init_from"])
            from rlkit_core.group import PlanEntry

            plan = [PlanEntry(config.model_copy(update={"seed": seed}), preset, init_from=source) for seed in seeds]
            return compute_plan(
                None if own["run_dir"] is None else Path(own["run_dir"]),
                config.resolved_group,
                plan,
                self.registry,
                executor,
                own["jobs"],
                config.imports if named_here else (),
                own["progress"],
            )
        for flag in ["--jobs"] * (own["jobs"] is not None) + [s.flag for s in all_given if s not in given]:
            raise UsageError(f"{flag} is for several runs\ngive --seeds, too, such as --seeds 10")

        from rlkit_core.training import run

        result = run(
            config,
            self.registry,
            preset=preset,
            run_dir=own["run_dir"],
            init_from=own["init_from"],
            progress_mode=own["progress"],
            profile=own["profile"],
        )
        report(config, result)
        return 0 if result.signal is None else 128 + result.signal

    @staticmethod
    def _seeds(config: RunConfig, text: str | None, given: Mapping[Setting, Sequence[str]]) -> list[int] | None:
        """The seeds of `--seeds`, or None where it is one run."""
        if text is None:
            return None
        start = config.seed if any(setting.path == ("seed",) for setting in given) else None
        try:
            return parse_seeds(text, start)
        except ValueError as error:
            raise UsageError(f"--seeds: {error}") from None

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """`Usage: rlkit run a2c --env ID [OPTIONS]`."""
        formatter.write_usage(ctx.command_path, "--env ID [OPTIONS]")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The algorithm's own words."""
        if self.plan is None:
            return
        paragraph = (self.plan.algorithm_class.__doc__ or "").strip().split("\n\n")[0]
        notes = [" ".join(paragraph.split())]
        if self.plan.preset is not None:
            notes.append(f"Defaults are those with the preset {self.plan.preset}; --preset none is without it.")
        if self.plan.file is not None:
            notes.append(f"Defaults are those with {self.plan.file}.")
        for note in notes:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(note)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options in their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for setting in self.settings.values():
            if setting.kind is not None and setting.path[-2] == "env" and len(self.registry.names(setting.kind)) < 2:
                continue  # there is nothing to choose
            groups.setdefault(setting.group, []).append((_term(setting), self._explanation(setting)))
        records = [param.get_help_record(ctx) for param in self.params if param.name not in self.settings]
        own = [record for record in records if record is not None]
        for group, rows in [*groups.items(), ("This command", own)]:
            column = WIDE if formatter.width >= 100 else NARROW
            with formatter.section(group):  # all groups with one column width
                formatter.write_dl([(term.ljust(column), text) for term, text in rows], col_max=column)

    def _explanation(self, setting: Setting) -> str:
        facts = setting.facts
        if setting.kind is not None:
            names = ", ".join(self.registry.names(setting.kind))
            facts = f"[{names}; {facts.strip('[]')}]" if facts else f"[{names}]"
        return f"{setting.text} {facts}".strip()


def _term(setting: Setting) -> str:
    if setting.kind is not None:
        return f"{setting.flag} NAME"
    if setting.path == ("env", "id"):
        return f"{setting.flag} ID"
    metavar = setting.metavar or setting.form.metavar()
    return f"{setting.flag} [{metavar}]" if setting.form.is_switch else f"{setting.flag} {metavar}"


def _own_options(plan: Plan) -> list[click.Parameter]:
    """The options of the command itself."""
    named = [*presets(plan.algorithm_class), *offered_presets(plan.algorithm_class, plan.registry)]
    choice = f"[{', '.join(named)}, none]" if named else "[none]"
    return [
        click.Option(["--config"], metavar="FILE", help="settings from a TOML, YAML or JSON file; options win"),
        click.Option(
            ["--preset"],
            metavar="NAME",
            help=f"named settings below those of the file; default: the one made for the environment, if any {choice}",
        ),
        click.Option(
            ["--seeds"],
            metavar="N",
            help="a run for each of N seeds, from --seed on, or of a list such as 0-4,7, all in one group's folder; "
            "--stop-at is never then, unless it is given, and started again it goes on with what is missing",
        ),
        jobs_option(", with --seeds"),
        click.Option(
            ["--run-dir"],
            metavar="DIR",
            help="where the run goes; default: a new folder in runs/, with --seeds the one of the --group",
        ),
        click.Option(["--init-from"], metavar="RUN", help="run whose last policy this one starts from"),
        click.Option(
            ["--print-config"],
            is_flag=False,
            flag_value="toml",
            default=None,
            type=click.Choice(["toml", "json"]),
            metavar="[FORMAT]",
            help="print all settings, as --config reads them, and do nothing [toml, json; default toml]",
        ),
        click.Option(
            ["--progress"],
            type=click.Choice(["auto", "rich", "plain", "none"]),
            default="auto",
            metavar="MODE",
            help="what is shown meanwhile: rich: a live display; plain: a line every few seconds; "
            "auto: rich on a terminal, else plain [auto, rich, plain, none; default auto]",
        ),
        click.Option(["--profile"], is_flag=True, help="print at the end what the time of training was spent on"),
        *common_options(),
    ]


def configure_plan(
    plan: Plan, given: Mapping[Setting, Sequence[str]], preset: str | None, above: Data | None = None
) -> tuple[RunConfig, str | None]:
    """The config, or all its problems in the words of the command line; `above` is a layer above the options."""
    problems: Problems = []
    flags = flags_layer(given, problems)
    try:
        config, name = configure([plan.base, plan.file_layer, flags, above or {}], plan.registry, preset)
    except ConfigError as error:
        raise explain(parse_error(problems, error), plan, given) from error
    if problems:
        raise explain(problems, plan, given)
    return config, name


def _run_folder(path: str) -> Path:
    from rlkit_core.run_folder import RunFolder

    return RunFolder.open(path).path


def report(config: RunConfig, result: Result) -> None:
    """What was reached, where it lies, and what to do with it."""
    run_dir = shlex.quote(str(result.run_dir))
    rows = [("run folder", run_dir)]
    where = config.tracker.where(result.run_dir, os.environ)
    if where is not None:
        then = "    then open http://127.0.0.1:5000" if where.startswith("mlflow ui") else ""
        rows.append(("look at it", where + then))
    if result.signal is not None:
        rows.append(("go on", f"rlkit resume {run_dir}"))
    rows.append(("evaluate", f"rlkit eval {run_dir}"))
    click.echo(_outcome(config, result))
    for label, text in rows:
        click.echo(f"{label:<11} {text}")
    if result.profile is not None:
        click.echo("\n".join(_shares(result.profile)))
    if result.warning is not None:
        click.echo("warning: " + result.warning.replace("\n", "\n         "), err=True)


def _shares(seconds: Mapping[str, float]) -> Iterator[str]:
    """A table of what the time of training was spent on."""
    from rlkit_core.profiling import SECTIONS

    total = sum(seconds.values())
    yield f"{total:.2f} s of training, without evaluations:"
    for section, spent in seconds.items():
        yield f"  {section:<12} {100 * spent / (total or 1):5.1f} %  {SECTIONS.get(section, '')}"


def _outcome(config: RunConfig, result: Result) -> str:
    effort = f"after {result.steps:,} steps in {result.seconds:.1f} s"
    reached = result.reached
    if result.signal is not None:
        reached, label = None, "interrupted"
    elif reached is None:
        label = "budget used up"
    else:
        label = "solved" if reached.startswith("greedy return") and config.stop_at == "threshold" else "done"
    if reached is None and result.evaluation_return is not None:
        reached = f"greedy return {result.evaluation_return:.1f} over {result.evaluation_episodes} episodes"
        if result.signal is not None:
            reached = f"last {reached}"
        else:
            goal = config.stop_at if isinstance(config.stop_at, float) else config.env.reward_threshold()
            if goal is not None and config.stop_at != "never":
                reached += f" ({goal:g} was the aim)"
    return f"{label}: {reached} {effort}" if reached else f"{label} {effort}"


command = Algorithms(
    "run",
    context_settings=CONTEXT,
    help="Train an algorithm in an environment, and leave a run folder.",
    epilog="Each algorithm has options of its own: rlkit run a2c --help. What it is: rlkit show a2c.",
    params=common_options(),
)
