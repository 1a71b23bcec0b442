"""The run folder: the record of a run. Everything else, MLflow included, is fed from it.

config.json         all settings, re-runnable with `rlkit run --config`
provenance.json     versions, plugins with file hashes, git state, machine, threads, seeds
status.json         how the run stands: running, finished, failed, …; process; result
metrics.jsonl       the journal: one record per line, append-only
checkpoints/        what `rlkit resume` goes on from, the last ones
policy/last, best   weights (safetensors) and what is needed to rebuild the policy (JSON)
tracking.json       how far the trackers have been sent the journal
error.json          traceback of a failed run
.lock, .owner.json  held by the process that writes to the folder, and which one that is
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import socket
import stat
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlkit_core.errors import RunInUse, StorageError, UsageError

MAX_JSON_SIZE = 20_000_000
"""Bytes of a JSON file: larger ones are none of a run's, and would fill the memory."""
MAX_JSON_TABLES = 300_000
"""Tables and lists in it: an empty one takes two bytes of the file and some hundred of memory."""
LONGEST_RECORD = 10_000_000
"""Bytes of a line of the journal: longer ones are passed over, as torn ones are."""


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file as a whole: a reader sees the old content or the new one, never a part."""
    content = json.dumps(data, indent=2, allow_nan=False).encode() + b"\n"
    try:
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, or another content of it, as a whole; nothing is left of one that could not be written.

    Raises:
        OSError: it could not be.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_file(temporary, content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a new file, and wait until it is on the disk.

    Raises:
        OSError: it is not.
    """
    # What is there was left by a killed save. Links are not followed, and pipes not waited for.
    try:
        opened = open(path, "xb")  # noqa: SIM115
    except FileExistsError:
        path.unlink()
        opened = open(path, "xb")  # noqa: SIM115
    with opened as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until what a folder lists is on the disk.

    Raises:
        OSError: it is not.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def how_to_go_on(run_dir: Path) -> str:
    """What to do about a run that ended because something of it could not be written."""
    return f"once it can be written, go on with: rlkit resume {shlex.quote(str(run_dir))}"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there, and wait until they are on the disk.

    Raises:
        OSError: it cannot be made.
    """
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        StorageError: it is missing, unreadable or no JSON.
    """
    check_regular(path)
    try:
        if path.stat().st_size > MAX_JSON_SIZE:
            raise ValueError(f"it is larger than {MAX_JSON_SIZE:,} bytes")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise StorageError(f"{path} is damaged: {what}") from error


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A table with a hash of itself, for `read_signed`."""
    return {**content, "sha256": _hash_of(content)}


def read_signed(path: Path, format: int, what: str) -> dict[str, Any]:
    """What was written as `signed`, without the hash.

    Args:
        path: the file.
        format: its entry `format`, as this version of rlkit reads it.
        what: what it describes.

    Raises:
        StorageError: it is missing, damaged, or of another format.
    """
    data = read_json(path)
    if not isinstance(data, dict) or "format" not in data:
        raise StorageError(f"{path} is damaged: it describes no {what}")
    if data["format"] != format:
        raise StorageError(f"{path} has format {data['format']!r:.20}; this version of rlkit reads format {format}")
    if data.pop("sha256", None) != _hash_of(data):
        raise StorageError(f"{path} is damaged: its content does not have the hash that it names")
    return data


def _hash_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_json(content: bytes) -> Any:
    """Plain data from JSON that may come from anywhere: of bounded size, all numbers finite, all texts printable.

    Raises:
        ValueError, RecursionError: it is none.
    """
    if len(content) > MAX_JSON_SIZE:
        raise ValueError(f"it is larger than {MAX_JSON_SIZE:,} bytes")
    if content.count(b"{") + content.count(b"[") > MAX_JSON_TABLES:
        raise ValueError(f"it has more than {MAX_JSON_TABLES:,} tables and lists")
    data = json.loads(content.decode(), parse_float=_finite, parse_constant=_finite)
    if b"\\ud" in content.lower():  # half a letter can be read, but not written
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:30]} is no finite number")
    return number


def check_regular(path: Path, *, link: bool = True) -> None:
    """Raise StorageError where something is at a path that is no file: one would wait for a pipe for ever.

    Args:
        path: where; that nothing is there is no error.
        link: whether a link to a file will do. It does not where we write: what it points to is not the run's.
    """
    try:
        mode = (path.stat() if link else path.lstat()).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise StorageError(f"{path} is damaged: it is no regular file")


def check_folder(path: Path) -> None:
    """Raise StorageError where something is at a path that is no folder, but a link to one, say."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise StorageError(f"{path} is damaged: it is no folder")


def process_start_time(pid: int) -> float | None:
    """When that process started, in an arbitrary fixed unit, or None if there is none: tells a reused pid apart."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A zombie has ended, however long its parent takes to ask for its exit status (in some containers: for ever).
        return None if fields[0] in "ZX" else float(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0.0
    return 0.0


def _this_process() -> dict[str, Any]:
    """What tells this process from all others."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "process_start": process_start_time(os.getpid())}


