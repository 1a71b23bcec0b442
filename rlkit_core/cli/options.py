"""The options of `rlkit run ALGO`, made from config classes, and the way back: from an option to its setting.

Which options there are depends on what is in each slot, which a preset, a file or an option may say. So the arguments
are looked through for those first, a draft of the config is made, and every field in it becomes an option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlkit_core.cli.settings import Form, facts, option_name
from rlkit_core.component import AlgorithmConfig, Component, slots_of
from rlkit_core.config import Data, Draft, Problems, RunConfig, read_config_file
from rlkit_core.errors import ConfigError, UsageError
from rlkit_core.presets import choose_preset
from rlkit_core.registry import Registry

SettingPath = tuple[str, ...]
OWN = (
    *("config", "preset", "seeds", "jobs", "run-dir", "init-from", "print-config", "progress", "profile"),
    *("trials", "seeds-per-trial", "report-seeds", "by", "pruner", "space", "print-space", "output"),
    *("debug", "help", "plugin", "no-plugins"),
)
"""Options of the commands themselves, which no setting can have."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A setting as an option.

    Attributes:
        path: where it is in the config, from the outside in.
        flag: the option.
        text: its description.
        facts: words, bounds, default.
        form: what its text means.
        group: heading in the help.
        kind: of the parts it names, where it chooses what is in a slot.
        metavar: what stands for the value in help, where the form does not say it well.
    """

    path: SettingPath
    flag: str
    text: str
    facts: str
    form: Form
    group: str
    kind: str | None = None
    metavar: str | None = None

    def read(self, texts: Sequence[str]) -> Any:
        """Plain data from the option's values.

        Raises:
            ValueError: the text cannot be understood.
        """
        return self.form.read(texts)


@dataclass
class Plan:
    """What the arguments, the file and the preset say before any option is read.

    Attributes:
        algorithm: name of the algorithm as given, maybe with its distribution.
        file: name of the file given with `--config`.
        file_layer: its settings.
        preset: name of the preset in use.
        preset_layer: its settings.
        settings: every setting with its option.
        chosen: settings of slots that options give.
        several: whether it is a run for each of several seeds.
    """

    algorithm: str
    algorithm_class: type[AlgorithmConfig]
    registry: Registry
    file: str | None = None
    file_layer: Data = field(default_factory=dict)
    preset: str | None = None
    preset_layer: Data = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    chosen: set[SettingPath] = field(default_factory=set)
    several: bool = False

    def default_word(self, path: SettingPath) -> str:
        """What help calls the value of a slot's setting."""
        return "here" if path in self.chosen else "default"

    @property
    def base(self) -> Data:
        """The lowest layer: which algorithm it is, and for several runs, that their budgets are equal."""
        return {"algorithm": {"name": self.algorithm}, **({"stop_at": "never"} if self.several else {})}

    def flag(self, path: SettingPath) -> str | None:
        """The option of a setting; for a part that is not there under its name, the option that chooses it."""
        for setting in self.settings:
            if setting.path in (path, (*path, "name")):
                return setting.flag
        return None


def make_plan(algorithm: str, registry: Registry, arguments: Sequence[str]) -> Plan:
    """Look the arguments through and find the settings that there are.

    Raises:
        UsageError: there is no such algorithm, file or preset, or the file is for another algorithm.
        PluginError: a named plugin is broken.
    """
    file = last_value(arguments, "--config")
    layer: Data = {} if file is None else read_config_file(Path(file))
    registry.check_required(layer.pop("requires", None))
    cls = registry.get("algorithm", algorithm)
    assert issubclass(cls, AlgorithmConfig)
    plan = Plan(algorithm, cls, registry, file=file, several=last_value(arguments, "--seeds") is not None)
    if plan.file is not None:
        plan.file_layer = _for_algorithm(layer, plan)
    draft = _draft(plan, arguments)
    env = draft.slot("env")
    env_id = env.fields.get("id") if env is not None else None
    named = last_value(arguments, "--preset")
    plan.preset, plan.preset_layer = choose_preset(cls, env_id if isinstance(env_id, str) else None, named, registry)
    if plan.preset_layer:
        draft = _draft(plan, arguments)
    plan.settings = [*_settings(draft, plan), *executor_settings(registry, arguments)]
    return plan


