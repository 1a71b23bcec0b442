"""Settings of REINFORCE."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from rlkit_core import AlgorithmConfig, CollectorConfig, EstimatorConfig, NetworkConfig, PolicyConfig, Setup
from rlkit_core.builtin.collectors import EpisodesConfig
from rlkit_core.builtin.estimators import DiscountedConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.builtin.policies import ActorCriticConfig


class ReinforceConfig(AlgorithmConfig):
    """REINFORCE: the policy gradient from whole episodes, with or without a baseline."""

    name: ClassVar[str] = "reinforce"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    recurrent_networks: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, str]] = {
        "loss": "what is minimised: no measure of progress",
        "entropy": "mean entropy of the policy in nats",
        "gradient_norm": "Euclidean norm of the gradient before clipping",
    }
    collector: CollectorConfig = Field(EpisodesConfig(num_envs=8), description="how experience is gathered")
    estimator: EstimatorConfig = Field(DiscountedConfig(bootstrap=False, normalize="per_batch"), description="returns")
    policy: PolicyConfig = Field(ActorCriticConfig(), description="what acts, and values what it sees")
    network: NetworkConfig = Field(MLPConfig(), description="the policy's network")
    learning_rate: float = Field(
        3e-3,
        gt=0,
        description="step size of Adam",
        json_schema_extra={"search": {"low": 1e-4, "high": 3e-2, "log": True}},
    )
    baseline: bool = Field(True, description="subtract a learned value of the observation from the return")

    def build(self, setup: Setup) -> Any:
        """Build the learner."""
        from rlkit_reinforce.reinforce import Reinforce

        return Reinforce(self, setup)
