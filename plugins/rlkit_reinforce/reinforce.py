"""REINFORCE: Williams 1992, "Simple statistical gradient-following algorithms for connectionist RL", equation 4."""

from torch import Tensor
from torch.nn.functional import mse_loss

from rlkit_core import Learner, Rollout, Setup
from rlkit_core.builtin.actor_critic import ActorCritic, actor_critic
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.learner import Part
from rlkit_reinforce.config import ReinforceConfig


class Reinforce(Learner):
    """Makes the actions of an episode more likely, the more the better the rewards were that followed them."""

    def __init__(self, config: ReinforceConfig, setup: Setup) -> None:
        self.config = config
        spaces = setup.observation_space, setup.action_space
        self.policy: ActorCritic = actor_critic(
            *spaces, config.network, exploration=GaussianConfig(), device=setup.device
        )
        self.estimator = config.estimator.build()
        self.optimizer = Adam(self.policy.parameters(), config.learning_rate, max_grad_norm=0.5)

    def update(self, rollout: Rollout) -> dict[str, float | Tensor]:
        """One gradient step on whole episodes."""
        values, next_values = rollout.values(self.policy.value)  # [T, N]
        returns = self.estimator.estimate(rollout, next_values, values=values if self.config.baseline else None)
        obs, taken, targets, advantages = rollout.columns(rollout.obs, self.policy.taken_actions(rollout), *returns)
        log_probs, entropies, values = self.policy.evaluate(obs, taken)
        loss = -(log_probs * advantages.to(log_probs.device)).mean()
        loss = loss + 0.5 * self.config.baseline * mse_loss(values, targets.to(values.device))
        self.optimizer.zero_grad()
        loss.backward()
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(), "gradient_norm": self.optimizer.step()}

    def parts(self) -> dict[str, Part]:
        """All that decides how learning goes on."""
        return {"policy": self.policy, "optimizer": self.optimizer, "estimator": self.estimator}
