"""What would mislead is refused: rigged studies, each for its own reason and no other, and honest ones, which are not.

Every study is run folders on the disk, compared by the command.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import about_of, config_of, make_run

from rlkit_core.refusals import EVALUATION, KEYS, refusals
from rlkit_core.run_store import Curve, StoredRun

Rlkit = Callable[..., tuple[int, str, str]]
COMPARED = ("compare", "a", "b", "--table")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rising(seed: int, number: int = 10) -> list[float]:
    """Returns that rise to nearly 500, others for each seed: 454 or less after six of ten, 491 or less in the end."""
    return [500 * (1 - math.exp(-4 * (k + 1) / number)) * (1 - 0.01 * (seed * 7919 % 13)) for k in range(number)]


def side(
    group: str,
    *,
    algorithm: str = "a2c",
    environment: str = "CartPole-v1",
    seeds: Iterable[int] = range(6),
    run: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    budget: int = 10_000,
    settings: Mapping[str, Any] | None = None,
    returns: Callable[[int], list[float]] = rising,
    **more: Any,
) -> list[Path]:
    """Runs of a group, one per seed; `run` and `env` are settings of the run and of its environment."""
    paths = []
    for seed in seeds:
        config = config_of(algorithm, environment, seed, group, total_steps=budget, **(settings or {}))
        config |= run or {}
        config["env"] |= env or {}
        path = Path("runs") / group / f"{environment.replace('/', '-')}-{seed}"
        while path.exists():
            path = path.with_name(f"{path.name}-again")
        paths.append(make_run(path, config=config, returns=returns(seed), **more))
    return paths


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def journal(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave only some records of a run's journal."""
    file = path / "metrics.jsonl"
    lines = [line for line in file.read_text().splitlines(keepends=True) if keep(json.loads(line))]
    file.write_text("".join(lines))


def stop(path: Path, step: int = 6_000, reached: str = "greedy return 500.0 over 200 episodes") -> None:
    """Make it a run that stopped at a step, by a last evaluation over 200 episodes."""
    journal(path, lambda record: record["step"] <= step + 10)
    final = {"final/return": 500.0, "final/return_std": 0.0, "final/episodes": 200.0}
    with open(path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "time": 1_795_000_100_000, "metrics": final}) + "\n")
    rewrite(path / "config.json", lambda config: {**config, "stop_at": 475.0})
    rewrite(
        path / "status.json",
        lambda status: {**status, "result": {**status["result"], "steps": step, "reached": reached}},
    )


def plan(name: str, parent: str, planned: Iterable[tuple[str, str, int]]) -> None:
    """Write `group.json`, for runs whose provenance has that parent."""
    runs = [{"group": group, "environment": env, "seed": seed, "run_dir": "?"} for group, env, seed in planned]
    Path("runs").mkdir(exist_ok=True)
    (Path("runs") / name).mkdir(exist_ok=True)
    text = json.dumps({"format": 1, "id": parent, "name": name, "planned": runs})
    (Path("runs") / name / "group.json").write_text(text)


def refused_for(stderr: str) -> list[str]:
    """Keys that a refusal names, of which each has its reason, what to do, and what lets it pass."""
    lines = [line.removeprefix("       ").removeprefix("error: ") for line in stderr.splitlines()]
    assert lines[0].startswith("this comparison would mislead"), stderr
    allowed = re.findall(r"--allow (\S+)", lines[-1])
    reasons = lines[1:-1]
    assert len(reasons) == 2 * len(allowed)
    for i, key in enumerate(allowed):
        assert reasons[2 * i].startswith(f"{key}: ")
        assert reasons[2 * i + 1] == f"  {KEYS[key]}"
    return allowed


# ---- rigged studies: what to do to two honest groups, the key, and words of the reason ----


def mixed_settings() -> None:
    side("a")
    side("b", seeds=range(3), settings={"learning_rate": 0.001})
    side("b", seeds=range(3, 6), settings={"learning_rate": 0.01})


def mixed_algorithms() -> None:
    side("a")
    side("b", seeds=range(3), algorithm="ppo")
    side("b", seeds=range(3, 6), algorithm="a2c")


def same_seed() -> None:
    side("a")
    side("b", seeds=[0, 1, 2, 3, 4, 3])


def unequal_budgets() -> None:
    side("a", budget=10_000)
    side("b", budget=50_000)


def other_version_of_the_environment() -> None:
    side("a", environment="CartPole-v0")
    side("b", environment="CartPole-v1")


