"""Runs made again from their record: what counts as the same, where the first difference is, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlkit_core import train
from rlkit_core.errors import Diverged, PluginError, ReproductionRefused, RlkitError, UsageError
from rlkit_core.reproduction import Deviation, Reproduction, reproduce
from rlkit_core.run_folder import read_json
from rlkit_core.training import Result, _Recorder, resume

GONE = 2**22 + 1
"""A pid that no process has."""


def short(run_dir: Path, **settings: Any) -> Result:
    algorithm = {"name": "a2c", "collector": {"num_envs": 2, "num_steps": 5}, "network": {"hidden": [4]}}
    algorithm |= settings.pop("algorithm", {})
    budget = {"total_steps": 250, "stop_at": "never", "eval_episodes": 1, "eval_max_steps": 20, "log_every": 10}
    return train(
        {"algorithm": algorithm},
        **{"env": "CartPole-v1", "run_dir": run_dir, "preset": "none", "tracker": "none", "progress": "none"},
        **{**budget, "eval_every": 50, "checkpoint_every": "never", **settings},
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return short(tmp_path_factory.mktemp("original") / "one", group="mine").run_dir


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that may be changed."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(original, "one"))


def again(run: Path, **more: Any) -> Reproduction:
    return reproduce(run, progress="none", **more)


def change(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file; None takes one out."""
    data = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def change_records(run: Path, action: Callable[[list[dict[str, Any]]], object]) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    action(records)
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_run_comes_out_the_same_bit_by_bit(run: Path) -> None:
    found = again(run)
    assert (found.verdict, found.first, found.largest, found.ended) == ("bit-equal", None, None, None)
    assert found.weights == "the policy's weights are the same, bit by bit"
    assert found.numbers > 100
    assert found.made_with == ()
    assert found.run_dir == Path("runs/one-reproduced")
    config, about = (read_json(found.run_dir / f"{name}.json") for name in ("config", "provenance"))
    assert (config["tracker"]["name"], config["group"]) == ("none", "reproduced/mine")
    assert about["reproduces"] == read_json(run / "provenance.json")["run_id"]
    # The reproduction is a run like any other.
    assert again(found.run_dir, run_dir="twice").verdict == "bit-equal"


def test_the_command(rlkit: Callable[..., tuple[int, str, str]], run: Path) -> None:
    change(run / "provenance.json", versions={"torch": "1.0"})
    code, out, err = rlkit("reproduce", "one", "--progress", "none")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("bit-equal: all ")
    assert any(line.startswith("made with other: torch: 1.0 then, ") for line in lines)
    assert lines[-1] == "run folder  runs/one-reproduced"
    change(run / "config.json", seed=5)
    code, out, err = rlkit("reproduce", "one", "--json", "--run-dir", "new")
    assert (code, err) == (1, "")
    assert json.loads(out)["verdict"] == "different"
    assert rlkit("reproduce", "nowhere")[0] == 2
    assert rlkit("reproduce", "one", "--run-dir", "new")[0] == 2


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1 + 1e-9, "within tolerance"), (1 + 1e-3, "different"), (float("nan"), "different")]
)
def test_the_first_number_that_is_other_is_named(factor: float, verdict: str, run: Path) -> None:
    changed: dict[str, Any] = {}

    def spoil(records: list[dict[str, Any]]) -> None:
        with_loss = [record for record in records if "learner/loss" in record["metrics"]]
        for record in with_loss[3:]:
            changed.setdefault("step", record["step"])
            changed.setdefault("value", record["metrics"]["learner/loss"])
            record["metrics"]["learner/loss"] *= factor

    change_records(run, spoil)
    found = again(run)
    assert found.verdict == verdict
    assert found.first is not None
    assert (found.first.what, found.first.step, found.first.now) == ("learner/loss", *changed.values())
    assert found.largest is not None
    assert found.largest.relative >= found.first.relative
    assert again(run, tolerance=1.0).verdict == ("different" if factor != factor else "within tolerance")


def test_what_is_missing_or_too_much_is_different(run: Path) -> None:
    change_records(run, lambda records: records[2]["metrics"].pop("learner/loss"))
    found = again(run)
    assert (found.verdict, found.first is not None and found.first.then) == ("different", None)
    change_records(run, lambda records: records[0]["metrics"].update(more=1.0))
    first = again(run).first
    assert first is not None
    assert (first.what, first.now, first.relative) == ("more", None, float("inf"))
    assert str(Deviation("x/y", 4000, 1.5, None)) == "x/y at step 4,000: 1.5 then, none now"


