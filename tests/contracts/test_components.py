"""What every registered part keeps, whatever its kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from contract_cases import ACTION_SPACES, OBS_SPACES, AnyConfig, default_of, registered
from gymnasium import spaces

from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.component import CollectorConfig, Component, EstimatorConfig, NetworkConfig, dump
from rlkit_core.errors import UsageError
from rlkit_core.network import RecurrentNetwork
from rlkit_core.policy import Act, Policy
from rlkit_core.registry import Registry
from rlkit_core.rollout import Rollout, tree_map
from rlkit_core.seeding import SeedStream, global_generators

KINDS = ("algorithm", "estimator", "collector", "policy", "network", "exploration", "environment", "tracker")
PARTS = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in registered(kind)])
ESTIMATORS = pytest.mark.parametrize("name", registered("estimator"))
NETWORKS = pytest.mark.parametrize("name", registered("network"))
COLLECTORS = pytest.mark.parametrize("name", registered("collector"))


@PARTS
def test_every_setting_is_explained(kind: str, name: str) -> None:
    component = Registry().get(kind, name)
    assert (component.__doc__ or "").strip()
    for field, info in component.model_fields.items():
        assert info.description, f"{component.__name__}.{field}"


@PARTS
def test_settings_are_frozen_and_nothing_unknown_is_taken(kind: str, name: str) -> None:
    component = Registry().get(kind, name)
    required = {f: "CartPole-v1" for f, info in component.model_fields.items() if info.is_required()}
    config = component(**required)
    with pytest.raises(ValueError, match="no_such_setting"):
        component(**required, no_such_setting=1)
    for field in component.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(config, field, None)
    assert json.loads(json.dumps(dump(config)))["name"] == component.name


def part(kind: type[Any], name: str) -> Any:
    config = default_of(kind.kind, name)
    assert isinstance(config, kind)
    assert isinstance(config, Component)
    return config


def rollout_with(seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(12, 3, generator=generator) < 0.2
    ends[-1] = True  # whole episodes, which some settings ask for
    kind = torch.rand(12, 3, generator=generator) < 0.5
    return Rollout(
        all_obs=torch.zeros(13, 3, 1),
        actions=torch.zeros(12, 3),
        rewards=torch.randn(12, 3, generator=generator) * 5 + 2,
        terminated=ends & kind,
        truncated=ends & ~kind,
        valid=torch.ones(12, 3, dtype=torch.bool),
    )


@ESTIMATORS
def test_estimators(name: str) -> None:
    """Right shapes, no gradient, arguments untouched, and a state that goes on in another one."""
    config = part(EstimatorConfig, name)
    for collector in (StepsConfig(), EpisodesConfig()):
        config.check_collector(collector)
    one, other = config.build(), config.build()
    for seed in range(4):
        rollout = rollout_with(seed)
        values = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        rewards, before = rollout.rewards.clone(), values.detach().clone()
        asked = one.estimate(rollout, values, values=values, update=False)
        again = one.estimate(rollout, values, values=values, update=False)
        answer = one.estimate(rollout, values, values=values)
        assert torch.equal(asked.targets, again.targets)
        for x in (*asked, *answer):
            assert x.shape == (12, 3)
            assert x.dtype is torch.float32
            assert not x.requires_grad
            assert x.isfinite().all()
        assert torch.equal(rollout.rewards, rewards)
        assert torch.equal(values.detach(), before)
        other.load_state_dict(json.loads(json.dumps(dict(one.state_dict()))))
        mine, theirs = (e.estimate(rollout, values, values=values, update=False) for e in (one, other))
        assert torch.equal(mine.targets, theirs.targets)
        assert torch.equal(mine.advantages, theirs.advantages)
        assert torch.equal(one.to_raw(values.detach()), other.to_raw(values.detach()))


@NETWORKS
@pytest.mark.parametrize("obs", OBS_SPACES)
def test_networks(name: str, obs: str) -> None:
    """Features of the announced width, equal for equal seeds, or a refusal that names the space."""
    config, space = part(NetworkConfig, name), OBS_SPACES[obs]
    built = []
    for _ in range(2):
        with global_generators(SeedStream(0)):
            try:
                built.append(config.build(space))
            except UsageError as error:
                refusal = str(error)
    if not built:
        assert str(space) in refusal
        return
    env = AnyConfig(observation_space=space, action_space=spaces.Discrete(2)).make(4, SeedStream(0))
    with env:
        batch = env.reset()
    assert isinstance(built[0], RecurrentNetwork) == config.recurrent
    features, others = (
        network(batch, network.initial_state(2), torch.zeros(2, 2, dtype=torch.bool))[0]
        if isinstance(network, RecurrentNetwork)
        else network(batch)
        for network in built
    )
    assert features.shape == (4, built[0].num_features)
    assert features.dtype is torch.float32
    assert torch.equal(features, others)
    assert features.requires_grad


@pytest.mark.parametrize("name", [name for name in registered("network") if part(NetworkConfig, name).recurrent])
def test_recurrent_networks(name: str) -> None:
    """A sequence is its steps, to rounding; a start forgets; no environment sees another; states are kept whole."""
    with global_generators(SeedStream(0)):
        network: Any = part(NetworkConfig, name).build(OBS_SPACES["Box"])
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(6, 3, 3, generator=generator)
    starts = torch.rand(6, 3, generator=generator) < 0.3
    first = tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator), network.initial_state(3))
    before = tree_map(torch.clone, first)
    features, last = network(obs.flatten(0, 1), first, starts)
    state, rows = first, []
    for t in range(6):
        row, state = network(obs[t], state, starts[t : t + 1])
        rows.append(row)
    torch.testing.assert_close(features, torch.cat(rows), rtol=0, atol=1e-5)
    torch.testing.assert_close(last, state, rtol=0, atol=1e-5)
    torch.testing.assert_close(first, before, rtol=0, atol=0)
    fresh, _ = network(obs[2], network.initial_state(3), torch.zeros(1, 3, dtype=torch.bool))
    forgotten, _ = network(obs[2], state, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(forgotten, fresh, rtol=0, atol=1e-6)
    alone, _ = network(obs[:, 1], tree_map(lambda leaf: leaf[1:2], first), starts[:, 1:2])
    torch.testing.assert_close(alone, features.view(6, 3, -1)[:, 1], rtol=0, atol=1e-5)


class Uniform(Policy):
    """Acts at random in a Discrete space."""

    def act(self, obs: Any, *, generator: torch.Generator | None = None) -> Act:
        return Act(torch.randint(3, (len(obs),), generator=generator) - 1)


@COLLECTORS
def test_collectors(name: str) -> None:
    """The same seed, the same rollout; earlier rollouts are not written to; episodes are counted right."""
    config = part(CollectorConfig, name)
    env = AnyConfig(observation_space=OBS_SPACES["Box"], action_space=ACTION_SPACES["Discrete"])
    runs = []
    for _ in range(2):
        collector = config.build(env, SeedStream(3), "cpu")
        first = collector.collect(Uniform())
        kept = first.all_obs.clone(), first.rewards.clone()
        runs.append((first, collector.collect(Uniform())))
        assert torch.equal(first.all_obs, kept[0])
        assert torch.equal(first.rewards, kept[1])
        collector.close()
    for mine, theirs in zip(*runs, strict=True):
        for field in ("all_obs", "actions", "rewards", "terminated", "truncated", "valid"):
            assert torch.equal(getattr(mine, field), getattr(theirs, field)), field
        assert mine.episodes == theirs.episodes
        assert len(mine.episodes) == int((mine.terminated | mine.truncated).sum())
        if config.whole_episodes:
            assert np.isclose(sum(e.episode_return for e in mine.episodes), float(mine.rewards.sum()), atol=1e-3)
            assert sum(e.length for e in mine.episodes) == mine.num_steps
