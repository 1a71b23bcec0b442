"""Settings of PPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import LambdaConfig
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
    from rlkit_ppo.ppo import PPO


class PPOConfig(AlgorithmConfig):
    """Proximal policy optimisation: several epochs on each rollout, kept close to the policy that collected it."""

    name: ClassVar[str] = "ppo"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    recurrent_networks: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, str]] = {
        "policy_loss": "minus the clipped objective: no measure of progress",
        "value_loss": "squared distance of values from targets, in the targets' units",
        "entropy": "mean entropy of the policy in nats",
        "approx_kl": "how far the policy is from the old one, in nats: mean of ρ − 1 − log ρ (Schulman's k3)",
        "clip_fraction": "share of steps whose ratio is outside the clip range",
        "gradient_norm": "Euclidean norm of the whole gradient before clipping",
        "gradient_steps": "gradient steps of an update: epochs times minibatches, fewer where target_kl ended it",
        "learning_rate": "Adam's step size",
        "clip_range": "ε",
        "explained_variance": "share of the returns' variance that the values explain, before the update",
    }

    collector: CollectorConfig = Field(
        StepsConfig(num_envs=8, num_steps=128),
        description="how experience is gathered for each update",
        json_schema_extra={"search": {"num_steps": [32, 64, 128, 256, 512, 1024, 2048]}},
    )
    estimator: EstimatorConfig = Field(LambdaConfig(normalize="off"), description="what the values are trained towards")
    policy: PolicyConfig = Field(ActorCriticConfig(), description="what acts, and values what it sees")
    network: NetworkConfig = Field(
        MLPConfig(hidden=(64, 64), activation="tanh"),
        description="the network below the policy's and the value's heads",
    )
    value_network: Literal["shared", "separate"] = Field(
        "separate", description="policy and value are heads on one network, or each has one of its own"
    )
    exploration: ExplorationConfig = Field(
        GaussianConfig(), description="noise of continuous actions; its deviation is learned"
    )
    epochs: int = Field(10, ge=1, description="passes over each rollout", json_schema_extra={"search": [3, 5, 10, 20]})
    minibatch_size: int = Field(
        64,
        ge=1,
        description="steps in a minibatch, about: a rollout is divided into equal parts",
        json_schema_extra={"search": [32, 64, 128, 256, 512]},
    )
    learning_rate: float = Field(
        3e-4,
        gt=0,
        description="step size of Adam",
        json_schema_extra={"search": {"low": 1e-5, "high": 3e-3, "log": True}},
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
    clip_range: float = Field(
        0.2,
        gt=0,
        description="the ratio of the new probability of an action to the old one counts within 1 ± this",
        json_schema_extra={"search": [0.1, 0.2, 0.3, 0.4]},
    )
    clip_schedule: Literal["constant", "linear"] = Field(
        "constant",
        description="linear: the clip range falls to zero over the run's total_steps",
        json_schema_extra={"search": False},
    )
    value_clip: float | None = Field(
        None, gt=0, description="values count within the old ones ± this, in the targets' units; none: do not clip"
    )
    target_kl: float | None = Field(
        None, gt=0, description="leave a rollout when the policy is 1.5 times this far from the old one; none: never"
    )
    value_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy, which keeps the policy exploring",
        json_schema_extra={"search": {"low": 1e-6, "high": 0.1, "log": True}},
    )
    normalize_advantages: bool = Field(
        True, description="advantages to mean 0 and deviation 1 in each minibatch", json_schema_extra={"search": False}
    )
    normalize_observations: bool = Field(False, description="observations to running mean 0 and deviation 1")
    head_init: Literal["orthogonal", "default"] = Field(
        "orthogonal",
        description="initial weights of the heads: orthogonal, the policy's so small that all actions are about "
        "equally likely; or torch's default",
        json_schema_extra={"search": False},
    )

    @model_validator(mode="after")
    def _check_minibatch(self) -> Self:
        if self.normalize_advantages and self.minibatch_size == 1:
            raise ValueError(
                "minibatch_size 1 leaves nothing to learn from: a single advantage becomes 0; "
                "take at least 2, or normalize_advantages false"
            )
        return self

    def build(self, setup: Setup) -> PPO:
        """Build the learner."""
        from rlkit_ppo.ppo import PPO

        return PPO(self, setup)
