"""`rlkit compare`: whether groups of runs differ, and how sure that is."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.root import CONTEXT, AtLeast, common_options
from rlkit_core.cli.source import open_source, runs_option, store_option
from rlkit_core.errors import ComparisonRefused, RlkitError, UsageError

if TYPE_CHECKING:
    from rlkit_core.refusals import By, Refusal
    from rlkit_core.run_store import RunStore, StoredGroup, StoredRun

Result = dict[str, Any]

ENVIRONMENTS = "for ENV alone; may be given several times"


@click.command(
    "compare",
    context_settings=CONTEXT,
    help="Compare groups of runs, the first being the baseline: better, worse, or cannot tell. A group is the name "
    "that runs were given (--group), or one above several, such as classic above classic/a2c and classic/ppo, which "
    "are compared with each other then. Runs can also be given by folder or id. What would mislead is refused.",
)
@click.argument("groups", metavar="GROUP...", nargs=-1)
@click.option("--where", metavar="FILTER", help='only runs of which that is true, such as "environment = CartPole-v1"')
@runs_option
@store_option
@click.option(
    "--by",
    type=click.Choice(["final", "steps", "curve"]),
    default="final",
    metavar="CHOICE",
    help="what it is about: final: return of the last policy; steps: steps to a threshold; curve: mean of the "
    "evaluations over the run [final, steps, curve; default final]",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="[ENV=]RETURN",
    help=f"return that counts as solved; default: the registered one; ENV=RETURN: {ENVIRONMENTS}",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="ENV=LOW,HIGH",
    help="returns that count as 0 and 1, for scores over several environments; may be given several times",
)
@click.option("--paired", is_flag=True, help="pair runs by seed: only where a seed makes both sides' luck the same")
@click.option("--all-pairs", is_flag=True, help="test every two sides, not only each against the first")
@click.option(
    "--alpha",
    type=float,
    default=0.05,
    metavar="NUMBER",
    help="chance of any wrong verdict that is accepted [default 0.05]",
)
@click.option(
    "--seed",
    type=AtLeast(0),
    default=0,
    metavar="INT",
    help="of the bootstrap and of what is drawn for tests [at least 0; default 0]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="compare although that would mislead; the report says so; may be given several times",
)
@click.option("--table", is_flag=True, help="print the table only: no report, no charts, nothing stored")
@click.option("--json", "as_json", is_flag=True, help="print everything as JSON instead of the table")
@click.option("--name", metavar="TEXT", help="of the comparison; default: the group above all, or the sides' names")
@click.option("--output", metavar="DIR", help="folder of report and charts; default: a new one in comparisons/")
@click.option("--no-keep", is_flag=True, help="do not store report and charts in the tracker's store")
def command(
    groups: tuple[str, ...],
    where: str | None,
    folder: str,
    store: str | None,
    by: By,
    thresholds: tuple[str, ...],
    references: tuple[str, ...],
    paired: bool,
    all_pairs: bool,
    alpha: float,
    seed: int,
    allow: tuple[str, ...],
    table: bool,
    as_json: bool,
    name: str | None,
    output: str | None,
    no_keep: bool,
) -> None:
    """Read, refuse or compare, print, and store."""
    _check(groups, where, alpha, allow)
    given, everywhere = _thresholds(thresholds)
    ranges = _references(references)

    from rlkit_core.comparison import compare

    source = open_source(store, folder)
    if output is not None:
        _check_output(output)
    runs = _read(source, groups, where, by)
    planned = source.groups()
    sides = _sides(runs, groups, planned)
    environments = sorted({run.environment for run in runs if run.environment})
    _check_environments((*given, *ranges), environments)
    goals = {name: given.get(name, everywhere) for name in environments}
    if by == "steps" or not table:
        goals = {name: _registered(name, runs) if goal is None else goal for name, goal in goals.items()}
    allowed = _refuse(source, runs, sides, groups, planned, where, by, goals, allow)
    _check_shared(runs, sides, merged=any(refusal.key == "environment-versions" for refusal in allowed))
    result = compare(
        runs,
        sides=sides,
        name=name or _name(groups, sides),
        by=by,
        thresholds=goals,
        references=ranges,
        paired=paired,
        all_pairs=all_pairs,
        alpha=alpha,
        seed=seed,
        allowed=allowed,
        details=not table,
    )
    result["made_with"] = _made_with()
    result["reproduce"] = _command_line()
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        click.echo("\n".join(lines_of(result, _width())))
    if not table:
        _leave(result, runs, output, None if no_keep else lambda: _keeper(source, store, runs), err=as_json)


command.params.extend(common_options())


# What was asked for.


def _check(groups: Sequence[str], where: str | None, alpha: float, allow: Sequence[str]) -> None:
    from rlkit_core.refusals import KEYS

    if not groups and where is None:
        raise UsageError(
            "GROUP... is missing\ngive the names of groups of runs, run folders or ids; rlkit runs lists them"
        )
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha: should be a number between 0 and 1, not {alpha:g}")
    for key in allow:
        if key not in KEYS:
            from rlkit_core.config import did_you_mean

            raise UsageError(f"--allow: there is no {key}{did_you_mean(key, KEYS)}\nthere are: {', '.join(KEYS)}")


def _thresholds(texts: Iterable[str]) -> tuple[dict[str, float], float | None]:
    """Thresholds by environment, and the one for all others."""
    given: dict[str, float] = {}
    everywhere = None
    for text in texts:
        name, equals, value = text.rpartition("=")
        number = _number(value)
        if number is None:
            raise UsageError(f"--threshold: should be RETURN or ENV=RETURN, such as CartPole-v1=475, not {text}")
        if equals:
            given[name] = number
        else:
            everywhere = number
    return given, everywhere


def _references(texts: Iterable[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for text in texts:
        name, _, values = text.rpartition("=")
        low, high = (
            (_number(value) for value in (values.split(",") * 2)[:2]) if values.count(",") == 1 else (None, None)
        )
        if not name or low is None or high is None or not low < high:
            raise UsageError(f"--reference: should be ENV=LOW,HIGH, such as CartPole-v1=20,500, not {text}")
        found[name] = (low, high)
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _check_environments(names: Iterable[str], environments: Sequence[str]) -> None:
    for name in names:
        if name not in environments:
            from rlkit_core.config import did_you_mean

            raise UsageError(
                f"no run is on {name}{did_you_mean(name, environments)}\nenvironments: {', '.join(environments)}"
            )


# Runs, sides, and whether they may be compared.


def _read(source: RunStore, groups: Sequence[str], where: str | None, by: By) -> list[StoredRun]:
    """Selected runs with their evaluations; those that have none with their training returns."""
    from rlkit_core.refusals import EVALUATION, TRAINING, score_from

    runs = source.runs(groups, where=where, curves=(EVALUATION,))
    if not runs:
        raise UsageError("no run was selected\nrlkit runs lists them, and takes the same --where")
    lacking = [run.place for run in runs if run.state == "finished" and score_from(run, by) is None]
    if lacking:
        training = {run.place: run.curves for run in source.runs(lacking, curves=(TRAINING,))}
        runs = [replace(run, curves={**run.curves, **training.get(run.place, {})}) for run in runs]
    return runs


def _sides(runs: Sequence[StoredRun], groups: Sequence[str], planned: Sequence[StoredGroup]) -> list[str]:
    """The groups that are compared, in the order in which they were given, else planned, else by name."""
    from rlkit_core.refusals import natural

    plan = list(dict.fromkeys(group for one in planned for group, _, _ in one.planned))

    def rank(side: str) -> tuple[int, int, list[tuple[int, str]]]:
        members = [run for run in runs if run.group == side]
        given = next(
            (
                i
                for i, name in enumerate(groups)
                if _belongs(side, name) or any(_is_named(run, name) for run in members)
            ),
            len(groups),
        )
        return given, plan.index(side) if side in plan else len(plan), natural(side)

    sides = sorted({run.group for run in runs if run.group}, key=rank)
    if len(sides) < 2:
        only = (
            f"all selected runs are of one group, {sides[0]}" if sides else "no selected run says of which group it is"
        )
        raise UsageError(f"{only}\na comparison takes two: give another one's name; rlkit runs lists them")
    return sides


def _name(groups: Sequence[str], sides: Sequence[str]) -> str:
    if len(groups) == 1:
        return groups[0].rstrip("/")
    return " vs ".join(sides[:3]) + (" …" if len(sides) > 3 else "")


def _belongs(side: str, group: str) -> bool:
    return side == group or side.startswith(f"{group}/")


def _is_named(run: StoredRun, given: str) -> bool:
    if given in (run.place, run.run_id, run.name, run.parent):
        return True
    place, folder = os.path.abspath(run.place), os.path.abspath(given)
    return place == folder or place.startswith(folder + os.sep)


def _registered(environment: str, runs: Sequence[StoredRun]) -> float | None:
    """The environment's own threshold, if it is one that is registered here."""
    from rlkit_core.component import EnvironmentConfig
    from rlkit_core.config import DEFAULT_COMPONENTS
    from rlkit_core.registry import Registry

    name = next(run.settings.get("env.name") for run in runs if run.environment == environment)
    try:
        component = Registry().get("environment", name if isinstance(name, str) else DEFAULT_COMPONENTS["env"])
        assert issubclass(component, EnvironmentConfig)
        return component.model_validate({"id": environment}).reward_threshold()
    except Exception:  # whatever an environment of somebody else's does: then there is none
        return None


