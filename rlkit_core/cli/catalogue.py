"""`rlkit list` and `rlkit show NAME`: what is registered."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
from pydantic_core import PydanticUndefined, to_jsonable_python

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.cli.settings import Form, bounds, default_of, shown
from rlkit_core.component import KINDS, AlgorithmConfig, Component, slots_of
from rlkit_core.config import did_you_mean
from rlkit_core.errors import UsageError
from rlkit_core.presets import offered_presets, presets
from rlkit_core.registry import OTHERS, Entry, Registry


@click.command(
    "list",
    context_settings=CONTEXT,
    help=f"List what is registered, and from which distribution. KIND is one of {', '.join([*KINDS, *OTHERS])}.",
)
@click.argument("kind", metavar="[KIND]", required=False)
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def list_command(kind: str | None, as_json: bool) -> None:
    """Print the registered parts; nothing of a plugin is imported."""
    kinds = [*KINDS, *OTHERS]
    if kind is not None and kind not in kinds:
        raise UsageError(f"there is no kind {kind}{did_you_mean(kind, kinds)}\nkinds: {', '.join(kinds)}")
    entries = sorted(Registry().entries(kind), key=lambda entry: (kinds.index(entry.kind), entry))
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    names = [_full_name(entry, entries) for entry in entries]
    rows = [
        (entry.kind, name, f"{entry.distribution} {entry.version}") for entry, name in zip(entries, names, strict=True)
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    before = None
    for kind_name, name, source in rows:
        click.echo(f"{kind_name if kind_name != before else '':<{widths[0]}}  {name:<{widths[1]}}  {source}")
        before = kind_name
    if not as_json and rows and kind is None:
        click.echo("\nmore about one of them: rlkit show NAME")


@click.command(
    "show",
    context_settings=CONTEXT,
    help="Explain a registered part of any kind: its settings with types, bounds and defaults, and its presets.",
)
@click.argument("name", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
def show_command(name: str, as_json: bool) -> None:
    """Print what a part's config class says; imports the plugins that offer the name."""
    registry = Registry()
    distribution, _, short = name.rpartition(":")
    found = [
        entry
        for kind in KINDS
        for entry in registry.entries(kind)
        if entry.name == short and (not distribution or entry in _of(registry, kind, name))
    ]
    if not found:
        names = sorted({entry.name for entry in registry.entries()})
        raise UsageError(f"nothing is registered as {name}{did_you_mean(short, names)}\nwhat there is: rlkit list")
    parts = [
        _description(entry, registry.get(entry.kind, f"{entry.distribution}:{entry.name}"), registry) for entry in found
    ]
    if as_json:
        click.echo(json.dumps(parts, indent=2, ensure_ascii=False))
        return
    click.echo("\n\n".join(_page(part) for part in parts))


for _command in (list_command, show_command):
    _command.params.extend(common_options())


def _full_name(entry: Entry, entries: list[Entry]) -> str:
    """The name, with its distribution where several offer it."""
    same = [other for other in entries if (other.kind, other.name) == (entry.kind, entry.name)]
    return entry.name if len(same) == 1 else f"{entry.distribution}:{entry.name}"


def _of(registry: Registry, kind: str, name: str) -> list[Entry]:
    try:
        return [registry.find(kind, name)]
    except UsageError:
        return []


def _description(entry: Entry, cls: type[Component], registry: Registry) -> dict[str, Any]:
    """All there is to say about a part, as plain JSON values."""
    part: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "text": inspect.cleandoc(cls.__doc__ or ""),
        "settings": list(_settings(cls, registry)),
    }
    if issubclass(cls, AlgorithmConfig):
        part["action_spaces"] = list(cls.action_spaces)
        part["recurrent_networks"] = cls.recurrent_networks
        named = {**presets(cls), **offered_presets(cls, registry)}
        part["presets"] = {name: preset.model_dump(mode="json") for name, preset in named.items()}
    return part


def _settings(cls: type[Component], registry: Registry) -> Iterator[dict[str, Any]]:
    slots = slots_of(cls)
    for name, field in cls.model_fields.items():
        default = default_of(field)
        required = default is PydanticUndefined
        yield {
            "name": name,
            "type": slots[name].kind if name in slots else Form.of(field.annotation).type_text(),
            "bounds": bounds(field),
            "required": required,
            "default": None
            if required
            else default.name
            if isinstance(default, Component)
            else to_jsonable_python(default),
            "choices": registry.names(slots[name].kind) if name in slots else [],
            "text": field.description or "",
        }


def _page(part: dict[str, Any]) -> str:
    """The description for reading."""
    formatter = click.HelpFormatter(width=_width())
    formatter.write(f"{part['name']}: {part['kind']} from {part['distribution']} {part['version']}\n\n")
    with formatter.indentation():
        formatter.write_text(part["text"])
        if part.get("action_spaces"):
            formatter.write_paragraph()
            formatter.write_text(f"Action spaces: {', '.join(part['action_spaces'])}")
        if "recurrent_networks" in part:
            formatter.write_text(f"Recurrent networks: {'yes' if part['recurrent_networks'] else 'no'}")
    if part["settings"]:
        with formatter.section("Settings"):
            formatter.write_dl([(f"{setting['name']}", _about(setting)) for setting in part["settings"]])
    for name, preset in part.get("presets", {}).items():
        with formatter.section(f"Preset {name}"):
            formatter.write_text(preset["description"])
            if preset["environments"]:
                formatter.write_text(f"chosen by itself for {', '.join(preset['environments'])}")
            formatter.write_dl(list(_flat({**preset["run"], **preset["algorithm"]})))
    return formatter.getvalue().strip()


def _about(setting: dict[str, Any]) -> str:
    facts = [f"{setting['type']}: {', '.join(setting['choices'])}" if setting["choices"] else setting["type"]]
    facts += [setting["bounds"]] if setting["bounds"] else []
    default = setting["default"]
    facts.append("required" if setting["required"] else f"default {'empty' if default in ([], {}) else shown(default)}")
    return f"{setting['text']} [{'; '.join(facts)}]"


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", shown(value)


def _width() -> int:
    import shutil

    return max(min(shutil.get_terminal_size().columns, 120) - 2, 50)
