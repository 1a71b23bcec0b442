"""Pages of comparisons and reports in a real browser: no request, no complaint, and it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlkit_core.charts import comparison_figures, write_charts
from rlkit_core.report import CURVES, report_group, report_run
from rlkit_core.run_store import FolderStore
from tests.browser.chromium import Browser
from tests.chart_cases import result
from tests.made_runs import config_of, make_run, returns_of

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"


def opened(browser: Browser, path: Path, charts: int) -> None:
    """Open a page, and wait until so many charts are drawn."""
    browser.open(path)
    drawn = "return document.querySelectorAll('.chart .main-svg .xaxislayer-above').length"
    browser.wait(lambda: browser.run(drawn) == charts, f"{charts} charts")
    assert browser.requests() == [path.absolute().as_uri()]
    assert browser.complaints() == []


def texts(browser: Browser, name: str, what: str) -> list[str]:
    """Texts of a figure, such as those of its legend."""
    return list(browser.run(f"return [...document.querySelectorAll('#{name} {what}')].map(e => e.textContent)"))


def test_a_comparison(browser: Browser, tmp_path: Path) -> None:
    data = result(environments=("CartPole-v1", "Acrobot-v1"), names=("classic/a2c", "classic/ppo"))
    path = write_charts(data, tmp_path)[-1]
    opened(browser, path, sum(len(figure.charts) for figure in comparison_figures(data)))
    assert texts(browser, "return-by-steps", ".legendtext") == ["classic/a2c (6 seeds)", "classic/ppo (6 seeds)"] * 2
    assert texts(browser, "return-by-steps", ".xtitle") == ["environment steps"] * 2
    assert texts(browser, "return-by-steps", ".ytitle") == ["return of greedy evaluations"] * 2
    assert "no difference" in texts(browser, "probability-of-improvement", ".annotation-text")
    assert "classic/ppo is worse than classic/a2c in Acrobot-v1" in browser.text()
    # plotly has one more, which sends the chart away.
    buttons = browser.run("return [...document.querySelectorAll('.modebar-btn')].map(e => e.dataset.title)")
    assert set(buttons) == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    # A click on a name in the legend takes its line, its band and its seeds away.
    shown = "return document.querySelectorAll('#chart-0 .scatterlayer .trace').length"
    before = browser.run(shown)
    browser.run("Plotly.restyle('chart-0', {visible: 'legendonly'}, [...Array(9).keys()])")
    browser.wait(lambda: browser.run(shown) == before - 9, "one side less")
    assert browser.complaints() == []


def test_names_that_are_code_are_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    data = result(names=(HOSTILE, "<b>bold</b>"), environments=(HOSTILE,), seeds=2)
    data["name"] = data["notes"][0] = data["reproduce"] = HOSTILE
    data["allowed"] = [{"key": HOSTILE, "reason": HOSTILE}]
    opened(browser, write_charts(data, tmp_path)[-1], 6)
    assert browser.driver.title != "run"
    assert HOSTILE in browser.text()
    assert texts(browser, "return-by-steps", ".legendtext")[1] == "<b>bold</b> (2 seeds)"
    assert browser.run("return document.images.length") == 0


def test_a_run(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/one"), config=config_of(group=HOSTILE), returns=returns_of(1, 20), run_name=HOSTILE)
    [run] = FolderStore().runs(curves=CURVES)
    (tmp_path / "report.html").write_text(report_run(run), encoding="utf-8")
    opened(browser, tmp_path / "report.html", 2 * 3)
    text = browser.text()
    assert HOSTILE in text
    assert "rlkit reproduce runs/one" in text
    assert browser.driver.title != "run"
    assert texts(browser, "evaluation-return", ".ytitle") == ["evaluation/return"] * 2


def test_a_group(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for algorithm in ("a2c", "ppo"):
        for seed in range(4):
            config = config_of(algorithm, seed=seed, group=f"classic/{algorithm}")
            make_run(Path(f"runs/{algorithm}-{seed}"), config=config, returns=returns_of(seed, 20))
    (tmp_path / "report.html").write_text(report_group("classic", FolderStore().runs(curves=CURVES)), encoding="utf-8")
    opened(browser, tmp_path / "report.html", 4)
    assert texts(browser, "return-by-steps", ".legendtext") == ["classic/a2c (4 seeds)", "classic/ppo (4 seeds)"]
    assert "8 runs: 8 finished." in browser.text()


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    """A request and an error of a page's own are seen: the tests above can fail."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>undefined.x</script>")
    browser.open(path)
    browser.wait(lambda: browser.run("return document.readyState") == "complete", "the page")
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert any("TypeError" in complaint for complaint in browser.complaints())
