"""Building parts as a run would."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from rlkit_core.component import Setup
from rlkit_core.errors import UsageError
from rlkit_core.learner import Learner
from rlkit_core.network import Network
from rlkit_core.policy import Policy
from rlkit_core.registry import Registry
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.cases import (
    ACTION_SPACES,
    LARGE_IMAGE,
    OBS_SPACES,
    MadeConfig,
    any_env,
    as_tensors,
    batch_of,
    clone_rollout,
)
from rlkit_core.testing.checks import CheckSkipped, Subject, relies_on, small

FEATURES, ACTIONS = 6, 2
"""What explorations are built for."""


def build_learner(config: Any, observation_space: Any, action_space: Any, seed: int = 0) -> Learner:
    """A learner as the run builds it: global generators seeded first."""
    seeds = SeedStream(seed)
    with global_generators(seeds.stream("global")):
        setup = Setup(observation_space, action_space, config.collector.num_envs, 4_000, "cpu", seeds.stream("learner"))
        learner: Learner = config.build(setup)
    return learner


def declared(config: Any) -> list[Any]:
    """The action spaces that an algorithm says it handles, of those that are tried."""
    return [
        space
        for name, space in ACTION_SPACES.items()
        if type(space).__name__ in config.action_spaces and name != "Box of integers"
    ]


def spaces_of(config: Any) -> tuple[Any, Any]:
    """Spaces that an algorithm can learn in."""
    known = declared(config)
    if not known:
        raise CheckSkipped("it declares no action space that is known", "declares_action_spaces")
    return OBS_SPACES["Box"], known[0]


def quick(subject: Subject) -> Any:
    """The part with small sizes."""
    return subject.once("small", lambda: small(subject.config))


def learner_of(subject: Subject, seed: int = 0, action_space: Any = None) -> Learner:
    """A new learner."""
    config = quick(subject)
    observation_space, first = spaces_of(config)
    with relies_on("builds_on_declared_action_spaces"):
        learner = build_learner(config, observation_space, first if action_space is None else action_space, seed)
        assert isinstance(learner, Learner), f"build gave a {type(learner).__name__}, no Learner"
    return learner


def rollouts_of(subject: Subject, number: int = 3, action_space: Any = None, **how: Any) -> list[Rollout]:
    """Rollouts that the algorithm's own collector has gathered with its policy as it is at first."""
    config = quick(subject)
    observation_space, first = spaces_of(config)
    action_space = first if action_space is None else action_space

    def collect() -> list[Rollout]:
        learner = learner_of(subject, action_space=action_space)
        env = any_env(observation_space, action_space, **how)
        with relies_on("acts_where_it_collects"), global_generators(SeedStream(1)):
            collector = config.collector.build(env, SeedStream(0, "experience"), "cpu")
            try:
                return [collector.collect(learner.policy) for _ in range(number)]
            finally:
                collector.close()

    found: list[Rollout] = subject.once(("rollouts", number, str(action_space), *sorted(how.items())), collect)
    return found


def _masked_space(subject: Subject, action_space: Any) -> Any:
    """Observations with a mask of the actions, for policies that want one."""
    sizes = {"Discrete": lambda: int(action_space.n), "MultiDiscrete": lambda: int(action_space.nvec.sum())}
    number = sizes.get(type(action_space).__name__, lambda: 1)()
    return spaces.Dict({"obs": OBS_SPACES["Box"], _mask_key(subject): spaces.MultiBinary(number)})


def _mask_key(subject: Subject) -> str:
    return str(getattr(subject.config, "mask_key", "action_mask"))


def build_policy(subject: Subject, observation_space: Any, action_space: Any, seed: int = 0) -> Any:
    """A policy with a value function, on a small network."""
    registry = Registry()
    network: Any = small(registry.get("network", "mlp")())
    exploration = registry.get("exploration", "gaussian")()
    setup = Setup(observation_space, action_space, 2, 4_000, "cpu", SeedStream(seed, "learner"))
    with global_generators(SeedStream(seed)):
        return quick(subject).build(setup, network, exploration=exploration)


def _policy_spaces(subject: Subject) -> list[tuple[Any, Any]]:
    """Spaces of observations and actions that a policy is built for."""

    def find() -> list[tuple[Any, Any]]:
        found = []
        for action_space in ACTION_SPACES.values():
            for observation_space in (OBS_SPACES["Box"], _masked_space(subject, action_space)):
                try:
                    with relies_on("builds_or_refuses_each_action_space"):
                        build_policy(subject, observation_space, action_space)
                except CheckSkipped as skipped:
                    if not isinstance(skipped.__cause__, UsageError):
                        raise
                    continue
                found.append((observation_space, action_space))
                break
        return found

    found: list[tuple[Any, Any]] = subject.once("policy spaces", find)
    return found


