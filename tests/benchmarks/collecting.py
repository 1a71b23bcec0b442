"""Collecting from environments without a vector class of their own, beside Gymnasium's SyncVectorEnv alone.

    python tests/benchmarks/collecting.py [--rounds 7]

sync    Acrobot-v1: the speed of the collector, acting excluded, as a share of the speed at which SyncVectorEnv steps
        with actions drawn beforehand
async   an environment that sleeps 2 ms in a step: how much faster the collector is with processes than without
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from in_turn import machine

from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import Setup
from rlkit_core.profiling import Profile
from rlkit_core.seeding import SeedStream

T = 128


class Sleepy(gymnasium.Env[Any, Any]):
    """Takes 2 ms in which nothing is computed."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(0.002)
        return np.zeros(4, np.float32), 1.0, False, False, {}


gymnasium.register("Sleepy-v0", Sleepy, max_episode_steps=500)


def collector_and_policy(env: str, n: int, vectorization: Any) -> tuple[Any, Any]:
    """A collector of T steps, and A2C's untrained policy, which is random."""
    config = A2CConfig(collector=StepsConfig(num_envs=n, num_steps=T))
    environment = GymnasiumConfig(id=env, vectorization=vectorization)
    collector = config.collector.build(environment, SeedStream(0, "collector"), "cpu")
    learner = config.build(
        Setup(
            observation_space=collector.observation_space,
            action_space=collector.action_space,
            num_envs=n,
            total_steps=10**6,
            device="cpu",
            seeds=SeedStream(0, "learner"),
        )
    )
    return collector, learner.policy


def sync(n: int, rounds: int) -> None:
    """Print the share of SyncVectorEnv's speed."""
    collector, policy = collector_and_policy("Acrobot-v1", n, "sync")
    bare: Any = gymnasium.make_vec("Acrobot-v1", num_envs=n, vectorization_mode="sync")
    bare.reset(seed=0)
    actions = np.random.default_rng(0).integers(3, size=(T, n))
    collector.collect(policy)
    shares, speeds = [], []
    for _ in range(rounds):
        profile = Profile()
        profile.watch(policy, "act", "acting")
        profile.watch(collector, "collect", "collecting")
        for _ in range(3):
            collector.collect(policy)
        profile.close()
        began = time.perf_counter()
        for row in [*actions] * 3:
            bare.step(row)
        alone = time.perf_counter() - began
        shares.append(alone / profile.seconds["collecting"])
        speeds.append(3 * T * n / alone)
    collector.close()
    bare.close()
    shown = f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    print(f"sync, n={n}: {shown} of SyncVectorEnv's {statistics.median(speeds):,.0f} steps/s", flush=True)


def asynchronous(n: int) -> None:
    """Print the factor between processes and none."""
    seconds = {}
    for vectorization in ("sync", "async"):
        collector, policy = collector_and_policy("Sleepy-v0", n, vectorization)
        collector.collect(policy)
        began = time.perf_counter()
        collector.collect(policy)
        seconds[vectorization] = time.perf_counter() - began
        collector.close()
    factor = seconds["sync"] / seconds["async"]
    print(f"async, n={n}: {factor:.1f} times as fast as sync where a step sleeps 2 ms", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for n in (8, 16):
        sync(n, arguments.rounds)
    for n in (2, 8):
        asynchronous(n)


if __name__ == "__main__":
    main()
