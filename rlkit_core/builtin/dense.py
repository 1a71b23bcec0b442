"""Layers and activations, on tensors or on numpy arrays.

Tensors are for learning; arrays are for acting, on few rows and without gradient. They give the same to rounding. But
an operation of torch on a few numbers takes 5 to 13 µs between the steps of an environment, where the caches have
forgotten its long way to the arithmetic by the next call, and one of numpy 1 to 3.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
Numbers = TypeVar("Numbers", Tensor, Array)

_SMALL_PRODUCT = 2**18
"""Multiplications up to which numpy's OpenBLAS stays on the calling thread."""
_LARGE = 2**13
"""Numbers from which the detour by way of numpy is worth its overhead in a pass with gradient."""


def linear(x: Numbers, layer: nn.Linear) -> Numbers:
    """`[B, out]`, what the layer makes of x `[B, in]`, its hooks aside."""
    weight, bias = weights(layer)
    if isinstance(x, Tensor):
        return functional.linear(x, weight, bias)
    return _affine(x, weight.detach().numpy().T, bias.detach().numpy())


def linear_of(index: int, x: Numbers, layer: nn.Module) -> Numbers:
    """`[B, out]` of one of several layers: x `[B, in]`, their weights `[number, in, out]`, biases `[number, out]`."""
    weight, bias = weights(layer)
    if isinstance(x, Tensor):
        return torch.addmm(bias[index], x, weight[index])
    return _affine(x, weight.detach().numpy()[index], bias.detach().numpy()[index])


def weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, past nn.Module's own access to them, which takes as long as a small product."""
    parameters: Any = layer._parameters
    return parameters["weight"], parameters["bias"]


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    if len(x) * weight.size > _SMALL_PRODUCT:
        product: Array = torch.addmm(torch.from_numpy(bias), torch.from_numpy(x), torch.from_numpy(weight)).numpy()
        return product
    y: Array = x @ weight
    y += bias
    return y


def relu(x: Numbers) -> Numbers:
    """Positive part, in place: nobody else sees what a layer gives."""
    return torch.relu_(x) if isinstance(x, Tensor) else np.maximum(x, 0, out=x)


def tanh(x: Numbers) -> Numbers:
    """Hyperbolic tangent, the same to rounding as torch's, whose own takes up to eight times as long on a CPU."""
    if not isinstance(x, Tensor):
        return np.tanh(x, out=x)
    if not x.is_cpu or x.dtype is not torch.float32:
        return torch.tanh(x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return torch.from_numpy(np.tanh(x.detach().numpy()))
    return _Tanh.apply(x) if x.numel() >= _LARGE else torch.tanh(x)  # type: ignore[no-untyped-call]


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, y)  # type: ignore[no-any-return]
