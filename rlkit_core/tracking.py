"""Tracking: a process of its own follows a run's journal and sends it to the tracker.

Training only starts that process (`TrackingProcess`) and never imports, waits for or dies with what a tracker uses.
A pipe from the parent tells the process when training has ended, also by kill -9; it then sends the rest, the files
and how the run ended. What could not be sent is sent by `sync` later. `tracking.json` in the run folder says how far
the tracker has come:

    {"tracker": "mlflow", "offset": 8412, "state": "pending", "error": null, "ids": {"uri": …, "run_id": …}}

`offset` is the byte of the journal up to which records were sent; `state` is `ok` once everything, the run's end
included, has been sent; `ids` is the tracker's own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlkit_core.errors import RlkitError, RunInUse, StorageError, UsageError
from rlkit_core.group_folder import (
    ASIDE,
    GroupRecord,
    group_above,
    is_group,
    open_group,
    read_group,
    run_folder_of,
    runs_set_aside,
)
from rlkit_core.registry import files_given, given_files
from rlkit_core.run_folder import RunFolder, check_regular, read_journal, read_json, write_json

Record = dict[str, Any]
"""A record of the journal: `step` in environment steps, `time` in milliseconds since 1970, `metrics` by name."""

POLL = 0.2
"""Seconds between two looks into the journal."""
BATCH = 1000
"""Metrics per call of `Tracker.log`, about."""
AFTER_END = 60.0
"""Seconds for which the process goes on trying after training has ended."""
GROUP_POLL = 1.0
"""Seconds between two looks at the runs of a group: each call of a tracker takes its time from those that compute."""
LONGEST_PAUSE = 30.0
"""Seconds between two tries, at most."""


@dataclass(frozen=True)
class TrackedGroup:
    """What a tracker is told about a group of runs.

    Attributes:
        folder: of the group, with a status as a run's.
        record: content of `group.json`.
    """

    folder: RunFolder
    record: GroupRecord


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run.

    Attributes:
        folder: the run folder.
        config: content of `config.json`.
        provenance: content of `provenance.json`.
        ids: the tracker's own notes (which store, which run there); what it writes here is given to it again after a
            restart. A change of it during `start` means a new run in the store, which is sent from the beginning.
        group: what the run was started with others in, or None.
    """

    folder: RunFolder
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    group: TrackedGroup | None = None

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.provenance.get("run_name") or self.folder.path.name)

    @property
    def is_set_aside(self) -> bool:
        """Whether it failed, and another run of its group has taken its place."""
        return self.group is not None and self.folder.path.parent.name == ASIDE

    @property
    def cwd(self) -> Path:
        """The working folder that training was started in."""
        return Path(str(self.provenance.get("cwd") or Path.cwd()))

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return _part(self.config, "algorithm", "name")

    @property
    def environment(self) -> str:
        """Id of the environment."""
        return _part(self.config, "env", "id")


def _part(config: dict[str, Any], slot: str, key: str) -> str:
    part = config.get(slot)
    return str(part.get(key, "")) if isinstance(part, dict) else ""


class Tracker(ABC):
    """Where a run's record is sent. Lives in the tracking process; may be slow, fail and raise.

    Whatever a method raises is shown to the user in one line and the call is tried again later, after a new `start`;
    a `UsageError` is not tried again. Records may come twice, after a failure: they carry their own time.
    """

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """Begin the run in the store, or find it again by `run.ids`. Called again after a failure."""

    @abstractmethod
    def log(self, records: list[Record]) -> None:
        """Send records; on return they are stored."""

    def artifact(self, path: Path, name: str) -> None:
        """Send a file of the run; `name` is its path inside the run folder, with slashes."""
        return

    @abstractmethod
    def finish(self, state: str, time: int) -> None:
        """Say how the run ended.

        Args:
            state: finished, interrupted, failed or killed.
            time: when, in milliseconds since 1970.
        """

    def finish_group(self, group: TrackedGroup, state: str, time: int) -> None:
        """Say how a group of runs ended; called after `start` for one of its runs of each environment.

        Args:
            group: which; its runs are told of it by `TrackedRun.group`.
            state: finished, interrupted, failed or killed.
            time: when, in milliseconds since 1970.
        """
        return


