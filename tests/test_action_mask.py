"""The policy `masked`: forbidden actions have probability 0, everywhere."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from rlkit_core.builtin.action_mask import ActionMask
from rlkit_core.builtin.actor_critic import ActorCritic
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.episodes_collector import EpisodesCollector
from rlkit_core.builtin.explorations import GaussianConfig
from rlkit_core.builtin.networks import LSTMConfig, MLPConfig
from rlkit_core.builtin.policies import MaskedConfig
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.component import Setup
from rlkit_core.environment import CheckedEnv, Environments
from rlkit_core.errors import EnvironmentFault, UsageError
from rlkit_core.evaluation import play_episodes
from rlkit_core.seeding import SeedStream
from rlkit_core.testing import probes
from tests.plugins.plugin_cases import one_thread  # noqa: F401
from tests.probes import MODES

N = 6
ACTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {  # with the shape of the mask
    "Discrete": (spaces.Discrete(4, start=-2), (4,)),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 4, 3]), (9,)),
    "MultiDiscrete of equal sizes": (spaces.MultiDiscrete([3, 3]), (2, 3)),
    "MultiDiscrete of two dimensions": (spaces.MultiDiscrete([[2, 3], [4, 2]]), (11,)),
}
EVERY_SPACE = pytest.mark.parametrize("name", ACTIONS)


def sizes_of(space: Any) -> list[int]:
    return [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec.reshape(-1)]


def observation_space(shape: tuple[int, ...], mask: str = "binary", **more: Any) -> spaces.Dict:
    kinds = {
        "binary": spaces.MultiBinary(shape),
        "bool": spaces.Box(0, 1, shape, np.bool_),
        "float": spaces.Box(0.0, 1.0, shape, np.float32),
    }
    return spaces.Dict({"where": spaces.Box(-1, 1, (3,), np.float32), "action_mask": kinds[mask], **more})


def policy_for(
    obs_space: Any, action_space: Any, network: Any = None, mask_key: str = "action_mask", **settings: Any
) -> Any:
    torch.manual_seed(0)
    setup = Setup(obs_space, action_space, N, 1000, "cpu", SeedStream(0))
    return MaskedConfig(mask_key=mask_key).build(
        setup,
        network or MLPConfig(hidden=(8,)),
        exploration=GaussianConfig(),
        orthogonal_init=False,
        **settings,
    )


def some_masks(space: Any, shape: tuple[int, ...], seed: int, n: int = N) -> Tensor:
    """Random ones, `[n, *shape]`, in which each choice has an action left."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in sizes_of(space):
        part = torch.rand(n, size, generator=generator) < 0.5
        part[torch.arange(n), torch.randint(size, (n,), generator=generator)] = True
        parts.append(part)
    return torch.cat(parts, 1).view(n, *shape)


def observations(masks: Tensor, seed: int = 0, dtype: torch.dtype = torch.int8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"where": torch.randn(len(masks), 3, generator=generator), "action_mask": masks.to(dtype)}


def chosen(space: Any, actions: Tensor) -> Tensor:
    """`[n, choices]`, counted from 0."""
    if isinstance(space, spaces.Discrete):
        return (actions - int(space.start)).unsqueeze(1)
    return actions.flatten(1).long()


def logits_of(policy: ActorCritic, obs: dict[str, Tensor]) -> Tensor:
    """Before the mask."""
    assert policy.trunk is not None
    return policy.policy_head(policy.trunk(obs["where"]))  # type: ignore[no-any-return]


@EVERY_SPACE
@pytest.mark.parametrize(("mask", "dtype"), [("binary", torch.int8), ("bool", torch.bool), ("float", torch.float32)])
@pytest.mark.parametrize("n", [N, 300], ids=["arrays", "tensors"])
def test_forbidden_actions_are_not_taken(name: str, mask: str, dtype: torch.dtype, n: int) -> None:
    """Neither when sampling nor as the mode, which is the best of those that are allowed."""
    space, shape = ACTIONS[name]
    policy = policy_for(observation_space(shape, mask), space)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for seed in range(1 if n > N else 40):
        masks = some_masks(space, shape, seed, n)
        obs = observations(masks, seed, dtype)
        allowed = masks.flatten(1).split(sizes_of(space), 1)
        for how in (generator, None):
            act = policy.act(obs, generator=how)
            assert act.refused is None
            for action in act.action.numpy():
                assert space.contains(action if action.shape else action.item())
            for i, part in enumerate(chosen(space, act.action).T):
                assert allowed[i][torch.arange(n), part].all()
                seen |= {(i, int(number)) for number in part}
        logits = logits_of(policy, obs).split(sizes_of(space), 1)
        for i, part in enumerate(chosen(space, act.action).T):
            assert torch.equal(part, logits[i].masked_fill(~allowed[i], -torch.inf).argmax(1))
    assert len(seen) == sum(sizes_of(space))  # all that may be taken is


