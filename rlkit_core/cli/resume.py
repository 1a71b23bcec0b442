"""`rlkit resume RUN`: go on with a run that was interrupted or killed."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence

import click

from rlkit_core.cli.root import CONTEXT, AtLeast, common_options
from rlkit_core.errors import ResumeRefused


@click.command(
    "resume",
    context_settings=CONTEXT,
    help="Go on with a run from its last checkpoint, to the same bits as if it had never stopped. "
    "One that has finished is left alone, or goes on with more --total-steps.",
)
@click.argument("run", metavar="RUN")
@click.option("--total-steps", type=AtLeast(1), metavar="INT", help="another budget in environment steps")
@click.option("--checkpoint", type=AtLeast(0), metavar="STEP", help="go on from this checkpoint; default: the last one")
@click.option(
    "--allow-drift",
    is_flag=True,
    help="go on although settings, code, packages or the machine are other than they were and change the results",
)
@click.option(
    "--import", "imports", metavar="MODULE", multiple=True, help="module to import first; may be given several times"
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "rich", "plain", "none"]),
    default="auto",
    metavar="MODE",
    help="what is shown meanwhile [auto, rich, plain, none; default auto]",
)
@click.option("--profile", is_flag=True, help="print at the end what the time of training was spent on")
def command(
    run: str,
    total_steps: int | None,
    checkpoint: int | None,
    allow_drift: bool,
    imports: tuple[str, ...],
    progress: str,
    profile: bool,
) -> int:
    """Resume, and report as `rlkit run` does."""
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
        _show(refused.differences)
        raise
    if finished:
        click.echo(f"{run} has finished after {result.steps:,} steps: nothing to do")
        click.echo(f"more steps: rlkit resume {shlex.quote(run)} --total-steps N")
        return 0
    report(open_run(run, imports=imports), result)
    return 0 if result.signal is None else 128 + signal.Signals(result.signal)


def _show(differences: Sequence[tuple[str, str, str, bool]]) -> None:
    """A table of what is other than it was."""
    rows = [("", "then", "now", ""), *((what, then, now, "changes results" if changes else "")
            for what, then, now, changes in differences)]  # fmt: skip
    widths = [min(max(len(row[i]) for row in rows), limit) for i, limit in enumerate((40, 40, 40, 16))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        shown = (text.ljust(width) if len(text) <= width else text[: width - 1] + "…" for text, width in cells)
        click.echo("  ".join(shown).rstrip(), err=True)


command.params.extend(common_options())
