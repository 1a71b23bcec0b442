"""Environments: N environments stepped together, the same for every vector class and autoreset mode of Gymnasium.

Gymnasium has three autoreset modes (https://farama.org/Vector-Autoreset-Mode). They differ in when the first
observation of the next episode comes, and so in where the true successor of the last step is found:

    NEXT_STEP   the next call of `step` ignores its action and resets: a dummy row, marked invalid here
    SAME_STEP   `step` returns the reset observation, the successor is in `info["final_obs"]`
    DISABLED    the caller resets, so each episode gets a seed of its own

`Environments.step` answers in one form for all three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from rlkit_core import environment_state
from rlkit_core.errors import Diverged, EnvironmentFault, UsageError
from rlkit_core.rollout import Episode, Tree, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream

Array = np.ndarray[Any, np.dtype[Any]]


class Step(NamedTuple):
    """What one step of N environments gave.

    Attributes:
        obs: `[N, ...]`, what the next action will answer: for lanes just reset, the next episode's first observation.
            It may be overwritten by the next step: copy what is kept.
        rewards: `[N]`, 0 where not valid.
        terminated: `[N]` bool, False where not valid.
        truncated: `[N]` bool, False where not valid.
        valid: `[N]` bool: False where the row is only an autoreset and no step.
        starts: `[N]` bool: the next row is the first of an episode.
        ended_lanes: `[K]`, lanes whose episode ended.
        episodes: those K episodes, in the same order.
        final_obs: `[K, ...]`, their true successors where `obs` is the next episode's already; None where K = 0 and
            in mode NEXT_STEP, where `obs` is the successor.
    """

    obs: Tree
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    starts: Array
    ended_lanes: Array
    episodes: tuple[Episode, ...]
    final_obs: Tree


_NO_LANES = np.zeros(0, dtype=np.int64)


class Inexact(Exception):
    """A state cannot be brought back as it was; the text says why. What was to be continued starts afresh."""


class Environments:
    """N environments ("lanes") stepped together.

    Args:
        vector_env: any gymnasium vector environment; its `metadata["autoreset_mode"]` says how it resets.
        seeds: stream that episodes are seeded from: by lane and episode where the mode leaves the reset to the caller
            (DISABLED), else by lane for the first episode.
        native: it is an environment's own vector class: it draws all lanes from one generator, takes a single seed,
            and nobody else has checked what it returns.
        checked: its environments are `CheckedEnv`s, one by one or in processes: they can tell their states.

    Attributes:
        first_index: what the first lane is called in errors, the others counting from there.
        episode: `[N]` number of each lane's present episode, from 0.
        step_in_episode: `[N]` steps taken in it.
        return_so_far: `[N]` undiscounted sum of its rewards.
    """

    def __init__(
        self,
        vector_env: VectorEnv[Any, Any, Any],
        seeds: SeedStream,
        *,
        native: bool = False,
        checked: bool = False,
    ) -> None:
        self.vector_env = vector_env
        self.num_envs: int = vector_env.num_envs
        self.observation_space: gymnasium.Space[Any] = vector_env.single_observation_space
        self.action_space: gymnasium.Space[Any] = vector_env.single_action_space
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise UsageError(
                f"{vector_env} does not say how it resets: its metadata['autoreset_mode'] is {mode!r}\n"
                "it should be a gymnasium.vector.AutoresetMode"
            )
        self.autoreset_mode = mode
        self.first_index = 0
        self.episode = np.full(self.num_envs, -1, dtype=np.int64)
        self.step_in_episode = np.zeros(self.num_envs, dtype=np.int64)
        self.return_so_far = np.zeros(self.num_envs)
        self._lane_seeds = [seeds.stream("lane", lane) for lane in range(self.num_envs)]
        self._native = native
        self._checked = checked
        self._resets_next = _NO_LANES  # NEXT_STEP: lanes that the next call of step only resets
        self._obs: Tree = None  # [N, ...] the last ones, in the vector environment's own memory
        self._everywhere = np.ones(self.num_envs, dtype=np.bool_)
        self._nowhere = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self) -> Tree:
        """Start a new episode in every lane and return the first observations `[N, ...]`."""
        self._start_episodes(np.arange(self.num_envs))
        self._resets_next = _NO_LANES
        seed = self._seed(0) if self._native else [self._seed(lane) for lane in range(self.num_envs)]
        obs, _ = self._unpack(self._call(self.vector_env.reset, seed=seed), 2)
        if self._native:
            self._check_obs(obs)
        self._obs = obs
        return obs

    def step(self, actions: Tree) -> Step:
        """Step all environments with actions `[N, ...]`.

        Raises:
            EnvironmentFault: one of them raised, or returned something that does not fit its spaces.
            Diverged: likewise, but because the actions are not finite.
        """
        try:
            answer = self._call(self.vector_env.step, actions)
        except EnvironmentFault as error:
            leaves = [np.asarray(leaf) for _, leaf in tree_leaves(actions)]
            if all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
                raise
            raise Diverged("an action of the policy is not finite") from error
        self.step_in_episode += 1
        obs, rewards, terminated, truncated, info = self._unpack(answer, 5)
        if self._native:
            self._check_obs(obs)
            self._check_lanes(rewards, terminated, truncated)
        self.return_so_far += rewards
        self._obs = obs

        ended = terminated | truncated
        valid = self._everywhere
        resets = self._resets_next
        if len(resets):
            self._start_episodes(resets)
            self._resets_next = _NO_LANES
            valid = self._everywhere.copy()
            valid[resets] = False
            rewards, terminated, truncated = np.where(valid, rewards, 0.0), terminated & valid, truncated & valid
        if not np.count_nonzero(ended):
            starts = ~valid if len(resets) else self._nowhere
            return Step(obs, rewards, terminated, truncated, valid, starts, _NO_LANES, (), None)

        lanes = (ended & valid).nonzero()[0]
        episodes = tuple(Episode(float(self.return_so_far[i]), int(self.step_in_episode[i])) for i in lanes)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._resets_next = ended.nonzero()[0]
            return Step(obs, rewards, terminated, truncated, valid, ~valid, lanes, episodes, None)

        self._start_episodes(lanes)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final_obs = _final_obs(info, lanes, obs)
        else:
            final_obs = tree_map(lambda leaf: leaf[lanes], obs)  # indexing copies: the reset writes in place
            # A native class draws on from its one generator: a new seed would start all lanes' stream anew.
            seed = None if self._native else [self._seed(i) if ended[i] else None for i in range(self.num_envs)]
            obs, _ = self._call(self.vector_env.reset, seed=seed, options={"reset_mask": ended.copy()})
            self._obs = obs
        return Step(obs, rewards, terminated, truncated, valid, ended, lanes, episodes, final_obs)

    @property
    def needs_actions(self) -> bool:
        """Whether `state_dict` needs the actions of open episodes; to be asked after `reset`."""
        return self._checked and any(self._ask("needs_actions"))

    def state_dict(self, actions: Tree = None) -> dict[str, Any]:
        """Where the environments stand: counters, and their states as plain numbers where those can be had.

        Args:
            actions: `[L, N, ...]`, the last L actions; where `needs_actions`, at least those of all open episodes, or
                the episodes in question start afresh.
        """
        state: dict[str, Any] = {
            "episode": self.episode.copy(),
            "step_in_episode": self.step_in_episode.copy(),
            "return_so_far": self.return_so_far.copy(),
            "resets_next": self._resets_next.copy(),
            "obs": None if self._obs is None else tree_map(np.array, self._obs),
            "vector": environment_state.capture_vector(self.vector_env),
            "lanes": None,
            "actions": None,
        }
        if state["vector"] is None and self._obs is not None and self._checked:
            state["lanes"] = self._ask("lane_state")
            if any(lane["state"] is None for lane in state["lanes"]):
                state["actions"] = actions
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> Tree:
        """Go on from a `state_dict`; returns the last observations `[N, ...]`, or None if there were none.

        Raises:
            Inexact: they cannot be brought back: the next `reset` starts episodes that the state has not seen.
        """
        for name in ("episode", "step_in_episode", "return_so_far"):
            stored, mine = np.asarray(state[name]), getattr(self, name)
            if stored.shape != mine.shape:
                raise ValueError(f"{name} is of shape {stored.shape}, not {mine.shape}")
            mine[:] = stored
        if state["obs"] is None:
            return None
        resets_next = np.asarray(state["resets_next"], np.int64)
        if state["vector"] is not None:
            self._call(self.vector_env.reset, seed=0)
            try:
                environment_state.restore_vector(self.vector_env, state["vector"])
            except Exception as error:
                raise Inexact(f"their state does not fit: {type(error).__name__}: {error}") from error
            obs = tree_map(np.array, state["obs"])
            if misfit := _misfit(obs, self.vector_env.observation_space, "obs"):
                raise Inexact(f"their state does not fit: {misfit}")
        elif state["lanes"] is not None:
            lanes = [
                {**lane, "obs": tree_map(lambda leaf: leaf[i], state["obs"]), "ended": i in resets_next}  # noqa: B023
                for i, lane in enumerate(state["lanes"])
            ]
            for i, lane in enumerate(lanes):
                lane["actions"] = () if lane["state"] is not None else self._open_actions(i, state["actions"])
            obs, _ = self._call(self.vector_env.reset, options={RESTORE: lanes})
            self._refuse_others(obs, state["obs"])
        else:
            raise Inexact("they do not tell their state")
        self._resets_next = resets_next
        self._obs = obs
        return obs

    def _ask(self, method: str) -> list[Any]:
        """What that method of each `CheckedEnv` answers."""
        return list(self._call(cast(Any, self.vector_env).call, method))

    def _open_actions(self, lane: int, actions: Tree) -> list[Any]:
        """Actions of a lane's open episode, as its environment takes them."""
        count = int(self.step_in_episode[lane])
        length = 0 if actions is None else len(tree_leaves(actions)[0][1])
        if count > min(length, LONGEST_EPISODE):
            raise Inexact(
                f"environment {self.first_index + lane} is {count:,} steps into its episode, too many to repeat"
            )
        return [tree_map(lambda leaf: leaf[t, lane], actions) for t in range(length - count, length)]  # noqa: B023

    def _refuse_others(self, obs: Tree, stored: Tree) -> None:
        """Raise Inexact where an environment did not come back to where it was."""
        for lane, problem in enumerate(self._ask("restore_problem")):
            same = all(
                np.array_equal(mine[lane], theirs[lane], equal_nan=mine.dtype.kind == "f")
                for (_, mine), (_, theirs) in zip(tree_leaves(obs), tree_leaves(stored), strict=True)
            )
            if problem is not None or not same:
                what = problem or "its episode, played again, gives other observations"
                raise Inexact(f"environment {self.first_index + lane} does not come back: {what}")

    def fault(self, lane: int, what: str, *, episode: int | None = None, step: int | None = None) -> EnvironmentFault:
        """An error that says where `what` happened; by default in the lane's present episode and step."""
        episode = int(self.episode[lane]) if episode is None else episode
        step = int(self.step_in_episode[lane]) if step is None else step
        return EnvironmentFault(f"environment {self.first_index + lane}, episode {episode}, step {step}: {what}")

    def refuse(self, rows: Array, what: str) -> None:
        """Raise the fault of the first lane among these, `[N]` bool, whose next step is one and not only a reset."""
        lanes = np.setdiff1d(rows.nonzero()[0], self._resets_next)
        if len(lanes):
            raise self.fault(int(lanes[0]), what)

    def close(self) -> None:
        """Close the environments; what goes wrong in it harms nobody any more."""
        with contextlib.suppress(Exception):
            self.vector_env.close()

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_episodes(self, lanes: Array) -> None:
        self.episode[lanes] += 1
        self.step_in_episode[lanes] = 0
        self.return_so_far[lanes] = 0.0

    def _seed(self, lane: int) -> int:
        return self._lane_seeds[lane].integer("episode", int(self.episode[lane]))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method of the vector environment returns; whatever it raises becomes an EnvironmentFault."""
        try:
            return method(*args, **kwargs)
        except LaneFault as error:
            lane, what = error.lane_and_what()
            raise EnvironmentFault(f"environment {self.first_index + lane}, {what}") from error
        except Exception as error:
            what = f"{method.__name__} raised {type(error).__name__}: {error}"
            raise self._fault_somewhere(what, int(method.__name__ == "step")) from error

    def _unpack(self, answer: Any, size: int) -> Any:
        if not isinstance(answer, tuple) or len(answer) != size:
            raise self._fault_somewhere(f"the vector environment returned {_describe(answer)}, not a tuple of {size}")
        return answer

    def _fault_somewhere(self, what: str, ahead: int = 0) -> EnvironmentFault:
        """An error of the vector environment as a whole; `ahead`: steps not yet counted."""
        if self.num_envs == 1:
            return self.fault(0, what, step=int(self.step_in_episode[0]) + ahead)
        last, episode, step = self.first_index + self.num_envs - 1, self.episode, self.step_in_episode + ahead
        return EnvironmentFault(
            f"environments {self.first_index} to {last}, in episodes {episode.min()} to {episode.max()}, "
            f"at steps {step.min()} to {step.max()}: {what}"
        )

    def _check_obs(self, obs: Tree) -> None:
        found = _misfit(obs, self.vector_env.observation_space, "obs")
        if found is not None:
            raise self._fault_somewhere(found)

    def _check_lanes(self, rewards: Any, terminated: Any, truncated: Any) -> None:
        for name, array in (("rewards", rewards), ("terminated", terminated), ("truncated", truncated)):
            if type(array) is not np.ndarray or array.shape != (self.num_envs,):
                raise self._fault_somewhere(f"{name} is {_describe(array)}, not an array of shape ({self.num_envs},)")
            if name != "rewards" and array.dtype != np.bool_:
                raise self._fault_somewhere(f"{name} is {_describe(array)}, not of bool")


def _misfit(obs: Any, space: gymnasium.Space[Any], key: str) -> str | None:
    """What about a batch of observations is not as its batched space says, numbers aside; None if nothing."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            return f"{key} has {_keys(obs)}, its space the keys {sorted(space.spaces)}"
        parts = [_misfit(obs[name], part, f"{key}.{name}") for name, part in space.spaces.items()]
        return next((part for part in parts if part), None)
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple) or len(obs) != len(space.spaces):
            return f"{key} is {_describe(obs)}, its space a tuple of {len(space.spaces)}"
        parts = [_misfit(obs[i], part, f"{key}.{i}") for i, part in enumerate(space.spaces)]
        return next((part for part in parts if part), None)
    if type(obs) is not np.ndarray or obs.shape != space.shape:
        return f"{key} is {_describe(obs)}, not an array of shape {space.shape}"
    if obs.dtype.kind not in "fiub":
        return f"{key} has dtype {obs.dtype}, its space {space.dtype}"
    return None


