"""Settings as people type and read them: a config class's fields as text, and text as plain data.

Values stay text wherever pydantic can read text; here it is only taken apart where a setting holds several values.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlkit_core.config import parse_arguments

_NUMBERS = {int: "INT", float: "FLOAT"}
_LARGE = 2**62
"""Bounds from here on are those of the machine's numbers, and no news to anybody."""


@dataclass(frozen=True)
class Form:
    """What a setting's type means for its text.

    Attributes:
        words: the words it takes, as their values.
        types: the other types it takes, without None.
        optional: whether it takes None.
    """

    words: tuple[Any, ...]
    types: tuple[Any, ...]
    optional: bool

    @classmethod
    def of(cls, annotation: Any) -> Form:
        """The form of a field's annotation."""
        words: list[Any] = []
        others: list[Any] = []
        optional = False
        pending = [annotation]
        while pending:
            part = pending.pop(0)
            origin = get_origin(part)
            if origin is Annotated:
                pending.insert(0, get_args(part)[0])
            elif origin is Union or origin is types.UnionType:
                pending[:0] = get_args(part)
            elif origin is Literal:
                words.extend(get_args(part))
            elif part is type(None):
                optional = True
            else:
                others.append(part)
        return cls(tuple(words), tuple(others), optional)

    @property
    def item(self) -> Any:
        """The type of each value where the setting holds several, else None."""
        for part in self.types:
            if (get_origin(part) or part) in (tuple, list, set, frozenset, Sequence):
                return (get_args(part) or (str,))[0]
        return None

    @property
    def is_table(self) -> bool:
        """Whether the setting holds named values."""
        return any((get_origin(part) or part) in (dict, Mapping) for part in self.types)

    @property
    def is_switch(self) -> bool:
        """Whether the setting is on or off."""
        return bool in self.types

    @property
    def repeatable(self) -> bool:
        """Whether its option may be given several times."""
        return self.item is not None or self.is_table

    def metavar(self) -> str:
        """What stands for the value in help."""
        if self.item is not None:
            inner = Form.of(self.item)
            return f"{inner.metavar()},…" if inner.types and inner.types[0] in _NUMBERS else inner.metavar()
        if self.is_table:
            return "NAME=VALUE,…"
        if self.is_switch:
            return "BOOL"
        if self.words:
            return "CHOICE" if not self.types else "VALUE"
        return next((_NUMBERS[part] for part in self.types if part in _NUMBERS), "TEXT")

    def type_text(self) -> str:
        """The type in words, as `rlkit show` has it."""
        if self.item is not None:
            return f"list of {Form.of(self.item).type_text()}"
        names = {int: "int", float: "float", bool: "bool", str: "text", dict: "table"}
        parts = [shown(word) for word in self.words]
        for part in self.types:
            plain = get_origin(part) or part
            parts.append(str(names.get(plain) or getattr(plain, "__name__", plain)))
        return " | ".join([*parts, *(["none"] if self.optional else [])])

    def read(self, texts: Sequence[str]) -> Any:
        """Plain data from the values of an option, in the order given; pydantic judges it.

        Raises:
            ValueError: a table's text is not of the form it should have.
        """
        if self.is_table:
            table: dict[str, Any] = {}
            for text in texts:
                table.update(_json(text) if text.startswith("{") else parse_arguments(text))
            return table
        if self.item is not None:
            return [value for text in texts for value in self._items(text)]
        text = texts[-1]
        # `none` may be a word, or a text, of its own.
        empty = ["null"] if str in self.types or "none" in self.words else ["null", "none"]
        if self.optional and text in empty:
            return None
        for word in self.words:
            if not isinstance(word, str) and text == str(word):
                return word
        structured = text[:1] in ("{", "[") and str not in self.types
        return _json(text) if structured else text

    def _items(self, text: str) -> list[Any]:
        if text.startswith("["):
            data = _json(text)
            return data if isinstance(data, list) else [data]
        inner = Form.of(self.item)
        # A comma inside the text of a part with arguments (`Name:a=1,b=2`) separates those, not the parts.
        plain = inner.words or (inner.types and inner.types[0] in (int, float, bool, str))
        parts = [part.strip() for part in text.split(",")] if plain else [text]
        return [inner.read([part]) for part in parts if part]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no valid JSON ({error})") from None


def option_name(name: str) -> str:
    """A setting's name as options spell it."""
    return name.replace("_", "-")


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}={shown(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return ",".join(shown(item) for item in value)
    if hasattr(value, "model_dump"):
        return json.dumps(value.model_dump(mode="json"))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def bounds(field: FieldInfo) -> str:
    """The bounds of a number in words, or an empty string."""
    found: dict[str, Any] = {}
    for item in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            limit = getattr(item, name, None)
            if limit is not None and abs(limit) < _LARGE:
                found[name] = limit
    if "ge" in found and "le" in found:
        return f"{shown(found['ge'])} to {shown(found['le'])}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[name]} {shown(limit)}" for name, limit in found.items())


def default_of(field: FieldInfo) -> Any:
    """A field's default, or PydanticUndefined where it must be given."""
    return field.get_default(call_default_factory=True, validated_data={})


def facts(field: FieldInfo, value: Any = PydanticUndefined, default_word: str = "default") -> str:
    """Words, bounds and default of a field, as help shows them behind its description.

    Args:
        field: the field.
        value: what stands instead of its default, from a preset or a file.
        default_word: what the value is called.
    """
    form = Form.of(field.annotation)
    parts = []
    said = set(re.split(r"[^\w-]+", field.description or ""))
    words = [shown(word) for word in form.words]
    if not said.issuperset(words):  # else the description explains them all
        parts.append(", ".join(words))
    if limits := bounds(field):
        parts.append(limits)
    default = default_of(field) if value is PydanticUndefined else value
    if default is PydanticUndefined:
        parts.append("required")
    elif default not in (None, "", (), [], {}):
        large = isinstance(default, int) and not isinstance(default, bool) and default >= 10_000
        parts.append(f"{default_word} {f'{default:_}' if large else shown(default)}")
    return f"[{'; '.join(parts)}]" if parts else ""
