"""What the time of training goes to in every shipped preset: returns, observations, and the rest.

    python tests/benchmarks/shares.py [ALGORITHM ...] [--seconds 6]

A few seconds of training with each preset, and with each algorithm's defaults, in its first environment, profiled as by
`rlkit run --profile`. `returns` is the return estimator. `observations` is what rlkit does with what comes from the
environment besides handing it on: normalisation, episode statistics and all checks; an upper bound, because it is the
whole of `Environments` without the environments' own steps. Both should be 5 % at most. A timer costs a microsecond or
two, which counts for the smallest parts.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import ONE_THREAD, machine

ALGORITHMS = ("a2c", "ppo", "dqn", "sac", "td3", "reinforce")
DEFAULT_ENV = {"sac": "Pendulum-v1", "td3": "Pendulum-v1"}


def cases(algorithm: str) -> list[tuple[str, str]]:
    """Environments and presets."""
    from rlkit_core.presets import presets
    from rlkit_core.registry import Registry

    named = presets(Registry().get("algorithm", algorithm))
    fitting = [(preset.environments[0], name) for name, preset in named.items() if preset.environments]
    return [(DEFAULT_ENV.get(algorithm, "CartPole-v1"), "none"), *fitting]


def shares(algorithm: str, env: str, preset: str, seconds: float) -> dict[str, float]:
    """Seconds by section of a run that ends after a while."""
    from rlkit_core import hookimpl, train
    from rlkit_core.builtin.encoding import ObservationNormalizer
    from rlkit_core.builtin.steps_collector import StepsCollector
    from rlkit_core.environment import CheckedEnv
    from rlkit_core.profiling import Profile

    ends = time.perf_counter() + seconds

    @hookimpl
    def rlkit_iteration_finished(step: int, metrics: Any) -> bool:
        return time.perf_counter() > ends

    hooks: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("stop_after_seconds", None))
    hooks.rlkit_iteration_finished = rlkit_iteration_finished
    watch_parts = Profile.watch_parts

    def watch_more(self: Profile, collector: Any, learner: Any) -> None:
        watch_parts(self, collector, learner)
        for environments in getattr(collector, "lanes", None) or [collector.environments]:
            # The environments' own time apart; of those that are stepped one by one, without the checks.
            self.watch(environments.vector_env, "step", "environment itself")
            for checked in getattr(environments.vector_env, "envs", ()):
                if isinstance(checked, CheckedEnv):
                    self.watch(checked, "step", "environment")
                    self.watch(checked.env, "step", "environment itself")
        self.watch(ObservationNormalizer, "forward", "normalisation")
        self.watch(ObservationNormalizer, "update", "normalisation")
        self.watch(StepsCollector, "_refuse_non_finite", "finiteness")

    Profile.watch_parts = watch_more  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                algorithm,
                env=env,
                preset=preset,
                plugins=[hooks],
                hooks=("stop_after_seconds",),
                total_steps=10**8,
                stop_at="never",
                eval_every=10**9,
                eval_max_steps=1,
                run_dir=Path(folder) / "run",
                tracker="none",
                progress="none",
                profile=True,
            )
    finally:
        Profile.watch_parts = watch_parts  # type: ignore[method-assign]
    assert result.profile is not None
    return result.profile


def main() -> None:
    """Print a line for each preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS, help=f"of {', '.join(ALGORITHMS)}; default: all")
    parser.add_argument("--seconds", type=float, default=6.0, help="of training with each preset")
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    print(machine())
    print(f"{'':38}returns  observations (normalisation, statistics and checks of form, finiteness)   steps' own time")
    for algorithm in arguments.algorithms:
        for env, preset in cases(algorithm):
            found = shares(algorithm, env, preset, arguments.seconds)
            total = sum(found.values())
            part = {name: 100 * found.get(name, 0.0) / total for name in found}
            three = [part.get(name, 0.0) for name in ("normalisation", "environment", "finiteness")]
            print(
                f"{algorithm + ' ' + env:<31}{preset[:6]:<6} {part['returns']:5.1f} %  {sum(three):8.1f} %  "
                f"({', '.join(f'{share:.1f}' for share in three)})   {part.get('environment itself', 0.0):5.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
