"""Building parts as a run would."""

from __future__ import annotations

from typing import Any

from rlkit_core.component import Setup
from rlkit_core.errors import UsageError
from rlkit_core.learner import Learner
from rlkit_core.network import Network
from rlkit_core.rollout import Rollout
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.testing.cases import ACTION_SPACES, LARGE_IMAGE, OBS_SPACES, MadeConfig, any_env
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
