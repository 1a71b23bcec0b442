"""Settings of A2C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.builtin.policies import ActorCriticConfig
from rlkit_core.component import (
    AlgorithmConfig,
    CollectorConfig,
    EstimatorConfig,
    ExplorationConfig,
    NetworkConfig,
    PolicyConfig,
    Setup,
)

if TYPE_CHECKING:
    from rlkit_a2c.a2c import A2C


class A2CConfig(AlgorithmConfig):
    """Advantage actor-critic: a shared trunk, discounted normalised returns, truncated episodes bootstrapped."""

    name: ClassVar[str] = "a2c"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    recurrent_networks: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, str]] = {
        "loss": "what is minimised: policy_loss + value_coef value_loss - entropy_coef entropy",
        "policy_loss": "minus log-probability times advantage: no measure of progress",
        "value_loss": "squared (or smooth L1) distance of values from targets, in the targets' units",
        "entropy": "mean entropy of the policy in nats, towards 0 as it decides",
        "gradient_norm": "Euclidean norm of the whole gradient before clipping",
        "learning_rate": "Adam's step size in that update",
        "explained_variance": "share of the returns' variance that the values explain: 1 is perfect, 0 none",
    }

    collector: CollectorConfig = Field(StepsConfig(), description="how experience is gathered for each update")
    estimator: EstimatorConfig = Field(
        DiscountedConfig(),
        description="what the values are trained towards",
        json_schema_extra={"search": {"name": ["discounted", "lambda"]}},
    )
    policy: PolicyConfig = Field(ActorCriticConfig(), description="what acts, and values what it sees")
    network: NetworkConfig = Field(MLPConfig(), description="the network below the policy's and the value's heads")
    value_network: Literal["shared", "separate"] = Field(
        "shared", description="policy and value are heads on one network, or each has one of its own"
    )
    exploration: ExplorationConfig = Field(
        GaussianConfig(), description="noise of continuous actions; its deviation is learned"
    )
    learning_rate: float = Field(
        3e-3,
        gt=0,
        description="step size of Adam",
        json_schema_extra={"search": {"low": 1e-4, "high": 3e-2, "log": True}},
    )
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: falls to zero over the run's total_steps"
    )
    adam_epsilon: float = Field(1e-5, gt=0, description="added to the root of Adam's second moment")
    max_grad_norm: float | None = Field(
        0.5,
        gt=0,
        description="clip the gradient to this norm; none: do not",
        json_schema_extra={"search": {"low": 0.3, "high": 2.0}},
    )
    value_loss: Literal["squared", "smooth_l1"] = Field(
        "squared",
        description="squared error, or smooth L1, whose gradient is at most 1",
        json_schema_extra={"search": False},
    )
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy, which keeps the policy exploring",
        json_schema_extra={"search": {"low": 1e-6, "high": 0.1, "log": True}},
    )
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="losses are averaged, or summed, over the steps", json_schema_extra={"search": False}
    )
    normalize_advantages: bool = Field(
        False,
        description="advantages to mean 0 and deviation 1 in each update; without it they are in the unit of the "
        "targets, so that where everything goes well the noise that is left stays small",
    )
    normalize_observations: bool = Field(True, description="observations to running mean 0 and deviation 1")
    head_init: Literal["orthogonal", "default"] = Field(
        "orthogonal",
        description="initial weights of the heads: orthogonal, the policy's so small that all actions are about "
        "equally likely; or torch's default",
        json_schema_extra={"search": False},
    )

    def build(self, setup: Setup) -> A2C:
        """Build the learner."""
        from rlkit_a2c.a2c import A2C

        return A2C(self, setup)
