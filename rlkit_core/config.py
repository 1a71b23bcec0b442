"""RunConfig: all settings of a run, and how they come together from presets, files and options."""

from __future__ import annotations

import json
import math
import re
import reprlib
import stat
import tomllib
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rlkit_core.component import (
    AlgorithmConfig,
    Component,
    EnvironmentConfig,
    TrackerConfig,
    dump,
    slots_of,
)
from rlkit_core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from rlkit_core.registry import Registry

Data = dict[str, Any]


def _stop_rule(value: Any) -> Any:
    if isinstance(value, str) and value not in ("threshold", "running-return", "never"):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"should be threshold, running-return, never or a number, not {_brief(value)}") from None
    return value


class RunConfig(BaseModel):
    """All settings of a run. What is not in here or in the environment of the process decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    algorithm: AlgorithmConfig = Field(description="the algorithm and its settings")
    env: EnvironmentConfig = Field(description="the environment and its settings")
    seed: int = Field(0, ge=0, lt=2**63, description="all randomness of the run comes from this number")
    total_steps: int = Field(200_000, ge=1, description="budget in environment steps")
    stop_at: Annotated[
        float | Literal["threshold", "running-return", "never"],
        BeforeValidator(_stop_rule),
        Field(
            description="when to stop before the budget: at this mean return, exceeded by its standard error in two "
            "greedy evaluations in a row on different seeds (100 and 200 episodes); threshold: at the environment's "
            "registered one; "
            "running-return: the original actor-critic notebook's rule, a running average of training returns above "
            "that threshold; never"
        ),
    ] = "threshold"
    eval_every: int | None = Field(
        None, ge=1, description="environment steps between greedy evaluations; default: a fiftieth of total_steps"
    )
    eval_episodes: int = Field(10, ge=1, description="episodes of each evaluation")
    eval_max_steps: int = Field(
        27_000, ge=1, description="steps after which an evaluation episode is cut off (and counted as cut)"
    )
    log_every: int | None = Field(
        None, ge=1, description="environment steps between records; default: a five-hundredth of total_steps"
    )
    checkpoint_every: Annotated[
        int | Literal["never"] | None,
        Field(
            description="environment steps between checkpoints, from which `rlkit resume` goes on; never: none, also "
            "at the end; default: a fiftieth of total_steps, put off while saving takes more than a twentieth of the "
            "time of training"
        ),
    ] = None
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints that are kept, the last ones")
    episode_log_every: int | None = Field(
        None, ge=1, description="print the last and the running return every so many episodes, as the notebook does"
    )
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where networks live; auto: cuda if there is one")
    threads: int = Field(1, ge=1, le=1024, description="threads of torch; one is fastest for small networks")
    imports: tuple[str, ...] = Field(
        (),
        description="module to import first, which registers environments; may be given several times",
        json_schema_extra={"flag": "--import", "metavar": "MODULE"},
    )
    hooks: tuple[str, ...] = Field(
        (),
        description="plugin module whose run hooks act in this run; may be given several times",
        json_schema_extra={"metavar": "MODULE"},
    )
    tracker: TrackerConfig = Field(description="where the run's record is sent")
    group: str | None = Field(
        None, description="name under which runs are compared; default: algorithm and environment"
    )

    @classmethod
    def parse(cls, *layers: Mapping[str, Any], registry: Registry) -> RunConfig:
        """Build a config from layers of plain data, every named component looked up in the registry.

        A slot takes an instance, a name, or a dict with a name and settings or, without a name, settings that change
        what is there. Another name in a slot drops the settings that lower layers gave it.

        Args:
            layers: from the lowest to the highest; higher ones win.
            registry: where names are looked up.

        Raises:
            ConfigError: all wrong settings at once, each with its path.
            PluginError: a named plugin is broken.
        """
        draft = Draft(cls, registry)
        problems: Problems = []
        for layer in layers:
            # What a stored run says of the plugins that it needs is no setting, but comes before all of them.
            if isinstance(layer, Mapping) and "requires" in layer:
                registry.check_required(layer["requires"])
                layer = {key: value for key, value in layer.items() if key != "requires"}
            draft.apply(layer, (), problems)
        for slot, name in DEFAULT_COMPONENTS.items():
            if slot not in draft.slots:
                draft.apply({slot: {"name": name}}, (), problems)
        config = draft.build((), problems)
        if problems or config is None:
            raise ConfigError(problems)
        assert isinstance(config, RunConfig)
        return config

    def dump(self) -> Data:
        """As plain JSON values, which `parse` turns into an equal config."""
        return dump(self)

    @property
    def resolved_eval_every(self) -> int:
        """Environment steps between evaluations."""
        return self.eval_every or max(1, self.total_steps // 50)

    @property
    def resolved_checkpoint_every(self) -> int | None:
        """Environment steps between checkpoints, or None where there are none."""
        if self.checkpoint_every == "never":
            return None
        return self.checkpoint_every or max(1, self.total_steps // 50)

    @property
    def resolved_log_every(self) -> int:
        """Environment steps between records."""
        return self.log_every or max(1, self.total_steps // 500)

    @property
    def resolved_group(self) -> str:
        """Name under which runs are compared."""
        return self.group or f"{self.algorithm.name}-{self.env.id}"


DEFAULT_COMPONENTS = {"env": "gymnasium", "tracker": "mlflow"}
"""What fills the run's own slots where nothing is said; looked up in the registry like any other."""

