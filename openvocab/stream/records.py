"""Detections and events as lines of text, each written at once."""

import csv
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import supervision as sv

from openvocab._internal.files import numbered_paths
from openvocab.errors import SinkError
from openvocab.io.rows import detections_to_rows
from openvocab.stream.events import Event
from openvocab.types import Frame

KEYS = "class_name", "class_id", "confidence", "xyxy", "tracker_id"


class JsonLines:
    """Appends one JSON object per line, each written at once; rotates by size."""

    def __init__(self, path: str | Path, max_bytes: int | None = None) -> None:
        self._lock = threading.Lock()
        self._file = _Text(Path(path), max_bytes)

    def write(self, record: dict[str, Any]) -> None:
        """Write one line; from any thread.

        Raises:
            SinkError: the file cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        with self._lock:
            self._file.write(line + "\n")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class JsonLinesSink:
    """Writes detections as JSON Lines, one frame per line."""

    def __init__(self, path: str | Path, max_bytes: int | None = None) -> None:
        self._lines = JsonLines(path, max_bytes)

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Write one frame: `source`, `frame`, `time_s`, `detections`."""
        head = {"source": frame.source, "frame": frame.index, "time_s": round(frame.time_s, 3)}
        self._lines.write(head | {"detections": list(_rows(detections))})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class CsvSink:
    """Writes detections as CSV, one box per row; rotates by size, each file with a header."""

    COLUMNS = (
        "source", "frame", "time_s", "tracker_id", "class_name", "confidence",
        "x1", "y1", "x2", "y2",
    )  # fmt: skip

    def __init__(self, path: str | Path, max_bytes: int | None = None) -> None:
        self._file = _Text(Path(path), max_bytes, head=",".join(self.COLUMNS) + "\r\n")

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Write the boxes of one frame.

        Raises:
            SinkError: the file cannot be written.
        """
        head = {"source": frame.source, "frame": frame.index, "time_s": round(frame.time_s, 3)}
        lines = io.StringIO()
        table = csv.DictWriter(lines, self.COLUMNS, extrasaction="ignore")
        for row in _rows(detections):
            corners = dict(zip(("x1", "y1", "x2", "y2"), row["xyxy"], strict=True))
            table.writerow(head | row | corners)
        self._file.write(lines.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def event_record(event: Event) -> dict[str, Any]:
    """Convert an event to an object for one line of JSON Lines."""
    return {
        "event": event.kind,
        "time_s": round(event.time_s, 3),
        "source": event.source,
    } | event.data


def _rows(detections: sv.Detections) -> Iterator[dict[str, Any]]:
    """Rows without the parts of the score, as there may be thousands per minute."""
    for row in detections_to_rows(detections):
        yield {key: row[key] for key in KEYS if key in row}


class _Text:
    """An unbuffered UTF-8 file: what is written survives a crash of the program."""

    def __init__(self, path: Path, max_bytes: int | None, head: str = "") -> None:
        self._paths, self._max_bytes, self._head = numbered_paths(path), max_bytes, head
        self._open()

    def write(self, text: str) -> None:
        """Write the whole text, to the next file if this one is full."""
        while self._max_bytes is not None and self._size >= self._max_bytes:
            self._file.close()
            self._open()
        self._put(text)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        self._path = next(self._paths)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)  # a restart keeps earlier records
            self._size = self._file.seek(0, os.SEEK_END) if self._file.seekable() else 0
        except OSError as error:
            raise self._unwritable(error) from error
        if not self._size:
            self._put(self._head)
        elif not self._ends_whole():  # the disk was full, or the power failed
            self._put("\n")

    def _ends_whole(self) -> bool:
        try:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() == b"\n"
        except OSError:  # a writable file need not be readable
            return True

    def _put(self, text: str) -> None:
        rest = memoryview(text.encode(errors="backslashreplace"))
        self._size += len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._file.close()
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> SinkError:
        reason = getattr(error, "strerror", None) or error
        return SinkError(f"{self._path} cannot be written ({reason}); check disk and path.")