def _refuse(
    source: RunStore,
    runs: Sequence[StoredRun],
    sides: Sequence[str],
    groups: Sequence[str],
    planned: Sequence[StoredGroup],
    where: str | None,
    by: By,
    thresholds: Mapping[str, float | None],
    allow: Sequence[str],
) -> list[Refusal]:
    """What would mislead and is allowed.

    Raises:
        ComparisonRefused: something would that is not.
    """
    from rlkit_core.refusals import refusals

    # By the names of groups alone, all their runs are selected.
    narrowed = where is not None or not all(any(_belongs(side, name) for side in sides) for name in groups)
    group_runs = list(runs)
    if narrowed:
        with contextlib.suppress(UsageError):  # else there are only those that were given
            group_runs += [run for run in source.runs() if run.group in sides]
    found = refusals(runs, group_runs=group_runs, groups=planned, narrowed=narrowed, by=by, thresholds=thresholds)
    refused = [refusal for refusal in found if refusal.key not in allow]
    if refused:
        many = f", in {len(refused)} ways" if len(refused) > 1 else ""
        keys = " ".join(f"--allow {refusal.key}" for refusal in refused)
        raise ComparisonRefused(
            "\n".join(
                [
                    f"this comparison would mislead{many}",
                    *(line for refusal in refused for line in refusal.lines()),
                    f"to compare all the same, which the report will say: {keys}",
                ]
            ),
            [refusal.key for refusal in refused],
        )
    return found


