"""How long it takes to list 1,000 runs with 100 evaluations each, and to compare them: from folders, and from MLflow.

python tests/benchmarks/listing.py [--runs 1000] [--points 100] [--rounds 5] [--folder DIR]

folders   the whole process of `rlkit runs FOLDER`
sqlite    `rlkit runs --store URI` without Python's start and imports; in brackets the whole process
curves    all evaluation curves, without imports, of both
compare   `rlkit compare` of all groups, table only, without imports, of both

The runs are made up, in 20 groups in four environments. The database is one that MLflow has made; a first run is sent
to it by the tracker, the others are written by SQL: the same rows, which is checked on the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from in_turn import machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_runs import BEGAN, config_of, make_run, returns_of

from rlkit_core.builtin import mlflow_tracker
from rlkit_core.run_folder import RunFolder, read_journal, read_json
from rlkit_core.tracking import TrackedRun, numbers, sync

ENVIRONMENTS = ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "Pendulum-v1")
GROUPS = 5
"""In each environment."""
MAIN = "import sys; from rlkit_core.cli import main; sys.exit(main())"
WARM = """
import contextlib, io, json, sys, time
import numpy
from rlkit_core.builtin import mlflow_store, trackers
from rlkit_core.cli.root import COMMANDS, execute, root
from rlkit_core.registry import Registry
from rlkit_core.run_store import FolderStore, open_store
Registry().get("tracker", "mlflow")
arguments = json.loads(sys.argv[1])
if arguments[0] in COMMANDS:
    root.get_command(None, arguments[0])
    if arguments[0] == "compare":
        import rlkit_core.comparison, rlkit_core.statistics
began, before = time.perf_counter(), time.process_time()
with contextlib.redirect_stdout(io.StringIO()) as out:
    if arguments[0] == "curves":
        store = FolderStore(arguments[1]) if len(arguments) == 2 else open_store(arguments[2], {})
        found, code = len(store.runs(curves=["evaluation/return"])), 0
    else:
        code = execute(arguments)
        found = len(out.getvalue().splitlines())
print(json.dumps([time.perf_counter() - began, time.process_time() - before, code, found]))
"""


def make(top: Path, number: int, points: int) -> list[Path]:
    """Run folders, by group."""
    paths = []
    for i in range(number):
        place, seed = i % (GROUPS * len(ENVIRONMENTS)), i // (GROUPS * len(ENVIRONMENTS))
        environment, group = ENVIRONMENTS[place % len(ENVIRONMENTS)], f"all/method-{place // len(ENVIRONMENTS)}"
        config = {
            **config_of("a2c", environment, seed, group, total_steps=1000 * points),
            "tracker": {"name": "mlflow"},
        }
        path = top / "all" / f"{place}-{seed}"
        paths.append(make_run(path, config=config, returns=returns_of(i, points), started=BEGAN + i, cwd=str(top)))
    return paths


def rows(path: Path, run: str) -> dict[str, list[tuple[Any, ...]]]:
    """What MLflow has of a run, by table."""
    folder = RunFolder(path)
    tracked = TrackedRun(folder, read_json(folder.config_path), read_json(folder.provenance_path))
    records = [record for _, record in read_journal(folder.journal_path)]
    tags = {
        **mlflow_tracker._tags(tracked),
        **mlflow_tracker._reached(tracked, "finished"),
        "mlflow.runName": tracked.name,
    }
    metrics = [
        (name, value, when, run, mlflow_tracker._step(name, record), 0)
        for record in records
        for name, value, _, when in numbers([record])
    ]
    latest = {row[0]: row for row in sorted(metrics, key=lambda row: (row[4], row[2], row[1]))}
    return {
        "tags": [(key, value, run) for key, value in tags.items()],
        "params": [(key, value, run) for key, value in mlflow_tracker._parameters(tracked.config).items()],
        "metrics": metrics,
        "latest_metrics": [
            (name, value, when, step, nan, run) for name, value, when, run, step, nan in latest.values()
        ],
    }


COLUMNS = {
    "tags": "key, value, run_uuid",
    "params": "key, value, run_uuid",
    "metrics": "key, value, timestamp, run_uuid, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan, run_uuid",
}


def fill(database: Path, paths: list[Path]) -> None:
    """Send the first run to MLflow, and write the others as it is."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
    for i in range(len(ENVIRONMENTS)):  # for the experiments
        sync(paths[i])
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        (first,) = connection.execute("SELECT run_uuid FROM runs WHERE name = ?", (paths[0].name,)).fetchone()
        for table, columns in COLUMNS.items():
            written = connection.execute(f"SELECT {columns} FROM {table} WHERE run_uuid = ?", (first,)).fetchall()
            assert sorted(written) == sorted(rows(paths[0], first)[table]), table
        names = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        template = dict(
            zip(names, connection.execute("SELECT * FROM runs WHERE run_uuid = ?", (first,)).fetchone(), strict=True)
        )
        experiments = dict(connection.execute("SELECT name, experiment_id FROM experiments"))
        for i, path in enumerate(paths[len(ENVIRONMENTS) :], len(ENVIRONMENTS)):
            run = uuid.uuid4().hex
            experiment = experiments[f"rlkit/{ENVIRONMENTS[i % len(ENVIRONMENTS)]}"]
            artifacts = template["artifact_uri"].replace(first, run)
            changed = {"run_uuid": run, "name": path.name, "start_time": BEGAN + i, "artifact_uri": artifacts}
            row = {**template, **changed, "experiment_id": experiment}
            connection.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(names))})", tuple(row.values()))
            for table, content in rows(path, run).items():
                marks = ",".join("?" * len(content[0]))
                connection.executemany(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})", content)
    connection.close()


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    cpu: float


