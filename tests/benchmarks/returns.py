"""Time of return computations per element, beside the peers' and a copy of the same bytes.

    pip install -c constraints.txt -e '.[bench]'
    python tests/benchmarks/returns.py [--rounds 7]

Generalised advantages and returns with gamma 0.99 and lambda 0.95, of T steps in N environments, float32, one step in
50 the last of its episode. Each side gets arrays in the layout that it wants, computes the same, and is held to rlkit's
numbers. rlkit is shown three times: `lambda_returns` alone, the estimator as a learner calls it, with advantages and
all checks, and with the normalisation that is A2C's default. One thread; the sides take turns, and the median of the
rounds counts. tianshou is shown where it is installed: it needs older packages than the tested set has, hence an
environment without `-c constraints.txt`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from in_turn import machine

SHAPES = ((128, 8), (2048, 64), (500, 1), (1000, 4096))
GAMMA, LAMBDA = 0.99, 0.95
TIANSHOU = importlib.util.find_spec("tianshou") is not None
SECONDS = 0.3
"""How long a side is timed in a round, at least once."""


def sides(T: int, N: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]]:
    """What is timed by name, each with what then gives its returns `[T, N]`."""
    import gymnasium
    from stable_baselines3.common.buffers import RolloutBuffer
    from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

    from rlkit_core.returns import LambdaEstimator, lambda_returns
    from rlkit_core.rollout import Rollout

    generator = np.random.default_rng(0)
    r = generator.normal(size=(T, N)).astype(np.float32)
    all_values = generator.normal(size=(T + 1, N)).astype(np.float32)
    V, V_next = all_values[:-1], all_values[1:]
    ended = generator.random((T, N)) < 0.02
    nowhere = np.zeros((T, N), bool)
    found: dict[str, Any] = {}

    def keep(name: str, function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            found[name] = function()

        return call

    rollout = Rollout(
        all_obs=torch.zeros(T + 1, N, 1),
        actions=torch.zeros(T, N, dtype=torch.long),
        rewards=torch.from_numpy(r),
        terminated=torch.from_numpy(ended),
        truncated=torch.from_numpy(nowhere),
        valid=torch.ones(T, N, dtype=torch.bool),
    )
    values, next_values = torch.from_numpy(V), torch.from_numpy(V_next)
    plain = LambdaEstimator(GAMMA, LAMBDA)
    running = LambdaEstimator(GAMMA, LAMBDA, normalize="running")

    buffer = RolloutBuffer(
        T, gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2), "cpu", LAMBDA, GAMMA, n_envs=N
    )
    buffer.rewards, buffer.values = r.copy(), V.copy()
    buffer.episode_starts = np.concatenate([np.zeros((1, N)), ended[:-1]]).astype(np.float32)
    last_values, last_ends = torch.from_numpy(all_values[-1].copy()), ended[-1]

    def for_torchrl(x: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.T)[..., None])

    theirs = [for_torchrl(x) for x in (V, V_next, r, ended)]
    terminated = theirs[3].clone()

    flat = [np.ascontiguousarray(x.T).reshape(-1) for x in (V, V_next * ~ended, r)]
    ends = ended.copy()
    ends[-1] = True  # it takes the environments one after the other
    flat_ends = np.ascontiguousarray(ends.T).reshape(-1)

    bytes_read = [r, V_next, ended, nowhere]
    copies = [np.empty_like(x) for x in bytes_read]

    def copy() -> None:
        for there, here in zip(copies, bytes_read, strict=True):
            np.copyto(there, here)

    def ours() -> Any:
        return lambda_returns(r, V_next, ended, nowhere, gamma=GAMMA, gae_lambda=LAMBDA)

    def of_torchrl(name: str) -> Callable[[], Any]:
        return lambda: found[name][1][..., 0].T.numpy()

    contenders: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
        "rlkit": (keep("rlkit", ours), lambda: found["rlkit"]),
        "rlkit, estimator": (
            keep("estimator", lambda: plain.estimate(rollout, next_values, values=values)),
            lambda: found["estimator"].targets.numpy(),
        ),
        "rlkit, normalised": (lambda: running.estimate(rollout, next_values, values=values), None),
        "stable-baselines3": (
            lambda: buffer.compute_returns_and_advantage(last_values, last_ends),
            lambda: buffer.returns,
        ),
        "torchrl": (
            keep("loop", lambda: generalized_advantage_estimate(GAMMA, LAMBDA, *theirs, terminated)),
            of_torchrl("loop"),
        ),
        "torchrl, vectorised": (
            keep("vec", lambda: vec_generalized_advantage_estimate(GAMMA, LAMBDA, *theirs, terminated)),
            of_torchrl("vec"),
        ),
        "copy": (copy, None),
    }
    if TIANSHOU:
        from tianshou.algorithm.algorithm_base import _gae

        contenders["tianshou"] = (
            keep("tianshou", lambda: _gae(*flat, flat_ends, GAMMA, LAMBDA)),
            lambda: found["tianshou"].reshape(N, T).T + V,
        )
    return contenders


def measure(T: int, N: int, rounds: int) -> dict[str, float]:
    """Nanoseconds per element, by side."""
    contenders = sides(T, N)
    expected = None
    for name, (call, returns) in contenders.items():
        call()  # tianshou's is compiled now
        if returns is not None:
            expected = returns() if expected is None else expected
            if not np.allclose(returns(), expected, rtol=1e-3, atol=1e-3):
                sys.exit(f"{name} computes something else at ({T}, {N})")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (call, _) in contenders.items():
            spent, best = 0.0, math.inf
            while spent < SECONDS / rounds:
                began = time.perf_counter()
                call()
                took = time.perf_counter() - began
                spent, best = spent + took, min(best, took)
            seconds[name].append(best)
    return {name: 1e9 * statistics.median(times) / (T * N) for name, times in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("stable-baselines3", "torchrl", *(["tianshou", "numba"] if TIANSHOU else [])))
    print("ns per element       " + "".join(f"{f'({T}, {N})':>14}" for T, N in SHAPES))
    table = [measure(T, N, arguments.rounds) for T, N in SHAPES]
    for name in table[0]:
        print(f"{name:<21}" + "".join(f"{column[name]:>14,.1f}" for column in table), flush=True)


if __name__ == "__main__":
    main()
