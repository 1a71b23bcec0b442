"""Settings of TD3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

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
    from rlkit_td3.td3 import TD3


class TD3Config(AlgorithmConfig):
    """Twin delayed DDPG: a deterministic policy for continuous actions, learned from a replay with two critics."""

    name: ClassVar[str] = "td3"
    action_spaces: ClassVar[tuple[str, ...]] = ("Box",)
    metrics: ClassVar[Mapping[str, str]] = {
        "critic_loss": "sum of the two critics' squared errors, in units of the rewards, squared",
        "policy_loss": "minus the mean value of the policy's own actions",
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
        GaussianConfig(std=0.1),
        description="noise of the actions while experience is gathered",
        json_schema_extra={"search": {"std": {"low": 0.05, "high": 0.6}}},
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="step size of Adam, for policy and critics",
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
        1_000,
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
    policy_delay: int = Field(2, ge=1, description="gradient steps of the critics for each of the policy")
    target_tau: float = Field(
        0.005,
        gt=0,
        le=1,
        description="share of the way to the learned networks that their targets go each time the policy is learned",
        json_schema_extra={"search": {"low": 1e-3, "high": 0.1, "log": True}},
    )
    target_noise: float = Field(
        0.2,
        ge=0,
        description="deviation of the noise on the actions that targets are made with, bounds being at -1 and 1",
    )
    target_noise_clip: float = Field(0.5, ge=0, description="largest size of that noise")
    normalize_observations: bool = Field(False, description="observations to running mean 0 and deviation 1")

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        self.estimator.check_replay()
        return self

    def build(self, setup: Setup) -> TD3:
        """Build the learner."""
        from rlkit_td3.td3 import TD3

        return TD3(self, setup)
