"""A real MLflow server that can be killed, stopped and started again, and a proxy before it that spoils its answers."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DELAY = 30.0
"""Seconds by which answers are late in an outage of that kind."""


class MlflowServer:
    """`mlflow server` with a database in a folder, on a port that it keeps when it is started again.

    Args:
        folder: where it works.
        command: `server`, or `ui`.
        store: the database; default: `server.db` in the folder.
    """

    def __init__(self, folder: Path, *, command: str = "server", store: str | None = None) -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder}/server.db"
        self._command = command
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers; does nothing where it runs."""
        if self._process is not None:
            return
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", self._command, "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, env=environ, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGSTOP: connections are taken, and nobody answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)


class Proxy:
    """Hands requests on to a server.

    Attributes:
        mode: what becomes of an answer: `good`; `errors`, it is 500, and the server has not been asked; `html`, the
            same with a page of a gateway; `late`, by 30 s; `lost`, the server has done what it was asked, and the
            connection breaks before it can say so.
        only: where set, only requests whose path ends in it are spoilt, the others are handed on as they are.
        requests: paths of all requests.
    """

    def __init__(self, port: int) -> None:
        self.mode = "good"
        self.only: str | None = None
        self.requests: list[str] = []
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                proxy.requests.append(path)
                mode = proxy.mode if proxy.only is None or path.endswith(proxy.only) else "good"
                if mode == "errors":
                    return self._answer(500, {}, b"Internal Server Error")
                if mode == "html":
                    page = b"<!doctype html>\n<html><title>Please log in</title></html>\n"
                    return self._answer(200, {"Content-Type": "text/html"}, page)
                asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    asked.request(self.command, self.path, body, dict(self.headers))
                    answer = asked.getresponse()
                    content = answer.read()
                except OSError:
                    self.close_connection = True
                    return None
                finally:
                    asked.close()
                if mode == "late":
                    proxy._closing.wait(DELAY)
                if mode == "lost":
                    self.close_connection = True
                    return None
                return self._answer(answer.status, dict(answer.getheaders()), content)

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # whoever asked does not wait any longer
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a connection that the other side broke

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
