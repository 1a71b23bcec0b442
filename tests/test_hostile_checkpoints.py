"""Checkpoints that were damaged or made by somebody else: refused in a few lines, with nothing executed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Child, refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from rlkit_core import train
from rlkit_core.checkpoint import Checkpoints
from rlkit_core.component import Setup
from rlkit_core.errors import StorageError
from rlkit_core.evaluation import open_run
from rlkit_core.learner import Learner
from rlkit_core.seeding import SeedStream

DQN = {
    **{"name": "dqn", "warmup_steps": 20, "batch_size": 4, "replay_size": 200, "normalize_observations": True},
    **{"prioritized": True, "network": {"name": "mlp", "hidden": [2]}},
}
"""Every kind of part that a checkpoint can hold, in as few bytes as can be."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted at its end, with two checkpoints and two segments of replay."""
    path = tmp_path_factory.mktemp("original") / "run"
    train(
        {"algorithm": DQN},
        env={"id": "CartPole-v1", "vectorization": "sync"},
        run_dir=path,
        total_steps=96,
        stop_at="never",
        eval_every=10**9,
        eval_max_steps=1,
        checkpoint_every=48,
        tracker="none",
        progress="none",
    )
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    return path


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture(scope="module")
def child(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.getbasetemp()
    warm = Path(shutil.copytree(original, tmp_path_factory.mktemp("warm") / "run"))
    child = Child([["resume", str(warm), "--progress", "none", "--total-steps", "100"]], folder)
    yield child
    child.close()


STEP = "96"
FILES = ("manifest.json", "state.json", "tensors.safetensors")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def last(run: Path) -> Path:
    return run / "checkpoints" / STEP


def segment(run: Path) -> Path:
    name = json.loads((last(run) / "manifest.json").read_text())["segments"]["replay"][-1]["file"]
    return run / "checkpoints" / "segments" / str(name)


def manifest(run: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Change the manifest, and give it the hashes of what is there now."""
    path = last(run) / "manifest.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    for name in FILES[1:]:
        data = (last(run) / name).read_bytes()
        content["files"][name] = {"size": len(data), "sha256": sha256(data)}
    for one in content["segments"].get("replay", []):
        data = (run / "checkpoints" / "segments" / one["file"]).read_bytes()
        one.update(size=len(data), sha256=sha256(data))
    change(content)
    content["sha256"] = sha256(json.dumps(content, sort_keys=True).encode())
    path.write_text(json.dumps(content))


def state(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the state, with hashes that are right."""
    path = last(run) / "state.json"
    content = json.loads(path.read_text())
    answer = change(content)
    path.write_text(answer if isinstance(answer, str) else json.dumps(content))
    manifest(run)


def tensors(run: Path, change: Callable[[dict[str, torch.Tensor]], object], file: Path | None = None) -> None:
    """Change tensors, with hashes that are right."""
    path = file or last(run) / "tensors.safetensors"
    content = load(path.read_bytes())
    change(content)
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in content.items()}))
    manifest(run)


def raw(run: Path, name: str, content: bytes) -> None:
    """Other bytes for a file, with hashes that are right."""
    (segment(run) if name == "segment" else last(run) / name).write_bytes(content)
    if name != "manifest.json":
        manifest(run)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": Bomb()}, buffer)
    return buffer.getvalue()


def zip_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../PWNED", "x")
    return buffer.getvalue()


def tar_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../PWNED"))
    return buffer.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