def action_spaces_of(subject: Subject) -> list[Any]:
    """Action spaces that an algorithm or a policy handles."""
    if subject.config.kind == "algorithm":
        return declared(subject.config)
    return [action_space for _, action_space in _policy_spaces(subject)]


def _observation_space(subject: Subject, action_space: Any) -> Any:
    if subject.config.kind == "algorithm":
        return OBS_SPACES["Box"]
    return next((obs for obs, one in _policy_spaces(subject) if one is action_space), OBS_SPACES["Box"])


def policy_of(subject: Subject, action_space: Any = None, seed: int = 0) -> Any:
    """A new policy, of an algorithm or by itself, for its first action space or another one."""
    if subject.config.kind == "algorithm":
        return learner_of(subject, seed, action_space).policy
    known = _policy_spaces(subject)
    if not known:
        raise CheckSkipped("it takes none of the spaces that are tried", "builds_or_refuses_each_action_space")
    action_space = known[0][1] if action_space is None else action_space
    with relies_on("builds_or_refuses_each_action_space"):
        policy = build_policy(subject, _observation_space(subject, action_space), action_space, seed)
        assert isinstance(policy, Policy), f"build gave a {type(policy).__name__}"
        return policy


def trained_policy(subject: Subject, action_space: Any) -> Any:
    """A policy after a few updates, where it belongs to an algorithm."""
    if subject.config.kind != "algorithm":
        return policy_of(subject, action_space, seed=1)
    learner = learner_of(subject, action_space=action_space)
    rollouts = rollouts_of(subject, 2, action_space)
    with relies_on("updates_change_parameters"):
        for rollout in rollouts:
            learner.update(clone_rollout(rollout))
    return learner.policy


def observations(subject: Subject, number: int = 32, seed: int = 0, action_space: Any = None) -> Any:
    """Observations as tensors, new ones each time; where they say which actions may be taken, all may."""
    if action_space is None and subject.config.kind == "policy":
        action_space = action_spaces_of(subject)[0]
    batch = batch_of(_observation_space(subject, action_space), number, seed)
    if isinstance(batch, dict):
        batch[_mask_key(subject)][:] = 1
    return as_tensors(batch)


def env_of(subject: Subject, action_space: Any) -> Any:
    """Environments with these actions, whose observations the algorithm or the policy takes."""
    space, key = _observation_space(subject, action_space), _mask_key(subject)
    return any_env(space, action_space, open_mask=key if isinstance(space, spaces.Dict) else None)


def collector_of(subject: Subject) -> Any:
    """What collects: an algorithm's own collector, or the one of steps."""
    if subject.config.kind == "algorithm":
        return quick(subject).collector
    return small(Registry().get("collector", "steps")())


def build_any(subject: Subject) -> Any:
    """Whatever `build` of a part gives."""
    kind, config = subject.config.kind, quick(subject)
    if kind == "algorithm":
        return learner_of(subject)
    if kind == "network":
        return network_of(subject)
    if kind == "exploration":
        with relies_on("builds_with_each_deviation"):
            return config.build(FEATURES, ACTIONS, "learned")
    if kind == "estimator":
        with relies_on("builds_an_estimator"):
            return config.build()
    if kind == "policy":
        return policy_of(subject)
    with relies_on("builds_and_collects"):
        collector = config.build(MadeConfig(maker=_any_lane), SeedStream(0), "cpu")
        collector.close()
        return collector


def _any_lane(lane: int) -> Any:
    return any_env(OBS_SPACES["Box"], ACTION_SPACES["Discrete"]).maker(lane)


def network_of(subject: Subject, seed: int = 0) -> Any:
    """A network on the first space that it takes."""
    with global_generators(SeedStream(seed)), relies_on("takes_or_refuses_each_space"):
        network = quick(subject).build(network_space(subject))
        assert isinstance(network, Network), f"build gave a {type(network).__name__}"
        return network


def network_space(subject: Subject) -> Any:
    """The first space that a network takes."""

    def find() -> Any:
        for space in (*OBS_SPACES.values(), LARGE_IMAGE):
            try:
                with global_generators(SeedStream(0)):
                    quick(subject).build(space)
            except UsageError:
                continue
            return space
        raise CheckSkipped("it takes none of the spaces that are tried", "takes_or_refuses_each_space")

    return subject.once("space", find)
