"""The preset `notebook` against an independent transcription of what it is named for.

The source is PyTorch's examples repository, reinforcement_learning/actor_critic.py (BSD-3): one episode, a forward pass
per step whose graph is kept, and one backward pass over all of them. It is written down again here, not copied.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, smooth_l1_loss, softmax

from rlkit_a2c.a2c import A2C
from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.encoding import encode
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import Setup
from rlkit_core.config import RunConfig
from rlkit_core.registry import Registry
from rlkit_core.rollout import FinalObservations, Rollout
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.training import configure

GAMMA = 0.99
EPSILON = np.finfo(np.float32).eps.item()


class Net(nn.Module):
    """The network of the notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.affine1 = nn.Linear(4, 128)
        self.action_head = nn.Linear(128, 2)
        self.value_head = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = relu(self.affine1(x))
        return softmax(self.action_head(x), dim=-1), self.value_head(x)


def normalized_returns(rewards: Tensor) -> Tensor:
    R, returns = torch.zeros((), dtype=rewards.dtype), []
    for r in rewards.flip(0):
        R = r + GAMMA * R
        returns.insert(0, R)
    G = torch.stack(returns)
    if len(G) == 1:
        return torch.zeros_like(G)  # where we differ: see test_the_notebook_gives_nan_on_a_one_step_episode
    return (G - G.mean()) / (G.std() + EPSILON)


