"""Charts of a comparison: PNG files, and one page of HTML that opens without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlkit_core.figures import Chart, Figure, Line, Row, page, table, unit_of, write_png


def write_charts(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the charts of a comparison: a PNG file of each sort, and `comparison.html` with all of them.

    Args:
        result: of `rlkit_core.comparison`, as plain data.
        folder: where to; it is there.

    Returns:
        What was written.

    Raises:
        OSError: a file cannot be written.
    """
    figures = comparison_figures(result)
    written = []
    for figure in figures:
        written.append(folder / f"{figure.name}.png")
        write_png(figure, written[-1])
    written.append(folder / "comparison.html")
    written[-1].write_text(comparison_page(result, figures), encoding="utf-8")
    return written


def comparison_figures(result: dict[str, Any]) -> list[Figure]:
    """What there is to be seen of a comparison; what it has nothing of is left out."""
    looks = {name: number for number, name in enumerate(result["sides"])}
    figures = [
        _curves(result, looks, "steps"),
        _curves(result, looks, "seconds"),
        _intervals(result, looks),
        _improvement(result, looks),
        _profiles(result, looks),
        _thresholds(result, looks),
    ]
    return [figure for figure in figures if figure.charts]


def _curves(result: dict[str, Any], looks: dict[str, int], axis: str) -> Figure:
    charts, methods = [], []
    for environment in result["environments"]:
        found = [(side["side"], curve) for side in environment["sides"] if (curve := (side["curves"] or {}).get(axis))]
        size, x = 1.0, "environment steps"
        if axis == "seconds":
            size, unit = unit_of(max((curve["x"][-1] for _, curve in found if curve["x"]), default=0.0))
            x = f"{unit} since the run began"
        lines = []
        for name, curve in found:
            label, look = f"{name} ({_seeds(len(curve['runs']))})", looks[name]
            is_step = axis == "seconds"  # a run keeps its evaluation until the next one
            xs = [value / size for value in curve["x"]]
            several = len(curve["runs"]) > 1
            for values in curve["runs"] if several else ():
                thin_xs, thin_ys = _known(xs, values)
                lines.append(Line(label, look, thin_xs, thin_ys, is_step=is_step, is_thin=True))
            # Where there is no band the ends of it lie on the line.
            low, high = (
                [middle if end is None else end for middle, end in zip(curve["median"], curve[end], strict=True)]
                for end in ("low", "high")
            )
            xs, middle, low, high = _known(xs, curve["median"], low, high)
            if not several:
                lines.append(Line(label, look, xs, middle, is_step=is_step))
                continue
            lines.append(Line(label, look, xs, middle, low, high, is_step=is_step))
            if any(end is not None for end in curve["low"]):
                methods.append(_method(curve))
        if lines:
            y = "return of greedy evaluations"
            charts.append(Chart(environment["environment"], x, y, lines, x_limits=(0, None)))
    note = "Thick: median over seeds. Thin: each seed."
    note += f" Band: {_joined(methods)}, for each point by itself." if methods else ""
    if axis == "steps":
        note += " Evaluations count at the nominal steps at which they were due."
        return Figure("return-by-steps", "Return against environment steps", note, charts)
    note += " At any time a run counts with its last evaluation before. Times depend on the machine and its load."
    return Figure("return-by-time", "Return against wall time", note, charts)


def _intervals(result: dict[str, Any], looks: dict[str, int]) -> Figure:
    charts, methods = [], []
    for environment in result["environments"]:
        rows = []
        for side in environment["sides"]:
            for key, name in (("median", "median"), ("iqm", "IQM"), ("mean", "mean")):
                interval = side[key]
                if interval is None or interval["value"] is None:
                    continue
                number = len(side["seeds"])
                note = _seeds(number) if key == "median" else ""
                # One seed says nothing of others.
                low, high = (interval["low"], interval["high"]) if number > 1 else (None, None)
                rows.append(Row(f"{side['side']}: {name}", looks[side["side"]], interval["value"], low, high, note))
                if low is not None:
                    methods.append(f"{name} {_method(interval)}")
        if rows:
            charts.append(Chart(environment["environment"], result["measure"], rows=rows))
    note = f"Dots: values over seeds. Lines: intervals ({_joined(methods)})." if methods else "Dots: values over seeds."
    note += " IQM: mean of the middle half. Overlapping intervals do not say that sides are alike; the test does."
    return Figure("intervals", f"{_capital(result['measure'])}: median, IQM and mean", note, charts)


