"""What the checks put parts into: spaces of all sorts, environments of these, and comparisons bit for bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkit_core.component import EnvironmentConfig
from rlkit_core.environment import CheckedEnv, Environments
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Rollout, Tree, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream

OBS_SPACES: dict[str, gymnasium.Space[Any]] = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "Box of float64 without shape": spaces.Box(-1, 1, (), np.float64),
    "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "Discrete": spaces.Discrete(5, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32))),
    "Text": spaces.Text(5),
    "Graph": spaces.Graph(spaces.Box(0, 1, (2,), np.float32), None),
    "Sequence": spaces.Sequence(spaces.Discrete(2)),
}
"""Observation spaces: what is not taken is to be refused by name."""
NO_ARRAYS = ("Text", "Graph", "Sequence")
"""Those that are no arrays."""
LARGE_IMAGE = spaces.Box(0, 255, (40, 40, 1), np.uint8)
ACTION_SPACES: dict[str, gymnasium.Space[Any]] = {
    "Discrete": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32)),
    "Box of integers": spaces.Box(0, 5, (2,), np.int64),
    "Dict": spaces.Dict({"a": spaces.Discrete(2)}),
    "Tuple": spaces.Tuple((spaces.Discrete(2),)),
    "Text": spaces.Text(5),
}


class AnySpaces(gymnasium.Env[Any, Any]):
    """Random observations and rewards, episodes of random length; every third ends in a truncation.

    Args:
        observation_space: what observations are drawn from.
        action_space: of any action.
        end: probability that a step ends the episode.
        reward: of every step, or None for random ones.
        open_mask: entry of a Dict observation that is a mask of actions: it allows all.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        end: float = 0.2,
        reward: float | None = None,
        open_mask: str | None = None,
    ) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observation_space), action_space
        self.end, self.reward, self.open_mask = end, reward, open_mask

    def _sample(self) -> Any:
        obs = self.observation_space.sample()
        if self.open_mask is not None:
            obs[self.open_mask][:] = 1
        return obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        u = self.np_random.random() / self.end
        reward = float(self.np_random.normal()) if self.reward is None else self.reward
        return self._sample(), reward, u < 0.67, 0.67 <= u < 1, {}


class Choice(gymnasium.Env[Any, Any]):
    """One observation, two sorts of actions: 0 and 1 (continuous: -1 and 1, and what lies between).

    Args:
        continuous: the action is a number from -1 to 1.
        rewards: for the sorts 0 and 1; continuous actions get what lies between, in proportion.
        endless: sort 1 is cut off at once and would go on for ever, sort 0 ends.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    obs = np.ones(1, np.float32)

    def __init__(self, continuous: bool, rewards: tuple[float, float], endless: bool) -> None:
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(2)
        self.continuous, self.rewards, self.endless = continuous, rewards, endless

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self.obs.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        share = (float(action[0]) + 1) / 2 if self.continuous else float(action)
        goes_on = False
        if self.endless:
            # Of an action in between by chance, so that what is expected has the same slope everywhere.
            goes_on = bool(self.np_random.random() < share)
            share = float(goes_on)
        reward = self.rewards[0] + share * (self.rewards[1] - self.rewards[0])
        return self.obs.copy(), reward, not goes_on, goes_on, {}


class Counting(gymnasium.Env[Any, Any]):
    """Says in every observation where it is: [lane, episode, step]; rewards say the same, the way episodes end too.

    Args:
        lane: which of several it is.
        log: takes down every action.
    """

    observation_space = spaces.Box(-1.0, 1e6, (3,), np.float32)
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, lane: int, log: list[tuple[int, int, int, int]]) -> None:
        self.lane, self.log = lane, log
        self.episode, self.count = -1, 0

    @staticmethod
    def plan(lane: int, episode: int) -> tuple[int, bool]:
        """Length of an episode, and whether it is truncated."""
        return 1 + (5 * lane + 3 * episode) % 4, (lane + episode) % 2 == 1

    @staticmethod
    def reward(lane: int, episode: int, step: int) -> float:
        """Reward of the step that leads there."""
        return 100.0 * lane + 10.0 * episode + step

    def _obs(self) -> Any:
        return np.array([self.lane, self.episode, self.count], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.episode += 1
        self.count = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        length, truncated = self.plan(self.lane, self.episode)
        self.count += 1
        self.log.append((self.lane, self.episode, self.count, int(action)))
        over = self.count == length
        reward = self.reward(self.lane, self.episode, self.count)
        return self._obs(), reward, over and not truncated, over and truncated, {}


class MadeConfig(EnvironmentConfig):
    """Environments that a function of the lane's number makes, stepped one after the other."""

    name = "test"
    id: str = "test"
    maker: Any
    autoreset: Any = AutoresetMode.DISABLED

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        """Make them."""
        # The collector of episodes makes its lanes one by one: their stream of seeds says which it is.
        first = seeds.path[-1] if isinstance(seeds.path[-1], int) else 0
        makers = [lambda i=i: CheckedEnv(self.maker(first + i), i) for i in range(num_envs)]
        return Environments(SyncVectorEnv(makers, autoreset_mode=self.autoreset), seeds, checked=True)


