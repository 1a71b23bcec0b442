"""Checks of trackers: each is sent a small run in a folder of its own."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rlkit_core.errors import UsageError
from rlkit_core.run_folder import RunFolder, write_json
from rlkit_core.testing.checks import CheckSkipped, Subject, check, fail, reason, relies_on
from rlkit_core.tracking import Record, TrackedRun, Tracker

RECORDS: list[Record] = [
    {"step": step, "time": 1_700_000_000_000 + step, "metrics": {"rollout/return": 1.5 * step, "learner/loss": -0.1}}
    for step in (100, 200, 300)
]
END = 1_700_000_001_000
STATES = ("finished", "interrupted", "failed", "killed")


@contextmanager
def _run(subject: Subject) -> Iterator[TrackedRun]:
    """A run in a folder of its own; stores that the environment names are left alone."""
    if not type(subject.config).active:
        raise CheckSkipped("it sends nothing")
    # Some stores go on writing for a moment.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("MLFLOW_") and "TELEMETRY" not in name]:
            del os.environ[name]
        path = Path(folder) / "run"
        path.mkdir()
        config = {
            "algorithm": {"name": "test"},
            "env": {"name": "gymnasium", "id": "Test-v0"},
            "seed": 0,
            "tracker": {"name": subject.config.name},
        }
        provenance = {"run_name": "run", "cwd": folder}
        run_folder = RunFolder(path)
        write_json(run_folder.config_path, config)
        write_json(run_folder.provenance_path, provenance)
        yield TrackedRun(run_folder, config, provenance, {})


@check("tracker")
def builds_a_tracker(subject: Subject) -> None:
    """`build` gives a Tracker, or says in a UsageError what is missing; one that is not active is never built."""
    if not type(subject.config).active:
        raise CheckSkipped("it sends nothing")
    try:
        tracker = subject.config.build()
    except UsageError as error:
        raise CheckSkipped(str(error)) from error
    if not isinstance(tracker, Tracker):
        fail(f"build gave a {type(tracker).__name__}", "return an rlkit_core.Tracker")


@dataclass(frozen=True)
class _Sent:
    """What sending a run has left: the tracker's notes before and after a second start, and the records."""

    first_ids: dict[str, Any]
    second_ids: dict[str, Any]
    records: list[Record]


def _send(subject: Subject) -> _Sent:
    """Send a run, go on with another tracker as after a failure, and end it in each way that there is."""
    with _run(subject) as run:
        try:
            tracker = subject.config.build()
        except UsageError as error:
            raise CheckSkipped(str(error)) from error
        if not isinstance(tracker, Tracker):
            raise CheckSkipped(f"build gave a {type(tracker).__name__}", "builds_a_tracker")
        records = copy.deepcopy(RECORDS)
        tracker.start(run)
        tracker.log(records)
        first_ids = dict(run.ids)
        tracker = subject.config.build()
        tracker.start(run)
        tracker.log(copy.deepcopy(RECORDS[-1:]))  # records may come twice
        second_ids = dict(run.ids)
        file = run.folder.path / "policy.json"
        file.write_text("{}", encoding="utf-8")
        tracker.artifact(file, "policy.json")
        for number, state in enumerate(STATES):
            if number:
                tracker.start(run)
            tracker.finish(state, END)
    return _Sent(first_ids, second_ids, records)


def _sent(subject: Subject) -> _Sent:
    with relies_on("takes_a_run"):
        found: _Sent = subject.once("sent", lambda: _send(subject))
    return found


@check("tracker")
def takes_a_run(subject: Subject) -> None:
    """A run is started, gets records and a file, is started again, and ends, in each way that there is."""
    try:
        subject.once("sent", lambda: _send(subject))
    except CheckSkipped:
        raise
    except Exception as error:
        fail(f"sending a run raised {reason(error)}", "see Tracker: start, log, artifact, finish")


@check("tracker")
def ids_are_texts(subject: Subject) -> None:
    """What it notes in `run.ids` is texts by name: they are stored as JSON."""
    for key, value in _sent(subject).first_ids.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            fail(f"run.ids has {key!r}: {value!r}"[:200], "note texts: str(...)")


@check("tracker")
def starts_again_where_it_was(subject: Subject) -> None:
    """Started again after a failure it finds the run by `run.ids` and begins no second one."""
    sent = _sent(subject)
    if sent.second_ids != sent.first_ids:
        fail(
            f"started again it has noted {sent.second_ids}, before {sent.first_ids}"[:300],
            "look into run.ids first, and take that run",
        )


@check("tracker")
def records_are_left_alone(subject: Subject) -> None:
    """Records are not changed: what could not be sent is sent again."""
    if _sent(subject).records != RECORDS:
        fail("log has changed the records", "work on a copy of what is given")


@check("tracker")
def tells_where_the_run_is(subject: Subject) -> None:
    """`where` is a command that shows the run, or None; it is asked for before anything has been sent."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer = subject.config.where(Path(folder), {})
        except Exception as error:
            fail(f"where raised {reason(error)}", "answer for a run of which nothing is known, or with None")
    if answer is not None and (not isinstance(answer, str) or not answer.strip() or "\n" in answer):
        fail(f"where gave {answer!r}", "give a command in one line, or None")
