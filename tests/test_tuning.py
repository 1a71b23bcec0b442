"""Tuning: the search, with runs that are made up, and once with real ones that are killed; its files; its report."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlkit_core.cli.tune import conclude
from rlkit_core.errors import ResumeRefused, StorageError, UsageError
from rlkit_core.executor import Ended, Executor, Task
from rlkit_core.group import Group, make_group
from rlkit_core.presets import configure
from rlkit_core.registry import Registry
from rlkit_core.run_folder import RunFolder, read_json
from rlkit_core.search_space import space_from
from rlkit_core.tuning import FIRST_SEARCH_SEED, Plan, Search, Stopped, Study, search_seeds, tune

pytest.importorskip("optuna")

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1.0, "log": True},
    "estimator": ["discounted", "lambda"],
    "estimator.gamma": {"low": 0.5, "high": 1.0},
    "estimator@lambda.gae_lambda": {"low": 0.0, "high": 1.0},
    "network.hidden": [[8], [16], [128]],
    "collector.num_steps": {"low": 1, "high": 50},
}
EVALUATIONS = 10


def plan_of(seed: int = 0, *, seeds: int = 2, **settings: Any) -> Plan:
    registry = Registry()
    layer = {"algorithm": "a2c", "env": "CartPole-v1", "tracker": "none", "stop_at": "never", "group": "study"}
    config, _ = configure([layer, {"seed": seed, "total_steps": 1000, "eval_every": 100}], registry, None)
    return Plan(config, space_from(SPACE, "space", config, registry), search_seeds(seed, seeds), **settings)


def value_of(config: dict[str, Any]) -> float:
    """What a made-up run reaches: best at a learning rate of 0.01 and much gamma; a little by seed."""
    algorithm = config["algorithm"]
    lost = abs(math.log10(algorithm["learning_rate"]) + 2) + 2 * (1 - algorithm["estimator"]["gamma"])
    return 100 - 10 * lost + config["seed"] % 7 / 5


class MadeUp(Executor):
    """Runs that are over at once: their journals are made up.

    Args:
        ending: exit code and reason of a run, by its settings.
        steps: environment steps of a run, by its settings.
        stay: whether a run goes on for ever after its evaluations, until it is stopped.
    """

    def __init__(
        self,
        ending: Callable[[dict[str, Any]], tuple[int, str | None]] = lambda config: (0, None),
        steps: Callable[[dict[str, Any]], int] = lambda config: 1000,
        stay: bool = False,
    ) -> None:
        self.ending, self.steps, self.stay = ending, steps, stay
        self.started: list[Path] = []
        self.stopped: list[Path] = []
        self._ended: list[Ended] = []

    def start(self, task: Task) -> None:
        self.started.append(task.run_dir)
        config = read_json(task.run_dir / "task.json")["config"]
        code, error = self.ending(config)
        value = value_of(config)
        with open(task.run_dir / "metrics.jsonl", "w") as journal:

            def record(step: int, **metrics: float) -> None:
                named = {key.replace("__", "/"): number for key, number in metrics.items()}
                journal.write(json.dumps({"step": step, "time": 0, "metrics": named}) + "\n")

            for i in range(1, EVALUATIONS + 1):
                record(100 * i + 3, evaluation__return=value * i / EVALUATIONS, evaluation__nominal_step=100.0 * i)
            if code == 0:
                record(self.steps(config), final__return=value)
        if self.stay:
            return
        if code == 0:
            result = {"steps": self.steps(config), "evaluation_return": value, "seconds": 1.0}
            RunFolder(task.run_dir).write_status("finished", result=result)
        else:
            RunFolder(task.run_dir).write_status("failed")
        self._ended.append(Ended(task, code, error))

    def wait(self, seconds: float) -> Sequence[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self, task: Task) -> None:
        self.stopped.append(task.run_dir)
        self._ended.append(Ended(task, 130))

    def close(self) -> None: ...


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Make a search in a folder, whose group stays locked."""
    groups: dict[str, Group] = {}

    def call(plan: Plan, executor: Executor | None = None, *, folder: str = "study", jobs: int = 1) -> Search:
        path = tmp_path / folder
        if folder not in groups:
            groups[folder] = make_group(path, "study", (), Registry())
        return Search(Study(path, plan), groups[folder], Registry(), executor or MadeUp(), jobs=jobs)

    yield call
    for group in groups.values():
        group.release()