def _final_obs(info: dict[str, Any], lanes: Array, like: Tree) -> Tree:
    """Final observations `[K, ...]` of lanes, batched as `like` is.

    Gymnasium's own classes give an array of N objects, an observation or None each; others give a batch of all N.
    """
    finals = info["final_obs"]
    if isinstance(finals, np.ndarray) and finals.dtype == object:
        return _stack([finals[lane] for lane in lanes], like)
    return tree_map(lambda leaf: np.asarray(leaf)[lanes], finals)


def _stack(observations: list[Any], like: Tree) -> Tree:
    """Batch single observations `[K, ...]` as the batch `like` has them."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: _stack([obs[key] for obs in observations], like[key]) for key in like}
    if isinstance(first, tuple):
        return tuple(_stack([obs[i] for obs in observations], like[i]) for i in range(len(first)))
    return np.stack([np.asarray(obs, dtype=like.dtype) for obs in observations])


def first_non_finite(tree: Tree, key: str) -> tuple[tuple[int, ...], str] | None:
    """Place and text of the first number in a tree of arrays that is not finite, or None.

    Returns:
        `(index, what)`: the index in the array, and for example `obs.camera[0, 3] is nan`, without the leading
        two entries of the index (row and lane).
    """
    found = []
    for path, leaf in tree_leaves(tree, key):
        if leaf.dtype.kind != "f" or np.isfinite(leaf).all():
            continue
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(leaf))[0])
        inside = f"[{', '.join(map(str, index[2:]))}]" if index[2:] else ""
        found.append((index, f"{path}{inside} is {leaf[index]}"))
    return min(found, key=lambda place: place[0][:2], default=None)


class LaneFault(Exception):
    """What went wrong in one lane, as `LaneFault(lane, what)`; `Environments` makes an EnvironmentFault of it."""

    def lane_and_what(self) -> tuple[int, str]:
        """Its arguments; gymnasium's AsyncVectorEnv wraps what a worker raised in another one of the same class."""
        inner = self.args[0]
        return inner.lane_and_what() if isinstance(inner, LaneFault) else cast(tuple[int, str], self.args)


