"""Seeds in one group against the same runs one after another, as whole commands, tracking included.

python tests/benchmarks/groups.py [--algorithm a2c] [--env CartPole-v1] [--seeds 10] [--jobs 2] [--steps 300000]

Half of the runs alone come before the group, half after it, so that what else the machine does hits both. Every run of
the group must give the same bits as the run alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import machine

AT_MOST = 0.6
"""Share of the time of the runs one after another, with two jobs on two cores."""
COMMAND = [sys.executable, "-P", "-c", "import sys; from rlkit_core.cli import main; sys.exit(main())"]


def main() -> None:
    """Print times and their ratio; exits with 1 where the ratio is too large or a run came out otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="a2c")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--tracker", default="mlflow")
    options = parser.parse_args()
    print(machine())
    run = ["run", options.algorithm, "--env", options.env, "--total-steps", str(options.steps)]
    run += ["--stop-at", "never", "--tracker", options.tracker]
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        half = options.seeds // 2
        for seed in range(half):
            alone.append(_timed(folder, [*run, "--seed", str(seed), "--run-dir", f"alone/{seed}"]))
        together = ["--seeds", str(options.seeds), "--jobs", str(options.jobs), "--run-dir", "group"]
        group = _timed(folder, [*run, *together])
        for seed in range(half, options.seeds):
            alone.append(_timed(folder, [*run, "--seed", str(seed), "--run-dir", f"alone/{seed}"]))
        other = [
            seed
            for seed in range(options.seeds)
            if _outcome(Path(folder, "group", f"seed{seed}")) != _outcome(Path(folder, "alone", str(seed)))
        ]
    ratio = group / sum(alone)
    what = f"{options.seeds} runs of {options.steps:,} steps"
    print(f"{what} one after another: {sum(alone):.1f} s ({min(alone):.1f} to {max(alone):.1f} each)")
    print(f"in a group, {options.jobs} at a time: {group:.1f} s, {ratio:.2f} of that; at most {AT_MOST}")
    same = options.seeds - len(other)
    print(f"the same bits: {same} of {options.seeds}" + (f", not seeds {other}" if other else ""))
    sys.exit(int(ratio > AT_MOST or bool(other)))


def _timed(folder: str, arguments: list[str]) -> float:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    began = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def _outcome(run_dir: Path) -> Any:
    """The last policy, and the journal without the clock."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    kept = [
        (record["step"], {name: x for name, x in record["metrics"].items() if not name.startswith("time/")})
        for record in records
    ]
    return (run_dir / "policy" / "last" / "policy.safetensors").read_bytes(), kept


if __name__ == "__main__":
    main()
