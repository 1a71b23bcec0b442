"""The loop, through `train` as users call it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

from rlkit_a2c.a2c import A2C
from rlkit_a2c.config import A2CConfig
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import Setup
from rlkit_core.errors import ConfigError, Diverged, PluginError, RunInUse, UsageError
from rlkit_core.evaluation import evaluate
from rlkit_core.hookspecs import hookimpl
from rlkit_core.run_folder import RunFolder, read_journal, read_json
from rlkit_core.stored_policy import load_policy
from rlkit_core.testing import probes
from rlkit_core.training import Result, train

SMALL = A2CConfig(collector=StepsConfig(num_envs=4, num_steps=16), network=MLPConfig(hidden=(8,)))
SYNC = GymnasiumConfig(id="CartPole-v1", vectorization="sync")
"""64 steps in each rollout of `SMALL`; the native class has dummy rows among them."""
OFF = 10**9
"""A period longer than any run here."""

Go = Callable[..., Result]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """`train` in a folder of its own; short and quiet unless told otherwise."""
    count = iter(range(1000))

    def go(algorithm: Any = SMALL, **settings: Any) -> Result:
        defaults = {"env": SYNC, "total_steps": 640, "stop_at": "never", "eval_every": OFF, "tracker": "none"}
        settings = {"run_dir": tmp_path / f"run{next(count)}", "progress": "none", **defaults, **settings}
        return train(algorithm, **settings)

    return go


def weights(result: Result, which: str = "last") -> str:
    content = (result.run_dir / "policy" / which / "policy.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()


def journal(result: Result) -> list[dict[str, Any]]:
    return [record for _, record in read_journal(result.run_dir / "metrics.jsonl")]


def learning(result: Result) -> list[tuple[int, dict[str, float]]]:
    """The journal without evaluations and without times."""
    kept = []
    for record in journal(result):
        metrics = {k: v for k, v in record["metrics"].items() if k.startswith(("learner/", "rollout/"))}
        if metrics:
            kept.append((record["step"], metrics))
    return kept


def evaluations(result: Result, prefix: str = "evaluation") -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of the evaluations, the confirmations or the `final` one."""
    found = []
    for record in journal(result):
        metrics = {k.removeprefix(f"{prefix}/"): v for k, v in record["metrics"].items() if k.startswith(f"{prefix}/")}
        if metrics:
            found.append((record["step"], metrics))
    return found


def assert_same_bits(a: Result, b: Result) -> None:
    assert a.steps == b.steps
    assert learning(a) == learning(b)
    assert weights(a) == weights(b)


# The same seed gives the same bits.


@pytest.mark.parametrize("collector", [SMALL.collector, EpisodesConfig(num_envs=2)], ids=["steps", "episodes"])
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_twice_in_a_row(go: Go, collector: Any, vectorization: str) -> None:
    algorithm = SMALL.model_copy(update={"collector": collector})
    env = GymnasiumConfig(id="CartPole-v1", vectorization=vectorization)
    first, again, other = go(algorithm, env=env), go(algorithm, env=env), go(algorithm, env=env, seed=1)
    assert_same_bits(first, again)
    assert evaluations(first, "final") == evaluations(again, "final")
    assert weights(first) != weights(other)


def test_sync_and_async(go: Go) -> None:
    """Processes of their own change nothing: each episode has its own seed."""
    runs = [
        go(env=GymnasiumConfig(id="CartPole-v1", vectorization=vectorization))
        for vectorization in ("sync", "sync", "async", "async")
    ]
    for run in runs[1:]:
        assert_same_bits(runs[0], run)


@pytest.mark.parametrize("env", [SYNC, "CartPole-v1"], ids=["sync", "native"])
def test_evaluations_and_records_change_nothing(go: Go, env: Any) -> None:
    """Nor do the statistics of the observations, which are among the weights, see any of it."""
    assert SMALL.normalize_observations
    without = go(env=env, log_every=64)
    with_many = go(env=env, log_every=64, eval_every=64, eval_episodes=3)
    assert len(evaluations(with_many)) > 8
    assert_same_bits(without, with_many)
    assert weights(go(env=env, log_every=OFF, episode_log_every=1)) == weights(without)


