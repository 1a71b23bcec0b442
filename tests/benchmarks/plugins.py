"""What installed plugins cost those who do not use them, and how long it takes to look them through.

python tests/benchmarks/plugins.py [--rounds 15]

help      rlkit --help with 300 plugins installed, beside none
run       rlkit run a2c with nine hostile plugins installed, beside none
list      rlkit plugins list with those 300
doctor    rlkit plugins doctor with the ten of tests/strangers.py

Seconds are those of the clock and, for the ratios, also those of the processor, which other work on the machine
disturbs less. The sides of a pair take turns; ratios are medians of the pairs'.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from in_turn import ONE_THREAD, machine

sys.path.insert(0, str(Path(__file__).parents[1]))

import strangers

RLKIT = str(Path(sys.executable).with_name("rlkit"))
NUMBER = 300
RUN = "run a2c --env CartPole-v1 --tracker none --progress none --total-steps 20000 --stop-at never --run-dir"


class Seconds(NamedTuple):
    """What a process took."""

    wall: float
    cpu: float


def measure(command: str, place: Path, folder: Path, expected: int = 0) -> Seconds:
    """Run `rlkit …` with a folder of distributions on the path."""
    path = filter(None, [str(place), os.environ.get("PYTHONPATH")])
    environ = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([RLKIT, *command.split()], capture_output=True, text=True, env=environ, cwd=folder)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != expected:
        sys.exit(f"rlkit {command} failed:\n{done.stderr}")
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def compare(name: str, command: str, place: Path, folder: Path, rounds: int, bound: float, *, fresh: bool) -> None:
    """Print the ratio of a command's times with a folder of distributions, and with an empty one."""
    measure(command + " first" * fresh, place, folder)  # files into memory, bytecode onto the disk
    pairs = []
    for number in range(rounds):
        without = measure(command + f" without{number}" * fresh, folder / "none", folder)
        pairs.append((without, measure(command + f" with{number}" * fresh, place, folder)))
    for what in Seconds._fields:
        ratio = statistics.median(getattr(with_, what) / getattr(without, what) for without, with_ in pairs)
        seconds = [statistics.median(getattr(pair[side], what) for pair in pairs) for side in (0, 1)]
        print(f"{name:<8} {what:<5} {seconds[0]:.3f} s without, {seconds[1]:.3f} s with: {ratio:.3f}; at most {bound}")


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of each comparison")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(NUMBER):
            name = f"plugin-{number}"
            strangers.install(folder / "many", name, strangers.ALGORITHM.format(name=name), {"algorithm": name})
        (folder / "none").mkdir()
        strangers.install_hostile(folder / "nine")
        strangers.install_hostile(folder / "ten")
        strangers.install_thief(folder / "ten")
        compare("help", "--help", folder / "many", folder, arguments.rounds, 1.3, fresh=False)
        compare("run", RUN, folder / "nine", folder, arguments.rounds, 1.05, fresh=True)
        listed = [measure("plugins list", folder / "many", folder) for _ in range(arguments.rounds)]
        for what in Seconds._fields:
            print(f"list     {what:<5} {statistics.median(getattr(one, what) for one in listed):.3f} s; at most 0.4")
        doctor = measure("plugins doctor", folder / "ten", folder, expected=3)
        print(f"doctor   wall  {doctor.wall:.1f} s; under 60")


if __name__ == "__main__":
    main()
