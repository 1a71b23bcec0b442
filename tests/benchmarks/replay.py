"""What a draw from a replay costs, beside the bare numpy gather of the same numbers.

The gather takes `obs[i]`, `next_obs[i]`, `actions[i]`, `rewards[i]` and `done[i]` from arrays of their own, for random
i. It keeps every observation twice, knows no episode's end and no column; for windows of n steps it takes n rows each.
Both are timed in turns, so that what else the machine does weighs on both.

    python tests/benchmarks/replay.py [--capacity 1000000] [--image-capacity 50000] [--pairs 51]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlkit_core.builtin.replay import PrioritizedReplay, Replay
from rlkit_core.builtin.schedules import Clock, Schedule
from rlkit_core.rollout import FinalObservations, Rollout
from rlkit_core.seeding import SeedStream

Array = np.ndarray[Any, Any]

BATCH = 256
EPISODE = 200
"""Steps of an episode; the replay keeps a row for the final observation of each."""
ACTIONS = spaces.Discrete(4)
SPACES = {
    "4 float32": spaces.Box(-1, 1, (4,), np.float32),
    "84x84 uint8": spaces.Box(0, 255, (84, 84), np.uint8),
}


def some(space: spaces.Box, rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Observations of noise."""
    if space.dtype == np.uint8:
        return torch.from_numpy(rng.integers(0, 256, (*shape, *space.shape), np.uint8))
    return torch.from_numpy(rng.random((*shape, *space.shape), np.float32))


def fill(replay: Replay, space: spaces.Box, capacity: int, num_envs: int) -> None:
    """Collect until every ring has gone round."""
    rng = np.random.default_rng(0)
    T = EPISODE * max(1, min(capacity, 100_000) // (EPISODE * num_envs * (10 if space.dtype == np.uint8 else 1)))
    ends = np.arange(EPISODE - 1, T, EPISODE)
    time_, lane = (torch.from_numpy(part.ravel()) for part in np.meshgrid(ends, np.arange(num_envs), indexing="ij"))
    for _ in range(capacity // (T * num_envs) + 1):
        terminated = torch.zeros(T, num_envs, dtype=torch.bool)
        terminated[ends] = True
        replay.add(
            Rollout(
                all_obs=some(space, rng, T + 1, num_envs),
                actions=torch.from_numpy(rng.integers(0, 4, (T, num_envs))),
                rewards=torch.from_numpy(rng.random((T, num_envs), np.float32)),
                terminated=terminated,
                truncated=torch.zeros(T, num_envs, dtype=torch.bool),
                valid=torch.ones(T, num_envs, dtype=torch.bool),
                finals=FinalObservations(time_, lane, some(space, rng, len(lane))),
            )
        )
    assert len(replay) >= capacity


def bare(arrays: tuple[Array, ...], window: int) -> Callable[[], Any]:
    """The gather."""
    rng = np.random.Generator(np.random.PCG64(0))
    size = len(arrays[0])

    def gather() -> Any:
        i = rng.integers(0, size - window + 1, BATCH)
        if window > 1:
            i = i + np.arange(window)[:, None]
        return [array[i] for array in arrays]

    return gather


def timed(run: Callable[[], Any], calls: int) -> float:
    """Microseconds of one call."""
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls * 1e6


def compare(name: str, run: Callable[[], Any], gather: Callable[[], Any], pairs: int, calls: int) -> None:
    """Time both in turns and print a line."""
    timed(run, calls)
    timed(gather, calls)
    found = [(timed(run, calls), timed(gather, calls)) for _ in range(pairs)]
    mine, theirs = (statistics.median(part) for part in zip(*found, strict=True))
    ratio = statistics.median(a / b for a, b in found)
    print(f"{name:<58} {mine:>9.1f} {theirs:>9.1f} {ratio:>7.2f}", flush=True)


def learn(replay: PrioritizedReplay) -> None:
    """Draw, and give back priorities."""
    drawn = replay.sample(BATCH)
    replay.update_priorities(drawn.extras["index"][0], drawn.rewards[0])


def measure(what: str, capacity: int, pairs: int) -> None:
    """Print the lines for one kind of observation."""
    space = SPACES[what]
    calls = 10 if space.dtype == np.uint8 else 100
    rng = np.random.default_rng(1)
    arrays = (
        some(space, rng, capacity).numpy(),
        some(space, rng, capacity).numpy(),
        rng.integers(0, 4, capacity),
        rng.random(capacity, np.float32),
        rng.random(capacity) < 1 / EPISODE,
    )
    for num_envs, window in ((1, 1), (1, 3), (8, 1), (8, 3)):
        gather = bare(arrays, window)
        about = f"{what}, {capacity:,} rows, N={num_envs}, n={window}"
        replay = Replay(space, ACTIONS, capacity, SeedStream(0), window=window)
        fill(replay, space, capacity, num_envs)
        compare(f"Replay             {about}", partial(replay.sample, BATCH), gather, pairs, calls)
        beta = Schedule(Clock(), 0.4, "constant", 1)
        replay = PrioritizedReplay(space, ACTIONS, capacity, SeedStream(0), window=window, alpha=0.6, beta=beta)
        fill(replay, space, capacity, num_envs)
        timed(partial(learn, replay), 200)  # so that priorities differ
        compare(f"PrioritizedReplay  {about}", partial(replay.sample, BATCH), gather, pairs, calls)
        compare("  and update_priorities", partial(learn, replay), gather, pairs, calls)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="a replay's sample beside the bare numpy gather")
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--image-capacity", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=51)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"torch {torch.__version__}, threads {torch.get_num_threads()}"
    )
    print(f"medians of {options.pairs} pairs, batches of {BATCH}, microseconds per draw")
    print(f"{'':<58} {'replay':>9} {'gather':>9} {'ratio':>7}")
    measure("4 float32", options.capacity, options.pairs)
    measure("84x84 uint8", options.image_capacity, options.pairs)


if __name__ == "__main__":
    main()
