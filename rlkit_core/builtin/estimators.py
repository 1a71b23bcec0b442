"""Config classes of the return estimators; the mathematics is in `rlkit_core.returns`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rlkit_core.component import CollectorConfig, EstimatorConfig

if TYPE_CHECKING:
    from rlkit_core.returns import ReturnEstimator


class DiscountedConfig(EstimatorConfig):
    """Discounted sums of rewards, continued by the value of the last observation where an episode was cut off."""

    name: ClassVar[str] = "discounted"

    gamma: float = Field(
        0.99,
        ge=0,
        le=1,
        description="discount of rewards, per environment step",
        json_schema_extra={"search": [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]},
    )
    bootstrap: bool = Field(
        True,
        description="continue cut-off episodes and the rollout's end with the value of the next observation",
        json_schema_extra={"search": False},
    )
    normalize: Literal["off", "running", "per_episode", "per_batch"] = Field(
        "running",
        description="units of the targets: off: rewards as they are; running: mean and deviation of all returns so "
        "far, with values mapped to match; per_episode, per_batch: of this rollout's (whole episodes, no bootstrap)",
        json_schema_extra={"search": False},
    )
    ddof: Literal[0, 1] = Field(
        0,
        description="deviation over n - ddof elements, for per_episode and per_batch; torch's std has 1",
        json_schema_extra={"search": False},
    )
    epsilon: float = Field(0.0, ge=0, description="added to the deviation, for per_episode and per_batch")

    @model_validator(mode="after")
    def _check_normalize(self) -> Self:
        if self.normalize in ("per_episode", "per_batch"):
            if self.bootstrap:
                raise ValueError(
                    f"normalize {self.normalize} needs bootstrap false: values are then in normalised units, "
                    "which cannot be added to raw rewards; or take normalize running"
                )
        elif self.ddof or self.epsilon:
            raise ValueError("ddof and epsilon are settings of normalize per_episode and per_batch")
        return self

    def check_collector(self, collector: CollectorConfig) -> None:
        """Refuse rollouts of cut episodes where nothing is bootstrapped per episode or batch."""
        if self.normalize in ("per_episode", "per_batch") and not collector.whole_episodes:
            raise ValueError(
                f"estimator normalize {self.normalize} needs whole episodes: "
                f"take collector episodes, not {collector.name}"
            )

    def check_replay(self) -> None:
        """Refuse normalised targets, whose unit would be that of a draw, and windows that no value follows."""
        if self.normalize != "off":
            raise ValueError(
                f"estimator normalize {self.normalize} does not go with a replay: take estimator.normalize off"
            )
        if not self.bootstrap:
            raise ValueError(
                "estimator bootstrap false does not go with a replay: "
                "what follows a window is known by its value only, take estimator.bootstrap true"
            )

    def build(self) -> ReturnEstimator:
        """Build it."""
        return self._build(1.0)

    def _build(self, gae_lambda: float) -> ReturnEstimator:
        from rlkit_core.returns import LambdaEstimator

        return LambdaEstimator(
            gamma=self.gamma,
            gae_lambda=gae_lambda,
            bootstrap=self.bootstrap,
            normalize=self.normalize,
            ddof=self.ddof,
            epsilon=self.epsilon,
        )


class LambdaConfig(DiscountedConfig):
    """Lambda-returns: between the one-step target (0) and the discounted sum (1); minus the value, this is GAE."""

    name: ClassVar[str] = "lambda"

    gae_lambda: float = Field(
        0.95,
        ge=0,
        le=1,
        description="weight of longer returns: bias against variance",
        json_schema_extra={"search": [0.8, 0.9, 0.95, 0.98, 1.0]},
    )

    @model_validator(mode="after")
    def _check_lambda(self) -> Self:
        if not self.bootstrap and self.gae_lambda != 1:
            raise ValueError("bootstrap false needs gae_lambda 1: shorter returns are made of values")
        return self

    def build(self) -> ReturnEstimator:
        """Build it."""
        return self._build(self.gae_lambda)