def other_arguments_of_the_environment() -> None:
    side("a")
    side("b", env={"kwargs": {"sutton_barto_reward": True}})


def other_gymnasium() -> None:
    versions = {**about_of("", "")["versions"], "gymnasium": "1.3.0"}
    side("a")
    side("b", versions=versions)


def fewer_episodes_in_evaluations() -> None:
    side("a")
    side("b", run={"eval_episodes": 3})


def other_evaluation_steps() -> None:
    side("a")
    side("b", run={"eval_every": 5_000}, returns=lambda seed: rising(seed, 2))


def final_evaluation_of_fewer_episodes() -> None:
    side("a")
    for path in side("b"):
        text = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(text.replace('"final/episodes":10.0', '"final/episodes":3.0'))


def training_returns() -> None:
    side("a")
    for path in side("b"):
        journal(path, lambda record: "rollout/return" in record["metrics"])


def copies_with_other_seeds() -> None:
    side("a")
    (first,) = side("b", seeds=[0])
    for seed in range(1, 6):
        copy = Path(f"runs/b/copy-{seed}")
        shutil.copytree(first, copy)
        rewrite(copy / "config.json", lambda config: {**config, "seed": seed})  # noqa: B023


def a_copy_of_a_run() -> None:
    side("a")
    first, *_ = side("b")
    shutil.copytree(first, "runs/b/copy")


def copies_with_other_seeds_and_ids() -> None:
    copies_with_other_seeds()
    for i, path in enumerate(Path("runs/b").iterdir()):
        rewrite(path / "provenance.json", lambda about: {**about, "run_id": f"{i:032}"})  # noqa: B023


def all_from_one_policy() -> None:
    side("a")
    side("b", init_from="runs/pretrained")


def a_failed_run() -> None:
    side("a")
    side("b", seeds=range(5))
    side("b", seeds=[5], state="failed")


def a_run_that_was_planned() -> None:
    side("a", parent="a" * 32)
    for path in side("b", parent="a" * 32)[3:4]:
        shutil.rmtree(path)
    plan("both", "a" * 32, [(group, "CartPole-v1", seed) for group in "ab" for seed in range(6)])


def other_code() -> None:
    side("a")
    side("b", core_files_sha256="d0" * 32)


def a_changed_plugin_within_a_group() -> None:
    side("a", algorithm="ppo", plugins=[])
    side("b", seeds=range(3))
    plugins = [{"distribution": "rlkit-core", "version": "0.1.0", "module": "rlkit_a2c", "files_sha256": "ee" * 32}]
    side("b", seeds=range(3, 6), plugins=plugins)


def a_dirty_tree() -> None:
    side("a")
    side("b", git={"commit": "ab" * 20, "dirty": True})


def stopped_at_a_good_evaluation() -> None:
    side("a")
    for path in side("b")[:4]:
        stop(path)


RIGGED = [
    (mixed_settings, "mixed-settings", ["b on CartPole-v1", "algorithm.learning_rate 0.001 (seeds 0-2) and 0.01"]),
    (mixed_algorithms, "mixed-settings", ["algorithm.name ppo (seeds 0-2) and a2c (seeds 3-5)"]),
    (same_seed, "same-seed", ["seed 3 2 times", "runs/b/CartPole-v1-3-again"]),
    (unequal_budgets, "budgets", ["a (seeds 0-5) had 10,000 steps and b (seeds 0-5) had 50,000 steps"]),
    (other_version_of_the_environment, "environment-versions", ["CartPole-v0 in a", "CartPole-v1 in b"]),
    (other_arguments_of_the_environment, "environment-versions", ["env.kwargs.sutton_barto_reward", "true"]),
    (other_gymnasium, "environment-versions", ["gymnasium 1.4.0 (a, seeds 0-5) and 1.3.0 (b, seeds 0-5)"]),
    (fewer_episodes_in_evaluations, "evaluation-protocol", ["eval_episodes 10 (a", "and 3 (b"]),
    (other_evaluation_steps, "evaluation-protocol", ["eval_every 200 (a", "and 5000 (b"]),
    (final_evaluation_of_fewer_episodes, "evaluation-protocol", ["episodes of the final evaluation 10.0 (a", "3.0"]),
    (training_returns, "training-returns", ["b on CartPole-v1 has no evaluations", "seeds 0-5"]),
    (copies_with_other_seeds, "episodes-as-seeds", ["runs/b/copy-2 and 3 more are records of one training run"]),
    (a_copy_of_a_run, "episodes-as-seeds", ["runs/b/CartPole-v1-0, runs/b/copy are records of one training run"]),
    (copies_with_other_seeds_and_ids, "episodes-as-seeds", ["seeds 0-5 have one and the same curve"]),
    (all_from_one_policy, "episodes-as-seeds", ["seeds 0-5 all began from the policy of runs/pretrained"]),
    (a_failed_run, "missing-runs", ["seed 5 of b on CartPole-v1 failed"]),
    (a_run_that_was_planned, "missing-runs", ["seed 3 of b on CartPole-v1 was planned and is not there"]),
    (other_code, "code", ["files of rlkit_core c0c0c0c0c0c0 (a", "d0d0d0d0d0d0 (b"]),
    (a_changed_plugin_within_a_group, "code", ["files of rlkit_a2c a2a2a2a2a2a2 (b, seeds 0-2)", "eeeeeeeeeeee"]),
    (a_dirty_tree, "code", ["b (seeds 0-5) ran with changes"]),
    (
        stopped_at_a_good_evaluation,
        "stopped-early",
        ["seeds 0-3 stopped early", "6,000 of 10,000", "greedy return 500.0"],
    ),
]


