"""Events of a stream: tracks that appear, change their class or leave."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import supervision as sv

from openvocab.types import Frame

T = TypeVar("T")

TRACK_TIMEOUT_S = 2.0  # a track that is not detected for this long has left


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    kind: str
    """`appeared`, `label changed`, `left`, `source lost`, `source back`, `entered zone`,
    `left zone`, `crossed line`."""
    time_s: float
    """Seconds, as for frames: from the start of a video, by the clock for a live source."""
    source: str
    """Name of the source."""
    data: dict[str, Any] = field(default_factory=dict)
    """Details of the event: `tracker_id`, `class_name`, `zone`, `reason`, ..."""


EventCallback = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """An event callback that does nothing."""


def event_record(event: Event) -> dict[str, Any]:
    """Convert an event to an object for one line of JSON Lines."""
    record = {"event": event.kind, "time_s": round(event.time_s, 3), "source": event.source}
    return record | event.data


def track_event(
    kind: str, time_s: float, source: str, track: int, class_name: str, **data: str
) -> Event:
    """An event of one track."""
    return Event(kind, time_s, source, {"tracker_id": track, "class_name": class_name} | data)


def tracked_classes(detections: sv.Detections) -> list[tuple[int, str]]:
    """Track and class name of each detection; empty without tracks."""
    if detections.tracker_id is None:
        return []
    names = detections.data.get("class_name", ())
    return list(zip(detections.tracker_id.tolist(), names, strict=True))


def pop_older(
    tracks: dict[int, tuple[T, float]], before_s: float
) -> list[tuple[int, tuple[T, float]]]:
    """Remove and return the tracks whose time, the second item of a value, is before `before_s`.

    >>> tracks = {1: ("bus", 0.5), 2: ("dog", 3.0)}
    >>> pop_older(tracks, 1.0), tracks
    ([(1, ('bus', 0.5))], {2: ('dog', 3.0)})
    """
    older = [(track, value) for track, value in tracks.items() if value[1] < before_s]
    for track, _ in older:
        del tracks[track]
    return older


class TrackEvents:
    """Events `appeared`, `label changed` and `left` of the tracks of one source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tracks: dict[int, tuple[str, float]] = {}  # class name, and time of the last frame

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield the events of a frame, whose detections need `tracker_id` and `class_name`."""
        for track, name in tracked_classes(detections):
            before = self._tracks.get(track)
            self._tracks[track] = (name, frame.time_s)
            if before is None:
                yield track_event("appeared", frame.time_s, self._source, track, name)
            elif before[0] != name:
                yield track_event(
                    "label changed", frame.time_s, self._source, track, name, before=before[0]
                )
        yield from self.end(frame.time_s - TRACK_TIMEOUT_S)

    def end(self, before_s: float = math.inf) -> Iterator[Event]:
        """Yield `left` for tracks last detected before `before_s`; for all when the stream ends."""
        for track, (name, last_s) in pop_older(self._tracks, before_s):
            yield track_event("left", last_s, self._source, track, name)
