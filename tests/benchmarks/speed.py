"""Speed of training beside Stable-Baselines3: the same settings, in turn, one thread.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/speed.py [ppo] [cleanrl] [dqn] [sac] [td3] [--pairs 5]

    ppo      rl-baselines3-zoo's settings for CartPole-v1: 8 environments, 32 steps, a minibatch of 256, 20 epochs
    cleanrl  CleanRL's settings of PPO, in Stable-Baselines3's: 4 environments, 128 steps, minibatches of 128, 4 epochs
    dqn      rl-baselines3-zoo's settings for CartPole-v1: 256 steps, then 128 gradient steps of 64
    sac      Pendulum-v1, a gradient step of 256 with each environment step, two layers of 256
    td3      Pendulum-v1, a gradient step of 256 with each environment step, layers of 400 and 300

Each run is a process of its own, which warms up before it is timed. Nothing is evaluated or tracked. The networks have
the same layers, and both learn with Adam. A ratio is that of two runs, one after the other; the machine may be busy, so
the median of the pairs counts.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from typing import Any

from in_turn import in_turn, machine, median, ratio, report, rlkit_speed

ROWS = {"ppo": (2_048, 10_240), "cleanrl": (2_048, 10_240), "dqn": (2_560, 7_680), "sac": (300, 600), "td3": (300, 600)}
"""Environment steps to warm up, and to be timed."""
PER_STEP = ("sac", "td3")
"""Rows in which the time of a step is shown, not steps per second."""


def rlkit_config(name: str) -> Any:
    """Settings for rlkit."""
    from rlkit_core.builtin.collectors import StepsConfig
    from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
    from rlkit_core.builtin.networks import MLPConfig
    from rlkit_dqn.config import DQNConfig
    from rlkit_ppo.config import PPOConfig
    from rlkit_sac.config import SACConfig
    from rlkit_td3.config import TD3Config

    if name == "ppo":
        return PPOConfig(
            collector=StepsConfig(num_envs=8, num_steps=32),
            estimator=LambdaConfig(gamma=0.98, gae_lambda=0.8, normalize="off"),
            minibatch_size=256,
            epochs=20,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            clip_schedule="linear",
            normalize_observations=False,
        )
    if name == "cleanrl":
        return PPOConfig(
            collector=StepsConfig(num_envs=4, num_steps=128),
            estimator=LambdaConfig(gamma=0.99, gae_lambda=0.95, normalize="off"),
            minibatch_size=128,
            epochs=4,
            learning_rate=2.5e-4,
            learning_rate_schedule="linear",
            value_clip=0.2,
            entropy_coef=0.01,
            normalize_observations=False,
        )
    if name == "dqn":
        return DQNConfig(
            collector=StepsConfig(num_envs=1, num_steps=256),
            network=MLPConfig(hidden=(256, 256), init="default"),
            learning_rate=2.3e-3,
            batch_size=64,
            updates_per_step=0.5,
            n_step=1,
            target_every=128,
            target_tau=1.0,
            epsilon_final=0.04,
            double=False,
        )
    if name == "sac":
        return SACConfig(learning_rate=1e-3)
    return TD3Config(
        network=MLPConfig(hidden=(400, 300), init="default"),
        estimator=DiscountedConfig(gamma=0.98, normalize="off"),
        warmup_steps=100,
    )


def run_rlkit(name: str) -> float:
    """Environment steps per second of rlkit."""
    return rlkit_speed(*ROWS[name], rlkit_config(name), "Pendulum-v1" if name in PER_STEP else "CartPole-v1")


def run_sb3(name: str) -> float:
    """Environment steps per second of Stable-Baselines3."""
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    if name == "ppo":
        model: Any = sb3.PPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", 8),
            n_steps=32,
            batch_size=256,
            gae_lambda=0.8,
            gamma=0.98,
            n_epochs=20,
            learning_rate=lambda remaining: 1e-3 * remaining,
            clip_range=lambda remaining: 0.2 * remaining,
            device="cpu",
        )
    elif name == "cleanrl":
        model = sb3.PPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", 4),
            n_steps=128,
            batch_size=128,
            gae_lambda=0.95,
            gamma=0.99,
            n_epochs=4,
            learning_rate=lambda remaining: 2.5e-4 * remaining,
            clip_range_vf=0.2,
            ent_coef=0.01,
            device="cpu",
        )
    elif name == "dqn":
        model = sb3.DQN(
            "MlpPolicy",
            "CartPole-v1",
            learning_rate=2.3e-3,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1_000,
            gamma=0.99,
            target_update_interval=10,
            train_freq=256,
            gradient_steps=128,
            exploration_final_eps=0.04,
            policy_kwargs={"net_arch": [256, 256]},
            device="cpu",
        )
    elif name == "sac":
        model = sb3.SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, device="cpu")
    else:
        model = sb3.TD3(
            "MlpPolicy",
            "Pendulum-v1",
            learning_rate=1e-3,
            gamma=0.98,
            learning_starts=100,
            policy_kwargs={"net_arch": [400, 300]},
            device="cpu",
        )
    warm, timed = ROWS[name]
    model.learn(warm)
    began = time.perf_counter()
    model.learn(timed, reset_num_timesteps=False)
    return timed / (time.perf_counter() - began)


def floor(name: str) -> float:
    """Milliseconds that nothing but the matrix products of a gradient step take, best of many."""
    import torch

    torch.set_num_threads(1)
    # What a layer from `i` to `o` numbers costs with B rows: forwards, and for the gradients of weights and of inputs.
    actor, critic = {
        "ppo": ([4, 64, 64, 2], [4, 64, 64, 1]),
        "cleanrl": ([4, 64, 64, 2], [4, 64, 64, 1]),
        "dqn": ([4, 256, 256, 2], []),
        "sac": ([3, 256, 256, 2], [4, 256, 256, 1]),
        "td3": ([3, 400, 300, 1], [4, 400, 300, 1]),
    }[name]
    B = {"dqn": 64, "cleanrl": 128}.get(name, 256)

    def forwards(sizes: list[int]) -> list[Any]:
        return [(B, i, o) for i, o in pairwise(sizes)]

    def weights(sizes: list[int]) -> list[Any]:
        return [(i, B, o) for i, o in pairwise(sizes)]

    def inputs(sizes: list[int], first: int) -> list[Any]:
        return [(B, o, i) for i, o in list(pairwise(sizes))[first:]]

    def learn(sizes: list[int]) -> list[Any]:
        return forwards(sizes) + weights(sizes) + inputs(sizes, 1)

    number = 1.0
    if name in ("ppo", "cleanrl"):
        products = learn(actor) + learn(critic)
    elif name == "dqn":
        products = forwards(actor) + learn(actor)
    elif name == "sac":
        both = forwards(critic) + learn(critic) + forwards(critic) + inputs(critic, 0)
        products = forwards(actor) + learn(actor) + 2 * both
    else:  # two steps, of which one learns the policy, by the first critic
        policy = learn(actor) + forwards(critic) + inputs(critic, 0)
        products = 2 * (forwards(actor) + 2 * forwards(critic) + 2 * learn(critic)) + policy
        number = 2.0
    total = 0.0
    for shape in set(products):
        m, k, n = shape
        x, y, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        best = math.inf
        for _ in range(200):
            began = time.perf_counter()
            torch.mm(x, y, out=out)
            best = min(best, time.perf_counter() - began)
        total += best * products.count(shape)
    return 1e3 * total / number


def measure(name: str, pairs: int) -> None:
    """Run a row and print it."""
    runs = in_turn(__file__, {side: [name, "--side", side] for side in ("rlkit", "sb3")}, pairs)
    ours, theirs = (median(runs[side], "steps_per_second") for side in ("rlkit", "sb3"))
    if name in PER_STEP:
        shown = f"rlkit {1e3 / ours:.2f} ms a gradient step (with its environment step), sb3 {1e3 / theirs:.2f} ms"
    else:
        shown = f"rlkit {ours:,.0f} steps/s, sb3 {theirs:,.0f} steps/s"
    print(f"{name}: {shown}; ratio {ratio(runs['rlkit'], runs['sb3'], 'steps_per_second')}", flush=True)
    memory = ", ".join(f"{side} {median(found, 'mib'):,.0f} MiB" for side, found in runs.items())
    print(f"     the matrix products of a gradient step alone: {floor(name):.2f} ms; memory: {memory}", flush=True)


def main() -> None:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--side", choices=["rlkit", "sb3"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run = run_rlkit if arguments.side == "rlkit" else run_sb3
        report(steps_per_second=run(arguments.rows[0]))
        return
    print(machine("stable-baselines3"), flush=True)
    for name in arguments.rows or ROWS:
        measure(name, arguments.pairs)


if __name__ == "__main__":
    main()
