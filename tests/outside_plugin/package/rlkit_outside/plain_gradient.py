"""The algorithm `plain-gradient`."""

from torch.nn.functional import mse_loss

from rlkit_core import Learner
from rlkit_core.builtin.actor_critic import actor_critic
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.explorations import GaussianConfig


class PlainGradient(Learner):
    """Raises the log-probability of actions in proportion to their advantage."""

    def __init__(self, config, setup):
        self.policy = actor_critic(
            setup.observation_space,
            setup.action_space,
            config.network,
            exploration=GaussianConfig(),
            device=setup.device,
        )
        self.estimator = config.estimator.build()
        self.optimizer = Adam(self.policy.parameters(), config.learning_rate, max_grad_norm=0.5)

    def update(self, rollout):
        """One gradient step."""
        values, next_values = rollout.values(self.policy.value)
        returns = self.estimator.estimate(rollout, next_values, values=values)
        obs, taken, targets, advantages = rollout.columns(rollout.obs, self.policy.taken_actions(rollout), *returns)
        log_probs, entropies, values = self.policy.evaluate(obs, taken)
        loss = -(log_probs * advantages.to(log_probs.device)).mean() + 0.5 * mse_loss(values, targets.to(values.device))
        self.optimizer.zero_grad()
        loss.backward()
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(), "gradient_norm": self.optimizer.step()}

    def parts(self):
        """All that decides how learning goes on."""
        return {"policy": self.policy, "optimizer": self.optimizer, "estimator": self.estimator}
