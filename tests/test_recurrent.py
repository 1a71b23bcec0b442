"""Recurrent networks, and the policy on them: sequences, states, successors."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from rlkit_core.builtin.actor_critic import RecurrentActorCritic, actor_critic
from rlkit_core.builtin.chunks import minibatches
from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.episodes_collector import EpisodesCollector
from rlkit_core.builtin.explorations import GaussianConfig, StateDependentConfig
from rlkit_core.builtin.networks import CNNConfig, GRUConfig, LSTMConfig, MLPConfig
from rlkit_core.builtin.policies import MaskedConfig
from rlkit_core.builtin.recurrent import Recurrent
from rlkit_core.builtin.sequences import Sequences
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.component import NetworkConfig
from rlkit_core.errors import ConfigError, PluginError
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.hookspecs import hookimpl
from rlkit_core.network import RecurrentNetwork
from rlkit_core.registry import Registry
from rlkit_core.rollout import Rollout, Tree, tree_leaves, tree_map
from rlkit_core.seeding import SeedStream
from rlkit_core.testing import probes
from rlkit_core.training import train
from rlkit_ppo.config import PPOConfig
from tests.plugins.plugin_cases import build_from, one_thread  # noqa: F401
from tests.probes import MODES, counting

OBS = spaces.Box(-1, 1, (3,), np.float32)
BELOW = MLPConfig(hidden=(5,), activation="tanh")
CONFIGS: dict[str, Any] = {
    "lstm": LSTMConfig(hidden_size=7, below=BELOW),
    "gru": GRUConfig(hidden_size=7, below=BELOW),
    "lstm, torch's weights": LSTMConfig(hidden_size=7, below=BELOW, init="default"),
}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ALL_MODES = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
T, N = 9, 4


def build(config: NetworkConfig, space: Any = OBS) -> Recurrent:
    torch.manual_seed(0)
    network = config.build(space)
    assert isinstance(network, Recurrent)
    return network


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_state(network: RecurrentNetwork, num_envs: int = N) -> Tree:
    return tree_map(lambda leaf: numbers(*leaf.shape, seed=5), network.initial_state(num_envs))


def some_starts(seed: int, share: float = 0.25) -> Tensor:
    return torch.rand(T, N, generator=torch.Generator().manual_seed(seed)) < share


def close(a: Tree, b: Tree, atol: float = 1e-6) -> None:
    for (_, mine), (_, theirs) in zip(tree_leaves(a), tree_leaves(b), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


# ---- the network ----


@ALL
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_sequence_is_its_steps(config: NetworkConfig, share: float) -> None:
    """Against torch's cell, which knows one step only; where an episode starts, its state is zero."""
    network = build(config)
    is_lstm = isinstance(network.layer, nn.LSTM)
    cell: Any = (nn.LSTMCell if is_lstm else nn.GRUCell)(5, 7)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in network.layer.state_dict().items()})
    for seed in range(5):
        obs, starts = numbers(T, N, 3, seed=seed), some_starts(seed, share)
        first = some_state(network)
        features, last = network(obs.flatten(0, 1), first, starts)
        state, expected = first, []
        for t in range(T):
            kept = tree_map(lambda leaf: torch.where(starts[t].unsqueeze(1), 0.0, leaf), state)  # noqa: B023
            state = cell(network.below(obs[t]), kept)
            expected.append(state[0] if is_lstm else state)
        close(features, torch.cat(expected))
        close(last, state)
        halves, state = [], first
        for part in (slice(0, 4), slice(4, T)):
            some, state = network(obs[part].flatten(0, 1), state, starts[part])
            halves.append(some)
        close(torch.cat(halves), features)
        close(state, last)


@ALL
def test_gradients_go_back_to_the_first_row_and_across_no_start(config: NetworkConfig) -> None:
    network = build(config)
    obs = numbers(T, 2, 3).requires_grad_()
    starts = torch.zeros(T, 2, dtype=torch.bool)
    starts[4, 0] = True
    features, _ = network(obs.flatten(0, 1), some_state(network, 2), starts)
    features.view(T, 2, -1)[-1].sum().backward()  # type: ignore[no-untyped-call]
    assert obs.grad is not None
    reached = obs.grad.abs().sum(2) > 0
    assert reached[:, 1].all()
    assert reached[:, 0].tolist() == [False] * 4 + [True] * 5


def test_initial_weights() -> None:
    """Orthogonal gate by gate, and the forget gate open; no bias elsewhere."""
    layer: Any = build(CONFIGS["lstm"]).layer
    for gate in layer.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(7), rtol=0, atol=1e-5)
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, 7)
    assert (bias[1] == 1).all()
    assert (bias[[0, 2, 3]] == 0).all()
    assert layer.bias_ih_l0.view(4, 7)[0].eq(0).all()
    gru: Any = build(CONFIGS["gru"]).layer
    for gate in gru.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(7), rtol=0, atol=1e-5)


