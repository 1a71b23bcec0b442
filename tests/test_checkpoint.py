"""Checkpoints: what comes back is what was saved, whatever happens to the disk or the process meanwhile."""

from __future__ import annotations

import builtins
import enum
import errno
import io
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rlkit_a2c.a2c import A2C
from rlkit_a2c.config import A2CConfig
from rlkit_core import checkpoint as checkpoint_module
from rlkit_core import run_folder
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.checkpoint import Checkpoints
from rlkit_core.cli.root import execute
from rlkit_core.component import Setup
from rlkit_core.errors import Diverged, StorageError
from rlkit_core.hookspecs import hookimpl
from rlkit_core.learner import GrowingPart, Part
from rlkit_core.run_folder import Journal, RunFolder, read_journal, read_json, write_json
from rlkit_core.training import resume, train

MADE_WITH = {"versions": {"torch": "1"}, "plugins": [{"module": "a"}], "machine": None}


class Weights:
    """A part whose numbers say how often it was updated."""

    def __init__(self, updates: int = 0) -> None:
        self.updates = updates

    def state_dict(self) -> dict[str, Any]:
        return {"weight": torch.full((3, 2), float(self.updates)), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert torch.equal(state["weight"], torch.full((3, 2), float(state["updates"])))
        self.updates = state["updates"]


class Rows:
    """A growing part: numbers from 0 on, of which the last ones are kept."""

    def __init__(self, kept: int = 10) -> None:
        self.kept = kept
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.end = 0

    def add(self, count: int) -> None:
        self.rows = torch.cat([self.rows, torch.arange(self.end, self.end + count)])[-self.kept :]
        self.end += count

    def state_dict(self, rows: bool = True) -> dict[str, Any]:
        return {"end": self.end, "rows": self.rows if rows else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = self.rows[-self.kept :]
        if self.end != state["end"]:
            raise ValueError("rows are missing")
        assert self.rows.tolist() == list(range(self.end))[-self.kept :]

    def position(self) -> list[int]:
        return [self.end]

    def rows_since(self, position: Sequence[int] | None) -> dict[str, torch.Tensor] | None:
        begin = self.end - len(self.rows) if position is None else max(position[0], self.end - len(self.rows))
        return {"rows": self.rows[begin - self.end :].clone()} if begin < self.end else None

    def add_rows(self, rows: Mapping[str, torch.Tensor]) -> None:
        self.rows = torch.cat([self.rows, rows["rows"]])
        self.end = int(rows["rows"][-1]) + 1

    def keeps(self, position: Sequence[int]) -> bool:
        return position[0] > self.end - len(self.rows)


class Learning:
    """What a run has to store after some updates: two growing parts, and one that is not."""

    def __init__(self, updates: int = 0) -> None:
        self.updates = 0
        self.parts: dict[str, Any] = {"weights": Weights(), "a.replay": Rows(), "replay 2": Rows(40)}
        self.go(updates)

    def go(self, updates: int) -> Learning:
        for _ in range(updates):
            self.updates += 1
            self.parts["weights"].updates += 1
            self.parts["a.replay"].add(4)
            self.parts["replay 2"].add(1)
        return self

    def save(self, checkpoints: Checkpoints) -> None:
        checkpoints.save(10 * self.updates, {"updates": self.updates}, self.parts, MADE_WITH)


def loaded(path: Path, step: int) -> Learning:
    """A checkpoint's content, held to what it should be."""
    checkpoint = Checkpoints(path).load(step)
    assert checkpoint.step == step == 10 * checkpoint.state["updates"]
    assert checkpoint.made_with == MADE_WITH
    learning = Learning()
    checkpoint.restore(learning.parts)
    learning.updates = checkpoint.state["updates"]
    assert learning.parts["weights"].updates == learning.updates
    assert [learning.parts[name].end for name in ("a.replay", "replay 2")] == [4 * learning.updates, learning.updates]
    return learning


def files(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time and content of all files below a folder."""
    return {
        str(file.relative_to(path)): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def check_tidy(path: Path) -> None:
    """There is nothing but whole checkpoints and segments that one of them refers to."""
    checkpoints = Checkpoints(path)
    steps = checkpoints.steps()
    referred = {
        segment["file"]
        for step in steps
        for some in read_json(path / str(step) / "manifest.json")["segments"].values()
        for segment in some
    }
    assert sorted(entry.name for entry in path.iterdir()) == sorted([*map(str, steps), "segments"])
    assert {entry.name for entry in (path / "segments").iterdir()} == referred


# What comes back.


class Color(enum.IntEnum):
    RED = 3


def same(a: Any, b: Any) -> bool:
    """Equal in all bits and in kind."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(type(x) is type(y) for x, y in zip(a, b, strict=True)) and all(
            same(a[key], b[key]) for key in a
        )  # fmt: skip
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is float and type(b) is float:
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and bool(a == b)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def came_back(path: Path, state: dict[str, Any], parts: Mapping[str, Part] | None = None) -> dict[str, Any]:
    checkpoints = Checkpoints(path)
    checkpoints.save(1, state, parts or {}, {})
    return {key: part for key, part in checkpoints.load(1).state.items() if key != "learner"}


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    some = torch.arange(6).reshape(2, 3).to(dtype)
    state = {"0-d": some[1, 2], "empty": some[:0], "matrix": some, "column": some[:, 1], "transposed": some.T}
    state |= {"expanded": some[:1].expand(4, 3), "again": some, "strided": some.repeat(4, 4)[::3, ::2]}
    back = came_back(tmp_path, state)
    assert same(back, state)
    back["matrix"].zero_()  # shares nothing
    assert same(back["again"], some)


@pytest.mark.parametrize("kind", "?bBhHiIlLefd")
def test_arrays_come_back(tmp_path: Path, kind: str) -> None:
    some = np.arange(6).reshape(2, 3).astype(kind)
    state = {"0-d": np.array(some[1, 2]), "empty": some[:0], "matrix": some, "fortran": np.asfortranarray(some)}
    assert same(came_back(tmp_path, state), state)
    assert same(came_back(tmp_path, {"scalar": some[1, 2]}), {"scalar": np.array(some[1, 2])})


def test_plain_values_come_back(tmp_path: Path) -> None:
    tensor, array = torch.arange(3.0), np.arange(3)
    state = {
        "numbers": [0, -1, 2**127, True, False, None, 0.0, -0.0, 5e-324, 1.7976931348623157e308],
        "not finite": [math.inf, -math.inf, math.nan, (math.nan,), {"best": -math.inf}],
        "texts": ["", "ä\n\0", "$tensor", "a/b"],
        "tuples": ((), (1, (2, [3, (4,)])), [()]),
        "dicts": {"": {}, "a": {"b": {"c": 1}}, "$tensor": "a", "$": 1},
        "reserved": [{"$tensor": "x"}, {"$float": "nan"}, {"$tuple": []}, {"$items": []}, {"$array": tensor}],
        "keys": {1: "a", -1: "b", None: 1, False: 2, (1, 2): 3, 1.5: 4, "1": 5, math.inf: 6},
        "nested": [{"deep": ({3: [tensor, (array, {"$": tensor})]},)}],
        "non-finite tensors": [torch.tensor([math.nan, math.inf]), np.array([-math.inf])],
    }
    assert same(came_back(tmp_path, state), state)
    assert same(came_back(tmp_path, {"color": Color.RED, "half": np.float64(0.5)}), {"color": 3, "half": np.array(0.5)})


def test_names_with_slashes_are_not_confused(tmp_path: Path) -> None:
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    state = {"a": {"b": {"c": one}, "b/c": two}, "a/b": {"c": three}, "a/b/c": np.array(4), "a/b/c'": np.array(5)}
    assert same(came_back(tmp_path, state), state)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([torch.ones(2), np.ones(1)]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.lists(values, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["$", "$tensor", "a", "a/b"]), values, max_size=3)
        | st.dictionaries(st.integers(), values, max_size=3)
    ),
)


