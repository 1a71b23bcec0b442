"""Twin delayed deep deterministic policy gradient.

Fujimoto et al. 2018, "Addressing function approximation error in actor-critic methods", arXiv:1802.09477: the smaller
of two target values (equation 10), smoothed target actions (14), the delayed policy, and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.critics import Critics
from rlkit_core.builtin.generator import SeededGenerator
from rlkit_core.builtin.metrics import mean_metrics
from rlkit_core.builtin.replay import Replay
from rlkit_core.builtin.schedules import Clock, GradientSteps, Schedule
from rlkit_core.builtin.target import Target
from rlkit_core.component import Setup
from rlkit_core.learner import Learner, Part
from rlkit_core.rollout import Rollout, Tree, tree_map
from rlkit_td3.policy import DeterministicPolicy

if TYPE_CHECKING:
    from rlkit_td3.config import TD3Config


class TD3(Learner):
    """Keeps what was seen, and learns two critics and a policy from draws of it."""

    policy: DeterministicPolicy

    def __init__(self, config: TD3Config, setup: Setup) -> None:
        self.config = config
        self.clock = Clock()
        self.gradient_steps = GradientSteps(self.clock, config.updates_per_step, config.warmup_steps, setup.total_steps)
        self.learning_rate = Schedule(
            self.clock, config.learning_rate, config.learning_rate_schedule, setup.total_steps
        )
        self.policy = DeterministicPolicy(
            setup.observation_space,
            setup.action_space,
            config.network,
            config.exploration,
            lambda: self.clock.steps < config.warmup_steps,
            normalize_observations=config.normalize_observations,
            device=setup.device,
        )
        self.critics = Critics(setup.observation_space, self.policy.num_actions, config.network).to(setup.device)
        self.target_actor, self.target_critics = Target(self.policy.actor), Target(self.critics)
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.critic_optimizer = Adam(self.critics.parameters(), config.learning_rate)
        self.estimator = config.estimator.build()
        self.replay = Replay(setup.observation_space, setup.action_space, config.replay_size, setup.seeds)
        self.generator = SeededGenerator(setup.seeds, "noise", setup.device)
        self._device = setup.device

    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """Store the rollout, and take the gradient steps that have become due."""
        self.replay.add(rollout)
        self.clock.advance(rollout.num_steps)
        self.policy_optimizer.learning_rate = self.critic_optimizer.learning_rate = self.learning_rate.value
        metrics = [self._gradient_step(number) for number in self.gradient_steps.due()]
        self.policy.preprocessor.update(*rollout.columns(rollout.obs))
        return {**mean_metrics(metrics), "learning_rate": self.policy_optimizer.learning_rate}

    def policy_replaced(self) -> None:
        """The target actor starts where the policy does."""
        self.target_actor.follow(1)

    def _gradient_step(self, number: int) -> dict[str, Tensor | float]:
        steps = self.replay.sample(self.config.batch_size)  # [1, B]
        obs, next_obs = (
            self.policy.preprocessor(tree_map(lambda leaf: leaf[0], tree)) for tree in (steps.obs, steps.next_obs)
        )
        actions = self.policy.bounds.from_space(steps.actions[0])  # [B, A]

        returns = self.estimator.estimate(steps, self._next_values(next_obs)[None].cpu(), update=False)
        targets = returns.targets[0].to(self._device)  # [B]
        values = self.critics(obs, actions)  # [2, B]
        critic_loss = mse_loss(values, targets.expand_as(values), reduction="sum") / len(targets)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimizer.step()
        metrics: dict[str, Tensor | float] = {"critic_loss": critic_loss.detach(), "value": values.detach().mean()}

        if number % self.config.policy_delay == 0:
            policy_loss = -self.critics.first(obs, self.policy.actor(obs)).mean()
            self.policy_optimizer.zero_grad()
            policy_loss.backward(inputs=list(self.policy.parameters()))  # type: ignore[no-untyped-call]
            self.policy_optimizer.step()
            self.target_actor.follow(self.config.target_tau)
            self.target_critics.follow(self.config.target_tau)
            metrics["policy_loss"] = policy_loss.detach()
        return metrics

    @torch.no_grad()
    def _next_values(self, next_obs: Tree) -> Tensor:
        """The smaller target value of the target policy's action with noise on it, `[B]`."""
        config = self.config
        actions = self.target_actor.network(next_obs)
        noise = torch.empty_like(actions).normal_(generator=self.generator) * config.target_noise
        noise.clamp_(-config.target_noise_clip, config.target_noise_clip)
        return self.target_critics.network(next_obs, (actions + noise).clamp_(-1, 1)).amin(0)  # type: ignore[no-any-return]

    def parts(self) -> Mapping[str, Part]:
        """Policy, critics and the targets of both, optimisers, estimator, replay, counters and generator."""
        return {
            "policy": self.policy,
            "critics": self.critics,
            "target_actor": self.target_actor,
            "target_critics": self.target_critics,
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "estimator": self.estimator,
            "replay": self.replay,
            "clock": self.clock,
            "gradient_steps": self.gradient_steps,
            "generator": self.generator,
        }
