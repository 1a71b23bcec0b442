"""Encoding of observations and their running normalisation."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.builtin.encoding import ObservationNormalizer, Preprocessor, encode, encode_arrays, encoded_size
from rlkit_core.errors import UsageError
from rlkit_core.rollout import Tree, tree_leaves, tree_map

LEAVES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-2, 3, (4,), np.float32),
    "box64": spaces.Box(-2, 3, (2,), np.float64),
    "box16": spaces.Box(-2, 3, (2,), np.float16),
    "scalar": spaces.Box(-1, 1, (), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 3), np.float32),
    "image": spaces.Box(0, 255, (2, 3, 3), np.uint8),
    "scalar image": spaces.Box(0, 255, (), np.uint8),
    "uint16": spaces.Box(0, 65535, (3,), np.uint16),
    "int": spaces.Box(-9, 9, (2, 1), np.int32),
    "discrete": spaces.Discrete(4),
    "discrete start": spaces.Discrete(3, start=-2),
    "multi": spaces.MultiDiscrete([3, 2, 5]),
    "multi start": spaces.MultiDiscrete([[3, 2], [4, 2]], start=[[1, -1], [0, 7]]),
    "binary": spaces.MultiBinary(3),
    "binary matrix": spaces.MultiBinary([2, 3]),
}
SPACES: dict[str, spaces.Space[Any]] = {
    **LEAVES,
    "dict": spaces.Dict({"z": LEAVES["box"], "a": LEAVES["discrete start"]}),
    "tuple": spaces.Tuple((LEAVES["scalar"], LEAVES["image"])),
    "nested": spaces.Dict(
        {"x.y": spaces.Tuple((spaces.Dict({"_": LEAVES["multi start"]}), LEAVES["binary"])), "x": LEAVES["uint16"]}
    ),
}


def batch(space: gymnasium.Space[Any], size: int = 5, seed: int = 0) -> tuple[list[Any], Tree]:
    """Samples, and the batch that a vector environment makes of them, as tensors."""
    space.seed(seed)
    samples = [space.sample() for _ in range(size)]
    batched = concatenate(space, samples, create_empty_array(space, size))
    return samples, tree_map(torch.from_numpy, batched)


def by_hand(sample: Any, space: gymnasium.Space[Any]) -> np.ndarray:
    """Gymnasium's own flattening, with images scaled."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([by_hand(sample[key], part) for key, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return np.concatenate([by_hand(one, part) for one, part in zip(sample, space.spaces, strict=True)])
    flat = np.asarray(spaces.flatten(space, sample), np.float32).reshape(-1)
    return flat / np.float32(255) if space.dtype == np.uint8 and isinstance(space, spaces.Box) else flat


@pytest.mark.parametrize("name", SPACES)
def test_encode(name: str) -> None:
    space = SPACES[name]
    samples, obs = batch(space)
    features = encode(obs, space)
    assert features.dtype is torch.float32
    assert features.shape == (5, encoded_size(space))
    assert torch.equal(features, torch.from_numpy(np.stack([by_hand(sample, space) for sample in samples])))
    assert torch.equal(encode(tree_map(lambda leaf: leaf.numpy(), obs), space), features)
    assert encode(tree_map(lambda leaf: leaf[:0], obs), space).shape == (0, encoded_size(space))
    assert torch.equal(encode(tree_map(lambda leaf: leaf[2:3], obs), space), features[2:3])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.OneOf([spaces.Discrete(2)]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_refused(space: gymnasium.Space[Any]) -> None:
    for outer in (space, spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple((space,))})):
        with pytest.raises(UsageError, match=r"cannot be encoded\nBox, Discrete") as caught:
            encoded_size(outer)
        assert str(space) in str(caught.value)


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    scale=st.sampled_from((1e-6, 1.0, 1e6)),
    shift=st.sampled_from((0.0, 1.0, -1e3)),
    seed=st.integers(0, 999),
)
def test_statistics_are_those_of_all_rows_pooled(sizes: list[int], scale: float, shift: float, seed: int) -> None:
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    normalizer = ObservationNormalizer(space)
    rows = np.random.default_rng(seed).normal(shift, scale, (sum(sizes), 3))
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        normalizer.update(torch.from_numpy(part))
    assert normalizer.count == len(rows)
    if len(rows) == 0:
        return
    assert torch.allclose(normalizer.mean_0, torch.from_numpy(rows.mean(0)), rtol=1e-9, atol=1e-12 * scale)
    variance = normalizer.m2_0 / normalizer.count
    assert torch.allclose(
        variance, torch.from_numpy(rows.var(0)), rtol=1e-9, atol=1e-12 * scale**2 + 1e-15 * abs(shift) * scale
    )
    if len(rows) > 1:
        expected = ((rows - rows.mean(0)) / rows.std(0)).clip(-10, 10)
        assert np.allclose(normalizer(torch.from_numpy(rows)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e4, 1e-4])
def test_constant_parts_become_zero(dtype: Any, constant: float) -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), dtype)
    normalizer = ObservationNormalizer(space)
    for seed in range(3):
        rows = np.full((50, 2), constant, dtype)
        rows[:, 1] = np.random.default_rng(seed).normal(size=50)
        normalizer.update(torch.from_numpy(rows))
    result = normalizer(torch.from_numpy(rows))
    assert (result[:, 0] == 0).all()
    assert 0.5 < result[:, 1].std() < 2


def test_small_deviation_beside_a_large_mean() -> None:
    """A float64 observation may say something that float32 cannot hold."""
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    normalizer = ObservationNormalizer(space)
    rows = 1e9 + torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normalizer.update(rows)
    assert torch.allclose(normalizer(rows).double(), (rows - rows.mean()) / rows.std(correction=0), atol=1e-5)


