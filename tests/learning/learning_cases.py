"""The loop alone, without evaluations or files: what learning tests train with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import AlgorithmConfig, Setup
from rlkit_core.seeding import SeedStream, global_generators


def fit(config: AlgorithmConfig, env: str | GymnasiumConfig, total_steps: int, seed: int = 0) -> Any:
    """Collect and update until the budget is used up; returns the learner."""
    seeds = SeedStream(seed)
    env = GymnasiumConfig(id=env) if isinstance(env, str) else env
    with global_generators(seeds.stream("global")):
        collector = config.collector.build(env.resolve(config.collector.num_envs), seeds.stream("collector"), "cpu")
        spaces = collector.observation_space, collector.action_space
        num_envs = config.collector.num_envs
        learner = config.build(Setup(*spaces, num_envs, total_steps, "cpu", seeds.stream("learner")))
        steps = 0
        while steps < total_steps:
            rollout = collector.collect(learner.policy)
            learner.update(rollout)
            steps += rollout.num_steps
        collector.close()
    return learner


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread of torch, as in runs: with two, small networks are slower. Import it to use it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
