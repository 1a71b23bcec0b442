"""`rlkit report`: a run or a group of runs as one page of HTML."""

from __future__ import annotations

import re
from pathlib import Path

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.cli.source import open_source, store_option
from rlkit_core.errors import StorageError


@click.command(
    "report",
    context_settings=CONTEXT,
    help="Write a page about a run, or about a group of runs: curves, results with intervals, settings, versions, and "
    "how to reproduce them. It holds all it needs and opens without a network.",
)
@click.argument("what", metavar="RUN|GROUP")
@store_option
@click.option("--output", metavar="FILE", help="where to; default: NAME-report.html here")
def command(what: str, store: str | None, output: str | None) -> None:
    """Write the page."""
    from rlkit_core.report import CURVES, report_group, report_run
    from rlkit_core.run_folder import replace_file

    source = open_source(store)
    runs = source.runs([what], curves=CURVES)
    is_run = len(runs) == 1 and runs[0].group != what
    text = report_run(runs[0]) if is_run else report_group(what, runs, source.groups())
    path = Path(output) if output is not None else _default(what)
    try:
        replace_file(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}\nchoose another file with --output"
        ) from error
    click.echo(f"report  {path}")


def _default(what: str) -> Path:
    name = re.sub(r"[^\w.-]+", "-", what).strip("-.")
    return Path(f"{name[:100] or 'run'}-report.html")


command.params.extend(common_options())
