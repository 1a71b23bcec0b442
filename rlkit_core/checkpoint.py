"""Checkpoints: all that decides how a run goes on, so that a resumed one computes the same bits.

    checkpoints/
      120000/                 by environment step
        manifest.json         the other files with sizes and hashes, what the run was made with, a hash of itself
        state.json            numbers, texts and structure
        tensors.safetensors   tensors and arrays
      segments/               rows of replays, each written once, named by part and hash; manifests refer to them

A checkpoint is written into a folder of another name, each file and the folder are brought to the disk, and then it
gets its name: it is there as a whole or not at all. Nothing in it is a pickle, and nothing in it names code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit_core.errors import Diverged, StorageError, UsageError
from rlkit_core.learner import GrowingPart, Part
from rlkit_core.run_folder import (
    MAX_JSON_SIZE,
    check_folder,
    how_to_go_on,
    make_folder,
    parse_json,
    read_signed,
    replace_file,
    signed,
    sync_folder,
    write_file,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1

_STATE, _TENSORS, _MANIFEST, _SEGMENTS = "state.json", "tensors.safetensors", "manifest.json", "segments"
_KINDS = ("$tensor", "$array", "$float", "$tuple", "$items")


@dataclass(frozen=True)
class _Segment:
    """A file of rows: its name, size and hash, and how far the part's rows go with it."""

    file: str
    size: int
    sha256: str
    position: list[int]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Attributes:
        step: environment steps of the run by then.
        state: what `Checkpoints.save` was given.
        made_with: likewise.
    """

    step: int
    state: dict[str, Any]
    made_with: dict[str, Any]
    _folder: Path
    _segments: dict[str, list[_Segment]]

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Give a learner's parts their states back.

        Raises:
            StorageError: they do not fit, or a file is damaged.
        """
        states = self.state["learner"]
        if states.keys() != parts.keys():
            raise StorageError(f"{self._folder} holds the parts {', '.join(states)}, the learner {', '.join(parts)}")
        for name, part in parts.items():
            try:
                if isinstance(part, GrowingPart):
                    for segment in self._segments.get(name, []):
                        part.add_rows(self._rows(segment))
                part.load_state_dict(states[name])
            except (StorageError, UsageError):
                raise
            except Exception as error:
                what = " ".join(str(error).split())[:300]
                raise StorageError(
                    f"{self._folder} does not fit the run's settings: {name}: {type(error).__name__}: {what}"
                ) from error

    def _rows(self, segment: _Segment) -> dict[str, Tensor]:
        path = self._folder.parent / _SEGMENTS / segment.file
        return _tensors(path, _read(path, segment.size, segment.sha256))


