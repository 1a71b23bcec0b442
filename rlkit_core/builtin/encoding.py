"""From observations to feature vectors, and their running normalisation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rlkit_core.errors import UsageError
from rlkit_core.rollout import Tree


def encoded_size(space: gymnasium.Space[Any]) -> int:
    """Number of features that `encode` makes of one observation.

    Raises:
        UsageError: the space has no encoding; names it.
    """
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape, dtype=np.int64))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape, dtype=np.int64))
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return sum(encoded_size(part) for _, part in _parts(space))
    raise UsageError(
        f"observations of space {space} cannot be encoded\n"
        "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these can"
    )


def encode(obs: Tree, space: gymnasium.Space[Any]) -> Tensor:
    """Observations `[B, ...]` as float32 features `[B, encoded_size(space)]`.

    Box is flattened, with images (uint8) scaled to [0, 1]; Discrete and MultiDiscrete become one-hot; the parts of
    Dict and Tuple are joined in the space's own order.
    """
    if isinstance(space, spaces.Box):
        flat = torch.as_tensor(obs).flatten(1) if len(space.shape) != 1 else torch.as_tensor(obs)
        if flat.dim() == 1:
            flat = flat.unsqueeze(1)  # a Box of shape () gives [B]
        if flat.dtype is torch.float32:
            return flat
        return flat.float() / 255.0 if flat.dtype is torch.uint8 else flat.float()
    if isinstance(space, spaces.Discrete):
        return one_hot(torch.as_tensor(obs).long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        numbers = torch.as_tensor(obs).long().flatten(1) - torch.as_tensor(space.start.reshape(-1)).to(_device(obs))
        return torch.cat([one_hot(numbers[:, i], int(n)) for i, n in enumerate(space.nvec.reshape(-1))], 1).float()
    if isinstance(space, spaces.MultiBinary):
        return torch.as_tensor(obs).flatten(1).float()
    assert isinstance(space, (spaces.Dict, spaces.Tuple))
    return torch.cat([encode(obs[key], part) for key, part in _parts(space)], 1)


def _device(obs: Any) -> torch.device:
    return obs.device if isinstance(obs, Tensor) else torch.device("cpu")


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, gymnasium.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))


class ObservationNormalizer(nn.Module):
    """Running normalisation of the real-valued parts of observations: (x - mean) / deviation, clipped to [-10, 10].

    Its statistics change in `update` only: a learner calls it at the end of its own `update`, with the rows that were
    newly collected. So everything in between sees one frozen set.

    Args:
        space: observation space; parts of it that are no float Box pass through unchanged.
    """

    count: Tensor

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        super().__init__()
        self._space = space
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._names: list[str] = []
        for name, part in _float_boxes(space, "obs"):
            self._names.append(name)
            for statistic, start in (("mean", 0.0), ("m2", 0.0)):
                self.register_buffer(f"{name}_{statistic}", torch.full(part.shape, start, dtype=torch.float64))
            # What `forward` uses, kept beside the exact statistics so that acting costs two operations.
            self.register_buffer(f"{name}_shift", torch.zeros(part.shape))
            self.register_buffer(f"{name}_scale", torch.ones(part.shape))

    def forward(self, obs: Tree) -> Tree:
        """Normalised observations, the same tree; float32 where they were floats."""
        return self._apply_to(obs, self._space, "obs")

    def _apply_to(self, obs: Tree, space: gymnasium.Space[Any], name: str) -> Tree:
        if isinstance(space, spaces.Dict):
            return {key: self._apply_to(obs[key], part, f"{name}_{key}") for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._apply_to(obs[i], part, f"{name}_{i}") for i, part in enumerate(space.spaces))
        if name not in self._names:
            return obs
        shift, scale = getattr(self, f"{name}_shift"), getattr(self, f"{name}_scale")
        return ((torch.as_tensor(obs).float() - shift) * scale).clamp_(-10.0, 10.0)

    @torch.no_grad()
    def update(self, obs: Tree) -> None:
        """Take newly collected observations `[B, ...]` into the statistics (parallel Welford, Chan et al. 1979)."""
        leaves = {name: leaf for name, leaf in _select(obs, self._space, "obs") if name in self._names}
        if not leaves:
            return
        added = next(iter(leaves.values())).shape[0]
        if added == 0:
            return
        total = self.count + added
        for name, leaf in leaves.items():
            batch = torch.as_tensor(leaf).to(self.count.device, torch.float64)
            mean, m2 = getattr(self, f"{name}_mean"), getattr(self, f"{name}_m2")
            batch_mean = batch.mean(0)
            delta = batch_mean - mean
            m2 += (batch - batch_mean).square().sum(0) + delta.square() * self.count * added / total
            mean += delta * added / total
            deviation = (m2 / total).sqrt()
            # A constant part of the observation says nothing: it becomes 0, whatever its size.
            constant = deviation <= 1e-6 * mean.abs() + 1e-12
            getattr(self, f"{name}_shift").copy_(mean)
            getattr(self, f"{name}_scale").copy_(torch.where(constant, 0.0, 1.0 / deviation.clamp_min(1e-30)))
        self.count.copy_(total)


def _float_boxes(space: gymnasium.Space[Any], name: str) -> list[tuple[str, spaces.Box]]:
    return [(name, part) for name, part in _select(space, space, name) if _is_float_box(part)]


def _is_float_box(space: Any) -> bool:
    return isinstance(space, spaces.Box) and space.dtype is not None and np.dtype(space.dtype).kind == "f"


def _select(tree: Any, space: gymnasium.Space[Any], name: str) -> list[tuple[str, Any]]:
    """Leaves of a tree that has a space's structure, named as this module's buffers are."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _select(tree[key], part, f"{name}_{key}")]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, part in enumerate(space.spaces) for leaf in _select(tree[i], part, f"{name}_{i}")]
    return [(name, tree)]
