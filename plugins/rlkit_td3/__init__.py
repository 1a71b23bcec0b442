"""Twin delayed deep deterministic policy gradient (TD3) for rlkit."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """The algorithm `td3`."""
    from rlkit_td3.config import TD3Config

    return [TD3Config]
