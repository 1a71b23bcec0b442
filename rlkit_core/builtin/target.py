"""Target networks: copies that follow a learned network slowly."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Target:
    """A copy of a network, to be learned towards.

    Args:
        source: the network that it follows.

    Attributes:
        network: the copy; it has no gradient.
    """

    def __init__(self, source: nn.Module) -> None:
        self.network = deepcopy(source).requires_grad_(False)
        self._mine: list[Tensor] = list(self.network.parameters())
        self._theirs: list[Tensor] = list(source.parameters())

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """Go the share `tau` of the way to the network; 1 copies it."""
        # One call for all: a loop over small tensors costs several times as much.
        if tau == 1:
            torch._foreach_copy_(self._mine, self._theirs)
        else:
            torch._foreach_lerp_(self._mine, self._theirs, tau)

    def state_dict(self) -> dict[str, Any]:
        """Its weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the weights back."""
        self.network.load_state_dict(state)
