"""Policy: what chooses actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit_core.rollout import Rollout, Tree


class Act(NamedTuple):
    """What a policy answers: actions that are members of the action space, and whatever its learner wants back.

    Attributes:
        action: `[N, ...]`, a tensor (or tree of tensors) in the action space's own type and bounds.
        extras: `[N, ...]` each; they come back in `Rollout.extras`. The core reads none of it.
        state: only from a `StatefulPolicy`: what it wants back at the next step, a tree of `[N, ...]`.
        refused: where the policy has no answer to some observations, which rows those are, `[N]` bool, and what is
            wrong with them. The collector blames the environment, unless the action there is to be ignored.
    """

    action: Tree
    extras: Mapping[str, Tree] = {}
    state: Tree = None
    refused: tuple[NDArray[np.bool_], str] | None = None


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


class ActorCriticPolicy(Policy):
    """A policy with a value function: what a learner by policy gradient improves, whatever is inside.

    In an update it asks for the values of a rollout, picks what it learns from by `columns`, and evaluates that, or
    parts of it, as often as it likes.
    """

    @abstractmethod
    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Values of all observations and of all true successors, `[T, N]` each; see `Rollout.values`."""

    @abstractmethod
    def columns(self, rollout: Rollout, *rows: Tensor) -> tuple[Any, ...]:
        """Valid rows of a rollout: the observations, the actions as `evaluate` takes them, and rows `[T, N]` of more.

        Returns:
            Observations `[B, ...]`, or whatever else `evaluate` takes for them; then `[B, ...]` each.
        """

    @abstractmethod
    def evaluate(self, obs: Any, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, `[B]` each, differentiable.

        Args:
            obs: observations as `columns` gave them, or a part of them.
            taken: `[B, ...]`, the actions that belong to them.
        """

    @abstractmethod
    def update_normalization(self, obs: Any) -> None:
        """Take newly collected observations, as `columns` gave them, into statistics: at the end of an update."""
