"""What a run has come to, for comparing a resumed one with one that was never interrupted; and environments for it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlkit_core.checkpoint import Checkpoints
from rlkit_core.component import Setup
from rlkit_core.evaluation import open_run
from rlkit_core.learner import GrowingPart
from rlkit_core.run_folder import RunFolder, read_journal, read_json
from rlkit_core.seeding import SeedStream


def all_that_decides(run_dir: Path) -> dict[str, Any]:
    """Everything in a run's last checkpoint, and its journal, without what a clock has said."""
    config = open_run(run_dir)
    folder = RunFolder.open(run_dir)
    checkpoints = Checkpoints(folder.checkpoints_path)
    checkpoint = checkpoints.load(checkpoints.steps()[-1])
    seeds = SeedStream(config.seed)
    collector = config.algorithm.collector.build(config.env, seeds.stream("collector"), "cpu")
    spaces_of = collector.observation_space, collector.action_space
    collector.close()
    num_envs = config.algorithm.collector.num_envs
    setup = Setup(*spaces_of, num_envs, config.total_steps, "cpu", seeds.stream("learner"))
    parts = config.algorithm.build(setup).parts()
    checkpoint.restore(parts)
    # Rows of a replay are in other segments where checkpoints were made at other moments.
    state = {k: v for k, v in checkpoint.state.items() if k != "learner"}
    state["counters"] = {k: v for k, v in state["counters"].items() if k not in ("seconds", "journal")}
    state["recorder"] = {k: v for k, v in state["recorder"].items() if k != "latest"}
    state["learner"] = {name: part.state_dict() for name, part in parts.items()}
    assert any(isinstance(part, GrowingPart) for part in parts.values()) == bool(checkpoint._segments)
    found = dict(_flat(state))
    for which in ("last", "best"):
        path = folder.policy_path(which) / "policy.safetensors"
        found[f"{which} policy"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    found["result"] = {k: v for k, v in folder.status()["result"].items() if k not in ("seconds", "run_dir", "warning")}
    found["journal"] = journal(run_dir)
    return found


def journal(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """The records of a run, wall time aside."""
    return [
        (record["step"], {name: value for name, value in record["metrics"].items() if not name.startswith("time/")})
        for _, record in read_journal(RunFolder.open(run_dir).journal_path)
    ]


def assert_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Nothing is other, to the bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def resume_exact(run_dir: Path) -> bool:
    """What the record says."""
    return bool(read_json(run_dir / "provenance.json")["resume_exact"])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """State as `(path, number, text or bytes)`."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        yield path, len(value)
        for i, part in enumerate(value):
            yield from _flat(part, f"{path}/{i}")
    elif isinstance(value, torch.Tensor):
        yield path, (str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, np.ndarray):
        yield path, (str(value.dtype), value.shape, value.tobytes())
    else:
        yield path, repr(value)


# ---- environments ----


class Walk(gymnasium.Env[Any, Any]):
    """A random walk on a line that the action pushes: noise comes from the environment's own generator."""

    observation_space = spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space: gymnasium.Space[Any] = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, continuous: bool = False) -> None:
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.place, self.count = 0.0, 0

    def _obs(self) -> Any:
        return np.array([self.place, self.count / 10], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.count = float(self.np_random.normal()), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = float(np.asarray(action).reshape(-1)[0])
        self.place += 0.1 * push + 0.3 * float(self.np_random.normal())
        self.count += 1
        return self._obs(), -abs(self.place), abs(self.place) > 4, self.count >= 40, {}


class OwnState(Walk):
    """It tells its state itself, and cannot be played again: it keeps count over its episodes."""

    def __init__(self, render_mode: str | None = None, continuous: bool = False) -> None:
        super().__init__(render_mode, continuous)
        self.steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.place += 0.001 * (self.steps % 7)
        return super().step(action)

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "count": self.count, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.count, self.steps = state["place"], state["count"], state["steps"]


class GlobalNoise(OwnState):
    """Its noise comes from the generators that a whole process shares."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 0.1 * (random.gauss(0, 1) + float(np.random.normal()) + float(torch.randn(())))
        return super().step(action)


class KeepsCount(OwnState):
    """The same, without telling: it does not come back."""

    state_dict = None  # type: ignore[assignment]


class NativeWalk(VectorEnv[Any, Any, Any]):
    """A vector class with one generator for all lanes, which tells its state itself."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, continuous: bool = False) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Walk.observation_space
        self.single_action_space = Walk(continuous=continuous).action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.place, self.count = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.over = np.zeros(num_envs, np.bool_)

    def _obs(self) -> Any:
        return np.stack([self.place, self.count / 10], 1).astype(np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.count[:], self.over[:] = self.np_random.normal(size=self.num_envs), 0, False
        return self._obs(), {}

    def step(self, actions: Any) -> Any:
        push = np.asarray(actions, np.float64).reshape(self.num_envs, -1)[:, 0]
        noise = self.np_random.normal(size=self.num_envs)
        self.place = np.where(self.over, noise, self.place + 0.1 * push + 0.3 * noise)
        self.count = np.where(self.over, 0, self.count + 1)
        rewards = np.where(self.over, 0.0, -np.abs(self.place))
        terminated, truncated = (np.abs(self.place) > 4) & ~self.over, (self.count >= 40) & ~self.over
        self.over = terminated | truncated
        return self._obs(), rewards, terminated, truncated, {}

    def state_dict(self) -> dict[str, Any]:
        generator = dict(self.np_random.bit_generator.state)
        return {"place": self.place, "count": self.count, "over": self.over, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.count, self.over = state["place"], state["count"], state["over"]
        self.np_random.bit_generator.state = state["generator"]


class NativeSilent(NativeWalk):
    """The same, without telling."""

    state_dict = None  # type: ignore[assignment]


for _name, _one, _many in (
    ("Walk-v0", Walk, NativeWalk),
    ("OwnState-v0", OwnState, None),
    ("KeepsCount-v0", KeepsCount, None),
    ("GlobalNoise-v0", GlobalNoise, None),
    ("Silent-v0", Walk, NativeSilent),
):
    gymnasium.register(f"resume/{_name}", _one, vector_entry_point=_many)
