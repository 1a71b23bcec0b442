"""Checks of collectors, in environments that say in every observation and reward where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rlkit_core.environment import Inexact
from rlkit_core.errors import EnvironmentFault
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import Rollout, Tree
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.building import quick
from rlkit_core.testing.cases import (
    ACTION_SPACES,
    OBS_SPACES,
    Counting,
    MadeConfig,
    any_env,
    clone_rollout,
    equal,
    global_states,
    other_states,
    rollout_leaves,
    stored,
    unstorable,
)
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on


class Uniform(Policy):
    """Acts at random in the space -1, 0, 1."""

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        """Random actions."""
        drawn = torch.randint(3, (len(obs),), generator=generator) - 1
        return Act(drawn, {"lane": obs[:, 0].clone()})


class Steps(StatefulPolicy):
    """Carries how many steps of the episode it has acted in."""

    def initial_state(self, num_envs: int) -> Tree:
        """0."""
        return torch.zeros(num_envs, dtype=torch.int64)

    def act(  # type: ignore[override]
        self, obs: Tree, state: Tree, starts: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> Act:
        """Always 0."""
        return Act(
            torch.zeros(len(obs), dtype=torch.int64), {"count": state.clone(), "starts": starts.clone()}, state + 1
        )


def _built(subject: Subject, env: Any, seed: int = 0) -> Any:
    with relies_on("builds_and_collects"):
        return quick(subject).build(env, SeedStream(seed), "cpu")


def _counting(log: list[Any], mode: Any = AutoresetMode.DISABLED) -> Any:
    return MadeConfig(maker=lambda lane: Counting(lane, log), autoreset=mode)


def _collected(
    subject: Subject, env: Any, number: int = 3, seed: int = 0, policy: Policy | None = None
) -> list[Rollout]:
    """Copies of rollouts, taken as each comes."""
    collector = _built(subject, env, seed)
    try:
        with relies_on("builds_and_collects"), global_generators(SeedStream(0)):
            return [clone_rollout(collector.collect(policy or Uniform())) for _ in range(number)]
    finally:
        collector.close()


def _random(subject: Subject, seed: int = 0) -> list[Rollout]:
    return _collected(subject, any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"]), seed=seed)


def _valid_rows(rollout: Rollout) -> Any:
    """Observation, action, reward, next observation and flags of each valid row."""
    T, N = rollout.shape
    obs, next_obs = rollout.obs, rollout.next_obs
    for n in range(N):
        for t in range(T):
            if rollout.valid[t, n]:
                yield (
                    [int(x) for x in obs[t, n]],
                    int(rollout.actions[t, n]),
                    float(rollout.rewards[t, n]),
                    [int(x) for x in next_obs[t, n]],
                    bool(rollout.terminated[t, n]),
                    bool(rollout.truncated[t, n]),
                )


@check("collector")
def builds_and_collects(subject: Subject) -> None:
    """It collects from environments in each of Gymnasium's autoreset modes."""
    for mode in AutoresetMode:
        collector = quick(subject).build(_counting([], mode), SeedStream(0), "cpu")
        try:
            for _ in range(2):
                rollout = collector.collect(Uniform())
                if not isinstance(rollout, Rollout):
                    fail(f"collect gave a {type(rollout).__name__}", "return an rlkit_core.Rollout")
        except EnvironmentFault as error:
            fail(f"in mode {mode.name} collect raised {reason(error)}", "step no environment beyond its end")
        finally:
            collector.close()


@check("collector")
def rollouts_have_shape_and_type(subject: Subject) -> None:
    """All arrays are `[T, N]`, observations `[T+1, N]`; rewards are float32, flags bool."""
    for rollout in _random(subject):
        T, N = rollout.rewards.shape
        wanted = {
            "all_obs": ((T + 1, N, 3), torch.float32),
            "actions": ((T, N), torch.int64),
            "rewards": ((T, N), torch.float32),
            **dict.fromkeys(("terminated", "truncated", "valid"), ((T, N), torch.bool)),
        }
        for name, (shape, dtype) in wanted.items():
            tensor = getattr(rollout, name)
            if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
                fail(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}", f"make it {shape} of {dtype}")


@check("collector")
def rows_are_what_happened(subject: Subject) -> None:
    """In every row stand the observation, the reward and the flags as the environment gave them, in its own order."""
    for obs, _, reward, _, terminated, truncated in _all_rows(subject):
        lane, episode, step = obs
        length, cut = Counting.plan(lane, episode)
        over = step + 1 == length
        if reward != Counting.reward(lane, episode, step + 1):
            fail(
                f"the reward of environment {lane}, episode {episode}, step {step + 1} is {reward}, "
                f"and was {Counting.reward(lane, episode, step + 1)}",
                "leave rewards as the environment gives them, in the row of the observation that was acted on",
            )
        if (terminated, truncated) != (over and not cut, over and cut):
            fail(
                f"step {step + 1} of {length} has terminated {terminated} and truncated {truncated}",
                "keep the two apart, as the environment tells them: only `terminated` means that nothing follows",
            )


