"""Checks of networks."""

from __future__ import annotations

from typing import Any

import torch

from rlkit_core.errors import UsageError
from rlkit_core.network import Network, RecurrentNetwork
from rlkit_core.rollout import tree_leaves, tree_map
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.building import network_of, network_space, quick
from rlkit_core.testing.cases import LARGE_IMAGE, NO_ARRAYS, OBS_SPACES, as_tensors, batch_of, equal, stored
from rlkit_core.testing.checks import CheckSkipped, Subject, blame, check, fail, reason, relies_on


def _batch(subject: Subject, number: int = 6) -> Any:
    return as_tensors(batch_of(network_space(subject), number))


def _forward(network: Any, obs: Any) -> Any:
    """Features of single observations; of a network that remembers, those of a first step."""
    if not isinstance(network, RecurrentNetwork):
        return network(obs)
    number = len(tree_leaves(obs)[0][1])
    return network(obs, network.initial_state(number), torch.ones(1, number, dtype=torch.bool))[0]


def _features(network: Any, obs: Any) -> Any:
    with relies_on("features_are_as_announced"):
        return _forward(network, stored(obs))


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
                _forward(network, as_tensors(batch_of(space, 2)))
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
            features = _forward(network, _batch(subject, number))
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
    if isinstance(network, RecurrentNetwork):
        raise CheckSkipped("a network that remembers works on tensors")
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
        _forward(network, obs)
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


@check("network")
def recurrence_is_announced(subject: Subject) -> None:
    """`recurrent` of the config class says whether the network remembers."""
    remembers, says = isinstance(network_of(subject), RecurrentNetwork), type(subject.config).recurrent
    if remembers != says:
        fail(f"recurrent is {says}, and the network {'remembers' if remembers else 'does not'}", "set it right")


def _sequence(subject: Subject) -> tuple[Any, Any, Any, Any]:
    """A network that remembers, observations `[6 * 3, ...]`, a state that has seen something, and starts `[6, 3]`."""
    network = network_of(subject)
    if not isinstance(network, RecurrentNetwork):
        raise CheckSkipped("it does not remember")
    obs, starts = _batch(subject, 18), torch.zeros(6, 3, dtype=torch.bool)
    starts[2, 1] = starts[4, 0] = True
    with torch.no_grad(), relies_on("carried_states_have_rows_and_are_left_alone"):
        state = network(_rows(obs, 0, 2), network.initial_state(3), starts[:2])[1]
    return network, obs, state, starts


def _rows(obs: Any, first: int, last: int) -> Any:
    return tree_map(lambda leaf: leaf[3 * first : 3 * last], obs)


@check("network")
def a_sequence_is_its_steps(subject: Subject) -> None:
    """Features of a sequence are those of its steps one by one, each with the state of the one before."""
    network, obs, state, starts = _sequence(subject)
    with torch.no_grad():
        features, last = network(obs, state, starts)
        rows = []
        for t in range(6):
            row, state = network(_rows(obs, t, t + 1), state, starts[t : t + 1])
            rows.append(row)
    same = zip(tree_leaves((features, last)), tree_leaves((torch.cat(rows), state)), strict=True)
    if not all(torch.allclose(a[1], b[1], rtol=1e-3, atol=1e-4) for a, b in same):
        fail("a sequence gets other features than its steps one by one", "hand the state on from row to row")


@check("network")
def a_start_forgets(subject: Subject) -> None:
    """Where an episode starts the state before counts nowhere."""
    network, obs, state, _ = _sequence(subject)
    one = _rows(obs, 0, 1)
    with torch.no_grad():
        after = network(one, state, torch.ones(1, 3, dtype=torch.bool))[0]
        fresh = network(one, network.initial_state(3), torch.ones(1, 3, dtype=torch.bool))[0]
    if not torch.allclose(after, fresh, rtol=1e-3, atol=1e-5):
        fail("the last episode is in the features of the next one's start", "take initial_state where `starts`")


@check("network")
def carried_states_have_rows_and_are_left_alone(subject: Subject) -> None:
    """The state of a network that remembers has a row per environment, and the one handed in is not changed."""
    network = network_of(subject)
    if not isinstance(network, RecurrentNetwork):
        raise CheckSkipped("it does not remember")
    state = network.initial_state(3)
    with torch.no_grad():
        _, state = network(_batch(subject, 3), state, torch.ones(1, 3, dtype=torch.bool))
        before = stored(state)
        _, after = network(_batch(subject, 3), state, torch.zeros(1, 3, dtype=torch.bool))
    if not equal(stored(state), before):
        fail("forward has changed the state that was handed in", "return a new one")
    for path, leaf in [*tree_leaves(network.initial_state(3)), *tree_leaves(after)]:
        if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (3,):
            fail(f"the state of 3 environments has {path or 'a leaf'} of shape {tuple(leaf.shape)}", "give [N, ...]")
