"""Plugins examined: each is imported in a process of its own, with a time limit, so that it can do no harm.

python -m rlkit_core.doctor DISTRIBUTION        what such a process does; it answers on file descriptor 3
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rlkit_core.component import KINDS
from rlkit_core.errors import PluginError, UsageError
from rlkit_core.installed import normal
from rlkit_core.registry import OTHERS, Entry, Registry

SLOW = 1.0
"""Seconds of an import from which a plugin is called slow."""

ADVICE = {
    "ok": "",
    "slow": "import what takes long in `build`, not at the top of the module",
    "changes": "leave other packages as they are: every run that uses the plugin is changed by it",
    "import": "update or reinstall it",
    "exit": "a module must not end the process that imports it",
    "crash": "update or reinstall it, and what it is built on",
    "hang": "what waits or runs for long belongs into `build`",
    "contract": "its author has to mend it",
    "interface": "install versions of it and of rlkit-core that go together",
    "hook": "its author has to mend it",
    "name": "name it in full, as distribution:name",
}
"""What a plugin can be found to be, and what to do about it."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a distribution.

    Attributes:
        distribution: its name.
        version: its version.
        offers: `(kind, name)` of all that it announces.
        verdict: a key of `ADVICE`.
        reason: what is wrong, in a line or two; empty if nothing is.
        run_hooks: names of the run hooks that it implements, as far as it could be imported.
        seconds: that its import took, besides torch and gymnasium; None where it did not come to an end.
    """

    distribution: str
    version: str
    offers: tuple[tuple[str, str], ...]
    verdict: str
    reason: str
    run_hooks: tuple[str, ...]
    seconds: float | None

    @property
    def advice(self) -> str:
        """What to do."""
        return ADVICE[self.verdict]


def distributions(registry: Registry) -> dict[str, list[Entry]]:
    """What is announced, by distribution."""
    found: dict[str, list[Entry]] = {}
    order = [*KINDS, *OTHERS]
    for entry in sorted(registry.entries(), key=lambda entry: (order.index(entry.kind), entry.name)):
        found.setdefault(entry.distribution, []).append(entry)
    return dict(sorted(found.items()))


def named(registry: Registry, name: str) -> str:
    """The distribution of that name, or the one that offers a part of that name.

    Raises:
        UsageError: there is none, or several offer it.
    """
    found = distributions(registry)
    for distribution in found:
        if normal(distribution) == normal(name):
            return distribution
    whose, _, short = name.rpartition(":")
    offering = [
        distribution
        for distribution, entries in found.items()
        if any(entry.name == short for entry in entries) and normal(whose) in ("", normal(distribution))
    ]
    if len(offering) != 1:
        several = f"{' and '.join(offering)} offer it: name one of them" if offering else ""
        raise UsageError(f"there is no plugin {name}\n{several or 'plugins: ' + ', '.join(found)}")
    return offering[0]


def examine(names: Sequence[str], registry: Registry, *, time_limit: float = 10.0, jobs: int = 2) -> list[Diagnosis]:
    """Import each of these distributions' plugins in a process of its own.

    Args:
        names: of distributions, as `distributions` has them.
        registry: where they are announced.
        time_limit: seconds that an import may take, besides what every run imports.
        jobs: processes at once.
    """
    announced = distributions(registry)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda name: _examine(name, announced[name], registry, time_limit), names))


def _examine(distribution: str, entries: list[Entry], registry: Registry, time_limit: float) -> Diagnosis:
    verdict, reason, hooks, seconds = _ask_process(distribution, time_limit)
    if verdict in ("ok", "slow", "changes"):
        shared = _shared_names(entries, registry)
        if shared and verdict == "ok":
            verdict, reason = "name", shared
    offers = tuple((entry.kind, entry.name) for entry in entries)
    return Diagnosis(distribution, entries[0].version, offers, verdict, reason, tuple(hooks), seconds)


def _shared_names(entries: list[Entry], registry: Registry) -> str:
    """What of it others offer under the same name; of rlkit's own parts, the other one is to blame."""
    shared = []
    for entry in entries:
        others = [o.distribution for o in registry.entries(entry.kind) if o.name == entry.name and o != entry]
        if others and normal(entry.distribution) != "rlkit-core" and entry.kind != "presets":
            shared.append(f"{entry.kind} {entry.name} is offered by {' and '.join(sorted(set(others)))} too")
    return "; ".join(shared)


