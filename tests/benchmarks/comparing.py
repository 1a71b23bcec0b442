"""How long `rlkit compare` takes on many runs in one MLflow database, as a whole process.

    python tests/benchmarks/comparing.py [--groups 10] [--environments 10] [--seeds 10] [--points 100] [--rounds 5]

The database is made by MLflow and then filled directly: rows as the tracker leaves them.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_runs import BEGAN, about_of, config_of, returns_of

from rlkit_core.builtin.mlflow_tracker import MlflowTracker, _parameters, _tags
from rlkit_core.builtin.trackers import MlflowConfig
from rlkit_core.run_folder import RunFolder
from rlkit_core.run_store import code_of
from rlkit_core.tracking import TrackedRun


def fill(path: Path, groups: int, environments: int, seeds: int, points: int) -> int:
    """Make a database with that many runs; returns how many."""
    empty = path.parent / "empty"
    empty.mkdir()
    (empty / "comparison.json").write_text("{}")
    MlflowTracker(MlflowConfig()).keep(f"sqlite:///{path}", "rlkit/many", "first", empty, {"rlkit.kind": "comparison"})
    connection = sqlite3.connect(path)
    (experiment,) = connection.execute("SELECT experiment_id FROM experiments WHERE name = 'rlkit/many'").fetchone()
    columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
    total = 0
    for g in range(groups):
        for e in range(environments):
            for s in range(seeds):
                total += 1
                id = f"{total:032x}"
                name, environment, group = f"run-{total}", f"Environment{e}-v1", f"many/group{g}"
                config = config_of(environment=environment, seed=s, group=group, learning_rate=0.001 * (g + 1))
                about = about_of(name, id)
                run = {
                    "run_uuid": id,
                    "name": name,
                    "status": "FINISHED",
                    "start_time": BEGAN,
                    "end_time": BEGAN + 1000 * points,
                    "lifecycle_stage": "active",
                    "experiment_id": experiment,
                    "artifact_uri": str(path.parent / id),
                    "user_id": "me",
                    "source_type": "LOCAL",
                }
                kept = {key: value for key, value in run.items() if key in columns}
                connection.execute(
                    f"INSERT INTO runs ({','.join(kept)}) VALUES ({','.join('?' * len(kept))})", list(kept.values())
                )
                folder = RunFolder(path.parent / "runs" / name)
                tags = {
                    **_tags(TrackedRun(folder, config, about)),
                    **{f"code.{module}": digest for module, digest in code_of(about).items()},
                    **{"rlkit.state": "finished", "rlkit.steps": "10005", "rlkit.budget": "10000"},
                }
                _many(connection, "tags", [(id, key, value) for key, value in tags.items()], "run_uuid, key, value")
                parameters = _parameters(config).items()
                _many(connection, "params", [(id, key, value) for key, value in parameters], "run_uuid, key, value")
                noise = np.random.default_rng(total).normal(0, 10, points)
                metrics = []
                for i, value in enumerate(returns_of(s, points, 400 + 5 * g)):
                    at = (BEGAN + 1000 * (i + 1), 100 * (i + 1) + 5, False, id)
                    metrics.append(("evaluation/return", value + noise[i], *at))
                    metrics.append(("evaluation/nominal_step", 100.0 * (i + 1), *at))
                final = [("final/return", metrics[-2][1]), ("final/episodes", 100.0)]
                metrics += [(key, value, BEGAN + 1000 * points, 10_005, False, id) for key, value in final]
                names = "key, value, timestamp, step, is_nan, run_uuid"
                _many(connection, "metrics", metrics, names)
                _many(connection, "latest_metrics", metrics[-4:], names)
    connection.commit()
    connection.execute("ANALYZE")
    connection.close()
    return total


def _many(connection: sqlite3.Connection, table: str, rows: list[tuple], columns: str) -> None:
    marks = ",".join("?" * (columns.count(",") + 1))
    connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("groups", 10), ("environments", 10), ("seeds", 10), ("points", 100), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        number = fill(path, given.groups, given.environments, given.seeds, given.points)
        print(f"{number:,} runs of {given.points} evaluations, {path.stat().st_size / 1e6:.0f} MB")
        store = ["--store", f"sqlite:///{path}"]
        rlkit = [sys.executable, "-c", "from rlkit_core.cli import main; main()"]
        for name, arguments in (
            ("rlkit compare, table only", ["compare", "many", *store, "--table"]),
            ("the same, all pairs", ["compare", "many", *store, "--table", "--all-pairs"]),
            ("rlkit runs", ["runs", *store]),
        ):
            seconds = []
            for _ in range(given.rounds):
                began = time.perf_counter()
                done = subprocess.run([*rlkit, *arguments], capture_output=True, text=True, cwd=folder)
                seconds.append(time.perf_counter() - began)
                assert done.returncode == 0, done.stderr
            lines = len(done.stdout.splitlines())
            print(json.dumps({"what": name, "seconds": sorted(round(s, 2) for s in seconds), "lines": lines}))


if __name__ == "__main__":
    main()