EXECUTOR = "processes"
"""What computes several runs where nothing is said; looked up in the registry like any other."""


def executor_settings(registry: Registry, arguments: Sequence[str]) -> list[Setting]:
    """The option that chooses an executor, and those of the executor that it chooses.

    Raises:
        UsageError: there is no such executor.
        PluginError: the plugin that offers it is broken.
    """
    named = last_value(arguments, "--executor")
    if named is None and not registry.names("executor"):
        return []
    cls = registry.get("executor", named or EXECUTOR)
    draft, group = Draft(cls, registry), f"Executor {cls.name}"
    default = f"[{'default' if named is None else 'here'} {cls.name}]"
    text = "what computes the runs of a group"
    choice = Setting(("executor", "name"), "--executor", text, default, Form((), (str,), False), group, "executor")
    return [
        choice,
        *(_field_setting(("executor", name), info, draft, group) for name, info in cls.model_fields.items()),
    ]


def build_executor(given: Mapping[Setting, Sequence[str]], registry: Registry, problems: Problems) -> Component | None:
    """The executor's config from its options, or None where there are problems."""
    layer = flags_layer({s: texts for s, texts in given.items() if s.path[0] == "executor"}, problems)
    data = layer.get("executor", {})
    draft = Draft(registry.get("executor", str(data.pop("name", EXECUTOR))), registry)
    draft.apply(data, ("executor",), problems)
    config = draft.build(("executor",), problems)
    assert config is None or isinstance(config, Component)
    return config


def file_algorithm(data: Mapping[str, Any]) -> str | None:
    """The algorithm that a config file names, or None."""
    given = data.get("algorithm")
    name = given.get("name") if isinstance(given, Mapping) else given
    return name if isinstance(name, str) else None


def _for_algorithm(data: Data, plan: Plan) -> Data:
    """A file's settings, without the algorithm's name, which the command has given."""
    name = file_algorithm(data)
    if name is None:
        return data
    if name.rpartition(":")[2] != plan.algorithm_class.name:
        raise UsageError(
            f"{plan.file} is for the algorithm {name}, not {plan.algorithm}\n"
            f"run it with: rlkit run {name} --config {plan.file}"
        )
    given = data["algorithm"]
    rest = {key: value for key, value in given.items() if key != "name"} if isinstance(given, Mapping) else {}
    return {**data, "algorithm": rest}


def _draft(plan: Plan, arguments: Sequence[str]) -> Draft:
    """The config as far as it can be told; what is wrong in it is said later, when all options are known."""
    draft = Draft(RunConfig, plan.registry)
    unheard: Problems = []
    for layer in (plan.base, plan.preset_layer, plan.file_layer):
        draft.apply(layer, (), unheard)
    _apply_choices(draft, (), arguments, plan)
    return draft


def _apply_choices(draft: Draft, path: SettingPath, arguments: Sequence[str], plan: Plan) -> None:
    """Put into the slots what options name, from the outside in."""
    for slot, kind in slots_of(draft.cls).items():
        for setting in _slot_settings(slot, kind, path, "", FieldInfo(), None, plan):
            text = last_value(arguments, setting.flag)
            if text is not None:
                draft.apply(_nested((slot, setting.path[-1]), text), (), [])
                plan.chosen.add(setting.path)
        present = draft.slot(slot)
        if present is not None:
            _apply_choices(present, (*path, slot), arguments, plan)


def _settings(draft: Draft, plan: Plan) -> Iterator[Setting]:
    """All settings in the order of the help: environment, run, algorithm and its slots, tracker."""
    taken = {f"--{name}" for name in OWN}
    for setting in _in_order(draft, plan):
        if setting.flag in taken:
            # An algorithm's setting that is called like an option of the command gets its full name.
            full = "--" + ".".join(map(option_name, setting.path))
            setting = replace(setting, flag=full)
        taken.add(setting.flag)
        yield setting


