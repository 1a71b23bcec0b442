"""Stored policies: weights as safetensors, everything else as JSON. Nothing in them can run code."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlkit_core.component import AlgorithmConfig, Setup, dump
from rlkit_core.config import Draft, Problems
from rlkit_core.errors import ConfigError, StorageError, UsageError
from rlkit_core.run_folder import RunFolder, read_json, write_json
from rlkit_core.seeding import SeedStream, global_generators

if TYPE_CHECKING:
    from rlkit_core.policy import Policy
    from rlkit_core.registry import Registry

FORMAT = 1


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

    # Clones, because parameters may be views of one buffer, which the format refuses.
    weights = save({name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with open(temporary / "policy.safetensors", "wb") as file:
            file.write(weights)
            file.flush()
            os.fsync(file.fileno())
        write_json(
            temporary / "policy.json",
            {
                "format": FORMAT,
                "algorithm": dump(algorithm),
                "observation_space": space_to_data(observation_space),
                "action_space": space_to_data(action_space),
                "weights_sha256": hashlib.sha256(weights).hexdigest(),
                **about,
            },
        )
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write policy {path}: {error.strerror or error}") from error


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
    from safetensors import SafetensorError
    from safetensors.torch import load

    from rlkit_core.registry import Registry

    path = Path(source)
    if not (path / "policy.json").exists():
        path = RunFolder.open(path).policy_path(which)
        if not (path / "policy.json").exists():
            raise UsageError(f"run {source} has no {which} policy yet\nit is written at the first evaluation, or the end")
    about = read_json(path / "policy.json")
    try:
        if about["format"] != FORMAT:
            raise StorageError(f"{path} has format {about['format']}; this version of rlkit reads format {FORMAT}")
        algorithm = algorithm_from_data(about["algorithm"], registry or Registry())
        observation_space = space_from_data(about["observation_space"])
        action_space = space_from_data(about["action_space"])
        expected = about["weights_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path / 'policy.json'} is damaged: {type(error).__name__}: {error}") from error
    try:
        content = (path / "policy.safetensors").read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path / 'policy.safetensors'}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise StorageError(f"{path / 'policy.safetensors'} is damaged: its hash is not the one in policy.json")
    seeds = SeedStream(0, "load")
    with global_generators(seeds):  # initial weights are drawn, and overwritten at once
        policy = algorithm.build(Setup(observation_space, action_space, 1, 1, device, seeds)).policy
    try:
        policy.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise StorageError(f"{path} does not fit its own settings: {' '.join(str(error).split())[:300]}") from error
    policy.eval()
    return policy


def algorithm_from_data(data: Any, registry: Registry) -> AlgorithmConfig:
    """An algorithm's config from plain data with its name.

    Raises:
        ConfigError: it is wrong.
    """
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
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"space": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"space": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
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
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low, high = (_bound_from_data(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(data["nvec"], start=data["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["shape"])
    if kind == "Dict":
        return spaces.Dict({key: space_from_data(part) for key, part in data["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([space_from_data(part) for part in data["spaces"]])
    raise ValueError(f"unknown space {kind!r}")


def _bound_to_data(bound: np.ndarray[Any, Any]) -> Any:
    # One number where all are equal: an image has thousands. As text, because JSON has no infinity.
    flat = [repr(value) for value in bound.reshape(-1).tolist()]
    return flat[0] if len(set(flat)) == 1 else flat


def _bound_from_data(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    number = float if dtype.kind == "f" else int
    if isinstance(data, str):
        return np.full(shape, number(data), dtype)
    return np.array([number(value) for value in data], dtype).reshape(shape)
