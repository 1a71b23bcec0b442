"""Replay gives back what happened, each window as often as it should: against a simple model, for any rollouts.

In the model every observation, action and reward is another number, so that whatever is mixed up is seen.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import math
import tracemalloc
from collections import Counter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rlkit_core.builtin import replay as replay_module
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.episodes_collector import EpisodesCollector
from rlkit_core.builtin.replay import PrioritizedReplay, Replay, _SumTree
from rlkit_core.builtin.schedules import Clock, Schedule
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.errors import UsageError
from rlkit_core.policy import Act, Policy
from rlkit_core.returns import LambdaEstimator
from rlkit_core.rollout import FinalObservations, Rollout, Tree, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream
from tests.probes import MODES, NoisyPolicy, counting, plan, real_steps, reward_of, truth_of

Array = np.ndarray[Any, Any]
Window = tuple[float, ...]

LAYOUTS = ("finals", "dummies", "episodes")
"""SAME_STEP and DISABLED; NEXT_STEP; what an EpisodesCollector lays end to end."""
SPACES = spaces.Box(0, 1e9, (1,), np.float64), spaces.Discrete(1_000_000)
BOTH = pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
ENOUGH = 1000
"""Draws in which each of some thirty windows comes: that one is missed has a probability of 1e-9."""


def constant(value: float) -> Schedule:
    return Schedule(Clock(), value, "constant", 1)


def build(
    prioritized: bool, capacity: int, *, window: int = 1, seed: int = 0, alpha: float = 0.5, of: Any = SPACES
) -> Replay:
    if prioritized:
        return PrioritizedReplay(*of, capacity, SeedStream(seed), window=window, alpha=alpha, beta=constant(0.7))
    return Replay(*of, capacity, SeedStream(seed), window=window)


# The model


class Step(NamedTuple):
    """A transition, each number of which is found nowhere else."""

    obs: int
    action: int
    reward: int
    next_obs: int
    terminated: bool
    truncated: bool

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


class Lanes:
    """Makes rollouts, and remembers what happened.

    Args:
        num_envs: N.
        layout: see `LAYOUTS`; "episodes" has one lane.

    Attributes:
        rows: of each lane, all that happened: steps, and None for a row that has an observation only.
    """

    def __init__(self, num_envs: int, layout: str) -> None:
        self.num_envs, self.layout = num_envs, layout
        self.rows: list[list[Step | None]] = [[] for _ in range(num_envs)]
        self._numbers = itertools.count(1)
        self._obs = [0] * num_envs
        self._over = [False] * num_envs  # the next row is a dummy

    def rollout(self, ends: Any, restarted: Any = ()) -> Rollout:
        """T steps of each lane.

        Args:
            ends: `[T, N]`: 0 goes on, 1 terminated, 2 truncated, 3 both.
            restarted: lanes that do not go on where they ended last time.
        """
        ends = np.array(ends)
        T, N = ends.shape
        if self.layout == "episodes":
            ends[-1] = np.maximum(ends[-1], 1)
            restarted = [0]
        for lane in range(N):
            if not self.rows[lane] or lane in restarted:
                self._restart(lane)
        obs = np.zeros((T + 1, N, 1))
        actions, rewards = np.zeros((T, N), np.int64), np.zeros((T, N), np.float32)
        flags = np.zeros((3, T, N), bool)
        finals: list[tuple[int, int, int]] = []
        for t in range(T):
            obs[t, :, 0] = self._obs
            for lane in range(N):
                row = self._step(lane, int(ends[t, lane]))
                actions[t, lane], rewards[t, lane] = (row.action, row.reward) if row else (7, 7)
                flags[:, t, lane] = (row.terminated, row.truncated, True) if row else (False, False, False)
                if row and row.over and self.layout != "dummies":
                    finals.append((t, lane, row.next_obs))
        if self.layout == "episodes":
            self._obs = [finals[-1][2]]
        obs[T, :, 0] = self._obs
        terminated, truncated, valid = map(torch.from_numpy, flags)
        time, lanes, final_obs = np.array(finals, np.int64).reshape(-1, 3).T.copy()
        return Rollout(
            all_obs=torch.from_numpy(obs),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            finals=FinalObservations(*map(torch.from_numpy, (time, lanes, final_obs.astype(float)[:, None])))
            if finals
            else None,
        )

    def _restart(self, lane: int) -> None:
        rows = self.rows[lane]
        if rows:
            last = rows[-1]
            if last and not last.over:
                rows[-1] = last._replace(truncated=True)
            rows.append(None)
        self._obs[lane], self._over[lane] = next(self._numbers), False

    def _step(self, lane: int, end: int) -> Step | None:
        if self._over[lane]:
            self._obs[lane], self._over[lane] = next(self._numbers), False
            self.rows[lane].append(None)
            return None
        action, reward, next_obs = itertools.islice(self._numbers, 3)
        step = Step(self._obs[lane], action, reward, next_obs, end in (1, 3), end in (2, 3))
        self.rows[lane].append(step)
        self._obs[lane] = next_obs
        if step.over and self.layout == "dummies":
            self._over[lane] = True
        elif step.over:
            self.rows[lane].append(None)
            self._obs[lane] = next(self._numbers)
        return step

    def kept(self, capacity: int, window: int) -> list[list[Step | None]]:
        """The newest rows of each lane, as many as a replay keeps."""
        most = max(-(-capacity // self.num_envs), window + 2)
        return [rows[-most:] for rows in self.rows]

    def windows(self, capacity: int, window: int) -> dict[int, list[Step | None]]:
        """All windows that can be drawn, by the first observation: a step, and the rows that follow it."""
        found = {}
        for rows in self.kept(capacity, window):
            for i in range(len(rows) - window + 1):
                first = rows[i]
                if first is not None:
                    found[first.obs] = rows[i : i + window]
        return found


def flat(rows: list[Step | None]) -> Window:
    """A window of the model as `windows_of` has it."""
    return tuple(itertools.chain(*((*row, True) if row else (-1, -1, -1, -1, False, False, False) for row in rows)))


def windows_of(rollout: Rollout) -> list[Window]:
    """All numbers of each window: of each row a `Step`, and whether it is valid; if not, its numbers are -1."""
    n, B = rollout.shape
    fields = torch.stack(
        [
            rollout.obs[..., 0],
            rollout.actions,
            rollout.rewards,
            rollout.next_obs[..., 0],
            rollout.terminated,
            rollout.truncated,
            rollout.valid,
        ]
    )  # [7, n, B]
    fields[:4, ~rollout.valid] = -1
    return [tuple(row) for row in fields.permute(2, 1, 0).reshape(B, n * 7).tolist()]


def first_obs(rollout: Rollout) -> list[int]:
    """The number of each window's first observation."""
    return [int(number) for number in rollout.obs[0, :, 0]]


