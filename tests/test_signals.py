"""Signals at any moment of the real command: it ends soon, with the signal's code, and the run can be gone on with."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlkit_core.checkpoint import Checkpoints
from rlkit_core.cli.root import execute
from rlkit_core.run_folder import read_journal, read_json
from rlkit_core.training import resume

RLKIT = str(Path(sys.executable).with_name("rlkit"))
SETTINGS = (
    *("--env", "CartPole-v1", "--stop-at", "never", "--total-steps", "1200", "--eval-every", "300"),
    *("--eval-episodes", "5", "--checkpoint-every", "200", "--tracker", "none", "--progress", "none"),
    *("--hooks", "rlkit_test_moments"),
)
ALGORITHMS = {
    "a2c": ("--collector.num-steps", "16"),
    "ppo": ("--collector.num-steps", "32", "--collector.num-envs", "4"),
    "dqn": (),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SOON = 10.0
"""Seconds in which a process ends after a signal."""

MOMENTS = """
    import functools, os, signal, threading, time
    import rlkit_core.checkpoint, rlkit_core.evaluation
    from rlkit_core.hookspecs import hookimpl

    moment, _, number = os.environ.get("SIGNAL_AT", "").partition(":")

    def send_soon():
        threading.Timer(float(os.environ["SIGNAL_AFTER"]), os.kill, (os.getpid(), int(number))).start()

    def sending(original, which):
        calls = iter(range(1, 1000))

        @functools.wraps(original)
        def call(*arguments, **options):
            if next(calls) == which:
                send_soon()
                time.sleep(float(os.environ["SIGNAL_AFTER"]) / 2)
            return original(*arguments, **options)

        return call

    if moment == "checkpoint":
        rlkit_core.checkpoint.Checkpoints.save = sending(rlkit_core.checkpoint.Checkpoints.save, 2)
    if moment == "evaluation":
        rlkit_core.evaluation.evaluate_policy = sending(rlkit_core.evaluation.evaluate_policy, 2)
    if moment == "final evaluation":
        rlkit_core.evaluation.evaluate_policy = sending(rlkit_core.evaluation.evaluate_policy, 5)

    sent = []

    @hookimpl
    def rlkit_iteration_finished(step, metrics):
        if moment == "update" and step >= 500 and not sent:
            sent.append(step)
            send_soon()
            time.sleep(float(os.environ["SIGNAL_AFTER"]))
        if moment == "endless update":
            open("endless", "w")
            time.sleep(60)
"""
"""A hook that sends its process a signal at a certain moment, where it is told to."""


@pytest.fixture(scope="module", autouse=True)
def _moments(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("moments")
    (folder / "rlkit_test_moments.py").write_text(textwrap.dedent(MOMENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield
        sys.modules.pop("rlkit_test_moments", None)


@functools.cache
def undisturbed(algorithm: str) -> Any:
    """What the run comes to without a signal."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        assert execute(["run", algorithm, *SETTINGS, *ALGORITHMS[algorithm], "--run-dir", str(run_dir)]) == 0
        return outcome(run_dir)


def outcome(run_dir: Path) -> Any:
    """The last policy, and the journal without the clock."""
    records = [
        (record["step"], {name: x for name, x in record["metrics"].items() if not name.startswith("time/")})
        for _, record in read_journal(run_dir / "metrics.jsonl")
    ]
    return (run_dir / "policy" / "last" / "policy.safetensors").read_bytes(), records


