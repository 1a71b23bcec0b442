"""Components: everything replaceable is one pydantic class that knows how to build it.

A component's class says what users type (`name`), explains itself (docstring, field descriptions) and builds the thing.
A field typed with a kind, such as `estimator: EstimatorConfig`, is a slot: any registered component of that kind fits.
This module and all config classes import no torch; `build` imports the file that does the work.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    import gymnasium

    from rlkit_core.collector import Collector
    from rlkit_core.environment import Environments
    from rlkit_core.executor import Executor
    from rlkit_core.exploration import Exploration
    from rlkit_core.learner import Learner
    from rlkit_core.network import Network, ParallelNetworks
    from rlkit_core.policy import ActorCriticPolicy
    from rlkit_core.returns import ReturnEstimator
    from rlkit_core.run_store import RunStore
    from rlkit_core.seeding import SeedStream
    from rlkit_core.tracking import Tracker


class Component(BaseModel):
    """One replaceable part: its settings, and how it is built."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants", validate_default=True)

    kind: ClassVar[str] = ""
    """What the part is: `algorithm`, `estimator`, …; set by the kind's class below."""
    name: ClassVar[str] = ""
    """What users type."""
    shorthand: ClassVar[str] = "name"
    """The setting that a bare string stands for, as in `--estimator lambda` or `--env CartPole-v1`."""
    distribution: ClassVar[str] = ""
    """Set by the registry where several distributions offer that name: the record then says whose it is."""

    @classmethod
    def is_kind(cls) -> bool:
        """True for the kinds' own classes (`EstimatorConfig`), which a slot is typed with; False for components."""
        return Component in cls.__bases__


def slots_of(model: type[BaseModel]) -> dict[str, type[Component]]:
    """Fields of a config class that take a component, with the kind's class."""
    return {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Component) and field.annotation.is_kind()
    }


def dump(model: BaseModel) -> dict[str, Any]:
    """A config as plain JSON values, every slot with its component's name: what is stored and can be given back."""
    data = model.model_dump(mode="json", exclude=set(slots_of(type(model))))
    for slot in slots_of(type(model)):
        data[slot] = dump(getattr(model, slot))
    fields = {name: data[name] for name in type(model).model_fields}
    return {"name": full_name(type(model)), **fields} if isinstance(model, Component) else fields


def full_name(component: type[Component]) -> str:
    """The name by which the registry finds a component, with its distribution where that is needed."""
    distribution = vars(component).get("distribution")  # of the class itself: a part made from another is not its
    return f"{distribution}:{component.name}" if distribution else component.name


@dataclass(frozen=True)
class Setup:
    """What an algorithm is built for.

    Attributes:
        observation_space: the environment's own, of a single environment.
        action_space: likewise.
        num_envs: columns of the rollouts.
        total_steps: nominal budget of the run in environment steps, for schedules.
        device: `cpu` or `cuda`.
        seeds: the learner's stream of the run's seed.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    num_envs: int
    total_steps: int
    device: str
    seeds: SeedStream


class NetworkConfig(Component):
    """A network: from observations to features."""

    kind = "network"
    recurrent: ClassVar[bool] = False
    """Whether it builds a `RecurrentNetwork`, which learns from sequences."""

    @abstractmethod
    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it; weights are drawn from torch's global generator, which the run has seeded.

        Raises:
            UsageError: it cannot take such observations.
        """

    def build_parallel(self, observation_space: gymnasium.Space[Any], number: int) -> ParallelNetworks | None:
        """Build several in one, or None where nothing is won by that over building one after the other.

        Raises:
            UsageError: it cannot take such observations.
        """
        return None


Deviation = Literal["fixed", "learned", "from_features"]
"""How large exploration is: as its setting says, a number per action that is learned, or given by the network."""


class ExplorationConfig(Component):
    """Exploration: noise on continuous actions."""

    kind = "exploration"
    has_state: ClassVar[bool] = True
    """False where the noise of one step has nothing to do with that of another."""

    @abstractmethod
    def build(self, num_features: int, num_actions: int, deviation: Deviation) -> Exploration:
        """Build it.

        Args:
            num_features: width of the features that the noise may depend on.
            num_actions: numbers in an action.
            deviation: whether the deviation stays as set, is learned, or is a learned function of the features.
        """


class PolicyConfig(Component):
    """A policy with a value function: what algorithms by policy gradient act with and improve."""

    kind = "policy"

    @abstractmethod
    def build(
        self,
        setup: Setup,
        network: NetworkConfig,
        *,
        exploration: ExplorationConfig,
        value_network: Literal["shared", "separate"] = "shared",
        normalize_observations: bool = False,
        orthogonal_init: bool = True,
    ) -> ActorCriticPolicy:
        """Build it; weights are drawn from torch's global generator, which the run has seeded.

        Args:
            setup: its spaces and its device.
            network: builds what is below policy and value.
            exploration: builds the noise of continuous actions, whose deviation is learned.
            value_network: `shared`: policy and value are on one network; `separate`: each has one of its own.
            normalize_observations: observations to running mean 0 and deviation 1.
            orthogonal_init: last layers orthogonal, the policy's small; else torch's default.

        Raises:
            UsageError: it cannot handle these spaces.
        """


