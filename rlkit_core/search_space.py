"""Search spaces: which settings of an algorithm are tried, and in what range.

A range comes from a file, from what the setting declares, or from its own bounds, in that order:

    learning_rate: float = Field(3e-3, gt=0, json_schema_extra={"search": {"low": 1e-4, "high": 3e-2, "log": True}})

`search` is a table with `low`, `high` and, for a logarithmic scale, `log`; or one with `choices`, or just the list of
these; or False: the setting is not searched unless a file says so. On a slot, it is a table of such entries for the
settings of the part in it, which win over the part's own, and `name` lists the parts to choose from. A setting that
declares nothing is searched where its type has few values (a bool, a Literal) or bounds on both sides.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from rlkit_core.component import Component, full_name, slots_of
from rlkit_core.config import Data, RunConfig, did_you_mean, plain
from rlkit_core.errors import PluginError, UsageError
from rlkit_core.registry import Registry

Number = int | float
MOST_CHOICES = 100
LARGEST = 2**53
"""Beyond it whole numbers are none any more where samplers compute with floating point."""
WIDE = 1_000
"""A range of positive bounds that is this many times as high as low is searched on a logarithmic scale."""


@dataclass(frozen=True)
class Range:
    """Values that a setting may take.

    Attributes:
        low, high: bounds, both included; None where there are choices.
        log: whether the scale is logarithmic.
        choices: the values one by one, plain data.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return type(self.low) is int

    def nearest(self, value: Any) -> Any:
        """The value of the range that is closest to one that need not be in it.

        Raises:
            LookupError: there is no such thing.
        """
        if self.choices:
            return self.choices[self.index(value)]
        if type(value) not in (int, float):
            raise LookupError(value)
        return self.clip(value)

    def index(self, value: Any) -> int:
        """Number of a choice; lists and whole numbers are what they are in JSON.

        Raises:
            LookupError: it is none.
        """
        found = _index(value, self.choices)
        if found is None:
            raise LookupError(value)
        return found

    def clip(self, value: Number) -> Number:
        """The number, or the bound that it is beyond."""
        assert self.low is not None
        assert self.high is not None
        return min(max(value, self.low), self.high)

    def rounded(self, value: Any) -> Any:
        """A drawn value as it is used: of four digits, which is more than anything depends on."""
        return value if self.choices or self.whole else self.clip(float(f"{value:.4g}"))


@dataclass(frozen=True)
class Searched:
    """A setting that is searched.

    Attributes:
        path: where it is in the run's settings, such as `("algorithm", "estimator", "gamma")`; a slot's own choice of
            a part ends with `name`.
        range: its values.
        default: its value before the search, plain data; for a part that is not chosen then, the part's own.
        source: where the range comes from: `file`, `declared` or `bounds`.
        where: which part must be in which slot for the setting to exist: `(path of the slot, name)` each.
    """

    path: tuple[str, ...]
    range: Range
    default: Any
    source: str
    where: tuple[tuple[tuple[str, ...], str], ...] = ()

    @property
    def name(self) -> str:
        """The setting as files name it, with the part that it needs: `estimator@lambda.gae_lambda`."""
        needed = dict(self.where)
        parts = [
            f"{part}@{needed[self.path[: i + 1]]}" if self.path[: i + 1] in needed else part
            for i, part in enumerate(self.path)
        ]
        return ".".join(parts[1:])


