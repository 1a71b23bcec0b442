"""`rlkit reproduce RUN`: make a stored run again from its record, and compare."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlkit_core.cli.root import CONTEXT, common_options, import_option, progress_option
from rlkit_core.cli.source import open_source, store_option

if TYPE_CHECKING:
    from rlkit_core.reproduction import Reproduction

DIFFERENT = 1
"""Exit code where what comes out is different."""


@click.command(
    "reproduce",
    context_settings=CONTEXT,
    help="Make a stored run again from its record, in a new folder, and say whether it comes out bit-equal, equal "
    "within a tolerance, or different, and where first. RUN is a run folder or a name; with --store it is looked for "
    f"there. Exits with {DIFFERENT} if it is different.",
)
@click.argument("run", metavar="RUN")
@store_option
@click.option("--run-dir", metavar="DIR", help="where the new run goes; default: a new folder in runs/")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-6,
    metavar="FLOAT",
    help="up to which numbers count as equal, relative to the larger of 1 and them [default 1e-6]",
)
@import_option
@progress_option
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON, and nothing else")
def command(
    run: str,
    store: str | None,
    run_dir: str | None,
    tolerance: float,
    imports: tuple[str, ...],
    progress: str,
    as_json: bool,
) -> int:
    """Reproduce, and report."""
    from rlkit_core.reproduction import reproduce

    source = open_source(store)
    with tempfile.TemporaryDirectory() as scratch:
        there = store is None and (Path(run) / "config.json").exists()
        original = Path(run) if there else source.fetch(run, Path(scratch))
        found = reproduce(
            original,
            run_dir=run_dir,
            tolerance=tolerance,
            imports=imports,
            progress="none" if as_json else progress,  # type: ignore[arg-type]
        )
    if as_json:
        click.echo(json.dumps({**found.as_json(), "original": run}, indent=2))
    else:
        click.echo("\n".join(_report(found, run)))
    return DIFFERENT if found.verdict == "different" else 0


def _report(found: Reproduction, run: str) -> Iterator[str]:
    """What was found, and where it lies."""
    if found.verdict == "bit-equal":
        yield f"bit-equal: all {found.numbers:,} numbers of {run}, to step {found.steps:,}; {found.weights}"
    else:
        where = found.first or found.ended or found.weights
        yield f"{found.verdict}: first {where}" if found.first is not None else f"{found.verdict}: {where}"
        if found.ended is not None and found.first is not None:
            yield f"ended other: {found.ended}"
        if found.largest is not None:
            yield f"furthest apart: {found.largest}"
        yield f"last policy: {found.weights}"
    for difference in found.made_with:
        changes = ", which changes results" if difference.changes_results else ""
        yield f"made with other: {difference.what}: {difference.then} then, {difference.now} now{changes}"
    yield f"run folder  {found.run_dir}"


command.params.extend(common_options())
