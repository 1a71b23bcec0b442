"""Run folders that were damaged or made by somebody else: every command refuses them, or does its work nevertheless."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Child, refused
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core import train
from rlkit_core.errors import RlkitError
from rlkit_core.run_folder import RunFolder, read_journal
from rlkit_core.tracking import Record, TrackedRun, Tracker, sync

COMMANDS = {
    "resume": ("--progress", "none"),
    "eval": ("--episodes", "1", "--max-steps", "1"),
    "watch": ("--video", "x.gif", "--max-steps", "1"),
    "sync": (),
}
READ_BY = {
    **{"status.json": ("resume", "sync"), "provenance.json": ("resume",), "metrics.jsonl": ("resume", "sync")},
    **{"tracking.json": ("resume", "sync"), "error.json": ("resume",), "checkpoints": ("resume",)},
    **{"policy/last/policy.json": ("eval", "watch"), "policy/last/policy.safetensors": ("eval", "watch")},
    **{"policy/last": ("resume", "eval"), "policy": ("resume", "eval"), ".lock": ("resume",)},
    **{".tracking.lock": ("resume", "sync"), "config.json": tuple(COMMANDS)},
}
"""The commands to which a file matters."""
FILES = (
    *("config.json", "provenance.json", "status.json", "metrics.jsonl", "tracking.json", "error.json"),
    *("policy/last/policy.json", "policy/last/policy.safetensors"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted at its end."""
    path = tmp_path_factory.mktemp("original") / "run"
    train(
        {"algorithm": {"name": "a2c", "collector": {"num_envs": 2, "num_steps": 4}, "network": {"hidden": [2]}}},
        env={"id": "CartPole-v1", "vectorization": "sync"},
        run_dir=path,
        total_steps=64,
        stop_at="never",
        eval_every=32,
        eval_episodes=1,
        eval_max_steps=1,
        checkpoint_every=32,
        tracker="none",
        progress="none",
        preset="none",
    )
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    (path / "tracking.json").write_text(json.dumps({"tracker": "none", "offset": 0, "state": "ok", "ids": {}}))
    (path / "error.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def child(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("inside")
    warm = shutil.copytree(original, folder / "warm")
    child = Child(
        [
            *([name, str(warm), *arguments] for name, arguments in COMMANDS.items()),
            ["resume", str(warm), "--progress", "none", "--total-steps", "80", "--checkpoint", "32", "--allow-drift"],
        ],
        folder,
    )
    yield child
    child.close()


Every = Callable[[str, Callable[[Path], object]], None]


@pytest.fixture
def every(original: Path, child: Child) -> Iterator[Every]:
    """Damage a file of a copy of the run and give it to commands: each works or refuses, at once and without harm."""
    run = child.folder / "run"

    def call(file: str, damage: Callable[[Path], object]) -> None:
        for name in READ_BY[file]:
            shutil.copytree(original, run)
            damage(run / file)
            answer = child(name, run, *COMMANDS[name])
            assert answer["code"] in (0, 2, 3, 6, 7), (name, answer)
            if answer["code"] in (2, 3, 6):
                refused(answer, lines=8 if answer["code"] == 2 else 3)  # every wrong setting has its line
            if name != "watch" or answer["code"]:  # to write a video, imageio looks for packages that are not there
                assert not answer["events"], (name, answer)
            assert answer["seconds"] < 2, (name, answer)
            assert answer["mib"] < 512, (name, answer)
            shutil.rmtree(run)

    yield call
    shutil.rmtree(run, ignore_errors=True)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


CONTENTS = {
    "empty": b"",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "list": b"[1]",
    "table": b"{}",
    "tables": b'[{"a":{}}]',
    "deep": b"[" * 100_000,
    "deep tables": b'{"imports":' * 900 + b"1" + b"}" * 900,
    "nan": b'{"state": NaN}',
    "overflow": b'{"state": 1e999}',
    "digits": b'{"state": ' + b"9" * 100_000 + b"}",
    "half a letter": b'{"state": "\\ud800"}',
    "binary": bytes(range(256)),
    "pickle": pickle.dumps(Bomb()),
    "zeros": b"\0" * 1000,
    "many lists": b"[" + b"[]," * 6_000_000 + b"[]]",
    "a long line": b"x" * 30_000_000,
    "records": b'{"step":1,"time":1,"metrics":{}}\n' * 1000,
    "records of other things": b'{"step":[],"time":"x","metrics":{"a":[],"b":null,"c":1e999,"d":%s}}\n' % (b"9" * 400)
    + b'{"step":1,"time":1,"metrics":[]}\n{"step":-1,"time":-1,"metrics":{"a":"x"}}\n[]\n5\n"x"\nnull\n\xff\n',
}


def pairs(every: int, names: Iterable[str], files: Iterable[str]) -> list[Any]:
    """All pairs; each name with one of so many files in the normal run, and with the others in the long one."""
    return [
        pytest.param(name, file, marks=[pytest.mark.long] if (i + j) % every else [])
        for i, name in enumerate(names)
        for j, file in enumerate(files)
    ]


@pytest.mark.parametrize(("what", "file"), pairs(5, CONTENTS, FILES))
def test_other_contents(what: str, file: str, every: Every) -> None:
    every(file, lambda path: path.write_bytes(CONTENTS[what]))


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link to passwd": lambda path: path.symlink_to("/etc/passwd"),
    "link to zero": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "link to itself": lambda path: path.symlink_to(path),
    "link up": lambda path: path.symlink_to("../.."),
    "sparse": lambda path: (path.touch(), os.truncate(path, 10**12)),
}


