"""REINFORCE for rlkit."""

from rlkit_core import hookimpl


@hookimpl
def rlkit_register() -> list[type]:
    """The algorithm `reinforce`."""
    from rlkit_reinforce.config import ReinforceConfig

    return [ReinforceConfig]
