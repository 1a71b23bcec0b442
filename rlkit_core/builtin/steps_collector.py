"""Collector of a fixed number of steps in each of several environments."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rlkit_core.collector import Collector
from rlkit_core.environment import LONGEST_EPISODE, Array, Environments, first_non_finite
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Episode, FinalObservations, Rollout, Tree, tree_leaves, tree_map, tree_where
from rlkit_core.seeding import SeedStream


class StepsCollector(Collector):
    """Collects rollouts `[T, N]`; episodes go on from one to the next.

    Args:
        environments: the N environments.
        num_steps: T, rows per rollout.
        seeds: its stream `actions` is what the policy samples with.
        device: where the policy is.
    """

    def __init__(self, environments: Environments, num_steps: int, seeds: SeedStream, device: str) -> None:
        self.environments = environments
        self.observation_space, self.action_space = environments.observation_space, environments.action_space
        self._num_steps = num_steps
        self._generator = torch.Generator(device).manual_seed(seeds.integer("actions"))
        self._obs: Tree = None  # [N, ...] what the next action answers
        self._starts = np.ones(environments.num_envs, dtype=np.bool_)  # [N] the next row is the first of an episode
        self._state: Tree = None
        self._actions: _Log | None = None

    @torch.no_grad()
    def collect(self, policy: Policy) -> Rollout:
        """Run `policy` for `num_steps` steps of all environments."""
        environments, T, N = self.environments, self._num_steps, self.environments.num_envs
        if self._obs is None:
            self._obs = environments.reset()
            self._keep_actions()
        first_episode, first_step = environments.episode.copy(), environments.step_in_episode.copy()
        if isinstance(policy, StatefulPolicy):
            self._put_back(policy)
        first_state = self._state

        # New arrays each time: a learner may keep the last ones.
        obs_rows = tree_map(lambda leaf: np.empty((T + 1, *leaf.shape), leaf.dtype), self._obs)  # [T+1, N, ...]
        action_rows: Tree = None  # [T, N, ...], made when the first action shows their type
        rewards = np.empty((T, N), np.float32)
        terminated, truncated, valid = (np.empty((T, N), np.bool_) for _ in range(3))
        extras: list[Tree] = []
        episodes: list[Episode] = []
        finals: list[tuple[int, Array, Tree]] = []  # time, lanes, observations

        hand_on = np.asarray if policy.takes_arrays else torch.from_numpy
        t = 0
        _write(obs_rows, 0, self._obs)
        try:
            for t in range(T):
                act = self._act(policy, tree_map(lambda leaf: hand_on(leaf[t]), obs_rows))  # noqa: B023
                action = tree_map(_numpy, act.action)
                if action_rows is None:
                    action_rows = tree_map(lambda leaf: np.empty((T, *leaf.shape), leaf.dtype), action)
                # Copied before the step: an environment may write into its action.
                _write(action_rows, t, action)
                if act.extras:
                    extras.append(tree_map(torch.clone, dict(act.extras)))
                step = environments.step(action)
                _write(obs_rows, t + 1, step.obs)
                rewards[t] = step.rewards
                terminated[t] = step.terminated
                truncated[t] = step.truncated
                valid[t] = step.valid
                episodes.extend(step.episodes)
                if step.final_obs is not None:
                    finals.append((t, step.ended_lanes, step.final_obs))
                self._starts = step.starts
        except Exception:
            # NaN in an observation makes NaN of the action, on which the environment or the policy may stumble before
            # the rollout is complete: then the observation is to blame.
            self._refuse_non_finite(obs_rows, rewards, valid, finals, first_episode, first_step, t)
            raise
        self._obs = step.obs
        self._refuse_non_finite(obs_rows, rewards, valid, finals, first_episode, first_step, T)
        if self._actions is not None:
            self._actions.add(tree_map(np.array, action_rows), T, int(environments.step_in_episode.max()))

        return Rollout(
            all_obs=tree_map(torch.from_numpy, obs_rows),
            actions=tree_map(torch.from_numpy, action_rows),
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            finals=_join_finals(finals),
            extras=tree_map(lambda *rows: torch.stack(rows).cpu(), *extras) if extras else {},
            episodes=tuple(episodes),
            state=first_state,
        )

    def state_dict(self) -> dict[str, Any]:
        """Environments, the generator of actions, and what a stateful policy carries."""
        return {
            "environments": self.environments.state_dict(None if self._actions is None else self._actions.joined()),
            "generator": self._generator.get_state(),
            "starts": self._starts.copy(),
            "state": self._state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back; the actions of open episodes come with the environments."""
        self._generator.set_state(state["generator"])
        self._obs = self.environments.load_state_dict(state["environments"])
        if self._obs is None:
            return
        self._starts[:] = state["starts"]
        if state["state"] is not None:
            self._state = tree_map(lambda leaf: leaf.to(self._generator.device), state["state"])
        self._keep_actions()
        actions = state["environments"]["actions"]
        if self._actions is not None and actions is not None:
            self._actions.add(actions, len(tree_leaves(actions)[0][1]), LONGEST_EPISODE)

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def _keep_actions(self) -> None:
        self._actions = _Log() if self.environments.needs_actions else None

    def _act(self, policy: Policy, obs: Tree) -> Act:
        if not isinstance(policy, StatefulPolicy):
            act = policy.act(obs, generator=self._generator)
        else:
            self._put_back(policy)
            act = policy.act(obs, self._state, torch.from_numpy(self._starts), generator=self._generator)
            self._state = act.state
        if act.refused is not None:
            self.environments.refuse(*act.refused)
        return act

    def _put_back(self, policy: StatefulPolicy) -> None:
        """Put the state back to the initial one where an episode starts."""
        if self._starts.any():
            initial = policy.initial_state(self.environments.num_envs)
            starts = torch.from_numpy(self._starts)
            self._state = initial if self._state is None else tree_where(starts, initial, self._state)

    def _refuse_non_finite(
        self,
        obs: Tree,
        rewards: Array,
        valid: Array,
        finals: list[tuple[int, Array, Tree]],
        episode: Array,
        step: Array,
        num_rows: int,
    ) -> None:
        """Raise EnvironmentFault for the first observation or reward that is not finite.

        Args:
            obs: `[T+1, N, ...]`.
            rewards: `[T, N]`.
            valid: `[T, N]`.
            finals: time, lanes and observations of true successors before a reset.
            episode: `[N]` number of each lane's episode at the rollout's beginning.
            step: `[N]` steps taken in it by then.
            num_rows: rows that have been written, of T.
        """
        found: list[tuple[int, int, bool, str]] = []  # row, lane, after that row's reset, what
        place = first_non_finite(tree_map(lambda leaf: leaf[: num_rows + 1], obs), "obs")
        if place is not None:
            found.append((place[0][0] - 1, place[0][1], True, place[1]))
        place = first_non_finite(rewards[:num_rows], "reward")
        if place is not None:
            found.append((place[0][0], place[0][1], False, place[1]))
        for t, lanes, final_obs in finals:
            place = first_non_finite(tree_map(lambda leaf: leaf[None], final_obs), "obs")
            if place is not None:
                found.append((t, int(lanes[place[0][1]]), False, place[1]))
                break
        if not found:
            return
        row, lane, after_reset, what = min(found)
        resets = {t for t, lanes, _ in finals if lane in lanes}
        number, count = int(episode[lane]), int(step[lane])
        for t in range(row + 1):
            if valid[t, lane]:
                count += 1
            if not valid[t, lane] or (t in resets and (t < row or after_reset)):
                number, count = number + 1, 0
        raise self.environments.fault(lane, what, episode=number, step=count)


