"""Proximal policy optimisation.

Schulman et al. 2017, arXiv:1707.06347, section 3 (the clipped objective, equation 7) and algorithm 1. The details that
it does not tell are from Huang et al. 2022, "The 37 implementation details of proximal policy optimization"
(https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/), and are settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.chunks import minibatches
from rlkit_core.builtin.generator import SeededGenerator
from rlkit_core.builtin.metrics import explained_variance, mean_metrics
from rlkit_core.builtin.schedules import Clock, Schedule
from rlkit_core.component import Setup
from rlkit_core.learner import Learner, Part
from rlkit_core.policy import ActorCriticPolicy
from rlkit_core.returns import normalize
from rlkit_core.rollout import Rollout

if TYPE_CHECKING:
    from rlkit_ppo.config import PPOConfig


class PPO(Learner):
    """Learns from one rollout in several epochs of minibatches, and forgets it."""

    policy: ActorCriticPolicy

    def __init__(self, config: PPOConfig, setup: Setup) -> None:
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
        self.clip_range = Schedule(self.clock, config.clip_range, config.clip_schedule, setup.total_steps)
        self.generator = SeededGenerator(setup.seeds, "minibatches")
        self._device = setup.device

    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """Epochs of minibatches on the rollout."""
        config, policy = self.config, self.policy
        values, next_values = policy.values(rollout)  # [T, N]
        returns = self.estimator.estimate(rollout, next_values, values=values)
        obs, taken, targets, advantages = policy.columns(rollout, returns.targets, returns.advantages)  # [B]
        explained = explained_variance(targets, advantages)
        old_values = targets - advantages  # as they were, in the units that targets have now
        with torch.no_grad():
            # The policy is still the one that acted, normalisation included.
            old_log_probs, _, _ = policy.evaluate(obs, taken)

        rows = obs, taken, targets, advantages, old_values, old_log_probs
        self.optimizer.learning_rate = self.learning_rate.value
        clip_range = self.clip_range.value
        metrics: list[dict[str, Tensor | float]] = []
        for batch in self._minibatches(rows):
            objective, numbers = self.losses(*batch, clip_range=clip_range)
            if config.target_kl is not None and float(numbers["approx_kl"]) > 1.5 * config.target_kl:
                break
            self.optimizer.zero_grad()
            objective.backward()  # type: ignore[no-untyped-call]
            metrics.append({**numbers, "gradient_norm": self.optimizer.step()})
        self.clock.advance(rollout.num_steps)
        policy.update_normalization(obs)
        return {
            **mean_metrics(metrics),
            "gradient_steps": float(len(metrics)),
            "learning_rate": self.optimizer.learning_rate,
            "clip_range": clip_range,
            "explained_variance": explained,
        }

    def _minibatches(self, rows: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """All epochs' minibatches: rows `[B, ...]` in random order, or sequences, in parts of about equal size."""
        B = rows[-1].shape[0]
        number = max(1, round(B / self.config.minibatch_size))
        if number == 1:  # in one part, their order does not matter
            yield from itertools.repeat(self._with_advantages(rows), self.config.epochs)
            return
        for _ in range(self.config.epochs):
            for part in minibatches(number, *rows, generator=self.generator):
                yield self._with_advantages(part)

    def _with_advantages(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """A minibatch on the policy's device, its advantages normalised where that is wanted."""
        obs, taken, targets, advantages, old_values, old_log_probs = rows
        if self.config.normalize_advantages:
            advantages = torch.from_numpy(normalize(advantages.numpy()))
        on_device = (x.to(self._device) for x in (targets, advantages, old_values))
        return obs, taken, *on_device, old_log_probs

    def losses(
        self,
        obs: Any,
        taken: Tensor,
        targets: Tensor,
        advantages: Tensor,
        old_values: Tensor,
        old_log_probs: Tensor,
        *,
        clip_range: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, differentiable, and what it consists of, 0-d, of B steps.

        The objective's gradient is that of the loss. Its term for the policy is written as the derivative has it, a
        weight times log pi, which takes fewer operations: the ratio's gradient is the ratio times that of log pi, and
        where the clipped term is the smaller one there is none.
        """
        config = self.config
        log_probs, entropies, values = self.policy.evaluate(obs, taken)  # [B]
        if config.value_clip is None:
            value_loss = mse_loss(values, targets)
        else:
            near = old_values + (values - old_values).clamp(-config.value_clip, config.value_clip)
            value_loss = torch.max((values - targets).square(), (near - targets).square()).mean()
        with torch.no_grad():
            log_ratio = log_probs - old_log_probs
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
            gain, limit = ratio * advantages, clipped * advantages
            grows = gain <= limit
            policy_loss = -torch.where(grows, gain, limit).mean()
            weights = torch.where(grows, gain, 0.0)
            # Schulman's unbiased estimate that is never negative, http://joschu.net/blog/kl-approx.html (k3).
            approx_kl = (ratio - 1 - log_ratio).mean()
            clip_fraction = (ratio != clipped).float().mean()
        objective = config.value_coef * value_loss - torch.dot(weights, log_probs) / len(weights)
        entropy = entropies.mean()
        if config.entropy_coef:
            objective = objective - config.entropy_coef * entropy
        numbers = {
            "policy_loss": policy_loss,
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }
        return objective, numbers

    def parts(self) -> Mapping[str, Part]:
        """Policy, optimiser, estimator, clock and the generator of minibatches."""
        return {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "estimator": self.estimator,
            "clock": self.clock,
            "generator": self.generator,
        }
