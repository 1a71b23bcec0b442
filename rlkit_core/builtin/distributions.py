"""Action distributions: from a policy network's outputs to members of the action space.

They are functions on tensors rather than `torch.distributions` objects: building those costs more than a small network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, nll_loss

from rlkit_core.builtin.action_bounds import ActionBounds, is_float_box
from rlkit_core.builtin.dense import Array, Numbers
from rlkit_core.errors import UsageError


class ActionDistribution(nn.Module, ABC):
    """A family of distributions over one action space.

    *Raw* actions are what the distribution is over; `to_space` makes members of the space of them, which for a bounded
    Box loses what lies outside. Learn from raw actions.

    Attributes:
        num_params: numbers per action that the network gives, `params` `[B, num_params]` below.
        lossless: whether `from_space` can have raw actions back.
        takes_arrays: whether `sample`, `mode` and `to_space` also take numpy arrays, and then give one.
    """

    num_params: int
    lossless = True
    takes_arrays = False

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """Draw raw actions `[B, ...]`."""

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor:
        """Most probable raw actions `[B, ...]`."""

    @abstractmethod
    def log_prob_and_entropy(self, params: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (density) of raw actions, and the distribution's entropy, in nats: `[B]` each."""

    @abstractmethod
    def to_space(self, raw: Tensor) -> Tensor:
        """Members of the action space `[B, ...]`, in its dtype."""

    def from_space(self, actions: Tensor) -> Tensor:
        """Raw actions of members of the space, where that is `lossless`."""
        raise NotImplementedError


def distribution_for(space: gymnasium.Space[Any]) -> ActionDistribution:
    """The distribution for an action space.

    Raises:
        UsageError: there is none for it; names the space.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space)
    if isinstance(space, spaces.Box) and is_float_box(space):
        return DiagonalGaussian(space)
    raise UsageError(
        f"actions of space {space} are not supported\nDiscrete, MultiDiscrete, MultiBinary and Box of floats are"
    )


class Categorical(ActionDistribution):
    """One of n choices; `params` are logits."""

    takes_arrays = True

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.num_params = int(space.n)
        self._start = int(space.start)

    def sample(self, params: Numbers, generator: torch.Generator) -> Numbers:
        """`[B]` int64, by the Gumbel-max trick (Gumbel 1954): argmax of logits plus Gumbel noise."""
        if isinstance(params, Tensor):
            return (params - torch.empty_like(params).exponential_(generator=generator).log_()).argmax(-1)
        noise = torch.empty(params.shape).exponential_(generator=generator).numpy()
        best: Array = (params - np.log(noise, out=noise)).argmax(-1)
        return best

    def mode(self, params: Numbers) -> Numbers:
        """`[B]` int64."""
        return params.argmax(-1)  # type: ignore[no-any-return]

    def log_prob_and_entropy(self, params: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """`[B]` each."""
        log_probs = params.log_softmax(-1)
        # nll_loss only picks; going back through it costs half of what `gather` costs.
        return -nll_loss(log_probs, raw, reduction="none"), -(log_probs.exp() * log_probs).sum(-1)

    def to_space(self, raw: Numbers) -> Numbers:
        """Counted from the space's start."""
        return raw + self._start if self._start else raw

    def from_space(self, actions: Tensor) -> Tensor:
        """Counted from 0."""
        return actions - self._start if self._start else actions


class MultiCategorical(ActionDistribution):
    """Several independent choices; `params` are their logits, one after the other."""

    start: Tensor

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        super().__init__()
        self._sizes = [int(n) for n in space.nvec.reshape(-1)]
        self._shape = space.shape
        self.num_params = sum(self._sizes)
        self.register_buffer("start", torch.from_numpy(space.start.astype(np.int64)), persistent=False)
        self._dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype

    def _parts(self, params: Tensor) -> tuple[Tensor, ...]:
        return torch.split_with_sizes(params, self._sizes, dim=-1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """`[B, number of choices]` int64."""
        noisy = params - torch.empty_like(params).exponential_(generator=generator).log_()
        return self.mode(noisy)

    def mode(self, params: Tensor) -> Tensor:
        """`[B, number of choices]` int64."""
        return torch.stack([part.argmax(-1) for part in self._parts(params)], -1)

    def log_prob_and_entropy(self, params: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the choices, `[B]` each."""
        logs = [part.log_softmax(-1) for part in self._parts(params)]
        log_prob = sum(part.gather(1, raw[:, i : i + 1]).squeeze(1) for i, part in enumerate(logs))
        entropy = -sum((part.exp() * part).sum(-1) for part in logs)
        assert isinstance(log_prob, Tensor)
        assert isinstance(entropy, Tensor)
        return log_prob, entropy

    def to_space(self, raw: Tensor) -> Tensor:
        """In the space's shape, counted from its start."""
        return (raw.view(raw.shape[0], *self._shape) + self.start).to(self._dtype)

    def from_space(self, actions: Tensor) -> Tensor:
        """Counted from 0."""
        return (actions.long() - self.start).flatten(1)


class Bernoulli(ActionDistribution):
    """Independent yes-or-no choices; `params` are their logits."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__()
        self._shape = space.shape
        self.num_params = int(np.prod(space.shape))

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """`[B, num_params]` of 0 and 1, floats."""
        return (torch.rand(params.shape, generator=generator, device=params.device) < params.sigmoid()).to(params.dtype)

    def mode(self, params: Tensor) -> Tensor:
        """`[B, num_params]` of 0 and 1, floats."""
        return (params > 0).to(params.dtype)

    def log_prob_and_entropy(self, params: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the choices, `[B]` each."""
        log_prob = -binary_cross_entropy_with_logits(params, raw, reduction="none").sum(-1)
        entropy = binary_cross_entropy_with_logits(params, params.sigmoid(), reduction="none").sum(-1)
        return log_prob, entropy

    def to_space(self, raw: Tensor) -> Tensor:
        """In the space's shape, int8."""
        return raw.view(raw.shape[0], *self._shape).to(torch.int8)

    def from_space(self, actions: Tensor) -> Tensor:
        """Flat floats."""
        return actions.flatten(1).float()


class DiagonalGaussian(ActionDistribution):
    """Normal distribution; `params` `[B, 2 num_params]` are the means and the logarithms of the deviations.

    The means come from the network, the deviations from an `Exploration`. Where both bounds of a dimension are finite,
    raw -1 and 1 stand for them; what lies outside the bounds is clipped.
    """

    lossless = False

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.bounds = ActionBounds(space)
        self.num_params = self.bounds.num_actions

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """`[B, num_params]`."""
        mean, log_std = params.chunk(2, -1)
        return mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)

    def mode(self, params: Tensor) -> Tensor:
        """The mean, `[B, num_params]`."""
        return params[:, : self.num_params]

    def log_prob_and_entropy(self, params: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the dimensions, `[B]` each."""
        mean, log_std = params.chunk(2, -1)
        distance = (raw - mean) * (-log_std).exp()
        log_prob = -(0.5 * distance.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        return log_prob, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def to_space(self, raw: Tensor) -> Tensor:
        """Scaled to the bounds and clipped, in the space's shape and dtype."""
        return self.bounds.to_space(raw)