def do(search: Search, number: int) -> Study:
    for _ in search.trials(number):
        pass
    return search.study


def told(study: Study) -> list[dict[str, Any]]:
    return [trial.model_dump() for trial in study.trials]


def test_it_finds_something_and_begins_with_the_settings_as_they_are(make: Callable[..., Search]) -> None:
    study = do(make(plan_of()), 30)
    first, best = study.trials[0], study.best
    assert best is not None
    assert first.unchanged
    assert study.config(first, Registry()) == study.plan.config
    assert first.state == "complete"
    assert first.score is not None
    assert best.score is not None
    assert best.score > first.score + 1.5
    assert abs(math.log10(study.config(best, Registry()).algorithm.learning_rate) + 2) < 0.3
    # The score is the mean of the last policies' over the seeds.
    config = {**study.config(best, Registry()).dump()}
    assert best.scores == pytest.approx([value_of({**config, "seed": seed}) for seed in study.plan.seeds])
    assert best.score == pytest.approx(sum(best.scores) / 2)


def test_the_mean_of_the_curve_is_another_score(make: Callable[..., Search]) -> None:
    final = do(make(plan_of(), folder="final"), 1).trials[0]
    curve = do(make(plan_of(by="curve"), folder="curve"), 1).trials[0]
    assert final.score is not None
    assert curve.score == pytest.approx(0.55 * final.score)


def test_the_same_seed_gives_the_same_trials_and_another_one_others(make: Callable[..., Search]) -> None:
    one, two, other = (
        do(make(plan_of(seed), folder=folder), number)
        for seed, folder, number in ((1, "a", 12), (1, "b", 12), (2, "c", 4))
    )
    assert told(one) == told(two)
    assert one.trials[3].params != other.trials[3].params
    assert {trial.state for trial in one.trials} == {"complete", "pruned"}


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(make: Callable[..., Search], pruner: str) -> None:
    whole = do(make(plan_of(pruner=pruner), folder="whole"), 12)  # type: ignore[arg-type]

    class Killed(Exception): ...

    class Kills(MadeUp):
        left = 0

        def start(self, task: Task) -> None:
            Kills.left -= 1
            if Kills.left < 0:
                raise Killed
            super().start(task)

    for left in (0, 1, 2, 5):
        Kills.left = left
        with pytest.raises(Killed):
            do(make(plan_of(pruner=pruner), Kills(), folder="killed"), 12)  # type: ignore[arg-type]
    assert told(do(make(plan_of(pruner=pruner), folder="killed"), 12)) == told(whole)  # type: ignore[arg-type]
    assert {trial.state for trial in whole.trials} == ({"complete", "pruned"} if pruner != "none" else {"complete"})


def test_more_trials_go_on_and_done_ones_are_not_done_again(make: Callable[..., Search]) -> None:
    whole = do(make(plan_of(), folder="whole"), 12)
    do(make(plan_of()), 6)
    executor = MadeUp()
    assert told(do(make(plan_of(), executor), 12)) == told(whole)
    assert {path.parent.name for path in executor.started} == {f"trial-{number:03d}" for number in range(6, 12)}


def test_a_trial_that_is_behind_is_given_up_and_its_run_stopped(make: Callable[..., Search]) -> None:
    executor = MadeUp()
    search = make(plan_of(), executor)
    do(search, 6)
    executor.stay = True
    states: list[str] = []
    for ended in search.trials(30):
        states += [trial.state for trial in ended]
        if ended:
            break
    assert states == ["pruned"]
    [trial] = [trial for trial in search.study.trials[6:] if trial.state == "pruned"]
    # Not in the first third of the run, and not at its end.
    assert EVALUATIONS // 3 <= len(trial.curve) < EVALUATIONS
    assert trial.reason is not None
    assert "behind the others after" in trial.reason
    assert [path.parent.name for path in executor.stopped] == [f"trial-{trial.number:03d}"]


