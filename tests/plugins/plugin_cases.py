"""Learners, rollouts of random numbers whose truth is known, and spies, for the tests of the plugins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import AlgorithmConfig, Setup
from rlkit_core.learner import Learner
from rlkit_core.policy import Act, Policy, StatefulPolicy
from rlkit_core.rollout import FinalObservations, Rollout, Tree, tree_map
from rlkit_core.seeding import SeedStream, global_generators
from tests.contracts.contract_cases import copied

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DICT_OBS = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
BOX = spaces.Box(np.float32([-2, 0.5]), np.float32([2, 7.3]))
SMALL = MLPConfig(hidden=(16,))


def build_from(
    config: AlgorithmConfig,
    action_space: gymnasium.Space[Any],
    observation_space: gymnasium.Space[Any] = OBS,
    *,
    total_steps: int = 1000,
    seed: int = 0,
) -> Any:
    """The learner, with weights and streams of that seed."""
    seeds = SeedStream(seed)
    with global_generators(seeds.stream("weights")):
        return config.build(Setup(observation_space, action_space, 4, total_steps, "cpu", seeds.stream("learner")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Imported by every test file: with networks as small as these, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Rollouts


def _samples(space: gymnasium.Space[Any], seed: int, *shape: int) -> Tree:
    space = copy.deepcopy(space)
    space.seed(seed)
    rows = [space.sample() for _ in range(int(np.prod(shape)))]
    return tree_map(lambda *leaves: torch.from_numpy(np.stack(leaves).reshape(*shape, *np.shape(leaves[0]))), *rows)


def random_rollout(
    action_space: gymnasium.Space[Any],
    observation_space: gymnasium.Space[Any] = OBS,
    *,
    T: int = 12,
    N: int = 4,
    seed: int = 0,
    dummy_rows: bool = False,
) -> Rollout:
    """Random observations, actions and rewards, no two rewards being equal.

    Episodes that end have a final observation of their own: NaN behind a terminated one, which is worth nothing and
    which nobody may look at. With `dummy_rows` a step that ends an episode is followed by its successor, on a row that
    is no step.
    """
    generator = torch.Generator().manual_seed(seed)
    all_obs = _samples(observation_space, seed, T + 1, N)
    over = torch.rand(T, N, generator=generator) < 0.3
    kind = torch.rand(T, N, generator=generator) < 0.5
    valid = torch.ones(T, N, dtype=torch.bool)
    finals = None
    if dummy_rows:
        over[1::2] = False
        valid[1::2] = ~over[:-1:2]
    else:
        time, lane = over.nonzero().unbind(1)
        final_obs = _samples(observation_space, seed + 1000, max(1, len(time)))
        final_obs = tree_map(lambda leaf: leaf[: len(time)], final_obs)
        if isinstance(observation_space, spaces.Box):
            final_obs[kind[time, lane]] = float("nan")
        finals = FinalObservations(time, lane, final_obs) if len(time) else None
    rewards = torch.randn(T, N, generator=generator)
    assert len(rewards.unique()) == T * N
    return Rollout(
        all_obs=all_obs,
        actions=_samples(action_space, seed + 2000, T, N),
        rewards=rewards,
        terminated=over & kind,
        truncated=over & ~kind,
        valid=valid,
        finals=finals,
    )


def random_obs(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def acted_rollout(policy: Policy, T: int = 6, N: int = 4, seed: int = 0, dummy_rows: bool = False) -> Rollout:
    """Random observations `[T, N, 3]` and rewards, with actions of that policy."""
    generator = torch.Generator().manual_seed(seed)
    all_obs = torch.randn(T + 1, N, 3, generator=generator) * 3 + 1
    acts = [policy.act(all_obs[t], generator=generator) for t in range(T)]
    over = torch.rand(T, N, generator=generator) < 0.2
    kind = torch.rand(T, N, generator=generator) < 0.5
    valid = torch.ones(T, N, dtype=torch.bool)
    if dummy_rows:
        valid[2, 0] = valid[4, 3] = False
        over[1, 0] = over[3, 3] = True
        over[~valid] = False
    return Rollout(
        all_obs=all_obs,
        actions=torch.stack([act.action for act in acts]),
        rewards=torch.randn(T, N, generator=generator),
        terminated=over & kind,
        truncated=over & ~kind,
        valid=valid,
        extras={name: torch.stack([act.extras[name] for act in acts]) for name in acts[0].extras},
    )


class Step(NamedTuple):
    """A transition as it happened; observations without leading axes."""

    obs: Tree
    action: Tree
    reward: float
    next_obs: Tree
    terminated: bool
    truncated: bool


def happened(*rollouts: Rollout, window: int = 1) -> dict[float, list[Step]]:
    """By its reward each step, with those behind it: as many as the window has or its episode or rollout goes on."""
    windows = {}
    for rollout in rollouts:
        finals = {}
        if rollout.finals is not None:
            places = zip(rollout.finals.time.tolist(), rollout.finals.lane.tolist(), strict=True)
            finals = {place: k for k, place in enumerate(places)}

        def step(t: int, n: int, rollout: Rollout = rollout, finals: dict[Any, int] = finals) -> Step:
            def successor(leaf: Tensor, *final: Tensor) -> Tensor:
                return final[0][finals[t, n]] if (t, n) in finals else leaf[t + 1, n]

            others = () if rollout.finals is None else (rollout.finals.obs,)
            return Step(
                tree_map(lambda leaf: leaf[t, n], rollout.all_obs),
                tree_map(lambda leaf: leaf[t, n], rollout.actions),
                float(rollout.rewards[t, n]),
                tree_map(successor, rollout.all_obs, *others),
                bool(rollout.terminated[t, n]),
                bool(rollout.truncated[t, n]),
            )

        T, N = rollout.shape
        for t, n in ((t, n) for t in range(T) for n in range(N) if rollout.valid[t, n]):
            steps = [step(t, n)]
            while len(steps) < window and t + len(steps) < T and not (steps[-1].terminated or steps[-1].truncated):
                steps.append(step(t + len(steps), n))
            windows[steps[0].reward] = steps
    return windows


def stacked(rows: Sequence[Tree]) -> Tree:
    """Rows as one batch."""
    return tree_map(lambda *leaves: torch.stack(leaves), *rows)


def num_steps(rollouts: Sequence[Rollout]) -> int:
    """Steps of all of them."""
    return sum(int(rollout.valid.sum()) for rollout in rollouts)


# Spies


class Call(NamedTuple):
    """A call that was recorded."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    answer: Any


