"""Checks of algorithms: the learner, and the policy that it owns."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rlkit_core.config import RunConfig
from rlkit_core.errors import Diverged, PluginError, RlkitError, UsageError
from rlkit_core.hookspecs import hookimpl
from rlkit_core.learner import Learner
from rlkit_core.policy import Policy
from rlkit_core.presets import configure, presets
from rlkit_core.registry import Registry
from rlkit_core.rollout import FinalObservations, Rollout, tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.stored_policy import load_policy, save_policy
from rlkit_core.testing.building import build_learner, declared, learner_of, observations, quick, rollouts_of, spaces_of
from rlkit_core.testing.cases import (
    ACTION_SPACES,
    NO_ARRAYS,
    OBS_SPACES,
    Choice,
    MadeConfig,
    act,
    any_env,
    as_tensors,
    batch_of,
    clone_rollout,
    equal,
    global_states,
    other_states,
    rollout_leaves,
    stored,
    threads,
    unstorable,
)
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on, small

MOST_UPDATES = 20
MOST_LEARNING = 150


def numbers(metrics: Any) -> dict[str, float]:
    """What is a number among what `update` returned."""
    found = {}
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            found[str(name)] = float(value)
    return found


def updated(learner: Learner, rollouts: list[Rollout]) -> list[dict[str, float]]:
    """Metrics of an update on a copy of each rollout."""
    with relies_on("updates_change_parameters"):
        return [numbers(learner.update(clone_rollout(rollout))) for rollout in rollouts]


def outcome_of(learner: Learner, rollouts: list[Rollout]) -> dict[str, Any]:
    """All that can be seen of a learner after these updates."""
    return {"metrics": updated(learner, rollouts), "policy": stored(learner.policy.state_dict())}


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Where two outcomes differ, or None."""
    for number, (mine, theirs) in enumerate(zip(one["metrics"], other["metrics"], strict=True)):
        for name in mine.keys() | theirs.keys():
            if not equal(mine.get(name), theirs.get(name)):
                return f"metric {name} of update {number} is {mine.get(name)}, and {theirs.get(name)}"
    for name, tensor in one["policy"].items():
        if not equal(tensor, other["policy"].get(name)):
            return f"the policy's {name} differs"
    return None


def usual(subject: Subject) -> dict[str, Any]:
    """The outcome of three updates with seed 0."""

    def make() -> dict[str, Any]:
        with global_generators(SeedStream(0, "updates")):
            return outcome_of(learner_of(subject), rollouts_of(subject))

    found: dict[str, Any] = subject.once("usual", make)
    return found


@check("algorithm")
def declares_action_spaces(subject: Subject) -> None:
    """`action_spaces` names Gymnasium's classes of action spaces that it handles, one at least."""
    names = subject.config.action_spaces
    unknown = [name for name in names if not isinstance(getattr(spaces, str(name), None), type)]
    if unknown or not names:
        fail(
            f"action_spaces is {names!r}",
            'name classes of gymnasium.spaces: `action_spaces: ClassVar[tuple[str, ...]] = ("Discrete",)`',
        )
    if not declared(subject.config):
        fail(f"action_spaces is {names!r}, none of which can be tried", f"name one of {', '.join(ACTION_SPACES)}")


@check("algorithm")
def builds_on_declared_action_spaces(subject: Subject) -> None:
    """A Learner with a Policy is built for every action space that it declares."""
    for space in declared(subject.config):
        try:
            learner = build_learner(quick(subject), OBS_SPACES["Box"], space)
        except Exception as error:
            fail(f"build for {space} raised {reason(error)}", "build it, or leave the space out of action_spaces")
        if not isinstance(learner, Learner) or not isinstance(learner.policy, Policy):
            fail(
                f"build for {space} gave a {type(learner).__name__} with a {type(learner.policy).__name__}",
                "return a Learner whose `policy` is a Policy",
            )