RESTORE = "rlkit_restore"
"""Option of a reset with the `lane_state` of every lane: each goes on from its own."""

LONGEST_EPISODE = 20_000
"""Steps of an open episode that can be played again: with more, its environment starts a fresh one after a resume."""

_LARGEST = float(np.finfo(np.float32).max)  # rollouts hold rewards as float32


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Holds one environment to its own spaces, and says index, episode and step of what goes wrong.

    It stands in for Gymnasium's `PassiveEnvChecker`, which looks at first steps only and knows no index. Structure,
    shapes, the reward and the flags are looked at in each step; numbers inside observations by the collector, a whole
    rollout at once, which costs less. `info` goes no further: nobody reads it, and vector environments fail on
    some that are legal.

    Args:
        env: a single environment.
        index: its lane.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self._index = index
        self._episode = -1
        self._step = 0
        self._seed: int | None = None
        self._rng: environment_state.State | None = None
        self._lasting: list[environment_state.State] = []
        self._problem: str | None = None
        space: gymnasium.Space[Any] = self.env.observation_space
        self._space = space
        self._shape = space.shape if isinstance(space, spaces.Box) else None
        self._dtype = space.dtype

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and check the first observation."""
        if options is not None and RESTORE in options:
            return self._restore(options[RESTORE][self._index]), {}
        self._episode += 1
        self._step = 0
        # What it takes to play the episode again.
        self._seed, self._rng = seed, environment_state.rng_state(self.env.unwrapped) if seed is None else None
        self._lasting = environment_state.lasting(self.env)
        try:
            answer = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault(f"reset raised {type(error).__name__}: {error}") from error
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._fault(f"reset returned {_describe(answer)}, not (obs, info)")
        obs, info = answer
        self._check_obs(obs, self._space, "obs")
        if not isinstance(info, dict):
            raise self._fault(f"reset returned an info that is {_describe(info)}, not a dict")
        return obs, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and check what comes back: what is exactly as usual passes by the quickest test for that."""
        self._step += 1
        try:
            answer = self.env.step(action)
        except Exception as error:
            raise self._fault(f"step raised {type(error).__name__}: {error}") from error
        if type(answer) is not tuple or len(answer) != 5:
            raise self._fault(f"step returned {_describe(answer)}, not (obs, reward, terminated, truncated, info)")
        obs, reward, terminated, truncated, info = answer
        if type(obs) is not np.ndarray or obs.shape != self._shape or obs.dtype is not self._dtype:
            self._check_obs(obs, self._space, "obs")
        if type(reward) is not float or not -_LARGEST <= reward <= _LARGEST:
            self._check_reward(reward)
        if type(terminated) is not bool or type(truncated) is not bool:
            self._check_flag(terminated, "terminated")
            self._check_flag(truncated, "truncated")
        if type(info) is not dict and not isinstance(info, dict):
            raise self._fault(f"info is {_describe(info)}, not a dict")
        if terminated or truncated:
            # In mode SAME_STEP the reset follows before anybody reads this, and some environments write in place.
            obs = deepcopy(obs)
        return obs, reward, terminated, truncated, {}

    def lane_state(self) -> environment_state.State:
        """What it takes to go on from here in another process, besides the actions of the open episode."""
        return {
            "episode": self._episode,
            "step": self._step,
            "seed": self._seed,
            "rng": self._rng,
            "state": self._capture(),
            "lasting": self._lasting,
        }

    def needs_actions(self) -> bool:
        """Whether it also takes the actions of the open episode, because the state cannot be read."""
        return self._capture() is None

    def restore_problem(self) -> str | None:
        """Why the last reset with `RESTORE` did not bring the state back, or None."""
        return self._problem

    def _restore(self, lane: Mapping[str, Any]) -> Any:
        """Go on from a `lane_state`, to which `obs`, `actions` and `ended` have been added; returns the observation.

        What goes wrong is kept for `restore_problem`: raised in a worker, it would end that.
        """
        self._problem = None
        try:
            self._episode, self._step = int(lane["episode"]), int(lane["step"])
            self._seed, self._rng, self._lasting = lane["seed"], lane["rng"], lane["lasting"]
            if lane["state"] is not None:
                self.env.reset(seed=lane["seed"])
                environment_state.restore(self.env, lane["state"])
                obs = lane["obs"]
            else:
                obs = environment_state.play_again(
                    self.env, lane["seed"], lane["rng"], lane["lasting"], lane["actions"]
                )
            self._check_obs(obs, self._space, "obs")
        except Exception as error:
            self._problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            obs = self.env.reset()[0]
        if lane["ended"]:
            # Whoever steps the environments of mode NEXT_STEP does not know that this one is to be reset.
            self.step = self._reset_instead  # type: ignore[method-assign]
        return obs

    def _capture(self) -> environment_state.State | None:
        try:
            return environment_state.capture(self.env)
        except Exception as error:
            raise self._fault(f"reading its state raised {type(error).__name__}: {error}") from error

    def _reset_instead(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        del self.step
        obs, info = self.reset()
        return obs, 0.0, False, False, info

    def _fault(self, what: str) -> LaneFault:
        return LaneFault(self._index, f"episode {self._episode}, step {self._step}: {what}")

    def _check_flag(self, flag: Any, name: str) -> None:
        if not isinstance(flag, (bool, np.bool_)):
            raise self._fault(f"{name} is {_describe(flag)}, not a bool")

    def _check_reward(self, reward: Any) -> None:
        if isinstance(reward, (float, int)) and -_LARGEST <= reward <= _LARGEST:
            return
        try:
            number = None if isinstance(reward, (str, bytes)) or np.ndim(reward) else float(reward)
        except (TypeError, ValueError):
            number = None
        if number is None:
            raise self._fault(f"reward is {_describe(reward)}, not a number")
        if not np.isfinite(number):
            raise self._fault(f"reward is {reward}")
        if abs(number) > _LARGEST:
            raise self._fault(f"reward is {reward}, beyond what float32 holds")

    def _check_obs(self, obs: Any, space: gymnasium.Space[Any], key: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
                raise self._fault(f"{key} has {_keys(obs)}, its space the keys {sorted(space.spaces)}")
            for name, part in space.spaces.items():
                self._check_obs(obs[name], part, f"{key}.{name}")
        elif isinstance(space, spaces.Tuple):
            if not isinstance(obs, tuple) or len(obs) != len(space.spaces):
                raise self._fault(f"{key} is {_describe(obs)}, its space a tuple of {len(space.spaces)}")
            for i, part in enumerate(space.spaces):
                self._check_obs(obs[i], part, f"{key}.{i}")
        elif isinstance(space, spaces.Box):
            if type(obs) is not np.ndarray or obs.shape != space.shape or obs.dtype != space.dtype:
                self._check_array(obs, space, key)
        elif not space.contains(obs):
            if not isinstance(space, spaces.Discrete):
                self._check_array(obs, space, key)
            raise self._fault(f"{key} is {_describe(obs)}, not a member of {space}")

    def _check_array(self, obs: Any, space: gymnasium.Space[Any], key: str) -> None:
        """Say what is wrong with something that is not exactly the space's array; what can be cast to it passes."""
        try:
            array = np.asarray(obs)
        except ValueError:  # a ragged list
            array = np.empty(0, dtype=object)
        if array.dtype == object:
            raise self._fault(f"{key} is {_describe(obs)}, not an array of shape {space.shape}")
        if array.shape != space.shape:
            raise self._fault(f"{key} has shape {array.shape}, its space {space.shape}")
        # Numbers that Python or numpy made float64 or int64 by default are welcome, if they are of the same kind.
        if not np.can_cast(array.dtype, space.dtype, "same_kind"):  # type: ignore[arg-type]
            raise self._fault(f"{key} has dtype {array.dtype}, its space {space.dtype}")


def _keys(obs: Any) -> str:
    return f"the keys {sorted(map(str, obs))}" if isinstance(obs, dict) else f"{_describe(obs)} and no keys"


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"
