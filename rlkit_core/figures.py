"""Figures as PNG files, and on pages of HTML that open without a network.

What is to be seen is a `Chart` of plain numbers. matplotlib draws it into a file; plotly, whose script goes into the
page itself, shows it in a browser, where lines can be switched off, values read, and parts zoomed into.
"""

from __future__ import annotations

import html
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#882255", "#009e73", "#cc79a7", "#332288", "#000000")
"""Of the sides, in turn: each has a contrast of 3 and more on white, and people with any sort of colour blindness can
tell any two of them apart. Blue, vermilion, green, pink and black are those of Okabe and Ito (2008)."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""Of their lines, where there are more sides than colours."""
LONGEST_NAME = 42
"""Characters of a name in a legend: the middle of longer ones is left out."""
LONGEST_ROW = 34
"""Likewise before a row: the axes need room beside it."""
MANY_POINTS = 40
"""Points of a line above which they are not marked one by one."""


@dataclass(frozen=True)
class Line:
    """A line of a chart, with a band around it or without.

    Attributes:
        label: in the legend; lines of one label belong together there.
        look: number of its colour and dash.
        xs, ys: its points.  # [K]
        low, high: ends of the band.  # [K]
        is_step: whether the value holds up to the next point.
        is_thin: one of several that the chart is about only together, such as single seeds.
    """

    label: str
    look: int
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    is_step: bool = False
    is_thin: bool = False


@dataclass(frozen=True)
class Row:
    """A value with its interval, in a line of its own.

    Attributes:
        label: what it is of.
        look: number of its colour.
        value: the value; None: only the ends are known.
        low, high: ends of its interval, or None: there is none.
        note: beside it, such as `3 of 10 censored`.
        low_is_open, high_is_open: whether the interval goes on beyond that end, which is then the last known number.
    """

    label: str
    look: int
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    low_is_open: bool = False
    high_is_open: bool = False


@dataclass(frozen=True)
class Chart:
    """What is to be seen in one pair of axes: lines, or else rows with intervals.

    Attributes:
        title: above it, such as the environment.
        x, y: what its axes show, with units; rows have no y.
        lines, rows: what is in it.
        x_limits, y_limits: ends of the axes; None, also one of them: as the numbers want it.
        marks: places on the x-axis that are marked by a line, such as 0.5, with what they mean.
    """

    title: str
    x: str
    y: str = ""
    lines: Sequence[Line] = ()
    rows: Sequence[Row] = ()
    x_limits: tuple[float | None, float | None] = (None, None)
    y_limits: tuple[float | None, float | None] = (None, None)
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Figure:
    """Charts that belong together, one per environment for example.

    Attributes:
        name: of its file.
        title: above them.
        note: below them: what bands and intervals are, and of how many seeds.
        charts: the charts.
    """

    name: str
    title: str
    note: str
    charts: Sequence[Chart]


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name for a legend: printable, in one line, and without its middle where it is long."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[-end:]}"


def short_names(names: Iterable[str], longest: int = LONGEST_NAME) -> dict[str, str]:
    """Names as `shortened`, with a number where two have become the same."""
    short: dict[str, str] = {}
    for name in names:
        first = text = shortened(name, longest)
        number = 1
        while text in short.values() and name not in short:
            number += 1
            text = f"{first} ({number})"
        short.setdefault(name, text)
    return short


def unit_of(seconds: float) -> tuple[float, str]:
    """Unit for a wall time: how many seconds it has, and its name."""
    return (3600.0, "hours") if seconds >= 2 * 3600 else (60.0, "minutes") if seconds >= 180 else (1.0, "seconds")


# Files


