"""Search spaces: from bounds, from what settings declare, from files; and files that are wrong."""

from __future__ import annotations

import random
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.cli.tune import space_as_toml
from rlkit_core.component import AlgorithmConfig, CollectorConfig, EstimatorConfig, NetworkConfig
from rlkit_core.config import RunConfig, read_config_file
from rlkit_core.errors import PluginError, UsageError
from rlkit_core.presets import configure
from rlkit_core.registry import Registry
from rlkit_core.search_space import Range, Space, space_from, space_of

SHIPPED = {"a2c": "CartPole-v1", "ppo": "CartPole-v1", "dqn": "CartPole-v1", "reinforce": "CartPole-v1",
           "sac": "Pendulum-v1", "td3": "Pendulum-v1"}  # fmt: skip


def config_of(algorithm: str | AlgorithmConfig, **settings: Any) -> RunConfig:
    env = SHIPPED.get(algorithm, "CartPole-v1") if isinstance(algorithm, str) else "CartPole-v1"
    return configure([{"algorithm": algorithm, "env": env, "tracker": "none", **settings}], Registry(), None)[0]


class Bounded(AlgorithmConfig):
    """Declares nothing but types and bounds."""

    name: ClassVar[str] = "bounded"
    collector: CollectorConfig = Field(StepsConfig(), json_schema_extra={"search": False})
    share: float = Field(0.5, ge=0, le=1)
    above: float = Field(0.5, gt=0, lt=1)
    wide: float = Field(0.1, ge=1e-4, le=10)
    count: int = Field(3, gt=1, lt=9)
    many: int = Field(3, ge=1, le=100_000)
    endless: int = Field(3, ge=1, le=2**60)
    open_end: float = Field(0.5, gt=0)
    switch: bool = Field(False)
    word: Literal["a", "b"] = Field("a")
    either: float | Literal["auto"] = Field("auto")
    optional: int | None = Field(None, ge=1, le=5)
    left_out: bool = Field(False, json_schema_extra={"search": False})

    def build(self, setup: Any) -> Any: ...


def by_name(space: Space) -> dict[str, Range]:
    return {setting.name: setting.range for setting in space.settings}


def test_bounds_on_both_sides_words_and_switches_are_searched_without_a_word() -> None:
    found = by_name(space_of(config_of(Bounded()), Registry()))
    assert found.pop("above") == Range(5e-324, 0.9999999999999999)
    assert found == {
        "share": Range(0.0, 1.0),
        "wide": Range(1e-4, 10.0, log=True),
        "count": Range(2, 8),
        "many": Range(1, 100_000, log=True),
        "switch": Range(choices=(False, True)),
        "word": Range(choices=("a", "b")),
        "optional": Range(1, 5),
    }


