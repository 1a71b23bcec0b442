"""How a run goes on that was begun before: from which checkpoint, and what is other now."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlkit_core.drift import Difference, differences
from rlkit_core.errors import ResumeRefused, StorageError, UsageError
from rlkit_core.provenance import command_line
from rlkit_core.run_folder import RunFolder, read_json, write_json
from rlkit_core.tracking import begin_anew

# It imports torch, which training does later.
if TYPE_CHECKING:
    from rlkit_core.checkpoint import Checkpoint, Checkpoints


@dataclass(frozen=True)
class Continuation:
    """How a run goes on.

    Attributes:
        checkpoint: from which; None: from the beginning, because there is none.
        found: what is other now than when that was made.
        total_steps: the new budget, where that is another one.
        extends: the run had finished, and goes on with that budget.
    """

    checkpoint: Checkpoint | None
    found: tuple[Difference, ...] = ()
    total_steps: int | None = None
    extends: bool = False

    @property
    def deviates(self) -> str | None:
        """Why what follows is not what would have come without a break, or None."""
        changes = [difference.what for difference in self.found if difference.changes_results]
        if changes:
            return f"other than before: {', '.join(changes)}"
        if self.total_steps is not None and not self.extends:
            return f"total_steps is {self.total_steps:,} now"
        return None

    def note(self, folder: RunFolder, about: Mapping[str, Any], inexact: str | None) -> str:
        """Write into the run's record how it goes on; returns that for people, in a line.

        Args:
            folder: the run folder, locked.
            about: content of `provenance.json` as it will be, with what the run is made with now.
            inexact: why its environments could not be brought back, or None.
        """
        step = 0 if self.checkpoint is None else self.checkpoint.step
        reason = inexact or self.deviates
        entry: dict[str, Any] = {
            "step": step,
            "time": time.time_ns() // 1_000_000,
            "exact": reason is None,
            "reason": reason,
            "command": command_line(sys.argv),
        }
        if self.found:
            entry["differences"] = [list(difference) for difference in self.found]
        if self.total_steps is not None:
            entry["total_steps"] = self.total_steps
        before = about.get("resumes")
        resumes = [*(before if isinstance(before, list) else []), entry]
        exact = all(isinstance(one, dict) and one.get("exact") is True for one in resumes)
        record = {**about, "resumes": resumes, "resume_exact": exact}
        if reason is not None:
            record |= {"run_id": uuid.uuid4().hex, "resumed_from": about.get("run_id")}
            begin_anew(folder)
        write_json(folder.provenance_path, record)
        error = folder.path / "error.json"
        if error.exists():
            error.replace(folder.path / f"error-{len(resumes)}.json")
        if self.checkpoint is None:
            return "there is no checkpoint yet: starting over"
        if inexact is not None:
            return f"going on from step {step:,}, not exactly: fresh episodes, because {inexact}"
        return f"going on from step {step:,}" + (f", not as it would have: {reason}" if reason else "")

    def note_deviation(self, folder: RunFolder, step: int) -> str:
        """Write into the run's record that it did not come out as before from that step on; returns that for people."""
        record = read_json(folder.provenance_path)
        reason = f"from step {step:,} on its records are not those that were made before it was interrupted"
        record["resumes"][-1] |= {"exact": False, "reason": reason}
        write_json(folder.provenance_path, {**record, "resume_exact": False})
        return f"not resumed exactly: {reason}"


def choose_checkpoint(folder: RunFolder, step: int | None) -> Checkpoint | None:
    """The checkpoint to go on from, or None where there is none yet.

    Args:
        folder: the run folder.
        step: which one; None: the last.

    Raises:
        UsageError: there is none of that step.
        StorageError: it is damaged; says which part of it, and offers the one before it.
    """
    from rlkit_core.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder.checkpoints_path)
    steps = checkpoints.steps()
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise UsageError(f"run {folder.path} has no checkpoint of step {step}\nit has: {there}")
    if not steps:
        return None
    chosen = steps[-1] if step is None else step
    try:
        return checkpoints.load(chosen)
    except StorageError as error:
        raise StorageError(f"{error}\n{_offer(checkpoints, folder, chosen)}") from error


def _offer(checkpoints: Checkpoints, folder: RunFolder, damaged: int) -> str:
    for step in reversed(checkpoints.steps()):
        if step < damaged:
            try:
                checkpoints.load(step)
            except StorageError:
                continue
            return f"the one of step {step} is good: rlkit resume {folder.path} --checkpoint {step}"
    return "there is no other one that is good: start the run anew with its config.json"


def check_drift(then: Mapping[str, Any], now: Mapping[str, Any], allowed: bool) -> tuple[Difference, ...]:
    """What is other now.

    Raises:
        ResumeRefused: it changes what is computed, and that is not allowed.
        StorageError: what the run was made with is not said in the way it should be.
    """
    try:
        found = differences(then, now)
    except Exception as error:
        raise StorageError(f"what the run was made with is damaged: {type(error).__name__}: {error}") from error
    changes = [difference for difference in found if difference.changes_results]
    if changes and not allowed:
        named = ", ".join(difference.what for difference in changes[:3]) + (", …" if len(changes) > 3 else "")
        raise ResumeRefused(
            f"the run would go on with other results than it began: {named}\n"
            "bring back what it was made with, or resume it with --allow-drift, which is recorded",
            list(found),
        )
    return tuple(found)