def _ask_process(distribution: str, time_limit: float) -> tuple[str, str, list[str], float | None]:
    """Verdict, reason, run hooks and seconds, from a process of its own."""
    reader, writer = os.pipe()
    # -P: a file `json.py` in the working folder is not meant.
    command = [sys.executable, "-P", "-m", "rlkit_core.doctor", distribution]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writer],
            start_new_session=True,  # with what it starts itself, it is ended
            env={**os.environ, "RLKIT_DOCTOR_FD": str(writer)},
        )
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as answers:
        told, over = _listen(answers, time_limit)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if isinstance(told, dict):
        return str(told["verdict"]), str(told["reason"]), list(told["hooks"]), float(told["seconds"])
    if over:
        return "hang", f"its import takes more than {time_limit:g} seconds", [], None
    if code < 0 and code != -signal.SIGKILL:
        return "crash", f"its import ends Python by {signal.Signals(-code).name}", [], None
    return "exit", f"its import ends the process with status {code}", [], None


def _listen(answers: Any, time_limit: float) -> tuple[Any, bool]:
    """What the process says in the end, or None, and whether its time was over, which runs once it says it begins."""
    import select

    text, deadline = b"", time.monotonic() + 60.0
    begun = False
    while True:
        left = deadline - time.monotonic()
        ready = select.select([answers], [], [], max(0.0, left))[0]
        if not ready:
            return None, True
        part = answers.read(65536)
        if not part:
            break
        text += part
        if not begun and b"\n" in text:
            begun, deadline = True, time.monotonic() + time_limit
    lines = text.splitlines()
    try:
        return json.loads(lines[1]), False
    except (IndexError, ValueError):
        return None, False


# ---- the process ----


def main(distribution: str) -> None:
    """Import a distribution's plugins, and tell what came of it."""
    with os.fdopen(int(os.environ.pop("RLKIT_DOCTOR_FD")), "w", buffering=1) as answer:
        registry = Registry()
        entries = distributions(registry)[distribution]
        before = _world()
        answer.write("begin\n")
        began = time.perf_counter()
        verdict, reason, hooks = "ok", "", []
        try:
            hooks = _import_all(entries, registry)
        except PluginError as error:
            verdict, reason = error.fault, str(error).split("\n")[0]
        except BaseException as error:
            verdict, reason = "import", f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - began
        changed = _changed(before)
        if verdict == "ok" and changed:
            verdict, reason = "changes", f"its import changes {', '.join(changed[:5])}{', …' * (len(changed) > 5)}"
        elif verdict == "ok" and seconds > SLOW:
            verdict, reason = "slow", f"its import takes {seconds:.1f} seconds"
        told = {"verdict": verdict, "reason": reason[:500], "hooks": hooks, "seconds": seconds}
        answer.write(json.dumps(told) + "\n")


def _import_all(entries: list[Entry], registry: Registry) -> list[str]:
    hooks: set[str] = set()
    for entry in entries:
        full = f"{entry.distribution}:{entry.name}"
        if entry.kind == "hooks":
            registry.hooks([full])
        elif entry.kind == "command":
            registry.command(full)
        elif entry.kind == "presets":
            _read_presets(entry, registry)
        else:
            registry.get(entry.kind, full)
        module = sys.modules.get(entry.module.partition(":")[0])
        hooks |= {name for name in dir(module) if name.startswith("rlkit_run_") or name == "rlkit_iteration_finished"}
    return sorted(hooks)


def _read_presets(entry: Entry, registry: Registry) -> None:
    from rlkit_core.presets import offered_presets

    algorithm: Any = registry.get("algorithm", entry.name)
    offered_presets(algorithm, registry, leave_out_broken=False)


def _world() -> dict[str, dict[str, int]]:
    """What every run uses of other packages: which object stands under which name."""
    import gymnasium
    import numpy
    import torch

    places: list[ModuleType | type] = [
        *(torch, torch.nn, torch.nn.functional, torch.autograd, torch.Tensor, torch.nn.Module, torch.Generator),
        *(torch.nn.Linear, torch.optim.Optimizer, numpy, numpy.random, numpy.random.Generator),
        *(gymnasium, gymnasium.Env, gymnasium.vector.VectorEnv, gymnasium.vector.SyncVectorEnv),
        *(sys.modules["builtins"], os, json, time),
        *(module for name, module in sys.modules.items() if name.partition(".")[0] == "rlkit_core"),
    ]
    world = {
        f"{place.__module__}.{place.__qualname__}" if isinstance(place, type) else place.__name__: {
            name: id(value) for name, value in vars(place).items() if not isinstance(value, ModuleType)
        }
        for place in places
    }
    world["settings of torch"] = {
        "default dtype": id(torch.get_default_dtype()),
        "number of threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return world


def _changed(before: dict[str, dict[str, int]]) -> list[str]:
    after = _world()
    return [
        f"{place}.{name}"
        for place, names in before.items()
        for name, value in names.items()
        # What a module keeps for itself may come and go.
        if after[place].get(name) != value and not (name.startswith("_") and not name.startswith("__call"))
    ]


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # whatever it has left running