@pytest.mark.parametrize(
    ("what", "file"), pairs(5, PLACES, [*FILES, ".lock", ".tracking.lock", "policy", "policy/last", "checkpoints"])
)
def test_what_is_no_file(what: str, file: str, every: Every) -> None:
    if file == "metrics.jsonl" and what == "sparse":
        pytest.skip("a journal may be as long as the disk is large")
    every(file, lambda path: replaced(path, PLACES[what]))


@pytest.mark.parametrize("file", [*FILES, "metrics.aside.jsonl", "tracking.log", ".lock", ".tracking.lock"])
def test_nothing_is_written_through_a_link(file: str, original: Path, child: Child, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    quiet = ("--progress", "none")
    for name, arguments in (("sync", ()), ("resume", quiet), ("resume", (*quiet, "--allow-drift"))):
        shutil.rmtree(child.folder / "run", ignore_errors=True)
        run = shutil.copytree(original, child.folder / "run")
        if "--allow-drift" in arguments:
            config = json.loads((run / "config.json").read_text())
            (run / "config.json").write_text(json.dumps({**config, "threads": 2}))
        content = (run / file).read_bytes() if (run / file).exists() else b"mine"
        outside.write_bytes(content)
        replaced(run / file, lambda path: path.symlink_to(outside))
        answer = child(name, run, *arguments)
        assert answer["code"] in (0, 2, 3, 6, 7), (name, answer)
        assert not answer["events"], (name, answer)
        assert outside.read_bytes() == content
        shutil.rmtree(run)


def test_records_that_are_none_are_passed_over(original: Path, child: Child) -> None:
    metrics = b'{"step":64,"time":1,"metrics":[]}\n'
    for content in (metrics, CONTENTS["records of other things"], b"\xff" * 100, b"x" * 11_000_000 + b"\n"):
        run = shutil.copytree(original, child.folder / "run")
        position = json.loads((run / "checkpoints" / "64" / "state.json").read_text())["counters"]["journal"]
        os.truncate(run / "metrics.jsonl", position)  # what follows is compared with what the run does again
        with open(run / "metrics.jsonl", "ab") as file:
            file.write(content)
        answer = child("resume", run, "--progress", "none")
        shutil.rmtree(run)
        assert answer["code"] == 0, answer
        assert answer["mib"] < 100


def test_a_link_to_a_folder_is_not_written_through(original: Path, child: Child, tmp_path: Path) -> None:
    for name in ("checkpoints", "policy", "policy/last"):
        shutil.rmtree(child.folder / "run", ignore_errors=True)
        run = shutil.copytree(original, child.folder / "run")
        outside = shutil.move(run / name, tmp_path / name.replace("/", "-"))
        (run / name).symlink_to(outside)
        before = sorted((path.relative_to(outside), path.stat().st_mtime_ns) for path in Path(outside).rglob("*"))
        answer = child("resume", run, "--progress", "none", "--total-steps", "80")
        assert not answer["events"], (name, answer)
        after = sorted((path.relative_to(outside), path.stat().st_mtime_ns) for path in Path(outside).rglob("*"))
        assert after == before
        shutil.rmtree(run)


VALUES: tuple[Any, ...] = (None, -1, 2**70, 0.5, "\0", "../../x", [], [[]], {"a": {"b": []}})


@pytest.mark.parametrize("number", [1, pytest.param(len(VALUES), marks=pytest.mark.long)])
@pytest.mark.parametrize("file", ["status.json", "provenance.json", "tracking.json", "config.json"])
def test_every_key_with_other_values(file: str, number: int, original: Path, every: Every) -> None:
    content = json.loads((original / file).read_text())
    extra = {"provenance.json": ("resumes", "init_from"), "status.json": ("error",), "tracking.json": ("error",)}
    for i, key in enumerate((*content, *extra.get(file, ()))):
        if file == "config.json" and key in ("algorithm", "total_steps"):
            continue  # the run does not fit any more, or goes on for ever
        for value in (VALUES[i % len(VALUES) :] + VALUES)[:number]:
            every(file, lambda path: path.write_text(json.dumps({**content, key: value})))  # noqa: B023


def test_a_finished_run_with_another_result(original: Path, child: Child) -> None:
    status = json.loads((original / "status.json").read_text())
    for value in VALUES:
        for result in (value, {"steps": value}, {**status["result"], "signal": value, "seconds": value}):
            shutil.rmtree(child.folder / "run", ignore_errors=True)
            run = shutil.copytree(original, child.folder / "run")
            (run / "status.json").write_text(json.dumps({**status, "state": "finished", "result": result}))
            answer = child("resume", run)
            assert answer["code"] in (0, 6), answer
            shutil.rmtree(run)


class Recording(Tracker):
    """Takes what it is given as numbers."""

    def start(self, run: TrackedRun) -> None:
        assert isinstance(run.name, str)
        assert isinstance(run.algorithm, str)
        assert isinstance(run.environment, str)

    def log(self, records: list[Record]) -> None:
        for record in records:
            assert 0 <= record["time"] < 2**63
            assert all(isinstance(value, (int, float)) for value in record["metrics"].values())

    def finish(self, state: str, time: int) -> None:
        assert isinstance(state, str)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["step", "time", "metrics", "offset", "ids", "state", "pid", "host", "env", "id", "tracker"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    file=st.sampled_from(FILES[:6]),
    content=st.binary(max_size=100)
    | st.lists(ANYTHING, max_size=3).map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
)
def test_anything_is_sent_or_refused(
    file: str, content: bytes, original: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.getbasetemp() / "sent"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(original, run)
    (run / file).write_bytes(content)
    try:
        assert isinstance(sync(run, build=lambda config: Recording()), str)
    except RlkitError as error:
        assert error.exit_code in (2, 6), error  # noqa: PT017
    assert all(isinstance(record["metrics"], dict) for _, record in read_journal(run / "metrics.jsonl"))
    assert isinstance(RunFolder(run).config_path, Path)
