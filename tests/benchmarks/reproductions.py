"""Whether stored runs come out the same in a virtual environment that has just been made.

python tests/benchmarks/reproductions.py [--python VENV/bin/python] [--folder DIR]

Ten runs, of all algorithms, in several environments and families of them, are made with this Python and the working
copy; one of them is killed and resumed, one interrupted. rlkit is then built and installed with constraints.txt into a
new virtual environment, where `rlkit reproduce` makes each again. With `--python` an environment that is there already
is used, with `--folder` the runs stay, and are used again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from in_turn import machine

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from rlkit_core.cli import main; sys.exit(main())"
RUNS = {
    "a2c-cartpole": "a2c --env CartPole-v1 --total-steps 30000",
    "a2c-acrobot": "a2c --env Acrobot-v1 --env.vectorization sync --total-steps 10000 --seed 1",
    "ppo-lunarlander": "ppo --env LunarLander-v3 --total-steps 10000",
    "ppo-halfcheetah": "ppo --env HalfCheetah-v5 --total-steps 6000 --eval-max-steps 200",
    "dqn-cartpole": "dqn --env CartPole-v1 --total-steps 10000",
    "dqn-mountaincar": "dqn --env MountainCar-v0 --total-steps 6000 --seed 2",
    "sac-pendulum": "sac --env Pendulum-v1 --total-steps 2000",
    "td3-inverted": "td3 --env InvertedPendulum-v5 --total-steps 3000",
    "reinforce-cartpole": "reinforce --env CartPole-v1 --total-steps 20000",
    "a2c-lstm": "a2c --env CartPole-v1 --network lstm --total-steps 10000 --seed 3",
}
"""By name; what is killed or interrupted has a longer budget below."""
KILLED, INTERRUPTED = "a2c-cartpole", "ppo-lunarlander"


def rlkit(python: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start `rlkit …`."""
    # The working copy is for the first Python only: the other one has rlkit installed.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if python == sys.executable:
        environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"
    command = [python, "-P", "-c", MAIN, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], *expected: int) -> str:
    """Wait for its end; returns what it printed."""
    out, err = process.communicate()
    if process.returncode not in expected:
        sys.exit(f"{process.args} exited with {process.returncode}:\n{out}{err}")
    return out


def make(name: str, folder: Path) -> None:
    """Make one of the runs, unless it is there."""
    run = folder / name
    if (run / "status.json").exists():
        return
    quiet = ("--tracker", "none", "--progress", "none", "--stop-at", "never")
    started = rlkit(sys.executable, "run", *RUNS[name].split(), *quiet, "--run-dir", name, folder=folder)
    if name not in (KILLED, INTERRUPTED):
        finish(started, 0)
        return
    while started.poll() is None and not list(run.glob("checkpoints/[0-9]*")):
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL if name == KILLED else signal.SIGINT)
    finish(started, 0, 130, -signal.SIGKILL)
    if name == KILLED:
        finish(rlkit(sys.executable, "resume", name, "--progress", "none", folder=folder), 0)


def fresh(folder: Path) -> str:
    """A new virtual environment with rlkit in it; returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "-q", "-c", "constraints.txt", f"{ROOT}[box2d,mujoco]"]
    subprocess.run(command, cwd=ROOT, check=True)
    return python


def main() -> None:
    """Make runs, and make them again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of an environment that is there; default: a new one")
    parser.add_argument("--folder", type=Path, help="where the runs are; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch) / "runs").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        print(machine(), flush=True)
        for name in RUNS:
            make(name, folder)
        python = options.python or fresh(Path(scratch) / "venv")
        equal = 0
        for name in RUNS:
            new = Path(scratch) / "again" / name
            started = rlkit(python, "reproduce", name, "--json", "--run-dir", str(new), folder=folder)
            found = json.loads(finish(started, 0, 1))
            status = json.loads((folder / name / "status.json").read_text())
            equal += found["verdict"] == "bit-equal"
            changed = [one["what"] for one in found["made_with"] if one["changes_results"]]
            first = "" if found["first"] is None else f"  first: {found['first']}"
            print(
                f"{name:<20} {status['state']:<12} {found['verdict']:<17} {found['numbers']:>6,} numbers to step "
                f"{found['steps']:>6,}; {found['weights']}{first}{'  made with other: ' * bool(changed)}"
                f"{', '.join(changed)}",
                flush=True,
            )
        print(f"{equal} of {len(RUNS)} bit-equal")


if __name__ == "__main__":
    main()
