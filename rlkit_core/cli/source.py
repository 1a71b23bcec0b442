"""Where commands read stored runs from: run folders, or the tracker's store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlkit_core.errors import UsageError

if TYPE_CHECKING:
    from rlkit_core.run_store import RunStore

store_option = click.option(
    "--store",
    metavar="[URI]",
    is_flag=False,
    flag_value="",
    help="read from this store instead of run folders; without URI from the one that `rlkit run` sends to: "
    "MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here",
)
runs_option = click.option(
    "--runs", "folder", metavar="FOLDER", default="runs", help="the folder that holds the runs [default runs]"
)


def open_source(store: str | None, folder: str = "runs") -> RunStore:
    """What the options say.

    Args:
        store: of `--store`: None where it was not given, an empty text where it was without an address.
        folder: of `--runs`.

    Raises:
        UsageError: there is no such store.
    """
    if store is None:
        from rlkit_core.run_store import FolderStore

        return FolderStore(folder)
    if store and ":" not in store and not Path(store).exists():
        raise UsageError(
            f"--store: there is no store {store}\n"
            "give an address such as sqlite:///mlflow.db; without one, --store stands behind the runs"
        )
    from rlkit_core.run_store import open_store

    return open_store(store or None, os.environ)