def loss_step_by_step(net: Net, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """A forward pass per step, as the environment was stepped; the graphs are kept until the episode's end."""
    saved = []
    for o, a in zip(obs, actions, strict=True):
        probs, value = net(o)
        saved.append((torch.distributions.Categorical(probs).log_prob(a), value))
    policy_losses, value_losses = [], []
    for (log_prob, value), R in zip(saved, normalized_returns(rewards), strict=True):
        advantage = R - value.item()
        policy_losses.append(-log_prob * advantage)
        value_losses.append(smooth_l1_loss(value, R.reshape(1)))
    return torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()


def loss_in_one_batch(net: Net, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """The same with a single forward pass over the recorded observations."""
    probs, values = net(obs)
    log_probs = torch.distributions.Categorical(probs).log_prob(actions)
    R = normalized_returns(rewards)
    values = values.squeeze(1)
    policy_loss = (-log_probs * (R - values.detach())).sum()
    return policy_loss + smooth_l1_loss(values, R, reduction="sum")


FORMS = pytest.mark.parametrize("form", [loss_step_by_step, loss_in_one_batch])


def notebook_config() -> RunConfig:
    config, name = configure([{"algorithm": "a2c", "env": "CartPole-v1"}], Registry(), "notebook")
    assert name == "notebook"
    return config


def build_learner(seed: int = 0) -> A2C:
    algorithm = notebook_config().algorithm
    assert isinstance(algorithm, A2CConfig)
    with GymnasiumConfig(id="CartPole-v1").make(1, SeedStream(0)) as environments:
        spaces = environments.observation_space, environments.action_space
    with global_generators(SeedStream(seed, "weights")):
        return algorithm.build(Setup(*spaces, 1, 1000, "cpu", SeedStream(0)))


@pytest.fixture(scope="module")
def episodes() -> list[Rollout]:
    """Recorded CartPole episodes of the untrained policy, and a first step that ends its episode at once."""
    config, learner = notebook_config(), build_learner()
    collector = config.algorithm.collector.build(config.env, SeedStream(1, "collector"), "cpu")
    recorded = [collector.collect(learner.policy) for _ in range(6)]
    collector.close()
    return [*recorded, first_step_of(recorded[0])]


def first_step_of(rollout: Rollout) -> Rollout:
    return Rollout(
        all_obs=rollout.all_obs[:2],
        actions=rollout.actions[:1],
        rewards=rollout.rewards[:1],
        terminated=torch.ones(1, 1, dtype=torch.bool),
        truncated=torch.zeros(1, 1, dtype=torch.bool),
        valid=torch.ones(1, 1, dtype=torch.bool),
        finals=FinalObservations(
            torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), rollout.all_obs[1]
        ),
    )


def in_double(rollout: Rollout) -> Rollout:
    return Rollout(**{**vars_of(rollout), "rewards": rollout.rewards.double()})


def vars_of(rollout: Rollout) -> dict[str, object]:
    return {name: getattr(rollout, name) for name in Rollout.__dataclass_fields__}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the learner count in float64: the two places that make float32 of everything leave it as it is."""
    monkeypatch.setattr("rlkit_core.builtin.mlp.encode", lambda obs, space: encode(obs, space).double())
    monkeypatch.setattr("rlkit_core.returns._to_tensor", lambda what, x: torch.from_numpy(np.asarray(x, np.float64)))


def double_learner(seed: int = 0) -> A2C:
    learner = build_learner(seed)
    learner.policy.double()
    config = learner.config
    learner.optimizer = Adam(learner.policy.parameters(), config.learning_rate, epsilon=config.adam_epsilon)
    return learner


def net_with_weights_of(learner: A2C) -> Net:
    net = Net().to(next(learner.policy.parameters()).dtype)
    policy = learner.policy
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), policy_parameters(learner), strict=True):
            assert mine.shape == theirs.shape
            mine.copy_(theirs)
    assert {id(p) for p in policy_parameters(learner)} == {id(p) for p in policy.parameters()}
    return net


def policy_parameters(learner: A2C) -> list[nn.Parameter]:
    """In the order of the notebook's network."""
    policy = learner.policy
    layers = [policy.trunk.layers[0], policy.policy_head, policy.value_head]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def recorded(rollout: Rollout, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return rollout.obs[:, 0].to(dtype), rollout.actions[:, 0], rollout.rewards[:, 0].to(dtype)


def test_the_episodes_are_worth_comparing(episodes: list[Rollout]) -> None:
    lengths = [rollout.num_steps for rollout in episodes]
    assert lengths[-1] == 1
    assert len(set(lengths)) > 3
    assert max(lengths) > 20
    assert {int(a) for rollout in episodes for a in rollout.actions} == {0, 1}


@FORMS
@pytest.mark.usefixtures("double")
def test_loss_and_gradients_in_float64(form, episodes: list[Rollout]) -> None:
    """Element by element, through `A2C.update` as training calls it."""
    for rollout in episodes:
        learner = double_learner()
        net = net_with_weights_of(learner)
        expected = form(net, *recorded(rollout, torch.float64))
        expected.backward()

        metrics = learner.update(in_double(rollout))

        assert float(metrics["loss"]) == pytest.approx(expected.item(), rel=0, abs=1e-9)
        for mine, theirs in zip(policy_parameters(learner), net.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-9)


@FORMS
def test_loss_and_gradients_in_float32(form, episodes: list[Rollout]) -> None:
    """Within 1e-5 of the gradient's norm."""
    for rollout in episodes:
        learner = build_learner()
        net = net_with_weights_of(learner)
        expected = form(net, *recorded(rollout, torch.float32))
        expected.backward()

        metrics = learner.update(rollout)

        # The loss is a sum of T terms of either sign: its own size says nothing about rounding.
        assert float(metrics["loss"]) == pytest.approx(expected.item(), abs=1e-5 * rollout.num_steps)
        mine = torch.cat([p.grad.flatten() for p in policy_parameters(learner)])
        theirs = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.usefixtures("double")
def test_weights_after_several_updates(episodes: list[Rollout]) -> None:
    """With the optimiser of the notebook, torch's Adam with step size 3e-2, over all episodes."""
    learner = double_learner(seed=1)
    net = net_with_weights_of(learner)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    for rollout in episodes:
        optimizer.zero_grad()
        loss_step_by_step(net, *recorded(rollout, torch.float64)).backward()
        optimizer.step()
        learner.update(in_double(rollout))
        for mine, theirs in zip(policy_parameters(learner), net.parameters(), strict=True):
            torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=0, atol=1e-9)


def test_the_two_forms_of_the_notebook_agree(episodes: list[Rollout]) -> None:
    net = Net().double()
    for rollout in episodes:
        gradients = []
        for form in (loss_step_by_step, loss_in_one_batch):
            net.zero_grad()
            form(net, *recorded(rollout, torch.float64)).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_the_notebook_gives_nan_on_a_one_step_episode(episodes: list[Rollout]) -> None:
    """Its `returns.std()` divides by T - 1. We define the normalised return of a single step as 0."""
    G = torch.tensor([1.0])
    with pytest.warns(UserWarning, match="degrees of freedom"):
        theirs = (G - G.mean()) / (G.std() + EPSILON)
    assert theirs.isnan().all()

    learner = build_learner()
    values, next_values = episodes[-1].values(learner.policy.value)
    ours = learner.estimator.estimate(episodes[-1], next_values, values=values)
    assert ours.targets.tolist() == [[0.0]]
    assert torch.equal(ours.advantages, -values)


def test_settings_are_those_of_the_notebook() -> None:
    config = notebook_config()
    algorithm = config.algorithm
    assert isinstance(algorithm, A2CConfig)
    assert (config.seed, config.stop_at, config.episode_log_every) == (543, "running-return", 10)
    assert algorithm.network.model_dump() == {"hidden": (128,), "activation": "relu", "init": "default"}
    assert algorithm.estimator.model_dump() == {
        "gamma": 0.99,
        "bootstrap": False,
        "normalize": "per_episode",
        "ddof": 1,
        "epsilon": EPSILON,
    }
    assert (algorithm.collector.name, algorithm.collector.num_envs) == ("episodes", 1)
    assert algorithm.learning_rate == 3e-2
    assert (algorithm.value_loss, algorithm.value_coef, algorithm.reduction) == ("smooth_l1", 1.0, "sum")
    assert (algorithm.max_grad_norm, algorithm.entropy_coef, algorithm.normalize_advantages) == (None, 0.0, False)
    assert (algorithm.head_init, algorithm.adam_epsilon) == ("default", 1e-8)
