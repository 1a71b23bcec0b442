"""Networks: single and side by side, fully connected and convolutional."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from test_encoding import SPACES, batch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from rlkit_core.builtin.cnn import CNN
from rlkit_core.builtin.dense import tanh
from rlkit_core.builtin.mlp import MLP, ParallelMLP
from rlkit_core.builtin.networks import CNNConfig, MLPConfig
from rlkit_core.builtin.parallel import NetworkList, build_parallel
from rlkit_core.component import NetworkConfig
from rlkit_core.errors import UsageError
from rlkit_core.network import Network, ParallelNetworks
from rlkit_core.rollout import tree_leaves, tree_map

IMAGE = spaces.Box(0, 255, (12, 10, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (4,), np.float32)
SMALL = {"filters": (4, 5), "kernels": (3, 2), "strides": (2, 1), "hidden": (6,)}
MIXED: dict[str, gymnasium.Space[Any]] = {
    "Dict": spaces.Dict({"camera": IMAGE, "joints": VECTOR, "mode": spaces.Discrete(3, start=1)}),
    "Tuple": spaces.Tuple((VECTOR, IMAGE, spaces.Dict({"depth": spaces.Box(0, 1, (3, 12, 10), np.float32)}))),
}


class OnlyBuild(NetworkConfig):
    """A stranger's network, which does not know about several side by side."""

    name = "only-build"

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        return MLP(observation_space, (5, 7), "tanh", "default")


NETWORKS: dict[str, tuple[NetworkConfig, gymnasium.Space[Any]]] = {
    "mlp": (MLPConfig(hidden=(8,)), VECTOR),
    "mlp of two layers": (MLPConfig(hidden=(5, 7), activation="tanh", init="default"), MIXED["Dict"]),
    "mlp without a layer": (MLPConfig(hidden=()), VECTOR),
    "only build": (OnlyBuild(), VECTOR),
    "cnn": (CNNConfig(**SMALL), IMAGE),
    "cnn and more": (CNNConfig(**SMALL, init="default"), MIXED["Tuple"]),
    "cnn without a layer": (CNNConfig(**{**SMALL, "hidden": ()}), MIXED["Dict"]),
}
EVERY_NETWORK = pytest.mark.parametrize(("config", "space"), NETWORKS.values(), ids=NETWORKS)


def parallel_of(config: NetworkConfig, space: gymnasium.Space[Any], number: int = 3) -> ParallelNetworks:
    torch.manual_seed(0)
    return build_parallel(config, space, number)


# Side by side


@EVERY_NETWORK
@pytest.mark.parametrize("number", [1, 3])
def test_each_of_several_is_what_it_is_alone(config: NetworkConfig, space: gymnasium.Space[Any], number: int) -> None:
    networks, obs = parallel_of(config, space, number), batch(space)[1]
    features = networks(obs)
    assert features.shape == (number, 5, networks.num_features)
    assert features.dtype is torch.float32
    for i in range(number):
        torch.testing.assert_close(features[i], networks.one(i, obs), rtol=0, atol=1e-5)
    from_numpy = networks(tree_map(lambda leaf: leaf.numpy(), obs))
    assert torch.equal(from_numpy, features)
    assert networks(tree_map(lambda leaf: leaf[:0], obs)).shape == (number, 0, networks.num_features)
    assert copy.deepcopy(networks)(obs).equal(features)


@EVERY_NETWORK
def test_several_are_drawn_apart(config: NetworkConfig, space: gymnasium.Space[Any]) -> None:
    networks = parallel_of(config, space)
    if not list(networks.parameters()):
        return
    features = networks(batch(space)[1])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (features[i] - features[j]).abs().max() > 0.01


