"""Our Adam against torch's."""

from __future__ import annotations

import math
from itertools import zip_longest

import pytest
import torch
from torch import nn

from rlkit_core.builtin.adam import Adam
from rlkit_core.errors import Diverged

SHAPES = {
    "one number": [()],
    "a vector": [(5,)],
    "a network": [(64, 4), (64,), (64, 64), (64,), (2, 64), (2,), (1, 64), (1,)],
    "an odd tensor": [(3, 1, 2, 5), (1,), (7, 3)],
}


def twins(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> tuple[list, list]:
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    return ours, [nn.Parameter(p.detach().clone()) for p in ours]


def give_gradients(seed: int, ours: list, theirs: list) -> None:
    """Random gradients; those of `theirs` are new tensors, which only torch's optimiser reads."""
    generator = torch.Generator().manual_seed(seed)
    for a, b in zip_longest(ours, theirs):
        # Sizes over many orders, so that some steps are clipped and some are not.
        gradient = torch.randn(a.shape, generator=generator, dtype=a.dtype) * 10 ** (seed % 7 - 3)
        a.grad.copy_(gradient)
        if b is not None:
            b.grad = gradient.clone()


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize(
    ("dtype", "betas", "epsilon"),
    [(torch.float64, (0.9, 0.999), 1e-8), (torch.float64, (0.5, 0.9), 1e-5), (torch.float32, (0.9, 0.999), 1e-5)],
)
def test_is_torch_adam_with_clipping(shapes, max_grad_norm, dtype, betas, epsilon) -> None:
    ours, theirs = twins(shapes, dtype)
    mine = Adam(ours, 3e-3, max_grad_norm=max_grad_norm, betas=betas, epsilon=epsilon)
    reference = torch.optim.Adam(theirs, lr=3e-3, betas=betas, eps=epsilon)
    for step in range(100):
        mine.learning_rate = reference.param_groups[0]["lr"] = 3e-3 * (1 - step / 200)
        give_gradients(step, ours, theirs)
        expected_norm = torch.nn.utils.clip_grad_norm_(theirs, math.inf if max_grad_norm is None else max_grad_norm)
        assert mine.step() == pytest.approx(float(expected_norm), rel=1e-6)
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-7 if dtype is torch.float64 else 1e-5, atol=1e-7)


def test_parameters_and_gradients_are_views_of_one_buffer() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = Adam(network.parameters(), 1e-2)
    for p, value in zip(network.parameters(), before, strict=True):
        assert torch.equal(p.detach(), value)

    def storages() -> set[int]:
        return {p.untyped_storage().data_ptr() for p in network.parameters()}

    def gradient_storages() -> set[int]:
        return {p.grad.untyped_storage().data_ptr() for p in network.parameters()}

    first, first_gradient = storages(), gradient_storages()
    assert len(first) == len(first_gradient) == 1
    for _ in range(3):
        optimizer.zero_grad()
        assert not any(p.grad.any() for p in network.parameters())
        network(torch.ones(5, 3)).sum().backward()
        optimizer.step()
        network.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
        assert storages() == first
        assert gradient_storages() == first_gradient


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_changes_nothing(poison: float) -> None:
    ours, theirs = twins(SHAPES["a network"])
    optimizer = Adam(ours, 1e-2, max_grad_norm=0.5)
    give_gradients(0, ours, theirs)
    optimizer.step()
    parameters = [p.detach().clone() for p in ours]
    state = {name: torch.as_tensor(value).clone() for name, value in optimizer.state_dict().items()}
    give_gradients(1, ours, theirs)
    ours[2].grad[3, 3] = poison
    with pytest.raises(Diverged, match="gradient is not finite"):
        optimizer.step()
    for p, value in zip(ours, parameters, strict=True):
        assert torch.equal(p.detach(), value)
    for name, value in optimizer.state_dict().items():
        assert torch.equal(torch.as_tensor(value), state[name]), name


def test_state_goes_on_in_another_one() -> None:
    ours, theirs = twins(SHAPES["a network"])
    one, other = Adam(ours, 1e-2, max_grad_norm=0.5), Adam(theirs, 1e-2, max_grad_norm=0.5)
    for step in range(5):
        give_gradients(step, ours, [])
        one.step()
    # A state dict holds the tensors themselves, as torch's do: what is to be kept is copied.
    state = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in one.state_dict().items()
    }
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            b.copy_(a)
    other.load_state_dict(state)
    for step in range(5, 10):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad.copy_(torch.randn(a.shape, generator=generator, dtype=a.dtype))
            b.grad.copy_(a.grad)
        assert one.step() == other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_gradients_accumulate_until_zeroed() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter], 1e-2)
    for _ in range(2):
        parameter.sum().backward()
    assert parameter.grad.tolist() == [2.0, 2.0, 2.0]
    assert optimizer.step() == pytest.approx(math.sqrt(12))
    optimizer.zero_grad()
    assert parameter.grad.tolist() == [0.0, 0.0, 0.0]
