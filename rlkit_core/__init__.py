"""rlkit: write, run and compare reinforcement-learning algorithms.

The public names are imported when they are first used, so that `import rlkit_core` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit_core.collector import Collector
    from rlkit_core.component import (
        AlgorithmConfig,
        CollectorConfig,
        EnvironmentConfig,
        EstimatorConfig,
        ExecutorConfig,
        ExplorationConfig,
        NetworkConfig,
        PolicyConfig,
        Setup,
        TrackerConfig,
    )
    from rlkit_core.config import RunConfig
    from rlkit_core.evaluation import Evaluation, evaluate
    from rlkit_core.executor import Executor
    from rlkit_core.exploration import Exploration
    from rlkit_core.hookspecs import hookimpl
    from rlkit_core.learner import Learner
    from rlkit_core.network import Network, RecurrentNetwork
    from rlkit_core.policy import Act, ActorCriticPolicy, Policy, StatefulPolicy
    from rlkit_core.registry import Registry
    from rlkit_core.returns import ReturnEstimator, Returns
    from rlkit_core.rollout import Episode, Rollout
    from rlkit_core.stored_policy import load_policy
    from rlkit_core.tracking import Tracker
    from rlkit_core.training import Result, resume, train

_MODULE_OF = {
    "Act": "policy",
    "ActorCriticPolicy": "policy",
    "AlgorithmConfig": "component",
    "Collector": "collector",
    "CollectorConfig": "component",
    "EnvironmentConfig": "component",
    "Episode": "rollout",
    "EstimatorConfig": "component",
    "Evaluation": "evaluation",
    "Executor": "executor",
    "ExecutorConfig": "component",
    "Exploration": "exploration",
    "ExplorationConfig": "component",
    "Learner": "learner",
    "Network": "network",
    "NetworkConfig": "component",
    "Policy": "policy",
    "PolicyConfig": "component",
    "RecurrentNetwork": "network",
    "Registry": "registry",
    "Result": "training",
    "ReturnEstimator": "returns",
    "Returns": "returns",
    "Rollout": "rollout",
    "RunConfig": "config",
    "Setup": "component",
    "StatefulPolicy": "policy",
    "Tracker": "tracking",
    "TrackerConfig": "component",
    "evaluate": "evaluation",
    "hookimpl": "hookspecs",
    "load_policy": "stored_policy",
    "resume": "training",
    "train": "training",
}

__all__ = [
    "Act",
    "ActorCriticPolicy",
    "AlgorithmConfig",
    "Collector",
    "CollectorConfig",
    "EnvironmentConfig",
    "Episode",
    "EstimatorConfig",
    "Evaluation",
    "Executor",
    "ExecutorConfig",
    "Exploration",
    "ExplorationConfig",
    "Learner",
    "Network",
    "NetworkConfig",
    "Policy",
    "PolicyConfig",
    "RecurrentNetwork",
    "Registry",
    "Result",
    "ReturnEstimator",
    "Returns",
    "Rollout",
    "RunConfig",
    "Setup",
    "StatefulPolicy",
    "Tracker",
    "TrackerConfig",
    "evaluate",
    "hookimpl",
    "load_policy",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rlkit_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rlkit_core.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