@check("algorithm")
def refuses_other_action_spaces(subject: Subject) -> None:
    """An action space that it does not declare is refused when it is built, by a UsageError that names it."""
    config = quick(subject)
    for name, space in ACTION_SPACES.items():
        if type(space).__name__ in config.action_spaces:
            continue
        try:
            build_learner(config, OBS_SPACES["Box"], space)
        except UsageError as error:
            if str(space) in str(error):
                continue
            fail(f"the UsageError for {name} actions does not name {space}: {error}", "put the space into its text")
        except Exception as error:
            fail(f"build for {space} raised {reason(error)}", "raise UsageError(f'... takes ..., not {space}')")
        fail(f"build for {space} raised nothing", f"declare {type(space).__name__} in action_spaces, or refuse it")


@check("algorithm")
def takes_or_refuses_each_observation_space(subject: Subject) -> None:
    """An observation space is learned from, or refused when it is built, by a UsageError that names it."""
    config = quick(subject)
    action_space = spaces_of(config)[1]
    for name, space in OBS_SPACES.items():
        try:
            learner = build_learner(config, space, action_space)
        except UsageError as error:
            if str(space) not in str(error):
                fail(f"the UsageError for {name} observations does not name {space}: {error}", "put it into its text")
            continue
        except Exception as error:
            if name == "Box":
                raise CheckSkipped(reason(error), "builds_on_declared_action_spaces") from error
            fail(f"build for observations {space} raised {reason(error)}", "take them, or refuse with a UsageError")
        if name in NO_ARRAYS:
            fail(f"build for observations {space} raised nothing", "collectors have no arrays of them: refuse them")
        try:
            act(learner.policy, as_tensors(batch_of(space, 4)), torch.Generator().manual_seed(0))
        except Exception as error:
            if name == "Box":
                raise CheckSkipped(reason(error), "acts_where_it_collects") from error
            fail(f"acting on observations {space} raised {reason(error)}", "take them, or refuse them in build")
        if name == "Box":
            continue
        try:
            collector = config.collector.build(any_env(space, action_space), SeedStream(0, "experience"), "cpu")
            with global_generators(SeedStream(1)), contextlib.closing(collector):
                for _ in range(2):
                    learner.update(collector.collect(learner.policy))
        except Exception as error:
            blame(subject, "acts_where_it_collects", "updates_change_parameters")
            fail(f"learning from observations {space} raised {reason(error)}", "take them, or refuse them in build")


@check("algorithm")
def updates_change_parameters(subject: Subject) -> None:
    """Some of the first twenty updates change the policy."""
    learner = learner_of(subject)
    before = stored(learner.policy.state_dict())
    rollouts = rollouts_of(subject)
    for number in range(MOST_UPDATES):
        try:
            learner.update(clone_rollout(rollouts[number % len(rollouts)]))
        except Exception as error:
            fail(f"update raised {reason(error)}", "it is given what its own collector and policy have gathered")
        if not equal(before, stored(learner.policy.state_dict())):
            return
    fail(f"{MOST_UPDATES} updates have not changed the policy", "does the optimiser have its parameters, and step?")


@check("algorithm")
def metrics_are_numbers(subject: Subject) -> None:
    """`update` returns a mapping of names to numbers or 0-d tensors."""
    learner = learner_of(subject)
    for rollout in rollouts_of(subject):
        with relies_on("updates_change_parameters"):
            metrics = learner.update(clone_rollout(rollout))
        if not isinstance(metrics, Mapping):
            fail(f"update returned a {type(metrics).__name__}", "return a dict of numbers by name; {} for none")
        for name, value in metrics.items():
            number = isinstance(value, (float, int)) and not isinstance(value, bool)
            if isinstance(value, torch.Tensor):
                number = value.dim() == 0 and not value.requires_grad
            if not number or not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
                fail(
                    f"the metric {name!r} is {value!r}"[:200],
                    "give floats or 0-d tensors without gradient, under names of a-z, 0-9 and _",
                )


@check("algorithm")
def metrics_are_finite(subject: Subject) -> None:
    """All metrics of ordinary updates are finite."""
    for record in usual(subject)["metrics"]:
        for name, value in record.items():
            if not np.isfinite(value):
                fail(f"the metric {name} is {value}", "leave out what has no value in an update")


