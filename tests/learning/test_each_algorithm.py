"""Each algorithm learns a standard environment in seconds.

Thresholds lie below the worst of several seeds over 100 episodes, which stand beside each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlkit_core import train
from rlkit_core.evaluation import evaluate
from rlkit_core.registry import Registry

CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
SMALL: dict[str, Any] = {"network": {"hidden": [64, 64]}, "batch_size": 128}


class Case(NamedTuple):
    """A run that is short, and what a policy that has learned reaches in it."""

    env: str
    steps: int
    settings: dict[str, Any]
    threshold: float


CASES = {
    "a2c": Case(CARTPOLE, 20_000, {}, 180),  # 6 seeds: 239 to 500
    "ppo": Case(CARTPOLE, 25_000, {}, 250),  # 8 seeds: 316 to 500
    "dqn": Case(CARTPOLE, 10_000, {"warmup_steps": 500}, 150),  # 6 seeds: 193 to 443
    "reinforce": Case(CARTPOLE, 40_000, {}, 300),  # 8 seeds: 411 to 500
    "sac": Case(PENDULUM, 5_000, {**SMALL, "learning_rate": 1e-3, "warmup_steps": 500}, -250),  # 4 seeds: -165 to -144
    "td3": Case(  # 3 seeds: -154 to -149
        PENDULUM,
        5_000,
        {
            **SMALL,
            "learning_rate": 2e-3,
            "exploration": {"std": 0.3},
            "estimator": {"gamma": 0.98},
            "policy_delay": 1,
            "target_tau": 0.01,
        },
        -250,
    ),
}


SLOW = {"dqn", "sac", "td3"}
"""They take as long as all the others; what they learn of the probes is in the ordinary run."""


def test_none_is_forgotten() -> None:
    assert set(CASES) == {entry.name for entry in Registry().entries("algorithm") if entry.distribution == "rlkit-core"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.thorough if name in SLOW else []) for name in CASES],
)
def test_it_learns(name: str, tmp_path: Path) -> None:
    """Random actions get about 20 on CartPole and -1,200 on Pendulum."""
    case = CASES[name]
    result = train(
        {"algorithm": {"name": name, **case.settings}},
        env=case.env,
        preset="none",
        total_steps=case.steps,
        stop_at="never",
        eval_every=10**9,
        run_dir=tmp_path / "run",
        tracker="none",
        progress="none",
    )
    assert evaluate(result.run_dir, episodes=20, seed=1).mean >= case.threshold
