"""Polygons and lines in the image, from a small file: which tracks enter, leave or cross them."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from openvocab._internal.files import read_table
from openvocab.errors import ConfigError
from openvocab.stream._events import TRACK_TIMEOUT_S, Event, pop_older, track_event, tracked_classes
from openvocab.types import Frame, Image

ANCHOR = (sv.Position.BOTTOM_CENTER,)  # where an object stands
STABLE_FRAMES = 3  # in a row on the other side, because the edges of boxes jitter
MAX_PIXELS = 16_384  # supervision makes a mask from the corner to the furthest point
Points = Sequence[tuple[float, float]]


@dataclass(slots=True)
class _Zone:
    """One polygon in one source, and the tracks in it."""

    name: str
    polygon: sv.PolygonZone
    inside: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Class of each track in it, and the time of its last detection, inside or outside."""
    pending: dict[int, tuple[int, float]] = field(default_factory=dict)
    """In how many frames in a row each track was on the other side, and the time of the last."""

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield events: a track changes sides after a few frames there, or when it disappears."""
        tracks, within = tracked_classes(detections), self.polygon.trigger(detections)
        for (track, name), is_within in zip(tracks, within, strict=True):
            was_inside = track in self.inside
            if was_inside:
                self.inside[track] = name, frame.time_s
            if not self._has_changed(track, frame.time_s, differs=is_within != was_inside):
                continue
            if is_within:
                self.inside[track] = name, frame.time_s
            else:
                del self.inside[track]
            kind = "entered zone" if is_within else "left zone"
            yield track_event(kind, frame.time_s, frame.source, track, name, zone=self.name)
        yield from self.end(frame.source, frame.time_s - TRACK_TIMEOUT_S)
        pop_older(self.pending, frame.time_s - TRACK_TIMEOUT_S)

    def end(self, source: str, before_s: float = math.inf) -> Iterator[Event]:
        """Yield `left zone` for tracks in it that were last detected before `before_s`."""
        for track, (name, last_s) in pop_older(self.inside, before_s):
            yield track_event("left zone", last_s, source, track, name, zone=self.name)

    def counts(self, time_s: float) -> Counter[str]:
        """Classes of the tracks in it that were detected at this time."""
        return Counter(name for name, last_s in self.inside.values() if last_s == time_s)

    def _has_changed(self, track: int, time_s: float, *, differs: bool) -> bool:
        """Whether a track has been on the other side in enough frames."""
        frames = self.pending.pop(track, (0, time_s))[0] + 1
        if differs and frames < STABLE_FRAMES:
            self.pending[track] = frames, time_s
        return differs and frames >= STABLE_FRAMES


@dataclass(slots=True)
class _SourceZones:
    """The zones and lines of one source."""

    zones: list[_Zone]
    lines: dict[str, sv.LineZone]
    crossings: dict[str, Counter[str]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Classes in each zone in the last frame; replaced as a whole, as another thread draws it."""

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        for zone in self.zones:
            yield from zone.update(frame, detections)
        self.counts = {zone.name: zone.counts(frame.time_s) for zone in self.zones}
        tracks = tracked_classes(detections)
        for line, trigger in self.lines.items():
            for direction, crossed in zip(("in", "out"), trigger.trigger(detections), strict=True):
                for row in np.flatnonzero(crossed):
                    track, name = tracks[row]
                    self.crossings.setdefault(line, Counter())[f"{name} {direction}"] += 1
                    yield track_event(
                        "crossed line", frame.time_s, frame.source, track, name,
                        line=line, direction=direction,
                    )  # fmt: skip


