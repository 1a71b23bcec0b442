"""Return targets: what a step was worth, from rewards and the values of successors.

The mathematics are functions on numpy arrays, `[T, N]`, time first; a `ReturnEstimator` applies them to a Rollout.

Symbols: r reward, V value of the observation, V' value of its true successor (`next_values`), m terminated,
u truncated, G return, A advantage, gamma discount, lambda mixture, delta = r + gamma (1 - m) V' - V.
A bracket such as `(1 - m)` is a selection, never a product: what is not selected may be NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlkit_core.errors import Diverged
from rlkit_core.rollout import Rollout

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Normalization = Literal["off", "per_episode", "per_batch", "running"]


def lambda_returns(
    rewards: ArrayLike,
    next_values: ArrayLike | None,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: float,
    gae_lambda: float = 1.0,
    tail: ArrayLike | None = None,
    bootstrap: bool = True,
    valid: ArrayLike | None = None,
) -> Floats:
    """The lambda-return of every step, the one target that every algorithm here learns from.

        G[t] = r[t] + gamma (1 - m[t]) ((1 - lambda) V'[t] + lambda ahead[t])
        ahead[t] = V'[t] where the episode or the rollout ends at t, else G[t+1]

    lambda = 1 is the discounted return, bootstrapped where it was cut; lambda = 0 is the one-step target. G - V is
    the generalised advantage where V'[t] = V[t+1] inside an episode.

    Sources: Sutton & Barto 2018, eq. 12.18 (lambda-return); Schulman et al. 2016, arXiv:1506.02438, eq. 16 (GAE);
    Pardo et al. 2018, arXiv:1712.00378, section 3.1 (a truncated step is bootstrapped, a terminated one is not).

    Args:
        rewards: r, `[T, N]`, of any real type.
        next_values: V', `[T, N]`: the value of the true successor, at an episode's end that of its final observation.
        terminated: m, `[T, N]`: nothing follows, V' is not read. It wins over `truncated`.
        truncated: u, `[T, N]`: the episode was cut here.
        gamma: discount, 0 to 1.
        gae_lambda: lambda, 0 to 1.
        tail: G[T], `[N]`: the return of the row after the last, used there instead of V' where no episode ends.
            A rollout cut in two thus gives the same bits as in one piece.
        bootstrap: False reads no V' at all: 0 follows every end, and the rollout's. Only for `gae_lambda` 1.
        valid: `[T, N]`: False on dummy rows. What they hold is not read, and their return is 0. The row before a
            dummy row always ends an episode.

    Returns:
        G, `[T, N]`, float32 or whatever wider type the arguments have. No argument is changed.

    Raises:
        ValueError: shapes that differ (nothing is broadcast), or settings out of their range.
    """
    _check_settings(gamma, gae_lambda, bootstrap)
    r = np.asarray(rewards)
    if r.ndim != 2:
        raise ValueError(f"rewards must be [T, N], not of shape {r.shape}")
    T, N = r.shape
    m = _shaped("terminated", terminated, (T, N), bool)
    u = _shaped("truncated", truncated, (T, N), bool)
    real = None if valid is None else _shaped("valid", valid, (T, N), bool)
    following = None if tail is None else _shaped("tail", tail, (N,))
    V = None
    if bootstrap:
        if next_values is None:
            raise ValueError("next_values are needed to bootstrap")
        V = _shaped("next_values", next_values, (T, N))
    dtype = np.result_type(np.float32, *(x.dtype for x in (r, V, following) if x is not None))

    G = np.empty((T, N), dtype)
    # From the last rows to the first, so many at a time that they stay in the cache.
    rows = max(1, _BLOCK // max(N, 1))
    for stop in range(T, 0, -rows):
        t = slice(max(0, stop - rows), stop)
        _returns_of_block(
            r[t],
            None if V is None else V[t],
            m[t],
            u[t],
            None if real is None else real[t],
            following,
            gamma,
            gae_lambda,
            G[t],
        )
        following = G[t.start]
    return G


_BLOCK = 2**16
"""Elements computed at a time."""
_FEW_COLUMNS = 4
"""Up to which numbers are added one by one, in a tenth of the time that an operation on so short a row takes."""


def _returns_of_block(
    r: Floats,
    V: Floats | None,
    m: Bools,
    u: Bools,
    real: Bools | None,
    following: Floats | None,
    gamma: float,
    gae_lambda: float,
    G: Floats,
) -> None:
    """Write the returns of some rows, all `[T, N]`, into G; `following` is the return of the row after the last."""
    dtype = G.dtype
    stops = m | u  # [T, N], the recursion does not go on to t + 1
    if following is None:
        stops[-1:] = True
    # Poison in one episode may overflow or become NaN on its way; only the warning is silenced.
    with np.errstate(over="ignore", invalid="ignore"):
        if V is None:
            G[...] = r
        else:
            bootstrapped = V * dtype.type(gamma * (1 - gae_lambda))  # [T, N]
            np.multiply(V, dtype.type(gamma), out=bootstrapped, where=stops)
            np.copyto(bootstrapped, _NOTHING, where=m if gae_lambda < 1 else m | ~stops)
            np.add(r, bootstrapped, out=G)
        if real is not None:
            G[~real] = 0
            stops |= ~real
        decay = np.asarray(gamma * gae_lambda, dtype)  # [], an array is faster here than a number
        if decay == 0:
            return
        ahead = np.zeros(G.shape[1], dtype) if following is None else following.astype(dtype)
        if G.shape[1] <= _FEW_COLUMNS:
            for column, stops_there, last in zip(G.T, stops.T, ahead, strict=True):
                column[:] = _recursion(list(column), stops_there.tolist(), dtype.type(decay), last)
            return
        discounted = np.empty_like(ahead)
        T, N = G.shape
        where = np.flatnonzero(stops)  # in G as one row after the other
        bounds = np.searchsorted(where, np.arange(0, (T + 1) * N, N)).tolist()
        columns = where % N
        for G_t, start, end in zip(G[::-1], bounds[-2::-1], bounds[:0:-1], strict=True):
            np.multiply(ahead, decay, discounted)
            if start < end:
                discounted[columns[start:end]] = _NOTHING
            ahead = np.add(G_t, discounted, G_t)


_NOTHING = -0.0
"""What changes no number when it is added, not even -0."""


def _recursion(column: list[Any], stops: list[bool], decay: Any, ahead: Any) -> list[Any]:
    """One column of it, number by number: the same operations, hence the same bits."""
    for t in range(len(column) - 1, -1, -1):
        if not stops[t]:
            column[t] += ahead * decay
        ahead = column[t]
    return column


def normalize(x: ArrayLike, valid: ArrayLike | None = None, *, ddof: int = 0, epsilon: float = 0.0) -> Floats:
    """Shift and scale to mean 0 and standard deviation 1, over all valid elements.

        y = (x - mean(x)) / (std(x) + epsilon)        0 where std(x) <= 16 u max|x|

    u is the unit roundoff of x's type (2^-24 for float32): below that bound x is a constant and rounding noise, which
    the usual `(x - mean) / (std + 1e-8)` would blow up. Computed in float64 and relative to the first element, so that
    a large common offset costs no digits; no absolute epsilon, so that the scale of x does not matter.

    Args:
        x: of any shape and real type.
        valid: of the same shape: False where an element is not to be counted; 0 is returned there.
        ddof: 0 for the standard deviation of the elements (numpy), 1 for the estimate from a sample (torch).
        epsilon: only to reproduce code that has one.

    Returns:
        y, of x's shape and at least float32. A single element gives 0, for every `ddof`.

    Raises:
        Diverged: a valid element is not finite.
        ValueError: shapes that differ.
    """
    x = np.asarray(x)
    dtype = np.result_type(np.float32, x.dtype)
    y: Floats = np.zeros(x.shape, dtype)
    mask = np.ones(x.shape, bool) if valid is None else _shaped("valid", valid, x.shape, bool)
    chosen = x[mask].astype(np.float64)  # [n]
    _check_finite("values to be normalised", chosen)
    if chosen.size <= max(ddof, 1):
        return y
    # A power of two is divided out without rounding: squares neither overflow nor vanish.
    exponent = int(np.frexp(np.abs(chosen).max())[1])
    chosen = np.ldexp(chosen, -exponent)
    centered = chosen - chosen[0]
    centered -= centered.mean()
    std = math.sqrt(np.square(centered).sum() / (chosen.size - ddof))
    if std > _noise(dtype, chosen):
        y[mask] = centered / (std + math.ldexp(epsilon, -exponent))
    return y


class RunningNormalizer:
    """Mean and standard deviation of everything seen so far, and the way to and from units in which they are 0 and 1.

        y = (x - mean) / std        std acts as 1 where std <= 16 u max|x|, as in `normalize`

    Statistics of batches are merged in float64 (Chan, Golub & LeVeque 1983, eq. 2.1): after any number of updates they
    are those of all valid elements pooled.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.m2 = 0.0
        """Sum of squared distances from the mean."""
        self.noise = 0.0
        """The standard deviation up to which what was seen counts as constant."""

    @property
    def std(self) -> float:
        """What a unit of y is in units of x; 1 as long as nothing but a constant was seen."""
        std = math.sqrt(self.m2 / self.count) if self.count else 0.0
        return std if std > self.noise else 1.0

    def update(self, x: ArrayLike, valid: ArrayLike | None = None) -> None:
        """Count the valid elements of x, of any shape.

        Raises:
            Diverged: one of them is not finite; the statistics are those before the call.
        """
        x = np.asarray(x)
        dtype = np.result_type(np.float32, x.dtype)
        chosen = (x.ravel() if valid is None else x[_shaped("valid", valid, x.shape, bool)]).astype(np.float64)  # [n]
        _check_finite("values to be normalised", chosen)
        if not chosen.size:
            return
        shifted = chosen - chosen[0]
        shift = float(np.add.reduce(shifted)) / chosen.size
        distance = float(chosen[0]) + shift - self.mean
        count = self.count + chosen.size
        shifted -= shift
        m2 = float(np.add.reduce(np.square(shifted, out=shifted)))
        self.m2 += m2 + distance * distance * (self.count * chosen.size / count)
        self.mean += distance * (chosen.size / count)
        self.count = count
        self.noise = max(self.noise, _noise(dtype, chosen))

    def to_raw(self, y: ArrayLike) -> NDArray[np.float64]:
        """From normalised units to those of x."""
        return np.asarray(y, np.float64) * self.std + self.mean

    def to_normalized(self, x: ArrayLike) -> NDArray[np.float64]:
        """From units of x to normalised ones."""
        return (np.asarray(x, np.float64) - self.mean) / self.std

    def state_dict(self) -> dict[str, float]:
        """The statistics as plain numbers."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2, "noise": self.noise}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take the statistics back."""
        self.count = int(state["count"])
        self.mean = float(state["mean"])
        self.m2 = float(state["m2"])
        self.noise = float(state["noise"])


class Returns(NamedTuple):
    """What a step was worth, and by how much that beat expectations, in the same unit; neither has a gradient."""

    targets: Tensor  # [T, N] float32
    advantages: Tensor  # [T, N] float32


class ReturnEstimator(ABC):
    """Turns rewards and the values of successors into targets of learning.

    A Learner calls it, because only the Learner knows when and with which values; an estimator with state belongs into
    the Learner's `parts()`.
    """

    @abstractmethod
    def estimate(
        self,
        rollout: Rollout,
        next_values: Tensor,
        *,
        values: Tensor | None = None,
        log_probs: Tensor | None = None,
        update: bool = True,
    ) -> Returns:
        """Targets and advantages of every row of a rollout; 0 on dummy rows.

        Args:
            rollout: T steps of N environments.
            next_values: `[T, N]`, values of `rollout.next_obs`, in the units of the targets.
            values: `[T, N]`, values of `rollout.obs`, in the units of the targets; without them there is no baseline,
                and the advantages are the returns, in the unit of the targets.
            log_probs: `[T, N]`, of the actions under the policy that learns, for estimators that correct for the
                policy that acted.
            update: False leaves all state as it is: for asking again about steps that were already counted.

        Raises:
            Diverged: a result is not finite; the state is that before the call.
        """

    def to_raw(self, values: Tensor) -> Tensor:
        """Values from the units of the targets to those of the environment's rewards."""
        return values

    def state_dict(self) -> Mapping[str, Any]:
        """What changes in `estimate`, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take the state back."""
        return  # nothing to take: an estimator with state overrides both


class LambdaEstimator(ReturnEstimator):
    """The lambda-return G and the advantage G - V, which with lambda < 1 is GAE; see `lambda_returns`.

    Args:
        gamma: discount.
        gae_lambda: lambda.
        bootstrap: whether the value of the successor follows where an episode was truncated or the rollout ends.
        normalize: units of targets and values.

            - `off`: those of the rewards.
            - `per_episode`: targets N(G) over each episode, with `normalize` as N; advantages are N(G) - V. G has no
              value of its own scale to add to its rewards, so that there is no bootstrap.
            - `per_batch`: the same over all valid rows.
            - `running`: V and V' are in units of running statistics and are mapped to raw ones before G is computed,
              held to what returns can be: from the lowest to the highest reward so far, over 1 - gamma.
              Then the statistics take in G, and targets are mapped with what they are now (van Hasselt et al. 2016,
              arXiv:1602.07714, without its rescaled weights). Advantages are G - V of raw numbers, in the new unit:
              targets in new units minus values in old ones would be wrong.

        ddof: see `normalize`; for `per_episode` and `per_batch`.
        epsilon: likewise.

    Raises:
        ValueError: settings that do not fit together.
    """

    def __init__(
        self,
        gamma: float,
        gae_lambda: float = 1.0,
        *,
        bootstrap: bool = True,
        normalize: Normalization = "off",
        ddof: int = 0,
        epsilon: float = 0.0,
    ) -> None:
        _check_settings(gamma, gae_lambda, bootstrap)
        if normalize not in get_args(Normalization):
            raise ValueError(f"normalize must be one of {', '.join(get_args(Normalization))}, not {normalize!r}")
        if bootstrap and normalize in ("per_episode", "per_batch"):
            raise ValueError(f"normalize={normalize} needs bootstrap=False: its values cannot be added to raw rewards")
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.bootstrap = bootstrap
        self.normalize = normalize
        self.ddof = ddof
        self.epsilon = epsilon
        self.statistics = RunningNormalizer()
        """Stays as it is unless `normalize` is `running`."""
        self._reward_range = 0.0, 0.0
        """Lowest and highest reward so far, and 0, which is what follows an end."""

    def estimate(
        self,
        rollout: Rollout,
        next_values: Tensor,
        *,
        values: Tensor | None = None,
        log_probs: Tensor | None = None,
        update: bool = True,
    ) -> Returns:
        """See `ReturnEstimator.estimate`."""
        valid: Bools | None = rollout.valid.numpy()
        shape = rollout.shape
        if np.all(valid):
            valid = None
        V_next = next_values.detach().numpy()
        V: Floats | float = 0.0 if values is None else _shaped("values", values.detach().numpy(), shape)
        running = self.normalize == "running"
        rewards = rollout.rewards.numpy()
        low, high = self._reward_range
        if running:
            seen = rewards if valid is None else rewards[valid]
            low, high = min(low, float(seen.min(initial=0.0))), max(high, float(seen.max(initial=0.0)))
            V_next = self._possible(self.statistics.to_raw(V_next), low, high)
            V = 0.0 if values is None else self._possible(self.statistics.to_raw(V), low, high)
        G = lambda_returns(
            rewards,
            V_next,
            rollout.terminated.numpy(),
            rollout.truncated.numpy(),
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            bootstrap=self.bootstrap,
            valid=valid,
        )  # [T, N]
        _check_finite("returns", G)
        targets = G
        if self.normalize == "per_batch":
            targets = normalize(G, valid, ddof=self.ddof, epsilon=self.epsilon)
        elif self.normalize == "per_episode":
            targets = self._normalize_episodes(G, rollout)
        advantages = _to_tensor("advantages", _where(valid, targets - V))
        if running:
            if update:
                self.statistics.update(G, valid)
                self._reward_range = low, high
            targets = _where(valid, self.statistics.to_normalized(G))
            advantages = advantages / self.statistics.std
        return Returns(_to_tensor("targets", targets), advantages)

    def _possible(self, V: Floats, low: float, high: float) -> Floats:
        """Raw values held to what returns can be: between low / (1 - gamma) and high / (1 - gamma).

        Units that move with the returns move all values with them; where nothing but values follows (every episode is
        cut off), these raise the returns again, and without a bound both run away.
        """
        if self.gamma == 1.0:
            return V
        possible: Floats = np.minimum(np.maximum(V, low / (1.0 - self.gamma)), high / (1.0 - self.gamma))
        finite = np.isfinite(V)
        # Infinity is no high value but a fault, and is told later.
        return possible if finite.all() else np.where(finite, possible, V)

    def _normalize_episodes(self, G: Floats, rollout: Rollout) -> Floats:
        ends = (rollout.terminated | rollout.truncated).numpy()
        valid = rollout.valid.numpy()
        targets = np.zeros_like(G)
        for n in range(G.shape[1]):
            # A dummy row comes before the rows of the episode that follows it, and is left out as invalid.
            cuts = [0, *(np.flatnonzero(ends[:, n]) + 1), len(G)]
            for start, stop in pairwise(cuts):
                episode = slice(start, stop), n
                targets[episode] = normalize(G[episode], valid[episode], ddof=self.ddof, epsilon=self.epsilon)
        return targets

    def to_raw(self, values: Tensor) -> Tensor:
        """Values from the units of the targets to those of the rewards; they differ for `running` only."""
        return values * self.statistics.std + self.statistics.mean if self.normalize == "running" else values

    def state_dict(self) -> Mapping[str, Any]:
        """The statistics of `running`, and the range of rewards."""
        if self.normalize != "running":
            return {}
        low, high = self._reward_range
        return {**self.statistics.state_dict(), "lowest_reward": low, "highest_reward": high}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take the statistics back."""
        if self.normalize == "running":
            self.statistics.load_state_dict(state)
            self._reward_range = float(state["lowest_reward"]), float(state["highest_reward"])


def _check_settings(gamma: float, gae_lambda: float, bootstrap: bool) -> None:
    for name, setting in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= setting <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {setting}")
    if not bootstrap and gae_lambda != 1:
        raise ValueError(f"bootstrap=False needs gae_lambda=1, not {gae_lambda}: a mixture reads next_values")


def _shaped(name: str, x: ArrayLike, shape: tuple[int, ...], dtype: type | None = None) -> NDArray[Any]:
    x = np.asarray(x, dtype)
    if x.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {x.shape}")
    return x


def _noise(dtype: np.dtype[Any], x: Floats) -> float:
    """16 u max|x|: the standard deviation that rounding alone can give to a constant."""
    return float(8 * np.finfo(dtype).eps * np.abs(x).max())


def _where(valid: Bools | None, x: Floats) -> Floats:
    """x, and 0 on rows that are not valid."""
    return x if valid is None else np.where(valid, x, 0)


def _check_finite(what: str, x: Floats) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        count, at = finite.size - np.count_nonzero(finite), np.argwhere(~finite)[0].tolist()
        raise Diverged(f"{count} of {x.size} {what} are not finite, the first at {at}: {x[tuple(at)]}")


def _to_tensor(what: str, x: Floats) -> Tensor:
    if x.dtype != np.float32:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    _check_finite(what, x)
    return torch.from_numpy(x)
