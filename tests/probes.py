"""Environments whose every number is known beforehand, so that what a collector saw can be compared with the truth.

An observation is (lane, episode, step in the episode); the reward of a step says the same. How an episode ends follows
from lane and episode: `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from rlkit_core.environment import CheckedEnv, Environments
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Rollout, Tree
from rlkit_core.seeding import SeedStream

MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
ENDS = ((True, False), (False, True), (True, True))  # terminated, truncated


def plan(lane: int, episode: int) -> tuple[int, bool, bool]:
    """Length of an episode, and the flags of its last step; every third episode has one step only."""
    kind = 5 * lane + 3 * episode
    return 1 + kind % 4, *ENDS[(lane + episode) % 3]


def reward_of(lane: int, episode: int, step: int) -> float:
    return 100.0 * lane + 10.0 * episode + step


def box_space() -> spaces.Box:
    return spaces.Box(-1.0, 1e6, (3,), np.float32)


def nested_space() -> spaces.Dict:
    return spaces.Dict(
        {
            "where": spaces.Tuple((spaces.Discrete(50, start=-1), spaces.Box(-1, 1e6, (), np.float64))),
            "image": spaces.Box(0, 65535, (2, 2), np.uint16),
        }
    )


def encode_truth(lane: int, episode: int, step: int, nested: bool) -> Any:
    if not nested:
        return np.array([lane, episode, step], np.float32)
    image = np.full((2, 2), step, np.uint16)
    return {"image": image, "where": (np.int64(lane), np.array(episode + 0.1, np.float64))}


def truth_of(obs: Tree, *index: int) -> tuple[int, int, int]:
    """(lane, episode, step) that an observation in a batched tree says."""
    if isinstance(obs, dict):
        image = obs["image"][index].long()
        assert (image == image[0, 0]).all()
        episode = float(obs["where"][1][index])
        assert episode == int(episode) + 0.1  # float64 came through
        return int(obs["where"][0][index]), int(episode), int(image[0, 0])
    lane, episode_, step = (int(x) for x in obs[index])
    return lane, episode_, step


class CountingEnv(gymnasium.Env[Any, Any]):
    """One lane. It answers with the same array each time, and writes into its action, as some environments do."""

    def __init__(self, lane: int, nested: bool = False) -> None:
        self.lane, self.nested = lane, nested
        self.observation_space = nested_space() if nested else box_space()
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.episode, self.count = -1, 0
        self.num_steps = 0  # calls of `step` in all
        self.seeds: list[int | None] = []
        self._buffer = np.zeros(3, np.float32)

    def _obs(self) -> Any:
        obs = encode_truth(self.lane, self.episode, self.count, self.nested)
        if self.nested:
            return obs
        self._buffer[:] = obs
        return self._buffer

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode += 1
        self.count = 0
        return self._obs(), {"a": np.zeros(self.episode)}  # infos of changing shape are legal

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        length, terminated, truncated = plan(self.lane, self.episode)
        assert self.count < length, "stepped beyond the end"
        action *= 0.0
        self.count += 1
        self.num_steps += 1
        over = self.count == length
        reward = reward_of(self.lane, self.episode, self.count)
        return self._obs(), reward, over and terminated, over and truncated, {"a": np.zeros(self.count)}


class NativeCountingEnv(VectorEnv[Any, Any, Any]):
    """The same as a vector class of its own, in any mode; dummy rows carry garbage."""

    def __init__(self, num_envs: int, mode: AutoresetMode, nested: bool = False, batched_finals: bool = False) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.mode, self.batched_finals = mode, batched_finals
        self.lanes = [CountingEnv(lane, nested) for lane in range(num_envs)]
        self.single_observation_space = self.lanes[0].observation_space
        self.single_action_space = self.lanes[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.seeds: list[Any] = []
        self._over = np.zeros(num_envs, bool)

    def _batch(self, rows: list[Any]) -> Any:
        if isinstance(rows[0], dict):
            return {key: self._batch([row[key] for row in rows]) for key in rows[0]}
        if isinstance(rows[0], tuple):
            return tuple(self._batch([row[i] for row in rows]) for i in range(len(rows[0])))
        return np.stack(rows)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        self.seeds.append(seed)
        mask = np.ones(self.num_envs, bool) if not options else options["reset_mask"]
        self._over &= ~mask
        return self._batch([env.reset()[0] if on else env._obs() for env, on in zip(self.lanes, mask, strict=True)]), {}

    def step(self, actions: Any) -> Any:
        obs, rewards = [], np.zeros(self.num_envs)
        flags = np.zeros((2, self.num_envs), bool)
        finals: list[Any] = [None] * self.num_envs
        for i, env in enumerate(self.lanes):
            if self._over[i]:
                assert self.mode is AutoresetMode.NEXT_STEP
                obs.append(np.copy(env.reset()[0]) if not env.nested else env.reset()[0])
                rewards[i] = np.nan
                continue
            one, rewards[i], *flags[:, i], _ = env.step(actions[i])
            finals[i] = one if env.nested else one.copy()
            if flags[:, i].any() and self.mode is AutoresetMode.SAME_STEP:
                one = env.reset()[0]
            obs.append(one if env.nested else one.copy())
        self._over = flags.any(0) & (self.mode is not AutoresetMode.SAME_STEP)
        info = {}
        if self.mode is AutoresetMode.SAME_STEP:
            array = np.empty(self.num_envs, object)
            array[:] = finals
            info["final_obs"] = self._batch(finals) if self.batched_finals else array
        return self._batch(obs), rewards, flags[0], flags[1], info

    @property
    def num_steps(self) -> int:
        return sum(env.num_steps for env in self.lanes)


def counting(
    kind: str, mode: AutoresetMode, nested: bool, num_envs: int, first: int = 0, seed: int = 0
) -> Environments:
    """Counting environments of that kind: native, batched (native, finals as a batch), sync, async."""
    seeds = SeedStream(seed)
    if kind in ("native", "batched"):
        return Environments(NativeCountingEnv(num_envs, mode, nested, kind == "batched"), seeds, native=True)
    makers = [lambda i=i: CheckedEnv(CountingEnv(first + i, nested), first + i) for i in range(num_envs)]
    vector_class: Any = SyncVectorEnv if kind == "sync" else AsyncVectorEnv
    return Environments(vector_class(makers, copy=False, autoreset_mode=mode), seeds)


def real_steps(environments: Environments) -> int:
    """Calls of the environments' own `step`."""
    vector_env: Any = environments.vector_env
    if isinstance(vector_env, NativeCountingEnv):
        return vector_env.num_steps
    return int(sum(vector_env.get_attr("num_steps")))


