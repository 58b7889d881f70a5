"""Tracks boxes from frame to frame: class-agnostic, by objectness."""

import numpy as np
import supervision as sv
import trackers
from numpy.typing import NDArray

from openvocab.errors import ConfigError
from openvocab.types import Proposals

TRACKERS = {
    "bytetrack": trackers.ByteTrackTracker,
    "ocsort": trackers.OCSORTTracker,
    "sort": trackers.SORTTracker,
}
# The library's defaults (0.7 and 0.6) suit detectors with higher scores than class-agnostic
# objectness: with them, no track would start.
ACTIVATION_THRESHOLD, HIGH_CONFIDENCE = 0.3, 0.25
MIN_OBJECTNESS = 0.05  # of a box that may continue a track
DUPLICATE_IOU = (
    0.65  # above this, two boxes are one object, whatever labels the detector gives them
)
LOST_TRACK_S = 1.0  # time for which a track without a box is kept


class Tracker:
    """Assigns track ids to the boxes of one source; by default, ByteTrack (Zhang, ECCV 2022)."""

    def __init__(self, name: str = "bytetrack", fps: float = 25.0) -> None:
        """Start with no tracks.

        Args:
            name: one of `TRACKERS`.
            fps: rate of the frames that are tracked.

        Raises:
            ConfigError: there is no such tracker.
        """
        if name not in TRACKERS:
            raise ConfigError(f"Unknown tracker {name!r}; use one of {', '.join(TRACKERS)}.")
        # The buffer is in frames at 30 fps, whatever `frame_rate` is.
        options = {"lost_track_buffer": round(30 * LOST_TRACK_S), "frame_rate": fps}
        if name != "ocsort":
            options["track_activation_threshold"] = ACTIVATION_THRESHOLD
        if name != "sort":
            options["high_conf_det_threshold"] = HIGH_CONFIDENCE
        self._tracker = TRACKERS[name](**options)

    def update(self, proposals: Proposals, time_s: float) -> NDArray[np.intp]:
        """Return the track id `(N,)` of each box, -1 without a track. Times must not decrease."""
        rows = np.flatnonzero(proposals.objectness >= MIN_OBJECTNESS)
        scored = np.column_stack([proposals.xyxy[rows], proposals.objectness[rows]])
        rows = rows[sv.box_non_max_suppression(scored, DUPLICATE_IOU)]
        boxes = sv.Detections(
            proposals.xyxy[rows], confidence=proposals.objectness[rows], data={"row": rows}
        )
        tracked = self._tracker.update(boxes, timestamp=time_s)
        ids = np.full(len(proposals), -1, np.intp)
        if len(tracked):
            ids[tracked.data["row"]] = tracked.tracker_id
        return ids
