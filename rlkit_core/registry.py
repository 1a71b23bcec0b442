"""The registry: which parts are installed, from entry-point metadata alone, and the import of the one that is named.

Nothing of a plugin is imported until a part of it is named, so a broken plugin harms nobody who does not use it.
(pluggy's own `load_setuptools_entrypoints` imports everything, is aborted by one broken import, and silently drops a
second plugin of the same name.)
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from rlkit_core.component import KINDS, AlgorithmConfig, Component, slots_of
from rlkit_core.config import closest
from rlkit_core.errors import PluginError, UsageError
from rlkit_core.installed import ALLOWED, GROUP, OURS, announcing, is_allowed, normal

if TYPE_CHECKING:
    import pluggy

OTHERS = ("hooks", "presets", "command")
"""What plugins announce besides parts: run hooks, presets for somebody's algorithm, a sub-command."""


@dataclass(frozen=True, order=True)
class Entry:
    """One registered part: what its distribution announces about it.

    Attributes:
        kind: algorithm, estimator, …; or one of `OTHERS`.
        name: what users type.
        distribution: the package that offers it; for a module given from Python, the module's name.
        version: of the distribution.
        module: the plugin module; of a sub-command, `module:attribute`.
    """

    kind: str
    name: str
    distribution: str
    version: str
    module: str


