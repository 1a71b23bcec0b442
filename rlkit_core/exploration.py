"""Exploration: noise on continuous actions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from rlkit_core.rollout import Tree


class Exploration(nn.Module):
    """Noise that a policy adds to the mean of its continuous actions when it samples.

    Seen from one step alone the noise is normal with mean 0 and the deviation of `log_std`, whatever the steps of an
    episode have to do with each other: so log-probabilities need no history. What is carried from step to step is the
    state, which a `StatefulPolicy` hands to the collector. Without a generator a policy acts by its mean and asks for
    no noise.
    """

    @abstractmethod
    def log_std(self, features: Tensor) -> Tensor:
        """Logarithm of the noise's deviation, `[B, A]`, given features `[B, F]`; differentiable where it is learned."""

    @abstractmethod
    def initial_state(self, num_envs: int) -> Tree:
        """State before the first step of an episode, a tree of tensors `[num_envs, ...]`."""

    @abstractmethod
    def noise(self, features: Tensor, state: Tree, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tree]:
        """Noise `[N, A]` of this step, and the state for the next.

        Args:
            features: `[N, F]`, of the network before its last layer.
            state: of all N environments.
            starts: `[N]` bool, True where an episode starts: nothing of the state is used there.
            generator: source of randomness.
        """
