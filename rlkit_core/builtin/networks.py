"""Config classes of the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlkit_core.component import NetworkConfig

if TYPE_CHECKING:
    import gymnasium

    from rlkit_core.network import Network


class MLPConfig(NetworkConfig):
    """Fully connected layers over the flattened observation."""

    name: ClassVar[str] = "mlp"

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((128,), description="width of each hidden layer, in units")
    activation: Literal["tanh", "relu"] = Field("relu", description="non-linearity after each hidden layer")
    init: Literal["orthogonal", "default"] = Field(
        "orthogonal", description="initial weights: orthogonal with gain sqrt(2) and zero bias, or torch's default"
    )

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it."""
        from rlkit_core.builtin.mlp import MLP

        return MLP(observation_space, self.hidden, self.activation, self.init)
