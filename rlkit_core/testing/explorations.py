"""Checks of exploration."""

from __future__ import annotations

from typing import Any

import torch

from rlkit_core.exploration import Exploration
from rlkit_core.rollout import tree_leaves, tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.building import ACTIONS, FEATURES
from rlkit_core.testing.cases import equal, global_states, other_states, stored
from rlkit_core.testing.checks import Subject, blame, check, fail, reason, relies_on

DEVIATIONS = ("fixed", "learned", "from_features")
N = 8


def _built(subject: Subject, deviation: str = "learned", seed: int = 0) -> Any:
    with relies_on("builds_with_each_deviation"), global_generators(SeedStream(seed)):
        exploration = subject.config.build(FEATURES, ACTIONS, deviation)
        assert isinstance(exploration, Exploration), f"build gave a {type(exploration).__name__}"
        return exploration


def _features(number: int = N) -> torch.Tensor:
    return torch.randn(number, FEATURES, generator=torch.Generator().manual_seed(5))


def _noise(exploration: Any, number: int = N, seed: int = 0, starts: bool = True, state: Any = None) -> Any:
    with relies_on("noise_is_as_announced"), torch.no_grad():
        state = exploration.initial_state(number) if state is None else state
        mask = torch.full((number,), starts)
        return exploration.noise(_features(number), state, mask, torch.Generator().manual_seed(seed))


@check("exploration")
def builds_with_each_deviation(subject: Subject) -> None:
    """It is built with a deviation that is fixed, learned, or given by the features."""
    for deviation in DEVIATIONS:
        try:
            exploration = subject.config.build(FEATURES, ACTIONS, deviation)
        except Exception as error:
            fail(f"build(..., {deviation!r}) raised {reason(error)}", "take all three; from_features may be as learned")
        if not isinstance(exploration, Exploration):
            fail(f"build gave a {type(exploration).__name__}", "return an rlkit_core.Exploration")


@check("exploration")
def noise_is_as_announced(subject: Subject) -> None:
    """Noise is float32 `[N, A]`, and finite."""
    for deviation in DEVIATIONS:
        exploration = _built(subject, deviation)
        try:
            state = exploration.initial_state(N)
            with torch.no_grad():
                noise, _ = exploration.noise(
                    _features(), state, torch.ones(N, dtype=torch.bool), torch.Generator().manual_seed(0)
                )
        except Exception as error:
            fail(f"noise raised {reason(error)}", "see Exploration.noise: what it is given and answers")
        if noise.shape != (N, ACTIONS) or noise.dtype is not torch.float32 or not bool(noise.isfinite().all()):
            fail(f"noise is {tuple(noise.shape)} of {noise.dtype}", f"give finite float32 [N, A], here {(N, ACTIONS)}")


@check("exploration")
def deviation_is_as_announced(subject: Subject) -> None:
    """`log_std` is finite and `[B, A]`, whatever the deviation comes from."""
    for deviation in DEVIATIONS:
        log_std = _built(subject, deviation).log_std(_features(5))
        if log_std.shape != (5, ACTIONS) or not bool(log_std.isfinite().all()):
            fail(
                f"log_std of 5 rows with deviation {deviation} is {tuple(log_std.shape)}", "give finite numbers [B, A]"
            )


@check("exploration")
def a_learned_deviation_has_a_gradient(subject: Subject) -> None:
    """What is learned is learned by its gradient, and what is fixed has no parameters."""
    learned, fixed = _built(subject, "learned"), _built(subject, "fixed")
    if list(fixed.parameters()):
        fail("with deviation fixed it has parameters", "keep a fixed deviation in a buffer")
    log_std = learned.log_std(_features())
    if not log_std.requires_grad:
        fail("with deviation learned log_std has no gradient", "compute it from an nn.Parameter")


@check("exploration")
def noise_follows_the_generator(subject: Subject) -> None:
    """From a generator in the same state comes the same noise."""
    exploration = _built(subject)
    one, other = (stored(_noise(exploration)[0]) for _ in range(2))
    if not equal(one, other):
        fail("a generator in the same state gives other noise", "draw with `generator=generator` only")


