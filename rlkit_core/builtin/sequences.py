"""Rows of a rollout in their order in time, for networks that remember."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlkit_core.rollout import Tree, tree_map


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of T observations, one per environment: what stands for observations where a network is recurrent.

    Attributes:
        obs: `[T, N, ...]`.
        starts: `[T, N]` bool: an episode starts, after the first row.
        valid: `[T, N]` bool: only these rows are learned from.
        state: of the network before the first row, a tree of `[N, ...]`.
    """

    obs: Tree
    starts: Tensor
    valid: Tensor
    state: Tree

    @property
    def num_lanes(self) -> int:
        """N."""
        return self.valid.shape[1]

    def lanes(self, lanes: Tensor) -> Sequences:
        """Only these environments' sequences."""
        return Sequences(
            tree_map(lambda leaf: leaf[:, lanes], self.obs),
            self.starts[:, lanes],
            self.valid[:, lanes],
            tree_map(lambda leaf: leaf[lanes.to(leaf.device)], self.state),
        )

    def rows(self, lanes: Tensor) -> Tensor:
        """Where the valid rows of these environments are among all valid rows, in the order that `lanes` has them."""
        numbers = (self.valid.flatten().cumsum(0) - 1).view(self.valid.shape)
        return numbers[:, lanes][self.valid[:, lanes]]
