"""Seconds of training until CartPole-v1 is solved, beside Stable-Baselines3's A2C.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/time_to_solved.py [--seeds 20]

Solved: three greedy evaluations of 100 episodes in a row with a mean return of at least 475, each at the first update
after another 1,000 steps. Only training counts: imports, set-up and evaluations do not. rlkit runs with its defaults
(`rlkit run a2c --env CartPole-v1`), the peer with rl-baselines3-zoo's settings, 8 environments and the defaults. The
sides take turns, seed by seed, each in a process of its own on one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import alone, machine, report, training

EVERY, EPISODES, GOAL, IN_A_ROW = 1_000, 100, 475.0, 3
BUDGETS = (20_000, 60_000, 200_000)
"""Steps after which a side is given up, or rlkit is run anew for longer: the same seed takes the same way."""


def run_rlkit(seed: int) -> tuple[float, int]:
    """Seconds and steps, infinite where it is not solved."""
    for budget in BUDGETS:
        seconds, steps = _run_rlkit(seed, budget)
        if math.isfinite(seconds):
            break
    return seconds, steps


def _run_rlkit(seed: int, budget: int) -> tuple[float, int]:
    from rlkit_core import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(
            "a2c",
            env="CartPole-v1",
            seed=seed,
            total_steps=budget,
            log_every=EVERY,
            eval_every=EVERY,
            eval_episodes=EPISODES,
            stop_at="never",
            run_dir=Path(folder) / "run",
            tracker="none",
            progress="none",
        )
        in_a_row = 0
        for step, seconds, metrics in training(result.run_dir):
            if "evaluation/return" in metrics:
                in_a_row = in_a_row + 1 if metrics["evaluation/return"] >= GOAL else 0
                if in_a_row == IN_A_ROW:
                    return seconds, step
    return math.inf, budget


def run_sb3(seed: int) -> tuple[float, int]:
    """The same with Stable-Baselines3."""
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), seed=seed, device="cpu")
    seconds, in_a_row = 0.0, 0
    while model.num_timesteps < BUDGETS[-1]:
        began = time.perf_counter()
        model.learn(EVERY, reset_num_timesteps=model.num_timesteps == 0)
        seconds += time.perf_counter() - began
        in_a_row = in_a_row + 1 if greedy_returns(model, EPISODES, model.num_timesteps).mean() >= GOAL else 0
        if in_a_row == IN_A_ROW:
            return seconds, model.num_timesteps
    return math.inf, BUDGETS[-1]


def greedy_returns(model: Any, episodes: int, seed: int) -> Any:
    """Returns of the first episode in each of several environments."""
    import gymnasium
    import numpy as np

    env: Any = gymnasium.make_vec("CartPole-v1", num_envs=episodes, vectorization_mode="vector_entry_point")
    obs, _ = env.reset(seed=seed)
    returns, going_on = np.zeros(episodes), np.ones(episodes, bool)
    while going_on.any():
        obs, rewards, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
        returns += rewards * going_on
        going_on &= ~(terminated | truncated)
    return returns


def main() -> None:
    """Print every seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    arguments = parser.parse_args()
    if arguments.side:
        side, seed = arguments.side
        seconds, steps = (run_rlkit if side == "rlkit" else run_sb3)(int(seed))
        report(seconds=seconds, steps=steps)
        return
    print(machine("stable-baselines3"), flush=True)
    seconds: dict[str, list[float]] = {"rlkit": [], "sb3": []}
    for seed in range(arguments.seeds):
        for side, found in seconds.items():
            numbers = alone(__file__, side, str(seed))
            found.append(numbers["seconds"])
            print(f"seed {seed:<3} {side:<6} {found[-1]:.3f} s, {numbers['steps']:,.0f} steps", flush=True)
    for side, found in seconds.items():
        solved = sum(map(math.isfinite, found))
        print(f"{side}: {statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f}), {solved} solved")
    print(f"ratio of the medians: {statistics.median(seconds['rlkit']) / statistics.median(seconds['sb3']):.3f}")


if __name__ == "__main__":
    main()