class Registry:
    """Finds components by kind and name.

    Args:
        plugins: plugin modules given directly, besides the installed ones; a part of theirs is found first.
    """

    def __init__(self, plugins: Sequence[ModuleType] = ()) -> None:
        self._offers: dict[str, dict[tuple[str, str], type[Component]]] = {}
        self._entries: list[Entry] | None = None
        self._given: list[Entry] = []
        self._modules: dict[str, ModuleType] = {}
        for plugin in (*plugins, *(module for module in _given_here if module not in plugins)):
            name = plugin.__name__
            self._modules[name] = plugin
            manager = _manager()
            _register(manager, plugin, name)
            if manager.get_hookcallers(plugin) and not manager.hook.rlkit_register.get_hookimpls():
                continue  # run hooks only, for `hooks`
            for kind, part in self._load(plugin, name, name):
                self._given.append(Entry(kind, part, name, str(getattr(plugin, "__version__", "?")), name))

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All registered parts (of a kind), those given directly first, sorted; reads metadata only."""
        if self._entries is None:
            self._entries = sorted(_installed())
        return [entry for entry in [*self._given, *self._entries] if kind in (None, entry.kind)]

    def names(self, kind: str) -> list[str]:
        """Names of all parts of a kind."""
        return sorted({entry.name for entry in self.entries(kind)})

    def find(self, kind: str, name: str) -> Entry:
        """The entry of that name, or of `distribution:name`.

        Raises:
            UsageError: there is none; says which there are and which one may be meant.
            PluginError: two distributions offer it.
        """
        distribution, _, short = name.rpartition(":")
        distribution = normal(distribution)
        matches = [
            entry
            for entry in self.entries(kind)
            if entry.name == short and distribution in ("", normal(entry.distribution))
        ]
        given = [entry for entry in matches if entry in self._given]
        matches = given or matches
        if not matches:
            names = self.names(kind)
            left_out = sorted(e.distribution for e in _installed(all_of_them=True) if (e.kind, e.name) == (kind, short))
            if left_out:
                raise UsageError(
                    f"there is no {kind} named {name[:100]} among the plugins that are allowed\n"
                    f"{' and '.join(left_out)} would offer it: name it in {ALLOWED}, or leave --no-plugins out"
                )
            other = closest(short, names)
            hint = f"did you mean {other}? " if other else ""
            raise UsageError(f"there is no {kind} named {name[:100]}\n{hint}registered: {', '.join(names) or 'none'}")
        if len({entry.distribution for entry in matches}) > 1:
            full = [f"{entry.distribution}:{entry.name}" for entry in matches]
            raise PluginError(
                f"{kind} {short} is offered by {' and '.join(entry.distribution for entry in matches)}\n"
                f"name it in full: {' or '.join(full)}",
                "name",
            )
        return matches[0]

    def get(self, kind: str, name: str) -> type[Component]:
        """The config class of that name; imports the plugin that offers it, and no other.

        Raises:
            UsageError: there is none.
            PluginError: the plugin cannot be imported, or does not offer what it announces.
        """
        entry = self.find(kind, name)
        part = self._part(entry)
        others = {other.distribution for other in self.entries(kind) if other.name == entry.name}
        part.distribution = entry.distribution if len(others) > 1 and entry not in self._given else ""
        return part

    def entry_of(self, part: type[Component]) -> Entry | None:
        """The entry by which a config class is registered, if it is; imports nothing."""
        for entry in self.entries(part.kind):
            if entry.name == part.name and entry.module in sys.modules:
                try:
                    if self._part(entry) is part:
                        return entry
                except PluginError:
                    continue
        return None

    def _part(self, entry: Entry) -> type[Component]:
        whose = f"{entry.distribution} {entry.version}"
        offers = self._offers.get(entry.module)
        if offers is None:
            offers = self._load(self._import(entry), entry.module, whose)
        if (entry.kind, entry.name) not in offers:
            raise PluginError(
                f"plugin {whose} announces {entry.kind} {entry.name} but its rlkit_register does not return it\n"
                f"it returns: {', '.join(f'{kind} {name}' for kind, name in sorted(offers)) or 'nothing'}"
            )
        return offers[entry.kind, entry.name]

    def hooks(self, names: Sequence[str]) -> Any:
        """Hook caller in which only the plugins of that names act.

        Args:
            names: as announced in the group `rlkit.hooks`, also `distribution:name`; or modules.

        Raises:
            PluginError: one cannot be imported, or has no hook or a wrong one.
        """
        manager = _manager()
        for name in dict.fromkeys(names):
            entry = self.hooks_entry(name)
            try:
                if entry is not None:
                    module = self._import(entry)
                else:
                    module = self._modules.get(name) or importlib.import_module(name)
            except PluginError:
                raise
            except (Exception, SystemExit) as error:
                raise PluginError(f"hooks {name} cannot be imported: {_reason(error)}", _fault(error)) from error
            _check_interface(module, name)
            if not manager.is_registered(module):
                _register(manager, module, name)
            if not any(caller.name != "rlkit_register" for caller in manager.get_hookcallers(module) or ()):
                raise PluginError(
                    f"hooks {name}: the module has no run hook\ndecorate it with `@rlkit_core.hookimpl`", "hook"
                )
        return manager.hook

    def hooks_entry(self, name: str) -> Entry | None:
        """What announces run hooks of that name, or None where it can only be a module's."""
        if name in self._modules:
            return None
        short = name.rpartition(":")[2]
        # Those that are not allowed too: their module must not come in by its name.
        if any((entry.kind, entry.name) == ("hooks", short) for entry in _installed(all_of_them=True)):
            return self.find("hooks", name)
        return None

    def command(self, name: str) -> Any:
        """The sub-command of that name: imports the plugin that offers it.

        Raises:
            UsageError: there is none.
            PluginError: it cannot be imported.
        """
        entry = self.find("command", name)
        module = self._import(entry)
        found: Any = module
        for attribute in filter(None, entry.module.partition(":")[2].split(".")):
            found = getattr(found, attribute, None)
        if found is None or found is module:
            raise PluginError(
                f"plugin {entry.distribution} {entry.version} announces the command {name} as {entry.module!r}, "
                "which is not there\nit should be module:attribute, of a click command"
            )
        return found

    def check_required(self, required: Any) -> None:
        """See that the distributions are there that a config says it needs.

        Args:
            required: versions by name, as `required_by` gives them; anything else says nothing.

        Raises:
            PluginError: one is missing; says how to get it.
        """
        there = {normal(entry.distribution) for entry in self.entries()}
        for name, version in required.items() if isinstance(required, dict) else ():
            name, version = str(name)[:100], str(version)[:100]
            if name.endswith(".py"):
                given = {Path(str(module.__file__)).name for module in self._modules.values() if _is_file(module)}
                if name not in given:
                    raise PluginError(
                        f"this needs the plugin file {name}, which is not given\ngive it with --plugin PATH/{name}",
                        "missing",
                    )
            elif normal(name) not in there:
                raise PluginError(
                    f"this needs {name} {version}, which is not installed or not allowed\n"
                    f"get it with: pip install {name}=={version}",
                    "missing",
                )

    def required_by(self, entries: Iterable[Entry]) -> dict[str, str]:
        """Versions of the distributions of these, for `check_required`; of plugin files, their names."""
        required = {}
        for entry in entries:
            if entry in self._given:
                module = self._modules[entry.module]
                if _is_file(module):
                    required[Path(str(module.__file__)).name] = "file"
            elif normal(entry.distribution) != OURS:
                required[entry.distribution] = entry.version
        return required

    def _import(self, entry: Entry) -> ModuleType:
        whose = f"{entry.distribution} {entry.version}"
        # SystemExit too: a plugin that exits on import must not end our command without a word.
        try:
            return importlib.import_module(entry.module.partition(":")[0])
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plugin {whose} cannot be imported: {_reason(error)}\n"
                f"it is needed for {entry.kind} {entry.name}; update or reinstall it",
                _fault(error),
            ) from error

    def _load(self, module: ModuleType, name: str, whose: str) -> dict[tuple[str, str], type[Component]]:
        manager = _manager()
        _check_interface(module, whose)
        _register(manager, module, whose)
        if not manager.hook.rlkit_register.get_hookimpls():
            raise PluginError(
                f"plugin {whose}: module {name} has no hook rlkit_register\n"
                "define `rlkit_register` there, decorated with `@rlkit_core.hookimpl`"
            )
        try:
            [parts] = manager.hook.rlkit_register() or [None]
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {whose}: rlkit_register raised {_reason(error)}", _fault(error)) from error
        if not isinstance(parts, (list, tuple)):
            raise PluginError(f"plugin {whose}: rlkit_register should return a list of config classes, not {parts!r}")
        offers: dict[tuple[str, str], type[Component]] = {}
        for part in parts:
            key = _checked(part, whose)
            if offers.setdefault(key, part) is not part:
                raise PluginError(
                    f"plugin {whose}: both {offers[key].__name__} and {part.__name__} are {' '.join(key)}"
                )
        self._offers[name] = offers
        return offers