def test_a_part_says_what_of_the_parts_in_its_slots_is_searched() -> None:
    class Outer(AlgorithmConfig):
        name: ClassVar[str] = "outer"
        collector: CollectorConfig = Field(
            StepsConfig(num_envs=3), json_schema_extra={"search": {"num_envs": [2, 6], "num_steps": False}}
        )
        network: NetworkConfig = Field(
            MLPConfig(), json_schema_extra={"search": {"name": ["lstm"], "activation": False}}
        )

        def build(self, setup: Any) -> Any: ...

        recurrent_networks: ClassVar[bool] = True

    space = space_of(config_of(Outer()), Registry())
    found = by_name(space)
    # What is there before the search is one of the choices.
    assert found["collector.num_envs"] == Range(choices=(3, 2, 6))
    assert found["network.name"] == Range(choices=("mlp", "lstm"))
    assert set(found) == {
        "collector.num_envs", "network.name", "network@mlp.hidden", "network@lstm.hidden_size",
        "network@lstm.below.hidden", "network@lstm.below.activation",
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", SHIPPED)
def test_whatever_is_drawn_from_a_shipped_space_is_a_config(algorithm: str) -> None:
    config, registry, chance = config_of(algorithm), Registry(), random.Random(1)
    space = space_of(config, registry)
    assert {"learning_rate", "estimator.gamma", "network.hidden"} <= set(by_name(space))
    for _ in range(30):
        values = drawn(space, chance)
        made = RunConfig.parse(config.dump(), space.layer(values), registry=registry)
        for setting in space.settings:
            if setting.name in values and setting.path[-1] != "name":
                found: Any = made.dump()
                for key in setting.path:
                    found = found[key]
                assert found == values[setting.name]


def drawn(space: Space, chance: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in space.active(values):
        range_ = setting.range
        value = chance.choice(range_.choices) if range_.choices else chance.uniform(range_.low or 0, range_.high or 0)
        values[setting.name] = range_.rounded(value)
    return values


def test_settings_belong_to_the_part_that_is_chosen() -> None:
    space = space_of(config_of("a2c"), Registry())
    inner = "estimator@lambda.gae_lambda"
    for name, there in (("lambda", True), ("discounted", False)):
        values: dict[str, Any] = {}
        for setting in space.active(values):
            values[setting.name] = name if setting.name == "estimator.name" else setting.range.choices[:1] or 0.01
        assert (inner in values) is there
    # Both have a gamma, of the same range: one setting.
    assert "estimator.gamma" in by_name(space)


def test_before_the_search_a_setting_may_be_beyond_a_bound_but_must_be_a_choice() -> None:
    registry = Registry()
    space = space_of(config_of("a2c"), registry)
    found = space.defaults()
    assert found is not None
    assert found["entropy_coef"] == 1e-6  # it is 0
    assert found["estimator.name"] == "discounted"
    assert "estimator@lambda.gae_lambda" not in found
    assert space_from({"learning_rate": [0.1, 0.2]}, "f", config_of("a2c"), registry).defaults() is None


def test_what_an_option_sets_is_not_searched_and_its_part_is_the_only_one() -> None:
    fixed = [("algorithm", "learning_rate"), ("algorithm", "estimator", "name")]
    config = config_of({"name": "a2c", "estimator": "lambda", "learning_rate": 0.1})  # type: ignore[arg-type]
    found = by_name(space_of(config, Registry(), fixed))
    assert "learning_rate" not in found
    assert "estimator.name" not in found
    assert "estimator.gae_lambda" in found


@pytest.mark.parametrize("declared", [7, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True},
                                      {"choices": []}, ["x"], {"low": 0, "high": 1, "steps": 3}])  # fmt: skip
def test_a_wrong_declaration_is_the_plugins_fault(declared: Any) -> None:
    class Wrong(AlgorithmConfig):
        name: ClassVar[str] = "wrong"
        collector: CollectorConfig = StepsConfig()
        rate: float = Field(0.5, json_schema_extra={"search": declared})

        def build(self, setup: Any) -> Any: ...

    with pytest.raises(PluginError, match="algorithm wrong: the range for searching that rate declares is wrong"):
        space_of(config_of(Wrong()), Registry())


def test_an_algorithm_without_anything_to_search_asks_for_a_file() -> None:
    class Bare(AlgorithmConfig):
        name: ClassVar[str] = "bare"
        collector: CollectorConfig = Field(StepsConfig(), json_schema_extra={"search": False})
        estimator: EstimatorConfig = Field(DiscountedConfig(), json_schema_extra={"search": False})
        rate: float = 0.5

        def build(self, setup: Any) -> Any: ...

    with pytest.raises(UsageError, match="no setting to search"):
        space_of(config_of(Bare()), Registry())


# ---- files ----

FILE = """
learning-rate = { low = 1e-4, high = 1e-2, log = true }
max_grad_norm = ["none", 0.5]
algorithm.entropy_coef.low = 0
algorithm.entropy_coef.high = 0.1
value_network = ["separate"]

[collector]
num_steps = { low = 5, high = 50 }

[network]
name = ["mlp", "gru"]
hidden = [[32], [64, 64]]
hidden_size = [16, 32]
below.hidden = [[8]]
"""


def test_a_file_says_all_that_is_searched() -> None:
    found = by_name(space_from(tomllib.loads(FILE), "space.toml", config_of("a2c"), Registry()))
    assert found == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "max_grad_norm": Range(choices=(None, 0.5)),
        "entropy_coef": Range(0.0, 0.1),
        "value_network": Range(choices=("separate",)),
        "collector.num_steps": Range(5, 50),
        "network.name": Range(choices=("mlp", "gru")),
        "network@mlp.hidden": Range(choices=([32], [64, 64])),
        "network@gru.hidden_size": Range(choices=(16, 32)),
        "network@gru.below.hidden": Range(choices=([8],)),
    }


