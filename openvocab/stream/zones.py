"""Polygons and lines in the picture, from a small file: what entered, left or crossed them."""

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
from openvocab.stream.events import GONE_S, Event, forget, named
from openvocab.types import Frame, Image

FOOT = (sv.Position.BOTTOM_CENTER,)  # where a thing stands
STEADY = 3  # frames in a row on the other side, because the edges of boxes jitter
LARGEST = 16_384  # pixels; supervision makes a mask from the corner to the furthest point
Points = Sequence[tuple[float, float]]


@dataclass(slots=True)
class _Area:
    """One polygon of one source, and the tracks in it."""

    name: str
    polygon: sv.PolygonZone
    inside: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Class of each track in it, and when it was last seen, inside or outside."""
    doubts: dict[int, tuple[int, float]] = field(default_factory=dict)
    """How often in a row each track was seen on the other side, and when it last was."""

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield events: a track changes sides once it is seen there for a while, or disappears."""
        for track, name, within in zip(
            *named(detections), self.polygon.trigger(detections), strict=True
        ):
            if track in self.inside:
                self.inside[track] = name, frame.time_s
            if not self._is_sure(track, frame.time_s, differs=within != (track in self.inside)):
                continue
            if within:
                self.inside[track] = name, frame.time_s
                yield self._event("entered zone", frame.time_s, frame.source, track, name)
            else:
                del self.inside[track]
                yield self._event("left zone", frame.time_s, frame.source, track, name)
        yield from self.gone(frame.time_s - GONE_S, frame.source)
        forget(self.doubts, frame.time_s - GONE_S)

    def gone(self, since_s: float, source: str) -> Iterator[Event]:
        """Yield `left zone`, at the time of the last sight, for tracks unseen since `since_s`."""
        for track, (name, last_s) in forget(self.inside, since_s):
            yield self._event("left zone", last_s, source, track, name)

    def _is_sure(self, track: int, now_s: float, *, differs: bool) -> bool:
        """Whether a track has been seen on the other side often enough."""
        times, _ = self.doubts.pop(track, (0, now_s))
        if differs and times + 1 < STEADY:
            self.doubts[track] = times + 1, now_s
        return differs and times + 1 >= STEADY

    def _event(self, kind: str, time_s: float, source: str, track: int, name: str) -> Event:
        data = {"zone": self.name, "tracker_id": track, "class_name": name}
        return Event(kind, time_s, source, data)


@dataclass(slots=True)
class _State:
    """The state of one source."""

    areas: list[_Area]
    lines: dict[str, sv.LineZone]
    crossed: dict[str, Counter[str]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Classes in each zone in the last frame; replaced as a whole, as another thread draws it."""


class Zones:
    """Named polygons and lines, with separate counts for each source.

    A thing enters, leaves or crosses once it was seen on the other side in three frames in a row.
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
            _check(name, points, least=3)
        for name, points in self._lines.items():
            _check(name, points, least=2)
        self._states: dict[str, _State] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> "Zones":
        """Read a TOML or `.json` file: `zones` and `lines`, each with `name = [[x, y], ...]`.

        Raises:
            ConfigError: the file is neither TOML nor JSON, has neither a zone nor a line, or its
                points cannot be used.
        """
        raw = read_table(Path(path))
        polygons, lines = raw.pop("zones", {}), raw.pop("lines", {})
        tables = isinstance(polygons, dict) and isinstance(lines, dict)
        if raw or not tables or not (polygons or lines):
            raise ConfigError(f"{path}: needs [zones] or [lines] and nothing else; mend it.")
        return cls(polygons, lines)

    def update(self, frame: Frame, detections: sv.Detections) -> Iterator[Event]:
        """Yield the events of a frame, whose detections need `tracker_id` and `class_name`."""
        if frame.source not in self._states:
            self._states[frame.source] = self._new_state()
        state = self._states[frame.source]
        if detections.tracker_id is None:
            state.counts = {}
            return
        for area in state.areas:
            yield from area.update(frame, detections)
        state.counts = {
            area.name: Counter(
                name for name, seen_s in area.inside.values() if seen_s == frame.time_s
            )
            for area in state.areas
        }
        ids, names = named(detections)
        for line, trigger in state.lines.items():
            for direction, mask in zip(("in", "out"), trigger.trigger(detections), strict=True):
                for row in np.flatnonzero(mask):
                    counts = state.crossed.setdefault(line, Counter())
                    counts[f"{names[row]} {direction}"] += 1
                    data = {"line": line, "direction": direction, "tracker_id": ids[row]}
                    yield Event(
                        "crossed line",
                        frame.time_s,
                        frame.source,
                        data | {"class_name": names[row]},
                    )

    def end(self) -> Iterator[Event]:
        """Yield `left zone` for every track still in a zone when the stream ends."""
        for source, state in self._states.items():
            for area in state.areas:
                yield from area.gone(math.inf, source)

    def draw(self, picture: Image, source: str) -> Image:
        """Draw the zones of a source, with their counts by class, on the picture in place."""
        state = self._states.get(source, _State([], {}))
        for zone, points in self._polygons.items():
            corners = np.array(points, int)
            sv.draw_polygon(picture, corners, sv.Color.YELLOW, thickness=2)
            counts = state.counts.get(zone, Counter())
            _caption(picture, f"{zone}: {_told(counts)}", corners.mean(axis=0))
        for line, ((x1, y1), (x2, y2)) in self._lines.items():
            sv.draw_line(picture, sv.Point(x1, y1), sv.Point(x2, y2), sv.Color.YELLOW, thickness=2)
            middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
            _caption(picture, f"{line}: {_told(state.crossed.get(line, Counter()))}", middle)
        return picture

    def _new_state(self) -> _State:
        areas = [
            _Area(name, sv.PolygonZone(np.array(points, int), triggering_anchors=FOOT))
            for name, points in self._polygons.items()
        ]
        lines = {
            name: sv.LineZone(
                sv.Point(*start), sv.Point(*end), FOOT, minimum_crossing_threshold=STEADY
            )
            for name, (start, end) in self._lines.items()
        }
        return _State(areas, lines)


def _check(name: str, points: Any, *, least: int) -> None:  # noqa: ANN401  from a file: anything
    """Refuse anything that is not points in pixels; a line has exactly two."""
    given = np.asarray(points, object).tolist()
    try:
        array = np.array(points)
        array = array.astype(float) if array.dtype.kind in "iufO" else np.empty(0)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least or not np.isfinite(array).all():
        raise ConfigError(
            f"Zone {name!r} is {given!r}; give {least} or more points [x, y] of numbers."
        )
    if np.abs(array).max() > LARGEST or (array.max(axis=0) < 0).any():
        raise ConfigError(
            f"Zone {name!r} lies outside, or reaches beyond {LARGEST}; give pixels of the picture."
        )
    if len(np.unique(array.astype(int), axis=0)) < least:
        raise ConfigError(f"Zone {name!r} is {given!r}; give {least} points that differ.")
    if least == 2 and len(array) != 2:
        raise ConfigError(f"Line {name!r} has {len(array)} points; give two.")


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "0"


def _caption(picture: Image, text: str, where: np.ndarray) -> None:
    plain = text.encode("ascii", "replace").decode()  # OpenCV's font has ASCII only
    sv.draw_text(picture, plain, sv.Point(*where), background_color=sv.Color.YELLOW)
