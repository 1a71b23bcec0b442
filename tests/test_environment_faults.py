"""Environments that break: each says what, which environment, episode and step, and ends with exit code 4."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.steps_collector import StepsCollector
from rlkit_core.environment import Environments
from rlkit_core.errors import EnvironmentFault
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.policy import Act, Policy
from rlkit_core.rollout import Tree, tree_leaves
from rlkit_core.seeding import SeedStream
from tests.probes import NativeCountingEnv, NoisyPolicy

LENGTH = 4  # steps per episode
SPACES: dict[str, gymnasium.Space[Any]] = {
    "box": spaces.Box(-10, 10, (2,), np.float32),
    "image": spaces.Box(0, 255, (2, 2), np.uint8),
    "discrete": spaces.Discrete(3, start=1),
    "multi": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Tuple((spaces.Discrete(2),))}),
}
NAN = float("nan")
OK: dict[str, Any] = {
    "box": np.zeros(2, np.float32),
    "image": np.zeros((2, 2), np.uint8),
    "discrete": 1,
    "multi": np.zeros(2, np.int64),
    "dict": {"a": np.zeros(2, np.float32), "b": (0,)},
}


def bang(*_: Any) -> Any:
    raise ZeroDivisionError("wheel came off")


Answer = Callable[[Any], Any]


def with_obs(obs: Any) -> Answer:
    return lambda answer: (obs, *answer[1:])


def with_part(index: int, value: Any) -> Answer:
    return lambda answer: (*answer[:index], value, *answer[index + 1 :])


# name: space, what `step` answers instead, part of the message
STEP_FAULTS: dict[str, tuple[str, Answer, str]] = {
    "obs nan": ("box", with_obs(np.array([0, NAN], np.float32)), "obs[1] is nan"),
    "obs inf": ("box", with_obs(np.array([np.inf, 0], np.float32)), "obs[0] is inf"),
    "obs -inf": ("box", with_obs(np.array([-np.inf, 0], np.float32)), "obs[0] is -inf"),
    "obs beyond float32": ("box", with_obs(np.array([0, 1e300])), "obs[1] is inf"),
    "obs shape": ("box", with_obs(np.zeros(3, np.float32)), "obs has shape (3,), its space (2,)"),
    "obs scalar": ("box", with_obs(0.0), "obs has shape (), its space (2,)"),
    "obs None": ("box", with_obs(None), "obs is None (NoneType), not an array of shape (2,)"),
    "obs text": ("box", with_obs(np.array(["a", "b"])), "obs has dtype <U1, its space float32"),
    "obs objects": ("box", with_obs(np.array([None, 1.0])), "obs is an array of shape (2,) and dtype object"),
    "obs ragged": ("box", with_obs([[1.0], [1.0, 2.0]]), "obs is a list of 2, not an array of shape (2,)"),
    "obs a dict": ("box", with_obs({"a": 1}), "obs is {'a': 1} (dict), not an array"),
    "image of floats": ("image", with_obs(np.full((2, 2), 0.5)), "obs has dtype float64, its space uint8"),
    "discrete too large": ("discrete", with_obs(4), "obs is 4 (int), not a member of Discrete(3, start=1)"),
    "discrete too small": ("discrete", with_obs(0), "obs is 0 (int), not a member of Discrete(3, start=1)"),
    "discrete a float": ("discrete", with_obs(1.5), "obs is 1.5 (float), not a member of Discrete(3, start=1)"),
    "multidiscrete out": ("multi", with_obs(np.array([0, 3])), "not a member of MultiDiscrete([2 3])"),
    "key missing": ("dict", with_obs({"a": np.zeros(2, np.float32)}), "obs has the keys ['a'], its space the keys"),
    "key too many": ("dict", with_obs({**OK["dict"], "c": 0}), "obs has the keys ['a', 'b', 'c'], its space"),
    "not a dict": ("dict", with_obs(np.zeros(2)), "and no keys, its space the keys ['a', 'b']"),
    "part nan": ("dict", with_obs({**OK["dict"], "a": np.array([NAN, 0], np.float32)}), "obs.a[0] is nan"),
    "part shape": ("dict", with_obs({**OK["dict"], "a": np.zeros(1, np.float32)}), "obs.a has shape (1,)"),
    "tuple a list": ("dict", with_obs({**OK["dict"], "b": [0]}), "obs.b is a list of 1, its space a tuple of 1"),
    "tuple too long": ("dict", with_obs({**OK["dict"], "b": (0, 0)}), "obs.b is a tuple of 2, its space a tuple of 1"),
    "tuple's part": ("dict", with_obs({**OK["dict"], "b": (2,)}), "obs.b.0 is 2 (int), not a member of Discrete(2)"),
    "reward nan": ("box", with_part(1, NAN), "reward is nan"),
    "reward inf": ("box", with_part(1, np.float64("-inf")), "reward is -inf"),
    "reward beyond float32": ("box", with_part(1, 1e39), "reward is 1e+39, beyond what float32 holds"),
    "reward None": ("box", with_part(1, None), "reward is None (NoneType), not a number"),
    "reward text": ("box", with_part(1, "1.0"), "reward is '1.0' (str), not a number"),
    "reward array": (
        "box",
        with_part(1, np.zeros(1)),
        "reward is an array of shape (1,) and dtype float64, not a number",
    ),
    "reward complex": ("box", with_part(1, 1j), "reward is 1j (complex), not a number"),
    "terminated None": ("box", with_part(2, None), "terminated is None (NoneType), not a bool"),
    "truncated 2": ("box", with_part(3, 2), "truncated is 2 (int), not a bool"),
    "info None": ("box", with_part(4, None), "info is None (NoneType), not a dict"),
    "four values": ("box", lambda answer: answer[:4], "step returned a tuple of 4, not (obs, reward, terminated,"),
    "no answer": ("box", lambda answer: None, "step returned None (NoneType), not (obs, reward, terminated,"),
    "raises": ("box", bang, "step raised ZeroDivisionError: wheel came off"),
}
RESET_FAULTS: dict[str, tuple[str, Answer, str]] = {
    "obs nan": ("box", with_obs(np.array([0, NAN], np.float32)), "obs[1] is nan"),
    "obs shape": ("box", with_obs(np.zeros((1, 2), np.float32)), "obs has shape (1, 2), its space (2,)"),
    "only obs": (
        "box",
        lambda answer: answer[0],
        "reset returned an array of shape (2,) and dtype float32, not (obs, info)",
    ),
    "info a list": ("box", lambda answer: (answer[0], []), "reset returned an info that is a list of 0, not a dict"),
    "raises": ("box", bang, "reset raised ZeroDivisionError: wheel came off"),
}


class BrokenEnv(gymnasium.Env[Any, Any]):
    """Behaves until a certain episode and step; which lane breaks is told by the number of those made before."""

    made = 0

    def __init__(self, fault: str, when: tuple[int, int] = (1, 2), lane: int = 1) -> None:
        call = RESET_FAULTS if when[1] == 0 else STEP_FAULTS
        self.space, self.answer, _ = call[fault]
        self.observation_space, self.action_space = SPACES[self.space], spaces.Discrete(2)
        self.when, self.breaks = when, BrokenEnv.made == lane
        BrokenEnv.made += 1
        self.episode, self.count = -1, 0

    def _maybe(self, answer: Any) -> Any:
        return self.answer(answer) if self.breaks and (self.episode, self.count) == self.when else answer

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.count = self.episode + 1, 0
        return self._maybe((OK[self.space], {}))

    def step(self, action: Any) -> Any:
        self.count += 1
        return self._maybe((OK[self.space], 1.0, self.count == LENGTH, False, {}))


gymnasium.register("Faulty-v0", BrokenEnv)


class Zeros(Policy):
    def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
        return Act(torch.zeros(tree_leaves(obs)[0][1].shape[0], dtype=torch.int64))


def collect_for_ever(collector: Any) -> None:
    for _ in range(9):
        collector.collect(Zeros())


def fault_of(
    fault: str,
    when: tuple[int, int],
    autoreset: str = "disabled",
    collector: str = "steps",
    vectorization: str = "sync",
) -> EnvironmentFault:
    BrokenEnv.made = 0
    env = GymnasiumConfig.model_validate(
        {
            "id": "Faulty-v0",
            "kwargs": {"fault": fault, "when": when},
            "vectorization": vectorization,
            "autoreset": autoreset,
            "timeout": 1.0,
        }
    )
    config = EpisodesConfig(num_envs=2) if collector == "episodes" else StepsConfig(num_envs=2, num_steps=5)
    built = config.build(env, SeedStream(0), "cpu")
    try:
        with pytest.raises(EnvironmentFault) as caught:
            collect_for_ever(built)
    finally:
        built.close()
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) <= 3
    return caught.value


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_step(fault: str, autoreset: str) -> None:
    error = fault_of(fault, (1, 2), autoreset)
    assert str(error).startswith("environment 1, episode 1, step 2: ")
    assert STEP_FAULTS[fault][2] in str(error)


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
@pytest.mark.parametrize("episode", [0, 1])
@pytest.mark.parametrize("fault", RESET_FAULTS)
def test_reset(fault: str, episode: int, autoreset: str) -> None:
    error = fault_of(fault, (episode, 0), autoreset)
    assert str(error).startswith(f"environment 1, episode {episode}, step 0: ")
    assert RESET_FAULTS[fault][2] in str(error)


@pytest.mark.parametrize("autoreset", ["disabled", "next_step", "same_step"])
@pytest.mark.parametrize("collector", ["steps", "episodes"])
@pytest.mark.parametrize("when", [(0, 1), (1, 1), (1, 3), (1, LENGTH), (2, LENGTH)])
@pytest.mark.parametrize("fault", ["raises", "obs nan", "obs shape", "reward inf"])
def test_first_middle_and_last_step(fault: str, when: tuple[int, int], collector: str, autoreset: str) -> None:
    error = fault_of(fault, when, autoreset, collector)
    assert str(error).startswith(f"environment 1, episode {when[0]}, step {when[1]}: ")
    assert STEP_FAULTS[fault][2] in str(error)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_messages_are_distinct() -> None:
    faults = {str(fault_of(fault, (1, 2))) for fault in STEP_FAULTS}
    faults |= {str(fault_of(fault, (1, 0))) for fault in RESET_FAULTS}
    assert len(faults) == len(STEP_FAULTS) + len(RESET_FAULTS) >= 25


def test_reset_in_whole_episodes() -> None:
    assert str(fault_of("obs nan", (1, 0), collector="episodes")).startswith("environment 1, episode 1, step 0: obs[1]")


class SelfRaising(BrokenEnv):
    """NaN in the observation, and then an error that comes of it."""

    def step(self, action: Any) -> Any:
        if self.breaks and (self.episode, self.count) == (1, 2):
            raise ValueError("action is nan")
        return super().step(action)


gymnasium.register("SelfRaising-v0", SelfRaising)


@pytest.mark.parametrize("config", [StepsConfig(num_envs=2, num_steps=20), EpisodesConfig(num_envs=2)])
def test_nan_is_named_rather_than_what_follows_from_it(config: Any) -> None:
    BrokenEnv.made = 0
    env = GymnasiumConfig.model_validate({"id": "SelfRaising-v0", "kwargs": {"fault": "obs nan"}})
    collector = config.build(env, SeedStream(0), "cpu")
    with pytest.raises(EnvironmentFault, match=r"environment 1, episode 1, step 2: obs\[1\] is nan"):
        collect_for_ever(collector)


def test_policy_errors_stay_what_they_are() -> None:
    class Typo(Zeros):
        def act(self, obs: Tree, *, generator: torch.Generator | None = None) -> Act:
            raise KeyError("typo")

    for config in (StepsConfig(num_envs=2), EpisodesConfig(num_envs=2)):
        collector = config.build(GymnasiumConfig.model_validate({"id": "CartPole-v1"}), SeedStream(0), "cpu")
        with pytest.raises(KeyError, match="typo"):
            collector.collect(Typo())


class NativeBroken(NativeCountingEnv):
    def __init__(self, change: Callable[..., Any], mode: AutoresetMode) -> None:
        super().__init__(3, mode)
        self.change, self.calls = change, 0

    def step(self, actions: Any) -> Any:
        self.calls += 1
        answer = super().step(actions)
        return self.change(*answer) if self.calls == 3 else answer


def set_at(array: Any, index: Any, value: float) -> Any:
    array[index] = value
    return array


NATIVE_FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "obs nan": (lambda o, r, m, u, i: (set_at(o, (2, 0), NAN), r, m, u, i), r"environment 2, .*: obs\[0\] is nan"),
    "reward nan": (lambda o, r, m, u, i: (o, set_at(r, 2, NAN), m, u, i), "environment 2, .*: reward is nan"),
    "obs shape": (
        lambda o, r, m, u, i: (o[:2], r, m, u, i),
        r"environments 0 to 2, .*: obs is an array of shape \(2, 3",
    ),
    "obs list": (lambda o, r, m, u, i: (o.tolist(), r, m, u, i), "environments 0 to 2, .*: obs is a list of 3"),
    "reward shape": (lambda o, r, m, u, i: (o, r[:, None], m, u, i), r"rewards is an array of shape \(3, 1\)"),
    "reward scalar": (lambda o, r, m, u, i: (o, 1.0, m, u, i), r"rewards is 1.0 \(float\)"),
    "terminated ints": (lambda o, r, m, u, i: (o, r, m.astype(int), u, i), "terminated is an array .*, not of bool"),
    "truncated None": (lambda o, r, m, u, i: (o, r, m, None, i), "truncated is None"),
    "four values": (
        lambda o, r, m, u, i: (o, r, m, i),
        "the vector environment returned a tuple of 4, not a tuple of 5",
    ),
    "raises": (lambda *_: bang(), "step raised ZeroDivisionError: wheel came off"),
}


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("fault", NATIVE_FAULTS)
def test_native(fault: str, mode: AutoresetMode) -> None:
    change, message = NATIVE_FAULTS[fault]
    environments = Environments(NativeBroken(change, mode), SeedStream(0), native=True)
    with pytest.raises(EnvironmentFault, match=message):
        StepsCollector(environments, 8, SeedStream(0), "cpu").collect(NoisyPolicy())


# Lane 0 in async: there the number of environments made is counted in the parent.
class AsyncBroken(BrokenEnv):
    def __init__(self, how: str, when: tuple[int, int] = (1, 2)) -> None:
        super().__init__("raises", (9, 9))
        self.how, self.when_async = how, when
        self.parent = os.getppid()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        answer = super().reset()
        self._act_up()
        return answer

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        return self._act_up() or answer

    def _act_up(self) -> Any:
        if (self.episode, self.count) != self.when_async:
            return None
        if self.how == "raise":
            bang()
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(7)
        if self.how == "hang":
            time.sleep(60)
        return (np.array([NAN, 0], np.float32) if self.how == "nan" else np.zeros(5, np.float32), 1.0, False, False, {})


gymnasium.register("AsyncBroken-v0", AsyncBroken)

ASYNC_FAULTS = [
    ("raise", (1, 2), r"environment [01], episode 1, step 2: step raised ZeroDivisionError: wheel came off"),
    ("raise", (0, 0), r"environment [01], episode 0, step 0: reset raised ZeroDivisionError: wheel came off"),
    ("shape", (1, 4), r"environment [01], episode 1, step 4: obs has shape \(5,\), its space \(2,\)"),
    ("nan", (0, 1), r"environment 0, episode 0, step 1: obs\[0\] is nan"),
    ("kill", (1, 2), r"environment [01], its process \d+ was killed by SIGKILL during step"),
    ("exit", (1, 2), r"environment [01], its process \d+ ended with status 7 during step"),
    ("kill", (0, 0), r"environment [01], its process \d+ was killed by SIGKILL during reset"),
    ("hang", (0, 2), r"environment 0, step has not answered for 0.5 seconds \(process \d+\)"),
]


@pytest.mark.parametrize(("how", "when", "message"), ASYNC_FAULTS)
def test_async(how: str, when: tuple[int, int], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"id": "AsyncBroken-v0", "kwargs": {"how": how, "when": when}, "vectorization": "async", "timeout": 0.5}
    collector = StepsConfig(num_envs=2, num_steps=5).build(GymnasiumConfig.model_validate(config), SeedStream(0), "cpu")
    pids = [process.pid for process in collector.environments.vector_env.processes]  # type: ignore[attr-defined]
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=message), warnings.catch_warnings():  # noqa: PT012
        warnings.simplefilter("error")
        collect_for_ever(collector)
    collector.close()
    collector.close()
    assert time.monotonic() - began < 8
    for pid in pids:
        with pytest.raises(ProcessLookupError):  # neither running nor a zombie
            os.kill(pid, 0)
    assert capfd.readouterr().err == ""


def test_workers_leave_signals_to_their_parent() -> None:
    env = GymnasiumConfig.model_validate({"id": "CartPole-v1", "vectorization": "async"})
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # what training installs; a forked worker has it too
    try:
        collector = StepsConfig(num_envs=2, num_steps=5).build(env, SeedStream(0), "cpu")
    finally:
        signal.signal(signal.SIGTERM, before)
    processes = collector.environments.vector_env.processes  # type: ignore[attr-defined]
    os.kill(processes[0].pid, signal.SIGINT)
    assert collector.collect(Zeros()).num_steps == 10
    os.kill(processes[1].pid, signal.SIGTERM)
    with pytest.raises(EnvironmentFault, match=r"environment 1, its process \d+ was killed by SIGTERM"):
        collector.collect(Zeros())
    collector.close()


@pytest.mark.parametrize("fault", ["raises", "obs nan", "reward inf", "obs shape"])
def test_evaluation(fault: str) -> None:
    BrokenEnv.made = 0
    env = GymnasiumConfig.model_validate({"id": "Faulty-v0", "kwargs": {"fault": fault, "when": (1, 2)}})
    with pytest.raises(EnvironmentFault, match="environment 1, episode 1, step 2: ") as caught:
        evaluate_policy(Zeros(), env, SeedStream(0), 40, 100)
    assert STEP_FAULTS[fault][2] in str(caught.value)


@pytest.mark.parametrize("when", [(0, 0), (1, 0), (0, LENGTH)])
def test_evaluation_sees_first_and_last_observations(when: tuple[int, int]) -> None:
    BrokenEnv.made = 0
    env = GymnasiumConfig.model_validate({"id": "Faulty-v0", "kwargs": {"fault": "obs nan", "when": when}})
    with pytest.raises(EnvironmentFault, match=r"environment 1, .*obs\[1\] is nan"):
        evaluate_policy(Zeros(), env, SeedStream(0), 40, 100)


def test_what_is_legal_passes() -> None:
    class Odd(gymnasium.Env[Any, Any]):
        """Float64 and lists for a float32 Box, numpy's bools, int and 0-d rewards."""

        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = spaces.Discrete(2)
        rewards = (1, True, np.float32(2), np.array(3.0), np.int64(4))

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.count = 0
            return [0.0, 0.5], {}

        def step(self, action: Any) -> Any:
            self.count += 1
            obs = np.zeros(2) if self.count % 2 else [0, 1]
            return obs, self.rewards[self.count - 1], np.bool_(self.count == 5), False, {}

    gymnasium.register("Odd-v0", Odd)
    env = GymnasiumConfig.model_validate({"id": "Odd-v0"})
    rollout = StepsConfig(num_envs=1, num_steps=5).build(env, SeedStream(0), "cpu").collect(Zeros())
    assert rollout.rewards[:, 0].tolist() == [1, 1, 2, 3, 4]
    assert rollout.next_obs[:, 0].tolist() == [[0, 0], [0, 1]] * 2 + [[0, 0]]