@given(st.dictionaries(st.text(min_size=1, max_size=3).map("s".__add__), VALUES, max_size=4))
def test_any_data_come_back(state: dict[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(checkpoint_module._encode(state, "", tensors)))
    assert same(checkpoint_module._decode(tree, tensors), state)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, np.array(["text"]), np.array([None]), len])
def test_what_is_no_data_is_refused_before_anything_is_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="which is no data"):
        came_back(tmp_path / "checkpoints", {"deep": [{"here": value}]})
    assert not (tmp_path / "checkpoints").exists()


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "MAX_JSON_SIZE", 1000)
    with pytest.raises(StorageError, match=r"state\.json is larger than 1,000 bytes"):
        came_back(tmp_path, {"long": "x" * 2000})
    assert Checkpoints(tmp_path).steps() == []


@pytest.mark.parametrize("bad", [torch.tensor([1.0, math.nan]), torch.tensor(math.inf).half(), np.array([-math.inf])])
def test_a_learner_that_is_not_finite_is_not_stored(tmp_path: Path, bad: Any) -> None:
    class Part(Weights):
        def state_dict(self) -> dict[str, Any]:
            return {"state": [{"moments": bad}]}

    with pytest.raises(Diverged, match="optimizer/state/0/moments is not finite"):
        Checkpoints(tmp_path / "checkpoints").save(1, {}, {"optimizer": Part()}, {})
    assert not (tmp_path / "checkpoints").exists()


