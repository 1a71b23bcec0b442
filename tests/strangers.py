"""Distributions of strangers, as an installation would leave them: a module and its metadata in a folder on the path.

`HOSTILE` are nine that do harm when they are imported, each in its own way, and `THIEF`, which takes a name of ours.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

ALGORITHM = """
from typing import ClassVar
from pydantic import Field
from rlkit_core import hookimpl
from rlkit_a2c.config import A2CConfig

class Config(A2CConfig):
    "A2C under another name."
    name: ClassVar[str] = "{name}"

@hookimpl
def rlkit_register():
    return [Config]
"""
"""A plugin module with an algorithm, to be formatted with its name."""

HARM = {
    "hostile-raises": ("import", "raise RuntimeError('no luck')"),
    "hostile-exits": ("exit", "raise SystemExit(0)"),
    "hostile-crashes": ("crash", "import ctypes\nctypes.string_at(0)"),
    "hostile-hangs": ("hang", "import time\nwhile True: time.sleep(0.1)"),
    "hostile-patches": ("changes", "import torch\ntorch.nn.functional.linear = lambda *arguments: 1 / 0"),
    "hostile-config": ("contract", "class Bad(Config):\n    'Bad.'\n    bare: int = 1\nConfig = Bad"),
    "hostile-interface": ("interface", "rlkit_interface = 99"),
    "hostile-hook": ("hook", "@hookimpl\ndef rlkit_run_begun(): ..."),
    "hostile-slow": ("slow", "import time\ntime.sleep(5)"),
}
"""By distribution: what it is found to be, and what its module does after all that a good one does."""

THIEF = "thief"
"""A distribution that offers an algorithm named a2c."""


def install(
    folder: Path, distribution: str, source: str, points: Mapping[str, str] | str, *, version: str = "1.0"
) -> str:
    """Put a distribution of one module there, and return the module's name.

    Args:
        folder: to be on the path.
        distribution: its name; the module's is the same with underscores.
        source: of the module.
        points: names that its module is announced by, by kind; or the text of `entry_points.txt`.
        version: of the distribution.
    """
    module = distribution.replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    if not isinstance(points, str):
        points = "".join(f"[rlkit.{kind}]\n{name} = {module}\n" for kind, name in points.items())
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return module


def install_hostile(folder: Path) -> None:
    """The nine; two of them announce hooks and a sub-command besides the algorithm."""
    for distribution, (_, harm) in HARM.items():
        points = {"algorithm": distribution}
        if distribution in ("hostile-raises", "hostile-crashes"):
            points |= {"hooks": f"{distribution}-hooks", "command": f"{distribution}-command"}
        install(folder, distribution, ALGORITHM.format(name=distribution) + harm + "\n", points)


def install_thief(folder: Path) -> None:
    """The tenth."""
    install(folder, THIEF, ALGORITHM.format(name="a2c"), {"algorithm": "a2c"})