def write_png(figure: Figure, path: Path) -> None:
    """Draw a figure; the same numbers give the same file. Nothing of matplotlib's own state is changed.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    number = max(1, len(figure.charts))
    is_wide = any(chart.rows for chart in figure.charts)
    columns = min(number, 2 if is_wide or number in (2, 4) else 3)
    lines = math.ceil(number / columns)
    most_rows = max([len(chart.rows) for chart in figure.charts], default=0)
    width = 6.6 if is_wide or number == 1 else 4.6
    height = 1.1 + 0.32 * most_rows if is_wide else 3.4
    style = {
        # A name is a text, not a formula.
        **{"text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans", "axes.titlesize": 10},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5"},
        **{"axes.axisbelow": True, "axes.edgecolor": "#666666", "savefig.dpi": 130, "axes.formatter.useoffset": False},
    }
    labels = short_names(line.label for chart in figure.charts for line in chart.lines if not line.is_thin)
    per_line = max(1, int(columns * width / (0.9 + 0.085 * max(map(len, labels.values()), default=0))))
    above = 0.2 * math.ceil(len(labels) / per_line)
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # a letter that the font has not
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        canvas = Canvas(figsize=(columns * width, lines * height + above + 0.9), layout="constrained")
        FigureCanvasAgg(canvas)
        drawn = canvas.subplots(lines, columns, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axes, chart in zip(drawn, figure.charts, strict=False):
            _draw(axes, chart, handles)
        for axes in drawn[len(figure.charts) :]:
            axes.set_axis_off()
        canvas.supxlabel(_wrapped(figure.note, round(columns * width * 14)), fontsize=8, color="#555555")
        if handles:
            legend = canvas.legend(
                list(handles.values()),
                # matplotlib leaves out those that begin with an underscore.
                ["."] * len(handles),
                loc="outside upper center",
                ncols=min(per_line, len(handles)),
                frameon=False,
                title=figure.title,
                title_fontproperties={"size": 11, "weight": "bold"},
            )
            for text, label in zip(legend.get_texts(), handles, strict=True):
                text.set_text(labels[label])
        else:
            canvas.suptitle(figure.title, fontsize=11, fontweight="bold")
        canvas.savefig(path, format="png", metadata={"Software": None})


def _draw(axes: Any, chart: Chart, handles: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    for line in chart.lines:
        colour, dash = _look(line.look)
        style = {"color": colour, "linestyle": _MATPLOTLIB_DASHES[dash]}
        style["drawstyle"] = "steps-post" if line.is_step else "default"
        if line.is_thin:
            axes.plot(line.xs, line.ys, **style, linewidth=0.7, alpha=0.35)
            continue
        marker = None if line.is_step or len(line.xs) > MANY_POINTS else "o"
        [handle] = axes.plot(line.xs, line.ys, **style, linewidth=1.6, marker=marker, markersize=3)
        handles.setdefault(line.label, handle)
        if line.low is not None and line.high is not None:
            step = "post" if line.is_step else None
            axes.fill_between(line.xs, line.low, line.high, color=colour, alpha=0.16, linewidth=0, step=step)
    for number, row in enumerate(chart.rows):
        colour, _ = _look(row.look)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [number, number], color=colour, linewidth=1.8, solid_capstyle="butt")
            for end, is_open, arrow in ((row.low, row.low_is_open, "<"), (row.high, row.high_is_open, ">")):
                shape, size = (arrow, 6) if is_open else ("|", 8)
                axes.plot([end], [number], color=colour, marker=shape, markersize=size)
        if row.value is not None:
            axes.plot([row.value], [number], color=colour, marker="o", markersize=6)
        if row.note:
            axes.annotate(
                row.note,
                (1.0, number),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#555555",
            )
    if chart.rows:
        labels = short_names((row.label for row in chart.rows), LONGEST_ROW)
        axes.set_yticks(range(len(chart.rows)), [labels[row.label] for row in chart.rows])
        axes.set_ylim(len(chart.rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
    for place, meaning in chart.marks:
        axes.axvline(place, color="#666666", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate(
            meaning,
            (place, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7.5,
            color="#555555",
        )
    axes.margins(x=0.06)
    axes.set_xlim(*chart.x_limits)
    if not chart.rows:
        axes.set_ylim(*chart.y_limits)
    axes.set_title(shortened(chart.title, 60))
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _thousands(value)))
    if not chart.lines and not chart.rows:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center", color="#555555")


_MATPLOTLIB_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _thousands(value: float) -> str:
    """A number at an axis: 1500 is 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.10g}{letter}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.10g}".replace("-", "\N{MINUS SIGN}")


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


# Pages


