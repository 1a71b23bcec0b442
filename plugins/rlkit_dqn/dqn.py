"""Deep Q-networks.

Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518), algorithm 1. Double: van
Hasselt et al. 2016, arXiv:1509.06461, equation 4. Windows of n steps: Hessel et al. 2018, arXiv:1710.02298, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

from rlkit_core.builtin.adam import Adam
from rlkit_core.builtin.metrics import mean_metrics
from rlkit_core.builtin.replay import PrioritizedReplay, Replay
from rlkit_core.builtin.schedules import Clock, GradientSteps, Schedule
from rlkit_core.builtin.target import Target
from rlkit_core.component import Setup
from rlkit_core.learner import Learner, Part
from rlkit_core.rollout import Rollout, tree_map
from rlkit_dqn.policy import EpsilonGreedy

if TYPE_CHECKING:
    from rlkit_dqn.config import DQNConfig


class DQN(Learner):
    """Keeps what was seen, and learns from draws of it."""

    policy: EpsilonGreedy

    def __init__(self, config: DQNConfig, setup: Setup) -> None:
        self.config = config
        self.clock = Clock()
        self.gradient_steps = GradientSteps(self.clock, config.updates_per_step, config.warmup_steps, setup.total_steps)
        self.learning_rate = Schedule(
            self.clock, config.learning_rate, config.learning_rate_schedule, setup.total_steps
        )
        self.falling_epsilon = Schedule(
            self.clock,
            config.epsilon_initial,
            "linear",
            config.epsilon_fraction * setup.total_steps,
            config.epsilon_final,
        )
        self.policy = EpsilonGreedy(
            setup.observation_space,
            setup.action_space,
            config.network,
            self.epsilon,
            dueling=config.dueling,
            normalize_observations=config.normalize_observations,
            device=setup.device,
        )
        self.target = Target(self.policy.q_network)
        self.estimator = config.estimator.build()
        self.optimizer = Adam(
            self.policy.parameters(),
            config.learning_rate,
            max_grad_norm=config.max_grad_norm,
            epsilon=config.adam_epsilon,
        )
        spaces = setup.observation_space, setup.action_space
        self.replay: Replay
        if config.prioritized:
            beta = Schedule(self.clock, config.priority_beta, "linear", setup.total_steps, 1.0)
            self.replay = PrioritizedReplay(
                *spaces,
                config.replay_size,
                setup.seeds,
                window=config.n_step,
                alpha=config.priority_alpha,
                beta=beta,
            )
        else:
            self.replay = Replay(*spaces, config.replay_size, setup.seeds, window=config.n_step)
        self._device = setup.device

    def epsilon(self) -> float:
        """Probability of a random action now."""
        return 1.0 if self.clock.steps < self.config.warmup_steps else self.falling_epsilon.value

    def update(self, rollout: Rollout) -> Mapping[str, float | Tensor]:
        """Store the rollout, and take the gradient steps that have become due."""
        self.replay.add(rollout)
        self.clock.advance(rollout.num_steps)
        self.optimizer.learning_rate = self.learning_rate.value
        # What is due before the first window is complete is made up for as soon as it is.
        due = self.gradient_steps.due() if self.replay.has_windows else ()
        metrics = [self._gradient_step(number) for number in due]
        self.policy.preprocessor.update(*rollout.columns(rollout.obs))
        shown = {"epsilon": self.epsilon(), "learning_rate": self.optimizer.learning_rate}
        return {**mean_metrics(metrics), **shown}

    def policy_replaced(self) -> None:
        """The target network starts where the policy does."""
        self.target.follow(1)

    def _gradient_step(self, number: int) -> dict[str, Tensor | float]:
        config, policy = self.config, self.policy
        steps = self.replay.sample(config.batch_size)  # [n, B]
        returns = self.estimator.estimate(steps, self._next_values(steps), update=False)
        targets = returns.targets[0].to(self._device)  # [B], of the first step of each window
        obs, actions = tree_map(lambda leaf: leaf[0], steps.obs), steps.actions[0].to(self._device)

        all_values = policy.q_network(policy.preprocessor(obs))  # [B, actions]
        values = all_values.gather(1, (actions - policy.first_action).unsqueeze(1)).squeeze(1)
        loss_function = smooth_l1_loss if config.loss == "huber" else mse_loss
        if isinstance(self.replay, PrioritizedReplay):
            weights = steps.extras["weight"][0].to(self._device)
            loss = (weights * loss_function(values, targets, reduction="none")).mean()
            self.replay.update_priorities(steps.extras["index"][0], (values.detach() - targets).cpu())
        else:
            loss = loss_function(values, targets)
        self.optimizer.zero_grad()
        loss.backward()
        gradient_norm = self.optimizer.step()
        if number % config.target_every == 0:
            self.target.follow(config.target_tau)
        return {"loss": loss.detach(), "value": values.detach().mean(), "gradient_norm": gradient_norm}

    @torch.no_grad()
    def _next_values(self, steps: Rollout) -> Tensor:
        """Value of the best action in each next observation, `[n, B]`."""
        next_obs = tree_map(lambda leaf: leaf.flatten(0, 1), steps.next_obs)
        next_obs = self.policy.preprocessor(next_obs)
        values = self.target.network(next_obs)  # [n B, actions]
        if self.config.double:
            best = self.policy.q_network(next_obs).argmax(1, keepdim=True)
            values = values.gather(1, best).squeeze(1)
        else:
            values = values.amax(1)
        return values.view(steps.shape).cpu()  # type: ignore[no-any-return]

    def parts(self) -> Mapping[str, Part]:
        """Policy, target network, optimiser, estimator, replay and counters."""
        return {
            "policy": self.policy,
            "target": self.target,
            "optimizer": self.optimizer,
            "estimator": self.estimator,
            "replay": self.replay,
            "clock": self.clock,
            "gradient_steps": self.gradient_steps,
        }
