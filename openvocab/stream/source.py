"""Where frames come from: one thread per source reads ahead; live sources keep the newest only."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from openvocab.errors import SourceError
from openvocab.stream.capture import FPS, Capture, is_address, open_capture, shown_name
from openvocab.stream.events import Event, Report, ignore
from openvocab.types import Frame, Image

AHEAD = 4  # frames of a film that are read before they are needed
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_S = 10.0  # of unbroken pictures, after which pauses start short again
WAIT_S = 0.5
JOIN_S = 3.0  # readers that hang in their driver are left behind after this


class VideoSources:
    """One film or camera, or several at once; can be iterated once.

    A film or folder gives every frame and then ends. A live source (camera, stream) gives its
    newest frame, counts those it drops and, when lost, is opened again after growing pauses. Each
    source has its own thread, so a dead camera does not slow down the others.
    """

    def __init__(
        self,
        where: str | int | Path | Sequence[str | int | Path],
        *,
        report: Report = ignore,
        loop: bool = False,
        patient: bool = False,
    ) -> None:
        """Open the sources.

        Args:
            where: a film, a picture, a folder or glob of pictures, the number of a camera, an
                `rtsp://` or `http://` address; or a list of these.
            report: called in the source's thread when it is lost, and when it is back.
            loop: start a film or folder again when it ends.
            patient: keep trying a camera or address that cannot be opened; with several sources,
                this is always so.

        Raises:
            SourceError: a source cannot be opened.
        """
        names = [where] if isinstance(where, str | int | Path) else list(where)
        if not names:
            raise SourceError("No source was given; name a film or a camera.")
        self._ready = threading.Condition()
        patient = patient or len(names) > 1
        shown = _distinct([shown_name(str(name)) for name in names])
        self._readers = [
            _Reader(
                str(name), label, self._ready, report, loop=loop,
                patient=patient and is_address(name),
            )
            for name, label in zip(names, shown, strict=True)
        ]  # fmt: skip
        try:
            for reader in self._readers:
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
    def fps(self) -> float:
        """Frames per second of the first source."""
        return self._readers[0].fps

    @property
    def dropped(self) -> int:
        """Number of frames of live sources that were not taken in time."""
        return sum(reader.dropped for reader in self._readers)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames, taking sources in turn, until all have ended.

        Raises:
            SourceError: a film could not be read to its end.
        """
        turn = 0
        while True:
            with self._ready:
                while True:
                    order = self._readers[turn:] + self._readers[:turn]
                    reader = next((each for each in order if each.waiting), None)
                    if reader is not None or all(each.ended for each in order):
                        break
                    self._ready.wait(WAIT_S)  # limited: else Ctrl-C would wait, too, on Windows
                if reader is None:
                    break
                frame = reader.take()
                turn = (self._readers.index(reader) + 1) % len(self._readers)
            yield frame
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error

    def close(self) -> None:
        """End the iteration and the threads, and close what they hold open."""
        for reader in self._readers:
            reader.stop()
        deadline = time.monotonic() + JOIN_S
        for reader in self._readers:
            if reader.is_alive() and reader is not threading.current_thread():
                reader.join(max(0.0, deadline - time.monotonic()))


