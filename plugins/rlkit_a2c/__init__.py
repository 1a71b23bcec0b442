"""Advantage actor-critic (A2C) for rlkit."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """The algorithm `a2c`."""
    from rlkit_a2c.config import A2CConfig

    return [A2CConfig]
