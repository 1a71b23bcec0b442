"""Checks of return estimators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rlkit_core.errors import RlkitError
from rlkit_core.returns import ReturnEstimator, Returns
from rlkit_core.rollout import Rollout
from rlkit_core.testing.cases import equal, rollout_leaves, stored, unstorable
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on

T, N = 12, 3


def _rollout(seed: int = 0, dummies: bool = False) -> Rollout:
    """Whole episodes, which some settings ask for: some terminated, some truncated."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(T, N, generator=generator) < 0.2
    kind = torch.rand(T, N, generator=generator) < 0.5
    rewards = torch.randn(T, N, generator=generator) * 5 + 2
    ends[[4, 8], [0, 1]], kind[[4, 8], [0, 1]] = True, torch.tensor([True, False])
    ends[-1] = True
    valid = torch.ones(T, N, dtype=torch.bool)
    if dummies:
        for n in range(N):
            for t in range(1, T):
                if ends[t - 1, n] and valid[t - 1, n]:
                    valid[t, n], ends[t, n], rewards[t, n] = False, False, 0.0
    return Rollout(
        all_obs=torch.zeros(T + 1, N, 1),
        actions=torch.zeros(T, N),
        rewards=rewards,
        terminated=ends & kind,
        truncated=ends & ~kind,
        valid=valid,
    )


