"""What the time of a run was spent on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rlkit_core import train
from rlkit_core.environment import Environments
from rlkit_core.profiling import SECTIONS, Profile
from rlkit_core.run_folder import read_journal, read_json


class Work:
    def outer(self) -> str:
        time.sleep(0.02)
        self.inner()
        return "answer"

    def inner(self) -> None:
        time.sleep(0.05)


def test_what_is_inside_counts_once() -> None:
    work, profile = Work(), Profile()
    profile.watch(work, "outer", "outside")
    profile.watch(Work, "inner", "inside")
    assert work.outer() == "answer"
    assert 0.02 <= profile.seconds["outside"] < 0.05 <= profile.seconds["inside"]


def test_what_is_left_out_counts_for_nothing() -> None:
    work, profile = Work(), Profile()
    profile.watch(work, "inner", "inside")
    profile.leave_out(work, "outer")
    work.outer()
    assert profile.seconds.get("inside", 0.0) == 0.0
    work.inner()
    assert profile.seconds["inside"] >= 0.05


def test_what_is_raised_is_handed_on_and_counted() -> None:
    class Broken:
        def break_off(self) -> None:
            time.sleep(0.01)
            raise ZeroDivisionError

    broken, profile = Broken(), Profile()
    profile.watch(broken, "break_off", "breaking")
    with pytest.raises(ZeroDivisionError):
        broken.break_off()
    assert profile.seconds["breaking"] >= 0.01


def test_nothing_is_left_behind() -> None:
    work, profile, inner = Work(), Profile(), Work.inner
    profile.watch(work, "outer", "outside")
    profile.watch(Work, "inner", "inside")
    profile.close()
    assert vars(work) == {}
    assert Work.inner is inner


@pytest.mark.parametrize("algorithm", ["a2c", pytest.param("dqn", marks=pytest.mark.thorough)])
def test_a_run_is_the_same_and_says_where_its_time_went(algorithm: str, tmp_path: Path) -> None:
    step = Environments.step
    settings: dict[str, Any] = {
        **{"env": "CartPole-v1", "total_steps": 3_000, "stop_at": "never", "tracker": "none", "progress": "none"},
    }
    plain = train(algorithm, run_dir=tmp_path / "plain", **settings)
    watched = train(algorithm, run_dir=tmp_path / "watched", profile=True, **settings)
    assert plain.profile is None
    assert watched.profile is not None
    assert watched.profile.keys() == SECTIONS.keys()
    assert all(seconds > 0 for seconds in watched.profile.values())
    assert sum(watched.profile.values()) < watched.seconds
    assert read_json(watched.run_dir / "status.json")["result"]["profile"] == watched.profile
    weights = [(tmp_path / name / "policy/last/policy.safetensors").read_bytes() for name in ("plain", "watched")]
    assert weights[0] == weights[1]
    assert Environments.step is step


def test_evaluations_are_left_out(tmp_path: Path) -> None:
    """They take most of this run, and act and step as training does."""
    result = train(
        "a2c",
        env="CartPole-v1",
        total_steps=4_000,
        stop_at="never",
        eval_every=500,
        eval_episodes=100,
        tracker="none",
        progress="none",
        profile=True,
        run_dir=tmp_path / "run",
    )
    training, before = 0.0, 0
    for _, record in read_journal(result.run_dir / "metrics.jsonl"):
        if "time/steps_per_second" in record["metrics"]:
            training += (record["step"] - before) / record["metrics"]["time/steps_per_second"]
            before = record["step"]
    evaluations = result.seconds - training
    assert result.profile is not None
    assert sum(result.profile.values()) < training + 0.5 * evaluations
