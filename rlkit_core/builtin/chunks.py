"""Large batches in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlkit_core.builtin.sequences import Sequences
from rlkit_core.rollout import tree_map

LARGEST = 2_048
"""Rows whose features, at usual widths, stay in a core's cache from the forward pass to the backward one."""


def in_chunks(obs: Any, *rows: Tensor) -> Iterator[tuple[float, tuple[Any, ...]]]:
    """Parts of a batch, each with its share of the rows: what is summed over them is the same and takes half the time.

    Args:
        obs: `[B, ...]`, or `Sequences`, which stay whole.
        rows: `[B, ...]` each.
    """
    B = len(rows[0])
    if B <= LARGEST or isinstance(obs, Sequences):
        yield 1.0, (obs, *rows)
        return
    for start in range(0, B, LARGEST):
        chunk = slice(start, start + LARGEST)
        part = tree_map(lambda leaf: leaf[chunk], (obs, *rows))  # noqa: B023 (used at once)
        yield len(part[1]) / B, part


def minibatches(number: int, obs: Any, *rows: Tensor, generator: torch.Generator | None) -> Iterator[tuple[Any, ...]]:
    """A batch in random order, in parts that differ in size by one row at most.

    Of sequences the parts are whole ones, by environment: there may be fewer parts, and they may differ by a sequence.

    Args:
        number: of parts.
        obs: `[B, ...]`, or `Sequences` with B valid rows.
        rows: `[B, ...]` each.
        generator: source of randomness.
    """
    if isinstance(obs, Sequences):
        for lanes in torch.randperm(obs.num_lanes, generator=generator).tensor_split(min(number, obs.num_lanes)):
            index = obs.rows(lanes)
            if len(index):  # the only row may be a dummy
                yield obs.lanes(lanes), *(row[index.to(row.device)] for row in rows)
        return
    for part in torch.randperm(len(rows[0]), generator=generator).tensor_split(number):
        yield tree_map(lambda leaf: leaf[part.to(leaf.device)], (obs, *rows))  # noqa: B023 (used at once)