def test_it_stands_on_any_network_without_memory() -> None:
    image = spaces.Box(0, 255, (1, 12, 12), np.uint8)
    below = CNNConfig(filters=(4,), kernels=(4,), strides=(2,), hidden=(8,))
    network = build(GRUConfig(hidden_size=6, below=below), image)
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 12, 12), np.uint8))
    features, _ = network(obs, network.initial_state(2), torch.zeros(3, 2, dtype=torch.bool))
    assert features.shape == (6, network.num_features) == (6, 6)
    with pytest.raises(ValueError, match="does not remember, not gru"):
        LSTMConfig(below=GRUConfig())


# ---- values of rollouts ----


def policy_for(config: NetworkConfig, observation_space: Any, action_space: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    settings = {"exploration": GaussianConfig(), "orthogonal_init": False, **settings}
    policy = actor_critic(observation_space, action_space, config, **settings)
    assert isinstance(policy, RecurrentActorCritic)
    return policy


def value_after(policy: Any, obs: Tensor, state: Tree) -> tuple[Tensor, Tree]:
    """Value of one observation `[1, ...]`, and the state of the value's network after it."""
    network = policy.trunk if policy.trunk is not None else policy.trunks.networks[1]
    features, state = network(policy.preprocessor(obs), state, torch.zeros(1, 1, dtype=torch.bool))
    return policy.value_head(features).squeeze(), state


def by_hand(policy: Any, rollout: Rollout, lane: int, starts: list[bool]) -> list[tuple[Tensor, Tensor]]:
    """Value and value of the successor, row by row in one lane; None on dummy rows."""
    which = 0 if policy.trunk is not None else 1
    initial = policy.initial_state(1)[0][which]
    state = tree_map(lambda leaf: leaf[lane : lane + 1], rollout.state[0][which])
    found = []
    for t, start in enumerate(starts):
        if not rollout.valid[t, lane]:
            found.append(None)
            continue
        value, state = value_after(policy, rollout.obs[t, lane][None], initial if start and t else state)
        found.append((value, value_after(policy, rollout.next_obs[t, lane][None], state)[0]))
    return found  # type: ignore[return-value]


@ALL_MODES
@pytest.mark.parametrize("value_network", ["shared", "separate"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
@torch.no_grad()
def test_successors_are_valued_with_the_state_after_their_step(
    name: str, value_network: str, mode: AutoresetMode
) -> None:
    environments = counting("native", mode, False, 3)
    space = environments.observation_space
    policy = policy_for(CONFIGS[name], space, environments.action_space, value_network=value_network)
    collector = StepsCollector(environments, 7, SeedStream(0), "cpu")
    compared = 0
    for _ in range(4):
        rollout = collector.collect(policy)
        values, next_values = policy.values(rollout)
        for lane in range(3):
            starts = (rollout.obs[:, lane, 2] == 0).tolist()  # the step, as the environments say it
            for t, expected in enumerate(by_hand(policy, rollout, lane, starts)):
                if expected is not None:
                    close((values[t, lane], next_values[t, lane]), expected, 1e-5)
                    compared += 1
                    if t < 6 and not (rollout.terminated | rollout.truncated)[t, lane]:
                        assert torch.equal(next_values[t, lane], values[t + 1, lane])
    assert compared > 50


@torch.no_grad()
def test_values_of_whole_episodes() -> None:
    lanes = [counting("sync", AutoresetMode.DISABLED, False, 1, first=lane) for lane in range(3)]
    policy = policy_for(CONFIGS["lstm"], lanes[0].observation_space, lanes[0].action_space)
    collector = EpisodesCollector(lanes, SeedStream(0), "cpu")
    for _ in range(3):
        rollout = collector.collect(policy)
        values, next_values = policy.values(rollout)
        starts = (rollout.obs[:, 0, 2] == 0).tolist()
        for t, expected in enumerate(by_hand(policy, rollout, 0, starts)):
            close((values[t, 0], next_values[t, 0]), expected, 1e-5)


# ---- acting and learning see the same ----


def recorded(policy: Any, collector: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Rollout, Tensor]:
    """A rollout, and the log-probabilities `[T, N]` at the moment of acting."""
    log_probs: list[Tensor] = []
    sample = policy.distribution.sample

    def spy(params: Any, generator: torch.Generator) -> Any:
        raw = sample(params, generator)
        params, chosen = torch.as_tensor(params), torch.as_tensor(raw)
        log_probs.append(params.log_softmax(1).gather(1, chosen.unsqueeze(1)).squeeze(1))
        return raw

    with monkeypatch.context() as patch:
        patch.setattr(policy.distribution, "sample", spy)
        return collector.collect(policy), torch.stack(log_probs)


def lane_of(sequences: Sequences, rollout: Rollout) -> int:
    """Which environment the only sequence is from."""
    [lane] = [
        n for n in range(3) if all(torch.equal(sequences.obs[k][:, 0], rollout.obs[k][:, n]) for k in rollout.obs)
    ]
    return lane


@ALL_MODES
@pytest.mark.parametrize("value_network", ["shared", "separate"])
def test_the_first_ratio_is_1(value_network: str, mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory, mask and normalisation: what PPO starts from is what acted, in rollout after rollout."""
    env = GymnasiumConfig(id=probes.MaskedRecall.id, autoreset=mode.name.lower(), kwargs={"delay": 3})
    collector = StepsConfig(num_envs=3, num_steps=11).build(env, SeedStream(0), "cpu")
    config = PPOConfig(
        network=CONFIGS["lstm"],
        policy=MaskedConfig(),
        value_network=value_network,
        minibatch_size=8,
        epochs=2,
        learning_rate=3e-3,
        normalize_observations=True,
    )
    learner = build_from(config, collector.action_space, collector.observation_space)
    parts: list[dict[str, Any]] = []
    losses = learner.losses

    def spy(obs: Any, taken: Tensor, *rows: Tensor, clip_range: float) -> Any:
        objective, metrics = losses(obs, taken, *rows, clip_range=clip_range)
        parts.append({"obs": obs, "taken": taken, "old_log_probs": rows[-1]})
        return objective, metrics

    monkeypatch.setattr(learner, "losses", spy)
    dummies = 0
    for _ in range(4):
        rollout, acted = recorded(learner.policy, collector, monkeypatch)
        dummies += int((~rollout.valid).sum())
        parts.clear()
        learner.update(rollout)
        # Each minibatch is one environment's sequence, whole, and each epoch sees all.
        assert len(parts) == 6
        for epoch in (parts[:3], parts[3:]):
            lanes = [lane_of(part["obs"], rollout) for part in epoch]
            assert sorted(lanes) == [0, 1, 2]
            for part, lane in zip(epoch, lanes, strict=True):
                valid = rollout.valid[:, lane]
                assert torch.equal(part["taken"], rollout.actions[valid, lane])
                close((part["old_log_probs"] - acted[valid, lane]).exp(), torch.ones(int(valid.sum())), 1e-5)
    assert bool(dummies) == (mode is AutoresetMode.NEXT_STEP)


def test_sequences_are_picked_with_their_rows() -> None:
    """Rows of some environments, in any order, are those of the whole that belong to them."""
    valid = ~some_starts(3)
    obs, state = numbers(T, N, 3), numbers(N, 2)
    sequences = Sequences(obs, some_starts(4), valid, (state,))
    rows = obs[valid]
    for lanes in (torch.tensor([2]), torch.tensor([3, 0]), torch.arange(N)):
        some = sequences.lanes(lanes)
        assert torch.equal(rows[sequences.rows(lanes)], some.obs[some.valid])
        assert torch.equal(some.state[0], state[lanes])
        assert torch.equal(some.starts, sequences.starts[:, lanes])
    seen = torch.cat([part[1] for part in minibatches(3, sequences, rows, generator=None)])
    assert torch.equal(seen.sort(0).values, rows.sort(0).values)
    assert len(list(minibatches(100, sequences, rows, generator=None))) == N
    nothing = torch.ones(1, 2, dtype=torch.bool)
    nothing[0, 0] = False
    only = Sequences(obs[:1, :2], ~nothing & False, nothing, (state[:2],))
    assert [len(part[1]) for part in minibatches(2, only, rows[:1], generator=None)] == [1]


def test_what_is_not_valid_is_not_learned_from() -> None:
    """Garbage on dummy rows changes no number and no gradient."""
    policy = policy_for(CONFIGS["lstm"], OBS, spaces.Discrete(3))
    valid, starts = torch.ones(T, N, dtype=torch.bool), torch.zeros(T, N, dtype=torch.bool)
    valid[3, 1], starts[4, 1] = False, True
    obs, state = numbers(T, N, 3), policy.initial_state(N)[0]
    taken = torch.arange(T * N - 1) % 3
    answers = []
    for garbage in (0.0, 50.0):
        obs[3, 1] = garbage
        answer = policy.evaluate(Sequences(obs, starts, valid, state), taken)
        gradients = torch.autograd.grad(sum(part.sum() for part in answer), policy.parameters())
        answers.append((*answer, *gradients))
    close(answers[0], answers[1], 1e-5)


def test_exploration_keeps_its_state_beside_the_networks() -> None:
    policy = policy_for(CONFIGS["gru"], OBS, spaces.Box(-1, 1, (2,), np.float32), exploration=StateDependentConfig())
    generator = torch.Generator().manual_seed(0)
    state = policy.initial_state(N)
    starts = torch.ones(N, dtype=torch.bool)
    functions, ages, memories = [], [], []
    for t in range(4):
        starts = torch.tensor([t == 0, t in (0, 2), t == 0, t == 0])
        act = policy.act(numbers(N, 3, seed=t), state, starts, generator=generator)
        state = act.state
        functions.append(state[1][0])
        ages.append(state[1][1].tolist())
        memories.append(state[0][0])
    assert torch.equal(functions[0][0], functions[3][0])
    assert not torch.equal(functions[1][1], functions[2][1])
    assert ages[-1] == [4, 2, 4, 4]
    fresh = policy.act(numbers(N, 3, seed=2), policy.initial_state(N), torch.ones(N, dtype=torch.bool))
    close(memories[2][1], fresh.state[0][0][1])
    assert not torch.allclose(memories[2][0], fresh.state[0][0][0], atol=1e-3)


def test_evaluation_has_a_state_of_its_own() -> None:
    """Twice the same, also in the midst of training, which it does not disturb."""
    env = GymnasiumConfig(id=probes.Recall.id)
    collector, other = (StepsConfig(num_envs=2, num_steps=7).build(env, SeedStream(0), "cpu") for _ in range(2))
    policy = policy_for(CONFIGS["lstm"], collector.observation_space, collector.action_space)
    first = evaluate_policy(policy, env, SeedStream(1), 30, 100)
    for _ in range(3):
        mine, theirs = collector.collect(policy), other.collect(policy)
        assert evaluate_policy(policy, env, SeedStream(1), 30, 100) == first
        assert torch.equal(mine.actions, theirs.actions)
        close(mine.state, theirs.state, 0.0)


# ---- who may use it ----

FEED_FORWARD = [name for name in Registry().names("algorithm") if name not in ("a2c", "ppo", "reinforce")]


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_algorithms_that_learn_from_single_steps_refuse_it(name: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=f"lstm is recurrent, and {name} learns from single steps") as refusal:
        train({"algorithm": {"name": name, "network": "lstm"}}, env="CartPole-v1", run_dir=tmp_path / "run")
    assert "take a network that does not remember" in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_all_three_without_replay_take_it() -> None:
    assert set(FEED_FORWARD) == {"dqn", "sac", "td3"}


# ---- a stranger's ----


class Sum(RecurrentNetwork):
    """The sum of what was seen in the episode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width
        self.scale = nn.Parameter(torch.ones(width))

    def initial_state(self, num_envs: int) -> Tree:
        return {"sum": torch.zeros(num_envs, self.num_features)}

    def forward(self, obs: Tree, state: Tree, starts: Tensor) -> tuple[Tensor, Tree]:  # type: ignore[override]
        x, total = torch.as_tensor(obs).view(*starts.shape, -1), state["sum"]
        rows = []
        for t in range(len(starts)):
            total = torch.where(starts[t].unsqueeze(1), 0.0, total) + x[t]
            rows.append(total * self.scale)
        return torch.cat(rows), {"sum": total}


class SumConfig(NetworkConfig):
    """The sum of what was seen."""

    name: ClassVar[str] = "sum"
    recurrent: ClassVar[bool] = True

    def build(self, observation_space: Any) -> Any:
        """Build it."""
        return Sum(observation_space.shape[0])


class LyingConfig(SumConfig):
    """The same, which does not say so."""

    name: ClassVar[str] = "lying"
    recurrent: ClassVar[bool] = False


@pytest.fixture
def plugin() -> Any:
    module = ModuleType("stranger_recurrent")
    module.rlkit_register = hookimpl(lambda: [SumConfig, LyingConfig])  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", ["a2c", "ppo", "reinforce"])
def test_a_strangers_network_works_the_same_way(name: str, plugin: Any, tmp_path: Any) -> None:
    """The sum of the cue and the wish for an answer is all that the answer needs."""
    collector = EpisodesConfig(num_envs=8) if name == "reinforce" else StepsConfig(num_envs=8, num_steps=20)
    algorithm = {"name": name, "network": "sum", "collector": collector, "learning_rate": 0.03}
    result = train(
        {"algorithm": algorithm},
        plugins=[plugin],
        env=probes.Recall.id,
        total_steps=6_000,
        eval_every=6_000,
        eval_episodes=20,
        tracker="none",
        progress="none",
        run_dir=tmp_path / "run",
    )
    assert result.evaluation_return == 1.0


def test_a_network_that_does_not_say_what_it_is_is_named(plugin: Any) -> None:
    with pytest.raises(PluginError, match="network lying does not build what its config says"):
        actor_critic(OBS, spaces.Discrete(2), LyingConfig(), exploration=GaussianConfig())
