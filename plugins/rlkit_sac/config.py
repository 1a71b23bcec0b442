"""Settings of SAC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import (
    AlgorithmConfig,
    CollectorConfig,
    EstimatorConfig,
    ExplorationConfig,
    NetworkConfig,
    Setup,
)

if TYPE_CHECKING:
    from rlkit_sac.sac import SAC


class SACConfig(AlgorithmConfig):
    """Soft actor-critic: continuous actions, learned from a replay, with as much entropy as the rewards leave."""

    name: ClassVar[str] = "sac"
    action_spaces: ClassVar[tuple[str, ...]] = ("Box",)
    metrics: ClassVar[Mapping[str, str]] = {
        "critic_loss": "sum of the two critics' squared errors, in units of the rewards, squared",
        "policy_loss": "temperature times log-probability, minus value: falls as values rise",
        "entropy": "mean entropy of the policy in nats, of actions scaled to −1 and 1",
        "temperature": "weight of the entropy",
        "value": "mean value of the actions in the batch",
        "learning_rate": "Adam's step size",
    }

    collector: CollectorConfig = Field(
        StepsConfig(num_envs=1, num_steps=1),
        description="how experience is gathered between updates",
        json_schema_extra={"search": {"num_envs": False, "num_steps": False}},
    )
    estimator: EstimatorConfig = Field(
        DiscountedConfig(normalize="off"), description="what the values are trained towards"
    )
    network: NetworkConfig = Field(
        MLPConfig(hidden=(256, 256), init="default"),
        description="the networks of the policy and of both critics",
        json_schema_extra={"search": {"hidden": [[64, 64], [128, 128], [256, 256], [400, 300]]}},
    )
    exploration: ExplorationConfig = Field(
        GaussianConfig(), description="noise of the actions; its deviation is learned from the observation"
    )
    learning_rate: float = Field(
        3e-4,
        gt=0,
        description="step size of Adam, for policy, critics and temperature",
        json_schema_extra={"search": {"low": 5e-5, "high": 5e-3, "log": True}},
    )
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: falls to zero over the run's total_steps"
    )
    updates_per_step: float = Field(
        1.0,
        gt=0,
        description="gradient steps per environment step, on average",
        json_schema_extra={"search": [0.25, 0.5, 1.0]},
    )
    warmup_steps: int = Field(
        100,
        ge=0,
        description="environment steps of uniformly random actions before learning begins",
        json_schema_extra={"search": [100, 1_000, 5_000]},
    )
    batch_size: int = Field(
        256,
        ge=1,
        description="steps drawn from the replay for a gradient step",
        json_schema_extra={"search": [64, 128, 256, 512]},
    )
    replay_size: int = Field(1_000_000, ge=1, description="rows that the replay holds; the oldest are overwritten")
    target_tau: float = Field(
        0.005,
        gt=0,
        le=1,
        description="share of the way to the critics that their targets go after each gradient step",
        json_schema_extra={"search": {"low": 1e-3, "high": 0.1, "log": True}},
    )
    temperature: Annotated[float, Field(allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="weight of the entropy against the rewards; auto: learned, so that the entropy has its target",
    )
    temperature_initial: float = Field(1.0, gt=0, description="what a learned temperature starts from")
    target_entropy: float | None = Field(
        None,
        allow_inf_nan=False,
        description="entropy that a learned temperature aims at, in nats; none: minus the numbers in an action",
    )
    normalize_observations: bool = Field(False, description="observations to running mean 0 and deviation 1")

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        self.estimator.check_replay()
        if isinstance(self.temperature, float) and self.temperature < 0:
            raise ValueError("temperature should be auto, or a number from 0 on")
        return self

    def build(self, setup: Setup) -> SAC:
        """Build the learner."""
        from rlkit_sac.sac import SAC

        return SAC(self, setup)