Problems = list[tuple[tuple[str, ...], str]]


class Draft:
    """A config being put together: a config class, the plain values given so far, and drafts in its slots.

    Args:
        cls: the config class.
        registry: where names of components are looked up.
    """

    def __init__(self, cls: type[BaseModel], registry: Registry) -> None:
        self.cls = cls
        self.registry = registry
        self.fields: Data = {}
        self.slots: dict[str, Draft] = {}
        self._broken: set[str] = set()

    @classmethod
    def of(cls, config: BaseModel, registry: Registry) -> Draft:
        """A draft that holds all settings of an existing config."""
        draft = cls(type(config), registry)
        slots = slots_of(type(config))
        # As the record will have them, so that what is built now equals what is built from the record.
        draft.fields = config.model_dump(mode="json", exclude=set(slots), include=set(type(config).model_fields))
        draft.slots = {name: cls.of(getattr(config, name), registry) for name in slots}
        return draft

    def slot(self, name: str) -> Draft | None:
        """What is in a slot so far: what was given, else its default, else the run's default component."""
        if name not in self.slots:
            default = self.cls.model_fields[name].get_default(call_default_factory=True)
            if isinstance(default, Component):
                self.slots[name] = Draft.of(default, self.registry)
            elif self.cls is RunConfig and name in DEFAULT_COMPONENTS:
                component = self.registry.get(slots_of(self.cls)[name].kind, DEFAULT_COMPONENTS[name])
                self.slots[name] = Draft(component, self.registry)
        return self.slots.get(name)

    def apply(self, layer: Any, path: tuple[str, ...], problems: Problems) -> None:
        """Lay plain data over what is there; what cannot be understood is added to the problems."""
        if not isinstance(layer, Mapping):
            problems.append((path, f"should be a table of settings, not {_brief(layer)}"))
            return
        if len(path) > 20:  # parts in slots of parts, such as a network below a network
            problems.append((path, "is nested too deeply"))
            return
        kinds = slots_of(self.cls)
        for key, value in layer.items():
            here = (*path, str(key)[:100])
            if key in kinds:
                self._apply_slot(key, kinds[key], value, here, problems)
            elif key in self.cls.model_fields:
                try:
                    value = plain(value)
                except ValueError as error:
                    self._refuse(key, here, str(error), problems)
                else:
                    self.fields[key] = None if value == "none" and _may_be_none(self.cls, key) else value
            else:
                names = [*self.cls.model_fields, *(["name"] if issubclass(self.cls, Component) else [])]
                problems.append((here, f"there is no such setting{did_you_mean(str(key), names)}"))

    def _refuse(self, key: str, path: tuple[str, ...], message: str, problems: Problems) -> None:
        """Note what is wrong with a setting, and judge nothing else by what it is now."""
        problems.append((path, message))
        self._broken.add(key)

    def _apply_slot(
        self, key: str, kind: type[Component], value: Any, path: tuple[str, ...], problems: Problems
    ) -> None:
        a_kind = f"{'an' if kind.kind[0] in 'aeiou' else 'a'} {kind.kind}"
        if isinstance(value, Component):
            if not isinstance(value, kind):
                self._refuse(key, path, f"should be {a_kind}, not the {value.kind} {value.name}", problems)
                return
            try:
                self.slots[key] = Draft.of(value, self.registry)
            except ValueError as error:
                self._refuse(key, path, f"has a setting that is no plain data: {error}", problems)
            return
        if isinstance(value, str):
            value = {kind.shorthand: value}
        if not isinstance(value, Mapping):
            message = f"should be {a_kind}'s name or a table of its settings, not {_brief(value)}"
            self._refuse(key, path, message, problems)
            return
        settings = dict(value)
        name = settings.pop("name", None)
        if name is not None:
            try:
                component = self.registry.get(kind.kind, name if isinstance(name, str) else _brief(name))
            except UsageError as error:
                self._refuse(key, path, str(error).replace("\n", "; "), problems)
                return
            present = self.slot(key)
            if present is None or present.cls is not component:
                self.slots[key] = Draft(component, self.registry)
        present = self.slot(key)
        if present is None:
            self._refuse(key, path, f"which {kind.kind}? give its name; registered: {self._names(kind)}", problems)
            return
        present.apply(settings, path, problems)

    def _names(self, kind: type[Component]) -> str:
        return ", ".join(self.registry.names(kind.kind))

    def build(self, path: tuple[str, ...], problems: Problems) -> BaseModel | None:
        """The config, or None where there are problems."""
        values = dict(self.fields)
        for name, draft in self.slots.items():
            component = draft.build((*path, name), problems)
            if component is None:
                self._broken.add(name)
            else:
                values[name] = component
        try:
            config = self.cls.model_validate(values)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                where = tuple(str(part) for part in item["loc"])
                # What is said of a whole follows from its broken parts, or from what stands in for them.
                if not self._broken.intersection(where[:1] or self._broken):
                    problems.append(((*path, *_field_path(where)), _explain(item)))
            return None
        for name in set(self.cls.model_fields) - set(slots_of(self.cls)):
            try:
                plain(config.model_dump(mode="json", include={name})[name])
            except ValueError as error:
                self._refuse(name, (*path, name), str(error), problems)
        return None if self._broken else config