def _all_rows(subject: Subject) -> list[Any]:
    def collect() -> list[Any]:
        rows = []
        for mode in AutoresetMode:
            rows += [row for r in _collected(subject, _counting([], mode)) for row in _valid_rows(r)]
        return rows

    found: list[Any] = subject.once("rows", collect)
    return found


@check("collector")
def next_obs_is_the_true_successor(subject: Subject) -> None:
    """`next_obs` is what followed the step, also at an episode's end, in each autoreset mode."""
    for obs, _, _, next_obs, _, _ in _all_rows(subject):
        if next_obs != [obs[0], obs[1], obs[2] + 1]:
            fail(
                f"after environment {obs[0]}, episode {obs[1]}, step {obs[2]} stands {next_obs}",
                "lay the final observation down in `finals` where the environment has been reset (Step.final_obs)",
            )


@check("collector")
def every_step_is_there_once(subject: Subject) -> None:
    """Every step that an environment took is in a rollout, once, with the action that the environment got."""
    for mode in AutoresetMode:
        log: list[tuple[int, int, int, int]] = []
        rollouts = _collected(subject, _counting(log, mode))
        seen = [(*obs[:2], obs[2] + 1, action) for r in rollouts for obs, action, *_ in _valid_rows(r)]
        if sorted(seen) != sorted(log):
            missing = sorted(set(log) - set(seen)) or sorted(set(seen) - set(log))
            fail(
                f"in mode {mode.name} {len(log)} steps were taken and {len(seen)} are there, for example "
                f"(environment, episode, step, action) {missing[:1] or seen[:1]}",
                "copy actions before stepping, and mark only autoreset rows as not valid",
            )


@check("collector")
def episodes_are_counted_right(subject: Subject) -> None:
    """`episodes` has the return and length of each episode that ended, and no other."""
    for mode in AutoresetMode:
        for rollout in _collected(subject, _counting([], mode), 1):
            expected = []
            for obs, _, _, _, terminated, truncated in _valid_rows(rollout):
                if terminated or truncated:
                    lane, episode, length = obs[0], obs[1], obs[2] + 1
                    expected.append((sum(Counting.reward(lane, episode, s + 1) for s in range(length)), length))
            if sorted(map(tuple, rollout.episodes)) != sorted(expected):
                fail(
                    f"episodes are {list(map(tuple, rollout.episodes))[:3]}, and were {expected[:3]}",
                    "take them from Step.episodes: undiscounted return, number of steps",
                )


@check("collector")
def whole_episodes_are_whole(subject: Subject) -> None:
    """Where `whole_episodes` says so, every rollout begins and ends with an episode."""
    if not type(subject.config).whole_episodes:
        raise CheckSkipped("it does not say so")
    for rollout in _collected(subject, _counting([])):
        steps = sum(episode.length for episode in rollout.episodes)
        if steps != rollout.num_steps or not bool((rollout.terminated | rollout.truncated)[-1].all()):
            fail(
                f"a rollout of {rollout.num_steps} steps has whole episodes of {steps} in all",
                "end each rollout with an episode, or set whole_episodes to False",
            )


@check("collector")
def same_seed_same_rollouts(subject: Subject) -> None:
    """With the same seeds the same is collected, bit for bit."""
    for one, other in zip(_random(subject), _random(subject), strict=True):
        for name, tensor in rollout_leaves(one).items():
            if not equal(tensor, rollout_leaves(other).get(name)):
                fail(f"with the same seed {name} differs", "take all seeds from `seeds`: environment, actions")


@check("collector")
def other_seed_other_rollouts(subject: Subject) -> None:
    """With other seeds environments and actions are others."""
    for name in ("all_obs", "actions"):
        one, other = (torch.cat([getattr(r, name).flatten()[:6] for r in _random(subject, seed)]) for seed in (0, 1))
        if equal(one, other):
            fail(f"with another seed {name} are the same", "take all seeds from `seeds`: environment, actions")


