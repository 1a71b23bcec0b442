"""Writes the tables of docs/results.md and its learning curves from docs/results.json; see results.py."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """| algorithm and environment | goal | median | range over seeds | seeds that reach it | steps | seconds a run |
|---|---|---|---|---|---|---|"""
COLOURS = {"a2c": "#4477aa", "ppo": "#ee6677", "dqn": "#228833", "sac": "#aa3377", "td3": "#ccbb44"}


def write(results: dict[str, Any], rows: Sequence[Any], docs: Path) -> None:
    """Put the tables between the page's marks, and draw a picture for each environment."""
    page = docs / "results.md"
    text = page.read_text(encoding="utf-8")
    parts = {**tables(results, rows), "curves": curves(results, rows, docs)}
    for mark, content in parts.items():
        inside = f"<!-- {mark} -->\n\n{content}\n\n<!-- end -->"
        text, number = re.subn(rf"<!-- {mark} -->.*?<!-- end -->", lambda _, new=inside: new, text, flags=re.DOTALL)
        assert number == 1, f"{page} has no mark <!-- {mark} -->"
    page.write_text(text, encoding="utf-8")


def tables(results: dict[str, Any], rows: Sequence[Any]) -> dict[str, str]:
    """What stands between the page's marks, but for the pictures."""
    return {
        "overview": overview(results, rows),
        "details": details(results, rows),
        "control": detail("control", results) if "control" in results else "",
    }


def returns_of(result: dict[str, Any]) -> list[float]:
    """Mean return of each seed, sorted."""
    return sorted(run["return"] for run in result["runs"])


def overview(results: dict[str, Any], rows: Sequence[Any]) -> str:
    """Algorithms by environments: the median, and the goal."""
    environments = list(dict.fromkeys(row.env for row in rows))
    lines = [f"| | {' | '.join(environments)} |", f"|---|{'---|' * len(environments)}"]
    for algorithm in dict.fromkeys(row.algorithm for row in rows):
        cells = []
        for env in environments:
            row = next((row for row in rows if (row.algorithm, row.env) == (algorithm, env)), None)
            result = results.get(f"{algorithm}/{env}")
            cells.append("" if row is None else cell(row, result))
        lines.append(f"| [{algorithm}](algorithms/{algorithm}.md) | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: Any, result: dict[str, Any] | None) -> str:
    """Median of the seeds, in bold where it reaches the goal."""
    if result is None:
        return "not run"
    median = statistics.median(returns_of(result))
    if row.goal is None:
        return f"{median:.1f}"
    shown = f"**{median:.1f}**" if reached(row.goal, median) else f"{median:.1f}"
    return f"{shown} (≥ {row.goal:g})".replace("-", "−")


def reached(goal: float, median: float) -> bool:
    """Whether a median is as good as the goal."""
    return median >= goal


def details(results: dict[str, Any], rows: Sequence[Any]) -> str:
    """A line for each row."""
    lines = [HEAD]
    for row in rows:
        if row.name in results:
            lines.append(detail(row.name, results, table=False))
    commands = [f"{results[row.name]['command']} --seed 0" for row in rows if row.name in results]
    machines = dict.fromkeys(results[row.name]["machine"] for row in rows if row.name in results)
    return "\n".join(
        [*lines, "", f"Measured on: {'; '.join(machines)}.", "", "```text", *dict.fromkeys(commands), "```"]
    )


def detail(name: str, results: dict[str, Any], *, table: bool = True) -> str:
    """A row's line, with a head of its own where it stands alone."""
    result = results[name]
    returns, goal = returns_of(result), result["goal"]
    steps = statistics.median(run["steps"] for run in result["runs"])
    seconds = statistics.median(run["seconds"] for run in result["runs"])
    presets = {run["preset"] for run in result["runs"]} - {None}
    preset = f", preset `{presets.pop()}`" if presets else ""
    passed = "" if goal is None else f"{sum(reached(goal, value) for value in returns)} of {len(returns)}"
    cells = [
        f"{result['algorithm']}, {result['env']}{preset}",
        "" if goal is None else f"≥ {goal:g}",
        f"{statistics.median(returns):.1f}",
        f"{returns[0]:.1f} to {returns[-1]:.1f}",
        passed or f"{len(returns)} seeds",
        f"{steps:,.0f}",
        f"{seconds:,.0f}",
    ]
    line = "| " + " | ".join(cell.replace("-", "−") if i in (1, 2, 3) else cell for i, cell in enumerate(cells)) + " |"
    if not table:
        return line
    return "\n".join([HEAD, line, "", "```text", f"{result['command']} --seed 0", "```"])


def curves(results: dict[str, Any], rows: Sequence[Any], docs: Path) -> str:
    """A picture for each environment; returns the lines that show them."""
    import matplotlib

    matplotlib.use("svg")
    # The same numbers give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "rlkit", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    folder = docs / "results"
    folder.mkdir(exist_ok=True)
    lines = []
    for env in dict.fromkeys(row.env for row in rows):
        shown = [row for row in rows if row.env == env and row.name in results]
        if not shown:
            continue
        figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
        for row in shown:
            runs = [dict(map(tuple, run["curve"])) for run in results[row.name]["runs"]]
            steps = sorted(set.intersection(*map(set, runs)))
            columns = [[run[step] for run in runs] for step in steps]
            colour = COLOURS[row.algorithm]
            axes.plot(steps, list(map(statistics.median, columns)), color=colour, label=row.algorithm, linewidth=1.2)
            axes.fill_between(steps, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.15, lw=0)
        axes.set(title=env, xlabel="environment steps", ylabel="greedy return")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{env}.svg"
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        path.write_text("".join(line.rstrip() + "\n" for line in path.read_text().splitlines()))
        algorithms = " and ".join(row.algorithm for row in shown)
        lines.append(f"![Greedy return against environment steps in {env}, {algorithms}](results/{env}.svg)")
    return "\n\n".join(lines)
