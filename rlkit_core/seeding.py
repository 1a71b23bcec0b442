"""Randomness: everything random in a run comes from its seed by named streams (numpy's `SeedSequence`).

Streams never overlap, whatever the seeds of neighbouring runs: `seed + i` would share environments between runs.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


class SeedStream:
    """A point in the tree of seeds: a root seed and the names that lead here.

    Args:
        seed: the run's seed.
        path: names and numbers from the root to here.
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        self.seed = seed
        self.path = path

    def stream(self, *names: str | int) -> SeedStream:
        """The stream below this one with that name."""
        return SeedStream(self.seed, *self.path, *names)

    def integer(self, *names: str | int, bits: int = 31) -> int:
        """A seed of that many bits (31 at most fit every library) for the stream of that name."""
        return int(self._sequence(*names).generate_state(1, np.uint64)[0] >> np.uint64(64 - bits))

    def numpy(self, *names: str | int) -> np.random.Generator:
        """A numpy generator for the stream of that name."""
        return np.random.Generator(np.random.PCG64(self._sequence(*names)))

    def _sequence(self, *names: str | int) -> np.random.SeedSequence:
        # Names become numbers by a hash of their text: Python's own hash() differs from process to process.
        texts = [repr(name if isinstance(name, str) else operator.index(name)) for name in (*self.path, *names)]
        key = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") for text in texts]
        return np.random.SeedSequence(self.seed, spawn_key=key)


def generator_states() -> dict[str, Any]:
    """Where the global generators of Python, numpy and torch stand."""
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Let them go on from there."""
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def global_generators(seeds: SeedStream) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators from the stream, and give the caller's back at the end.

    Torch's default dtype, of which new weights are, is float32 meanwhile, whatever the caller's is.
    """
    import torch

    before, dtype = generator_states(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        random.seed(seeds.integer("python"))
        np.random.seed(seeds.integer("numpy"))
        # Not torch.manual_seed, which would also look for every other kind of device.
        torch.default_generator.manual_seed(seeds.integer("torch"))
        # Where CUDA is not in use yet this only leaves a note for then: a run on the CPU must not initialise it.
        torch.cuda.manual_seed_all(seeds.integer("cuda"))
        yield
    finally:
        torch.set_default_dtype(dtype)
        set_generator_states(before)
