"""Groups of short runs in real processes, whose runs misbehave where they are told to.

The module is a hook: `MISBEHAVE` says by seed what a run does, and from which step on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlkit_core.errors import EnvironmentFault
from rlkit_core.hookspecs import hookimpl
from rlkit_core.run_folder import read_journal, read_json

SETTINGS = {
    "algorithm": {"name": "a2c", "collector": {"num_steps": 16}},
    "env": "CartPole-v1",
    "total_steps": 1200,
    "eval_every": 400,
    "eval_episodes": 2,
    "checkpoint_every": 400,
    "tracker": "none",
    "stop_at": "never",
}
OPTIONS = (
    *("--env", "CartPole-v1", "--total-steps", "1200", "--eval-every", "400", "--eval-episodes", "2"),
    *("--checkpoint-every", "400", "--collector.num-steps", "16", "--hooks", "group_cases"),
)
COMMAND = (sys.executable, "-P", "-c", "import sys; from rlkit_core.cli import main; sys.exit(main())")

_here: dict[str, Any] = {}


@hookimpl
def rlkit_run_started(config: Any, run_dir: Path) -> None:
    _here.update(seed=str(config["seed"]), run_dir=Path(run_dir))


@hookimpl
def rlkit_iteration_finished(step: int, metrics: Any) -> None:
    how, at = json.loads(os.environ.get("MISBEHAVE", "{}")).get(_here["seed"], ("", 0))
    if not how or step < at:
        return
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise EnvironmentFault("environment 0 raised ZeroDivisionError: wheel came off")
    _wait_for_a_signal()


def _wait_for_a_signal() -> None:
    """Until one comes, which then does what it would have done."""
    received: list[int] = []
    before: Any = signal.getsignal(signal.SIGINT)

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, receive)
    (_here["run_dir"] / "waiting").touch()
    deadline = time.monotonic() + 120
    while not received and time.monotonic() < deadline:
        time.sleep(0.02)
    signal.signal(signal.SIGINT, before)


def start(folder: Path, *arguments: object, misbehave: dict[int, Any] | None = None, **environ: str) -> Any:
    """Start the command in a folder, as a process with a session of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    told = json.dumps({str(seed): what for seed, what in (misbehave or {}).items()})
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    kept |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": path, "MISBEHAVE": told, **environ}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def command(folder: Path, *arguments: object, **more: Any) -> tuple[int, str]:
    """Run the command in a folder: `(exit code, what it printed)`."""
    process = start(folder, *arguments, **more)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def outcome(run_dir: Path) -> Any:
    """The last policy, and the journal without the clock."""
    records = [
        (record["step"], {name: x for name, x in record["metrics"].items() if not name.startswith("time/")})
        for _, record in read_journal(run_dir / "metrics.jsonl")
    ]
    return (run_dir / "policy" / "last" / "policy.safetensors").read_bytes(), records


def state_of(run_dir: Path) -> str:
    return str(read_json(run_dir / "status.json")["state"])


def wait_for(what: Any, seconds: float = 60.0) -> None:
    """Wait until that is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found
