"""Numbers that several learners log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def explained_variance(targets: Tensor, advantages: Tensor) -> float:
    """Share of the returns' variance that the values explain, 1 - Var(G - V) / Var(G); 0 where G does not vary.

    Args:
        targets: G, `[B]`.
        advantages: G - V, `[B]`, in the same unit.
    """
    if targets.numel() < 2:
        return 0.0
    total = float(targets.var())
    return 1.0 - float(advantages.var()) / total if total > 0 else 0.0


def mean_metrics(metrics: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """Means over several gradient steps, each metric over the steps that have it."""
    names = dict.fromkeys(name for step in metrics for name in step)
    means = {}
    for name in names:
        numbers = [step[name] for step in metrics if name in step]
        tensors = [number for number in numbers if isinstance(number, Tensor)]
        total = float(torch.stack(tensors).double().sum()) if tensors else 0.0
        total += sum(number for number in numbers if not isinstance(number, Tensor))
        means[name] = total / len(numbers)
    return means
