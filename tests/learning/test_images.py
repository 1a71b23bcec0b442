"""Learning from small images, and from a Dict of an image and a vector, with the convolutional network."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from learning_cases import fit, one_thread  # noqa: F401

from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.networks import CNNConfig
from rlkit_core.component import AlgorithmConfig
from rlkit_core.evaluation import evaluate_policy
from rlkit_core.registry import Registry
from rlkit_core.seeding import SeedStream

SIZE = 12
NETWORK = CNNConfig(filters=(8, 8), kernels=(4, 3), strides=(2, 2), hidden=(32,))


class WhichSide(gymnasium.Env[Any, Any]):
    """A bright spot in the left or right half of a dark image says which action is right; a step is an episode.

    Args:
        vector: the observation is a Dict, and a number beside the image turns the sides around where it is negative.
        render_mode: of no use.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, vector: bool = False, render_mode: str | None = None) -> None:
        self.vector, self.render_mode = vector, render_mode
        self.observation_space: gymnasium.Space[Any] = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
        if vector:
            number = spaces.Box(-1, 1, (1,), np.float32)
            self.observation_space = spaces.Dict({"camera": self.observation_space, "switch": number})
        self._right = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        image = self.np_random.integers(0, 60, (SIZE, SIZE, 1), np.uint8)
        row, column = self.np_random.integers(SIZE, size=2)
        image[row, column] = 255
        self._right = int(column >= SIZE // 2)
        if not self.vector:
            return image, {}
        switch = self.np_random.choice([-1.0, 1.0])
        self._right = self._right if switch > 0 else 1 - self._right
        return {"camera": image, "switch": np.array([switch], np.float32)}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs = self.observation_space.sample()
        return obs, float(action == self._right), True, False, {}


for _vector, _id in ((False, "test/WhichSide-v0"), (True, "test/WhichSideSwitched-v0")):
    gymnasium.register(_id, entry_point=WhichSide, kwargs={"vector": _vector})


def score(name: str, env_id: str, total_steps: int, **settings: Any) -> float:
    """Share of new images that are answered right after training."""
    config = Registry().get("algorithm", name)(network=NETWORK, **settings)
    assert isinstance(config, AlgorithmConfig)
    learner = fit(config, env_id, total_steps)
    return evaluate_policy(learner.policy, GymnasiumConfig(id=env_id), SeedStream(1), 200, 10).mean


@pytest.mark.thorough
def test_ppo_learns_from_images() -> None:
    """Nearly always right on new images (0.99 to 1 in four seeds), where guessing is right half of the time."""
    assert score("ppo", "test/WhichSide-v0", 8_000, learning_rate=2e-3, epochs=4) > 0.9


@pytest.mark.thorough
def test_dqn_learns_from_a_replay_of_images_and_vectors() -> None:
    assert score("dqn", "test/WhichSideSwitched-v0", 4_000, warmup_steps=200, learning_rate=2e-3) > 0.9
