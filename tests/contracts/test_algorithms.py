"""What every algorithm that comes along keeps besides the checks: presets that build, pages, and the probes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.component import AlgorithmConfig, Setup
from rlkit_core.presets import configure, presets
from rlkit_core.registry import Registry
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing import probes
from rlkit_core.testing.building import build_learner
from rlkit_core.testing.cases import act
from rlkit_core.testing.checks import small

DOCS = Path(__file__).parents[2] / "docs" / "algorithms"
ALGORITHMS = pytest.mark.parametrize("name", Registry().names("algorithm"))


def config_of(name: str) -> Any:
    config = Registry().get("algorithm", name)()
    assert isinstance(config, AlgorithmConfig)
    return config


# The others learn it in tests/learning/test_probe_values.py.
@pytest.mark.parametrize("name", ["a2c", "reinforce"])
def test_it_learns_which_action_belongs_to_which_observation(name: str) -> None:
    config = small(config_of(name), learning_rate=1e-2)
    seeds = SeedStream(0)
    collector = config.collector.build(GymnasiumConfig(id=probes.Identity.id), seeds.stream("collector"), "cpu")
    obs = torch.tensor(probes.Identity.all_obs)
    with global_generators(seeds.stream("global")):
        spaces = collector.observation_space, collector.action_space
        learner = config.build(Setup(*spaces, 2, 10_000, "cpu", seeds.stream("learner")))
        good = 0
        for _ in range(3_000):
            learner.update(collector.collect(learner.policy))
            good = good + 1 if act(learner.policy, obs).action.tolist() == list(probes.Identity.all_obs) else 0
            if good == 10:
                break
    collector.close()
    assert good == 10


@ALGORITHMS
def test_every_preset_builds(name: str) -> None:
    for preset, content in presets(type(config_of(name))).items():
        env_id = content.environments[0] if content.environments else "CartPole-v1"
        config, _ = configure([{"algorithm": name, "env": env_id, "tracker": "none"}], Registry(), preset)
        with gymnasium.make(env_id) as env:
            build_learner(config.algorithm, env.observation_space, env.action_space)


@ALGORITHMS
def test_its_page_has_its_metrics(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `learner/([a-z_]+)`", page, re.MULTILINE)
    assert documented == list(config_of(name).metrics)
