"""How a stream is doing: frames, speed, latency, and how much the memory of tracks saves."""

import time
from collections import deque
from typing import Any

import numpy as np
import psutil

WINDOW = 300  # frames over which speed and latency are measured


class Metrics:
    """MetricsMiddleware of one run; written by its loop, readable from any thread."""

    def __init__(self) -> None:
        self.frames = 0
        self.regions_seen = 0
        self.regions_encoded = 0
        self.tracks = 0
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._ends: deque[float] = deque(maxlen=WINDOW)
        self._process = psutil.Process()

    def frame_done(self) -> None:
        """Count a processed frame."""
        self.frames += 1
        self._ends.append(time.monotonic())

    def frame_out(self, captured_s: float) -> None:
        """Note that the last sink has a frame captured at `captured_s` (`time.monotonic`)."""
        self._latencies.append(time.monotonic() - captured_s)

    def snapshot(self, dropped: int = 0) -> dict[str, Any]:
        """All current figures as plain numbers; latency in milliseconds, memory in MiB."""
        ends, waits = list(self._ends), list(self._latencies)
        spent = ends[-1] - ends[0] if len(ends) > 1 else 0.0
        p50, p95 = np.percentile(waits, (50, 95)) if waits else (0.0, 0.0)
        encoded = self.regions_encoded
        return {
            "frames": self.frames,
            "dropped": dropped,
            "fps": round((len(ends) - 1) / spent, 2) if spent else 0.0,
            "latency_ms_p50": round(1000 * float(p50), 1),
            "latency_ms_p95": round(1000 * float(p95), 1),
            "regions_encoded_per_frame": round(encoded / max(self.frames, 1), 3),
            "reused": round(1 - encoded / self.regions_seen, 4) if self.regions_seen else 0.0,
            "tracks": self.tracks,
            "memory_mib": round(self._process.memory_info().rss / 2**20, 1),
        }
