"""A thread that gives every frame to every sink, so the loop does not wait for the disk."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import supervision as sv

from openvocab.errors import SinkError
from openvocab.types import Frame, Sink

BEHIND = 8  # frames that may wait for the sinks; beyond that, the loop waits
FINISH_S = 30.0  # sinks that take longer to finish are left behind

SinkLike = Sink | Callable[[Frame, sv.Detections], None]


class Writer:
    """Gives every frame to every sink, in a thread; a sink's error is raised in the loop."""

    def __init__(self, takers: Sequence[SinkLike], frame_out: Callable[[float], None]) -> None:
        """Start with `with`; `frame_out` is called with the capture time of each written frame."""
        self._takers, self._frame_out = takers, frame_out
        self._waiting: queue.Queue[tuple[Frame, sv.Detections] | None] = queue.Queue(BEHIND)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="openvocab sinks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish waiting frames; raise a sink's error unless another one is being raised."""
        deadline = time.monotonic() + FINISH_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=0.2)
                self._thread.join(max(0.0, deadline - time.monotonic()))
        if error is not None:
            return
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise SinkError("What was found is not written yet and the disk hangs; check it.")

    def put(self, frame: Frame, detections: sv.Detections) -> None:
        """Hand over one frame; waits while the sinks are behind.

        Raises:
            Exception: an earlier error of a sink.
        """
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put((frame, detections), timeout=0.2)
                break
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                for taker in self._takers:
                    (taker.write if isinstance(taker, Sink) else taker)(*item)
                self._frame_out(item[0].captured_s)
        except Exception as error:  # noqa: BLE001  raised again in the loop
            self._error = error
        finally:
            for taker in self._takers:
                if isinstance(taker, Sink):
                    self._close(taker)

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except Exception as error:  # noqa: BLE001  one sink that fails must not keep another open
            self._error = self._error or error
