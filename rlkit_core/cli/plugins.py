"""`rlkit plugins`: which are installed, what they offer, and whether they are sound."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.registry import Entry, Registry
from rlkit_core.scaffold import KINDS as SCAFFOLDS
from rlkit_core.scaffold import run_command, write_package

if TYPE_CHECKING:
    from rlkit_core.doctor import Diagnosis


@click.group(
    "plugins",
    context_settings=CONTEXT,
    invoke_without_command=True,
    help="List the installed plugins, explain one, examine or check them, and begin one of your own.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Without a sub-command: the help."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


command.params.extend(common_options())


def _sub(name: str, text: str) -> Callable[[Callable[..., Any]], click.Command]:
    return command.command(name, context_settings=CONTEXT, help=text)


@_sub("list", "List the distributions that announce something, and what; nothing of them is imported.")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def list_command(as_json: bool) -> None:
    """Print a line for each."""
    from rlkit_core.doctor import distributions

    found = distributions(Registry())
    if as_json:
        rows = [
            {
                "distribution": name,
                "version": entries[0].version,
                "offers": [{"kind": e.kind, "name": e.name, "module": e.module} for e in entries],
            }
            for name, entries in found.items()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(f"{name} {entries[0].version}") for name, entries in found.items()), default=0)
    for name, entries in found.items():
        click.echo(f"{f'{name} {entries[0].version}':<{width}}  {_offers([(e.kind, e.name) for e in entries])}")
    taken = list(_taken(found))
    if taken:
        click.echo("\n" + "\n".join(taken))


def _taken(found: dict[str, list[Entry]]) -> Iterator[str]:
    """Names that several offer."""
    whose: dict[tuple[str, str], list[str]] = {}
    for name, entries in found.items():
        for entry in entries:
            if entry.kind != "presets":
                whose.setdefault((entry.kind, entry.name), []).append(name)
    for (kind, name), several in whose.items():
        if len(several) > 1:
            yield f"{kind} {name} is offered by {' and '.join(several)}: name it in full, such as {several[0]}:{name}"


def _offers(offers: Sequence[tuple[str, str]]) -> str:
    """What it announces, in a line."""
    kinds: dict[str, list[str]] = {}
    for kind, name in offers:
        kinds.setdefault(kind, []).append(name)
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items())


@_sub(
    "show", "Explain an installed plugin, by its distribution or by what it offers; it is imported in a process apart."
)
@click.argument("name", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def show_command(name: str, as_json: bool) -> None:
    """Print everything about one."""
    from rlkit_core.doctor import examine, named

    registry = Registry()
    [found] = examine([named(registry, name)], registry)
    if as_json:
        click.echo(json.dumps(_data(found), indent=2))
        return
    rows = [
        ("offers", _offers(found.offers)),
        ("run hooks", ", ".join(found.run_hooks) or "none"),
        ("import", "did not end" if found.seconds is None else f"{found.seconds:.2f} s, besides torch and gymnasium"),
        ("state", found.verdict),
        *([("reason", found.reason), ("what to do", found.advice)] if found.reason else []),
    ]
    click.echo(f"{found.distribution} {found.version}")
    for label, text in rows:
        click.echo(f"  {label:<11} {text}")


@_sub("doctor", "Import plugins, each in a process of its own with a time limit, and say what is wrong with them.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
@click.option(
    "--time-limit", type=float, default=10.0, metavar="SECONDS", help="for each import [default 10]", show_default=False
)
def doctor_command(name: str | None, as_json: bool, time_limit: float) -> int:
    """Print a line for each; 3 if one is not sound."""
    from rlkit_core.doctor import distributions, examine, named

    registry = Registry()
    names = [named(registry, name)] if name is not None else list(distributions(registry))
    found = examine(names, registry, time_limit=time_limit)
    if as_json:
        click.echo(json.dumps([_data(one) for one in found], indent=2))
    else:
        width = max(len(f"{one.distribution} {one.version}") for one in found)
        for one in found:
            took = "     -" if one.seconds is None else f"{one.seconds:4.1f} s"
            click.echo(
                f"{f'{one.distribution} {one.version}':<{width}}  {one.verdict:<9} {took}  {one.reason}".rstrip()
            )
            if one.advice:
                click.echo(f"{'':<{width}}  {one.advice}")
    return 3 if any(one.verdict != "ok" for one in found) else 0


def _data(found: Diagnosis) -> dict[str, Any]:
    offers = [{"kind": kind, "name": name} for kind, name in found.offers]
    return {**asdict(found), "offers": offers, "run_hooks": list(found.run_hooks), "advice": found.advice}


@_sub("check", "Hold a part to the contract of its kind: run the checks that rlkit's own parts are held to.")
@click.argument("name", metavar="NAME")
@click.option("--kind", metavar="KIND", help="algorithm, estimator, …: where several kinds have that name")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def check_command(name: str, kind: str | None, as_json: bool) -> int:
    """Print a line for each check; 3 if one fails."""
    from rlkit_core.testing.checks import run_checks

    registry = Registry()
    entry = _entry(registry, name, kind)
    outcomes = run_checks(registry.get(entry.kind, f"{entry.distribution}:{entry.name}"))
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        width = max(len(outcome.check) for outcome in outcomes)
        for outcome in outcomes:
            first, *more = outcome.message.split("\n")
            click.echo(f"{outcome.status:<7}  {outcome.check:<{width}}  {first}".rstrip())
            for line in more:
                click.echo(f"{'':<{width + 11}}{line}")
        counts = Counter(outcome.status for outcome in outcomes)
        text = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "warned", "skipped"))
        click.echo(f"\n{entry.kind} {entry.name}, {entry.distribution} {entry.version}: {text}")
    return 3 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _entry(registry: Registry, name: str, kind: str | None) -> Entry:
    """The part of that name, of whatever kind.

    Raises:
        UsageError: there is none, or several kinds have one.
    """
    from rlkit_core.component import KINDS
    from rlkit_core.config import closest
    from rlkit_core.errors import UsageError

    if kind is not None:
        if kind not in KINDS:
            other = closest(kind, list(KINDS))
            hint = f"did you mean {other}? " if other else ""
            raise UsageError(f"--kind: there is no kind {kind[:100]}\n{hint}kinds: {', '.join(KINDS)}")
        return registry.find(kind, name)
    short = name.rpartition(":")[2]
    kinds = [one for one in KINDS if short in registry.names(one)]
    if not kinds:
        names = sorted({part for one in KINDS for part in registry.names(one)})
        other = closest(short, names)
        hint = f"did you mean {other}? " if other else ""
        raise UsageError(f"no part is named {short[:100]}\n{hint}rlkit list shows all that there are")
    if len(kinds) > 1:
        raise UsageError(
            f"{short} is the name of several parts: {', '.join(kinds)}\nsay which is meant, such as --kind {kinds[0]}"
        )
    return registry.find(kinds[0], name)


@_sub("new", "Write a package with a part of your own that works as written: code, tests and metadata.")
@click.argument("name", metavar="NAME")
@click.option(
    "--kind",
    metavar="KIND",
    default="algorithm",
    help=f"{' | '.join(SCAFFOLDS)} [default algorithm]",
    show_default=False,
)
@click.option("--dir", "folder", metavar="DIR", default=".", help="where its folder is made [default: here]")
def new_command(name: str, kind: str, folder: str) -> None:
    """Write it, and say what to do next."""
    from pathlib import Path

    from rlkit_core.config import closest
    from rlkit_core.errors import UsageError

    if kind not in SCAFFOLDS:
        other = closest(kind, list(SCAFFOLDS))
        hint = f"did you mean {other}? " if other else ""
        raise UsageError(f"--kind: there is nothing to write for {kind[:100]}\n{hint}kinds: {', '.join(SCAFFOLDS)}")
    place = Path(folder)
    write_package(name, kind, place, Registry())
    where = shlex.quote(str(place / name) if place.is_absolute() else f"./{(place / name).as_posix()}")
    click.echo(f"install  pip install -e {where}")
    click.echo(f"check    pytest {where} && rlkit plugins check {name}")
    click.echo(f"run      {run_command(name, kind)}")


for _command in (list_command, show_command, doctor_command, check_command, new_command):
    _command.params.extend(common_options())
