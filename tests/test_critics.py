"""Values of continuous actions: critics, the copies that follow them, and the bounds of the actions."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from test_distributions import BOXES
from test_encoding import batch
from torch import Tensor, nn

from rlkit_core.builtin.action_bounds import ActionBounds, bounds_for
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.critics import Critics
from rlkit_core.builtin.networks import CNNConfig, MLPConfig
from rlkit_core.builtin.target import Target
from rlkit_core.component import NetworkConfig
from rlkit_core.errors import UsageError

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
MIXED = spaces.Dict({"image": spaces.Box(0, 255, (6, 6, 1), np.uint8), "number": spaces.Discrete(3)})
NETWORKS: dict[str, tuple[NetworkConfig, gymnasium.Space[Any]]] = {
    "mlp": (MLPConfig(hidden=(8,)), VECTOR),
    "mlp of a Dict": (MLPConfig(hidden=(8, 6), activation="tanh"), MIXED),
    "linear": (MLPConfig(hidden=()), VECTOR),
    "cnn": (CNNConfig(filters=(4,), kernels=(3,), strides=(2,), hidden=(8,)), MIXED),
}
EVERY_NETWORK = pytest.mark.parametrize(("config", "space"), NETWORKS.values(), ids=NETWORKS)


def critics_for(config: NetworkConfig, space: gymnasium.Space[Any], number: int = 2) -> tuple[Critics, Any, Tensor]:
    """Critics of actions of two numbers, with five observations and actions."""
    torch.manual_seed(0)
    return Critics(space, 2, config, number), batch(space)[1], torch.rand(5, 2) * 2 - 1


# Critics


@EVERY_NETWORK
@pytest.mark.parametrize("number", [1, 2, 3])
def test_values(config: NetworkConfig, space: gymnasium.Space[Any], number: int) -> None:
    critics, obs, actions = critics_for(config, space, number)
    values = critics(obs, actions)
    assert values.shape == (number, 5)
    torch.testing.assert_close(critics.first(obs, actions), values[0], rtol=0, atol=1e-5)
    for i in range(number):  # the equation, one by one
        features = critics.networks.one(i, (obs, actions))
        expected = features @ critics.weights[i, 0] + critics.biases[i]
        torch.testing.assert_close(values[i], expected, rtol=0, atol=1e-5)
    assert torch.equal(copy.deepcopy(critics)(obs, actions), values)


@EVERY_NETWORK
def test_both_observation_and_action_matter(config: NetworkConfig, space: gymnasium.Space[Any]) -> None:
    critics, obs, actions = critics_for(config, space)
    values = critics(obs, actions)
    assert ((critics(batch(space, seed=5)[1], actions) - values).abs() > 1e-4).any(1).all()
    assert ((critics(obs, actions.flip(0)) - values).abs() > 1e-4).any(1).all()
    actions.requires_grad_()
    for value in (*critics(obs, actions), critics.first(obs, actions)):
        (gradient,) = torch.autograd.grad(value.sum(), actions, retain_graph=True)
        assert gradient.any()


@EVERY_NETWORK
def test_critics_have_nothing_to_do_with_each_other(config: NetworkConfig, space: gymnasium.Space[Any]) -> None:
    """They are drawn apart; a gradient of one reaches no number of the other, and `first` only the first."""
    critics, obs, actions = critics_for(config, space)
    values = critics(obs, actions)
    assert ((values[0] - values[1]).abs() > 1e-3).any()
    parameters = list(critics.parameters())
    gradients = [
        torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in (*values, critics.first(obs, actions))
    ]
    for one, other, first in zip(*gradients, strict=True):
        assert not (one * other).any()
        assert one.any() or other.any()
        torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-5)


# The target


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def numbers(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(source: nn.Module, by: float = 1.0) -> list[Tensor]:
    """Learn something, and return the weights."""
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(by * torch.rand_like(parameter))
    return numbers(source)


def assert_equal(mine: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_target_is_a_copy_without_gradient() -> None:
    source = network()
    target = Target(source)
    first = numbers(source)
    assert_equal(numbers(target.network), first)
    assert not any(parameter.requires_grad for parameter in target.network.parameters())
    assert all(parameter.requires_grad for parameter in source.parameters())
    moved(source)
    assert_equal(numbers(target.network), first)
    x = torch.ones(1, 3)
    assert not target.network(x).requires_grad
    inputs = x.clone().requires_grad_()
    target.network(inputs).sum().backward()
    assert inputs.grad is not None  # what is asked through it still gets one
    assert all(parameter.grad is None for parameter in target.network.parameters())


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.1, 0.9, 1.0])
def test_a_target_goes_that_share_of_the_way(tau: float) -> None:
    source = network()
    target = Target(source)
    expected = numbers(target.network)
    for _ in range(5):
        now = moved(source)
        target.follow(tau)
        expected = [(1 - tau) * mine + tau * theirs for mine, theirs in zip(expected, now, strict=True)]
        for mine, theirs in zip(numbers(target.network), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        assert_equal(numbers(source), now)  # only one of the two moves
    if tau == 1:
        assert_equal(numbers(target.network), now)


def test_a_target_follows_what_the_optimiser_moves() -> None:
    """It makes all weights views of one buffer of its own, before or after the target is made."""
    for before in (True, False):
        source = network()
        first = Target(source) if before else None
        optimizer = Adam(source.parameters(), 0.1)
        target = first or Target(source)
        for parameter in source.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(1.0)
        old = numbers(source)
        optimizer.step()
        assert_equal(numbers(target.network), old)
        target.follow(1)
        assert_equal(numbers(target.network), numbers(source))
        assert not torch.equal(old[0], numbers(source)[0])


def test_a_stored_target_goes_on() -> None:
    source = network()
    target = Target(source)
    moved(source)
    target.follow(0.3)
    other = Target(source)  # which has the source's weights now
    other.load_state_dict(copy.deepcopy(target.state_dict()))
    assert_equal(numbers(other.network), numbers(target.network))
    assert not any(parameter.requires_grad for parameter in other.network.parameters())
    moved(source)
    for one in (target, other):
        one.follow(0.3)
    assert_equal(numbers(other.network), numbers(target.network))


# Bounds of actions


BOUNDS = pytest.mark.parametrize("name", BOXES)


def members(space: spaces.Box, n: int = 200) -> Tensor:
    """Random ones, and the bounds where they are finite."""
    space.seed(0)
    rows = [space.sample() for _ in range(n)]
    edges = [np.where(np.isfinite(bound), bound, rows[0]).astype(space.dtype) for bound in (space.low, space.high)]
    return torch.from_numpy(np.stack([*rows, *edges]))


def scale_of(space: spaces.Box) -> np.ndarray[Any, Any]:
    """Half the distance of the bounds, 1 where there are not two."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.where(np.isfinite(low) & np.isfinite(high), high / 2 - low / 2, 1.0)


