"""What checkpoints cost in every shipped preset, by default settings: 5 % of the loop at most.

    python tests/benchmarks/checkpoints.py [ALGORITHM ...] [--seconds 10]

Some seconds of training with each preset, and with each algorithm's defaults, in its first environment and with its own
budget, which decides how often a checkpoint is due. Evaluations are left out on both sides; the checkpoint at a run's
end is not counted. The last column is what the folder holds.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import ONE_THREAD, machine
from shares import ALGORITHMS, cases


def cost(algorithm: str, env: str, preset: str, seconds: float) -> tuple[list[float], float, int]:
    """Seconds of each save, of the loop with them, and bytes of the checkpoints at the end."""
    from rlkit_core import hookimpl, train, training

    began = time.perf_counter()

    @hookimpl
    def rlkit_iteration_finished(step: int, metrics: Any) -> bool:
        return time.perf_counter() - began > seconds

    hooks: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("stop_after_seconds", None))
    hooks.rlkit_iteration_finished = rlkit_iteration_finished
    saves: list[float] = []
    save, loop, finish = (getattr(training._Training, name) for name in ("_save_checkpoint", "_loop", "_finish"))
    times: dict[str, float] = {}

    def timed_save(self: Any) -> None:
        start = time.perf_counter()
        save(self)
        saves.append(time.perf_counter() - start)

    def timed_loop(self: Any) -> None:
        times["begin"] = time.perf_counter()
        loop(self)

    def timed_finish(self: Any, signals: Any) -> None:
        times["end"] = time.perf_counter()
        times["saves"] = len(saves)
        finish(self, signals)

    training._Training._save_checkpoint = timed_save  # type: ignore[assignment, method-assign]
    training._Training._loop = timed_loop  # type: ignore[method-assign]
    training._Training._finish = timed_finish  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(
                algorithm,
                env=env,
                preset=preset,
                plugins=[hooks],
                hooks=("stop_after_seconds",),
                stop_at="never",
                eval_every=10**9,
                eval_max_steps=1,
                run_dir=Path(folder) / "run",
                tracker="none",
                progress="none",
            )
            size = sum(path.stat().st_size for path in (Path(folder) / "run" / "checkpoints").rglob("*"))
    finally:
        training._Training._save_checkpoint = save  # type: ignore[method-assign]
        training._Training._loop = loop  # type: ignore[method-assign]
        training._Training._finish = finish  # type: ignore[method-assign]
    return saves[: int(times["saves"])], times["end"] - times["begin"], size


def main() -> None:
    """Print a line for each preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS, help=f"of {', '.join(ALGORITHMS)}; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training with each preset, at most")
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    print(machine())
    for algorithm in arguments.algorithms:
        for env, preset in cases(algorithm):
            saves, total, size = cost(algorithm, env, preset, arguments.seconds)
            median = 1000 * statistics.median(saves) if saves else 0.0
            print(
                f"{algorithm + ' ' + env:<31}{preset[:6]:<7}{100 * sum(saves) / total:5.2f} %  of {total:5.1f} s  "
                f"{len(saves):4} checkpoints of {median:6.1f} ms  {size / 1e6:7.2f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
