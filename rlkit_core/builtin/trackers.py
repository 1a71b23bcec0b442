"""The trackers that come along: their settings; the modules that do the work are imported in the tracking process."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from rlkit_core.component import TrackerConfig, Viewer
from rlkit_core.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rlkit_core.run_store import RunStore
    from rlkit_core.tracking import Tracker

DEFAULT_URI = "sqlite:///mlflow.db"
"""MLflow's own default, which `mlflow ui` opens without an argument."""


def sqlite_path(uri: str) -> Path | None:
    """The file of a `sqlite:///…` store, or None for any other store."""
    match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    return Path(match[1]) if match and match[1] != ":memory:" else None


def resolve_uri(uri: str | None, environ: Mapping[str, str], folder: Path) -> str:
    """The store that is meant: the setting, else MLFLOW_TRACKING_URI, else `mlflow.db` in that folder.

    The path of a sqlite store is made absolute, so that the store is found again from any other folder.
    """
    uri = uri or environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = sqlite_path(uri)
    return uri if path is None else uri.replace(str(path), str(folder.absolute() / path), 1)


def without_password(uri: str) -> str:
    """A store's address as it may be shown and stored."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)


class MlflowConfig(TrackerConfig):
    """MLflow: parameters, metrics, tags and the policy's files of every run, in a local database or on a server."""

    name: ClassVar[str] = "mlflow"

    uri: str | None = Field(
        None, description="where MLflow stores; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder"
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; default: MLFLOW_EXPERIMENT_NAME, else rlkit/<environment>"
    )

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and uri != without_password(uri):
            raise ValueError(
                "should hold no password, since settings are stored with the run: set MLFLOW_TRACKING_URI, "
                "or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    def build(self) -> Tracker:
        """Build it; imports mlflow."""
        from rlkit_core.builtin.mlflow_tracker import MlflowTracker

        return MlflowTracker(self)

    def where(self, run_dir: Path, environ: Mapping[str, str]) -> str:
        """`mlflow ui …` for a database, the run's own page for a server."""
        here = Path.cwd()
        uri = resolve_uri(self.uri, environ, here)
        if uri.startswith(("http://", "https://")):
            return without_password(uri).rstrip("/") + _page(run_dir)
        if uri == resolve_uri(DEFAULT_URI, {}, here) and not _opens_something_else(here, environ):
            return "mlflow ui"
        return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"

    def open_store(self, environ: Mapping[str, str]) -> RunStore:
        """The store's runs, those of other tools too; a path alone is that of a database."""
        from rlkit_core.builtin.mlflow_store import MlflowStore

        return MlflowStore(self._store(environ))

    def viewer(self, environ: Mapping[str, str], port: int) -> Viewer:
        """`mlflow ui`, small: one worker, no processes for jobs; or the server that there is."""
        uri = self._store(environ)
        what = f"MLflow, with {without_password(uri)},"
        if uri.startswith(("http://", "https://")):
            return Viewer(what, without_password(uri))
        path = sqlite_path(uri)
        if path is not None and not path.is_file():
            raise UsageError(
                f"there is no store {uri}\n"
                "`rlkit run` makes it; name another one with --store, or set MLFLOW_TRACKING_URI"
            )
        options = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
        command = (sys.executable, "-P", "-m", "mlflow", "ui", *options)
        settings = {
            "MLFLOW_BACKEND_STORE_URI": uri,  # not as an argument: others see those, and it may hold a password
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        # Beside the database: what is uploaded to the server goes into a folder there.
        return Viewer(what, f"http://127.0.0.1:{port}", command, settings, Path.cwd() if path is None else path.parent)

    def _store(self, environ: Mapping[str, str]) -> str:
        uri = f"sqlite:///{self.uri}" if self.uri and ":" not in self.uri else self.uri
        return resolve_uri(uri, environ, Path.cwd())


def _opens_something_else(folder: Path, environ: Mapping[str, str]) -> bool:
    """Whether a bare `mlflow ui` opens another store than `mlflow.db`: one of the old kind, or the one that is set."""
    return bool(environ.get("MLFLOW_BACKEND_STORE_URI")) or any(folder.glob("mlruns/[0-9]*/meta.yaml"))


def _page(run_dir: Path) -> str:
    """Path of the run's page on its server, as far as the tracking process has told."""
    # Here, because its file locks import asyncio: 40 ms of every --help.
    from rlkit_core.run_folder import read_json

    try:
        ids = read_json(run_dir / "tracking.json")["ids"]
        return f"/#/experiments/{ids['experiment_id']}/runs/{ids['run_id']}"
    except (StorageError, LookupError, TypeError):
        return ""


class TensorboardConfig(TrackerConfig):
    """TensorBoard: metrics as event files in the run folder."""

    name: ClassVar[str] = "tensorboard"

    def build(self) -> Tracker:
        """Build it.

        Raises:
            UsageError: the package tensorboard is not installed.
        """
        try:
            from rlkit_core.builtin.tensorboard_tracker import TensorboardTracker
        except ImportError as error:
            raise UsageError(
                f"the tracker tensorboard needs a package that is not installed ({error})\n"
                "pip install 'rlkit-core[tensorboard]'"
            ) from error
        return TensorboardTracker()

    def where(self, run_dir: Path, environ: Mapping[str, str]) -> str:
        """`tensorboard --logdir …`."""
        return f"tensorboard --logdir {shlex.quote(str(run_dir / 'tensorboard'))}"


class NoTrackerConfig(TrackerConfig):
    """No tracker: the run folder alone keeps the record."""

    name: ClassVar[str] = "none"
    active: ClassVar[bool] = False

    def build(self) -> Tracker:
        """Nothing to build.

        Raises:
            UsageError: always.
        """
        raise UsageError("the tracker none sends nothing")