def recorded(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Call]:
    """All calls of a method from now on."""
    calls: list[Call] = []
    method = getattr(owner, name)

    def spy(*args: Any, **kwargs: Any) -> Any:
        answer = method(*args, **kwargs)
        calls.append(Call(args, kwargs, answer))
        return answer

    monkeypatch.setattr(owner, name, spy)
    return calls


def before_each_step(monkeypatch: pytest.MonkeyPatch, optimizer: Any, look: Callable[[], Any]) -> list[Any]:
    """What `look` sees before each step of an optimiser from now on."""
    seen: list[Any] = []
    step = optimizer.step

    def spy() -> Any:
        seen.append(look())
        return step()

    monkeypatch.setattr(optimizer, "step", spy)
    return seen


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients."""
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def gradients_of(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """The gradient of a loss in all parameters."""
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    pairs = zip(parameters.items(), found, strict=True)
    return {name: torch.zeros_like(p) if gradient is None else gradient for (name, p), gradient in pairs}


def assert_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], **tolerance: float) -> None:
    """The same names, and numbers that are equal to rounding."""
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        torch.testing.assert_close(
            tensor,
            expected[name],
            **(tolerance or {"rtol": 1e-4, "atol": 1e-6}),
            msg=lambda text, n=name: f"{n}: {text}",
        )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and statistics."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether all are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def shaken(module: nn.Module, size: float = 0.3, seed: int = 99) -> None:
    """Move all parameters, so that a copy differs from what it is a copy of."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


# Acting


def act(policy: Policy, obs: Tree, seed: int | None = None) -> Act:
    """At the start of an episode; without a seed, greedily."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if isinstance(policy, StatefulPolicy):
        n = len(next(iter(_leaves(obs))))
        return policy.act(obs, policy.initial_state(n), torch.ones(n, dtype=torch.bool), generator=generator)
    return policy.act(obs, generator=generator)


def _leaves(tree: Tree) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for part in tree.values():
            yield from _leaves(part)
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def assert_members(space: gymnasium.Space[Any], actions: Tensor) -> None:
    """Each of `[N, ...]` is in the space."""
    for action in map(np.asarray, actions.numpy()):
        assert space.contains(action), f"{action!r} is not in {space}"


def assert_uniform(numbers: Tensor) -> None:
    """Numbers `[n]` spread evenly from 0 to 1; Kolmogorov and Smirnov's distance, which one draw of 1e4 exceeds."""
    n = len(numbers)
    distance = (numbers.double().sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(distance) < 2.23 / n**0.5


# What all learners with a replay have in common


def rollouts_of(
    splits: Sequence[int], action_space: gymnasium.Space[Any], observation_space: gymnasium.Space[Any] = OBS
) -> list[Rollout]:
    """A rollout of four environments and so many rows each, some of which are no steps."""
    return [
        random_rollout(action_space, observation_space, T=T, seed=i, dummy_rows=T % 2 == 0)
        for i, T in enumerate(splits)
    ]


SPLITS = ([1] * 24, [2, 7, 3, 12], [24])
"""Ways to get 24 rows."""


def assert_continues(
    make: Callable[[int], Learner],
    action_space: gymnasium.Space[Any],
    observation_space: gymnasium.Space[Any] = OBS,
    *,
    of: str,
    expected_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """State taken over by a learner of another seed gives the same bits, in metrics, in actions and in later states.

    Args:
        make: a learner of a seed.
        action_space: what it acts in.
        observation_space: what it sees.
        of: name of the optimiser that says how many gradient steps there are.
        expected_steps: how many are taken before the state is.
        monkeypatch: to count them with.
    """
    learner, fresh = make(0), make(9)
    rollouts = [random_rollout(action_space, observation_space, T=4, seed=seed) for seed in range(10)]
    taken = before_each_step(monkeypatch, getattr(learner, of), lambda: None)
    for rollout in rollouts[:5]:
        learner.update(rollout)
    assert len(taken) == expected_steps
    assert list(learner.parts()) == list(fresh.parts())
    for name, state in {name: copied(part.state_dict()) for name, part in learner.parts().items()}.items():
        fresh.parts()[name].load_state_dict(state)
    for seed, rollout in enumerate(rollouts[5:]):
        obs = tree_map(lambda leaf: leaf[0], rollout.all_obs)
        for chosen in (None, seed):
            assert torch.equal(act(learner.policy, obs, chosen).action, act(fresh.policy, obs, chosen).action)
        ours, theirs = ({name: float(value) for name, value in one.update(rollout).items()} for one in (learner, fresh))
        assert ours == theirs
    assert len(taken) > expected_steps
    for name, part in learner.parts().items():
        ours, theirs = (list(_leaves(copied(one.state_dict()))) for one in (part, fresh.parts()[name]))
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            equal = torch.equal(mine.nan_to_num(), other.nan_to_num()) if isinstance(mine, Tensor) else mine == other
            assert equal, name
