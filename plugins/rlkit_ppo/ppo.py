"""Proximal policy optimisation.

Schulman et al. 2017, arXiv:1707.06347, section 3 (the clipped objective, equation 7) and algorithm 1. The details that
it does not tell are from Huang et al. 2022, "The 37 implementation details of proximal policy optimization"
(https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/), and are settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from rlkit_core.builtin.actor_critic import ActorCritic, actor_critic
from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.generator import SeededGenerator
from rlkit_core.builtin.metrics import explained_variance, mean_metrics
from rlkit_core.builtin.schedules import Clock, Schedule
from rlkit_core.component import Setup
from rlkit_core.learner import Learner, Part
from rlkit_core.returns import normalize
from rlkit_core.rollout import Rollout, Tree, tree_map

if TYPE_CHECKING:
    from rlkit_ppo.config import PPOConfig


class PPO(Learner):
    """Learns from one rollout in several epochs of minibatches, and forgets it."""

    policy: ActorCritic

    def __init__(self, config: PPOConfig, setup: Setup) -> None:
        self.config = config
        self.policy = actor_critic(
            setup.observation_space,
            setup.action_space,
            config.network,
            exploration=config.exploration,
            value_network=config.value_network,
            normalize_observations=config.normalize_observations,
            orthogonal_init=config.head_init == "orthogonal",
            device=setup.device,
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
        values, next_values = rollout.values(policy.value)  # [T, N]
        returns = self.estimator.estimate(rollout, next_values, values=values)
        obs, taken, targets, advantages = rollout.columns(
            rollout.obs, policy.taken_actions(rollout), returns.targets, returns.advantages
        )  # [B]
        explained = explained_variance(targets, advantages)
        old_values = targets - advantages  # as they were, in the units that targets have now
        with torch.no_grad():
            # The policy is still the one that acted, normalisation included.
            old_log_probs, _, _ = policy.evaluate(obs, taken)

        self.optimizer.learning_rate = self.learning_rate.value
        clip_range = self.clip_range.value
        metrics: list[dict[str, Tensor | float]] = []
        stopped = False
        for _ in range(config.epochs):
            for batch in self._minibatches((obs, taken, targets, advantages, old_values, old_log_probs)):
                losses = self.losses(*batch, clip_range=clip_range)
                if config.target_kl is not None and float(losses["approx_kl"]) > 1.5 * config.target_kl:
                    stopped = True
                    break
                self.optimizer.zero_grad()
                losses["loss"].backward()  # type: ignore[no-untyped-call]
                gradient_norm = self.optimizer.step()
                metrics.append(
                    {**{name: loss.detach() for name, loss in losses.items()}, "gradient_norm": gradient_norm}
                )
            if stopped:
                break
        self.clock.advance(rollout.num_steps)
        policy.preprocessor.update(obs)
        return {
            **mean_metrics(metrics),
            "gradient_steps": float(len(metrics)),
            "learning_rate": self.optimizer.learning_rate,
            "clip_range": clip_range,
            "explained_variance": explained,
        }

    def _minibatches(self, rows: tuple[Tree, ...]) -> Iterator[tuple[Tree, ...]]:
        """The rows `[B, ...]` of all trees in random order, in parts that differ in size by one at most."""
        B = rows[-1].shape[0]
        number = max(1, round(B / self.config.minibatch_size))
        if number == 1:  # in one part, their order does not matter
            yield rows
            return
        order = torch.randperm(B, generator=self.generator)
        for part in order.tensor_split(number):
            yield tuple(tree_map(lambda leaf: leaf[part.to(leaf.device)], tree) for tree in rows)  # noqa: B023

    def losses(
        self,
        obs: Tree,
        taken: Tensor,
        targets: Tensor,
        advantages: Tensor,
        old_values: Tensor,
        old_log_probs: Tensor,
        *,
        clip_range: float,
    ) -> dict[str, Tensor]:
        """The loss and its parts, 0-d, of B steps, and how far the policy is from the old one."""
        config = self.config
        if config.normalize_advantages:
            advantages = torch.from_numpy(normalize(advantages.numpy()))
        targets, advantages, old_values = (x.to(self._device) for x in (targets, advantages, old_values))
        log_probs, entropies, values = self.policy.evaluate(obs, taken)  # [B]
        log_ratio = log_probs - old_log_probs
        ratio = log_ratio.exp()
        # The smaller of the two, as in equation 7. Where it is the clipped one, no gradient goes through it; saying so
        # is four times as fast as going back through clamp and min.
        clipped = ratio.detach().clamp(1 - clip_range, 1 + clip_range)
        gain, limit = ratio * advantages, clipped * advantages
        policy_loss = -torch.where(gain.detach() <= limit, gain, limit).mean()
        if config.value_clip is None:
            value_loss = mse_loss(values, targets)
        else:
            near = old_values + (values - old_values).clamp(-config.value_clip, config.value_clip)
            value_loss = torch.max((values - targets).square(), (near - targets).square()).mean()
        entropy = entropies.mean()
        loss = policy_loss + config.value_coef * value_loss
        if config.entropy_coef:
            loss = loss - config.entropy_coef * entropy
        with torch.no_grad():
            # Schulman's unbiased estimate that is never negative, http://joschu.net/blog/kl-approx.html (k3).
            approx_kl = (ratio - 1 - log_ratio).mean()
            clip_fraction = (ratio != clipped).float().mean()
        return {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }

    def parts(self) -> Mapping[str, Part]:
        """Policy, optimiser, estimator, clock and the generator of minibatches."""
        return {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "estimator": self.estimator,
            "clock": self.clock,
            "generator": self.generator,
        }
