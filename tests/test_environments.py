"""Choosing environments: vector class, arguments, wrappers, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.workers import Workers
from rlkit_core.environment import CheckedEnv, Environments, first_non_finite
from rlkit_core.errors import UsageError
from rlkit_core.seeding import SeedStream


def config(env_id: str = "CartPole-v1", **settings: Any) -> GymnasiumConfig:
    return GymnasiumConfig.model_validate({"id": env_id, **settings})


def make(env_id: str = "CartPole-v1", num_envs: int = 2, **settings: Any) -> Environments:
    return config(env_id, **settings).make(num_envs, SeedStream(0))


class TwoArmed(gymnasium.Env[Any, Any]):
    observation_space: gymnasium.Space[Any] = spaces.Discrete(2)
    action_space: gymnasium.Space[Any] = spaces.Discrete(2)

    def __init__(self, odds: float = 0.5) -> None:
        self.odds = odds

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return 0, {}

    def step(self, action: Any) -> Any:
        return 1, self.odds, False, False, {}


class TwoArmedVector(VectorEnv[Any, Any, Any]):
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, **others: Any) -> None:
        self.num_envs, self.others = num_envs, others
        self.single_observation_space = self.single_action_space = spaces.Discrete(2)


class NoLimitVector(TwoArmedVector):
    def __init__(self, num_envs: int, odds: float = 0.5) -> None:
        super().__init__(num_envs)


class SilentVector(TwoArmedVector):
    metadata = {}  # noqa: RUF012


class Picky(TwoArmed):
    def __init__(self) -> None:
        raise ZeroDivisionError("no luck\ntoday")


def register(name: str, entry: Any = TwoArmed, **settings: Any) -> str:
    gymnasium.register(f"{name}-v0", entry, **settings)
    return f"{name}-v0"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"id": "CartPole-v1"}, "native"),
        ({"id": "CartPole-v1", "max_episode_steps": 50}, "native"),
        ({"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}, "native"),
        ({"id": "CartPole-v1", "kwargs": {"gravity": 5.0}}, "sync"),
        ({"id": "CartPole-v1", "wrappers": ["ClipReward:min_reward=-1"]}, "sync"),
        ({"id": "CartPole-v1", "vectorization": "async"}, "async"),
        ({"id": "Acrobot-v1"}, "sync"),
        ({"id": register("Anything", vector_entry_point=TwoArmedVector, max_episode_steps=9)}, "native"),
        ({"id": register("NoLimit", vector_entry_point=NoLimitVector, max_episode_steps=9)}, "sync"),
        ({"id": register("Limitless", vector_entry_point=NoLimitVector), "kwargs": {"odds": 1.0}}, "native"),
        ({"id": "Limitless-v0", "max_episode_steps": 3}, "sync"),
        ({"id": register("Missing", vector_entry_point="no_such_module:Vector")}, "sync"),
    ],
)
def test_auto(settings: dict[str, Any], expected: str) -> None:
    resolved = GymnasiumConfig.model_validate(settings).resolve(2)
    assert resolved.vectorization == expected  # this is what the run's record keeps
    assert resolved.resolve(2) == resolved


def test_classes() -> None:
    assert isinstance(make().vector_env, CartPoleVectorEnv)
    assert isinstance(make(vectorization="sync").vector_env, SyncVectorEnv)
    with make(vectorization="async") as environments:
        assert isinstance(environments.vector_env, Workers)
    native = make(max_episode_steps=7)
    assert native.vector_env.max_episode_steps == 7  # type: ignore[attr-defined]
    assert make(max_episode_steps=7, kwargs={"sutton_barto_reward": True}).vector_env._sutton_barto_reward  # type: ignore[attr-defined]


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_autoreset_mode(vectorization: str, autoreset: str) -> None:
    with make(vectorization=vectorization, autoreset=autoreset) as environments:
        assert environments.autoreset_mode is AutoresetMode[autoreset.upper()]


def single(environments: Environments) -> Any:
    return environments.vector_env.envs[0]  # type: ignore[attr-defined]


def test_arguments_and_wrappers() -> None:
    environments = make("Pendulum-v1", kwargs={"g": 5.0}, max_episode_steps=3)
    assert single(environments).unwrapped.g == 5.0
    environments.reset()
    truncated = [environments.step(np.zeros((2, 1), np.float32)).truncated.all() for _ in range(3)]
    assert truncated == [False, False, True]

    stacked = make(wrappers=["TimeLimit:max_episode_steps=3", "FrameStackObservation:stack_size=4"])
    assert stacked.observation_space.shape == (4, 4)
    assert stacked.reset().shape == (2, 4, 4)
    assert isinstance(single(stacked), CheckedEnv)  # outermost: it sees what the collector gets
    assert isinstance(single(stacked).env, gymnasium.wrappers.FrameStackObservation)  # from the inside out
    clipped = make("Pendulum-v1", wrappers=[{"name": "ClipReward", "min_reward": -0.5, "max_reward": 0.5}])
    clipped.reset()
    assert (clipped.step(np.full((2, 1), 2, np.float32)).rewards >= -0.5).all()


def test_environment_without_render_mode() -> None:
    assert make(register("Plain"), kwargs={"odds": 0.25}).step_in_episode.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "CartPol-v1"}, r"there is no environment CartPol-v1: .*\n.*CartPole-v1.*--import"),
        ({"id": "CartPole-v99"}, "there is no environment CartPole-v99"),
        ({"id": "nowhere/Thing-v0"}, r"there is no environment nowhere/Thing-v0: .*\n.*--import"),
        (
            {"id": "Acrobot-v1", "vectorization": "native"},
            "Acrobot-v1 cannot be vectorized natively: it has no vector class",
        ),
        (
            {"id": "CartPole-v1", "vectorization": "native", "kwargs": {"gravity": 1}},
            "its vector class does not take gravity",
        ),
        (
            {"id": "CartPole-v1", "vectorization": "native", "wrappers": ["ClipReward"]},
            "its vector class takes no wrappers",
        ),
        ({"id": "Acrobot-v1", "kwargs": {"typo": 1}}, "environment Acrobot-v1 cannot be made: TypeError: .*typo"),
        ({"id": register("Picky", Picky)}, r"environment Picky-v0 cannot be made: ZeroDivisionError: no luck today"),
        ({"id": register("Gone", "no_such_module:Env")}, "environment Gone-v0 cannot be made: .*no_such_module"),
        ({"id": register("Silent", vector_entry_point=SilentVector)}, "does not say how it resets: .* is None"),
        ({"id": "Acrobot-v1", "wrappers": ["FrameStackObservatio:stack_size=4"]}, "no wrapper .*FrameStackObservation"),
        (
            {"id": "Acrobot-v1", "wrappers": ["FrameStackObservation:size=4"]},
            "wrapper FrameStackObservation cannot be .*size",
        ),
        ({"id": "Acrobot-v1", "wrappers": ["AtariPreprocessing"]}, "wrapper AtariPreprocessing cannot be put around"),
        ({"id": "Acrobot-v1", "wrappers": ["Autoreset"]}, "wrapper Autoreset hides where episodes end"),
        ({"id": "Acrobot-v1", "wrappers": ["np"]}, "there is no wrapper np"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*AutoresetMode metadata")
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        GymnasiumConfig.model_validate(settings).make(2, SeedStream(0))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_missing_packages_are_named() -> None:
    class Needy(TwoArmed):
        def __init__(self) -> None:
            raise gymnasium.error.DependencyNotInstalled("engine is not installed, run `pip install engine`")

    with pytest.raises(UsageError, match=r"environment Needy-v0 needs more packages: .*pip install engine"):
        make(register("Needy", Needy))


def test_id_with_module_asks_for_import() -> None:
    with pytest.raises(ValueError, match="--import some_module --env Thing-v0"):
        config("some_module:Thing-v0")


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_same_seed_same_episodes(vectorization: str) -> None:
    first = [make(num_envs=3, vectorization=vectorization).reset() for _ in range(2)]
    assert np.array_equal(*first)
    other = config(vectorization=vectorization).make(3, SeedStream(1)).reset()
    assert not np.isclose(first[0], other).any()
    assert len(np.unique(first[0], axis=0)) == 3


def test_reset_in_mid_episode_starts_all_anew() -> None:
    for settings in ({}, {"vectorization": "sync"}, {"vectorization": "sync", "autoreset": "next_step"}):
        environments = make(num_envs=2, **settings)
        first = environments.reset().copy()
        for _ in range(30):
            environments.step(np.zeros(2, np.int64))
        again = environments.reset()
        assert (np.abs(again) <= 0.05).all()
        assert not np.array_equal(first, again)
        assert environments.step_in_episode.tolist() == [0, 0]
        assert environments.return_so_far.tolist() == [0, 0]
        assert environments.step(np.zeros(2, np.int64)).valid.all()


def test_zero_step_episodes_of_a_native_class() -> None:
    """A vector class may end an episode in the very row that resets it: no step was taken, so there is no episode."""

    class Abrupt(TwoArmedVector):
        def __init__(self) -> None:
            super().__init__(1)
            self.observation_space = self.action_space = spaces.MultiDiscrete([2])
            self.ends = iter([True, True, False, True])

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros(1, np.int64), {}

        def step(self, actions: Any) -> Any:
            return np.zeros(1, np.int64), np.ones(1), np.array([next(self.ends)]), np.zeros(1, bool), {}

    environments = Environments(Abrupt(), SeedStream(0), native=True)
    environments.reset()
    steps = [environments.step(np.zeros(1, np.int64)) for _ in range(4)]
    assert [step.valid[0] for step in steps] == [True, False, False, True]
    assert [step.terminated[0] for step in steps] == [True, False, False, True]
    assert [len(step.episodes) for step in steps] == [1, 0, 0, 1]
    assert [episode for step in steps for episode in step.episodes] == [(1.0, 1), (1.0, 1)]


def test_first_non_finite() -> None:
    tree = {"a": np.zeros((2, 3, 2), np.float64), "b": (np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float16))}
    assert first_non_finite(tree, "obs") is None
    tree["a"][:] = 1e308  # whose sum is not finite, but all terms are
    assert first_non_finite(tree, "obs") is None
    tree["a"][1, 2, 1] = -np.inf
    assert first_non_finite(tree, "obs") == ((1, 2, 1), "obs.a[1] is -inf")
    tree["b"][1][1, 0] = np.nan
    assert first_non_finite(tree, "obs") == ((1, 0), "obs.b.1 is nan")  # the earlier place, though a later leaf


class GlobalNoise(gymnasium.Env):
    """Draws its rewards from numpy's global generator, as a careless environment does."""

    observation_space = gymnasium.spaces.Discrete(1)
    action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, float(np.random.rand()), False, False, {}


def test_workers_do_not_share_their_global_generators():
    if "GlobalNoise-v0" not in gymnasium.registry:
        gymnasium.register("GlobalNoise-v0", entry_point=GlobalNoise, max_episode_steps=10)
    config = GymnasiumConfig(id="GlobalNoise-v0", vectorization="async")
    draws = []
    for _ in range(2):
        with config.make(3, SeedStream(0)) as environments:
            environments.reset()
            draws.append(environments.step(np.zeros(3, dtype=np.int64)).rewards.tolist())
    assert len(set(draws[0])) == 3
    assert draws[0] == draws[1]