class NoisyPolicy(Policy):
    """Actions of noise, with the noise and the lane it saw as extras; it reuses one tensor for all its answers."""

    def __init__(self) -> None:
        super().__init__()
        self._noise: torch.Tensor | None = None

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        lanes = (obs["where"][0] if isinstance(obs, dict) else obs[:, 0]).clone()
        if self._noise is None or len(self._noise) != len(lanes):
            self._noise = torch.zeros(len(lanes), 2)
        self._noise.uniform_(-1, 1, generator=generator) if generator is not None else self._noise.zero_()
        return Act(self._noise, {"raw": self._noise, "lane": lanes})


class CountingPolicy(StatefulPolicy):
    """Its state is the number of steps it has acted in the present episode."""

    def initial_state(self, num_envs: int) -> Tree:
        return {"count": torch.zeros(num_envs, dtype=torch.int64)}

    def act(self, obs: Tree, state: Tree, starts: torch.Tensor, *, generator: torch.Generator | None = None) -> Act:
        count = state["count"]
        return Act(torch.zeros(len(count), 2), {"count": count, "starts": starts}, {"count": count + 1})


@dataclass
class Truth:
    """Follows lanes through a rollout and holds it to the plan."""

    where: dict[int, tuple[int, int]]  # column: episode, step

    def check(self, rollout: Rollout) -> None:
        T, N = rollout.shape
        obs, next_obs = rollout.obs, rollout.next_obs
        finished = []
        for t in range(T):
            for n in range(N):
                episode, step = self.where[n]
                length, terminated, truncated = plan(n, episode)
                assert truth_of(obs, t, n) == (n, episode, step)
                if step == length:  # the row after an end, in NEXT_STEP
                    assert not rollout.valid[t, n]
                    assert not rollout.terminated[t, n]
                    assert not rollout.truncated[t, n]
                    assert rollout.rewards[t, n] == 0
                    self.where[n] = (episode + 1, 0)
                    assert truth_of(next_obs, t, n) == (n, episode + 1, 0)
                    continue
                over = step + 1 == length
                assert rollout.valid[t, n]
                assert truth_of(next_obs, t, n) == (n, episode, step + 1)
                assert rollout.rewards[t, n] == reward_of(n, episode, step + 1)
                assert bool(rollout.terminated[t, n]) == (over and terminated)
                assert bool(rollout.truncated[t, n]) == (over and truncated)
                if over:
                    finished.append((sum(reward_of(n, episode, s + 1) for s in range(length)), length))
                resets = over and rollout.finals is not None
                self.where[n] = (episode + 1, 0) if resets else (episode, step + 1)
        assert list(rollout.episodes) == finished