# Generations and segments.


def test_it_is_a_growing_part() -> None:
    assert isinstance(Rows(), GrowingPart)
    assert not isinstance(Weights(), GrowingPart)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_stay(tmp_path: Path, keep: int) -> None:
    checkpoints, learning = Checkpoints(tmp_path, keep), Learning()
    assert checkpoints.steps() == []
    assert checkpoints.latest is None
    for updates in range(1, 9):
        learning.go(1).save(checkpoints)
        steps = [10 * i for i in range(1, updates + 1)][-keep:]
        assert checkpoints.steps() == steps
        assert checkpoints.latest == steps[-1]
        check_tidy(tmp_path)
        for step in steps:
            assert loaded(tmp_path, step).updates == step // 10


def test_each_row_is_written_once(tmp_path: Path) -> None:
    """`a.replay` keeps 10 rows of 4 an update, so 3 segments of it; `replay 2` keeps all of its rows here."""
    checkpoints, learning = Checkpoints(tmp_path), Learning()
    before: dict[str, Any] = {}
    for updates in range(1, 12):
        learning.go(1).save(checkpoints)
        now = files(tmp_path / "segments")
        new = now.keys() - before.keys()
        assert {name.rpartition("-")[0] for name in new} == {"a_replay", "replay_2"}
        assert all(now[name] == before[name] for name in now.keys() & before.keys())
        listed = read_json(tmp_path / str(10 * updates) / "manifest.json")["segments"]
        assert [len(listed[name]) for name in ("a.replay", "replay 2")] == [min(updates, 3), updates]
        before = now
    checkpoints.save(1000, {}, learning.parts, {})  # no rows have come since
    assert files(tmp_path / "segments").items() <= before.items()
    assert "1000" in {entry.name for entry in tmp_path.iterdir()}


def test_it_goes_on_from_any_checkpoint(tmp_path: Path) -> None:
    """As in the run that made it: the segments before it stay as they are, and what that run saved later goes."""
    checkpoints, learning = Checkpoints(tmp_path, keep=4), Learning()
    for _ in range(4):
        learning.go(2).save(checkpoints)
    before = files(tmp_path / "segments")
    resumed = Checkpoints(tmp_path, keep=4)
    resumed.go_on_from(resumed.load(40))
    assert resumed.latest == 40
    learning = loaded(tmp_path, 40).go(1)
    learning.save(resumed)
    assert resumed.steps() == [20, 40, 50]
    assert len(read_json(tmp_path / "50" / "manifest.json")["segments"]["replay 2"]) == 3
    check_tidy(tmp_path)
    after = files(tmp_path / "segments")
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    learning.go(3).save(resumed)
    for step in (20, 40, 50, 80):
        loaded(tmp_path, step)


