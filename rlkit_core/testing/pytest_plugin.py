"""A pytest plugin that comes along with rlkit: fixtures for tests of plugins.

It is found by its entry point, needs no line in a `conftest.py`, and imports nothing of rlkit until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rlkit_core.registry import Registry


@pytest.fixture
def rlkit_registry() -> Callable[..., Registry]:
    """A function of plugin modules that gives a registry with rlkit's own parts and those modules', and no others.

    What else happens to be installed does not show: `rlkit_registry(my_plugin).get("algorithm", "mine")`.
    """
    from rlkit_core.registry import Registry

    class Isolated(Registry):
        def entries(self, kind: str | None = None) -> list[Any]:
            given = set(self._given)
            return [entry for entry in super().entries(kind) if entry in given or entry.distribution == "rlkit-core"]

    def make(*plugins: ModuleType) -> Registry:
        return Isolated(plugins)

    return make


@pytest.fixture
def rlkit_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A temporary MLflow store, which MLFLOW_TRACKING_URI names for the test and what it starts; its URI."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return uri


@pytest.fixture
def rlkit_probes() -> tuple[type[Any], ...]:
    """The probe environments with known values, registered with Gymnasium, from the simplest on."""
    from rlkit_core.testing.probes import PROBES

    return PROBES
