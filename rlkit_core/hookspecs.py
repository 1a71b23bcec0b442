"""What a plugin module can say: pluggy's hook specifications.

A plugin is a module that implements `rlkit_register`, announced by one entry point per part in the groups
`rlkit.<kind>`. The run hooks act only when the user names the plugin with `--hooks`, by the name that it is announced
under in the group `rlkit.hooks`, or by its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from rlkit_core.component import Component

INTERFACE = 1
"""Version of this interface. A plugin module that says `rlkit_interface = 1` is made for it; another one is refused."""

hookspec = pluggy.HookspecMarker("rlkit")
hookimpl = pluggy.HookimplMarker("rlkit")


@hookspec
def rlkit_register() -> list[type[Component]]:  # type: ignore[empty-body]
    """Return the config classes of all parts that this plugin offers."""


@hookspec
def rlkit_run_started(config: Mapping[str, Any], run_dir: Path) -> None:
    """Called once before the first step, with the run's complete settings."""


@hookspec
def rlkit_iteration_finished(step: int, metrics: Mapping[str, float]) -> bool | None:
    """Called after each update with the environment steps so far and its metrics; return True to stop the run."""


@hookspec
def rlkit_run_finished(step: int, result: Mapping[str, Any]) -> None:
    """Called once at the end with what the run reached."""
