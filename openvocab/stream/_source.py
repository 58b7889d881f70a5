"""Frames of several sources: one thread each reads ahead; live sources keep the newest only."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from openvocab.errors import SourceError
from openvocab.stream._capture import Capture, is_address, open_capture, redact
from openvocab.stream._events import Event, EventCallback, ignore_event
from openvocab.types import Frame, Image

READ_AHEAD = 4  # frames of a video
MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # between attempts to open a lost source
STABLE_S = 10.0  # of frames without a break, after which pauses start short again
POLL_S = 0.5
JOIN_TIMEOUT_S = 3.0  # readers that hang in their driver are abandoned after this


class VideoSources:
    """One video or camera, or several at once; can be iterated once.

    A video or folder gives every frame and then ends. A live source (camera, stream) gives its
    newest frame, counts those it drops and, when lost, is opened again after growing pauses. Each
    source has its own thread, so a dead camera does not slow down the others.
    """

    def __init__(
        self,
        sources: str | int | Path | Sequence[str | int | Path],
        *,
        on_event: EventCallback = ignore_event,
        loop: bool = False,
        retry_open: bool = False,
    ) -> None:
        """Open the sources.

        Args:
            sources: a video, an image, a folder or glob of images, the number of a camera, an
                `rtsp://` or `http://` address; or a list of these.
            on_event: called in the source's thread when it is lost, and when it is back.
            loop: start a video or folder again when it ends.
            retry_open: keep trying a camera or address that cannot be opened; with several sources,
                this is always the case.

        Raises:
            SourceError: a source cannot be opened.
        """
        listed = [sources] if isinstance(sources, str | int | Path) else list(sources)
        if not listed:
            raise SourceError("No sources; give a video or a camera.")
        self._changed = threading.Condition()
        retry_open = retry_open or len(listed) > 1
        names = _distinct([redact(str(source)) for source in listed])
        self._readers = [
            _Reader(
                str(source), name, self._changed, on_event, loop=loop,
                retry_open=retry_open and is_address(source),
            )
            for source, name in zip(listed, names, strict=True)
        ]  # fmt: skip
        try:
            for reader in self._readers:
                if not reader.retry_open:
                    reader.open()
        except SourceError:
            self.close()
            raise
        for reader in self._readers:
            reader.start()

    @property
    def names(self) -> list[str]:
        """The `Frame.source` of each source, in order, without passwords."""
        return [reader.source for reader in self._readers]

    @property
    def dropped(self) -> int:
        """Number of frames of live sources that were not taken in time."""
        return sum(reader.dropped for reader in self._readers)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames, taking sources in turn, until all have ended.

        Raises:
            SourceError: a video could not be read to its end.
        """
        in_turn = list(self._readers)
        while True:
            with self._changed:
                while not (ready := [reader for reader in in_turn if reader.frames]):
                    if all(reader.ended for reader in in_turn):
                        break
                    self._changed.wait(POLL_S)  # limited: else Ctrl-C would wait, too, on Windows
                if not ready:
                    break
                frame = ready[0].frames.popleft()
                self._changed.notify_all()
            in_turn.remove(ready[0])
            in_turn.append(ready[0])
            yield frame
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error

    def close(self) -> None:
        """End the iteration and the threads, and close what they hold open."""
        for reader in self._readers:
            reader.stop()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for reader in self._readers:
            if reader.is_alive() and reader is not threading.current_thread():
                reader.join(max(0.0, deadline - time.monotonic()))