@dataclass(frozen=True)
class Space:
    """All settings that are searched; a slot's choice stands before the settings of what is in the slot."""

    settings: tuple[Searched, ...] = ()

    def active(self, values: Mapping[str, Any]) -> Iterator[Searched]:
        """The settings that exist, given the values of those before them, which may be added while iterating."""
        for setting in self.settings:
            if all(part in self._chosen(slot, values) for slot, part in setting.where):
                yield setting

    def _chosen(self, slot: tuple[str, ...], values: Mapping[str, Any]) -> list[Any]:
        return [values.get(setting.name) for setting in self.settings if setting.path == (*slot, "name")]

    def defaults(self) -> dict[str, Any] | None:
        """Values before the search, of the settings that exist then: where they are beyond a bound, the bound.

        None where one of them is not among the choices.
        """
        values: dict[str, Any] = {}
        try:
            for setting in self.active(values):
                values[setting.name] = setting.range.nearest(setting.default)
        except LookupError:
            return None
        return values

    def layer(self, values: Mapping[str, Any]) -> Data:
        """Values by name as a layer for `RunConfig.parse`."""
        layer: Data = {}
        for setting in self.settings:
            if setting.name in values:
                into = layer
                for name in setting.path[:-1]:
                    into = into.setdefault(name, {})
                value = values[setting.name]
                into[setting.path[-1]] = "none" if value is None else value
        return layer


def space_of(config: RunConfig, registry: Registry, fixed: Sequence[tuple[str, ...]] = ()) -> Space:
    """The space that the algorithm's settings and those of its parts give by themselves.

    Args:
        config: settings before the search.
        registry: where parts are looked up.
        fixed: paths of settings that stay as they are. Of a part that stays, the settings are searched.

    Raises:
        PluginError: a declared range is wrong.
        UsageError: nothing is left to search.
    """
    part = _Part(type(config.algorithm), config.algorithm)
    found = [setting for setting in _own(part, ("algorithm",), {}, registry, fixed) if setting.path not in fixed]
    if not found:
        raise UsageError(
            f"{config.algorithm.name} has no setting to search: none declares a range or has bounds on both sides\n"
            "say what to search in a file, with --space FILE"
        )
    return Space(_merged(found))