def no_ends(T: int, N: int) -> Array:
    return np.zeros((T, N), int)


def some_ends(T: int, N: int, seed: int) -> Array:
    return np.random.default_rng(seed).choice((0, 0, 0, 1, 2, 3), (T, N))


class History(NamedTuple):
    """What is to happen: a replay's settings, and the rollouts as arguments of `Lanes.rollout`."""

    layout: str
    num_envs: int
    capacity: int
    window: int
    rollouts: list[tuple[list[list[int]], set[int]]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    layout = draw(st.sampled_from(LAYOUTS))
    N = 1 if layout == "episodes" else draw(st.integers(1, 4))
    ends = st.lists(st.sampled_from((0, 0, 0, 1, 2, 3)), min_size=N, max_size=N)
    restarted = st.just(set()) | st.just(set(range(N))) | st.sets(st.integers(0, N - 1))
    rollouts = st.lists(st.tuples(st.lists(ends, min_size=1, max_size=7), restarted), min_size=1, max_size=7)
    return History(layout, N, draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(rollouts))


def check_draws(replay: Replay, lanes: Lanes, window: int) -> Rollout | None:
    """Hold a replay to the model: all that can be drawn is, and nothing else."""
    expected = lanes.windows(replay.capacity, window)
    assert len(replay) == sum(map(len, lanes.kept(replay.capacity, window)))
    if not expected:
        with pytest.raises(ValueError, match=r"replay holds"):
            replay.sample(1)
        return None
    drawn = replay.sample(ENOUGH)
    assert drawn.shape == (window, ENOUGH)
    assert set(windows_of(drawn)) == {flat(rows) for rows in expected.values()}
    return drawn


# What is drawn


@given(histories())
def test_every_window_is_what_happened(history: History) -> None:
    replay, lanes = build(False, history.capacity, window=history.window), Lanes(history.num_envs, history.layout)
    for ends, restarted in history.rollouts:
        replay.add(lanes.rollout(ends, restarted))
        drawn = check_draws(replay, lanes, history.window)
        if drawn is not None:
            # An index is a place: one for each observation.
            index = drawn.extras["index"]
            assert index.shape == drawn.shape
            places = set(zip(index.flatten().tolist(), drawn.obs.flatten().tolist(), strict=True))
            assert len(places) == len({place for place, _ in places})
            assert len(index[0].unique()) == len(lanes.windows(history.capacity, history.window))


@given(histories())
def test_every_prioritized_window_is_what_happened(history: History) -> None:
    """Its weight, too: the priorities of the model are those that were given last, or the largest so far."""
    replay, lanes = build(True, history.capacity, window=history.window), Lanes(history.num_envs, history.layout)
    assert isinstance(replay, PrioritizedReplay)
    priorities: dict[int, float] = {}
    largest = 1.0
    for ends, restarted in history.rollouts:
        replay.add(lanes.rollout(ends, restarted))
        for number in lanes.windows(history.capacity, history.window):
            priorities.setdefault(number, largest)
        drawn = check_draws(replay, lanes, history.window)
        if drawn is None:
            continue
        p = np.array([priorities[number] for number in first_obs(drawn)])
        assert_allclose(drawn.extras["weight"][0], p**-0.7 / (p**-0.7).max(), rtol=1e-6)
        some = replay.sample(5)
        errors = [(-1) ** number * (0.5 + number * 7919 % 97 / 65) for number in first_obs(some)]
        replay.update_priorities(some.extras["index"][0], torch.tensor(errors, dtype=torch.float64))
        for number, error in zip(first_obs(some), errors, strict=True):
            priorities[number] = (abs(error) + 1e-6) ** 0.5
            largest = max(largest, priorities[number])


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [1, 3])
def test_a_rollout_longer_than_the_ring(layout: str, window: int, prioritized: bool) -> None:
    N = 1 if layout == "episodes" else 2
    replay, lanes = build(prioritized, 20, window=window), Lanes(N, layout)
    for seed, T in enumerate((3, 100, 4, 57)):
        replay.add(lanes.rollout(some_ends(T, N, seed)))
        check_draws(replay, lanes, window)


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_episodes_of_one_step(layout: str, prioritized: bool) -> None:
    N = 1 if layout == "episodes" else 3
    replay, lanes = build(prioritized, 12), Lanes(N, layout)
    for T in (1, 2, 5, 1, 1, 3):
        replay.add(lanes.rollout(np.ones((T, N), int)))
        drawn = check_draws(replay, lanes, 1)
        assert drawn is not None
        assert drawn.terminated.all()


@BOTH
@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize("window", [1, 3])
def test_a_capacity_of_1_holds_the_last_window(N: int, window: int, prioritized: bool) -> None:
    replay, lanes = build(prioritized, 1, window=window), Lanes(N, "finals")
    for T in (window, 1, 1, 9):
        replay.add(lanes.rollout(no_ends(T, N)))
        drawn = check_draws(replay, lanes, window)
        assert drawn is not None
        newest = {rows[-window].obs for rows in lanes.rows if rows[-window]}
        assert newest <= set(first_obs(drawn))


@BOTH
def test_nothing_to_draw_from(prioritized: bool) -> None:
    replay, lanes = build(prioritized, 10, window=3), Lanes(2, "finals")
    assert len(replay) == 0
    for _ in range(3):
        with pytest.raises(ValueError, match=r"replay holds no window yet"):
            replay.sample(4)
        replay.add(lanes.rollout(no_ends(1, 2)))
    assert replay.sample(4).shape == (3, 4)


@BOTH
def test_what_does_not_go_on_was_truncated(prioritized: bool) -> None:
    replay, lanes = build(prioritized, 20), Lanes(2, "finals")
    replay.add(lanes.rollout(no_ends(2, 2)))
    left = [rows[-1] for rows in lanes.rows]
    assert not replay.sample(ENOUGH).truncated.any()
    replay.add(lanes.rollout(no_ends(2, 2), restarted=[1]))
    drawn = check_draws(replay, lanes, 1)
    assert drawn is not None
    truncated = {window[:4] for window in windows_of(drawn) if window[5]}
    assert left[1] is not None
    assert truncated == {left[1][:4]}  # the other lane went on; its successor is what was waiting
    assert not drawn.terminated.any()


@BOTH
@pytest.mark.parametrize("end", [1, 2, 3])
def test_an_end_that_is_followed_by_something_else_stays_as_it_was(end: int, prioritized: bool) -> None:
    for layout in LAYOUTS:
        replay, lanes = build(prioritized, 20), Lanes(1, layout)
        for _ in range(3):
            replay.add(lanes.rollout([[0], [end]], restarted=[0]))
        drawn = check_draws(replay, lanes, 1)
        assert drawn is not None
        over = drawn.terminated | drawn.truncated
        assert over.any()
        assert (drawn.terminated[over] == (end in (1, 3))).all()
        assert (drawn.truncated[over] == (end in (2, 3))).all()


