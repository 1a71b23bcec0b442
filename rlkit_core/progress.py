"""Progress: what a run shows while it goes on. A terminal gets a live display, a pipe a plain line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TextIO

from rlkit_core.errors import UsageError

if TYPE_CHECKING:
    from rich.live import Live

Mode = Literal["auto", "rich", "plain", "none"]


class Progress:
    """Receives how a run goes on; this one shows nothing.

    `update` is called after every update of the learner and costs next to nothing between two displays.
    """

    every = float("inf")
    """Seconds between two displays."""

    def __init__(self, total_steps: int, out: TextIO | None = None) -> None:
        self._total = total_steps
        self._out = out or sys.stdout
        self._started = self._shown = time.perf_counter()
        self._shown_step = 0
        self._speed = 0.0

    def start(self) -> None:
        """Begin to measure time: training begins now."""
        self._started = self._shown = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time for `show`."""
        return time.perf_counter() - self._shown >= self.every

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show how things stand: environment steps so far and the latest metrics, as the journal names them."""
        now = time.perf_counter()
        self._speed = (step - self._shown_step) / max(now - self._shown, 1e-9)
        self._shown, self._shown_step = now, step
        self._display(step, metrics)

    def finish(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the last state, with the speed of the whole run."""

    def line(self, text: str) -> None:
        """Print a line of the run's own."""

    def close(self) -> None:
        """End the display."""

    def _display(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def _left(self, step: int) -> str:
        """Time left to the budget, such as `at most 1:05 left`; nothing where an update has gone past it."""
        if step >= self._total:
            return ""
        seconds = (self._total - step) / self._speed if self._speed > 0 else 0.0
        return f"at most {int(seconds) // 60}:{int(seconds) % 60:02d} left"


class PlainProgress(Progress):
    """One line every few seconds, for pipes and logs."""

    every = 5.0

    def line(self, text: str) -> None:
        """Print it."""
        try:
            print(text, file=self._out, flush=True)
        except OSError:  # whoever read our pipe has gone: that is no reason to stop training
            self._out = open(os.devnull, "w")  # noqa: SIM115

    def _display(self, step: int, metrics: Mapping[str, float]) -> None:
        parts = [f"{step:,} of {self._total:,} steps", f"{self._speed:,.0f} steps/s"]
        parts += [f"{label} {metrics[name]:.4g}" for name, label in SHOWN.items() if name in metrics]
        self.line("  " + " | ".join(filter(None, [*parts, self._left(step)])))


class RichProgress(Progress):
    """A live display on a terminal."""

    every = 0.1

    def __init__(self, total_steps: int, out: TextIO | None = None) -> None:
        super().__init__(total_steps, out)
        self._live: Live | None = None

    def line(self, text: str) -> None:
        """Print it above the display."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._out, flush=True)

    def finish(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show it, with the speed of the whole run."""
        self._speed = step / max(time.perf_counter() - self._started, 1e-9)
        self._display(step, metrics)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def _display(self, step: int, metrics: Mapping[str, float]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if self._live is None:
            self._live = Live(console=Console(file=self._out), auto_refresh=False)
            self._live.start()
        table = Table.grid(padding=(0, 2))
        steps = f"{step:,} of {self._total:,} steps"
        table.add_row(ProgressBar(self._total, min(step, self._total), width=30), steps, f"{self._speed:,.0f} steps/s")
        table.add_row(*(f"{label} {metrics[name]:.4g}" for name, label in SHOWN.items() if name in metrics))
        elapsed = time.perf_counter() - self._started
        times = [f"{int(elapsed) // 60}:{int(elapsed) % 60:02d} elapsed", self._left(step)]
        table.add_row(", ".join(filter(None, times)))
        self._live.update(table, refresh=True)


SHOWN = {
    "rollout/return": "training return",
    "evaluation/return": "greedy return",
    "learner/policy_loss": "policy loss",
    "learner/value_loss": "value loss",
}
"""Metrics on display, with their labels."""


def progress(mode: Mode, total_steps: int, out: TextIO | None = None) -> Progress:
    """The display of that mode; `auto` is `rich` on a terminal and `plain` elsewhere.

    Raises:
        UsageError: there is no such mode.
    """
    out = out or sys.stdout
    if mode == "auto":
        mode = "rich" if out.isatty() else "plain"
    displays: dict[str, type[Progress]] = {"rich": RichProgress, "plain": PlainProgress, "none": Progress}
    if mode not in displays:
        raise UsageError(f"progress should be auto, rich, plain or none, not {mode}")
    return displays[mode](total_steps, out)
