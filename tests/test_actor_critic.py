"""The shared actor-critic policy."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit_core.builtin.actor_critic import ActorCritic, actor_critic
from rlkit_core.builtin.encoding import features_for_acting
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.rollout import Rollout, tree_map

OBS_SPACES = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "Discrete": spaces.Discrete(5, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float64))),
}
ACTION_SPACES = {
    "Discrete": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "MultiBinary": spaces.MultiBinary(4),
    "Box": spaces.Box(np.float32([-2, 0]), np.float32([2, 5])),
    "unbounded Box": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}
N = 6


def batch_of(space: spaces.Space, n: int = N, seed: int = 0):
    space.seed(seed)
    samples = [space.sample() for _ in range(n)]
    return _stack(samples)


def _stack(samples: list):
    if isinstance(samples[0], dict):
        return {key: _stack([s[key] for s in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(_stack([s[i] for s in samples]) for i in range(len(samples[0])))
    return torch.from_numpy(np.stack([np.asarray(s) for s in samples]))


def policy_for(obs: str = "Box", action: str = "Discrete", **settings) -> ActorCritic:
    torch.manual_seed(0)
    return actor_critic(
        OBS_SPACES[obs], ACTION_SPACES[action], MLPConfig(hidden=(8,)), exploration=GaussianConfig(), **settings
    )


def as_one_rollout(policy: ActorCritic, obs, act) -> Rollout:
    flags = torch.zeros(1, N, dtype=torch.bool)
    row = lambda leaf: leaf[None]  # noqa: E731
    return Rollout(
        all_obs=tree_map(lambda leaf: torch.stack([leaf, leaf]), obs),
        actions=tree_map(row, act.action),
        rewards=torch.zeros(1, N),
        terminated=flags,
        truncated=flags,
        valid=~flags,
        extras=tree_map(row, dict(act.extras)),
    )


@pytest.mark.parametrize("obs", OBS_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_acts_in_the_space_and_knows_what_it_did(obs: str, action: str) -> None:
    policy = policy_for(obs, action)
    batch = batch_of(OBS_SPACES[obs])
    for generator in (None, torch.Generator().manual_seed(0)):
        act = policy.act(batch, generator=generator)
        for row in act.action.numpy():
            assert ACTION_SPACES[action].contains(row if row.shape else row.item())
    taken = policy.taken_actions(as_one_rollout(policy, batch, act))
    log_probs, entropies, values = policy.evaluate(batch, taken[0])
    assert log_probs.shape == entropies.shape == values.shape == (N,)
    assert torch.equal(values, policy.value(batch))
    assert log_probs.requires_grad
    assert values.requires_grad
    assert not act.action.requires_grad


@pytest.mark.parametrize("action", ["Discrete", "Box"])
def test_separate_networks_share_nothing(action: str) -> None:
    """The value's loss reaches none of the weights that the policy's loss reaches."""
    policy = policy_for(action=action, value_network="separate")
    batch = batch_of(OBS_SPACES["Box"])
    taken = torch.zeros(N, dtype=torch.int64) if action == "Discrete" else torch.zeros(N, 2)
    log_probs, _, values = policy.evaluate(batch, taken)
    torch.testing.assert_close(values, policy.value(batch), rtol=0, atol=1e-5)
    features = policy.trunks.one(0, batch)
    logits = policy.policy_head(features)
    if action == "Discrete":
        torch.testing.assert_close(log_probs, logits.log_softmax(1)[:, 1], rtol=0, atol=1e-5)  # 0, counted from -1
    else:
        torch.testing.assert_close(policy.act(batch).extras["raw_action"], logits, rtol=0, atol=1e-5)
    parameters = dict(policy.named_parameters())
    of_policy, of_value = (
        torch.autograd.grad(loss.sum(), parameters.values(), retain_graph=True, allow_unused=True)
        for loss in (log_probs, values)
    )
    for name, one, other in zip(parameters, of_policy, of_value, strict=True):
        if name.startswith("trunks"):  # both are in one tensor
            assert one.any(), name
            assert other.any(), name
            assert not (one * other).any(), name
        else:
            assert (one is None) == name.startswith("value_head"), name
            assert (other is None) == (not name.startswith("value_head")), name


@pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
@pytest.mark.parametrize("value_network", ["shared", "separate"])
def test_any_number_of_layers(hidden: tuple[int, ...], value_network: str) -> None:
    policy = actor_critic(
        OBS_SPACES["Box"],
        ACTION_SPACES["Box"],
        MLPConfig(hidden=hidden),
        exploration=GaussianConfig(),
        value_network=value_network,
    )
    batch = batch_of(OBS_SPACES["Box"])
    assert policy.act(batch).action.shape == (N, 2)
    for answer in policy.evaluate(batch, torch.zeros(N, 2)):
        assert answer.shape == (N,)


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_without_a_generator_it_acts_by_the_mode(action: str) -> None:
    """No raw action is more probable than the mode's."""
    policy = policy_for(action=action, orthogonal_init=False)
    batch = batch_of(OBS_SPACES["Box"])
    mode = policy.act(batch)
    assert torch.equal(mode.action, policy.act(batch).action)
    best = policy.evaluate(batch, policy.taken_actions(as_one_rollout(policy, batch, mode))[0])[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        act = policy.act(batch, generator=generator)
        other = policy.evaluate(batch, policy.taken_actions(as_one_rollout(policy, batch, act))[0])[0]
        assert (other <= best + 1e-6).all()


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_the_same_generator_gives_the_same_samples(action: str) -> None:
    policy = policy_for(action=action)
    batch = batch_of(OBS_SPACES["Box"])
    runs = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        runs.append(torch.stack([policy.act(batch, generator=generator).action for _ in range(5)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert len({tuple(row.flatten().tolist()) for row in runs[0]}) > 1


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_acting_consumes_no_global_randomness(action: str) -> None:
    policy = policy_for(action=action, normalize_observations=True)
    batch = batch_of(OBS_SPACES["Box"])
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    policy.act(batch)
    policy.act(batch, generator=torch.Generator().manual_seed(0))
    policy.value(batch)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_acting_changes_nothing_in_the_policy() -> None:
    policy = policy_for(normalize_observations=True)
    batch = batch_of(OBS_SPACES["Box"])
    policy.preprocessor.update(batch)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.act(batch, generator=torch.Generator().manual_seed(0))
    policy.evaluate(batch, policy.act(batch).action)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_acts_from_numpy_as_from_tensors() -> None:
    policy = policy_for("Dict")
    batch = batch_of(OBS_SPACES["Dict"])
    assert torch.equal(policy.act(tree_map(lambda leaf: leaf.numpy(), batch)).action, policy.act(batch).action)


def test_heads_start_orthogonal() -> None:
    policy = policy_for()
    weight = policy.policy_head.weight
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(3))
    torch.testing.assert_close(policy.value_head.weight.norm(), torch.tensor(1.0))
    assert not policy.policy_head.bias.any()
    assert not policy.value_head.bias.any()
    probabilities = policy.policy_head(policy.trunk(batch_of(OBS_SPACES["Box"]))).softmax(-1)
    assert (probabilities - 1 / 3).abs().max() < 0.01


def test_weights_are_read_at_each_call() -> None:
    """Loading weights, or new tensors in place of them, takes effect: no call keeps an old one."""
    policy, other = policy_for(), policy_for()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    batch = batch_of(OBS_SPACES["Box"])
    policy.load_state_dict(other.state_dict())
    assert torch.equal(policy.value(batch), other.value(batch))
    for p in policy.parameters():
        p.data = p.data * 2
    for p in other.parameters():
        p.data.mul_(2)
    assert torch.equal(policy.value(batch), other.value(batch))


@pytest.mark.parametrize("value_network", ["shared", "separate"])
@pytest.mark.parametrize("action", ["Discrete", "Box"])
def test_everything_is_moved_to_the_policys_device(action: str, value_network: str) -> None:
    """The device `meta` computes nothing but refuses to meet the CPU, as a GPU does."""
    policy = policy_for(action=action, normalize_observations=True, value_network=value_network, device="meta")
    batch = batch_of(OBS_SPACES["Box"])
    taken = torch.zeros(N, dtype=torch.int64) if action == "Discrete" else torch.zeros(N, 2)
    for answer in policy.evaluate(batch, taken):
        assert answer.device.type == "meta"
    assert policy.value(batch).device.type == "meta"
    assert policy.act(batch).action.device.type == "meta"


@pytest.mark.parametrize("value_network", ["shared", "separate"])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)], ids=str)
def test_many_and_few_are_acted_on_alike(action_space: spaces.Space[Any], value_network: Any) -> None:
    """Few by numpy, many by torch: the same to rounding."""
    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    policy = actor_critic(
        observation_space,
        action_space,
        MLPConfig(hidden=(16, 8), activation="tanh"),
        exploration=GaussianConfig(),
        value_network=value_network,
        normalize_observations=True,
    )
    obs = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    policy.preprocessor.update(obs)
    many = policy.act(obs.numpy())
    few = [policy.act(part.numpy()) for part in obs.split(50)]
    assert isinstance(many.action, Tensor)
    assert isinstance(few[0].action, Tensor)
    together = torch.cat([act.action for act in few])
    assert (together - many.action).abs().double().mean() < 1e-5
    assert together.dtype == many.action.dtype


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e38])
def test_a_policy_that_has_diverged_acts_without_warnings(weight: float) -> None:
    """That it has is told by the learner; what numpy has to say about it would stand between."""
    space = spaces.Box(-1, 1, (4,), np.float32)
    policy = actor_critic(
        space,
        spaces.Discrete(3),
        MLPConfig(hidden=(16, 8), activation="tanh"),
        exploration=GaussianConfig(),
        normalize_observations=True,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(weight)
    policy.preprocessor.update(torch.randn(10, 4) * 1e-20)
    obs = np.full((2, 4), 3e38, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(obs, generator=torch.Generator())
        assert policy.act(obs).action.shape == (2,)
        features_for_acting(policy.trunk, policy.preprocessor, obs)