@BOTH
@pytest.mark.parametrize("window", [2, 3, 4])
def test_a_window_that_is_complete_by_a_cut_is_drawn(window: int, prioritized: bool) -> None:
    """The observation that was left takes a row, and may be the last one that a window lacked: an episode's end."""
    replay, lanes = build(prioritized, 40, window=window), Lanes(2, "finals")
    replay.add(lanes.rollout([*no_ends(4, 2), [1, 2]]))
    for _ in range(2):
        replay.add(lanes.rollout([[1, 0]], restarted=[0, 1]))
        check_draws(replay, lanes, window)
    replay.add(lanes.rollout(no_ends(4, 2)))
    check_draws(replay, lanes, window)


def test_one_part_of_an_observation_tells_that_it_does_not_go_on() -> None:
    space = spaces.Dict({"a": spaces.Box(0, 9, (2,), np.float32), "b": spaces.Discrete(9)})

    def rollout(a: float, b: int) -> Rollout:
        obs = {"a": torch.tensor([[[0, 0]], [[0.0, a]]]), "b": torch.tensor([[0], [b]])}
        flags = torch.zeros(1, 1, dtype=torch.bool)
        return Rollout(obs, torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1), flags, flags, ~flags)

    for a, b in ((0.0, 0), (1.0, 0), (0.0, 1)):
        replay = build(False, 9, of=(space, SPACES[1]))
        replay.add(rollout(a, b))
        replay.add(rollout(0.0, 0))
        goes_on = not a and not b
        assert len(replay) == (2 if goes_on else 3)
        assert bool(replay.sample(100).truncated.any()) == (not goes_on)


def test_an_observation_with_nan_goes_on() -> None:
    replay, lanes = build(False, 20), Lanes(1, "finals")
    first, second = (lanes.rollout(no_ends(2, 1)) for _ in range(2))
    first.all_obs[-1] = second.all_obs[0] = math.nan
    replay.add(first)
    replay.add(second)
    assert len(replay) == 4
    assert not replay.sample(100).truncated.any()


def test_final_observations_in_any_order() -> None:
    """`FinalObservations` says where each belongs, and promises no order."""
    for capacity in (3, 7, 40):
        lanes = Lanes(2, "finals")
        rollout = lanes.rollout([[1, 0], [0, 0], [0, 2], [3, 0], [0, 0], [0, 1], [0, 0], [2, 0]])
        assert rollout.finals is not None
        for order in (slice(None, None, -1), [1, 0, 3, 2, 4], [4, 2, 3, 1, 0]):
            there = copy.deepcopy(rollout.finals)
            finals = FinalObservations(*(torch.from_numpy(part.numpy()[order].copy()) for part in vars(there).values()))
            replay = build(False, capacity)
            replay.add(Rollout(**{**vars(rollout), "finals": finals}))
            check_draws(replay, lanes, 1)


@BOTH
def test_what_was_given_is_not_kept(prioritized: bool) -> None:
    replay, lanes = build(prioritized, 10, window=2), Lanes(2, "finals")
    for seed in range(4):
        rollout = lanes.rollout(some_ends(7, 2, seed))
        replay.add(rollout)
        for tree in (rollout.all_obs, rollout.actions, rollout.rewards, vars(rollout.finals)):
            tree_map(lambda leaf: leaf.zero_(), tree)
        for flags in (rollout.terminated, rollout.truncated, rollout.valid):
            flags.logical_not_()
        check_draws(replay, lanes, 2)


@BOTH
def test_what_was_drawn_is_not_shared(prioritized: bool) -> None:
    replay, lanes = build(prioritized, 10, window=2), Lanes(2, "finals")
    replay.add(lanes.rollout(some_ends(7, 2, 0)))
    drawn = replay.sample(50)
    for tree in (drawn.all_obs, drawn.actions, drawn.rewards, drawn.extras["index"]):
        tree.zero_()
    for flags in (drawn.terminated, drawn.truncated, drawn.valid):
        flags.logical_not_()
    check_draws(replay, lanes, 2)


@BOTH
def test_draws_come_from_the_seeds(prioritized: bool) -> None:
    def draws(seed: int) -> list[int]:
        replay = build(prioritized, 500, seed=seed)
        replay.add(Lanes(2, "finals").rollout(no_ends(200, 2)))
        return first_obs(replay.sample(50)) + first_obs(replay.sample(50))

    np.random.seed(0)
    torch.manual_seed(0)
    before = draws(3)
    np.random.seed(1)
    torch.manual_seed(1)
    assert before == draws(3)
    assert before[:50] != before[50:]
    assert before != draws(4)


# How often


def assert_shares(counts: Counter[int], shares: dict[int, float]) -> None:
    """A chi-square test: counts are as likely as the shares are, five deviations of the statistic allowed."""
    assert counts.keys() == shares.keys()
    drawn, total = counts.total(), sum(shares.values())
    expected = {number: drawn * share / total for number, share in shares.items()}
    assert min(expected.values()) > 5
    statistic = sum((counts[number] - expected[number]) ** 2 / expected[number] for number in shares)
    degrees = len(shares) - 1
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)


def counted(replay: Replay, batches: int, batch_size: int) -> Counter[int]:
    return Counter(itertools.chain(*(first_obs(replay.sample(batch_size)) for _ in range(batches))))


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [1, 3])
def test_each_window_is_as_likely(layout: str, window: int, prioritized: bool) -> None:
    """Also the oldest and the newest, and in columns of which one has many ends and the other none."""
    N = 1 if layout == "episodes" else 3
    replay, lanes = build(prioritized, 90, window=window), Lanes(N, layout)
    for seed in range(7):
        ends = some_ends(11, N, seed)
        ends[:, 1:2] = 0
        replay.add(lanes.rollout(ends, restarted=[0]))
    expected = lanes.windows(90, window)
    for rows in lanes.kept(90, window):
        assert len(rows) == 90 // N  # the ring is full
        possible = [row for row in rows[: len(rows) - window + 1] if row]
        assert {possible[0].obs, possible[-1].obs} <= expected.keys()
    assert_shares(counted(replay, 50, 1000), dict.fromkeys(expected, 1.0))


def test_columns_that_are_filled_unequally() -> None:
    replay, lanes = build(False, 1000), Lanes(3, "finals")
    replay.add(lanes.rollout([[0, 1, 0]] * 20, restarted=[]))
    replay.add(lanes.rollout([[0, 1, 0]] * 3, restarted=[2]))
    assert [len(rows) for rows in lanes.rows] == [23, 46, 24]
    assert_shares(counted(replay, 50, 1000), dict.fromkeys(lanes.windows(1000, 1), 1.0))


# Types, trees and memory


