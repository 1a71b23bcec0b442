"""Runs `rlkit` on hostile files in a process that watches itself: what it executes, opens, imports, and how it ends.

    python hostile.py WARM_UP FOLDER

reads cases from stdin, one JSON list of arguments per line, and answers each with a line of JSON: exit code, stderr,
seconds, MiB above what was in memory before, and the audit events that no file may bring about. The warm-up's
arguments come first, outside the watch, so that everything is imported by then.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORBIDDEN = (
    *("exec", "compile", "import", "pickle.find_class", "marshal.load", "marshal.loads", "code.__new__"),
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill"),
    *("socket.connect", "socket.bind", "socket.sendto", "urllib.Request", "webbrowser.open", "ctypes.dlopen"),
    *("os.symlink", "os.link", "os.chmod", "os.chown", "os.putenv"),
)
CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.move")


class Watch:
    """An audit hook, which cannot be taken away again, with a switch."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.events: list[str] = []
        self.on = False
        sys.addaudithook(self._see)

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what is done here is not watched
        try:
            if self._matters(event, args):
                self.events.append(f"{event} {args!r:.200}")
        finally:
            self.on = True

    def _matters(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen":
            return args[1][:1] != ["git"]  # provenance asks for the commit
        if event == "open":
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            return bool(writes) and self._outside(args[0], follow=not args[2] & os.O_NOFOLLOW)
        if event in CHANGING:
            return any(
                self._outside(path, follow=False) for path in args if isinstance(path, (str, bytes, os.PathLike))
            )
        if event == "compile":
            return not _in_traceback()
        return event in FORBIDDEN

    def _outside(self, path: Any, *, follow: bool) -> bool:
        """Whether that is done outside of the folder; `follow`: to what a link at that path points to."""
        if isinstance(path, int) or os.fspath(path) == os.devnull:
            return False
        path = os.fsdecode(path)
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if follow else os.path.join(os.path.realpath(folder), name)
        return os.path.commonpath([real, self.folder]) != self.folder


def _in_traceback() -> bool:
    """Whether Python marks the place in a line of our own source, for `error.json`: it parses that line."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "traceback":
        frame = frame.f_back
    return frame is not None


def peak() -> float:
    """MiB that were in memory at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    from rlkit_core.cli.root import execute

    def call(arguments: Sequence[str]) -> tuple[int, str]:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = execute(arguments)
        return code, err.getvalue()

    for arguments in json.loads(sys.argv[1]):
        code, err = call(arguments)
        assert code == 0, err
    watch = Watch(Path(sys.argv[2]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        watch.events = []
        with contextlib.suppress(OSError):  # some containers do not let it be reset
            forget_peak()
        before, began = peak(), time.process_time()
        watch.on = True
        code, err = call(json.loads(line))
        watch.on = False
        seconds = time.process_time() - began
        answer = {"code": code, "err": err, "seconds": seconds, "mib": peak() - before, "events": watch.events}
        print(json.dumps(answer), flush=True)


class Child:
    """Such a process, seen from a test."""

    def __init__(self, warm_up: list[list[str]], folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, __file__, json.dumps(warm_up), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        assert self._answer() == "ready"

    def __call__(self, *arguments: object) -> dict[str, Any]:
        """Run `rlkit` with these arguments."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60.0)
        if not ready:  # it waits for a pipe
            self._process.kill()
        line = self._process.stdout.readline()
        assert line, "the process has ended, or took a minute"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def refused(answer: dict[str, Any], codes: Sequence[int] = (2, 3, 6), *, seconds: float = 2.0, lines: int = 3) -> str:
    """The message of a refusal as users get it; everything else fails the test."""
    assert answer["code"] in codes, answer
    assert not answer["events"], answer
    err: str = answer["err"]
    assert err.startswith("error: "), err
    assert "Traceback" not in err
    assert 1 <= len(err.splitlines()) <= lines, err
    assert len(err) < 1500, err
    assert answer["seconds"] < seconds, answer
    assert answer["mib"] < 512, answer
    return err


if __name__ == "__main__":
    main()
