"""Config classes of exploration; the noise itself is in `rlkit_core.builtin.noise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rlkit_core.component import Deviation, ExplorationConfig

if TYPE_CHECKING:
    from rlkit_core.exploration import Exploration

_STD = (
    "deviation of the noise, bounds being at -1 and 1 (sac: before its tanh); where it is learned, what it starts from"
)


class GaussianConfig(ExplorationConfig):
    """Independent normal noise in each step."""

    name: ClassVar[str] = "gaussian"
    has_state: ClassVar[bool] = False

    std: float = Field(1.0, gt=0, description=_STD)

    def build(self, num_features: int, num_actions: int, deviation: Deviation) -> Exploration:
        """Build it."""
        from rlkit_core.builtin.noise import GaussianNoise

        return GaussianNoise(num_features, num_actions, self.std, deviation)


class OrnsteinUhlenbeckConfig(ExplorationConfig):
    """Noise that drifts: an Ornstein-Uhlenbeck process in each environment, which starts anew in each episode."""

    name: ClassVar[str] = "ou"

    std: float = Field(0.5, gt=0, description=_STD)
    theta: float = Field(
        0.15, gt=0, description="return to zero per environment step: noise k steps apart correlates by exp(-theta k)"
    )

    def build(self, num_features: int, num_actions: int, deviation: Deviation) -> Exploration:
        """Build it."""
        from rlkit_core.builtin.noise import OrnsteinUhlenbeckNoise

        return OrnsteinUhlenbeckNoise(num_features, num_actions, self.std, deviation, theta=self.theta)


class StateDependentConfig(ExplorationConfig):
    """Generalised state-dependent exploration (gSDE): noise that is a random linear function of the features."""

    name: ClassVar[str] = "gsde"

    std: float = Field(
        0.14,
        gt=0,
        description="deviation of each weight of the random function; where the algorithm learns it, what it starts "
        "from",
    )
    resample_every: int | None = Field(
        None, ge=1, description="environment steps after which a new function is drawn; none: once an episode"
    )

    def build(self, num_features: int, num_actions: int, deviation: Deviation) -> Exploration:
        """Build it."""
        from rlkit_core.builtin.noise import StateDependentNoise

        return StateDependentNoise(num_features, num_actions, self.std, deviation, resample_every=self.resample_every)
