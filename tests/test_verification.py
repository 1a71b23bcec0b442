"""Runs beside published scores: the tables that come along, what is computed, and `rlkit verify`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import config_of, make_run

from rlkit_core.errors import StorageError, UsageError
from rlkit_core.run_store import Curve, FolderStore, StoredRun
from rlkit_core.statistics import prediction_interval
from rlkit_core.verification import Published, Source, find, read_source, score_of, source_names, verify

Rlkit = Callable[..., tuple[int, str, str]]


def stored(seed: int, score: float, **more: Any) -> StoredRun:
    fields: dict[str, Any] = {
        "place": f"runs/{seed}",
        "run_id": str(seed),
        "algorithm": "a2c",
        "environment": "Acrobot-v1",
        "seed": seed,
        "budget": 500_000,
        "versions": {"gymnasium": "1.4.0"},
        "final": {"return": score, "episodes": 100.0},
    }
    return StoredRun(**fields | more)


def check(scores: list[float], mean: float, seeds: int = 1) -> Any:
    published = Published("a2c", "Acrobot-v1", mean, 1.0, 500_000, 100, seeds)
    runs = [stored(i, score) for i, score in enumerate(scores)]
    return verify(published, read_source("zoo"), runs)


SIX = [-80.0, -82.0, -81.0, -84.0, -83.0, -79.0]


def test_a_published_score_lies_inside_below_or_above() -> None:
    interval = prediction_interval(np.array(SIX))
    assert check(SIX, -83.353).word == "consistent"
    assert check(SIX, interval.low - 0.01).word == "better"
    assert check(SIX, interval.high + 0.01).word == "worse"
    assert check(SIX, interval.low).word == check(SIX, interval.high).word == "consistent"
    found = check(SIX, -120.0)
    assert found.interval == interval
    assert found.scores == tuple(SIX)
    assert found.seeds == (0, 1, 2, 3, 4, 5)
    assert found.reason == "another seed of ours lies between -86.7 and -76.3, and -120.0 is below"


def test_a_mean_of_several_seeds_is_predicted_more_closely() -> None:
    one, three = check(SIX, -83.0), check(SIX, -83.0, seeds=3)
    assert three.interval.high - three.interval.low < one.interval.high - one.interval.low
    assert three.reason.startswith("the mean of 3 further seeds of ours lies between")


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_seeds_tell_nothing(n: int) -> None:
    found = check(SIX[:n], -500.0)
    assert found.word == "cannot tell"
    assert found.reason == f"{n} seed{'s' * (n != 1)}, and 6 are needed: {6 - n} more"
    assert (found.interval is None) == (n < 2)


def test_equal_scores_tell_only_that_they_are_equal() -> None:
    assert check([500.0] * 10, 500.0).word == "consistent"
    found = check([500.0] * 10, 499.0)
    assert (found.word, "all 10 scores are 500.0" in found.reason) == ("cannot tell", True)
    assert check([500.0] * 39, 499.0).word == "better"


def test_what_differs_is_said() -> None:
    zoo = read_source("zoo")
    published = find(zoo, "a2c", "LunarLander-v3")
    assert published.environment == "LunarLander-v2"
    runs = [stored(i, score, environment="LunarLander-v3") for i, score in enumerate(SIX)]
    runs[0] = stored(0, 0.0, environment="LunarLander-v3", final={})
    runs[1] = stored(1, 3.0, environment="LunarLander-v3", reached="3 in two evaluations")
    assert verify(published, zoo, runs).differences == (
        "runs: 1 of ours have no such score and are left out",
        "environment: published LunarLander-v2, ours LunarLander-v3",
        "packages: published gym 0.21 or of its time, ours gymnasium 1.4.0",
        "budget: published 200,000 steps, ours 500,000",
        "budget: 1 of ours stopped before it",
        "episodes: published score of 297, ours of 100 each",
        "seeds: published is one training run, so that nothing is known of its spread",
    )
    assert verify(published, zoo, runs * 2).reason.endswith("is above; but environment and budget differ")
    same = Published("a2c", "Acrobot-v1", 0.0, None, 500_000, 100, 3)
    source = Source("mine", "Mine", "", "evaluation", "greedy", "")
    assert verify(same, source, [stored(i, score) for i, score in enumerate(SIX)]).differences == ()


# --- The tables ------------------------------------------------------------------------------------------------------


def test_the_tables_that_come_along() -> None:
    assert source_names() == ["cleanrl", "zoo"]
    zoo, cleanrl = read_source("zoo"), read_source("cleanrl")
    assert len(zoo.scores) > 70
    # Spot checks against the projects' own pages.
    assert find(zoo, "a2c", "CartPole-v1") == Published("a2c", "CartPole-v1", 500.0, 0.0, 500_000, 300, 1)
    assert find(zoo, "ppo", "Acrobot-v1") == Published("ppo", "Acrobot-v1", -73.506, 18.201, 1_000_000, 2013, 1)
    assert find(zoo, "td3", "Hopper-v3") == Published("td3", "Hopper-v3", 3606.39, 4.027, 1_000_000, None, 1)
    assert find(cleanrl, "dqn", "CartPole-v1") == Published("dqn", "CartPole-v1", 488.69, 16.11, 500_000, 100, 3)
    assert (zoo.measured, cleanrl.measured) == ("evaluation", "training")
    for source in (zoo, cleanrl):
        keys = [(score.algorithm, score.environment) for score in source.scores]
        assert len(set(keys)) == len(keys)


def test_the_nearest_version_of_an_environment_is_taken() -> None:
    zoo = read_source("zoo")
    assert find(zoo, "sac", "HalfCheetah-v5").environment == "HalfCheetah-v3"
    assert find(zoo, "a2c", "LunarLanderContinuous-v3").mean == 84.225
    with pytest.raises(UsageError, match="no score of a2c on Pong-v5, but on CartPole-v1"):
        find(zoo, "a2c", "Pong-v5")
    with pytest.raises(UsageError, match="no score of impala, but of a2c, ars"):
        find(zoo, "impala", "CartPole-v1")


GOOD = """
title = "Mine"
url = "somewhere"
measured = "evaluation"
policy = "greedy"
spread = "standard deviation over seeds"
seeds = 5
scores = [{ algorithm = "a2c", environment = "Acrobot-v1", mean = -80, steps = 1000, episodes = 20 }]
"""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    source = read_source(str(path))
    assert source.name == "mine"
    assert source.scores == (Published("a2c", "Acrobot-v1", -80.0, None, 1000, 20, 5),)


def test_the_same_version_comes_first_then_the_newest(tmp_path: Path) -> None:
    row = '{ algorithm = "a2c", environment = "Acrobot-v1", mean = -80, steps = 1000, episodes = 20 }'
    rows = ", ".join(row.replace("v1", f"v{version}") for version in (2, 9, 10))
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(row, rows))
    source = read_source(str(path))
    assert find(source, "a2c", "Acrobot-v2").environment == "Acrobot-v2"
    assert find(source, "a2c", "Acrobot-v3").environment == "Acrobot-v10"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mean = -80", "mean = nan", "numbers that cannot be"),
        ("mean = -80", 'mean = "x"', "mean should be int or float"),
        ("steps = 1000", "steps = 0", "numbers that cannot be"),
        ("steps = 1000", "steps = true", "steps should be int"),
        ("seeds = 5", "", "seeds should be int"),
        ('"evaluation"', '"guessed"', "evaluation or training"),
        ("scores = [{", "other = [{", "scores should be a list"),
        ("title", "=", "mine.toml has no published scores"),
        ("seeds = 5", f"x = {'[' * 5000}", "mine.toml has no published scores"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(StorageError, match=message):
        read_source(str(path))
    with pytest.raises(StorageError, match="cannot read"):
        read_source(str(tmp_path / "other.toml"))


# --- Returns of training ---------------------------------------------------------------------------------------------


def curve(points: list[tuple[int, float]]) -> Curve:
    steps, values = np.array([step for step, _ in points]), np.array([value for _, value in points], float)
    return Curve(steps, steps / 1000, values)


def test_the_last_training_episodes_are_averaged_over_whole_records() -> None:
    """30, 0, 60 and 50 episodes: the last 100 are the last two records."""
    curves = {
        "rollout/return": curve([(10, 1.0), (30, 2.0), (40, 5.0)]),
        "rollout/episodes": curve([(10, 30), (20, 30), (30, 90), (40, 140)]),
    }
    cleanrl = read_source("cleanrl")
    run = stored(0, 999.0, curves=curves)
    assert score_of(run, cleanrl, 100) == pytest.approx((60 * 2.0 + 50 * 5.0) / 110)
    assert score_of(run, cleanrl, 50) == 5.0
    assert score_of(run, cleanrl, 140) == pytest.approx((30 + 60 * 2.0 + 50 * 5.0) / 140)
    assert math.isnan(score_of(run, cleanrl, 141))
    assert math.isnan(score_of(stored(0, 999.0), cleanrl, 100))
    assert score_of(run, read_source("zoo"), 100) == 999.0


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write runs of a2c on Acrobot-v1 into ./runs."""
    monkeypatch.chdir(tmp_path)

    def write(scores: list[float], group: str = "mine", **settings: Any) -> None:
        for seed, score in enumerate(scores):
            config = config_of(
                "a2c", "Acrobot-v1", seed, group, total_steps=settings.get("total_steps", 500_000), gae_lambda=1.0
            )
            returns = [-500.0, -300.0, -200.0 - seed / 7, -100.0 - seed / 3, score]
            make_run(
                Path(f"runs/{group}/{seed}"), config=config, returns=returns, state=settings.get("state", "finished")
            )

    return write


