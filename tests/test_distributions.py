"""Action distributions: members of the space, densities as torch's, frequencies as the probabilities say."""

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
from torch import Tensor
from torch import distributions as td

from rlkit_core.builtin.distributions import ActionDistribution, DiagonalGaussian, distribution_for
from rlkit_core.errors import UsageError

INF = np.inf
BOXES: dict[str, spaces.Box] = {
    "box": spaces.Box(-2, 3, (2,), np.float32),
    "odd bounds": spaces.Box(np.array([-0.1, 0.1]), np.array([0.1, 0.7]), dtype=np.float64),
    "odd bounds 32": spaces.Box(np.float32(-0.1), np.float32(0.7), (3,), np.float32),
    "half precision": spaces.Box(-0.1, 0.7, (2,), np.float16),
    "scalar": spaces.Box(-0.3, 0.1, (), np.float64),
    "scalar 32": spaces.Box(-0.3, 0.1, (), np.float32),
    "matrix": spaces.Box(-1, 1, (2, 3), np.float32),
    "unbounded": spaces.Box(-INF, INF, (2,), np.float32),
    "half-bounded": spaces.Box(np.array([-INF, 0.1]), np.array([0.1, INF]), dtype=np.float64),
    "mixed": spaces.Box(np.array([-INF, 0.1, -1.0]), np.array([INF, INF, 0.1]), dtype=np.float32),
    "whole range": spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,), np.float32),
    "a point": spaces.Box(0.1, 0.1, (1,), np.float64),
}
SPACES: dict[str, gymnasium.Space[Any]] = {
    **BOXES,
    "discrete": spaces.Discrete(4),
    "discrete start": spaces.Discrete(3, start=5),
    "discrete negative": spaces.Discrete(3, start=-7),
    "one choice": spaces.Discrete(1),
    "multi": spaces.MultiDiscrete([3, 2, 5]),
    "multi start": spaces.MultiDiscrete([[3, 2], [4, 2]], start=[[1, -1], [0, 7]]),
    "multi int8": spaces.MultiDiscrete([3, 2], dtype=np.int8),
    "multi uint16": spaces.MultiDiscrete([3, 2], dtype=np.uint16, start=[4, 1]),
    "binary": spaces.MultiBinary(3),
    "binary matrix": spaces.MultiBinary([2, 3]),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def params_for(distribution: ActionDistribution, n: int, scale: float = 1.0, dtype: Any = torch.float32) -> Tensor:
    """Random parameters; of a Gaussian, means of that scale and log-deviations of deviation 1."""
    params = torch.randn(n, distribution.num_params, dtype=dtype, generator=generator()) * scale
    if not isinstance(distribution, DiagonalGaussian):
        return params
    return torch.cat([params, torch.randn(params.shape, dtype=dtype, generator=generator(1))], 1)


@pytest.mark.parametrize("scale", [0.3, 3.0, 1e4])
@pytest.mark.parametrize("name", SPACES)
def test_actions_are_members_of_the_space(name: str, scale: float) -> None:
    space = SPACES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution = distribution_for(space)
    params = params_for(distribution, 300, scale)
    for raw in (distribution.sample(params, generator()), distribution.mode(params)):
        actions = distribution.to_space(raw).detach()
        assert actions.shape == (300, *space.shape)  # type: ignore[misc]
        array = actions.numpy()
        if not isinstance(space, spaces.Discrete):
            assert array.dtype == space.dtype
        for action in array:
            # What a vector environment hands out; a Box of shape () gives numpy scalars.
            assert space.contains(np.asarray(action) if isinstance(space, spaces.Box) else action)
        if distribution.lossless:
            back = distribution.from_space(actions)
            assert torch.equal(back, raw)
            assert back.dtype is raw.dtype
    assert distribution.to_space(raw[:0]).shape == (0, *space.shape)  # type: ignore[misc]


def reference(name: str, params: Tensor) -> td.Distribution:
    space = SPACES[name]
    if isinstance(space, spaces.Discrete):
        return td.Categorical(logits=params)
    if isinstance(space, spaces.MultiBinary):
        return td.Independent(td.Bernoulli(logits=params), 1)
    means, log_stds = params.chunk(2, 1)
    return td.Independent(td.Normal(means, log_stds.exp()), 1)


@pytest.mark.parametrize("name", SPACES)
def test_log_prob_and_entropy_are_torchs(name: str) -> None:
    space = SPACES[name]
    distribution = distribution_for(space)
    params = params_for(distribution, 50, dtype=torch.float64).requires_grad_()
    raw = distribution.sample(params, generator()).detach()
    log_prob, entropy = distribution.log_prob_and_entropy(params, raw)
    assert log_prob.shape == entropy.shape == (50,)
    if isinstance(space, spaces.MultiDiscrete):
        parts = params.split([int(n) for n in space.nvec.flatten()], -1)
        torchs = [td.Categorical(logits=part) for part in parts]
        expected = sum(t.log_prob(raw[:, i]) for i, t in enumerate(torchs))
        expected_entropy = sum(t.entropy() for t in torchs)
    else:
        torchs_one = reference(name, params)
        expected, expected_entropy = torchs_one.log_prob(raw), torchs_one.entropy()
    assert isinstance(expected, Tensor)
    assert torch.allclose(log_prob, expected, rtol=0, atol=1e-9)
    assert torch.allclose(entropy, expected_entropy, rtol=0, atol=1e-9)  # type: ignore[arg-type]
    for mine, theirs in ((log_prob, expected), (entropy, expected_entropy)):
        grads = [torch.autograd.grad(x.sum(), params, retain_graph=True)[0] for x in (mine, theirs)]  # type: ignore[union-attr]
        assert torch.allclose(*grads, rtol=0, atol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5), st.integers(0, 2**31))