def test_what_is_known_to_the_end_is_not_given_up(make: Callable[..., Search]) -> None:
    class Late(MadeUp):
        """Nothing is to be seen before the last evaluation."""

        def start(self, task: Task) -> None:
            super().start(task)
            journal = task.run_dir / "metrics.jsonl"
            *first, last, final = [json.loads(line) for line in journal.read_text().splitlines()]
            for record in first:
                record["metrics"]["evaluation/return"] = 1.0
            journal.write_text("".join(json.dumps(record) + "\n" for record in (*first, last, final)))

    assert {trial.state for trial in do(make(plan_of(seeds=1), Late()), 10).trials} == {"complete"}
    assert "pruned" in {trial.state for trial in do(make(plan_of(seeds=2), Late(), folder="two"), 10).trials}


def test_a_trial_that_fails_is_the_worst_and_does_not_end_the_study(make: Callable[..., Search]) -> None:
    def ending(config: dict[str, Any]) -> tuple[int, str | None]:
        large = config["algorithm"]["learning_rate"] > 0.05
        return (5, "loss is nan\ntry something else") if large else (0, None)

    study = do(make(plan_of(), MadeUp(ending)), 30)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed
    assert {trial.reason for trial in failed} == {"loss is nan\ntry something else"}
    assert all(trial.score is None for trial in failed)
    # Optuna takes what was given up before it said anything for the worst of all.
    for trial in failed:
        told = study.study.get_trials()[trial.number]
        assert told.state.name == "PRUNED"
        assert not told.intermediate_values
    # It learns from that: there is less of it in the second half.
    assert sum(trial.number >= 15 for trial in failed) < sum(trial.number < 15 for trial in failed)


def test_settings_that_do_not_go_together_are_a_failed_trial(make: Callable[..., Search]) -> None:
    plan = plan_of()
    space = {
        "learning_rate": [0.003, 0.01],
        "estimator.bootstrap": [True, False],
        "estimator": ["lambda", "discounted"],
    }
    plan = Plan(plan.config, space_from(space, "space", plan.config, Registry()), plan.seeds)
    study = do(make(plan), 12)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed
    assert all("bootstrap false needs gae_lambda 1" in str(trial.reason) for trial in failed)


def test_where_nothing_but_failures_come_it_is_not_the_settings(make: Callable[..., Search]) -> None:
    with pytest.raises(UsageError, match="the first 3 trials have all failed, the last one so: no environment"):
        do(make(plan_of(), MadeUp(lambda config: (4, "no environment"))), 30)


def test_a_full_disk_is_no_trials_fault(make: Callable[..., Search]) -> None:
    full = MadeUp(lambda config: (6, "cannot write: no space left"))
    search = make(plan_of(), full)
    with pytest.raises(StorageError, match="no space left"):
        do(search, 5)
    assert [trial.state for trial in search.study.trials] == ["running"]
    assert [trial.state for trial in do(make(plan_of()), 2).trials] == ["complete", "complete"]


def test_a_run_that_somebody_interrupts_stops_the_search(make: Callable[..., Search]) -> None:
    search = make(plan_of(), MadeUp(lambda config: (130, None)))
    with pytest.raises(Stopped):
        do(search, 5)
    assert [trial.state for trial in search.study.trials] == ["running"]


def test_a_run_that_goes_far_beyond_the_budget_does_not_count(make: Callable[..., Search]) -> None:
    def steps(config: dict[str, Any]) -> int:
        return 900 + 8 * config["algorithm"]["collector"]["num_steps"]

    study = do(make(plan_of(), MadeUp(steps=steps)), 20)
    unchanged, *others = study.trials
    assert unchanged.state == "complete"
    assert unchanged.steps == 900 + 8 * 32  # what is not searched yet may: it is what others are compared with
    for trial in others:
        long = steps(study.config(trial, Registry()).dump()) > unchanged.steps
        assert (trial.state == "failed") is (long and trial.state != "pruned")
    assert any(str(trial.reason).startswith("its runs take 1,2") for trial in others)


