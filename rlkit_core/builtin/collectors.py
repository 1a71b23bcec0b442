"""Config classes of the collectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rlkit_core.component import CollectorConfig, EnvironmentConfig

if TYPE_CHECKING:
    from rlkit_core.collector import Collector
    from rlkit_core.seeding import SeedStream


class StepsConfig(CollectorConfig):
    """A fixed number of steps in each of several environments, episodes going on from rollout to rollout."""

    name: ClassVar[str] = "steps"

    num_envs: int = Field(
        8,
        ge=1,
        le=65_536,
        description="environments stepped together",
        json_schema_extra={"search": [4, 8, 16, 32]},
    )
    num_steps: int = Field(
        32,
        ge=1,
        description="steps per environment and rollout",
        json_schema_extra={"search": [5, 8, 16, 32, 64, 128, 256]},
    )

    def build(self, env: EnvironmentConfig, seeds: SeedStream, device: str) -> Collector:
        """Build it with its environments."""
        from rlkit_core.builtin.steps_collector import StepsCollector

        return StepsCollector(env.make(self.num_envs, seeds.stream("environment")), self.num_steps, seeds, device)


class EpisodesConfig(CollectorConfig):
    """One whole episode per environment and rollout, all of them laid end to end in one column."""

    name: ClassVar[str] = "episodes"
    whole_episodes: ClassVar[bool] = True

    num_envs: int = Field(
        1,
        ge=1,
        le=65_536,
        description="environments, each giving one episode per rollout",
        json_schema_extra={"search": [1, 2, 4, 8, 16]},
    )

    def build(self, env: EnvironmentConfig, seeds: SeedStream, device: str) -> Collector:
        """Build it with its environments."""
        from rlkit_core.builtin.episodes_collector import EpisodesCollector

        lanes = [env.make(1, seeds.stream("environment", lane)) for lane in range(self.num_envs)]
        return EpisodesCollector(lanes, seeds, device)