@pytest.mark.parametrize("algorithm", SHIPPED)
def test_a_space_that_is_printed_is_read_as_the_same(algorithm: str, tmp_path: Path) -> None:
    config, registry = config_of(algorithm), Registry()
    space = space_of(config, registry)
    file = tmp_path / "space.toml"
    file.write_text("\n".join(space_as_toml(space)))
    read = space_from(read_config_file(file), str(file), config, registry)
    assert {(s.name, repr(s.range), repr(s.default)) for s in read.settings} == {
        (s.name, repr(s.range), repr(s.default)) for s in space.settings
    }


WRONG: Mapping[str, tuple[str, str]] = {
    "unknown": ("learning_rat = [1]", "learning_rat: there is no such setting; did you mean learning_rate?"),
    "below a field": ("learning_rate.x.y = 1", "learning_rate: x is none of low, high, log and choices"),
    "no range": ("learning_rate = 3", "learning_rate: should be a list of values, or a table"),
    "text": ("learning_rate = 'all'", "learning_rate: should be a list of values, or a table"),
    "no high": ("learning_rate = { low = 1 }", "learning_rate: has no high"),
    "words for bounds": ("learning_rate = { low = 'a', high = 'b' }", "learning_rate: low should be a number"),
    "upside down": ("learning_rate = { low = 2, high = 1 }", "low 2 should be below high 1"),
    "log from zero": ("entropy_coef = { low = 0, high = 1, log = true }", "begins above 0"),
    "log no switch": ("learning_rate = { low = 1, high = 2, log = 'yes' }", "log should be true or false"),
    "infinite": ("learning_rate = { low = 1, high = inf }", "high should be a number"),
    "not a number": ("learning_rate = { low = nan, high = 1 }", "low should be a number"),
    "too large": ("collector.num_steps = { low = 1, high = 9007199254740993 }", "high should be a number"),
    "beyond the setting": ("learning_rate = { low = -1, high = 1 }", "low -1.0: should be greater than 0"),
    "half steps": ("collector.num_steps = { low = 0.5, high = 2 }", "low should be a whole number"),
    "no number": ("value_network = { low = 1, high = 2 }", "is no number"),
    "wrong word": ("value_network = ['both']", "should be 'shared' or 'separate'"),
    "no choices": ("learning_rate = []", "should be a list of values"),
    "twice": ("learning_rate = [1.0, 1.0]", "has 1.0 twice"),
    "both": ("learning_rate = { low = 1, choices = [1] }", "has choices and bounds"),
    "wrong type": ("network.hidden = ['64,64']", "network.hidden:"),
    "no such part": ("network = ['mpl']", "network.name: there is no network named mpl"),
    "part is no text": ("network = [3]", "network.name: there is no network named 3"),
    "slot is a number": ("network = 3", "network: should be a list of parts' names"),
    "another part": ("'network@lstm'.hidden_size = [3]", "lstm is not among the parts to choose from"),
    "empty": ("", "names no setting to search"),
    "run's": ("total_steps = [1]", "total_steps: there is no such setting"),
    "algorithm": ("algorithm = 3", "algorithm: should be a table of settings"),
    "given twice": ("learning_rate = [0.1]\nlearning-rate = [0.2]", "learning_rate: is given twice"),
    "many": ("learning_rate = [" + ",".join(f"{i + 1}.0" for i in range(101)) + "]", "has more than 100 values"),
    "deep": ("network = " + "{below = " * 30 + "1" + "}" * 30, "below"),
    "all at once": ("gama = [1]\nlearning_rate = 1", "space.toml: learning_rate: should be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_its_key(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        space_from(read_config_file(file), "space.toml", config_of("a2c"), Registry())
    assert message in str(caught.value)
    assert str(caught.value).startswith("space.toml")


def test_parts_of_plugins_are_found_as_everywhere() -> None:
    plugin = types.ModuleType("own_network")
    source = """
from typing import ClassVar
from pydantic import Field
from rlkit_core import NetworkConfig, hookimpl

class Own(NetworkConfig):
    "Own."
    name: ClassVar[str] = "own"
    size: int = Field(3, ge=1, description="s", json_schema_extra={"search": [3, 5]})
    def build(self, observation_space): ...

@hookimpl
def rlkit_register(): return [Own]
"""
    exec(source, plugin.__dict__)
    registry = Registry([plugin])
    found = space_from({"network": ["mlp", "own"], "network.size": [3, 4]}, "f", config_of("a2c"), registry)
    assert by_name(found)["network@own.size"] == Range(choices=(3, 4))
