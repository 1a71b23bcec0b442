"""Action masks: which actions an observation allows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit_core.builtin.dense import Numbers
from rlkit_core.errors import UsageError
from rlkit_core.rollout import Tree

_NEVER = -1e9
"""A logit whose probability is exactly 0 beside any other; finite, so that 0 times its logarithm is 0."""


class ActionMask:
    """Takes the mask out of Dict observations, and forbidden actions out of a distribution's logits.

    After Huang & Ontañón 2022, "A closer look at invalid action masking in policy gradient algorithms"
    (arXiv:2006.14171): the logits of forbidden actions are replaced, so that no gradient passes through them.

    Args:
        observation_space: a Dict in which the mask is one entry: for each action a number, 0 where it is forbidden.
        action_space: Discrete or MultiDiscrete, whose choices' masks stand one after the other.
        key: of that entry.

    Attributes:
        seen_space: of what is left for the network: a Dict, or where one entry is left, its space.

    Raises:
        UsageError: there is no such entry, it does not fit the actions, or these cannot be masked.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], key: str) -> None:
        if isinstance(action_space, spaces.Discrete):
            self._sizes = [int(action_space.n)]
        elif isinstance(action_space, spaces.MultiDiscrete):
            self._sizes = [int(n) for n in action_space.nvec.reshape(-1)]
        else:
            raise UsageError(
                f"actions of space {action_space} cannot be masked: Discrete and MultiDiscrete can\n"
                "take --policy actor-critic"
            )
        if not isinstance(observation_space, spaces.Dict) or key not in observation_space.spaces:
            raise UsageError(
                f"observations have no {key!r}, where policy masked finds the mask of actions: {observation_space}\n"
                "they should be a Dict with such an entry; another name: --policy.mask-key"
            )
        self._key = key
        space, total = observation_space.spaces[key], sum(self._sizes)
        shapes: list[tuple[int, ...]] = [(total,)]
        if len(set(self._sizes)) == 1:
            shapes.append((*(action_space.shape or ()), self._sizes[0]))
        if not isinstance(space, (spaces.Box, spaces.MultiBinary)) or space.shape not in shapes:
            raise UsageError(
                f"the action mask {key!r} is {space}, which does not fit actions {action_space}\n"
                f"it should be a MultiBinary or Box of shape ({total},): a number per action, 0 where it is forbidden"
            )
        rest = [(name, part) for name, part in observation_space.spaces.items() if name != key]
        if not rest:
            raise UsageError(f"observations have nothing but the mask {key!r}: {observation_space}")
        self._alone = rest[0][0] if len(rest) == 1 else None
        self.seen_space: gymnasium.Space[Any] = rest[0][1] if self._alone is not None else spaces.Dict(rest)

    def seen(self, obs: Tree) -> Tree:
        """What the network sees of observations."""
        if self._alone is not None:
            return obs[self._alone]
        return {name: part for name, part in obs.items() if name != self._key}

    def allowed(self, obs: Tree) -> Any:
        """`[B, actions]` bool, as tensor or array like the observations."""
        mask = obs[self._key] != 0
        return mask.reshape(len(mask), -1)

    def nothing_allowed(self, allowed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str] | None:
        """Rows in which a choice has no action left, `[B]` bool, and what is wrong with them; None where all have."""
        stuck = np.zeros(len(allowed), np.bool_)
        begin = 0
        for size in self._sizes:
            stuck |= ~allowed[:, begin : begin + size].any(1)
            begin += size
        return (stuck, f"obs.{self._key} forbids every action") if stuck.any() else None

    def apply(self, logits: Numbers, allowed: Any) -> Numbers:
        """Logits with forbidden actions taken out."""
        if isinstance(logits, Tensor):
            return logits.masked_fill(~torch.as_tensor(allowed, device=logits.device), _NEVER)
        masked: NDArray[Any] = np.where(allowed, logits, np.float32(_NEVER))
        return masked
