"""Where results go: JSON Lines, CSV and event files, and the thread that writes to all sinks."""

import contextlib
import csv
import io
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import supervision as sv

from openvocab._internal.files import numbered_paths
from openvocab.errors import SinkError, os_reason
from openvocab.io._rows import detections_to_rows
from openvocab.stream._events import Event, event_record
from openvocab.types import Frame, Sink

QUEUE_SIZE = 8  # frames that may wait for the sinks; beyond that, the loop waits
CLOSE_TIMEOUT_S = 30.0  # after which sinks that are still writing are abandoned
# Without the parts of the score, as there may be thousands of detections per minute.
KEYS = "class_name", "class_id", "confidence", "xyxy", "tracker_id"

SinkLike = Sink | Callable[[Frame, sv.Detections], None]


class _TextFile:
    """An unbuffered UTF-8 file: what is written survives a crash. Any thread may write."""

    HEADER = ""

    def __init__(self, path: str | Path, max_bytes: int | None = None) -> None:
        """Open the file to append to it.

        Args:
            path: further files are named `out-2.csv`, `out-3.csv`, ...
            max_bytes: size at which the next file begins.

        Raises:
            SinkError: the file cannot be written.
        """
        self._paths, self._max_bytes = numbered_paths(Path(path)), max_bytes
        self._lock = threading.Lock()
        self._open()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _write(self, text: str) -> None:
        """Write the whole text, to the next file if this one is full."""
        with self._lock:
            while self._max_bytes is not None and self._size >= self._max_bytes:
                self._file.close()
                self._open()
            self._append(text)

    def _write_json(self, record: dict[str, Any]) -> None:
        self._write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    def _open(self) -> None:
        self._path = next(self._paths)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)  # a restart keeps earlier records
            self._size = self._file.seek(0, os.SEEK_END) if self._file.seekable() else 0
        except OSError as error:
            raise self._error(error) from error
        if not self._size:
            self._append(self.HEADER)
        elif not self._ends_with_newline():  # the disk was full, or the power failed
            self._append("\n")

    def _ends_with_newline(self) -> bool:
        try:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() == b"\n"
        except OSError:  # a writable file need not be readable
            return True

    def _append(self, text: str) -> None:
        remaining = memoryview(text.encode(errors="backslashreplace"))
        self._size += len(remaining)
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) or 0 :]
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._file.close()
            raise self._error(error) from error

    def _error(self, error: Exception) -> SinkError:
        return SinkError(
            f"{self._path} cannot be written ({os_reason(error)}); check disk and path."
        )


class JsonLinesSink(_TextFile):
    """Appends detections to a JSON Lines file, one frame per line; rotates by size."""

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Write one frame: `source`, `frame`, `time_s`, `detections`.

        Raises:
            SinkError: the file cannot be written.
        """
        self._write_json(_frame_record(frame) | {"detections": list(_records(detections))})


class CsvSink(_TextFile):
    """Appends detections to a CSV file, one box per row; rotates by size, each file with a header."""

    COLUMNS = (
        "source", "frame", "time_s", "tracker_id", "class_name", "confidence",
        "x1", "y1", "x2", "y2",
    )  # fmt: skip
    HEADER = ",".join(COLUMNS) + "\r\n"

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Write the boxes of one frame.

        Raises:
            SinkError: the file cannot be written.
        """
        lines = io.StringIO()
        table = csv.DictWriter(lines, self.COLUMNS, extrasaction="ignore")
        for record in _records(detections):
            corners = dict(zip(("x1", "y1", "x2", "y2"), record["xyxy"], strict=True))
            table.writerow(_frame_record(frame) | record | corners)
        self._write(lines.getvalue())


class EventLog(_TextFile):
    """Appends events to a JSON Lines file, to be passed as `on_event`; rotates by size."""

    def __call__(self, event: Event) -> None:
        """Write one event.

        Raises:
            SinkError: the file cannot be written.
        """
        self._write_json(event_record(event))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write a snapshot of `Metrics`.

        Raises:
            SinkError: the file cannot be written.
        """
        self._write_json({"event": "metrics"} | metrics)


def _frame_record(frame: Frame) -> dict[str, Any]:
    return {"source": frame.source, "frame": frame.index, "time_s": round(frame.time_s, 3)}


def _records(detections: sv.Detections) -> Iterator[dict[str, Any]]:
    for row in detections_to_rows(detections):
        yield {key: row[key] for key in KEYS if key in row}


class SinkThread:
    """Writes every frame to every sink, so the loop does not wait for disks.

    An error of a sink is raised in the loop.
    """

    def __init__(self, sinks: Sequence[SinkLike], on_written: Callable[[float], None]) -> None:
        """Start with `with`; `on_written` is called with the capture time of each written frame."""
        self._sinks, self._on_written = sinks, on_written
        self._queue: queue.Queue[tuple[Frame, sv.Detections] | None] = queue.Queue(QUEUE_SIZE)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="openvocab sinks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write the queued frames; raise a sink's error unless another one is being raised."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=0.2)
                self._thread.join(max(0.0, deadline - time.monotonic()))
        if error is not None:
            return
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise SinkError("Timed out flushing sinks; check that the disk responds.")

    def put(self, frame: Frame, detections: sv.Detections) -> None:
        """Queue one frame; waits while the queue is full.

        Raises:
            Exception: an earlier error of a sink.
        """
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put((frame, detections), timeout=0.2)
                break
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                for sink in self._sinks:
                    (sink.write if isinstance(sink, Sink) else sink)(*item)
                self._on_written(item[0].captured_s)
        except Exception as error:  # noqa: BLE001  raised again in the loop
            self._error = error
        finally:
            for sink in self._sinks:
                try:
                    if isinstance(sink, Sink):
                        sink.close()
                except Exception as error:  # noqa: BLE001  the other sinks must still be closed
                    self._error = self._error or error
