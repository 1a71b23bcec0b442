"""Soft actor-critic.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", arXiv:1812.05905: the soft value (equation 3),
the losses of critics (5), policy (9) and temperature (18), and algorithm 1 with two critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
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
from rlkit_sac.policy import SquashedGaussian

if TYPE_CHECKING:
    from rlkit_sac.config import SACConfig


class SAC(Learner):
    """Keeps what was seen, and learns two critics, a policy and a temperature from draws of it."""

    policy: SquashedGaussian

    def __init__(self, config: SACConfig, setup: Setup) -> None:
        self.config = config
        self.clock = Clock()
        self.gradient_steps = GradientSteps(self.clock, config.updates_per_step, config.warmup_steps, setup.total_steps)
        self.learning_rate = Schedule(
            self.clock, config.learning_rate, config.learning_rate_schedule, setup.total_steps
        )
        self.policy = SquashedGaussian(
            setup.observation_space,
            setup.action_space,
            config.network,
            config.exploration,
            lambda: self.clock.steps < config.warmup_steps,
            normalize_observations=config.normalize_observations,
            device=setup.device,
        )
        self.critics = Critics(setup.observation_space, self.policy.num_actions, config.network).to(setup.device)
        self.target = Target(self.critics)
        automatic = config.temperature == "auto"
        temperature = config.temperature_initial if config.temperature == "auto" else config.temperature
        log_temperature = torch.tensor(math.log(max(temperature, 1e-30)), device=setup.device)
        self.log_temperature = nn.Parameter(log_temperature, requires_grad=automatic)
        self.target_entropy = -self.policy.num_actions if config.target_entropy is None else config.target_entropy
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.critic_optimizer = Adam(self.critics.parameters(), config.learning_rate)
        self.temperature_optimizer = Adam([self.log_temperature], config.learning_rate)
        self.estimator = config.estimator.build()
        self.replay = Replay(setup.observation_space, setup.action_space, config.replay_size, setup.seeds)
        self.generator = SeededGenerator(setup.seeds, "noise", setup.device)
        self._device = setup.device

    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """Store the rollout, and take the gradient steps that have become due."""
        self.replay.add(rollout)
        self.clock.advance(rollout.num_steps)
        for optimizer in (self.policy_optimizer, self.critic_optimizer, self.temperature_optimizer):
            optimizer.learning_rate = self.learning_rate.value
        metrics = [self._gradient_step() for _ in self.gradient_steps.due()]
        self.policy.preprocessor.update(*rollout.columns(rollout.obs))
        return {**mean_metrics(metrics), "learning_rate": self.policy_optimizer.learning_rate}

    def _gradient_step(self) -> dict[str, Tensor | float]:
        steps = self.replay.sample(self.config.batch_size)  # [1, B]
        obs, next_obs = (
            self.policy.preprocessor(tree_map(lambda leaf: leaf[0], tree)) for tree in (steps.obs, steps.next_obs)
        )
        actions = self.policy.bounds.from_space(steps.actions[0])  # [B, A]
        temperature = self.log_temperature.detach().exp()

        with torch.no_grad():
            next_actions, next_log_probs = self.policy.sample(next_obs, self.generator)
            next_values = self.target.network(next_obs, next_actions).amin(0) - temperature * next_log_probs  # [B]
        returns = self.estimator.estimate(steps, next_values[None].cpu(), update=False)
        targets = returns.targets[0].to(self._device)
        values = self.critics(obs, actions)  # [2, B]
        critic_loss = mse_loss(values, targets.expand_as(values), reduction="sum") / len(targets)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimizer.step()

        policy_loss, log_probs = self._policy_loss(obs, temperature)
        self.policy_optimizer.zero_grad()
        policy_loss.backward(inputs=list(self.policy.parameters()))  # type: ignore[no-untyped-call]
        self.policy_optimizer.step()

        entropy = -log_probs.detach().mean()
        if self.log_temperature.requires_grad:
            self.temperature_optimizer.zero_grad()
            (self.log_temperature * (entropy - self.target_entropy)).backward()  # type: ignore[no-untyped-call]
            self.temperature_optimizer.step()
        self.target.follow(self.config.target_tau)
        return {
            "critic_loss": critic_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "entropy": entropy,
            "temperature": temperature,
            "value": values.detach().mean(),
        }

    def _policy_loss(self, obs: Tree, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of temperature times log-probability minus value, and the log-probabilities `[B]`."""
        actions, log_probs = self.policy.sample(obs, self.generator)
        return (temperature * log_probs - self.critics(obs, actions).amin(0)).mean(), log_probs

    def parts(self) -> Mapping[str, Part]:
        """Policy, critics and their targets, optimisers, temperature, estimator, replay, clock and generator."""
        return {
            "policy": self.policy,
            "critics": self.critics,
            "target": self.target,
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "temperature": nn.ParameterList([self.log_temperature]),
            "temperature_optimizer": self.temperature_optimizer,
            "estimator": self.estimator,
            "replay": self.replay,
            "clock": self.clock,
            "gradient_steps": self.gradient_steps,
            "generator": self.generator,
        }