@BOUNDS
def test_there_and_back_is_the_same_action(name: str) -> None:
    """Within rounding: of the space's own type, and of float32 in between."""
    space = BOXES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bounds = ActionBounds(space)
        actions = members(space)
        unit = bounds.from_space(actions)
        back = bounds.to_space(unit)
    assert unit.shape == (len(actions), bounds.num_actions)
    assert unit.dtype is torch.float32
    assert unit.isfinite().all()
    assert bounds.num_actions == int(np.prod(space.shape))
    assert back.shape == actions.shape
    assert back.dtype is actions.dtype
    rounding = max(float(np.finfo(space.dtype).eps), float(np.finfo(np.float32).eps))
    size = np.maximum(scale_of(space), actions.abs().double().numpy())
    assert (np.abs(back.double().numpy() - actions.double().numpy()) <= 4 * rounding * size).all()


@BOUNDS
def test_what_lies_inside_the_bounds_comes_back(name: str) -> None:
    space = BOXES[name]
    bounds = ActionBounds(space)
    unit = torch.rand(100, bounds.num_actions, generator=torch.Generator().manual_seed(0)) * 2 - 1
    finite = np.isfinite(space.low).reshape(-1) & np.isfinite(space.high).reshape(-1)
    scaled = torch.from_numpy(finite & (space.low < space.high).reshape(-1))
    back = bounds.from_space(bounds.to_space(unit))
    relative = (
        np.abs(np.where(np.isfinite(space.low), space.low, 0)).max() / scale_of(space).max() if any(scaled) else 0
    )
    rounding = max(float(np.finfo(space.dtype).eps), float(np.finfo(np.float32).eps)) * (4 + 4 * float(relative))
    torch.testing.assert_close(back[:, scaled], unit[:, scaled], rtol=0, atol=rounding)


