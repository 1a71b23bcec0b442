"""Hypothesis strategies: rollouts as arrays, with the ends, dummy rows and numbers that break return estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

NASTY = (0.0, 1.0, -1.0, 1e30, -1e30, 1e-30, -1e-30, 1e-45, -1e-45)
"""Rewards and values that show cancellation, absorption and underflow; the last two are subnormal in float32."""

GAMMAS = (0.0, 1.0, 0.99, 0.5, 1 - 1e-16, 1e-8, 5e-324)
"""Discounts at and next to the ends of their range."""

LAMBDAS = (0.0, 1.0, 0.95, 0.5)


@dataclass(frozen=True)
class RolloutArrays:
    """A rollout of T rows and N columns without observations, and settings to compute returns with.

    Inside an episode `next_values[t]` is `values[t+1]`; at its end it is a number of its own, the value of the final
    observation.
    """

    rewards: NDArray[Any]  # [T, N]
    values: NDArray[Any]  # [T, N]
    next_values: NDArray[Any]  # [T, N]
    terminated: NDArray[np.bool_]  # [T, N]
    truncated: NDArray[np.bool_]  # [T, N]
    valid: NDArray[np.bool_]  # [T, N], False on dummy rows, each of which follows an end
    tail: NDArray[Any]  # [N], a return for the row after the last
    gamma: float
    gae_lambda: float

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N)."""
        return self.rewards.shape[0], self.rewards.shape[1]


@st.composite
def rollouts(
    draw: st.DrawFn,
    *,
    min_rows: int = 0,
    max_rows: int = 10,
    min_columns: int = 0,
    max_columns: int = 3,
    dtype: Any = np.float64,
    nasty: bool = True,
    dummy_rows: bool = True,
    poison: bool = False,
    whole_episodes: bool = False,
) -> RolloutArrays:
    """Rollouts of all shapes, from empty ones on, with any pattern of ends; they shrink to few rows and zeros.

    Args:
        draw: given by hypothesis.
        min_rows: least T.
        max_rows: greatest T.
        min_columns: least N.
        max_columns: greatest N.
        dtype: of rewards, values and tail.
        nasty: also numbers such as 1e30 and subnormals; without, numbers from -10 to 10.
        dummy_rows: sometimes with the dummy row after each end that autoreset mode NEXT_STEP inserts.
        poison: NaN wherever a number must not be read: on dummy rows, and as the next value of a terminated step.
        whole_episodes: every column ends with the end of an episode.
    """
    T = draw(st.integers(min_rows, max_rows))
    N = draw(st.integers(min_columns, max_columns))
    ordinary = st.integers(-1000, 1000).map(lambda i: i / 100) | st.floats(-10, 10, width=32)
    number = st.sampled_from(NASTY) | ordinary if nasty else ordinary

    def numbers(rows: int) -> NDArray[Any]:
        drawn = draw(st.lists(number, min_size=rows * N, max_size=rows * N))
        return np.array(drawn, np.float64).reshape(rows, N).astype(dtype)

    # 0 goes on, 1 terminated, 2 truncated, 3 both
    ends = st.lists(st.sampled_from((0, 0, 0, 1, 2, 3)), min_size=T * N, max_size=T * N)
    end = np.array(draw(ends), np.int64).reshape(T, N)
    if whole_episodes:
        end[-1:][end[-1:] == 0] = 1
    valid = np.ones((T, N), bool)
    if dummy_rows and draw(st.booleans()):
        begins_dummy = draw(st.lists(st.booleans(), min_size=N, max_size=N))
        for n in range(N):
            dummy = begins_dummy[n]
            for t in range(T):
                if dummy:
                    valid[t, n], end[t, n] = False, 0
                dummy = end[t, n] != 0
    terminated, truncated = end % 2 == 1, end >= 2

    rewards = numbers(T)
    all_values = numbers(T + 1)
    finals = numbers(T)
    values = all_values[:-1]
    next_values = np.where(end == 0, all_values[1:], finals)
    if poison:
        rewards[~valid] = values[~valid] = next_values[~valid] = np.nan
        next_values[terminated] = np.nan
    return RolloutArrays(
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        tail=numbers(1)[0],
        gamma=draw(st.sampled_from(GAMMAS) | st.floats(0, 1)),
        gae_lambda=draw(st.sampled_from(LAMBDAS) | st.floats(0, 1)),
    )