@pytest.mark.parametrize(("study", "key", "words"), RIGGED, ids=[study.__name__ for study, _, _ in RIGGED])
def test_a_rigged_study_is_refused_for_its_own_reason(
    rlkit: Rlkit, study: Callable[[], None], key: str, words: list[str]
) -> None:
    study()
    code, out, err = rlkit(*COMPARED)
    assert (code, out) == (2, ""), out
    assert refused_for(err) == [key]
    for word in words:
        assert word in err
    assert ("one and the same curve" in err) == (study is copies_with_other_seeds_and_ids)  # told once
    code, out, err = rlkit(*COMPARED, "--allow", key)
    assert code == 0, err
    assert f"allowed: {key}: " in out
    assert "b" in out


def test_seeds_that_are_not_known_are_not_the_same_and_excuse_nothing() -> None:
    def run(place: str, state: str = "finished", score: float = 1.0) -> StoredRun:
        curve = Curve(np.arange(6), np.arange(6.0), score * np.arange(6.0))
        final = {"return": score}
        return StoredRun(
            place, place, group=place[0], environment="E-v0", state=state, final=final, curves={EVALUATION: curve}
        )

    honest = [run("a1"), run("a2", score=2.0), run("b1"), run("b2", score=3.0)]
    assert refusals(honest) == []
    assert [refusal.key for refusal in refusals([*honest, run("b3", "killed")])] == ["missing-runs"]
    assert [refusal.key for refusal in refusals([*honest, run("b3")])] == ["episodes-as-seeds"]


def test_every_key_has_a_rigged_study() -> None:
    assert {key for _, key, _ in RIGGED} == set(KEYS)


def test_leaving_out_runs_of_a_group_is_refused(rlkit: Rlkit) -> None:
    side("a")
    paths = side("b")
    code, _, err = rlkit("compare", "a", *paths[:4], "--table")
    assert (code, refused_for(err)) == (2, ["missing-runs"])
    assert "seed 4, seed 5 of b on CartPole-v1 is left out" in err
    assert refused_for(rlkit("compare", "--where", "return < 480", "--table")[2]) == ["missing-runs"]
    assert rlkit("compare", "a", *paths, "--table")[0] == 0


def test_several_reasons_are_all_told(rlkit: Rlkit) -> None:
    side("a", git={"commit": "ab" * 20, "dirty": True})
    side("b", budget=50_000, seeds=[0, 1, 2, 3, 3])
    code, _, err = rlkit(*COMPARED)
    assert (code, refused_for(err)) == (2, ["same-seed", "budgets", "code"])
    assert "mislead, in 3 ways" in err
    assert refused_for(rlkit(*COMPARED, "--allow", "code", "--allow", "budgets")[2]) == ["same-seed"]


def test_steps_to_a_threshold_need_runs_that_are_watched_until_then(rlkit: Rlkit) -> None:
    side("a")
    for path in side("b")[:3]:
        stop(path)
    by_steps = (*COMPARED, "--by", "steps", "--threshold")
    assert rlkit(*by_steps, "400")[0] == 0
    code, _, err = rlkit(*by_steps, "470")
    assert (code, refused_for(err)) == (2, ["stopped-early"])
    assert "stopped early below 470" in err


