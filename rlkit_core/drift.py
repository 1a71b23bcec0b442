"""Drift: what is other now than when a run was made, and whether that changes what it computes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

COMPUTES_NOTHING = (
    *("stop_at", "eval_every", "eval_episodes", "eval_max_steps", "log_every", "episode_log_every"),
    *("checkpoint_every", "keep_checkpoints", "tracker", "group", "hooks"),
)
"""Settings that change no bit of training: when to look at it, when to stop, where to send it."""
MADE_WITH = ("versions", "plugins", "core_files_sha256", "modules", "machine")
"""What of a run's provenance it is compared by."""
PACKAGES_BESIDE = ("mlflow", "pluggy", "pydantic", "safetensors")
"""Packages that take no part in what is computed."""


class Difference(NamedTuple):
    """Something that is other than it was."""

    what: str
    then: str
    now: str
    changes_results: bool


def made_with(config: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is compared by: from its settings and its provenance, as plain JSON values."""
    return {"config": dict(config), **{key: about.get(key) for key in MADE_WITH}}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """All differences between two `made_with`, those first that change results."""
    found = [*_settings(then, now), *_versions(then, now), *_code(then, now), *_machine(then, now)]
    return sorted(found, key=lambda difference: not difference.changes_results)


def _settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = dict(_flat(then.get("config"))), dict(_flat(now.get("config")))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            matters = name.partition(".")[0] not in COMPUTES_NOTHING
            yield Difference(f"setting {name}", _text(before.get(name)), _text(after.get(name)), matters)


def _versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = _dict(then.get("versions")), _dict(now.get("versions"))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Difference(name, _text(before.get(name)), _text(after.get(name)), name not in PACKAGES_BESIDE)


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    if then.get("core_files_sha256") != now.get("core_files_sha256"):
        yield Difference("files of rlkit_core", *_hashes(then.get("core_files_sha256"), now.get("core_files_sha256")))
    before, after = (
        {plugin["module"]: plugin for plugin in made.get("plugins") or [] if isinstance(plugin, dict)}
        for made in (then, now)
    )
    for module in sorted(before.keys() | after.keys()):
        old, new = before.get(module, {}), after.get(module, {})
        one, other = (f"{plugin.get('distribution')} {plugin.get('version')}" for plugin in (old, new))
        if one != other:
            yield Difference(f"plugin {module}", one, other, True)
        if old.get("files_sha256") != new.get("files_sha256"):
            hashes = _hashes(old.get("files_sha256"), new.get("files_sha256"))
            yield Difference(f"files of plugin {module}", *hashes)
    modules = _dict(then.get("modules")), _dict(now.get("modules"))
    for module in sorted(modules[0].keys() | modules[1].keys()):
        if modules[0].get(module) != modules[1].get(module):
            yield Difference(f"files of module {module}", *_hashes(modules[0].get(module), modules[1].get(module)))


def _machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = _dict(then.get("machine")), _dict(now.get("machine"))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            # Which instructions there are decides in which order a sum is made; the rest does not.
            matters = name in ("processor", "instructions")
            yield Difference(f"machine: {name}", _text(before.get(name)), _text(after.get(name)), matters)


def _hashes(then: Any, now: Any) -> tuple[str, str, bool]:
    return _text(then)[:12], _text(now)[:12], True


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Plain data as `(dotted name, value)`; a list is a value."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