@check("algorithm")
def metrics_are_documented(subject: Subject) -> None:
    """Every metric is explained in the config class's `metrics`."""
    explained = subject.config.metrics
    for record in usual(subject)["metrics"]:
        for name in record:
            if not str(explained.get(name, "")).strip():
                fail(
                    f"the metric {name} is not explained",
                    f'add it: `metrics: ClassVar[Mapping[str, str]] = {{"{name}": "what it says", ...}}`',
                )


@check("algorithm")
def the_policy_stays_the_same_object(subject: Subject) -> None:
    """`learner.policy` is the same object from the first to the last update."""
    learner = learner_of(subject)
    policy = learner.policy
    updated(learner, rollouts_of(subject))
    if learner.policy is not policy:
        fail("update has put another object into learner.policy", "copy weights into the policy that is there")


@check("algorithm")
def the_policy_is_a_part(subject: Subject) -> None:
    """`parts()` has the policy among what checkpoints hold."""
    learner = learner_of(subject)
    with relies_on("state_is_plain"):
        parts = learner.parts()
    if not any(part is learner.policy for part in parts.values()):
        fail(f"parts() has {', '.join(parts) or 'nothing'}, but not the policy", 'add it: {"policy": self.policy, ...}')


@check("algorithm")
def same_seed_same_results(subject: Subject) -> None:
    """Built with the same seed and given the same rollouts, it comes to the same metrics and weights, bit for bit."""
    with global_generators(SeedStream(0, "updates")):
        again = outcome_of(learner_of(subject), rollouts_of(subject))
    if problem := different(usual(subject), again):
        fail(f"the same seed gives other results: {problem}", "take all randomness from setup.seeds")


@check("algorithm")
def updates_leave_global_generators_alone(subject: Subject) -> None:
    """`update` draws nothing from the global generators of Python, numpy and torch, and does not seed them."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    with global_generators(SeedStream(0)):
        before = global_states()
        updated(learner, rollouts)
        changed = other_states(before)
    if changed:
        fail(
            f"update has used the global generator {changed[0]}",
            "draw from a generator of your own that is a part: rlkit_core.builtin's SeededGenerator",
        )


@check("algorithm")
def results_do_not_depend_on_global_generators(subject: Subject) -> None:
    """Wherever the caller's global generators stand during updates, the results are the same."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    with global_generators(SeedStream(987, "other")):
        other = outcome_of(learner, rollouts)
    if problem := different(usual(subject), other):
        blame(subject, "same_seed_same_results")
        fail(f"results depend on the global generators: {problem}", "draw from a generator of your own")


@check("algorithm")
def updates_leave_torch_alone(subject: Subject) -> None:
    """Acting and updating change neither torch's default dtype nor its threads nor whether gradients are on."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    with threads(torch.get_num_threads()):
        before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
        try:
            act(learner.policy, observations(subject), torch.Generator().manual_seed(0))
            updated(learner, rollouts)
            after = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
        finally:
            torch.set_default_dtype(before[0])
            torch.set_grad_enabled(before[2])
    names = "default dtype", "number of threads", "gradient mode"
    for what, was, now in zip(names, before, after, strict=True):
        if was != now:
            fail(f"torch's {what} was {was} and is {now}", "leave it: it is the caller's")


@check("algorithm")
def results_do_not_depend_on_threads(subject: Subject) -> None:
    """With another number of torch's threads small updates give the same results."""
    expected = usual(subject)
    with threads(2), global_generators(SeedStream(0, "updates")):
        found = outcome_of(learner_of(subject), rollouts_of(subject))
    if problem := different(expected, found):
        blame(subject, "same_seed_same_results")
        fail(f"results depend on the number of threads: {problem}", "compute nothing from it")