@EVERY_SPACE
def test_probabilities_and_entropies_are_those_of_what_is_left(name: str) -> None:
    """In float64, over the allowed actions alone; gradients pass through no forbidden one."""
    space, shape = ACTIONS[name]
    policy = policy_for(observation_space(shape), space)
    for seed in range(10):
        masks = some_masks(space, shape, seed)
        obs = observations(masks, seed)
        act = policy.act(obs, generator=torch.Generator().manual_seed(seed))
        log_probs, entropies, values = policy.evaluate(obs, act.action)
        log_prob, entropy = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
        parts = logits_of(policy, obs).double().split(sizes_of(space), 1)
        for i, (logits, allowed) in enumerate(zip(parts, masks.flatten(1).split(sizes_of(space), 1), strict=True)):
            for row in range(N):
                left = logits[row][allowed[row]].softmax(0)
                where = allowed[row].nonzero().squeeze(1).tolist().index(int(chosen(space, act.action)[row, i]))
                log_prob[row] += left[where].log()
                entropy[row] -= (left * left.log()).sum()
        torch.testing.assert_close(log_probs.double(), log_prob, rtol=0, atol=1e-5)
        torch.testing.assert_close(entropies.double(), entropy, rtol=0, atol=1e-5)
        torch.testing.assert_close(values, policy.value(obs))
        (entropies.sum() + log_probs.sum()).backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in policy.parameters())
        unused = ~masks.flatten(1).any(0)
        assert not policy.policy_head.bias.grad[unused].any()
        policy.zero_grad()


def test_where_one_action_is_left_nothing_is_uncertain() -> None:
    space, shape = ACTIONS["Discrete"]
    policy = policy_for(observation_space(shape), space)
    obs = observations(torch.eye(4, dtype=torch.bool))
    actions = policy.act(obs, generator=torch.Generator().manual_seed(0)).action
    assert actions.tolist() == [-2, -1, 0, 1]
    log_probs, entropies, _ = policy.evaluate(obs, actions)
    assert log_probs.tolist() == entropies.tolist() == [0.0] * 4


