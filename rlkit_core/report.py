"""Reports: a run, or a group of runs, as one page of HTML that holds all there is to know about it."""

from __future__ import annotations

import html
import json
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit_core import comparison, refusals
from rlkit_core.charts import comparison_figures, table_of_sides
from rlkit_core.errors import RlkitError
from rlkit_core.figures import Chart, Figure, Line, page, table, unit_of
from rlkit_core.run_folder import RunFolder, read_json
from rlkit_core.run_store import Curve, StoredGroup, StoredRun

EVALUATIONS = "evaluation/return"
TRAINING = ("rollout/return", "rollout/episode_length", "time/steps_per_second")
CURVES = (EVALUATIONS, *TRAINING)
"""Metrics of which a report shows curves: what `RunStore.runs` is to be asked for."""
FIGURES = ("return-by-steps", "return-by-time", "intervals", "performance-profiles")
"""Those of a comparison that do not say whether sides differ."""


def report_run(run: StoredRun) -> str:
    """A run's page."""
    record = _record(run)
    figures = [
        figure
        for metric in CURVES
        if (curve := _curve(run, metric)) is not None
        for figure in (_curves_of_run(metric, curve),)
    ]

    def body(place: Any) -> str:
        parts = [f"<h1>{_text(run.name or run.place)}</h1>", _summary_of_run(run)]
        parts += map(place, figures)
        if not figures:
            parts.append('<p class="note">No curve was recorded.</p>')
        if run.final:
            parts.append("<h2>Evaluation of the last policy</h2>")
            parts.append(table(("metric", "value"), [(k, _number(v)) for k, v in sorted(run.final.items())], [1]))
        parts.append(_how_to_repeat([run], record))
        parts.append("<h2>Settings</h2>")
        parts.append(table(("setting", "value"), [(k, _value(v)) for k, v in sorted(run.settings.items())]))
        parts.append(_origin([run], record))
        return "\n".join(parts)

    return page(f"{run.name or run.place}: a run of rlkit", body)


def report_group(name: str, runs: Sequence[StoredRun], groups: Sequence[StoredGroup] = ()) -> str:
    """A group's page: its sides, each with its seeds, beside each other. Whether they differ, a comparison says.

    Args:
        name: the group's, as it was asked for.
        runs: its runs, with the curves of `CURVES`.
        groups: what groups of runs were meant to hold, to say what is missing.
    """
    result = comparison.compare(runs, name=name)
    figures = [figure for figure in comparison_figures(result) if figure.name in FIGURES]

    def body(place: Callable[[Figure], str]) -> str:
        parts = [f"<h1>{_text(name)}</h1>", _summary_of_group(runs)]
        for refusal in refusals.refusals(runs, groups=groups):
            parts.append(f'<p class="warning">{"<br>".join(map(_text, refusal.lines()))}</p>')
        for environment in result["environments"]:
            parts.append(f"<h2>{_text(environment['environment'])}</h2>")
            parts.append(table_of_sides(environment))
            parts += [f'<p class="note">{_text(note)}</p>' for note in environment["notes"]]
        parts.append(
            '<p class="note">Returns of last policies, one number per seed; in brackets intervals, that of the median '
            "exact, those of IQM (the mean of the middle half) and mean by the bootstrap, too narrow where seeds are "
            "few. Whether groups differ is what <code>rlkit compare</code> says.</p>"
        )
        parts += map(place, figures)
        parts.append("<h2>Runs</h2>")
        parts.append(_table_of_runs(runs))
        parts.append(_how_to_repeat(runs, None))
        parts.append(_settings_of_group(runs))
        parts.append(_origin(runs, None))
        return "\n".join(parts)

    return page(f"{name}: runs of rlkit", body)


def label_of(run: StoredRun) -> str:
    """What the runs that differ in their seeds only are called together."""
    return run.group or run.algorithm or run.name or run.place


# Of a run