@check("algorithm")
def results_do_not_depend_on_the_default_dtype(subject: Subject) -> None:
    """Whatever torch's default dtype is during updates, the results are the same."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    expected = usual(subject)
    todo = "give tensors their dtype, as in torch.zeros(n, dtype=torch.float32)"
    with global_generators(SeedStream(0, "updates")):  # which gives the dtype back, too
        torch.set_default_dtype(torch.float64)
        try:
            found = outcome_of(learner, rollouts)
        except CheckSkipped as skipped:
            blame(subject, "updates_change_parameters")
            fail(f"with float64 as default dtype: {skipped}", todo)
    if problem := different(expected, found):
        blame(subject, "same_seed_same_results")
        fail(f"results depend on the default dtype: {problem}", todo)


@check("algorithm")
def rollouts_are_left_alone(subject: Subject) -> None:
    """`update` writes into no array of the rollout."""
    learner = learner_of(subject)
    for rollout in rollouts_of(subject):
        given = clone_rollout(rollout)
        with relies_on("updates_change_parameters"):
            learner.update(given)
        after = rollout_leaves(given)
        for name, tensor in rollout_leaves(rollout).items():
            if not equal(tensor, after[name]):
                fail(
                    f"update has changed the rollout's {name}",
                    "work on a copy: operations that end in _ write in place",
                )


@check("algorithm")
def keeps_no_view_of_a_rollout(subject: Subject) -> None:
    """What is kept from a rollout is copied: later writing into its arrays changes nothing."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    metrics = []
    with global_generators(SeedStream(0, "updates")):
        for rollout in rollouts:
            given = clone_rollout(rollout)
            metrics += updated_as_given(learner, given)
            for tensor in rollout_leaves(given).values():
                tensor.zero_()
    expected = usual(subject)
    if problem := different(expected, {"metrics": metrics, "policy": stored(learner.policy.state_dict())}):
        blame(subject, "same_seed_same_results")
        fail(f"what was written into earlier rollouts changes results: {problem}", "clone what is kept of a rollout")


def updated_as_given(learner: Learner, rollout: Rollout) -> list[dict[str, float]]:
    """Metrics of an update on the rollout itself."""
    with relies_on("updates_change_parameters"):
        return [numbers(learner.update(rollout))]


def _states(learner: Learner) -> dict[str, Any]:
    with relies_on("state_is_plain"):
        return {name: stored(part.state_dict()) for name, part in learner.parts().items()}


@check("algorithm")
def state_is_plain(subject: Subject) -> None:
    """The state of every part is tensors, arrays, numbers, texts, lists and tables: checkpoints need no pickle."""
    learner = learner_of(subject)
    updated(learner, rollouts_of(subject))
    for name, part in learner.parts().items():
        if found := unstorable(part.state_dict(), name):
            fail(f"{found}, which no checkpoint holds", "store plain numbers, and make the object again when loading")


def _second(subject: Subject) -> tuple[Learner, Learner]:
    """A learner after three updates, and one with other weights that has taken its state over."""
    learner, other = learner_of(subject), learner_of(subject, seed=9)
    if not any(part is learner.policy for part in learner.parts().values()):
        raise CheckSkipped("the policy is no part", "the_policy_is_a_part")
    updated(learner, rollouts_of(subject))
    states = _states(learner)
    with relies_on("state_comes_back"):
        parts = other.parts()
        for name, state in states.items():
            parts[name].load_state_dict(state)
    return learner, other


@check("algorithm")
def state_comes_back(subject: Subject) -> None:
    """The state of every part, loaded into a fresh learner of another seed, is its state then."""
    try:
        learner, other = _second(subject)
    except CheckSkipped as skipped:
        if skipped.relies_on == "state_comes_back":
            fail(f"load_state_dict raised {skipped}", "take what state_dict has given, lists for tuples")
        raise
    theirs = _states(other)
    for name, state in _states(learner).items():
        if not equal(stored(state), stored(theirs[name])):
            fail(f"the state of the part {name!r} is another one after loading", "load all that state_dict gives")


@check("algorithm")
def goes_on_equally(subject: Subject) -> None:
    """A fresh learner with all parts' states goes on exactly as the one that they come from: a resumed run is the same.

    Updates give the same metrics, and at the end the policies are the same.
    """
    learner, other = _second(subject)
    # A round trip that loses something is told by the check before.
    theirs = _states(other)
    if any(not equal(state, theirs[name]) for name, state in _states(learner).items()):
        raise CheckSkipped("the state does not come back", "state_comes_back")
    rollouts = rollouts_of(subject)
    outcomes = []
    for one in (learner, other):
        with global_generators(SeedStream(0, "updates")):
            outcomes.append(outcome_of(one, rollouts))
    problem = different(*outcomes)
    if problem is None:
        return
    blame(subject, "same_seed_same_results")
    fail(
        f"a resumed learner goes on otherwise: {problem}", "add what decides it to parts(): counters, buffers, targets"
    )


