"""What is known of each track: its averaged features, and the label they give, held steady."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ConfigError
from openvocab.scoring.log_odds import sigmoid
from openvocab.types import Boxes, Features, Image, Proposals

SETTLE_S = 0.3  # between the first encode_counts, because consecutive frames show the same thing
URGENT = 1.5  # half overdue; tracks that are merely due wait for others, as a batch is cheaper
LOOK = 12  # pixels per side of the small grey picture that shows whether a track encode_counts different


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """When a track is encoded again, and how slowly its label changes.

    Raises:
        ConfigError: a value is out of range.
    """

    refresh_s: float = 5.0
    """Seconds until a settled track is encoded again, half as long again if no other is due; the
    wait then doubles, up to four times this."""
    settle: int = 2
    """First encodings, in quick succession: a label needs more than one look."""
    grown: float = 3.0
    """Ratio of its area to the largest one encoded so far at which a track is encoded again."""
    changed: float = 0.45
    """Mean difference of its small grey picture, 0 to 1, at which a track is encoded again."""
    budget: int = 16
    """Regions encoded per frame at most; the most overdue go first."""
    momentum: float = 0.8
    """Weight of the running average against a new feature, once enough of them are in it."""
    hysteresis: float = 0.15
    """Lead in probability that another class needs before the label changes to it."""
    patience: int = 3
    """Encodings in a row in which it must have that lead."""
    forget_s: float = 3.0
    """Seconds without being seen after which a track is forgotten."""
    max_tracks: int = 2000
    """Tracks remembered; those unseen the longest are forgotten first."""

    def __post_init__(self) -> None:
        low = {"refresh_s": 0, "settle": 1, "grown": 1, "changed": 0, "budget": 1, "momentum": 0,
               "hysteresis": 0, "patience": 1, "forget_s": 0, "max_tracks": 1}  # fmt: skip
        for key, least in low.items():
            if getattr(self, key) < least:
                raise ConfigError(f"{key} is {getattr(self, key)}; use {least} or more.")
        if self.momentum >= 1:
            raise ConfigError(f"momentum is {self.momentum}; use less than 1.")


@dataclass(slots=True)
class _Track:
    features: NDArray[np.float32] | None = None
    encoded: int = 0
    encoded_s: float = 0.0
    area: float = 0.0
    look: NDArray[np.float32] = field(default_factory=lambda: np.zeros((LOOK, LOOK), np.float32))
    """The small grey picture of the track in the last frame."""
    encoded_look: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((LOOK, LOOK), np.float32)
    )
    seen_s: float = 0.0
    objectness: float = 0.0
    label: int = -1
    rival: int = -1
    """The class that leads at present, if it is not the label."""
    lead: int = 0
    """Encodings in a row in which the rival has led."""
    last_decided_at: int = 0
    """Number of encodings when the label was last last_decided_at."""


class TrackMemory:
    """Features and labels of the tracks of one source."""

    def __init__(self, settings: MemorySettings | None = None) -> None:
        self._settings = settings or MemorySettings()
        self._tracks: dict[int, _Track] = {}

    def __len__(self) -> int:
        return len(self._tracks)

    def due(
        self, image: Image, found: Proposals, ids: NDArray[np.intp], time_s: float
    ) -> NDArray[np.intp]:
        """Note N boxes of tracks `(N,)`; return rows to encode, most overdue first, in budget."""
        self._forget(time_s)
        overdue, encode_counts = np.zeros(len(found)), _looks(image, found.xyxy)
        for row in np.flatnonzero(ids >= 0):
            track = self._tracks.setdefault(int(ids[row]), _Track())
            track.seen_s = time_s
            sure = float(found.objectness[row])
            steady = self._settings.momentum if track.objectness else 0.0
            track.objectness = steady * track.objectness + (1 - steady) * sure
            track.look = encode_counts[row]
            overdue[row] = self._overdue(track, found.xyxy[row], time_s)
        if not (overdue >= URGENT).any():
            return np.empty(0, np.intp)
        rows = np.flatnonzero(overdue >= 1)
        order = np.argsort(-overdue[rows], kind="stable")
        return rows[order][: self._settings.budget]

    def update(
        self, boxes: Boxes, ids: NDArray[np.intp], features: Features, time_s: float
    ) -> None:
        """Average new features `(M, D)` of boxes `(M, 4)` into those of their tracks `(M,)`."""
        for box, track_id, row in zip(boxes, ids.tolist(), features, strict=True):
            track = self._tracks[track_id]
            keep = min(self._settings.momentum, track.encoded / (track.encoded + 1))
            mixed = row if track.features is None else keep * track.features + (1 - keep) * row
            track.features = (mixed / max(float(np.linalg.norm(mixed)), 1e-12)).astype(np.float32)
            track.encoded += 1
            track.area = max(track.area, _area(box))
            track.encoded_s, track.encoded_look = time_s, track.look

    def encode_counts(self, ids: NDArray[np.intp]) -> NDArray[np.intp]:
        """How often each of the tracks `(M,)`, which must have been seen, has been encoded."""
        return np.array([self._tracks[each].encoded for each in ids.tolist()], np.intp)

    def features(self, ids: NDArray[np.intp]) -> tuple[NDArray[np.bool_], Features]:
        """Which boxes `(N,)` belong to a track that was encoded, and the averages of those."""
        rows = [
            self._tracks[each].features if each in self._tracks else None for each in ids.tolist()
        ]
        known = np.array([row is not None for row in rows], np.bool_)
        return known, np.array([row for row in rows if row is not None], np.float32)

    def objectness(self, ids: NDArray[np.intp]) -> NDArray[np.float32]:
        """Running averages `(M,)` of tracks, so a box does not flicker when one frame is unsure."""
        return np.array([self._tracks[each].objectness for each in ids.tolist()], np.float32)

    def labels(self, ids: NDArray[np.intp], rank_logits: NDArray[np.float64]) -> NDArray[np.intp]:
        """Stable labels `(M,)` of tracks that were encoded, from their rank logits `(M, K)`."""
        probabilities = sigmoid(rank_logits)
        return np.array(
            [
                self._label(self._tracks[each], row)
                for each, row in zip(ids.tolist(), probabilities, strict=True)
            ],
            np.intp,
        )

    def relabel(self) -> None:
        """Forget the labels, not the features, because the classes have changed."""
        for track in self._tracks.values():
            track.label = track.rival = -1
            track.lead = 0

    def _label(self, track: _Track, probabilities: NDArray[np.float32]) -> int:
        best = int(probabilities.argmax())
        fresh, track.last_decided_at = track.encoded > track.last_decided_at, track.encoded
        if track.label < 0 or (fresh and track.encoded <= self._settings.settle):
            track.label, track.rival, track.lead = best, -1, 0
        elif not fresh:
            return track.label
        elif probabilities[best] - probabilities[track.label] < self._settings.hysteresis:
            track.rival, track.lead = -1, 0
        else:
            track.lead = track.lead + 1 if best == track.rival else 1
            track.rival = best
            if track.lead >= self._settings.patience:
                track.label, track.rival, track.lead = best, -1, 0
        return track.label

    def _overdue(self, track: _Track, box: NDArray[np.float32], time_s: float) -> float:
        """How overdue a track is: 1 or more means due, and the largest is encoded first."""
        if track.features is None:
            return np.inf
        settings, ratio = self._settings, _area(box) / track.area
        doublings = track.encoded - settings.settle
        unsure = doublings < 0 or track.lead
        wait_s = SETTLE_S if unsure else settings.refresh_s * 2 ** min(doublings, 2)
        age = (time_s - track.encoded_s) / max(wait_s, 1e-9)
        look = float(np.abs(track.look - track.encoded_look).mean()) / max(settings.changed, 1e-9)
        return max(URGENT * ratio / settings.grown, age, URGENT * look)

    def _forget(self, time_s: float) -> None:
        dead = [
            each
            for each, track in self._tracks.items()
            if not 0 <= time_s - track.seen_s <= self._settings.forget_s
        ]
        if len(self._tracks) - len(dead) > self._settings.max_tracks:
            alive = sorted(self._tracks, key=lambda each: self._tracks[each].seen_s)
            dead += alive[: len(self._tracks) - self._settings.max_tracks]
        for each in dead:
            self._tracks.pop(each, None)


def _area(box: NDArray[np.float32]) -> float:
    return max(float((box[2] - box[0]) * (box[3] - box[1])), 1.0)


def _looks(image: Image, boxes: Boxes) -> NDArray[np.float32]:
    """Tiny grey pictures `(N, LOOK, LOOK)` of the regions, less their mean: light may change."""
    height, width = (max(side // 4, 1) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    steps = (np.arange(LOOK, dtype=np.float32) + 0.5) / LOOK
    first, sides = boxes[:, :2, None] / 4, (boxes[:, 2:, None] - boxes[:, :2, None]) / 4
    places = (first + sides * steps).astype(np.intp)  # (N, x and y, LOOK)
    columns, rows = places[:, 0].clip(0, width - 1), places[:, 1].clip(0, height - 1)
    encode_counts = grey[rows[:, :, None], columns[:, None, :]]
    return encode_counts - encode_counts.mean(axis=(1, 2), keepdims=True)
