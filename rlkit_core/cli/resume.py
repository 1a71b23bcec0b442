"""`rlkit resume RUN`: go on with a run that was interrupted or killed."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from rlkit_core.cli.group import GroupCommand, go_on
from rlkit_core.cli.root import CONTEXT, AtLeast, common_options, import_option, progress_option
from rlkit_core.errors import ResumeRefused, UsageError


@click.command(
    "resume",
    cls=GroupCommand,
    context_settings=CONTEXT,
    help="Go on with a run from its last checkpoint, to the same bits as if it had never stopped. "
    "One that has finished is left alone, or goes on with more --total-steps. Of a group's folder, as --seeds and "
    "rlkit sweep leave it, what is missing is computed.",
)
@click.argument("run", metavar="RUN|GROUP")
@click.option("--total-steps", type=AtLeast(1), metavar="INT", help="another budget in environment steps")
@click.option("--checkpoint", type=AtLeast(0), metavar="STEP", help="go on from this checkpoint; default: the last one")
@click.option(
    "--allow-drift",
    is_flag=True,
    help="go on although settings, code, packages or the machine are other than they were and change the results",
)
@import_option
@progress_option
@click.option(
    "--jobs", type=AtLeast(1), metavar="INT", help="of a group: runs computed at the same time; default: the cores"
)
@click.option("--profile", is_flag=True, help="print at the end what the time of training was spent on")
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    total_steps: int | None,
    checkpoint: int | None,
    allow_drift: bool,
    imports: tuple[str, ...],
    progress: str,
    jobs: int | None,
    profile: bool,
) -> int:
    """Resume, and report as `rlkit run` does."""
    from rlkit_core.group_folder import is_group

    command = ctx.command
    assert isinstance(command, GroupCommand)
    if is_group(Path(run)):
        wrong = {"--total-steps": total_steps, "--checkpoint": checkpoint, "--profile": profile or None}
        wrong["--allow-drift"] = allow_drift or None
        for flag in [flag for flag, value in wrong.items() if value is not None]:
            raise UsageError(
                f"{flag} is for one run, and {run} is a group of them\nresume a run of it by its own folder"
            )
        return go_on(run, command.chosen_executor(), jobs, imports, progress)
    if jobs is not None or command.executor_given:
        flag = "--jobs" if jobs is not None else command.executor_given[0]
        raise UsageError(f"{flag} is for a group of runs, and {run} is none\nleave it out")
    from rlkit_core.cli.run import report
    from rlkit_core.evaluation import open_run
    from rlkit_core.run_folder import RunFolder
    from rlkit_core.training import resume

    finished = RunFolder.open(run).status().get("state") == "finished" and total_steps is None
    try:
        result = resume(
            run,
            total_steps=total_steps,
            checkpoint=checkpoint,
            allow_drift=allow_drift,
            imports=imports,
            progress=progress,  # type: ignore[arg-type]
            profile=profile,
        )
    except ResumeRefused as refused:
        show_differences(refused.differences)
        raise
    if finished:
        click.echo(f"{run} has finished after {result.steps:,} steps: nothing to do")
        click.echo(f"more steps: rlkit resume {shlex.quote(run)} --total-steps N")
        return 0
    report(open_run(run, imports=imports), result)
    return 0 if result.signal is None else 128 + signal.Signals(result.signal)


def show_differences(differences: Sequence[tuple[str, str, str, bool]]) -> None:
    """A table of what is other than it was."""
    rows = [("", "then", "now", ""), *((what, then, now, "changes results" if changes else "")
            for what, then, now, changes in differences)]  # fmt: skip
    widths = [min(max(len(row[i]) for row in rows), limit) for i, limit in enumerate((40, 40, 40, 16))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        shown = (text.ljust(width) if len(text) <= width else text[: width - 1] + "…" for text, width in cells)
        click.echo("  ".join(shown).rstrip(), err=True)


command.params.extend(common_options())