def _may_be_none(cls: type[BaseModel], field: str) -> bool:
    """Whether `none` means no value: TOML has no null. A setting that takes any text has no such word."""
    alternatives = get_args(cls.model_fields[field].annotation)
    return type(None) in alternatives and str not in alternatives


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON, the record's language, gives it back: numbers, text, lists and tables.

    Raises:
        ValueError: it cannot be written as that.
    """
    if depth > 50:
        raise ValueError("is nested too deeply")
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise ValueError("should be a number that fits into 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("should be a finite number")
        return value
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError(f"should be text, not {_brief(value)}")
        return value
    if isinstance(value, (list, tuple)):
        return [plain(part, depth + 1) for part in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"should have names for keys, not {_brief(key)}")
        return {plain(key): plain(part, depth + 1) for key, part in value.items()}
    raise ValueError(f"should be made of numbers, text, lists and tables, not {_brief(value)}")


def _brief(value: Any) -> str:
    """A value as in Python, cut where it is long: what a file holds may be endless."""
    return _BRIEF.repr(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100


def _field_path(where: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic appends the alternative of a union it tried; the user named only the field.
    return where[:1]


def _explain(item: Any) -> str:
    """Pydantic's finding in a sentence."""
    if item["type"] == "missing":
        return "is missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = re.sub(r", (unable to (parse|interpret)|got a number with).*", "", message)
    given = item["input"]
    # A validator's own sentence is left as it is: the value may be what it does not want to see (a password).
    complete = isinstance(given, (Mapping, BaseModel)) or item["type"] == "value_error"
    shown = "" if complete else f", not {_brief(given)}"
    return f"{message}{shown}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that may be meant, or None; of equally close ones, one that begins alike."""
    close = get_close_matches(name, names, n=5)
    return max(
        close, key=lambda other: (SequenceMatcher(None, other, name).ratio(), other[:1] == name[:1]), default=None
    )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean …?` where a name is close to one of `names`, else an empty string."""
    other = closest(name, names)
    return f"; did you mean {other}?" if other else ""


def parse_arguments(text: str) -> Data:
    """`name=value,name=value` as a dict; values are read as JSON where they are JSON, else as text.

    Raises:
        ValueError: it is not of that form.
    """
    arguments: Data = {}
    # A comma separates arguments only where a name follows: values may be lists.
    for part in re.split(r",(?=\s*[A-Za-z_]\w*=)", text) if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"should be name=value, not {part!r}")
        try:
            arguments[name.strip()] = json.loads(value)
        except ValueError:
            arguments[name.strip()] = value
    return arguments


def _without_repeats(pairs: list[tuple[Any, Any]]) -> Data:
    """Pairs as a dict; a key that is there twice is a mistake, whichever of the two was meant."""
    table: Data = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key} is given twice")
        table[key] = value
    return table


def _read_yaml(text: str) -> Any:
    """Plain data from YAML, with the words of YAML 1.2 (its JSON schema), which TOML and JSON have too.

    No tags that make objects, no aliases. PyYAML speaks YAML 1.1, where `off` is false, `1e-3` a text and `1:30`
    ninety: here they are what they look like.
    """
    import yaml

    # libyaml, which PyYAML's wheels carry, takes a sixth of the time.
    safe_loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(safe_loader):  # type: ignore[misc, valid-type]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            return _without_repeats(
                [tuple(self.construct_object(part, deep=True) for part in pair) for pair in node.value]
            )

    depth = 0
    # Before it is composed: PyYAML's time and stack grow with what is open, and its aliases can stand for gigabytes.
    for event in yaml.parse(text, safe_loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 51:  # the document's own table, and 50 in it
            raise RecursionError
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases (*name); write the values out")
    Loader.yaml_implicit_resolvers = {}
    for tag, form in _YAML_WORDS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{form})$"), None)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
    return yaml.load(text, Loader)


_YAML_WORDS = {
    "bool": "true|True|TRUE|false|False|FALSE",
    "null": "~|null|Null|NULL|",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}

MAX_FILE_SIZE = 30_000
"""Bytes of a config file: a run's own has about 2,000. Larger ones can keep a parser busy for long."""


def _read_toml(text: str) -> Any:
    # tomllib's time grows with the square of a key's dots: 100 KB of them take a minute.
    if re.search(r"""(\.[ \t]*([\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*){50}""", text):
        raise RecursionError
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib tells where it stopped reading; people look for a name.
        number = re.search(r"line (\d+)", str(error))
        lines = text.rstrip().splitlines()
        line = lines[int(number[1]) - 1 if number and int(number[1]) <= len(lines) else -1] if lines else ""
        raise ValueError(f"{error}: {line.strip()[:100]}") from None


def read_config_file(path: Path) -> Data:
    """Settings from a TOML, YAML or JSON file, as plain data: nothing in it can run code.

    Raises:
        UsageError: there is no such file, or it cannot be understood; says where.
    """
    if path.suffix not in (".toml", ".json", ".yaml", ".yml"):
        raise UsageError(f"{path}: the name should end in .toml, .yaml, .yml or .json")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # one would wait for a pipe for ever
            raise UsageError(f"cannot read {path}: it is no regular file")
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_FILE_SIZE:
        raise UsageError(f"{path} is no valid {path.suffix[1:].upper()}: it has more than {MAX_FILE_SIZE:,} bytes")
    try:
        text = content.decode()
        if path.suffix == ".toml":
            data: Any = _read_toml(text)
        elif path.suffix == ".json":
            data = json.loads(text, object_pairs_hook=_without_repeats)
        else:
            data = _read_yaml(text)
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise UsageError(f"{path} is no valid {path.suffix[1:].upper()}: {message}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} should be a table of settings, such as seed = 1, [env] and [algorithm]")
    return data
