"""A learner's own generator, as one of its parts."""

from __future__ import annotations

import torch

from rlkit_core.builtin.generator import SeededGenerator
from rlkit_core.seeding import SeedStream


def draw(generator: torch.Generator, n: int = 5) -> list[float]:
    return torch.rand(n, generator=generator).tolist()


def test_streams_are_told_apart_by_seed_path_and_name() -> None:
    streams = [
        SeededGenerator(SeedStream(0, "learner"), "updates"),
        SeededGenerator(SeedStream(0, "learner"), "replay"),
        SeededGenerator(SeedStream(1, "learner"), "updates"),
        SeededGenerator(SeedStream(0), "updates"),
        SeededGenerator(SeedStream(0, "learner", 1), "updates"),
    ]
    assert len({tuple(draw(generator)) for generator in streams}) == 5
    assert draw(SeededGenerator(SeedStream(0, "learner"), "updates")) == draw(
        SeededGenerator(SeedStream(0).stream("learner"), "updates")
    )


def test_it_is_a_generator_of_torchs() -> None:
    generator = SeededGenerator(SeedStream(0), "x")
    plain = torch.Generator().manual_seed(SeedStream(0).integer("x"))
    assert isinstance(generator, torch.Generator)
    assert generator.device.type == "cpu"
    for _ in range(2):
        assert draw(generator) == draw(plain)
    assert torch.equal(torch.randperm(9, generator=generator), torch.randperm(9, generator=plain))


def test_a_stored_state_goes_on() -> None:
    generator = SeededGenerator(SeedStream(0), "x")
    draw(generator, 1000)
    torch.randn(3, generator=generator)
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    other = SeededGenerator(SeedStream(5), "y")
    other.load_state_dict(state)
    expected = draw(generator, 100)
    assert draw(other, 100) == expected
    generator.load_state_dict(state)
    assert draw(generator, 100) == expected


def test_a_state_that_was_taken_does_not_move_on() -> None:
    generator = SeededGenerator(SeedStream(0), "x")
    state = generator.state_dict()
    before = state["state"].clone()
    first = draw(generator)
    assert torch.equal(state["state"], before)
    generator.load_state_dict(state)
    assert draw(generator) == first


def test_nobody_elses_randomness_is_touched() -> None:
    before = torch.random.get_rng_state()
    generator = SeededGenerator(SeedStream(0), "x")
    expected = draw(SeededGenerator(SeedStream(0), "x"), 10)
    first = draw(generator)
    torch.rand(3, generator=SeededGenerator(SeedStream(0), "y"))
    assert first + draw(generator) == expected
    assert torch.equal(torch.random.get_rng_state(), before)
