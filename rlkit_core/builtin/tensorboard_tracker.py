"""The TensorBoard tracker: event files in the run folder, written by the package tensorboard itself, without torch."""

from __future__ import annotations

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped,unused-ignore]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped,unused-ignore]

from rlkit_core.errors import StorageError
from rlkit_core.tracking import Record, TrackedRun, Tracker, numbers


class TensorboardTracker(Tracker):
    """Writes `<run folder>/tensorboard`. A record that is sent twice, after a failure, is there twice."""

    def __init__(self) -> None:
        self._writer: EventFileWriter | None = None

    def start(self, run: TrackedRun) -> None:
        """Open a new event file; TensorBoard shows all files of a folder as one run."""
        folder: Path = run.folder.path / "tensorboard"
        try:
            self._writer = EventFileWriter(str(folder))
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
        run.ids["folder"] = "tensorboard"

    def log(self, records: list[Record]) -> None:
        """Write each metric as a scalar at its environment step."""
        assert self._writer is not None, "start comes first"
        for name, value, step, time in numbers(records):
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._writer.add_event(Event(wall_time=time / 1000, step=step, summary=summary))
        self._writer.flush()

    def finish(self, state: str, time: int) -> None:
        """Close the file."""
        assert self._writer is not None, "start comes first"
        self._writer.close()
