"""Films and cameras that the server watches, a thread each, and what happens on them."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import supervision as sv

from openvocab.detector import OpenVocabDetector
from openvocab.errors import one_line
from openvocab.protocols import Frame
from openvocab.server.errors import BusyError, LacksError
from openvocab.stream.capture import is_still, shown_name
from openvocab.stream.events import Event
from openvocab.stream.processor import StreamProcessor
from openvocab.stream.records import event_record
from openvocab.stream.source import Sources

__all__ = ["Stream", "Streams", "Told"]

KEPT = 1000  # events of a stream; who comes later is told how many are missing


class Told(NamedTuple):
    """An event, and its place among all of its stream, from 1."""

    number: int
    record: dict[str, Any]


class Stream:
    """One source, watched in a thread of its own until it ends or is stopped."""

    def __init__(
        self,
        number: int,
        source: str,
        address: str,
        detector: OpenVocabDetector,
        wanted: Mapping[str, Any],
    ) -> None:
        """Start it; whether the source opens is told by its state and events.

        Args:
            number: it is asked for by.
            source: what callers call it; the address they need not know.
            address: as `Sources` takes it.
            detector: whose networks run.
            wanted: classes, negatives and thresholds, as `StreamProcessor` takes them.

        Raises:
            ClassesError: they cannot be used.
        """
        self.number, self.source, self._address = number, source, address
        self.newest: tuple[Frame, sv.Detections] | None = None
        """The last frame, and what was found in it."""
        self._lost: str | None = None
        self._failed: str | None = None
        self._told: deque[Told] = deque(maxlen=KEPT)
        self._lock, self._count = threading.Lock(), itertools.count(1)
        self._sources: Sources | None = None
        self._processor = StreamProcessor(
            detector, tracker=None if is_still(address) else "bytetrack", report=self._report,
            **wanted,
        )  # fmt: skip
        self._thread = threading.Thread(
            target=self._run, name=f"openvocab stream {number}", daemon=True
        )
        self._thread.start()

    @property
    def state(self) -> Literal["runs", "lost", "ended", "failed"]:
        """Whether it goes on; a camera that is lost is opened again."""
        if self.runs:
            return "runs" if self._lost is None else "lost"
        return "ended" if self._failed is None else "failed"

    @property
    def runs(self) -> bool:
        """Whether more may come."""
        return self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """Why there are no pictures, if there should be."""
        return self._lost if self.runs else self._failed

    @property
    def classes(self) -> list[str]:
        """What is looked for now."""
        return list(self._processor.classes)

    def set_classes(self, wanted: Mapping[str, Any]) -> None:
        """Look for other things from the next frame on.

        Raises:
            ClassesError: they cannot be used; it goes on with those it has.
        """
        self._processor.set_classes(**wanted)

    def figures(self) -> dict[str, Any]:
        """How it is doing, as `Metrics.snapshot` says."""
        dropped = 0 if self._sources is None else self._sources.dropped
        return self._processor.metrics.snapshot(dropped)

    def after(self, number: int) -> list[Told]:
        """The events after that one; of those that are no longer kept, one that tells how many."""
        with self._lock:
            kept = [told for told in self._told if told.number > number]
        missed = kept[0].number - number - 1 if kept else 0
        if not missed:
            return kept
        record = {"event": "missed", "source": self.source, "events": missed}
        return [Told(number + missed, record), *kept]

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._processor.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._sources = Sources(self._address, report=self._report, patient=True)
            for frame, found in self._processor.run(self._sources):
                self.newest = frame, found
        except Exception as error:  # noqa: BLE001  goes to whoever asks; the server lives on
            self._failed = self._without_address(one_line(str(error)))
        ended = {} if self._failed is None else {"reason": self._failed}
        self._report(Event("ended", time.time(), self.source, ended))

    def _report(self, event: Event) -> None:
        record = event_record(event) | {"source": self.source}
        if "reason" in record:
            record["reason"] = self._without_address(record["reason"])
        if event.kind.startswith("source"):  # lost or back
            self._lost = record.get("reason")
        with self._lock:
            self._told.append(Told(next(self._count), record))

    def _without_address(self, text: str) -> str:
        return text.replace(self._address, self.source).replace(
            shown_name(self._address), self.source
        )


class Streams:
    """Those of one server; thread-safe."""

    def __init__(self, detector: OpenVocabDetector, sources: Mapping[str, str], most: int) -> None:
        """Nothing is opened yet.

        Args:
            detector: whose networks run.
            sources: addresses by the names that callers may use; no other is ever opened.
            most: streams at once.
        """
        self._detector, self._most = detector, most
        self.sources = dict(sources)
        self._streams: dict[int, Stream] = {}
        self._numbers, self._lock = itertools.count(1), threading.Lock()

    def start(self, source: str, wanted: Mapping[str, Any]) -> Stream:
        """Watch a source; the same one may be watched for several callers.

        Raises:
            LacksError: no source has that name.
            BusyError: as many run as may.
            ClassesError: classes, negatives or thresholds cannot be used.
        """
        if source not in self.sources:
            raise LacksError(f"There is no source {source!r}; GET /v1/sources lists them.")
        with self._lock:
            self._make_room()
            number = next(self._numbers)
            stream = Stream(number, source, self.sources[source], self._detector, wanted)
            self._streams[number] = stream
        return stream

    def get(self, number: int) -> Stream:
        """One of them.

        Raises:
            LacksError: there is none of that number.
        """
        found = self._streams.get(number)
        if found is None:
            raise LacksError(f"There is no stream {number}; start one.")
        return found

    def all(self) -> list[Stream]:
        """The oldest first; what ended among them, as long as there is room."""
        return list(self._streams.values())

    def remove(self, number: int) -> None:
        """Stop one and forget it.

        Raises:
            LacksError: there is none of that number.
        """
        with self._lock:
            stream = self.get(number)
            del self._streams[number]
        stream.stop()

    def close(self) -> None:
        """Stop all."""
        for stream in self.all():
            stream.stop()

    def _make_room(self) -> None:
        """For one more: the oldest of those that ended goes."""
        if len(self._streams) < self._most:
            return
        over = next((each for each in self.all() if not each.runs), None)
        if over is None:
            raise BusyError(f"{self._most} streams run already; stop one.")
        del self._streams[over.number]
