"""Adam on one flat buffer, with gradient clipping.

It is torch's own fused Adam in its functional form. Two reasons not to take `torch.optim.Adam`: the optimiser classes
import torch._dynamo, over a second at start-up; and with parameters and gradients as views of one buffer, norm,
clipping, step and zeroing are a few kernels instead of a few per parameter. A test holds it to `torch.optim.Adam`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam

from rlkit_core.errors import Diverged


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) with clipping of the global gradient norm.

    Args:
        parameters: what to optimise, all of one dtype and device; they become views of one buffer.
        learning_rate: step size; may be set before each step.
        max_grad_norm: gradients with a larger Euclidean norm are scaled down to it; None: never.
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        max_grad_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        parameters = list(parameters)
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self._betas = betas
        self._epsilon = epsilon
        with torch.no_grad():
            self._flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self._grad = torch.zeros_like(self._flat)
        offset = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.data = self._flat[offset : offset + size].view(parameter.shape)
            parameter.grad = self._grad[offset : offset + size].view(parameter.shape)
            offset += size
        self._exp_avg = torch.zeros_like(self._flat)
        self._exp_avg_sq = torch.zeros_like(self._flat)
        self._step = torch.zeros((), dtype=torch.float32, device=self._flat.device)

    def zero_grad(self) -> None:
        """Set all gradients to zero; they stay views of the buffer."""
        self._grad.zero_()

    def step(self) -> float:
        """Clip, and take a step against the gradients that backward passes have accumulated.

        Returns:
            the gradients' norm before clipping.

        Raises:
            Diverged: it is not finite; nothing was changed.
        """
        norm = float(torch.linalg.vector_norm(self._grad))
        if not math.isfinite(norm):
            raise Diverged("the gradient is not finite; no parameter has been changed by it")
        if self.max_grad_norm is not None:
            scale = self.max_grad_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
            if scale < 1.0:
                self._grad.mul_(scale)
        with torch.no_grad():
            adam(
                [self._flat],
                [self._grad],
                [self._exp_avg],
                [self._exp_avg_sq],
                [],
                [self._step],
                foreach=False,
                fused=True,
                capturable=False,
                differentiable=False,
                has_complex=False,
                grad_scale=None,
                found_inf=None,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=self.learning_rate,
                weight_decay=0.0,
                eps=self._epsilon,
                maximize=False,
            )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments, step count and learning rate."""
        return {
            "exp_avg": self._exp_avg,
            "exp_avg_sq": self._exp_avg_sq,
            "step": self._step,
            "learning_rate": self.learning_rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""
        for mine, name in ((self._exp_avg, "exp_avg"), (self._exp_avg_sq, "exp_avg_sq"), (self._step, "step")):
            if state[name].shape != mine.shape:  # copying would spread a single number over all
                raise ValueError(f"{name} is of shape {tuple(state[name].shape)}, not {tuple(mine.shape)}")
            mine.copy_(state[name])
        self.learning_rate = float(state["learning_rate"])