def test_another_attempt_at_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoints, learning = Checkpoints(tmp_path), Learning()
    for _ in range(2):
        learning.go(1).save(checkpoints)
    (tmp_path / "20" / "tensors.safetensors").write_bytes(b"damaged")
    resumed = Checkpoints(tmp_path)
    resumed.go_on_from(resumed.load(10))
    loaded(tmp_path, 10).go(1).save(resumed)
    assert loaded(tmp_path, 20).updates == 2
    assert resumed.steps() == [10, 20]
    check_tidy(tmp_path)


def test_leftovers_of_killed_saves_are_removed(tmp_path: Path) -> None:
    checkpoints, learning = Checkpoints(tmp_path), Learning()
    learning.go(1).save(checkpoints)
    for name in (".20.tmp", ".10.old.tmp", ".9.tmp"):
        shutil.copytree(tmp_path / "10", tmp_path / name)
    for name in ("a_replay-0123456789abcdef.safetensors", ".a_replay-0123456789abcdef.safetensors.1.tmp"):
        (tmp_path / "segments" / name).write_bytes(b"half")
    assert checkpoints.steps() == [10]
    learning.go(1).save(checkpoints)
    assert checkpoints.steps() == [10, 20]
    check_tidy(tmp_path)


def test_what_cannot_be_removed_does_not_fail_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, learning = Checkpoints(tmp_path, keep=1), Learning(1)
    learning.save(checkpoints)
    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, raising(PermissionError(errno.EACCES, "Permission denied")))
        for _ in range(3):
            learning.go(1).save(checkpoints)
            assert loaded(tmp_path, 10 * learning.updates)
    learning.go(1).save(checkpoints)
    check_tidy(tmp_path)
    assert checkpoints.steps() == [50]


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


# Faults of the disk, and kills.


class Killed(Exception):
    """Stands for SIGKILL where an operation is to fail."""


Fault = OSError | Killed | str


