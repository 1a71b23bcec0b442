"""`rlkit runs`: the runs of a folder, and how they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_folder import RunFolder, last_record, read_json

COLUMNS = ("run", "state", "algorithm", "env", "seed", "steps", "return")


@click.command(
    "runs",
    context_settings=CONTEXT,
    help="List the runs of a folder (default: runs), and how each stands: running, finished, interrupted, failed, "
    "or killed, where its process is gone without a word.",
)
@click.argument("folder", metavar="[FOLDER]", default="runs")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def command(folder: str, as_json: bool) -> None:
    """Print a table, the oldest run first."""
    top = Path(folder)
    if not top.is_dir():
        raise UsageError(
            f"there is no folder {folder}\ngive the one that holds the runs; `rlkit run` makes them in runs/"
        )
    rows = list(_rows(top))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"no run in {folder}")
        return
    table = [COLUMNS, *(tuple(_text(row[column], column) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        cells = (
            text.rjust(width) if COLUMNS[i] in ("seed", "steps", "return") else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _rows(top: Path) -> Iterator[dict[str, Any]]:
    found = sorted(
        (path.parent for path in (*top.glob("config.json"), *top.glob("*/config.json"))),
        key=lambda path: ((path / "config.json").stat().st_mtime, path.name),
    )
    for path in found:
        yield _row(RunFolder(path))


def _row(folder: RunFolder) -> dict[str, Any]:
    """A run as far as its files can be read."""
    try:
        status = folder.status()
        state = "killed" if folder.is_orphaned() else str(status.get("state", "?"))
    except StorageError:
        status, state = {}, "damaged"
    try:
        config = read_json(folder.config_path)
    except StorageError:
        config = None
    config = config if isinstance(config, dict) else {}
    result = status.get("result")
    result = result if isinstance(result, dict) else {}
    steps, value = result.get("steps"), result.get("evaluation_return")
    if not result:
        record = last_record(folder.journal_path)
        steps = None if record is None else record["step"]
    return {
        "run": str(folder.path),
        "state": state,
        "algorithm": _name(config.get("algorithm"), "name"),
        "env": _name(config.get("env"), "id"),
        "seed": config.get("seed") if type(config.get("seed")) is int else None,
        "steps": steps if type(steps) is int else None,
        "return": value if type(value) in (int, float) else None,
    }


def _name(part: Any, key: str) -> str | None:
    name = part.get(key) if isinstance(part, dict) else part
    return name if isinstance(name, str) else None


def _text(value: Any, column: str) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if column == "steps" else f"{value:.1f}" if column == "return" else str(value)


command.params.extend(common_options())