def any_env(observation_space: Any, action_space: Any, autoreset: Any = AutoresetMode.DISABLED, **how: Any) -> Any:
    """A config of environments with these spaces."""
    return MadeConfig(maker=lambda lane: AnySpaces(observation_space, action_space, **how), autoreset=autoreset)


def batch_of(space: gymnasium.Space[Any], number: int, seed: int = 0) -> Tree:
    """A batch `[number, ...]` of members of a space, as arrays, trees of them for Dict and Tuple."""
    space = copy.deepcopy(space)
    space.seed(seed)
    rows = [space.sample() for _ in range(number)]
    return tree_map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)


def as_tensors(tree: Tree) -> Tree:
    """Arrays as tensors of their own."""
    return tree_map(lambda leaf: torch.from_numpy(np.array(leaf)), tree)


def act(policy: Policy, obs: Tree, generator: torch.Generator | None = None) -> Act:
    """What a policy answers, in the first step of an episode where it carries a state."""
    if isinstance(policy, StatefulPolicy):
        number = len(tree_leaves(obs)[0][1])
        starts = torch.ones(number, dtype=torch.bool)
        return policy.act(obs, policy.initial_state(number), starts, generator=generator)
    return policy.act(obs, generator=generator)


def clone(tree: Any) -> Any:
    """A copy of a tree of tensors or arrays."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else copy.deepcopy(leaf), tree)


def clone_rollout(rollout: Rollout) -> Rollout:
    """A copy that shares no memory."""
    names = ("all_obs", "actions", "rewards", "terminated", "truncated", "valid")
    finals = rollout.finals
    if finals is not None:
        finals = replace(finals, obs=clone(finals.obs), time=finals.time.clone(), lane=finals.lane.clone())
    parts = {name: clone(getattr(rollout, name)) for name in names}
    return replace(rollout, **parts, finals=finals, extras=clone(dict(rollout.extras)))


def rollout_leaves(rollout: Rollout) -> dict[str, torch.Tensor]:
    """All tensors of a rollout by name."""
    names = ("all_obs", "actions", "rewards", "terminated", "truncated", "valid", "extras")
    leaves = {path: leaf for name in names for path, leaf in tree_leaves(getattr(rollout, name), name)}
    if rollout.finals is not None:
        leaves.update(dict(tree_leaves(rollout.finals.obs, "finals.obs")))
    return {path: leaf for path, leaf in leaves.items() if isinstance(leaf, torch.Tensor)}


def equal(a: Any, b: Any) -> bool:
    """Whether two states, trees or numbers are equal bit for bit, NaN included."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return torch.equal(a.nan_to_num(1e30), b.nan_to_num(1e30)) if a.is_floating_point() else torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return bool(a == b)


def stored(state: Any) -> Any:
    """A state as files give it back: tensors and arrays of its own, numbers and texts, lists for tuples."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, np.ndarray):
        return state.copy()
    if isinstance(state, Mapping):
        return {key: stored(part) for key, part in state.items()}
    if isinstance(state, (list, tuple)):
        return [stored(part) for part in state]
    return copy.deepcopy(state)


def unstorable(state: Any, path: str = "state") -> str | None:
    """The first thing in a state that no file without pickle can hold, or None."""
    if state is None or isinstance(state, (bool, int, float, str, torch.Tensor)):
        return None
    if isinstance(state, (np.ndarray, np.generic)):
        return None if state.dtype.kind in "fiub" else f"{path} is an array of {state.dtype}"
    if isinstance(state, Mapping):
        for key, part in state.items():
            if not isinstance(key, str):
                return f"{path} has the key {key!r}, which is no text"
            if found := unstorable(part, f"{path}[{key!r}]"):
                return found
        return None
    if isinstance(state, (list, tuple)):
        found_ones = (unstorable(part, f"{path}[{i}]") for i, part in enumerate(state))
        return next((found for found in found_ones if found), None)
    return f"{path} is a {type(state).__name__}"


def global_states() -> dict[str, Any]:
    """Where the global generators of Python, numpy and torch stand, each as something to compare."""
    name, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (name, np.array(keys).tolist(), *rest),
        "torch": torch.random.get_rng_state(),
    }


def other_states(before: Mapping[str, Any]) -> list[str]:
    """Names of the global generators that do not stand where they did."""
    now = global_states()
    return [name for name in before if not equal(before[name], now[name])]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads of torch inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
