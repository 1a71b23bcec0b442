"""Stored policies: they come back as they were, or are refused; a killed save leaves the old or the new one."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from rlkit_a2c import rlkit_register
from rlkit_core.component import AlgorithmConfig, Setup
from rlkit_core.errors import ConfigError, PluginError, StorageError, UsageError
from rlkit_core.policy import Policy
from rlkit_core.registry import Registry
from rlkit_core.rollout import tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.stored_policy import load_policy, save_policy, space_from_data, space_to_data

REGISTRY = Registry()
A2C = rlkit_register()[0]
REFUSALS = (StorageError, ConfigError, UsageError, PluginError)
UNSORTED = spaces.Dict([("b", spaces.Box(-1, 1, (2,))), ("a", spaces.Discrete(3, start=-1))])

SPACES = {
    "box": spaces.Box(-1, 1, (3,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "uneven": spaces.Box(np.array([0.1, -np.inf], np.float32), np.array([1, 5], np.float32)),
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "large": spaces.Box(0, np.uint64(2**64 - 1), (1,), np.uint64),
    "scalar": spaces.Box(0, 1, (), np.float16),
    "discrete": spaces.Discrete(4),
    "start": spaces.Discrete(3, start=-1, dtype=np.int32),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, -1]),
    "multidiscrete2": spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int32),
    "multibinary": spaces.MultiBinary(4),
    "multibinary2": spaces.MultiBinary((2, 3)),
    "unsorted": UNSORTED,
    "nested": spaces.Tuple((UNSORTED, spaces.Dict({"x": spaces.Tuple((spaces.MultiBinary(2),))}))),
}


def build(observation_space: Any, action_space: Any, **settings: Any) -> tuple[AlgorithmConfig, Policy]:
    config = A2C.model_validate(settings)
    assert isinstance(config, AlgorithmConfig)
    seeds = SeedStream(5)
    with global_generators(seeds):
        return config, config.build(Setup(observation_space, action_space, 1, 1, "cpu", seeds)).policy


def store(
    path: Path, observation_space: Any = SPACES["box"], action_space: Any = SPACES["discrete"], seed: int = 0
) -> Policy:
    config, policy = build(observation_space, action_space)
    with torch.no_grad():
        for weights in policy.parameters():
            weights += seed
    save_policy(path, policy, config, observation_space, action_space, {"step": 7})
    return policy


def same(a: Policy, b: Policy) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SPACES)
def test_spaces_come_back_equal(name: str) -> None:
    space = SPACES[name]
    back = space_from_data(json.loads(json.dumps(space_to_data(space), allow_nan=False)))
    assert back == space
    assert str(back) == str(space)
    assert back.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(back) == list(space)  # type: ignore[call-overload]


def test_spaces_that_are_not_stored() -> None:
    for space in (spaces.Text(3), spaces.Dict({1: spaces.Discrete(2)})):  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="cannot be stored"):
            space_to_data(space)


@pytest.mark.parametrize("name", SPACES)
def test_a_policy_comes_back_and_acts_the_same(name: str, tmp_path: Path) -> None:
    space = SPACES[name]
    policy = store(tmp_path / "p", space)
    loaded = load_policy(tmp_path / "p", registry=REGISTRY)
    assert same(policy, loaded)
    assert not loaded.training
    batched = batch_space(space, 5)
    batched.seed(1)
    obs = batched.sample()
    if name == "large":  # torch cannot make features of these
        return
    for seed in (None, 3):
        answers = []
        for one in (policy, loaded):
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            answers.append(one.act(tree_map(torch.as_tensor, obs), generator=generator).action)
        assert torch.equal(*answers)


@pytest.mark.parametrize("name", ["box", "uneven", "discrete", "start", "multidiscrete", "multibinary"])
def test_action_spaces(name: str, tmp_path: Path) -> None:
    if name == "uneven":
        space: Any = spaces.Box(np.array([0.1, -3], np.float32), np.array([1, 5], np.float32))
    else:
        space = SPACES[name]
    policy = store(tmp_path / "p", SPACES["box"], space)
    assert same(policy, load_policy(tmp_path / "p", registry=REGISTRY))


def test_views_of_one_buffer_and_strange_layouts_are_stored_right(tmp_path: Path) -> None:
    config, policy = build(SPACES["box"], SPACES["discrete"])
    flat = torch.arange(10_000, dtype=torch.float32)
    offset = 0
    for parameter in policy.parameters():
        view = flat[offset : offset + parameter.numel()]
        # Transposed where that can be, so that it is not contiguous.
        parameter.data = view.view(parameter.shape[::-1]).T if parameter.dim() == 2 else view
        offset += parameter.numel()
    save_policy(tmp_path / "p", policy, config, SPACES["box"], SPACES["discrete"], {})
    loaded = load_policy(tmp_path / "p", registry=REGISTRY)
    assert same(policy, loaded)
    assert (tmp_path / "p" / "policy.safetensors").stat().st_size < 4 * offset + 2000


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    store(tmp_path / "p")

    def states() -> tuple[Any, ...]:
        return random.getstate(), repr(np.random.get_state()), torch.random.get_rng_state().tolist()

    before = states()
    load_policy(tmp_path / "p", registry=REGISTRY)
    (tmp_path / "p" / "policy.safetensors").write_bytes(b"x")
    with pytest.raises(StorageError):
        load_policy(tmp_path / "p", registry=REGISTRY)
    assert states() == before


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        load_policy(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="has no best policy: it is written at the first evaluation"):
        load_policy(tmp_path / "run", which="best")
    store(tmp_path / "run" / "policy" / "last")
    load_policy(tmp_path / "run", registry=REGISTRY)


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    store(tmp_path / "p")
    with pytest.raises(UsageError, match="there is no device toaster"):
        load_policy(tmp_path / "p", device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            load_policy(tmp_path / "p", device="cuda")


def refused(path: Path) -> str:
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(REFUSALS) as error:
        load_policy(path, registry=REGISTRY)
    assert time.process_time() - started < 5  # the first time some of torch is imported
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 512_000
    assert len(str(error.value)) < 1500
    return str(error.value)


def rehash(path: Path) -> None:
    """Make the hashes right again: a forger can do that too."""
    about = json.loads((path / "policy.json").read_text())
    about.pop("sha256", None)
    if (path / "policy.safetensors").is_file():
        about["weights_sha256"] = hashlib.sha256((path / "policy.safetensors").read_bytes()).hexdigest()
    about["sha256"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (path / "policy.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_cut_and_flipped_files_are_refused_or_mean_the_same(name: str, tmp_path: Path) -> None:
    policy = store(tmp_path / "p")
    file = tmp_path / "p" / name
    content = file.read_bytes()
    source = random.Random(1)
    damaged = [content[: source.randrange(len(content))] for _ in range(20)]
    for _ in range(60):
        at = source.randrange(len(content))
        damaged.append(content[:at] + bytes([content[at] ^ 1 << source.randrange(8)]) + content[at + 1 :])
    for wrong in damaged:
        file.write_bytes(wrong)
        try:
            loaded = load_policy(tmp_path / "p", registry=REGISTRY)
        except REFUSALS:
            continue
        assert name == "policy.json"
        assert json.loads(wrong) == json.loads(content)  # only white space differs
        assert same(loaded, policy)


def test_weights_of_another_policy_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "a")
    store(tmp_path / "b", seed=1)
    store(tmp_path / "c", SPACES["image"])
    shutil.copy(tmp_path / "b" / "policy.safetensors", tmp_path / "a")
    assert "its hash is not the one" in refused(tmp_path / "a")
    shutil.copy(tmp_path / "c" / "policy.safetensors", tmp_path / "a")
    rehash(tmp_path / "a")
    assert "does not fit its own settings" in refused(tmp_path / "a")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


def header(shapes: str, data: bytes = b"") -> bytes:
    return len(shapes).to_bytes(8, "little") + shapes.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps(Bomb()),
        b"PK\3\4" + b"\0" * 100,
        (2**63).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{" * 100,
        header('{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"\0" * 4),
        header('{"../../x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        header("{}"),
    ],
)
def test_hostile_weights(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "p")
    (tmp_path / "p" / "policy.safetensors").write_bytes(content)
    refused(tmp_path / "p")
    rehash(tmp_path / "p")
    refused(tmp_path / "p")
    assert not Path("PWNED").exists()


BOX = {"space": "Box", "shape": [3], "dtype": "float32", "low": "-1.0", "high": "1.0"}
HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "huge box": lambda p: p["observation_space"].update(shape=[10**9]),
    "huge product": lambda p: p["observation_space"].update(shape=[10**5, 10**5]),
    "negative shape": lambda p: p["observation_space"].update(shape=[-1]),
    "float shape": lambda p: p["observation_space"].update(shape=[3.0]),
    "text shape": lambda p: p["observation_space"].update(shape="3"),
    "large box": lambda p: p["observation_space"].update(shape=[9_000_000]),
    "objects": lambda p: p["observation_space"].update(dtype="O"),
    "long text": lambda p: p["observation_space"].update(dtype="S1000000000"),
    "records": lambda p: p["observation_space"].update(dtype=[["a", "f8"]]),
    "bounds": lambda p: p["observation_space"].update(low=["x"]),
    "nan bounds": lambda p: p["observation_space"].update(low="nan"),
    "bounds count": lambda p: p["observation_space"].update(low=["1"] * 5),
    "no space": lambda p: p.pop("observation_space"),
    "null space": lambda p: p.update(observation_space=None),
    "unknown space": lambda p: p.update(observation_space={"space": "os.system"}),
    "huge discrete": lambda p: p.update(observation_space={**DISCRETE, "n": 10**15}),
    "larger discrete": lambda p: p.update(action_space={**DISCRETE, "n": 10**30}),
    "no choice": lambda p: p.update(action_space={**DISCRETE, "n": 0}),
    "huge bits": lambda p: p.update(observation_space={"space": "MultiBinary", "n": 10**10}),
    "huge bits 2": lambda p: p.update(observation_space={"space": "MultiBinary", "n": [10**5, 10**5]}),
    "nvec": lambda p: p.update(
        action_space={"space": "MultiDiscrete", "nvec": [10**12], "start": [0], "dtype": "int64"}
    ),
    "list for dict": lambda p: p.update(observation_space={"space": "Dict", "spaces": [BOX]}),
    "dict for tuple": lambda p: p.update(observation_space={"space": "Tuple", "spaces": {"a": 1}}),
    "no algorithm": lambda p: p.pop("algorithm"),
    "list": lambda p: p.update(algorithm=["a2c"]),
    "name": lambda p: p["algorithm"].update(name=5),
    "unknown": lambda p: p["algorithm"].update(name="os:system"),
    "setting": lambda p: p["algorithm"].update(evil=1),
    "wide": lambda p: p["algorithm"]["network"].update(hidden=[10**9]),
    "many": lambda p: p["algorithm"]["network"].update(hidden=[20_000] * 50),
    "other": lambda p: p["algorithm"]["network"].update(hidden=[7]),
    "format": lambda p: p.update(format=2),
    "format type": lambda p: p.update(format=["x" * 10**6]),
}
DISCRETE = {"space": "Discrete", "n": 4, "start": 0, "dtype": "int64"}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_settings(what: str, tmp_path: Path) -> None:
    store(tmp_path / "p")
    about = json.loads((tmp_path / "p" / "policy.json").read_text())
    HOSTILE[what](about)
    (tmp_path / "p" / "policy.json").write_text(json.dumps(about))
    refused(tmp_path / "p")
    rehash(tmp_path / "p")
    refused(tmp_path / "p")


def test_every_key_missing_or_of_another_type(tmp_path: Path) -> None:
    store(tmp_path / "p")
    original = json.loads((tmp_path / "p" / "policy.json").read_text())
    for key in set(original) - {"step", "sha256", "weights_sha256"}:
        for value in (None, 5, "x", [], {}, ...):
            about = {**original, key: value}
            if value is ...:
                del about[key]
            (tmp_path / "p" / "policy.json").write_text(json.dumps(about))
            rehash(tmp_path / "p")
            refused(tmp_path / "p")


@pytest.mark.parametrize("text", ["", "[]", "null", "5", "[" * 100_000, '{"format": 1}', "\0", '{"format": NaN}'])
def test_files_that_say_nothing(text: str, tmp_path: Path) -> None:
    store(tmp_path / "p")
    (tmp_path / "p" / "policy.json").write_text(text)
    refused(tmp_path / "p")


def test_files_that_are_none(tmp_path: Path) -> None:
    store(tmp_path / "p")
    weights = tmp_path / "p" / "policy.safetensors"
    for make in (weights.mkdir, lambda: os.mkfifo(weights), lambda: weights.symlink_to("/dev/zero")):
        shutil.rmtree(weights) if weights.is_dir() else weights.unlink()
        make()
        refused(tmp_path / "p")
    with open(tmp_path / "p" / "policy.json", "r+b") as file:
        file.truncate(10**12)
    assert "larger than" in refused(tmp_path / "p")


class Killed(BaseException):
    """What no handler catches: the process ends here."""


CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "open")


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> Callable[[], int]:
    """Let the call of that number that changes the disk raise, and if the process was killed all later ones too."""
    count = 0

    def patched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number or (count > number and isinstance(error, Killed)):
                raise error
            return original(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, patched(getattr(os, name)))
    return lambda: count


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()])
@pytest.mark.parametrize("leftover", ["nothing", "killed before"])
def test_a_failed_save_leaves_the_old_or_the_new_policy(
    error: BaseException, leftover: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last"
    number = 0
    while True:
        number += 1
        shutil.rmtree(tmp_path)
        old, new = store(path), build(SPACES["box"], SPACES["discrete"])
        if leftover == "killed before":  # in the last save's last step: only .last.old is there, and half a new one
            path.rename(tmp_path / ".last.old")
            (tmp_path / ".last.tmp").mkdir()
            (tmp_path / ".last.tmp" / "policy.json").write_text("{")
        with torch.no_grad():
            for weights in new[1].parameters():
                weights += 1
        with monkeypatch.context() as patch:
            calls = fail_at(patch, number, error)
            done = True
            try:
                save_policy(path, new[1], new[0], SPACES["box"], SPACES["discrete"], {})
            except (StorageError, Killed):
                done = False
        loaded = load_policy(path, registry=REGISTRY)
        assert same(loaded, new[1]) or (not done and same(loaded, old)), number
        if not isinstance(error, Killed) and not done:
            assert not (tmp_path / ".last.tmp").exists()
            assert (path / "policy.json").exists()
        if calls() < number:
            break
        save_policy(path, new[1], new[0], SPACES["box"], SPACES["discrete"], {})  # and the next one works
        assert same(load_policy(path, registry=REGISTRY), new[1])
        assert sorted(file.name for file in tmp_path.iterdir()) == ["last"]
    assert number > 10
