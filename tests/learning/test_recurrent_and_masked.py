"""Memory and action masks, apart and together: parts that a2c and ppo know nothing of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learning_cases import fit, one_thread  # noqa: F401

from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
from rlkit_core.builtin.networks import GRUConfig, LSTMConfig, MLPConfig
from rlkit_core.builtin.policies import ActorCriticConfig, MaskedConfig
from rlkit_core.component import AlgorithmConfig
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.seeding import SeedStream
from rlkit_core.testing import probes
from rlkit_ppo.config import PPOConfig

SMALL = MLPConfig(hidden=(32,), activation="tanh")
NETWORKS: dict[str, Any] = {
    "lstm": LSTMConfig(hidden_size=32, below=SMALL),
    "gru": GRUConfig(hidden_size=32, below=SMALL),
    "mlp": SMALL,
}
CONFIGS: dict[str, Any] = {
    "a2c": A2CConfig(collector=StepsConfig(num_envs=8, num_steps=16), learning_rate=7e-3, entropy_coef=0.01),
    "ppo": PPOConfig(
        collector=StepsConfig(num_envs=8, num_steps=64),
        minibatch_size=128,
        epochs=6,
        learning_rate=3e-3,
        entropy_coef=0.01,
    ),
}
STEPS = {"a2c": 6_000, "ppo": 5_000}


def config_of(algorithm: str, network: str, *, masked: bool = False, **settings: Any) -> AlgorithmConfig:
    config = CONFIGS[algorithm]
    present = {name: getattr(config, name) for name in type(config).model_fields}
    policy = MaskedConfig() if masked else ActorCriticConfig()
    parts = {"network": NETWORKS[network], "policy": policy, "value_network": "shared"}
    return type(config)(**{**present, **parts, **settings})  # type: ignore[no-any-return]


def learned(config: AlgorithmConfig, probe: type[probes.Probe], seed: int, total_steps: int) -> float:
    """Mean return of 100 greedy episodes."""
    learner = fit(config, probe.id, total_steps, seed)
    return evaluate_policy(learner.policy, GymnasiumConfig(id=probe.id), SeedStream(seed, "evaluate"), 100, 100).mean


ALGORITHMS = pytest.mark.parametrize("algorithm", CONFIGS)
RECURRENT = pytest.mark.parametrize(
    ("network", "seed"), [("lstm", 0), pytest.param("lstm", 1, marks=pytest.mark.thorough), ("gru", 0)]
)


# With these settings 5 of 5 seeds came to the same; of ppo with gru, where both are asked for, 4.


@ALGORITHMS
@RECURRENT
def test_what_was_seen_is_remembered(algorithm: str, network: str, seed: int) -> None:
    assert learned(config_of(algorithm, network), probes.Recall, seed, STEPS[algorithm]) == 1.0


@ALGORITHMS
def test_without_memory_it_cannot_be(algorithm: str) -> None:
    """100 episodes whose returns are -1 or 1 with the same probability: a mean of 0.4 is four deviations off."""
    assert abs(learned(config_of(algorithm, "mlp"), probes.Recall, 0, STEPS[algorithm])) < 0.4


@ALGORITHMS
def test_masks_keep_what_is_forbidden_from_the_environment(algorithm: str) -> None:
    """It raises otherwise. Of every mask the policy takes the best, so that the mean is 34/45; any allowed: 1/2."""
    policy = fit(config_of(algorithm, "mlp", masked=True), probes.Masked.id, 6_000).policy
    masks = torch.tensor([[number >> i & 1 for i in range(4)] for number in range(1, 16)], dtype=torch.int8)
    actions = policy.act({"obs": torch.ones(15, 1), "action_mask": masks}).action
    assert masks.gather(1, actions.unsqueeze(1)).all()
    assert actions.float().mean() / 3 > 0.7


@ALGORITHMS
@RECURRENT
def test_both_together(algorithm: str, network: str, seed: int) -> None:
    config = config_of(algorithm, network, masked=True)
    assert learned(config, probes.MaskedRecall, seed, STEPS[algorithm]) == 1.0


@ALGORITHMS
@pytest.mark.thorough
def test_endless_reward_has_its_value(algorithm: str) -> None:
    """10 in every step, which only a limit of 20 steps ends: it can count them, and must not see an end in that.

    The first two steps of an episode, before its state has settled, are seldom and learned late.
    """
    estimator = (DiscountedConfig if algorithm == "a2c" else LambdaConfig)(gamma=0.9, normalize="off")
    config = config_of(algorithm, "lstm", estimator=estimator, value_network="separate", normalize_observations=False)
    learner = fit(config, probes.RewardForEver.id, 15_000 if algorithm == "a2c" else 6_000)
    collector = config.collector.build(GymnasiumConfig(id=probes.RewardForEver.id), SeedStream(5), "cpu")
    collector.collect(learner.policy)
    rollout = collector.collect(learner.policy)
    assert rollout.truncated.any()
    values, next_values = learner.policy.values(rollout)
    settled = ~rollout.starts
    settled[1:] &= ~rollout.starts[:-1]
    np.testing.assert_allclose(values[settled], 10.0, atol=0.7)
    np.testing.assert_allclose(next_values[settled], 10.0, atol=0.7)
    assert settled[rollout.truncated].all()
