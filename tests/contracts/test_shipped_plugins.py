"""No false alarm: every part that comes along passes every check, with its defaults and with other settings."""

from __future__ import annotations

from typing import Any

import pytest

from rlkit_core.component import KINDS, Component
from rlkit_core.registry import Registry
from rlkit_core.testing import CheckWarning, parametrize_with_checks, run_checks

REGISTRY = Registry()
SHIPPED = [
    REGISTRY.get(kind, f"{entry.distribution}:{entry.name}")
    for kind in KINDS
    for entry in REGISTRY.entries(kind)
    if entry.distribution == "rlkit-core"
]
pytestmark = pytest.mark.filterwarnings(f"error::{CheckWarning.__module__}.{CheckWarning.__name__}")


@parametrize_with_checks(SHIPPED)
def test_shipped_parts(component: type[Component], check: Any) -> None:
    check(component)


def with_settings() -> list[Any]:
    """Parts with settings under which they carry more state, or compute in another way."""

    def part(kind: str, name: str, **settings: Any) -> Any:
        return REGISTRY.get(kind, name)(**settings)

    normal: dict[str, Any] = {"normalize_observations": True, "learning_rate_schedule": "linear"}
    drifting = part("exploration", "ou")
    off, nothing = {"normalize": "off"}, {"bootstrap": False}
    return [
        part("algorithm", "a2c", **normal, value_network="separate"),
        part("algorithm", "ppo", **normal),
        part("algorithm", "dqn", **normal, prioritized=True, dueling=True),
        part("algorithm", "sac", **normal, exploration=drifting),
        part("algorithm", "td3", **normal, exploration=drifting),
        part("estimator", "discounted", **off),
        part("estimator", "discounted", **nothing, normalize="per_batch"),
        part("estimator", "discounted", **nothing, normalize="per_episode"),
        part("estimator", "lambda", **off, gae_lambda=0.0),
        part("exploration", "gsde", resample_every=3),
        part("network", "mlp", activation="tanh", init="default"),
        part("environment", "gymnasium", id="CartPole-v1", vectorization="native"),
        part("environment", "gymnasium", id="CartPole-v1", vectorization="sync", autoreset="next_step"),
    ]


LEARNING = ("learns_which_action_pays", "values_what_follows_a_truncation")
"""They take as long as all others, and what they look for is not in these settings."""


@pytest.mark.thorough
@pytest.mark.parametrize("component", with_settings(), ids=lambda part: f"{part.kind}-{part.name}")
def test_with_other_settings(component: Component) -> None:
    outcomes = run_checks(component, leave_out=LEARNING)
    assert [one for one in outcomes if one.status in ("failed", "warned")] == []
