"""Run folders as runs leave them, made in a moment and without a policy: to list and compare many."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit_core.run_folder import process_start_time

BEGAN = 1_795_000_000_000
"""Milliseconds since 1970."""


def config_of(
    algorithm: str = "a2c",
    environment: str = "CartPole-v1",
    seed: int = 0,
    group: str | None = None,
    *,
    total_steps: int = 10_000,
    **settings: Any,
) -> dict[str, Any]:
    """Content of `config.json`, about as much as a run has; `settings` are the algorithm's."""
    return {
        "algorithm": {
            "name": algorithm,
            "collector": {"name": "steps", "num_envs": 8, "num_steps": 32},
            "estimator": {"name": "discounted", "gamma": 0.99, "bootstrap": True, "normalize": "running", "ddof": 0},
            "network": {"name": "mlp", "hidden": [128], "activation": "relu", "init": "orthogonal"},
            "learning_rate": 0.001,
            "value_coef": 0.5,
            "entropy_coef": 0.0,
            "max_grad_norm": 0.5,
            **settings,
        },
        "env": {"name": "gymnasium", "id": environment, "kwargs": {}, "wrappers": [], "vectorization": "native"},
        "seed": seed,
        "total_steps": total_steps,
        "stop_at": "never",
        "eval_every": None,
        "eval_episodes": 10,
        "eval_max_steps": 27_000,
        "log_every": None,
        "checkpoint_every": None,
        "device": "cpu",
        "threads": 1,
        "imports": [],
        "hooks": [],
        "tracker": {"name": "none"},
        "group": group,
    }


def about_of(name: str, run_id: str, **more: Any) -> dict[str, Any]:
    """Content of `provenance.json`."""
    return {
        "run_id": run_id,
        "run_name": name,
        "preset": None,
        "started": BEGAN,
        "command": "rlkit run a2c --env CartPole-v1",
        "cwd": "/somewhere",
        "seed": 0,
        "threads": 1,
        "versions": {
            "rlkit-core": "0.1.0",
            "torch": "2.13.0",
            "gymnasium": "1.4.0",
            "numpy": "2.4.6",
            "python": "3.11",
        },
        "plugins": [
            {"distribution": "rlkit-core", "version": "0.1.0", "module": "rlkit_a2c", "files_sha256": "a2" * 32},
            {
                "distribution": "rlkit-core",
                "version": "0.1.0",
                "module": "rlkit_core.builtin",
                "files_sha256": "b1" * 32,
            },
        ],
        "core_files_sha256": "c0" * 32,
        "modules": {},
        "git": {"commit": "ab" * 20, "dirty": False},
        "machine": {"host": socket.gethostname(), "system": "Linux", "processor": "x86_64", "cpus": 2},
        "init_from": None,
        **more,
    }


def records_of(returns: Sequence[float], total_steps: int = 10_000) -> list[dict[str, Any]]:
    """A journal's records: evaluations that give these returns, and the last policy's."""
    every = total_steps // len(returns)
    records = []
    for i, value in enumerate(returns, 1):
        when = BEGAN + 1000 * i
        losses = {"learner/loss": 1 / i, "rollout/return": value * 0.9, "time/steps_per_second": 1e5}
        records.append({"step": every * i - 3, "time": when - 500, "metrics": losses})
        greedy = _evaluation("evaluation", value) | {"evaluation/nominal_step": float(every * i)}
        records.append({"step": every * i + 5, "time": when, "metrics": greedy})
    final = _evaluation("final", returns[-1])
    records.append({"step": total_steps + 5, "time": BEGAN + 1000 * len(returns) + 100, "metrics": final})
    return records


def _evaluation(prefix: str, value: float) -> dict[str, float]:
    return {f"{prefix}/return": value, f"{prefix}/return_std": abs(value) / 10, f"{prefix}/episodes": 10.0}


def make_run(
    path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    returns: Sequence[float] = (10.0, 20.0),
    state: str = "finished",
    pid: int | None = None,
    **about: Any,
) -> Path:
    """Write a run's folder; one that is not finished has no evaluation of its last policy.

    Args:
        path: where.
        config: content of `config.json`; default: `config_of()`.
        returns: of its evaluations.
        state: how it stands.
        pid: process that it says to be in; default: this one.
        about: what else its provenance says.
    """
    path.mkdir(parents=True)
    config = config_of() if config is None else config
    records = records_of(returns, config["total_steps"])
    records = records if state == "finished" else records[:-1]
    # Only runs that ended in order say what they reached.
    ended = {"state": state, "steps": records[-1]["step"], "evaluation_return": returns[-1], "reached": None}
    result = ended if state in ("finished", "interrupted") else {}
    pid = os.getpid() if pid is None else pid
    status = {"pid": pid, "host": socket.gethostname(), "process_start": process_start_time(pid) or 1.0, "state": state}
    run_id = hashlib.md5(str(path.absolute()).encode()).hexdigest()
    _write(path / "config.json", config)
    _write(path / "provenance.json", {**about_of(path.name, run_id), **about})
    _write(path / "status.json", {**status, "result": result})
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
    (path / "metrics.jsonl").write_text("".join(lines))
    return path


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2))


def returns_of(i: int, number: int, best: float = 500.0) -> list[float]:
    """Returns that rise to about `best`, others for each `i`."""
    noise = random.Random(i)
    return [best * (1 - math.exp(-4 * (k + 1) / number)) * noise.uniform(0.8, 1.0) for k in range(number)]
