"""Network: from observations to features."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from rlkit_core.rollout import Tree


class Network(nn.Module):
    """Maps observations of one space to features; encoding them (one-hot, flattening, image scaling) is its own part.

    Attributes:
        num_features: width of the output.
    """

    num_features: int

    @abstractmethod
    def forward(self, obs: Tree) -> Tensor:
        """Features `[B, num_features]` of observations `[B, ...]`, differentiable in the weights."""


class ParallelNetworks(nn.Module):
    """Several networks of one kind that see the same observations and share nothing.

    Attributes:
        num_features: width of the output of each.
    """

    num_features: int

    @abstractmethod
    def forward(self, obs: Tree) -> Tensor:
        """Features `[number, B, num_features]` of observations `[B, ...]`, differentiable in the weights."""

    @abstractmethod
    def one(self, index: int, obs: Tree) -> Tensor:
        """Features `[B, num_features]` of one of the networks."""
