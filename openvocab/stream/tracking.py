"""Follows boxes from frame to frame: class-agnostic, by objectness."""

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
# The library's defaults (0.6 and 0.7) suit detectors that are surer than an open-vocabulary one:
# with them, no track would start.
START, HIGH = 0.3, 0.25
FLOOR = 0.05  # objectness from which a box may continue a track
SAME = 0.65  # overlap above which two boxes are one thing, whatever the detector calls them
BUFFER_S = 1.0  # for which a track is kept without being seen


class Tracker:
    """Numbers the boxes of one source; by default, ByteTrack (Zhang et al., ECCV 2022)."""

    def __init__(self, name: str = "bytetrack", fps: float = 25.0) -> None:
        """Start with no tracks.

        Args:
            name: one of `TRACKERS`.
            fps: frames per second that it will see.

        Raises:
            ConfigError: there is no such tracker.
        """
        if name not in TRACKERS:
            raise ConfigError(f"Unknown tracker {name!r}; use one of {', '.join(TRACKERS)}.")
        # The buffer is counted in frames at 30 per second, whatever fps is.
        options = {"lost_track_buffer": round(30 * BUFFER_S), "frame_rate": fps}
        if name != "ocsort":
            options["track_activation_threshold"] = START
        if name != "sort":
            options["high_conf_det_threshold"] = HIGH
        self._tracker = TRACKERS[name](**options)

    def update(self, found: Proposals, time_s: float) -> NDArray[np.intp]:
        """Return the track `(N,)` of each box, -1 if it has none (yet). Time must not go back."""
        rows = np.flatnonzero(found.objectness >= FLOOR)
        scored = np.column_stack([found.xyxy[rows], found.objectness[rows]])
        rows = rows[sv.box_non_max_suppression(scored, SAME)]
        boxes = sv.Detections(
            found.xyxy[rows], confidence=found.objectness[rows], data={"row": rows}
        )
        tracked = self._tracker.update(boxes, timestamp=time_s)
        ids = np.full(len(found), -1, np.intp)
        if len(tracked):
            ids[tracked.data["row"]] = tracked.tracker_id
        return ids
