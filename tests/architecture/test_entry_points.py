"""The folders under plugins/ and the entry points agree: a new folder needs a line in pyproject.toml and an install."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rlkit_core.component import KINDS
from rlkit_core.registry import Registry

ROOT = Path(__file__).parents[2]
GROUP = "rlkit."


def announced() -> set[tuple[str, str, str]]:
    """(kind, name, module) of every part in pyproject.toml."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    return {
        (group.removeprefix(GROUP), name, module)
        for group, points in groups.items()
        if group.startswith(GROUP)
        for name, module in points.items()
    }


def ours() -> set[tuple[str, str, str]]:
    """(kind, name, module) of every part of this distribution that is installed."""
    return {(e.kind, e.name, e.module) for e in Registry().entries() if e.distribution == "rlkit-core"}


def test_every_plugin_folder_is_announced_and_the_other_way_round() -> None:
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    modules = {module for _, _, module in announced()}
    assert modules == folders | {"rlkit_core.builtin"}


def test_folders_are_named_after_the_project() -> None:
    for path in (ROOT / "plugins").iterdir():
        assert path.name.startswith(("rlkit_", "__pycache__")), path
        if path.name.startswith("rlkit_"):
            assert (path / "__init__.py").is_file()
            assert (path / "config.py").is_file()


def test_what_is_announced_is_installed() -> None:
    known = {point for point in announced() if point[0] in KINDS}
    assert ours() == known, "install again: pip install -e ."


@pytest.mark.parametrize(("kind", "name", "module"), sorted(p for p in announced() if p[0] in KINDS))
def test_every_announced_part_is_offered(kind: str, name: str, module: str) -> None:
    component = Registry().get(kind, f"rlkit-core:{name}")
    assert (component.kind, component.name) == (kind, name)


@pytest.mark.parametrize("module", sorted({module for _, _, module in announced()}))
def test_every_offered_part_is_announced(module: str) -> None:
    """A part that a plugin returns but nobody announces could never be named."""
    import importlib

    offered = {(part.kind, part.name, module) for part in importlib.import_module(module).rlkit_register()}
    assert offered <= announced()