def _summary_of_run(run: StoredRun) -> str:
    facts = [
        ("algorithm", run.algorithm),
        ("environment", run.environment),
        ("seed", run.seed),
        ("group", run.group),
        ("state", _state(run)),
        ("started", _when(run.started)),
        ("environment steps", _steps(run)),
        ("return of the last policy", _return(run, spread=True)),
        ("where it lies", run.place),
    ]
    return table(("", ""), [(key, value) for key, value in facts if value not in (None, "")]).replace(
        "<thead><tr><th></th><th></th></tr></thead>", ""
    )


def _steps(run: StoredRun) -> str:
    if run.steps is None:
        return ""
    budget = f" of {run.budget:,}" if run.budget is not None else ""
    return f"{run.steps:,}{budget}" + (f"; stopped early: {run.reached}" if run.reached else "")


def _return(run: StoredRun, *, spread: bool = False) -> str:
    if (value := run.final.get("return")) is None:
        return ""
    text = _number(value)
    if spread and "return_std" in run.final:
        text += f" (mean of {run.final.get('episodes', 0):.0f} episodes, "
        text += f"whose standard deviation is {_number(run.final['return_std'])})"
    return text


def _state(run: StoredRun) -> str:
    return f"{run.state}, stopped early" if run.state == "finished" and run.reached else run.state


def _curve(run: StoredRun, metric: str) -> Curve | None:
    """A run's curve without what is no finite number, or None where nothing is left."""
    curve = run.curves.get(metric)
    if curve is None:
        return None
    kept = np.isfinite(curve.values)
    return Curve(curve.steps[kept], curve.seconds[kept], curve.values[kept]) if kept.any() else None


def _curves_of_run(metric: str, curve: Curve) -> Figure:
    size, unit = unit_of(float(curve.seconds[-1]))
    line = [Line(metric, 0, _list(xs), _list(curve.values)) for xs in (curve.steps, curve.seconds / size)]
    charts = [
        Chart("against steps", "environment steps", metric, [line[0]], x_limits=(0, None)),
        Chart("against wall time", f"{unit} since the run began", metric, [line[1]], x_limits=(0, None)),
    ]
    note = (
        "Regular greedy evaluations, each the mean of several episodes of one policy; one seed."
        if metric == EVALUATIONS
        else "Recorded while training; it belongs to the policy that samples while it learns. One seed."
    )
    return Figure(metric.replace("/", "-"), metric, note, charts)


# Of a group


def _summary_of_group(runs: Sequence[StoredRun]) -> str:
    states = Counter(run.state for run in runs)
    text = f"{len(runs)} runs: {', '.join(f'{number} {state}' for state, number in sorted(states.items()))}."
    if began := [run.started for run in runs if run.started is not None]:
        text += f" Begun from {_when(min(began))} to {_when(max(began))}."
    return f"<p>{_text(text)}</p>"


def _table_of_runs(runs: Sequence[StoredRun]) -> str:
    head = ("environment", "group", "seed", "state", "steps", "return", "run")
    ordered = sorted(runs, key=lambda run: (run.environment or "", label_of(run), run.seed or 0, run.place))
    rows = [
        (
            *(run.environment or "", label_of(run), "" if run.seed is None else run.seed, _state(run)),
            *("" if run.steps is None else f"{run.steps:,}", _return(run), run.place),
        )
        for run in ordered
    ]
    return table(head, rows, (2, 4, 5))


def _settings_of_group(runs: Sequence[StoredRun]) -> str:
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for key, value in run.settings.items():
            values[key][_value(value)].append(f"{label_of(run)} in {run.environment}")
    shared, differing = [], []
    for key, found in sorted(values.items()):
        if len(found) == 1 and sum(map(len, found.values())) == len(runs):
            shared.append((key, *found))
        elif key not in ("seed", "group"):
            for value, whose in found.items():
                names = sorted(set(whose))
                differing.append(
                    (key, value, "; ".join(names[:6]) + (f"; and {len(names) - 6} more" * (len(names) > 6)))
                )
    parts = ["<h2>Settings</h2>"]
    if differing:
        parts.append("<p>Where these runs differ, besides their seeds:</p>")
        parts.append(table(("setting", "value", "of"), differing))
    parts.append("<details><summary>What they share</summary>")
    parts.append(table(("setting", "value"), shared) + "</details>")
    return "\n".join(parts)


# Of both


