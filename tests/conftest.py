"""Settings for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings

# HYPOTHESIS_PROFILE=ci pytest …
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", max_examples=500, deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("nightly", max_examples=20_000, deadline=None, suppress_health_check=_QUIET)
# A mutant need only be noticed, not explained: no shrinking, and the same examples for each.
settings.register_profile(
    "mutation",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than there are cores: many tests wait for processes, disks and servers."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def rlkit(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: `(exit code, stdout, stderr)`."""
    from rlkit_core.cli.root import execute

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = execute([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call