def _in_order(draft: Draft, plan: Plan) -> Iterator[Setting]:
    run: list[Setting] = []
    parts: dict[str, list[Setting]] = {}
    for slot in slots_of(RunConfig):
        part = draft.slot(slot)
        if part is not None:
            parts[slot] = list(_part_settings(slot, part, draft.cls.model_fields[slot], (), plan))
    for name, info in RunConfig.model_fields.items():
        if name not in parts and name not in slots_of(RunConfig):
            run.append(_field_setting((name,), info, draft, "Run"))
    yield from parts.pop("env", [])
    yield from run
    yield from parts.pop("algorithm", [])
    for rest in parts.values():
        yield from rest


def _part_settings(slot: str, part: Draft, info: FieldInfo, outer: SettingPath, plan: Plan) -> Iterator[Setting]:
    """The settings of the part in a slot, below the option that chooses it."""
    assert issubclass(part.cls, Component)
    path = (*outer, slot)
    group = f"{part.cls.kind.capitalize()} {part.cls.name}"
    if path != ("algorithm",):
        yield from _slot_settings(slot, part.cls, outer, group, info, part, plan)
    slots = slots_of(part.cls)
    # The shorthand is the slot's own option, and given already.
    shorthand = _kind(part.cls).shorthand
    for name, field_info in part.cls.model_fields.items():
        if name not in slots and name != shorthand:
            yield _field_setting((*path, name), field_info, part, group)
    for inner in slots:
        inside = part.slot(inner)
        if inside is not None:
            yield from _part_settings(inner, inside, part.cls.model_fields[inner], path, plan)
        else:
            yield from _slot_settings(inner, slots[inner], path, group, part.cls.model_fields[inner], None, plan)


def _slot_settings(
    slot: str, cls: type[Component], outer: SettingPath, group: str, info: FieldInfo, part: Draft | None, plan: Plan
) -> Iterator[Setting]:
    """The option that chooses what is in a slot, and where its shorthand is a setting of the part, that one before."""
    kind = _kind(cls)
    path = (*outer, slot)
    form = Form((), (str,), False)
    text, flag = info.description or "", _flag(path)
    if kind.shorthand != "name":
        said = ""
        if part is not None and kind.shorthand in part.cls.model_fields:
            shorthand = part.cls.model_fields[kind.shorthand]
            given = part.fields.get(kind.shorthand, PydanticUndefined)
            said = facts(shorthand, given, plan.default_word((*path, kind.shorthand)))
            text = shorthand.description or text
        yield Setting((*path, kind.shorthand), flag, text, said, form, group)
        text, flag = f"family of {kind.kind}s", _flag((*path, "name"))
    default = f"[{plan.default_word((*path, 'name'))} {cls.name}]" if part is not None else ""
    yield Setting((*path, "name"), flag, text, default, form, group, kind.kind)


def _field_setting(path: SettingPath, info: FieldInfo, draft: Draft, group: str) -> Setting:
    given = draft.fields.get(path[-1], PydanticUndefined)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    flag, metavar = str(extra.get("flag") or _flag(path)), extra.get("metavar")
    return Setting(
        path,
        flag,
        info.description or "",
        facts(info, given),
        Form.of(info.annotation),
        group,
        metavar=None if metavar is None else str(metavar),
    )


def _kind(cls: type[Component]) -> type[Component]:
    return next(base for base in cls.__mro__ if issubclass(base, Component) and base.is_kind())


def _flag(path: SettingPath) -> str:
    """The option of a path: the algorithm's settings stand at the top, like the run's."""
    names = path[1:] if path[0] == "algorithm" else path
    return "--" + ".".join(map(option_name, names))


def last_value(arguments: Sequence[str], flag: str) -> str | None:
    """The last value given to an option in the arguments, or None."""
    found = None
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or option_name(name) != flag:
            continue
        if equals:
            found = value
        elif i + 1 < len(arguments):
            found = arguments[i + 1]
    return found


