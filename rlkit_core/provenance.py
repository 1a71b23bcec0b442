"""Provenance: what a run was made with, so that its record says what it takes to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit_core.component import slots_of
from rlkit_core.config import RunConfig
from rlkit_core.registry import Entry, Registry

VERSIONS_OF = (
    *("rlkit-core", "torch", "gymnasium", "numpy", "pydantic", "pluggy", "mlflow", "safetensors"),
    *("mujoco", "box2d", "ale-py"),  # what Gymnasium's environments compute with
)


def provenance(config: RunConfig, registry: Registry, *, run_name: str, preset: str | None) -> dict[str, Any]:
    """Everything about a run that its settings do not say, as plain JSON values."""
    return {
        "run_id": uuid.uuid4().hex,
        "run_name": run_name,
        "preset": preset,
        "started": time.time_ns() // 1_000_000,
        "command": command_line(sys.argv),
        "cwd": os.getcwd(),
        "seed": config.seed,
        "threads": config.threads,
        "versions": {**_versions(), "python": platform.python_version()},
        "plugins": [_plugin(entry) for entry in _entries(config, registry, preset)],
        "core_files_sha256": hash_of_module("rlkit_core"),
        "modules": {
            name: hash_of_module(name)
            for name in (*config.imports, *(name for name in config.hooks if registry.hooks_entry(name) is None))
        },
        "git": _git(),
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            **_processor(),
        },
    }


def stored_config(config: RunConfig, registry: Registry, preset: str | None = None) -> dict[str, Any]:
    """All settings as plain JSON values, with the distributions that they need besides rlkit's own."""
    required = registry.required_by(_entries(config, registry, preset))
    return {**config.dump(), **({"requires": required} if required else {})}


def command_line(arguments: Sequence[str]) -> str:
    """A command as one would type it, but for what looks like a secret."""
    shown: list[str] = []
    for argument in arguments:
        # `--token VALUE`, `token=VALUE` and `scheme://user:password@host`
        if shown and re.fullmatch(rf"--[\w.-]*{_SECRET}", shown[-1]):
            argument = "***"
        argument = re.sub(rf"({_SECRET}[\"']?[=:]\s*)[^\s&,]+", r"\1***", argument)
        shown.append(re.sub(r"://[^/\s]*@", "://***@", argument))
    return shlex.join(shown).replace("'***'", "***")


_SECRET = "(?i:password|passwd|secret|token|credentials|api[_-]?key)"


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _entries(config: RunConfig, registry: Registry, preset: str | None) -> list[Entry]:
    """What is registered of what the run is made of, one per plugin module."""
    used: dict[str, Entry] = {}

    def visit(model: Any) -> None:
        for slot in slots_of(type(model)):
            component = getattr(model, slot)
            entry = registry.entry_of(type(component))
            if entry is not None:
                used.setdefault(entry.module, entry)
            visit(component)

    visit(config)
    for entry in map(registry.hooks_entry, config.hooks):
        if entry is not None:
            used.setdefault(entry.module, entry)
    if isinstance(preset, str) and ":" in preset:  # somebody else's than the algorithm's
        for entry in registry.entries("presets"):
            if entry.distribution == preset.partition(":")[0]:
                used.setdefault(entry.module, entry)
    return list(used.values())


def _plugin(entry: Entry) -> dict[str, Any]:
    return {
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "files_sha256": hash_of_module(entry.module),
    }


def hash_of_module(module: str) -> str | None:
    """Hash over the module's Python files (of its package, if it is one), names included."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.relative_to(origin.parent).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest()


def _processor() -> dict[str, str]:
    """Model of the processor, and those of its instructions that decide how sums are made."""
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {"model": platform.processor()}
    fields: dict[str, str] = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    known = set(fields.get("flags", fields.get("Features", "")).split())
    wide = sorted(
        known & {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "sve2"}
    )
    return {"model": fields.get("model name", ""), "instructions": " ".join(wide)}


def _git() -> dict[str, Any] | None:
    """Commit of the working folder and whether a tracked file differs, or None outside a repository or without git.

    Files that git does not know say nothing: every run leaves some.
    """

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
