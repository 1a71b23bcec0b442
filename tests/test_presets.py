"""Presets: which one is chosen, and where it lies among the layers."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rlkit_core.component import AlgorithmConfig
from rlkit_core.config import RunConfig
from rlkit_core.errors import ConfigError, PluginError, UsageError
from rlkit_core.presets import choose_preset, configure, presets
from rlkit_core.registry import Registry

SOURCE = """
from typing import ClassVar
from pydantic import Field
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.component import AlgorithmConfig, CollectorConfig, EstimatorConfig
from rlkit_core.hookspecs import hookimpl

class Mine(AlgorithmConfig):
    "Mine."
    name: ClassVar[str] = "mine"
    collector: CollectorConfig = Field(StepsConfig(), description="c")
    estimator: EstimatorConfig = Field(DiscountedConfig(), description="e")
    rate: float = Field(0.1, description="r")
    def build(self, setup): ...

@hookimpl
def rlkit_register(): return [Mine]
"""
PRESETS = """
[pole]
description = "for the pole"
environments = ["CartPole-v1", "CartPole-v0"]
run = { total_steps = 1000, seed = 5 }
algorithm = { rate = 0.5, collector = { num_envs = 3 }, estimator = { name = "lambda", gae_lambda = 0.5, gamma = 0.5 } }

[slow]
description = "by name only"
algorithm = { rate = 0.01 }
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("mine_plugin")
    made.__file__ = str(tmp_path / "mine_plugin.py")
    monkeypatch.setitem(sys.modules, "mine_plugin", made)
    exec(SOURCE, made.__dict__)
    (tmp_path / "presets.toml").write_text(PRESETS)
    return made


def settings(plugin: types.ModuleType, *layers: dict[str, Any], preset: str | None = None) -> tuple[Any, str | None]:
    return configure(layers, Registry(plugins=[plugin]), preset)


def test_what_there_is(plugin: types.ModuleType) -> None:
    found = presets(plugin.Mine)
    assert {name: preset.description for name, preset in found.items()} == {
        "pole": "for the pole",
        "slow": "by name only",
    }
    assert found["slow"].layer() == {"algorithm": {"rate": 0.01}}
    Path(str(plugin.__file__)).with_name("presets.toml").unlink()
    assert presets(plugin.Mine) == {}
    assert choose_preset(plugin.Mine, "CartPole-v1", None, Registry()) == (None, {})
    with pytest.raises(UsageError, match="it has no presets at all"):
        choose_preset(plugin.Mine, None, "pole", Registry())


@pytest.mark.parametrize(
    ("env", "preset", "chosen", "rate"),
    [
        ("CartPole-v0", None, "pole", 0.5),
        ("CartPole-v1", "none", None, 0.1),
        ("CartPole-v1", "slow", "slow", 0.01),
        ("Acrobot-v1", None, None, 0.1),
        ("Acrobot-v1", "pole", "pole", 0.5),
    ],
)
def test_which_one(plugin: types.ModuleType, env: str, preset: str | None, chosen: str | None, rate: float) -> None:
    config, name = settings(plugin, {"algorithm": "mine", "env": env}, preset=preset)
    assert (name, config.algorithm.rate) == (chosen, rate)


def test_it_lies_above_the_defaults_and_below_everything_else(plugin: types.ModuleType) -> None:
    config, _ = settings(
        plugin,
        {"algorithm": {"name": "mine", "estimator": {"gamma": 0.9}}, "total_steps": 7},
        {"env": "CartPole-v1", "algorithm": {"estimator": {"name": "lambda", "epsilon": 0}}},
    )
    assert (config.total_steps, config.seed) == (7, 5)
    assert config.algorithm.collector.num_envs == 3
    assert config.algorithm.estimator.model_dump(include={"gamma", "gae_lambda"}) == {"gamma": 0.9, "gae_lambda": 0.5}
    other, _ = settings(
        plugin, {"algorithm": {"name": "mine", "estimator": "discounted"}, "env": "CartPole-v1"}
    )  # another name drops the preset's settings of that slot
    assert other.algorithm.estimator.gamma == 0.99


def test_the_algorithm_may_be_named_in_full_and_in_any_layer(plugin: types.ModuleType) -> None:
    config, name = settings(plugin, {"env": "CartPole-v1"}, {"algorithm": "mine_plugin:mine"}, {"seed": 1})
    assert (name, config.algorithm.rate, config.seed) == ("pole", 0.5, 1)


def test_an_instance_has_all_its_settings(plugin: types.ModuleType) -> None:
    class Unregistered(plugin.Mine):  # type: ignore[name-defined, misc]
        """A class of the user's own."""

    Unregistered.__module__ = "mine_plugin"
    config, name = configure([{"algorithm": Unregistered(rate=3), "env": "CartPole-v1"}], Registry(), None)
    assert (name, config.algorithm, config.seed) == (None, Unregistered(rate=3), 0)
    with pytest.raises(UsageError, match="preset pole needs the algorithm's name"):
        configure([{"algorithm": Unregistered(), "env": "x"}], Registry(), "pole")


def test_wrong_names(plugin: types.ModuleType) -> None:
    with pytest.raises(UsageError) as error:
        settings(plugin, {"algorithm": "mine", "env": "x"}, preset="pol")
    assert str(error.value) == "mine has no preset pol; did you mean pole?\nit has: pole, slow"
    for layer in ({"env": "CartPole-v1"}, {"algorithm": "min"}, {"algorithm": 5}, {"env": {"id": ["x"]}}):
        with pytest.raises(ConfigError):
            settings(plugin, layer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["[", "x = 1", "[a]", "[a]\ndescription = 1", "[a]\ndescription = 'd'\nalgo = {}", "[a]\nrun = 3", "\ufffe"]
)
def test_a_broken_file_is_the_plugins_fault(text: str, plugin: types.ModuleType) -> None:
    file = Path(str(plugin.__file__)).with_name("presets.toml")
    file.write_bytes(b"\xff" if text == "\ufffe" else text.encode())
    with pytest.raises(PluginError) as error:
        settings(plugin, {"algorithm": "mine", "env": "x"})
    assert str(error.value).startswith(f"{file} is wrong: ")
    assert len(str(error.value).splitlines()) <= 3
    assert settings(plugin, {"algorithm": "mine", "env": "x"}, preset="none")[1] is None


def test_our_own_presets_fit() -> None:
    registry = Registry()
    for algorithm in registry.names("algorithm"):
        component = registry.get("algorithm", algorithm)
        assert issubclass(component, AlgorithmConfig)
        for name in presets(component):
            config, chosen = configure([{"algorithm": algorithm, "env": "CartPole-v1"}], registry, name)
            assert chosen == name
            assert RunConfig.parse(config.dump(), registry=registry) == config


def test_complete_settings_leave_a_preset_nothing_to_set() -> None:
    """Those of an earlier run, say: no preset is named that is not in them."""
    registry = Registry()
    layer = {"algorithm": "sac", "env": "Pendulum-v1", "tracker": "none"}
    for preset, name in (("none", None), (None, "pendulum")):
        config, chosen = configure([layer], registry, preset)
        assert chosen == name
        again, chosen = configure([config.dump()], registry, None)
        assert (again, chosen) == (config, None)
    assert configure([config.dump()], registry, "pendulum") == (config, "pendulum")  # asked for is asked for