def flags_layer(given: Mapping[Setting, Sequence[str]], problems: Problems) -> Data:
    """What the options say, as a layer; what cannot be understood is added to the problems."""
    layer: Data = {}
    for setting, texts in given.items():
        try:
            value = setting.read(texts)
        except ValueError as error:
            problems.append((setting.path, str(error)))
            continue
        _merge(layer, _nested(setting.path, value))
    return layer


def _nested(path: SettingPath, value: Any) -> Data:
    for name in reversed(path):
        value = {name: value}
    return value if isinstance(value, dict) else {}


def _merge(into: Data, more: Data) -> None:
    for key, value in more.items():
        # Along one path only the last value is no table of ours, and that one is new.
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


MOST = 8
"""Problems that are shown at once."""


def explain(problems: Problems, plan: Plan, given: Mapping[Setting, Sequence[str]]) -> UsageError:
    """The problems of a config in the user's own words: each by its option, or its file and key, or its preset."""
    lines = [_line(path, message, plan, given) for path, message in problems]
    lines = list(dict.fromkeys(lines))
    if len(lines) > MOST:
        lines[MOST - 1 :] = [f"and {len(lines) - MOST + 1} more"]
    return UsageError("\n".join(lines))


def _line(path: SettingPath, message: str, plan: Plan, given: Mapping[Setting, Sequence[str]]) -> str:
    where = _where(path, message, plan, given)
    if message == "is missing":
        text = next((setting.text for setting in plan.settings if setting.path == path), "")
        return f"{where} is missing" + (f": {text}" if text else "")
    return f"{where}: {message}"


def _where(path: SettingPath, message: str, plan: Plan, given: Mapping[Setting, Sequence[str]]) -> str:
    by_path = {setting.path: setting.flag for setting in given}
    for exact in (path, (*path, "name")):
        if exact in by_path:
            return by_path[exact]
    # A rule between several settings names them in its message: the given ones of them are meant.
    words = set(message.replace(",", " ").replace(":", " ").split())
    meant = [flag for at, flag in by_path.items() if at[: len(path)] == path and words & {at[-1], *at[len(path) : -1]}]
    if meant:
        return ", ".join(meant)
    dotted = ".".join(path)
    if plan.file is not None and _holds(plan.file_layer, path):
        return f"{plan.file}: {dotted}" if dotted else plan.file
    if _holds(plan.preset_layer, path):
        return f"preset {plan.preset}: {dotted}"
    if path == ("algorithm",):
        return plan.algorithm_class.name
    return plan.flag(path) or dotted or "config"


def _holds(layer: Any, path: SettingPath) -> bool:
    for name in path:
        if isinstance(layer, str):  # a name alone in a slot
            return True
        if not isinstance(layer, Mapping) or name not in layer:
            return False
        layer = layer[name]
    return True


def no_such_option(flag: str, flags: Sequence[str], command: str) -> UsageError:
    """The error for an option that is not there, with the one that may be meant."""
    name = flag.removeprefix("--")
    last: dict[str, str] = {}
    for other in flags:
        last.setdefault(other.removeprefix("--").rpartition(".")[2], other)
    negated = f"--{name.removeprefix('no-')}"
    if name.startswith("no-") and negated in flags:
        meant = f"{negated} false"
    elif name.rpartition(".")[2] in last:
        meant = last[name.rpartition(".")[2]]
    else:
        close = get_close_matches(flag, flags, n=1) or get_close_matches(name, last, n=1)
        meant = last.get(close[0], close[0]) if close else ""
    hint = f"did you mean {meant}? " if meant else ""
    return UsageError(f"there is no option {flag}\n{hint}all options: {command} --help")


def parse_error(problems: Problems, error: ConfigError) -> Problems:
    """The problems of reading options and those of the config together, each setting once."""
    read = {path for path, _ in problems}
    return [*problems, *(item for item in error.problems if item[0] not in read)]
