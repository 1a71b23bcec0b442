"""The parts that come along. They are registered like any plugin's: by entry points and this hook."""

from __future__ import annotations

from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl


@hookimpl
def rlkit_register() -> list[type[Component]]:
    """All built-in parts."""
    from rlkit_core.builtin.collectors import EpisodesConfig, StepsConfig
    from rlkit_core.builtin.environments import GymnasiumConfig
    from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
    from rlkit_core.builtin.executors import ProcessesConfig
    from rlkit_core.builtin.explorations import GaussianConfig, OrnsteinUhlenbeckConfig, StateDependentConfig
    from rlkit_core.builtin.networks import CNNConfig, GRUConfig, LSTMConfig, MLPConfig
    from rlkit_core.builtin.policies import ActorCriticConfig, MaskedConfig
    from rlkit_core.builtin.trackers import MlflowConfig, NoTrackerConfig, TensorboardConfig

    return [
        DiscountedConfig,
        LambdaConfig,
        StepsConfig,
        EpisodesConfig,
        MLPConfig,
        CNNConfig,
        LSTMConfig,
        GRUConfig,
        ActorCriticConfig,
        MaskedConfig,
        GaussianConfig,
        OrnsteinUhlenbeckConfig,
        StateDependentConfig,
        GymnasiumConfig,
        MlflowConfig,
        TensorboardConfig,
        NoTrackerConfig,
        ProcessesConfig,
    ]