def test_categorical_frequencies(logits: list[float], seed: int) -> None:
    distribution = distribution_for(spaces.Discrete(len(logits)))
    n = 20_000
    raw = distribution.sample(torch.tensor([logits]).expand(n, -1), generator(seed))
    observed = torch.bincount(raw, minlength=len(logits)).double() / n
    p = torch.tensor(logits).double().softmax(0)
    assert ((observed - p).abs() <= 6 * (p * (1 - p) / n).sqrt() + 1e-4).all()


def test_multi_frequencies() -> None:
    distribution = distribution_for(spaces.MultiDiscrete([2, 3]))
    params = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0]])
    raw = distribution.sample(params.expand(40_000, -1), generator())
    joint = torch.bincount(raw[:, 0] * 3 + raw[:, 1], minlength=6).double() / 40_000
    expected = params[0, :2].softmax(0)[:, None] * params[0, 2:].softmax(0)
    assert torch.allclose(joint, expected.flatten().double(), atol=0.01)
    bernoulli = distribution_for(spaces.MultiBinary(2))
    logits = torch.tensor([[0.0, 2.0]])
    means = bernoulli.sample(logits.expand(40_000, -1), generator()).mean(0)
    assert torch.allclose(means, logits[0].sigmoid(), atol=0.01)
    gaussian = distribution_for(BOXES["box"])
    raw = gaussian.sample(torch.tensor([[3.0, -2.0, -1.0, 0.5]]).expand(40_000, -1), generator())
    assert torch.allclose(raw.mean(0), torch.tensor([3.0, -2.0]), atol=0.03)
    assert torch.allclose(raw.std(0), torch.tensor([-1.0, 0.5]).exp(), atol=0.03)


def test_modes() -> None:
    assert distribution_for(spaces.Discrete(3)).mode(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [1]
    multi = distribution_for(spaces.MultiDiscrete([2, 3], start=[5, 0]))
    assert multi.to_space(multi.mode(torch.tensor([[0.0, 1.0, 3.0, 2.0, 1.0]]))).tolist() == [[6, 0]]
    assert distribution_for(spaces.MultiBinary(2)).mode(torch.tensor([[-0.1, 0.1]])).tolist() == [[0, 1]]
    box = distribution_for(spaces.Box(np.array([0.0, -INF]), np.array([4.0, 1.0]), dtype=np.float64))
    # Raw -1 and 1 are finite bounds; other dimensions are taken as they are, and clipped.
    means = torch.tensor([[-1.0, -7.0], [0.5, 0.5], [1.0, 9.0], [2.0, 1.0]])
    assert box.to_space(box.mode(torch.cat([means, torch.full((4, 2), 3.0)], 1))).tolist() == [
        [0, -7],
        [3, 0.5],
        [4, 1],
        [4, 1],
    ]


@pytest.mark.parametrize("name", SPACES)
def test_same_generator_same_actions(name: str) -> None:
    distribution = distribution_for(SPACES[name])
    params = params_for(distribution, 20)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    assert torch.equal(distribution.sample(params, generator()), distribution.sample(params, generator()))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not read


@pytest.mark.parametrize("name", SPACES)
def test_module_methods_work(name: str) -> None:
    distribution = distribution_for(SPACES[name])
    other = distribution_for(SPACES[name])
    other.load_state_dict(distribution.state_dict())
    assert not distribution.state_dict()  # bounds come from the space
    copy.deepcopy(distribution).to("cpu").eval().half()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple((spaces.Discrete(2),)),
        spaces.Box(0, 255, (3,), np.uint8),
        spaces.Box(-3, 3, (1,), np.int64),
    ],
    ids=str,
)
def test_refused(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UsageError, match="are not supported\nDiscrete, MultiDiscrete, MultiBinary and Box") as caught:
        distribution_for(space)
    assert str(space) in str(caught.value)


@pytest.mark.parametrize("start", [0, -3])
def test_categorical_of_arrays_is_that_of_tensors(start: int) -> None:
    """The same draws give the same choices."""
    distribution = distribution_for(spaces.Discrete(5, start=start))
    assert distribution.takes_arrays
    logits = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    of_tensors, of_arrays = (
        distribution.sample(params, torch.Generator().manual_seed(1)) for params in (logits, logits.numpy())
    )
    assert isinstance(of_arrays, np.ndarray)
    assert (of_tensors.numpy() == of_arrays).mean() > 0.999  # to rounding of logarithms
    assert np.array_equal(distribution.mode(logits.numpy()), distribution.mode(logits).numpy())
    assert np.array_equal(distribution.to_space(of_arrays), of_arrays + start)