def _check_shared(runs: Sequence[StoredRun], sides: Sequence[str], *, merged: bool) -> None:
    """Raise UsageError where no environment is in two sides."""
    from rlkit_core.refusals import versionless

    of_sides = [
        {
            versionless(run.environment)[0] if merged else run.environment
            for run in runs
            if run.group == side and run.environment and run.state == "finished"
        }
        for side in sides
    ]
    every = [environment for environments in of_sides for environment in environments]
    if len(every) == len(set(every)):
        told = "; ".join(
            f"{side}: {', '.join(sorted(environments)) or 'none that finished'}"
            for side, environments in list(zip(sides, of_sides, strict=True))[:4]
        )
        raise UsageError(f"no environment has finished runs of two groups\n{told}")


def _made_with() -> dict[str, str]:
    from importlib.metadata import version

    return {"rlkit-core": version("rlkit-core"), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def _command_line() -> str:
    from rlkit_core.provenance import command_line

    return command_line(["rlkit", *sys.argv[1:]])


# The table.


def lines_of(result: Result, width: int | None = None) -> list[str]:
    """A comparison for a terminal.

    Args:
        result: what `rlkit_core.comparison.compare` gives.
        width: columns that there are; None: as many as needed.
    """
    about = f"by {result['measure']}, {result['better']} is better; baseline: {result['sides'][0]}"
    lines = [*_wrapped([about], width), ""]
    for environment in result["environments"]:
        lines += [*_wrapped([_heading(environment)], width), *_table(environment, result, width)]
        lines += _wrapped((f"note: {note}" for note in environment["notes"]), width)
        lines += _wrapped((pair["text"] for pair in environment["pairs"]), width)
        lines.append("")
    for pair in result["overall"]:
        lines += _wrapped([_overall_text(pair)], width)
    lines += _normalised_lines(result, width)
    lines += _wrapped(_footnotes(result), width)
    return [_printable(line) for line in lines]


def _heading(environment: Result) -> str:
    budget = environment["budget"]
    parts = [environment["environment"], f"{budget:,} steps" if budget is not None else ""]
    if environment["threshold"] is not None:
        parts.append(f"threshold {environment['threshold']:g}")
    return ", ".join(filter(None, parts))


def _table(environment: Result, result: Result, width: int | None) -> list[str]:
    by_steps = result["by"] == "steps"
    head = ["side", "seeds", "median", "IQM", "mean", *(["reached"] if by_steps else [])]
    rows = []
    for side in environment["sides"]:
        row = [
            side["side"],
            str(len(side["seeds"])),
            *(interval_text(side[key], by_steps) for key in ("median", "iqm", "mean")),
        ]
        if by_steps:
            row.append(f"{side['steps_to_threshold']['num_reached']} of {len(side['seeds'])}")
        rows.append(row)
    return _columns(head, rows, width)


def _columns(head: list[str], rows: list[list[str]], width: int | None) -> list[str]:
    """Aligned columns; where they are too wide, first the IQM goes, then the mean, then names lose their middle."""
    drop = [3, 3]
    while True:
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        excess = 0 if width is None else sum(widths) + 2 * (len(widths) - 1) - width
        if excess <= 0 or not drop:
            break
        gone = drop.pop(0)
        head, *rows = ([cell for i, cell in enumerate(row) if i != gone] for row in (head, *rows))
    widths[0] = max(widths[0] - max(excess, 0), 12)
    lines = []
    for row in (head, *rows):
        cells = [_cut(row[0], widths[0]).ljust(widths[0]), row[1].rjust(widths[1])]
        cells += [cell.ljust(wide) for cell, wide in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    """A text without its middle, where it is too long."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def interval_text(interval: Result, by_steps: bool = False) -> str:
    """An interval, such as `431.2 [380.1, 500.0]`."""
    from rlkit_core.comparison import number

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}" if by_steps else number(value)

    if interval["low"] is None and interval["high"] is None:
        return text(interval["value"])
    return f"{text(interval['value'])} [{text(interval['low'])}, {text(interval['high'])}]"


def _overall_text(pair: Result) -> str:
    value = pair["probability_of_improvement"]
    return (
        f"over {len(pair['environments'])} environments, a run of {pair['side']} is better than one of "
        f"{pair['baseline']} with probability {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    )


def _normalised_lines(result: Result, width: int | None) -> list[str]:
    if result["normalised"] is None:
        return []
    keys = ("median", "iqm", "mean", "optimality_gap")
    head = ["side", "envs", "median of means", "IQM", "mean", "optimality gap"]
    count = str(len(result["normalised"]["environments"]))
    rows = [
        [side["side"], count, *(interval_text(side[key]) for key in keys)] for side in result["normalised"]["sides"]
    ]
    return ["", "normalised by the references", *_columns(head, rows, width), ""]


def _footnotes(result: Result) -> Iterator[str]:
    seeds = [side for environment in result["environments"] for side in environment["sides"]]
    covers = sorted({round(100 * side["median"]["confidence"], 1) for side in seeds})
    some = f"{covers[0]:g} %" if len(covers) == 1 else f"{covers[0]:g} to {covers[-1]:g} %"
    yield (
        f"[ ]: intervals: of the median exact (covers {some}), of the others 95 % by the stratified bootstrap, "
        "too narrow for few seeds"
    )
    if result["by"] == "steps":
        yield "steps: runs below the threshold count with the budget; -: it is more than the budget"
    tests = result["num_tests"]
    yield (
        f"tests: permutation tests, two-sided{', paired by seed' if result['paired'] else ''}; the chance of any wrong "
        f"verdict is at most {result['alpha']:g}" + (f" in the {tests} tests together (Holm)" if tests > 1 else "")
    )
    for note in result["notes"]:
        yield f"note: {note}"
    for allowed in result["allowed"]:
        yield f"allowed: {allowed['key']}: {allowed['reason']}"


def _wrapped(texts: Iterable[str], width: int | None) -> Iterator[str]:
    for text in texts:
        if width is None:
            yield text
        else:
            yield from textwrap.wrap(text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: names come from stores that anybody may have written."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _width() -> int | None:
    """Columns of the terminal; None where there is none, as in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


# What is left behind.


def _leave(
    result: Result,
    runs: Sequence[StoredRun],
    output: str | None,
    keeper: Callable[[], RunStore | None] | None,
    *,
    err: bool,
) -> None:
    """Write report and charts, keep them in the store, and say where."""
    folder = _folder(result["name"], output)
    charts = write_files(result, folder)
    click.echo(f"report      {folder / 'report.md'}", err=err)
    for chart in charts:
        if chart.suffix == ".html":
            click.echo(f"charts      {chart}", err=err)
    if keeper is None:
        return
    try:
        store = keeper()
        tags = {
            "rlkit.kind": "comparison",
            "rlkit.by": result["by"],
            "rlkit.sides": ", ".join(result["sides"]),
            "rlkit.verdicts": "; ".join(_verdicts(result)),
        }
        seen = None if store is None else store.keep(result["name"], folder, tags)
    except RlkitError as error:
        text = str(error).replace("\n", "\n         ")
        click.echo(f"warning: not stored in the tracker's store: {text}", err=True)
        return
    if seen is not None:
        click.echo(f"look at it  {seen}", err=err)


def _verdicts(result: Result) -> Iterator[str]:
    for environment in result["environments"]:
        for pair in environment["pairs"]:
            yield f"{pair['side']} on {environment['environment']}: {pair['verdict']}"


def _keeper(source: RunStore, store: str | None, runs: Sequence[StoredRun]) -> RunStore | None:
    """The store to keep it in: the one that was read, else that of this folder, if runs were sent to one."""
    if store is not None:
        return source
    if all(run.settings.get("tracker.name") in (None, "none") for run in runs):
        return None
    from rlkit_core.run_store import open_store

    kept_in = open_store(None, os.environ)
    kept_in.groups()  # an error where there is no store yet: none is made for this
    return kept_in


def _check_output(output: str) -> None:
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{output} is there already, and not empty\ntake another --output")


def _folder(name: str, output: str | None) -> Path:
    """A new folder."""
    from rlkit_core.errors import StorageError

    if output is not None:
        _check_output(output)
        folder = Path(output)
    else:
        short = re.sub(r"[^\w.=+-]+", "-", name).strip("-.")[:100] or "comparison"
        folder = Path("comparisons") / f"{short}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"{folder.name.partition('~')[0]}~{number}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}\ntake another --output") from error
    return folder


def write_files(result: Result, folder: Path) -> list[Path]:
    """Write `comparison.json`, charts and `report.md`; returns the charts.

    Raises:
        StorageError: they cannot be written.
    """
    from rlkit_core.charts import write_charts
    from rlkit_core.errors import StorageError
    from rlkit_core.run_folder import write_json

    try:
        write_json(folder / "comparison.json", result)
        charts = write_charts(result, folder)
        (folder / "report.md").write_text(markdown(result, [chart.name for chart in charts]), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}\ntake another --output") from error
    return charts


def markdown(result: Result, charts: Sequence[str] = ()) -> str:
    """A comparison as a Markdown page.

    Args:
        result: what `rlkit_core.comparison.compare` gives.
        charts: names of its charts, beside the page.
    """
    by_steps = result["by"] == "steps"
    parts = [f"# {_md(result['name'])}", f"By {result['measure']}, {result['better']} is better; sides: "]
    parts[1] += ", ".join(f"{_md(side)}{' (baseline)' * (i == 0)}" for i, side in enumerate(result["sides"])) + "."
    if result["allowed"]:
        parts.append("**What would mislead, and was allowed:**")
        parts.append("\n".join(f"- {_md(item['key'])}: {_md(item['reason'])}" for item in result["allowed"]))
    for environment in result["environments"]:
        parts.append(f"## {_md(_heading(environment))}")
        parts += [f"- {_md(pair['text'])}" for pair in environment["pairs"]]
        head = ["side", "seeds", "median", "IQM", "mean"]
        keys = ("median", "iqm", "mean")
        parts.append(
            _md_table(
                head,
                [
                    [side["side"], len(side["seeds"]), *(interval_text(side[key], by_steps) for key in keys)]
                    for side in environment["sides"]
                ],
            )
        )
        parts += [f"Note: {_md(note)}" for note in environment["notes"]]
    if result["overall"]:
        parts.append("## Over environments")
        parts += [f"- {_md(_overall_text(pair))}" for pair in result["overall"]]
    if result["normalised"] is not None:
        parts.append("## Normalised scores, over " + ", ".join(map(_md, result["normalised"]["environments"])))
        keys4 = ("median", "iqm", "mean", "optimality_gap")
        rows = [[side["side"], *map(interval_text, map(side.get, keys4))] for side in result["normalised"]["sides"]]
        parts.append(_md_table(["side", "median of means", "IQM", "mean", "optimality gap"], rows))
    parts += [_md(text) for text in _footnotes(result) if not text.startswith("allowed: ")]
    pictures = [name for name in charts if name.endswith(".png")]
    if pictures:
        parts += ["## Charts", *(f"![{_md(Path(name).stem)}]({name})" for name in pictures)]
    parts += [f"[Interactive]({name})" for name in charts if name.endswith(".html")]
    parts += ["## How the runs were evaluated", _md_protocol(result), "## Settings that differ", *_md_settings(result)]
    parts += [
        "## Runs",
        *_md_runs(result),
        "## Versions",
        _md_table(["package", "version"], result["versions"].items()),
    ]
    parts.append(_md_table(["code", "sha256 begins with"], result["code"].items()))
    made = result["made_with"]
    parts.append("## How to repeat it")
    parts.append(f"```text\n{_printable(result['reproduce'])}\n```")
    parts.append(
        f"rlkit-core {made.get('rlkit-core', '?')}, {made.get('time', '')}; bootstrap with {result['resamples']:,} "
        f"resamples from seed {result['seed']}. A run is repeated by `rlkit reproduce RUN`."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_protocol(result: Result) -> str:
    names = ("eval_every", "eval_episodes", "eval_max_steps", "final_episodes")
    rows = [
        [environment["environment"], environment["budget"], *(environment["protocol"][name] for name in names)]
        for environment in result["environments"]
    ]
    return _md_table(["environment", "total_steps", *names], rows)


def _md_settings(result: Result) -> Iterator[str]:
    some = False
    for environment in result["environments"]:
        sides = environment["sides"]
        names = sorted({name for side in sides for name in side["settings"]})
        if names:
            some = True
            yield f"{_md(environment['environment'])}:"
            rows = [[name, *(_setting(side["settings"], name) for side in sides)] for name in names]
            yield _md_table(["setting", *(side["side"] for side in sides)], rows)
    if not some:
        yield "None."


def _setting(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return ""
    value = settings[name]
    return value if isinstance(value, str) else json.dumps(value)


def _md_runs(result: Result) -> Iterator[str]:
    for environment in result["environments"]:
        rows = [
            [side["side"], seed, score, place]
            for side in environment["sides"]
            for seed, score, place in zip(side["seeds"], map(_exact, side["scores"]), side["runs"], strict=True)
        ]
        yield f"{_md(environment['environment'])}:"
        yield _md_table(["side", "seed", "score", "run"], rows)


def _exact(score: float) -> str:
    return f"{score:.10g}"


def _md_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join("" if cell is None else _md(str(cell)) for cell in line) + " |" for line in lines
    )


def _md(text: str) -> str:
    """A text as Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", _printable(text))
