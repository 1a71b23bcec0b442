"""Writes the first files of a plugin: a package with one part, its tests and its metadata, which work as written.

The templates lie beside this file, a folder for each kind of part, and one for what all have in common. They are the
files themselves: what is replaced are the names `my-part`, `my_part`, `MyPart` and `some-kind`. That they end in
`.txt` keeps them from counting as modules of rlkit.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path

from rlkit_core.errors import StorageError, UsageError
from rlkit_core.registry import Registry

KINDS = ("algorithm", "estimator", "network", "collector", "environment", "tracker")
"""The kinds of parts that there are templates for."""
_TEMPLATES = Path(__file__).parent
_RUNS = {
    "algorithm": "rlkit run {name} --env CartPole-v1",
    "environment": "rlkit run a2c --env.name {name} --env {name}",
    "tracker": "rlkit run a2c --env CartPole-v1 --tracker {name}",
}
"""How a part is run, where it is not `--kind name` of an algorithm."""


def write_package(name: str, kind: str, folder: Path, registry: Registry) -> list[Path]:
    """Write a package with one part.

    Args:
        name: of the distribution, of its folder and of the part: lower-case words, joined by hyphens.
        kind: one of `KINDS`.
        folder: where the package's folder is made.
        registry: knows which names are taken.

    Returns:
        the files, in the order to read them in.

    Raises:
        UsageError: the name cannot be one, or is taken, or the folder exists.
        StorageError: it cannot be written.
    """
    check_name(name, kind, registry)
    root = folder / name
    if root.exists() or root.is_symlink():
        raise UsageError(f"{root} exists already\ntake another name, or another --dir")
    module = name.replace("-", "_")
    targets = [
        *(("common", file, file) for file in ("pyproject.toml", "README.md", ".gitignore")),
        *((kind, file, f"{module}/{file}") for file in ("__init__.py", "config.py")),
        (kind, "my_part.py", f"{module}/{module}.py"),
        ("common", "py.typed", f"{module}/py.typed"),
        (kind, "test_my_part.py", f"tests/test_{module}.py"),
    ]
    files = []
    try:
        for place, template, target in targets:
            text = (_TEMPLATES / place / f"{template}.txt").read_text(encoding="utf-8")
            path = root / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(filled(text, name, kind), encoding="utf-8")
            files.append(path)
    except OSError as error:
        raise StorageError(f"cannot write {root}: {error.strerror or error}") from error
    return files


def check_name(name: str, kind: str, registry: Registry) -> None:
    """Refuse names that no package or part could have.

    Raises:
        UsageError: says why.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        raise UsageError(
            f"{name[:100]!r} cannot be a plugin's name\n"
            "take lower-case words joined by hyphens, beginning with a letter, such as my-algo"
        )
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("test", "tests"):
        raise UsageError(f"{name} cannot be a plugin's name: Python has it\ntake another one, such as my-{name}")
    if name in registry.names(kind):
        whose = registry.find(kind, name)
        raise UsageError(f"{kind} {name} is there already, from {whose.distribution}\ntake another name")
    if importlib.util.find_spec(module) is not None:
        raise UsageError(f"{name} cannot be a plugin's name: a module {module} is installed\ntake another one")


def filled(text: str, name: str, kind: str) -> str:
    """A template with the names in it."""
    replaced = {
        "my-part": name,
        "my_part": name.replace("-", "_"),
        "MyPart": "".join(word.capitalize() for word in name.split("-")),
        "some-command": run_command(name, kind),
        "some-kind": kind,
    }
    return re.sub("|".join(replaced), lambda match: replaced[match[0]], text)


def run_command(name: str, kind: str) -> str:
    """The command that runs the part, once it is installed."""
    return _RUNS.get(kind, "rlkit run a2c --env CartPole-v1 --{kind} {name}").format(name=name, kind=kind)
