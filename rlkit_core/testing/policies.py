"""Checks of policies: how they act, those of algorithms as well; and those with a value function by themselves."""

from __future__ import annotations

from typing import Any

import torch

from rlkit_core.errors import UsageError
from rlkit_core.policy import ActorCriticPolicy, StatefulPolicy
from rlkit_core.rollout import Rollout, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.building import (
    action_spaces_of,
    build_policy,
    collector_of,
    env_of,
    observations,
    policy_of,
    trained_policy,
)
from rlkit_core.testing.cases import ACTION_SPACES, OBS_SPACES, act, clone, equal, global_states, other_states, stored
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on


@check("algorithm", "policy")
def acts_where_it_collects(subject: Subject) -> None:
    """A collector gathers rollouts with the policy, in every action space that it handles."""
    for space in action_spaces_of(subject):
        policy = policy_of(subject, space)
        collector = collector_of(subject).build(env_of(subject, space), SeedStream(0, "experience"), "cpu")
        try:
            with global_generators(SeedStream(1)):
                collector.collect(policy)
        except Exception as error:
            fail(f"collecting with {space} raised {reason(error)}", "see Policy.act: what it is given and answers")
        finally:
            collector.close()


@check("algorithm", "policy")
def actions_are_members(subject: Subject) -> None:
    """Every action, sampled or not, is a member of the action space: its bounds, its shape and its type."""
    for space in action_spaces_of(subject):
        for number in range(2):
            policy = trained_policy(subject, space) if number else policy_of(subject, space)
            for generator in (None, torch.Generator().manual_seed(number)):
                with relies_on("acts_where_it_collects"):
                    answer = act(policy, observations(subject, 64, number, space), generator).action
                rows = tree_map(lambda leaf: leaf.detach().numpy(), answer)
                for i in range(64):
                    row = tree_map(lambda leaf: leaf[i], rows)  # noqa: B023 (used at once)
                    if not space.contains(row):
                        how = "without generator" if generator is None else "with generator"
                        fail(
                            f"{how} it answers {row!r} ({getattr(row, 'dtype', type(row).__name__)}), not in {space}",
                            "give members of the space, in its own type: clip or squash, and mind `start` and dtype",
                        )


@check("algorithm", "policy")
def acting_without_generator_is_repeatable(subject: Subject) -> None:
    """Without a generator the same observations get the same actions: evaluations are greedy."""
    policy = policy_of(subject)
    with relies_on("acts_where_it_collects"):
        answers = [stored(act(policy, observations(subject)).action) for _ in range(2)]
    if not equal(*answers):
        fail("two calls of act without generator answer differently", "without one answer with the mode")


@check("algorithm", "policy")
def sampling_follows_the_generator(subject: Subject) -> None:
    """With generators in the same state the same actions are sampled: all randomness of acting comes from it."""
    policy = policy_of(subject)
    with relies_on("acts_where_it_collects"):
        answers = [
            stored(act(policy, observations(subject), torch.Generator().manual_seed(7)).action) for _ in range(2)
        ]
    if not equal(*answers):
        fail("act samples other actions from a generator in the same state", "draw with `generator=generator` only")


@check("algorithm", "policy")
def acting_leaves_global_generators_alone(subject: Subject) -> None:
    """Acting draws nothing from the global generators of Python, numpy and torch, and does not seed them."""
    policy = policy_of(subject)
    before = global_states()
    with global_generators(SeedStream(0)), relies_on("acts_where_it_collects"):
        before = global_states()
        act(policy, observations(subject), torch.Generator().manual_seed(0))
        act(policy, observations(subject))
        changed = other_states(before)
    if changed:
        fail(f"act has used the global generator {changed[0]}", "draw with `generator=generator`; without one, nothing")


@check("algorithm", "policy")
def acting_leaves_observations_alone(subject: Subject) -> None:
    """`act` does not write into the observations that it is given."""
    policy = policy_of(subject)
    obs = observations(subject)
    before = stored(obs)
    with relies_on("acts_where_it_collects"):
        act(policy, obs, torch.Generator().manual_seed(0))
        act(policy, obs)
    if not equal(stored(obs), before):
        fail("act has changed the observations", "work on a copy: operations that end in _ write in place")


@check("algorithm", "policy")
def acting_changes_no_state(subject: Subject) -> None:
    """Acting changes nothing in the policy: statistics of observations move at the end of `update` only."""
    policy = policy_of(subject)
    before = stored(policy.state_dict())
    with relies_on("acts_where_it_collects"):
        act(policy, observations(subject), torch.Generator().manual_seed(0))
        act(policy, observations(subject))
    for name, tensor in policy.state_dict().items():
        if not equal(tensor, before[name]):
            fail(f"act has changed the policy's {name}", "change it in `update`, or carry it as a StatefulPolicy does")


