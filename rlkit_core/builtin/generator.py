"""A generator of torch that can be stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlkit_core.seeding import SeedStream


class SeededGenerator(torch.Generator):
    """A learner's own source of randomness, one of its parts.

    Args:
        seeds: the learner's stream.
        name: of the stream below it that this generator draws from.
        device: where what is drawn lives.
    """

    def __new__(cls, seeds: SeedStream, name: str, device: str = "cpu") -> SeededGenerator:  # noqa: D102
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, seeds: SeedStream, name: str, device: str = "cpu") -> None:
        self.manual_seed(seeds.integer(name))

    def state_dict(self) -> dict[str, Tensor]:
        """Where it stands."""
        return {"state": self.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.set_state(state["state"])
