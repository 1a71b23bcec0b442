"""PPO as somebody writes it who needs nothing but PPO: a whole plugin in one file, counted by lines.py.

rlkit run short-ppo --plugin tests/benchmarks/short_ppo.py --env CartPole-v1
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from rlkit_core import AlgorithmConfig, CollectorConfig, EstimatorConfig, NetworkConfig, Setup, hookimpl
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.estimators import LambdaConfig
from rlkit_core.builtin.networks import MLPConfig


class ShortPPOConfig(AlgorithmConfig):
    """Proximal policy optimisation."""

    name: ClassVar[str] = "short-ppo"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    metrics: ClassVar[Mapping[str, str]] = {"loss": "what is minimised", "entropy": "of the policy, in nats"}
    collector: CollectorConfig = Field(StepsConfig(num_steps=128), description="how experience is gathered")
    estimator: EstimatorConfig = Field(LambdaConfig(normalize="off"), description="what values are trained towards")
    network: NetworkConfig = Field(MLPConfig(hidden=(64, 64), activation="tanh"), description="of policy and value")
    learning_rate: float = Field(1e-3, gt=0, description="step size of Adam")
    epochs: int = Field(10, ge=1, description="passes over each rollout")
    minibatches: int = Field(8, ge=1, description="parts of each pass")
    clip_range: float = Field(0.2, gt=0, description="how far the ratio of probabilities counts")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy")

    def build(self, setup: Setup) -> Any:
        """Build the learner."""
        import torch
        from torch.nn.functional import mse_loss

        from rlkit_core import Learner
        from rlkit_core.builtin.actor_critic import actor_critic
        from rlkit_core.builtin.adam import Adam
        from rlkit_core.builtin.explorations import GaussianConfig
        from rlkit_core.builtin.generator import SeededGenerator
        from rlkit_core.rollout import tree_map

        config = self

        class ShortPPO(Learner):
            """Schulman et al. 2017, arXiv:1707.06347, algorithm 1."""

            def __init__(self) -> None:
                spaces = setup.observation_space, setup.action_space
                self.policy = actor_critic(
                    *spaces, config.network, exploration=GaussianConfig(), value_network="separate", device=setup.device
                )
                self.estimator = config.estimator.build()
                self.optimizer = Adam(self.policy.parameters(), config.learning_rate, max_grad_norm=0.5)
                self.generator = SeededGenerator(setup.seeds, "minibatches")

            def update(self, rollout: Any) -> dict[str, Any]:
                values, next_values = rollout.values(self.policy.value)  # [T, N]
                returns = self.estimator.estimate(rollout, next_values, values=values)
                rows = rollout.columns(rollout.obs, self.policy.taken_actions(rollout), *returns)  # [B]
                with torch.no_grad():
                    rows = *rows, self.policy.evaluate(*rows[:2])[0]
                for _ in range(config.epochs):
                    for part in torch.randperm(len(rows[-1]), generator=self.generator).tensor_split(
                        config.minibatches
                    ):
                        obs, taken, targets, advantages, old = tree_map(lambda leaf: leaf[part.to(leaf.device)], rows)  # noqa: B023
                        log_probs, entropies, values = self.policy.evaluate(obs, taken)
                        advantages = ((advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)).to(
                            old.device
                        )
                        ratio = (log_probs - old).exp()
                        clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
                        loss = -torch.min(ratio * advantages, clipped * advantages).mean()
                        loss = loss + 0.5 * mse_loss(values, targets.to(old.device))
                        loss = loss - config.entropy_coef * entropies.mean()
                        self.optimizer.zero_grad()
                        loss.backward()
                        self.optimizer.step()
                return {"loss": loss.detach(), "entropy": entropies.detach().mean()}

            def parts(self) -> dict[str, Any]:
                return {name: getattr(self, name) for name in ("policy", "estimator", "optimizer", "generator")}

        return ShortPPO()


@hookimpl
def rlkit_register() -> list[type]:
    """The algorithm `short-ppo`."""
    return [ShortPPOConfig]
