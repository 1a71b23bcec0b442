"""Progress: what a run shows while it goes on. A terminal gets a live display, a pipe a plain line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass
class RunRow:
    """How a run of a group stands, for display.

    Attributes:
        name: what tells it from the others.
        total: nominal budget in environment steps.
        state: as in `status.json`, or `waiting`, or of a trial of settings `given up`.
        step: environment steps taken.
        speed: environment steps per second, evaluations included.
        evaluation: mean return of the last evaluation.
        seconds: how long it took.
        error: what went wrong.
    """

    name: str
    total: int
    state: str = "waiting"
    step: int = 0
    speed: float = 0.0
    evaluation: float | None = None
    seconds: float | None = None
    error: str | None = None

    def seconds_left(self, speed: float) -> float:
        """Until its budget is used up, if it goes on so fast."""
        return max(0, self.total - self.step) / speed if speed > 0 else 0.0


ENDED = ("finished", "given up", "failed", "killed", "interrupted")


class GroupProgress:
    """Receives how the runs of a group stand; this one shows nothing."""

    every = float("inf")
    """Seconds between two displays."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._shown = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time for `show`."""
        return time.perf_counter() - self._shown >= self.every

    def start(self, headline: str, rows: Sequence[RunRow]) -> None:
        """Say what begins now."""

    def show(self, rows: Sequence[RunRow]) -> None:
        """Show how the runs stand."""
        self._shown = time.perf_counter()
        self._display(rows)

    def ended(self, row: RunRow, rows: Sequence[RunRow]) -> None:
        """Say that a run has ended."""

    def close(self, rows: Sequence[RunRow]) -> None:
        """End the display."""

    def _display(self, rows: Sequence[RunRow]) -> None:
        pass


class PlainGroupProgress(GroupProgress):
    """A line for each run that ends, and one every few seconds, for pipes and logs."""

    every = 5.0

    def start(self, headline: str, rows: Sequence[RunRow]) -> None:
        """Print it."""
        self._line(headline)

    def ended(self, row: RunRow, rows: Sequence[RunRow]) -> None:
        """Print how it ended."""
        self._line(f"{_ending(row)} ({_count(rows)})")

    def _display(self, rows: Sequence[RunRow]) -> None:
        running = [row for row in rows if row.state == "running"]
        if not running:
            return
        parts = [_count(rows)]
        for row in running[:MOST_RUNS]:
            share = f"{100 * row.step / row.total:.0f} %" if row.total else f"{row.step:,} steps"
            value = "" if row.evaluation is None else f", greedy return {row.evaluation:.4g}"
            parts.append(f"{row.name}: {share}{value}")
        if len(running) > MOST_RUNS:
            parts.append(f"and {len(running) - MOST_RUNS} more")
        self._line("  " + " | ".join([*parts, *_time_left(rows)]))

    def _line(self, text: str) -> None:
        try:
            print(text, file=self._out, flush=True)
        except OSError:  # whoever read our pipe has gone: that is no reason to stop
            self._out = open(os.devnull, "w")  # noqa: SIM115


MOST_RUNS = 8
"""Running runs in a plain line, at most."""


class RichGroupProgress(GroupProgress):
    """A live table on a terminal."""

    every = 0.5

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__(out)
        self._live: Live | None = None

    def start(self, headline: str, rows: Sequence[RunRow]) -> None:
        """Print the headline, and begin the table."""
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=self._out), auto_refresh=False)
        self._live.console.print(headline, highlight=False, markup=False)
        self._live.start()
        self.show(rows)

    def ended(self, row: RunRow, rows: Sequence[RunRow]) -> None:
        """Show it at once; an error has a line of its own above the table."""
        if self._live is not None and row.state != "finished":
            self._live.console.print(_ending(row), highlight=False, markup=False)
        self.show(rows)

    def close(self, rows: Sequence[RunRow]) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._display(rows)
            self._live.stop()

    def _display(self, rows: Sequence[RunRow]) -> None:
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), caption_justify="left")
        for name in ("run", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("steps", "steps/s", "greedy return", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        room = max(4, self._live.console.height - 4)
        # What goes on is what one looks for, then what went wrong, then the rest.
        order = {"running": 0, "failed": 1, "killed": 1, "interrupted": 1, "given up": 2, "finished": 2}
        chosen = sorted(range(len(rows)), key=lambda i: order.get(rows[i].state, 3))[:room]
        for row in (rows[i] for i in sorted(chosen)):
            left = row.seconds_left(row.speed) if row.state == "running" and row.speed else None
            table.add_row(
                Text(row.name),
                Text(row.state),
                f"{row.step:,}" if row.step else "",
                f"{row.speed:,.0f}" if row.speed else "",
                "" if row.evaluation is None else f"{row.evaluation:.1f}",
                "" if left is None else _clock(left),
            )
        table.caption = Text(", ".join([_count(rows), *_time_left(rows)]))
        self._live.update(table, refresh=True)


def _ending(row: RunRow) -> str:
    took = f" in {row.seconds:.1f} s" if row.seconds is not None and row.state == "finished" else ""
    value = f", greedy return {row.evaluation:.1f}" if row.evaluation is not None else ""
    error = f": {row.error.splitlines()[0]}" if row.error else ""
    return f"{row.name}: {row.state} after {row.step:,} steps{took}{value}{error}"


def _count(rows: Sequence[RunRow]) -> str:
    done = sum(row.state in ("finished", "given up") for row in rows)
    wrong = sum(row.state in ("failed", "killed") for row in rows)
    return f"{done} of {len(rows)} done" + (f", {wrong} failed" if wrong else "")


def _time_left(rows: Sequence[RunRow]) -> list[str]:
    """Time left to all budgets at the present speed, as a part of a line."""
    running = [row.speed for row in rows if row.state == "running" and row.speed > 0]
    if not running:
        return []
    left = sum(row.seconds_left(sum(running)) for row in rows if row.state not in ENDED)
    return [f"at most {_clock(left)} left"]


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    text = f"{minutes}:{int(seconds) % 60:02d}"
    return text if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


def group_progress(mode: Mode, out: TextIO | None = None) -> GroupProgress:
    """The display of a group in that mode; see `progress`.

    Raises:
        UsageError: there is no such mode.
    """
    out = out or sys.stdout
    displays = {"rich": RichGroupProgress, "plain": PlainGroupProgress, "none": GroupProgress}
    return displays[_display_of(mode, out)](out)


def _display_of(mode: Mode, out: TextIO) -> str:
    if mode == "auto":
        return "rich" if out.isatty() else "plain"
    if mode not in ("rich", "plain", "none"):
        raise UsageError(f"progress should be auto, rich, plain or none, not {mode}")
    return mode


def progress(mode: Mode, total_steps: int, out: TextIO | None = None) -> Progress:
    """The display of that mode; `auto` is `rich` on a terminal and `plain` elsewhere.

    Raises:
        UsageError: there is no such mode.
    """
    out = out or sys.stdout
    displays = {"rich": RichProgress, "plain": PlainProgress, "none": Progress}
    return displays[_display_of(mode, out)](total_steps, out)
