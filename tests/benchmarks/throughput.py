"""A2C's environment steps per second on CartPole-v1, collection and updates together, beside the peers'.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/throughput.py [--rounds 3] [--envs 8,64,...]
    python tests/benchmarks/throughput.py floor [--rounds 5]

Each peer has its own network and rollout length, and rlkit the same: Stable-Baselines3's A2C takes 5 steps and two
networks of 64 and 64 tanh units, skrl's 16 steps and, as in its examples, two networks of 64 and 64 ReLU units;
skrl-128 is skrl with the network that is rlkit's default, a layer of 128 ReLU units for both policy and value. One
thread, no evaluation, no tracking, neither observations nor returns normalised. skrl steps the native vector
environment, as rlkit does; Stable-Baselines3 has none but its own.

`floor` is what cannot be avoided with the same tensors: the environment's steps, a bare forward pass of the policy's
network for each, then one forward and backward pass of both networks, clipping and the optimiser's step. It is shown as
a share of rlkit's time, measured in turn in the same process.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from in_turn import alone, in_turn, machine, median, ratio, report, rlkit_speed

ENVS = {"sb3": (8, 64, 512), "skrl": (8, 64, 512, 4_096), "skrl-128": (8, 64, 512, 4_096)}
"""Numbers of environments at which each peer is measured."""
MORE_ENVS = (1_024, 4_096)
"""Numbers at which rlkit is measured besides: the best of each side counts."""
STEPS = {"sb3": 5, "skrl": 16, "skrl-128": 16}
NETWORK: dict[str, dict[str, Any]] = {
    "sb3": {"network": {"hidden": (64, 64), "activation": "tanh"}, "value_network": "separate"},
    "skrl": {"network": {"hidden": (64, 64), "activation": "relu"}, "value_network": "separate"},
    "skrl-128": {"network": {"hidden": (128,), "activation": "relu"}, "value_network": "shared"},
}


def updates(n: int) -> tuple[int, int]:
    """Updates to warm up, and to be timed."""
    return (200, 1_500) if n < 64 else (50, 400) if n < 512 else (10, 60)


def run_rlkit(like: str, n: int) -> float:
    """Speed with a peer's network and rollout length."""
    warm, timed = (number * n * STEPS[like] for number in updates(n))
    return rlkit_speed(warm, timed, a2c(n, STEPS[like], **NETWORK[like]), "CartPole-v1")


def a2c(n: int, num_steps: int, *, network: dict[str, Any], value_network: Any) -> Any:
    """A2C as the peers have it."""
    from rlkit_a2c.config import A2CConfig
    from rlkit_core.builtin.collectors import StepsConfig
    from rlkit_core.builtin.estimators import DiscountedConfig
    from rlkit_core.builtin.networks import MLPConfig

    return A2CConfig(
        collector=StepsConfig(num_envs=n, num_steps=num_steps),
        estimator=DiscountedConfig(normalize="off"),
        network=MLPConfig(**network),
        value_network=value_network,
        normalize_observations=False,
    )


def run_sb3(n: int) -> float:
    """Speed of Stable-Baselines3."""
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", n), device="cpu")
    warm, timed = (number * n * STEPS["sb3"] for number in updates(n))
    model.learn(warm)
    began = time.perf_counter()
    model.learn(timed, reset_num_timesteps=False)
    return timed / (time.perf_counter() - began)