@EVERY_NETWORK
def test_gradients_of_several_have_nothing_to_do_with_each_other(
    config: NetworkConfig, space: gymnasium.Space[Any]
) -> None:
    """Those of one's features are those of that one alone, and reach no weight of another."""
    networks, obs = parallel_of(config, space, 2), batch(space)[1]
    parameters = list(networks.parameters())
    if not parameters:
        return
    towards = torch.randn(5, networks.num_features, generator=torch.Generator().manual_seed(0))
    gradients = []
    for i in range(2):
        together, alone = (
            torch.autograd.grad((features * towards).sum(), parameters, allow_unused=True, materialize_grads=True)
            for features in (networks(obs)[i], networks.one(i, obs))
        )
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        gradients.append(together)
    for of_parameter in zip(*gradients, strict=True):
        assert sum(gradient.count_nonzero() for gradient in of_parameter) > 0
        touched = torch.stack([gradient != 0 for gradient in of_parameter]).sum(0)
        assert touched.max() == 1  # by one of the two at most


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_mlps_side_by_side_are_the_mlps_they_were_made_of(activation: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    space = MIXED["Dict"]
    mlps = [MLP(space, hidden, activation, "default") for _ in range(2)]
    networks, obs = ParallelMLP(mlps), batch(space)[1]
    torch.testing.assert_close(networks(obs), torch.stack([mlp(obs) for mlp in mlps]), rtol=0, atol=1e-5)
    before = [parameter.clone() for mlp in mlps for parameter in mlp.parameters()]
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.zero_()
    after = [parameter for mlp in mlps for parameter in mlp.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EVERY_NETWORK
@pytest.mark.parametrize("how", ["copied", "new data", "new parameters"])
def test_weights_of_several_are_read_at_each_call(config: NetworkConfig, space: gymnasium.Space[Any], how: str) -> None:
    networks, obs = parallel_of(config, space, 2), batch(space)[1]
    other = build_parallel(config, space, 2)
    if how == "new data":  # as the optimiser gives it
        for mine, theirs in zip(networks.parameters(), other.parameters(), strict=True):
            mine.data = theirs.detach().clone()
    else:  # a conversion to another device may put new parameters in place
        networks.load_state_dict(copy.deepcopy(other.state_dict()), assign=how == "new parameters")
    assert torch.equal(networks.one(1, obs), other.one(1, obs))
    assert torch.equal(networks(obs), other(obs))


def test_without_a_faster_way_several_are_evaluated_one_after_the_other() -> None:
    assert isinstance(parallel_of(OnlyBuild(), VECTOR), NetworkList)
    assert isinstance(parallel_of(MLPConfig(), VECTOR), ParallelMLP)


# The MLP


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_is_layer_after_layer(name: str, activation: str) -> None:
    space = SPACES[name]
    obs = batch(space)[1]
    torch.manual_seed(0)
    mlp = MLPConfig(hidden=(6, 4), activation=activation, init="default").build(space)
    assert isinstance(mlp, MLP)
    function = torch.tanh if activation == "tanh" else torch.relu
    encoded = MLPConfig(hidden=()).build(space)(obs)
    assert encoded.shape == (5, MLPConfig(hidden=()).build(space).num_features)
    first, second = mlp.layers
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    expected = function(second(function(first(encoded))))
    torch.testing.assert_close(mlp(obs), expected, rtol=0, atol=1e-6)
    assert mlp.num_features == 4


def test_initial_weights() -> None:
    torch.manual_seed(0)
    mlp = MLPConfig(hidden=(8, 3)).build(VECTOR)
    assert isinstance(mlp, MLP)
    wide, narrow = (layer.weight for layer in mlp.layers)
    torch.testing.assert_close(wide.T @ wide, 2 * torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(narrow @ narrow.T, 2 * torch.eye(3), rtol=0, atol=1e-5)
    assert not any(layer.bias.any() for layer in mlp.layers)
    networks = build_parallel(MLPConfig(hidden=(8,)), VECTOR, 2)
    assert isinstance(networks, ParallelMLP)
    [layer] = networks.layers
    for weight in layer.weight:  # whichever way round they lie
        assert sorted(weight.shape) == [4, 8]
        torch.testing.assert_close(torch.linalg.svdvals(weight), torch.full((4,), 2**0.5), rtol=0, atol=1e-5)
    assert not layer.bias.any()

    torch.manual_seed(1)
    mlp = MLPConfig(hidden=(8,), init="default").build(VECTOR)
    torch.manual_seed(1)
    expected = nn.Linear(4, 8)
    for mine, theirs in zip(mlp.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_initial_filters() -> None:
    torch.manual_seed(0)
    cnn = CNNConfig(**SMALL).build(IMAGE)
    assert isinstance(cnn, CNN)
    for layer in [*cnn.stacks[0], *cnn.layers]:  # type: ignore[misc]
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), rtol=0, atol=1e-5)
        assert not layer.bias.any()
    assert CNNConfig(**SMALL, init="default").build(IMAGE).stacks[0][0].bias.any()  # type: ignore[index, union-attr]


# The hyperbolic tangent


def tanh_inputs(n: int) -> Tensor:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 3
    special = torch.tensor([0.0, -0.0, 1e-30, -1e-8, 20.0, -20.0, 1e30, float("inf"), float("-inf")])
    return torch.cat([special, x])[:n]


@pytest.mark.parametrize("shape", [(0,), (7,), (64, 128), (3, 40, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Values and gradients, small and large, with gradient and without, and for a tensor that is used twice."""
    x = tanh_inputs(int(np.prod(shape))).view(shape).to(dtype)
    before = x.clone()
    torch.testing.assert_close(tanh(x), torch.tanh(x), rtol=0, atol=1e-6)
    assert tanh(x).dtype is dtype
    assert torch.equal(x, before)
    assert tanh(torch.tensor([float("nan")], dtype=dtype)).isnan().all()

    gradients = []
    for function in (tanh, torch.tanh):
        leaf = x.clone().requires_grad_()
        with torch.no_grad():
            assert not function(leaf).requires_grad
        doubled = leaf * 1
        y = function(doubled)
        assert y.requires_grad
        torch.testing.assert_close(y.detach(), torch.tanh(x), rtol=0, atol=1e-6)
        (y.square() + 0.3 * function(doubled) + 0.1 * doubled).sum().backward()
        assert torch.equal(doubled.detach(), x)
        gradients.append(leaf.grad)
    mine, theirs = gradients
    assert mine is not None
    assert theirs is not None
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [4, 100])
def test_tanh_of_what_does_not_lie_in_one_piece(size: int) -> None:
    x = tanh_inputs(2 * size * size).view(size, 2 * size)
    for view in (x.T, x[:, ::2], x[1::2].T, x[:1].expand(size, -1), x[2:, 2:]):
        assert view.is_contiguous() is False
        torch.testing.assert_close(tanh(view), torch.tanh(view), rtol=0, atol=1e-6)
        gradients = []
        for function in (tanh, torch.tanh):
            leaf = view.detach().requires_grad_()
            (function(leaf) * torch.linspace(0, 1, leaf.shape[1])).sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [10, 10_000])
def test_what_tanh_gives_is_nobody_elses(size: int) -> None:
    """Writing into the result does not change the argument, nor the other way round."""
    x = tanh_inputs(size)
    before, y = x.clone(), tanh(x)
    kept = y.clone()
    y.zero_()
    assert torch.equal(x, before)
    y = tanh(x)
    x.zero_()
    assert torch.equal(y, kept)


# The CNN


def test_it_is_the_network_of_the_nature_paper() -> None:
    """Layers and number of weights of Mnih et al. 2015; the published 1,684,128 are without the head."""
    network = CNNConfig(init="default").build(spaces.Box(0, 255, (84, 84, 4), np.uint8))
    assert isinstance(network, CNN)
    convolutions = [conv for stack in network.stacks for conv in stack]  # type: ignore[attr-defined]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding) for c in convolutions] == [
        (4, 32, (8, 8), (4, 4), (0, 0)),
        (32, 64, (4, 4), (2, 2), (0, 0)),
        (64, 64, (3, 3), (1, 1), (0, 0)),
    ]
    assert [(layer.in_features, layer.out_features) for layer in network.layers] == [(3136, 512)]
    assert network.num_features == 512
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_684_128
    assert network(torch.zeros(2, 84, 84, 4, dtype=torch.uint8)).shape == (2, 512)


def test_it_is_layer_after_layer() -> None:
    torch.manual_seed(0)
    network = CNNConfig(**SMALL, init="default").build(IMAGE)
    assert isinstance(network, CNN)
    image = batch(IMAGE)[1]
    x = image.permute(0, 3, 1, 2).double() / 255
    for conv in network.stacks[0]:  # type: ignore[union-attr]
        x = torch.relu(conv2d(x, conv.weight.double(), conv.bias.double(), conv.stride))
    x = x.flatten(1)
    for layer in network.layers:
        x = torch.relu(linear(x, layer.weight.double(), layer.bias.double()))
    torch.testing.assert_close(network(image), x.float(), rtol=0, atol=1e-5)


def twins(*image_spaces: gymnasium.Space[Any]) -> list[Network]:
    """Networks of the same weights."""
    networks = []
    for space in image_spaces:
        torch.manual_seed(0)
        networks.append(CNNConfig(**SMALL).build(space))
    return networks


def test_only_whole_numbers_of_a_byte_are_scaled() -> None:
    shape = (12, 10, 3)
    bytes_, floats, wide = (spaces.Box(0, 255, shape, dtype) for dtype in (np.uint8, np.float32, np.uint16))
    of_bytes, of_floats, of_wide = twins(bytes_, floats, wide)
    image = batch(bytes_)[1]
    torch.testing.assert_close(of_bytes(image), of_floats(image.float() / 255), rtol=0, atol=1e-5)
    assert (of_floats(image.float()) - of_bytes(image)).abs().max() > 1
    torch.testing.assert_close(of_wide(image.to(torch.uint16)), of_floats(image.float()))
    double = spaces.Box(0, 1, shape, np.float64)
    (of_doubles,) = twins(double)
    torch.testing.assert_close(of_doubles(image.double() / 255), of_bytes(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_channels_may_come_first_or_last(dtype: Any, channels: int) -> None:
    last, first = (spaces.Box(0, 255, shape, dtype) for shape in ((12, 10, channels), (channels, 12, 10)))
    of_last, of_first = twins(last, first)
    image = batch(last)[1]
    torch.testing.assert_close(of_last(image), of_first(image.permute(0, 3, 1, 2)), rtol=0, atol=1e-4)


def test_a_grey_image_needs_no_channels() -> None:
    flat, last, first = (spaces.Box(0, 255, shape, np.uint8) for shape in ((12, 10), (12, 10, 1), (1, 12, 10)))
    of_flat, of_last, of_first = twins(flat, last, first)
    image = batch(flat)[1]
    assert image.shape == (5, 12, 10)
    torch.testing.assert_close(of_flat(image), of_last(image.unsqueeze(3)))
    torch.testing.assert_close(of_flat(image), of_first(image.unsqueeze(1)))


@pytest.mark.parametrize("name", MIXED)
def test_every_part_of_an_observation_matters(name: str) -> None:
    """Changing one row of one part changes the features of that row, and of no other."""
    space = MIXED[name]
    torch.manual_seed(0)
    network = CNNConfig(**{**SMALL, "hidden": (64,)}).build(space)
    obs, other = batch(space)[1], batch(space, seed=7)[1]
    features = network(obs)
    keys = ["camera", "joints", "mode"] if name == "Dict" else [0, 1, 2]
    for key in keys:
        changed = dict(obs) if name == "Dict" else list(obs)
        # The row whose part differs: a Discrete one need not in each.
        changed[key] = tree_map(lambda leaf, new: torch.cat([leaf[:2], new[2:3], leaf[3:]]), obs[key], other[key])
        if key == "mode":
            changed[key][2] = 1 + obs[key][2] % 3
        difference = network(changed if name == "Dict" else tuple(changed)) - features
        assert difference[2].abs().max() > 1e-3, key
        difference[2] = 0
        assert difference.abs().max() < 1e-5, key


def test_every_image_has_filters_of_its_own() -> None:
    space = spaces.Dict({"left": IMAGE, "right": IMAGE})
    network = CNNConfig(**SMALL).build(space)
    assert isinstance(network, CNN)
    assert len(network.stacks) == 2
    image, black = batch(IMAGE)[1], torch.zeros(5, 12, 10, 3, dtype=torch.uint8)
    left, right = network({"left": image, "right": black}), network({"left": black, "right": image})
    assert (left - right).abs().max() > 1e-3
    for gradient in torch.autograd.grad(network({"left": image, "right": image}).sum(), list(network.parameters())):
        assert gradient.any()


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (spaces.Box(0, 255, (20, 84, 3), np.uint8), {}),
        (spaces.Box(0, 255, (84, 35, 3), np.uint8), {}),
        (spaces.Box(0, 255, (3, 84, 35), np.uint8), {}),
        (spaces.Box(0, 255, (35, 84), np.uint8), {}),
        (spaces.Box(0, 1, (4, 4, 1), np.float32), {}),
    ],
    ids=str,
)
def test_too_small_images_are_refused(space: spaces.Box, settings: dict[str, Any]) -> None:
    for outer in (space, spaces.Dict({"image": space, "more": VECTOR})):
        with pytest.raises(UsageError, match=r"too small for kernels \[8, 4, 3\] with strides \[4, 2, 1\]") as caught:
            CNNConfig(**settings).build(outer)
        assert str(space) in str(caught.value)


def test_the_smallest_image() -> None:
    network = CNNConfig(init="default").build(spaces.Box(0, 255, (36, 36, 3), np.uint8))
    assert network(torch.zeros(1, 36, 36, 3, dtype=torch.uint8)).shape == (1, 512)


@pytest.mark.parametrize(
    "space",
    [
        VECTOR,
        spaces.Discrete(3),
        spaces.Box(-1, 1, (12, 10), np.float32),  # a table of numbers, by all that one can tell
        spaces.Box(0, 255, (4, 12, 10, 3), np.uint8),
        spaces.Dict({"a": VECTOR, "b": spaces.MultiBinary((3, 3, 3))}),
    ],
    ids=str,
)
def test_no_image_is_refused(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UsageError, match="needs an image") as caught:
        CNNConfig(**SMALL).build(space)
    assert str(space) in str(caught.value)


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be encoded"):
        CNNConfig(**SMALL).build(spaces.Dict({"image": IMAGE, "text": spaces.Text(3)}))


@pytest.mark.parametrize(
    "settings",
    [{"filters": (32, 64)}, {"kernels": (8, 4)}, {"strides": (4, 2, 1, 1)}, {"kernels": (), "strides": ()}],
    ids=str,
)
def test_settings_of_different_lengths_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="lists of the same length"):
        CNNConfig(**settings)


@pytest.mark.parametrize("settings", [{"filters": (), "kernels": (), "strides": ()}, {"kernels": (8, 0, 3)}], ids=str)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CNNConfig(**settings)


# On numpy arrays


@EVERY_NETWORK
def test_the_same_on_arrays(config: NetworkConfig, space: gymnasium.Space[Any]) -> None:
    torch.manual_seed(0)
    network, networks, obs = config.build(space), parallel_of(config, space), batch(space)[1]
    arrays = tree_map(lambda leaf: leaf.numpy().copy(), obs)
    before = copy.deepcopy(arrays)
    answers = [network.on_arrays(arrays), *(networks.one_on_arrays(i, arrays) for i in range(3))]
    expected = [network(obs), *(networks.one(i, obs) for i in range(3))]
    for answer, tensor in zip(answers, expected, strict=True):
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(answer), tensor.detach(), rtol=0, atol=1e-5)
    for (_, leaf), (_, old) in zip(tree_leaves(arrays), tree_leaves(before), strict=True):
        assert np.array_equal(leaf, old)  # activations are done in place, but not in what came in


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_large_products_on_arrays_too(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numpy's would take several threads, whatever the run was told, torch's are taken."""
    network = MLPConfig(hidden=(300, 700), activation=activation).build(VECTOR)
    obs = batch(VECTOR)[1]
    widths = []
    addmm = torch.addmm

    def watched(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        widths.append(tuple(weight.shape))
        return addmm(bias, x, weight)

    monkeypatch.setattr(torch, "addmm", watched)
    answer = torch.from_numpy(network.on_arrays(obs.numpy()))
    assert widths == [(300, 700)]  # 5 rows: a million multiplications
    torch.testing.assert_close(answer, network(obs).detach(), rtol=0, atol=1e-4)


def test_weights_are_read_anew() -> None:
    """Also after they were moved, as optimisers do that gather them in one buffer."""
    network, obs = MLPConfig(hidden=(8,)).build(VECTOR), batch(VECTOR)[1]
    network.on_arrays(obs.numpy())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = parameter.data + 1
    answer = torch.from_numpy(network.on_arrays(obs.numpy()))
    torch.testing.assert_close(answer, network(obs).detach(), rtol=0, atol=1e-5)
