"""CartPole cut at 50 steps in training and evaluated at 500, with and without bootstrapping at the cut.

Under the cut nothing that happens after 50 steps is ever seen: only the value of the observation at the cut says that
falling over soon is worse than standing well. (The idea is a behavioural test of RLlib's.)

    python tests/benchmarks/cut_cartpole.py [--seeds 5] [--steps 150000]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import gymnasium
import torch

from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.seeding import SeedStream
from rlkit_core.stored_policy import load_policy
from rlkit_core.training import train


def measure(seeds: int = 5, total_steps: int = 150_000) -> dict[bool, list[float]]:
    """Mean greedy return of 100 uncut episodes for each seed, by whether cut episodes were bootstrapped."""
    returns: dict[bool, list[float]] = {True: [], False: []}
    for bootstrap, scores in returns.items():
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                result = train(
                    A2CConfig(estimator=DiscountedConfig(bootstrap=bootstrap)),
                    env=GymnasiumConfig(id="CartPole-v1", max_episode_steps=50),
                    seed=seed,
                    total_steps=total_steps,
                    stop_at="never",
                    eval_every=total_steps + 1,
                    run_dir=Path(folder) / "run",
                    tracker="none",
                    progress="none",
                )
                policy = load_policy(result.run_dir)
            env = GymnasiumConfig(id="CartPole-v1")
            scores.append(evaluate_policy(policy, env, SeedStream(seed, "uncut"), 100, 500).mean)
    return returns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CartPole cut at 50 steps in training, evaluated at 500")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150_000)
    options = parser.parse_args()
    began = time.perf_counter()
    returns = measure(options.seeds, options.steps)
    print(f"a2c defaults, CartPole-v1 cut at 50 steps, {options.steps:,} steps, seeds 0 to {options.seeds - 1}")
    for bootstrap, scores in returns.items():
        what = "with" if bootstrap else "without"
        shown = ", ".join(f"{score:.1f}" for score in scores)
        print(f"{what:>7} bootstrap: median greedy return at 500 steps {statistics.median(scores):.1f}  ({shown})")
    print(
        f"{time.perf_counter() - began:.0f} s on {platform.machine()} ({platform.system()}), Python "
        f"{platform.python_version()}, torch {torch.__version__}, gymnasium {gymnasium.__version__}, 1 thread"
    )


if __name__ == "__main__":
    main()
