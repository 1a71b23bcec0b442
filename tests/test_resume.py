"""Resuming: a run that was broken off comes to the same bits as one that was not, and says so where it cannot."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from resume_cases import all_that_decides, assert_equal, journal, resume_exact

from rlkit_core import training
from rlkit_core.checkpoint import Checkpoints
from rlkit_core.errors import ResumeRefused, RunInUse, StorageError, UsageError
from rlkit_core.hookspecs import hookimpl
from rlkit_core.run_folder import RunFolder, read_json, write_json
from rlkit_core.testing import probes
from rlkit_core.training import Result, resume, train


class Killed(BaseException):
    """Stands for a kill: nothing of the run's own comes after it."""


class Killer:
    """A run hook that breaks the run off after a number of updates."""

    def __init__(self) -> None:
        self.after: int | None = None

    @hookimpl
    def rlkit_iteration_finished(self, step: int, metrics: Any) -> None:
        if self.after is not None:
            self.after -= 1
            if self.after <= 0:
                raise Killed


class Runs:
    """Trains in a folder of the test's, with or without being broken off."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killer = Killer()
        module = ModuleType("killer")
        vars(module)["rlkit_iteration_finished"] = self.killer.rlkit_iteration_finished
        monkeypatch.setitem(sys.modules, "killer", module)
        monkeypatch.setattr(training, "CONFIRMATIONS", (4, 8))  # the last evaluation takes no time
        self.tmp_path = tmp_path
        self.common: dict[str, Any] = {
            "stop_at": "never",
            "tracker": "none",
            "progress": "none",
            "hooks": ("killer",),
            "eval_episodes": 2,
            "eval_max_steps": 20,
        }

    def whole(self, algorithm: Any, name: str = "whole", **settings: Any) -> Path:
        """Never broken off."""
        self.killer.after = None
        return train({"algorithm": algorithm}, run_dir=self.tmp_path / name, **{**self.common, **settings}).run_dir

    def broken(self, algorithm: Any, *after: int, name: str = "broken", **settings: Any) -> Path:
        """Broken off after so many updates, then again after so many more; not ended."""
        run_dir = self.tmp_path / name
        for i, updates in enumerate(after):
            self.killer.after = updates
            with contextlib.suppress(Killed):
                if i == 0:
                    train({"algorithm": algorithm}, run_dir=run_dir, **{**self.common, **settings})
                else:
                    self.resume(run_dir)
                pytest.fail("it came to its end")
        self.killer.after = None
        return run_dir

    def resume(self, run_dir: Path, **more: Any) -> Result:
        return resume(run_dir, progress="none", **more)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


SMALL = {"network": {"hidden": (8,)}}
A2C = {"name": "a2c", **SMALL, "collector": {"num_envs": 3, "num_steps": 16}}
PPO = {"name": "ppo", **SMALL, "collector": {"num_envs": 2, "num_steps": 32}, "minibatch_size": 32, "epochs": 2}
DQN = {"name": "dqn", **SMALL, "warmup_steps": 64, "batch_size": 16, "replay_size": 300}
SAC = {"name": "sac", **SMALL, "warmup_steps": 64, "batch_size": 16, "replay_size": 10_000}
TD3 = {"name": "td3", **SMALL, "warmup_steps": 64, "batch_size": 16}


def gym(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, **more}


SYNC = {"vectorization": "sync"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "a2c native": (A2C, gym("CartPole-v1"), 3000),
    "a2c sync": (A2C, gym("CartPole-v1", **SYNC), 2000),
    "a2c sync next_step": (A2C, gym("CartPole-v1", **SYNC, autoreset="next_step"), 2000),
    "a2c sync same_step": (A2C, gym("CartPole-v1", **SYNC, autoreset="same_step"), 2000),
    "a2c async": (A2C, gym("CartPole-v1", vectorization="async"), 2000),
    "a2c async next_step": (A2C, gym("CartPole-v1", vectorization="async", autoreset="next_step"), 2000),
    "a2c schedules": ({**A2C, "learning_rate_schedule": "linear"}, gym("resume/Walk-v0", **SYNC), 1500),
    "a2c generator in the environment": (A2C, gym("resume/Walk-v0", **SYNC, autoreset="same_step"), 2000),
    "a2c native of its own": (A2C, gym("resume/Walk-v0"), 2000),
    "a2c state of its own": (A2C, gym("resume/OwnState-v0"), 2000),
    "a2c generators of the process": (A2C, gym("resume/GlobalNoise-v0"), 1500),
    # So short that at each checkpoint some lanes have ended and wait for their reset.
    "a2c short episodes": (A2C, gym("CartPole-v1", max_episode_steps=2), 1500),
    "a2c short episodes sync": (A2C, gym("resume/Walk-v0", **SYNC, autoreset="next_step", max_episode_steps=2), 1500),
    "a2c normalising wrappers": (
        A2C,
        gym("Pendulum-v1", wrappers=("NormalizeObservation", "NormalizeReward", "FrameStackObservation:stack_size=2")),
        2000,
    ),
    "a2c normalising wrappers of MuJoCo": (
        A2C,
        gym("Hopper-v5", wrappers=("NormalizeObservation", "NormalizeReward")),
        1500,
    ),
    "ppo lander": (PPO, gym("LunarLander-v3"), 2000),
    "ppo statistics": ({**PPO, "normalize_observations": True, "clip_schedule": "linear"}, gym("Pendulum-v1"), 2000),
    "ppo state of the policy": ({**PPO, "exploration": {"name": "gsde"}}, gym("Pendulum-v1"), 2000),
    "ppo MuJoCo": (PPO, gym("Hopper-v5"), 1500),
    "ppo Atari": ({**PPO, "collector": {"num_envs": 1, "num_steps": 32}}, gym("ALE/Breakout-v5", **SYNC), 400),
    "ppo memory and mask": (
        {**PPO, "network": {"name": "lstm", "hidden_size": 8}, "policy": "masked"},
        gym(probes.MaskedRecall.id, kwargs={"delay": 6}),
        1500,
    ),
    "a2c memory and mask next_step": (
        {**A2C, "network": {"name": "gru", "hidden_size": 8}, "policy": "masked"},
        gym(probes.MaskedRecall.id, kwargs={"delay": 6}, autoreset="next_step"),
        1500,
    ),
    "ppo memory and state of the exploration": (
        {**PPO, "network": {"name": "lstm", "hidden_size": 8}, "exploration": "gsde", "normalize_observations": True},
        gym("Pendulum-v1"),
        1500,
    ),
    "dqn": (DQN, gym("CartPole-v1"), 800),
    "dqn prioritized": (
        {**DQN, "prioritized": True, "n_step": 3, "learning_rate_schedule": "linear", "collector": {"num_envs": 2}},
        gym("CartPole-v1", **SYNC),
        900,
    ),
    "sac": (SAC, gym("Pendulum-v1"), 400),
    "sac native": (SAC, gym("resume/Walk-v0", kwargs={"continuous": True}), 400),
    "td3 noise with memory": ({**TD3, "exploration": "ou"}, gym("Pendulum-v1"), 400),
    "reinforce": ({"name": "reinforce", **SMALL}, gym("CartPole-v1"), 1500),
    "reinforce memory": ({"name": "reinforce", "network": "lstm"}, gym("CartPole-v1"), 1000),
    "reinforce sync": ({"name": "reinforce", **SMALL}, gym("CartPole-v1", **SYNC, autoreset="same_step"), 1500),
}


ORDINARY = {
    *("a2c native", "a2c sync", "a2c async", "a2c normalising wrappers"),
    *("ppo state of the policy", "ppo MuJoCo", "ppo memory and mask"),
    *("dqn prioritized", "sac", "reinforce"),
}
"""Each way of going on at least once; the other cases are further combinations of them."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in ORDINARY else pytest.mark.thorough) for case in CASES]
)
def test_a_resumed_run_comes_to_the_same_bits(case: str, runs: Runs) -> None:
    algorithm, env, total_steps = CASES[case]
    settings = {
        "env": env,
        "total_steps": total_steps,
        "checkpoint_every": total_steps // 13,
        "eval_every": total_steps // 4,
    }
    if env["id"].startswith("ALE/"):
        settings |= {"imports": ("ale_py",), "eval_every": total_steps, "eval_max_steps": 1}
    whole = runs.whole(algorithm, **settings)
    updates = read_json(whole / "status.json")["result"]["updates"]
    broken = runs.broken(algorithm, updates // 4, updates // 3, updates // 3, **settings)
    assert runs.resume(broken).state == "finished"
    assert_equal(all_that_decides(whole), all_that_decides(broken))
    assert resume_exact(broken)
    assert len(read_json(broken / "provenance.json")["resumes"]) == 3


# ---- what the record says ----


def test_what_was_recorded_already_is_not_recorded_twice(runs: Runs) -> None:
    settings = {"env": "CartPole-v1", "total_steps": 2000, "checkpoint_every": 700, "log_every": 50}
    whole = runs.whole(A2C, **settings)
    broken = runs.broken(A2C, 25, **settings)  # well behind its checkpoint
    before = journal(broken)
    text = (broken / "metrics.jsonl").read_bytes()
    [step] = Checkpoints(broken / "checkpoints").steps()
    assert before[-1][0] > step
    runs.resume(broken)
    assert (broken / "metrics.jsonl").read_bytes().startswith(text)
    assert journal(broken) == journal(whole)


def test_without_a_checkpoint_it_starts_over_and_says_so(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"env": "CartPole-v1", "total_steps": 2000, "checkpoint_every": 1500, "log_every": 50}
    whole = runs.whole(A2C, **settings)
    broken = runs.broken(A2C, 10, **settings)
    assert not Checkpoints(broken / "checkpoints").steps()
    result = resume(broken, progress="plain")
    assert "there is no checkpoint yet: starting over" in "".join(capfd.readouterr())
    assert result.steps == read_json(whole / "status.json")["result"]["steps"]
    assert_equal(all_that_decides(whole), all_that_decides(broken))


def test_a_finished_run_is_left_alone(runs: Runs) -> None:
    whole = runs.whole(A2C, env="CartPole-v1", total_steps=500)
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    result = runs.resume(whole)
    assert (result.state, result.steps) == ("finished", read_json(whole / "status.json")["result"]["steps"])
    assert result.run_dir == whole
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_finished_run_goes_on_with_more_steps(runs: Runs) -> None:
    """To what it would have been with that budget, where nothing depends on the budget."""
    settings = {"env": "CartPole-v1", "checkpoint_every": 300, "eval_every": 400, "log_every": 100}
    longer = runs.whole(A2C, name="longer", **settings, total_steps=1500)
    extended = runs.whole(A2C, **settings, total_steps=800)
    result = runs.resume(extended, total_steps=1500)
    assert result.state == "finished"
    assert read_json(extended / "config.json")["total_steps"] == 1500
    one, other = all_that_decides(longer), all_that_decides(extended)
    for found in (one, other):  # the evaluation at its first end counts as one, and the averages begin there
        for name in list(found):
            if name.startswith("/recorder") or name in ("journal", "result", "/counters/num_evaluations"):
                del found[name]
    assert {k: v for k, v in one.items() if "evaluation" not in k and "best" not in k} == {
        k: v for k, v in other.items() if "evaluation" not in k and "best" not in k
    }
    with pytest.raises(UsageError, match="steps already"):
        runs.resume(extended, total_steps=1500)


def test_another_budget_in_the_middle_is_recorded(runs: Runs) -> None:
    broken = runs.broken(A2C, 20, env="CartPole-v1", total_steps=2000, checkpoint_every=300)
    run_id = read_json(broken / "provenance.json")["run_id"]
    runs.resume(broken, total_steps=1500)
    about = read_json(broken / "provenance.json")
    assert about["resume_exact"] is False
    assert about["resumes"][-1]["reason"] == "total_steps is 1,500 now"
    assert about["resumed_from"] == run_id != about["run_id"]


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (gym("resume/KeepsCount-v0"), "environment 0 does not come back: its episode, played again, gives other obs"),
        (gym("resume/Silent-v0"), "they do not tell their state"),
    ],
)
def test_what_cannot_be_exact_says_so_and_starts_fresh_episodes(
    env: Any, reason: str, runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"env": env, "total_steps": 1200, "checkpoint_every": 200, "log_every": 48}
    broken = runs.broken(A2C, 20, **settings)
    records = journal(broken)
    step = Checkpoints(broken / "checkpoints").steps()[-1]
    assert resume(broken, progress="plain").state == "finished"
    said = "".join(capfd.readouterr())
    assert f"going on from step {step:,}, not exactly: fresh episodes, because {reason}" in said
    about = read_json(broken / "provenance.json")
    assert about["resume_exact"] is False
    assert about["resumes"][-1]["reason"].startswith(reason)
    # What was recorded behind the checkpoint is not this run's any more, and is kept.
    now = journal(broken)
    kept = [record for record in records if record[0] <= step]
    assert now[: len(kept)] == kept
    steps = [step for step, _ in now]
    assert steps == sorted(steps)
    aside = (broken / "metrics.aside.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside] == [record[0] for record in records[len(kept) :]]


def test_an_episode_too_long_to_repeat_starts_afresh(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkit_core.builtin import steps_collector

    monkeypatch.setattr(steps_collector, "LONGEST_EPISODE", 40)
    env = gym("Pendulum-v1")  # 200 steps each
    broken = runs.broken(A2C, 11, env=env, total_steps=1200, checkpoint_every=400)
    runs.resume(broken)
    about = read_json(broken / "provenance.json")
    assert about["resumes"][-1]["reason"] == "environment 0 is 144 steps into its episode, too many to repeat"


def test_records_that_come_out_other_than_before_are_found_out(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    broken = runs.broken(A2C, 25, env="CartPole-v1", total_steps=2000, checkpoint_every=700, log_every=50)
    path = broken / "metrics.jsonl"
    lines = path.read_text().splitlines()
    [step] = Checkpoints(broken / "checkpoints").steps()
    changed = next(i for i, line in enumerate(lines) if json.loads(line)["step"] > step + 100)
    record = json.loads(lines[changed])
    name = next(key for key in record["metrics"] if key.startswith("learner/"))
    record["metrics"][name] += 1.0
    lines[changed] = json.dumps(record, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    resume(broken, progress="plain")
    reason = f"from step {record['step']:,} on its records are not those that were made before it was interrupted"
    assert f"not resumed exactly: {reason}" in "".join(capfd.readouterr())
    assert read_json(broken / "provenance.json")["resumes"][-1]["reason"] == reason
    assert not resume_exact(broken)


def test_a_failure_before_is_kept_under_another_name(runs: Runs) -> None:
    broken = runs.broken(A2C, 12, 12, env="CartPole-v1", total_steps=2000, checkpoint_every=300)
    assert (broken / "error.json").exists()
    runs.resume(broken)
    assert sorted(path.name for path in broken.glob("error*.json")) == ["error-1.json", "error-2.json"]
    assert "error" not in read_json(broken / "status.json")


# ---- refused ----


def test_a_damaged_checkpoint_names_the_one_before(runs: Runs) -> None:
    broken = runs.broken(A2C, 30, env="CartPole-v1", total_steps=2000, checkpoint_every=300)
    older, newer = Checkpoints(broken / "checkpoints").steps()
    tensors = broken / "checkpoints" / str(newer) / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        runs.resume(broken)
    assert str(tensors) in str(caught.value)
    assert f"the one of step {older} is good: rlkit resume {broken} --checkpoint {older}" in str(caught.value)
    with pytest.raises(UsageError, match=f"no checkpoint of step 1\nit has: {older}, {newer}"):
        runs.resume(broken, checkpoint=1)
    whole = runs.whole(A2C, env="CartPole-v1", total_steps=2000, checkpoint_every=300)
    runs.resume(broken, checkpoint=older)
    assert_equal(all_that_decides(whole), all_that_decides(broken))
    shutil.rmtree(broken / "checkpoints")
    write_json(broken / "status.json", {**read_json(broken / "status.json"), "state": "interrupted"})
    runs.resume(broken)
    assert_equal(all_that_decides(whole), all_that_decides(broken))


def test_a_run_that_is_in_use_is_left_to_whom_it_belongs(runs: Runs) -> None:
    broken = runs.broken(A2C, 5, env="CartPole-v1", total_steps=2000)
    folder = RunFolder.open(broken)
    folder.take()
    try:
        with pytest.raises(RunInUse, match="is in use by process"):
            runs.resume(broken)
    finally:
        folder.release()


def setting(**changes: Any) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def drift(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = read_json(run_dir / "config.json")
        for name, value in changes.items():
            *slots, last = name.split("__")
            part = config
            for slot in slots:
                part = part[slot]
            assert part[last] != value
            part[last] = value
        write_json(run_dir / "config.json", config)

    return drift


def other(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def drift(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = training.provenance

        def changed(*args: Any, **kwargs: Any) -> Any:
            about = now(*args, **kwargs)
            change(about)
            return about

        monkeypatch.setattr(training, "provenance", changed)

    return drift


DRIFTS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], str]] = {
    "seed": (setting(seed=5), "setting seed"),
    "learning rate": (setting(algorithm__learning_rate=0.5), "setting algorithm.learning_rate"),
    "environment": (setting(env__max_episode_steps=77), "setting env.max_episode_steps"),
    "threads": (setting(threads=2), "setting threads"),
    "number of environments": (setting(algorithm__collector__num_steps=99), "setting algorithm.collector.num_steps"),
    "torch": (other(lambda about: about["versions"].update(torch="1.0")), "torch"),
    "gymnasium": (other(lambda about: about["versions"].update(gymnasium="0.1")), "gymnasium"),
    "core": (other(lambda about: about.update(core_files_sha256="0" * 64)), "files of rlkit_core"),
    "version of the plugin": (other(lambda about: about["plugins"][0].update(version="9")), "plugin rlkit_a2c"),
    "files of the plugin": (
        other(lambda about: about["plugins"][0].update(files_sha256="0" * 64)),
        "files of plugin rlkit_a2c",
    ),
    "imported module": (other(lambda about: about.update(modules={"mine": "0" * 64})), "files of module mine"),
    "processor": (other(lambda about: about["machine"].update(processor="abacus")), "machine: processor"),
    "instructions": (other(lambda about: about["machine"].update(instructions="none")), "machine: instructions"),
}


ORDINARY_DRIFTS = {"seed", "learning rate", "torch", "files of the plugin", "processor"}
"""One of each sort."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ORDINARY_DRIFTS else pytest.mark.thorough) for name in DRIFTS]
)
def test_drift_is_named_and_refused(name: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    drift, what = DRIFTS[name]
    broken = runs.broken(A2C, 8, env=gym("CartPole-v1", **SYNC), total_steps=800, checkpoint_every=200)
    before = (broken / "metrics.jsonl").read_bytes()
    drift(broken, monkeypatch)
    with pytest.raises(ResumeRefused) as caught:
        runs.resume(broken)
    assert caught.value.exit_code == 7
    assert what in str(caught.value)
    assert [(d[0], d[3]) for d in caught.value.differences] == [(what, True)]
    assert (broken / "metrics.jsonl").read_bytes() == before
    assert runs.resume(broken, allow_drift=True).state == "finished"
    about = read_json(broken / "provenance.json")
    assert about["resume_exact"] is False
    assert about["resumes"][-1]["reason"] == f"other than before: {what}"
    assert [difference[0] for difference in about["resumes"][-1]["differences"]] == [what]


def test_what_changes_no_result_is_recorded_only(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = runs.broken(A2C, 8, env="CartPole-v1", total_steps=800, checkpoint_every=200)
    setting(group="others", keep_checkpoints=1)(broken, monkeypatch)
    other(lambda about: about["versions"].update(mlflow="9"))(broken, monkeypatch)
    runs.resume(broken)
    entry = read_json(broken / "provenance.json")["resumes"][-1]
    assert entry["exact"] is True
    assert {what for what, *_ in entry["differences"]} == {
        "setting group",
        "setting keep_checkpoints",
        "mlflow",
    }
    assert len(Checkpoints(broken / "checkpoints").steps()) == 1


def test_a_part_that_does_not_fit_is_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = runs.broken(A2C, 8, env="CartPole-v1", total_steps=800, checkpoint_every=200)
    setting(algorithm__network__hidden=[9])(broken, monkeypatch)
    with pytest.raises(StorageError, match="does not fit the run's settings: policy"):
        runs.resume(broken, allow_drift=True)
