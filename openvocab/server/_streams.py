"""Streams of videos and cameras, one thread each, and their events."""

import copy
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import supervision as sv

from openvocab.detector import OpenVocabDetector
from openvocab.errors import one_line
from openvocab.server._errors import BusyError, NotFoundError
from openvocab.stream._capture import is_still
from openvocab.stream._events import Event, event_record
from openvocab.stream._memory import TrackingSettings
from openvocab.stream._processor import StreamProcessor
from openvocab.stream._source import VideoSources
from openvocab.stream._video_sinks import drawing
from openvocab.stream._zones import Zones
from openvocab.types import Frame, Image

log = logging.getLogger(__name__)
MAX_EVENTS = 1000  # kept per stream; clients that come later get the number of missed ones


class EventRecord(NamedTuple):
    """An event and its number, one more than that of the previous event of its stream."""

    number: int
    record: dict[str, Any]


class Stream:
    """One source, processed in its own thread until it ends or is stopped."""

    def __init__(
        self,
        number: int,
        source: str,
        address: str,
        detector: OpenVocabDetector,
        arguments: Mapping[str, Any],
        zones: Zones | None = None,
    ) -> None:
        """Encode the classes; nothing is opened before `start`.

        Args:
            number: number by which clients refer to the stream.
            source: name of the source, which clients know instead of its address.
            address: as for `VideoSources`.
            detector: detector whose networks are run.
            arguments: classes, negatives and thresholds, as for `StreamProcessor`.
            zones: polygons and lines, not shared with other streams.

        Raises:
            ClassesError: the classes, negatives or thresholds are invalid.
        """
        self.number, self.source, self._address = number, source, address
        self._newest: tuple[Frame, sv.Detections] | None = None
        self._draw = drawing(zones)
        self._lost, self._failed = False, False
        self._events: deque[EventRecord] = deque(maxlen=MAX_EVENTS)
        # In milliseconds: no event of an earlier server has the number of one of this stream.
        self._before_first = self._last = time.time_ns() // 10**6
        self._lock = threading.Lock()
        self._sources: VideoSources | None = None
        self._processor = StreamProcessor(
            detector, tracking=None if is_still(address) else TrackingSettings(), on_event=self._on_event,
            zones=zones, **arguments,
        )  # fmt: skip
        self._thread = threading.Thread(
            target=self._run, name=f"openvocab stream {number}", daemon=True
        )

    def start(self) -> None:
        """Start; the state and the events say whether the source could be opened."""
        self._thread.start()

    @property
    def state(self) -> Literal["running", "lost", "ended", "failed"]:
        """The state; a camera that is lost will be opened again."""
        if self.running:
            return "lost" if self._lost else "running"
        return "failed" if self._failed else "ended"

    @property
    def running(self) -> bool:
        """Whether more frames may come."""
        return self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """Why there are no frames, if it is lost or has failed."""
        return self._reason if self.state in ("lost", "failed") else None

    @property
    def classes(self) -> list[str]:
        """The current class names."""
        return list(self._processor.classes)

    def set_classes(self, arguments: Mapping[str, Any]) -> None:
        """Change the classes from the next frame on.

        Raises:
            ClassesError: they are invalid; the stream continues with its present classes.
        """
        self._processor.set_classes(**arguments)

    def annotated_frame(self) -> Image | None:
        """The newest frame with its detections drawn, if there is one."""
        return None if self._newest is None else self._draw(*self._newest)

    def metrics(self) -> dict[str, Any]:
        """Frame counts, rates and latencies, as in `Metrics.snapshot`."""
        dropped = 0 if self._sources is None else self._sources.dropped
        return self._processor.metrics.snapshot(dropped)

    def events_after(self, number: int) -> list[EventRecord]:
        """The events after number `number`; for those no longer kept, one event with their count.

        If no event of this stream has that number, all events are new to the client.
        """
        with self._lock:
            number = number if self._before_first < number <= self._last else self._before_first
            kept = [event for event in self._events if event.number > number]
            if not kept:
                return []
        missed = kept[0].number - number - 1
        if not missed:
            return kept
        record = {"event": "missed", "time_s": kept[0].record["time_s"], "source": self.source}
        return [EventRecord(number + missed, record | {"events": missed}), *kept]

    def end(self) -> None:
        """End after the current frame."""
        self._processor.stop()

    def stop(self) -> None:
        """End, and wait until it has ended."""
        self.end()
        self._thread.join()

    @property
    def _reason(self) -> str:
        """The reason that clients get: without the address, its host or its folder."""
        return f"{self.source} cannot be read now; see the server's log."

    def _run(self) -> None:
        try:
            self._sources = VideoSources(self._address, on_event=self._on_event, retry_open=True)
            for frame, detections in self._processor.run(self._sources):
                self._newest = frame, detections
        except Exception as error:  # noqa: BLE001  the server continues
            self._failed = True
            log.warning("stream %d failed: %s", self.number, one_line(str(error)))
        # On the same time scale as its other events: that of the video, or the clock.
        ended_s = time.time() if self._newest is None else self._newest[0].time_s
        reason = {"reason": self._reason} if self._failed else {}
        self._append(event_record(Event("ended", ended_s, self.source, reason)))

    def _on_event(self, event: Event) -> None:
        """Keep an event; called from the threads of the stream and of its source."""
        record = event_record(event) | {"source": self.source}
        if event.kind.startswith("source"):  # lost or back
            self._lost = event.kind == "source lost"
            log.warning("stream %d: %s: %s", self.number, event.kind, event.data)
        if "reason" in record:
            record["reason"] = self._reason
        self._append(record)

    def _append(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._last += 1
            self._events.append(EventRecord(self._last, record))


class Streams:
    """The streams of one server; thread-safe."""

    def __init__(
        self,
        detector: OpenVocabDetector,
        sources: Mapping[str, str],
        zones: Mapping[str, Zones],
        max_streams: int,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            detector: detector whose networks are run.
            sources: addresses by the names that clients use; no others are ever opened.
            zones: zones of these sources, by the same names.
            max_streams: streams that may run at once.
        """
        self._detector, self._max_streams = detector, max_streams
        self.sources, self._zones = dict(sources), dict(zones)
        self._streams: dict[int, Stream] = {}
        self._numbers, self._lock = itertools.count(1), threading.Lock()

    @property
    def running(self) -> int:
        """How many streams are running."""
        return sum(stream.running for stream in self.all())

    def check(self, source: str) -> None:
        """Refuse a stream that could not be started, before any work is done.

        Raises:
            NotFoundError: no source has that name.
            BusyError: the maximum number of streams is running.
        """
        if source not in self.sources:
            raise NotFoundError(f"There is no source {source!r}; GET /v1/sources lists them.")
        if self.running >= self._max_streams:
            raise BusyError(f"{self._max_streams} streams are running; stop one.")

    def prepare(self, source: str, arguments: Mapping[str, Any]) -> Stream:
        """Create a stream without starting it; several may have the same source.

        Raises:
            ClassesError: the classes, negatives or thresholds are invalid.
        """
        address, zones = self.sources[source], copy.deepcopy(self._zones.get(source))
        return Stream(next(self._numbers), source, address, self._detector, arguments, zones)

    def start(self, stream: Stream) -> None:
        """Start a stream; if there is no room, the oldest one that has ended is dropped.

        Raises:
            BusyError: the maximum number of streams is running.
        """
        with self._lock:
            self.check(stream.source)
            if len(self._streams) >= self._max_streams:
                ended = next(other for other in self.all() if not other.running)
                del self._streams[ended.number]
            stream.start()  # before others can get and stop it
            self._streams[stream.number] = stream

    def get(self, number: int) -> Stream:
        """Return a stream by its number.

        Raises:
            NotFoundError: no stream has that number.
        """
        stream = self._streams.get(number)
        if stream is None:
            raise NotFoundError(f"There is no stream {number}; start one.")
        return stream

    def all(self) -> list[Stream]:
        """All streams, oldest first, including ended ones as long as there is room."""
        return list(self._streams.values())

    def remove(self, number: int) -> None:
        """Stop and delete a stream.

        Raises:
            NotFoundError: no stream has that number.
        """
        self.get(number).stop()
        with self._lock:
            self._streams.pop(number, None)

    def end(self) -> None:
        """End all streams after their current frames."""
        for stream in self.all():
            stream.end()

    def close(self) -> None:
        """Stop all streams, all at the same time."""
        streams = self.all()
        with ThreadPoolExecutor(len(streams) or 1) as pool:
            list(pool.map(Stream.stop, streams))
