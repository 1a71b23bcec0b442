"""Several networks of one kind, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit_core.component import NetworkConfig
from rlkit_core.network import Network, ParallelNetworks
from rlkit_core.rollout import Tree


def build_parallel(network: NetworkConfig, observation_space: gymnasium.Space[Any], number: int) -> ParallelNetworks:
    """Build several networks, in one where their kind can do that.

    Raises:
        UsageError: it cannot take such observations.
    """
    together = network.build_parallel(observation_space, number)
    return together or NetworkList([network.build(observation_space) for _ in range(number)])


class NetworkList(ParallelNetworks):
    """Networks that are evaluated one after the other.

    Args:
        networks: the networks.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.num_features = networks[0].num_features
        self.networks = nn.ModuleList(networks)

    def forward(self, obs: Tree) -> Tensor:
        """Features `[number, B, num_features]`."""
        return torch.stack([network(obs) for network in self.networks])

    def one(self, index: int, obs: Tree) -> Tensor:
        """Features `[B, num_features]` of one of the networks."""
        return self.networks[index](obs)  # type: ignore[no-any-return]

    def one_on_arrays(self, index: int, obs: Tree) -> NDArray[np.float32]:
        """Features `[B, num_features]` of one of the networks."""
        return self.networks[index].on_arrays(obs)  # type: ignore[operator, no-any-return]
