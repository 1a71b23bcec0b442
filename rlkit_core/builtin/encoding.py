"""From observations to feature vectors, and their running normalisation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rlkit_core.errors import UsageError
from rlkit_core.network import Network
from rlkit_core.rollout import Tree, tree_map


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
    if isinstance(space, (spaces.Dict, spaces.Tuple)) and len(space.spaces) > 0:
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
        flat = torch.as_tensor(obs)
        if len(space.shape) != 1:
            flat = flat.flatten(1) if space.shape else flat.unsqueeze(1)
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


def encode_arrays(obs: Tree, space: gymnasium.Space[Any]) -> NDArray[np.float32]:
    """The same of numpy arrays, and as an array."""
    if isinstance(space, spaces.Box):
        rows = obs.reshape(len(obs), encoded_size(space))
        return rows / np.float32(255) if rows.dtype == np.uint8 else rows.astype(np.float32, copy=False)  # type: ignore[no-any-return]
    features: NDArray[np.float32] = encode(obs, space).numpy()
    return features


def _device(obs: Any) -> torch.device:
    return obs.device if isinstance(obs, Tensor) else torch.device("cpu")


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, gymnasium.Space[Any]]]:
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
        self._boxes = [i for i, (_, part) in enumerate(leaves(space, space)) if _is_float_box(part)]
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        for i in self._boxes:  # number of the part in the space's own order
            part = leaves(space, space)[i][1]
            assert isinstance(part, spaces.Box)
            for statistic in ("mean", "m2"):
                self.register_buffer(f"{statistic}_{i}", torch.zeros(part.shape, dtype=torch.float64))
            # What `forward` uses, kept beside the exact statistics so that acting costs few operations. As precise as
            # the observations: a float64 one may differ from its mean by less than float32 can tell.
            precision = torch.float64 if np.dtype(part.dtype).itemsize > 4 else torch.float32
            self.register_buffer(f"shift_{i}", torch.zeros(part.shape, dtype=precision))
            self.register_buffer(f"scale_{i}", torch.ones(part.shape, dtype=precision))

    def forward(self, obs: Tree) -> Tree:
        """Normalised observations, the same tree of tensors or arrays; float32 where they were floats."""
        if isinstance(self._space, spaces.Box):
            return self._normalized(obs, 0) if self._boxes else obs
        return self._normalize(obs, self._space, itertools.count())

    def _normalize(self, obs: Tree, space: gymnasium.Space[Any], numbers: Iterator[int]) -> Tree:
        if isinstance(space, spaces.Dict):
            return {key: self._normalize(obs[key], part, numbers) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._normalize(obs[i], part, numbers) for i, part in enumerate(space.spaces))
        i = next(numbers)
        return self._normalized(obs, i) if i in self._boxes else obs

    def _normalized(self, obs: Any, i: int) -> Any:
        shift, scale = self._statistics(i, "shift", "scale")
        if isinstance(obs, Tensor):
            return ((obs - shift) * scale).clamp_(-10.0, 10.0).float()
        normalized = obs - shift.numpy()
        normalized = np.multiply(normalized, scale.numpy(), out=normalized)
        np.maximum(normalized, -10.0, out=normalized)
        np.minimum(normalized, 10.0, out=normalized)
        return normalized.astype(np.float32, copy=False)

    def _statistics(self, i: int, *names: str) -> list[Tensor]:
        # Past nn.Module's own access to its buffers, which takes as long as the arithmetic.
        buffers: Any = self._buffers
        return [buffers[f"{name}_{i}"] for name in names]

    @np.errstate(over="ignore", invalid="ignore")
    def update(self, obs: Tree) -> None:
        """Take newly collected observations `[B, ...]` into the statistics (parallel Welford, Chan et al. 1979)."""
        parts = leaves(obs, self._space)
        added = parts[0][0].shape[0] if self._boxes else 0
        if added == 0:
            return
        count = float(self.count)
        total = count + added
        for i in self._boxes:
            stored = self._statistics(i, "mean", "m2", "shift", "scale")
            mean, m2 = (statistic.cpu().numpy() for statistic in stored[:2])
            batch = torch.as_tensor(parts[i][0]).cpu().numpy().astype(np.float64)  # [B, ...]
            batch_mean = np.add.reduce(batch) / added
            batch -= batch_mean
            delta = batch_mean - mean
            m2 = m2 + np.add.reduce(np.square(batch, out=batch)) + delta * delta * (count * added / total)
            mean = mean + delta * (added / total)
            deviation = np.sqrt(m2 / total)
            # A part of the observation that is constant but for rounding says nothing: it becomes 0, whatever its size.
            constant = deviation <= 16 * torch.finfo(stored[2].dtype).eps * np.abs(mean)
            scale = np.where(constant, 0.0, 1.0 / np.maximum(deviation, 1e-30))
            for statistic, value in zip(stored, (mean, m2, mean, scale), strict=True):
                statistic.copy_(torch.from_numpy(np.asarray(value)))
        self.count.fill_(total)


_FEW = 256
"""Rows up to which an operation's overhead counts for more than its arithmetic."""


class Preprocessor(nn.Module):
    """What happens to observations before a network sees them: they are moved to it and, if wanted, normalised.

    Args:
        space: observation space.
        normalize: put an `ObservationNormalizer` in.
        device: where the networks are.
    """

    def __init__(self, space: gymnasium.Space[Any], *, normalize: bool, device: str = "cpu") -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(space) if normalize else None
        self._device = None if device == "cpu" else torch.device(device)

    def forward(self, obs: Tree) -> Tree:
        """Observations as the network takes them: the same tree, of tensors."""
        obs = tree_map(lambda leaf: torch.as_tensor(leaf, device=self._device), obs)
        return obs if self.normalizer is None else self.normalizer(obs)

    def for_acting(self, obs: Tree) -> tuple[Tree, bool]:
        """The same without gradient, as arrays if there are few rows; says whether they are for `on_arrays`."""
        if self._device is not None or len(_first_leaf(obs)) > _FEW:
            return self(obs), False
        obs = tree_map(lambda leaf: leaf.numpy() if isinstance(leaf, Tensor) else np.asarray(leaf), obs)
        return obs if self.normalizer is None else self.normalizer(obs), True

    def update(self, obs: Tree) -> None:
        """Take newly collected observations `[B, ...]` into the normalisation: at the end of a learner's update."""
        if self.normalizer is not None:
            self.normalizer.update(obs)


def features_for_acting(network: Network, preprocessor: Preprocessor, obs: Tree) -> Tensor:
    """Features of observations as the environment gave them, without gradient."""
    with np.errstate(over="ignore", invalid="ignore"):  # what has diverged is found in what comes of it
        obs, on_arrays = preprocessor.for_acting(obs)
        return torch.from_numpy(network.on_arrays(obs)) if on_arrays else network(obs)


def _first_leaf(tree: Tree) -> Any:
    # Arrays first, because asking for a Mapping takes ten times as long.
    while not isinstance(tree, (np.ndarray, Tensor)) and isinstance(tree, (Mapping, tuple)):
        tree = next(iter(tree.values() if isinstance(tree, Mapping) else tree))
    return tree


def _is_float_box(space: Any) -> bool:
    return isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"


def leaves(tree: Any, space: gymnasium.Space[Any]) -> list[tuple[Any, gymnasium.Space[Any]]]:
    """Leaves of a tree that has a space's structure, in the space's own order, each with its space."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return [leaf for key, part in _parts(space) for leaf in leaves(tree[key], part)]
    return [(tree, space)]