@check("algorithm", "policy")
def rows_of_a_batch_do_not_mix(subject: Subject) -> None:
    """The action for an observation does not depend on the other rows of the batch."""
    policy = policy_of(subject)
    obs = observations(subject)
    with relies_on("acts_where_it_collects"):
        together = act(policy, clone(obs)).action
        alone = torch.cat([act(policy, tree_map(lambda x: x[i : i + 1].clone(), obs)).action for i in range(32)])  # noqa: B023
    same = (
        torch.isclose(together.double(), alone.double(), rtol=1e-3, atol=1e-4).flatten(1)
        if together.dim() > 1
        else (together == alone).unsqueeze(1)
    )
    # Of two actions that are as good, rounding may choose.
    if float(same.all(1).double().mean()) < 0.9:
        blame(subject, "acting_without_generator_is_repeatable")
        fail("an observation alone gets another action than in a batch", "take no statistics over the rows in act")


@check("algorithm", "policy")
def arrays_and_tensors_act_alike(subject: Subject) -> None:
    """Where `takes_arrays` says so, numpy arrays get the same actions as tensors."""
    policy = policy_of(subject)
    if not policy.takes_arrays:
        raise CheckSkipped("it takes tensors only")
    obs = observations(subject)
    with relies_on("acts_where_it_collects"):
        of_tensors = torch.as_tensor(act(policy, clone(obs)).action)
        of_arrays = torch.as_tensor(act(policy, tree_map(lambda x: x.numpy().copy(), obs)).action)
    if of_tensors.dtype.is_floating_point:
        share = float(torch.isclose(of_tensors, of_arrays, rtol=1e-3, atol=1e-4).double().mean())
    else:
        share = float((of_tensors == of_arrays).double().mean())
    if share < 0.9:
        blame(subject, "acting_without_generator_is_repeatable")
        fail("arrays get other actions than tensors", "let both ways compute the same, or leave takes_arrays False")


@check("algorithm", "policy")
def extras_have_a_row_per_lane(subject: Subject) -> None:
    """Whatever `act` adds in `extras` has one row per observation."""
    policy = policy_of(subject)
    with relies_on("acts_where_it_collects"):
        extras = act(policy, observations(subject, 5), torch.Generator().manual_seed(0)).extras
    for path, leaf in tree_leaves(dict(extras)):
        if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (5,):
            shape = tuple(getattr(leaf, "shape", ()))
            fail(f"extras[{path!r}] is of shape {shape} for 5 observations", "make it a tensor [N, ...]")


@check("algorithm", "policy")
def carried_state_has_a_row_per_lane(subject: Subject) -> None:
    """What a StatefulPolicy carries has one row per environment, at first and after acting."""
    policy = policy_of(subject)
    if not isinstance(policy, StatefulPolicy):
        raise CheckSkipped("its policy carries nothing")
    with relies_on("acts_where_it_collects"):
        after = act(policy, observations(subject, 5), torch.Generator().manual_seed(0)).state
        initial = policy.initial_state(5)
    for when, state in (("initial_state(5)", initial), ("the state after acting on 5 observations", after)):
        for path, leaf in tree_leaves(state):
            if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (5,):
                shape = tuple(getattr(leaf, "shape", ()))
                fail(f"{when} has {path or 'a leaf'} of shape {shape}", "make it a tree of tensors [N, ...]")


@check("policy")
def builds_or_refuses_each_action_space(subject: Subject) -> None:
    """A policy with a value function is built for an action space, or a UsageError names what it cannot handle."""
    for space in ACTION_SPACES.values():
        for observation_space in (OBS_SPACES["Box"], env_of(subject, space).maker(0).observation_space):
            try:
                policy = build_policy(subject, observation_space, space)
            except UsageError as error:
                if str(space) not in str(error) and str(observation_space) not in str(error):
                    fail(f"the UsageError for {space} and {observation_space} names neither: {error}", "name it")
                continue
            except Exception as error:
                fail(f"build for {space} raised {reason(error)}", "build it, or refuse it with a UsageError")
            if not isinstance(policy, ActorCriticPolicy):
                fail(f"build gave a {type(policy).__name__}", "return an rlkit_core.policy.ActorCriticPolicy")
    if not action_spaces_of(subject):
        fail("it takes none of the spaces that are tried", f"these are: {', '.join(ACTION_SPACES)}")


def _rollout(subject: Subject) -> tuple[Any, Rollout]:
    """A policy, and a rollout that it has gathered."""
    policy = policy_of(subject)
    with relies_on("acts_where_it_collects"), global_generators(SeedStream(1)):
        env = env_of(subject, action_spaces_of(subject)[0])
        collector = collector_of(subject).build(env, SeedStream(0, "experience"), "cpu")
        try:
            return policy, collector.collect(policy)
        finally:
            collector.close()


