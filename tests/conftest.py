"""Settings for all tests."""

from __future__ import annotations

import os

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
