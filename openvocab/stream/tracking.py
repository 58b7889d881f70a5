"""Which box of this frame is which of the last: class-agnostic, on objectness."""

import numpy as np
import supervision as sv
import trackers
from numpy.typing import NDArray

from openvocab.errors import ConfigError
from openvocab.protocols import Proposals

__all__ = ["TRACKERS", "Tracker"]

TRACKERS = {
    "bytetrack": trackers.ByteTrackTracker,
    "ocsort": trackers.OCSORTTracker,
    "sort": trackers.SORTTracker,
}
# The library's own thresholds (0.6 and 0.7) are for detectors that are surer than an
# open-vocabulary one: they would start no track.
START, HIGH = 0.3, 0.25
FLOOR = 0.05  # objectness of boxes that may go on with a track
SAME = 0.65  # overlap of two boxes of one thing, whatever the detector calls them
BUFFER_S = 1.0  # that a track is kept without being seen


class Tracker:
    """Numbers the boxes of one source; ByteTrack (Zhang et al., ECCV 2022) unless told otherwise."""

    def __init__(self, name: str = "bytetrack", fps: float = 25.0) -> None:
        """Start with no track.

        Args:
            name: one of `TRACKERS`.
            fps: frames a second that it will see.

        Raises:
            ConfigError: there is no such tracker.
        """
        if name not in TRACKERS:
            raise ConfigError(f"Unknown tracker {name!r}; use one of {', '.join(TRACKERS)}.")
        # The buffer is in frames of 30 a second, whatever fps is.
        options = {"lost_track_buffer": round(30 * BUFFER_S), "frame_rate": fps}
        if name != "ocsort":
            options["track_activation_threshold"] = START
        if name != "sort":
            options["high_conf_det_threshold"] = HIGH
        self._tracker = TRACKERS[name](**options)

    def update(self, found: Proposals, time_s: float) -> NDArray[np.intp]:
        """Track `(N,)` of each box; -1 for a box of no track (yet). Time must not go back."""
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
