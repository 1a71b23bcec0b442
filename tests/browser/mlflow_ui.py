"""What there is to do in MLflow's own page: as little as possible."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence

from tests.browser.chromium import Browser

VIEW = "rlkit"
VIEW_NAME = "rlkit: by group"
"""Key and name of the saved view that the tracker gives to an experiment."""


def experiment_id(uri: str, name: str) -> str:
    """Id of an experiment on a server."""
    query = urllib.parse.urlencode({"experiment_name": name})
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/experiments/get-by-name?{query}", timeout=30) as answer:
        return str(json.load(answer)["experiment"]["experiment_id"])


def open_experiment(browser: Browser, uri: str, name: str) -> None:
    """Open an experiment's list of runs."""
    browser.open(f"{uri}/#/experiments/{experiment_id(uri, name)}/runs?workflowType=machine_learning")


def show_views(browser: Browser) -> None:
    """With an experiment open, list the saved views."""

    def are_listed() -> bool:
        if VIEW_NAME not in browser.text():  # drawn anew meanwhile, the page may have closed the list
            browser.click("//*[@data-testid='saved-views-trigger']")
            time.sleep(1.0)
        return VIEW_NAME in browser.text()

    browser.wait(are_listed, VIEW_NAME)


def choose_view(browser: Browser, groups: Sequence[str]) -> None:
    """With the saved views listed, choose ours and its charts; wait until each group is a line in them."""
    browser.click(f"//*[text()='{VIEW_NAME}']")
    browser.click("//label[.//input[@value='CHART']]")
    wait_for_charts(browser, groups)


def open_view(browser: Browser, uri: str, name: str, groups: Sequence[str]) -> None:
    """The same by its address."""
    view = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    browser.open(f"{uri}/#/experiments/{experiment_id(uri, name)}/runs?{view}")
    wait_for_charts(browser, groups)


def wait_for_charts(browser: Browser, groups: Sequence[str]) -> None:
    """Wait until each group is a line of the chart of evaluations."""
    for group in groups:
        browser.wait_for_text(f"Group: {group}")
        browser.wait_for_text(f"{group} (evaluation/return)")
