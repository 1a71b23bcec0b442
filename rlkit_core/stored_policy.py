"""Stored policies: weights as safetensors, everything else as JSON. Nothing in them can run code."""

from __future__ import annotations

import hashlib
import math
import operator
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim

from rlkit_core.component import AlgorithmConfig, Setup, dump
from rlkit_core.config import Draft, Problems
from rlkit_core.errors import ConfigError, RlkitError, StorageError, UsageError
from rlkit_core.run_folder import (
    RunFolder,
    check_folder,
    read_signed,
    signed,
    sync_folder,
    write_file,
    write_json,
)
from rlkit_core.seeding import SeedStream, global_generators

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit_core.policy import Policy
    from rlkit_core.registry import Registry

FORMAT = 1
MAX_SPACE_SIZE = 10_000_000
"""Numbers in an observation or action of a stored policy: a damaged file must not fill the memory."""


def save_policy(
    path: Path,
    policy: Policy,
    algorithm: AlgorithmConfig,
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    about: Mapping[str, Any],
) -> None:
    """Store a policy in a folder, in the place of what was there.

    Args:
        path: the folder.
        policy: whose weights.
        algorithm: builds such a policy again.
        observation_space: what it was built for.
        action_space: likewise.
        about: whatever a reader may want to know (step, evaluation).

    Raises:
        StorageError: it could not be written; what was there before still is.
    """
    from safetensors.torch import save
    from torch import contiguous_format

    # Clones, because parameters may be views of one buffer, which the format refuses.
    tensors = {name: tensor.detach().cpu() for name, tensor in policy.state_dict().items()}
    weights = save({name: tensor.clone(memory_format=contiguous_format) for name, tensor in tensors.items()})
    content = {
        **about,
        "format": FORMAT,
        "algorithm": dump(algorithm),
        "observation_space": space_to_data(observation_space),
        "action_space": space_to_data(action_space),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    temporary, old = path.with_name(f".{path.name}.tmp"), _old(path)
    for folder in (path.parent, path, temporary, old):
        check_folder(folder)
    try:
        if temporary.exists():  # a save was killed
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        write_file(temporary / "policy.safetensors", weights)
        write_json(temporary / "policy.json", signed(content))
        sync_folder(temporary)
        # A folder cannot be replaced in one step. At each moment `path` or `old` is whole, and `load_policy` knows.
        if path.exists():
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
        temporary.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, StorageError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            with suppress(OSError):
                old.rename(path)
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write policy {path}: {error.strerror or error}") from error


def _old(path: Path) -> Path:
    """Where a stored policy is put while another one takes its place."""
    return path.with_name(f".{path.name}.old")


def _find(source: str | Path, which: str) -> Path:
    path = _stored(Path(source)) or _stored(RunFolder.open(source).policy_path(which))
    if path is None:
        when = "when training ends" if which == "last" else "at the first evaluation"
        other = "best" if which == "last" else "last"
        hint = f"\nit has a {other} one: --which {other}" if _stored(RunFolder.open(source).policy_path(other)) else ""
        raise UsageError(f"run {source} has no {which} policy: it is written {when}{hint}")
    return path


def policy_about(source: str | Path, which: str = "last") -> dict[str, Any]:
    """What is stored beside a policy's weights: its algorithm's settings, its spaces, when it was stored.

    Raises:
        UsageError: there is no such policy.
        StorageError: it is damaged.
    """
    return _read_about(_find(source, which) / "policy.json")


def load_policy(
    source: str | Path, *, which: str = "last", registry: Registry | None = None, device: str = "cpu"
) -> Policy:
    """The policy of a run, ready to act.

    Args:
        source: a run folder, or the folder of a stored policy.
        which: `last` or `best`, where a run folder is given.
        registry: where the algorithm is looked up; default: what is installed.
        device: where its weights go.

    Raises:
        UsageError: there is none.
        StorageError: it is damaged.
        PluginError: its plugin is broken.
    """
    from safetensors.torch import load

    from rlkit_core.registry import Registry

    _check_device(device)
    path = _find(source, which)
    about = _read_about(path / "policy.json")
    try:
        algorithm = algorithm_from_data(about["algorithm"], registry or Registry())
        observation_space = space_from_data(about["observation_space"])
        action_space = space_from_data(about["action_space"])
    except RlkitError:
        raise
    except Exception as error:  # gymnasium refuses bad spaces with whatever comes to hand
        raise StorageError(f"{path / 'policy.json'} is damaged: {type(error).__name__}: {error}") from error
    weights = path / "policy.safetensors"
    try:
        content = weights.read_bytes() if weights.is_file() else b""
    except (OSError, MemoryError) as error:
        raise StorageError(f"cannot read {weights}: {getattr(error, 'strerror', None) or 'it is too large'}") from error
    if hashlib.sha256(content).hexdigest() != about["weights_sha256"]:
        raise StorageError(f"{weights} is damaged: its hash is not the one in policy.json")

    def build(device: str) -> Policy:
        return algorithm.build(Setup(observation_space, action_space, 1, 1, device, seeds)).policy

    seeds = SeedStream(0, "load")
    try:
        tensors = load(content)
        with global_generators(seeds):  # initial weights are drawn, and overwritten at once
            size = flatdim(observation_space) + flatdim(action_space) + _numbers_in(about["algorithm"])
            if size > 4096:
                _check_shapes(build, tensors)
            policy = build(device)
        policy.load_state_dict(tensors)
    except RlkitError:
        raise
    except Exception as error:
        raise StorageError(f"{path} does not fit its own settings: {' '.join(str(error).split())[:300]}") from error
    policy.eval()
    return policy


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UsageError(f"there is no device {device}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch finds no CUDA device here\ntake device cpu")


def _stored(path: Path) -> Path | None:
    """The folder that holds the policy: the path, or what was there when a save was killed in its last step."""
    return next((folder for folder in (path, _old(path)) if (folder / "policy.json").is_file()), None)


def _read_about(file: Path) -> dict[str, Any]:
    """What `policy.json` says, as it was written."""
    return read_signed(file, FORMAT, "policy")


def _numbers_in(data: Any) -> int:
    """Sum of the whole numbers in plain data."""
    if isinstance(data, (dict, list)):
        return sum(map(_numbers_in, data.values() if isinstance(data, dict) else data))
    return abs(data) if isinstance(data, int) else 0


def _check_shapes(build: Callable[[str], Policy], tensors: Mapping[str, Tensor]) -> None:
    """Refuse settings of a network that is not the stored one, before they fill the memory.

    Built without storage, which costs a second: for settings with large numbers only.

    Raises:
        ValueError: the shapes differ.
    """
    import torch

    try:
        with torch.device("meta"):
            policy = build("meta")
    except Exception:  # not every algorithm can be built so, and none has to
        return
    shapes = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("the settings describe a network of other shapes")


def algorithm_from_data(data: Any, registry: Registry) -> AlgorithmConfig:
    """An algorithm's config from plain data with its name.

    Raises:
        ConfigError: it is wrong.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError([(("algorithm",), "should be a table with the algorithm's name and settings")])
    problems: Problems = []
    settings = {key: value for key, value in data.items() if key != "name"}
    draft = Draft(registry.get("algorithm", data["name"]), registry)
    draft.apply(settings, ("algorithm",), problems)
    config = draft.build(("algorithm",), problems)
    if problems:
        raise ConfigError(problems)
    assert isinstance(config, AlgorithmConfig)
    return config


def space_to_data(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """A space as plain JSON values.

    Raises:
        UsageError: spaces of that class are not stored.
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound_to_data(space.low), "high": _bound_to_data(space.high)}
        return {"space": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"space": "MultiDiscrete", **numbers, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"space": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, spaces.Dict) and all(isinstance(key, str) for key in space.spaces):
        return {"space": "Dict", "spaces": {key: space_to_data(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"space": "Tuple", "spaces": [space_to_data(part) for part in space.spaces]}
    raise UsageError(f"policies of space {space} cannot be stored")


def space_from_data(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    """The space that `space_to_data` described.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    kind = data["space"]
    if kind == "Box":
        shape, dtype = _shape(data["shape"]), _number_type(data["dtype"])
        low, high = (_bound_from_data(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=_number_type(data["dtype"]).type)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(data["nvec"], dtype=_number_type(data["dtype"]).type, start=data["start"])
    if kind == "MultiBinary":
        n = data["n"]
        _shape(n if isinstance(n, list) else [n])
        return spaces.MultiBinary(n)
    if kind == "Dict":
        # Pairs, because Gymnasium sorts the names of a dict, and the weights belong to the order as it was.
        return spaces.Dict([(key, space_from_data(part)) for key, part in data["spaces"].items()])
    if kind == "Tuple":
        return spaces.Tuple([space_from_data(part) for part in data["spaces"]])
    raise ValueError(f"unknown space {kind!r}")


def _shape(data: Any) -> tuple[int, ...]:
    shape = tuple(operator.index(length) for length in data)
    if math.prod(shape) > MAX_SPACE_SIZE or any(length < 0 for length in shape):
        raise ValueError(f"no space has the shape {shape}")
    return shape


def _number_type(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or np.dtype(name).kind not in "biuf":
        raise ValueError(f"no space has numbers of type {name!r}")
    return np.dtype(name)


def _bound_to_data(bound: np.ndarray[Any, Any]) -> Any:
    # One number where all are equal: an image has thousands. As text, because JSON has no infinity.
    flat = [repr(value) for value in bound.reshape(-1).tolist()]
    return flat[0] if len(set(flat)) == 1 else flat


def _bound_from_data(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    number = float if dtype.kind == "f" else int
    if isinstance(data, str):
        return np.full(shape, number(data), dtype)
    return np.array([number(value) for value in data], dtype).reshape(shape)
