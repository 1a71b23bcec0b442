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
    return "\n".join(_table(config, ())).strip()


def _table(model: BaseModel, path: tuple[str, ...]) -> list[str]:
    slots = slots_of(type(model))
    data = dump(model)
    lines = ["", f"[{'.'.join(path)}]"] if path else []
    if isinstance(model, Component):
        lines.append(f"name = {_value(model.name, path)}")
    for name, field in type(model).model_fields.items():
        if name in slots:
            continue
        form = Form.of(field.annotation)
        if data[name] is not None:
            lines.append(f"{_key(name)} = {_value(data[name], (*path, name))}")
        elif str not in form.types:
            lines.append(f'{_key(name)} = "none"')
        elif default_of(field) is not None:
            raise _unsayable((*path, name))
    for name in slots:
        lines += _table(getattr(model, name), (*path, name))
    return lines


def _value(value: Any, path: tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item, path) for item in value)}]"
    if isinstance(value, Mapping):
        items = [f"{_key(str(key))} = {_value(item, path)}" for key, item in value.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    raise _unsayable(path)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _unsayable(path: tuple[str, ...]) -> UsageError:
    return UsageError(f"{'.'.join(path)} has no value, which TOML cannot say\ntake --print-config json")
