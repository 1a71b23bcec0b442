"""Seeds: streams that never meet, the same in every process, and global generators that are given back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.seeding import SeedStream, global_generators

NAMES = st.lists(st.text(max_size=4) | st.integers(0, 1000), max_size=4)


def test_streams_are_what_they_were() -> None:
    """Fixed numbers: if they change, no stored run can be repeated."""
    stream = SeedStream(543).stream("environment", 3)
    assert (stream.integer(), stream.integer("x"), stream.integer(bits=64)) == (FIXED[0], FIXED[1], FIXED[2])
    assert stream.numpy("actions").integers(0, 2**63) == FIXED[3]
    assert SeedStream(0).integer() == FIXED[4]


FIXED = (1258353752, 125527059, 10809176424321577942, 5613330643063180188, 1838574579)


def test_the_same_in_every_process() -> None:
    code = "from rlkit_core.seeding import SeedStream; print(SeedStream(1, 'a', 2).integer('b'))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    assert answers == {f"{SeedStream(1, 'a', 2).integer('b')}\n"}


def test_neighbours_share_nothing() -> None:
    seeds = [
        SeedStream(seed).integer(name, index, bits=64)
        for seed in (*range(20), 2**32, 2**63 - 1)
        for name in ("environment", "actions", "learner", "0", "")
        for index in range(50)
    ]
    assert len(set(seeds)) == len(seeds)
    draws = [tuple(SeedStream(seed).numpy("a", i).integers(0, 2**63, 2)) for seed in range(10) for i in range(20)]
    assert len(set(draws)) == len(draws)


@given(NAMES, NAMES)
def test_a_stream_is_its_path(a: list[str | int], b: list[str | int]) -> None:
    assert SeedStream(1, *a).stream(*b).integer() == SeedStream(1).integer(*a, *b)
    assert (SeedStream(1).integer(*a, bits=64) == SeedStream(1).integer(*b, bits=64)) == (a == b)


def test_numbers_are_numbers_and_names_are_names() -> None:
    assert SeedStream(1).integer(3) == SeedStream(1).integer(np.int64(3))  # type: ignore[arg-type]
    assert SeedStream(1).integer(3) != SeedStream(1).integer("3")
    with pytest.raises(TypeError):
        SeedStream(1).integer(3.0)  # type: ignore[arg-type]


def test_seeds_fit_their_bits() -> None:
    for bits in (1, 31, 32, 64):
        seeds = [SeedStream(seed).integer(bits=bits) for seed in range(200)]
        assert 0 <= min(seeds) <= max(seeds) < 2**bits
        assert max(seeds) >= 2 ** (bits - 1)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))


def test_global_generators_are_seeded_and_given_back() -> None:
    def seed_all() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed_all()
    expected = draw()
    seed_all()
    inside = []
    for stream in (SeedStream(1), SeedStream(1), SeedStream(2)):
        with global_generators(stream):
            inside.append(draw())
    with suppress(KeyboardInterrupt), global_generators(SeedStream(3)):
        draw()
        raise KeyboardInterrupt
    with pytest.raises(TypeError), global_generators(SeedStream("x")):  # type: ignore[arg-type]
        pass
    assert draw() == expected
    assert inside[0] == inside[1]
    assert all(a != b for a, b in zip(inside[0], inside[2], strict=True))


def test_cuda_is_not_initialised() -> None:
    before = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with global_generators(SeedStream(1)):
        pass
    assert torch.cuda.is_initialized() == before  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_seeded_and_given_back() -> None:
    torch.cuda.manual_seed_all(5)
    torch.rand(1, device="cuda")
    state = torch.cuda.get_rng_state()
    inside = []
    for _ in range(2):
        with global_generators(SeedStream(1)):
            inside.append(float(torch.rand(1, device="cuda")))
    assert inside[0] == inside[1]
    assert torch.equal(torch.cuda.get_rng_state(), state)