@check("algorithm")
def policy_can_be_stored(subject: Subject) -> None:
    """A stored policy, loaded again, acts as it did: all that it acts by is in its state."""
    config = subject.config
    learner = build_and_learn(subject)
    module = ModuleType("rlkit_checked")
    module.rlkit_register = hookimpl(lambda: [type(config)])  # type: ignore[attr-defined]
    obs_space, action_space = spaces_of(quick(subject))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy"
        try:
            registry = Registry([module])
            save_policy(path, learner.policy, quick(subject), obs_space, action_space, {})
            loaded = load_policy(path, registry=registry)
        except (PluginError, UsageError) as error:
            raise CheckSkipped(f"it cannot be named: {error}") from error
        except Exception as error:
            if unstorable(learner.policy.state_dict()):
                raise CheckSkipped(reason(error), "state_is_plain") from error
            fail(f"the policy cannot be stored and loaded: {reason(error)}", "its state is tensors, by name")
    with relies_on("acts_where_it_collects"):
        before, after = act(learner.policy, observations(subject)).action, act(loaded, observations(subject)).action
    if not equal(stored(before), stored(after)):
        blame(subject, "acting_without_generator_is_repeatable")
        fail("the loaded policy acts otherwise", "keep all that it acts by in parameters and buffers of the policy")


def build_and_learn(subject: Subject) -> Learner:
    """A learner after three updates."""
    learner = learner_of(subject)
    updated(learner, rollouts_of(subject))
    return learner


@check("algorithm")
def reads_no_invalid_rows(subject: Subject) -> None:
    """The dummy rows of autoreset mode NEXT_STEP count nowhere: what their rewards and actions hold changes nothing."""
    rollouts = [_with_dummies(r) for r in rollouts_of(subject, 6, autoreset=AutoresetMode.NEXT_STEP)]
    if all(bool(rollout.valid.all()) for rollout in rollouts):
        raise CheckSkipped("its collector gives no dummy rows")
    outcomes = []
    for poison in (False, True):
        given = [_poisoned(rollout) if poison else rollout for rollout in rollouts]
        with global_generators(SeedStream(0, "updates")):
            try:
                outcomes.append(outcome_of(learner_of(subject), given))
            except Diverged:
                outcomes.append({"metrics": [{}] * len(given), "policy": {}})
            except CheckSkipped as skipped:
                if not poison:
                    raise
                fail(f"update raised for what invalid rows hold: {skipped}", "take rollout.columns(...), valid rows")
    if problem := different(*outcomes):
        blame(subject, "same_seed_same_results")
        fail(f"invalid rows change results: {problem}", "take rollout.columns(...) or steps(): they have valid rows")


def _with_dummies(rollout: Rollout) -> Rollout:
    """Episodes end to end in one column as NEXT_STEP would give them: a dummy row after each end but the last."""
    if rollout.shape[1] != 1 or rollout.finals is None or not isinstance(rollout.all_obs, torch.Tensor):
        return rollout
    finals = {int(t): rollout.finals.obs[k] for k, t in enumerate(rollout.finals.time)}
    T = rollout.shape[0]
    order: list[tuple[int, bool]] = []  # row, dummy
    obs = []
    for t in range(T):
        order.append((t, False))
        obs.append(rollout.all_obs[t, 0])
        if t in finals and t < T - 1:
            order.append((t, True))
            obs.append(finals[t])
    obs.append(finals.get(T - 1, rollout.all_obs[T, 0]))
    rows = torch.tensor([t for t, _ in order])
    valid = torch.tensor([not dummy for _, dummy in order])[:, None]
    return replace(
        rollout,
        all_obs=torch.stack(obs)[:, None],
        finals=None,
        actions=tree_map(lambda leaf: leaf[rows], rollout.actions),
        rewards=torch.where(valid, rollout.rewards[rows], 0.0),
        terminated=rollout.terminated[rows] & valid,
        truncated=rollout.truncated[rows] & valid,
        valid=valid,
        extras=tree_map(lambda leaf: leaf[rows], dict(rollout.extras)),
    )


