"""Memory of tracks: the running average of their features, and the label chosen from it."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ConfigError
from openvocab.scoring._log_odds import sigmoid
from openvocab.types import Boxes, Features, Image, Proposals

WARMUP_S = 0.3  # between the first encodings, because consecutive frames show the same view
BATCH_STALENESS = 1.5  # staleness that triggers a batch, which then takes every track from 1 up
THUMBNAIL = 12  # pixels per side of the grey thumbnail that tells whether a track looks different
MINIMUMS = {
    "refresh_s": 0, "warmup": 1, "growth": 1, "change": 0, "budget": 1, "momentum": 0,
    "hysteresis": 0, "patience": 1, "forget_s": 0, "max_tracks": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """How boxes are tracked, when a track is encoded again, and how slowly its label changes.

    Raises:
        ConfigError: a value is out of range.
    """

    tracker: str = "bytetrack"
    """`bytetrack`, `ocsort` or `sort`."""
    refresh_s: float = 5.0
    """Seconds until a track is encoded again, up to half as long again if no other is due; the
    interval then doubles, up to four times this."""
    warmup: int = 2
    """First encodings, in quick succession: a label needs more than one view."""
    growth: float = 3.0
    """Ratio of its area to the largest one encoded so far at which a track is encoded again."""
    change: float = 0.45
    """Mean difference of its grey thumbnail, 0 to 1, at which a track is encoded again."""
    budget: int = 16
    """Regions encoded per frame at most; the stalest go first."""
    momentum: float = 0.8
    """Weight of the running average against a new feature, once enough features are in it."""
    hysteresis: float = 0.15
    """Lead in probability that another class needs before the label changes to it."""
    patience: int = 3
    """Encodings in a row in which it must have that lead."""
    forget_s: float = 3.0
    """Seconds without a detection after which a track is forgotten."""
    max_tracks: int = 2000
    """Tracks in memory; those not detected for the longest are forgotten first."""

    def __post_init__(self) -> None:
        for key, minimum in MINIMUMS.items():
            if getattr(self, key) < minimum:
                raise ConfigError(f"{key} is {getattr(self, key)}; use {minimum} or more.")
        if self.momentum >= 1:
            raise ConfigError(f"momentum is {self.momentum}; use less than 1.")


@dataclass(slots=True)
class _Track:
    features: NDArray[np.float32] | None = None
    encodings: int = 0
    encoded_s: float = 0.0
    area: float = 0.0
    thumbnail: NDArray[np.float32] = field(init=False)
    """Grey thumbnail of the track in the last frame."""
    encoded_thumbnail: NDArray[np.float32] = field(init=False)
    """The thumbnail when the track was last encoded."""
    seen_s: float = 0.0
    objectness: float = 0.0
    label_confidence: float = 0.0
    label: int = -1
    rival: int = -1
    """The class that leads at present, if it is not the label."""
    lead: int = 0
    """Encodings in a row in which the rival has led."""
    last_decided_at: int = 0
    """Number of encodings when the label was last decided."""

    def reset_label(self, label: int = -1) -> None:
        """Start over with this label, and no rival."""
        self.label, self.rival, self.lead = label, -1, 0


class TrackMemory:
    """Features and labels of the tracks of one source."""

    def __init__(self, settings: TrackingSettings | None = None) -> None:
        self._settings = settings or TrackingSettings()
        self._tracks: dict[int, _Track] = {}

    def __len__(self) -> int:
        return len(self._tracks)

    def due(
        self, image: Image, proposals: Proposals, ids: NDArray[np.intp], time_s: float
    ) -> NDArray[np.intp]:
        """Record N boxes of tracks `(N,)`; return the rows to encode, stalest first, in budget."""
        self._forget(time_s)
        staleness = np.zeros(len(proposals))
        thumbnails = _thumbnails(image, proposals.xyxy)
        for row in np.flatnonzero(ids >= 0):
            track = self._tracks.setdefault(int(ids[row]), _Track())
            track.seen_s, track.thumbnail = time_s, thumbnails[row]
            rate = 1 - (self._settings.momentum if track.objectness else 0.0)
            objectness, confidence = proposals.objectness[row], proposals.label_confidence[row]
            track.objectness += rate * (float(objectness) - track.objectness)
            track.label_confidence += rate * (float(confidence) - track.label_confidence)
            staleness[row] = self._staleness(track, proposals.xyxy[row], time_s)
        if not (staleness >= BATCH_STALENESS).any():
            return np.empty(0, np.intp)
        rows = np.flatnonzero(staleness >= 1)
        order = np.argsort(-staleness[rows], kind="stable")
        return rows[order][: self._settings.budget]

    def update(
        self, boxes: Boxes, ids: NDArray[np.intp], features: Features, time_s: float
    ) -> None:
        """Average new features `(M, D)` of boxes `(M, 4)` into those of their tracks `(M,)`."""
        for box, track_id, feature in zip(boxes, ids.tolist(), features, strict=True):
            track = self._tracks[track_id]
            keep = min(self._settings.momentum, track.encodings / (track.encodings + 1))
            mean = (
                feature if track.features is None else keep * track.features + (1 - keep) * feature
            )
            track.features = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
            track.encodings += 1
            track.area = max(track.area, _area(box))
            track.encoded_s, track.encoded_thumbnail = time_s, track.thumbnail

    def features(self, ids: NDArray[np.intp]) -> tuple[NDArray[np.bool_], Features]:
        """Which boxes `(N,)` belong to a track that was encoded, and the averages of those."""
        tracks = [self._tracks.get(track_id) for track_id in ids.tolist()]
        rows = [None if track is None else track.features for track in tracks]
        encoded = np.array([row is not None for row in rows], np.bool_)
        return encoded, np.array([row for row in rows if row is not None], np.float32)

    def smooth(self, proposals: Proposals, ids: NDArray[np.intp]) -> Proposals:
        """M boxes with the running averages of the confidences of their tracks `(M,)`.

        So a box does not flicker when one frame is unsure.
        """
        tracks = [self._tracks[track_id] for track_id in ids.tolist()]
        return replace(
            proposals,
            objectness=np.array([track.objectness for track in tracks], np.float32),
            label_confidence=np.array([track.label_confidence for track in tracks], np.float32),
        )

    def labels(self, ids: NDArray[np.intp], rank_logits: NDArray[np.float64]) -> NDArray[np.intp]:
        """Steady labels `(M,)` of tracks that were encoded, from their rank logits `(M, K)`."""
        best = rank_logits.argmax(axis=1).tolist()
        probabilities = sigmoid(rank_logits)  # for the hysteresis; logits are unbounded
        tracks = [self._tracks[track_id] for track_id in ids.tolist()]
        return np.array(list(map(self._label, tracks, best, probabilities)), np.intp)

    def relabel(self) -> None:
        """Forget the labels, not the features, because the classes have changed."""
        for track in self._tracks.values():
            track.reset_label()

    def _label(self, track: _Track, best: int, probabilities: NDArray[np.float32]) -> int:
        encoded = track.encodings > track.last_decided_at
        track.last_decided_at = track.encodings
        if track.label < 0 or (encoded and track.encodings <= self._settings.warmup):
            track.reset_label(best)
        elif not encoded:
            return track.label
        elif probabilities[best] - probabilities[track.label] < self._settings.hysteresis:
            track.reset_label(track.label)
        else:
            track.lead = track.lead + 1 if best == track.rival else 1
            track.rival = best
            if track.lead >= self._settings.patience:
                track.reset_label(best)
        return track.label

    def _staleness(self, track: _Track, box: NDArray[np.float32], time_s: float) -> float:
        """1 or more means due; the stalest tracks are encoded first."""
        if track.features is None:
            return np.inf
        settings = self._settings
        doublings = track.encodings - settings.warmup
        unsettled = doublings < 0 or track.lead
        interval_s = WARMUP_S if unsettled else settings.refresh_s * 2 ** min(doublings, 2)
        age = (time_s - track.encoded_s) / max(interval_s, 1e-9)
        growth = _area(box) / track.area / settings.growth
        difference = float(np.abs(track.thumbnail - track.encoded_thumbnail).mean())
        change = difference / max(settings.change, 1e-9)
        return max(age, BATCH_STALENESS * growth, BATCH_STALENESS * change)

    def _forget(self, time_s: float) -> None:
        alive = {  # a time before that of the last frame starts over
            track_id: track
            for track_id, track in self._tracks.items()
            if 0 <= time_s - track.seen_s <= self._settings.forget_s
        }
        if len(alive) > self._settings.max_tracks:
            newest = sorted(alive, key=lambda track_id: alive[track_id].seen_s)
            alive = {key: alive[key] for key in newest[-self._settings.max_tracks :]}
        self._tracks = alive


def _area(box: NDArray[np.float32]) -> float:
    return max(float((box[2] - box[0]) * (box[3] - box[1])), 1.0)


def _thumbnails(image: Image, boxes: Boxes) -> NDArray[np.float32]:
    """Grey thumbnails `(N, THUMBNAIL, THUMBNAIL)` of boxes, less their mean: light may change."""
    height, width = (max(side // 4, 1) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    steps = (np.arange(THUMBNAIL, dtype=np.float32) + 0.5) / THUMBNAIL
    first, sides = boxes[:, :2, None] / 4, (boxes[:, 2:, None] - boxes[:, :2, None]) / 4
    pixels = (first + sides * steps).astype(np.intp)  # (N, x and y, THUMBNAIL)
    columns, rows = pixels[:, 0].clip(0, width - 1), pixels[:, 1].clip(0, height - 1)
    thumbnails = grey[rows[:, :, None], columns[:, None, :]]
    return thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