def start(folder: Path, algorithm: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [RLKIT, "run", algorithm, *SETTINGS, *ALGORITHMS[algorithm], "--run-dir", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environ},
        # A shell starts what runs in its background with SIGINT ignored, and that is inherited: also by these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_end(started: subprocess.Popen[str], number: int, folder: Path, algorithm: str) -> str:
    """It has ended as it should, and comes to the same end when it is resumed; returns what it was broken off in."""
    out, err = started.communicate(timeout=SOON)
    code, run_dir = started.returncode, folder / "run"
    if not (run_dir / "config.json").exists():  # Python itself may not have been ready
        assert code in (128 + number, -number), (out, err)
        return "start-up"
    assert "Traceback" not in err, err
    assert "Exception ignored" not in err, err
    status = read_json(run_dir / "status.json") if (run_dir / "status.json").exists() else {}
    if status.get("state") == "finished":  # too late to change anything
        assert code in (0, 128 + number, -number), (out, err)
        assert outcome(run_dir) == undisturbed(algorithm)
        return "end"
    assert code == 128 + number, (out, err)
    assert status.get("state") in ("interrupted", None)
    begun = "stopping after this update" in err
    steps = Checkpoints(run_dir / "checkpoints").steps()
    assert not list(run_dir.glob("checkpoints/**/*.tmp"))
    if begun:
        assert "go on       rlkit resume run" in out
        assert steps[-1] == status["result"]["steps"]
    result = resume(run_dir, progress="none")
    assert result.state == "finished"
    assert outcome(run_dir) == undisturbed(algorithm)
    assert read_json(run_dir / "provenance.json")["resume_exact"] is True
    return "training" if begun else "start-up"


@pytest.mark.parametrize(
    ("algorithm", "number", "moment"),
    [
        ("dqn", signal.SIGTERM, "update"),
        pytest.param("a2c", signal.SIGINT, "checkpoint", marks=pytest.mark.thorough),
        pytest.param("ppo", signal.SIGTERM, "evaluation", marks=pytest.mark.thorough),
        ("dqn", signal.SIGINT, "final evaluation"),
    ],
)
def test_a_signal_in_the_midst_of_something(tmp_path: Path, algorithm: str, number: int, moment: str) -> None:
    after = f"{random.uniform(0.001, 0.02):.4f}"
    started = start(tmp_path, algorithm, SIGNAL_AT=f"{moment}:{int(number)}", SIGNAL_AFTER=after)
    wait_for(lambda: started.poll() is not None)
    ended = check_end(started, number, tmp_path, algorithm)
    if ended == "end":  # on a quick machine the last evaluation may be over before the signal comes
        assert moment == "final evaluation"
        return
    assert ended == "training"
    stopped_at = read_json(tmp_path / "run" / "provenance.json")["resumes"][0]["step"]
    assert {"update": 500, "checkpoint": 400, "evaluation": 600, "final evaluation": 1200}[moment] <= stopped_at


@pytest.mark.parametrize(("algorithm", "number", "moment"), [
    ("a2c", signal.SIGTERM, "imports"), ("ppo", signal.SIGINT, "preparations"),
])  # fmt: skip
def test_a_signal_before_training_begins(tmp_path: Path, algorithm: str, number: int, moment: str) -> None:
    started = start(tmp_path, algorithm)
    if moment == "preparations":
        wait_for((tmp_path / "run" / "status.json").exists)
        time.sleep(random.uniform(0, 0.2))
    else:
        time.sleep(random.uniform(0, 1))
    started.send_signal(number)
    check_end(started, number, tmp_path, algorithm)


@pytest.mark.parametrize(
    "numbers", [pytest.param(SIGNALS, marks=pytest.mark.long), SIGNALS[::-1]], ids=["SIGINT first", "SIGTERM first"]
)
def test_a_second_signal_forces_out_with_the_code_of_the_first(tmp_path: Path, numbers: tuple[int, int]) -> None:
    started = start(tmp_path, "a2c", SIGNAL_AT="endless update:0")
    wait_for((tmp_path / "endless").exists)
    started.send_signal(numbers[0])
    assert started.stderr is not None
    assert started.stderr.readline() == "\n"
    name = signal.Signals(numbers[0]).name
    assert started.stderr.readline() == f"{name}: stopping after this update; once more stops at once\n"
    assert started.poll() is None
    started.send_signal(numbers[1])
    _, err = started.communicate(timeout=SOON)
    assert started.returncode == 128 + numbers[0]
    assert "Traceback" not in err
    assert read_json(tmp_path / "run" / "status.json")["state"] == "interrupted"
    assert read_json(tmp_path / "run" / "error.json")["exit_code"] == 128 + numbers[0]
    assert resume(tmp_path / "run", progress="none").state == "finished"
    assert outcome(tmp_path / "run") == undisturbed("a2c")


@functools.cache
def seconds(algorithm: str) -> float:
    """How long the command takes, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        started = start(Path(folder), algorithm)
        assert started.communicate()[0]
        assert started.returncode == 0
        return time.monotonic() - began


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100))
def test_a_signal_at_any_moment(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    algorithm, number = rng.choice([*ALGORITHMS]), rng.choice(SIGNALS)
    moment = rng.uniform(0, 1.05) * seconds(algorithm)
    started = start(tmp_path, algorithm)
    time.sleep(moment)
    started.send_signal(number)
    print(algorithm, signal.Signals(number).name, moment, check_end(started, number, tmp_path, algorithm))


def test_a_signal_that_nobody_can_catch_is_not_lost(tmp_path: Path) -> None:
    """What a handler raises while Python forks, or in a finaliser, is only printed; the run ends all the same."""
    (tmp_path / "sends.py").write_text(
        "import os, signal\nos.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
    )
    command = [
        RLKIT,
        "run",
        "a2c",
        *SETTINGS[:-2],
        "--total-steps",
        "100000000",
        "--run-dir",
        "run",
        "--import",
        "sends",
    ]
    command += ["--env.vectorization", "async", "--collector.num-envs", "1"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Exception ignored in" in ended.stderr
    assert ended.returncode == 143, ended.stderr
    assert read_json(tmp_path / "run" / "status.json")["state"] == "interrupted"
