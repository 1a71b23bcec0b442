"""What there is to do in MLflow's own page: as little as possible."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Sequence

from tests.browser.chromium import Browser

VIEW = "rlkit"
"""Key of the saved view that the tracker gives to an experiment."""


def experiment_id(uri: str, name: str) -> str:
    """Id of an experiment on a server."""
    query = urllib.parse.urlencode({"experiment_name": name})
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/experiments/get-by-name?{query}", timeout=30) as answer:
        return str(json.load(answer)["experiment"]["experiment_id"])


def open_experiment(browser: Browser, uri: str, name: str) -> None:
    """Open an experiment's list of runs."""
    browser.open(f"{uri}/#/experiments/{experiment_id(uri, name)}/runs")


def charted_by_group(browser: Browser, uri: str, name: str, groups: Sequence[str]) -> None:
    """Open the saved view, and wait until each group is a line of the chart of evaluations."""
    number = experiment_id(uri, name)
    browser.open(f"{uri}/#/experiments/{number}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART")
    for group in groups:
        browser.wait_for_text(f"group: {group}")