def _installed(all_of_them: bool = False) -> Iterator[Entry]:
    """What installed distributions announce: those that are allowed, or all."""
    seen: set[str] = set()
    for distribution in announcing():
        try:
            points = [point for point in distribution.entry_points if point.group.startswith(GROUP)]
            about = distribution.metadata  # read anew each time
            name, version = about["Name"], about["Version"]
        except Exception:  # a distribution with broken metadata must not take the others along
            continue
        # The same one again, further down the path (an egg-info beside an editable install): Python finds the first.
        if not name or normal(name) in seen:
            continue
        seen.add(normal(name))
        if not (all_of_them or is_allowed(name)):
            continue
        for point in points:
            kind = point.group.removeprefix(GROUP)
            if kind in KINDS or kind in OTHERS:
                yield Entry(kind, point.name, name, version or "?", point.value)


_given_here: list[ModuleType] = []


@contextlib.contextmanager
def given_files(paths: Sequence[str]) -> Iterator[None]:
    """Inside, every registry knows the plugins in these files, as `--plugin FILE` asks for.

    Raises:
        UsageError: one is no Python file.
        PluginError: one cannot be imported.
    """
    added: list[ModuleType] = []
    try:
        for path in paths:
            added.append(load_file(path))
            _given_here.append(added[-1])
        yield
    finally:
        for module in added:
            _given_here.remove(module)
            sys.modules.pop(module.__name__, None)


def files_given() -> list[str]:
    """Paths of the plugin files that are known here."""
    return [str(module.__file__) for module in _given_here]


def load_file(path: str) -> ModuleType:
    """Import a plugin that is one file.

    Raises:
        UsageError: it is no Python file, or has the name of a module that is there already.
        PluginError: it cannot be imported.
    """
    file = Path(path)
    name = file.stem
    if file.suffix != ".py" or not file.is_file():
        raise UsageError(f"--plugin {path}: there is no such Python file\ngive the path of a file that ends in .py")
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        raise UsageError(f"--plugin {path}: {name} is no name for a plugin, or another module has it\nrename the file")
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise PluginError(f"plugin {path} cannot be imported: {_reason(error)}{place}", _fault(error)) from error
    return module


