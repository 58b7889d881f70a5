"""Metrics of a stream: frames, speed, latency, and how much the track memory saves."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psutil

from openvocab.errors import SinkError

WINDOW = 300  # frames over which speed and latency are measured
INTERVAL_S = 10.0


class Metrics:
    """Metrics of one run; written by its loop, readable from any thread."""

    def __init__(self) -> None:
        self.frames = 0
        self.regions_seen = 0
        self.regions_encoded = 0
        self.tracks = 0
        self._latencies_s: deque[float] = deque(maxlen=WINDOW)
        self._done_s: deque[float] = deque(maxlen=WINDOW)
        self._process = psutil.Process()

    def frame_done(self) -> None:
        """Count a processed frame."""
        self.frames += 1
        self._done_s.append(time.monotonic())

    def frame_written(self, captured_s: float) -> None:
        """Note that the last sink has a frame captured at `captured_s` (`time.monotonic`)."""
        self._latencies_s.append(time.monotonic() - captured_s)

    def snapshot(self, dropped: int = 0) -> dict[str, Any]:
        """All current metrics as plain numbers; latency in milliseconds, memory in MiB."""
        done_s, latencies_s = list(self._done_s), list(self._latencies_s)
        elapsed_s = done_s[-1] - done_s[0] if len(done_s) > 1 else 0.0
        p50, p95 = np.percentile(latencies_s, (50, 95)) if latencies_s else (0.0, 0.0)
        encoded = self.regions_encoded
        return {
            "frames": self.frames,
            "dropped": dropped,
            "fps": round((len(done_s) - 1) / elapsed_s, 2) if elapsed_s else 0.0,
            "latency_ms_p50": round(1000 * float(p50), 1),
            "latency_ms_p95": round(1000 * float(p95), 1),
            "regions_encoded_per_frame": round(encoded / max(self.frames, 1), 3),
            "reused": round(1 - encoded / self.regions_seen, 4) if self.regions_seen else 0.0,
            "tracks": self.tracks,
            "memory_mib": round(self._process.memory_info().rss / 2**20, 1),
        }


@contextmanager
def periodic_metrics(
    snapshot: Callable[[], dict[str, Any]], write: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Write metrics every ten seconds, even while no frames come, and when the block has ended."""
    ended = threading.Event()

    def write_periodically() -> None:
        with suppress(SinkError):  # the block meets the same error at its next event
            while not ended.wait(INTERVAL_S):
                write(snapshot())

    thread = threading.Thread(target=write_periodically, name="openvocab metrics")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    write(snapshot())