def whole(*arguments: str, folder: Path) -> Seconds:
    """A process of `rlkit …`."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-P", "-c", MAIN, *arguments], capture_output=True, text=True, cwd=folder)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"rlkit {' '.join(arguments)} failed:\n{done.stderr}")
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def warm(*arguments: str, folder: Path) -> Seconds:
    """The same without Python's start and imports."""
    command = [sys.executable, "-P", "-c", WARM, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stderr}")
    wall, cpu, code, found = json.loads(done.stdout)
    if code:
        sys.exit(f"{arguments} exited with {code}:\n{done.stderr}")
    assert found
    return Seconds(wall, cpu)


def main() -> None:
    """Make runs and print times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the runs are made, or were; default: a temporary one")
    options = parser.parse_args()
    from rlkit_core.cli.root import COMMANDS

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        database = folder / "mlflow.db"
        if not database.exists():
            fill(database, make(folder / "runs", options.runs, options.points))
        uri = f"sqlite:///{database}"
        print(machine())
        print(
            f"{options.runs:,} runs with {options.points} evaluations, {database.stat().st_size / 1e6:.0f} MB in sqlite"
        )

        def show(name: str, measured: list[Seconds], more: str = "") -> None:
            wall, cpu = ([one[i] for one in measured] for i in (0, 1))
            spread = f"({min(wall):.2f} to {max(wall):.2f})"
            middle = statistics.median(wall)
            print(f"{name:<18} {middle:5.2f} s  {spread}  {statistics.median(cpu):5.2f} s of CPU{more}", flush=True)

        def times(measure: Any, *arguments: str) -> list[Seconds]:
            measure(*arguments, folder=folder)  # files into memory
            return [measure(*arguments, folder=folder) for _ in range(options.rounds)]

        show("folders", times(whole, "runs"))
        process = statistics.median(one.wall for one in times(whole, "runs", "--store", uri))
        show("sqlite", times(warm, "runs", "--store", uri), f"  [whole process {process:.2f} s]")
        show("curves, folders", times(warm, "curves", "runs"))
        show("curves, sqlite", times(warm, "curves", "--store", uri))
        if "compare" in COMMANDS:
            groups = [f"all/method-{i}" for i in range(GROUPS)]
            show("compare, folders", times(warm, "compare", *groups, "--table"))
            show("compare, sqlite", times(warm, "compare", *groups, "--table", "--store", uri))


if __name__ == "__main__":
    main()