def test_the_network_does_not_see_the_mask() -> None:
    """Nor does normalisation; what is one entry without it is no Dict."""
    space, shape = ACTIONS["Discrete"]
    obs_space = observation_space(shape, "float")
    policy = policy_for(obs_space, space, normalize_observations=True)
    assert policy.mask.seen_space == obs_space["where"]
    obs = observations(some_masks(space, shape, 0), dtype=torch.float32)
    policy.update_normalization(obs)
    assert policy.preprocessor.normalizer.mean_0.shape == (3,)
    assert policy.preprocessor.normalizer.count == N
    two = observation_space(shape, "float", kind=spaces.Discrete(3))
    policy = policy_for(two, space)
    assert policy.mask.seen_space == spaces.Dict([("kind", two["kind"]), ("where", two["where"])])
    obs["kind"] = torch.arange(N) % 3
    assert policy.act(obs).action.shape == (N,)
    assert policy.value({**obs, "action_mask": torch.zeros(N, 4)}).equal(policy.value(obs))


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no Dict": (spaces.Box(-1, 1, (4,)), spaces.Discrete(2), "observations have no 'action_mask'"),
    "another key": (
        spaces.Dict({"a": spaces.Discrete(2), "mask": spaces.MultiBinary(2)}),
        spaces.Discrete(2),
        "another name: --policy.mask-key",
    ),
    "too short": (observation_space((3,)), spaces.Discrete(4), r"does not fit actions Discrete\(4\)\n.*shape \(4,\)"),
    "no numbers": (
        spaces.Dict({"a": spaces.Discrete(2), "action_mask": spaces.Discrete(2)}),
        spaces.Discrete(2),
        "does not fit",
    ),
    "nothing but the mask": (
        spaces.Dict({"action_mask": spaces.MultiBinary(2)}),
        spaces.Discrete(2),
        "nothing but the mask",
    ),
    "continuous actions": (observation_space((2,)), spaces.Box(-1, 1, (2,)), "cannot be masked"),
    "yes or no": (observation_space((2,)), spaces.MultiBinary(2), "cannot be masked"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    obs_space, action_space, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        ActionMask(obs_space, action_space, "action_mask")


def test_the_key_is_a_setting() -> None:
    obs_space = spaces.Dict({"where": spaces.Box(-1, 1, (3,), np.float32), "legal": spaces.MultiBinary(2)})
    policy = policy_for(obs_space, spaces.Discrete(2), mask_key="legal")
    obs = {"where": torch.zeros(2, 3), "legal": torch.eye(2, dtype=torch.int8)}
    assert policy.act(obs).action.tolist() == [0, 1]


# ---- masks that forbid everything ----


class Stuck(gymnasium.Env[Any, Any]):
    """Episodes of three steps, whose last observation allows nothing; from some episode on its third one does not."""

    observation_space = observation_space((2,))
    action_space = spaces.Discrete(2)

    def __init__(self, stuck_from: int) -> None:
        self.stuck_from, self.episode, self.count = stuck_from, -1, 0

    def _obs(self) -> Any:
        stuck = self.count == 3 or (self.count == 2 and self.episode >= self.stuck_from)
        return {"where": np.zeros(3, np.float32), "action_mask": np.full(2, not stuck, np.int8)}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self._obs(), 1.0, self.count == 3, False, {}


def stuck(mode: AutoresetMode, *stuck_from: int) -> Environments:
    makers = [lambda i=i, k=k: CheckedEnv(Stuck(k), i) for i, k in enumerate(stuck_from)]
    return Environments(SyncVectorEnv(makers, autoreset_mode=mode), SeedStream(0))


def collect(collector: Any, policy: Any) -> None:
    """Three rollouts; successors have values, also where nothing is allowed any more."""
    for _ in range(3):
        assert policy.values(collector.collect(policy))[1].isfinite().all()


FAULT = r"environment 1, episode 2, step 2: obs\.action_mask forbids every action"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("network", [MLPConfig(hidden=(4,)), LSTMConfig(hidden_size=4)], ids=lambda n: n.name)
def test_the_environment_is_blamed_where_nothing_is_allowed(mode: AutoresetMode, network: Any) -> None:
    """But not for its last observation, which nobody answers."""
    policy = policy_for(Stuck.observation_space, Stuck.action_space, network)
    collector = StepsCollector(stuck(mode, 9, 2), 4, SeedStream(0), "cpu")
    assert collector.collect(policy).num_steps >= 6
    with pytest.raises(EnvironmentFault, match=FAULT):
        collect(collector, policy)
    with pytest.raises(EnvironmentFault, match=FAULT):
        play_episodes(policy, stuck(mode, 9, 2), 20, 100)
    assert play_episodes(policy, stuck(mode, 9, 9), 6, 100).returns == (3.0,) * 6
    lanes = [stuck(mode, 9), stuck(mode, 2)]
    with pytest.raises(EnvironmentFault, match=FAULT):
        collect(EpisodesCollector(lanes, SeedStream(0), "cpu"), policy)


def test_a_choice_of_several_may_be_the_one_without_actions() -> None:
    space, shape = ACTIONS["MultiDiscrete"]
    policy = policy_for(observation_space(shape), space)
    masks = some_masks(space, shape, 0)
    masks[3, 2:6] = False
    refused = policy.act(observations(masks)).refused
    assert refused is not None
    assert refused[0].tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("probe", [probes.Masked, probes.MaskedRecall], ids=lambda probe: probe.__name__)
def test_forbidden_actions_are_errors_of_the_probes(probe: type[probes.Probe]) -> None:
    """What the learning tests go by."""
    with GymnasiumConfig(id=probe.id).make(16, SeedStream(0)) as environments:
        environments.reset()
        with pytest.raises(EnvironmentFault, match="is forbidden by the mask"):
            environments.step(np.zeros(16, np.int64))
