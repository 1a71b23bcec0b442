"""Groups of runs in MLflow: a run of its own in each experiment, to which the group's runs are children."""

from __future__ import annotations

import json
from typing import Any

from rlkit_core.tracking import TrackedGroup

LONGEST_PLAN = 5000
"""Characters of a tag's value. A longer plan is in the artifact group.json only."""


def open_group(client: Any, group: TrackedGroup, experiment_id: str) -> str:
    """Find the run that stands for a group in an experiment, or create it; returns its id.

    Args:
        client: an MlflowClient.
        group: which; where it is computed, its run is shown as running, with the plan as it is now.
        experiment_id: where.
    """
    found = _find(client, group, experiment_id)
    if found is None:
        tags = {"rlkit.kind": "group", "rlkit.group_id": group.record.id, "group": group.record.name}
        tags["mlflow.source.name"] = str(group.record.more.get("command") or "rlkit")[:LONGEST_PLAN]
        tags["mlflow.source.type"] = "LOCAL"
        started = group.record.more.get("started")
        start = started if type(started) is int and 0 <= started < 2**63 else None
        found = client.create_run(experiment_id, start_time=start, tags=tags, run_name=group.record.name)
    run_id = str(found.info.run_id)
    runs = str(len(group.record.planned))  # a plan only grows
    if found.data.tags.get("rlkit.planned_runs") != runs:
        client.log_artifact(run_id, str(group.folder.path / "group.json"))
        client.set_tag(run_id, "rlkit.planned", _plan(group))
        client.set_tag(run_id, "rlkit.planned_runs", runs)
    if found.info.status != "RUNNING" and group.folder.status().get("state") == "running":
        client.update_run(run_id, status="RUNNING")
    return run_id


def close_group(client: Any, group: TrackedGroup, experiment_id: str, status: str, time: int) -> None:
    """End the run that stands for a group in an experiment.

    Args:
        client: an MlflowClient.
        group: which.
        experiment_id: where.
        status: FINISHED, FAILED or KILLED.
        time: when, in milliseconds since 1970.
    """
    client.set_terminated(open_group(client, group, experiment_id), status, time)


def _find(client: Any, group: TrackedGroup, experiment_id: str) -> Any:
    # Its id is made of hexadecimal digits: see `read_group`.
    filter_ = f"tags.`rlkit.group_id` = '{group.record.id}'"
    found = client.search_runs([experiment_id], filter_, order_by=["attributes.start_time ASC"], max_results=1)
    return next(iter(found), None)


def _plan(group: TrackedGroup) -> str:
    """The plan in few characters, or nothing where it does not fit."""
    planned = [[run.group, run.environment, run.seed] for run in group.record.planned]
    text = json.dumps(planned, separators=(",", ":"))
    return text if len(text) <= LONGEST_PLAN else ""
