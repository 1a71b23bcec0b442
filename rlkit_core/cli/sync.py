"""`rlkit sync RUN`: send to the tracker what could not be sent."""

from __future__ import annotations

import click

from rlkit_core.cli.root import CONTEXT, common_options, show_error
from rlkit_core.errors import RlkitError


@click.command(
    "sync",
    context_settings=CONTEXT,
    help="Send to its tracker what could not be sent of a run that has ended. Doing it again changes nothing.",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
def command(runs: tuple[str, ...]) -> int:
    """Send runs, one after the other; one that fails does not keep the others."""
    from rlkit_core.tracking import sync

    code = 0
    for run in runs:
        try:
            click.echo(f"{run}: {sync(run)}" if len(runs) > 1 else sync(run))
        except RlkitError as error:
            if len(runs) == 1:
                raise
            show_error(str(error))
            code = max(code, error.exit_code)
    return code


command.params.extend(common_options())
