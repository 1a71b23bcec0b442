"""Resident memory over a long run: A2C on CartPole-v1, 10 million steps.

    python tests/benchmarks/memory.py [--steps 10000000]

Prints the resident memory at each million, and its growth per million from the second on: 1 MiB at most.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from in_turn import machine

from rlkit_core import hookimpl, train

MILLION = 1_000_000


def resident() -> float:
    """MiB that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10 * MILLION, help="environment steps")
    arguments = parser.parse_args()
    print(machine())
    seen: list[tuple[float, float]] = []

    @hookimpl
    def rlkit_iteration_finished(step: int, metrics: Any) -> None:
        if step >= len(seen) * MILLION:
            seen.append((step / MILLION, resident()))
            print(f"{step:>12,} steps  {seen[-1][1]:.1f} MiB", flush=True)

    hooks: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("watch_memory", None))
    hooks.rlkit_iteration_finished = rlkit_iteration_finished
    with tempfile.TemporaryDirectory() as folder:
        train(
            {"algorithm": {"name": "a2c", "collector": {"num_envs": 64}}},
            env="CartPole-v1",
            plugins=[hooks],
            hooks=("watch_memory",),
            total_steps=arguments.steps,
            stop_at="never",
            eval_every=MILLION,
            run_dir=Path(folder) / "run",
            tracker="none",
            progress="none",
        )
    millions, mib = np.array(seen[1:]).T
    print(f"growth: {np.polyfit(millions, mib, 1)[0]:.2f} MiB per million steps")


if __name__ == "__main__":
    main()
