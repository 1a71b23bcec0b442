"""The state of environments as plain numbers and arrays: what a checkpoint holds of them.

Environments are never pickled: that would run code when they are loaded, and many come back without their state.
There are three routes instead.

    own       the environment, or the vector environment, has `state_dict()` and `load_state_dict(state)`
    adapter   MuJoCo's and the ALE's own state calls; the arrays of Gymnasium's native CartPole
    replay    anything else that runs by itself (sync, async): the open episode is played again, from what it was
              reset with and the actions that were taken since

This is the one module that reads private attributes of other packages' environments; a test for each of them says
whether they still mean what they did. What an environment holds from one episode to the next, besides its generator,
follows no such rule: it is known of Gymnasium's normalising wrappers only.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

State = dict[str, Any]
"""Numbers, texts, numpy arrays, and lists and dicts of them."""


# ---- a single environment ----


def capture(env: gymnasium.Env[Any, Any]) -> State | None:
    """State of an environment and the wrappers around it, or None where its open episode has to be played again."""
    wrappers = list(_wrappers(env))
    base = env.unwrapped
    inside = _base_state(base) if all(map(_is_known, wrappers)) else None
    if inside is None:
        return None
    return {"wrappers": [_wrapper_state(wrapper) for wrapper in wrappers], "base": inside, "rng": rng_state(base)}


def restore(env: gymnasium.Env[Any, Any], state: State) -> None:
    """Give an environment that has been reset the state that `capture` read from one made the same way.

    Raises:
        Exception: of any class: the state does not fit.
    """
    for wrapper, values in zip(_wrappers(env), state["wrappers"], strict=True):
        _load_wrapper(wrapper, values)
    _load_base(env.unwrapped, state["base"])
    set_rng(env.unwrapped, state["rng"])


def lasting(env: gymnasium.Env[Any, Any]) -> list[State]:
    """What the wrappers keep from one episode to the next, running statistics: a replay begins with what they were."""
    return [_wrapper_state(wrapper) for wrapper in _wrappers(env) if _name(wrapper) in _LASTING]


def restore_lasting(env: gymnasium.Env[Any, Any], states: list[State]) -> None:
    """Give it back to an environment made the same way."""
    wrappers = [wrapper for wrapper in _wrappers(env) if _name(wrapper) in _LASTING]
    for wrapper, values in zip(wrappers, states, strict=True):
        _load_wrapper(wrapper, values)


def rng_state(env: Any) -> State | None:
    """State of an environment's own numpy generator, or None where it has none yet."""
    rng = getattr(env, "_np_random", None)  # not `np_random`, which would make one
    return dict(rng.bit_generator.state) if isinstance(rng, np.random.Generator) else None


def set_rng(env: Any, state: State | None) -> None:
    """Let an environment's generator go on from there."""
    if state is not None:
        env.np_random.bit_generator.state = state


_MODULE = "gymnasium.wrappers."
_EPISODE = {
    "OrderEnforcing": ("_has_reset",),
    "TimeLimit": ("_elapsed_steps",),
    "FrameStackObservation": ("obs_queue", "padding_value"),
    "TimeAwareObservation": ("timesteps",),
    "AtariPreprocessing": ("lives", "game_over", "obs_buffer"),
}
_LASTING = {"NormalizeObservation": ("obs_rms",), "NormalizeReward": ("return_rms", "discounted_reward")}
_STATELESS = {
    *("ClipAction", "RescaleAction", "DiscretizeAction", "TransformAction", "ClipReward", "TransformReward"),
    *("TransformObservation", "FilterObservation", "FlattenObservation", "GrayscaleObservation", "ResizeObservation"),
    *("ReshapeObservation", "RescaleObservation", "DtypeObservation", "DiscretizeObservation", "PassiveEnvChecker"),
}
_ATTRIBUTES = {**_EPISODE, **_LASTING, **dict.fromkeys(_STATELESS, ())}


def _wrappers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Wrapper[Any, Any, Any, Any]]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


def _name(wrapper: object) -> str:
    """Name of one of Gymnasium's own wrappers; empty for others."""
    cls = type(wrapper)
    return cls.__name__ if cls.__module__.startswith(_MODULE) else ""


def _is_known(wrapper: object) -> bool:
    return _name(wrapper) in _ATTRIBUTES


def _wrapper_state(wrapper: object) -> State:
    return {name: _plain(getattr(wrapper, name)) for name in _ATTRIBUTES[_name(wrapper)]}