BYTES = {
    "empty": b"",
    "pickle": pickle.dumps(Bomb()),
    "pickle protocol 0": pickle.dumps(Bomb(), protocol=0),
    "torch archive": torch_archive(),
    "zip": zip_archive(),
    "tar": tar_archive(),
    "npy of objects": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 60,
    "base64 of a pickle": base64.b64encode(pickle.dumps(Bomb())),
    "python": b"import os\nos.mkdir('PWNED')\n",
    "zeros": b"\0" * 1000,
}
HEADERS = {
    "header length": (2**63).to_bytes(8, "little") + b"{}",
    "header length 2": (10_000).to_bytes(8, "little") + b"{}",
    "header bomb": header("[" * 200_000),
    "header of many": header("{" + ",".join(f'"{i}":{tensor("F32", [0], 0, 0)}' for i in range(30_000)) + "}"),
    "overlap": header(f'{{"a":{tensor("F32", [1], 0, 4)},"b":{tensor("F32", [1], 2, 6)}}}', b"\0" * 6),
    "twice": header(f'{{"a":{tensor("F32", [1], 0, 4)},"a":{tensor("F32", [1], 0, 4)}}}', b"\0" * 4),
    "backwards": header(f'{{"a":{tensor("F32", [1], 4, 0)}}}', b"\0" * 4),
    "hole": header(f'{{"a":{tensor("F32", [1], 4, 8)}}}', b"\0" * 8),
    "huge shape": header(f'{{"a":{tensor("F32", [10**12], 0, 4 * 10**12)}}}'),
    "overflow": header(f'{{"a":{tensor("F32", [2**62, 4], 0, 0)}}}'),
    "negative shape": header(f'{{"a":{tensor("F32", [-1], 0, 4)}}}', b"\0" * 4),
    "unknown dtype": header(f'{{"a":{tensor("O", [1], 0, 8)}}}', b"\0" * 8),
    "nothing": header("{}"),
}
JSONS = {
    "deep": b"[" * 100_000,
    "deep tables": b'{"a":' * 100_000,
    "deep and closed": b"[" * 50_000 + b"]" * 50_000,
    "huge int": b'{"format":' + b"9" * 1_000_000 + b"}",
    "overflow": b'{"format":1e999}',
    "nan": b'{"format":NaN}',
    "twice": b'{"format":1,"format":2}',
    "list": b"[1]",
    "text": b'"x"',
    "latin": b'{"format":"\xe9"}',
    "half a letter": b'{"format":"\\ud800"}',
    "nul": b"\0",
    "many lists": b"[" + b"[]," * 6_000_000 + b"[]]",
    "many tables": b"[" + b'{"a":0},' * 2_400_000 + b"0]",
    "too large": b"[" + b"1," * 15_000_000 + b"1]",
    "many numbers": b'{"learner":[' + b"999," * 4_900_000 + b"0]}",
    "long float": b'{"learner":' + b"9" * 5_000_000 + b".0}",
}
PLACES: dict[str, Callable[[Path], object]] = {
    "link to a file": lambda run: relink(last(run) / "state.json", "/etc/passwd"),
    "link to the same": lambda run: relink(last(run) / "state.json", aside(last(run) / "state.json")),
    "link of a manifest": lambda run: relink(last(run) / "manifest.json", aside(last(run) / "manifest.json")),
    "link of a segment": lambda run: relink(segment(run), aside(segment(run))),
    "link of a checkpoint": lambda run: relink(last(run), aside(last(run))),
    "link of all checkpoints": lambda run: relink(run / "checkpoints", aside(run / "checkpoints")),
    "link of the segments": lambda run: relink(
        run / "checkpoints" / "segments", aside(run / "checkpoints" / "segments")
    ),
    "link to nothing": lambda run: relink(last(run) / "tensors.safetensors", "/nowhere"),
    "link to itself": lambda run: relink(last(run) / "manifest.json", last(run) / "manifest.json"),
    "device": lambda run: relink(last(run) / "state.json", "/dev/zero"),
    "pipe as manifest": lambda run: pipe(last(run) / "manifest.json"),
    "pipe as state": lambda run: pipe(last(run) / "state.json"),
    "pipe as segment": lambda run: pipe(segment(run)),
    "folder as state": lambda run: folder(last(run) / "state.json"),
    "file as checkpoint": lambda run: (shutil.rmtree(last(run)), last(run).write_text("x")),
    "file as checkpoints": lambda run: (
        shutil.rmtree(run / "checkpoints"),
        (run / "checkpoints").write_text("x"),
    ),
    "no manifest": lambda run: (last(run) / "manifest.json").unlink(),
    "no state": lambda run: (last(run) / "state.json").unlink(),
    "no tensors": lambda run: (last(run) / "tensors.safetensors").unlink(),
    "no segment": lambda run: segment(run).unlink(),
    "empty folder": lambda run: (shutil.rmtree(last(run)), last(run).mkdir()),
    "sparse tensors": lambda run: os.truncate(last(run) / "tensors.safetensors", 10**12),
    "sparse state": lambda run: os.truncate(last(run) / "state.json", 10**12),
    "sparse manifest": lambda run: os.truncate(last(run) / "manifest.json", 10**12),
    "sparse segment": lambda run: os.truncate(segment(run), 10**12),
    "another step": lambda run: last(run).rename(run / "checkpoints" / "97"),
    "huge step": lambda run: shutil.copytree(last(run), run / "checkpoints" / str(10**17)),
}


