"""REINFORCE: Williams 1992, "Simple statistical gradient-following algorithms for connectionist RL", equation 4."""

from torch import Tensor
from torch.nn.functional import mse_loss

from rlkit_core import ActorCriticPolicy, Learner, Rollout, Setup
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.learner import Part
from rlkit_reinforce.config import ReinforceConfig


class Reinforce(Learner):
    """Makes the actions of an episode more likely, the more the better the rewards were that followed them."""

    def __init__(self, config: ReinforceConfig, setup: Setup) -> None:
        self.config = config
        self.policy: ActorCriticPolicy = config.policy.build(setup, config.network, exploration=GaussianConfig())
        self.estimator = config.estimator.build()
        self.optimizer = Adam(self.policy.parameters(), config.learning_rate, max_grad_norm=0.5)

    def update(self, rollout: Rollout) -> dict[str, float | Tensor]:
        """One gradient step on whole episodes."""
        values, next_values = self.policy.values(rollout)  # [T, N]
        returns = self.estimator.estimate(rollout, next_values, values=values if self.config.baseline else None)
        obs, taken, targets, advantages = self.policy.columns(rollout, *returns)
        log_probs, entropies, values = self.policy.evaluate(obs, taken)
        loss = -(log_probs * advantages.to(log_probs.device)).mean()
        loss = loss + 0.5 * self.config.baseline * mse_loss(values, targets.to(values.device))
        self.optimizer.zero_grad()
        loss.backward()
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(), "gradient_norm": self.optimizer.step()}

    def parts(self) -> dict[str, Part]:
        """All that decides how learning goes on."""
        return {"policy": self.policy, "optimizer": self.optimizer, "estimator": self.estimator}
