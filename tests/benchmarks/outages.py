"""What an outage of the MLflow server costs training: seconds of the same run, by how the server fares meanwhile.

    python tests/benchmarks/outages.py [--rounds 7] [--steps 100000]

Each round trains the same seed once for every kind, in turn: without a tracker, with a good server, and with one that
is killed, stopped by SIGSTOP, answers 500, or answers 30 s late, from before the run to its end. Training's own time is
taken, as the run's `status.json` has it: neither the imports before it nor the seconds for which the command waits for
the last records at its end. An outage should cost 5 % at most of the time with a good server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from in_turn import machine, median, ratio

sys.path.insert(0, str(Path(__file__).parents[1]))
from mlflow_server import MlflowServer, Proxy

KINDS = ("none", "good", "killed", "stopped", "errors", "late")


@contextlib.contextmanager
def outage(kind: str, server: MlflowServer, proxy: Proxy) -> Iterator[str]:
    """The address of the server while it fares so."""
    if kind == "killed":
        server.kill()
    elif kind == "stopped":
        server.stop()
    elif kind in ("errors", "late"):
        proxy.mode = kind
    try:
        yield proxy.uri if kind in ("errors", "late") else server.uri
    finally:
        if kind == "killed":
            server.start()
        elif kind == "stopped":
            server.go_on()
        proxy.mode = "good"


def train(run_dir: Path, steps: int, uri: str, tracker: str) -> dict[str, float]:
    """Seconds of training; ends this process where it fails."""
    command = [str(Path(sys.executable).with_name("rlkit")), "run", "a2c", "--env", "CartPole-v1", "--seed", "1"]
    command += ["--total-steps", str(steps), "--stop-at", "never", "--tracker", tracker, "--run-dir", str(run_dir)]
    done = subprocess.run(
        [*command, "--progress", "none"], env={**os.environ, "MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return {"seconds": json.loads((run_dir / "status.json").read_text())["result"]["seconds"]}


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each, in turn")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of a run")
    arguments = parser.parse_args()
    print(machine("mlflow"))
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        proxy = Proxy(server.port)
        try:
            for round_ in range(arguments.rounds):
                # Each is first in turn: what the one before it leaves behind must not hit the same one always.
                for kind in KINDS[round_ % len(KINDS) :] + KINDS[: round_ % len(KINDS)]:
                    with outage(kind, server, proxy) as uri:
                        tracker = "none" if kind == "none" else "mlflow"
                        run_dir = Path(folder) / f"{kind}-{round_}"
                        found[kind].append(train(run_dir, arguments.steps, uri, tracker))
        finally:
            proxy.close()
            server.kill()
    for kind, runs in found.items():
        beside = median(runs, "seconds") / median(found["good"], "seconds")
        print(
            f"{kind:<8} {median(runs, 'seconds'):.2f} s; by that with a good server: {beside:.3f}, "
            f"round by round {ratio(runs, found['good'], 'seconds')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
