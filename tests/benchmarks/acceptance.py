"""Learning figures of the docs, through the real command: train on several seeds, evaluate on episodes no run has seen.

    python tests/benchmarks/acceptance.py              all rows (a quarter of an hour on 2 quiet cores)
    python tests/benchmarks/acceptance.py cartpole     one row

A row says how many seeds reached the goal, in how many steps, and what it ran on. Exit status 1 if a row misses it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from results import train_and_evaluate


@dataclass(frozen=True)
class Row:
    """One figure: `needed` of `seeds` runs reach `goal` in a greedy evaluation over 100 fresh episodes."""

    env: str
    goal: float
    seeds: int
    needed: int
    arguments: list[str] = field(default_factory=list)
    median_steps: int | None = None


ROWS = {
    "cartpole": Row("CartPole-v1", 475, 50, 49, median_steps=30_000),
    "cartpole-held": Row("CartPole-v1", 450, 10, 9, ["--stop-at", "never", "--total-steps", "200000"]),
    "acrobot": Row("Acrobot-v1", -100, 10, 9, ["--stop-at", "never", "--total-steps", "500000"]),
    "pendulum": Row("Pendulum-v1", -250, 10, 9, ["--stop-at", "never", "--total-steps", "1000000"]),
}


def measure(name: str, row: Row, jobs: int) -> bool:
    """Run a row and print it."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        command = ["rlkit", "run", "a2c", "--env", row.env, *row.arguments]
        runs = list(pool.map(lambda seed: train_and_evaluate(command, seed, Path(folder)), range(row.seeds)))
    returns = sorted(run["return"] for run in runs)
    steps = [run["steps"] for run in runs]
    reached = sum(value >= row.goal for value in returns)
    median = statistics.median(steps)
    good = reached >= row.needed and (row.median_steps is None or median <= row.median_steps)
    print(
        f"{name}: a2c on {row.env} {' '.join(row.arguments)}: {reached} of {row.seeds} seeds >= {row.goal:g} "
        f"(needed {row.needed}); return median {statistics.median(returns):.1f}, range {returns[0]:.1f} to "
        f"{returns[-1]:.1f}; steps median {median:,.0f}, range {min(steps):,} to {max(steps):,}; "
        f"seconds per run median {statistics.median(run['seconds'] for run in runs):.1f}"
        f"{'' if good else '  -- MISSED'}",
        flush=True,
    )
    return good


def main() -> int:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    good = [measure(name, ROWS[name], arguments.jobs) for name in arguments.rows or ROWS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
