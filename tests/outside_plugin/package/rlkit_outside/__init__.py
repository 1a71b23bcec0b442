"""A policy gradient and an estimator for rlkit."""

from rlkit_core import hookimpl

rlkit_interface = 1


@hookimpl
def rlkit_register():
    """The algorithm `plain-gradient` and the estimator `clipped`."""
    from rlkit_outside.config import ClippedConfig, PlainGradientConfig

    return [PlainGradientConfig, ClippedConfig]