@check("exploration")
def noise_leaves_global_generators_alone(subject: Subject) -> None:
    """Noise draws nothing from the global generators, and does not seed them."""
    exploration = _built(subject)
    with global_generators(SeedStream(0)):
        before = global_states()
        _noise(exploration)
        changed = other_states(before)
    if changed:
        fail(f"noise has used the global generator {changed[0]}", "draw with `generator=generator`")


@check("exploration")
def noise_has_the_deviation(subject: Subject) -> None:
    """Seen from one step alone noise has mean 0 and the deviation of `log_std`: log-probabilities rely on it."""
    exploration = _built(subject, "fixed")
    number = 4_000
    features = _features(1).expand(number, -1).clone()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), relies_on("noise_is_as_announced"):
        first, state = exploration.noise(
            features, exploration.initial_state(number), torch.ones(number, dtype=torch.bool), generator
        )
        second, _ = exploration.noise(features, state, torch.zeros(number, dtype=torch.bool), generator)
        std = exploration.log_std(features[:1]).exp()[0]
    for when, noise in (("the first", first), ("the second", second)):
        off, mean = (noise.std(0) / std - 1).abs().max(), (noise.mean(0) / std).abs().max()
        if float(off) > 0.15 or float(mean) > 0.15:
            fail(
                f"in {when} step noise has deviation {noise.std(0).tolist()} and mean {noise.mean(0).tolist()}, "
                f"where exp(log_std) is {std.tolist()}",
                "let both say the same: noise is log_std.exp() times something with mean 0 and deviation 1",
            )


@check("exploration")
def an_episode_starts_without_past(subject: Subject) -> None:
    """Where an episode starts nothing of the state is used."""
    exploration = _built(subject)
    fresh, state = _noise(exploration, seed=1)
    past = tree_map(lambda leaf: leaf + 3, state)
    if not equal(stored(fresh), stored(_noise(exploration, seed=1, state=past)[0])):
        blame(subject, "noise_follows_the_generator")
        fail("the state of the last episode is in the next one's noise", "select by `starts`: tree_where(starts, ...)")


@check("exploration")
def state_has_a_row_per_environment(subject: Subject) -> None:
    """`initial_state(n)`, and the state after a step, are trees of tensors `[n, ...]`."""
    exploration = _built(subject)
    _, after = _noise(exploration)
    for when, state in ((f"initial_state({N})", exploration.initial_state(N)), ("the state after a step", after)):
        for path, leaf in tree_leaves(state):
            if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (N,):
                shape = tuple(getattr(leaf, "shape", ()))
                fail(f"{when} has {path or 'a leaf'} of shape {shape}", f"give tensors [n, ...], here n is {N}")


@check("exploration")
def has_state_tells_the_truth(subject: Subject) -> None:
    """`has_state` is False only where noise of one step has nothing to do with that of another."""
    if type(subject.config).has_state:
        return
    exploration = _built(subject)
    if list(tree_leaves(exploration.initial_state(N))):
        fail("it has a state, but has_state is False", "leave has_state True: policies then carry the state")


@check("exploration")
def exploration_comes_back(subject: Subject) -> None:
    """With the state_dict of another one it gives the other one's noise."""
    one, other = _built(subject, seed=0), _built(subject, seed=1)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.3)
    other.load_state_dict(stored(one.state_dict()))
    mine, theirs = stored(_noise(one)[0]), stored(_noise(other)[0])
    if not equal(mine, theirs):
        blame(subject, "noise_follows_the_generator")
        fail("with the same state_dict noise differs", "keep what it depends on in parameters and buffers")


@check("exploration")
def features_are_left_alone(subject: Subject) -> None:
    """Neither the features nor the state that is handed in are written to."""
    exploration, features = _built(subject), _features()
    before = features.clone()
    state = _noise(exploration)[1]
    kept = stored(state)
    with torch.no_grad(), relies_on("noise_is_as_announced"):
        exploration.noise(features, state, torch.zeros(N, dtype=torch.bool), torch.Generator().manual_seed(0))
        exploration.log_std(features)
    if not equal(features, before):
        fail("the features have been changed", "work on a copy: operations that end in _ write in place")
    if not equal(stored(state), kept):
        fail("the state that was handed in has been changed", "return a new one: the collector may still hold the old")