class Zones:
    """Named polygons and lines, with separate counts for each source.

    A track enters, leaves or crosses after three frames in a row on the other side.
    """

    def __init__(
        self,
        polygons: Mapping[str, Points] | None = None,
        lines: Mapping[str, Points] | None = None,
    ) -> None:
        """Define polygons and lines.

        Args:
            polygons: by name, each of three or more points `(x, y)` in pixels.
            lines: by name, two points each; "in" means from right to left, looking from the first
                point to the second.

        Raises:
            ConfigError: there are too few points, or they cannot be used.
        """
        self._polygons, self._lines = dict(polygons or {}), dict(lines or {})
        for name, points in self._polygons.items():
            _check(f"Zone {name!r}", points, 3, math.inf)
        for name, points in self._lines.items():
            _check(f"Line {name!r}", points, 2, 2)
        self._states: dict[str, _SourceZones] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> "Zones":
        """Read a TOML or `.json` file: `zones` and `lines`, each with `name = [[x, y], ...]`.

        Raises:
            ConfigError: the file is neither TOML nor JSON, has neither a zone nor a line, or its
                points cannot be used.
        """
        table = read_table(Path(path))
        polygons, lines = table.pop("zones", {}), table.pop("lines", {})
        are_tables = isinstance(polygons, dict) and isinstance(lines, dict)
        if table or not are_tables or not (polygons or lines):
            raise ConfigError(f"{path} needs [zones] or [lines] and nothing else; correct it.")
        return cls(polygons, lines)

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield the events of a frame, whose detections need `tracker_id` and `class_name`."""
        if frame.source not in self._states:
            self._states[frame.source] = self._new_state()
        state = self._states[frame.source]
        if detections.tracker_id is None:
            state.counts = {}
        else:
            yield from state.update(frame, detections)

    def end(self) -> Iterator[Event]:
        """Yield `left zone` for every track still in a zone when the stream ends."""
        for source, state in self._states.items():
            for zone in state.zones:
                yield from zone.end(source)

    def draw(self, image: Image, source: str) -> Image:
        """Draw the zones of a source on the image, in place, with their counts by class."""
        state = self._states.get(source, _SourceZones([], {}))
        for name, points in self._polygons.items():
            corners = np.array(points, int)
            sv.draw_polygon(image, corners, sv.Color.YELLOW, thickness=2)
            _draw_counts(image, name, state.counts, corners.mean(axis=0))
        for name, points in self._lines.items():
            start, end = (sv.Point(*point) for point in points)
            sv.draw_line(image, start, end, sv.Color.YELLOW, thickness=2)
            _draw_counts(image, name, state.crossings, np.mean(points, axis=0))
        return image

    def _new_state(self) -> _SourceZones:
        zones = [
            _Zone(name, sv.PolygonZone(np.array(points, int), triggering_anchors=ANCHOR))
            for name, points in self._polygons.items()
        ]
        lines = {
            name: sv.LineZone(
                sv.Point(*start), sv.Point(*end), ANCHOR, minimum_crossing_threshold=STABLE_FRAMES
            )
            for name, (start, end) in self._lines.items()
        }
        return _SourceZones(zones, lines)


def _check(what: str, points: Any, minimum: int, maximum: float) -> None:  # noqa: ANN401
    """Refuse what is not a number of different points in the image; from a file comes anything."""
    try:
        array = np.asarray(points)
        usable = (
            array.dtype.kind in "iuf"
            and array.shape[1:] == (2,)
            and minimum <= len(array) <= maximum
            and np.abs(array).max() <= MAX_PIXELS
            and array.max(axis=0).min() >= 0  # not all of them left of, or above the image
            and len(np.unique(array.astype(int), axis=0)) >= minimum
        )
    except ValueError:  # rows of different lengths
        usable = False
    if not usable:
        number = minimum if minimum == maximum else f"{minimum} or more"
        raise ConfigError(
            f"{what} is {np.asarray(points, object).tolist()!r}; give {number} different points "
            f"[x, y] in pixels of the image, each at most {MAX_PIXELS}."
        )


def _draw_counts(
    image: Image, name: str, counts: Mapping[str, Mapping[str, int]], center: np.ndarray
) -> None:
    counted = sorted(counts.get(name, {}).items())
    text = f"{name}: " + (", ".join(f"{key} {number}" for key, number in counted) or "0")
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's font has ASCII only
    sv.draw_text(image, ascii_text, sv.Point(*center), background_color=sv.Color.YELLOW)