def _record(run: StoredRun) -> dict[str, Any] | None:
    """Content of the run's own record of what it was made with, where its folder is at hand."""
    try:
        data = read_json(RunFolder.open(Path(run.place)).provenance_path)
    except (RlkitError, OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _how_to_repeat(runs: Sequence[StoredRun], record: Mapping[str, Any] | None) -> str:
    first = runs[0]
    lines = []
    if packages := _packages(runs, record):
        lines += ["# the versions that it was made with", f"pip install {' '.join(packages)}"]
    if len(runs) == 1:
        lines += [
            "# again from its record, and whether the same comes out",
            f"rlkit reproduce {shlex.quote(first.place)}",
        ]
        lines += ["# or from this page alone: save the settings below as settings.json"]
        lines += ["rlkit run --config settings.json"]
    else:
        lines += ["# each run again from its record, and whether the same comes out"]
        lines += [f"rlkit reproduce {shlex.quote(run.place)}" for run in runs[:20]]
        if len(runs) > 20:
            lines.append(f"# … and {len(runs) - 20} more; see the table of runs")
    parts = ["<h2>How to reproduce</h2>", f"<pre><code>{_text(chr(10).join(lines))}</code></pre>"]
    if len(runs) == 1 and first.settings:
        text = json.dumps(_nested(first.settings), indent=2, ensure_ascii=False)
        parts.append(f"<details><summary>settings.json</summary><pre><code>{_text(text)}</code></pre></details>")
    if record is not None and isinstance(record.get("command"), str):
        parts.append(f"<p>It was started with <code>{_text(record['command'])}</code></p>")
    return "\n".join(parts)


def _packages(runs: Sequence[StoredRun], record: Mapping[str, Any] | None) -> list[str]:
    """What pip is to install, as far as the runs agree on it."""
    versions = {k: v for k, v in runs[0].versions.items() if all(run.versions.get(k) == v for run in runs)}
    for plugin in (record or {}).get("plugins") or []:
        if isinstance(plugin, dict) and plugin.get("distribution") and plugin.get("version"):
            versions.setdefault(str(plugin["distribution"]), str(plugin["version"]))
    return [shlex.quote(f"{name}=={version}") for name, version in sorted(versions.items()) if name != "python"]


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as tables in tables."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *above, last = name.split(".")
        table = nested
        for part in above:
            below = table.setdefault(part, {})
            if not isinstance(below, dict):  # a name that is a table elsewhere: keep it as it is
                table, last = nested, name
                break
            table = below
        table[last] = value
    return nested


def _origin(runs: Sequence[StoredRun], record: Mapping[str, Any] | None) -> str:
    """Provenance: versions, code, machine."""
    parts = ["<h2>Provenance</h2>"]
    facts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in runs:
        for package, version in run.versions.items():
            facts[f"version of {package}"][str(version)] += 1
        for module, digest in run.code.items():
            facts[f"hash of {module}"][str(digest)] += 1
        dirty = {None: "no repository", True: "yes", False: "no"}[run.dirty]
        facts["changes without a commit"][dirty] += 1
    rows: list[tuple[str, str]] = []
    for key, found in sorted(facts.items()):
        # All runs alike need no counting.
        several = len(found) > 1 or sum(found.values()) < len(runs)
        rows += [
            (key, f"{value} ({number} of {len(runs)} runs)" if several else value) for value, number in found.items()
        ]
    for key in ("git", "machine", "threads", "preset", "cwd", "run_id"):
        value = (record or {}).get(key)
        if isinstance(value, dict):
            rows += [(f"{key} {name}", _value(item)) for name, item in sorted(value.items())]
        elif value is not None:
            rows.append((key, _value(value)))
    parts.append(table(("what", "value"), rows))
    return "\n".join(parts)


def _text(value: object) -> str:
    return html.escape(str(value))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _when(milliseconds: int | None) -> str:
    """A time, in UTC: the same page wherever it is made."""
    if milliseconds is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(milliseconds / 1000))
    except (ValueError, OverflowError, OSError):
        return "?"


def _list(values: np.ndarray) -> list[float]:
    return [value.item() for value in values]
