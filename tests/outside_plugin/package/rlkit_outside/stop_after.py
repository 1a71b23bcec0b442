"""The run hooks `stop-after`: the run ends after 1,000 steps, and its folder says who ended it."""

from pathlib import Path

from rlkit_core import hookimpl

_folder = Path()


@hookimpl
def rlkit_run_started(run_dir):
    """Remember where it goes."""
    global _folder
    _folder = Path(run_dir)


@hookimpl
def rlkit_iteration_finished(step):
    """Stop."""
    return step >= 1_000


@hookimpl
def rlkit_run_finished(step):
    """Say so."""
    (_folder / "stopped.txt").write_text(f"rlkit-outside has seen {step} steps\n", encoding="utf-8")
