"""The learning figures of docs/results.md, through the real command: train several seeds, evaluate on fresh episodes.

    python tests/benchmarks/results.py run                    every row that docs/results.json lacks (many hours)
    python tests/benchmarks/results.py run ppo/Acrobot-v1     one row, or all rows of an algorithm: run ppo
    python tests/benchmarks/results.py page                   docs/results.md and its pictures from docs/results.json

Each seed is trained with `rlkit run ALGORITHM --env ENV --seed S --stop-at never`, with the preset that comes along for
the environment, if any. Then `rlkit eval` plays 100 greedy episodes of the last policy, on seeds of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RLKIT = str(Path(sys.executable).with_name("rlkit"))
DOCS = Path(__file__).parents[2] / "docs"
DATA = DOCS / "results.json"


@dataclass(frozen=True)
class Row:
    """One figure: an algorithm in an environment, and what is to be reached within the steps.

    Attributes:
        steps: budget in environment steps; some rows need less than their goal allows.
        goal: mean greedy return that the median seed should reach, or None where it is only reported.
        seeds: how many.
        arguments: of the command, besides.
    """

    algorithm: str
    env: str
    steps: int
    goal: float | None
    seeds: int
    arguments: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.algorithm}/{self.env}"

    @property
    def command(self) -> list[str]:
        """The command of a seed, without the seed."""
        options = ["--stop-at", "never", "--total-steps", str(self.steps), *self.arguments]
        return ["rlkit", "run", self.algorithm, "--env", self.env, *options]


CARTPOLE, ACROBOT, MOUNTAINCAR = "CartPole-v1", "Acrobot-v1", "MountainCar-v0"
PENDULUM, MOUNTAINCAR_C = "Pendulum-v1", "MountainCarContinuous-v0"
LANDER, LANDER_C, CHEETAH = "LunarLander-v3", "LunarLanderContinuous-v3", "HalfCheetah-v5"

ROWS = [
    Row("a2c", CARTPOLE, 100_000, 500, 10),
    Row("a2c", ACROBOT, 500_000, -90, 5),
    Row("a2c", MOUNTAINCAR, 1_000_000, -115, 5),
    Row("a2c", PENDULUM, 1_000_000, -180, 5),
    Row("a2c", MOUNTAINCAR_C, 100_000, 88, 3),
    Row("a2c", LANDER, 500_000, 150, 3),
    Row("ppo", CARTPOLE, 100_000, 500, 10),
    Row("ppo", ACROBOT, 500_000, -85, 5),
    Row("ppo", MOUNTAINCAR, 1_000_000, -115, 5),
    Row("ppo", PENDULUM, 98_000, -180, 5),
    Row("ppo", MOUNTAINCAR_C, 100_000, 88, 3),
    Row("ppo", LANDER, 500_000, 200, 3),
    Row("ppo", CHEETAH, 300_000, None, 1),
    Row("dqn", CARTPOLE, 50_000, 500, 10),
    Row("dqn", ACROBOT, 70_000, -85, 5),
    Row("dqn", MOUNTAINCAR, 120_000, -110, 5),
    Row("dqn", LANDER, 100_000, 150, 3),
    Row("sac", PENDULUM, 10_000, -160, 5),
    Row("sac", MOUNTAINCAR_C, 50_000, 90, 3),
    Row("sac", LANDER_C, 40_000, 200, 3),
    Row("sac", CHEETAH, 20_000, None, 1),
    Row("td3", PENDULUM, 20_000, -160, 5),
    Row("td3", MOUNTAINCAR_C, 50_000, 90, 3),
]
CONTROL = Row("ppo", MOUNTAINCAR, 500_000, None, 5, ["--preset", "none"])
"""Nothing in plain PPO looks for a goal that chance does not find: it should stay at -200."""


def train_and_evaluate(command: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """Train a seed and evaluate its last policy.

    Returns:
        `return`: mean of 100 greedy episodes; `steps`: environment steps; `seconds`: of the whole training command;
        `curve`: the regular evaluations while it trained, `[nominal step, mean return]` each.
    """
    run = folder / f"seed{seed}"
    quiet = ["--tracker", "none", "--progress", "none"]
    started = time.perf_counter()
    call([RLKIT, *command[1:], "--seed", str(seed), "--run-dir", str(run), *quiet])
    seconds = time.perf_counter() - started
    # Another seed of the evaluation for each run, so that no luck of the episodes is shared.
    answer = call([RLKIT, "eval", str(run), "--episodes", "100", "--seed", str(10_000 + seed), "--json"])
    records = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [metrics for metrics in records if "evaluation/return" in metrics]
    return {
        "seed": seed,
        "return": json.loads(answer)["mean"],
        "steps": json.loads((run / "status.json").read_text())["result"]["steps"],
        "seconds": seconds,
        "curve": [[int(m["evaluation/nominal_step"]), round(m["evaluation/return"], 2)] for m in evaluations],
        "preset": json.loads((run / "provenance.json").read_text()).get("preset"),
    }


def call(command: list[str]) -> str:
    """What a command prints; if it fails, what it says is said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def measure(row: Row, jobs: int) -> dict[str, Any]:
    """All seeds of a row."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda seed: train_and_evaluate(row.command, seed, Path(folder)), range(row.seeds)))
    return {**asdict(row), "command": " ".join(row.command), "machine": machine(), "runs": runs}


def machine() -> str:
    """What it was measured on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "gymnasium"))
    system = f"{platform.machine()} ({platform.system()}), {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, {versions}"


def read() -> dict[str, Any]:
    """Everything measured so far."""
    return json.loads(DATA.read_text()) if DATA.exists() else {}  # type: ignore[no-any-return]


def say(name: str, result: dict[str, Any]) -> None:
    """A row in a line."""
    returns = sorted(run["return"] for run in result["runs"])
    goal = "" if result["goal"] is None else f", goal {result['goal']:g}"
    print(f"{name}: median {statistics.median(returns):.1f}, {returns[0]:.1f} to {returns[-1]:.1f}{goal}", flush=True)


def run(names: list[str], jobs: int) -> None:
    """Measure rows, and write each down as soon as it is there."""
    rows = {row.name: row for row in ROWS} | {"control": CONTROL}
    unknown = [name for name in names if name not in rows and name not in {row.algorithm for row in ROWS}]
    if unknown:
        sys.exit(f"there is no row {unknown[0]}\nrows: {', '.join(rows)}")
    for name, row in rows.items():
        wanted = {name, row.algorithm if name != "control" else name} & set(names) if names else name not in read()
        if wanted:
            result = measure(row, jobs)
            DATA.write_text(json.dumps({**read(), name: result}, indent=None, separators=(",", ":")) + "\n")
            say(name, result)


def main() -> None:
    """Run rows, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "page", "show"])
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.rows, arguments.jobs)
    elif arguments.what == "show":
        for name, result in read().items():
            say(name, result)
    else:
        from results_page import write

        write(read(), ROWS, DOCS)


if __name__ == "__main__":
    main()
