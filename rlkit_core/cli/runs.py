"""`rlkit runs`: stored runs, and how they stand."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from rlkit_core.cli.root import CONTEXT, AtLeast, common_options
from rlkit_core.cli.source import open_source, store_option
from rlkit_core.errors import UsageError
from rlkit_core.run_filter import full_name, matching, parse_filter, value_of
from rlkit_core.run_store import StoredGroup, StoredRun, default_group

NUMBERS = ("seed", "steps", "return")
"""Columns that are set to the right."""


@click.command(
    "runs",
    context_settings=CONTEXT,
    help="List runs, the newest last, and how each stands: running, finished, interrupted, failed, killed, lost (its "
    "process is gone without a word) or damaged (its files cannot be read). They are read from run folders below "
    "FOLDER (default: runs), or with --store from where they were sent.",
)
@click.argument("folder", metavar="[FOLDER]", required=False)
@store_option
@click.option("--group", metavar="NAME", help="only runs of this group, of groups below it, or of this experiment")
@click.option("--state", metavar="STATE", help="only runs that stand so")
@click.option("--algorithm", metavar="NAME", help="only runs of this algorithm")
@click.option("--env", metavar="ID", help="only runs in this environment")
@click.option("--where", metavar="FILTER", help='only runs of which this is true, such as "seed < 5 and return >= 400"')
@click.option("--sort", metavar="FIELD", default="started", help="by what they are sorted [default started]")
@click.option("--limit", type=AtLeast(1), metavar="INT", help="only so many, the last ones")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def command(
    folder: str | None,
    store: str | None,
    group: str | None,
    state: str | None,
    algorithm: str | None,
    env: str | None,
    where: str | None,
    sort: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print a table, and below it how complete groups of runs are."""
    if folder is not None and store is not None:
        raise UsageError("runs are read from a folder or from a store\nleave out FOLDER, or --store")
    conditions = () if where is None else parse_filter(where)
    field = full_name(sort)
    source = open_source(store, folder or "runs")
    found = source.runs([] if group is None else [group])
    runs = matching(found, conditions)
    for wanted, name in ((state, "state"), (algorithm, "algorithm"), (env, "environment")):
        if wanted is not None:
            runs = [run for run in runs if getattr(run, name) == wanted]
    if field != "started":  # they come by it
        runs.sort(key=lambda run: _order(value_of(run, field)))
    runs = runs[-limit:] if limit is not None else runs
    if as_json:
        click.echo(json.dumps([_as_json(run) for run in runs], indent=2))
        return
    if not runs:
        where_from = folder or "runs" if store is None else store or "the store"
        click.echo(f"no run in {where_from}" + (f", {len(found)} without the filters" if found else ""))
        return
    click.echo("\n".join(_table(runs)))
    parents = {run.parent for run in runs}
    for line in [_line(one, found) for one in source.groups() if one.parent in parents]:
        click.echo(line)


def _order(value: Any) -> tuple[int, Any]:
    """By what a field's values are sorted: those that are not there first, then numbers, then texts."""
    if isinstance(value, (int, float)):
        return (1, value) if not math.isnan(value) else (0, 0)
    return (0, 0) if value is None else (2, str(value))


def _table(runs: Sequence[StoredRun]) -> list[str]:
    columns: dict[str, list[Any]] = {
        "run": [run.place for run in runs],
        "name": [run.name for run in runs],
        "state": [run.state for run in runs],
        "algorithm": [run.algorithm for run in runs],
        "env": [run.environment for run in runs],
        "seed": [run.seed for run in runs],
        "group": [run.group for run in runs],
        "steps": [None if run.steps is None else f"{run.steps:,}" for run in runs],
        "return": [None if (value := run.final.get("return")) is None else f"{value:.1f}" for run in runs],
    }
    if all(run.name == run.place.rpartition("/")[2] for run in runs):
        del columns["name"]
    if all(run.group in ("", default_group(run.algorithm, run.environment)) for run in runs):
        del columns["group"]
    cells = {name: [name, *(_text(value) for value in values)] for name, values in columns.items()}
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    return [
        "  ".join(
            texts[i].rjust(widths[name]) if name in NUMBERS else texts[i].ljust(widths[name])
            for name, texts in cells.items()
        ).rstrip()
        for i in range(len(runs) + 1)
    ]


def _text(value: Any) -> str:
    """A cell: what others wrote may hold anything, so nothing that moves the cursor."""
    text = "-" if value in (None, "") else str(value)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _line(group: StoredGroup, runs: Sequence[StoredRun]) -> str:
    """How complete a group of runs is."""
    own = [run for run in runs if run.parent == group.parent]
    states = Counter(run.state for run in own)
    missing = set(group.planned) - {(run.group, run.environment, run.seed) for run in own}
    parts = [f"{number} {state}" for state, number in states.items()] + [f"{len(missing)} missing"] * bool(missing)
    return _text(f"group {group.name}: {len(group.planned) or len(own)} runs, {', '.join(parts)}")


def _as_json(run: StoredRun) -> dict[str, Any]:
    """A run as JSON; numbers that are not finite are null there."""
    fields = {key: value for key, value in asdict(run).items() if key != "curves"}
    final = {key: value if math.isfinite(value) else None for key, value in run.final.items()}
    place, environment = fields.pop("place"), fields.pop("environment")
    return {"run": place, **fields, "env": environment, "final": final, "return": final.get("return")}


command.params.extend(common_options())