def test_other_weights_are_different(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "policy")
    other = short(tmp_path / "other", seed=7)
    shutil.copytree(other.run_dir / "policy", run / "policy")
    found = again(run)
    assert (found.verdict, found.first) == ("different", None)
    assert "of the policy's weights are other" in found.weights
    assert found.largest is not None
    assert found.largest.what.startswith("weight ")


def test_another_end_is_different(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    change(run / "status.json", result={**status["result"], "reached": "greedy return 500.0"})
    found = again(run)
    assert (found.verdict, found.ended) == ("different", "reached: greedy return 500.0 then, None now")


@pytest.mark.parametrize("state", ["killed", "running"])
def test_a_run_that_was_killed_is_made_again_as_far_as_it_came(state: str, run: Path) -> None:
    shutil.rmtree(run / "policy" / "last")
    change(run / "status.json", state=state, pid=GONE, result=None)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:20]) + lines[20][:10])
    found = again(run)
    assert (found.verdict, found.weights) == ("bit-equal", "it left no policy to compare")
    assert found.steps == json.loads(lines[19])["step"]
    assert read_json(found.run_dir / "status.json")["result"]["steps"] < 250


def test_a_run_that_was_interrupted_and_one_that_then_went_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    add, updates = _Recorder.add, 0

    def interrupting(self: _Recorder, metrics: Mapping[str, Any], rollout: Any) -> dict[str, float]:
        nonlocal updates
        updates += 1
        if updates == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return add(self, metrics, rollout)

    monkeypatch.setattr(_Recorder, "add", interrupting)
    # At step 70 or so, after the last record: what the new run leaves at its end is not compared.
    assert short(Path("run"), checkpoint_every=10, log_every=40).state == "interrupted"
    found = again(Path("run"))
    assert (found.verdict, found.weights) == ("bit-equal", "the policy's weights are the same, bit by bit")
    assert found.steps < read_json(found.run_dir / "status.json")["result"]["steps"] <= 70
    assert resume("run", progress="none").state == "finished"
    assert again(Path("run")).verdict == "bit-equal"


def test_a_run_that_diverged_diverges_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Diverged):
        short(Path("run"), algorithm={"learning_rate": 1e30, "max_grad_norm": None}, total_steps=2_000)
    found = again(Path("run"))
    assert (found.verdict, found.ended) == ("bit-equal", None)
    change(Path("run/status.json"), state="finished")
    ended = again(Path("run")).ended
    assert ended is not None
    assert ended.startswith("it fails now: ")


@pytest.mark.parametrize(
    ("file", "entries", "reason"),
    [
        (
            "provenance",
            {"resume_exact": False, "resumes": [{"reason": "other than before: torch"}]},
            "other than before",
        ),
        ("provenance", {"resumes": [{"exact": True, "total_steps": 1000}]}, "it was given more steps"),
        ("provenance", {"init_from": "/not/there"}, "it began with the policy of /not/there, which is not there"),
        ("status", {"state": "running"}, "it is still running"),
    ],
)
def test_what_cannot_be_made_again_is_refused(
    file: str, entries: dict[str, Any], reason: str, run: Path, rlkit: Callable[..., tuple[int, str, str]]
) -> None:
    change(run / f"{file}.json", **entries)
    with pytest.raises(ReproductionRefused, match=reason) as refused:
        again(run)
    assert len(str(refused.value).splitlines()) == 2
    assert not Path("runs").exists()
    assert rlkit("reproduce", "one")[0] == 7


def test_what_is_not_there_is_said(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ReproductionRefused, match="it left no records"):
        again(run)
    change(run / "config.json", requires={"their-plugin": "1.2"})
    with pytest.raises(PluginError, match=r"needs their-plugin 1\.2"):
        again(run)
    change(run / "config.json", requires=None, imports=["not_there_at_all"])
    with pytest.raises(UsageError, match="cannot import not_there_at_all"):
        again(run)
    assert not Path("runs").exists()


@pytest.mark.parametrize("file", ["config.json", "provenance.json", "status.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[1]", b"[" * 10_000, b'{"state": "\\ud800"}', b"{}"),
        b'{"state": "failed", "result": 5, "resumes": 5, "plugins": 5, "versions": [1], "machine": 1, "init_from": []}',
        b'{"plugins": [{"a": 1}], "preset": {}, "run_id": [], "resumes": [5], "resume_exact": null}',
        b'{"step": [], "metrics": {}}\n{"step": 1, "time": 1, "metrics": {"a": "x", "b": 1e999, "c": %s}}\n'
        % (b"9" * 400),
    ],
)
def test_damaged_records_give_an_error_of_ours_or_a_verdict(file: str, content: bytes, run: Path) -> None:
    (run / file).write_bytes(content)
    with contextlib.suppress(RlkitError):
        assert again(run).verdict in ("bit-equal", "different")
