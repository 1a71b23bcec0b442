"""Convolutional network for observations with images in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import conv2d

from rlkit_core.builtin.dense import linear
from rlkit_core.builtin.encoding import encode, encoded_size, leaves
from rlkit_core.builtin.mlp import orthogonal
from rlkit_core.errors import UsageError
from rlkit_core.network import Network
from rlkit_core.rollout import Tree


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is of images: a Box of three dimensions, or of two if its numbers are uint8."""
    if not isinstance(space, spaces.Box):
        return False
    return len(space.shape) == 3 or (len(space.shape) == 2 and space.dtype == np.uint8)


class CNN(Network):
    """Convolutions over each image, joined with whatever else is observed, then fully connected layers.

    With its default settings and one image it is the network of Mnih et al. 2015 ("Human-level control through deep
    reinforcement learning", Nature 518, methods, "Model architecture"). Images are Boxes of three dimensions, channels
    first or last, or of two; numbers of uint8 are scaled from [0, 255] to [0, 1] here. In a Dict or Tuple every image
    has convolutions of its own, and the rest is encoded as for the MLP and joined behind them.

    Args:
        observation_space: what `forward` takes batches of; at least one image is in it.
        filters: number of filters of each convolution.
        kernels: their widths, in pixels.
        strides: their steps, in pixels.
        hidden: width of each fully connected layer.
        init: `orthogonal` (gain sqrt(2), zero bias) or `default` (torch's).

    Raises:
        UsageError: there is no image, or one that is too small.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        filters: tuple[int, ...],
        kernels: tuple[int, ...],
        strides: tuple[int, ...],
        hidden: tuple[int, ...],
        init: str,
    ) -> None:
        super().__init__()
        encoded_size(observation_space)  # refuses what cannot be encoded
        self._space = observation_space
        parts = leaves(observation_space, observation_space)
        self._is_image = [is_image(part) for _, part in parts]
        if not any(self._is_image):
            raise UsageError(f"network cnn needs an image, a Box of two or three dimensions, not {observation_space}")
        stacks: list[tuple[nn.Conv2d, ...]] = []
        width = 0
        for part, image in zip((part for _, part in parts), self._is_image, strict=True):
            if not image:
                width += encoded_size(part)
                continue
            channels, *size = _channels_first(part.shape)
            for kernel, stride in zip(kernels, strides, strict=True):
                size = [(pixels - kernel) // stride + 1 for pixels in size]
            if min(size) < 1:
                raise UsageError(
                    f"images of {part} are too small for kernels {list(kernels)} with strides {list(strides)}\n"
                    "take smaller ones: network.kernels, network.strides"
                )
            sizes = zip(pairwise([channels, *filters]), kernels, strides, strict=True)
            stacks.append(tuple(nn.Conv2d(a, b, kernel, stride) for (a, b), kernel, stride in sizes))
            width += filters[-1] * size[0] * size[1]
        layers = tuple(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))
        if init == "orthogonal":
            for conv in (conv for stack in stacks for conv in stack):
                orthogonal(conv, 2**0.5)
            for layer in layers:
                orthogonal(layer, 2**0.5)
        self.stacks = nn.ModuleList(nn.ModuleList(stack) for stack in stacks)
        self.layers = nn.ModuleList(layers)
        self._stacks, self._layers = tuple(stacks), layers  # walked without the modules' overhead, as in the MLP
        self.num_features = hidden[-1] if hidden else width

    def forward(self, obs: Tree) -> Tensor:
        """Features `[B, num_features]`."""
        features, stacks = [], iter(self._stacks)
        for (part, space), image in zip(leaves(obs, self._space), self._is_image, strict=True):
            if not image:
                features.append(encode(part, space))
                continue
            x = torch.as_tensor(part)
            x = x.float() / 255.0 if x.dtype is torch.uint8 else x.float()
            if x.dim() == 3:
                x = x.unsqueeze(1)
            elif not _has_channels_first(space.shape):
                x = x.permute(0, 3, 1, 2)
            for conv in next(stacks):
                x = torch.relu(conv2d(x, conv.weight, conv.bias, conv.stride))
            features.append(x.flatten(1))
        x = features[0] if len(features) == 1 else torch.cat(features, 1)
        for layer in self._layers:
            x = torch.relu(linear(x, layer))
        return x


def _has_channels_first(shape: Any) -> bool:
    """Whether the first of an image's three dimensions is its channels: the one that is shortest, else the last."""
    return bool(shape[0] < shape[-1])


def _channels_first(shape: Any) -> tuple[int, ...]:
    """Channels, height and width of an image."""
    if len(shape) == 2:
        return 1, *shape
    return shape if _has_channels_first(shape) else (shape[2], shape[0], shape[1])
