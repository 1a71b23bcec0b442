"""Writes docs/hooks.md: every hook that a plugin module can implement. Run it after changing rlkit_core/hookspecs.py.

python docs/generate_hooks.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from rlkit_core import hookspecs

PAGE = Path(__file__).with_name("hooks.md")
HEAD = """# Hooks

<!-- Written by docs/generate_hooks.py from rlkit_core/hookspecs.py; do not edit. -->

A plugin is a Python module. What it does, it does in these functions, decorated with `@rlkit_core.hookimpl`; each takes
only those of its arguments that it needs. One that is mistyped is refused by name.

`rlkit_register` is called when a part of the plugin is named. The others follow a run, and act only where the user
names the plugin with `--hooks`. [Plugins of every kind](plugins.md) has an example of each.
"""


def page() -> str:
    """The whole page."""
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("rlkit_")}
    rows = ["| hook | arguments |", "| --- | --- |"]
    for name, hook in hooks.items():
        rows.append(f"| [`{name}`](#{name}) | {', '.join(f'`{a}`' for a in inspect.signature(hook).parameters)} |")
    parts = [HEAD, "\n".join(rows) + "\n"]
    for name, hook in hooks.items():
        parts.append(f"## {name}\n\n```py\n{name}{signature(hook)}\n```\n\n{inspect.cleandoc(hook.__doc__ or '')}\n")
    interface = (
        f"## The interface's version\n\nA module may say `rlkit_interface = {hookspecs.INTERFACE}`, the version that it"
        " is made for. rlkit refuses a module that is made for another one."
    )
    return "\n".join([*parts, interface]) + "\n"


def signature(hook: object) -> str:
    """With its types as they are written."""
    return re.sub(r"'([^']*)'", r"\1", str(inspect.signature(hook)))  # type: ignore[arg-type]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