def aside(path: Path) -> Path:
    """Move what is there away, and say where to."""
    other = path.parent.parent / f"aside-{path.name}"
    path.rename(other)
    return other.absolute()


def relink(path: Path, target: str | Path) -> None:
    if path.exists():
        path.unlink()
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put(*path: str | int, value: Any) -> Callable[[Path], object]:
    """Another value somewhere in the state."""

    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return lambda run: state(run, change)


def other(name: str, value: torch.Tensor | None) -> Callable[[Path], object]:
    """Another tensor, or none."""

    def change(content: dict[str, torch.Tensor]) -> None:
        if value is None:
            del content[name]
        else:
            content[name] = value

    return lambda run: tensors(run, change)


def row(name: str, value: torch.Tensor) -> Callable[[Path], object]:
    """Another tensor in the last segment."""
    return lambda run: tensors(run, lambda content: content.update({name: value}), segment(run))


def said(*path: str | int, value: Any) -> Callable[[Path], object]:
    """Another value somewhere in the manifest, whose own hash is right."""

    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return lambda run: manifest(run, change)


EXP_AVG = "learner/optimizer/exp_avg"
WEIGHT = "learner/policy/q_network.head.weight"
DEEP: Any = {}
for _ in range(700):
    DEEP = {"a": DEEP}

