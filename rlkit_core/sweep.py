"""Sweeps: algorithms × environments × settings × seeds from one file, as complete configs of runs.

A sweep's file is a config file in which `algorithm` and `env` may be lists, with three more keys:

    seeds = 5                                   # or "0-4,7"
    algorithm = ["a2c", { name = "ppo", learning_rate = 0.0003 }]
    env = ["CartPole-v1", "Acrobot-v1"]
    total_steps = 100_000                       # any setting of a run
    [vary]                                      # a run for each combination
    algorithm.learning_rate = [0.0007, 0.002]

An algorithm's table may have, beside its settings, `preset`, a `vary` of its own, and a `label`, which stands in the
names of its groups instead of what it says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlkit_core.config import Data, RunConfig, did_you_mean, read_config_file
from rlkit_core.errors import ConfigError, UsageError
from rlkit_core.presets import configure
from rlkit_core.registry import Registry

OWN_KEYS = ("name", "seeds", "preset", "vary")
MOST_RUNS = 10_000
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class SweptRun:
    """Settings that a sweep has for a number of seeds.

    Attributes:
        config: complete settings, with the first seed.
        preset: name of the preset that is in them.
        variant: what tells them from the other algorithms and settings of the sweep.
        seeds: a run for each.
    """

    config: RunConfig
    preset: str | None
    variant: str
    seeds: tuple[int, ...]

    def configs(self) -> Iterator[RunConfig]:
        """The settings with each seed."""
        for seed in self.seeds:
            yield self.config.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file asks for.

    Attributes:
        name: of the group of all its runs.
        parts: settings, each with its seeds.
    """

    name: str
    parts: tuple[SweptRun, ...]


@dataclass
class _Algorithm:
    """An entry of `algorithm`."""

    where: str
    name: Any
    settings: Data = field(default_factory=dict)
    preset: str | None = None
    label: str | None = None
    vary: list[tuple[Path_, list[Any]]] = field(default_factory=list)


def read_sweep(
    path: Path,
    registry: Registry,
    parse_seeds: Callable[[str], Sequence[int]],
    *,
    name: str | None = None,
    imports: Sequence[str] = (),
) -> Sweep:
    """Read a sweep's file.

    Args:
        path: the file.
        registry: where parts are looked up.
        parse_seeds: understands the text of `seeds`, or raises ValueError.
        name: of the group; default: the one in the file, else the file's own without its ending.
        imports: modules that all runs import besides those that the file names.

    Raises:
        UsageError: everything that is wrong, each with the file and its key.
    """
    data = read_config_file(path)
    registry.check_required(data.pop("requires", None))
    return _Reader(path, data, registry, parse_seeds, imports).read(name)