class EstimatorConfig(Component):
    """A return estimator: from rewards and values to the targets of learning."""

    kind = "estimator"

    @abstractmethod
    def build(self) -> ReturnEstimator:
        """Build it."""

    def check_collector(self, collector: CollectorConfig) -> None:
        """Raise ValueError where rollouts of that collector are not what this estimator needs."""

    def check_replay(self) -> None:
        """Raise ValueError where steps that are seen again and again, in any order, are not what it needs."""


class CollectorConfig(Component):
    """A collector: how experience is gathered."""

    kind = "collector"
    whole_episodes: ClassVar[bool] = False
    """Whether every rollout consists of whole episodes."""
    num_envs: int

    @abstractmethod
    def build(self, env: EnvironmentConfig, seeds: SeedStream, device: str) -> Collector:
        """Build it with its environments; `seeds` has the streams `environment` and `actions`."""


class EnvironmentConfig(Component):
    """A family of environments."""

    kind = "environment"
    shorthand = "id"
    id: str

    @abstractmethod
    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        """Make `num_envs` environments that are stepped together.

        Raises:
            UsageError: there is no such environment, or it cannot be made with these settings.
        """

    def make_evaluation(self, num_episodes: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        """Make environments to evaluate in: as many as are sensible for that number of episodes."""
        return self.make(min(num_episodes, 16), seeds, render_mode=render_mode)

    def resolve(self, num_envs: int) -> EnvironmentConfig:
        """The same settings with everything that was left to `auto` decided, as the run's record keeps them."""
        return self

    def reward_threshold(self) -> float | None:
        """Mean return from which the environment counts as solved, if it names one."""
        return None


class AlgorithmConfig(Component):
    """An algorithm: builds the Learner, and says what collects for it."""

    kind = "algorithm"
    action_spaces: ClassVar[tuple[str, ...]] = ()
    """Names of Gymnasium's classes of action spaces that it handles; of others, `build` refuses each by name."""
    recurrent_networks: ClassVar[bool] = False
    """Whether it learns from sequences, as recurrent networks have to be."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """What each number that `Learner.update` returns says, by its name."""
    collector: CollectorConfig

    @model_validator(mode="after")
    def _check_networks(self) -> Self:
        for slot, kind in slots_of(type(self)).items():
            if kind is NetworkConfig and getattr(self, slot).recurrent and not self.recurrent_networks:
                raise ValueError(
                    f"{slot} {getattr(self, slot).name} is recurrent, and {self.name} learns from single steps\n"
                    "take a network that does not remember, or an algorithm that learns from sequences: "
                    "rlkit show NAME says whether one does"
                )
        return self

    @model_validator(mode="after")
    def _check_estimators(self) -> Self:
        for slot, kind in slots_of(type(self)).items():
            if kind is EstimatorConfig:
                getattr(self, slot).check_collector(self.collector)
        return self

    @abstractmethod
    def build(self, setup: Setup) -> Learner:
        """Build the learner.

        Raises:
            UsageError: the algorithm does not handle these spaces.
        """


@dataclass(frozen=True)
class Viewer:
    """A page on which a tracker's runs are looked at.

    Attributes:
        what: what is shown, for people.
        address: where.
        command: what serves it and has to be started; empty where it is served already.
        environ: environment variables that the command takes besides.
        folder: its working folder.
    """

    what: str
    address: str
    command: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()


class TrackerConfig(Component):
    """A tracker: where a run's record is sent."""

    kind = "tracker"
    active: ClassVar[bool] = True
    """False for a tracker that does nothing: no process is started for it."""

    @abstractmethod
    def build(self) -> Tracker:
        """Build it, in the tracking process."""

    def where(self, run_dir: Path, environ: Mapping[str, str]) -> str | None:
        """The command that shows the tracked run, for the last line of `rlkit run`."""
        return None

    def open_store(self, environ: Mapping[str, str]) -> RunStore | None:
        """What this tracker has been sent, to list and compare runs; None where it cannot be read back."""
        return None

    def viewer(self, environ: Mapping[str, str], port: int) -> Viewer | None:
        """Where what this tracker has been sent is looked at in a browser; None where there is no such thing.

        Args:
            environ: environment variables.
            port: a free one of this machine, for what has to be started.

        Raises:
            UsageError: there is nothing to look at.
        """
        return None


class ExecutorConfig(Component):
    """An executor: where and how many at a time the runs of a group are computed."""

    kind = "executor"

    @abstractmethod
    def build(self, jobs: int) -> Executor:
        """Build it.

        Args:
            jobs: how many runs may be computed at the same time.
        """


KINDS: dict[str, type[Component]] = {
    kind.kind: kind
    for kind in (
        AlgorithmConfig,
        EstimatorConfig,
        PolicyConfig,
        NetworkConfig,
        ExplorationConfig,
        CollectorConfig,
        EnvironmentConfig,
        TrackerConfig,
        ExecutorConfig,
    )
}
"""Every kind, by the name that its entry-point group `rlkit.<kind>` has."""
