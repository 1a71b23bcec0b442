"""Writes docs/components.md and a page for every part that rlkit brings along. Run it after changing a setting.

python docs/generate_components.py
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlkit_core.component import KINDS, AlgorithmConfig, Component, slots_of
from rlkit_core.config import RunConfig
from rlkit_core.registry import Registry

DISTRIBUTION = "rlkit-core"
DOCS = Path(__file__).parent
HEAD = """# Components

<!-- Written by docs/generate_components.py from the config classes; do not edit. -->

Everything replaceable is a component: a class with settings, found by its kind and its name. These are the ones that
rlkit brings along; `rlkit list` shows what is installed, `rlkit show NAME` the settings of one of them. A component of
your own, made as in [Write a plugin](write-a-plugin.md), stands beside these and is used in the same way.

On the command line a setting is an option with dashes for underscores. Settings of the run and of the algorithm stand
at the top (`--total-steps`, `--learning-rate`), those of other parts behind the name of the slot the part is in
(`--collector.num-envs`, `--estimator.gamma`, `--env.max-episode-steps`). In a file they are keys of tables with the
same names.
"""


def pages() -> dict[str, str]:
    """All pages, by their paths below `docs`."""
    registry = Registry()
    parts = [HEAD, "## The run\n", _description(RunConfig), _table(RunConfig, "components/")]
    found = {}
    for kind in KINDS:
        parts.append(f"## Kind {kind}\n\n{inspect.cleandoc(KINDS[kind].__doc__ or '')}\n")
        rows = ["| name | what it is |", "| --- | --- |"]
        for entry in registry.entries(kind):
            if entry.distribution == DISTRIBUTION:
                component = registry.get(kind, f"{entry.distribution}:{entry.name}")
                found[f"components/{kind}-{entry.name}.md"] = _page(kind, component)
                line = _cell(inspect.cleandoc(component.__doc__ or "").split("\n\n")[0].replace("\n", " "))
                rows.append(f"| [`{entry.name}`](components/{kind}-{entry.name}.md) | {line} |")
        parts.append("\n".join(rows) + "\n")
    return {"components.md": _joined(parts), **found}


def _page(kind: str, component: type[Component]) -> str:
    """The page of a part."""
    parts = [
        f"# {component.name}: {kind}\n",
        "<!-- Written by docs/generate_components.py from the config class; do not edit. -->\n",
        _description(component),
        _table(component, ""),
    ]
    if issubclass(component, AlgorithmConfig):
        rows = [f"| `learner/{name}` | {_cell(text)} |" for name, text in component.metrics.items()]
        parts.append("\n".join(["It records:\n", "| metric | meaning |", "| --- | --- |", *rows]) + "\n")
        parts.append(f"[What it computes, and what it reaches](../algorithms/{component.name}.md).\n")
    return _joined(parts)


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _description(cls: type[BaseModel]) -> str:
    text = inspect.cleandoc(cls.__doc__ or "") + "\n"
    action_spaces = getattr(cls, "action_spaces", ())
    if not action_spaces:
        return text
    recurrent = "yes" if getattr(cls, "recurrent_networks", False) else "no"
    return f"{text}\nAction spaces: {', '.join(action_spaces)}. Recurrent networks: {recurrent}.\n"


def _table(cls: type[BaseModel], folder: str) -> str:
    """Its settings; `folder` is where the pages of the parts are, seen from this one."""
    page = "../components.md" if not folder else ""
    if not cls.model_fields:
        return "No settings.\n"
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    slots = slots_of(cls)
    for name, field in cls.model_fields.items():
        kind = slots.get(name)
        what = f"[{kind.kind}]({page}#kind-{kind.kind})" if kind else _cell(_type(field.annotation, field.metadata))
        rows.append(f"| `{name}` | {what} | {_default(field, folder)} | {_cell(field.description or '')} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """The type as users think of it, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        alternatives = [_type(part, metadata) for part in arguments if part is not type(None)]
        return " or ".join([*alternatives, *(["`none`"] if type(None) in arguments else [])])
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    bounds = _bounds(metadata)
    plain = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
    return f"{plain.get(annotation, annotation)} {bounds}".strip()


def _bounds(metadata: Iterable[Any]) -> str:
    words = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
    found: list[str] = []
    for item in metadata:
        found += _bounds_of_field(item) if isinstance(item, FieldInfo) else []
        for bound, sign in words.items():
            if isinstance(item, bound):
                limit = getattr(item, bound.__name__.lower())
                found.append(f"{sign} {'2^63' if limit == 2**63 else limit}")
    return ", ".join(found)


def _bounds_of_field(field: FieldInfo) -> list[str]:
    text = _bounds(field.metadata)
    return [text] if text else []


def _default(field: FieldInfo, folder: str) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Component):
        return f"[`{value.name}`]({folder}{value.kind}-{value.name}.md)"
    if value is PydanticUndefined:
        return "must be given" if field.annotation is str else "see `rlkit run --help`"
    if value is None:
        return "`none`"
    if value in ((), {}):
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    (DOCS / "components").mkdir(exist_ok=True)
    for path, text in pages().items():
        (DOCS / path).write_text(text, encoding="utf-8")
        print(f"wrote docs/{path}")
