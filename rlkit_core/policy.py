"""Policy: what chooses actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlkit_core.rollout import Tree


class Act(NamedTuple):
    """What a policy answers: actions that are members of the action space, and whatever its learner wants back.

    Attributes:
        action: `[N, ...]`, a tensor (or tree of tensors) in the action space's own type and bounds.
        extras: `[N, ...]` each; they come back in `Rollout.extras`. The core reads none of it.
        state: only from a `StatefulPolicy`: what it wants back at the next step, a tree of `[N, ...]`.
    """

    action: Tree
    extras: Mapping[str, Tree] = {}
    state: Tree = None


class Policy(nn.Module):
    """Chooses actions for a batch of observations, as the environment gives them.

    Encoding (one-hot, flattening, image scaling) and observation normalisation are the policy's own business, so that
    a stored policy takes raw observations also a year later.

    Attributes:
        takes_arrays: whether `act` also takes numpy arrays. Collectors then hand on what the environment gave, else
            tensors of it.
    """

    takes_arrays: bool = False

    @abstractmethod
    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        """Choose actions.

        Args:
            obs: `[N, ...]`, the environment's own batched observation: tensors, or numpy arrays; not to be changed.
            generator: source of randomness to sample with. Without one the answer is the mode of the distribution:
                the most probable action, or the mean clipped to the bounds.
        """


class StatefulPolicy(Policy):
    """A policy that carries something from step to step: a recurrent network, correlated exploration noise.

    The collector owns the state: it starts from `initial_state`, and puts it back to it in the lanes where an episode
    starts. Evaluation keeps a state of its own.
    """

    @abstractmethod
    def initial_state(self, num_envs: int) -> Tree:
        """State before the first step of an episode, a tree of tensors `[num_envs, ...]`."""

    @abstractmethod
    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """Choose actions; as `Policy.act`, with the state per lane and `starts` `[N]`, True where an episode starts."""
