"""Charts of a comparison: what is drawn, and that hostile or scanty results do no harm."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from rlkit_core.charts import comparison_figures, comparison_page, write_charts
from rlkit_core.figures import COLOURS, Chart, Figure, Line, Row, page, plotly_figure, short_names, table, write_png
from tests.chart_cases import interval, result

HOSTILE = "</script><script>alert(1)</script>"
NAMES = ("a" * 300, "a" * 299 + "b", "_hidden", "$x_1$ % \\frac", HOSTILE, "\u202e\x00\n漢字🙂")


def data_of(text: str) -> list[dict]:
    """The figures that a page holds."""
    found = re.search(r"const figures = (\[.*?\]);\n", text)
    assert found is not None
    return json.loads(found[1])


def test_a_comparison_gives_a_file_for_each_sort_of_chart_and_a_page(tmp_path: Path) -> None:
    written = write_charts(result(), tmp_path)
    names = ["return-by-steps", "return-by-time", "intervals", "probability-of-improvement", "performance-profiles"]
    names.append("steps-to-threshold")
    assert [path.name for path in written] == [*(f"{name}.png" for name in names), "comparison.html"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    for path in written[:-1]:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        assert path.stat().st_size < 300_000
    text = written[-1].read_text(encoding="utf-8")
    assert len(data_of(text)) == len(names)
    assert "classic/ppo is worse than classic/a2c in CartPole-v1 (p = 0.02)." in text


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_png(comparison_figures(result(seeds=3))[0], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    data = result(seeds=3)
    assert comparison_page(data, comparison_figures(data)) == comparison_page(data, comparison_figures(data))


@pytest.mark.parametrize(
    "case",
    [
        {"seeds": 1},
        {"has_curves": False},
        {"names": ("alone",), "seeds": 2},
        {"names": [*NAMES, "7", "8"], "seeds": 2},
    ],
    ids=["one seed", "no curves", "one side", "many sides"],
)
def test_scanty_and_odd_results_are_drawn(case: dict, tmp_path: Path) -> None:
    case = {**case, "environments": (HOSTILE,)}
    for figure in comparison_figures(result(**case)):
        write_png(figure, tmp_path / f"{figure.name}.png")
    text = comparison_page(result(**case), comparison_figures(result(**case)))
    assert "alert(1)</script>" not in text
    data_of(text)


def test_an_empty_figure_is_drawn(tmp_path: Path) -> None:
    write_png(Figure("empty", "Nothing", "", []), tmp_path / "empty.png")
    write_png(Figure("empty", "Nothing", "", [Chart("none", "x")]), tmp_path / "empty.png")


def test_curves_say_how_many_seeds_and_what_the_bands_are() -> None:
    by_steps, by_time, *_ = comparison_figures(result(seeds=5))
    [chart] = by_steps.charts
    thick = [line for line in chart.lines if not line.is_thin]
    assert [line.label for line in thick] == ["classic/a2c (5 seeds)", "classic/ppo (5 seeds)"]
    assert sum(line.is_thin for line in chart.lines) == 10
    assert thick[0].low is not None
    assert chart.x == "environment steps"
    assert "Band: 95 %, order statistics of the median, for each point by itself." in by_steps.note
    assert by_time.charts[0].x == "minutes since the run began"


def test_points_without_a_number_are_left_out() -> None:
    data = result(names=("a",))
    curve = data["environments"][0]["sides"][0]["curves"]["seconds"]
    for key in ("median", "low", "high"):
        curve[key][0] = None
    curve["low"][3] = curve["high"][3] = None
    curve["runs"][2][:4] = [None] * 4
    lines = comparison_figures(data)[1].charts[0].lines
    assert [len(line.xs) for line in lines] == [20, 20, 16, 20, 20, 20, 19]
    assert lines[-1].low is not None
    assert lines[-1].low[2] == lines[-1].ys[2]
    assert lines[-1].low[1] < lines[-1].ys[1]


def test_one_seed_has_no_band_and_no_interval() -> None:
    figures = {figure.name: figure for figure in comparison_figures(result(seeds=1))}
    [line] = [line for line in figures["return-by-steps"].charts[0].lines if line.label == "classic/a2c (1 seed)"]
    assert line.low is None
    assert "Band" not in figures["return-by-steps"].note
    assert all(row.low is None for row in figures["intervals"].charts[0].rows)


def test_steps_to_a_threshold_that_few_have_reached_are_open() -> None:
    data = result(names=("good", "bad"), seeds=6)
    good, bad = data["environments"][0]["sides"]
    good["steps_to_threshold"] = {"steps": [10, 20, 30, 40], "reached": [True] * 4, "num_reached": 4}
    good["steps_to_threshold"]["median"] = {**interval(25.0, 15.0, "order statistics")}
    bad["steps_to_threshold"] = {"steps": [50_000] + [200_000] * 3, "reached": [True] + [False] * 3, "num_reached": 1}
    bad["steps_to_threshold"]["median"] = {**interval(None), "low": 50_000.0}
    [figure] = [figure for figure in comparison_figures(data) if figure.name == "steps-to-threshold"]
    first, second = figure.charts[0].rows
    assert (first.value, first.low, first.high, first.high_is_open) == (25.0, 10.0, 40.0, False)
    assert (second.value, second.low, second.high, second.high_is_open) == (None, 50_000.0, 200_000, True)
    assert second.note == "1 of 4 reached it"
    assert figure.charts[0].marks == [(200_000, "budget")]


def test_several_environments_have_charts_of_their_own_and_a_mean() -> None:
    figures = {figure.name: figure for figure in comparison_figures(result(environments=("A-v1", "B-v1")))}
    assert [chart.title for chart in figures["return-by-steps"].charts] == ["A-v1", "B-v1"]
    last = figures["probability-of-improvement"].charts[-1]
    assert last.title == "mean over environments"
    assert last.x_limits == (0, 1)


def test_what_was_let_pass_stands_at_the_top_of_the_page() -> None:
    data = result()
    data["allowed"] = [{"key": "budgets", "reason": "budgets differ <b>"}]
    text = comparison_page(data, [])
    assert "Let pass although it can mislead (budgets): budgets differ &lt;b&gt;" in text
    assert text.index("Let pass") < text.index("worse than")
    assert "<script>" not in text  # no figure, no plotly


def test_a_page_asks_nobody() -> None:
    text = page("t", lambda place: place(comparison_figures(result())[0]))
    own = text.replace(get_plotlyjs(), "")
    assert "default-src 'none'" in own
    assert not re.findall(r"(?:src|href)=\"(?!data:)", own)
    assert "http" not in re.sub(r"http-equiv", "", own)


def test_texts_are_escaped_for_the_page_and_for_plotly() -> None:
    figure = plotly_figure(
        Chart(HOSTILE, "<i>x</i>", lines=[Line("<b>bold</b>", 0, [1], [2])], rows=[Row("<u>", 1, 0.5, note="<s>")])
    )
    assert "<" not in json.dumps(figure).replace("<extra></extra>", "").replace("<br>", "")
    assert table(("<a>",), [("<b>",)]).count("&lt;") == 2


def test_names_stay_different_when_they_are_shortened() -> None:
    names = ["x" * 100 + str(i) + "y" * 100 for i in range(3)]
    short = short_names([*names, "plain", names[0]])
    assert len(set(short.values())) == 4
    assert all(len(name) <= 50 for name in short.values())
    assert short["plain"] == "plain"
    assert short_names(["a\nb\x00"])["a\nb\x00"] == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_no_state_of_matplotlib_is_changed_and_no_pyplot_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport rlkit_core.figures as f\n"
        "assert not {'matplotlib', 'plotly', 'numpy'} & set(sys.modules)\n"
        "import matplotlib\nmatplotlib.rcParams['font.size'] = 31\n"
        "f.write_png(f.Figure('a', '', '', [f.Chart('c', 'x', lines=[f.Line('l', 0, [1], [3])])]), Path('a.png'))\n"
        "print(matplotlib.rcParams['font.size'], 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout == "31.0 False\n", done.stderr


# Colours


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


# How people without one sort of cone see linear RGB (Machado, Oliveira & Fernandes 2009, severity 1.0).
SIGHTS = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _lab(linear: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.maximum(XYZ @ np.clip(linear, 0, 1) / XYZ.sum(1), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_can_be_told_apart(sight: str) -> None:
    seen = [_lab(np.array(SIGHTS[sight]) @ _linear(colour)) for colour in COLOURS]
    # A difference of 2.3 is just to be seen when two patches touch; lines that lie apart need several times as much.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_colours_stand_out_from_white() -> None:
    for colour in COLOURS:
        luminance = XYZ[1] @ _linear(colour)
        assert 1.05 / (luminance + 0.05) >= 3  # WCAG 2, criterion 1.4.11
