"""Probe environments: so small that the right values and actions are known, each asking one thing of an algorithm.

Train on them in this order; the first that fails names the fault:

| environment | asks for | value of the best policy |
|---|---|---|
| `rlkit/ConstantReward-v0` | regressing the value on a constant | 1 |
| `rlkit/ObservationReward-v0` | passing the observation through the network, and the gradient back | the observation |
| `rlkit/TwoSteps-v0` | discounting, and values that do not leak from episode to episode | gamma, then 1 |
| `rlkit/ActionReward-v0` | a policy gradient of the right sign | 1 |
| `rlkit/Identity-v0` | actions that belong to their own observations | 1 |
| `rlkit/RewardForEver-v0` | bootstrapping truncated episodes | 1 / (1 - gamma) |

These ask something of single parts:

| environment | asks for | mean return of the best policy |
|---|---|---|
| `rlkit/Recall-v0` | memory: the first observation tells the action of the last step | 1, without memory 0 |
| `rlkit/Masked-v0` | action masks: a forbidden action is an error of the environment | 34/45 |
| `rlkit/MaskedRecall-v0` | both | 1, without memory 0 |

The actions of the first six are Discrete; with the argument `continuous=true` they are a Box of one number from -1
to 1.

After Stable-Baselines3's `common/envs/identity_env.py` and Andy Jones, "Debugging RL, without the agonizing pain"
(https://andyljones.com/posts/rl-debugging.html). Importing this module registers them with Gymnasium; from the command
line: `rlkit run a2c --import rlkit_core.testing.probes --env rlkit/TwoSteps-v0`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Obs = NDArray[np.float32]

_ONE = np.ones(1, np.float32)  # never 0, from which a network without biases learns nothing


class Probe(gymnasium.Env[Any, Any]):
    """An environment with known values; one-step episodes and two actions unless a probe says otherwise.

    Args:
        render_mode: of no use.
        continuous: the action is a number from -1 to 1.

    Attributes:
        id: what it is registered as.
        time_limit: steps after which an episode is truncated, or None.
        all_obs: every observation there is.
    """

    id: ClassVar[str]
    time_limit: ClassVar[int | None] = None
    all_obs: ClassVar[tuple[Any, ...]] = (_ONE,)
    observation_space: gymnasium.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: gymnasium.Space[Any] = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, continuous: bool = False) -> None:
        self.render_mode = render_mode
        self.continuous = continuous
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._obs: Any = self.all_obs[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._obs = self._first_obs()
        return self._obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        return self._obs, self._reward(action), True, False, {}

    def _first_obs(self) -> Any:
        return self.all_obs[0]

    @abstractmethod
    def _reward(self, action: Any) -> float:
        """Reward for an action in the present observation."""

    @classmethod
    @abstractmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """Value of an observation under the best policy, in units of the rewards."""

    @classmethod
    def best_action(cls, obs: Any, continuous: bool = False) -> float | None:
        """The best action, or None where all are as good."""
        return None


class ConstantReward(Probe):
    """Reward 1, whatever is seen and done."""

    id = "rlkit/ConstantReward-v0"

    def _reward(self, action: Any) -> float:
        return 1.0

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """1."""
        return 1.0


class ObservationReward(Probe):
    """The observation, -1 or 1 at random, is the reward."""

    id = "rlkit/ObservationReward-v0"
    all_obs = (-_ONE, _ONE)

    def _first_obs(self) -> Any:
        return self.all_obs[int(self.np_random.integers(2))]

    def _reward(self, action: Any) -> float:
        return float(self._obs[0])

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """The observation."""
        return float(obs[0])


class TwoSteps(Probe):
    """Two steps, observation -1 then 1, with reward 0 then 1."""

    id = "rlkit/TwoSteps-v0"
    all_obs = (-_ONE, _ONE)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        reward, over = self._reward(action), bool(self._obs[0] == 1.0)
        self._obs = _ONE
        return self._obs, reward, over, False, {}

    def _reward(self, action: Any) -> float:
        return float(self._obs[0] == 1.0)

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """Gamma, then 1."""
        return 1.0 if obs[0] == 1.0 else gamma


class ActionReward(Probe):
    """Reward 1 for action 1, -1 for action 0; continuous: the action is the reward."""

    id = "rlkit/ActionReward-v0"

    def _reward(self, action: Any) -> float:
        if self.continuous:
            return float(action[0])
        return 1.0 if int(action) == 1 else -1.0

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """1."""
        return 1.0

    @classmethod
    def best_action(cls, obs: Any, continuous: bool = False) -> float | None:
        """1."""
        return 1


class Identity(Probe):
    """The observation, one of three at random, is the action to take: reward 1, else 0.

    Continuous: the observations stand for -1/2, 0 and 1/2, and the reward is 1 less the square of the distance.
    """

    id = "rlkit/Identity-v0"
    all_obs = (0, 1, 2)
    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(3)

    def _first_obs(self) -> Any:
        return int(self.np_random.integers(3))

    def _reward(self, action: Any) -> float:
        if self.continuous:
            return 1.0 - float(action[0] - (self._obs - 1) / 2) ** 2
        return float(int(action) == self._obs)

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """1."""
        return 1.0

    @classmethod
    def best_action(cls, obs: Any, continuous: bool = False) -> float | None:
        """The observation, or what it stands for."""
        number = int(obs)
        return (number - 1) / 2 if continuous else float(number)


class RewardForEver(Probe):
    """Reward 1 for ever; only a time limit of 20 steps, which is no part of the task, ends episodes.

    A learner that takes the limit for an end reaches (1 - gamma^20) / (1 - gamma) at most.
    """

    id = "rlkit/RewardForEver-v0"
    time_limit = 20

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        return self._obs, 1.0, False, False, {}

    def _reward(self, action: Any) -> float:
        return 1.0

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """1 / (1 - gamma)."""
        return 1.0 / (1.0 - gamma)


class Recall(Probe):
    """The first observation shows one of the actions, which is to be taken in the last step: reward 1, else -1.

    In between nothing is seen, and actions do not matter. Of the best policy without memory the mean return is 0.

    Args:
        render_mode: of no use.
        delay: steps before the last one.
    """

    id = "rlkit/Recall-v0"
    num_actions: ClassVar[int] = 2

    def __init__(self, render_mode: str | None = None, delay: int = 4) -> None:
        super().__init__(render_mode)
        self.delay = delay
        self.action_space = spaces.Discrete(self.num_actions)
        self.observation_space = spaces.Box(0.0, 1.0, (self.num_actions + 1,), np.float32)
        self._cue = self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        gymnasium.Env.reset(self, seed=seed)
        self._cue, self._time = int(self.np_random.integers(self.num_actions)), 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        over = self._time == self.delay
        reward = self._reward(action) if over else 0.0
        self._time += 1
        return self._see(), reward, over, False, {}

    def _see(self) -> Any:
        """The cue in the first step, and in the last one that it is asked for."""
        obs = np.zeros(self.num_actions + 1, np.float32)
        if self._time == 0:
            obs[self._cue] = 1.0
        obs[-1] = float(self._time == self.delay)
        return obs

    def _reward(self, action: Any) -> float:
        return 1.0 if int(action) == self._cue else -1.0

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """Of first observations, with the usual delay."""
        return gamma**4


class Masked(Probe):
    """Four actions, of which some are allowed; the reward is the action's number over 3, the largest is best."""

    id = "rlkit/Masked-v0"
    observation_space = spaces.Dict(
        {"obs": spaces.Box(-1.0, 1.0, (1,), np.float32), "action_mask": spaces.MultiBinary(4)}
    )
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)

    def _first_obs(self) -> Any:
        number = int(self.np_random.integers(1, 16))  # every mask that allows something, equally often
        return {"obs": _ONE, "action_mask": np.array([number >> i & 1 for i in range(4)], np.int8)}

    def _reward(self, action: Any) -> float:
        if not self._obs["action_mask"][int(action)]:
            raise ValueError(f"action {action} is forbidden by the mask {self._obs['action_mask']}")
        return int(action) / 3

    @classmethod
    def value(cls, obs: Any, gamma: float) -> float:
        """The mean over all masks, because the network does not see them."""
        return 34 / 45