@check("collector")
def earlier_rollouts_are_left_alone(subject: Subject) -> None:
    """The arrays of a rollout belong to the caller: they are not written to again."""
    collector = _built(subject, any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"]))
    try:
        with relies_on("builds_and_collects"):
            first = collector.collect(Uniform())
            before = stored(rollout_leaves(first))
            collector.collect(Uniform())
    finally:
        collector.close()
    for name, tensor in rollout_leaves(first).items():
        if not equal(tensor, before[name]):
            fail(f"collecting again has changed {name} of the rollout before", "make new arrays for each rollout")


@check("collector")
def rollouts_are_not_read_again(subject: Subject) -> None:
    """What the caller does with a rollout's arrays changes nothing that is collected later."""
    env = any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"])
    expected = _random(subject)
    collector = _built(subject, env)
    try:
        for number, wanted in enumerate(expected):
            with relies_on("builds_and_collects"), global_generators(SeedStream(0)):
                found = collector.collect(Uniform())
            for name, tensor in rollout_leaves(wanted).items():
                if number and not equal(tensor, rollout_leaves(found).get(name)):
                    blame(subject, "same_seed_same_rollouts")
                    fail(f"what was written into a rollout is in the next one's {name}", "keep a copy of the last row")
            for tensor in rollout_leaves(found).values():
                tensor.zero_()
    finally:
        collector.close()


@check("collector")
def collecting_leaves_global_generators_alone(subject: Subject) -> None:
    """Collecting draws nothing from the global generators, and does not seed them."""
    collector = _built(subject, _counting([]))
    try:
        with global_generators(SeedStream(0)), relies_on("builds_and_collects"):
            before = global_states()
            collector.collect(Uniform())
            changed = other_states(before)
    finally:
        collector.close()
    if changed:
        fail(
            f"collect has used the global generator {changed[0]}", "give the policy a generator of the collector's own"
        )


@check("collector")
def policies_start_anew_with_each_episode(subject: Subject) -> None:
    """What a StatefulPolicy carries is put back to its initial state where an episode starts, and kept elsewhere."""
    for mode in AutoresetMode:
        for rollout in _collected(subject, _counting([], mode), policy=Steps()):
            counts = rollout.extras.get("count")
            if counts is None:
                raise CheckSkipped("extras are missing", "extras_come_back")
            wrong = (counts != rollout.obs[..., 2].long()) & rollout.valid
            if bool(wrong.any()):
                t, n = (int(i) for i in wrong.nonzero()[0])
                fail(
                    f"in mode {mode.name}, step {int(rollout.obs[t, n, 2])} of an episode, the policy has carried "
                    f"{int(counts[t, n])} steps",
                    "put `initial_state` where Step.starts, and hand on Act.state elsewhere",
                )


@check("collector")
def extras_come_back(subject: Subject) -> None:
    """Whatever a policy adds in `extras` is in the rollout, `[T, N, ...]`, beside its own observation."""
    for rollout in _collected(subject, _counting([])):
        lanes = rollout.extras.get("lane")
        if lanes is None or lanes.shape != rollout.rewards.shape or not equal(lanes, rollout.obs[..., 0].contiguous()):
            fail(
                "the policy's extras are not those of the rollout's rows", "store Act.extras in the row they belong to"
            )


@check("collector")
def state_of_a_collector_is_plain(subject: Subject) -> None:
    """Its state, if it has any, is tensors, arrays, numbers, texts, lists, tuples and tables."""
    collector = _built(subject, any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"]))
    try:
        with relies_on("builds_and_collects"):
            collector.collect(Uniform())
        found = unstorable(collector.state_dict())
    finally:
        collector.close()
    if found:
        fail(f"{found}, which no checkpoint holds", "store plain numbers; of environments what their state_dict gives")


@check("collector")
def a_second_collector_goes_on_equally(subject: Subject) -> None:
    """A collector that has taken over another one's state collects the same from then on; or it says that it cannot."""
    env = any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"])
    one, other = _built(subject, env), _built(subject, env)
    try:
        with relies_on("builds_and_collects"):
            one.collect(Uniform())
        state = one.state_dict()
        if state is None:
            raise CheckSkipped("it does not store its state")
        try:
            other.load_state_dict(state)
        except Inexact as error:
            raise CheckSkipped(f"it says that it cannot go on exactly: {error}") from error
        with relies_on("builds_and_collects"):
            mine, theirs = one.collect(Uniform()), other.collect(Uniform())
    finally:
        one.close()
        other.close()
    for name, tensor in rollout_leaves(mine).items():
        if not equal(tensor, rollout_leaves(theirs).get(name)):
            blame(subject, "same_seed_same_rollouts")
            fail(f"with the same state {name} differs", "store environments, generators, and what policies carry")


class _Broken(Counting):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        obs[1] = np.nan
        return obs, *rest


@check("collector")
def nan_from_an_environment_is_refused(subject: Subject) -> None:
    """An observation that is not finite is an EnvironmentFault, which says whose it is."""
    with relies_on("builds_and_collects"):
        collector = _built(subject, MadeConfig(maker=lambda lane: _Broken(lane, [])))
    try:
        collector.collect(Uniform())
    except EnvironmentFault:
        return
    except Exception as error:
        fail(f"NaN in an observation raises {reason(error)}", "raise environments.fault(lane, what)")
    finally:
        collector.close()
    fail("NaN in an observation passes", "look at each rollout before it is returned: environments.fault(lane, what)")
