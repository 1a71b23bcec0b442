"""Action values of continuous actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from rlkit_core.builtin.parallel import build_parallel
from rlkit_core.component import NetworkConfig
from rlkit_core.rollout import Tree


class Critics(nn.Module):
    """Several independent estimates of the action value Q(s, a).

    Args:
        observation_space: of a single environment.
        num_actions: numbers in an action, from -1 to 1 each.
        network: builds each one's network, which sees observation and action as one Tuple.
        number: how many.
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], num_actions: int, network: NetworkConfig, number: int = 2
    ) -> None:
        super().__init__()
        both = spaces.Tuple((observation_space, spaces.Box(-1.0, 1.0, (num_actions,), np.float32)))
        self.networks = build_parallel(network, both, number)
        heads = [nn.Linear(self.networks.num_features, 1) for _ in range(number)]
        self.weights = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))  # [number, 1, F]
        self.biases = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))  # [number, 1]

    def forward(self, obs: Tree, actions: Tensor) -> Tensor:
        """Values `[number, B]` of observations `[B, ...]` and actions `[B, A]`."""
        features = self.networks((obs, actions))  # [number, B, F]
        # A batched product with one column takes five times as long, forwards and backwards.
        return (features * self.weights).sum(2) + self.biases  # type: ignore[no-any-return]

    def first(self, obs: Tree, actions: Tensor) -> Tensor:
        """Values `[B]` of the first one alone."""
        return functional.linear(self.networks.one(0, (obs, actions)), self.weights[0], self.biases[0]).squeeze(1)