def _is_gone(process: Mapping[str, Any]) -> bool:
    """True if that process was one of this machine and has ended."""
    if process.get("host") != socket.gethostname():
        return False
    pid = process.get("pid")
    return type(pid) is not int or not 0 < pid < 2**31 or process_start_time(pid) != process.get("process_start")


class Journal:
    """The append-only journal `metrics.jsonl`: one JSON object `{step, time, metrics}` per line.

    A record is one `write` of a whole line. A torn last line (the process was killed in the middle of it) is closed
    by a newline at the next opening, so that no later record merges with it, and readers pass over it.

    A run that goes on from a checkpoint makes the records after it a second time. Those that are there already, the
    wall time aside, are not written again.

    Args:
        path: the file.
        position: where the checkpoint left off; None: at the end.

    Attributes:
        deviates: step of the first record that came out other than the one that was there, or None.
    """

    def __init__(self, path: Path, position: int | None = None) -> None:
        check_regular(path, link=False)
        try:
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 (kept open for the run)
            if self._file.seek(0, os.SEEK_END) > 0:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self._path = path
        self._torn = False
        self._there = deque(() if position is None else read_journal(path, position))
        self._matched = position if self._there else None
        self.deviates: int | None = None

    @property
    def position(self) -> int:
        """Bytes up to the last record that this run has made."""
        return self._file.seek(0, os.SEEK_END) if self._matched is None else self._matched

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a record at an environment step; the time is now, in milliseconds since 1970."""
        record = {"step": step, "time": time.time_ns() // 1_000_000, "metrics": dict(metrics)}
        if self._there:
            self._matched, there = self._there.popleft()
            if _repeatable(there) == _repeatable(record):
                if not self._there:
                    self._matched = None
                return
            self._there.clear()
            self.deviates, self._matched = step, None
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if self._torn:
            line = b"\n" + line
        try:
            written = self._file.write(line)
        except OSError as error:
            raise self._failure(error.strerror or error) from error
        self._torn = written != len(line)
        if self._torn:
            raise self._failure(f"the disk took {written} of {len(line)} bytes")

    def sync(self) -> None:
        """Wait until all records are on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error.strerror or error) from error

    def _failure(self, reason: object) -> StorageError:
        return StorageError(f"cannot write {self._path}: {reason}\n{how_to_go_on(self._path.parent)}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _repeatable(record: Mapping[str, Any]) -> str:
    """A record without what depends on the clock, as text: NaN equals itself there."""
    metrics = {name: value for name, value in record["metrics"].items() if not name.startswith("time/")}
    return json.dumps([record["step"], metrics], sort_keys=True)


def set_tail_aside(path: Path, position: int) -> None:
    """Cut a journal there, and keep what came after in `metrics.aside.jsonl`.

    Raises:
        StorageError: it cannot be written.
    """
    aside_path = path.with_suffix(".aside.jsonl")
    for written in (path, aside_path):
        check_regular(written, link=False)
    try:
        with open(path, "rb+") as file:
            file.seek(position)
            tail = file.read()
            if tail:
                with open(aside_path, "ab") as aside:
                    aside.write(tail)
                    aside.flush()
                    os.fsync(aside.fileno())
                file.truncate(position)
                os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def read_journal(
    path: Path, offset: int = 0, *, containing: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole records from a byte offset on, as `(offset after the record, record)`; torn lines are passed over.

    A line without its newline is not read yet: it may still be being written.

    Args:
        path: the journal.
        offset: where to begin.
        containing: metrics; where given, only records that have one of them are read, which is faster.

    Raises:
        StorageError: it cannot be read.
    """
    names = [json.dumps(name).encode() for name in containing]
    check_regular(path)
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for line in iter(lambda: file.readline(LONGEST_RECORD), b""):
                if not line.endswith(b"\n") and len(line) < LONGEST_RECORD:
                    return
                offset += len(line)
                if names and not any(name in line for name in names):
                    continue
                record = _record(line)
                if record is not None:
                    yield offset, record
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's record, or None where it has none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {"step", "time", "metrics"} <= record.keys():
        return None
    return record if isinstance(record["metrics"], dict) else None


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole record of a journal, found from its end, or None where there is none among its last 100 kB."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for length in (4_000, 100_000):
                begin = file.seek(max(0, size - length))
                # What comes after the last newline may still be being written; the first line is whole only at 0.
                lines = file.read(size - begin).split(b"\n")[0 if begin == 0 else 1 : -1]
                for line in reversed(lines):
                    if (record := _record(line)) is not None:
                        return record
                if begin == 0:
                    break
    except (OSError, StorageError):
        pass
    return None


class RunFolder:
    """A run's folder on disk; `create` for the process that trains, `open` for readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new run folder and take its lock.

        Raises:
            UsageError: there is a run in that folder already.
            RunInUse: another process is writing to it.
            StorageError: it cannot be written.
        """
        folder = cls(path)
        try:
            make_folder(path)
            folder._acquire(0.0, "wait for it, or choose another folder with --run-dir")
        except OSError as error:
            raise StorageError(
                f"cannot write run folder {path}: {error.strerror or error}\nchoose another one with --run-dir"
            ) from error
        if folder.config_path.exists():
            folder.release()
            raise UsageError(f"{path} holds a run already\nchoose another folder with --run-dir")
        return folder

    @classmethod
    def create_new(cls, group: str, seed: int) -> RunFolder:
        """A new run folder below `runs/` in the working folder, named by group, seed and time."""
        short = group.replace("/", "-").encode()[:150].decode(errors="ignore")  # a file's name has 255 bytes at most
        name = f"{short}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
            try:
                return cls.create(Path("runs") / (name + suffix))
            except (UsageError, RunInUse):
                continue  # another run of that second
        raise StorageError(f"cannot find a free name for runs/{name}")

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run's folder.

        Raises:
            UsageError: there is no run in that folder.
        """
        folder = cls(Path(path))
        if not folder.config_path.is_file():
            what = "holds no run (no config.json)" if folder.path.is_dir() else "does not exist"
            raise UsageError(f"run folder {path} {what}\ngive the folder that `rlkit run` named at its end")
        return folder

    def take(self, timeout: float = 0.0) -> None:
        """Take the lock of an existing run's folder, which goes with the process that holds it.

        Args:
            timeout: seconds to wait for a process that has just been killed.

        Raises:
            RunInUse: another process is writing to it.
            StorageError: it cannot be written.
        """
        try:
            self._acquire(timeout, "wait for it to end, or end it")
        except OSError as error:
            raise StorageError(f"cannot write run folder {self.path}: {error.strerror or error}") from error

    def release(self) -> None:
        """Give the lock back."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._owner_path.unlink()
        self._lock.release()

    def _acquire(self, timeout: float, advice: str) -> None:
        """Take the lock, and say at once who has it.

        Raises:
            RunInUse: another process has it, with the advice.
            OSError: it cannot be taken.
            StorageError: it cannot be written who has it.
        """
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout:
            raise RunInUse(f"{self.path} is in use by {self._owner()}\n{advice}") from None
        try:
            write_json(self._owner_path, _this_process())
        except BaseException:
            self._lock.release()
            raise

    def _owner(self) -> str:
        """The process that has the lock, for people."""
        # It may have taken it a moment ago: until it has written its name, there is none, or that of a dead one.
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            with contextlib.suppress(StorageError):
                process = read_json(self._owner_path)
                if isinstance(process, dict) and not _is_gone(process):
                    return f"process {process.get('pid', '?')} on {process.get('host', '?')}"
            time.sleep(0.02)
        return "another process"

    @property
    def _owner_path(self) -> Path:
        return self.path / ".owner.json"

    @property
    def config_path(self) -> Path:
        """All settings of the run."""
        return self.path / "config.json"

    @property
    def provenance_path(self) -> Path:
        """What the run was made with."""
        return self.path / "provenance.json"

    @property
    def journal_path(self) -> Path:
        """The journal of metrics."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tracking_path(self) -> Path:
        """How far the journal has been sent."""
        return self.path / "tracking.json"

    @property
    def status_path(self) -> Path:
        """How the run stands."""
        return self.path / "status.json"

    def policy_path(self, which: str) -> Path:
        """Folder of the `last` or the `best` policy."""
        return self.path / "policy" / which

    def status(self) -> dict[str, Any]:
        """Content of `status.json`, or an empty dict where there is none yet."""
        if not self.status_path.exists():
            return {}
        data = read_json(self.status_path)
        return data if isinstance(data, dict) else {}

    def write_status(self, state: str, **more: Any) -> None:
        """Write `status.json`; keeps what it held before.

        Args:
            state: running, finished, interrupted, failed or killed.
            more: other things to say about the run; None takes back what was said.
        """
        content = {**self.status(), **_this_process(), "state": state, **more}
        write_json(self.status_path, {key: value for key, value in content.items() if value is not None})

    def mark_killed(self) -> None:
        """Write into `status.json` that the process ended without a word; keeps which process it was."""
        try:
            status = self.status()
        except StorageError:
            status = {}
        write_json(self.status_path, {**status, "state": "killed"})

    def is_orphaned(self) -> bool:
        """True if the run says that it is running but its process, on this machine, is gone."""
        status = self.status()
        return status.get("state") == "running" and _is_gone(status)

    def is_abandoned(self) -> bool:
        """True if it is not said how the run stands, and no process of this machine is about to say so."""
        try:
            owner = read_json(self._owner_path)
        except StorageError:
            owner = None
        return not self.status() and (not isinstance(owner, dict) or _is_gone(owner))
