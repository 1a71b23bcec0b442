"""`rlkit ui`: the tracker's own user interface, of the right store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import IO

import click

from rlkit_core.cli.root import CONTEXT, common_options
from rlkit_core.component import Viewer
from rlkit_core.errors import StorageError, UsageError

PORT = 5000
"""Where it is looked for first, as with `mlflow ui`."""
START_SECONDS = 120.0
END_SECONDS = 5.0


@click.command(
    "ui",
    context_settings=CONTEXT,
    help="Show tracked runs in a browser: starts `mlflow ui` on the store that `rlkit run` sends to, with one worker "
    "and without what runs jobs. Ctrl-C ends it.",
)
@click.option("--store", metavar="URI", help="another store")
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="INT", help=f"default: {PORT}, or the next that is free"
)
def command(store: str | None, port: int | None) -> int:
    """Start the server, say where, and wait for its end or for ours."""
    from rlkit_core.run_store import default_tracker

    tracker = default_tracker(store)
    viewer = tracker.viewer(os.environ, _free_port(port))
    if viewer is None:
        raise UsageError(f"the tracker {tracker.name} has no user interface of its own")
    if not viewer.command:
        click.echo(f"{viewer.what} is at {viewer.address}")
        return 0
    with tempfile.TemporaryFile() as log, _server(viewer, log) as process:
        try:
            _wait(viewer, process, log)
            click.echo(f"{viewer.what} is at {viewer.address}\nCtrl-C ends it")
            process.wait()
        except KeyboardInterrupt as interruption:
            # That is how it ends; of a SIGTERM others want to know.
            if interruption.args[:1] == (signal.SIGTERM,):
                raise
            return 0
        raise StorageError(_said("it has ended", process, log))


@contextlib.contextmanager
def _server(viewer: Viewer, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, which ends with all that it started."""
    # A session of its own: Ctrl-C in the terminal is for us, who end it in order.
    process = subprocess.Popen(
        viewer.command,
        env={**os.environ, **viewer.environ},
        cwd=viewer.folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            # Those that did not listen, and those that outlived the first.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(viewer: Viewer, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Wait until the server answers.

    Raises:
        StorageError: it does not.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(viewer.address, timeout=5):
            return
        if time.monotonic() > deadline:
            raise StorageError(_said(f"it does not answer within {START_SECONDS:.0f} s", process, log))
        time.sleep(0.05)
    raise StorageError(_said("it has ended", process, log))


def _said(what: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """What became of the server, and its last words."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    code = f" with exit code {process.returncode}" if process.poll() is not None else ""
    return "\n".join([f"the user interface cannot be shown: {what}{code}", *(line[:300] for line in lines[-1:])])


def _free_port(port: int | None) -> int:
    """The port that is asked for, or the first free one.

    Raises:
        UsageError: it is taken.
    """
    for number in range(port or PORT, (port or PORT + 99) + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", number))
                return number
    raise UsageError(f"port {port or PORT} is taken\ngive another one with --port, or none for one that is free")


command.params.extend(common_options())