def _improvement(result: dict[str, Any], looks: dict[str, int]) -> Figure:
    charts, methods = [], []
    every = [(item["environment"], item["pairs"]) for item in result["environments"]]
    if result["overall"]:
        every.append(("mean over environments", result["overall"]))
    for title, pairs in every:
        rows = []
        for pair in pairs:
            interval = pair["probability_of_improvement"]
            if interval is None or interval["value"] is None:
                continue
            label, ends = f"{pair['side']} over {pair['baseline']}", (interval["low"], interval["high"])
            note = str(pair.get("verdict") or "")
            rows.append(Row(label, looks[pair["side"]], interval["value"], *ends, note))
            if interval["low"] is not None:
                methods.append(_method(interval))
        if rows:
            x = "probability that a run is better"
            marks = [(0.5, "no difference")]
            charts.append(Chart(title, x, rows=rows, x_limits=(0, 1), marks=marks))
    note = "Probability that a run of one side is better than one of the other; ties count half."
    note += f" Lines: {_joined(methods)}." if methods else ""
    note += " The words are the verdicts of the permutation tests, which do not follow from the intervals."
    return Figure("probability-of-improvement", "Probability of improvement", note, charts)


def _profiles(result: dict[str, Any], looks: dict[str, int]) -> Figure:
    charts = []
    has_band = False
    every = [(item["environment"], item["profiles"], result["measure"]) for item in result["environments"]]
    numbers = {
        (item["environment"], side["side"]): len(side["seeds"])
        for item in result["environments"]
        for side in item["sides"]
    }
    normalised = result["normalised"]
    if normalised and len(normalised["environments"]) > 1:
        every.append(("all environments, normalised", normalised.get("profiles"), "normalised score"))
    is_lower_better = result["better"] == "lower"
    for title, profiles, x in every:
        lines = []
        for side in (profiles or {}).get("sides", ()):
            name = side["side"]
            seeds = numbers.get((title, name))
            label = name if seeds is None else f"{name} ({_seeds(seeds)})"
            band = None not in (*side["low"], *side["high"])
            low, high = (side["low"], side["high"]) if band else (None, None)
            has_band |= band
            lines.append(Line(label, looks[name], profiles["thresholds"], side["fraction"], low, high, is_step=True))
        if lines:
            y = "fraction of runs " + ("that need fewer" if is_lower_better and x != "normalised score" else "above")
            charts.append(Chart(title, x, y, lines, y_limits=(0, 1.02)))
    note = "For each value on the x-axis the fraction of runs that are better than it: higher lines are better."
    note += " Bands: 95 % bootstrap intervals, for each value by itself." if has_band else ""
    return Figure("performance-profiles", "Performance profiles", note, charts)


def _thresholds(result: dict[str, Any], looks: dict[str, int]) -> Figure:
    charts, methods = [], []
    for environment in result["environments"]:
        rows, budget = [], environment["budget"]
        for side in environment["sides"]:
            found = side["steps_to_threshold"]
            if found is None or not found["steps"]:
                continue
            interval, most = found["median"] or {}, max(found["steps"])
            reached = found["num_reached"]
            note = f"{reached} of {len(found['steps'])} reached it"
            value, low, high = (interval.get(key) for key in ("value", "low", "high"))
            if low is not None:
                methods.append(_method(interval))
            # More than half of the runs have not reached it, say: all that is known is that it takes longer.
            is_open = high is None and reached < len(found["steps"])
            if is_open:
                high = budget if budget is not None else most
                low = high if low is None and value is None else value if low is None else low
            is_known = value is not None and (2 * reached > len(found["steps"]))
            rows.append(
                Row(
                    *(side["side"], looks[side["side"]], value if is_known else None, low, high, note),
                    high_is_open=is_open,
                )
            )
        if rows:
            title = f"{environment['environment']}, return {environment['threshold']:g}"
            marks = [] if budget is None else [(budget, "budget")]
            charts.append(Chart(title, "environment steps", rows=rows, x_limits=(0, None), marks=marks))
    note = "Dots: median over seeds of the steps to the first evaluation that reaches the threshold."
    note += f" Lines: {_joined(methods)}." if methods else ""
    note += " An arrow: at least; runs that have not reached it count with the steps that were watched."
    return Figure("steps-to-threshold", "Environment steps to the threshold", note, charts)