def random_rollout(of: tuple[gymnasium.Space[Any], gymnasium.Space[Any]], T: int, N: int, first: int = 0) -> Rollout:
    """Members of the spaces; the reward is the step's number."""

    def batch(space: gymnasium.Space[Any], rows: int) -> Tree:
        space.seed(first)
        drawn = [space.sample() for _ in range(rows * N)]

        def stacked(*leaves: Any) -> torch.Tensor:
            return torch.from_numpy(np.stack(leaves).reshape(rows, N, *np.shape(leaves[0])))

        return tree_map(stacked, *drawn)

    flags = torch.zeros(T, N, dtype=torch.bool)
    rewards = torch.arange(first, first + T * N, dtype=torch.float32).view(T, N)
    return Rollout(batch(of[0], T + 1), batch(of[1], T), rewards, flags, flags, ~flags)


TREES = {
    "image": (spaces.Box(0, 255, (4, 3, 2), np.uint8), spaces.Discrete(7)),
    "float64": (spaces.Box(-1, 1, (3,), np.float64), spaces.Box(-1, 1, (2,), np.float32)),
    "discrete": (spaces.Discrete(1000, start=-5), spaces.MultiDiscrete([3, 4])),
    "dict": (
        # Not in the alphabet's order.
        spaces.Dict([("z", spaces.Box(-1, 1, (2,), np.float64)), ("a", spaces.Box(0, 255, (2, 2), np.uint8))]),
        spaces.Discrete(9),
    ),
    "nested": (
        spaces.Tuple(
            (
                spaces.Dict({"image": spaces.Box(0, 65535, (2, 2), np.uint16), "on": spaces.MultiBinary(3)}),
                spaces.Discrete(50),
                spaces.Tuple((spaces.Box(-1, 1, (), np.float32),)),
            )
        ),
        spaces.Dict({"move": spaces.Box(-1, 1, (2,), np.float32), "which": spaces.Discrete(4)}),
    ),
}


@BOTH
@pytest.mark.parametrize("of", TREES.values(), ids=TREES)
def test_trees_and_types_come_back(of: Any, prioritized: bool) -> None:
    replay = build(prioritized, 100, window=2, of=of)
    rollout = random_rollout(of, 12, 3)
    replay.add(rollout)
    drawn = replay.sample(200)
    steps = drawn.rewards.long()  # [2, B]
    assert_array_equal(steps[1], steps[0] + 3)  # the next row of the same column
    for mine, theirs in (
        (drawn.obs, rollout.obs),
        (drawn.next_obs, rollout.next_obs),
        (drawn.actions, rollout.actions),
    ):
        ours, truth = tree_leaves(mine), tree_leaves(theirs)
        assert [path for path, _ in ours] == [path for path, _ in truth]
        for (_, leaf), (_, true) in zip(ours, truth, strict=True):
            assert leaf.dtype == true.dtype
            assert_array_equal(leaf.numpy(), true.flatten(0, 1).numpy()[steps])
        assert str(tree_map(lambda _: 0, mine)) == str(tree_map(lambda _: 0, theirs))  # dicts and tuples as they were
    assert drawn.rewards.dtype == torch.float32
    assert {flags.dtype for flags in (drawn.terminated, drawn.truncated, drawn.valid)} == {torch.bool}
    assert drawn.extras["index"].dtype == torch.int64


def test_each_observation_is_stored_once() -> None:
    of = spaces.Box(0, 255, (20, 20), np.uint8), spaces.Box(-1, 1, (3,), np.float32)
    rollout = random_rollout(of, 50, 4)
    replay = build(False, 10_000, of=of)
    gc.collect()
    tracemalloc.start()
    try:
        replay.add(rollout)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken == pytest.approx(10_000 * (400 + 12 + 5), rel=0.01)


