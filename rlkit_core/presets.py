"""Presets: named settings that a plugin ships in `presets.toml` beside its module.

[notebook]
description = "what it is for, in a line"
environments = ["CartPole-v1"]      # chosen without being named for these
run = { total_steps = 1000000 }     # settings of the run
algorithm = { learning_rate = 0.001, collector = { num_envs = 16 } }
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlkit_core.component import AlgorithmConfig, full_name
from rlkit_core.config import Data, Draft, RunConfig, did_you_mean
from rlkit_core.errors import ConfigError, PluginError, UsageError
from rlkit_core.registry import Entry, Registry


class Preset(BaseModel):
    """One named set of settings, a layer under the user's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    environments: tuple[str, ...] = ()
    run: dict[str, Any] = {}
    algorithm: dict[str, Any] = {}

    def layer(self) -> Data:
        """As a layer for `RunConfig.parse`."""
        return {**self.run, **({"algorithm": self.algorithm} if self.algorithm else {})}


def presets(algorithm: type[AlgorithmConfig]) -> dict[str, Preset]:
    """The presets that come with an algorithm, by name; none if its package ships no `presets.toml`.

    Raises:
        PluginError: the file is wrong.
    """
    source = getattr(sys.modules.get(algorithm.__module__), "__file__", None)
    path = Path(source).with_name("presets.toml") if source else None
    return {} if path is None or not path.is_file() else _read(path)


def _read(path: Path) -> dict[str, Preset]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Preset.model_validate(table) for name, table in tables.items()}
    except (OSError, ValueError, RecursionError) as error:  # pydantic's is a ValueError
        raise PluginError(f"{path} is wrong: {' '.join(str(error).split())[:500]}") from error


def offered_presets(
    algorithm: type[AlgorithmConfig], registry: Registry, *, leave_out_broken: bool = True
) -> dict[str, Preset]:
    """Presets that others than its own package offer for an algorithm, by `distribution:name`.

    They are announced in the group `rlkit.presets`, by the algorithm's name and a module, in whose folder there is a
    `presets.toml`. The module is not imported. None of them is chosen unless it is named.

    Args:
        algorithm: for which.
        registry: where they are announced.
        leave_out_broken: a file that is wrong must harm nobody who does not ask for what is in it.

    Raises:
        PluginError: a file is wrong, and not left out.
    """
    found: dict[str, Preset] = {}
    for entry in registry.entries("presets"):
        if entry.name in (algorithm.name, full_name(algorithm)):
            try:
                offered = _offered_by(entry)
            except PluginError:
                if not leave_out_broken:
                    raise
                continue
            found |= {f"{entry.distribution}:{name}": preset for name, preset in offered.items()}
    return found


def _offered_by(entry: Entry) -> dict[str, Preset]:
    whose = f"plugin {entry.distribution} {entry.version}"
    top, *rest = entry.module.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a module within a package it would import the package
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise PluginError(
            f"{whose} announces presets in {entry.module}, which is not there\nupdate or reinstall it", "import"
        )
    folder = Path(spec.origin).parent.joinpath(*rest)
    try:
        return _read((folder if folder.is_dir() else folder.parent) / "presets.toml")
    except PluginError as error:
        raise PluginError(f"{whose}: {error}") from error


def choose_preset(
    algorithm: type[AlgorithmConfig], env_id: str | None, named: str | None, registry: Registry
) -> tuple[str | None, Data]:
    """Name and layer of the preset to use.

    Args:
        algorithm: whose presets.
        env_id: environment of the run.
        named: what the user asked for: a preset's name, `none`, or None for the one made for this environment.
        registry: where presets of others are looked up.

    Raises:
        UsageError: there is no preset of that name.
        PluginError: two distributions offer it, or a file is wrong.
    """
    if named == "none":
        return None, {}
    available = presets(algorithm)
    if named is not None:
        if named not in available:
            others = offered_presets(algorithm, registry)
            fitting = [full for full in others if named in (full, full.rpartition(":")[2])]
            if len(fitting) > 1:
                raise PluginError(
                    f"preset {named} of {algorithm.name} is offered by several plugins\n"
                    f"name it in full: {' or '.join(fitting)}",
                    "name",
                )
            if fitting:
                return fitting[0], others[fitting[0]].layer()
            offered_presets(algorithm, registry, leave_out_broken=False)  # it may be in one of these
            available = {**available, **others}
            has = f"it has: {', '.join(available)}" if available else "it has no presets at all"
            raise UsageError(f"{algorithm.name} has no preset {named}{did_you_mean(named, list(available))}\n{has}")
        return named, available[named].layer()
    for name, preset in available.items():
        if env_id in preset.environments:
            return name, preset.layer()
    return None, {}


def configure(
    layers: Sequence[Mapping[str, Any]], registry: Registry, preset: str | None
) -> tuple[RunConfig, str | None]:
    """Put layers of settings together, with a preset below them.

    Returns:
        the config, and the name of the preset that is in it.

    Raises:
        ConfigError, UsageError, PluginError: they do not fit.
    """
    # Which preset it is must be known before anything is judged: a setting may be right only together with it.
    draft = Draft(RunConfig, registry)
    for layer in layers:
        draft.apply(layer, (), [])
    algorithm, env = draft.slots.get("algorithm"), draft.slots.get("env")
    name: str | None = None
    below: Data = {}
    if any(isinstance(layer.get("algorithm"), AlgorithmConfig) for layer in layers):
        # An instance says all there is to say about the algorithm: nothing is left for a preset to set.
        if preset not in (None, "none"):
            raise UsageError(f"preset {preset} needs the algorithm's name, not an instance that has all its settings")
    elif algorithm is not None and issubclass(algorithm.cls, AlgorithmConfig):
        env_id = env.fields.get("id") if env is not None else None
        name, below = choose_preset(algorithm.cls, env_id, preset, registry)
    if not below:
        return RunConfig.parse(*layers, registry=registry), name
    # The algorithm is named below its preset's settings, which belong to it whatever layer names it.
    assert algorithm is not None
    assert issubclass(algorithm.cls, AlgorithmConfig)
    named = {"algorithm": {"name": full_name(algorithm.cls)}}
    config = RunConfig.parse(named, below, *layers, registry=registry)
    if preset is None:
        # Settings that are complete, those of an earlier run say, leave a preset nothing to set: it is not in them.
        with contextlib.suppress(ConfigError):
            if RunConfig.parse(*layers, registry=registry) == config:
                name = None
    return config, name
