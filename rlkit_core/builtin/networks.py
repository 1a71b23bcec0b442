"""Config classes of the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlkit_core.component import NetworkConfig

if TYPE_CHECKING:
    import gymnasium

    from rlkit_core.network import Network, ParallelNetworks


class MLPConfig(NetworkConfig):
    """Fully connected layers over the flattened observation."""

    name: ClassVar[str] = "mlp"

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (128,),
        description="width of each hidden layer, in units",
        json_schema_extra={"search": [[64], [128], [64, 64], [128, 128], [256, 256]]},
    )
    activation: Literal["tanh", "relu"] = Field("relu", description="non-linearity after each hidden layer")
    init: Literal["orthogonal", "default"] = Field(
        "orthogonal",
        description="initial weights: orthogonal with gain sqrt(2) and zero bias, or torch's default",
        json_schema_extra={"search": False},
    )

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it."""
        from rlkit_core.builtin.mlp import MLP

        return MLP(observation_space, self.hidden, self.activation, self.init)

    def build_parallel(self, observation_space: gymnasium.Space[Any], number: int) -> ParallelNetworks:
        """Build several in one."""
        from rlkit_core.builtin.mlp import MLP, ParallelMLP

        return ParallelMLP([MLP(observation_space, self.hidden, self.activation, self.init) for _ in range(number)])


_Sizes = tuple[Annotated[int, Field(ge=1)], ...]


class CNNConfig(NetworkConfig):
    """Convolutions over images, scaled inside, then fully connected layers; the network of Nature's DQN."""

    name: ClassVar[str] = "cnn"

    filters: _Sizes = Field((32, 64, 64), min_length=1, description="filters of each convolution")
    kernels: _Sizes = Field((8, 4, 3), description="width of their kernels, in pixels")
    strides: _Sizes = Field((4, 2, 1), description="their steps, in pixels")
    hidden: _Sizes = Field(
        (512,),
        description="width of each hidden layer behind the convolutions, where other observations join, in units",
        json_schema_extra={"search": [[256], [512]]},
    )
    init: Literal["orthogonal", "default"] = Field(
        "orthogonal",
        description="initial weights: orthogonal with gain sqrt(2) and zero bias, or torch's default",
        json_schema_extra={"search": False},
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if not len(self.filters) == len(self.kernels) == len(self.strides):
            raise ValueError("filters, kernels and strides should be lists of the same length")
        return self

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it."""
        from rlkit_core.builtin.cnn import CNN

        return CNN(observation_space, self.filters, self.kernels, self.strides, self.hidden, self.init)


class _RecurrentConfig(NetworkConfig):
    recurrent: ClassVar[bool] = True

    hidden_size: int = Field(
        64,
        ge=1,
        description="numbers that it remembers with, in units",
        json_schema_extra={"search": [32, 64, 128, 256]},
    )
    below: NetworkConfig = Field(
        MLPConfig(hidden=(64,), activation="tanh"),
        description="the network between the observation and it, which does not remember",
    )
    init: Literal["orthogonal", "default"] = Field(
        "orthogonal",
        description="initial weights: orthogonal for each gate and zero biases, or torch's default",
        json_schema_extra={"search": False},
    )

    @field_validator("below")
    @classmethod
    def _check_below(cls, below: NetworkConfig) -> NetworkConfig:
        if below.recurrent:
            raise ValueError(f"should be a network that does not remember, not {below.name}")
        return below


class LSTMConfig(_RecurrentConfig):
    """Long short-term memory above another network: remembers what was seen in the episode."""

    name: ClassVar[str] = "lstm"

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it."""
        from torch import nn

        from rlkit_core.builtin.recurrent import Recurrent

        below = self.below.build(observation_space)
        return Recurrent(below, nn.LSTM(below.num_features, self.hidden_size), self.init)


class GRUConfig(_RecurrentConfig):
    """Gated recurrent units above another network: as `lstm`, with fewer weights."""

    name: ClassVar[str] = "gru"

    def build(self, observation_space: gymnasium.Space[Any]) -> Network:
        """Build it."""
        from torch import nn

        from rlkit_core.builtin.recurrent import Recurrent

        below = self.below.build(observation_space)
        return Recurrent(below, nn.GRU(below.num_features, self.hidden_size), self.init)