SIGNED: dict[str, Callable[[Path], object]] = {
    # the manifest
    "traversal in a file name": said("files", value={"../../../etc/passwd": {"size": 1, "sha256": "x"}}),
    "traversal in a segment": said("segments", "replay", 1, "file", value="../../../../etc/passwd"),
    "absolute segment": said("segments", "replay", 1, "file", value="/etc/passwd"),
    "segment with nul": said("segments", "replay", 1, "file", value="replay-0123456789abcdef.safetensors\0"),
    "segment with newline": said("segments", "replay", 1, "file", value="replay-0123456789abcdef.safetensors\n"),
    "segment is a number": said("segments", "replay", 1, "file", value=5),
    "segment is a list": said("segments", "replay", 1, "file", value=["x"]),
    "segments are text": said("segments", value="x"),
    "segments are lists": said("segments", value=[[]]),
    "segment of nobody": said("segments", value={"nobody": []}),
    "segments in another order": lambda run: manifest(run, lambda content: content["segments"]["replay"].reverse()),
    "segment twice": lambda run: manifest(
        run, lambda content: content["segments"].update(replay=content["segments"]["replay"] * 2)
    ),
    "one segment less": lambda run: manifest(run, lambda content: content["segments"]["replay"].pop()),
    "size is negative": said("segments", "replay", 1, "size", value=-1),
    "size is none": said("segments", "replay", 1, "size", value=None),
    "size is text": said("files", "state.json", "size", value="x"),
    "hash is a number": said("files", "state.json", "sha256", value=0),
    "files are a list": said("files", value=[]),
    "wrong step": said("step", value=48),
    "negative step": said("step", value=-1),
    "step is text": said("step", value=STEP),
    "wrong format": said("format", value=2),
    "format is a list": said("format", value=["x" * 100_000]),
    "made with nothing": said("made_with", value=None),
    "made with a list": said("made_with", value=[]),
    "plugins are a number": said("made_with", "plugins", value=5),
    "plugins without a name": said("made_with", "plugins", value=[{}]),
    "plugins of lists": said("made_with", "plugins", value=[{"module": []}]),
    # the state: structure
    "state is a list": lambda run: state(run, lambda _: "[]"),
    "state is nothing": lambda run: state(run, lambda _: "null"),
    "state is a learner's only": lambda run: state(run, lambda _: '{"learner":{}}'),
    "no tensor of that name": put("learner", "optimizer", "exp_avg", value={"$tensor": "nobody"}),
    "tensor is a list": put("learner", "optimizer", "exp_avg", value={"$tensor": ["x"]}),
    "tensor is a number": put("learner", "optimizer", "exp_avg", value={"$tensor": 5}),
    "tensor twice": put("learner", "optimizer", "exp_avg_sq", value={"$tensor": EXP_AVG}),
    "items of one": put("learner", "clock", value={"$items": [[1]]}),
    "items unhashable": put("learner", "clock", value={"$items": [[{"$tuple": [[]]}, 1]]}),
    "items are a number": put("learner", "clock", value={"$items": 5}),
    "float is text": put("counters", "best", value={"$float": "x"}),
    "float is long": put("counters", "best", value={"$float": "9" * 3_000_000 + "x"}),
    "float is a list": put("counters", "best", value={"$float": []}),
    "tuple is a number": put("generators", "python", value={"$tuple": 5}),
    "deep": put("learner", "clock", value=DEEP),
    "no parts": put("learner", value={}),
    "other parts": put("learner", "nobody", value={}),
    "parts are a list": put("learner", value=[]),
    # the state: counters
    "counters are a list": put("counters", value=[]),
    "no counters": lambda run: state(run, lambda content: content.pop("counters") and None),
    "one counter less": lambda run: state(run, lambda content: content["counters"].pop("best") and None),
    **{
        f"{name} is {what}": put("counters", name, value=value)
        for name in ("steps", "updates", "next_log", "next_evaluation", "next_checkpoint", "num_evaluations", "journal")
        for what, value in {"text": "5", "negative": -1, "huge": 10**40, "a half": 0.5, "a list": [1]}.items()
    },
    "other steps": put("counters", "steps", value=95),
    "best is text": put("counters", "best", value="x"),
    "best is none": put("counters", "best", value=None),
    "seconds have no end": put("counters", "seconds", value={"$float": "inf"}),
    "return is no number": put("counters", "evaluation_return", value={"$float": "nan"}),
    "seconds are text": put("counters", "seconds", value="x"),
    "return is a list": put("counters", "evaluation_return", value=[]),
    "journal is longer": put("counters", "journal", value=10**9),
    # the state: what was averaged
    "recorder is a list": put("recorder", value=[]),
    "sums are text": put("recorder", "sums", value={"x": "y"}),
    "sums are a list": put("recorder", "sums", value=[1]),
    "counts are missing": put("recorder", "sums", value={"x": 1.0}),
    "returns are text": put("recorder", "returns", value=["x"]),
    "returns are a number": put("recorder", "returns", value=5),
    "lengths are halves": put("recorder", "lengths", value=[0.5]),
    "running return is a list": put("recorder", "running_return", value=[]),
    # the state: generators
    "generators are a list": put("generators", value=[]),
    "python generator is a list": put("generators", "python", value=[3, [1], None]),
    "python generator is short": put("generators", "python", value={"$tuple": [3, {"$tuple": [1, 2]}, None]}),
    "python generator of texts": put("generators", "python", value={"$tuple": [3, {"$tuple": ["x"] * 625}, None]}),
    "python generator is huge": put("generators", "python", value={"$tuple": [3, {"$tuple": [2**99] * 625}, None]}),
    "python generator index": put("generators", "python", value={"$tuple": [3, {"$tuple": [9**9] * 625}, None]}),
    "numpy generator is another": put("generators", "numpy", value={"$tuple": ["PCG64", 1, 2, 3, 4]}),
    "numpy generator is short": other("generators/numpy/1", torch.zeros(3, dtype=torch.int64)),
    "torch generator is short": other("generators/torch", torch.zeros(3, dtype=torch.uint8)),
    "torch generator of floats": other("generators/torch", torch.zeros(5056)),
    "torch generator is text": put("generators", "torch", value="x"),
    "cuda generator is text": put("generators", "cuda", value="x"),
    "actions' generator is short": other("collector/generator", torch.zeros(3, dtype=torch.uint8)),
    "replay's generator is another": put("learner", "replay", "generator", "bit_generator", value="MT19937"),
    "replay's generator is text": put("learner", "replay", "generator", "state", value="x"),
    "replay's generator is huge": put("learner", "replay", "generator", "state", "state", value=2**200),
    # the learner's parts
    "no tensor": other(WEIGHT, None),
    "one more tensor": other("learner/policy/x", torch.ones(1)),
    "weights of another shape": other(WEIGHT, torch.ones(3, 3)),
    "weights without end": other(WEIGHT, torch.full((2, 2), math.inf)),
    "moments of one number": other(EXP_AVG, torch.ones(())),
    "moments of another shape": other(EXP_AVG, torch.ones(5)),
    "moments that are no numbers": lambda run: tensors(run, lambda content: content[EXP_AVG].fill_(math.nan)),
    "learning rate is text": put("learner", "optimizer", "learning_rate", value="x"),
    "clock is a list": put("learner", "clock", value=[]),
    "clock is text": put("learner", "clock", "steps", value="x"),
    # replay
    "rows": put("learner", "replay", "rows", value=10**9),
    "rows are text": put("learner", "replay", "rows", value="x"),
    "head is short": put("learner", "replay", "head", value=[1]),
    "head is huge": put("learner", "replay", "head", value=[2**70] * 4),
    "count is negative": put("learner", "replay", "count", value=[-5] * 4),
    "count is larger": put("learner", "replay", "count", value=[10**6] * 4),
    "priorities of another size": other("learner/replay/priorities", torch.ones(3, dtype=torch.float64)),
    "waiting rows of one number": other("learner/replay/waiting/0", torch.ones(())),
    "waiting rows are short": put("learner", "replay", "waiting", value=[]),
    "rows of one number": row("rewards", torch.ones(())),
    "rows of another size": row("obs.0", torch.ones(1, 4)),
    "rows of other numbers": row("rewards", torch.ones(50, dtype=torch.float64)),
    "rows begin below": row("begin", torch.full((4,), -5)),
    "rows begin later": row("begin", torch.full((4,), 2**62)),
    "rows end before": row("end", torch.zeros(4, dtype=torch.int64)),
    "rows of no column": row("begin", torch.zeros(0, dtype=torch.int64)),
    "rows of actions that there are not": lambda run: tensors(
        run, lambda content: content["action.0"].fill_(7), segment(run)
    ),
    "rows by halves": row("end", torch.full((4,), 0.5)),
    "rows that are pickles": lambda run: raw(run, "segment", pickle.dumps(Bomb())),
    # environments
    "collector is text": put("collector", value="x"),
    "collector is a list": put("collector", value=[]),
    "environments are a list": put("collector", "environments", value=[]),
    "episodes of text": put("collector", "environments", "episode", value="x"),
    "episodes of another number": other("collector/environments/episode", torch.zeros(9, dtype=torch.int64)),
    "lanes are a number": put("collector", "environments", "lanes", value=5),
    "lanes are lists": put("collector", "environments", "lanes", value=[[]] * 4),
}


