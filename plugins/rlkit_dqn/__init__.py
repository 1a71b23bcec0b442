"""Deep Q-networks (DQN) for rlkit."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """The algorithm `dqn`."""
    from rlkit_dqn.config import DQNConfig

    return [DQNConfig]
