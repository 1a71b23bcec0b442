"""Spaces, configs and small rollouts for the contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import AlgorithmConfig, Component, EnvironmentConfig, Setup
from rlkit_core.config import RunConfig
from rlkit_core.learner import Learner
from rlkit_core.registry import Registry
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators

OBS_SPACES: dict[str, gymnasium.Space[Any]] = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "Box of float64 without shape": spaces.Box(-1, 1, (), np.float64),
    "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "Discrete": spaces.Discrete(5, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32))),
    "Text": spaces.Text(5),
    "Graph": spaces.Graph(spaces.Box(0, 1, (2,), np.float32), None),
    "Sequence": spaces.Sequence(spaces.Discrete(2)),
}
ACTION_SPACES: dict[str, gymnasium.Space[Any]] = {
    "Discrete": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.float32([-2, 0]), np.float32([2, 5])),
    "Box of integers": spaces.Box(0, 5, (2,), np.int64),
    "Dict": spaces.Dict({"a": spaces.Discrete(2)}),
    "Tuple": spaces.Tuple((spaces.Discrete(2),)),
    "Text": spaces.Text(5),
}


class AnySpaces(gymnasium.Env[Any, Any]):
    """Random observations and rewards, episodes of random length; every third ends in a truncation."""

    def __init__(self, observation_space: Any, action_space: Any, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is no member of {self.action_space}"
        u = self.np_random.random()
        return self.observation_space.sample(), float(self.np_random.normal()), u < 0.1, 0.1 <= u < 0.15, {}


class AnyConfig(EnvironmentConfig):
    """Environments of given spaces, stepped one after the other."""

    name = "any"
    id: str = "any"
    observation_space: Any
    action_space: Any

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Any:
        import copy

        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        from rlkit_core.environment import CheckedEnv, Environments

        def one(index: int) -> Any:
            return CheckedEnv(AnySpaces(copy.deepcopy(self.observation_space), self.action_space), index)

        makers = [lambda i=i: one(i) for i in range(num_envs)]
        return Environments(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), seeds)


def build_from(config: AlgorithmConfig, observation_space: Any, action_space: Any, seed: int = 0) -> Learner:
    """A learner as the run would build it: global generators seeded first."""
    seeds = SeedStream(seed)
    with global_generators(seeds.stream("global")):
        setup = Setup(
            observation_space, action_space, config.collector.num_envs, 10_000, "cpu", seeds.stream("learner")
        )
        return config.build(setup)


def learn(
    config: AlgorithmConfig, learner: Learner, observation_space: Any, action_space: Any, updates: int, seed: int = 0
) -> tuple[list[dict[str, float]], list[Rollout]]:
    """Metrics and rollouts of some updates in environments of these spaces."""
    seeds = SeedStream(seed, "experience")
    env = AnyConfig(observation_space=observation_space, action_space=action_space)
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


QUICK = {"warmup_steps": 8, "batch_size": 16, "replay_size": 500, "epochs": 2}
"""Settings by the names they usually have, with which an algorithm learns something within a second."""


def quick(config: AlgorithmConfig, **settings: Any) -> AlgorithmConfig:
    """The same algorithm with a small network, and those of the settings that it has."""
    known = type(config).model_fields
    wanted: dict[str, Any] = {"network": MLPConfig(hidden=(16,)), **QUICK, **settings}
    if isinstance(config.collector, StepsConfig):
        num_steps = min(config.collector.num_steps, 16)
        wanted["collector"] = StepsConfig(num_envs=config.collector.num_envs, num_steps=num_steps)
    present = {name: getattr(config, name) for name in known}
    return type(config)(**{**present, **{name: value for name, value in wanted.items() if name in known}})


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states of a policy are equal bit for bit."""
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def registered(kind: str) -> list[str]:
    """Names of all installed parts of a kind, in full."""
    return [f"{entry.distribution}:{entry.name}" for entry in Registry().entries(kind)]


def default_of(kind: str, name: str) -> Component:
    """The part with its default settings."""
    return Registry().get(kind, name)()


def run_config(**slots: Any) -> RunConfig:
    """A run's config with these parts."""
    return RunConfig.parse({"env": "CartPole-v1", "tracker": "none", **slots}, registry=Registry())