@pytest.mark.parametrize("tracker", ["tensorboard", pytest.param("mlflow", marks=pytest.mark.long)])
def test_tracking_changes_nothing(go: Go, tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked = go(tracker=tracker)
    assert tracked.warning is None
    assert read_json(tracked.run_dir / "tracking.json")
    assert_same_bits(go(), tracked)


@pytest.mark.thorough
def test_the_hash_seed_of_python_changes_nothing(go: Go, tmp_path: Path) -> None:
    """Of four processes side by side, and of this one: the order of sets of names is another in each."""
    algorithm = {"algorithm": {"name": "a2c", "collector": {"num_envs": 2, "num_steps": 8}}}
    settings = {"env": "CartPole-v1", "total_steps": 160, "stop_at": "never", "eval_every": OFF, "tracker": "none"}
    script = (
        "import json, sys; from rlkit_core.training import train\n"
        "train(json.loads(sys.argv[2]), progress='none', run_dir=sys.argv[1])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / str(seed)), json.dumps({**algorithm, **settings})],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        for seed in range(4)
    ]
    here = go(algorithm, **settings)
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    for seed in range(4):
        status = read_json(tmp_path / str(seed) / "status.json")
        assert_same_bits(here, Result(tmp_path / str(seed), steps=status["result"]["steps"]))


def test_what_the_caller_drew_before_changes_nothing(go: Go) -> None:
    first = go()
    torch.rand(3)
    np.random.rand(3)
    random.random()
    assert_same_bits(first, go())


# The caller gets everything back.


def world() -> tuple[Any, ...]:
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.random.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
    )


def test_generators_threads_and_signals_are_given_back(go: Go) -> None:
    before = world()
    seen = []

    class Watch:
        @hookimpl
        def rlkit_iteration_finished(self, step: int) -> None:
            seen.append(torch.get_num_threads())

    threads = before[3] + 1
    go(threads=threads, plugins=[as_module("watch", Watch())], hooks=("watch",), eval_every=128)
    assert set(seen) == {threads}
    assert world() == before


def test_the_callers_default_dtype_changes_nothing(go: Go) -> None:
    """New weights are of the default dtype: a caller's float64 is put aside, for training, evaluating and loading."""
    expected = go()
    torch.set_default_dtype(torch.float64)
    try:
        result = go()
        assert evaluate(result.run_dir, episodes=2) == evaluate(expected.run_dir, episodes=2)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert weights(result) == weights(expected)


def test_they_are_given_back_after_a_failure(go: Go) -> None:
    before = world()
    with pytest.raises(Diverged):
        go(faulty(2), plugins=[FAULTY])
    assert world() == before


# Hooks.


def as_module(name: str, implementations: object) -> ModuleType:
    module = ModuleType(name)
    for hook in dir(implementations):
        if hook.startswith("rlkit_"):
            setattr(module, hook, getattr(implementations, hook))
    return module


