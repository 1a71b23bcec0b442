"""Noise on continuous actions: independent, correlated in time, or dependent on the state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlkit_core.builtin.dense import linear
from rlkit_core.component import Deviation
from rlkit_core.exploration import Exploration
from rlkit_core.rollout import Tree, tree_where

LOG_STD_RANGE = (-20.0, 2.0)
"""Bounds of a log-deviation that a network gives, from the code of Haarnoja et al. 2018, arXiv:1812.05905."""


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)


class _ScaledNoise(Exploration):
    """Noise of a unit process times a deviation that is fixed, a learned number per action, or given by the features.

    Args:
        num_features: F.
        num_actions: A.
        std: the deviation, or what it is at first.
        deviation: which of the three.
    """

    def __init__(self, num_features: int, num_actions: int, std: float, deviation: Deviation) -> None:
        super().__init__()
        self._num_actions = num_actions
        initial = torch.full((num_actions,), math.log(std))
        self._head = None
        if deviation == "from_features":
            self._head = nn.Linear(num_features, num_actions)
            with torch.no_grad():
                self._head.bias.add_(initial)
        elif deviation == "learned":
            self._log_std: Tensor = nn.Parameter(initial)
        else:
            # A buffer, so that it moves with the policy; not stored, because it is a setting.
            self.register_buffer("_log_std", initial, persistent=False)

    def log_std(self, features: Tensor) -> Tensor:
        """`[B, A]`."""
        if self._head is None:
            return self._log_std.expand(features.shape[0], -1)
        return linear(features, self._head).clamp(*LOG_STD_RANGE)


class GaussianNoise(_ScaledNoise):
    """Independent in each step."""

    def initial_state(self, num_envs: int) -> Tree:
        """Nothing."""
        return ()

    def noise(self, features: Tensor, state: Tree, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tree]:
        """`[N, A]`."""
        unit = _normal((features.shape[0], self._num_actions), features, generator)
        return self.log_std(features).exp() * unit, state


class OrnsteinUhlenbeckNoise(_ScaledNoise):
    """An Ornstein-Uhlenbeck process, stationary from its first step on.

        x[t+1] = exp(-theta) x[t] + sqrt(1 - exp(-2 theta)) n[t]        n[t] standard normal
        x[0]   = n[0]                                                   at the start of each episode

    The exact solution of dx = -theta x dt + sqrt(2 theta) dW at whole steps, with deviation 1 in every step (Uhlenbeck
    & Ornstein 1930). Lillicrap et al. 2016, arXiv:1509.02971, section 7, start from 0 instead, so that the noise grows
    in the course of an episode, and approximate the exponential.

    Args:
        num_features: F.
        num_actions: A.
        std: the deviation, or what it is at first.
        deviation: see `_ScaledNoise`.
        theta: return to zero per step.
    """

    def __init__(self, num_features: int, num_actions: int, std: float, deviation: Deviation, *, theta: float) -> None:
        super().__init__(num_features, num_actions, std, deviation)
        self._decay = math.exp(-theta)
        self._renewal = math.sqrt(-math.expm1(-2 * theta))

    def initial_state(self, num_envs: int) -> Tree:
        """The process of the step before, `[num_envs, A]`."""
        return torch.zeros(num_envs, self._num_actions)

    def noise(self, features: Tensor, state: Tree, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tree]:
        """`[N, A]`."""
        unit = _normal((features.shape[0], self._num_actions), features, generator)
        going_on = self._decay * state.to(unit.device) + self._renewal * unit
        process = tree_where(starts, unit, going_on)
        return self.log_std(features).exp() * process, process


class StateDependentNoise(Exploration):
    """Generalised state-dependent exploration (Raffin et al. 2022, arXiv:2005.05719, section 3).

        noise = z(s) W        z the features, W[i, j] normal with deviation sigma[i, j], drawn once per episode

    so that in one episode equal states get equal noise. Its deviation in a step is sqrt(z^2 sigma^2). The features pass
    no gradient to the network through it, as the paper has it.

    Args:
        num_features: F.
        num_actions: A.
        std: sigma, or what it is at first.
        deviation: `fixed`, or anything else for learned.
        resample_every: steps after which W is drawn anew within an episode; None: never.
    """

    def __init__(
        self,
        num_features: int,
        num_actions: int,
        std: float,
        deviation: Deviation,
        *,
        resample_every: int | None = None,
    ) -> None:
        super().__init__()
        self._shape = num_features, num_actions
        self._resample_every = resample_every
        initial = torch.full(self._shape, math.log(std))
        if deviation == "fixed":
            self.register_buffer("_log_std", initial, persistent=False)
        else:
            self._log_std: Tensor = nn.Parameter(initial)

    def log_std(self, features: Tensor) -> Tensor:
        """`[B, A]`."""
        variance = features.detach().square() @ (2 * self._log_std).exp()
        return 0.5 * (variance + 1e-6).log()

    def initial_state(self, num_envs: int) -> Tree:
        """W with deviation 1, `[num_envs, F, A]`, and for how many steps it has been in use, `[num_envs]`."""
        return torch.zeros(num_envs, *self._shape), torch.zeros(num_envs, dtype=torch.int64)

    def noise(self, features: Tensor, state: Tree, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tree]:
        """`[N, A]`."""
        unit, age = state
        unit, renewed = unit.to(features.device), starts.to(age.device)
        if self._resample_every is not None:
            renewed = renewed | (age == self._resample_every)
        if renewed.any():
            unit = tree_where(renewed, _normal(tuple(unit.shape), features, generator), unit)
        weights = unit * self._log_std.exp()  # with sigma as it is now, which may be learned meanwhile
        noise = torch.bmm(features.unsqueeze(1), weights).squeeze(1)
        return noise, (unit, torch.where(renewed, 0, age) + 1)