def test_a_key_that_there_is_not(rlkit: Rlkit) -> None:
    side("a")
    side("b")
    code, _, err = rlkit(*COMPARED, "--allow", "buget")
    assert code == 2
    assert "there is no buget; did you mean budgets?" in err


# ---- honest studies ----


def other_algorithms() -> list[Any]:
    side("a", settings={"learning_rate": 0.01, "entropy_coef": 0.1})
    side("b", algorithm="ppo", settings={"learning_rate": 0.0003})
    return ["a", "b"]


def a_sweep() -> list[Any]:
    planned = []
    for group in ("classic/ppo", "classic/a2c", "classic/a2c learning_rate=0.01"):
        rate = 0.01 if "=" in group else 0.001
        algorithm = group[8:11]
        for environment in ("CartPole-v1", "Acrobot-v1"):
            settings = {"learning_rate": rate}
            side(group, algorithm=algorithm, environment=environment, settings=settings, parent="c" * 32)
            planned += [(group, environment, seed) for seed in range(6)]
    plan("classic", "c" * 32, planned)
    return ["classic"]


def other_numbers_of_seeds() -> list[Any]:
    side("a", seeds=range(5))
    side("b", seeds=range(10, 18))
    return ["a", "b"]


def a_threshold_that_was_not_reached() -> list[Any]:
    side("a", run={"stop_at": "threshold"})
    side("b", run={"stop_at": "never"})
    return ["a", "b"]


def stopped_where_the_threshold_was_reached() -> list[Any]:
    for group in ("a", "b"):
        for path in side(group)[:4]:
            stop(path)
    return ["a", "b", "--by", "steps", "--threshold", "400"]


def a_failed_run_that_was_done_again() -> list[Any]:
    side("a")
    side("b", seeds=[5], state="failed", pid=1)
    side("b")
    return ["a", "b"]


def another_environment_is_not_finished() -> list[Any]:
    side("a")
    side("b")
    side("b", environment="Acrobot-v1", state="interrupted")
    return ["a", "b", "--where", "environment = CartPole-v1"]


def other_ways_to_log() -> list[Any]:
    side("a", run={"log_every": 100, "checkpoint_every": 5_000, "tracker": {"name": "tensorboard"}})
    side("b", seeds=range(3), run={"log_every": 50, "checkpoint_every": "never"})
    side("b", seeds=range(3, 6), run={"hooks": ["some"], "keep_checkpoints": 5})
    return ["a", "b"]


def a_package_that_the_environment_does_not_need() -> list[Any]:
    side("a", git=None)
    side("b", versions={**about_of("", "")["versions"], "mujoco": "3.3.0", "torch": "2.12.0"})
    return ["a", "b"]


def all_at_the_best_return_all_the_time() -> list[Any]:
    for group in ("a", "b"):
        for i, path in enumerate(side(group, returns=lambda seed: [500.0] * 10)):
            text = (path / "metrics.jsonl").read_text()
            # Other milliseconds, as there always are.
            shift = re.sub(r'"time":(\d+)', lambda match: f'"time":{int(match[1]) + 7 * i}', text)  # noqa: B023
            (path / "metrics.jsonl").write_text(shift)
    return ["a", "b"]


def environments_in_processes() -> list[Any]:
    side("a", env={"vectorization": "sync", "autoreset": "disabled"})
    side("b", env={"vectorization": "async", "autoreset": "next_step", "timeout": 60.0})
    return ["a", "b"]


def every_run_by_its_folder() -> list[Any]:
    return [*side("a"), *side("b")]


def two_versions_of_an_environment_in_both() -> list[Any]:
    for group in ("a", "b"):
        for environment in ("HalfCheetah-v4", "HalfCheetah-v5"):
            side(group, environment=environment)
    return ["a", "b"]


HONEST = [
    other_algorithms,
    a_sweep,
    other_numbers_of_seeds,
    a_threshold_that_was_not_reached,
    stopped_where_the_threshold_was_reached,
    a_failed_run_that_was_done_again,
    another_environment_is_not_finished,
    other_ways_to_log,
    a_package_that_the_environment_does_not_need,
    all_at_the_best_return_all_the_time,
    environments_in_processes,
    every_run_by_its_folder,
    two_versions_of_an_environment_in_both,
]


@pytest.mark.parametrize("study", HONEST)
def test_an_honest_study_is_not_refused(rlkit: Rlkit, study: Callable[[], list[Any]]) -> None:
    code, out, err = rlkit("compare", *study(), "--table")
    assert (code, err) == (0, "")
    assert "allowed" not in out
