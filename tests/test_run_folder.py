"""The run folder: what a reader finds after any cut, crash or second writer."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rlkit_core
from rlkit_core.errors import RunInUse, StorageError, UsageError
from rlkit_core.run_folder import (
    Journal,
    RunFolder,
    process_start_time,
    read_journal,
    read_json,
    set_tail_aside,
    write_json,
)

ROOT = Path(next(iter(rlkit_core.__path__))).parent


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environ)


def records_of(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read_journal(path)]


# ---- the journal ----


def test_records_come_back_with_their_offsets(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    before = time.time_ns() // 1_000_000
    for step in range(5):
        journal.append(step, {"loss": step / 3, "ü\n": -1.0})
    journal.close()
    found = list(read_journal(path))
    assert [record["step"] for _, record in found] == list(range(5))
    assert [record["metrics"]["loss"] for _, record in found] == [step / 3 for step in range(5)]
    assert all(before <= record["time"] <= before + 5000 for _, record in found)
    assert found[-1][0] == path.stat().st_size
    for index, (offset, _) in enumerate(found):
        assert [record["step"] for _, record in read_journal(path, offset)] == list(range(index + 1, 5))


def test_values_that_are_no_numbers_in_json_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(1, {"nan": math.nan, "inf": math.inf, "minus": -math.inf})
    (record,) = records_of(tmp_path / "j")
    assert math.isnan(record["metrics"]["nan"])
    assert (record["metrics"]["inf"], record["metrics"]["minus"]) == (math.inf, -math.inf)
    journal.close()


def test_cut_at_every_byte_and_appended_to_twice_loses_no_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append(step, {"loss": 0.25 * step, "name with ] } and ü": 1e300})
    journal.close()
    content = path.read_bytes()
    ends = [offset for offset, _ in read_journal(path)]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        for step in (100, 101):
            journal = Journal(path)
            journal.append(step, {"loss": 9.0})
            journal.close()
        # A line that lacks nothing but its newline is whole: closing it brings it back.
        whole = sum(end - 1 <= cut for end in ends)
        steps = [record["step"] for record in records_of(path)]
        assert steps == [*range(whole), 100, 101], f"cut after {cut} bytes"


def test_several_writers_in_turn_each_killed_in_the_middle_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.append(0, {"loss": 0.5, "ü": math.nan})
    journal.close()
    line = path.read_bytes()
    for torn in range(len(line) + 1):
        path.unlink()
        expected = []
        for writer in range(4):
            journal = Journal(path)
            for step in (10 * writer + 1, 10 * writer + 2):
                journal.append(step, {"loss": 0.5})
            journal.close()
            with open(path, "ab") as file:
                file.write(line[:torn])
            last = [0] if torn >= len(line) - 1 else []  # closed by the next writer's newline, if by nothing else
            expected += [10 * writer + 1, 10 * writer + 2, *last]
        Journal(path).close()
        assert [record["step"] for record in records_of(path)] == expected, f"{torn} bytes of a record"


def test_two_writers_at_once_do_not_write_over_each_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journals = [Journal(path), Journal(path)]
    for step in range(6):
        journals[step % 2].append(step, {"loss": 1.0 / (step + 1)})
    for journal in journals:
        journal.close()
    assert [record["step"] for record in records_of(path)] == list(range(6))


# ---- a journal that a resumed run goes on with ----


def record_of(step: int) -> dict[str, float]:
    """What a run records at that step, each time it makes it; the time aside, which is another one."""
    return {"loss": step / 3, "nan": math.nan, "ü": -1.0, "time/steps_per_second": time.perf_counter()}


def make_again(path: Path, position: int, steps: range) -> None:
    """Go on from a checkpoint, and hold `position` to what a checkpoint made on the way needs of it."""
    journal = Journal(path, position)
    for step in steps:
        journal.append(step, record_of(step))
        after = [record["step"] for _, record in read_journal(path, journal.position)]
        assert after == [later for later in range(step + 1, steps.stop) if later in after]
        assert [record["step"] for record in records_of(path)][-1 - len(after)] == step
    assert journal.deviates is None
    assert journal.position == path.stat().st_size or not after
    journal.close()


@pytest.mark.parametrize("known", range(4))
def test_a_resumed_journal_cut_at_every_byte_gets_each_record_once(tmp_path: Path, known: int) -> None:
    """The checkpoint counts on the first `known` records."""
    path = tmp_path / "metrics.jsonl"
    make_again(path, 0, range(3))
    content = path.read_bytes()
    ends = [0, *(offset for offset, _ in read_journal(path))]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        make_again(path, ends[known], range(known, 5))
        # A cut before the checkpoint's place, which the disk had: what is lost stays lost, what is left stays whole.
        whole = sum(end - 1 <= cut for end in ends[1:])
        steps = [record["step"] for record in records_of(path)]
        assert steps == [*range(min(whole, known)), *range(known, 5)], f"cut after {cut} bytes"


def test_a_journal_resumed_from_the_same_checkpoint_twice_and_cut_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    make_again(path, 0, range(3))
    position = next(offset for offset, _ in read_journal(path))
    torn = path.stat().st_size - 20
    os.truncate(path, torn)
    make_again(path, position, range(1, 5))
    content = path.read_bytes()
    ends = [offset for offset, _ in read_journal(path)]
    for cut in range(position, len(content) + 1):
        path.write_bytes(content[:cut])
        make_again(path, position, range(1, 6))
        assert [record["step"] for record in records_of(path)] == list(range(6)), f"cut after {cut} bytes"
    assert len(ends) == 5


def test_a_record_that_comes_out_other_than_it_was_is_noted_and_neither_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    make_again(path, 0, range(4))
    position = next(offset for offset, _ in read_journal(path))
    journal = Journal(path, position)
    journal.append(1, record_of(1))
    assert journal.deviates is None
    journal.append(2, {"loss": 99.0})
    assert journal.deviates == 2
    journal.append(3, record_of(3))
    assert journal.deviates == 2
    assert journal.position == path.stat().st_size
    journal.close()
    assert [record["step"] for record in records_of(path)] == [0, 1, 2, 3, 2, 3]


def test_what_came_after_a_checkpoint_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    set_tail_aside(path, 7)  # there is none
    make_again(path, 0, range(3))
    content = path.read_bytes()
    position = next(offset for offset, _ in read_journal(path))
    aside = tmp_path / "metrics.aside.jsonl"
    set_tail_aside(path, len(content))
    assert not aside.exists()
    set_tail_aside(path, position)
    assert (path.read_bytes(), aside.read_bytes()) == (content[:position], content[position:])
    path.write_bytes(content)
    set_tail_aside(path, position)
    assert aside.read_bytes() == 2 * content[position:]


def test_a_line_being_written_is_not_read_yet(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).append(1, {"loss": 1.0})
    size = path.stat().st_size
    line = path.read_bytes()
    for length in range(len(line)):
        path.write_bytes(line + line[:length])
        assert [offset for offset, _ in read_journal(path)] == [size]
    path.write_bytes(line + line)
    assert [offset for offset, _ in read_journal(path, size)] == [2 * size]


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = b'{"step":1,"time":2,"metrics":{}}\n'
    bad = [b"\n", b"null\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"\0\0\n", b"[" * 100_000 + b"\n", b'{"step":1}\n']
    path.write_bytes(good.join([b"", *bad, b""]))
    assert len(records_of(path)) == len(bad) + 1
    assert list(read_journal(tmp_path / "none")) == []


def test_a_line_that_the_disk_took_in_part_is_closed_before_the_next(tmp_path: Path) -> None:
    class Full:
        """A file on a disk that fills up in the middle of one write."""

        def __init__(self, file: Any) -> None:
            self.file = file
            self.room: int | None = None

        def write(self, data: bytes) -> int:
            taken = self.file.write(data[: self.room])
            self.room = None
            return int(taken)

    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    disk = Full(journal._file)
    journal._file = disk  # type: ignore[assignment]
    journal.append(1, {})
    disk.room = 7
    with pytest.raises(StorageError, match="the disk took 7 of"):
        journal.append(2, {})
    journal.append(3, {})
    journal.append(4, {})
    assert [record["step"] for record in records_of(path)] == [1, 3, 4]
    disk.file.close()


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*No such file"):
        Journal(tmp_path / "missing" / "metrics.jsonl")
    if os.path.exists("/dev/full"):
        journal = Journal(tmp_path / "full.jsonl")
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), journal._file.fileno())
        with pytest.raises(StorageError, match="No space left"):
            journal.append(1, {})


def test_kill_9_while_appending_leaves_whole_records(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlkit_core.run_folder import Journal\n"
        "j = Journal(Path(sys.argv[1])); print('on', flush=True)\n"
        "for i in range(10**9): j.append(i, {'loss': 1 / (i + 1)})\n"
    )
    path = tmp_path / "metrics.jsonl"
    known: list[int] = []
    for _ in range(3):
        process = started(code, str(path))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.kill()
        process.communicate()
        steps = [record["step"] for record in records_of(path)]
        assert steps == known + list(range(len(steps) - len(known)))
        known = steps


# ---- JSON files ----


def test_a_json_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"a": 1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_a_json_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*none\.json"):
        read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(StorageError, match=r"half\.json is damaged"):
        read_json(tmp_path / "half.json")


# ---- the folder and its owner ----


def test_create_and_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        RunFolder.open(tmp_path / "run")
    folder = RunFolder.create(tmp_path / "runs" / "run")
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder.open(folder.path)
    write_json(folder.config_path, {})
    folder.release()
    assert RunFolder.open(str(folder.path)).path == folder.path
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder.create(folder.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--run-dir"):
        RunFolder.create(tmp_path / "file" / "run")


def test_status_keeps_what_it_held(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.status() == {}
    assert not folder.is_orphaned()
    folder.write_status("running", best=1.5)
    folder.write_status("finished", result="solved")
    status = folder.status()
    assert (status["state"], status["best"], status["result"], status["pid"]) == (
        "finished",
        1.5,
        "solved",
        os.getpid(),
    )


def test_the_dead_owner_is_told_from_the_living_one(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rlkit_core.run_folder import RunFolder, write_json\n"
        "f = RunFolder.create(Path(sys.argv[1])); write_json(f.config_path, {}); f.write_status('running', best=1)\n"
        "print('on', flush=True); time.sleep(60)\n"
    )
    process = started(code, str(tmp_path / "run"))
    assert process.stdout is not None
    process.stdout.readline()
    folder = RunFolder.open(tmp_path / "run")
    assert not folder.is_orphaned()
    with pytest.raises(RunInUse, match=f"process {process.pid} on "):
        RunFolder.create(folder.path)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while not folder.is_orphaned():  # a zombie until we wait for it: gone all the same
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = folder.status()
    folder.mark_killed()
    assert folder.status() == before | {"state": "killed"}
    assert not folder.is_orphaned()
    process.communicate()
    # Its lock went with it.
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder.create(folder.path)


def test_an_owner_elsewhere_or_a_reused_pid(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status("running")
    write_json(folder.status_path, folder.status() | {"process_start": -1.0})
    assert folder.is_orphaned(), "another process has that pid now"
    write_json(folder.status_path, folder.status() | {"host": "elsewhere"})
    assert not folder.is_orphaned(), "nothing is known of processes of another machine"
    folder.status_path.write_text("half")
    folder.mark_killed()
    assert folder.status() == {"state": "killed"}


def test_process_start_time() -> None:
    assert process_start_time(os.getpid()) == process_start_time(os.getpid()) is not None
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert process_start_time(process.pid) is None


@pytest.mark.parametrize("round_", range(3))
def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path: Path, round_: int) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rlkit_core.errors import RlkitError\n"
        "from rlkit_core.run_folder import RunFolder, write_json\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "try: f = RunFolder.create(Path(sys.argv[1])); write_json(f.config_path, {}); time.sleep(0.5); print('won')\n"
        "except RlkitError as error: print(type(error).__name__)\n"
    )
    at = str(time.time() + 0.8)
    processes = [started(code, str(tmp_path / "run"), at) for _ in range(8)]
    outcomes = [process.communicate()[0].strip() for process in processes]
    assert sorted(outcomes) == sorted(["won"] + [o for o in outcomes if o in ("RunInUse", "UsageError")])
    assert outcomes.count("won") == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {}
