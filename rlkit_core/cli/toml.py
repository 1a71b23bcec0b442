"""A config as TOML or JSON that `--config` reads back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rlkit_core.cli.settings import Form, default_of
from rlkit_core.component import Component, dump, slots_of
from rlkit_core.config import RunConfig
from rlkit_core.errors import UsageError


def as_json(config: RunConfig) -> str:
    """The complete config as JSON."""
    return json.dumps(config.dump(), indent=2, ensure_ascii=False)


def as_toml(config: RunConfig) -> str:
    """The complete config as TOML.

    TOML has no null: settings without a value are written as `none` where they take it, and left out where that is
    their default.

    Raises:
        UsageError: a value cannot be said in TOML.
    """
    return "\n".join(table(config, ())).strip()


def table(model: BaseModel, path: tuple[str, ...], notes: Mapping[tuple[str, ...], str] = {}) -> list[str]:
    """Lines of a part's table, and of the tables in it; the notes stand behind the settings whose paths they have."""
    slots = slots_of(type(model))
    data = dump(model)
    lines = ["", f"[{'.'.join(path)}]"] if path else []
    if isinstance(model, Component):
        lines.append(f"name = {value(model.name, path)}" + _note((*path, "name"), notes))
    for name, field in type(model).model_fields.items():
        if name in slots:
            continue
        form = Form.of(field.annotation)
        if data[name] is not None:
            lines.append(f"{key(name)} = {value(data[name], (*path, name))}" + _note((*path, name), notes))
        elif str not in form.types:
            lines.append(f'{key(name)} = "none"' + _note((*path, name), notes))
        elif default_of(field) is not None:
            raise _unsayable((*path, name))
    for name in slots:
        lines += table(getattr(model, name), (*path, name), notes)
    return lines


def _note(path: tuple[str, ...], notes: Mapping[tuple[str, ...], str]) -> str:
    return f"  # {notes[path]}" if path in notes else ""


def value(given: Any, path: tuple[str, ...] = ()) -> str:
    """A value in TOML.

    Raises:
        UsageError: it cannot be said in TOML.
    """
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, str):
        return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(given, float):
        return repr(given) if math.isfinite(given) else str(given)
    if isinstance(given, int):
        return str(given)
    if isinstance(given, list):
        return f"[{', '.join(value(item, path) for item in given)}]"
    if isinstance(given, Mapping):
        items = [f"{key(str(name))} = {value(item, path)}" for name, item in given.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    raise _unsayable(path)


def key(name: str) -> str:
    """A key in TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _unsayable(path: tuple[str, ...]) -> UsageError:
    return UsageError(f"{'.'.join(path)} has no value, which TOML cannot say\ntake --print-config json")
