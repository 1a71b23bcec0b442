"""Settings of a run: layers, slots, errors, the way to JSON and back, and files, hostile ones too."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.config import MAX_FILE_SIZE, RunConfig, read_config_file
from rlkit_core.errors import ConfigError, PluginError, UsageError
from rlkit_core.registry import Registry

REGISTRY = Registry()
BASE = {"algorithm": "a2c", "env": "CartPole-v1"}


def parse(*layers: Any) -> RunConfig:
    return RunConfig.parse(BASE, *layers, registry=REGISTRY)


def problems(*layers: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        parse(*layers)
    return {".".join(path): message for path, message in error.value.problems}


def again(config: RunConfig) -> RunConfig:
    return RunConfig.parse(json.loads(json.dumps(config.dump(), allow_nan=False)), registry=REGISTRY)


def test_defaults() -> None:
    config = parse()
    assert (config.algorithm.name, config.env.id, config.env.name, config.tracker.name) == (
        *("a2c", "CartPole-v1"),
        *("gymnasium", "mlflow"),
    )
    assert (config.resolved_eval_every, config.resolved_log_every) == (4000, 400)
    assert config.resolved_group == "a2c-CartPole-v1"
    tiny = parse({"total_steps": 10, "eval_every": 3, "group": "g"})
    assert (tiny.resolved_eval_every, tiny.resolved_log_every, tiny.resolved_group) == (3, 1, "g")


def test_later_layers_win_setting_by_setting() -> None:
    config = parse(
        {"seed": 1, "algorithm": {"learning_rate": 0.1, "value_coef": 2}},
        {"seed": 2, "algorithm": {"learning_rate": 0.2}},
    )
    assert (config.seed, config.algorithm.learning_rate, config.algorithm.value_coef) == (2, 0.2, 2.0)


def test_settings_without_a_name_change_the_default() -> None:
    config = parse({"algorithm": {"collector": {"num_envs": 16}}})
    default = parse().algorithm.collector
    assert config.algorithm.collector == default.model_copy(update={"num_envs": 16})


def test_the_same_name_keeps_and_another_drops_what_lower_layers_set() -> None:
    low = {"algorithm": {"estimator": {"name": "lambda", "gamma": 0.5, "gae_lambda": 0.7}}}
    kept = parse(low, {"algorithm": {"estimator": "lambda"}}).algorithm.estimator
    assert (kept.gamma, kept.gae_lambda) == (0.5, 0.7)
    dropped = parse(low, {"algorithm": {"estimator": {"name": "discounted", "bootstrap": True}}}).algorithm.estimator
    assert (dropped.name, dropped.gamma) == ("discounted", 0.99)


def test_a_slot_takes_an_instance_that_higher_layers_change() -> None:
    config = parse(
        {"algorithm": {"network": MLPConfig(hidden=(3,))}, "env": GymnasiumConfig(id="Acrobot-v1")},
        {"algorithm": {"network": {"activation": "tanh"}}, "env": {"max_episode_steps": 7}},
    )
    assert config.algorithm.network == MLPConfig(hidden=(3,), activation="tanh")
    assert config.env == GymnasiumConfig(id="Acrobot-v1", max_episode_steps=7)


def test_a_name_may_come_with_its_distribution() -> None:
    config = parse({"algorithm": {"name": "rlkit-core:a2c", "network": "RLKIT_core:mlp"}})
    assert config == parse() == again(config)


@pytest.mark.parametrize("value", ["none", None])
def test_none_stands_for_no_value_where_that_is_possible(value: Any) -> None:
    assert parse({"algorithm": {"max_grad_norm": value}, "eval_every": value}).algorithm.max_grad_norm is None
    assert parse({"group": "none"}).group == "none"
    assert parse({"tracker": "none"}).tracker.name == "none"
    assert problems({"seed": value}) == {"seed": f"should be a valid integer, not {value!r}"}


def test_all_problems_at_once_each_with_its_path() -> None:
    assert problems(
        {
            "sed": 1,
            "total_steps": 0,
            "group": "\ud800",
            "algorithm": {
                "learning_rat": 1,
                "network": {"hiden": 3, "activation": "x"},
                "estimator": {"gamma": 2},
                "collector": "stepz",
            },
            "env": {"kwargs": {"a": {1: 2}}, "timeout": float("inf"), "wrappers": [{"name": "X", "a": float("nan")}]},
            "tracker": 5,
        }
    ) == {
        "sed": "there is no such setting; did you mean seed?",
        "total_steps": "should be greater than or equal to 1, not 0",
        "group": "should be text, not '\\ud800'",
        "algorithm.learning_rat": "there is no such setting; did you mean learning_rate?",
        "algorithm.network.hiden": "there is no such setting; did you mean hidden?",
        "algorithm.network.activation": "should be 'tanh' or 'relu', not 'x'",
        "algorithm.estimator.gamma": "should be less than or equal to 1, not 2",
        "algorithm.collector": "there is no collector named stepz; did you mean steps? registered: episodes, steps",
        "env.kwargs": "should have names for keys, not 1",
        "env.timeout": "should be a finite number",
        "env.wrappers": "should be a finite number",
        "tracker": "should be a tracker's name or a table of its settings, not 5",
    }


def test_what_is_missing() -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({"algorithm": {"learning_rate": 1}}, registry=REGISTRY)
    assert error.value.problems == [
        (("algorithm",), "which algorithm? give its name; registered: a2c, dqn, ppo, reinforce, sac, td3"),
        (("env", "id"), "is missing"),
    ]
    with pytest.raises(ConfigError, match="algorithm: is missing"):
        RunConfig.parse({"env": "x"}, registry=REGISTRY)


def test_a_rule_over_several_settings_is_not_judged_by_what_stands_in_for_a_broken_one() -> None:
    per_batch = {"name": "discounted", "bootstrap": False, "normalize": "per_batch"}
    assert set(problems({"algorithm": {"estimator": per_batch, "collector": "episods"}})) == {"algorithm.collector"}
    assert "needs whole episodes" in problems({"algorithm": {"estimator": per_batch}})["algorithm"]


def test_wrong_instances() -> None:
    assert problems({"algorithm": {"estimator": MLPConfig()}}) == {
        "algorithm.estimator": "should be an estimator, not the network mlp"
    }
    hidden = GymnasiumConfig(id="x", kwargs={"f": object()})
    assert "no plain data" in problems({"env": hidden})["env"]


def test_a_password_is_not_repeated() -> None:
    assert "hunter2" not in str(problems({"tracker": {"uri": "http://me:hunter2@host"}}))


def test_round_trip() -> None:
    configs = [
        parse({"stop_at": 475, "imports": ["a", "b"], "seed": 2**63 - 1, "total_steps": 2**63 - 1}),
        parse({"stop_at": "never", "env": {"timeout": 1e308, "kwargs": {"a": [1, {"b": None}], "c": 1e-300}}}),
        parse({"env": {"wrappers": ["FrameStackObservation:stack_size=4", {"name": "X", "a": [1, 2]}]}}),
        parse({"env": {"kwargs": {"a": (1, 2), "b": np.float32(0.5), "c": np.arange(3)}}}),
        parse({"env": GymnasiumConfig(id="x", kwargs={"a": (1, 2)})}),
        parse({"tracker": {"name": "mlflow", "uri": "sqlite:///a.db", "experiment": "none"}}),
        parse({"algorithm": {"estimator": {"name": "lambda", "gae_lambda": 0.1}, "network": {"hidden": []}}}),
    ]
    for config in configs:
        assert again(config) == config
        assert RunConfig.parse(config.dump(), registry=REGISTRY).dump() == config.dump()
    assert configs[3].env.kwargs == {"a": [1, 2], "b": 0.5, "c": [0, 1, 2]}  # type: ignore[attr-defined]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("none"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
NAMES = [*RunConfig.model_fields, "collector", "network", "estimator", "name", "num_envs", "hidden", "gamma", "kwargs"]
TABLES = st.recursive(
    PLAIN | st.sampled_from(["a2c", "lambda", "mlp", "mlflow", "rlkit-core:a2c", ":", "none", "5", "1e999"]),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(TABLES, max_size=3))
def test_plain_data_gives_a_config_that_comes_back_or_a_refusal(layers: list[Any]) -> None:
    try:
        config = parse(*layers)
    except (UsageError, PluginError):
        return
    assert again(config) == config


@given(st.sampled_from(sorted(RunConfig.model_fields)), PLAIN)
def test_any_value_of_one_setting(name: str, value: Any) -> None:
    try:
        config = parse({name: value})
    except (UsageError, PluginError):
        return
    assert again(config) == config


def test_endless_nesting_in_python_is_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    assert problems({"env": {"kwargs": deep}}) == {"env.kwargs": "is nested too deeply"}


TOML = "seed = 3\n[env]\nid = 'CartPole-v1'\n[algorithm]\nname = 'a2c'\nlearning_rate = 1e-3\n"
YAML = "seed: 3\nenv: {id: CartPole-v1}\nalgorithm:\n  name: a2c\n  learning_rate: 1e-3\n"


def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    for name, text in (("c.toml", TOML), ("c.yaml", YAML), ("c.yml", YAML)):
        (tmp_path / name).write_text(text)
    (tmp_path / "c.json").write_text(json.dumps(read_config_file(tmp_path / "c.toml")))
    expected = {"seed": 3, "env": {"id": "CartPole-v1"}, "algorithm": {"name": "a2c", "learning_rate": 0.001}}
    assert all(read_config_file(file) == expected for file in tmp_path.iterdir())


def test_yaml_words_mean_what_they_look_like(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "a: off\nb: no\nc: 1e-3\nd: 1:30\ne: 010\nf: 2020-01-01\ng: true\nh: ~\ni:\nj: -.5\nk: '1'\nl: 1_0\n<<: {x: 1}"
    )
    assert read_config_file(file) == {
        **{"a": "off", "b": "no", "c": 0.001, "d": "1:30", "e": 10, "f": "2020-01-01", "g": True, "h": None},
        **{"i": None, "j": -0.5, "k": "1", "l": "1_0", "<<": {"x": 1}},
    }


N = MAX_FILE_SIZE
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
HOSTILE = {
    "bomb.yaml": (BOMB, "aliases"),
    "tag.yaml": ("a: !!python/object/apply:os.system ['touch PWNED']", "no valid YAML"),
    "tag2.yaml": ("!!python/object/new:os.system ['touch PWNED']", "no valid YAML"),
    "tag3.yaml": ("a: !!python/name:os.system", "no valid YAML"),
    "own.yaml": ("a: !foo 1", "no valid YAML"),
    "twice.yaml": ("seed: 1\nenv: x\nseed: 2", "seed is given twice"),
    "inner.yaml": ("env:\n  id: x\n  id: y", "id is given twice"),
    "twice.json": ('{"a": {"seed": 1, "seed": 2}}', "seed is given twice"),
    "twice.toml": ("seed = 1\nseed = 2\n", "seed = 2"),
    "twice2.toml": ("seed = 1\nseed = 2\nlog_every = 3", "seed = 2"),
    "table.toml": ("[env]\nid = 'x'\n[env]\n", "env"),
    "key.yaml": ("{[1]: 2}", "no valid YAML"),
    "two.yaml": ("a: 1\n---\nb: 2", "no valid YAML"),
    "top.json": ("[1]", "should be a table"),
    "top.yaml": ("hello", "should be a table"),
    "empty.yaml": ("", "should be a table"),
    "empty.json": ("", "no valid JSON"),
    "deep.json": ("[" * N, "nested too deeply"),
    "deep2.json": ('{"a":' * (N // 5), "nested too deeply"),
    "deep.toml": ("a=" + "[" * (N - 2), "nested too deeply"),
    "dots.toml": ("a" + ".a" * (N // 2 - 5) + "=1", "nested too deeply"),
    "dots2.toml": ("[" + "'a' . " * (N // 6 - 5) + "a]", "nested too deeply"),
    "deep.yaml": ("[" * N, "nested too deeply"),
    "deep2.yaml": ("- " * (N // 2), "nested too deeply"),
    "digits.json": ('{"seed":' + "9" * (N - 20) + "}", "no valid JSON"),
    "digits.toml": ("seed=" + "9" * (N - 20), "no valid TOML"),
    "digits.yaml": ("seed: " + "9" * (N - 20), "no valid YAML"),
    "flow.yaml": ("[" + "a," * (N // 2 - 5) + "]", "should be a table"),
    "large.json": ('{"a":"' + "x" * N + '"}', "more than 30,000 bytes"),
    "binary.toml": ("\0\1\2", "no valid TOML"),
    "wrong.ini": ("", "should end in"),
}


@contextmanager
def untraced() -> Iterator[None]:
    """Without coverage, which takes several times as long as what it watches: the bound is on the code."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_files_are_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, said = HOSTILE[name]
    Path(name).write_text(text)
    started = time.process_time()
    with untraced(), pytest.raises(UsageError) as error:
        read_config_file(Path(name))
    assert time.process_time() - started < 1
    assert said in str(error.value)
    assert name in str(error.value)
    assert len(str(error.value)) < 500
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_brackets_in_yaml_are_counted_before_they_are_read(opening: str, tmp_path: Path) -> None:
    """PyYAML's time grows with the square of those that are open; those that are closed again do no harm."""

    def nested(depth: int) -> Path:
        file = tmp_path / f"{depth}.yaml"
        file.write_text("a: " + opening * depth + {"[": "]", "{a: ": "}"}[opening] * depth)
        return file

    assert read_config_file(nested(50)).keys() == {"a"}
    with pytest.raises(UsageError, match="nested too deeply"):
        read_config_file(nested(51))
    many = tmp_path / "many.yaml"
    many.write_text("a: [" + "[], " * 500 + "]")
    assert len(read_config_file(many)["a"]) == 500


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nan.json", '{"seed": NaN}'),
        ("inf.json", '{"env": {"kwargs": {"a": 1e999}}}'),
        ("inf.toml", "stop_at = inf"),
        ("inf.yaml", "env: {timeout: 1e999}"),
        ("set.yaml", "env: {kwargs: {a: !!set {b}}}"),
        ("bytes.yaml", "group: !!binary aGVsbG8="),
        ("date.toml", "group = 2020-01-01"),
        ("many.yaml", "\n".join(f"k{i}: 1" for i in range(N // 11))),
        ("long.json", '{"' + "k" * (N - 20) + '": 1}'),
    ],
)
def test_hostile_values_are_refused_at_once(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    started = time.process_time()
    with untraced(), pytest.raises(ConfigError):
        parse(read_config_file(tmp_path / name))
    assert time.process_time() - started < 1


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    (tmp_path / "huge.json").touch()
    with open(tmp_path / "huge.json", "r+b") as file:
        file.truncate(100_000_000)
    for name in ("missing.toml", "folder.toml", "latin.toml", "huge.json", "nul\0.toml"):
        with pytest.raises(UsageError):
            read_config_file(tmp_path / name)
