"""What flows from a Collector to a Learner: a Rollout, what was seen and nothing computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Tree = Any
"""An observation or action batch as its space has it: a tensor, a dict of trees (Dict) or a tuple of trees (Tuple)."""

_LARGEST = 8_192
"""Observations evaluated at a time."""
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def tree_map(f: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `f` to each leaf of a tree (and to the leaves at the same place of others), keeping the structure."""
    if isinstance(tree, (Tensor, np.ndarray)):  # first, because asking for a Mapping takes ten times as long
        return f(tree, *others)
    if isinstance(tree, Mapping):
        return {key: tree_map(f, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(tree_map(f, *leaves) for leaves in zip(tree, *others, strict=True))
    return f(tree, *others)


def tree_where(mask: Tensor, tree: Tree, other: Tree) -> Tree:
    """Rows of `tree` where `mask` `[N]`, else of `other`; `[N, ...]` each."""

    def select(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.to(a.device).view(-1, *[1] * (a.dim() - 1)), a, b)

    return tree_map(select, tree, other)


def tree_leaves(tree: Tree, path: str = "") -> list[tuple[str, Any]]:
    """All leaves as `(path, leaf)`, the path being the keys joined by dots and empty where the tree is one leaf."""
    if isinstance(tree, Mapping):
        parts = list(tree.items())
    elif isinstance(tree, tuple):
        parts = [(str(i), leaf) for i, leaf in enumerate(tree)]
    else:
        return [(path, tree)]
    return [leaf for key, part in parts for leaf in tree_leaves(part, f"{path}.{key}" if path else str(key))]


class Episode(NamedTuple):
    """A finished episode as the environment gave it: undiscounted sum of rewards, and number of steps."""

    episode_return: float
    length: int


@dataclass(frozen=True, eq=False)
class FinalObservations:
    """True successors of steps after which the collector had to reset: `obs[k]` follows step `(time[k], lane[k])`.

    They exist only where the environment was reset within the step (autoreset modes SAME_STEP and DISABLED); in
    NEXT_STEP the successor simply is the next row.
    """

    time: Tensor  # [K] int64
    lane: Tensor  # [K] int64
    obs: Tree  # [K, ...]


@dataclass(frozen=True, eq=False)
class Rollout:
    """T steps of N environments, time first.

    All arrays are torch tensors in main memory that the collector does not write to again. A Learner copies what it
    keeps: a view would hold the whole rollout in memory, and whoever else has the rollout may write into it.
    Observations and actions are trees (`Tree`): tensors, or dicts and tuples of tensors for Dict and Tuple spaces.

    Attributes:
        all_obs: `[T+1, N, ...]`, what the environment gave, unflattened and unnormalised; row T follows the last step.
        finals: true successors where the next row already belongs to the next episode, else None.
        actions: `[T, N, ...]`, members of the action space: what the environment got.
        rewards: `[T, N]` float32, as the environment gave them.
        terminated: `[T, N]` bool: the world ended, nothing follows.
        truncated: `[T, N]` bool: we stopped looking, the successor still has a value.
        valid: `[T, N]` bool: False only on the dummy rows that NEXT_STEP autoreset inserts. Such rows are not steps.
        extras: whatever `Policy.act` added, `[T, N, ...]` each.
        episodes: the episodes that finished meanwhile.
        state: what a stateful policy carried when it saw the first row, a tree of `[N, ...]` on its own device.
    """

    all_obs: Tree
    actions: Tree
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    finals: FinalObservations | None = None
    extras: Mapping[str, Tree] = field(default_factory=dict)
    episodes: tuple[Episode, ...] = ()
    state: Tree = None

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N): rows, dummy rows included, and columns."""
        return self.rewards.shape[0], self.rewards.shape[1]

    @cached_property
    def num_steps(self) -> int:
        """Number of real transitions: calls of the environment's own `step`."""
        return int(self.valid.sum()) if not self._all_valid else self.rewards.numel()

    @cached_property
    def _all_valid(self) -> bool:
        return bool(self.valid.all())

    @cached_property
    def starts(self) -> Tensor:
        """`[T, N]` bool: an episode starts within the rollout. The first row never counts: `state` belongs to it."""
        starts = torch.zeros_like(self.valid)
        ended = self.terminated | self.truncated | ~self.valid
        torch.logical_and(ended[:-1], self.valid[1:], out=starts[1:])
        return starts

    @property
    def obs(self) -> Tree:
        """`[T, N, ...]`: the observation that each action answered."""
        return tree_map(lambda leaf: leaf[:-1], self.all_obs)

    @cached_property
    def next_obs(self) -> Tree:
        """`[T, N, ...]`: the true successor of each step, also at an episode's end."""
        finals = self.finals
        if finals is None:
            return tree_map(lambda leaf: leaf[1:], self.all_obs)

        def successors(leaf: Tensor, final: Tensor) -> Tensor:
            leaf = leaf[1:].clone()
            # By way of numpy, because torch cannot index unsigned integers beyond uint8.
            leaf.numpy()[finals.time.numpy(), finals.lane.numpy()] = final.numpy()
            return leaf

        return tree_map(successors, self.all_obs, finals.obs)

    def values(self, value: Callable[[Tree], Tensor]) -> tuple[Tensor, Tensor]:
        """Values of all observations and of all successors, each distinct observation evaluated once.

        Inside an episode `next_values[t]` therefore equals `values[t+1]` bit for bit.

        Args:
            value: maps observations `[B, ...]` to values `[B]`; called without gradient.

        Returns:
            `(values, next_values)`, each `[T, N]`, in main memory.
        """
        T, N = self.shape
        rows = (T + 1) * N
        batch = tree_map(lambda leaf: leaf.reshape(rows, *leaf.shape[2:]), self.all_obs)
        if self.finals is not None:
            batch = tree_map(lambda leaf, final: torch.cat([leaf, final]), batch, self.finals.obs)
        number = rows + (0 if self.finals is None else len(self.finals.time))
        with torch.no_grad():
            # So many at a time that their features stay in the cache.
            parts = [
                value(tree_map(lambda leaf: leaf[start : start + _LARGEST], batch))  # noqa: B023 (used at once)
                for start in range(0, max(number, 1), _LARGEST)
            ]
            all_values = (parts[0] if len(parts) == 1 else torch.cat(parts)).cpu()  # [(T+1)*N + K]
        grid = all_values[:rows].view(T + 1, N)
        next_values = grid[1:]
        if self.finals is not None:
            next_values = next_values.clone()
            next_values[self.finals.time, self.finals.lane] = all_values[rows:]
        return grid[:-1], next_values

    def columns(self, *trees: Tree) -> tuple[Tree, ...]:
        """Valid rows of each tree, `[T, N, ...]` to `[B, ...]`: to be called before a forward pass with gradient."""
        if self._all_valid:
            return tuple(tree_map(lambda leaf: leaf.flatten(0, 1), tree) for tree in trees)
        index = self.valid.flatten().nonzero().squeeze(1)

        def select(leaf: Tensor) -> Tensor:
            rows = leaf.flatten(0, 1)
            # The same, two times as fast, but not there for these types.
            return rows[index] if rows.dtype in _UNSIGNED else rows.index_select(0, index)

        return tuple(tree_map(select, tree) for tree in trees)

    def steps(self) -> Rollout:
        """The same transitions as single steps, `[1, B]`, valid rows only: for learners that ignore their order.

        Each successor is laid down as a final observation, because no row follows another one any more.
        """
        obs, next_obs, actions, rewards, terminated, truncated, extras = self.columns(
            self.obs, self.next_obs, self.actions, self.rewards, self.terminated, self.truncated, dict(self.extras)
        )
        B = rewards.shape[0]
        return Rollout(
            all_obs=tree_map(lambda now, then: torch.stack([now, then]), obs, next_obs),
            actions=tree_map(lambda leaf: leaf[None], actions),
            rewards=rewards[None],
            terminated=terminated[None],
            truncated=truncated[None],
            valid=torch.ones(1, B, dtype=torch.bool),
            extras=tree_map(lambda leaf: leaf[None], extras),
            episodes=self.episodes,
        )