@BOUNDS
@given(unit=st.lists(st.floats(-3, 3, width=32) | st.sampled_from([1e30, -1e30, np.inf, -np.inf]), max_size=6))
def test_every_answer_is_a_member(name: str, unit: list[float]) -> None:
    """Whatever is asked; what lies outside becomes a bound, and -1 and 1 are the bounds."""
    space = BOXES[name]
    bounds = ActionBounds(space)
    A = bounds.num_actions
    numbers = (unit * 6)[:A] if unit else [0.0] * A
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    if not bounds.bounded or (space.low == space.high).any():  # infinity only where it means a bound
        numbers = [number if np.isfinite(number) else 0.0 for number in numbers]
    row = torch.tensor([numbers])
    answer = bounds.to_space(row).numpy()[0]
    assert space.contains(np.asarray(answer))
    asked = np.array(numbers).reshape(space.shape)
    assert (np.asarray(answer)[bounded & (asked >= 1.01)] == space.high[bounded & (asked >= 1.01)]).all()
    assert (np.asarray(answer)[bounded & (asked <= -1.01)] == space.low[bounded & (asked <= -1.01)]).all()
    free = ~np.isfinite(space.low) & ~np.isfinite(space.high)
    assert (np.asarray(answer)[free] == asked[free].astype(space.dtype)).all()


@BOUNDS
def test_bounds_come_from_the_space(name: str) -> None:
    """They are not stored; a policy moves them with itself."""
    bounds = ActionBounds(BOXES[name])
    assert not bounds.state_dict()
    assert bounds.bounded == bool(BOXES[name].is_bounded())
    answer = copy.deepcopy(bounds).to("meta").from_space(members(BOXES[name]))
    assert answer.device.type == "meta"


def test_the_scale_by_hand() -> None:
    bounds = ActionBounds(spaces.Box(np.array([0.0, -np.inf, -np.inf]), np.array([4.0, 1.0, np.inf]), dtype=np.float64))
    assert not bounds.bounded
    unit = torch.tensor([[-1.0, -7.0, -7.0], [0.5, 0.5, 0.5], [1.0, 9.0, 9.0], [-2.0, 1.0, 1.0]])
    there = bounds.to_space(unit)
    assert there.tolist() == [[0, -7, -7], [3, 0.5, 0.5], [4, 1, 9], [0, 1, 1]]
    assert bounds.from_space(there).tolist() == [[-1, -7, -7], [0.5, 0.5, 0.5], [1, 1, 9], [-1, 1, 1]]


def test_shapes_are_kept() -> None:
    for shape in ((), (2, 3)):
        space = spaces.Box(np.float64(-2), np.float64(6), shape, np.float64)
        bounds = ActionBounds(space)
        unit = torch.linspace(-1, 1, 2 * bounds.num_actions).view(2, -1)
        there = bounds.to_space(unit)
        assert there.shape == (2, *shape)
        torch.testing.assert_close(there.flatten(), 2 + 4 * unit.flatten().double())
        torch.testing.assert_close(bounds.from_space(there), unit)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiBinary(2),
        spaces.Dict({"a": spaces.Box(-1, 1, (1,), np.float32)}),
        spaces.Box(-1, 1, (2,), np.int64),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Box(-1, 1, (2,), np.longdouble),
        *(space for space in BOXES.values() if not space.is_bounded()),
    ],
    ids=str,
)
def test_what_has_no_bounds_is_refused_by_name(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UsageError, match="td9 takes a Box of floats with finite bounds as actions") as caught:
        bounds_for(space, "td9")
    assert str(space) in str(caught.value)


@BOUNDS
def test_what_has_bounds_is_taken(name: str) -> None:
    space = BOXES[name]
    if space.is_bounded():
        unit = torch.zeros(1, int(np.prod(space.shape)))
        assert torch.equal(bounds_for(space, "td9").to_space(unit), ActionBounds(space).to_space(unit))