def test_verify_says_what_and_why(runs: Callable[..., None], rlkit: Rlkit) -> None:
    runs(SIX)
    code, out, _ = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "a2c on Acrobot-v1 against rl-baselines3-zoo: consistent"
    assert lines[1] == "  another seed of ours lies between -86.7 and -76.3, and so does -83.4"
    assert "published  -83.4 ± 17.2, 1 seed, 500,000 steps" in lines
    assert "ours       mean -81.5, median -81.5, from -84.0 to -79.0, 6 seeds" in lines
    assert "differs    episodes: published score of 1,778, ours of 10 each" in lines
    code, out, _ = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo", "--json")
    data = json.loads(out)
    assert (data["word"], data["published"]["mean"], data["seeds"]) == ("consistent", -83.353, [0, 1, 2, 3, 4, 5])
    assert data["interval"]["low"] == pytest.approx(-81.5 - 2.570582 * math.sqrt(3.5 * 7 / 6), abs=1e-4)


def test_verify_names_the_command_that_makes_runs(runs: Callable[..., None], rlkit: Rlkit) -> None:
    make = "rlkit run a2c --env Acrobot-v1 --seeds 10 --stop-at never --total-steps 500000"
    for _ in range(2):
        code, _, err = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
        assert (code, make in err) == (2, True)
        Path("runs").mkdir(exist_ok=True)
    runs(SIX[:5])
    code, out, _ = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
    assert code == 0
    assert "cannot tell\n  5 seeds, and 6 are needed: 1 more\n" in out
    assert f"more seeds: {make} --group mine" in out