def numbers(records: list[Record]) -> Iterator[tuple[str, float, int, int]]:
    """All metrics of some records as `(name, value, step, time in ms)`."""
    for record in records:
        for name, value in record["metrics"].items():
            yield name, float(value), record["step"], record["time"]


def _readable(record: Record) -> Record | None:
    """The record with what is a number in it, or None: a damaged journal must not stop the run's tracking."""
    step, when, metrics = record["step"], record["time"], record["metrics"]
    if type(step) is not int or type(when) is not int or not 0 <= when < 2**63 or abs(step) >= 2**63:
        return None
    if not isinstance(metrics, dict):
        return None
    kept = {k: v for k, v in metrics.items() if isinstance(v, float) or (type(v) is int and abs(v) < 10**300)}
    return {"step": step, "time": when, "metrics": kept}


def _build(config: dict[str, Any]) -> Tracker | None:
    """The tracker that a run's config names, or None where it names one that does nothing."""
    from rlkit_core.component import TrackerConfig
    from rlkit_core.registry import Registry

    settings = config.get("tracker")
    settings = {"name": settings} if isinstance(settings, str) else dict(settings or {"name": "none"})
    name = str(settings.pop("name", "none"))
    component = Registry().get("tracker", name)
    try:
        tracker = component.model_validate(settings)
    except ValueError as error:
        raise UsageError(f"settings of the tracker {name} do not fit: {' '.join(str(error).split())}") from error
    assert isinstance(tracker, TrackerConfig)
    return tracker.build() if tracker.active else None


class Feed:
    """Sends a run's record to its tracker and remembers in `tracking.json` how far it got.

    Every method makes one try and raises what went wrong, having stored it.

    Args:
        folder: the run folder.
        build: makes the tracker from the run's config; None: the one that the config names.
    """

    def __init__(self, folder: RunFolder, build: Callable[[dict[str, Any]], Tracker | None] | None = None) -> None:
        config = read_json(folder.config_path)
        if not isinstance(config, dict):
            raise StorageError(f"{folder.config_path} is damaged: it holds no settings")
        self.folder = folder
        self._build = build or _build
        self._tracker: Tracker | None = None
        self._started = False
        self.idle = False
        """True if the run has no tracker to be fed."""
        self.state = read_tracking(folder)
        self.state["tracker"] = _part(config, "tracker", "name") or str(config.get("tracker", ""))
        self.state["state"] = "pending"
        about = _provenance(folder)
        above = group_above(folder.path, about.get("parent"))
        group = None if above is None else TrackedGroup(RunFolder(above[0]), above[1])
        self._run = TrackedRun(folder, config, about, self.state["ids"], group)

    @property
    def store(self) -> str:
        """Where the record goes, for people."""
        return store_of(self.state)

    def send(self) -> int:
        """Send what the journal holds and has not been sent; returns how many records that was."""
        with self._noting_errors():
            return self._send()

    def close(self, state: str) -> int:
        """Send the rest, the files and how the run ended; returns how many records were sent."""
        with self._noting_errors():
            sent = self._send()
            if self._tracker is not None:
                for path, name in _files(self.folder):
                    self._tracker.artifact(path, name)
                self._tracker.finish(state, _end_time(self.folder, state))
            self.state["state"] = "ok"
            self._save()
            return sent

    def finish_group(self, state: str) -> None:
        """Say how the group of the run ended, after `close`."""
        if self._tracker is not None and self._run.group is not None:
            group = self._run.group
            try:
                if not self._started:
                    self._tracker.start(self._run)
                    self._started = True
                self._tracker.finish_group(group, state, _end_time(group.folder, state))
            except Exception:
                self._started = False
                raise

    def _send(self) -> int:
        if self._tracker is None and not self.idle:
            self._tracker = self._build(self._run.config)
            self.idle = self._tracker is None
        if self._tracker is None:
            return 0
        if not self._started:
            known = dict(self._run.ids)
            self._tracker.start(self._run)
            self._started = True
            if self._run.ids != known:
                self.state["offset"] = 0
            self._save()
        sent = 0
        while batch := self._next_batch():
            offset, records = batch
            if records:
                self._tracker.log(records)
            self.state["offset"] = offset
            self._save()
            sent += len(records)
        return sent

    def _next_batch(self) -> tuple[int, list[Record]] | None:
        """Records to send in one call and the offset after them, or None where there are no more."""
        records: list[Record] = []
        size, end = 0, None
        for offset, record in read_journal(self.folder.journal_path, self.state["offset"]):
            readable = _readable(record)
            if readable is not None:
                size += len(readable["metrics"])
                if records and size > BATCH:
                    break
                records.append(readable)
            end = offset
        return None if end is None else (end, records)

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # The tracker is asked to start again: it finds out by itself what is still there.
            self._started = False
            self.state["error"] = one_line(error)
            with contextlib.suppress(StorageError):
                self._save()
            raise
        if self.state["error"] is not None:
            self.state["error"] = None
            self._save()

    def _save(self) -> None:
        write_json(self.folder.tracking_path, self.state)


