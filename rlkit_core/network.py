"""Network: from observations to features."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit_core.rollout import Tree, tree_map


class Network(nn.Module):
    """Maps observations of one space to features; encoding them (one-hot, flattening, image scaling) is its own part.

    Attributes:
        num_features: width of the output.
    """

    num_features: int

    @abstractmethod
    def forward(self, obs: Tree) -> Tensor:
        """Features `[B, num_features]` of observations `[B, ...]`, differentiable in the weights."""

    def on_arrays(self, obs: Tree) -> NDArray[np.float32]:
        """The same on numpy arrays, without gradient: policies act by it where there are few observations.

        To be overridden by networks to which numpy does the same in less time.
        """
        with torch.no_grad():
            features: NDArray[np.float32] = self(tree_map(torch.from_numpy, obs)).numpy()
        return features


class RecurrentNetwork(Network):
    """A network that remembers: its features depend on the observations before, by way of a state.

    The config that builds it says so with `recurrent = True`. The state belongs to the policy, which hands it to the
    collector: one per environment, each row of it on its own.
    """

    @abstractmethod
    def initial_state(self, num_envs: int) -> Tree:
        """State before the first observation of an episode, a tree of tensors `[num_envs, ...]`."""

    @abstractmethod
    def forward(self, obs: Tree, state: Tree, starts: Tensor) -> tuple[Tensor, Tree]:  # type: ignore[override]
        """Features of T observations in a row in each of N environments, differentiable in the weights.

        Args:
            obs: `[T * N, ...]`, one row of N after the other.
            state: before the first row; not to be changed.
            starts: `[T, N]` bool, True where an episode starts: there the state is the initial one again.

        Returns:
            features `[T * N, num_features]`, and the state after the last row.
        """


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

    def one_on_arrays(self, index: int, obs: Tree) -> NDArray[np.float32]:
        """`one` on numpy arrays, without gradient; see `Network.on_arrays`."""
        with torch.no_grad():
            features: NDArray[np.float32] = self.one(index, tree_map(torch.from_numpy, obs)).numpy()
        return features
