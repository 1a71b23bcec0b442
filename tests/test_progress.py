"""Progress: a live display on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import io
import time

import pytest

from rlkit_core.errors import UsageError
from rlkit_core.progress import PlainProgress, Progress, RichProgress, progress

METRICS = {"rollout/return": 12.34567, "learner/value_loss": 0.5, "other": 1.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rlkit_core.progress.time.perf_counter", clock)
    return clock


def test_modes() -> None:
    assert type(progress("auto", 10, io.StringIO())) is PlainProgress
    assert type(progress("auto", 10, Terminal())) is RichProgress
    assert type(progress("rich", 10, io.StringIO())) is RichProgress
    assert type(progress("plain", 10, Terminal())) is PlainProgress
    assert type(progress("none", 10, Terminal())) is Progress
    with pytest.raises(UsageError, match="auto, rich, plain or none, not fancy"):
        progress("fancy", 10)  # type: ignore[arg-type]


def test_plain_lines(clock: Clock) -> None:
    out = io.StringIO()
    display = progress("plain", 10_000, out)
    display.start()
    assert not display.due()
    clock.now += 4.9
    assert not display.due()
    clock.now += 0.1
    assert display.due()
    display.show(2500, METRICS)
    assert not display.due()
    clock.now += 10
    display.show(4500, {})
    display.line("said")
    clock.now += 5
    display.show(10_500, {})  # an update may go past the budget
    display.finish(10_000, METRICS)
    display.close()
    assert out.getvalue().splitlines() == [
        "  2,500 of 10,000 steps | 500 steps/s | training return 12.35 | value loss 0.5 | at most 0:15 left",
        "  4,500 of 10,000 steps | 200 steps/s | at most 0:27 left",
        "said",
        "  10,500 of 10,000 steps | 1,200 steps/s",
    ]


def test_a_live_display(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    display = progress("rich", 10_000, out)
    display.start()
    display.line("before")
    clock.now += 0.1
    assert display.due()
    display.show(50, METRICS)
    display.line("[bold]said")  # no markup
    clock.now += 100
    display.finish(12_345, {"evaluation/return": float("nan")})
    display.close()
    display.close()
    text = out.getvalue()
    assert text.startswith("before\n")
    for part in ("50 of 10,000 steps", "500 steps/s", "training return 12.35", "[bold]said", "0:00 elapsed, at most"):
        assert part in text
    last = text[text.rindex("12,345 of") :]
    assert "123 steps/s" in last
    assert "greedy return nan" in last
    assert "1:40 elapsed" in last
    assert "left" not in last


def test_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    out = Terminal()
    display = progress("none", 10, out)
    display.start()
    clock.now += 1e9
    assert not display.due()
    display.show(5, METRICS)
    display.line("x")
    display.finish(5, METRICS)
    display.close()
    assert out.getvalue() == capsys.readouterr().out == ""


def test_a_display_that_was_never_shown_ends() -> None:
    for mode in ("rich", "plain", "none"):
        progress(mode, 10, io.StringIO()).close()  # type: ignore[arg-type]


def test_asking_costs_nearly_nothing() -> None:
    display = progress("plain", 10, io.StringIO())
    started = time.process_time()
    for _ in range(10_000):
        display.due()
    assert (time.process_time() - started) / 10_000 < 10e-6