def _values(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.randn(T + 1, N, generator=torch.Generator().manual_seed(seed + 100))
    return numbers[:-1].clone(), numbers[1:].clone()


def _built(subject: Subject) -> Any:
    with relies_on("builds_an_estimator"):
        estimator = subject.config.build()
        assert isinstance(estimator, ReturnEstimator), f"build gave a {type(estimator).__name__}"
        return estimator


def _estimate(estimator: Any, seed: int = 0, update: bool = True, rollout: Rollout | None = None) -> Any:
    values, next_values = _values(seed)
    rollout = _rollout(seed) if rollout is None else rollout
    with relies_on("returns_have_shape_and_type"):
        return estimator.estimate(rollout, next_values, values=values, log_probs=torch.zeros(T, N), update=update)


@check("estimator")
def builds_an_estimator(subject: Subject) -> None:
    """`build` gives a ReturnEstimator."""
    estimator = subject.config.build()
    if not isinstance(estimator, ReturnEstimator):
        fail(f"build gave a {type(estimator).__name__}", "return an rlkit_core.ReturnEstimator")


@check("estimator")
def returns_have_shape_and_type(subject: Subject) -> None:
    """Targets and advantages are float32 `[T, N]` each."""
    estimator = _built(subject)
    values, next_values = _values()
    try:
        answer = estimator.estimate(_rollout(), next_values, values=values, log_probs=torch.zeros(T, N))
    except Exception as error:
        fail(f"estimate raised {reason(error)}", "see ReturnEstimator.estimate: what it is given")
    if not isinstance(answer, Returns):
        fail(f"estimate gave a {type(answer).__name__}", "return rlkit_core.Returns(targets, advantages)")
    for name, x in zip(Returns._fields, answer, strict=True):
        if x.shape != (T, N) or x.dtype is not torch.float32:
            fail(f"{name} are {tuple(x.shape)} of {x.dtype}", f"give float32 [T, N], here {(T, N)}")


@check("estimator")
def returns_have_no_gradient(subject: Subject) -> None:
    """Targets and advantages have no gradient, also where values have."""
    values, next_values = (x.requires_grad_() for x in _values())
    estimator = _built(subject)
    with relies_on("returns_have_shape_and_type"):
        answer = estimator.estimate(_rollout(), next_values.detach(), values=values.detach())
    del answer
    try:
        answer = estimator.estimate(_rollout(), next_values, values=values)
    except Exception as error:
        fail(f"for values with gradient estimate raised {reason(error)}", "take values.detach()")
    for name, x in zip(Returns._fields, answer, strict=True):
        if x.requires_grad:
            fail(f"{name} have a gradient", "compute them from values.detach()")


@check("estimator")
def returns_are_finite(subject: Subject) -> None:
    """Finite rewards and values give finite numbers."""
    estimator = _built(subject)
    for seed in range(3):
        if not all(bool(x.isfinite().all()) for x in _estimate(estimator, seed)):
            fail("returns of ordinary rewards are not finite", "an eps in the denominator, or rlkit_core's normalize")


@check("estimator")
def zero_variance_is_finite(subject: Subject) -> None:
    """Rewards that do not vary, in episodes of a single step, give finite numbers."""
    estimator = _built(subject)
    ones, off = torch.ones(T, N), torch.zeros(T, N, dtype=torch.bool)
    rollout = replace(_rollout(), rewards=ones.clone(), terminated=ones.bool(), truncated=off)
    for _ in range(2):
        if not all(bool(x.isfinite().all()) for x in _estimate(estimator, rollout=rollout)):
            fail("returns of constant rewards are not finite", "where the deviation is 0, divide by 1")


@check("estimator")
def arguments_are_left_alone(subject: Subject) -> None:
    """`estimate` writes neither into the rollout nor into the values."""
    estimator, rollout = _built(subject), _rollout()
    values, next_values = _values()
    before = stored({**rollout_leaves(rollout), "values": values, "next_values": next_values})
    with relies_on("returns_have_shape_and_type"):
        estimator.estimate(rollout, next_values, values=values)
    after = {**rollout_leaves(rollout), "values": values, "next_values": next_values}
    for name, was in before.items():
        if not equal(was, stored(after[name])):
            fail(f"estimate has changed {name}", "work on a copy: numpy arrays share the tensors' memory")


@check("estimator")
def asking_changes_nothing(subject: Subject) -> None:
    """With `update=False` the state stays as it is."""
    estimator = _built(subject)
    _estimate(estimator, 0)
    before = stored(dict(estimator.state_dict()))
    _estimate(estimator, 1, update=False)
    if not equal(before, stored(dict(estimator.state_dict()))):
        fail("estimate(update=False) has changed the state", "count only where `update` is true")


@check("estimator")
def state_of_an_estimator_is_plain(subject: Subject) -> None:
    """Its state is tensors, arrays, numbers, texts, lists and tables: checkpoints need no pickle."""
    estimator = _built(subject)
    _estimate(estimator)
    if found := unstorable(dict(estimator.state_dict())):
        fail(f"{found}, which no checkpoint holds", "store plain numbers")


@check("estimator")
def a_second_estimator_goes_on_equally(subject: Subject) -> None:
    """An estimator that has taken over another one's state gives the same numbers from then on."""
    one, other = _built(subject), _built(subject)
    for seed in range(3):
        _estimate(one, seed)
    other.load_state_dict(stored(dict(one.state_dict())))
    for seed in (3, 4):
        mine, theirs = _estimate(one, seed), _estimate(other, seed)
        if not (equal(mine.targets, theirs.targets) and equal(mine.advantages, theirs.advantages)):
            blame(subject, "same_rollouts_same_returns")
            fail(
                "with the same state the returns differ",
                "give all that changes in `estimate` in state_dict, and take it",
            )


@check("estimator")
def same_rollouts_same_returns(subject: Subject) -> None:
    """Two estimators that are given the same give the same."""
    one, other = _built(subject), _built(subject)
    for seed in range(2):
        mine, theirs = _estimate(one, seed), _estimate(other, seed)
        if not (equal(mine.targets, theirs.targets) and equal(mine.advantages, theirs.advantages)):
            fail("the same rollouts give other returns", "draw nothing, and keep nothing in the class or the module")


@check("estimator")
def dummy_rows_count_nowhere(subject: Subject) -> None:
    """What dummy rows hold is not read: others' returns are the same, and their own are 0."""
    rollout, (values, next_values) = _rollout(dummies=True), _values()
    answers = []
    for poison in (0.0, float("nan")):
        given = [rollout.rewards.clone(), next_values.clone(), values.clone()]
        for tensor in given:
            tensor[~rollout.valid] = poison
        try:
            estimator = _built(subject)
            answer = estimator.estimate(replace(rollout, rewards=given[0]), given[1], values=given[2])
            answers.append(answer)
            asked = estimator.estimate(_rollout(1), _values(1)[1], values=_values(1)[0], update=False)
            answers[-1] = (*answer, *asked)
        except RlkitError as error:
            fail(f"NaN on dummy rows raises {reason(error)}", "read rows where rollout.valid only")
        except Exception as error:
            raise CheckSkipped(reason(error), "returns_have_shape_and_type") from error
    if not equal(list(answers[0]), list(answers[1])):
        blame(subject, "same_rollouts_same_returns")
        fail("what dummy rows hold changes returns", "pass valid=rollout.valid on, or select rows by it")
    for name, x in zip(Returns._fields, answers[0][:2], strict=True):
        if bool(x[~rollout.valid].any()):
            fail(f"{name} of dummy rows are not 0", "set them: torch.where(rollout.valid, ..., 0.0)")


@check("estimator")
def nothing_follows_a_terminated_step(subject: Subject) -> None:
    """The next value of a terminated step is not read: it may be NaN."""
    terminated, (values, next_values) = _rollout().terminated, _values()
    poisoned = next_values.clone()
    poisoned[terminated] = float("nan")
    with relies_on("returns_have_shape_and_type"):
        expected = _built(subject).estimate(_rollout(), next_values, values=values)
    try:
        found = _built(subject).estimate(_rollout(), poisoned, values=values)
    except RlkitError as error:
        fail(
            f"NaN after a terminated step raises {reason(error)}",
            "select, do not multiply: torch.where(terminated, 0, ...)",
        )
    if not equal(list(expected), list(found)):
        blame(subject, "same_rollouts_same_returns")
        fail(
            "the value after a terminated step changes returns",
            "select, do not multiply: torch.where(terminated, 0, ...)",
        )


@check("estimator")
def a_truncated_step_goes_on(subject: Subject) -> None:
    """The next value of a truncated step counts: the episode would have gone on."""
    if getattr(subject.config, "bootstrap", None) is False:
        raise CheckSkipped("it values nothing that follows, as its setting bootstrap says")
    rollout, (values, next_values) = _rollout(), _values()
    if not bool(rollout.truncated.any()):
        raise CheckSkipped("no step is truncated")
    higher = next_values.clone()
    higher[rollout.truncated] += 1.0
    with relies_on("returns_have_shape_and_type"):
        estimator = _built(subject)
        # With some returns behind it: statistics of the first ones might hold values to a range.
        _estimate(estimator, 1)
        one, other = (
            estimator.estimate(rollout, given, values=values, update=False).targets for given in (next_values, higher)
        )
    more = (other - one)[rollout.truncated]
    if not bool((more > 0).all()):
        blame(subject, "asking_changes_nothing")
        blame(subject, "same_rollouts_same_returns")
        fail("the value after a truncated step does not count", "add gamma times it; only `terminated` ends the sum")


@check("estimator")
def nan_does_not_pass(subject: Subject) -> None:
    """A NaN among the rewards is refused (Diverged), and does not come into the state."""
    estimator, rollout = _built(subject), _rollout()
    _estimate(estimator)
    before = stored(dict(estimator.state_dict()))
    rewards = rollout.rewards.clone()
    rewards[3, 1] = float("nan")
    values, next_values = _values()
    try:
        estimator.estimate(replace(rollout, rewards=rewards), next_values, values=values)
    except RlkitError:
        if not equal(before, stored(dict(estimator.state_dict()))):
            fail("a refused rollout has changed the state", "look for NaN before counting")
        return
    except Exception as error:
        fail(f"NaN among the rewards raises {reason(error)}", "raise rlkit_core.errors.Diverged")
    fail("NaN among the rewards passes", "raise rlkit_core.errors.Diverged where a result is not finite")


@check("estimator")
def values_may_be_missing(subject: Subject) -> None:
    """Without `values` there is no baseline, and it works all the same."""
    estimator = _built(subject)
    _estimate(estimator)
    try:
        answer = estimator.estimate(_rollout(1), _values(1)[1])
    except Exception as error:
        fail(f"without values estimate raised {reason(error)}", "then let the advantages be the returns")
    if answer.advantages.shape != (T, N):
        fail(f"without values advantages are {tuple(answer.advantages.shape)}", "give [T, N]")


@check("estimator")
def columns_do_not_mix(subject: Subject) -> None:
    """Environments have nothing to do with each other: their order changes nothing but the order of returns."""
    rollout, (values, next_values) = _rollout(), _values()
    names = ("all_obs", "actions", "rewards", "terminated", "truncated", "valid")
    order = torch.tensor([2, 0, 1])
    other = replace(rollout, **{name: getattr(rollout, name)[:, order] for name in names})
    with relies_on("returns_have_shape_and_type"):
        one = _built(subject).estimate(rollout, next_values, values=values).targets
        moved = _built(subject).estimate(other, next_values[:, order], values=values[:, order]).targets
    if not np.allclose(one[:, order].numpy(), moved.numpy(), rtol=1e-3, atol=1e-3):
        blame(subject, "same_rollouts_same_returns", "returns_are_finite")
        fail("with columns in another order returns differ", "sum along time, the first axis")