def run_skrl(n: int, shared: bool) -> float:
    """Speed of skrl, with two networks or one."""
    import gymnasium
    import torch
    from skrl.agents.torch.a2c import A2C
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
    from skrl.trainers.torch import SequentialTrainer
    from torch import nn

    torch.set_num_threads(1)
    env = wrap_env(gymnasium.make_vec("CartPole-v1", num_envs=n, vectorization_mode="vector_entry_point"))

    def network(size: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, size))

    class Policy(CategoricalMixin, Model):  # type: ignore[misc]
        def __init__(self) -> None:
            Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
            CategoricalMixin.__init__(self, unnormalized_log_prob=True)
            self.network = network(2)

        def compute(self, inputs: Any, role: str) -> Any:
            return self.network(inputs["observations"]), {}

    class Value(DeterministicMixin, Model):  # type: ignore[misc]
        def __init__(self) -> None:
            Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
            DeterministicMixin.__init__(self)
            self.network = network(1)

        def compute(self, inputs: Any, role: str) -> Any:
            return self.network(inputs["observations"]), {}

    class Both(CategoricalMixin, DeterministicMixin, Model):  # type: ignore[misc]
        def __init__(self) -> None:
            Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
            CategoricalMixin.__init__(self, unnormalized_log_prob=True, role="policy")
            DeterministicMixin.__init__(self, role="value")
            self.trunk = nn.Sequential(nn.Linear(4, 128), nn.ReLU())
            self.heads = nn.ModuleDict({"policy": nn.Linear(128, 2), "value": nn.Linear(128, 1)})

        def act(self, inputs: Any, *, role: str = "") -> Any:
            return (CategoricalMixin if role == "policy" else DeterministicMixin).act(self, inputs, role=role)

        def compute(self, inputs: Any, role: str) -> Any:
            return self.heads[role](self.trunk(inputs["observations"])), {}

    policy = Both() if shared else Policy()
    T = STEPS["skrl"]
    agent = A2C(
        models={"policy": policy, "value": policy if shared else Value()},
        memory=RandomMemory(memory_size=T, num_envs=n, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg={"rollouts": T, "experiment": {"write_interval": 0, "checkpoint_interval": 0}},
    )
    seconds = []
    for number in updates(n):
        settings = {"timesteps": number * T, "headless": True, "disable_progressbar": True}
        trainer = SequentialTrainer(cfg=settings, env=env, agents=agent)
        began = time.perf_counter()
        trainer.train()
        seconds.append(time.perf_counter() - began)
    return updates(n)[1] * T * n / seconds[-1]


def run_floor(n: int, num_steps: int) -> tuple[float, float]:
    """Seconds of one update of rlkit's loop, and of the least that it has to do; medians of several, in turn."""
    import gymnasium
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy, linear

    from rlkit_core.builtin.adam import Adam
    from rlkit_core.component import Setup
    from rlkit_core.config import RunConfig
    from rlkit_core.registry import Registry
    from rlkit_core.seeding import SeedStream

    torch.set_num_threads(1)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # memory is kept, as in training
    config = a2c(n, num_steps, **NETWORK["sb3"])
    env = RunConfig.parse({"algorithm": "a2c", "env": "CartPole-v1"}, registry=Registry()).env
    seeds = SeedStream(0)
    collector = config.collector.build(env, seeds.stream("collector"), "cpu")
    spaces = {"observation_space": collector.observation_space, "action_space": collector.action_space}
    setup = Setup(**spaces, num_envs=n, total_steps=10**9, device="cpu", seeds=seeds.stream("learner"))
    learner = config.build(setup)

    bare = config.build(setup).policy
    optimizer = Adam(bare.parameters(), 3e-3, max_grad_norm=0.5)
    vector_env: Any = gymnasium.make_vec("CartPole-v1", num_envs=n, vectorization_mode="vector_entry_point")
    vector_env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(num_steps, n))
    obs = torch.randn(num_steps + 1, n, 4)
    taken, targets = torch.from_numpy(actions).flatten(), torch.randn(num_steps * n)

    def least() -> None:
        with torch.no_grad():
            for t in range(num_steps):
                linear(bare.trunks.one(0, obs[t]), bare.policy_head.weight, bare.policy_head.bias)
                vector_env.step(actions[t])
        policy_features, value_features = bare.trunks(obs[:-1].view(-1, 4)).unbind()
        logits = linear(policy_features, bare.policy_head.weight, bare.policy_head.bias)
        values = linear(value_features, bare.value_head.weight, bare.value_head.bias).squeeze(1)
        loss = cross_entropy(logits, taken) + (values - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours() -> None:
        learner.update(collector.collect(learner.policy))

    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(updates(n)[1]):
        for one, spent in zip((ours, least), seconds, strict=True):
            began = time.perf_counter()
            one()
            spent.append(time.perf_counter() - began)
    skip = updates(n)[0]
    ours_s, least_s = (float(np.median(spent[skip:])) for spent in seconds)
    return ours_s, least_s


def measure(ns: list[int], rounds: int) -> None:
    """Print the table."""
    best: dict[str, tuple[float, int]] = {}
    for peer, theirs in ENVS.items():
        for n in sorted({*theirs, *MORE_ENVS} & {*ns}):
            sides = {f"rlkit as {peer}": ["side", f"rlkit:{peer}", str(n)]}
            if n in theirs:
                sides[peer] = ["side", peer, str(n)]
            runs = in_turn(__file__, sides, rounds)
            for side, numbers in runs.items():
                speed = median(numbers, "steps_per_second")
                best[side] = max(best.get(side, (0.0, 0)), (speed, n))
                print(f"n={n:<5} {side:<17} {speed:>11,.0f} steps/s  {median(numbers, 'mib'):>5,.0f} MiB", end="  ")
                print(f"{ratio(runs[f'rlkit as {peer}'], numbers, 'steps_per_second')} x" if side == peer else "")
    for side, (speed, n) in best.items():
        print(f"best of {side}: {speed:,.0f} steps/s at n={n}", flush=True)


def main() -> None:
    """Measure everything, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["peers"], metavar="WHAT", help="peers or floor; default: peers")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--envs", default="8,64,512,1024,4096", help="numbers of environments")
    arguments = parser.parse_args()
    match arguments.what:
        case ["side", side, n] if side.startswith("rlkit:"):
            report(steps_per_second=run_rlkit(side.partition(":")[2], int(n)))
        case ["side", side, n]:
            report(steps_per_second=run_sb3(int(n)) if side == "sb3" else run_skrl(int(n), side == "skrl-128"))
        case ["floor", n, num_steps]:
            ours, least = run_floor(int(n), int(num_steps))
            report(ours=ours, least=least, share=least / ours)
        case ["floor"]:
            print(machine())
            for n, num_steps in ((8, 5), (64, 16)):
                runs = [alone(__file__, "floor", str(n), str(num_steps)) for _ in range(arguments.rounds)]
                times = f"{1e3 * median(runs, 'least'):.2f} of {1e3 * median(runs, 'ours'):.2f} ms an update"
                speed = n * num_steps / median(runs, "ours")
                shares = sorted(100 * run["share"] for run in runs)
                share = f"{median(runs, 'share'):.0%} ({shares[0]:.0f} to {shares[-1]:.0f})"
                print(f"n={n}, T={num_steps}: the least is {share}, {times}, {speed:,.0f} steps/s", flush=True)
        case _:
            print(machine("stable-baselines3", "skrl"))
            measure([int(n) for n in arguments.envs.split(",")], arguments.rounds)


if __name__ == "__main__":
    main()
