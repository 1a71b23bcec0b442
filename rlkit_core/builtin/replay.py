"""Replay: what was seen, kept to be learned from again.

Each environment column has a ring of rows of its own, in the order of time. A row is a step; after the last step of an
episode comes a row that holds only its final observation and is not valid, as the dummy rows of autoreset mode
NEXT_STEP are. So the true successor of a step is always the observation of the next row, and each is stored once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit_core.builtin.encoding import leaves
from rlkit_core.builtin.schedules import Schedule
from rlkit_core.errors import UsageError
from rlkit_core.rollout import Rollout, Tree
from rlkit_core.seeding import SeedStream

Array = NDArray[Any]
Index = NDArray[np.int64]

_TERMINATED, _TRUNCATED, _VALID = 1, 2, 4


class Replay:
    """Windows of past steps, drawn uniformly.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        capacity: rows in all; the oldest are overwritten. The last observation of an episode takes one, too.
        seeds: its stream `replay` is what samples are drawn with.
        window: n, steps in a row that `sample` gives.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        capacity: int,
        seeds: SeedStream,
        *,
        window: int = 1,
    ) -> None:
        self.capacity = capacity
        self.window = window
        self._spaces = observation_space, action_space
        self._rng = seeds.numpy("replay")
        self._rows = 0  # R, of each ring; one of them waits to be written and holds an observation only
        self._head: Index = np.zeros(0, np.int64)  # [N] row that is written next
        self._count: Index = np.zeros(0, np.int64)  # [N] rows written, R - 1 at most
        self._obs: list[Array] = []  # [N * R, ...] each, a leaf of the observation's tree
        self._actions: list[Array] = []  # likewise
        self._rewards: Array = np.zeros(0, np.float32)  # [N * R]
        self._flags: Array = np.zeros(0, np.uint8)  # [N * R] terminated, truncated and valid in a bit each

    def __len__(self) -> int:
        """Rows that are stored, final observations included."""
        return int(self._count.sum())

    @property
    def has_windows(self) -> bool:
        """Whether there is a window to draw."""
        return bool((self._count >= self.window).any())

    def add(self, rollout: Rollout) -> None:
        """Store a rollout; it goes on where the last one ended, or else the episodes of the last one are cut there.

        Raises:
            UsageError: so much does not fit into the machine's memory.
            ValueError: earlier rollouts had another number of environments.
        """
        obs = [leaf.numpy() for leaf, _ in leaves(rollout.all_obs, self._spaces[0])]  # [T+1, N, ...]
        actions = [leaf.numpy() for leaf, _ in leaves(rollout.actions, self._spaces[1])]  # [T, N, ...]
        T, N = rollout.shape
        if not self._rows:
            self._allocate(N, [(leaf.shape[2:], leaf.dtype) for leaf in obs], [(a.shape[2:], a.dtype) for a in actions])
        elif len(self._head) != N:
            raise ValueError(f"the replay holds steps of {len(self._head)} environments; the rollout has {N}")
        else:
            self._cut_where_it_does_not_go_on([leaf[0] for leaf in obs])
        flags = (
            rollout.terminated.numpy() * np.uint8(_TERMINATED)
            + rollout.truncated.numpy() * np.uint8(_TRUNCATED)
            + rollout.valid.numpy() * np.uint8(_VALID)
        )  # [T, N]
        rewards = rollout.rewards.numpy()
        final_rows: tuple[Array, Array, list[Array]] | None = None
        if rollout.finals is not None:
            finals = rollout.finals
            final_rows = (
                finals.time.numpy(),
                finals.lane.numpy(),
                [x.numpy() for x, _ in leaves(finals.obs, self._spaces[0])],
            )
        # In pieces that a ring can hold, with a final observation after every step.
        most = max(1, (self._rows - 2) // 2)
        for begin in range(0, T, most):
            piece = slice(begin, min(T, begin + most))
            self._write(
                [leaf[begin : piece.stop + 1] for leaf in obs],
                [leaf[piece] for leaf in actions],
                rewards[piece],
                flags[piece],
                None if final_rows is None else _between(final_rows, begin, piece.stop),
            )

    def _allocate(
        self, num_envs: int, obs: list[tuple[tuple[int, ...], Any]], actions: list[tuple[tuple[int, ...], Any]]
    ) -> None:
        rows = max(-(-self.capacity // num_envs), self.window + 2) + 1
        size = num_envs * rows
        needed = size * (5 + sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in (*obs, *actions)))
        available = _memory()
        if needed > available:
            raise UsageError(
                f"a replay of {self.capacity:,} rows takes {needed / 1e9:.1f} GB of this machine's "
                f"{available / 1e9:.1f} GB of memory\ntake a smaller one"
            )
        self._rows = rows
        # Pages that nobody has written to take no memory yet.
        self._obs = [np.zeros((size, *shape), dtype) for shape, dtype in obs]
        self._actions = [np.zeros((size, *shape), dtype) for shape, dtype in actions]
        self._rewards = np.zeros(size, np.float32)
        self._flags = np.zeros(size, np.uint8)
        self._head, self._count = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)

    def _flat(self, columns: Array, rows: Array) -> Index:
        """Places of rows, counted without end, in the arrays."""
        return columns * self._rows + rows % self._rows  # type: ignore[no-any-return]

    def _cut_where_it_does_not_go_on(self, obs: list[Array]) -> None:
        """Where a rollout's first observations `[N, ...]` are not those that were left, end the episodes that were.

        They have not ended in truth: they are cut, and what was left is their last successor.
        """
        columns = np.arange(len(self._head))
        waiting = self._flat(columns, self._head)
        N = len(columns)
        same = np.ones(N, bool)
        for stored, first in zip(self._obs, obs, strict=True):
            left = stored[waiting]
            same &= ((left == first) | ((left != left) & (first != first))).reshape(N, -1).all(1)
        others = np.flatnonzero(~same)
        if len(others):
            last = self._flat(others, self._head[others] - 1)
            going_on = (self._flags[last] & (_TERMINATED | _TRUNCATED)) == 0
            self._flags[last] |= np.where(going_on & ((self._flags[last] & _VALID) > 0), _TRUNCATED, 0).astype(np.uint8)
            self._flags[waiting[others]] = 0
            self._head[others] += 1
            self._count[others] = np.minimum(self._count[others] + 1, self._rows - 1)

    def _write(
        self,
        obs: list[Array],
        actions: list[Array],
        rewards: Array,
        flags: Array,
        finals: tuple[Array, Array, list[Array]] | None,
    ) -> None:
        T, N = rewards.shape
        columns = np.arange(N)
        row = self._head + np.arange(T + 1)[:, None]  # [T+1, N]
        if finals is not None:
            time, lane, final_obs = finals
            extra = np.zeros((T + 1, N), np.int64)
            extra[time + 1, lane] = 1
            row = row + extra.cumsum(0)
            final = self._flat(lane, row[time, lane] + 1)
            for stored, some in zip(self._obs, final_obs, strict=True):
                stored[final] = some
            self._flags[final] = 0
        place = self._flat(columns, row)
        for stored, leaf in zip(self._obs, obs, strict=True):
            stored[place] = leaf
        for stored, leaf in zip(self._actions, actions, strict=True):
            stored[place[:-1]] = leaf
        self._rewards[place[:-1]] = rewards
        self._flags[place[:-1]] = flags
        self._flags[place[-1]] = 0
        before, self._head = self._head, row[-1]
        self._count = np.minimum(self._count + self._head - before, self._rows - 1)

    def sample(self, batch_size: int) -> Rollout:
        """Draw windows of steps, each step of the past that has all of its window behind it being as likely.

        Returns:
            a Rollout `[n, batch_size]`. Where an episode ends inside a window, rows of the next one follow, which the
            estimators do not read. `extras["index"]` `[n, batch_size]` says where the rows are stored.

        Raises:
            ValueError: there is nothing yet to draw from.
        """
        return self._windows(self._draw(batch_size))

    def _draw(self, batch_size: int) -> Index:
        """Places of first steps, `[batch_size]`."""
        possible = np.maximum(self._count - (self.window - 1), 0)  # [N] rows with a window behind them
        ends = possible.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        if total == 0:
            raise ValueError("the replay holds no window yet")
        place = self._draw_rows(batch_size, possible, ends, total)
        for _ in range(1000):
            wrong = np.flatnonzero((self._flags.take(place) & _VALID) == 0)
            if not len(wrong):
                return place
            place[wrong] = self._draw_rows(len(wrong), possible, ends, total)
        raise ValueError("the replay holds hardly any valid step")

    def _draw_rows(self, size: int, possible: Index, ends: Index, total: int) -> Index:
        drawn = self._rng.integers(0, total, size)
        if len(ends) == 1:
            return (self._head[0] - self.window - drawn) % self._rows  # type: ignore[no-any-return]
        column = ends.searchsorted(drawn, "right")
        age = drawn - (ends - possible)[column]
        return self._flat(column, self._head[column] - self.window - age)

    def _windows(self, first: Index, extras: Mapping[str, torch.Tensor] | None = None) -> Rollout:
        n, R = self.window, self._rows
        place = np.empty((n + 1, len(first)), np.int64)
        place[0] = first
        for k in range(1, n + 1):
            at_end = (place[k - 1] + 1) % R == 0
            np.add(place[k - 1], 1, place[k])
            place[k][at_end] -= R
        steps = place[:n]
        flags = self._flags.take(steps)
        return Rollout(
            all_obs=_tree(self._spaces[0], iter([_take(leaf, place) for leaf in self._obs])),
            actions=_tree(self._spaces[1], iter([_take(leaf, steps) for leaf in self._actions])),
            rewards=torch.from_numpy(self._rewards.take(steps)),
            terminated=torch.from_numpy((flags & _TERMINATED).astype(bool)),
            truncated=torch.from_numpy((flags & _TRUNCATED).astype(bool)),
            valid=torch.from_numpy((flags & _VALID).astype(bool)),
            extras={"index": torch.from_numpy(steps), **(extras or {})},
        )

    def state_dict(self, rows: bool = True) -> dict[str, Any]:
        """Counters, generator and the rows that wait, and all other rows unless those are stored by themselves."""
        waiting = self._flat(np.arange(len(self._head)), self._head) if self._rows else np.zeros(0, np.int64)
        return {
            "rows": self._rows,
            "head": self._head.tolist(),
            "count": self._count.tolist(),
            # Whole rows: where an episode is cut there, what the last round left of an action stays visible.
            "waiting": [_take(leaf, waiting) for leaf in (*self._obs, *self._actions, self._rewards)],
            "generator": self._rng.bit_generator.state,
            "segment": self.rows_since(None) if rows else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back; rows that are not in it have come by `add_rows`.

        Raises:
            ValueError: rows are missing, or the replay is of another size.
        """
        if state["segment"] is not None:
            self.add_rows(state["segment"])
        self._rng.bit_generator.state = state["generator"]
        if not state["rows"]:
            return
        head, count = (np.array(state[name], np.int64) for name in ("head", "count"))
        if self._rows != state["rows"]:
            raise ValueError(f"the stored replay has rings of {state['rows']} rows, this one of {self._rows}")
        if head.shape != self._head.shape or count.shape != head.shape:
            raise ValueError("the stored replay is of another number of environments")
        if (head != self._head).any() or (count > self._count).any() or (count < 0).any():
            raise ValueError("rows of the stored replay are missing")
        self._count = count
        waiting = self._flat(np.arange(len(head)), head)
        for stored, leaf in zip((*self._obs, *self._actions, self._rewards), state["waiting"], strict=True):
            if leaf.shape != (len(waiting), *stored.shape[1:]):
                raise ValueError("rows of the stored replay that wait have other shapes")
            stored[waiting] = leaf.numpy()
        self._flags[waiting] = 0

    def position(self) -> list[int]:
        """The next row of each column, counted without end."""
        return [int(row) for row in self._head]

    def rows_since(self, position: Sequence[int] | None) -> dict[str, torch.Tensor] | None:
        """Rows from there on, columns one after the other, with the first row of each and the one behind the last.

        One row before `position` is among them: it may have been cut since, being the last of its episode then.
        """
        if not self._rows:
            return None
        oldest = self._head - self._count
        begin = oldest if not position else np.maximum(np.array(position, np.int64) - 1, oldest)
        if position and (self._head == position).all():
            return None
        place = self._flat(*_ranges(begin, self._head))
        return {
            "begin": torch.from_numpy(begin.copy()),
            "end": torch.from_numpy(self._head.copy()),
            "rewards": _take(self._rewards, place),
            "flags": _take(self._flags, place),
            **{f"obs.{i}": _take(leaf, place) for i, leaf in enumerate(self._obs)},
            **{f"action.{i}": _take(leaf, place) for i, leaf in enumerate(self._actions)},
        }

    def add_rows(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Take rows back that go on where the last ones end, or begin anew where those are forgotten.

        Raises:
            ValueError: they do not fit.
        """
        begin, end, rewards, flags = (rows[name].numpy() for name in ("begin", "end", "rewards", "flags"))
        obs = [rows[f"obs.{i}"].numpy() for i in range(sum(name.startswith("obs.") for name in rows))]
        actions = [rows[f"action.{i}"].numpy() for i in range(sum(name.startswith("action.") for name in rows))]
        if not self._rows:
            for part, space in zip((obs, actions), self._spaces, strict=True):
                shapes = [leaf.shape for _, leaf in leaves(space, space)]
                if begin.ndim != 1 or not len(begin) or [leaf.shape[1:] for leaf in part] != shapes:
                    raise ValueError("a segment of the stored replay is of other spaces")
            likes = [[(leaf.shape[1:], leaf.dtype) for leaf in part] for part in (obs, actions)]
            self._allocate(len(begin), *likes)
            self._head = begin.copy()
        if begin.shape != self._head.shape or not ((begin >= 0) & (begin <= end) & (end - begin < self._rows)).all():
            raise ValueError("a segment of the stored replay does not fit it")
        if (end < self._head).any():
            raise ValueError("rows of the stored replay are missing")
        place = self._flat(*_ranges(begin, end))
        valid = (flags & _VALID) > 0  # a final observation's row has no action
        for part, space, rows_of in ((obs, self._spaces[0], slice(None)), (actions, self._spaces[1], valid)):
            for leaf, (_, inner) in zip(part, leaves(space, space), strict=True):
                if _is_outside(leaf[rows_of], inner):
                    raise ValueError(f"a segment of the stored replay has rows outside of {inner}")
        for mine, theirs in zip(
            [*self._obs, *self._actions, self._rewards, self._flags], [*obs, *actions, rewards, flags], strict=True
        ):
            if mine.dtype != theirs.dtype or theirs.shape != (len(place), *mine.shape[1:]):
                raise ValueError("a segment of the stored replay has other shapes")
            mine[place] = theirs
        # A column whose earlier rows were all overwritten before this segment was made begins anew with it.
        count = np.where(begin > self._head, end - begin, self._count + end - self._head)
        self._count = np.minimum(count, self._rows - 1)
        self._head = end.copy()

    def keeps(self, position: Sequence[int]) -> bool:
        """Whether a row before that position has not been overwritten."""
        return bool((np.array(position, np.int64) > self._head - self._count).any())


def _is_outside(values: Array, space: gymnasium.Space[Any]) -> bool:
    """Whether any of the values is none that a space of finitely many has: it would be taken for an index."""
    if isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    else:
        return False
    return bool(((values < low) | (values > high)).any())


class PrioritizedReplay(Replay):
    """Windows of past steps, those drawn more often whose values were more wrong.

        P(i) = p_i^alpha / sum_k p_k^alpha        p_i = |error_i| + 1e-6, or the largest so far for a new step
        w_i  = (M P(i))^-beta / max_k w_k         M steps in the replay, k over the batch

    The proportional variant of Schaul et al. 2016, arXiv:1511.05952, section 3.3; batches are stratified as there.

    Args:
        observation_space: of a single environment.
        action_space: likewise.
        capacity: see `Replay`.
        seeds: see `Replay`.
        window: see `Replay`.
        alpha: how much priorities count: 0 is uniform.
        beta: how much of the bias that they bring the weights `w` take back: 1 is all.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        capacity: int,
        seeds: SeedStream,
        *,
        window: int = 1,
        alpha: float,
        beta: Schedule,
    ) -> None:
        super().__init__(observation_space, action_space, capacity, seeds, window=window)
        self._alpha = alpha
        self._beta = beta
        self._largest = 1.0
        self._tree = _SumTree(0)

    def _allocate(self, num_envs: int, obs: list[Any], actions: list[Any]) -> None:
        super()._allocate(num_envs, obs, actions)
        self._tree = _SumTree(num_envs * self._rows)

    def add(self, rollout: Rollout) -> None:
        """As `Replay.add`; a new step can be drawn as soon as its window is complete, as often as any."""
        before = self._head.copy() if self._rows else np.zeros(rollout.shape[1], np.int64)
        super().add(rollout)
        oldest = self._head - self._count
        # What was overwritten, and the row that waits, cannot be drawn any more.
        self._set_priority(np.maximum(before, oldest), self._head + 1, 0.0)
        ahead = self.window - 1
        self._set_priority(np.maximum(before - ahead, oldest), np.maximum(self._head - ahead, oldest), self._largest)

    def _set_priority(self, begin: Index, end: Index, priority: float) -> None:
        """Set all steps in the columns' rows from `begin` to `end`."""
        columns, rows = _ranges(begin, end)
        place = self._flat(columns, rows)
        self._tree.set(place, np.where(self._flags[place] & _VALID, priority, 0.0))

    def sample(self, batch_size: int) -> Rollout:
        """Draw windows by priority; `extras["weight"]` `[n, batch_size]` are the weights w, float32."""
        tree = self._tree
        if tree.total <= 0:
            raise ValueError("the replay holds no window yet")
        first = tree.find((np.arange(batch_size) + self._rng.random(batch_size)) * (tree.total / batch_size))
        weight = tree.leaves[first] ** -self._beta.value  # M and the sum of all go out with the largest
        weight = (weight / weight.max()).astype(np.float32)
        return self._windows(first, {"weight": torch.from_numpy(weight).expand(self.window, -1)})

    def update_priorities(self, index: torch.Tensor, errors: torch.Tensor) -> None:
        """Set what was drawn to the size of its errors.

        Args:
            index: `[B]`, the first row of `extras["index"]`.
            errors: `[B]`, differences of values from targets, of any sign.
        """
        priority = (errors.abs().double().numpy() + 1e-6) ** self._alpha
        # What was overwritten meanwhile stays what cannot be drawn.
        there = self._tree.leaves[index.numpy()] > 0
        self._tree.set(index.numpy()[there], priority[there])
        self._largest = max(self._largest, float(priority.max()))

    def state_dict(self, rows: bool = True) -> dict[str, Any]:
        """As `Replay`, with the priorities."""
        return {
            **super().state_dict(rows),
            "priorities": torch.from_numpy(self._tree.leaves),
            "largest_priority": self._largest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""
        super().load_state_dict(state)
        self._largest = float(state["largest_priority"])
        priorities = state["priorities"].numpy()
        if priorities.shape != self._tree.leaves.shape:
            raise ValueError("the stored replay has priorities of other rows")
        self._tree.set(np.arange(len(priorities)), priorities)


class _SumTree:
    """Numbers, and their sums in blocks of 16, of 16 blocks, and so on: found by a running sum in a few look-ups.

    Args:
        size: how many numbers.
    """

    WIDTH = 16

    def __init__(self, size: int) -> None:
        self._levels = [np.zeros(max(1, -(-size // self.WIDTH)) * self.WIDTH)]
        while len(self._levels[-1]) > self.WIDTH:
            blocks = len(self._levels[-1]) // self.WIDTH
            self._levels.append(np.zeros(-(-blocks // self.WIDTH) * self.WIDTH))
        self.size = size

    @property
    def leaves(self) -> Array:
        """The numbers."""
        return self._levels[0][: self.size]

    @property
    def total(self) -> float:
        """Their sum."""
        return float(self._levels[-1].sum())

    def set(self, index: Index, value: Any) -> None:
        """Set some of the numbers."""
        self._levels[0][index] = value
        for level, above in zip(self._levels, self._levels[1:], strict=False):
            index = np.unique(index // self.WIDTH)
            # Summed anew, so that no rounding adds up.
            above[index] = level.reshape(-1, self.WIDTH)[index].sum(1)

    def find(self, sums: Array) -> Index:
        """For each of `sums`, from 0 to `total`, the number where the running sum passes it; never one that is 0."""
        place = np.zeros(len(sums), np.int64)
        blocks = np.arange(len(sums)) * self.WIDTH
        for level in reversed(self._levels):
            block = level.reshape(-1, self.WIDTH).take(place, 0)  # [B, 16]
            running = block.cumsum(1)
            # Rounding must not lead behind the last number that is not 0.
            sums = np.minimum(sums, np.nextafter(running[:, -1], 0.0))
            inside = (running > sums[:, None]).argmax(1)
            at = blocks + inside
            sums = np.maximum(sums - (running.take(at) - block.take(at)), 0.0)
            place = place * self.WIDTH + inside
        return place


def _ranges(begin: Index, end: Index) -> tuple[Index, Index]:
    """Columns and numbers of the ranges `[begin[n], end[n])` of all columns n, one after the other."""
    lengths = end - begin
    columns = np.repeat(np.arange(len(begin)), lengths)
    return columns, np.arange(len(columns)) - np.repeat(lengths.cumsum() - lengths - begin, lengths)


def _between(finals: tuple[Array, Array, list[Array]], begin: int, end: int) -> tuple[Array, Array, list[Array]]:
    """Those of the final observations that belong to the steps from `begin` to `end`, counted from there."""
    time, lane, obs = finals
    if begin == 0 and (not len(time) or time.max() < end):
        return finals
    chosen = np.flatnonzero((time >= begin) & (time < end))
    return time[chosen] - begin, lane[chosen], [leaf[chosen] for leaf in obs]


def _take(array: Array, place: Index) -> torch.Tensor:
    return torch.from_numpy(array.take(place, 0))


def _tree(space: gymnasium.Space[Any], parts: Iterator[Any]) -> Tree:
    """Leaves in the space's own order as its tree."""
    if isinstance(space, spaces.Dict):
        return {key: _tree(part, parts) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_tree(part, parts) for part in space.spaces)
    return next(parts)


def _memory() -> float:
    """Bytes of memory that this machine has."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not told everywhere
        return float("inf")