def read_tracking(folder: RunFolder) -> dict[str, Any]:
    """Content of `tracking.json`; what is missing or damaged is as at the beginning: sending twice does no harm."""
    try:
        data = read_json(folder.tracking_path)
    except StorageError:
        data = {}
    data = data if isinstance(data, dict) else {}
    offset, ids, error = data.get("offset"), data.get("ids"), data.get("error")
    size = folder.journal_path.stat().st_size if folder.journal_path.exists() else 0
    return {
        "tracker": str(data.get("tracker", "")),
        "offset": offset if type(offset) is int and 0 <= offset <= size else 0,
        "state": "ok" if data.get("state") == "ok" else "pending",
        "error": None if error is None else str(error),
        "ids": {str(k): str(v) for k, v in ids.items()} if isinstance(ids, dict) else {},
    }


def store_of(state: dict[str, Any]) -> str:
    """Where a record goes, for people: from the content of `tracking.json`."""
    uri = state["ids"].get("uri")
    return f"{state['tracker']} at {uri}" if uri else f"tracker {state['tracker']}"


def one_line(error: BaseException) -> str:
    """An error's text for people: its first line, of bounded length."""
    text = str(error).strip().split("\n")[0].strip() or type(error).__name__
    if not isinstance(error, (RlkitError, ConnectionError, TimeoutError)):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else text[:299] + "…"


def _provenance(folder: RunFolder) -> dict[str, Any]:
    try:
        data = read_json(folder.provenance_path)
    except StorageError:
        return {}
    return data if isinstance(data, dict) else {}