def test_several_at_a_time_have_the_first_trial_among_them_and_no_more_than_that(make: Callable[..., Search]) -> None:
    executor = MadeUp()
    study = do(make(plan_of(), executor, jobs=3), 10)
    assert [path.parent.name for path in executor.started[:3]] == ["trial-000", "trial-001", "trial-002"]
    assert len(study.trials) == 10


def test_evaluations_that_an_update_overran_are_the_same_one(make: Callable[..., Search], tmp_path: Path) -> None:
    class Overruns(MadeUp):
        def start(self, task: Task) -> None:
            super().start(task)
            lines = [
                {"step": 130, "time": 0, "metrics": {"evaluation/return": 1.0, "evaluation/nominal_step": 100.0}},
                {"step": 470, "time": 0, "metrics": {"evaluation/return": 2.0, "evaluation/nominal_step": 200.0}},
                {"step": 1010, "time": 0, "metrics": {"evaluation/return": 3.0, "evaluation/nominal_step": 500.0}},
                {"step": 1010, "time": 0, "metrics": {"final/return": 4.0}},
                {"step": "x", "time": 0, "metrics": {"final/return": 5.0}},
                {"step": 1010, "time": 0, "metrics": {"final/return": "NaN"}},
            ]
            (task.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    trial = do(make(plan_of(seeds=1), Overruns()), 1).trials[0]
    assert trial.curve == [1, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert trial.score == 4


def test_seeds_of_a_search_are_none_that_people_type() -> None:
    seeds = search_seeds(0, 100)
    assert len(set(seeds)) == 100
    assert min(seeds) >= FIRST_SEARCH_SEED
    assert max(seeds) < 2**31
    assert seeds[:3] == search_seeds(0, 3)
    assert not set(seeds) & set(search_seeds(1, 100))


def test_another_study_in_the_folder_is_refused(make: Callable[..., Search]) -> None:
    do(make(plan_of()), 2)
    for other, what in (
        (plan_of(3), "settings.seed was 0, and is 3 now"),
        (plan_of(seeds=3), "seeds was"),
        (plan_of(pruner="none"), 'pruner was "median", and is "none" now'),
        (plan_of(by="curve"), 'by was "final"'),
    ):
        with pytest.raises(ResumeRefused) as caught:
            make(other)
        assert what in str(caught.value)
        assert "--group" in str(caught.value)


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no table": lambda study: [study],
    "another format": lambda study: {**study, "format": 2},
    "no trials": lambda study: {**study, "trials": None},
    "a trial that is none": lambda study: {**study, "trials": [3]},
    "a number twice": lambda study: {**study, "trials": [study["trials"][0]] * 2},
    "another entry": lambda study: changed(study, more=1),
    "a state of its own": lambda study: changed(study, state="waiting"),
    "complete without a score": lambda study: changed(study, score=None),
    "a score that is text": lambda study: changed(study, score="9"),
    "running with scores": lambda study: changed(study, state="running", score=None),
    "no parameters": lambda study: changed(study, params={}),
    "a parameter out of range": lambda study: changed_param(study, "learning_rate", 2.0),
    "a parameter that is text": lambda study: changed_param(study, "learning_rate", "[]"),
    "a choice that is none": lambda study: changed_param(study, "network.hidden", "[9]"),
    "a choice that is no JSON": lambda study: changed_param(study, "network.hidden", "{"),
    "half a step": lambda study: changed_param(study, "collector.num_steps", 1.5),
    "what is not searched": lambda study: changed_param(study, "entropy_coef", 1.0),
    "too many values": lambda study: changed(study, curve=[1.0] * 1000),
}


def changed(study: dict[str, Any], **entries: Any) -> dict[str, Any]:
    return {**study, "trials": [{**study["trials"][0], **entries}, *study["trials"][1:]]}


def changed_param(study: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return changed(study, params={**study["trials"][0]["params"], name: value})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_is_an_error_of_ours(damage: str, make: Callable[..., Search], tmp_path: Path) -> None:
    search = make(plan_of())
    do(search, 2)
    study = read_json(search.study.path)
    search.study.path.write_text(json.dumps(DAMAGES[damage](study)))
    with pytest.raises(StorageError, match=r"study\.json is damaged"):
        make(plan_of())


def test_nothing_of_a_study_is_unpickled(make: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*arguments: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    do(make(plan_of()), 3)
    do(make(plan_of()), 5)


# ---- the report ----


def report_of(
    executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str], trials: int = 25
) -> tuple[int, str, str]:
    """Exit code and text of a whole search in the working folder, and what it has written."""
    outcome = tune(plan_of(), Registry(), lambda: executor, trials=trials, progress_mode="none")
    code = conclude(outcome, tmp_path / "tuned.toml", Registry())
    return code, capsys.readouterr().out, (tmp_path / "tuned.toml").read_text()


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_the_report_is_of_fresh_seeds_and_compares_with_the_settings_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, written = report_of(MadeUp(), tmp_path, capsys)
    assert code == 0
    study = read_json(tmp_path / "runs" / "study" / "study.json")
    best = max(study["trials"], key=lambda trial: trial["score"] or 0)
    config = read_json(next((tmp_path / "runs" / "study-report").glob("tuned-*/*/task.json")))["config"]
    scores = [value_of({**config, "seed": seed}) for seed in range(5)]
    line = next(line for line in text.splitlines() if line.startswith("  tuned"))
    assert line == f"  tuned     {sum(scores) / 5:.1f}  ({', '.join(f'{score:.1f}' for score in scores)})"
    assert f"{best['score']:.1f}" not in line
    assert "better: " in text
    assert f"rlkit compare study/default study/tuned-{best['number']:03d}" in text
    assert f"with these settings: {sum(scores) / 5:.4g}" in written
    assert tomllib.loads(written)["algorithm"]["learning_rate"] == config["algorithm"]["learning_rate"]
    assert "tuned, 0.003 before" in written


@pytest.mark.usefixtures("_here")
def test_where_nothing_better_was_found_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Flat(MadeUp):
        def start(self, task: Task) -> None:
            super().start(task)
            journal = task.run_dir / "metrics.jsonl"
            lines = [
                {**json.loads(line), "metrics": {"final/return": 1.0}} for line in journal.read_text().splitlines()
            ]
            journal.write_text("".join(json.dumps(line) + "\n" for line in lines[-1:]))

    code, text, written = report_of(Flat(), tmp_path, capsys, trials=3)
    assert code == 0
    assert "nothing was found that is better than the settings before the search" in text
    assert "compare" not in text
    assert not list((tmp_path / "runs" / "study-report").glob("tuned-*"))
    assert "learning_rate = 0.003\n" in written


@pytest.mark.usefixtures("_here")
def test_a_report_with_a_run_that_failed_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ending(config: dict[str, Any]) -> tuple[int, str | None]:
        return (5, "diverged") if config["seed"] == 3 and config["algorithm"]["learning_rate"] != 0.003 else (0, None)

    code, text, written = report_of(MadeUp(ending), tmp_path, capsys)
    assert code == 5
    assert "cannot tell: not all runs have finished" in text
    assert "better: " not in text
    assert "fresh seeds" not in written


# ---- the command ----


SHORT = (
    *("tune", "a2c", "--env", "CartPole-v1", "--tracker", "none", "--progress", "plain"),
    *("--trials", "4", "--seeds-per-trial", "2", "--report-seeds", "1", "--total-steps", "600", "--eval-episodes", "2"),
    *("--collector.num-envs", "4", "--collector.num-steps", "8", "--network.hidden", "8", "--group", "short"),
)


def test_without_optuna_it_says_how_to_get_it(
    rlkit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = rlkit(*SHORT)
    assert code == 2
    assert "pip install 'rlkit-core[tune]'" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stop-at", "475"], "--stop-at: trials are compared at equal budgets"),
        (["--space", "space.toml", "--learning-rate", "0.1"], "space.toml: learning_rate: --learning-rate sets it"),
        (["--space", "missing.toml"], "cannot read missing.toml"),
        (["--trials", "0"], "--trials: should be a whole number, at least 1, not 0"),
        (["--pruner", "best"], "--pruner"),
        (["--output", "nowhere/tuned.toml"], "--output nowhere/tuned.toml: there is no folder nowhere"),
        (["--output", "tuned.txt"], "should end in .toml"),
        (["--by", "curve", "--eval-every", "1000000"], "--by curve: there is no evaluation within the budget"),
        (["--learning-rate", "none"], "--learning-rate: should be a valid number"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    options: list[str],
    message: str,
    rlkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text("learning_rate = [0.1, 0.2]")
    code, _, err = rlkit("tune", "a2c", "--env", "CartPole-v1", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_the_space_is_printed_and_what_options_set_is_not_in_it(rlkit: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = rlkit("tune", "a2c", "--env", "CartPole-v1", "--learning-rate", "0.1", "--print-space")
    assert code == 0
    space = tomllib.loads(out)
    assert "learning_rate" not in space
    assert space["entropy_coef"] == {"low": 1e-6, "high": 0.1, "log": True}
    assert space["estimator"]["name"] == ["discounted", "lambda"]


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", "import sys; from rlkit_core.cli import main; sys.exit(main())", *SHORT]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.thorough
def test_real_runs_killed_and_gone_on_with(
    rlkit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = tmp_path / "runs" / "short" / "study.json"
    killed = start(tmp_path)
    deadline = time.monotonic() + 120
    while not (study.exists() and '"complete"' in study.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = read_json(study)["trials"]
    assert before[0]["state"] == "complete"

    out, _ = start(tmp_path).communicate(timeout=300)
    after = read_json(study)["trials"]
    assert "4 trials in runs/short" in out
    assert f"{sum(trial['state'] == 'complete' for trial in before)} of them done before" in out
    assert after[: len(before) - 1] == before[:-1] or after[: len(before)] == before
    assert len(after) == 4
    assert after[0]["unchanged"]
    runs = [(read_json(path), path.relative_to(tmp_path / "runs").parts[0]) for path in tmp_path.rglob("config.json")]
    assert {config["seed"] for config, top in runs if top == "short"} == set(search_seeds(0, 2))
    assert {config["seed"] for config, top in runs if top == "short-report"} == {0}
    assert {config["group"] for config, _ in runs} >= {"short/trial-000", "short/default"}
    assert {config["stop_at"] for config, _ in runs} == {"never"}

    # Some of its runs were given up: they are not to be gone on with.
    code, _, err = rlkit("resume", study.parent)
    assert code == 2
    assert "holds a search for settings" in err

    # The result is a config file: the tuned settings, and where they come from.
    monkeypatch.chdir(tmp_path)
    code, printed, _ = rlkit("run", "a2c", "--config", "tuned.toml", "--print-config", "json")
    assert code == 0
    best = max((trial for trial in after if trial["score"] is not None), key=lambda trial: trial["score"])
    side = "default" if best["unchanged"] else f"tuned-{best['number']:03d}"
    [run] = (tmp_path / "runs" / "short-report" / side).glob("*/config.json")
    assert json.loads(printed)["algorithm"] == read_json(run)["algorithm"]
    text = (tmp_path / "tuned.toml").read_text()
    assert text.startswith("# a2c on CartPole-v1, tuned by rlkit")
    # What is printed is the report's score, not the one that the trial was chosen for.
    [score] = [line for line in out.splitlines() if line.startswith("  before")]
    default = next((tmp_path / "runs" / "short-report" / "default").glob("*/status.json"))
    assert f"{read_json(default)['result']['evaluation_return']:.1f}" in score
