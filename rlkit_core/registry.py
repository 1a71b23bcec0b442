"""The registry: which parts are installed, from entry-point metadata alone, and the import of the one that is named.

Nothing of a plugin is imported until a part of it is named, so a broken plugin harms nobody who does not use it.
(pluggy's own `load_setuptools_entrypoints` imports everything, is aborted by one broken import, and silently drops a
second plugin of the same name.)
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlkit_core.component import KINDS, AlgorithmConfig, Component
from rlkit_core.errors import PluginError, UsageError

if TYPE_CHECKING:
    import pluggy

GROUP = "rlkit."


@dataclass(frozen=True, order=True)
class Entry:
    """One registered part: what its distribution announces about it.

    Attributes:
        kind: algorithm, estimator, …
        name: what users type.
        distribution: the package that offers it; for a module given from Python, the module's name.
        version: of the distribution.
        module: the plugin module.
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
        self._manager: pluggy.PluginManager | None = None
        self._offers: dict[str, dict[tuple[str, str], type[Component]]] = {}
        self._entries: list[Entry] | None = None
        self._given: list[Entry] = []
        for plugin in plugins:
            name = plugin.__name__
            for kind, part in self._load(plugin, name, name):
                self._given.append(Entry(kind, part, name, getattr(plugin, "__version__", "?"), name))

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All registered parts (of a kind), sorted; reads metadata only."""
        if self._entries is None:
            found = set()
            for distribution in importlib.metadata.distributions():
                for point in distribution.entry_points:
                    if point.group.startswith(GROUP) and point.group[len(GROUP) :] in KINDS:
                        found.add(
                            Entry(
                                point.group[len(GROUP) :],
                                point.name,
                                distribution.metadata["Name"],
                                distribution.version,
                                point.value,
                            )
                        )
            self._entries = sorted(found)
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
        matches = [
            entry
            for entry in self.entries(kind)
            if entry.name == short and (not distribution or _normal(entry.distribution) == _normal(distribution))
        ]
        given = [entry for entry in matches if entry in self._given]
        matches = given or matches
        if not matches:
            names = self.names(kind)
            close = get_close_matches(short, names, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"there is no {kind} named {name}\n{hint}registered: {', '.join(names) or 'none'}")
        if len({entry.distribution for entry in matches}) > 1:
            full = [f"{entry.distribution}:{entry.name}" for entry in matches]
            raise PluginError(
                f"{kind} {short} is offered by {' and '.join(entry.distribution for entry in matches)}\n"
                f"name it in full: {' or '.join(full)}"
            )
        return matches[0]

    def get(self, kind: str, name: str) -> type[Component]:
        """The config class of that name; imports the plugin that offers it, and no other.

        Raises:
            UsageError: there is none.
            PluginError: the plugin cannot be imported, or does not offer what it announces.
        """
        entry = self.find(kind, name)
        offers = self._offers.get(entry.module)
        if offers is None:
            # SystemExit too: a plugin that exits on import must not end our command without a word.
            try:
                module = importlib.import_module(entry.module)
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"plugin {entry.distribution} {entry.version} cannot be imported: "
                    f"{type(error).__name__}: {error}\n"
                    f"it is needed for {kind} {entry.name}; update or reinstall it"
                ) from error
            offers = self._load(module, entry.module, f"{entry.distribution} {entry.version}")
        component = offers.get((kind, entry.name))
        if component is None:
            raise PluginError(
                f"plugin {entry.distribution} {entry.version} announces {kind} {entry.name} "
                f"but its rlkit_register does not return it\nit returns: "
                f"{', '.join(f'{k} {n}' for k, n in sorted(offers)) or 'nothing'}"
            )
        return component

    def manager(self) -> pluggy.PluginManager:
        """The plugin manager with everything that has been loaded so far."""
        if self._manager is None:
            import pluggy

            from rlkit_core import hookspecs

            self._manager = pluggy.PluginManager("rlkit")
            self._manager.add_hookspecs(hookspecs)
        return self._manager

    def hooks(self, names: Sequence[str]) -> Any:
        """Hook caller in which only the plugin modules of that names act."""
        manager = self.manager()
        for name in names:
            if not manager.has_plugin(name):
                try:
                    module = importlib.import_module(name)
                except (Exception, SystemExit) as error:
                    raise PluginError(f"hooks {name} cannot be imported: {type(error).__name__}: {error}") from error
                self._register(module, name, name)
        return _Hooks(manager, set(names))

    def _register(self, module: ModuleType, name: str, whose: str) -> None:
        import pluggy

        manager = self.manager()
        if manager.has_plugin(name):
            return
        manager.register(module, name=name)
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            manager.unregister(module)
            raise PluginError(f"plugin {whose} implements an unknown hook: {error}") from error

    def _load(self, module: ModuleType, name: str, whose: str) -> dict[tuple[str, str], type[Component]]:
        self._register(module, name, whose)
        try:
            answers = _Hooks(self.manager(), {name}).rlkit_register()
        except Exception as error:
            raise PluginError(f"plugin {whose}: rlkit_register raised {type(error).__name__}: {error}") from error
        offers: dict[tuple[str, str], type[Component]] = {}
        for part in [part for answer in answers for part in answer]:
            offers[_checked(part, whose)] = part
        self._offers[name] = offers
        return offers


class _Hooks:
    """Calls hooks of some registered plugins only."""

    def __init__(self, manager: pluggy.PluginManager, names: set[str]) -> None:
        self._manager = manager
        self._others = [plugin for name, plugin in manager.list_name_plugin() if name not in names and plugin]

    def __getattr__(self, hook: str) -> Any:
        return self._manager.subset_hook_caller(hook, self._others)


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


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
    if not part.name:
        raise PluginError(f"{what} has no name\ngive it `name: ClassVar[str] = ...`, what users type")
    if not (part.__doc__ or "").strip():
        raise PluginError(f"{what} has no docstring\nits first line is the help that users see")
    for field, info in part.model_fields.items():
        if not info.description:
            raise PluginError(f"{what}.{field} has no description\ngive it Field(description=...): help and docs show it")
        if issubclass(part, AlgorithmConfig) and field in _run_settings():
            raise PluginError(f"{what}.{field} would hide the run's own setting of that name\nrename it")
    return part.kind, part.name


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
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = "" if from_here else f"\nif it is not installed, name it again: --import {name}"
            raise UsageError(f"cannot import {name}: {type(error).__name__}: {error}{hint}") from error
