"""Fully connected network over the flattened observation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit_core.builtin.dense import linear, linear_of, relu, tanh, weights
from rlkit_core.builtin.encoding import encode, encode_arrays, encoded_size
from rlkit_core.network import Network, ParallelNetworks
from rlkit_core.rollout import Tree


class MLP(Network):
    """Fully connected layers, each followed by the activation.

    Args:
        observation_space: what `forward` takes batches of.
        hidden: width of each layer.
        activation: `tanh` or `relu`.
        init: `orthogonal` (gain sqrt(2), zero bias; Saxe et al. 2014, arXiv:1312.6120) or `default` (torch's).
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], hidden: tuple[int, ...], activation: str, init: str
    ) -> None:
        super().__init__()
        self.space = observation_space
        self.activation = relu if activation == "relu" else tanh
        widths = [encoded_size(observation_space), *hidden]
        self.num_features = widths[-1]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        if init == "orthogonal":
            for layer in layers:
                orthogonal(layer, 2**0.5)
        self.layers = nn.ModuleList(layers)
        # Walking a ModuleList and calling modules costs several times a small layer's arithmetic, so `forward` goes
        # through a plain tuple and functions. Weights are read at each call: conversions may put new ones in place.
        self._layers = tuple(layers)

    def forward(self, obs: Tree) -> Tensor:
        """Features `[B, num_features]`."""
        x = encode(obs, self.space)
        for layer in self._layers:
            x = self.activation(linear(x, layer))
        return x

    def on_arrays(self, obs: Tree) -> NDArray[np.float32]:
        """Features `[B, num_features]`."""
        x = encode_arrays(obs, self.space)
        for layer in self._layers:
            x = self.activation(linear(x, layer))
        return x


class ParallelMLP(ParallelNetworks):
    """Several MLPs of the same shape, a layer of all of them in one operation.

    Args:
        networks: whose weights it takes over.
    """

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        self._space, self._activation = networks[0].space, networks[0].activation
        self.num_features = networks[0].num_features
        self._number = len(networks)
        layers = tuple(_ParallelLinear(same) for same in zip(*(network._layers for network in networks), strict=True))
        self.layers = nn.ModuleList(layers)
        self._layers = layers  # as in the MLP

    def forward(self, obs: Tree) -> Tensor:
        """Features `[number, B, num_features]`."""
        x = encode(obs, self._space).expand(self._number, -1, -1)
        for layer in self._layers:
            weight, bias = weights(layer)
            x = self._activation(torch.baddbmm(bias.unsqueeze(1), x, weight))
        return x

    def one(self, index: int, obs: Tree) -> Tensor:
        """Features `[B, num_features]` of one of the networks."""
        x = encode(obs, self._space)
        for layer in self._layers:
            x = self._activation(linear_of(index, x, layer))
        return x

    def one_on_arrays(self, index: int, obs: Tree) -> NDArray[np.float32]:
        """Features `[B, num_features]` of one of the networks."""
        x = encode_arrays(obs, self._space)
        for layer in self._layers:
            x = self._activation(linear_of(index, x, layer))
        return x


class _ParallelLinear(nn.Module):
    """Weights of linear layers of the same shape.

    They lie the other way round than torch's, [number, in, out]: with few inputs, going back takes half the time so.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Initialise a layer with orthogonal weights of that gain and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
