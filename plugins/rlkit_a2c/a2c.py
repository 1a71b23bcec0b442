"""Advantage actor-critic.

Synchronous A3C (Mnih et al. 2016, arXiv:1602.01783, section 4 and algorithm S3): the policy's gradient is
∇ log π(a|s) A with A = G − V(s), the value is regressed on G, and both share a trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.chunks import in_chunks
from rlkit_core.builtin.metrics import explained_variance
from rlkit_core.builtin.schedules import Clock, Schedule
from rlkit_core.component import Setup
from rlkit_core.learner import Learner, Part
from rlkit_core.policy import ActorCriticPolicy
from rlkit_core.returns import normalize
from rlkit_core.rollout import Rollout

if TYPE_CHECKING:
    from rlkit_a2c.config import A2CConfig


class A2C(Learner):
    """Learns from one rollout at a time, with a single gradient step, and forgets it."""

    policy: ActorCriticPolicy

    def __init__(self, config: A2CConfig, setup: Setup) -> None:
        self.config = config
        self.policy = config.policy.build(
            setup,
            config.network,
            exploration=config.exploration,
            value_network=config.value_network,
            normalize_observations=config.normalize_observations,
            orthogonal_init=config.head_init == "orthogonal",
        )
        self.estimator = config.estimator.build()
        self.optimizer = Adam(
            self.policy.parameters(),
            config.learning_rate,
            max_grad_norm=config.max_grad_norm,
            epsilon=config.adam_epsilon,
        )
        self.clock = Clock()
        self.learning_rate = Schedule(
            self.clock, config.learning_rate, config.learning_rate_schedule, setup.total_steps
        )
        self._device = setup.device

    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """One gradient step on the rollout."""
        values, next_values = self.policy.values(rollout)  # [T, N]
        returns = self.estimator.estimate(rollout, next_values, values=values)
        obs, taken, targets, advantages = self.policy.columns(rollout, returns.targets, returns.advantages)  # [B]
        explained = explained_variance(targets, advantages)
        if self.config.normalize_advantages:
            advantages = torch.from_numpy(normalize(advantages.numpy()))

        self.optimizer.zero_grad()
        numbers = dict.fromkeys(("loss", "policy_loss", "value_loss", "entropy"), 0.0)
        for share, part in in_chunks(obs, taken, targets.to(self._device), advantages.to(self._device)):
            losses = self.losses(*part)
            weight = share if self.config.reduction == "mean" else 1.0
            # Not as an argument of backward: with one, torch imports sympy, which takes longer than CartPole.
            (losses["loss"] if weight == 1.0 else weight * losses["loss"]).backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                numbers[name] += (share if name == "entropy" else weight) * loss.item()
        self.optimizer.learning_rate = self.learning_rate.value
        gradient_norm = self.optimizer.step()
        self.clock.advance(rollout.num_steps)
        self.policy.update_normalization(obs)
        return {
            **numbers,
            "gradient_norm": gradient_norm,
            "learning_rate": self.optimizer.learning_rate,
            "explained_variance": explained,
        }

    def losses(self, obs: Any, taken: Tensor, targets: Tensor, advantages: Tensor) -> dict[str, Tensor]:
        """The loss and its parts, 0-d, of B steps; `advantages` carry no gradient, so the heads do not meet in them."""
        config = self.config
        log_probs, entropies, values = self.policy.evaluate(obs, taken)  # [B]
        reduce = torch.mean if config.reduction == "mean" else torch.sum
        policy_loss = -reduce(log_probs * advantages)
        value_loss_function = mse_loss if config.value_loss == "squared" else smooth_l1_loss
        value_loss = value_loss_function(values, targets, reduction=config.reduction)
        entropy = reduce(entropies)
        loss = policy_loss + config.value_coef * value_loss
        if config.entropy_coef:
            loss = loss - config.entropy_coef * entropy
        return {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropies.mean()}

    def parts(self) -> Mapping[str, Part]:
        """Policy, optimiser, estimator and clock."""
        return {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "estimator": self.estimator,
            "clock": self.clock,
        }
