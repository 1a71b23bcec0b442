"""`rlkit plugins`: which are installed, what they offer, and whether they are sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.registry import Entry, Registry

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


for _command in (list_command, show_command, doctor_command):
    _command.params.extend(common_options())
