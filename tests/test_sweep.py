"""Sweeps: what a file asks for, and everything that is wrong with it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from group_cases import state_of
from test_group import InTurn

from rlkit_core.builtin.executors import ProcessesConfig
from rlkit_core.cli.group import parse_seeds
from rlkit_core.config import RunConfig
from rlkit_core.errors import UsageError
from rlkit_core.group import do_task
from rlkit_core.group_folder import read_group
from rlkit_core.presets import configure
from rlkit_core.registry import Registry
from rlkit_core.sweep import Sweep, read_sweep

FILE = """
seeds = 3
algorithm = ["a2c", { name = "ppo", learning_rate = 0.0002 }]
env = ["CartPole-v1", "Acrobot-v1"]
total_steps = 5_000
tracker = "none"
"""


def sweep(folder: Path, text: str) -> Sweep:
    path = folder / "classic.toml"
    path.write_text(text)
    return read_sweep(path, Registry(), parse_seeds)


def wrong(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as error:
        sweep(folder, text)
    lines = str(error.value).splitlines()
    assert all(line.startswith((f"{folder}/classic.toml: ", "and ")) for line in lines)
    return [line.removeprefix(f"{folder}/classic.toml: ") for line in lines]


def test_all_combinations(tmp_path: Path) -> None:
    found = sweep(tmp_path, FILE)
    assert found.name == "classic"
    sides = [(part.config.group, part.config.env.id) for part in found.parts]
    assert sides == [(f"classic/{a}", e) for a in ("a2c", "ppo") for e in ("CartPole-v1", "Acrobot-v1")]
    for part in found.parts:
        assert part.seeds == (0, 1, 2)
        assert (part.config.total_steps, part.config.stop_at) == (5_000, "never")
        assert [config.seed for config in part.configs()] == [0, 1, 2]
    assert [part.config.algorithm.learning_rate for part in found.parts[2:]] == [0.0002] * 2  # type: ignore[attr-defined]


def test_presets_are_those_of_rlkit_run(tmp_path: Path) -> None:
    """Per algorithm and environment, unless one is named; settings of the file win."""
    registry = Registry()
    for part in sweep(tmp_path, FILE.replace(", learning_rate = 0.0002", "")).parts:
        given = {"algorithm": part.config.algorithm.name, "env": part.config.env.id, "total_steps": 5_000}
        alone, preset = configure([{**given, "stop_at": "never", "tracker": "none"}], registry, None)
        assert part.preset == preset
        assert part.config == alone.model_copy(update={"group": part.config.group})
    assert [part.preset for part in sweep(tmp_path, FILE + 'preset = "none"').parts] == [None] * 4
    text = FILE.replace("learning_rate = 0.0002", 'preset = "none"')
    assert [part.preset for part in sweep(tmp_path, text).parts] == [None, "acrobot", None, None]


def test_what_is_varied_is_in_the_name_of_the_group(tmp_path: Path) -> None:
    text = """
    name = "rates"
    seeds = "0-1,7"
    env = { id = "CartPole-v1", max_episode_steps = 100 }
    stop_at = "threshold"
    [[algorithm]]
    name = "a2c"
    vary.network = ["mlp", { name = "mlp", hidden = [8, 8] }]
    [[algorithm]]
    name = "ppo"
    [vary]
    algorithm.learning_rate = [0.001, 0.0001]
    """
    found = sweep(tmp_path, text)
    assert found.name == "rates"
    assert [part.config.group for part in found.parts] == [
        "rates/a2c learning_rate=0.001 network=mlp",
        "rates/a2c learning_rate=0.001 network=mlp,hidden=8,8",
        "rates/a2c learning_rate=0.0001 network=mlp",
        "rates/a2c learning_rate=0.0001 network=mlp,hidden=8,8",
        "rates/ppo learning_rate=0.001",
        "rates/ppo learning_rate=0.0001",
    ]
    assert all(part.seeds == (0, 1, 7) for part in found.parts)
    first, second = (part.config.algorithm for part in found.parts[:2])
    assert first.learning_rate == 0.001  # type: ignore[attr-defined]
    assert second.network.hidden == (8, 8)  # type: ignore[attr-defined]
    assert all(part.config.env.max_episode_steps == 100 for part in found.parts)  # type: ignore[attr-defined]
    assert {part.config.stop_at for part in found.parts} == {"threshold"}


def test_the_same_algorithm_several_times(tmp_path: Path) -> None:
    text = 'seeds = 1\nenv = "CartPole-v1"\nalgorithm = [{ name = "a2c" }, { name = "a2c", learning_rate = 0.1 }%s]\n'
    assert [part.variant for part in sweep(tmp_path, text % "").parts] == ["a2c", "a2c learning_rate=0.1"]
    labelled = text % ', { name = "a2c", learning_rate = 0.1, label = "hasty" }'
    assert [part.variant for part in sweep(tmp_path, labelled).parts][2] == "hasty"
    assert wrong(tmp_path, text % ', "a2c"') == ["algorithm[2]: a2c in CartPole-v1 is there twice; give one a label"]
    twice = 'seeds = 1\nenv = ["CartPole-v1", "CartPole-v1"]\nalgorithm = "a2c"'
    assert wrong(tmp_path, twice) == ["algorithm: a2c in CartPole-v1 is there twice; give one a label"]


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_other_formats(ending: str, tmp_path: Path) -> None:
    data = {
        "seeds": [3, 4],
        "algorithm": "a2c",
        "env": "CartPole-v1",
        "vary": {"algorithm.learning_rate": [0.1], "algorithm": {"network": {"hidden": [[4], [8]]}}},
    }
    path = tmp_path / f"classic.{ending}"
    path.write_text(json.dumps(data))
    found = read_sweep(path, Registry(), parse_seeds, imports=["math"])
    assert [part.variant for part in found.parts] == [
        "a2c learning_rate=0.1 hidden=4",
        "a2c learning_rate=0.1 hidden=8",
    ]
    assert found.parts[0].seeds == (3, 4)
    assert found.parts[0].config.imports == ("math",)
    path.write_text(json.dumps({**data, "seeds": [7]}))
    assert read_sweep(path, Registry(), parse_seeds).parts[0].seeds == (7,)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    lines = wrong(
        tmp_path,
        """
        seeds = 0
        seed = 3
        group = "g"
        algorithm = ["a2c", "pppo", { name = "ppo", learning_rat = 3 }, 7, { learning_rate = 1 }]
        env = ["CartPole-v1", { id = "Acrobot-v1", kwarg = 3 }]
        total_step = 2_000
        eval_episodes = 0
        [vary]
        algorithm.learning_rate = [0.0007, -1]
        eval_every = 3
        seeds = [3]
        """,
    )
    assert {line.partition(": ")[0] for line in lines} == {
        *("seeds", "seed", "group", "algorithm[1]", "algorithm[2].learning_rat", "algorithm[3]", "algorithm[4]"),
        *("env[1].kwarg", "total_step", "eval_episodes"),
        *("vary.algorithm.learning_rate", "vary.eval_every", "vary.seeds"),
    }
    text = "\n".join(lines)
    for said in (
        "did you mean total_steps?",
        "did you mean ppo?",
        "did you mean learning_rate?",
        "should be greater than 0, not -1",
        "seed: is seeds in a sweep",
        "group: is name in a sweep",
    ):
        assert said in text, text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds = 3", "algorithm: is missing"),
        ('algorithm = "a2c"\nenv = "CartPole-v1"', "seeds: is missing"),
        ('algorithm = "a2c"\nseeds = 3', "env: is missing"),
        ('algorithm = []\nseeds = 3\nenv = "x"', "algorithm: is missing"),
        ('algorithm = "a2c"\nseeds = 3\nenv = "CartPole-v1"\npreset = "nope"', "preset: a2c has no preset nope"),
        ('algorithm = "a2c"\nseeds = 3\nenv = "CartPole-v1"\nname = 3', "name: should be a name"),
        ('algorithm = "a2c"\nseeds = 3\nenv = "CartPole-v1"\nvary = 3', "vary: should be a list of values"),
        ('algorithm = "a2c"\nseeds = 3\nenv = "CartPole-v1"\nvary.seed = [1]', "vary.seed: cannot be varied here"),
        ('algorithm = "a2c"\nseeds = true\nenv = "CartPole-v1"', "seeds: should be a number"),
        ('algorithm = "a2c"\nseeds = 9_000\nenv = ["CartPole-v1", "Acrobot-v1"]', "seeds: would be more than"),
    ],
)
def test_what_is_wrong_has_its_key(text: str, says: str, tmp_path: Path) -> None:
    assert any(line.startswith(says) for line in wrong(tmp_path, text)), wrong(tmp_path, text)


def test_a_whole_run_of_it(rlkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned on paper first; an environment that is not there is found before anything runs."""
    monkeypatch.chdir(tmp_path)
    text = FILE.replace("5_000", "300").replace("seeds = 3", "seeds = 1") + "eval_every = 300\neval_episodes = 1\n"
    Path("classic.toml").write_text(text)
    code, out, _ = rlkit("sweep", "classic.toml", "--print-plan")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["group", "environment", "seeds", "steps", "preset"],
        ["classic/a2c", "CartPole-v1", "0", "300", "-"],
        ["classic/a2c", "Acrobot-v1", "0", "300", "acrobot"],
        ["classic/ppo", "CartPole-v1", "0", "300", "-"],
        ["classic/ppo", "Acrobot-v1", "0", "300", "acrobot"],
        ["4", "runs,", "1,200", "environment", "steps", "in", "all"],
    ]
    Path("bad.toml").write_text(text.replace("Acrobot-v1", "Acrobat-v1"))
    code, _, err = rlkit("sweep", "bad.toml")
    assert code == 2
    assert "bad.toml: env: " in err
    assert "Acrobat-v1" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.toml", "classic.toml"]

    Path("classic.toml").write_text(text.replace('"Acrobot-v1"', '{ id = "CartPole-v1", max_episode_steps = 20 }'))
    code, _, err = rlkit("sweep", "classic.toml", "--print-plan")
    assert "is there twice" in err
    Path("classic.toml").write_text(text.replace(', "Acrobot-v1"', ""))
    monkeypatch.setattr(ProcessesConfig, "build", lambda self, jobs: InTurn(do_task))
    code, out, err = rlkit("sweep", "classic.toml", "--group", "mine/first")
    assert code == 0, err
    known = read_group(tmp_path / "runs" / "mine-first")
    assert known.name == "mine/first"
    assert [(run.group, run.run_dir) for run in known.planned] == [
        ("mine/first/a2c", "a2c/CartPole-v1-seed0"),
        ("mine/first/ppo", "ppo/CartPole-v1-seed0"),
    ]
    for run in known.planned:
        folder = tmp_path / "runs" / "mine-first" / run.run_dir
        assert state_of(folder) == "finished"
        config = RunConfig.parse(json.loads((folder / "config.json").read_text()), registry=Registry())
        assert config.group == run.group
    code, out, _ = rlkit("sweep", "classic.toml", "--group", "mine/first")
    assert code == 0
    assert "2 finished" in out
    for side in ("mine/first/a2c in CartPole-v1", "mine/first/ppo in CartPole-v1"):
        assert f"{side}: last policies' return of 1 seed: median" in out
