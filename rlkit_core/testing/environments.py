"""Checks of families of environments."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rlkit_core.component import EnvironmentConfig, dump
from rlkit_core.environment import Environments
from rlkit_core.errors import UsageError
from rlkit_core.rollout import tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.cases import batch_of, equal, global_states, other_states
from rlkit_core.testing.checks import Subject, blame, check, fail, reason, relies_on, with_settings

N, STEPS = 3, 30


def _made(subject: Subject, seed: int = 0, number: int = N) -> Any:
    with relies_on("makes_environments"):
        return subject.config.make(number, SeedStream(seed))


def _play(environments: Any, steps: int = STEPS) -> list[Any]:
    """All that comes of fixed actions."""
    actions = [batch_of(environments.action_space, environments.num_envs, seed) for seed in range(steps)]
    with relies_on("steps_are_as_announced"):
        seen: list[Any] = [tree_map(np.array, environments.reset())]
        for action in actions:
            step = environments.step(action)
            seen.append((tree_map(np.array, step.obs), np.array(step.rewards), np.array(step.terminated)))
    return seen


@check("environment")
def makes_environments(subject: Subject) -> None:
    """`make(n)` gives Environments of n, and `make_evaluation` some as well; both can be closed twice."""
    for what, environments in (
        (f"make({N})", subject.config.make(N, SeedStream(0))),
        ("make_evaluation(2)", subject.config.make_evaluation(2, SeedStream(0))),
    ):
        if not isinstance(environments, Environments):
            fail(f"{what} gave a {type(environments).__name__}", "return rlkit_core.environment.Environments")
        if what == f"make({N})" and environments.num_envs != N:
            fail(f"{what} gave {environments.num_envs} environments", "make as many as are asked for")
        environments.close()
        environments.close()


@check("environment")
def steps_are_as_announced(subject: Subject) -> None:
    """Observations are members of the observation space; rewards are finite, flags bool, `[N]` each."""
    environments = _made(subject)
    space = environments.observation_space
    with environments:
        obs = environments.reset()
        for seed in range(STEPS):
            for lane in range(N):
                row = tree_map(lambda leaf: leaf[lane], obs)  # noqa: B023 (used at once)
                if not space.contains(row):
                    fail(f"the observation {str(row)[:100]} is no member of {space}", "mend the space or the values")
            step = environments.step(batch_of(environments.action_space, N, seed))
            obs = step.obs
            if step.rewards.shape != (N,) or not np.isfinite(step.rewards).all():
                fail(f"rewards are {step.rewards}", f"give finite numbers, here {N}")


@check("environment")
def same_seed_same_environments(subject: Subject) -> None:
    """With the same seeds and actions the same happens, bit for bit."""
    seen = []
    for _ in range(2):
        with _made(subject) as environments, global_generators(SeedStream(0)):
            seen.append(_play(environments))
    if not equal(*seen):
        fail(
            "the same seeds and actions give other observations or rewards", "draw from self.np_random, seeded in reset"
        )


@check("environment")
def two_families_do_not_meet(subject: Subject) -> None:
    """Environments that were made apart share nothing: stepping the ones changes nothing for the others."""
    with _made(subject) as alone, global_generators(SeedStream(0)):
        expected = _play(alone, 10)
    with (
        _made(subject) as one,
        _made(subject, 1) as other,
        global_generators(SeedStream(0)),
        relies_on("steps_are_as_announced"),
    ):
        found: list[Any] = [tree_map(np.array, one.reset())]
        other.reset()
        for seed in range(10):
            step = one.step(batch_of(one.action_space, N, seed))
            found.append((tree_map(np.array, step.obs), np.array(step.rewards), np.array(step.terminated)))
            other.step(batch_of(other.action_space, N, seed + 50))
    if not equal(expected, found):
        blame(subject, "same_seed_same_environments")
        fail("stepping others changes what happens", "keep state in the environment, not in its class or module")


@check("environment")
def environments_leave_global_generators_alone(subject: Subject) -> None:
    """Making, resetting and stepping draws nothing from the global generators, and does not seed them."""
    with global_generators(SeedStream(0)):
        before = global_states()
        with _made(subject) as environments:
            _play(environments, 5)
        changed = other_states(before)
    if changed:
        fail(f"the global generator {changed[0]} has been used", "draw from self.np_random, seeded in reset")


@check("environment")
def actions_are_left_alone(subject: Subject) -> None:
    """Environments do not write into the actions that they are given."""
    with _made(subject) as environments, relies_on("steps_are_as_announced"):
        environments.reset()
        for seed in range(5):
            action = batch_of(environments.action_space, N, seed)
            before = tree_map(np.array, action)
            environments.step(action)
            if not equal(action, before):
                fail("step has changed its actions", "work on a copy of what is given")


@check("environment")
def what_is_resolved_stays(subject: Subject) -> None:
    """`resolve` decides what was left open: its result is plain settings that resolve to themselves."""
    resolved = subject.config.resolve(N)
    if not isinstance(resolved, EnvironmentConfig) or type(resolved) is not type(subject.config):
        fail(f"resolve gave a {type(resolved).__name__}", "return a config of the same class")
    if resolved.resolve(N) != resolved:
        fail("what resolve gives resolves to something else", "decide everything at once: the run's record keeps it")
    try:
        json.dumps(dump(resolved), allow_nan=False)
    except (TypeError, ValueError) as error:
        fail(f"what resolve gives is no plain data: {reason(error)}", "decide for numbers, texts, lists and tables")


@check("environment")
def threshold_is_a_number(subject: Subject) -> None:
    """`reward_threshold` is None, or a finite number that a mean return can reach."""
    threshold = subject.config.reward_threshold()
    if threshold is not None and not (isinstance(threshold, (int, float)) and np.isfinite(threshold)):
        fail(f"reward_threshold is {threshold!r}", "return a float, or None where none is known")


@check("environment")
def unknown_id_is_refused(subject: Subject) -> None:
    """There is no environment of any name: an unknown `id` is a UsageError (when it is set, a ValueError)."""
    try:
        config = with_settings(subject.config, id="there-is-no-such-environment")
    except ValueError:
        return
    try:
        config.make(1, SeedStream(0)).close()
    except UsageError:
        return
    except Exception as error:
        fail(f"an unknown id raises {reason(error)}", "raise UsageError, naming the id and those that there are")
    fail("an unknown id raises nothing", "raise UsageError, naming the id and those that there are")