class Checkpoints:
    """The checkpoints of a run.

    Args:
        path: their folder.
        keep: how many of them stay.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self._keep = keep
        self._segments: dict[str, list[_Segment]] = {}
        self.latest: int | None = None
        """Step of the last checkpoint that was written or loaded."""

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, the last one last."""
        try:
            names = [entry.name for entry in self.path.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from error
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,17}", name))

    def save(
        self, step: int, state: Mapping[str, Any], parts: Mapping[str, Part], made_with: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint, and remove the oldest.

        Args:
            step: environment steps of the run.
            state: its state, besides the learner's parts.
            parts: the learner's parts.
            made_with: settings, versions, machine: what a resumed run is compared with.

        Raises:
            StorageError: it could not be written; those that were there still are.
            Diverged: a tensor of a part is not finite; nothing was written.
        """
        growing = {name: part for name, part in parts.items() if isinstance(part, GrowingPart)}
        states = {name: part.state_dict() for name, part in parts.items() if name not in growing}
        states |= {name: part.state_dict(rows=False) for name, part in growing.items()}
        tensors: dict[str, Tensor] = {}
        tree = _encode({**state, "learner": states}, "", tensors)
        if name := _non_finite(tensors):
            raise Diverged(f"{name} is not finite; no checkpoint is stored with it")
        temporary, target = self.path / f".{step}.tmp", self.path / str(step)
        files = {_STATE: json.dumps(tree, separators=(",", ":")).encode(), _TENSORS: _serialized(tensors)}
        if len(files[_STATE]) > MAX_JSON_SIZE:
            raise StorageError(f"cannot write checkpoint {target}: {_STATE} is larger than {MAX_JSON_SIZE:,} bytes")
        try:
            self._check_folders()
            make_folder(self.path / _SEGMENTS)
            for leftover in self.path.glob(".*.tmp"):  # of saves that were killed
                shutil.rmtree(leftover, ignore_errors=leftover != temporary)
            segments = {name: self._grown(name, part) for name, part in growing.items()}
            temporary.mkdir()
            content = {
                "format": FORMAT,
                "step": step,
                "files": {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()},
                "segments": {name: [vars(segment) for segment in some] for name, some in segments.items()},
                "made_with": dict(made_with),
            }
            files[_MANIFEST] = json.dumps(signed(content), indent=1).encode()
            for name, data in files.items():
                write_file(temporary / name, data)
            sync_folder(temporary)
            if target.exists():
                # Left by another attempt of this run, which did not go on from it: it was refused, or abandoned.
                self._remove(step)
            temporary.rename(target)
            sync_folder(self.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise StorageError(
                f"cannot write checkpoint {target}: {error.strerror or error}\n{how_to_go_on(self.path.parent)}"
            ) from error
        self._segments, self.latest = segments, step
        # The checkpoint is there, whether or not an old one can be removed; the next save tries again.
        with contextlib.suppress(OSError, StorageError):
            self._remove_old()

    def _check_folders(self) -> None:
        for path in (self.path, self.path / _SEGMENTS):
            check_folder(path)

    def _grown(self, name: str, part: GrowingPart) -> list[_Segment]:
        """The segments of a part, a new one with what has come since the last checkpoint among them."""
        segments = [segment for segment in self._segments.get(name, []) if part.keeps(segment.position)]
        rows = part.rows_since(segments[-1].position if segments else None)
        if rows is None:
            return segments
        data = _serialized(rows)
        digest = _sha256(data)
        folder = self.path / _SEGMENTS
        file = f"{re.sub(r'[^A-Za-z0-9_]', '_', name)}-{digest[:16]}.safetensors"
        replace_file(folder / file, data)
        sync_folder(folder)
        return [*segments, _Segment(file, len(data), digest, list(part.position()))]

    def _remove_old(self) -> None:
        """Remove what is neither the latest checkpoint nor one of those before it that are to stay."""
        assert self.latest is not None
        steps = [step for step in self.steps() if step <= self.latest][-self._keep :]
        for step in set(self.steps()) - set(steps):
            self._remove(step)
        kept = {segment.file for some in self._segments.values() for segment in some}
        for step in steps:
            if step != self.latest:
                # One that cannot be read keeps nothing: there is no resuming from it.
                with contextlib.suppress(StorageError):
                    listed = _read_manifest(self.path / str(step))["segments"]
                    kept |= {segment["file"] for some in listed.values() for segment in some}
        for path in (self.path / _SEGMENTS).iterdir():
            if path.name not in kept:
                path.unlink()

    def _remove(self, step: int) -> None:
        """Remove a checkpoint. It loses its name first, so that none is ever there in part."""
        aside = self.path / f".{step}.old.tmp"
        (self.path / str(step)).rename(aside)
        shutil.rmtree(aside)

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint; rows of replays are read when it is restored, but looked at now.

        Raises:
            StorageError: it is damaged; says which part of it.
        """
        folder = self.path / str(step)
        self._check_folders()
        check_folder(folder)
        manifest = _read_manifest(folder)
        try:
            listed = {name: (file["size"], file["sha256"]) for name, file in manifest["files"].items()}
            segments = {
                str(name): [
                    _Segment(s["file"], s["size"], s["sha256"], [int(number) for number in s["position"]]) for s in some
                ]
                for name, some in manifest["segments"].items()
            }
            sizes = [size for size, _ in listed.values()] + [s.size for some in segments.values() for s in some]
            if any(type(size) is not int for size in sizes):
                raise ValueError("it does not say how large its files are")
            content = {name: _read(folder / name, *listed[name]) for name in (_STATE, _TENSORS)}
            if manifest["step"] != step:
                raise ValueError(f"it says that it is of step {manifest['step']}")
            for some in segments.values():
                for segment in some:
                    if not re.fullmatch(r"[A-Za-z0-9_]+-[0-9a-f]{16}\.safetensors", segment.file):
                        raise ValueError(f"no segment has the name {segment.file!r:.60}")
                    _check_size(self.path / _SEGMENTS / segment.file, segment.size)
            tensors = _tensors(folder / _TENSORS, content[_TENSORS])
            if name := _non_finite(tensors):
                raise ValueError(f"{name} is not finite")
            state = _decode(parse_json(content[_STATE]), tensors)
            if tensors:
                raise ValueError(f"nothing names the tensor {next(iter(tensors))!r:.60}")
            if not isinstance(state, dict) or not isinstance(state.get("learner"), dict):
                raise ValueError(f"{_STATE} holds no learner's state")
            if not isinstance(manifest["made_with"], dict):
                raise ValueError("it does not say what it was made with")
        except StorageError:
            raise
        except Exception as error:
            what = " ".join(str(error).split())[:200]
            raise StorageError(f"checkpoint {folder} is damaged: {type(error).__name__}: {what}") from error
        return Checkpoint(step, state, manifest["made_with"], folder, segments)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """What is saved next comes after that one."""
        self._segments, self.latest = dict(checkpoint._segments), checkpoint.step


# ---- files ----


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest says, as it was written.

    Raises:
        StorageError: it is not.
    """
    path = folder / _MANIFEST
    _check_size(path)
    return read_signed(path, FORMAT, "checkpoint")


def _check_size(path: Path, size: int | None = None) -> None:
    """Raise StorageError where a path is no file of that size: a link, a pipe, a folder, or nothing."""
    try:
        found = path.lstat()
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{path} is damaged: it is no regular file")
    if size is None and found.st_size > MAX_JSON_SIZE:
        raise StorageError(f"{path} is damaged: it is larger than {MAX_JSON_SIZE:,} bytes")
    if size is not None and found.st_size != size:
        raise StorageError(f"{path} is damaged: it has {found.st_size:,} bytes, its manifest says {size!r:.30}")


def _read(path: Path, size: int, sha256: str) -> bytes:
    _check_size(path, size)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if _sha256(content) != sha256:
        raise StorageError(f"{path} is damaged: its hash is not the one in its manifest")
    return content


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _serialized(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(tensors))


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:
        raise StorageError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


# ---- state as data ----


def _non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of a learner's tensor with a number that is not finite, from where nothing is to be resumed, or None."""
    import torch

    for name, tensor in tensors.items():
        if name.startswith("learner/") and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name.removeprefix("learner/")
    return None


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON; tensors and arrays go into `tensors` by their path, as copies.

    Raises:
        TypeError: it holds something else than tensors, arrays, numbers, texts, and lists, tuples and dicts of them.
    """
    import torch

    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, torch.Tensor):
        # A clone, because parameters may be views of one buffer, which the format refuses.
        return {"$tensor": _put(value.detach().to("cpu", copy=True).contiguous(), path, tensors)}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        return {"$array": _put(torch.from_numpy(np.array(value, order="C")), path, tensors)}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _encode(part, f"{path}/{key}" if path else key, tensors) for key, part in value.items()}
        items = list(value.items())
        return {"$items": [[_encode(part, f"{path}/{i}.{j}", tensors) for j, part in enumerate(pair)]
                           for i, pair in enumerate(items)]}  # fmt: skip
    if isinstance(value, (list, tuple)):
        parts = [_encode(part, f"{path}/{i}", tensors) for i, part in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, (int, float)):  # subclasses, such as an enum's members
        return _encode(int(value) if isinstance(value, int) else float(value), path, tensors)
    raise TypeError(f"the state of {path.removeprefix('learner/')} holds a {type(value).__name__}, which is no data")


def _put(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Add a tensor, and return its name: the path, or one like it where that is taken, because a key holds a slash."""
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that `_encode` made that of; takes the tensors out: a few bytes must not copy one again and again.

    Raises:
        Exception: of any class: it is none.
    """
    if isinstance(tree, list):
        return [_decode(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1 or next(iter(tree)) not in _KINDS:
        return {key: _decode(part, tensors) for key, part in tree.items()}
    ((kind, content),) = tree.items()
    if kind == "$tensor":
        return tensors.pop(content).clone()
    if kind == "$array":
        return tensors.pop(content).clone().numpy()
    if kind == "$float":
        return float(content)
    parts = [_decode(part, tensors) for part in content]
    return tuple(parts) if kind == "$tuple" else dict(parts)
