"""Soft actor-critic (SAC) for rlkit."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """The algorithm `sac`."""
    from rlkit_sac.config import SACConfig

    return [SACConfig]