@BOTH
def test_more_than_the_memory_holds_is_refused(prioritized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A row: 8 bytes of observation, 8 of action, 4 of reward, 1 of flags.
    monkeypatch.setattr(replay_module, "_memory", lambda: 21.1e9)
    replay = build(prioritized, 2_000_000_000)
    with pytest.raises(UsageError, match=r"2,000,000,000 rows takes 42\.0 GB of this machine's 21\.1 GB"):
        replay.add(Lanes(2, "finals").rollout(no_ends(2, 2)))
    monkeypatch.setattr(replay_module, "_memory", lambda: 21 * 102.0)
    build(False, 100).add(Lanes(2, "finals").rollout(no_ends(2, 2)))
    with pytest.raises(UsageError, match=r"101 rows"):
        build(False, 101).add(Lanes(2, "finals").rollout(no_ends(2, 2)))


def test_this_machine_has_memory() -> None:
    assert replay_module._memory() > 1e8


# From collectors


def check_counting(replay: Replay, steps: int) -> None:
    """All steps that counting environments made are drawn, and nothing else: each window is as planned."""
    drawn = replay.sample(4000)
    index, unique = np.unique(drawn.extras["index"][0], return_index=True)
    firsts = set()
    for b in unique:
        lane, episode, step = truth_of(drawn.obs, 0, b)
        firsts.add((lane, episode, step))
        length, terminated, truncated = plan(lane, episode)
        for k in range(drawn.shape[0]):
            over = step + 1 == length
            assert drawn.valid[k, b]
            assert truth_of(drawn.obs, k, b) == (lane, episode, step)
            assert truth_of(drawn.next_obs, k, b) == (lane, episode, step + 1)
            assert drawn.rewards[k, b] == reward_of(lane, episode, step + 1)
            assert bool(drawn.terminated[k, b]) == (over and terminated)
            assert bool(drawn.truncated[k, b]) == (over and truncated)
            if over:
                break
            step += 1
    assert len(firsts) == len(index) == steps


@pytest.mark.parametrize("nested", [False, True], ids=["box", "nested"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["native", "batched", "sync"])
def test_steps_of_counting_environments(kind: str, mode: AutoresetMode, nested: bool) -> None:
    environments = counting(kind, mode, nested, 3)
    collector = StepsCollector(environments, 7, SeedStream(0), "cpu")
    of = environments.observation_space, environments.action_space
    single, windows = build(False, 1000, of=of), build(True, 1000, of=of, window=3)
    actions: dict[tuple[int, int, int], Array] = {}
    for _ in range(4):
        rollout = collector.collect(NoisyPolicy())
        single.add(rollout)
        windows.add(rollout)
        rows = rollout.steps()
        actions |= {truth_of(rows.obs, 0, b): rows.actions[0, b].numpy() for b in range(rollout.num_steps)}
    check_counting(single, real_steps(environments))
    # The last two rows of each column begin no window of three; a final observation is one of them.
    unfinished = int(rollout.valid[-2:].sum())
    if mode is not AutoresetMode.NEXT_STEP:
        unfinished -= int((rollout.terminated | rollout.truncated)[-2:].any(0).sum())
    check_counting(windows, real_steps(environments) - unfinished)
    drawn = single.sample(100)
    for b in range(100):
        assert_array_equal(drawn.actions[0, b], actions[truth_of(drawn.obs, 0, b)])


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("window", [1, 3])
def test_whole_episodes_of_counting_environments(mode: AutoresetMode, window: int) -> None:
    lanes = [counting("sync", mode, False, 1, first=lane) for lane in range(3)]
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    replay = build(False, 1000, of=(collector.observation_space, collector.action_space), window=window)
    for _ in range(6):
        rollout = collector.collect(NoisyPolicy())
        replay.add(rollout)
    # The final observation has a row, too: one of the last two steps begins a window of three no more.
    unfinished = 0 if window == 1 else 1
    check_counting(replay, sum(map(real_steps, lanes)) - unfinished)


class Coin(Policy):
    """Left or right."""

    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        return Act(torch.randint(2, (len(obs),), generator=generator), {})


@pytest.mark.parametrize("collector", [StepsConfig(num_envs=3, num_steps=50), EpisodesConfig(num_envs=3)])
@pytest.mark.parametrize(
    ("vectorization", "autoreset"),
    [("native", "disabled"), ("sync", "disabled"), ("sync", "next_step"), ("sync", "same_step")],
)
def test_steps_of_cartpole(collector: Any, vectorization: str, autoreset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was drawn obeys the physics: another environment, put where the step began, goes the same way."""
    made = 0
    step, vector_step = CartPoleEnv.step, CartPoleVectorEnv.step

    def counted_step(self: Any, action: Any) -> Any:
        nonlocal made
        made += 1
        return step(self, action)

    def counted_vector_step(self: Any, action: Any) -> Any:
        nonlocal made
        made += int((~self.prev_done).sum())
        return vector_step(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", counted_step)
    monkeypatch.setattr(CartPoleVectorEnv, "step", counted_vector_step)
    env = GymnasiumConfig.model_validate(
        {"id": "CartPole-v1", "vectorization": vectorization, "autoreset": autoreset, "max_episode_steps": 15}
    )
    running = collector.build(env, SeedStream(0), "cpu")
    replay = build(False, 2000, of=(running.observation_space, running.action_space))
    episodes = []
    for _ in range(3):
        rollout = running.collect(Coin())
        replay.add(rollout)
        episodes += rollout.episodes
    running.close()
    monkeypatch.undo()

    drawn = replay.sample(15_000)
    _, unique = np.unique(drawn.extras["index"][0], return_index=True)
    obs, next_obs, actions, rewards, terminated, truncated = (
        leaf[0].numpy()[unique]
        for leaf in (drawn.obs, drawn.next_obs, drawn.actions, drawn.rewards, drawn.terminated, drawn.truncated)
    )
    assert len(unique) == made > 100
    assert len(np.unique(obs, axis=0)) == made
    assert (rewards == 1).all()
    physics = CartPoleEnv()
    physics.reset()
    for i in range(made):
        physics.state, physics.steps_beyond_terminated = tuple(obs[i].astype(float)), None
        then, _, over, _, _ = physics.step(int(actions[i]))
        assert_allclose(next_obs[i], then, rtol=0, atol=1e-5)
        assert terminated[i] == over
    assert int(truncated.sum()) == sum(episode.length == 15 for episode in episodes) > 0
    assert int((terminated | truncated).sum()) == len(episodes) > int(truncated.sum())


# Stored and taken back


def stored(state: Any) -> Any:
    """A state as it comes back from a disk: tensors as copies, the rest by way of JSON."""
    tensors: list[torch.Tensor] = []

    def out(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            tensors.append(part.clone(memory_format=torch.contiguous_format))
            return {"tensor": len(tensors) - 1}
        if isinstance(part, dict):
            return {key: out(value) for key, value in part.items()}
        return [out(value) for value in part] if isinstance(part, list) else part

    def back(part: Any) -> Any:
        if isinstance(part, dict):
            return tensors[part["tensor"]] if "tensor" in part else {key: back(value) for key, value in part.items()}
        return [back(value) for value in part] if isinstance(part, list) else part

    return back(json.loads(json.dumps(out(state))))


def learn(replay: Replay, drawn: Rollout) -> None:
    """Give what was drawn priorities that follow from it."""
    if isinstance(replay, PrioritizedReplay):
        replay.update_priorities(drawn.extras["index"][0], 2 + drawn.rewards[0].sin())


def assert_same_draws(a: Replay, b: Replay) -> None:
    """The next draws of both are the same bits; priorities change by them in the same way."""
    for batch_size in (7, 64):
        drawn, others = a.sample(batch_size), b.sample(batch_size)
        for name in ("all_obs", "actions", "rewards", "terminated", "truncated", "valid", "extras"):
            for (path, mine), (_, theirs) in zip(
                tree_leaves(getattr(drawn, name)), tree_leaves(getattr(others, name)), strict=True
            ):
                assert mine.dtype == theirs.dtype
                assert torch.equal(mine, theirs), (name, path)
        learn(a, drawn)
        learn(b, others)


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rollouts", [1, 2, 3, 5, 20])
def test_a_stored_replay_goes_on(rollouts: int, layout: str, prioritized: bool) -> None:
    """Before its rings are full, when one of them is, and after many rounds."""
    N = 1 if layout == "episodes" else 3
    lanes = Lanes(N, layout)
    replay = build(prioritized, 20 * N, window=2)
    for seed in range(rollouts):
        ends = some_ends(6, N, seed)
        ends[:, 1:2] = 0
        replay.add(lanes.rollout(ends))
        learn(replay, replay.sample(5))
    again = replay
    for _ in range(2):  # what was taken back can be stored again
        state = stored(again.state_dict())
        again = build(prioritized, 20 * N, window=2, seed=99)
        again.load_state_dict(state)
        for part in state.values():  # it keeps none of the tensors
            for leaf in part if isinstance(part, list) else [part]:
                if isinstance(leaf, torch.Tensor):
                    leaf.zero_()
    assert len(again) == len(replay)
    assert_same_draws(replay, again)
    for seed in range(8):
        rollout = lanes.rollout(some_ends(6, N, seed), restarted=[0] if seed % 3 == 2 else [])
        replay.add(rollout)
        again.add(rollout)
        assert_same_draws(replay, again)
    check_draws(again, lanes, 2)


@BOTH
@pytest.mark.parametrize("of", TREES.values(), ids=TREES)
def test_trees_are_stored(of: Any, prioritized: bool) -> None:
    replay, again = build(prioritized, 40, of=of), build(prioritized, 40, of=of, seed=1)
    replay.add(random_rollout(of, 9, 2))
    again.load_state_dict(stored(replay.state_dict()))
    assert_same_draws(replay, again)
    for first in (100, 200, 300):
        for other in (replay, again):
            other.add(random_rollout(of, 9, 2, first))
        assert_same_draws(replay, again)


@BOTH
def test_an_empty_replay_is_stored(prioritized: bool) -> None:
    replay, again = build(prioritized, 40), build(prioritized, 40, seed=1)
    again.load_state_dict(stored(replay.state_dict()))
    with pytest.raises(ValueError, match=r"no window yet"):
        again.sample(1)
    rollout = Lanes(2, "finals").rollout(no_ends(9, 2))
    replay.add(rollout)
    again.add(rollout)
    assert_same_draws(replay, again)


def test_a_hardly_filled_replay_is_stored_in_little() -> None:
    replay = build(False, 1_000_000)
    replay.add(Lanes(2, "finals").rollout(no_ends(9, 2)))
    state = stored(replay.state_dict())
    segment = {name: leaf for name, leaf in state["segment"].items() if name not in ("begin", "end")}
    assert {name: leaf.numel() for name, leaf in segment.items()} == dict.fromkeys(
        ("obs.0", "action.0", "rewards", "flags"), 18
    )
    assert [leaf.numel() for leaf in state["waiting"]] == [2, 2, 2]
    assert stored(replay.state_dict(rows=False))["segment"] is None


@BOTH
def test_storing_disturbs_nothing(prioritized: bool) -> None:
    replay, other = build(prioritized, 40), build(prioritized, 40)
    rollout = Lanes(2, "finals").rollout(some_ends(9, 2, 0))
    replay.add(rollout)
    other.add(rollout)
    replay.state_dict()
    assert_same_draws(replay, other)


# Stored in segments, as checkpoints do: each row is written once


class Segments:
    """What checkpoints keep of a replay: the segments with rows that are still there, and the state besides them."""

    def __init__(self) -> None:
        self.segments: list[tuple[list[int], Any]] = []
        self.state: Any = None

    def save(self, replay: Replay) -> None:
        self.segments = [one for one in self.segments if replay.keeps(one[0])]
        rows = replay.rows_since(self.segments[-1][0] if self.segments else None)
        if rows is not None:
            self.segments.append((replay.position(), stored(rows)))
        self.state = stored(replay.state_dict(rows=False))

    def restore(self, replay: Replay) -> Replay:
        for _, rows in self.segments:
            replay.add_rows(stored(rows))
        replay.load_state_dict(stored(self.state))
        return replay


@BOTH
@given(histories(), st.integers(1, 4), st.booleans())
def test_a_replay_goes_on_from_its_segments(prioritized: bool, history: History, every: int, resumes: bool) -> None:
    """Wherever a run is broken off: the same draws follow, of what was there then and of what comes after."""
    layout, N, capacity, window, rollouts = history
    lanes, segments = Lanes(N, layout), Segments()
    replay, again = (build(prioritized, capacity, window=window) for _ in range(2))
    for count, (ends, restarted) in enumerate(rollouts * 3, 1):
        rollout = lanes.rollout(ends, restarted)
        replay.add(rollout)
        again.add(rollout)
        if lanes.windows(capacity, window):
            assert_same_draws(replay, again)
        if count % every == 0:
            segments.save(again if resumes else replay)
            again = segments.restore(build(prioritized, capacity, window=window, seed=99))
            assert again.position() == replay.position()
            assert len(again) == len(replay)
    check_draws(again, lanes, window)


@BOTH
def test_segments_hold_each_row_once(prioritized: bool) -> None:
    """But for the row before each, whose episode may have been cut since; overwritten ones are not kept."""
    replay, lanes, segments = build(prioritized, 40), Lanes(1, "finals"), Segments()
    for step in range(30):
        replay.add(lanes.rollout(no_ends(5, 1)))
        segments.save(replay)
        assert len(segments.segments) <= 9
        assert len(segments.segments[-1][1]["rewards"]) == (6 if step else 5)
        assert replay.rows_since(replay.position()) is None
    check_draws(segments.restore(build(prioritized, 40)), lanes, 1)


@BOTH
def test_a_column_that_is_overwritten_sooner_than_the_others(prioritized: bool) -> None:
    """A row for each final observation: the first column takes two rows a step, the second one."""
    lanes, segments = Lanes(2, "finals"), Segments()
    replay = build(prioritized, 20)
    replay.add(lanes.rollout(no_ends(4, 2)))
    segments.save(replay)
    replay.add(lanes.rollout([[1, 0]] * 6))
    segments.save(replay)
    (before, _), (_, rows) = segments.segments
    assert rows["begin"][0] > before[0]  # rows between the two are in neither, nor in the replay
    assert rows["begin"][1] == before[1] - 1
    again = segments.restore(build(prioritized, 20))
    assert_same_draws(replay, again)
    check_draws(again, lanes, 1)


@BOTH
def test_an_episode_that_is_cut_after_it_was_stored(prioritized: bool) -> None:
    """The last step in a segment becomes a truncated one; the row after it, its last successor."""
    lanes, segments = Lanes(2, "finals"), Segments()
    replay = build(prioritized, 40, window=2)
    replay.add(lanes.rollout(no_ends(4, 2)))
    segments.save(replay)
    rollout = lanes.rollout(no_ends(3, 2), restarted=[1])
    again = segments.restore(build(prioritized, 40, window=2))
    for one in (replay, again):  # cut in the run that goes on, and in one that was resumed in between
        one.add(rollout)
    segments.save(replay)
    third = segments.restore(build(prioritized, 40, window=2))
    assert int(check_draws(third, lanes, 2).truncated.sum()) > 0  # type: ignore[union-attr]
    for one in (again, segments.restore(build(prioritized, 40, window=2))):
        assert_same_draws(copy.deepcopy(replay), one)


@BOTH
def test_missing_segments_are_noticed(prioritized: bool) -> None:
    replay, lanes, segments = build(prioritized, 40), Lanes(2, "finals"), Segments()
    for _ in range(3):
        replay.add(lanes.rollout(no_ends(4, 2)))
        segments.save(replay)
    whole = segments.segments
    for missing in range(3):
        segments.segments = whole[:missing] + whole[missing + 1 :]
        with pytest.raises(ValueError, match="missing"):
            segments.restore(build(prioritized, 40))
    segments.segments = [whole[0], whole[2], whole[1]]
    with pytest.raises(ValueError, match="missing"):
        segments.restore(build(prioritized, 40))


# Priorities


def prioritized_replay(
    capacity: int, *, alpha: float = 0.5, beta: Schedule | None = None, window: int = 1
) -> PrioritizedReplay:
    return PrioritizedReplay(*SPACES, capacity, SeedStream(0), window=window, alpha=alpha, beta=beta or constant(1.0))


def places(replay: Replay) -> dict[int, int]:
    """Where the windows are stored, by their first observation."""
    drawn = replay.sample(5000)
    return dict(zip(first_obs(drawn), drawn.extras["index"][0].tolist(), strict=True))


def set_errors(replay: PrioritizedReplay, errors: dict[int, float], where: dict[int, int]) -> None:
    index = torch.tensor([where[number] for number in errors])
    replay.update_priorities(index, torch.tensor(list(errors.values()), dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("layout", "window"), [("dummies", 1), ("finals", 3)])
def test_draws_are_proportional_to_priorities(alpha: float, layout: str, window: int) -> None:
    replay, lanes = prioritized_replay(60, alpha=alpha, window=window), Lanes(3, layout)
    for seed in range(9):
        replay.add(lanes.rollout(some_ends(6, 3, seed)))
    expected = lanes.windows(60, window)
    sizes = np.random.default_rng(0).uniform(-2, 2, len(expected))
    errors = dict(zip(expected, sizes, strict=True))
    set_errors(replay, errors, places(replay))
    # The same again from what is drawn, as a learner does it.
    for _ in range(20):
        drawn = replay.sample(64)
        replay.update_priorities(
            drawn.extras["index"][0], torch.tensor([errors[number] for number in first_obs(drawn)])
        )
    shares = {number: abs(error) ** alpha for number, error in errors.items()}
    shares = {number: share for number, share in shares.items() if share > 0.05 * max(shares.values())}
    counts = Counter({number: n for number, n in counted(replay, 500, 64).items() if number in shares})
    assert_shares(counts, shares)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_of_any_size_are_proportional(batch_size: int) -> None:
    replay, lanes = prioritized_replay(100, alpha=1.0), Lanes(1, "finals")
    replay.add(lanes.rollout(no_ends(8, 1)))
    errors = {number: 1.0 + i for i, number in enumerate(lanes.windows(100, 1))}
    set_errors(replay, errors, places(replay))
    assert_shares(counted(replay, 2000, batch_size), errors)


def test_batches_are_stratified() -> None:
    """Of equal priorities each is drawn as often as any, if the batch is a multiple of their number."""
    replay, lanes = prioritized_replay(100), Lanes(1, "finals")
    replay.add(lanes.rollout(no_ends(8, 1)))
    for _ in range(20):
        assert set(Counter(first_obs(replay.sample(24))).values()) == {3}


@pytest.mark.parametrize("window", [1, 3])
def test_new_steps_have_the_largest_priority_so_far(window: int) -> None:
    replay, lanes = prioritized_replay(100, alpha=0.6, window=window), Lanes(1, "finals")

    def priorities() -> dict[int, float]:
        """Of all windows, in multiples of the least: with beta 1 weights are its inverse."""
        drawn = replay.sample(2000)
        return dict(zip(first_obs(drawn), (1 / drawn.extras["weight"][0].double()).tolist(), strict=True))

    replay.add(lanes.rollout(no_ends(10, 1)))
    assert set(priorities().values()) == {1.0}
    old = list(lanes.windows(100, window))
    set_errors(replay, dict.fromkeys(old, 0.5), places(replay))  # less than 1, which is what the first ones had
    replay.add(lanes.rollout(no_ends(2, 1)))
    new = lanes.windows(100, window).keys() - set(old)
    assert len(new) == 2
    expected = {number: 1.0 if number in old else 2**0.6 for number in lanes.windows(100, window)}
    assert priorities() == pytest.approx(expected, rel=1e-5)

    where = places(replay)
    set_errors(replay, {old[0]: -40.0}, where)
    set_errors(replay, {old[0]: 0.5}, where)  # it was the largest, and is remembered
    old = list(lanes.windows(100, window))
    replay.add(lanes.rollout(no_ends(2, 1)))
    expected |= {number: 80**0.6 for number in lanes.windows(100, window) if number not in old}
    assert priorities() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [1, 2])
def test_weights_take_the_bias_back(window: int) -> None:
    clock = Clock()
    beta = Schedule(clock, 0.4, "linear", 100, 1.0)
    replay, lanes = prioritized_replay(40, alpha=0.6, beta=beta, window=window), Lanes(2, "finals")
    replay.add(lanes.rollout(some_ends(15, 2, 0)))
    numbers = list(lanes.windows(40, window))
    errors = dict(zip(numbers, np.random.default_rng(0).normal(size=len(numbers)), strict=True))
    set_errors(replay, errors, places(replay))
    p = {number: (abs(error) + 1e-6) ** 0.6 for number, error in errors.items()}
    total = sum(p.values())
    for steps, exponent in ((0, 0.4), (50, 0.7), (50, 1.0)):
        clock.advance(steps)
        drawn = replay.sample(16)
        weights = drawn.extras["weight"]
        assert weights.shape == (window, 16)
        assert weights.dtype == torch.float32
        probability = np.array([p[number] / total for number in first_obs(drawn)])
        expected = (len(numbers) * probability) ** -exponent
        for row in weights:
            assert_allclose(row, expected / expected.max(), rtol=1e-5)
        assert weights.max() == 1


def test_an_error_of_0_can_be_drawn_again() -> None:
    """1e-6 is added to each error, which shows where they are as small."""
    replay, lanes = prioritized_replay(40, alpha=1.0), Lanes(1, "finals")
    replay.add(lanes.rollout(no_ends(3, 1)))
    numbers = list(lanes.windows(40, 1))
    set_errors(replay, dict(zip(numbers, (0.0, 1e-6, -3e-6), strict=True)), places(replay))
    drawn = replay.sample(100)
    weights = dict(zip(first_obs(drawn), drawn.extras["weight"][0].tolist(), strict=True))
    assert weights == pytest.approx(dict(zip(numbers, (1.0, 1 / 2, 1 / 4), strict=True)), rel=1e-5)


def test_alpha_0_is_uniform() -> None:
    replay, lanes = prioritized_replay(40, alpha=0.0), Lanes(2, "finals")
    replay.add(lanes.rollout(no_ends(8, 2)))
    numbers = list(lanes.windows(40, 1))
    set_errors(replay, {number: 10.0**i for i, number in enumerate(numbers)}, places(replay))
    replay.add(lanes.rollout(no_ends(3, 2)))
    drawn = replay.sample(100)
    assert (drawn.extras["weight"] == 1).all()
    assert_shares(counted(replay, 200, 50), dict.fromkeys(lanes.windows(40, 1), 1.0))


def test_the_next_draw_sees_new_priorities() -> None:
    replay, lanes = prioritized_replay(40, alpha=1.0), Lanes(2, "dummies")
    replay.add(lanes.rollout(some_ends(9, 2, 0)))
    where = places(replay)
    assert where.keys() == lanes.windows(40, 1).keys()
    for chosen in where:
        set_errors(replay, {number: 1e3 if number == chosen else 0.0 for number in where}, where)
        assert set(first_obs(replay.sample(100))) == {chosen}


def test_overwritten_steps_take_their_priority_along() -> None:
    """However large it was; also that of the row that waits."""
    replay, lanes = prioritized_replay(12, alpha=1.0), Lanes(2, "dummies")
    for seed in range(30):
        replay.add(lanes.rollout(some_ends(1 + seed % 4, 2, seed)))
        drawn = check_draws(replay, lanes, 1)
        assert drawn is not None
        assert len(set(drawn.extras["weight"][0].tolist())) == 1
        replay.update_priorities(drawn.extras["index"][0], torch.full((ENOUGH,), 10.0**seed))


# The sum tree

SIZES = (1, 16, 17, 256, 257, 5000)


def running_place(numbers: Array, sums: Array) -> Array:
    """Where the running sum passes each of `sums`."""
    return np.searchsorted(numbers.cumsum(), sums, "right")


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
def test_the_sum_tree_finds_what_a_running_sum_does(size: int, data: st.DataObject) -> None:
    """Whole numbers, whose sums are exact."""
    tree, numbers = _SumTree(size), np.zeros(size)
    some = st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 5)), min_size=1, max_size=20)
    for change in data.draw(st.lists(some, min_size=1, max_size=4)):
        index, values = np.array(change).T
        tree.set(index, values)
        for i, value in change:  # the last of several counts
            numbers[i] = value
        assert_array_equal(tree.leaves, numbers)
        assert tree.total == numbers.sum()
        if tree.total:
            sums = np.arange(0, tree.total, 0.5)
            found = tree.find(sums)
            assert_array_equal(found, running_place(numbers, sums))
            assert (numbers[found] > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_tree_finds_numbers_of_all_sizes(size: int) -> None:
    """Within what rounding can do, and never a 0."""
    rng = np.random.default_rng(size)
    for _ in range(20):
        tree = _SumTree(size)
        numbers = np.where(rng.random(size) < 0.5, 0.0, 10.0 ** rng.uniform(-12, 3, size))
        numbers[rng.integers(size)] = 1e-6
        tree.set(np.arange(size), numbers)
        total = math.fsum(numbers)
        assert tree.total == pytest.approx(total, rel=1e-12)
        ends = numbers.cumsum()
        sums = np.concatenate([rng.random(500) * tree.total, ends, [0.0, tree.total, tree.total * 2]])
        found = tree.find(sums)
        assert (numbers[found] > 0).all()
        assert (ends[found] >= np.minimum(sums, total) - 1e-12 * total).all()
        assert (ends[found] - numbers[found] <= sums + 1e-12 * total).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("only", [5e-324, 1e-300, 1.0, 1e300])
def test_the_sum_tree_finds_the_only_number(size: int, only: float) -> None:
    for place in {0, size // 2, size - 1}:
        tree = _SumTree(size)
        tree.set(np.array([place]), only)
        assert tree.total == only
        assert_array_equal(tree.find(np.array([0.0, only / 2, only, 2 * only])), place)


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_trees_sums_stay_exact(size: int) -> None:
    """10,000 numbers set that are a million million times as large as the last ones leave nothing of themselves."""
    rng = np.random.default_rng(0)
    tree = _SumTree(size)
    for _ in range(2000):
        tree.set(rng.integers(0, size, 5), 10.0 ** rng.uniform(-6, 12, 5))
    numbers = tree.leaves.copy()
    fresh = _SumTree(size)
    fresh.set(np.arange(size), numbers)
    sums = rng.random(1000) * fresh.total
    assert tree.total == fresh.total
    assert_array_equal(tree.find(sums), fresh.find(sums))
    small = rng.integers(0, 8, size).astype(float)
    for i in rng.permutation(size)[:, None] if size < 1000 else rng.permutation(size).reshape(-1, 50):
        tree.set(i, small[i])
    assert tree.total == small.sum()
    if tree.total:
        sums = np.arange(0, tree.total, 0.5)
        assert_array_equal(tree.find(sums), running_place(small, sums))


def test_the_sum_tree_is_empty_at_first() -> None:
    for size in (0, *SIZES):
        assert _SumTree(size).total == 0
        assert len(_SumTree(size).leaves) == size


# n-step returns


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 3])
def test_the_first_row_is_the_n_step_return(n: int, layout: str, prioritized: bool) -> None:
    """r_0 + ... + gamma^(k-1) r_(k-1) + gamma^k V' with k = n, or fewer where the episode ends; no V' if terminated."""
    N = 1 if layout == "episodes" else 3
    replay, lanes = build(prioritized, 60, window=n), Lanes(N, layout)
    for seed in range(9):
        ends = some_ends(7, N, seed)
        ends[:4] = 0
        replay.add(lanes.rollout(ends, restarted=[0] if seed % 4 == 3 else []))
    expected = lanes.windows(60, n)
    gamma = 0.9

    def value(obs: Any) -> Any:
        return obs * 1.5 - 20

    drawn = replay.sample(ENOUGH)
    next_values = value(drawn.next_obs[..., 0].float())
    targets = LambdaEstimator(gamma, 1.0).estimate(drawn, next_values).targets[0]
    lengths = set()
    for number, target in zip(first_obs(drawn), targets.tolist(), strict=True):
        steps: list[Step] = []
        for row in expected[number]:
            assert row is not None
            steps.append(row)
            if row.over:
                break
        by_hand = sum(gamma**k * step.reward for k, step in enumerate(steps))
        if not steps[-1].terminated:
            by_hand += gamma ** len(steps) * value(steps[-1].next_obs)
        assert target == pytest.approx(by_hand, rel=1e-5)
        lengths.add((len(steps), steps[-1].terminated, steps[-1].truncated))
    assert {(1, True, False), (1, False, True), (n, False, False)} <= lengths


def test_what_does_not_fit_is_refused() -> None:
    """Rollouts of another number of environments, and the state of a replay of another size."""
    replay = build(False, 20)
    replay.add(Lanes(2, "finals").rollout(no_ends(3, 2)))
    with pytest.raises(ValueError, match="2 environments; the rollout has 1"):
        replay.add(Lanes(1, "finals").rollout(no_ends(3, 1)))
    with pytest.raises(ValueError, match="rings of 11 rows, this one of 16"):
        build(False, 30).load_state_dict(replay.state_dict())


def test_priorities_that_come_late_change_nothing_that_was_overwritten() -> None:
    replay, lanes = build(True, 6), Lanes(1, "finals")
    assert isinstance(replay, PrioritizedReplay)
    replay.add(lanes.rollout(some_ends(5, 1, 0)))
    drawn = replay.sample(32)
    replay.add(lanes.rollout(some_ends(5, 1, 1)))
    replay.update_priorities(drawn.extras["index"][0], torch.full((32,), 1e6))
    there = {flat(rows) for rows in lanes.windows(6, 1).values()}
    for _ in range(20):
        assert set(windows_of(replay.sample(100))) <= there
