"""Config class of Gymnasium's environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlkit_core.component import EnvironmentConfig
from rlkit_core.config import did_you_mean, parse_arguments
from rlkit_core.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from rlkit_core.environment import Environments
    from rlkit_core.seeding import SeedStream


class WrapperConfig(BaseModel):
    """One of Gymnasium's wrappers, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="class in gymnasium.wrappers")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Understand `Name` and `Name:argument=value,argument=value`, as given on the command line."""
        if not isinstance(value, str):
            return value
        name, _, arguments = value.partition(":")
        return {**parse_arguments(arguments), "name": name}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the wrapper besides the environment."""
        return dict(self.model_extra or {})


class GymnasiumConfig(EnvironmentConfig):
    """An environment registered with Gymnasium."""

    name: ClassVar[str] = "gymnasium"

    id: str = Field(description="registered name, such as CartPole-v1")
    kwargs: dict[str, Any] = Field({}, description="arguments of the environment, such as sutton_barto_reward=true")
    wrappers: tuple[WrapperConfig, ...] = Field(
        (),
        description="Gymnasium's wrappers, from the inside out, such as FrameStackObservation:stack_size=4; "
        "may be given several times",
    )
    max_episode_steps: int | None = Field(
        None, ge=1, description="time limit in steps instead of the registered one; reaching it truncates the episode"
    )
    vectorization: Literal["auto", "native", "sync", "async"] = Field(
        "auto",
        description="how several are stepped: native: the environment's own vector class; sync: one after the other; "
        "async: a process each; auto: native where there is one and nothing speaks against it, else sync",
    )
    autoreset: Literal["disabled", "next_step", "same_step"] = Field(
        "disabled",
        description="Gymnasium's autoreset mode for sync and async; disabled: the collector resets, "
        "each episode from its own seed",
    )
    timeout: float = Field(
        120.0, gt=0, description="seconds after which an environment of async that does not answer is given up"
    )

    @field_validator("id")
    @classmethod
    def _no_import(cls, value: str) -> str:
        if ":" in value:
            module, _, env_id = value.partition(":")
            raise ValueError(
                f"should be a registered name: import its module first, with --import {module} --env {env_id}"
            )
        return value

    def resolve(self, num_envs: int) -> GymnasiumConfig:
        """The same with `vectorization` decided."""
        if self.vectorization != "auto":
            return self
        return self.model_copy(update={"vectorization": "sync" if self._against_native(self._spec()) else "native"})

    def reward_threshold(self) -> float | None:
        """The registered one."""
        threshold = self._spec().reward_threshold
        return None if threshold is None else float(threshold)

    def make(self, num_envs: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        """Make them."""
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        from rlkit_core.environment import Environments

        config = self.resolve(num_envs)
        spec = self._spec()
        with self._making():
            if config.vectorization == "native":
                return Environments(config._native(spec, num_envs), seeds, native=True)
            makers = [partial(config._make_one, spec, index, render_mode) for index in range(num_envs)]
            mode = AutoresetMode[config.autoreset.upper()]
            if config.vectorization == "async":
                from rlkit_core.builtin.workers import Workers

                worker_seeds = [seeds.integer("worker", i) for i in range(num_envs)]
                return Environments(Workers(makers, worker_seeds, mode, config.timeout), seeds, checked=True)
            return Environments(SyncVectorEnv(makers, copy=False, autoreset_mode=mode), seeds, checked=True)

    def make_evaluation(self, num_episodes: int, seeds: SeedStream, *, render_mode: str | None = None) -> Environments:
        """Native: a lane per episode. Else sync: what is evaluated now and then is not worth a process each."""
        native = self.resolve(num_episodes).vectorization == "native" and render_mode is None
        config = self.model_copy(update={"vectorization": "native" if native else "sync", "autoreset": "disabled"})
        return config.make(min(num_episodes, 256 if native else 16), seeds, render_mode=render_mode)

    def _make_one(self, spec: EnvSpec, index: int, render_mode: str | None) -> gymnasium.Env[Any, Any]:
        import gymnasium

        from rlkit_core.environment import CheckedEnv

        # The spec, not the id: a worker process that is spawned has not imported what registered the id.
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            spec,
            max_episode_steps=self.max_episode_steps,
            disable_env_checker=True,  # CheckedEnv does more
            **({} if render_mode is None else {"render_mode": render_mode}),  # not every environment knows it
            **self.kwargs,
        )
        for wrapper in self.wrappers:
            try:
                env = _wrapper_class(wrapper.name)(env, **wrapper.arguments())
            except UsageError:
                raise
            except Exception as error:
                text = " ".join(str(error).split())
                raise UsageError(
                    f"wrapper {wrapper.name} cannot be put around environment {self.id}: {type(error).__name__}: {text}"
                ) from error
        return CheckedEnv(env, index)

    def _native(self, spec: EnvSpec, num_envs: int) -> Any:
        import gymnasium

        reason = self._against_native(spec)
        if reason:
            raise UsageError(
                f"environment {self.id} cannot be vectorized natively: {reason}\ntake vectorization auto or sync"
            )
        arguments = dict(self.kwargs)
        if self.max_episode_steps is not None:
            arguments["max_episode_steps"] = self.max_episode_steps
        return gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **arguments)

    def _against_native(self, spec: EnvSpec) -> str | None:
        """Why the environment's own vector class cannot stand for it with these settings; None if it can."""
        from gymnasium.envs.registration import load_env_creator
        from gymnasium.error import DependencyNotInstalled

        if spec.vector_entry_point is None:
            return "it has no vector class"
        if self.wrappers or spec.additional_wrappers:
            return "its vector class takes no wrappers"
        creator: Any = spec.vector_entry_point
        try:
            creator = creator if callable(creator) else load_env_creator(creator)
        except (ImportError, DependencyNotInstalled) as error:
            return f"its vector class cannot be imported: {error}"
        parameters = inspect.signature(creator).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        arguments = {**spec.kwargs, **self.kwargs}
        if self.max_episode_steps is not None or spec.max_episode_steps is not None:
            arguments["max_episode_steps"] = None
        unknown = arguments.keys() - {parameter.name for parameter in parameters}
        return f"its vector class does not take {', '.join(sorted(unknown))}" if unknown else None

    def _spec(self) -> EnvSpec:
        import gymnasium

        try:
            return gymnasium.spec(self.id)
        except gymnasium.error.Error as error:
            hint = did_you_mean(self.id, list(gymnasium.registry)).removeprefix("; ")
            raise UsageError(
                f"there is no environment {self.id}: {str(error).splitlines()[0]}\n"
                f"{hint + ' ' if hint else ''}modules that register environments are named with --import"
            ) from error

    @contextmanager
    def _making(self) -> Iterator[None]:
        import gymnasium

        from rlkit_core.environment import LaneFault

        try:
            yield
        except (UsageError, EnvironmentFault):
            raise
        except LaneFault as error:
            lane, what = error.lane_and_what()
            raise EnvironmentFault(f"environment {lane}, {what}") from error
        except gymnasium.error.DependencyNotInstalled as error:
            raise UsageError(f"environment {self.id} needs more packages: {' '.join(str(error).split())}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(
                f"environment {self.id} cannot be made: {what}\nits arguments: {self.kwargs or 'as registered'}"
            ) from error


def _wrapper_class(name: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    from gymnasium import Wrapper, wrappers

    if name == "Autoreset":
        raise UsageError("wrapper Autoreset hides where episodes end\nenvironments are reset without it: leave it out")
    found = getattr(wrappers, name, None)
    if not (isinstance(found, type) and issubclass(found, Wrapper)):
        names = [n for n in dir(wrappers) if isinstance(getattr(wrappers, n, None), type)]
        raise UsageError(f"there is no wrapper {name} in gymnasium.wrappers{did_you_mean(name, names)}")
    return found
