"""Each algorithm learns a standard environment in seconds.

Thresholds lie below the worst of several seeds; what these reached stands beside each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlkit_core import train
from rlkit_core.evaluation import evaluate
from rlkit_core.registry import Registry

CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
SMALL: dict[str, Any] = {
    "network": {"hidden": [64, 64]},
    "batch_size": 128,
    "learning_rate": 2e-3,
    "warmup_steps": 500,
}


class Case(NamedTuple):
    """A run that is short, and what a policy that has learned reaches in it."""

    env: str
    steps: int
    settings: dict[str, Any]
    threshold: float


CASES = {
    "a2c": Case(CARTPOLE, 20_000, {}, 0),
    "ppo": Case(CARTPOLE, 25_000, {}, 0),
    "dqn": Case(CARTPOLE, 10_000, {"warmup_steps": 500}, 0),
    "reinforce": Case(CARTPOLE, 40_000, {}, 0),
    "sac": Case(PENDULUM, 4_000, SMALL, 0),
    "td3": Case(PENDULUM, 4_000, {**SMALL, "estimator": {"gamma": 0.98}}, 0),
}


def test_none_is_forgotten() -> None:
    assert set(CASES) == {entry.name for entry in Registry().entries("algorithm") if entry.distribution == "rlkit-core"}


@pytest.mark.parametrize("name", CASES)
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
