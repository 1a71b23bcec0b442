"""Settings of DQN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import AlgorithmConfig, CollectorConfig, EstimatorConfig, NetworkConfig, Setup

if TYPE_CHECKING:
    from rlkit_dqn.dqn import DQN


class DQNConfig(AlgorithmConfig):
    """Deep Q-networks: the values of actions, learned from a replay of past steps; double, duelling, prioritised."""

    name: ClassVar[str] = "dqn"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete",)
    metrics: ClassVar[Mapping[str, str]] = {
        "loss": "what is minimised, of values against targets",
        "value": "mean value of the actions in the batch: beyond what returns can be, values have run away",
        "gradient_norm": "Euclidean norm of the gradient before clipping",
        "epsilon": "probability of a random action",
        "learning_rate": "Adam's step size",
    }

    collector: CollectorConfig = Field(
        StepsConfig(num_envs=4, num_steps=1),
        description="how experience is gathered between updates",
        json_schema_extra={"search": {"num_envs": False, "num_steps": False}},
    )
    estimator: EstimatorConfig = Field(
        DiscountedConfig(normalize="off"), description="what the values are trained towards"
    )
    network: NetworkConfig = Field(
        MLPConfig(hidden=(128, 128), init="default"), description="the network below the values"
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="step size of Adam",
        json_schema_extra={"search": {"low": 1e-5, "high": 1e-2, "log": True}},
    )
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: falls to zero over the run's total_steps"
    )
    adam_epsilon: float = Field(1e-8, gt=0, description="added to the root of Adam's second moment")
    max_grad_norm: float | None = Field(10.0, gt=0, description="clip the gradient to this norm; none: do not")
    updates_per_step: float = Field(
        0.5,
        gt=0,
        description="gradient steps per environment step, on average",
        json_schema_extra={"search": [0.125, 0.25, 0.5, 1.0]},
    )
    warmup_steps: int = Field(
        1_000, ge=0, description="environment steps of uniformly random actions before learning begins"
    )
    batch_size: int = Field(
        128,
        ge=1,
        description="windows of steps drawn from the replay for a gradient step",
        json_schema_extra={"search": [32, 64, 128, 256, 512]},
    )
    replay_size: int = Field(
        100_000,
        ge=1,
        description="rows that the replay holds; the oldest are overwritten",
        json_schema_extra={"search": [10_000, 50_000, 100_000]},
    )
    n_step: int = Field(
        3,
        ge=1,
        description="rewards that are summed before a value follows, in environment steps",
        json_schema_extra={"search": [1, 3, 5]},
    )
    double: bool = Field(
        True,
        description="the learned network chooses the next action, the target network values it",
        json_schema_extra={"search": False},
    )
    dueling: bool = Field(False, description="values are a state's own plus the advantages of its actions")
    prioritized: bool = Field(False, description="draw those steps more often whose values were more wrong")
    priority_alpha: float = Field(
        0.6, ge=0, le=1, description="how much priorities count; 0: draw uniformly", json_schema_extra={"search": False}
    )
    priority_beta: float = Field(
        0.4,
        ge=0,
        le=1,
        description="how much of the priorities' bias weights take back at first; grows to 1 over the run's "
        "total_steps",
        json_schema_extra={"search": False},
    )
    target_every: int = Field(1, ge=1, description="gradient steps between moves of the target network")
    target_tau: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of the way to the learned network that a move goes; 1: copies it",
        json_schema_extra={"search": {"low": 1e-3, "high": 0.1, "log": True}},
    )
    loss: Literal["huber", "squared"] = Field(
        "huber",
        description="of values against targets; huber's gradient is at most 1",
        json_schema_extra={"search": False},
    )
    epsilon_initial: float = Field(
        1.0, ge=0, le=1, description="probability of a random action at first", json_schema_extra={"search": False}
    )
    epsilon_final: float = Field(
        0.05,
        ge=0,
        le=1,
        description="probability of a random action in the end",
        json_schema_extra={"search": {"low": 0.01, "high": 0.2}},
    )
    epsilon_fraction: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the run's total_steps in which the probability falls in a straight line; it is 1 in the "
        "warm-up",
        json_schema_extra={"search": {"low": 0.05, "high": 0.5}},
    )
    normalize_observations: bool = Field(False, description="observations to running mean 0 and deviation 1")

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        self.estimator.check_replay()
        if self.epsilon_final > self.epsilon_initial:
            raise ValueError(f"epsilon_final {self.epsilon_final:g} is above epsilon_initial, and epsilon falls")
        return self

    def build(self, setup: Setup) -> DQN:
        """Build the learner."""
        from rlkit_dqn.dqn import DQN

        return DQN(self, setup)