class Disk:
    """What is done to the disk, in order: the operation, and the path. One of them, or all from there on, may fail.

    Args:
        patch: takes it back at the end.
        at: number of the first one that fails, from 0.
        fault: an error; `Killed`: the process ends there, in the middle of it if it is a write; "short": a write takes
            half of what it is given.
        stays: all later ones fail, too.
    """

    CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int | None = None, fault: Fault = "", stays: bool = False
    ) -> None:
        self.log: list[tuple[str, str]] = []
        self._at, self._fault, self._stays = at, fault, stays
        self._paths: dict[int, str] = {}
        for name in self.CALLS:
            patch.setattr(os, name, self._call(name, getattr(os, name)))
        patch.setattr(os, "open", self._os_open(os.open))
        patch.setattr(run_folder, "open", self._open, raising=False)

    @property
    def faulty(self) -> bool:
        """Whether the operation that came last is to fail."""
        number = len(self.log) - 1
        return self._at is not None and (number == self._at or (self._stays and number > self._at))

    def note(self, name: str, path: Any) -> None:
        self.log.append((name, str(path)))
        if self.faulty and not (name == "write" and not isinstance(self._fault, OSError)):
            self.fail()

    def fail(self) -> None:
        if isinstance(self._fault, Killed):
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self._fault, OSError):
            raise type(self._fault)(*self._fault.args)

    def _call(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.note(name, self._paths[arguments[0]] if name == "fsync" else arguments[0])
            return original(*arguments, **options)

        return call

    def _os_open(self, original: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, *arguments: Any, **options: Any) -> int:
            self.note("open", path)
            descriptor = original(path, *arguments, **options)
            self._paths[descriptor] = str(path)
            return descriptor

        return call

    def _open(self, path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "xb":
            return builtins.open(path, mode, *arguments, **options)
        self.note("open", path)
        disk = self

        class File(io.FileIO):
            def write(self, data: Any, /) -> int:
                disk.note("write", path)
                if not disk.faulty:
                    return super().write(data)
                written = super().write(bytes(data)[: max(1, len(data) // 2)])
                if isinstance(disk._fault, Killed):
                    disk.fail()
                return written

        file = File(path, "x")
        self._paths[file.fileno()] = str(path)
        return io.BufferedWriter(file)


def first(path: Path) -> tuple[Checkpoints, Learning]:
    """Nothing has been saved yet; not even the folders are there."""
    return Checkpoints(path, keep=2), Learning(1)


def later(path: Path) -> tuple[Checkpoints, Learning]:
    """Two were saved; with the next, one goes, and a segment with it."""
    checkpoints, learning = Checkpoints(path, keep=2), Learning()
    for updates in (1, 2, 3):
        learning.go(updates).save(checkpoints)
    return checkpoints, learning.go(3)


def only(path: Path) -> tuple[Checkpoints, Learning]:
    """One is kept."""
    checkpoints, learning = Checkpoints(path, keep=1), Learning(4)
    learning.save(checkpoints)
    return checkpoints, learning.go(1)


def again(path: Path) -> tuple[Checkpoints, Learning]:
    """Another attempt was as far; the run goes on from the checkpoint before that. A save was killed, too."""
    checkpoints, learning = Checkpoints(path, keep=2), Learning()
    for _ in range(3):
        learning.go(1).save(checkpoints)
    checkpoints = Checkpoints(path, keep=2)
    checkpoints.go_on_from(checkpoints.load(20))
    shutil.copytree(path / "20", path / ".30.tmp")
    return checkpoints, loaded(path, 20).go(1)


SITUATIONS = pytest.mark.parametrize("situation", [first, later, only, again])


def operations(situation: Callable[[Path], tuple[Checkpoints, Learning]], path: Path) -> list[tuple[str, str]]:
    """What a save does to the disk."""
    checkpoints, learning = situation(path)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        learning.save(checkpoints)
    return disk.log


def check_whole(path: Path, before: list[int], step: int, at: Any) -> list[int]:
    """All checkpoints that are there are whole, and that is at least one if there was one; returns their steps."""
    steps = Checkpoints(path).steps()
    assert set(steps) <= {*before, step}, at
    assert steps or not before, at
    for one in steps:
        loaded(path, one)
    return steps


def check_goes_on(path: Path, checkpoints: Checkpoints, learning: Learning) -> None:
    """The run itself could go on, and so can one that is resumed."""
    learning.go(1).save(checkpoints)
    assert Checkpoints(path).steps()[-1] == 10 * learning.updates
    check_tidy(path)
    resumed = Checkpoints(path, keep=1)
    resumed.go_on_from(resumed.load(resumed.steps()[-1]))
    learning = loaded(path, resumed.steps()[-1]).go(2)
    learning.save(resumed)
    assert resumed.steps() == [10 * learning.updates]
    assert loaded(path, 10 * learning.updates)
    check_tidy(path)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such, because a thousand times fsync takes its time on a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@SITUATIONS
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=["ENOSPC", "EIO", "EACCES"])
def test_a_fault_at_any_operation_of_a_save(quick: Path, situation: Any, stays: bool, number: int) -> None:
    """It is told, and the checkpoints that were there are still; the new one is there as a whole or not at all."""
    log = operations(situation, quick / "all" / "checkpoints")
    assert {"open", "write", "fsync", "rename", "mkdir", "replace"} <= {name for name, _ in log}
    failed = 0
    for at in range(len(log)):
        path = quick / f"run{at}" / "checkpoints"
        checkpoints, learning = situation(path)
        before, step = checkpoints.steps(), 10 * learning.updates
        told = ""
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, at, OSError(number, os.strerror(number)), stays)
            try:
                learning.save(checkpoints)
            except StorageError as error:
                told = str(error)
        steps = check_whole(path, before, step, log[at])
        if told:
            failed += 1
            lines = told.splitlines()
            assert lines[0] == f"cannot write checkpoint {path / str(step)}: {os.strerror(number)}"
            assert lines[1].endswith(f"rlkit resume {path.parent}")
            assert len(lines) == 2
            assert stays or not (path / f".{step}.tmp").exists(), log[at]
            assert checkpoints.latest == (None if situation is first else 20 if situation is again else before[-1])
        else:  # only what is removed has been spared
            assert steps[-1] == step
            assert checkpoints.latest == step
            assert log[at][0] in ("rename", "unlink", "rmdir", "open"), log[at]
        check_goes_on(path, checkpoints, learning)
        shutil.rmtree(path.parent)
    assert failed >= 20


@SITUATIONS
def test_a_kill_at_any_operation_of_a_save(quick: Path, situation: Any) -> None:
    """In a process of its own, which kills itself there, in the middle of it if it writes."""
    log = operations(situation, quick / "all" / "checkpoints")
    for at in range(len(log)):
        path = quick / f"run{at}" / "checkpoints"
        checkpoints, learning = situation(path)
        before, step = checkpoints.steps(), 10 * learning.updates
        child = os.fork()
        if child == 0:
            try:
                with pytest.MonkeyPatch.context() as patch:
                    Disk(patch, at, Killed())
                    learning.save(checkpoints)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        steps = check_whole(path, before, step, log[at])
        if steps:  # resumed from the last one
            checkpoints = Checkpoints(path, keep=2)
            checkpoints.go_on_from(checkpoints.load(steps[-1]))
            learning = loaded(path, steps[-1])
        check_goes_on(path, checkpoints, learning)
        shutil.rmtree(path.parent)


@SITUATIONS
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
def test_a_short_write(quick: Path, situation: Any, stays: bool) -> None:
    """A disk that takes half of what it is given is given the rest."""
    log = operations(situation, quick / "all" / "checkpoints")
    for at in [number for number, (name, _) in enumerate(log) if name == "write"]:
        path = quick / f"run{at}" / "checkpoints"
        checkpoints, learning = situation(path)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, "short", stays)
            learning.save(checkpoints)
        assert len(disk.log) > len(log)
        assert loaded(path, 10 * learning.updates).updates == learning.updates
        check_goes_on(path, checkpoints, learning)


def test_what_counts_is_on_the_disk_before_it_counts(tmp_path: Path) -> None:
    """The content of a file before its name, a checkpoint's files and segments before its name, and that before the
    old ones go."""
    path = tmp_path / "checkpoints"
    log = operations(only, path)

    def place(name: str, where: Path) -> int:
        found = [i for i, entry in enumerate(log) if entry == (name, str(where))]
        assert found, (name, where)
        return found[-1]

    named = place("rename", path / ".50.tmp")
    for file in ("state.json", "tensors.safetensors", "manifest.json"):
        file_path = path / ".50.tmp" / file
        assert place("open", file_path) < place("write", file_path) < place("fsync", file_path)
        assert place("fsync", file_path) < place("fsync", path / ".50.tmp") < named
    segments = [Path(where) for name, where in log if name == "replace"]
    assert len(segments) == 2
    for file_path in segments:
        assert place("write", file_path) < place("fsync", file_path) < place("replace", file_path)
        assert place("replace", file_path) < place("fsync", path / "segments") < named
    removed = [i for i, (name, where) in enumerate(log) if name in ("unlink", "rmdir") or where == str(path / "40")]
    assert named < place("fsync", path) < min(removed)


def test_new_folders_are_on_the_disk_before_anything_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "run" / "checkpoints"
    log = operations(first, path)
    for folder in (path.parent.parent, path.parent, path, path / "segments"):
        made = log.index(("mkdir", str(folder)))
        assert log[made + 1 : made + 3] == [("open", str(folder.parent)), ("fsync", str(folder.parent))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_json_is_the_old_or_the_new(tmp_path: Path, number: int) -> None:
    path = tmp_path / "status.json"
    for at in range(4):
        write_json(path, "old")
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, OSError(number, os.strerror(number)))
            with pytest.raises(StorageError, match=rf"cannot write .*/status\.json: {os.strerror(number)}"):
                write_json(path, "new")
        assert [name for name, _ in disk.log[: at + 1]] == ["open", "write", "fsync", "replace"][: at + 1]
        assert read_json(path) == "old"
        assert os.listdir(tmp_path) == ["status.json"]


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(1, {"a": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(StorageError, match=r"metrics\.jsonl: Input/output error"):
            journal.sync()
    journal.close()
    assert [record["step"] for _, record in read_journal(tmp_path / "metrics.jsonl")] == [1]


# Runs whose disk is full.

RLKIT = str(Path(sys.executable).with_name("rlkit"))
SHORT = (
    *("run", "a2c", "--env", "CartPole-v1", "--env.vectorization", "sync", "--total-steps", "640"),
    *("--collector.num-envs", "4", "--collector.num-steps", "16", "--stop-at", "never", "--eval-every", "1000000"),
    *("--checkpoint-every", "64", "--tracker", "none", "--progress", "none", "--hooks", "rlkit_test_full_disk"),
)
"""Ten updates, a checkpoint after each."""

FULL_DISK = """
    import os, resource
    from rlkit_core.hookspecs import hookimpl

    @hookimpl
    def rlkit_iteration_finished(step, metrics):
        if step == int(os.environ.get("FULL_AT", "0")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
"""
"""A hook after which the process cannot make any file longer: it needs no full disk, and no rights to fill one."""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The hook can be imported, here and in processes."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "rlkit_test_full_disk.py").write_text(textwrap.dedent(FULL_DISK))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield
        sys.modules.pop("rlkit_test_full_disk", None)


def run_in(folder: Path, *arguments: str, environ: Any = (), **more: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **dict(environ)}
    command = [RLKIT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environ, timeout=120, **more)


def outcome(run_dir: Path) -> tuple[Any, ...]:
    """What a run came to: its last policy, and its journal without the clock."""
    records = [record for _, record in read_journal(run_dir / "metrics.jsonl")]
    numbers = [
        (record["step"], {name: x for name, x in record["metrics"].items() if not name.startswith("time/")})
        for record in records
    ]
    return (run_dir / "policy" / "last" / "policy.safetensors").read_bytes(), numbers


@pytest.fixture(scope="module")
def undisturbed(full_disk: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert execute([*SHORT, "--log-every", "128", "--run-dir", str(run_dir)]) == 0
    return outcome(run_dir)


@pytest.mark.parametrize(
    ("full_at", "file", "before"), [(384, "metrics.jsonl", 320), (320, "checkpoints/320", 256)], ids=["journal", "save"]
)
def test_a_run_whose_disk_is_full(
    tmp_path: Path, undisturbed: tuple[Any, ...], full_at: int, file: str, before: int
) -> None:
    """It says so, and goes on from the last checkpoint as if nothing had been."""
    command = (*SHORT, "--log-every", "128", "--run-dir", "run")
    done = run_in(tmp_path, *command, environ={"FULL_AT": str(full_at)})
    assert done.returncode == 6, (done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert lines[0] == f"error: cannot write {'checkpoint ' * ('check' in file)}run/{file}: File too large"
    assert lines[1].strip() == "once it can be written, go on with: rlkit resume run"
    assert len(lines) == 2
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert resume(tmp_path / "run", progress="none").state == "finished"
    assert read_json(tmp_path / "run" / "provenance.json")["resume_exact"] is True
    assert outcome(tmp_path / "run") == undisturbed


def test_a_run_that_cannot_begin_on_a_full_disk(full_disk: None, tmp_path: Path) -> None:
    import resource

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    done = run_in(tmp_path, *SHORT, "--run-dir", "run", preexec_fn=full)
    assert done.returncode == 6, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: cannot write run/")
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}
    RunFolder.create(tmp_path / "run").release()  # the next one can


# Runs that diverge.


class DivergingConfig(A2CConfig):
    """A2C in one of whose updates a number stops being one."""

    name: ClassVar[str] = "diverging"
    where: ClassVar[str] = ""
    at: ClassVar[int] = 0

    def build(self, setup: Setup) -> A2C:
        learner, cls = A2C(self, setup), type(self)
        update, losses, step = learner.update, learner.losses, learner.optimizer.step
        updates = 0

        def now(where: str) -> bool:
            return cls.where == where and updates == cls.at

        def diverging_losses(*args: Any) -> dict[str, torch.Tensor]:
            return {name: loss * (math.nan if now("loss") else 1.0) for name, loss in losses(*args).items()}

        def diverging_step() -> float:
            if now("gradient"):
                next(iter(learner.policy.parameters())).grad[0] = math.inf  # type: ignore[index]
            return step()

        def diverging_update(rollout: Any) -> Any:
            nonlocal updates
            updates += 1
            metrics = update(rollout)
            with torch.no_grad():
                if now("parameter"):
                    next(iter(learner.policy.parameters()))[0] = math.nan
                if now("optimiser"):
                    learner.optimizer._exp_avg_sq[-1] = math.inf
            return metrics

        learner.losses, learner.optimizer.step = diverging_losses, diverging_step  # type: ignore[method-assign]
        learner.update = diverging_update  # type: ignore[method-assign]
        return learner


DIVERGING = ModuleType("diverging_plugin")
DIVERGING.rlkit_register = hookimpl(lambda: [DivergingConfig])  # type: ignore[attr-defined]
SMALL = DivergingConfig(collector=StepsConfig(num_envs=4, num_steps=16), network=MLPConfig(hidden=(8,)))


def go(run_dir: Path, every: int, where: str = "", at: int = 0) -> None:
    """Ten updates, with a checkpoint after each or after some of them."""
    DivergingConfig.where, DivergingConfig.at = where, at
    env = GymnasiumConfig(id="CartPole-v1", vectorization="sync")
    settings: Any = {"env": env, "total_steps": 640, "stop_at": "never", "eval_every": 10**9, "tracker": "none"}
    train(
        SMALL, plugins=[DIVERGING], run_dir=run_dir, progress="none", checkpoint_every=every, log_every=64, **settings
    )


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    run_dir = tmp_path_factory.mktemp("converged") / "run"
    go(run_dir, 64)
    return outcome(run_dir)


@pytest.mark.parametrize(("at", "every"), [(1, 64), (6, 64), (6, 192)])
@pytest.mark.parametrize("where", ["loss", "gradient", "parameter", "optimiser"])
def test_what_has_diverged_is_not_stored(
    tmp_path: Path, converged: tuple[Any, ...], where: str, at: int, every: int
) -> None:
    """The last checkpoint is older, and good; without what spoilt it the run goes on from there."""
    run_dir = tmp_path / "run"
    with pytest.raises(Diverged) as caught:
        go(run_dir, every, where, at)
    assert caught.value.exit_code == 5
    assert read_json(run_dir / "error.json")["exit_code"] == 5
    assert read_json(run_dir / "status.json")["state"] == "failed"
    checkpoints = Checkpoints(run_dir / "checkpoints")
    last = (at - 1) * 64 // every * every  # of the checkpoints before that update
    assert checkpoints.steps() == [step for step in (last - every, last) if step > 0]
    assert not (run_dir / "policy" / "last").exists()
    for step in checkpoints.steps():
        tensors = load_file(run_dir / "checkpoints" / str(step) / "tensors.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    DivergingConfig.where = ""
    result = resume(run_dir, plugins=[DIVERGING], progress="none")
    assert (result.state, result.steps) == ("finished", 640)
    (policy, records), (policy_of_other, records_of_other) = outcome(run_dir), converged
    assert policy == policy_of_other
    assert dict(records) == dict(records_of_other)  # of a step that came out other than before there are two


def test_actions_that_have_diverged_are_not_the_environments_fault(tmp_path: Path) -> None:
    DivergingConfig.where, DivergingConfig.at = "parameter", 3
    settings: Any = {"total_steps": 640, "stop_at": "never", "eval_every": 10**9, "tracker": "none"}
    with pytest.raises(Diverged, match="an action of the policy is not finite"):
        train(
            SMALL,
            plugins=[DIVERGING],
            env="Pendulum-v1",
            run_dir=tmp_path / "run",
            progress="none",
            checkpoint_every=320,
            **settings,
        )