class MaskedRecall(Recall):
    """`Recall` with three actions, of which the mask allows one until the last step: there the right and another."""

    id = "rlkit/MaskedRecall-v0"
    num_actions = 3

    def __init__(self, render_mode: str | None = None, delay: int = 4) -> None:
        super().__init__(render_mode, delay)
        self._mask = np.zeros(3, np.int8)
        self.observation_space = spaces.Dict(
            {"obs": self.observation_space, "action_mask": spaces.MultiBinary(self.num_actions)}
        )

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action."""
        if not self._mask[int(action)]:
            raise ValueError(f"action {action} is forbidden by the mask {self._mask}")
        return super().step(action)

    def _see(self) -> Any:
        self._mask = np.zeros(3, np.int8)
        if self._time <= self.delay:  # nothing is allowed when it is over
            self._mask[int(self.np_random.integers(3))] = 1
        if self._time == self.delay:
            self._mask[:] = 1
            self._mask[(self._cue + int(self.np_random.integers(1, 3))) % 3] = 0
        return {"obs": super()._see(), "action_mask": self._mask}


PROBES: tuple[type[Probe], ...] = (
    ConstantReward,
    ObservationReward,
    TwoSteps,
    ActionReward,
    Identity,
    RewardForEver,
)
"""Those that every algorithm should learn, from the simplest to the one that asks most."""

_ALL: tuple[type[Probe], ...] = (*PROBES, Recall, Masked, MaskedRecall)
for _probe in _ALL:
    if _probe.id not in gymnasium.registry:
        gymnasium.register(_probe.id, entry_point=f"{__name__}:{_probe.__name__}", max_episode_steps=_probe.time_limit)