@check("policy")
def values_are_as_announced(subject: Subject) -> None:
    """`values` gives finite values `[T, N]` of observations and successors, which are the same inside an episode."""
    policy, rollout = _rollout(subject)
    values, next_values = policy.values(rollout)
    for name, x in (("values", values), ("next values", next_values)):
        if x.shape != rollout.shape or not bool(x.isfinite().all()) or x.requires_grad:
            fail(f"{name} are {tuple(x.shape)}, requires_grad {x.requires_grad}", "give finite [T, N], no gradient")
    inside = ~(rollout.terminated | rollout.truncated)[:-1]
    if not equal(next_values[:-1][inside], values[1:][inside]):
        fail("inside an episode the value of a successor is not the next row's", "evaluate each observation once")


def _evaluated(policy: Any, rollout: Rollout) -> Any:
    """Log-probabilities, entropies and values, and the values before, of all valid rows."""
    with relies_on("evaluates_what_it_has_done"):
        with relies_on("values_are_as_announced"):
            values, _ = policy.values(rollout)
        obs, taken, before = policy.columns(rollout, values)
        return *policy.evaluate(obs, taken), before


@check("policy")
def evaluates_what_it_has_done(subject: Subject) -> None:
    """Of the columns of a rollout `evaluate` gives finite log-probabilities, entropies and values, `[B]` each."""
    policy, rollout = _rollout(subject)
    obs, taken, _ = policy.columns(rollout, rollout.rewards)
    answer = policy.evaluate(obs, taken)
    for name, x in zip(("log-probabilities", "entropies", "values"), answer, strict=True):
        if x.shape != (rollout.num_steps,) or not bool(x.isfinite().all()):
            fail(f"{name} of {rollout.num_steps} rows are {tuple(x.shape)}", "give finite numbers [B]")


@check("policy")
def evaluates_with_gradient(subject: Subject) -> None:
    """Log-probabilities and values are differentiable, and every weight that has a gradient belongs to the policy."""
    policy, rollout = _rollout(subject)
    log_probs, _, values, _ = _evaluated(policy, rollout)
    for name, x in (("log-probabilities", log_probs), ("values", values)):
        if not x.requires_grad:
            fail(f"{name} have no gradient", "compute them from the parameters without torch.no_grad")


@check("policy")
def evaluated_values_are_its_values(subject: Subject) -> None:
    """`evaluate` gives the same values as `values`."""
    policy, rollout = _rollout(subject)
    _, _, values, before = _evaluated(policy, rollout)
    if values.shape == before.shape and not torch.allclose(values, before, rtol=1e-3, atol=1e-4):
        fail("evaluate gives other values than values", "compute the same, of the same observations")


@check("policy")
def log_probabilities_are_those_of_acting(subject: Subject) -> None:
    """Actions are sampled as often as their log-probabilities say."""
    policy, rollout = _rollout(subject)
    if not isinstance(rollout.actions, torch.Tensor) or rollout.actions.dtype.is_floating_point:
        raise CheckSkipped("its first actions are numbers")
    number = 3_000
    row = observations(subject, 1)
    obs = tree_map(lambda x: x.expand(2, number, *x.shape[1:]).clone(), row)
    with relies_on("acts_where_it_collects"):
        answer = act(policy, tree_map(lambda x: x[0], obs), torch.Generator().manual_seed(0))
    flags = torch.zeros(1, number, dtype=torch.bool)
    extras = tree_map(lambda x: x[None], dict(answer.extras))
    actions = answer.action[None]
    sampled = Rollout(obs, actions, torch.zeros(1, number), flags, flags.clone(), ~flags, extras=extras)
    log_probs = _evaluated(policy, sampled)[0].detach()
    for one in torch.unique(actions[0], dim=0):
        chosen = (actions[0] == one).reshape(number, -1).all(1)
        share, said = float(chosen.double().mean()), float(log_probs[chosen].exp().mean())
        if abs(share - said) > 0.05:
            fail(f"{one.tolist()} is sampled in {share:.2f} of all cases, and said to be in {said:.2f}", "mind `start`")


@check("policy")
def policies_come_back(subject: Subject) -> None:
    """With the state of another one a policy acts as the other one does."""
    one, other = policy_of(subject), policy_of(subject, seed=1)
    other.load_state_dict(stored(one.state_dict()))
    with relies_on("acts_where_it_collects"):
        answers = [stored(act(policy, observations(subject)).action) for policy in (one, other)]
    if not equal(*answers):
        blame(subject, "acting_without_generator_is_repeatable")
        fail("with the same state actions differ", "keep what they depend on in parameters and buffers")
