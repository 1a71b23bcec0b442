"""Exploration behind a warm-up of uniform actions, which ask for no noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit_core.builtin.explorations import OrnsteinUhlenbeckConfig, StateDependentConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import ExplorationConfig
from rlkit_sac.policy import SquashedGaussian
from rlkit_td3.policy import DeterministicPolicy

OBS, ACTIONS = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


def sac(exploration: ExplorationConfig, warming_up: Callable[[], bool]) -> Any:
    torch.manual_seed(0)
    network = MLPConfig(hidden=(4,))
    policy = SquashedGaussian(
        OBS, ACTIONS, network, exploration, warming_up, normalize_observations=False, device="cpu"
    )
    torch.nn.init.zeros_(policy.mean_head.weight)
    torch.nn.init.zeros_(policy.mean_head.bias)
    return policy, policy.network


def td3(exploration: ExplorationConfig, warming_up: Callable[[], bool]) -> Any:
    torch.manual_seed(0)
    network = MLPConfig(hidden=(4,))
    policy = DeterministicPolicy(
        OBS, ACTIONS, network, exploration, warming_up, normalize_observations=False, device="cpu"
    )
    torch.nn.init.zeros_(policy.actor.head.weight)
    torch.nn.init.zeros_(policy.actor.head.bias)
    return policy, policy.actor.network


@pytest.mark.parametrize("warm_steps", [0, 1, 3])
@pytest.mark.parametrize(
    "exploration", [OrnsteinUhlenbeckConfig(std=0.1), StateDependentConfig(std=0.1)], ids=lambda config: config.name
)
@pytest.mark.parametrize("build", [sac, td3])
def test_the_first_noise_is_as_large_as_any_though_the_warm_up_ends_within_an_episode(
    build: Any, exploration: ExplorationConfig, warm_steps: int
) -> None:
    N = 5000
    step = -1
    policy, network = build(exploration, lambda: step < warm_steps)
    obs, generator = torch.ones(N, 3), torch.Generator().manual_seed(0)
    state, starts = policy.initial_state(N), torch.ones(N, dtype=torch.bool)
    actions: Tensor = torch.zeros(0)
    for step in range(warm_steps + 1):  # noqa: B007 (the policy asks)
        actions, _, state, _ = policy.act(obs, state, starts, generator=generator)
        starts = torch.zeros(N, dtype=torch.bool)
    noise = actions.atanh() if build is sac else actions
    std = policy.exploration.log_std(network(obs)).exp()[0].detach()
    torch.testing.assert_close(noise.std(0), std, rtol=0.05, atol=0)
