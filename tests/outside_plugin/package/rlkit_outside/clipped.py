"""The estimator `clipped`."""

import numpy as np
import torch

from rlkit_core import ReturnEstimator, Returns
from rlkit_core.errors import Diverged
from rlkit_core.returns import lambda_returns


class Clipped(ReturnEstimator):
    """Discounted sums of rewards that are clipped first."""

    def __init__(self, gamma, limit):
        self.gamma, self.limit = gamma, limit

    def estimate(self, rollout, next_values, *, values=None, log_probs=None, update=True):
        """Targets and advantages, [T, N]."""
        rewards = np.clip(np.asarray(rollout.rewards), -self.limit, self.limit)
        sums = lambda_returns(
            torch.from_numpy(rewards),
            next_values.detach(),
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            valid=rollout.valid,
        )
        if not np.isfinite(sums).all():
            raise Diverged("returns are not finite")
        targets = torch.from_numpy(sums)
        advantages = targets if values is None else torch.where(rollout.valid, targets - values.detach(), 0.0)
        return Returns(targets, advantages)

    def state_dict(self):
        """It keeps nothing."""
        return {}

    def load_state_dict(self, state):
        """It keeps nothing."""