def _is_file(module: ModuleType) -> bool:
    return module in _given_here


def _check_interface(module: ModuleType, whose: str) -> None:
    from rlkit_core.hookspecs import INTERFACE

    made_for = getattr(module, "rlkit_interface", INTERFACE)
    if made_for != INTERFACE:
        raise PluginError(
            f"plugin {whose} is made for version {str(made_for)[:20]} of rlkit's interface, this one has {INTERFACE}\n"
            "install versions of both that go together",
            "interface",
        )


def _fault(error: BaseException) -> str:
    return "exit" if isinstance(error, SystemExit) else "import"


def _manager() -> pluggy.PluginManager:
    # One for each purpose: in a common one a plugin's run hooks would act because one of its parts is in use.
    import pluggy

    from rlkit_core import hookspecs

    manager = pluggy.PluginManager("rlkit")
    manager.add_hookspecs(hookspecs)
    return manager


def _register(manager: pluggy.PluginManager, module: ModuleType, whose: str) -> None:
    import pluggy

    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = ", ".join(f"{name}{inspect.signature(hook)}" for name, hook in _hooks().items())
        raise PluginError(
            f"plugin {whose} has a hook that rlkit does not know so: {_reason(error)}\nthe hooks: {known}", "hook"
        ) from error


def _hooks() -> dict[str, Any]:
    from rlkit_core import hookspecs

    return {name: hook for name, hook in vars(hookspecs).items() if name.startswith("rlkit_")}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _checked(part: Any, whose: str) -> tuple[str, str]:
    """Kind and name of a part that keeps the contract.

    Raises:
        PluginError: it does not; says how.
    """
    if not (inspect.isclass(part) and issubclass(part, Component)) or part.is_kind() or part is Component:
        raise PluginError(
            f"plugin {whose}: rlkit_register returned {part!r}, not a config class\n"
            f"return subclasses of {', '.join(kind.__name__ for kind in KINDS.values())}"
        )
    what = f"plugin {whose}: {part.__name__}"
    if not issubclass(part, KINDS.get(part.kind, ())):
        raise PluginError(f"{what} has kind {part.kind!r}, which is not its base class's\nleave `kind` as it is")
    name = getattr(part, "name", None)  # pydantic hides a class variable that became a field
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise PluginError(
            f"{what} has no name\ngive it `name: ClassVar[str] = ...`, what users type: letters, digits, _.-"
        )
    if not (part.__doc__ or "").strip():
        raise PluginError(f"{what} has no docstring\nits first line is the help that users see")
    if inspect.isabstract(part):
        raise PluginError(f"{what} does not define {', '.join(sorted(part.__abstractmethods__))}")
    slots = slots_of(part)
    for field, info in part.model_fields.items():
        if not info.description:
            raise PluginError(
                f"{what}.{field} has no description\ngive it Field(description=...): help and docs show it"
            )
        if issubclass(part, AlgorithmConfig) and field in _run_settings():
            raise PluginError(f"{what}.{field} would hide the run's own setting of that name\nrename it")
        if field not in slots and _holds_component(info.annotation):
            raise PluginError(
                f"{what}.{field} holds a component but is no slot\n"
                "type it with a kind's own class alone, such as EstimatorConfig"
            )
    return part.kind, part.name


def _holds_component(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, Component):
        return True
    return any(map(_holds_component, get_args(annotation)))


def _run_settings() -> set[str]:
    from rlkit_core.config import RunConfig

    return set(RunConfig.model_fields)


def import_modules(names: Sequence[str], *, from_here: bool) -> None:
    """Import modules that register environments with Gymnasium, as `--import` names them.

    Args:
        names: modules.
        from_here: whether modules in the working folder count. They do where the user names them; a stored run's
            record must not make files run that happen to lie here.

    Raises:
        UsageError: one cannot be imported.
    """
    if names and from_here and "" not in sys.path:
        sys.path.append("")
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = "" if from_here else f"\nif it is not installed, name it again: --import {name}"
            raise UsageError(f"cannot import {name}: {type(error).__name__}: {error}{hint}") from error
