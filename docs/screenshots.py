"""Makes the pictures of docs/screenshots: MLflow's own page, a comparison and a report, in a real browser.

    python docs/screenshots.py

It trains two groups of five seeds, which takes a minute, and needs Chromium and its driver
(`apt-get install chromium chromium-driver`). Look at the pictures before they are committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "screenshots"
EXPERIMENT = "rlkit/CartPole-v1"
GROUPS = {"cartpole/a2c": ("a2c",), "cartpole/a2c slower": ("a2c", "--learning-rate", "0.0003")}
SEEDS = 5
RLKIT = str(Path(sys.executable).with_name("rlkit"))

sys.path.insert(0, str(ROOT))

from tests.browser.chromium import Browser, chromium  # noqa: E402
from tests.browser.mlflow_ui import choose_view, open_experiment, open_view, show_views  # noqa: E402
from tests.mlflow_server import MlflowServer  # noqa: E402


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        train()
        server = MlflowServer(folder, command="ui", store=f"sqlite:///{folder}/mlflow.db")
        try:
            with chromium(folder / "profile") as browser:
                show_mlflow(browser, server.uri)
                show_pages(browser, folder)
        finally:
            server.kill()


def train() -> None:
    """The runs that are shown, in `runs/` and `mlflow.db` of the working folder."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    for group, arguments in GROUPS.items():
        command = [RLKIT, "run", *arguments, "--env", "CartPole-v1", "--seeds", str(SEEDS), "--group", group]
        command += ["--total-steps", "60000", "--progress", "none"]
        subprocess.run(command, check=True, env=environ)


def show_mlflow(browser: Browser, uri: str) -> None:
    """An experiment as it opens, and its saved view."""
    browser.resize(1600, 900)
    open_experiment(browser, uri, EXPERIMENT)
    browser.click("//*[@aria-label='Close']")  # the assistant, which takes a quarter of the page
    show_views(browser)
    browser.screenshot(PICTURES / "mlflow-views.png", width=1600, height=560)
    choose_view(browser, list(GROUPS))
    open_view(browser, uri, EXPERIMENT, list(GROUPS))
    time.sleep(3)  # charts come one by one
    browser.screenshot(PICTURES / "mlflow-groups.png", width=1600, height=900)


def show_pages(browser: Browser, folder: Path) -> None:
    """A comparison and a report."""
    from rlkit_core.charts import write_charts
    from rlkit_core.comparison import compare
    from rlkit_core.report import CURVES, report_group
    from rlkit_core.run_store import FolderStore

    runs = FolderStore().runs(curves=CURVES)
    page = write_charts(compare(runs, sides=list(GROUPS), name="cartpole"), folder)[-1]
    report = folder / "report.html"
    report.write_text(report_group("cartpole", runs), encoding="utf-8")
    for path in (page, report):
        browser.open(path)
        browser.wait(lambda: browser.run("return document.querySelector('#chart-1 .main-svg') !== null"), "charts")
        browser.screenshot(PICTURES / f"{path.stem}.png", width=1200, height=1500)


if __name__ == "__main__":
    main()