def test_verify_takes_one_group(runs: Callable[..., None], rlkit: Rlkit) -> None:
    runs(SIX)
    runs([score - 100 for score in SIX], "other")
    code, _, err = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
    assert code == 2
    assert "belong to 2 groups: mine, other" in err
    code, out, _ = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo", "--group", "other")
    assert (code, out.splitlines()[0].rpartition(": ")[2]) == (0, "worse")


def test_verify_refuses_what_would_mislead(runs: Callable[..., None], rlkit: Rlkit) -> None:
    runs(SIX)
    config = json.loads(Path("runs/mine/5/config.json").read_text())
    config["algorithm"]["learning_rate"] = 0.1
    Path("runs/mine/5/config.json").write_text(json.dumps(config))
    command = ("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
    code, _, err = rlkit(*command)
    assert code == 2
    assert "mixed-settings" in err
    assert "--allow mixed-settings" in err
    code, out, _ = rlkit(*command, "--allow", "mixed-settings")
    assert code == 0
    assert "allowed    mixed-settings" in out
    code, _, err = rlkit(*command, "--allow", "nonsense")
    assert (code, "nothing is refused as nonsense" in err) == (2, True)


def test_verify_counts_finished_runs_on_that_environment_only(runs: Callable[..., None], rlkit: Rlkit) -> None:
    runs(SIX)
    make_run(Path("runs/mine/elsewhere"), config=config_of("a2c", "CartPole-v1", 9, "mine"))
    make_run(Path("runs/mine/failed"), config=config_of("a2c", "Acrobot-v1", 7, "mine"), state="failed")
    command = ("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo")
    code, _, err = rlkit(*command)
    assert (code, "missing-runs" in err) == (2, True)
    code, out, _ = rlkit(*command, *(word for key in ("missing-runs", "mixed-settings") for word in ("--allow", key)))
    assert code == 0
    assert "6 seeds\n" in out
    assert "differs    runs" not in out
    assert "differs    environment" not in out


def test_verify_reads_a_trackers_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rlkit: Rlkit, runs: Callable[..., None]
) -> None:
    stored_runs = [
        stored(i, score, group="mine", place=f"{i}", settings={"algorithm.x": 1}) for i, score in enumerate(SIX)
    ]

    class Store(FolderStore):
        def runs(self, selection: Any = (), **_: Any) -> list[StoredRun]:
            assert list(selection) == ["mine"]
            return stored_runs

        def groups(self) -> list[Any]:
            return []

    monkeypatch.setattr("rlkit_core.run_store.open_store", lambda uri, environ: Store())
    command = ("verify", "a2c", "--env", "Acrobot-v1", "--against", "zoo", "--group", "mine")
    code, out, _ = rlkit(*command, "--store", "sqlite:///some.db")
    assert (code, out.splitlines()[0].rpartition(": ")[2]) == (0, "consistent")
    assert rlkit(*command)[0] == 2


def test_verify_refuses_unknown_sources(rlkit: Rlkit) -> None:
    code, _, err = rlkit("verify", "a2c", "--env", "Acrobot-v1", "--against", "nobody")
    assert (code, "there are: cleanrl, zoo" in err) == (2, True)


def test_verify_against_training_returns(runs: Callable[..., None], rlkit: Rlkit) -> None:
    """Greedy evaluations of ours are then no scores."""
    Path("mine.toml").write_text(GOOD.replace('"evaluation"', '"training"'))
    runs(SIX)
    command = ("verify", "a2c", "--env", "Acrobot-v1", "--against", "mine.toml")
    code, out, _ = rlkit(*command)
    assert (code, "0 seeds, and 6 are needed" in out) == (0, True)
    for path in Path("runs/mine").glob("*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for i, record in enumerate(records):
            if "rollout/return" in record["metrics"]:
                record["metrics"]["rollout/episodes"] = 20.0 * (i + 1)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = rlkit(*command)
    assert code == 0
    assert "from -75.6 to -71.1, 6 seeds" in out  # 0.9 times the evaluations, as made_runs makes them
    assert "measured   last training episodes on both sides" in out