def _distinct(names: Sequence[str]) -> list[str]:
    """Number equal names: two cameras of one recorder may differ only in what is redacted.

    >>> _distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, earlier, strict=True)]


class _Reader(threading.Thread):
    """Reads one source into a short queue of frames."""

    def __init__(
        self,
        address: str,
        name: str,
        changed: threading.Condition,
        on_event: EventCallback,
        *,
        loop: bool,
        retry_open: bool,
    ) -> None:
        super().__init__(name=f"openvocab source {name}", daemon=True)
        self._address, self.source = address, name
        self._changed, self._on_event = changed, on_event
        self._loop, self.retry_open = loop, retry_open
        self._stop_requested = threading.Event()
        self._capture: Capture | None = None
        self._live, self._opened, self._finished = False, False, False
        self._index, self._next_s = 0, 0.0
        self._pause_s = MIN_PAUSE_S
        self._lost_s: float | None = None
        self._clock_offset_s = time.time() - time.monotonic()
        self.frames: deque[Frame] = deque()
        """Frames to take; guarded by `changed`."""
        self.dropped = 0
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether there will be no more frames."""
        return self._finished or self._stop_requested.is_set()

    def stop(self) -> None:
        """Stop reading, and discard the frames."""
        self._stop_requested.set()
        with self._changed:
            self.frames.clear()
            self._changed.notify_all()

    def run(self) -> None:
        """Read until the source ends or is stopped."""
        try:
            while not self._stop_requested.is_set():
                try:
                    self._read(self._capture or self.open())
                    if not (self._loop or self._live):
                        break
                    reason = f"{self.source} ended."
                except Exception as error:
                    if not self._reopens:
                        raise
                    reason = str(error)
                if self._reopens and not self._stop_requested.is_set():
                    self._pause(reason)
        except Exception as error:  # noqa: BLE001  raised again by whoever iterates
            self.error = error
        finally:
            self._release()
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    @property
    def _reopens(self) -> bool:
        """Whether to wait for a source that is unavailable."""
        return self._live or (self.retry_open and not self._opened)

    @property
    def _now_s(self) -> float:
        """The time of day, but never stepping back, which would put frames out of order.

        A machine without a hardware clock learns the time only some while after it starts.
        """
        self._clock_offset_s = max(self._clock_offset_s, time.time() - time.monotonic())
        return self._clock_offset_s + time.monotonic()

    def open(self) -> Capture:
        """Open the source; in the caller's thread, so that an error is raised there."""
        self._capture = capture = open_capture(self._address)
        self._opened = True
        self._live = self._live or capture.live  # once live, always: a proxy may send a clip
        return capture

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def _read(self, capture: Capture) -> None:
        """Read frames until the capture ends."""
        start_s, opened_s = self._next_s, time.monotonic()
        try:
            for count, (time_s, image) in enumerate(capture.frames()):
                if self._stop_requested.is_set():
                    return
                self._report_back()
                if time.monotonic() - opened_s > STABLE_S:
                    self._pause_s = MIN_PAUSE_S
                video_s = start_s + (count / capture.fps if time_s is None else time_s)
                self._next_s = video_s + 1 / capture.fps
                if min(image.shape[:2]) > 1:  # smaller frames cannot be written to a video
                    self._append(image, self._now_s if self._live else video_s, capture.fps)
        finally:
            self._release()

    def _append(self, image: Image, time_s: float, fps: float) -> None:
        with self._changed:
            if self._live and self.frames:
                self.frames.clear()
                self.dropped += 1
            while len(self.frames) >= READ_AHEAD and not self._stop_requested.is_set():
                self._changed.wait(POLL_S)
            if not self._stop_requested.is_set():
                self.frames.append(Frame(self._index, time_s, image, self.source, fps=fps))
                self._index += 1
                self._changed.notify_all()

    def _report_back(self) -> None:
        if self._lost_s is not None:
            away_s = round(time.monotonic() - self._lost_s, 3)
            self._lost_s = None
            self._on_event(Event("source back", self._now_s, self.source, {"away_s": away_s}))

    def _pause(self, reason: str) -> None:
        """Report a lost source once, then wait, each time longer and with jitter."""
        if self._lost_s is None:
            self._lost_s = time.monotonic()
            self._on_event(Event("source lost", self._now_s, self.source, {"reason": reason}))
        self._stop_requested.wait(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311  not a secret
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
