"""Checks of networks."""

from __future__ import annotations

from typing import Any

import torch

from rlkit_core.errors import UsageError
from rlkit_core.network import Network
from rlkit_core.rollout import tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.building import network_of, network_space, quick
from rlkit_core.testing.cases import LARGE_IMAGE, NO_ARRAYS, OBS_SPACES, as_tensors, batch_of, equal, stored
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on


def _batch(subject: Subject, number: int = 6) -> Any:
    return as_tensors(batch_of(network_space(subject), number))


def _features(network: Any, obs: Any) -> Any:
    with relies_on("features_are_as_announced"):
        return network(stored(obs))


@check("network")
def takes_or_refuses_each_space(subject: Subject) -> None:
    """An observation space is taken, or refused by a UsageError that names it."""
    taken = 0
    for name, space in {**OBS_SPACES, "large image": LARGE_IMAGE}.items():
        try:
            with global_generators(SeedStream(0)):
                network = quick(subject).build(space)
        except UsageError as error:
            if str(space) not in str(error):
                fail(f"the UsageError for {name} observations does not name {space}: {error}", "put it into its text")
            continue
        except Exception as error:
            fail(f"build for {space} raised {reason(error)}", "take it, or raise UsageError(f'... not {space}')")
        taken += 1
        if not isinstance(network, Network):
            fail(f"build gave a {type(network).__name__}", "return an rlkit_core.Network")
        if name in NO_ARRAYS:
            fail(f"build for {space} raised nothing", "collectors have no arrays of such observations: refuse them")
        if space is not network_space(subject):
            try:
                network(as_tensors(batch_of(space, 2)))
            except Exception as error:
                fail(f"features of {space} raised {reason(error)}", "take it, or refuse it in build")
    if not taken:
        fail("it takes none of the spaces that are tried", f"these are: {', '.join(OBS_SPACES)}, large image")


@check("network")
def features_are_as_announced(subject: Subject) -> None:
    """Features are float32 `[B, num_features]`, for every B."""
    network = network_of(subject)
    for number in (6, 1):
        try:
            features = network(_batch(subject, number))
        except Exception as error:
            fail(f"features of {number} observations raised {reason(error)}", "take batches [B, ...] of any B")
        if features.shape != (number, network.num_features) or features.dtype is not torch.float32:
            fail(
                f"features of {number} observations are {tuple(features.shape)} of {features.dtype}",
                f"give float32 [B, num_features], num_features being {network.num_features}",
            )


@check("network")
def features_are_finite(subject: Subject) -> None:
    """Members of the space give finite features."""
    if not bool(_features(network_of(subject), _batch(subject, 64)).isfinite().all()):
        fail("features are not finite", "scale what is large, and take no logarithm of what may be 0")


@check("network")
def features_are_repeatable(subject: Subject) -> None:
    """The same observations get the same features each time: networks draw nothing."""
    network, obs = network_of(subject), _batch(subject)
    if not equal(stored(_features(network, obs)), stored(_features(network, obs))):
        fail("the same observations get other features", "leave out dropout and noise: policies explore, networks not")


@check("network")
def every_weight_has_a_gradient(subject: Subject) -> None:
    """Features are differentiable in every weight."""
    network = network_of(subject)
    features = _features(network, _batch(subject))
    if not features.requires_grad:
        fail("features have no gradient", "compute them from the parameters without torch.no_grad")
    features.square().sum().backward()
    for name, weight in network.named_parameters():
        if weight.requires_grad and weight.grad is None:
            fail(f"the features do not depend on {name}", "use it in forward, or leave it out")


@check("network")
def same_seed_same_weights(subject: Subject) -> None:
    """Weights come from torch's global generator, which the run has seeded: the same seed gives the same."""
    states = [stored(network_of(subject, seed=3).state_dict()) for _ in range(2)]
    if not equal(*states):
        fail("built twice with the same seed, weights differ", "draw them from torch's global generator")


@check("network")
def features_of_rows_do_not_mix(subject: Subject) -> None:
    """The features of an observation do not depend on the other rows of the batch."""
    network, obs = network_of(subject), _batch(subject, 6)
    together = _features(network, obs)
    alone = torch.cat([_features(network, tree_map(lambda leaf: leaf[i : i + 1], obs)) for i in range(6)])  # noqa: B023
    if together.shape == alone.shape and not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        blame(subject, "features_are_repeatable")
        fail("an observation alone gets other features than in a batch", "normalise over features, not over the batch")


@check("network")
def arrays_get_the_same_features(subject: Subject) -> None:
    """`on_arrays` gives what `forward` gives."""
    network, obs = network_of(subject), batch_of(network_space(subject), 6)
    expected = _features(network, as_tensors(obs)).detach()
    found = torch.as_tensor(network.on_arrays(stored(obs)))
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        blame(subject, "features_are_repeatable")
        fail("on_arrays gives other features than forward", "compute the same, or leave on_arrays as inherited")


@check("network")
def forward_leaves_observations_alone(subject: Subject) -> None:
    """`forward` does not write into the observations."""
    obs = _batch(subject)
    before = stored(obs)
    network = network_of(subject)
    with relies_on("features_are_as_announced"):
        network(obs)
    if not equal(stored(obs), before):
        fail("forward has changed the observations", "work on a copy: operations that end in _ write in place")


@check("network")
def weights_come_back(subject: Subject) -> None:
    """With the state of another one, a network gives the other one's features."""
    one, other = network_of(subject, 0), network_of(subject, 1)
    obs = _batch(subject)
    _features(one, obs)
    other.load_state_dict(stored(one.state_dict()))
    if not equal(stored(_features(one, obs)), stored(_features(other, obs))):
        blame(subject, "features_are_repeatable")
        fail("with the same state features differ", "keep what they depend on in parameters and buffers")


@check("network")
def parallel_networks_agree(subject: Subject) -> None:
    """Several networks built in one: `forward` gives `[number, B, F]`, and `one(i)` the i-th of these."""
    with global_generators(SeedStream(0)):
        networks = quick(subject).build_parallel(network_space(subject), 3)
    if networks is None:
        raise CheckSkipped("it builds none in one")
    obs = _batch(subject)
    features = networks(obs)
    if features.shape != (3, 6, networks.num_features):
        fail(f"three in one give features {tuple(features.shape)}", f"give [3, 6, {networks.num_features}]")
    arrays = tree_map(lambda leaf: leaf.numpy(), obs)
    for i in range(3):
        found = torch.as_tensor(networks.one_on_arrays(i, arrays))
        for what, one in (("one", networks.one(i, obs)), ("one_on_arrays", found)):
            if not torch.allclose(one, features[i], rtol=1e-3, atol=1e-4):
                fail(f"{what}({i}, ...) gives other features than forward", "compute the same")


@check("network")
def forward_leaves_torch_alone(subject: Subject) -> None:
    """`forward` draws nothing from torch's global generator."""
    network, obs = network_of(subject), _batch(subject)
    with global_generators(SeedStream(0)):
        before = torch.random.get_rng_state()
        _features(network, obs)
        changed = not equal(before, torch.random.get_rng_state())
    if changed:
        fail("forward has used torch's global generator", "draw nothing in it")
