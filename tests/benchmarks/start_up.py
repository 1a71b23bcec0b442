"""Whole processes of commands that answer at once.

python tests/benchmarks/start_up.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from in_turn import machine

COMMANDS = {"--help": 0.15, "run a2c --help": 0.25, "list": 0.3}
"""Each with the seconds that it may take."""


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each, in turn")
    arguments = parser.parse_args()
    print(machine())
    rlkit = str(Path(sys.executable).with_name("rlkit"))
    seconds: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(arguments.rounds):
        for command, found in seconds.items():
            began = time.perf_counter()
            subprocess.run([rlkit, *command.split()], check=True, capture_output=True)
            found.append(time.perf_counter() - began)
    for command, found in seconds.items():
        shown = f"{statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})"
        print(f"rlkit {command:<16} {shown}; at most {COMMANDS[command]} s")


if __name__ == "__main__":
    main()
