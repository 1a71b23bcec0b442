"""What authors of plugins test their parts with."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit_core.testing.checks import Check as Check
    from rlkit_core.testing.checks import CheckWarning as CheckWarning
    from rlkit_core.testing.checks import Outcome as Outcome
    from rlkit_core.testing.checks import checks_for as checks_for
    from rlkit_core.testing.checks import parametrize_with_checks as parametrize_with_checks
    from rlkit_core.testing.checks import run_checks as run_checks
    from rlkit_core.testing.strategies import rollouts as rollouts

_MODULE_OF = {
    "Check": "checks",
    "CheckWarning": "checks",
    "Outcome": "checks",
    "checks_for": "checks",
    "parametrize_with_checks": "checks",
    "rollouts": "strategies",  # needs hypothesis, which the rest does without
    "run_checks": "checks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"rlkit_core.testing.{_MODULE_OF[name]}"), name)
