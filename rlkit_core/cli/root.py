"""The command's root: which sub-commands there are, and how errors are shown.

Sub-commands are imported when they are named: `rlkit --help` costs click and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from rlkit_core import signals
from rlkit_core.errors import Diverged, RlkitError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CONTEXT: dict[str, Any] = {
    "max_content_width": 120,
    "help_option_names": [],  # our own
    # `--total_steps` is understood as `--total-steps`.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}

COMMANDS = {
    "run": ("rlkit_core.cli.run:command", "Train an algorithm in an environment."),
    "sweep": ("rlkit_core.cli.sweep:command", "Train many: algorithms, environments, settings, seeds."),
    "tune": ("rlkit_core.cli.tune:command", "Search for good settings of an algorithm."),
    "resume": ("rlkit_core.cli.resume:command", "Go on with a run, or a group, that was interrupted or killed."),
    "eval": ("rlkit_core.cli.evaluate:command", "Evaluate a run's policy greedily."),
    "watch": ("rlkit_core.cli.watch:command", "Show a run's policy at work, or write a video of it."),
    "runs": ("rlkit_core.cli.runs:command", "List runs, and how they stand."),
    "compare": ("rlkit_core.cli.compare:command", "Compare groups of runs: better, worse, or cannot tell."),
    "report": ("rlkit_core.cli.report:command", "Write a page about a run or a group of runs."),
    "reproduce": ("rlkit_core.cli.reproduce:command", "Run a run again, and say whether it comes to the same bits."),
    "verify": ("rlkit_core.cli.verify:command", "Hold runs of an algorithm against published scores."),
    "ui": ("rlkit_core.cli.ui:command", "Show tracked runs in a browser."),
    "list": ("rlkit_core.cli.catalogue:list_command", "List what is registered, and from where."),
    "show": ("rlkit_core.cli.catalogue:show_command", "Explain a registered part: its settings and presets."),
    "plugins": ("rlkit_core.cli.plugins:command", "List, explain, examine, check and begin plugins."),
    "sync": ("rlkit_core.cli.sync:command", "Send to the tracker what could not be sent during a run."),
}
"""Sub-commands: where each is, and its line in the help."""


class Names(click.Group):
    """A group whose sub-commands are known by name before any of them is loaded."""

    def named(self) -> dict[str, str]:
        """Names of the sub-commands, each with a line of help."""
        raise NotImplementedError

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the help."""
        return list(self.named())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names without loading what they name."""
        named = self.named()
        if named:
            with formatter.section("Commands" if self.name == "rlkit" else "Algorithms"):
                formatter.write_dl(list(named.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names without loading what they name."""
        from click.shell_completion import CompletionItem

        items = [CompletionItem(name, help=text) for name, text in self.named().items() if name.startswith(incomplete)]
        return items + (click.Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else [])


