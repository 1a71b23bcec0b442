"""Config classes of policies with a value function; the policies are in `rlkit_core.builtin.actor_critic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from rlkit_core.component import ExplorationConfig, NetworkConfig, PolicyConfig, Setup

if TYPE_CHECKING:
    from rlkit_core.builtin.actor_critic import ActorCritic


class ActorCriticConfig(PolicyConfig):
    """Policy and value are last layers on one network or on two; any action of the space may be taken."""

    name: ClassVar[str] = "actor-critic"

    def build(
        self, setup: Setup, network: NetworkConfig, *, exploration: ExplorationConfig, **settings: Any
    ) -> ActorCritic:
        """Build it."""
        from rlkit_core.builtin.actor_critic import actor_critic

        spaces = setup.observation_space, setup.action_space
        return actor_critic(*spaces, network, exploration=exploration, device=setup.device, **settings)


class MaskedConfig(PolicyConfig):
    """The same, but an entry of the observation says which actions may be taken: the others have probability 0."""

    name: ClassVar[str] = "masked"

    mask_key: str = Field(
        "action_mask", description="entry of the Dict observation with a number per action, 0 where it is forbidden"
    )

    def build(
        self, setup: Setup, network: NetworkConfig, *, exploration: ExplorationConfig, **settings: Any
    ) -> ActorCritic:
        """Build it."""
        from rlkit_core.builtin.action_mask import ActionMask
        from rlkit_core.builtin.actor_critic import actor_critic

        spaces = setup.observation_space, setup.action_space
        mask = ActionMask(*spaces, self.mask_key)
        return actor_critic(*spaces, network, exploration=exploration, mask=mask, device=setup.device, **settings)