def plotly_figure(chart: Chart) -> dict[str, Any]:
    """A chart as plotly's data and layout.

    Names may be anything: plotly reads texts as a sort of HTML, so they are escaped for it, too.
    """
    traces: list[dict[str, Any]] = []
    shown: set[str] = set()
    labels = short_names(line.label for line in chart.lines)
    for line in chart.lines:
        traces += _line_traces(line, html.escape(labels[line.label]), line.label not in shown and not line.is_thin)
        if not line.is_thin:
            shown.add(line.label)
    for number, row in enumerate(chart.rows):
        traces += _row_traces(number, row)
    y_axis: dict[str, Any] = {**_AXIS, "title": {"text": html.escape(chart.y), "standoff": 8}, "automargin": True}
    x_axis: dict[str, Any] = {**_AXIS, "title": {"text": html.escape(chart.x), "standoff": 8}, "automargin": True}
    if chart.x_limits == (0, None):
        x_axis["rangemode"] = "tozero"
    elif chart.x_limits != (None, None):
        x_axis["range"] = list(chart.x_limits)
    if chart.rows:
        names = short_names((row.label for row in chart.rows), LONGEST_ROW)
        ticks = [html.escape(names[row.label]) for row in chart.rows]
        y_axis |= {"tickvals": list(range(len(ticks))), "ticktext": ticks, "showgrid": False}
        y_axis["range"] = [len(ticks) - 0.4, -0.6]
    elif chart.y_limits != (None, None):
        y_axis["range"] = list(chart.y_limits)
    x_axis |= {"tickformat": "~s"} if chart.x.startswith("environment steps") else {}
    number_of_names = len(shown)
    layout = {
        "title": {"text": html.escape(shortened(chart.title, 60)), "font": {"size": 15}, "x": 0.5},
        "font": {"family": _FONT, "size": 13, "color": "#222222"},
        **{"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "xaxis": x_axis, "yaxis": y_axis},
        "height": 110 + 34 * max(2, len(chart.rows)) if chart.rows else 380 + 20 * number_of_names,
        "margin": {"l": 20, "r": 120 if any(row.note for row in chart.rows) else 25, "t": 45, "b": 20},
        "hovermode": "closest" if chart.rows else "x unified",
        "showlegend": bool(shown),
        "legend": {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "font": {"size": 12}},
        "shapes": [
            {
                **{"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"},
                "line": {"color": "#666666", "width": 1, "dash": "dot"},
            }
            for place, _ in chart.marks
        ],
        "annotations": [
            *(
                {
                    **{"x": place, "y": 1, "yref": "paper", "text": html.escape(meaning), "showarrow": False},
                    **{"xanchor": "left", "yanchor": "bottom", "font": {"size": 11, "color": "#555555"}},
                }
                for place, meaning in chart.marks
            ),
            *(
                {
                    **{"x": 1, "xref": "paper", "y": number, "text": html.escape(row.note), "showarrow": False},
                    **{"xanchor": "left", "xshift": 6, "font": {"size": 11, "color": "#555555"}},
                }
                for number, row in enumerate(chart.rows)
                if row.note
            ),
        ],
    }
    return {"data": traces, "layout": layout}


_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_AXIS = {
    **{"gridcolor": "#e5e5e5", "zeroline": False, "linecolor": "#666666", "ticks": "outside", "tickcolor": "#666666"},
    "showline": True,
}


def _line_traces(line: Line, label: str, in_legend: bool) -> list[dict[str, Any]]:
    colour, dash = _look(line.look)
    shape = {"shape": "hv"} if line.is_step else {}
    common = {"type": "scatter", "legendgroup": label, "name": label, "x": list(line.xs)}
    traces: list[dict[str, Any]] = []
    hover = "%{y:.4~g}"
    more: dict[str, Any] = {}
    if line.low is not None and line.high is not None:
        edge = {**common, "mode": "lines", "line": {"width": 0, **shape}, "hoverinfo": "skip", "showlegend": False}
        fill = {"fill": "tonexty", "fillcolor": _faint(colour)}
        traces = [{**edge, "y": list(line.low)}, {**edge, "y": list(line.high), **fill}]
        hover += " (%{customdata[0]:.4~g} to %{customdata[1]:.4~g})"
        more = {"customdata": [list(pair) for pair in zip(line.low, line.high, strict=True)]}
    style = {"color": colour, "dash": dash, "width": 1 if line.is_thin else 2, **shape}
    mode = "lines" if line.is_step or line.is_thin or len(line.xs) > MANY_POINTS else "lines+markers"
    drawn = {**common, **more, "y": list(line.ys), "mode": mode, "line": style, "showlegend": in_legend}
    if line.is_thin:
        drawn |= {"opacity": 0.35, "hoverinfo": "skip"}
    else:
        drawn |= {"hovertemplate": f"{hover}", "marker": {"size": 5, "color": colour}}
    return [*traces, drawn]


def _row_traces(number: int, row: Row) -> list[dict[str, Any]]:
    colour, _ = _look(row.look)
    text = html.escape(shortened(row.label, 80))
    if row.value is not None:
        text += f"<br>{row.value:.5g}"
    if row.low is not None and row.high is not None:
        text += f"<br>{'below ' if row.low_is_open else ''}{row.low:.5g} to "
        text += f"{'more than ' if row.high_is_open else ''}{row.high:.5g}"
    if row.note:
        text += f"<br>{html.escape(row.note)}"
    common = {"type": "scatter", "showlegend": False, "hovertemplate": f"{text}<extra></extra>"}
    traces: list[dict[str, Any]] = []
    if row.low is not None and row.high is not None:
        symbols = [
            "triangle-left" if row.low_is_open else "line-ns-open",
            "triangle-right" if row.high_is_open else "line-ns-open",
        ]
        marker = {"symbol": symbols, "size": 10, "color": colour, "line": {"width": 2, "color": colour}}
        ends = {"x": [row.low, row.high], "y": [number, number], "mode": "lines+markers", "marker": marker}
        traces.append({**common, **ends, "line": {"color": colour, "width": 2.5}})
    if row.value is not None:
        dot = {"x": [row.value], "y": [number], "mode": "markers", "marker": {"size": 10, "color": colour}}
        traces.append({**common, **dot})
    return traces


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def page(title: str, body: Callable[[Callable[[Figure], str]], str]) -> str:
    """A page that holds all it needs, scripts included, and that a browser shows without asking anybody.

    Args:
        title: of the window.
        body: makes the HTML of the page, in which whatever comes from outside is escaped; it is given a function that
            gives the place of a figure in it.
    """
    figures: list[dict[str, Any]] = []

    def place(figure: Figure) -> str:
        parts = []
        for chart in figure.charts:
            figures.append(plotly_figure(chart))
            parts.append(f'<div class="chart" id="chart-{len(figures) - 1}"></div>')
        note = f'<p class="note">{html.escape(figure.note)}</p>' if figure.note else ""
        kind = "rows" if any(chart.rows for chart in figure.charts) else "curves"
        name, heading = html.escape(figure.name), html.escape(figure.title)
        return (
            f'<section class="figure" id="{name}"><h2>{heading}</h2><div class="charts {kind}">{"".join(parts)}</div>'
            f"{note}</section>"
        )

    content = body(place)
    scripts = ""
    if figures:
        from plotly.offline import get_plotlyjs

        # No text of a figure may end the script.
        data = json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        data = data.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        scripts = f"<script>{get_plotlyjs()}</script>\n<script>const figures = {data};\n{_SCRIPT}</script>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{content}
</main>
{scripts}
</body>
</html>
"""


# A browser that keeps to it asks nobody for anything, whatever the page holds.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)

_SCRIPT = """
// Named one by one: among the others is one that sends the chart to a company.
const buttons = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
const config = {displaylogo: false, responsive: true, modeBarButtons: [buttons], plotlyServerURL: ""};
figures.forEach((figure, i) => Plotly.newPlot("chart-" + i, figure.data, figure.layout, config));
"""

_STYLE = """
body { margin: 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: #222; background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.note { color: #555; font-size: .88rem; max-width: 60rem; }
.warning { border-left: 4px solid #d55e00; background: #fdf3ec; padding: .5rem .8rem; margin: .8rem 0; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.charts.rows { grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); }
.chart { min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e5e5e5;
  overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; border-bottom-color: #999; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: #f6f6f6; padding: .7rem .9rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; font-size: .92em; }
details > summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
"""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    """A table of texts in HTML, all of them escaped; columns of numbers are set to the right."""
    right = set(numbers)

    def line(cells: Sequence[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=' + chr(34) + 'number' + chr(34) if i in right else ''}>{html.escape(str(cell))}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{line(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'
