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
import pytest
import torch
from contract_cases import ACTION_SPACES, OBS_SPACES, build_from, copied, default_of, learn, registered, run_config

from rlkit_core.component import AlgorithmConfig
from rlkit_core.config import RunConfig
from rlkit_core.errors import UsageError
from rlkit_core.learner import Learner
from rlkit_core.policy import Policy
from rlkit_core.presets import configure, presets
from rlkit_core.registry import Registry

DOCS = Path(__file__).parents[2] / "docs" / "algorithms"
ALGORITHMS = pytest.mark.parametrize("name", registered("algorithm"))
NOT_FOR_FLAT_NETWORKS = {"Text", "Graph", "Sequence"}


def config_of(name: str) -> AlgorithmConfig:
    config = default_of("algorithm", name)
    assert isinstance(config, AlgorithmConfig)
    return config


def action_spaces_of(config: AlgorithmConfig) -> list[str]:
    """Those of the action spaces that it can be built for."""
    found = []
    for name, space in ACTION_SPACES.items():
        try:
            build_from(config, OBS_SPACES["Box"], space)
        except UsageError:
            continue
        found.append(name)
    return found


def learning_spaces(name: str) -> tuple[Any, Any]:
    return OBS_SPACES["Box"], ACTION_SPACES[action_spaces_of(config_of(name))[0]]


@ALGORITHMS
@pytest.mark.parametrize("obs", OBS_SPACES)
def test_observation_spaces(name: str, obs: str) -> None:
    """An observation space is either learned from, or refused by name."""
    config = config_of(name)
    observation_space, action_space = OBS_SPACES[obs], learning_spaces(name)[1]
    if obs in NOT_FOR_FLAT_NETWORKS:
        with pytest.raises(UsageError, match=re.escape(str(observation_space))):
            build_from(config, observation_space, action_space)
        return
    learner = build_from(config, observation_space, action_space)
    metrics, _ = learn(config, learner, observation_space, action_space, 2)
    assert all(math.isfinite(number) for record in metrics for number in record.values())


@ALGORITHMS
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_action_spaces(name: str, action: str) -> None:
    """An action space is either acted in, with members of it, or refused by name."""
    config = config_of(name)
    space = ACTION_SPACES[action]
    if action not in action_spaces_of(config):
        with pytest.raises(UsageError, match=re.escape(str(space))):
            build_from(config, OBS_SPACES["Box"], space)
        return
    learner = build_from(config, OBS_SPACES["Box"], space)
    learn(config, learner, OBS_SPACES["Box"], space, 2)  # its environment asserts membership


@ALGORITHMS
def test_some_space_is_supported(name: str) -> None:
    supported = action_spaces_of(config_of(name))
    assert {"Discrete", "Box"} & set(supported)
    assert not {"Text", "Dict", "Tuple"} & set(supported)


@ALGORITHMS
def test_the_interface(name: str) -> None:
    spaces = learning_spaces(name)
    learner = build_from(config_of(name), *spaces)
    assert isinstance(learner, Learner)
    assert isinstance(learner.policy, Policy)
    policy = learner.policy
    learn(config_of(name), learner, *spaces, 2)
    assert learner.policy is policy
    assert any(part is policy for part in learner.parts().values())


@ALGORITHMS
def test_the_same_seed_gives_the_same_metrics(name: str) -> None:
    config, spaces = config_of(name), learning_spaces(name)
    first, again, other = (
        learn(config, build_from(config, *spaces, seed=seed), *spaces, 3, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@ALGORITHMS
def test_rollouts_are_not_changed(name: str) -> None:
    config, spaces = config_of(name), learning_spaces(name)
    learner = build_from(config, *spaces)
    _, [rollout] = learn(config, learner, *spaces, 1)
    names = ("all_obs", "actions", "rewards", "terminated", "truncated", "valid")
    before = {field: getattr(rollout, field).clone() for field in names}
    learner.update(rollout)
    for field, tensor in before.items():
        assert torch.equal(getattr(rollout, field), tensor), field


@ALGORITHMS
@pytest.mark.parametrize("settings", [{}, {"normalize_observations": True, "learning_rate_schedule": "linear"}])
def test_parts_hold_everything_that_decides_how_it_goes_on(name: str, settings: dict[str, Any]) -> None:
    """State in a fresh learner of other weights: the next updates are the same bits."""
    known = Registry().get("algorithm", name).model_fields
    config = Registry().get("algorithm", name)(**{key: value for key, value in settings.items() if key in known})
    assert isinstance(config, AlgorithmConfig)
    spaces = learning_spaces(name)
    learner, fresh = build_from(config, *spaces), build_from(config, *spaces, seed=9)
    _, rollouts = learn(config, learner, *spaces, 5)
    for part, state in {part: copied(p.state_dict()) for part, p in learner.parts().items()}.items():
        fresh.parts()[part].load_state_dict(state)
    for rollout in rollouts:
        ours = {key: float(value) for key, value in learner.update(rollout).items()}
        theirs = {key: float(value) for key, value in fresh.update(rollout).items()}
        assert ours == theirs
    for key, tensor in learner.policy.state_dict().items():
        assert torch.equal(tensor, fresh.policy.state_dict()[key]), key
    obs = rollouts[0].obs.flatten(0, 1)[:4]
    assert torch.equal(learner.policy.act(obs).action, fresh.policy.act(obs).action)


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
    config, spaces = config_of(name), learning_spaces(name)
    logged = {
        f"learner/{key}" for record in learn(config, build_from(config, *spaces), *spaces, 1)[0] for key in record
    }
    assert logged == {metric for metric in documented if metric.startswith("learner/")}


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in ("algorithm", "estimator", "collector", "network") for n in registered(k)]
)
def test_config_modules_leave_torch_out(kind: str, name: str) -> None:
    script = (
        "import sys; from rlkit_core.registry import Registry\n"
        f"Registry().get({kind!r}, {name!r})()\n"
        "print(*[m for m in ('torch', 'mlflow', 'gymnasium.vector') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