def test_nothing_changes_but_in_update() -> None:
    space = SPACES["box"]
    normalizer = ObservationNormalizer(space)
    first, second = batch(space)[1], batch(space, 20, seed=1)[1]
    assert torch.equal(normalizer(first), first)  # before any update the identity
    normalizer.update(second)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    frozen = normalizer(first)
    kept = first.clone()
    normalizer.train()
    assert torch.equal(normalizer(first), frozen)
    assert torch.equal(first, kept)
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())
    normalizer.update(first)
    assert not torch.equal(normalizer(first), frozen)
    assert normalizer(first * 1e9).abs().max() == 10.0


@pytest.mark.parametrize("name", SPACES)
def test_only_float_boxes_are_normalised(name: str) -> None:
    space = SPACES[name]
    normalizer = ObservationNormalizer(space)
    obs = batch(space, 200)[1]
    normalizer.update(obs)
    leaves_of_space = tree_leaves(tree_map_space(space))
    for (path, before), (other, after), (_, part) in zip(
        tree_leaves(obs), tree_leaves(normalizer(obs)), leaves_of_space, strict=True
    ):
        assert path == other
        if isinstance(part, spaces.Box) and np.dtype(part.dtype).kind == "f":
            assert after.dtype is torch.float32
            assert after.mean(0).abs().max() < 1e-3
            assert (after.std(0, correction=0) - 1).abs().max() < 1e-3
        else:
            assert after.dtype is before.dtype
            assert torch.equal(before, after)
    encode(normalizer(obs), space)


def tree_map_space(space: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: tree_map_space(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(tree_map_space(part) for part in space.spaces)
    return space


def test_names_that_would_clash() -> None:
    box = spaces.Box(-1, 1, (1,), np.float32)
    space = spaces.Dict({"a": spaces.Dict({"b": box}), "a_b": box, "a.b": box, "mean": box})
    normalizer = ObservationNormalizer(space)
    numbers = iter(range(1, 9))
    obs = tree_map(lambda leaf: torch.randn(50, 1) * next(numbers) + 5, batch(space, 1)[1])
    normalizer.update(obs)
    for _, leaf in tree_leaves(normalizer(obs)):
        assert abs(leaf.mean()) < 1e-4
        assert abs(leaf.std(correction=0) - 1) < 1e-4


def test_state_dict_round_trip() -> None:
    space = SPACES["tuple"]
    normalizer, other = ObservationNormalizer(space), ObservationNormalizer(space)
    obs = batch(space, 30)[1]
    normalizer.update(obs)
    other.load_state_dict(normalizer.state_dict())
    more = batch(space, 10, seed=3)[1]
    for part in (normalizer, other):
        part.update(more)
    for (_, a), (_, b) in zip(tree_leaves(normalizer(obs)), tree_leaves(other(obs)), strict=True):
        assert torch.equal(a, b)


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for space in SPACES.values():
            obs = batch(space)[1]
            normalizer = ObservationNormalizer(space)
            normalizer.update(obs)
            encode(normalizer(obs), space)


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([])])
def test_nothing_to_see_is_refused_by_name(space):
    with pytest.raises(UsageError, match="cannot be encoded"):
        encoded_size(space)


# On numpy arrays


@pytest.mark.parametrize("name", SPACES)
def test_encode_arrays(name: str) -> None:
    space = SPACES[name]
    obs = batch(space)[1]
    features = encode_arrays(tree_map(lambda leaf: leaf.numpy(), obs), space)
    assert isinstance(features, np.ndarray)
    assert torch.equal(torch.from_numpy(features), encode(obs, space))
    assert encode_arrays(tree_map(lambda leaf: leaf[:0].numpy(), obs), space).shape == (0, encoded_size(space))


@pytest.mark.parametrize("name", SPACES)
def test_normalisation_of_arrays_is_that_of_tensors(name: str) -> None:
    space = SPACES[name]
    normalizer = ObservationNormalizer(space)
    normalizer.update(batch(space, 50, seed=1)[1])
    obs = batch(space)[1]
    for (_, array), (_, tensor) in zip(
        tree_leaves(normalizer(tree_map(lambda leaf: leaf.numpy(), obs))), tree_leaves(normalizer(obs)), strict=True
    ):
        assert isinstance(array, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(array), tensor, rtol=0, atol=1e-6)


def test_normalised_arrays_are_clipped() -> None:
    space = LEAVES["box"]
    normalizer = ObservationNormalizer(space)
    normalizer.update(batch(space, 50)[1])
    far = np.full((1, 4), 1e9, np.float32)
    assert (normalizer(far) == 10).all()
    assert (normalizer(-far) == -10).all()
    assert (far == 1e9).all()


@pytest.mark.parametrize("rows", [1, 256, 257])
@pytest.mark.parametrize("given", ["tensors", "arrays"])
def test_acting_is_on_arrays_where_there_are_few(rows: int, given: str) -> None:
    space = SPACES["dict"]
    preprocessor = Preprocessor(space, normalize=True)
    preprocessor.update(batch(space, 50, seed=1)[1])
    obs = batch(space, rows)[1]
    seen, on_arrays = preprocessor.for_acting(obs if given == "tensors" else tree_map(lambda leaf: leaf.numpy(), obs))
    assert on_arrays == (rows <= 256)
    for (_, leaf), (_, expected) in zip(tree_leaves(seen), tree_leaves(preprocessor(obs)), strict=True):
        assert isinstance(leaf, np.ndarray if on_arrays else torch.Tensor)
        torch.testing.assert_close(torch.as_tensor(leaf), expected, rtol=0, atol=1e-6)
