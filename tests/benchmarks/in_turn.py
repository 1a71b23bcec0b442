"""Contenders in turn, each in a process of its own, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def machine(*packages: str) -> str:
    """What a benchmark ran on, in a line; ends the process where a package is missing."""
    try:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "gymnasium", *packages)}
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed\npip install -c constraints.txt -e '.[bench]'")
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} ({platform.system()}), {cores} cores, Python {platform.python_version()}, {named}"


def alone(script: str, *arguments: str) -> dict[str, float]:
    """Run a script on one thread; it ends with `report`."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    # The last line that looks like it: some say goodbye after it.
    numbers: dict[str, float] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    return numbers


def report(**numbers: float) -> None:
    """Give `alone` its numbers, and the most memory that the process has had."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(json.dumps({**numbers, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}))


def in_turn(script: str, sides: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run each side once in every round, by the arguments that `sides` has for it; their numbers, by side and round."""
    numbers: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, arguments in sides.items():
            numbers[side].append(alone(script, *arguments))
    return numbers


def median(runs: Sequence[Mapping[str, float]], name: str) -> float:
    """Median of a number over the rounds."""
    return statistics.median(run[name] for run in runs)


def ratio(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], name: str) -> str:
    """Median and range of the rounds' ratios, ours by theirs."""
    ratios = sorted(a[name] / b[name] for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def training(run_dir: Path) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Records of a run's journal: step, seconds of training up to the last record of it, and metrics."""
    seconds, before = 0.0, 0
    for record in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        speed = record["metrics"].get("time/steps_per_second")
        if speed is not None:
            seconds, before = seconds + (record["step"] - before) / speed, record["step"]
        yield record["step"], seconds, record["metrics"]


def rlkit_speed(warm: int, timed: int, algorithm: Any, env: str) -> float:
    """Environment steps per second of training with rlkit after `warm` steps."""
    from rlkit_core import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(
            algorithm,
            env=env,
            total_steps=warm + timed,
            log_every=warm,
            stop_at="never",
            eval_every=10**12,
            eval_max_steps=1,
            run_dir=Path(folder) / "run",
            tracker="none",
            progress="none",
        )
        points = [(step, seconds) for step, seconds, _ in training(result.run_dir)]
    (first_step, first), (last_step, last) = points[0], points[-1]
    return (last_step - first_step) / (last - first)