class Root(Names):
    """`rlkit`."""

    def named(self) -> dict[str, str]:
        """The sub-commands."""
        return {name: text for name, (_, text) in COMMANDS.items()} | _offered_commands()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a sub-command."""
        if cmd_name not in COMMANDS:
            return _offered_command(cmd_name)
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


def _offered_commands() -> dict[str, str]:
    """Sub-commands of plugins, with where they come from; nothing of a plugin is imported."""
    from rlkit_core.installed import announcing, is_allowed

    offered: dict[str, list[str]] = {}
    for distribution in announcing(COMMAND_GROUP):
        with contextlib.suppress(Exception):  # one with broken metadata must not take the help along
            name, version = distribution.metadata["Name"], distribution.version
            if is_allowed(name):
                for point in distribution.entry_points:
                    if point.group == COMMAND_GROUP and point.name not in COMMANDS:
                        offered.setdefault(point.name, []).append(f"{name} {version}")
    return {name: f"From {' and '.join(dict.fromkeys(whose))}." for name, whose in sorted(offered.items())}


COMMAND_GROUP = "rlkit.command"


def _offered_command(name: str) -> click.Command | None:
    """The sub-command of a plugin, or None where there is none of that name."""
    if name.rpartition(":")[2] not in _offered_commands():
        return None
    from rlkit_core.errors import PluginError
    from rlkit_core.registry import Registry

    found = Registry().command(name)
    if not isinstance(found, click.Command):
        raise PluginError(f"the command {name} is a {type(found).__name__}, not a click command")
    return found


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"rlkit-core {version('rlkit-core')}")
        ctx.exit()


def _help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(ctx.get_help())
        ctx.exit()


def common_options() -> list[click.Parameter]:
    """The options that every command has; `--plugin` and `--no-plugins` act before a command is looked up."""
    return [
        click.Option(
            ["--plugin"],
            metavar="FILE",
            multiple=True,
            expose_value=False,
            help="a Python file that is a plugin; may be given several times",
        ),
        click.Option(
            ["--no-plugins"], is_flag=True, expose_value=False, help="only what comes with rlkit; see RLKIT_PLUGINS"
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, help="show the traceback of an error"),
        click.Option(
            ["-h", "--help"], is_flag=True, is_eager=True, expose_value=False, callback=_help, help="show this help"
        ),
    ]


import_option = click.option(
    "--import", "imports", metavar="MODULE", multiple=True, help="module to import first; may be given several times"
)
progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "rich", "plain", "none"]),
    default="auto",
    metavar="MODE",
    help="what is shown meanwhile [auto, rich, plain, none; default auto]",
)


class AtLeast(click.ParamType):  # type: ignore[type-arg]
    """A whole number that is not below a bound."""

    name = "int"

    def __init__(self, bound: int) -> None:
        self.bound = bound

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        try:
            number = int(value)
        except ValueError:
            number = self.bound - 1
        if number < self.bound:
            self.fail(f"should be a whole number, at least {self.bound}, not {value}", param, ctx)
        return number


root = Root(
    "rlkit",
    context_settings=CONTEXT,
    help="Write, run and compare reinforcement-learning algorithms.",
    epilog="A first run: rlkit run a2c --env CartPole-v1. Its settings: rlkit run a2c --help.",
    params=[
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="show the version"
        ),
        *common_options(),
    ],
)


def execute(arguments: Sequence[str]) -> int:
    """Run `rlkit` with these arguments; returns the exit code. Errors are shown, not raised."""
    try:
        with signals.raising(), _plugins_of(arguments) as rest:
            code = root.main(rest or ["--help"], prog_name="rlkit", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort) as interruption:
        cause = interruption.__cause__ if isinstance(interruption, click.Abort) else interruption
        number = cause.args[0] if cause is not None and cause.args else None
        return 128 + (number if isinstance(number, int) else signal.SIGINT)
    except BrokenPipeError:
        # Whoever read us has seen enough; Python must not complain about it at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        return _report(error, "--debug" in arguments)


@contextlib.contextmanager
def _plugins_of(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Do what `--plugin` and `--no-plugins` ask for, and give the other arguments."""
    rest: list[str] = []
    files: list[str] = []
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name == "--plugin":
            file = value if equals else next(given, None)
            if file is None:
                raise UsageError("--plugin needs a value\nit takes the path of a Python file")
            files.append(file)
        elif argument not in ("--no-plugins", "--no_plugins"):
            rest.append(argument)
    with contextlib.ExitStack() as stack:
        if len(rest) + len(files) < len(arguments) and {"--no-plugins", "--no_plugins"} & set(arguments):
            from rlkit_core.installed import no_plugins

            stack.enter_context(no_plugins())
        if files:
            from rlkit_core.registry import given_files

            stack.enter_context(given_files(files))
        yield rest


def _report(error: Exception, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error = _usage_error(error)
    if isinstance(error, RlkitError):
        # Whatever is no longer finite, returns, a gradient or a policy: the user can do the same about it.
        show_error(f"{error}\ntry a lower learning rate" if isinstance(error, Diverged) else str(error))
        return error.exit_code
    place = _place(error)
    lines = [f"{type(error).__name__}: {' '.join(str(error).split())}{place}", "this is a bug, of rlkit or of a plugin"]
    if notes := getattr(error, "__notes__", []):
        lines[-1] += f"; {notes[-1]}"
    if not debug:
        lines.append("--debug shows the traceback")
    show_error("\n".join(lines))
    return RlkitError.exit_code


def show_error(text: str) -> None:
    """Print an error's lines to stderr, the later ones below the first."""
    click.echo("error: " + text.replace("\n", "\n       "), err=True)


def _place(error: Exception) -> str:
    """The file and line that raised, such as ` (rlkit_a2c/a2c.py, line 12)`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({'/'.join(trace.tb_frame.f_code.co_filename.split(os.sep)[-2:])}, line {trace.tb_lineno})"


def _usage_error(error: click.ClickException) -> UsageError:
    """What click found wrong, in our words."""
    from rlkit_core.cli.options import no_such_option
    from rlkit_core.config import did_you_mean

    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rlkit"
    if isinstance(error, click.NoSuchOption):
        parameters = context.command.get_params(context) if context is not None else []
        return no_such_option(error.option_name, [flag for parameter in parameters for flag in parameter.opts], command)
    if isinstance(error, click.exceptions.NoSuchCommand):
        commands = [*COMMANDS, *_offered_commands()]
        hint = did_you_mean(error.command_name, commands).removeprefix("; ")
        return UsageError(
            f"there is no command {error.command_name}\n{hint + ' ' if hint else ''}commands: {', '.join(commands)}"
        )
    if isinstance(error, click.BadOptionUsage):
        return UsageError(f"{error.option_name} needs a value\nwhat it takes is shown with --help")
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return UsageError(f"{error.param.make_metavar(context)} is missing\nusage: {_usage(context)}")  # type: ignore[arg-type]
    if isinstance(error, click.BadParameter) and error.param is not None:
        return UsageError(f"{error.param.opts[0]}: {error.message.rstrip('.')}")
    message = error.format_message()
    if message.startswith("Got unexpected extra argument"):
        extra = message[message.index("(") + 1 : message.rindex(")")]
        return UsageError(f"unexpected: {extra}\nusage: {_usage(context)}")
    return UsageError(message)


def _usage(context: click.Context | None) -> str:
    return "" if context is None else " ".join(context.get_usage().removeprefix("Usage:").split())