def comparison_page(result: dict[str, Any], figures: Sequence[Figure]) -> str:
    """The page of a comparison: what was found, in words and numbers, and its figures."""

    def body(place: Callable[[Figure], str]) -> str:
        sides = " and ".join(f"<b>{html.escape(name)}</b>" for name in result["sides"])
        parts = [f"<h1>{html.escape(result['name'] or 'Comparison')}</h1>", f"<p>Sides: {sides}.</p>"]
        for item in result["allowed"]:
            what, why = html.escape(str(item["key"])), html.escape(str(item["reason"]))
            parts.append(f'<p class="warning">Let pass although it can mislead ({what}): {why}</p>')
        for environment in result["environments"]:
            parts.append(f"<h2>{html.escape(environment['environment'])}</h2>")
            parts += [f"<p>{html.escape(pair['text'])}</p>" for pair in environment["pairs"]]
            parts.append(table_of_sides(environment))
            parts += [f'<p class="note">{html.escape(note)}</p>' for note in environment["notes"]]
        parts += map(place, figures)
        parts.append("<h2>How it was made</h2>")
        tests = f"{result['num_tests']} permutation test{'' if result['num_tests'] == 1 else 's'}"
        parts.append(
            f"<p>Compared by {html.escape(result['measure'])} ({html.escape(result['better'])} is better); {tests}, "
            f"p corrected by {html.escape(result['correction'])}'s method; alpha {result['alpha']:g}"
            f"{', paired by seed' if result['paired'] else ''}; {result['resamples']:,} resamples.</p>"
        )
        parts += [f'<p class="note">{html.escape(note)}</p>' for note in result["notes"]]
        for environment in result["environments"]:
            settings = {side["side"]: side["settings"] for side in environment["sides"]}
            keys = sorted({key for values in settings.values() for key in values})
            if keys:
                name = html.escape(environment["environment"])
                parts.append(f"<details><summary>Settings that differ in {name}</summary>")
                rows = [[key, *(_setting(values, key) for values in settings.values())] for key in keys]
                parts.append(table(["setting", *settings], rows) + "</details>")
        parts.append("<details><summary>Runs</summary>")
        runs = [
            (environment["environment"], side["side"], "" if seed is None else seed, run, f"{score:.6g}")
            for environment in result["environments"]
            for side in environment["sides"]
            for seed, run, score in zip(side["seeds"], side["runs"], side["scores"], strict=True)
        ]
        parts.append(table(("environment", "side", "seed", "run", result["measure"]), runs, (2, 4)) + "</details>")
        parts.append("<details><summary>Versions</summary>")
        parts.append(table(("package", "version"), sorted(result["versions"].items())) + "</details>")
        parts.append(f"<pre><code>{html.escape(result['reproduce'])}</code></pre>")
        return "\n".join(parts)

    return page(f"{result['name'] or 'Comparison'}: a comparison by rlkit", body)


def table_of_sides(environment: dict[str, Any]) -> str:
    """Each side of an environment with its numbers, in HTML."""
    head = ("side", "seeds", "median", "IQM", "mean")
    rows = [
        (side["side"], len(side["seeds"]), *(_written(side, key) for key in ("median", "iqm", "mean")))
        for side in environment["sides"]
    ]
    return table(head, rows, (1, 2, 3, 4))


def _written(side: dict[str, Any], key: str) -> str:
    """A number of a side with its interval, and the coverage of one that cannot have 95 %."""
    interval = side[key]
    if interval is None or interval["value"] is None:
        return ""
    text = f"{interval['value']:.5g}"
    if len(side["seeds"]) > 1 and None not in (interval["low"], interval["high"]):
        text += f" [{interval['low']:.5g}, {interval['high']:.5g}]"
        if interval["confidence"] < 0.95:
            text += f" ({100 * interval['confidence']:.1f} %)"
    return text


def _setting(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return ""
    return values[key] if isinstance(values[key], str) else json.dumps(values[key], ensure_ascii=False)


def _known(xs: Sequence[float], *columns: Sequence[float | None]) -> list[list[float]]:
    """The points at which all columns have a number."""
    points = [point for point in zip(xs, *columns, strict=True) if None not in point]
    return [list(column) for column in zip(*points, strict=True)] if points else [[] for _ in range(1 + len(columns))]


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'}"


def _method(interval: dict[str, Any]) -> str:
    method = str(interval["method"])
    return method if "cover" in method else f"{100 * interval['confidence']:.3g} %, {method}"


def _joined(methods: Iterable[str]) -> str:
    """What bands and intervals are; of many sorts (the coverage follows from the number of seeds) the first few."""
    different = list(dict.fromkeys(methods))
    return "; ".join(different[:4]) + ("; …" if len(different) > 4 else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
