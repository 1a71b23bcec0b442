"""Settings; nothing here imports torch."""

from typing import ClassVar

from pydantic import Field

from rlkit_core import AlgorithmConfig, CollectorConfig, EstimatorConfig, NetworkConfig
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.networks import MLPConfig


class ClippedConfig(EstimatorConfig):
    """Discounted sums of clipped rewards."""

    name: ClassVar[str] = "clipped"

    gamma: float = Field(0.99, ge=0, le=1, description="discount per step")
    limit: float = Field(1.0, gt=0, description="largest size of a reward")

    def build(self):
        """Build it."""
        from rlkit_outside.clipped import Clipped

        return Clipped(self.gamma, self.limit)


class PlainGradientConfig(AlgorithmConfig):
    """The plain policy gradient: every action is made more likely by the return that followed it."""

    name: ClassVar[str] = "plain-gradient"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    metrics: ClassVar[dict[str, str]] = {
        "loss": "what is minimised",
        "entropy": "of the policy, in nats",
        "gradient_norm": "before clipping",
    }

    collector: CollectorConfig = Field(StepsConfig(), description="how experience is gathered")
    network: NetworkConfig = Field(MLPConfig(hidden=(32,)), description="from observations to features")
    estimator: EstimatorConfig = Field(ClippedConfig(), description="what the returns are")
    learning_rate: float = Field(3e-3, gt=0, description="step size of Adam")

    def build(self, setup):
        """Build the learner."""
        from rlkit_outside.plain_gradient import PlainGradient

        return PlainGradient(self, setup)