def _poisoned(rollout: Rollout) -> Rollout:
    """The same with other rewards, actions and extras on dummy rows."""
    rollout = clone_rollout(rollout)
    dummy = ~rollout.valid
    rollout.rewards[dummy] = 1e3

    def other(leaf: Any) -> Any:
        leaf = leaf.clone()
        if leaf.shape[:2] != dummy.shape:
            return leaf
        if leaf.is_floating_point():
            leaf[dummy] = 0.123
        elif len(leaf[~dummy]):
            leaf[dummy] = leaf[~dummy][0]
        return leaf

    return replace(rollout, actions=tree_map(other, rollout.actions), extras=tree_map(other, dict(rollout.extras)))


@check("algorithm")
def reads_nothing_after_an_end(subject: Subject) -> None:
    """After a terminated step nothing follows: what its final observation is changes nothing."""
    rollouts = rollouts_of(subject)
    others = []
    for rollout in rollouts:
        other, finals = clone_rollout(rollout), rollout.finals
        if finals is not None and isinstance(finals.obs, torch.Tensor):
            obs = finals.obs.clone()
            obs[rollout.terminated[finals.time, finals.lane]] = 0.77
            other = replace(other, finals=FinalObservations(finals.time, finals.lane, obs))
        others.append(other)
    if not any(bool(rollout.terminated.any()) for rollout in rollouts):
        raise CheckSkipped("no episode ends in its rollouts")
    with global_generators(SeedStream(0, "updates")):
        found = outcome_of(learner_of(subject), others)
    if problem := different(usual(subject), found):
        blame(subject, "same_seed_same_results")
        fail(
            f"observations after terminated steps change results: {problem}",
            "select with `torch.where(terminated, 0, values)`, and take statistics of rollout.obs only",
        )


@check("algorithm")
def takes_single_step_episodes(subject: Subject) -> None:
    """Episodes of a single step are learned from, with finite numbers."""
    _stays_finite(subject, "episodes of a single step", end=1.0)


@check("algorithm")
def takes_constant_rewards(subject: Subject) -> None:
    """Rewards that do not vary are learned from, with finite numbers: nothing is divided by a deviation of 0."""
    _stays_finite(subject, "rewards that are all 1", reward=1.0)


def _stays_finite(subject: Subject, what: str, **how: Any) -> None:
    rollouts = rollouts_of(subject, 4, **how)
    learner = learner_of(subject)
    for rollout in rollouts:
        try:
            metrics = numbers(learner.update(clone_rollout(rollout)))
        except Exception as error:
            updated(learner_of(subject), rollouts_of(subject))  # which may fail as well: then that is to be told
            fail(f"with {what} update raised {reason(error)}", "an eps in the denominator, or rlkit_core's normalize")
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        ordinary = [name for name, value in usual(subject)["metrics"][0].items() if not np.isfinite(value)]
        bad += [name for name, tensor in learner.policy.state_dict().items() if not _finite(tensor)]
        if set(bad) - set(ordinary):
            fail(f"with {what} {bad[0]} is not finite", "an eps in the denominator, or rlkit_core's normalize")


def _finite(tensor: Any) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


@check("algorithm")
def nan_reaches_no_parameter(subject: Subject) -> None:
    """A NaN in the rewards is refused, or found before a step is taken (Diverged): the policy stays finite."""
    learner, rollouts = learner_of(subject), rollouts_of(subject)
    updated(learner, rollouts[:1])
    for rollout in rollouts:
        given = clone_rollout(rollout)
        given.rewards[:] = float("nan")
        try:
            learner.update(given)
        except RlkitError:
            pass
        except Exception as error:
            fail(f"NaN in the rewards makes update raise {reason(error)}", "raise Diverged: it says what happened")
        for name, tensor in learner.policy.state_dict().items():
            if not _finite(tensor):
                fail(
                    f"NaN in the rewards has come into the policy's {name}",
                    "look at the gradient's norm before each step, and raise Diverged if it is not finite",
                )