class _Log:
    """The last actions, as many as the longest open episode has, in pieces `[T, N, ...]`."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, Tree]] = deque()
        self._length = 0

    def add(self, actions: Tree, num_steps: int, longest: int) -> None:
        """Add actions, of which the last `longest` steps are still needed."""
        self._pieces.append((num_steps, actions))
        self._length += num_steps
        while self._pieces and self._length - self._pieces[0][0] >= min(longest, LONGEST_EPISODE):
            self._length -= self._pieces.popleft()[0]

    def joined(self) -> Tree:
        """All of them, `[L, N, ...]`, or None."""
        if not self._pieces:
            return None
        return tree_map(lambda *pieces: np.concatenate(pieces), *(actions for _, actions in self._pieces))


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.numpy() if tensor.is_cpu else tensor.cpu().numpy()


def _write(rows: Tree, t: int, values: Tree) -> None:
    if isinstance(rows, np.ndarray):
        rows[t] = values
    else:
        tree_map(lambda leaf, value: leaf.__setitem__(t, value), rows, values)


def _join_finals(finals: list[tuple[int, Array, Tree]]) -> FinalObservations | None:
    if not finals:
        return None
    times, lanes, obs = zip(*finals, strict=True)
    return FinalObservations(
        time=torch.from_numpy(np.repeat(times, [len(some) for some in lanes])),
        lane=torch.from_numpy(np.concatenate(lanes)),
        obs=tree_map(lambda *leaves: torch.from_numpy(np.concatenate(leaves)), *obs),
    )
