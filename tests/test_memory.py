"""A long run takes no more memory than a short one; a test of that which finds a leak of 100 bytes per step."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")

MILLION = 1_000_000
A2C: dict[str, Any] = {
    "algorithm": {
        "name": "a2c",
        "collector": {"num_envs": 1024, "num_steps": 16},
        "network": {"name": "mlp", "hidden": [8]},
    },
    "env": "CartPole-v1",
}
DQN: dict[str, Any] = {
    "algorithm": {
        **{"name": "dqn", "replay_size": 20_000, "warmup_steps": 2_000, "updates_per_step": 0.02, "batch_size": 32},
        **{"collector": {"num_envs": 64, "num_steps": 4}, "network": {"name": "mlp", "hidden": [16]}},
    },
    "env": "CartPole-v1",
}


def samples(settings: dict[str, Any], total_steps: int, leak: int = 0, **more: Any) -> list[tuple[int, float]]:
    """Environment steps and resident MiB at a hundred moments of a run in a process of its own.

    Args:
        settings: of the run.
        total_steps: its length.
        leak: bytes per step that a hook holds on to.
        more: further settings.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = {**settings, "total_steps": total_steps, **more, "run_dir": f"{folder}/run"}
        command = [sys.executable, __file__, json.dumps(arguments), str(leak)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [tuple(sample) for sample in json.loads(done.stdout)]


def growth(seen: list[tuple[int, float]]) -> float:
    """MiB per million steps, after a fifth of the run: between the medians of the first and the last third of it.

    Medians, because memory comes in pieces, and what the system takes back for a moment is no matter.
    """
    kept = [sample for sample in seen if sample[0] > seen[-1][0] / 5]
    third = len(kept) // 3
    first, last = kept[:third], kept[-third:]
    (begin, low), (end, high) = (
        (statistics.median(step for step, _ in part), statistics.median(mib for _, mib in part))
        for part in (first, last)
    )
    return (high - low) / (end - begin) * MILLION


def test_growth_is_measured_right() -> None:
    steady = [(step * 1000, 50.0 + 10 * (step < 50)) for step in range(1000)]
    assert growth(steady) == 0
    rising = [(step, mib + step / 50_000) for step, mib in steady]
    assert growth(rising) == pytest.approx(20)


@pytest.mark.thorough
def test_memory_is_flat_and_a_leak_is_found() -> None:
    """A short version, whose bound is wider: of a million steps a single block counts as much as of ten."""
    assert growth(samples(A2C, 1_500_000)) < 10
    assert growth(samples(A2C, MILLION, leak=100)) > 60  # 95 MiB per million


@pytest.mark.long
def test_memory_is_flat_over_ten_million_steps() -> None:
    seen = samples(A2C, 10 * MILLION)
    assert growth(seen) < 1, seen
    assert growth(samples(A2C, 3 * MILLION, leak=100)) > 60


@pytest.mark.long
def test_memory_is_flat_with_replay_and_checkpoints() -> None:
    """The ring is full after a twentieth of the run; there are 200 checkpoints."""
    seen = samples(DQN, 400_000, checkpoint_every=2_000)
    assert growth(seen) < 10, seen  # 2 MiB in 200 checkpoints
    assert growth(samples(DQN, 200_000, leak=100, checkpoint_every=2_000)) > 60


def main() -> None:
    from rlkit_core import hookimpl, train

    settings, leak = json.loads(sys.argv[1]), int(sys.argv[2])
    every = settings["total_steps"] // 100
    seen: list[tuple[int, float]] = []
    held: list[bytes] = []
    before = 0

    @hookimpl
    def rlkit_iteration_finished(step: int, metrics: Any) -> None:
        nonlocal before
        if leak:
            held.append(b"x" * (leak * (step - before)))
            before = step
        if step >= len(seen) * every:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((step, pages * 4096 / 2**20))

    hooks: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("watch_memory", None))
    hooks.rlkit_iteration_finished = rlkit_iteration_finished
    train(
        {"algorithm": settings.pop("algorithm")},
        plugins=[hooks],
        hooks=("watch_memory",),
        preset="none",
        stop_at="never",
        tracker="none",
        progress="none",
        eval_every=10**9,
        eval_max_steps=1,
        **settings,
    )
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