@check("algorithm")
def learns_which_action_pays(subject: Subject) -> None:
    """Of two actions it comes to take the one with the higher reward, whichever that is."""
    for best in (0, 1):
        rewards = (1.0, -1.0) if best == 0 else (-1.0, 1.0)
        if not _learns(subject, Choice, rewards, False, best):
            blame(subject, "updates_change_parameters")
            fail(
                f"it does not learn to take action {best}, rewarded with 1 where the other gets -1",
                "look at the sign of the policy's loss, and whether actions and rewards are in the same rows",
            )


@check("algorithm")
def values_what_follows_a_truncation(subject: Subject) -> None:
    """An episode that is cut off would have gone on: reward 1 for ever is better than 1.5 once, after which it ends."""
    for name in type(subject.config).model_fields:
        if getattr(getattr(subject.config, name), "bootstrap", None) is False:
            raise CheckSkipped(f"it values nothing that follows, as its setting {name}.bootstrap says")
    if not _learns(subject, Choice, (1.5, 1.0), True, 1):
        blame(subject, "updates_change_parameters", "learns_which_action_pays")
        fail(
            "it takes 1.5 and the end rather than 1 for ever: cut-off episodes count as ended",
            "add the value of next_obs where `truncated`; only `terminated` means that nothing follows",
        )


def _learns(subject: Subject, env: Any, rewards: tuple[float, float], endless: bool, best: int) -> bool:
    """Whether the greedy action becomes the best one, and stays so for some updates."""
    wanted = {"learning_rate": 1e-2, "learning_rate_schedule": "constant", "epsilon_fraction": 0.1}
    config = small(subject.config, **wanted)
    continuous = "Discrete" not in config.action_spaces
    if continuous and "Box" not in config.action_spaces:
        raise CheckSkipped("it handles neither Discrete nor Box actions")
    made = MadeConfig(maker=lambda lane: env(continuous, rewards, endless))
    probe = env(continuous, rewards, endless)
    with relies_on("builds_on_declared_action_spaces"):
        learner = build_learner(config, probe.observation_space, probe.action_space)
    good = 0
    with relies_on("acts_where_it_collects"):
        collector = config.collector.build(made, SeedStream(0, "experience"), "cpu")
    with global_generators(SeedStream(0, "updates")):
        for _ in range(MOST_LEARNING):
            with relies_on("acts_where_it_collects"):
                rollout = collector.collect(learner.policy)
            try:
                learner.update(rollout)
            except Exception:
                blame(subject, "updates_change_parameters", "takes_single_step_episodes", "takes_constant_rewards")
                raise
            action = float(torch.as_tensor(act(learner.policy, torch.ones(1, 1)).action).flatten()[0])
            right = (action > 0.1) == (best == 1) and abs(action) > 0.1 if continuous else action == best
            good = good + 1 if right else 0
            if good == 10:
                break
    collector.close()
    return good == 10


@check("algorithm")
def presets_fit(subject: Subject) -> None:
    """Every preset in `presets.toml` beside the config's module is a valid run's config."""
    cls = type(subject.config)
    module = ModuleType("rlkit_checked")
    module.rlkit_register = hookimpl(lambda: [cls])  # type: ignore[attr-defined]
    try:
        found = presets(cls)
        if not found:
            raise CheckSkipped("it has none")
    except PluginError as error:
        fail(str(error).replace("\n", " "), "see docs/write-a-plugin.md: description, environments, run, algorithm")
    try:
        registry = Registry([module])
    except PluginError as error:
        raise CheckSkipped(f"it cannot be registered: {error}") from error
    for name, preset in found.items():
        env_id = preset.environments[0] if preset.environments else "CartPole-v1"
        try:
            config, _ = configure([{"algorithm": cls.name, "env": env_id, "tracker": "none"}], registry, name)
            assert RunConfig.parse(config.dump(), registry=registry) == config
        except RlkitError as error:
            fail(f"preset {name}: {' '.join(str(error).split())[:300]}", "mend it in presets.toml")