class _Reader:
    def __init__(
        self,
        path: Path,
        data: Data,
        registry: Registry,
        parse_seeds: Callable[[str], Sequence[int]],
        imports: Sequence[str],
    ) -> None:
        self._imports = imports
        self._path = path
        self._data = data
        self._registry = registry
        self._parse_seeds = parse_seeds
        self._problems: dict[str, None] = {}

    def _wrong(self, key: str, message: str) -> None:
        self._problems[f"{self._path}: {key}: {message}"] = None

    def read(self, name: str | None) -> Sweep:
        name = name or self._name()
        for key in self._data:
            if key in ("seed", "group"):
                other = {"seed": "seeds", "group": "name"}[key]
                self._wrong(key, f"is {other} in a sweep")
            elif key not in (*OWN_KEYS, *RunConfig.model_fields):
                self._wrong(str(key)[:100], f"there is no such setting{did_you_mean(str(key), self._keys())}")
        seeds = self._seeds()
        algorithms, environments = self._algorithms(), self._environments()
        vary = self._vary(self._data.get("vary"), "vary")
        preset = self._text("preset", self._data.get("preset"))
        several = len({json.dumps(one.name) for one in algorithms}) < len(algorithms)
        parts: list[SweptRun] = []
        sides: dict[tuple[str, str], str] = {}
        number = 0
        for algorithm in algorithms:
            chosen = [(path, value, "vary") for path, value in vary]
            chosen += [(path, value, f"{algorithm.where}.vary") for path, value in algorithm.vary]
            for values in itertools.product(*(value for _, value, _ in chosen)):
                varied = [(path, value, where) for (path, _, where), value in zip(chosen, values, strict=True)]
                variant = _variant(algorithm, varied, several)
                for environment in environments:
                    number += len(seeds)
                    if number > MOST_RUNS:
                        self._wrong("seeds", f"would be more than {MOST_RUNS:,} runs with all that is varied")
                        raise self._error()
                    run = self._run(f"{name}/{variant}", algorithm, environment, varied, preset, seeds)
                    if run is None:
                        continue
                    config, used = run
                    side = variant, config.env.id
                    if side in sides:
                        self._wrong(algorithm.where, f"{variant} in {config.env.id} is there twice; give one a label")
                    sides[side] = algorithm.where
                    parts.append(SweptRun(config, used, variant, tuple(seeds)))
        if self._problems:
            raise self._error()
        return Sweep(name, tuple(parts))

    def _error(self) -> UsageError:
        lines = list(self._problems)
        most = 20
        return UsageError("\n".join([*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]))

    def _keys(self) -> list[str]:
        return [*OWN_KEYS, *(field for field in RunConfig.model_fields if field not in ("seed", "group"))]

    def _name(self) -> str:
        return self._text("name", self._data.get("name")) or self._path.stem

    def _text(self, key: str, value: Any) -> str | None:
        if value is not None and not (isinstance(value, str) and value.strip("/ ")):
            self._wrong(key, f"should be a name, not {_brief(value)}")
            return None
        return value

    def _seeds(self) -> Sequence[int]:
        given = self._data.get("seeds")
        if given is None:
            self._wrong("seeds", 'is missing: how many runs each gets, such as 5, or which seeds, such as "0-4,7"')
            return [0]
        if isinstance(given, list) and all(type(seed) is int for seed in given):
            given = ",".join(map(str, given)) + ("," if len(given) == 1 else "")
            given = given if not given.endswith(",") else f"{given[:-1]}-{given[:-1]}"
        if type(given) is int:
            given = str(given)
        try:
            if not isinstance(given, str):
                raise ValueError(f'should be a number, or a list such as "0-4,7", not {_brief(given)}')
            return self._parse_seeds(given)
        except ValueError as error:
            self._wrong("seeds", str(error))
            return [0]

    def _algorithms(self) -> list[_Algorithm]:
        given = self._data.get("algorithm")
        if given is None or given == []:
            self._wrong("algorithm", "is missing: a name, or a list of them")
            return []
        several = isinstance(given, list)
        found = []
        for i, one in enumerate(given if several else [given]):
            where = f"algorithm[{i}]" if several else "algorithm"
            name = one.get("name") if isinstance(one, Mapping) else one
            if isinstance(name, str) and not self._is_algorithm(name, where):
                continue
            if isinstance(one, str):
                found.append(_Algorithm(where, one))
            elif not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
                self._wrong(where, f"should be an algorithm's name, or a table with its name, not {_brief(one)}")
            else:
                rest = {key: value for key, value in one.items() if key not in ("name", "preset", "label", "vary")}
                preset = self._text(f"{where}.preset", one.get("preset"))
                label = self._text(f"{where}.label", one.get("label"))
                vary = self._vary(one.get("vary"), f"{where}.vary")
                vary = [(("algorithm", *path), values) for path, values in vary]
                found.append(_Algorithm(where, one["name"], rest, preset, label, vary))
        return found

    def _is_algorithm(self, name: str, where: str) -> bool:
        try:
            self._registry.get("algorithm", name)
        except UsageError as error:
            self._wrong(where, str(error).replace("\n", "; "))
            return False
        return True

    def _environments(self) -> list[tuple[str, Any]]:
        given = self._data.get("env")
        if given is None or given == []:
            self._wrong("env", "is missing: an environment's id, or a list of them")
            return []
        return [(f"env[{i}]", one) for i, one in enumerate(given)] if isinstance(given, list) else [("env", given)]

    def _vary(self, given: Any, where: str) -> list[tuple[Path_, list[Any]]]:
        """What is varied: each setting's path, and its values."""
        found: list[tuple[Path_, list[Any]]] = []

        def visit(value: Any, path: Path_) -> None:
            at = ".".join([where, *path])
            if isinstance(value, Mapping) and len(path) < 20:
                for key, part in value.items():
                    visit(part, (*path, *str(key).split(".")))  # YAML and JSON have no dotted keys
            elif not isinstance(value, list) or not value:
                self._wrong(at, f"should be a list of values, not {_brief(value)}")
            elif path[0] in ("seed", "group", *OWN_KEYS) and not where.startswith("algorithm"):
                self._wrong(at, "cannot be varied here; seeds says which seeds there are")
            else:
                found.append((path, value))

        if given is not None:
            visit(given, ())
        return found

    def _run(
        self, group: str, algorithm: _Algorithm, environment: tuple[str, Any],
        varied: Sequence[tuple[Path_, Any, str]], preset: str | None, seeds: Sequence[int],
    ) -> tuple[RunConfig, str | None] | None:  # fmt: skip
        """Settings of a combination, and its preset; None where something is wrong with them, which is noted."""
        where, env = environment
        run = {key: value for key, value in self._data.items() if key in RunConfig.model_fields}
        run = {key: value for key, value in run.items() if key not in ("algorithm", "env", "seed", "group")}
        if self._imports:
            listed = run.get("imports", [])
            known = listed if isinstance(listed, list) else []
            run["imports"] = [*known, *(module for module in self._imports if module not in known)]
        layers: list[Data] = [
            {"stop_at": "never", "algorithm": {"name": algorithm.name}},
            run,
            {"algorithm": algorithm.settings, "env": env},
        ]
        layers += [_nested(path, value) for path, value, _ in varied]
        layers.append({"group": group, "seed": seeds[0]})
        try:
            return configure(layers, self._registry, algorithm.preset or preset)
        except ConfigError as error:
            for path, message in error.problems:
                self._wrong(self._key(path, algorithm, where, varied), message.replace("\n", "; "))
        except UsageError as error:
            key = f"{algorithm.where}.preset" if algorithm.preset else "preset" if preset else algorithm.where
            self._wrong(key, str(error).replace("\n", "; "))
        return None

    def _key(self, path: Path_, algorithm: _Algorithm, env: str, varied: Sequence[tuple[Path_, Any, str]]) -> str:
        """The file's key for a setting."""
        for at, _, where in varied:
            if path[: len(at)] == at:
                own = at[1:] if where.startswith("algorithm") else at
                return ".".join([where, *own])
        if path[:1] == ("env",):
            return ".".join([env, *path[1:]])
        if path[:1] == ("algorithm",):
            return ".".join([algorithm.where, *path[1:]])
        return ".".join(path) or algorithm.where


def _nested(path: Path_, value: Any) -> Data:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def _variant(algorithm: _Algorithm, varied: Sequence[tuple[Path_, Any, str]], several: bool) -> str:
    """What tells a combination from the others: the algorithm, and what is varied."""
    parts = [algorithm.label or algorithm.name]
    settings: list[tuple[Path_, Any]] = []
    if several and algorithm.label is None:
        settings += [(("algorithm", key), value) for key, value in algorithm.settings.items()]
    settings += [(path, value) for path, value, _ in varied]
    last = [path[-1] for path, _ in settings]
    for path, value in settings:
        key = path[-1] if last.count(path[-1]) == 1 else ".".join(path)
        parts.append(f"{key}={_short(value)}")
    return " ".join(parts).replace("/", "-")


def _short(value: Any) -> str:
    """A value in a name."""
    if isinstance(value, Mapping):
        name = value.get("name")
        rest = ",".join(f"{key}={_short(part)}" for key, part in value.items() if key != "name")
        return ",".join(filter(None, [str(name) if name is not None else "", rest]))
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"
