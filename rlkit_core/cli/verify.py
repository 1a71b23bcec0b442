"""`rlkit verify ALGORITHM --env ID --against SOURCE`: runs beside a published score."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.cli.source import open_source, runs_option, store_option
from rlkit_core.errors import UsageError

if TYPE_CHECKING:
    from rlkit_core.run_store import RunStore, StoredRun
    from rlkit_core.verification import Check, Published, Source

SEEDS = 10
"""Seeds of the runs that are proposed."""


@click.command(
    "verify",
    context_settings=CONTEXT,
    help="Say whether a published score of an algorithm lies where further seeds of our runs would (consistent), below "
    "(better), above (worse), or whether that cannot be told; and in what the runs differ from the published ones.",
)
@click.argument("algorithm", metavar="ALGORITHM")
@click.option("--env", "environment", required=True, metavar="ID", help="the environment")
@click.option(
    "--against",
    required=True,
    metavar="SOURCE",
    help="whose scores: zoo, cleanrl, or a TOML file like those in rlkit_core/published",
)
@click.option("--group", metavar="NAME", help="only runs of this group; needed where several have such runs")
@runs_option
@store_option
@click.option(
    "--allow", multiple=True, metavar="KEY", help="pass over what would mislead and is refused; it is printed instead"
)
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def command(
    algorithm: str,
    environment: str,
    against: str,
    group: str | None,
    folder: str,
    store: str | None,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Read, check and print."""
    from rlkit_core.verification import find, read_source, verify

    source = read_source(against)
    published = find(source, algorithm.rpartition(":")[2], environment)
    runs = open_source(store, folder)
    empty = store is None and group is None and not Path(folder).is_dir()
    found = [] if empty else _runs(runs, algorithm, environment, group)
    if not found:
        raise UsageError(
            f"there are no finished runs of {algorithm} on {environment} in {folder if store is None else 'the store'}"
            + (f", group {group}" if group else "")
            + f"\nmake them with: {_to_make_them(algorithm, environment, published, group)}"
        )
    allowed = _refuse(found, runs, source, allow)
    check = verify(published, source, [run for run in found if run.state == "finished"])
    if as_json:
        click.echo(json.dumps({**check.plain(), "allowed": allowed}, indent=2))
        return
    _print(check, source, algorithm, environment, allowed)
    if check.word == "cannot tell":
        click.echo(f"\nmore seeds: {_to_make_them(algorithm, environment, published, found[0].group or None)}")


def _runs(store: RunStore, algorithm: str, environment: str, group: str | None) -> list[StoredRun]:
    """Runs of the algorithm on the environment, all of one group."""
    from rlkit_core.verification import CURVES

    found = [
        run
        for run in store.runs([group] if group else [], curves=(*CURVES, "evaluation/return"))
        if run.algorithm is not None
        and run.algorithm.rpartition(":")[2] == algorithm.rpartition(":")[2]
        and run.environment == environment
    ]
    groups = sorted({run.group for run in found})
    if len(groups) > 1:
        raise UsageError(
            f"runs of {algorithm} on {environment} belong to {len(groups)} groups: {', '.join(groups)}\n"
            "give one of them as --group: what differs between groups is not seeds"
        )
    return found if any(run.state == "finished" for run in found) else []


def _refuse(runs: Sequence[StoredRun], store: RunStore, source: Source, allow: Sequence[str]) -> list[dict[str, str]]:
    """Refuse what would mislead, as `rlkit compare` does; returns what is allowed by name."""
    from rlkit_core.refusals import KEYS, refusals

    unknown = [key for key in allow if key not in KEYS]
    if unknown:
        raise UsageError(f"nothing is refused as {unknown[0]}\nthere are: {', '.join(KEYS)}")
    found = refusals(runs, groups=store.groups(), narrowed=True)
    if source.measured == "training":
        # How evaluations were made is then of no interest.
        found = [refusal for refusal in found if refusal.key not in ("training-returns", "evaluation-protocol")]
    refused = [refusal for refusal in found if refusal.key not in allow]
    if refused:
        keys = " ".join(f"--allow {refusal.key}" for refusal in refused)
        lines = [line for refusal in refused for line in refusal.lines()]
        raise UsageError("\n".join(["the runs would mislead", *lines, f"to pass over it and have it said: {keys}"]))
    return [{"key": refusal.key, "reason": refusal.reason} for refusal in found]


def _to_make_them(algorithm: str, environment: str, published: Published, group: str | None) -> str:
    words = ["rlkit", "run", algorithm, "--env", environment, "--seeds", str(SEEDS), "--stop-at", "never"]
    words += ["--total-steps", str(published.steps), *(["--group", group] if group else [])]
    return shlex.join(words)


def _print(check: Check, source: Source, algorithm: str, environment: str, allowed: Sequence[dict[str, str]]) -> None:
    import numpy as np

    published = check.published
    spread = "" if published.spread is None else f" ± {published.spread:,.1f}"
    seeds = "1 seed" if published.seeds == 1 else f"{published.seeds} seeds"
    scores = np.array(check.scores)
    click.echo(f"{algorithm} on {environment} against {source.title}: {check.word}")
    click.echo(f"  {check.reason}")
    click.echo(f"published  {published.mean:,.1f}{spread}, {seeds}, {published.steps:,} steps")
    if len(scores):
        count = "1 seed" if len(scores) == 1 else f"{len(scores)} seeds"
        click.echo(
            f"ours       mean {scores.mean():,.1f}, median {np.median(scores):,.1f}, "
            f"from {scores.min():,.1f} to {scores.max():,.1f}, {count}"
        )
    if check.interval is not None:
        low, high, share = check.interval.low, check.interval.high, 100 * check.interval.confidence
        click.echo(f"predicted  {low:,.1f} to {high:,.1f} in {share:.0f} % of cases ({check.interval.method})")
    how = "greedy evaluation" if source.measured == "evaluation" else "last training episodes"
    click.echo(f"measured   {how} on both sides; policy published: {source.policy}")
    for note in source.notes:
        click.echo(f"published  {note}")
    if published.spread is not None:
        click.echo(f"published  ± is the {source.spread}")
    for difference in check.differences:
        click.echo(f"differs    {difference}")
    for item in allowed:
        click.echo(f"allowed    {item['key']}: {item['reason']}")
    click.echo(f"from       {source.url}")


command.params.extend(common_options())
