"""Whole processes, from the prompt to the result on CartPole-v1, beside scripts with Stable-Baselines3's A2C.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/from_the_prompt.py [--rounds 10]

rlkit     rlkit run a2c --env CartPole-v1, with everything stored in MLflow when it ends
bare      a script that trains Stable-Baselines3's A2C with rl-baselines3-zoo's settings until it is solved, with the
          same evaluations (10 episodes every 4,000 steps; where they reach 475, 100 and 200 more), and tracks nothing
mlflow    the same, with the MLflow writer of Stable-Baselines3's documentation

Each starts on an MLflow store that exists, rlkit also on none. The peer evaluates with the native vector environment,
as rlkit does. Seeds differ from round to round, and the sides take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import ONE_THREAD, machine, training

GOAL = 475.0


def peer(seed: int, with_mlflow: bool) -> None:
    """The scripts with Stable-Baselines3."""
    import sys

    import numpy as np
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from time_to_solved import greedy_returns

    torch.set_num_threads(1)

    class Evaluate(BaseCallback):  # type: ignore[misc]
        next_evaluation, seconds = 4_000, 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps < self.next_evaluation:
                return True
            self.next_evaluation += 4_000
            began = time.perf_counter()
            solved = np.mean(greedy_returns(self.model, 10, self.num_timesteps)) >= GOAL
            for episodes in (100, 200):
                if solved:
                    returns = greedy_returns(self.model, episodes, self.num_timesteps + 1)
                    solved = returns.mean() - returns.std() / np.sqrt(episodes) >= GOAL
            self.seconds += time.perf_counter() - began
            return not solved

    callback = Evaluate()
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), seed=seed, device="cpu")
    if not with_mlflow:
        model.learn(500_000, callback=callback)
    else:
        import mlflow
        from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger

        class MLflowOutputFormat(KVWriter):  # type: ignore[misc]
            def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
                for (key, value), (_, excluded) in zip(
                    sorted(key_values.items()), sorted(key_excluded.items()), strict=True
                ):
                    if excluded is not None and "mlflow" in excluded:
                        continue
                    if isinstance(value, np.ScalarType) and not isinstance(value, str):
                        mlflow.log_metric(key, value, step)

        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        with mlflow.start_run():
            model.set_logger(Logger(None, [HumanOutputFormat(sys.stdout), MLflowOutputFormat()]))
            model.learn(500_000, callback=callback)
    print(json.dumps({"evaluations": callback.seconds, "steps": model.num_timesteps}))


def run_peer(folder: Path, seed: int, side: str) -> dict[str, float]:
    """Seconds of a process with Stable-Baselines3."""
    began = time.perf_counter()
    output = _run([sys.executable, __file__, "peer", side, str(seed)], folder)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, **json.loads(output.splitlines()[-1])}


def run_rlkit(folder: Path, seed: int) -> dict[str, float]:
    """Seconds of a process with rlkit; its record in MLflow is complete when it ends."""
    run_dir = folder / f"run-{seed}"
    command = [str(Path(sys.executable).with_name("rlkit")), "run", "a2c", "--env", "CartPole-v1"]
    began = time.perf_counter()
    _run([*command, "--seed", str(seed), "--run-dir", str(run_dir)], folder)
    seconds = time.perf_counter() - began
    if json.loads((run_dir / "tracking.json").read_text())["state"] != "ok":
        sys.exit("the record in MLflow is not complete")
    steps, seconds_of_training, _ = [*training(run_dir)][-1]
    whole = json.loads((run_dir / "status.json").read_text())["result"]["seconds"]
    return {"seconds": seconds, "evaluations": whole - seconds_of_training, "steps": steps}


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, **ONE_THREAD, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each, in turn")
    arguments = parser.parse_args()
    if arguments.side:
        peer(int(arguments.side[2]), arguments.side[1] == "mlflow")
        return
    print(machine("stable-baselines3", "mlflow"), flush=True)
    runs: dict[str, list[dict[str, float]]] = {"rlkit": [], "rlkit, fresh store": [], "bare": [], "mlflow": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_rlkit(folder, 10_000)  # makes the store
        for seed in range(arguments.rounds):
            runs["rlkit"].append(run_rlkit(folder, seed))
            for side in ("bare", "mlflow"):
                runs[side].append(run_peer(folder, seed, side))
            fresh = folder / f"fresh-{seed}"
            fresh.mkdir()
            runs["rlkit, fresh store"].append(run_rlkit(fresh, seed))
            shutil.rmtree(fresh)
    for side, found in runs.items():
        seconds = sorted(run["seconds"] for run in found)
        alone = statistics.median(run["seconds"] - run["evaluations"] for run in found)
        steps = statistics.median(run["steps"] for run in found)
        print(
            f"{side:<19} {statistics.median(seconds):6.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}), without "
            f"evaluations {alone:.2f} s; {steps:,.0f} steps"
        )
    for side in ("bare", "mlflow"):
        for what in ("whole", "without evaluations"):
            ratios = [
                (ours["seconds"] - (ours["evaluations"] if what != "whole" else 0))
                / (theirs["seconds"] - (theirs["evaluations"] if what != "whole" else 0))
                for ours, theirs in zip(runs["rlkit"], runs[side], strict=True)
            ]
            print(f"rlkit / {side}, {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
