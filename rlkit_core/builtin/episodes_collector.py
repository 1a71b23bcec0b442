"""Collector of whole episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rlkit_core.collector import Collector
from rlkit_core.environment import Environments, Inexact, first_non_finite
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Episode, FinalObservations, Rollout, Tree, tree_map
from rlkit_core.seeding import SeedStream


class EpisodesCollector(Collector):
    """Collects one whole episode from each environment, laid end to end in one column: rollouts `[T, 1]`.

    One per environment, not the first that finish: those would favour short episodes. An environment whose episode is
    over stands still until the others are done, so that no step is taken that the learner does not see.

    Args:
        lanes: the environments, one `Environments` of a single one each, so that each can stand still.
        seeds: its stream `actions` is what the policy samples with.
        device: where the policy is.
    """

    def __init__(self, lanes: Sequence[Environments], seeds: SeedStream, device: str) -> None:
        self.lanes = lanes
        for lane, environments in enumerate(lanes):
            environments.first_index = lane
        self.observation_space, self.action_space = lanes[0].observation_space, lanes[0].action_space
        self._generator = torch.Generator(device).manual_seed(seeds.integer("actions"))
        self._obs: list[Tree] = [None] * len(lanes)  # [1, ...] each: where the lane's next episode starts

    def collect(self, policy: Policy) -> Rollout:
        """Run `policy` for one episode in each environment."""
        for lane, environments in enumerate(self.lanes):
            # In the other autoreset modes the last step of an episode has reset already.
            if self._obs[lane] is None or environments.autoreset_mode is AutoresetMode.NEXT_STEP:
                self._obs[lane] = environments.reset()
        tracks = [
            _Track(environments, int(environments.episode[0]), _copy(obs))
            for environments, obs in zip(self.lanes, self._obs, strict=True)
        ]
        try:
            self._run(policy, tracks)
        except Exception:
            # NaN in an observation makes NaN of the action, on which the environment or the policy may stumble before
            # the episode is complete: then the observation is to blame.
            for track in tracks:
                track.refuse_non_finite()
            raise
        for track in tracks:
            track.refuse_non_finite()
        rollout = _join(tracks)
        return replace(rollout, state=policy.initial_state(1)) if isinstance(policy, StatefulPolicy) else rollout

    def state_dict(self) -> dict[str, Any]:
        """Environments, and the generator of actions."""
        return {
            "environments": [environments.state_dict() for environments in self.lanes],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._generator.set_state(state["generator"])
        problems: list[Inexact] = []
        for i, (lane, part) in enumerate(zip(self.lanes, state["environments"], strict=True)):
            # In that mode the next rollout begins with a reset, whatever was before.
            anew = lane.autoreset_mode is AutoresetMode.NEXT_STEP
            try:
                self._obs[i] = lane.load_state_dict({**part, "obs": None} if anew else part)
            except Inexact as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def close(self) -> None:
        """Close the environments."""
        for environments in self.lanes:
            environments.close()

    @torch.no_grad()
    def _run(self, policy: Policy, tracks: list[_Track]) -> None:
        hand_on = np.asarray if policy.takes_arrays else torch.from_numpy
        active = list(range(len(tracks)))
        starts = torch.ones(len(tracks), dtype=torch.bool)
        state = policy.initial_state(len(tracks)) if isinstance(policy, StatefulPolicy) else None
        while active:
            obs = tree_map(lambda *rows: hand_on(np.concatenate(rows)), *(tracks[i].obs[-1] for i in active))
            if isinstance(policy, StatefulPolicy):
                act = policy.act(obs, state, starts, generator=self._generator)
            else:
                act = policy.act(obs, generator=self._generator)
            if act.refused is not None:
                rows, what = act.refused
                for row in rows.nonzero()[0]:
                    self.lanes[active[row]].refuse(np.ones(1, np.bool_), what)
            running = [row for row, lane in enumerate(active) if self._step(lane, tracks[lane], act, row)]
            if isinstance(policy, StatefulPolicy):
                state = tree_map(lambda leaf: leaf[running], act.state)  # noqa: B023 (used at once)
                starts = torch.zeros(len(running), dtype=torch.bool)
            active = [active[row] for row in running]

    def _step(self, lane: int, track: _Track, act: Act, row: int) -> bool:
        """Step one lane with that row of the actions; True while its episode goes on."""
        action = tree_map(lambda leaf: leaf[row : row + 1].cpu().numpy(), act.action)
        # Copied before the step: an environment may write into its action.
        track.actions.append(_copy(action))
        track.extras.append(tree_map(lambda leaf: leaf[row : row + 1].clone(), dict(act.extras)))
        step = self.lanes[lane].step(action)
        self._obs[lane] = step.obs
        track.obs.append(_copy(step.obs) if step.final_obs is None else step.final_obs)
        track.rewards.append(float(step.rewards[0]))
        track.terminated, track.truncated = bool(step.terminated[0]), bool(step.truncated[0])
        track.episodes = step.episodes
        return not step.episodes


class _Track:
    """One episode as it comes in.

    Args:
        environments: where it happens.
        number: of the episode, in its lane.
        first_obs: `[1, ...]`.
    """

    def __init__(self, environments: Environments, number: int, first_obs: Tree) -> None:
        self._environments, self._number = environments, number
        self.obs: list[Tree] = [first_obs]  # length L + 1, [1, ...] each
        self.actions: list[Tree] = []  # length L, [1, ...] each
        self.extras: list[Tree] = []
        self.rewards: list[float] = []
        self.terminated = False
        self.truncated = False
        self.episodes: tuple[Episode, ...] = ()  # itself, when over

    def refuse_non_finite(self) -> None:
        """Raise EnvironmentFault for the first observation or reward that is not finite."""
        found = []
        place = first_non_finite(tree_map(lambda *rows: np.stack(rows), *self.obs), "obs")
        if place is not None:
            found.append((place[0][0], place[1]))
        place = first_non_finite(np.array(self.rewards, np.float32)[:, None], "reward")
        if place is not None:
            found.append((place[0][0] + 1, place[1]))
        if found:
            step, what = min(found)
            raise self._environments.fault(0, what, episode=self._number, step=step)


def _copy(tree: Tree) -> Tree:
    return tree_map(np.array, tree)


def _join(tracks: list[_Track]) -> Rollout:
    """Episodes end to end in one column; each one's last observation is a final observation."""
    lengths = np.array([len(track.rewards) for track in tracks])
    ends = lengths.cumsum() - 1
    T = int(lengths.sum())
    terminated, truncated = (np.zeros((T, 1), np.bool_) for _ in range(2))
    terminated[ends, 0] = [track.terminated for track in tracks]
    truncated[ends, 0] = [track.truncated for track in tracks]
    rows = [row for track in tracks for row in track.obs[:-1]] + [tracks[-1].obs[-1]]
    actions = [row for track in tracks for row in track.actions]
    extras = [row for track in tracks for row in track.extras]
    return Rollout(
        all_obs=tree_map(lambda *leaves: torch.from_numpy(np.stack(leaves)), *rows),
        finals=FinalObservations(
            time=torch.from_numpy(ends),
            lane=torch.zeros(len(tracks), dtype=torch.int64),
            obs=tree_map(
                lambda *leaves: torch.from_numpy(np.concatenate(leaves)), *(track.obs[-1] for track in tracks)
            ),
        ),
        actions=tree_map(lambda *leaves: torch.from_numpy(np.stack(leaves)), *actions),
        rewards=torch.tensor([reward for track in tracks for reward in track.rewards], dtype=torch.float32)[:, None],
        terminated=torch.from_numpy(terminated),
        truncated=torch.from_numpy(truncated),
        valid=torch.ones(T, 1, dtype=torch.bool),
        extras=tree_map(lambda *leaves: torch.stack(leaves).cpu(), *extras),
        episodes=tuple(episode for track in tracks for episode in track.episodes),
    )
