"""Learning a little in environments of any spaces, and states as files would hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from rlkit_core.component import AlgorithmConfig
from rlkit_core.learner import Learner
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.cases import any_env


def learn(
    config: AlgorithmConfig, learner: Learner, observation_space: Any, action_space: Any, updates: int, seed: int = 0
) -> tuple[list[dict[str, float]], list[Rollout]]:
    """Metrics and rollouts of some updates in environments of these spaces."""
    seeds = SeedStream(seed, "experience")
    env = any_env(observation_space, action_space, end=0.15)
    collector = config.collector.build(env, seeds, "cpu")
    metrics, rollouts = [], []
    with global_generators(seeds.stream("global")):
        for _ in range(updates):
            rollouts.append(collector.collect(learner.policy))
            metrics.append({name: float(value) for name, value in learner.update(rollouts[-1]).items()})
    collector.close()
    return metrics, rollouts


def copied(state: Any) -> Any:
    """A state as files would hold it: tensors of its own, and for the rest what JSON gives back."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, Mapping):
        return {key: copied(part) for key, part in state.items()}
    if isinstance(state, (list, tuple)):
        return [copied(part) for part in state]
    return json.loads(json.dumps(state))
