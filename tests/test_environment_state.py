"""States of environments: read from one and given to another, they go on as one; and what others' attributes mean."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest

from rlkit_core.environment_state import (
    capture,
    capture_vector,
    lasting,
    play_again,
    restore,
    restore_vector,
    rng_state,
    set_rng,
)

MUJOCO = [
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5"),
    *("InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"),
]
ATARI = ["ALE/Pong-v5", "ALE/Breakout-v5"]
"""Frames are repeated, actions stick at random; Breakout has lives."""


def make(name: str, wrappers: tuple[Any, ...] = (), **kwargs: Any) -> Any:
    if name.startswith("ALE/"):
        gymnasium.register_envs(ale_py)
    env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def go_on(env: Any, actions: list[Any]) -> list[Any]:
    """What it answers; a new episode, without a seed, after each end."""
    answers = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        answers.append((np.array(obs).tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            answers.append(np.array(env.reset()[0]).tobytes())
    return answers


def drawn(env: Any, count: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


WRAPPED = {
    "statistics": (gymnasium.wrappers.NormalizeObservation, gymnasium.wrappers.NormalizeReward),
    "frames": (lambda env: gymnasium.wrappers.FrameStackObservation(env, 3),),
    "time": (gymnasium.wrappers.TimeAwareObservation,),
    "clipped": (gymnasium.wrappers.ClipAction, lambda env: gymnasium.wrappers.ClipReward(env, -1, 1)),
}


@pytest.mark.parametrize(
    ("name", "wrappers"),
    [
        *((name, "none") for name in (*MUJOCO, *ATARI)),
        *((name, w) for name in ("Hopper-v5", "Ant-v5") for w in WRAPPED),
    ],
)
def test_what_was_captured_goes_on_to_the_same_bits(name: str, wrappers: str) -> None:
    # Short episodes, so that the generator for the next ones counts too.
    kwargs = {"max_episode_steps": 60}
    env, another = (make(name, WRAPPED.get(wrappers, ()), **kwargs) for _ in range(2))
    env.reset(seed=3)
    go_on(env, drawn(env, 95))
    state = capture(env)
    assert state is not None
    actions = drawn(env, 130, seed=1)
    another.reset(seed=4)
    go_on(another, actions[:7])
    restore(another, state)
    again = make(name, WRAPPED.get(wrappers, ()), **kwargs)
    again.reset(seed=3)
    restore(again, state)
    expected = go_on(env, actions)
    assert go_on(again, actions) == expected
    # Also in one that has lived: nothing of that is left.
    assert go_on(another, actions) == expected
    for one in (env, another, again):
        one.close()


def test_atari_as_it_is_preprocessed() -> None:
    def wrap(env: Any) -> Any:
        env = gymnasium.wrappers.AtariPreprocessing(env, frame_skip=4)
        return gymnasium.wrappers.FrameStackObservation(env, 4)

    def build() -> Any:
        return make("ALE/Breakout-v5", (wrap,), frameskip=1, max_num_frames_per_episode=800)

    env, another = build(), build()
    env.reset(seed=1)
    go_on(env, drawn(env, 70))
    state = capture(env)
    assert state is not None
    another.reset(seed=2)
    restore(another, state)
    actions = drawn(env, 250, seed=5)
    assert go_on(another, actions) == go_on(env, actions)


PLAYED = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "LunarLander-v3", "FrozenLake-v1")


@pytest.mark.parametrize(("name", "seed"), [*((name, s) for name in PLAYED for s in (7, None)), ("CarRacing-v3", 7)])
def test_what_is_played_again_is_the_same(name: str, seed: int | None) -> None:
    env, another = make(name), make(name)
    env.reset(seed=2)
    env.reset(seed=11)
    before = rng_state(env.unwrapped)
    env.reset(seed=seed)
    actions = drawn(env, 15)
    for action in actions:
        obs = env.step(action)[0]
    assert capture(env) is None
    another.reset(seed=99)
    same = play_again(another, seed, before, [], actions)
    assert np.array(same).tobytes() == np.array(obs).tobytes()
    more = drawn(env, 40, seed=1)
    assert go_on(another, more) == go_on(env, more)


def test_running_statistics_are_played_again_from_where_they_stood() -> None:
    def build() -> Any:
        return make("Pendulum-v1", WRAPPED["statistics"])

    env, another = build(), build()
    env.reset(seed=2)
    go_on(env, drawn(env, 230))
    before = lasting(env)
    env.reset(seed=5)
    actions = drawn(env, 20, seed=4)
    for action in actions:
        obs = env.step(action)[0]
    assert np.array_equal(play_again(another, 5, None, before, actions), obs)
    more = drawn(env, 230, seed=1)
    another.reset(seed=1)
    env.reset(seed=1)
    assert go_on(another, more) == go_on(env, more)


def test_the_native_cartpole() -> None:
    """By private attributes, whose names and meaning are those of the gymnasium at hand: every one counts."""

    def build() -> Any:
        return gymnasium.make_vec("CartPole-v1", num_envs=5, vectorization_mode="vector_entry_point")

    env, another = build(), build()
    env.reset(seed=1)
    generator = np.random.default_rng(0)
    for _ in range(60):
        env.step(generator.integers(0, 2, 5))
    state = capture_vector(env)
    assert state is not None
    another.reset(seed=2)
    restore_vector(another, state)
    actions = generator.integers(0, 2, (300, 5))
    for action in actions:
        one, other = env.step(action), another.step(action)
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one[:4], other[:4], strict=True))


@pytest.mark.parametrize("what", ["state", "steps", "prev_done"])
def test_a_state_of_other_lanes_is_refused(what: str) -> None:
    three, five = (gymnasium.make_vec("CartPole-v1", n, "vector_entry_point") for n in (3, 5))
    for env in (three, five):
        env.reset(seed=1)
    state, wrong = capture_vector(five), capture_vector(three)
    assert state is not None
    assert wrong is not None
    state["cartpole"][what] = wrong["cartpole"][what]
    with pytest.raises(ValueError, match=f"its {what} is of shape"):
        restore_vector(five, state)


def test_a_generator_that_is_not_there_yet_is_not_made() -> None:
    env = make("CartPole-v1").unwrapped
    assert rng_state(env) is None
    set_rng(env, None)
    assert rng_state(env) is None


def test_a_wrapper_of_a_stranger_is_played_again() -> None:
    class Mine(gymnasium.Wrapper[Any, Any, Any, Any]):
        pass

    assert capture(make("Hopper-v5")) is not None
    assert capture(make("Hopper-v5", (Mine,))) is None