def _distinct(names: Sequence[str]) -> list[str]:
    """Number equal names: two cameras of one recorder may differ only in what is hidden.

    >>> _distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    earlier = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, earlier, strict=True)]


class _Reader(threading.Thread):
    """Reads one source into a short queue of frames."""

    def __init__(
        self,
        where: str,
        shown: str,
        ready: threading.Condition,
        report: Report,
        *,
        loop: bool,
        patient: bool,
    ) -> None:
        super().__init__(name=f"openvocab source {shown}", daemon=True)
        self._where, self.source = where, shown
        self._ready, self._report = ready, report
        self._loop, self._patient = loop, patient
        self._frames: deque[Frame] = deque()
        self._closed = threading.Event()
        self._capture: Capture | None = None
        self._live, self._opened = False, False
        self._index, self._next_s = 0, 0.0
        self._pause = FIRST_PAUSE_S
        self._lost_s: float | None = None
        self._day_s = time.time() - time.monotonic()
        self._over = False
        self.fps = FPS
        self.dropped = 0
        self.error: Exception | None = None

    def open(self) -> None:
        """Open the source in the caller's thread, unless it may be away."""
        if not self._patient:
            self._open()

    @property
    def ended(self) -> bool:
        """Whether there will be no more frames."""
        return self._over or self._closed.is_set()

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        return bool(self._frames)

    def take(self) -> Frame:
        """Take the oldest waiting frame; the lock must be held."""
        frame = self._frames.popleft()
        self._ready.notify_all()
        return frame

    def stop(self) -> None:
        """Stop reading, and give no more frames."""
        self._closed.set()
        with self._ready:
            self._frames.clear()
            self._ready.notify_all()

    def run(self) -> None:
        """Read until the source ends or is stopped."""
        try:
            while not self._closed.is_set():
                try:
                    self._read(self._capture or self._open())
                    if not (self._loop or self._live):
                        break
                    lost = f"{self.source} ended."
                except Exception as error:
                    if not self._may_come:
                        raise
                    lost = str(error)
                if self._may_come and not self._closed.is_set():
                    self._wait(lost)
        except Exception as error:  # noqa: BLE001  raised again by whoever iterates
            self.error = error
        finally:
            self._free()
            with self._ready:
                self._over = True
                self._ready.notify_all()

    @property
    def _may_come(self) -> bool:
        """Whether to wait for a source that is away."""
        return self._live or (self._patient and not self._opened)

    @property
    def _now_s(self) -> float:
        """The time of day, but never stepping back, which would put frames out of order.

        A machine without a hardware clock learns the time only some while after it starts.
        """
        self._day_s = max(self._day_s, time.time() - time.monotonic())
        return self._day_s + time.monotonic()

    def _open(self) -> Capture:
        self._capture = capture = open_capture(self._where)
        self.fps, self._opened = capture.fps, True
        self._live = self._live or capture.live  # once live, always: a proxy may send a clip
        return capture

    def _free(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def _read(self, capture: Capture) -> None:
        """Read frames until what is open ends."""
        begun, opened = self._next_s, time.monotonic()
        try:
            for count, (time_s, image) in enumerate(capture.frames()):
                if self._closed.is_set():
                    return
                self._is_back()
                if time.monotonic() - opened > STEADY_S:
                    self._pause = FIRST_PAUSE_S
                in_film = begun + (count / capture.fps if time_s is None else time_s)
                self._next_s = in_film + 1 / capture.fps
                if min(image.shape[:2]) > 1:  # smaller frames cannot be written to a film
                    self._keep(image, self._now_s if self._live else in_film)
        finally:
            self._free()

    def _keep(self, image: Image, time_s: float) -> None:
        with self._ready:
            if self._live and self._frames:
                self._frames.clear()
                self.dropped += 1
            while len(self._frames) >= AHEAD and not self._closed.is_set():
                self._ready.wait(WAIT_S)
            if not self._closed.is_set():
                self._frames.append(Frame(self._index, time_s, image, self.source))
                self._index += 1
                self._ready.notify_all()

    def _is_back(self) -> None:
        if self._lost_s is not None:
            away = round(time.monotonic() - self._lost_s, 3)
            self._lost_s = None
            self._report(Event("source back", self._now_s, self.source, {"away_s": away}))

    def _wait(self, lost: str) -> None:
        """Report a lost source once, then pause, each time longer and with jitter."""
        if self._lost_s is None:
            self._lost_s = time.monotonic()
            self._report(Event("source lost", self._now_s, self.source, {"reason": lost}))
        self._closed.wait(self._pause * random.uniform(0.5, 1.5))  # noqa: S311  no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
