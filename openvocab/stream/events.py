"""What happens on a stream, as short records: things appear, change their label, or leave."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import supervision as sv

from openvocab.types import Frame

T = TypeVar("T")

GONE_S = 2.0  # a track that has not been seen for this long has left


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: str
    """`appeared`, `label changed`, `left`, `source lost`, `source back`, `entered zone`,
    `left zone`, `crossed line`."""
    time_s: float
    """Seconds, as for frames: from the start for a film, by the clock for a live source."""
    source: str
    """Name of the source if there are several, else empty."""
    data: dict[str, Any] = field(default_factory=dict)
    """Details of the event: `tracker_id`, `class_name`, `zone`, `reason`, ..."""


Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A report that does nothing."""


def named(detections: sv.Detections) -> tuple[list[int], list[str]]:
    """Track numbers, and the class name of each."""
    ids = [] if detections.tracker_id is None else detections.tracker_id.tolist()
    return ids, list(detections.data.get("class_name", ()))


def forget(seen: dict[int, tuple[T, float]], since_s: float) -> list[tuple[int, tuple[T, float]]]:
    """Remove and return the tracks that were last seen before `since_s`.

    >>> seen = {1: ("bus", 0.5), 2: ("dog", 3.0)}
    >>> forget(seen, 1.0), seen
    ([(1, ('bus', 0.5))], {2: ('dog', 3.0)})
    """
    gone = [(track, what) for track, what in seen.items() if what[1] < since_s]
    for track, _ in gone:
        del seen[track]
    return gone


class TrackEvents:
    """Events `appeared`, `label changed` and `left` of the tracks of one source."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}
        self._source = ""

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield the events of a frame, whose detections need `tracker_id` and `class_name`."""
        self._source = frame.source
        for track, name in zip(*named(detections), strict=True):
            before = self._seen.get(track)
            self._seen[track] = (name, frame.time_s)
            data = {"tracker_id": track, "class_name": name}
            if before is None:
                yield Event("appeared", frame.time_s, frame.source, data)
            elif before[0] != name:
                changed = data | {"before": before[0]}
                yield Event("label changed", frame.time_s, frame.source, changed)
        yield from self._left(frame.time_s - GONE_S)

    def end(self) -> Iterator[Event]:
        """Yield `left` for every track that is still there when the stream ends."""
        yield from self._left(math.inf)

    def _left(self, since_s: float) -> Iterator[Event]:
        """Yield `left` for the tracks that were last seen before `since_s`."""
        for track, (name, last_s) in forget(self._seen, since_s):
            data = {"tracker_id": track, "class_name": name}
            yield Event("left", last_s, self._source, data)
