"""The filter language of stored runs: `algorithm = a2c and seed < 5 and settings.algorithm.gamma >= 0.99`.

    filter    = condition { "and" condition }
    condition = field operator value | field "in" "(" value { "," value } ")"
    operator  = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"

`~` is true where a text contains another, or a list has an entry. A value is a number, `true`, `false`, `none`, a list
such as `[64, 64]`, or a text, which needs quotes where it has spaces or signs of this language. Of a field that a run
does not have, only `!=` and `= none` are true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlkit_core.errors import UsageError

if TYPE_CHECKING:
    from rlkit_core.run_store import StoredRun

FIELDS = (
    *("algorithm", "environment", "seed", "group", "state", "name", "run_id", "place", "parent", "steps", "budget"),
    *("reached", "started", "dirty"),
)
"""Fields of a run that conditions are about."""
TABLES = ("settings", "versions", "code", "final")
"""Fields that are tables; a condition is about one entry, such as `settings.algorithm.gamma`."""
SHORT = {"env": "environment", "return": "final.return"}
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~", "in")

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<list>\[[^\]]*\])|(?P<sign><=|>=|!=|==?|<|>|~|[(),])"""
    r"""|(?P<word>[^\s"'<>=!~(),\[\]]+))"""
)


@dataclass(frozen=True)
class _Value:
    """What a condition compares with: as it is written, and what that means."""

    text: str
    meant: Any

    def equals(self, actual: Any) -> bool:
        if isinstance(actual, str):
            return actual == self.text
        if isinstance(actual, bool) or isinstance(self.meant, bool):
            return actual is self.meant
        return bool(actual == self.meant)

    def is_in(self, actual: Any) -> bool:
        if isinstance(actual, (list, tuple)):
            return any(map(self.equals, actual))
        return actual is not None and self.text in (actual if isinstance(actual, str) else json.dumps(actual))


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        field: what it is about, in full.
        operator: one of `OPERATORS`.
        values: what it compares with; several only after `in`.
    """

    field: str
    operator: str
    values: tuple[_Value, ...]

    def is_true(self, run: StoredRun) -> bool:
        """Whether it is true of a run."""
        actual, value = value_of(run, self.field), self.values[0]
        if self.operator in ("=", "in"):
            return any(value.equals(actual) for value in self.values)
        if self.operator == "!=":
            return not value.equals(actual)
        if self.operator == "~":
            return value.is_in(actual)
        if isinstance(actual, bool) or not isinstance(actual, (int, float)):
            return False
        return _ORDER[self.operator](actual, value.meant)


_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def value_of(run: StoredRun, field: str) -> Any:
    """A field of a run, by its name in this language; None where the run does not have it.

    Raises:
        UsageError: no run has such a field.
    """
    field = full_name(field)
    table, dot, key = field.partition(".")
    if not dot:
        return getattr(run, field)
    entries: Mapping[str, Any] = getattr(run, table)
    return entries.get(key)


def full_name(field: str) -> str:
    """A field's name in full.

    Raises:
        UsageError: there is no such field.
    """
    field = SHORT.get(field, field)
    table, dot, key = field.partition(".")
    if field in FIELDS or (dot and key and table in TABLES):
        return field
    names = [*FIELDS, *SHORT, *(f"{table}.…" for table in TABLES)]
    raise UsageError(f"runs have no field {field[:100]}{_did_you_mean(field, names)}\nfields: {', '.join(names)}")


def parse_filter(text: str) -> tuple[Condition, ...]:
    """The conditions of a filter, all of which must be true.

    Raises:
        UsageError: it cannot be understood; says where.
    """
    tokens = _Tokens(text)
    conditions = [_condition(tokens)]
    while tokens.left:
        word = tokens.next("and")
        if word != "and":
            raise tokens.error(f"{word} is not understood there: conditions are joined by and")
        conditions.append(_condition(tokens))
    return tuple(conditions)


def matching(runs: Iterable[StoredRun], conditions: Sequence[Condition]) -> list[StoredRun]:
    """Those of some runs of which all conditions are true.

    Raises:
        UsageError: none of the runs has a setting that a condition is about.
    """
    runs = list(runs)
    for condition in conditions:
        table, _, key = condition.field.partition(".")
        if table in ("settings", "versions", "code") and runs and all(key not in getattr(run, table) for run in runs):
            known = sorted({name for run in runs for name in getattr(run, table)})
            of_that_name = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
            hint = f"; did you mean {table}.{of_that_name[0]}?" if of_that_name else _did_you_mean(key, known)
            raise UsageError(
                f"none of the runs has {condition.field[:100]}{hint}\n`rlkit runs --json` shows what they have"
            )
    return [run for run in runs if all(condition.is_true(run) for condition in conditions)]


def _condition(tokens: _Tokens) -> Condition:
    given = tokens.next("a field, such as algorithm")
    try:
        field = full_name(given)
    except UsageError as error:
        raise tokens.error(*str(error).split("\n")) from None
    operator = tokens.next(f"one of {' '.join(OPERATORS)}")
    operator = "=" if operator == "==" else operator
    if operator not in OPERATORS:
        raise tokens.error(f"after {given} there should be one of {' '.join(OPERATORS)}, not {operator}")
    if operator != "in":
        value = tokens.value()
        if operator in _ORDER and (isinstance(value.meant, bool) or not isinstance(value.meant, (int, float))):
            raise tokens.error(f"{given} {operator} needs a number, not {value.text[:50]}")
        return Condition(field, operator, (value,))
    if tokens.next("(, as in: seed in (1, 2)") != "(":
        raise tokens.error("after in there should be a list in brackets: seed in (1, 2)")
    values = [tokens.value()]
    while (sign := tokens.next(", or )")) == ",":
        values.append(tokens.value())
    if sign != ")":
        raise tokens.error(f"after {values[-1].text[:50]} there should be , or ), not {sign}")
    return Condition(field, operator, tuple(values))


class _Tokens:
    """The words and signs of a filter, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self.left: list[tuple[str, str]] = []  # (kind, text)
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self.error(f"{self._text[at:].strip()[:20]} is not understood")
            self.left.append((str(match.lastgroup), str(match[str(match.lastgroup)])))
            at = match.end()
        self.left.reverse()

    def next(self, expected: str) -> str:
        if not self.left:
            raise self.error(f"it ends too early: there should be {expected}")
        return self.left.pop()[1]

    def value(self) -> _Value:
        kind = self.left[-1][0] if self.left else ""
        text = self.next("a value")
        if kind == "quoted":
            return _Value(text[1:-1], text[1:-1])
        if kind == "sign":
            raise self.error(f"there should be a value, not {text}: texts with such signs need quotes")
        return _Value(text, plain_value(text))

    def error(self, message: str, *more: str) -> UsageError:
        advice = more or ('it should be like: algorithm = a2c and seed in (1, 2) and group ~ "my group"',)
        return UsageError("\n".join([f"filter {self._text[:100]!r}: {message}", *advice]))


def plain_value(text: str) -> Any:
    """What a text without quotes means: a number, `true`, `false`, `none`, a list, or itself."""
    if text in ("none", "null"):
        return None
    if text[:1] not in "-0123456789tf[{":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""
