"""MLflow's own page, from a real `mlflow ui`, in a real browser: runs are grouped and charted without any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from rlkit_core.builtin.trackers import MlflowConfig
from rlkit_core.charts import write_charts
from rlkit_core.run_folder import RunFolder, read_journal, read_json
from rlkit_core.tracking import TrackedRun
from tests.browser.chromium import Browser
from tests.browser.mlflow_ui import choose_view, open_experiment, open_view, show_views
from tests.chart_cases import result
from tests.made_runs import config_of, make_run, returns_of
from tests.mlflow_server import MlflowServer

FRAMED = "return document.querySelector('iframe')"

pytestmark = pytest.mark.browser


def test_mlflow_shows_runs_by_group_and_charts_their_evaluations(browser: Browser, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for group in ("fast", "slow"):
        for seed in range(2):
            config = config_of(seed=seed, group=f"classic/{group}", total_steps=100_000)
            returns = returns_of(seed, 20, 500 if group == "fast" else 300)
            track(make_run(tmp_path / "runs" / f"{group}-{seed}", config=config, returns=returns), uri)
    # What is no run of a policy stays out of the view.
    client = MlflowClient(uri)
    other = client.create_run("1", run_name="a comparison", tags={"group": "classic", "rlkit.kind": "comparison"})
    client.log_artifact(other.info.run_id, str(write_charts(result(seeds=2), tmp_path)[-1]))
    server = MlflowServer(tmp_path, command="ui", store=uri)
    try:
        open_experiment(browser, server.uri, "rlkit/CartPole-v1")
        for name in ("fast-0", "fast-1", "slow-0", "slow-1"):
            browser.wait_for_text(name)
        groups = ["classic/fast", "classic/slow"]
        show_views(browser)
        choose_view(browser, groups)
        open_view(browser, server.uri, "rlkit/CartPole-v1", groups)
        assert "a comparison" not in browser.text()
        # Steps, not times or numbers of points, are what the returns are drawn against.
        assert "Step" in browser.run("return [...document.querySelectorAll('.xtitle')].map(e => e.textContent)")
        assert [address for address in browser.requests() if not address.startswith(server.uri)] == []
        # The page of a comparison is to be seen there, too.
        browser.open(f"{server.uri}/#/experiments/1/runs/{other.info.run_id}/artifacts/comparison.html")
        browser.wait(lambda: browser.run(FRAMED), "the page of the comparison")
        browser.driver.switch_to.frame(browser.run(FRAMED))
        drawn = "return document.querySelectorAll('.chart .main-svg .xaxislayer-above').length"
        browser.wait(lambda: browser.run(drawn) == 6, "its charts")
    finally:
        browser.driver.switch_to.default_content()
        server.kill()


def track(path: Path, uri: str) -> None:
    """Send a run to MLflow as the tracking process does, but in this process."""
    from rlkit_core.builtin.mlflow_tracker import MlflowTracker

    folder = RunFolder.open(path)
    tracker = MlflowTracker(MlflowConfig(uri=uri))
    tracker.start(TrackedRun(folder, read_json(folder.config_path), read_json(folder.provenance_path)))
    records = [record for _, record in read_journal(folder.journal_path)]
    tracker.log(records)
    tracker.finish("finished", records[-1]["time"])