class Diary:
    """Run hooks that write down their calls and stop the run after some updates."""

    def __init__(self, updates: int | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.updates = updates

    @hookimpl
    def rlkit_run_started(self, config: Any, run_dir: Path) -> None:
        self.calls.append(("started", config["algorithm"]["name"]))
        assert read_json(run_dir / "config.json") == config

    @hookimpl
    def rlkit_iteration_finished(self, step: int, metrics: Any) -> bool | None:
        self.metrics.append((step, dict(metrics)))
        return len(self.metrics) == self.updates or None

    @hookimpl
    def rlkit_run_finished(self, step: int, result: Any) -> None:
        self.calls.append(("finished", step))
        assert result["steps"] == step


def test_hooks_act_only_when_named(go: Go) -> None:
    silent, named = Diary(), Diary()
    modules = [as_module("silent_diary", silent), as_module("named_diary", named)]
    result = go(plugins=modules, hooks=("named_diary",))
    assert silent.calls == silent.metrics == []
    assert named.calls == [("started", "a2c"), ("finished", 640)]
    assert [step for step, _ in named.metrics] == list(range(64, 641, 64))
    assert_same_bits(result, go())


def test_a_hook_stops_the_run(go: Go) -> None:
    diary = Diary(updates=3)
    result = go(plugins=[as_module("diary", diary)], hooks=("diary",))
    assert (result.state, result.steps, result.updates) == ("finished", 192, 3)
    assert result.reached == "a hook stopped the run"
    assert result.evaluation_episodes == 100


def test_a_raising_hook_closes_the_environments(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    class Raising:
        @hookimpl
        def rlkit_run_started(self) -> None:
            raise RuntimeError("no")

    closed = []
    monkeypatch.setattr("rlkit_core.builtin.steps_collector.StepsCollector.close", lambda self: closed.append(1))
    with pytest.raises(RuntimeError, match="no"):
        go(plugins=[as_module("raising", Raising())], hooks=("raising",))
    assert closed == [1]


# Failures.


class FaultyConfig(A2CConfig):
    """A2C whose loss becomes NaN in one of its updates."""

    name: ClassVar[str] = "faulty"
    at: ClassVar[int] = 0

    def build(self, setup: Setup) -> A2C:
        learner = A2C(self, setup)
        losses, count = learner.losses, iter(range(1, 10**6))

        def broken(*args: Any) -> dict[str, torch.Tensor]:
            factor = float("nan") if next(count) == self.at else 1.0
            return {name: loss * factor for name, loss in losses(*args).items()}

        learner.losses = broken  # type: ignore[method-assign]
        return learner


class _Faulty:
    @hookimpl
    def rlkit_register(self) -> list[Any]:
        return [FaultyConfig]


FAULTY = as_module("faulty_plugin", _Faulty())


def faulty(at: int) -> FaultyConfig:
    FaultyConfig.at = at
    return FaultyConfig(**{name: getattr(SMALL, name) for name in A2CConfig.model_fields})


@pytest.mark.parametrize("update", [1, 2, 7])
def test_nan_in_an_update(go: Go, tmp_path: Path, update: int) -> None:
    before = tmp_path / "run0"
    with pytest.raises(Diverged) as caught:
        go(faulty(update), plugins=[FAULTY], eval_every=64, eval_episodes=2, log_every=64, run_dir=before)
    assert caught.value.exit_code == 5
    error = read_json(before / "error.json")
    assert (error["type"], error["exit_code"]) == ("Diverged", 5)
    assert "faulty" in "".join(error["traceback"]) or "a2c.py" in "".join(error["traceback"])
    status = read_json(before / "status.json")
    assert status["state"] == "failed"
    assert "not finite" in status["error"]
    steps = [record["step"] for record in journal(Result(before)) if "learner/loss" in record["metrics"]]
    assert steps == [64 * i for i in range(1, update)]
    assert not (before / "policy" / "last").exists()
    if update > 1:
        policy = load_policy(before, which="best", registry=_registry())
        assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())


def _registry() -> Any:
    from rlkit_core.registry import Registry

    return Registry([FAULTY])


def test_a_metric_that_is_not_finite(go: Go) -> None:
    class Config(FaultyConfig):
        """Logs infinity."""

        name: ClassVar[str] = "infinite"

        def build(self, setup: Setup) -> A2C:
            learner = A2C(self, setup)
            update = learner.update
            learner.update = lambda rollout: {**update(rollout), "surprise": float("inf")}  # type: ignore[method-assign]
            return learner

    class Plugin:
        @hookimpl
        def rlkit_register(self) -> list[Any]:
            return [Config]

    with pytest.raises(Diverged, match="surprise is inf"):
        go("infinite", plugins=[as_module("infinite_plugin", Plugin())])


def test_a_folder_in_use_and_one_with_a_run(go: Go, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "mine")
    with pytest.raises(RunInUse) as caught:
        go(run_dir=tmp_path / "mine")
    assert caught.value.exit_code == 7
    folder.release()
    result = go(run_dir=tmp_path / "mine")
    before = (result.run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match="holds a run already") as refused:
        go(run_dir=tmp_path / "mine")
    assert refused.value.exit_code == 2
    assert (result.run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(go: Go, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        go(device="cuda", run_dir=tmp_path / "gpu")
    assert not (tmp_path / "gpu").exists()
    automatic = go(device="auto")
    assert read_json(automatic.run_dir / "config.json")["device"] == "cpu"


def test_a_signal_ends_the_run_in_order(go: Go) -> None:
    class Interrupt:
        @hookimpl
        def rlkit_iteration_finished(self, step: int) -> None:
            if step == 128:
                signal.raise_signal(signal.SIGINT)

    result = go(plugins=[as_module("interrupt", Interrupt())], hooks=("interrupt",))
    assert (result.state, result.signal, result.steps) == ("interrupted", signal.SIGINT, 128)
    assert read_json(result.run_dir / "status.json")["state"] == "interrupted"
    assert evaluations(result) == evaluations(result, "final") == []
    load_policy(result.run_dir)


def test_a_second_signal_forces_out(go: Go, tmp_path: Path) -> None:
    class Interrupt:
        @hookimpl
        def rlkit_iteration_finished(self, step: int) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        go(plugins=[as_module("interrupt2", Interrupt())], hooks=("interrupt2",), run_dir=tmp_path / "forced")
    assert read_json(tmp_path / "forced" / "status.json")["state"] == "interrupted"
    assert read_json(tmp_path / "forced" / "error.json")["exit_code"] == 130


# When a run stops.


def register(name: str, probe: type[probes.Probe], threshold: float | None) -> str:
    env_id = f"test/{name}-v0"
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=probe, reward_threshold=threshold, max_episode_steps=probe.time_limit)
    return env_id


def episodes_of(result: Result) -> dict[str, list[float]]:
    return {
        prefix: [metrics["episodes"] for _, metrics in evaluations(result, prefix)]
        for prefix in ("evaluation", "confirmation_100", "confirmation_200", "final")
    }


def test_stops_at_a_number(go: Go) -> None:
    env = probes.ConstantReward.id  # each return is 1
    result = go(env=env, stop_at=1.0, eval_every=128, eval_episodes=20)
    assert (result.steps, result.evaluation_return, result.evaluation_episodes) == (128, 1.0, 200)
    assert result.reached == "greedy return 1.0 over 200 episodes"
    assert episodes_of(result) == {
        "evaluation": [20],
        "confirmation_100": [100],
        "confirmation_200": [200],
        "final": [200],
    }
    unreached = go(env=env, stop_at=1.5, eval_every=128)
    assert (unreached.steps, unreached.reached, unreached.evaluation_episodes) == (640, None, 100)


def test_stops_at_the_registered_threshold(go: Go) -> None:
    reachable = register("Reachable", probes.ConstantReward, 1.0)
    assert go(env=reachable, stop_at="threshold", eval_every=128).steps == 128
    assert go(env=reachable, stop_at="never", eval_every=128).steps == 640
    beyond = register("Beyond", probes.ConstantReward, 1.1)
    assert go(env=beyond, stop_at="threshold", eval_every=128).steps == 640
    # Without a registered one the budget alone ends the run.
    assert go(env=probes.ConstantReward.id, stop_at="threshold", eval_every=128).steps == 640


def test_stops_at_the_running_return(go: Go) -> None:
    """From 10, with weight 0.05: returns of 20 make it 10.5, 10.975, 11.42625."""
    env = register("TwentyEach", probes.RewardForEver, 11.0)
    algorithm = SMALL.model_copy(update={"collector": EpisodesConfig()})
    result = go(algorithm, env=env, stop_at="running-return")
    assert result.steps == 60
    assert result.reached is not None
    assert "running return 11.4 after 3 episodes" in result.reached
    assert "no evaluation" in result.reached
    assert journal(result)[-2]["metrics"]["rollout/running_return"] == pytest.approx(11.42625)
    with pytest.raises(UsageError, match="registers no reward threshold"):
        go(env=probes.ConstantReward.id, stop_at="running-return")


@pytest.mark.parametrize(
    "returns",
    [(0.0,) * 200, (0.0, 2.04) * 100],
    ids=["below the goal", "above it by less than the standard error"],
)
def test_a_failed_confirmation_is_not_the_last_evaluation(
    go: Go, monkeypatch: pytest.MonkeyPatch, returns: tuple[float, ...]
) -> None:
    """A run whose longer evaluation failed goes on, and one that a hook then stops is evaluated at its end."""
    env = probes.ConstantReward.id
    from rlkit_core import evaluation

    original = evaluation.evaluate_policy

    def worse_over_200(policy: Any, env: Any, seeds: Any, num_episodes: int, max_steps: int) -> Any:
        answer = original(policy, env, seeds, num_episodes, max_steps)
        return evaluation.Evaluation(returns, answer.lengths) if num_episodes == 200 else answer

    monkeypatch.setattr(evaluation, "evaluate_policy", worse_over_200)
    diary = Diary(updates=3)
    plugins = [as_module("diary3", diary)]
    result = go(env=env, stop_at=1.0, eval_every=128, eval_episodes=20, plugins=plugins, hooks=("diary3",))
    assert (result.steps, result.reached) == (192, "a hook stopped the run")
    assert episodes_of(result) == {
        "evaluation": [20],
        "confirmation_100": [100],
        "confirmation_200": [200],
        "final": [100],
    }


# What a run leaves.


def test_the_journal_averages_between_its_records(go: Go) -> None:
    diary = Diary()
    result = go(log_every=192, plugins=[as_module("diary2", diary)], hooks=("diary2",))
    records = [record for record in journal(result) if "learner/loss" in record["metrics"]]
    assert [record["step"] for record in records] == [192, 384, 576, 640]
    groups = [diary.metrics[0:3], diary.metrics[3:6], diary.metrics[6:9], diary.metrics[9:10]]
    for record, group in zip(records, groups, strict=True):
        for name in group[0][1]:
            mean = sum(metrics[name] for _, metrics in group) / len(group)
            assert record["metrics"][f"learner/{name}"] == pytest.approx(mean, rel=1e-12)
    names = set(records[-1]["metrics"])
    assert {"rollout/episodes", "time/steps_per_second"} <= names
    assert all(name.startswith(("learner/", "rollout/", "time/")) for name in names)
    counts = [record["metrics"]["rollout/episodes"] for record in records]
    assert counts == sorted(counts)
    times = [record["time"] for record in journal(result)]
    assert times == sorted(times)
    text = (result.run_dir / "metrics.jsonl").read_text()
    assert all(json.loads(line).keys() == {"step", "time", "metrics"} for line in text.splitlines())


def test_an_evaluation_carries_its_nominal_step(go: Go) -> None:
    result = go(eval_every=100, eval_episodes=2)
    found = [(metrics["nominal_step"], step) for step, metrics in evaluations(result)]
    # Updates end at multiples of 64; an evaluation comes after the first one that has reached its step.
    assert found == [(100, 128), (200, 256), (300, 320), (400, 448), (500, 512), (600, 640)]


def test_the_result_and_the_folder_agree(go: Go) -> None:
    result = go(eval_every=128, eval_episodes=2)
    assert (result.state, result.steps, result.updates, result.reached) == ("finished", 640, 10, None)
    assert result.seconds > 0
    assert result.warning is None
    assert (result.signal, result.evaluation_episodes) == (None, 100)
    status = read_json(result.run_dir / "status.json")
    assert status["state"] == "finished"
    assert status["result"]["steps"] == 640
    assert status["result"]["evaluation_return"] == result.evaluation_return
    [(step, final)] = evaluations(result, "final")
    assert (step, final["return"], final["episodes"]) == (640, result.evaluation_return, 100)
    config = read_json(result.run_dir / "config.json")
    assert config["algorithm"]["collector"] == {"name": "steps", "num_envs": 4, "num_steps": 16}
    assert not (result.run_dir / "error.json").exists()
    again = go(
        config, run_dir=result.run_dir.with_name("again"), **{k: config[k] for k in ("total_steps", "eval_every")}
    )
    assert_same_bits(result, again)


def test_best_and_last_policy(go: Go) -> None:
    result = go(eval_every=64, eval_episodes=3)
    scores = {step: metrics["return"] for step, metrics in evaluations(result)}
    [(_, final)] = evaluations(result, "final")
    best, last = (read_json(result.run_dir / "policy" / which / "policy.json") for which in ("best", "last"))
    assert best["evaluation_return"] == max(scores.values())
    assert best["step"] == next(step for step, score in scores.items() if score == max(scores.values()))
    assert (last["step"], last["evaluation_return"]) == (640, final["return"])
    obs = torch.zeros(3, 4)
    for which in ("best", "last"):
        assert load_policy(result.run_dir, which=which).act(obs).action.shape == (3,)
    # A run too short for a regular evaluation has no best policy, and says so.
    with pytest.raises(UsageError, match=r"no best policy: it is written at the first evaluation\n.*--which last$"):
        load_policy(go().run_dir, which="best")


def test_starts_from_another_run(go: Go) -> None:
    plain = SMALL.model_copy(update={"normalize_observations": False})
    source = go(plain)
    frozen = plain.model_copy(update={"learning_rate": 1e-30})
    taken_over = go(frozen, init_from=source.run_dir, seed=5)
    assert weights(taken_over) == weights(source)
    assert weights(go(frozen, seed=5)) != weights(source)
    assert read_json(taken_over.run_dir / "provenance.json")["init_from"] == str(source.run_dir)
    for other in (SMALL, plain.model_copy(update={"network": MLPConfig(hidden=(9,))})):
        with pytest.raises(UsageError, match="does not fit"):
            go(other, init_from=source.run_dir)
    with pytest.raises(UsageError, match="does not exist"):
        go(init_from=source.run_dir / "nowhere")


def test_a_learner_is_told_of_a_policy_from_another_run(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is there, and before it is learned from."""
    seen: list[dict[str, Any]] = []

    def hear(learner: A2C) -> None:
        seen.append({name: weight.clone() for name, weight in learner.policy.state_dict().items()})

    monkeypatch.setattr(A2C, "policy_replaced", hear)
    source = go()
    assert seen == []
    go(init_from=source.run_dir, seed=5)
    [heard] = seen
    stored = load_policy(source.run_dir).state_dict()
    assert all(torch.equal(heard[name], stored[name]) for name in stored)


def test_statistics_of_observations_are_taken_over_and_go_on(go: Go) -> None:
    def seen(result: Result) -> float:
        return float(load_policy(result.run_dir).state_dict()["preprocessor.normalizer.count"])

    source = go()
    assert (seen(source), seen(go(init_from=source.run_dir, seed=5))) == (640, 1280)


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_one_step_of_one_environment_per_update(go: Go, vectorization: str) -> None:
    """A rollout of a single dummy row, as NEXT_STEP autoreset makes them, is no update."""
    algorithm = SMALL.model_copy(update={"collector": StepsConfig(num_envs=1, num_steps=1)})
    result = go(algorithm, env=GymnasiumConfig(id="CartPole-v1", vectorization=vectorization), total_steps=100)
    assert result.steps == result.updates == 100


# Presets.

PRESET_PLUGIN = """
from typing import ClassVar
from rlkit_a2c.config import A2CConfig
from rlkit_core.evaluation import evaluate
from rlkit_core.hookspecs import hookimpl

class Config(A2CConfig):
    \"\"\"A2C with presets.\"\"\"
    name: ClassVar[str] = "with-presets"

@hookimpl
def rlkit_register():
    return [Config]
"""

PRESETS = """
[poles]
description = "for poles"
environments = ["CartPole-v1"]
run = { total_steps = 128 }
algorithm = { learning_rate = 0.5, collector = { num_envs = 2, num_steps = 32 } }

[careful]
description = "for nothing by itself"
algorithm = { learning_rate = 1e-6 }
"""


@pytest.fixture
def preset_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = tmp_path / "packages" / "preset_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PRESET_PLUGIN)
    (package / "presets.toml").write_text(PRESETS)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "preset_plugin", raising=False)
    return __import__("preset_plugin")


def test_presets(preset_plugin: ModuleType, tmp_path: Path) -> None:
    count = iter(range(100))

    def settings_of(**settings: Any) -> tuple[str | None, int, float]:
        run_dir = tmp_path / f"preset{next(count)}"
        common = {"stop_at": "never", "eval_every": OFF, "tracker": "none", "progress": "none"}
        train("with-presets", plugins=[preset_plugin], run_dir=run_dir, **{**common, **settings})
        config = read_json(run_dir / "config.json")
        name = read_json(run_dir / "provenance.json")["preset"]
        return name, config["total_steps"], config["algorithm"]["learning_rate"]

    # One made for the environment is chosen without being named, and the user's own settings win over it.
    assert settings_of(env="CartPole-v1") == ("poles", 128, 0.5)
    assert settings_of(env="CartPole-v1", total_steps=64) == ("poles", 64, 0.5)
    assert settings_of(env="CartPole-v1", preset="none", total_steps=64) == (None, 64, 3e-3)
    assert settings_of(env="CartPole-v1", preset="careful", total_steps=64) == ("careful", 64, 1e-6)
    assert settings_of(env=probes.ConstantReward.id, total_steps=64) == (None, 64, 3e-3)
    assert settings_of(env=probes.ConstantReward.id, preset="poles") == ("poles", 128, 0.5)
    with pytest.raises(UsageError, match="did you mean careful"):
        settings_of(env="CartPole-v1", preset="carefull")


def test_wrong_settings_start_nothing(go: Go, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rat"):
        go({"algorithm": {"name": "a2c", "learning_rat": 1}}, run_dir=tmp_path / "nothing")
    with pytest.raises(PluginError, match="no_such_module"):
        go(hooks=("no_such_module",), run_dir=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# What an audit found.


def test_a_policy_that_is_not_finite_is_not_stored(go: Go, tmp_path: Path) -> None:
    """A single update can overflow the weights while its loss and gradient are still finite."""
    with pytest.raises(Diverged, match="no last policy is stored"):
        go({"algorithm": {"name": "a2c", "learning_rate": 1e38}}, total_steps=1, checkpoint_every="never")
    with pytest.raises(Diverged, match="no checkpoint is stored with it"):
        go({"algorithm": {"name": "a2c", "learning_rate": 1e38}}, total_steps=1)
    for run in ("run0", "run1"):
        assert not (tmp_path / run / "policy" / "last").exists()
        assert not list((tmp_path / run).glob("checkpoints/[0-9]*"))
        assert read_json(tmp_path / run / "status.json")["state"] == "failed"


def test_a_signal_ends_the_last_evaluation_and_keeps_the_policy(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkit_core import evaluation

    def endless(policy: Any, env: Any, seeds: Any, num_episodes: int, max_steps: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the evaluation went on")

    monkeypatch.setattr(evaluation, "evaluate_policy", endless)
    result = go()
    assert (result.state, result.signal, result.steps) == ("interrupted", signal.SIGINT, 640)
    assert load_policy(result.run_dir) is not None


def test_init_from_refuses_another_network_of_the_same_shape(go: Go) -> None:
    source = go()
    other = SMALL.model_copy(update={"network": MLPConfig(hidden=(8,), activation="tanh")})
    with pytest.raises(UsageError, match="network differ"):
        go(other, init_from=source.run_dir)


def test_a_second_run_at_the_same_time_in_one_process_is_refused(go: Go) -> None:
    class Nested:
        __name__ = "nested"

        @hookimpl
        def rlkit_run_started(self, config: Any, run_dir: Path) -> None:
            with pytest.raises(UsageError, match="another run is training in this process"):
                go()

    assert go(plugins=[as_module("nested", Nested())], hooks=("nested",)).state == "finished"
    assert go().state == "finished"


def test_a_reader_that_has_gone_does_not_stop_training(tmp_path: Path) -> None:
    script = (
        "from rlkit_core.training import train; import sys\n"
        "train('a2c', env='CartPole-v1', total_steps=600, stop_at='never', tracker='none', progress='plain',"
        " episode_log_every=1, run_dir=sys.argv[1])"
    )
    reader, writer = os.pipe()
    os.close(reader)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], stdout=writer, timeout=120, check=False)
    os.close(writer)
    assert read_json(tmp_path / "run" / "status.json")["state"] == "finished"
