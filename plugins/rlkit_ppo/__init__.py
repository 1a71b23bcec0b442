"""Proximal policy optimisation (PPO) for rlkit."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """The algorithm `ppo`."""
    from rlkit_ppo.config import PPOConfig

    return [PPOConfig]