def _files(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Files of a run that a tracker is given, each with its path inside the run folder."""
    top = folder.path.resolve()
    policies = [
        path
        for which in ("last", "best")
        for path in sorted(folder.policy_path(which).rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder.path).parts)
    ]
    for path in [folder.config_path, folder.provenance_path, folder.path / "error.json", *policies]:
        # A link out of the run folder would send a file that is not the run's.
        if path.is_file() and path.resolve().is_relative_to(top):
            yield path, path.relative_to(folder.path).as_posix()


def _end_time(folder: RunFolder, state: str) -> int:
    """When the run ended, in ms: when it said so, or when a killed one was last heard of."""
    path = folder.journal_path if state == "killed" and folder.journal_path.exists() else folder.status_path
    return int(path.stat().st_mtime * 1000)


def _tracking_lock(folder: RunFolder) -> FileLock:
    """Held by whoever feeds the run: two at once would send in a disorder that no offset describes."""
    return FileLock(folder.path / ".tracking.lock")


@contextlib.contextmanager
def _alone(folder: RunFolder, timeout: float) -> Iterator[None]:
    """With the tracking lock; raises RunInUse where it cannot be had within so many seconds."""
    lock = _tracking_lock(folder)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise RunInUse(
            f"the record of {folder.path} is being sent at this moment\nits tracking process ends at most "
            f"{AFTER_END:.0f} s after training; try again then"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot write {folder.path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


# ---- the process ----


class _Parent:
    """The training process, seen from the tracking process."""

    def __init__(self, fd: int, pid: int) -> None:
        self._fd = fd
        self.pid = pid

    def ended(self, seconds: float) -> bool:
        """Wait so long for the parent's end: it closed the pipe, or is gone.

        Both are looked at: processes that the parent forked, such as workers of its environments, hold the pipe open.
        """
        ready, _, _ = select.select([self._fd], [], [], max(0.0, seconds))
        return bool(ready) or self.gone()

    def gone(self) -> bool:
        """Whether the parent's process has ended."""
        return os.getppid() != self.pid


class _TakenOver(Exception):
    """The run has been resumed by another process, which has a tracking process of its own."""


def _final_state(folder: RunFolder, parent: _Parent) -> str | None:
    """How the run ended, marking it killed if its process is gone without a word; None if it has not said so yet.

    Raises:
        _TakenOver: somebody trains in the folder again.
    """
    began = time.monotonic()
    while True:
        gone = parent.gone()
        status = _status(folder)
        state = status.get("state", "running")
        if state != "running":
            return str(state)
        if _is_anothers(status, parent):
            raise _TakenOver
        if gone:
            # With the lock that its process had: nobody goes on with the run in the meantime.
            try:
                folder.take()
            except RunInUse:
                # Somebody is about to go on with it, and says so soon; or has to leave it as it is, and lets go.
                if time.monotonic() > began + AFTER_END:
                    raise _TakenOver from None
            else:
                try:
                    if _is_anothers(_status(folder), parent):
                        raise _TakenOver
                    folder.mark_killed()
                finally:
                    folder.release()
                return "killed"
        elif time.monotonic() > began + 5.0:
            return None
        # The pipe closes a moment before the process is gone.
        time.sleep(0.05)


def _status(folder: RunFolder) -> dict[str, Any]:
    try:
        return folder.status()
    except StorageError:
        return {}


def _is_anothers(status: dict[str, Any], parent: _Parent) -> bool:
    """Whether another process has gone on with the run."""
    return status.get("pid") not in (None, parent.pid)


class _Retry:
    """One try at a time, with growing pauses after failures."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._next = 0.0
        self._last_error = ""
        self.hopeless = False
        """True after an error that trying again does not mend."""
        self.local = False
        """True if the last error came from this machine's files, which nobody mends within a minute."""

    def due(self) -> bool:
        """Whether it is time for another try."""
        return not self.hopeless and time.monotonic() >= self._next

    def call(self, action: Callable[[], object]) -> bool:
        """Try; True if it worked. An error goes to the log, once."""
        try:
            action()
        except Exception as error:
            if one_line(error) != self._last_error:
                self._last_error = one_line(error)
                print(time.strftime("%Y-%m-%d %H:%M:%S"), file=sys.stderr)
                traceback.print_exc()
            self.local = isinstance(error, StorageError)
            self.hopeless = isinstance(error, RlkitError) and not self.local
            self._pause = min(max(2 * self._pause, 0.5), LONGEST_PAUSE)
            self._next = time.monotonic() + self._pause
            return False
        self._pause = 0.0
        return True

    def hurry(self) -> None:
        """Forget the pause: there is not much time left."""
        self._pause = self._next = 0.0


def follow(feed: Feed, parent: _Parent) -> bool:
    """Send the journal as it grows until training ends, then all the rest; True if everything was sent."""
    retry = _Retry()
    while not parent.ended(POLL):
        if retry.due() and not feed.idle:
            retry.call(feed.send)
        if not feed.folder.config_path.exists():
            return False  # the run folder was deleted: there is nothing left to send
    deadline = time.monotonic() + AFTER_END
    try:
        state = _final_state(feed.folder, parent)
    except _TakenOver:
        return False
    retry.hurry()
    while not retry.hopeless:
        if retry.call((lambda: feed.close(state)) if state is not None else feed.send):
            return state is not None
        if retry.local or time.monotonic() > deadline:
            break
        while not (retry.hopeless or retry.due()):
            if _is_anothers(_status(feed.folder), parent):
                return False  # the tracking process of the resumed run waits for us
            time.sleep(0.05)
    return False


class _Member:
    """A run of a group, seen from the group's tracking process.

    Its record is sent from when its status says that its journal is ready: until then it may still be decided that
    what comes is to be a new run of the tracker.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.feed: Feed | None = None
        self.retry = _Retry()
        self.state = ""
        """How it stands, once it is followed."""
        self.done = False
        """Whether everything of it has been sent, as far as it was computed now."""
        self._lock = _tracking_lock(folder)
        self._seen = self._changed()
        if self._is_computed():
            self._seen = 0  # it was faster than this process

    def _is_computed(self) -> bool:
        try:
            return self.folder.status().get("state") == "running" and not self.folder.is_orphaned()
        except StorageError:
            return False

    def _changed(self) -> int:
        try:
            return self.folder.status_path.stat().st_mtime_ns
        except OSError:
            return 0

    def look(self) -> None:
        """Take it up if it has begun now, and send what there is."""
        changed = self._changed()
        if changed != self._seen:
            status = _status(self.folder)
            if status.get("journal") == "ready" and self._take_up():
                self._seen, self.state, self.done = changed, str(status.get("state")), False
        if self.feed is None or self.done or not self.retry.due():
            return
        if self.state == "running":
            if self._has_been_killed():
                self.state = "killed"
            elif not self.feed.idle:
                self.retry.call(self.feed.send)
        if self.state != "running":
            self.close()

    def _take_up(self) -> bool:
        if self.feed is None or self.done:
            if not self._lock.is_locked:
                try:
                    self._lock.acquire(timeout=0.0)
                except (Timeout, OSError):
                    return False  # another one is still sending
            try:
                self.feed = Feed(self.folder)
            except StorageError:
                return False  # it is gone, or being made
        return True

    def _has_been_killed(self) -> bool:
        try:
            if not self.folder.is_orphaned():
                return False
            # With the lock that its process had: nobody goes on with the run in the meantime.
            self.folder.take()
            try:
                if not self.folder.is_orphaned():
                    return False
                self.folder.mark_killed()
                return True
            finally:
                self.folder.release()
        except RlkitError:
            return False

    def close(self) -> None:
        """Try to send all the rest, and how it ended."""
        feed, state = self.feed, self.state
        assert feed is not None
        if self.retry.call(lambda: feed.close(state)):
            self.done = True
            self._lock.release()

    def close_at_last(self) -> None:
        """As `close`, after the group has ended: also what was not sent in earlier times."""
        self.look()
        if self.done or self.retry.hopeless or not self.retry.due():
            return
        if self.feed is None:
            state = _status(self.folder).get("state")
            if not self.folder.config_path.exists() or not self._pending() or not self._take_up():
                self.done = not self.folder.config_path.exists() or not self._pending()
                return
            self.state = str(state)
        if self.state != "running":
            self.close()

    def _pending(self) -> bool:
        return str(read_tracking(self.folder)["state"]) != "ok"


class _Members:
    """All runs of a group, as its tracking process sees them; more may be planned meanwhile."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._read = 0
        self._by_folder = {f"{ASIDE}/{run.path.name}": _Member(run) for run in runs_set_aside(folder.path)}
        self.environments: dict[str, list[_Member]] = {}

    def all(self) -> list[_Member]:
        """Every run that is planned."""
        with contextlib.suppress(OSError, StorageError):
            changed = (self._folder.path / "group.json").stat().st_mtime_ns
            if changed != self._read:
                for planned in read_group(self._folder.path).planned:
                    if planned.run_dir not in self._by_folder:
                        member = _Member(run_folder_of(self._folder.path, planned))
                        self._by_folder[planned.run_dir] = member
                        self.environments.setdefault(planned.environment, []).append(member)
                self._read = changed
        return list(self._by_folder.values())


def follow_group(folder: RunFolder, parent: _Parent) -> bool:
    """Send the journals of a group's runs as they grow, and how each ended, and the group; True if all was sent."""
    members = _Members(folder)
    state = {**read_tracking(folder), "state": "pending", "error": None}
    write_json(folder.tracking_path, state)
    while not parent.ended(GROUP_POLL):
        for member in members.all():
            member.look()
        _note(folder, state, members)
        if not (folder.path / "group.json").exists():
            return False  # the folder was deleted: there is nothing left to send
    deadline = time.monotonic() + AFTER_END
    for member in members.all():
        member.retry.hurry()
    ends = _Retry()
    while time.monotonic() < deadline:
        if _is_anothers(_status(folder), parent):
            return False  # the tracking process of the group that goes on waits for us
        for member in members.all():
            member.close_at_last()
        _note(folder, state, members)
        if all(member.done or member.retry.hopeless for member in members.all()):
            try:
                ended = _final_state(folder, parent)
            except _TakenOver:
                return False
            if ended is None or ends.hopeless:
                return False
            if ends.due() and ends.call(partial(_finish_group, members, ended)):
                complete = all(member.done for member in members.all())
                _note(folder, state, members, "ok" if complete else "pending")
                return complete
        time.sleep(0.05)
    return False


def _finish_group(members: _Members, state: str) -> None:
    """Say how the group ended, wherever one of its runs is."""
    for environment in members.environments.values():
        there = [member for member in environment if member.folder.config_path.exists()]
        for member in [one for one in there if one.feed is not None and one.done][:1] or there[:1]:
            feed = member.feed
            if feed is None:
                feed = Feed(member.folder)
                with _alone(member.folder, timeout=1.0):
                    feed.close(str(_status(member.folder).get("state")))
            feed.finish_group(state)


def _note(folder: RunFolder, state: dict[str, Any], members: _Members, sent: str = "pending") -> None:
    """Keep in the group's own `tracking.json` where its runs are sent, and what is wrong."""
    now = {**state, "state": sent, "error": None}
    for member in members.all():
        if member.feed is not None:
            now["tracker"] = member.feed.state["tracker"]
            now["ids"] = {key: value for key, value in member.feed.state["ids"].items() if key == "uri"}
            if not member.done and member.feed.state["error"] is not None:
                now["error"] = member.feed.state["error"]
    if now != state:
        state.update(now)
        with contextlib.suppress(StorageError):
            write_json(folder.tracking_path, state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow a run's journal, or those of a group, for the process that started this one; 0 if everything was sent."""
    parser = argparse.ArgumentParser(prog="python -m rlkit_core.tracking")
    parser.add_argument("run_dir", type=Path, help="folder of a run, or of a group of runs")
    parser.add_argument("--parent-fd", type=int, default=0, help="reading end of a pipe that the parent holds open")
    parser.add_argument("--parent-pid", type=int, default=os.getppid(), help="the parent, to see that it is gone")
    parser.add_argument("--plugin", action="append", default=[], help="a Python file that is a plugin")
    options = parser.parse_args(arguments)
    # Ctrl-C in the terminal, and a SIGTERM to a whole job, are for training: how it ends is what we are here to send.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    group = is_group(options.run_dir)
    folder = RunFolder(options.run_dir) if group else RunFolder.open(options.run_dir)
    parent = _Parent(options.parent_fd, options.parent_pid)
    try:
        with _tracking_lock(folder), given_files(options.plugin):
            return 0 if (follow_group(folder, parent) if group else follow(Feed(folder), parent)) else 1
    except Exception as error:
        # A fault of ours, or a run folder that cannot be read or written: the user is told at the end of training.
        write_json(folder.tracking_path, {**read_tracking(folder), "state": "pending", "error": one_line(error)})
        raise


class TrackingProcess:
    """The tracking process of a run or of a group, seen from training.

    Nothing here raises: tracking must not harm training.
    """

    def __init__(self, run_dir: Path, process: subprocess.Popen[bytes] | None, problem: str | None) -> None:
        self._run_dir = run_dir
        self._process = process
        self._problem = problem

    @classmethod
    def start(cls, run_dir: Path) -> TrackingProcess:
        """Start it for a run folder that holds `config.json` and `provenance.json`, or for a group's folder.

        It costs a few milliseconds.
        """
        # -P: a file `json.py` in the working folder is not meant.
        command = [sys.executable, "-P", "-m", "rlkit_core.tracking", str(run_dir.absolute())]
        command += ["--parent-fd", "0", "--parent-pid", str(os.getpid())]
        command += [f"--plugin={os.path.abspath(path)}" for path in files_given()]
        try:
            check_regular(run_dir / "tracking.log", link=False)
        except StorageError as error:
            return cls(run_dir, None, str(error))
        try:
            with open(run_dir / "tracking.log", "ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, bufsize=0
                )
        except OSError as error:
            return cls(run_dir, None, f"the tracking process cannot be started: {error.strerror or error}")
        return cls(run_dir, process, None)

    def finish(self, timeout: float = 10.0) -> str | None:
        """Let the process send the rest, after `status.json` says how the run ended.

        Args:
            timeout: how long to wait for it, in seconds; it goes on for a minute by itself.

        Returns:
            None if everything was sent, else what to tell the user, in two lines.
        """
        late = False
        if self._process is not None:
            assert self._process.stdin is not None
            # A byte, not only the closing: a forked child of ours may hold its copy of the pipe open.
            with contextlib.suppress(OSError):
                self._process.stdin.write(b".")
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                code = self._process.wait(timeout)
                if code == 0:
                    return None
                if code < 0:
                    self._problem = f"the tracking process was ended by signal {-code}"
            except subprocess.TimeoutExpired:
                late = True
        state = read_tracking(RunFolder(self._run_dir))
        where = store_of(state) if state["tracker"] else "the tracker"
        reason = self._problem or state["error"]
        if late and reason is not None and self._process is not None:
            # The store is away: `rlkit sync`, which is about to be named, must not find this process in its way.
            self._process.kill()  # nothing less: it ignores other signals, and what it was sending is sent again
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # its lock goes with it
        if late and reason is None:
            return (
                f"the record is still being sent to {where}, for a minute at most\n"
                f"send what is missing then with: rlkit sync {self._run_dir}"
            )
        reason = reason or f"see {self._run_dir / 'tracking.log'}"
        return f"not everything was sent to {where}: {reason}\nsend the rest with: rlkit sync {self._run_dir}"


# ---- later ----


def let_tracking_end(folder: RunFolder) -> None:
    """Wait a while for the tracking process of a group that was computed a moment ago; after that it gives way."""
    with contextlib.suppress(RunInUse), _alone(folder, timeout=10.0):
        pass


def set_aside(folder: RunFolder, target: Path) -> None:
    """Move the folder of a failed run to where those are that have been done again.

    Raises:
        RunInUse: its record is still being sent.
        StorageError: it cannot be moved.
    """
    with _alone(folder, timeout=15.0):
        if folder.tracking_path.exists():
            write_json(folder.tracking_path, {**read_tracking(folder), "state": "pending"})  # that it is aside
        try:
            os.rename(folder.path, target)
        except OSError as error:
            raise StorageError(f"cannot set {folder.path} aside: {error.strerror or error}") from error


def begin_anew(folder: RunFolder) -> None:
    """Let the record of a run that goes on other than it was be sent to a new run of the tracker, from the beginning.

    Raises:
        RunInUse: its tracking process is still at work.
        StorageError: `tracking.json` cannot be written.
    """
    with _alone(folder, timeout=10.0):
        state = read_tracking(folder)
        ids = {key: state["ids"][key] for key in ("uri", "experiment") if key in state["ids"]}
        if "run_id" in state["ids"]:
            ids["resumed_from"] = state["ids"]["run_id"]
        write_json(folder.tracking_path, {**state, "offset": 0, "state": "pending", "ids": ids})


def sync(run_dir: Path | str, build: Callable[[dict[str, Any]], Tracker | None] | None = None) -> str:
    """Send what has not been sent of a run that has ended; doing it again changes nothing.

    A run that says it is running but whose process is gone is marked killed first.

    Args:
        run_dir: the run folder.
        build: makes the tracker from the run's config; None: the one that the config names.

    Returns:
        What was done, in a line.

    Raises:
        UsageError: there is no run, or it is still running.
        RunInUse: its tracking process is still at work.
        StorageError: the store cannot be reached.
    """
    if is_group(Path(run_dir)):
        return _sync_group(Path(run_dir), build)
    folder = RunFolder.open(run_dir)
    with _alone(folder, timeout=1.0):
        if folder.is_orphaned():
            folder.mark_killed()
        status = folder.status()
        state = status.get("state", "running")
        if state == "running":
            who = f"process {status.get('pid', '?')} on {status.get('host', socket.gethostname())}"
            raise UsageError(f"{run_dir} is still running ({who})\nsync it when it has ended, on that machine")
        feed = Feed(folder, build)
        with _saying_where(run_dir, feed):
            sent = feed.close(str(state))
    if feed.idle:
        return f"{run_dir} has no tracker: there is nothing to send"
    return f"{_sent(sent)}; {feed.store} shows the run as {state}"


@contextlib.contextmanager
def _saying_where(what: Path | str, feed: Feed) -> Iterator[None]:
    """A tracker's errors as one of ours: what could not be sent where."""
    try:
        yield
    except RlkitError:
        raise
    except Exception as error:
        raise StorageError(
            f"cannot send {what} to {feed.store}: {one_line(error)}\n"
            "nothing is lost: sync again when the store can be reached"
        ) from error


def _sent(records: int) -> str:
    return f"sent {records} record{'s' * (records != 1)}" if records else "all records were there already"


def _sync_group(path: Path, build: Callable[[dict[str, Any]], Tracker | None] | None) -> str:
    """Send what has not been sent of a group of runs, and how it ended."""
    folder, record = open_group(path)
    with _alone(folder, timeout=1.0):
        if folder.is_orphaned():
            folder.mark_killed()
        status = _status(folder)
        state = str(status.get("state", "killed"))
        if state == "running":
            who = f"process {status.get('pid', '?')} on {status.get('host', socket.gethostname())}"
            raise UsageError(f"{path} is still being computed ({who})\nsync it when it has ended, on that machine")
        sent, runs = 0, 0
        feeds: dict[str, Feed] = {}
        planned = [(run.environment, run_folder_of(path, run)) for run in record.planned]
        for environment, member in [*planned, *((None, run) for run in runs_set_aside(path))]:
            if not member.config_path.exists():
                continue
            with _alone(member, timeout=1.0):
                if member.is_orphaned():
                    member.mark_killed()
                if (its := str(_status(member).get("state", "running"))) == "running":
                    raise UsageError(f"{member.path} is still running\nsync it when it has ended, on that machine")
                feed = Feed(member, build)
                with _saying_where(member.path, feed):
                    sent += feed.close(its)
                if not feed.idle and environment is not None:
                    feeds[environment], runs = feed, runs + 1
        for feed in feeds.values():
            with _saying_where(path, feed):
                feed.finish_group(state)
        if not feeds:
            return f"{path} has no run with a tracker: there is nothing to send"
        write_json(folder.tracking_path, {**read_tracking(folder), "state": "ok", "error": None})
        store = next(iter(feeds.values())).store
        return f"{_sent(sent)} of {runs} run{'s' * (runs != 1)}; {store} shows the group as {state}"


if __name__ == "__main__":
    # The module under its own name: trackers subclass the `Tracker` of that one.
    from rlkit_core.tracking import main as _main

    _code = _main()
    sys.stderr.flush()
    # Everything is stored: taking mlflow's modules apart would take half a second of the user's time.
    os._exit(_code)
