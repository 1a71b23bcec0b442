"""What every registered algorithm keeps, ours and a stranger's."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from contract_cases import (
    ACTION_SPACES,
    OBS_SPACES,
    build_from,
    copied,
    default_of,
    learn,
    quick,
    registered,
    run_config,
    same,
)
from gymnasium import spaces

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import AlgorithmConfig, Setup
from rlkit_core.config import RunConfig
from rlkit_core.errors import UsageError
from rlkit_core.learner import Learner
from rlkit_core.policy import Policy, StatefulPolicy
from rlkit_core.presets import configure, presets
from rlkit_core.registry import Registry
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing import probes

DOCS = Path(__file__).parents[2] / "docs" / "algorithms"
ALGORITHMS = pytest.mark.parametrize("name", registered("algorithm"))
NOT_FOR_FLAT_NETWORKS = {"Text", "Graph", "Sequence"}


def config_of(name: str) -> AlgorithmConfig:
    config = default_of("algorithm", name)
    assert isinstance(config, AlgorithmConfig)
    return config


def handled(config: AlgorithmConfig, action_space: Any) -> bool:
    """Whether it says that it handles such actions; numbers of a Box are meant to be floats."""
    integers = isinstance(action_space, spaces.Box) and np.dtype(action_space.dtype).kind != "f"
    return type(action_space).__name__ in config.action_spaces and not integers


def learning_spaces(name: str) -> tuple[Any, Any]:
    config = config_of(name)
    return OBS_SPACES["Box"], next(space for space in ACTION_SPACES.values() if handled(config, space))


def learn_something(config: AlgorithmConfig, learner: Learner, spaces: tuple[Any, Any], seed: int = 0) -> list[Rollout]:
    """Rollouts of at least three updates that changed the policy."""
    rollouts: list[Rollout] = []
    changes = 0
    for _ in range(100):
        before = copied(learner.policy.state_dict())
        rollouts += learn(config, learner, *spaces, 1, seed=seed + len(rollouts))[1]
        changes += not same(before, learner.policy.state_dict())
        if changes == 3:
            return rollouts
    raise AssertionError("100 updates changed the policy less than three times")


@ALGORITHMS
@pytest.mark.parametrize("obs", OBS_SPACES)
def test_observation_spaces(name: str, obs: str) -> None:
    """An observation space is either learned from, or refused by name."""
    config = quick(config_of(name))
    observation_space, action_space = OBS_SPACES[obs], learning_spaces(name)[1]
    if obs in NOT_FOR_FLAT_NETWORKS:
        with pytest.raises(UsageError, match=re.escape(str(observation_space))):
            build_from(config, observation_space, action_space)
        return
    learner = build_from(config, observation_space, action_space)
    learn_something(config, learner, (observation_space, action_space))
    metrics, _ = learn(config, learner, observation_space, action_space, 1)
    assert all(math.isfinite(number) for record in metrics for number in record.values())


@ALGORITHMS
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_action_spaces(name: str, action: str) -> None:
    """An action space that is declared is acted in, with members of it; any other is refused by name."""
    config = quick(config_of(name))
    space = ACTION_SPACES[action]
    if not handled(config, space):
        with pytest.raises(UsageError, match=re.escape(str(space))):
            build_from(config, OBS_SPACES["Box"], space)
        return
    learner = build_from(config, OBS_SPACES["Box"], space)
    learn_something(config, learner, (OBS_SPACES["Box"], space))  # its environment asserts membership


@ALGORITHMS
def test_the_spaces_that_it_handles_are_declared(name: str) -> None:
    declared = set(config_of(name).action_spaces)
    assert {"Discrete", "Box"} & declared
    assert declared <= {type(space).__name__ for space in ACTION_SPACES.values()}


@ALGORITHMS
def test_the_interface(name: str) -> None:
    config, spaces = quick(config_of(name)), learning_spaces(name)
    learner = build_from(config, *spaces)
    assert isinstance(learner, Learner)
    assert isinstance(learner.policy, Policy)
    policy = learner.policy
    learn_something(config, learner, spaces)
    assert learner.policy is policy
    assert any(part is policy for part in learner.parts().values())


@ALGORITHMS
def test_the_same_seed_gives_the_same_metrics(name: str) -> None:
    config, spaces = quick(config_of(name)), learning_spaces(name)
    first, again, other = (
        learn(config, build_from(config, *spaces, seed=seed), *spaces, 20, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@ALGORITHMS
def test_rollouts_are_not_changed(name: str) -> None:
    config, spaces = quick(config_of(name)), learning_spaces(name)
    learner = build_from(config, *spaces)
    rollout = learn_something(config, learner, spaces)[-1]
    names = ("all_obs", "actions", "rewards", "terminated", "truncated", "valid")
    before = {field: getattr(rollout, field).clone() for field in names}
    learner.update(rollout)
    for field, tensor in before.items():
        assert torch.equal(getattr(rollout, field), tensor), field


@ALGORITHMS
@pytest.mark.parametrize("settings", [{}, {"normalize_observations": True, "learning_rate_schedule": "linear"}])
def test_parts_hold_everything_that_decides_how_it_goes_on(name: str, settings: dict[str, Any]) -> None:
    """State in a fresh learner of other weights: the next updates are the same bits."""
    config = quick(config_of(name), **settings)
    spaces = learning_spaces(name)
    learner, fresh = build_from(config, *spaces), build_from(config, *spaces, seed=9)
    rollouts = learn_something(config, learner, spaces)
    for part, state in {part: copied(p.state_dict()) for part, p in learner.parts().items()}.items():
        fresh.parts()[part].load_state_dict(state)
    for rollout in rollouts:
        ours = {key: float(value) for key, value in learner.update(rollout).items()}
        theirs = {key: float(value) for key, value in fresh.update(rollout).items()}
        assert ours == theirs
    for key, tensor in learner.policy.state_dict().items():
        assert torch.equal(tensor, fresh.policy.state_dict()[key]), key
    obs = rollouts[0].obs.flatten(0, 1)[:4]
    assert torch.equal(greedy(learner.policy, obs), greedy(fresh.policy, obs))


def greedy(policy: Policy, obs: Any) -> torch.Tensor:
    """Actions without sampling."""
    if isinstance(policy, StatefulPolicy):
        return policy.act(obs, policy.initial_state(len(obs)), torch.ones(len(obs), dtype=torch.bool)).action  # type: ignore[no-any-return]
    return policy.act(obs).action  # type: ignore[no-any-return]


@ALGORITHMS
@pytest.mark.parametrize("probe", [probes.ActionReward, probes.Identity], ids=lambda probe: probe.__name__)
def test_it_learns_on_the_probe_environments(name: str, probe: type[probes.Probe]) -> None:
    """The best action in every observation, within 0.2 where actions are continuous."""
    config = quick(config_of(name), batch_size=64, learning_rate=5e-3, epsilon_fraction=0.5, warmup_steps=100)
    total_steps = 1_000 if "replay_size" in type(config).model_fields else 6_000
    continuous = "Discrete" not in config.action_spaces
    env = GymnasiumConfig(id=probe.id, kwargs={"continuous": continuous})
    seeds = SeedStream(0)
    collector = config.collector.build(env, seeds.stream("collector"), "cpu")
    with global_generators(seeds.stream("global")):
        spaces = collector.observation_space, collector.action_space
        setup = Setup(*spaces, config.collector.num_envs, total_steps, "cpu", seeds.stream("learner"))
        learner = config.build(setup)
        steps = 0
        while steps < total_steps:
            rollout = collector.collect(learner.policy)
            learner.update(rollout)
            steps += rollout.num_steps
    collector.close()
    obs = torch.from_numpy(np.stack([np.asarray(o) for o in probe.all_obs]))
    actions = greedy(learner.policy, obs).reshape(-1).tolist()
    best = [probe.best_action(o, continuous) for o in probe.all_obs]
    np.testing.assert_allclose(actions, best, atol=0.2)


@ALGORITHMS
def test_the_config_goes_through_json(name: str) -> None:
    config = run_config(algorithm=name)
    assert RunConfig.parse(json.loads(json.dumps(config.dump())), registry=Registry()) == config
    for preset in presets(type(config.algorithm)):
        config, _ = configure([{"algorithm": name, "env": "CartPole-v1", "tracker": "none"}], Registry(), preset)
        assert RunConfig.parse(json.loads(json.dumps(config.dump())), registry=Registry()) == config


@ALGORITHMS
def test_every_preset_builds(name: str) -> None:
    for preset, content in presets(Registry().get("algorithm", name)).items():
        env_id = content.environments[0] if content.environments else "CartPole-v1"
        config, _ = configure([{"algorithm": name, "env": env_id, "tracker": "none"}], Registry(), preset)
        with gymnasium.make(env_id) as env:
            build_from(config.algorithm, env.observation_space, env.action_space)


@ALGORITHMS
def test_every_metric_is_on_its_page(name: str) -> None:
    page = (DOCS / f"{name.rpartition(':')[2]}.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_]+/[a-z_]+)`", page, re.MULTILINE))
    config, spaces = quick(config_of(name)), learning_spaces(name)
    logged = {
        f"learner/{key}" for record in learn(config, build_from(config, *spaces), *spaces, 20)[0] for key in record
    }
    assert logged == {metric for metric in documented if metric.startswith("learner/")}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (k, n)
        for k in ("algorithm", "estimator", "collector", "policy", "network", "exploration")
        for n in registered(k)
    ],
)
def test_config_modules_leave_torch_out(kind: str, name: str) -> None:
    script = (
        "import sys; from rlkit_core.registry import Registry\n"
        f"Registry().get({kind!r}, {name!r})()\n"
        "print(*[m for m in ('torch', 'mlflow', 'gymnasium.vector') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