def test_the_watch_sees_what_it_should(child: Child, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"rlkit-{os.getpid()}"
    module = tmp_path_factory.getbasetemp() / "hostile_module.py"
    module.write_text(
        f"import os\nos.system('true')\nopen({str(outside)!r}, 'w').close()\nos.remove({str(outside)!r})\n"
    )
    answer = child("run", "dqn", "--import", "hostile_module", "--env", "nowhere")
    assert answer["code"] == 2
    seen = {event.split()[0] for event in answer["events"]}
    assert {"compile", "exec", "os.system", "open", "os.remove"} <= seen


@pytest.mark.parametrize("name", [*FILES, "segment"])
def test_bytes_of_other_formats(name: str, original: Path, tmp_path: Path, child: Child) -> None:
    contents = {**BYTES, **(HEADERS if not name.endswith(".json") else {})}
    for what, content in contents.items():
        run = Path(shutil.copytree(original, tmp_path / what))
        raw(run, name, content)
        assert str(run) in refused(child("resume", run, "--progress", "none"), [6]), what
        shutil.rmtree(run)
    assert not (tmp_path.parent / "PWNED").exists()


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
@pytest.mark.parametrize("what", JSONS)
def test_json_bombs(what: str, name: str, run: Path, child: Child) -> None:
    raw(run, name, JSONS[what])
    refused(child("resume", run, "--progress", "none"), [6])


@pytest.mark.parametrize("what", PLACES)
def test_what_is_no_file(what: str, run: Path, child: Child) -> None:
    PLACES[what](run)
    refused(child("resume", run, "--progress", "none"), [6])


@pytest.mark.parametrize("what", SIGNED)
def test_wrong_content_with_right_hashes(what: str, run: Path, child: Child) -> None:
    SIGNED[what](run)
    refused(child("resume", run, "--progress", "none"), [6])


# ---- a checkpoint with some bytes changed ----

Build = Callable[[], Learner]


@pytest.fixture(scope="module")
def learner(original: Path) -> Build:
    """Makes a learner as the run's was: replay takes its rows back only while it is empty."""
    config = open_run(original)
    with config.env.make(4, SeedStream(0)) as environments:
        setup = Setup(
            observation_space=environments.observation_space,
            action_space=environments.action_space,
            num_envs=4,
            total_steps=96,
            device="cpu",
            seeds=SeedStream(0),
        )
    return lambda: config.algorithm.build(setup)


def files_of(run: Path) -> list[Path]:
    return [*(last(run) / name for name in FILES), *sorted((run / "checkpoints" / "segments").iterdir())]


def read(run: Path, learner: Build) -> dict[str, Any] | None:
    """Load and restore; the state, or None where it was refused. Anything else fails the test."""
    began = time.process_time()
    checkpoint, refusal = None, ""
    try:
        checkpoint = Checkpoints(run / "checkpoints").load(int(STEP))
        checkpoint.restore(learner().parts())
    except StorageError as error:
        checkpoint, refusal = None, str(error)
    assert time.process_time() - began < 2
    assert len(refusal) < 1000
    assert "\n" not in refusal
    return None if checkpoint is None else checkpoint.state


def test_the_original_is_read(run: Path, learner: Build) -> None:
    assert read(run, learner) is not None


@pytest.mark.thorough
def test_cut_at_every_byte(run: Path, learner: Build) -> None:
    for path in files_of(run):
        whole = path.read_bytes()
        for size in reversed(range(len(whole))):
            os.truncate(path, size)
            assert read(run, learner) is None, (path, size)
        path.write_bytes(whole)
    assert read(run, learner) is not None


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A bit flipped, a byte inserted or removed, two bytes swapped, or a piece moved, removed or doubled."""
    place, other = (generator.randrange(len(content)) for _ in range(2))
    first, second = sorted((place, other))
    byte = bytes([generator.randrange(256)])
    changed = bytearray(content)
    match generator.randrange(7):
        case 0 | 1:
            changed[place] ^= 1 << generator.randrange(8)
        case 2:
            changed[place:place] = byte
        case 3:
            del changed[place]
        case 4:
            changed[place], changed[other] = changed[other], changed[place]
        case 5:
            changed[first:second] = b""
        case 6:
            changed[first:first] = content[first:second]
    return bytes(changed)


def mutations(run: Path, learner: Build, count: int) -> None:
    generator = random.Random(0)
    paths = [
        *files_of(run),
        *files_of(run)[: len(FILES)],
    ]  # segments less often: they are read last, which takes longest
    for i in range(count):
        path = paths[i % len(paths)]
        whole = path.read_bytes()
        changed = mutated(whole, generator)
        if changed == whole:
            continue
        path.write_bytes(changed)
        if read(run, learner) is not None:
            # White space, or another way to write the same: only a manifest has no hash over its bytes.
            assert path.name == "manifest.json", path
            assert json.loads(changed) == json.loads(whole)
        path.write_bytes(whole)
    assert read(run, learner) is not None


def test_mutations(run: Path, learner: Build) -> None:
    mutations(run, learner, 2_000)


@pytest.mark.long
def test_many_mutations(run: Path, learner: Build) -> None:
    mutations(run, learner, 10_000)


# ---- anything, with hashes that are right ----

NAMES = st.sampled_from(
    ["$tensor", "$array", "$float", "$tuple", "$items", "learner", "policy", "replay", "counters", "steps", "x"]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["learner/optimizer/exp_avg", "nan", "-inf", STEP, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(data=st.data())
def test_any_value_anywhere(data: st.DataObject, original: Path, learner: Build) -> None:
    """A part of the state or the manifest is replaced, wherever it is."""
    run = Path(shutil.copytree(original, original.parent / "any", dirs_exist_ok=True))
    change = data.draw(ANYTHING, "value")
    name = data.draw(st.sampled_from(["state.json", "manifest.json"]), "file")

    def replace(content: Any) -> None:
        while True:
            keys = list(content) if isinstance(content, dict) else list(range(len(content)))
            key = data.draw(st.sampled_from(keys), "key")
            inner = content[key]
            if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans(), "here"):
                content[key] = change
                return
            content = inner

    (state if name == "state.json" else manifest)(run, replace)
    read(run, learner)


@given(name=st.sampled_from([*FILES[1:], "segment"]), content=st.binary(max_size=300))
def test_any_bytes(name: str, content: bytes, original: Path, learner: Build) -> None:
    run = Path(shutil.copytree(original, original.parent / "any", dirs_exist_ok=True))
    raw(run, name, content)
    assert read(run, learner) is None


@given(header=ANYTHING, data=st.binary(max_size=50))
def test_any_header_of_tensors(header: Any, data: bytes, original: Path, learner: Build) -> None:
    run = Path(shutil.copytree(original, original.parent / "any", dirs_exist_ok=True))
    text = json.dumps(header).encode()
    raw(run, "tensors.safetensors", len(text).to_bytes(8, "little") + text + data)
    assert read(run, learner) is None