def space_from(data: Mapping[str, Any], file: str, config: RunConfig, registry: Registry) -> Space:
    """The space that a file gives: what is not in it is not searched.

    Args:
        data: its content: for each setting, by its option's name or its full one, a table with `low`, `high` and `log`,
            or a list of values; for a slot, a table of these, in which `name` lists the parts to choose from.
        file: its name, for errors.
        config: settings before the search.
        registry: where parts are looked up.

    Raises:
        UsageError: all that is wrong in it, each with its key.
    """
    reader = _Reader(registry)
    part = _Part(type(config.algorithm), config.algorithm)
    top = {str(key).removeprefix("algorithm."): value for key, value in data.items() if key != "algorithm"}
    for table in (data.get("algorithm", {}), top):
        if isinstance(table, Mapping):
            reader.read(table, [part], ("algorithm",))
        else:
            reader.problems.append(("algorithm", "should be a table of settings"))
    if reader.problems:
        lines = [f"{file}: {key}: {message}" if key else f"{file}: {message}" for key, message in reader.problems]
        raise UsageError("\n".join([*lines[:8], *([f"and {len(lines) - 8} more"] if len(lines) > 8 else [])]))
    if not reader.found:
        raise UsageError(
            f"{file} names no setting to search\nfor example: learning_rate = {{ low = 1e-4, high = 1e-2 }}"
        )
    names = [setting.name for setting in reader.found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{file}: {name}: is given twice")
    return Space(_merged(reader.found))


def _merged(settings: Sequence[Searched]) -> tuple[Searched, ...]:
    """Settings that every part to choose from has, with the same range, as one that exists whichever is chosen."""
    merged = list(settings)
    choices = [setting for setting in settings if setting.path[-1] == "name"]
    for choice in reversed(choices):  # those further inside come later
        slot = choice.path[:-1]
        below = [
            s for s in merged if s.where[: len(choice.where) + 1][:-1] == choice.where and s.path[: len(slot)] == slot
        ]
        for path in dict.fromkeys(setting.path for setting in below):
            alike = [s for s in below if s.path == path and s.where and s.where[-1][0] == slot]
            parts = [setting.where[-1][1] for setting in alike]
            if set(parts) == set(choice.range.choices) and len({repr(setting.range) for setting in alike}) == 1:
                kept = alike[parts.index(choice.default) if choice.default in parts else 0]
                merged[merged.index(alike[0])] = replace(kept, where=choice.where)
                merged = [setting for setting in merged if setting not in alike]
    return tuple(merged)


@dataclass(frozen=True)
class _Part:
    """A part that is or may be in a slot: its class, its settings before the search, and what has to be chosen."""

    cls: type[Component]
    present: Component | None
    where: tuple[tuple[tuple[str, ...], str], ...] = ()

    def default(self, name: str) -> Any:
        if self.present is not None:
            return plain(getattr(self.present, name)) if name not in slots_of(self.cls) else None
        value = self.cls.model_fields[name].get_default(call_default_factory=True)
        try:
            return plain(value)
        except ValueError:
            return None  # it has none

    def inside(self, slot: str) -> Component | None:
        if self.present is not None:
            found = getattr(self.present, slot)
        else:
            found = self.cls.model_fields[slot].get_default(call_default_factory=True)
        return found if isinstance(found, Component) else None


def _parts(
    names: Sequence[Any], slot: str, kind: str, outer: _Part, path: tuple[str, ...], registry: Registry
) -> list[_Part]:
    """The parts that a slot is to choose from.

    Raises:
        UsageError, PluginError: there is none of such a name.
    """
    present = outer.inside(slot)
    parts = []
    for name in names:
        cls = registry.get(kind, name if isinstance(name, str) else json.dumps(name)[:50])
        same = present if type(present) is cls else None
        parts.append(_Part(cls, same, (*outer.where, (path, full_name(cls)))))
    return parts


def _choice(
    parts: Sequence[_Part], present: Component | None, path: tuple[str, ...], source: str, where: Any
) -> Searched:
    names = tuple(dict.fromkeys(full_name(part.cls) for part in parts))
    default = full_name(type(present)) if present is not None else names[0]
    return Searched((*path, "name"), Range(choices=names), default, source, where)


def _own(
    part: _Part,
    path: tuple[str, ...],
    overrides: Mapping[str, Any],
    registry: Registry,
    fixed: Sequence[tuple[str, ...]],
) -> Iterator[Searched]:
    """What a part's class says about itself, and those in its slots; `overrides` is what the part around it says."""
    slots = slots_of(part.cls)
    for name, info in part.cls.model_fields.items():
        here = (*path, name)
        declared = overrides.get(name, _declared(info))
        if name not in slots:
            found = _range_of(part.cls, name, info, declared)
            if found is not None:
                range_, source = found
                default = part.default(name)
                yield Searched(here, _with(range_, default), default, source, part.where)
            continue
        inner = declared if isinstance(declared, Mapping) else {}
        if declared is not None and declared is not False and not isinstance(declared, Mapping):
            raise _wrong(part.cls, name, "should be a table of the settings of what is in the slot")
        present = part.inside(name)
        inside = [_Part(type(present), present, part.where)] if present is not None else []
        if isinstance(inner.get("name"), (list, tuple)) and (*here, "name") not in fixed:
            # What is there before the search is one of them, whatever the list says.
            names = dict.fromkeys([*([full_name(type(present))] if present is not None else []), *inner["name"]])
            try:
                inside = _parts(list(names), name, slots[name].kind, part, here, registry)
            except UsageError as error:
                raise _wrong(part.cls, name, str(error).replace("\n", "; ")) from error
            yield _choice(inside, present, here, "declared", part.where)
        if declared is not False:
            for one in inside:
                yield from _own(one, here, inner, registry, fixed)


def _declared(info: FieldInfo) -> Any:
    extra = info.json_schema_extra
    return extra.get("search") if isinstance(extra, dict) else None


def _range_of(cls: type[Component], name: str, info: FieldInfo, declared: Any) -> tuple[Range, str] | None:
    if declared is False:
        return None
    if declared is not None:
        try:
            return _read_range(declared, info), "declared"
        except ValueError as error:
            raise _wrong(cls, name, str(error)) from error
    bounds = _from_bounds(info)
    return None if bounds is None else (bounds, "bounds")


def _wrong(cls: type[Component], name: str, message: str) -> PluginError:
    return PluginError(f"{cls.kind} {cls.name}: the range for searching that {name} declares is wrong: {message}")


def _with(range_: Range, default: Any) -> Range:
    """The range with the value before the search among its choices: a search must be able to stay there."""
    if not range_.choices or _index(default, range_.choices) is not None:
        return range_
    return Range(choices=(default, *range_.choices))


def _index(value: Any, choices: Sequence[Any]) -> int | None:
    texts = [json.dumps(choice) for choice in choices]
    text = json.dumps(value)
    return texts.index(text) if text in texts else None


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a setting may have, Annotated and unions taken apart; a Literal is one of them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return [part for inner in get_args(annotation) for part in _alternatives(inner)]
    return [annotation]


def _from_bounds(info: FieldInfo) -> Range | None:
    """What a field's type and bounds say, or None where they leave it open."""
    kinds = [kind for kind in _alternatives(info.annotation) if kind is not type(None)]
    if len(kinds) != 1:
        return None
    if kinds[0] is bool:
        return Range(choices=(False, True))
    if get_origin(kinds[0]) is Literal:
        return Range(choices=get_args(kinds[0]))
    if kinds[0] not in (int, float):
        return None
    low, high = _limit(info, "ge", "gt", kinds[0]), _limit(info, "le", "lt", kinds[0])
    if low is None or high is None or not low < high or max(abs(low), abs(high)) > LARGEST:
        return None
    # "Above 0" gives the smallest number that there is, of which no scale begins.
    return Range(low, high, log=low > 1e-12 and high / low >= WIDE)


def _limit(info: FieldInfo, closed: str, open_: str, kind: type) -> Number | None:
    for item in info.metadata:
        limit = getattr(item, closed, None)
        if limit is not None:
            return kind(limit)  # type: ignore[no-any-return]
        limit = getattr(item, open_, None)
        if limit is not None:
            up = 1 if open_ == "gt" else -1
            return int(limit) + up if kind is int else math.nextafter(limit, up * math.inf)
    return None


def _read_range(spec: Any, info: FieldInfo) -> Range:
    """A range as a file or a class says it.

    Raises:
        ValueError: it is none, or not for this field.
    """
    table: Any = {"choices": spec} if isinstance(spec, (list, tuple)) else spec
    if not isinstance(table, Mapping):
        raise ValueError("should be a list of values, or a table with low and high")
    for key in table:
        if key not in ("low", "high", "log", "choices"):
            raise ValueError(f"{str(key)[:50]} is none of low, high, log and choices")
    if "choices" in table:
        if len(table) > 1:
            raise ValueError("has choices and bounds: give one of them")
        return _read_choices(table["choices"], info)
    numbers = [kind for kind in _alternatives(info.annotation) if kind in (int, float)]
    if not numbers:
        raise ValueError("is no number: give a list of values")
    low: Any = table.get("low")
    high: Any = table.get("high")
    log = table.get("log", False)
    for name, bound in (("low", low), ("high", high)):
        if bound is None:
            raise ValueError(f"has no {name}")
        if type(bound) not in (int, float) or not math.isfinite(bound) or abs(bound) > LARGEST:
            raise ValueError(f"{name} should be a number, not {json.dumps(bound, default=str)[:50]}")
        if float not in numbers and bound != int(bound):
            raise ValueError(f"{name} should be a whole number, not {bound}")
    if not isinstance(log, bool):
        raise ValueError("log should be true or false")
    if not low < high:
        raise ValueError(f"low {low} should be below high {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic scale begins above 0, not at {low}")
    kind = float if float in numbers else int
    range_ = Range(kind(low), kind(high), log)
    for name, bound in (("low", range_.low), ("high", range_.high)):
        _check(bound, info, f"{name} ")
    return range_


def _read_choices(choices: Any, info: FieldInfo) -> Range:
    if not isinstance(choices, (list, tuple)) or not choices:
        raise ValueError("choices should be a list of values")
    if len(choices) > MOST_CHOICES:
        raise ValueError(f"has more than {MOST_CHOICES} values")
    values: list[Any] = []
    optional = type(None) in _alternatives(info.annotation)
    for choice in choices:
        value = plain(choice)
        value = None if value == "none" and optional else value
        _check(value, info)
        if _index(value, values) is not None:
            raise ValueError(f"has {json.dumps(value)[:50]} twice")
        values.append(value)
    return Range(choices=tuple(values))


def _check(value: Any, info: FieldInfo, what: str = "") -> None:
    """Raise ValueError where the setting by itself does not take a value."""
    try:
        TypeAdapter[Any](Annotated[info.annotation, info]).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        message = (
            error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ").replace("Input should", "should")
        )
        raise ValueError(f"{what}{json.dumps(value)[:50]}: {message}") from None


@dataclass
class _Reader:
    """Reads a file's space, and collects what is wrong."""

    registry: Registry
    found: list[Searched] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def read(self, table: Mapping[str, Any], parts: Sequence[_Part], path: tuple[str, ...], depth: int = 0) -> None:
        """Settings of the parts that are or may be at a path."""
        # What speaks of one of the parts to choose from comes after the choice.
        for key, spec in sorted(table.items(), key=lambda item: "@" in str(item[0])):
            shown = ".".join([*path[1:], str(key)[:100]])
            if depth > 20:
                self.problems.append((shown, "is nested too deeply"))
                return
            first, dot, rest = str(key).partition(".")
            if dot:
                spec = {rest: spec}
            name, at, part = first.removeprefix("--").partition("@")
            name = name.replace("-", "_")
            slotted = [one for one in parts if name in slots_of(one.cls)]
            plain_ = [one for one in parts if name in one.cls.model_fields and one not in slotted]
            if slotted:
                self._slot(name, part if at else None, spec, slotted, path, shown, depth)
            elif plain_ and not at:
                for one in plain_:
                    self._field(name, spec, one, (*path, name), shown)
            elif name != "name":
                known = dict.fromkeys(field for one in parts for field in one.cls.model_fields)
                self.problems.append((shown, f"there is no such setting{did_you_mean(name, list(known))}"))

    def _field(self, name: str, spec: Any, part: _Part, path: tuple[str, ...], shown: str) -> None:
        try:
            range_ = _read_range(spec, part.cls.model_fields[name])
        except (ValueError, OverflowError) as error:
            if (shown, str(error)) not in self.problems:
                self.problems.append((shown, str(error)))
            return
        self.found.append(Searched(path, range_, part.default(name), "file", part.where))

    def _slot(
        self,
        name: str,
        only: str | None,
        spec: Any,
        parts: Sequence[_Part],
        path: tuple[str, ...],
        shown: str,
        depth: int,
    ) -> None:
        here = (*path, name)
        if isinstance(spec, (list, tuple)):
            spec = {"name": spec}
        if not isinstance(spec, Mapping):
            self.problems.append((shown, "should be a list of parts' names, or a table of settings"))
            return
        inside: list[_Part] = []
        for one in parts:
            kind = slots_of(one.cls)[name].kind
            present = one.inside(name)
            chosen = next((s for s in self.found if s.path == (*here, "name") and s.where == one.where), None)
            names = spec.get("name", list(chosen.range.choices) if chosen else None)
            if names is None:
                inside += [_Part(type(present), present, one.where)] if present is not None else []
                continue
            if not isinstance(names, (list, tuple)) or not 0 < len(names) <= MOST_CHOICES:
                self.problems.append((f"{shown}.name", "should be a list of parts' names"))
                return
            try:
                candidates = _parts(names, name, kind, one, here, self.registry)
            except (UsageError, PluginError) as error:
                self.problems.append((f"{shown}.name", str(error).replace("\n", "; ")))
                return
            if "name" in spec:
                if chosen is not None:
                    self.problems.append((shown, "is given twice"))
                    return
                self.found.append(_choice(candidates, present, here, "file", one.where))
            inside += candidates
        if only is not None:
            inside = [one for one in inside if full_name(one.cls) == only]
            if not inside:
                self.problems.append((shown, f"{only[:50]} is not among the parts to choose from"))
                return
        rest = {key: value for key, value in spec.items() if key != "name"}
        self.read(rest, inside, here, depth + 1)
