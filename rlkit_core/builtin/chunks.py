"""Large batches in parts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from rlkit_core.rollout import Tree, tree_map

LARGEST = 2_048
"""Rows whose features, at usual widths, stay in a core's cache from the forward pass to the backward one."""


def in_chunks(obs: Tree, *rows: Tensor) -> Iterator[tuple[float, tuple[Tree, ...]]]:
    """Parts of a batch, each with its share of the rows: what is summed over them is the same and takes half the time.

    Args:
        obs: `[B, ...]`.
        rows: `[B, ...]` each.
    """
    B = len(rows[0])
    if B <= LARGEST:
        yield 1.0, (obs, *rows)
        return
    for start in range(0, B, LARGEST):
        chunk = slice(start, start + LARGEST)
        part = tree_map(lambda leaf: leaf[chunk], (obs, *rows))  # noqa: B023 (used at once)
        yield len(part[1]) / B, part