def _plain(value: Any) -> Any:
    if hasattr(value, "mean") and hasattr(value, "var") and hasattr(value, "count"):  # gymnasium's RunningMeanStd
        return {"mean": np.array(value.mean), "var": np.array(value.var), "count": float(value.count)}
    if isinstance(value, (deque, list)):
        return [_plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return np.array(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return value


def _load_wrapper(wrapper: Any, values: State) -> None:
    for name in _ATTRIBUTES[_name(wrapper)]:
        value, present = values[name], getattr(wrapper, name)
        if hasattr(present, "mean") and hasattr(present, "count"):
            # The dtypes as they are here: numpy's scalars and 0-d arrays count alike.
            present.mean, present.var = (_like(value[key], getattr(present, key)) for key in ("mean", "var"))
            present.count = float(value["count"])
        elif isinstance(present, deque):
            setattr(wrapper, name, deque(value, maxlen=present.maxlen))
        elif type(present) in (bool, int, float) and type(value) is not type(present):
            raise ValueError(f"{name} is {value!r:.50}")
        else:
            setattr(wrapper, name, value)


def _like(value: Any, present: Any) -> Any:
    array = np.asarray(value)
    if array.shape != np.shape(present):
        raise ValueError(f"statistics of shape {array.shape}, not {np.shape(present)}")
    return array if isinstance(present, np.ndarray) else array[()]


def _base_state(base: Any) -> State | None:
    if _has_own(base):
        return {"own": base.state_dict()}
    if _is_a(base, "gymnasium.envs.mujoco.mujoco_env", "MujocoEnv"):
        return {"mujoco": _mujoco_state(base)}
    if _is_a(base, "ale_py.env", "AtariEnv"):
        # Its generators too: for sticky actions, and for episodes that are started without a seed.
        return {"ale": np.frombuffer(base.clone_state(include_rng=True).serialize(), np.uint8)}
    return None


def _load_base(base: Any, state: State) -> None:
    if "own" in state:
        base.load_state_dict(state["own"])
    elif "mujoco" in state:
        _load_mujoco(base, state["mujoco"])
    else:
        module = sys.modules["ale_py"]
        base.restore_state(module.ALEState(np.asarray(state["ale"], np.uint8).tobytes()))


def _has_own(env: object) -> bool:
    return callable(getattr(env, "state_dict", None)) and callable(getattr(env, "load_state_dict", None))


def _is_a(env: object, module: str, name: str) -> bool:
    """Whether it is an instance of that class, which need not be installed."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(env, cls)


def _mujoco_state(base: Any) -> State:
    """What MuJoCo integrates, and what it derived from that in the last step.

    Tasks read positions of bodies before they step. MuJoCo computed those before it integrated, so they are not what
    `mj_forward` would make of the state now: they are stored as they are.
    """
    mujoco = sys.modules["mujoco"]
    size = mujoco.mj_stateSize(base.model, mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.empty(size)
    mujoco.mj_getState(base.model, base.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {"state": state, "derived": {name: np.array(array) for name, array in _mujoco_arrays(base.data)}}


def _load_mujoco(base: Any, state: State) -> None:
    mujoco = sys.modules["mujoco"]
    vector = np.asarray(state["state"], np.float64)
    mujoco.mj_setState(base.model, base.data, vector, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, array in _mujoco_arrays(base.data):
        # Those of the constraints have as many rows as there are contacts; each step makes them anew before use.
        stored = state["derived"].get(name)
        if stored is not None and stored.shape == array.shape:
            array[...] = stored


def _mujoco_arrays(data: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Arrays of numbers only: no index or address is taken from a file."""
    for name in dir(data):
        # The solver's own (efc_, efm_, iefc_) live for one step.
        if name.startswith(("_", "e", "i")):
            continue
        array = getattr(data, name)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
            yield name, array


# ---- a vector environment as a whole ----

_CARTPOLE = ("state", "steps", "prev_done")


def capture_vector(env: Any) -> State | None:
    """State of a vector environment that steps its environments itself, or None where it cannot be read."""
    if _has_own(env):
        return {"own": env.state_dict()}
    if _is_a(env, "gymnasium.envs.classic_control.cartpole", "CartPoleVectorEnv"):
        return {"cartpole": {name: np.array(getattr(env, name)) for name in _CARTPOLE}, "rng": rng_state(env)}
    return None


def restore_vector(env: Any, state: State) -> None:
    """Give it back to one made the same way, that has been reset.

    Raises:
        Exception: of any class: the state does not fit.
    """
    if "own" in state:
        env.load_state_dict(state["own"])
        return
    for name in _CARTPOLE:
        stored, present = state["cartpole"][name], getattr(env, name)
        if stored.shape != present.shape or stored.dtype != present.dtype:
            raise ValueError(f"its {name} is of shape {stored.shape}, not {present.shape}")
        setattr(env, name, np.array(stored))
    set_rng(env, state["rng"])


# ---- replay ----


def play_again(
    env: gymnasium.Env[Any, Any], seed: int | None, rng: State | None, before: list[State], actions: Iterable[Any]
) -> Any:
    """Play an episode again; returns the last observation.

    Args:
        env: the environment.
        seed: what it was reset with.
        rng: without a seed, where the environment's generator stood before the reset.
        before: its `lasting` state before the reset.
        actions: those that were taken.
    """
    restore_lasting(env, before)
    if seed is None:
        set_rng(env.unwrapped, rng)
    obs, _ = env.reset(seed=seed)
    for action in actions:
        obs = env.step(action)[0]
    return obs
