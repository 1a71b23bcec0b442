"""What authors of plugins test their parts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit_core.testing.strategies import rollouts as rollouts


def __getattr__(name: str) -> Any:
    if name == "rollouts":  # needs hypothesis, which the rest does without
        from rlkit_core.testing.strategies import rollouts

        return rollouts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
