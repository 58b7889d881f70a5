"""Where frames come from: a thread a source reads ahead; a live source keeps the newest only."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from openvocab.errors import SourceError
from openvocab.protocols import Frame, Image
from openvocab.stream.capture import FPS, Capture, is_address, open_capture, shown_name
from openvocab.stream.events import Event, Report, ignore

__all__ = ["Sources"]

AHEAD = 4  # frames that are read before they are asked for, of a film
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_S = 10.0  # of pictures, after which the pauses begin small again
WAIT_S = 0.5
JOIN_S = 3.0  # readers that hang in their driver are left behind after this


class Sources:
    """One film or camera, or several at once; iterate once.

    A film or folder gives every frame and then ends. A live source (camera, stream) gives its
    newest frame, counts those it dropped, and is opened again with growing pauses when it is lost.
    Each has a thread of its own: a dead camera does not slow another.
    """

    def __init__(
        self,
        where: str | int | Path | Sequence[str | int | Path],
        *,
        report: Report = ignore,
        loop: bool = False,
        patient: bool = False,
    ) -> None:
        """Open them.

        Args:
            where: a film, a picture, a folder or glob of pictures, the number of a camera, an
                `rtsp://` or `http://` address; or several of these.
            report: told when a source is lost and back, from its thread.
            loop: start a film or folder again when it ends.
            patient: a camera or an address that cannot be opened is tried again and again; of
                several, it always is.

        Raises:
            SourceError: it cannot be opened.
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
        """What `Frame.source` says of each, in order, without passwords."""
        return [reader.source for reader in self._readers]

    @property
    def fps(self) -> float:
        """Frames a second of the first source."""
        return self._readers[0].fps

    @property
    def dropped(self) -> int:
        """Frames of live sources that nobody took in time."""
        return sum(reader.dropped for reader in self._readers)

    def __iter__(self) -> Iterator[Frame]:
        """Frames, each source in turn; ends when all have ended.

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
                    self._ready.wait(WAIT_S)  # with an end: else Ctrl-C waits, too, on Windows
                if reader is None:
                    break
                frame = reader.take()
                turn = (self._readers.index(reader) + 1) % len(self._readers)
            yield frame
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error

    def close(self) -> None:
        """End the iteration, the threads and what they hold open."""
        for reader in self._readers:
            reader.stop()
        deadline = time.monotonic() + JOIN_S
        for reader in self._readers:
            if reader.is_alive() and reader is not threading.current_thread():
                reader.join(max(0.0, deadline - time.monotonic()))


def _distinct(names: Sequence[str]) -> list[str]:
    """Two cameras of one recorder may differ in what is not shown.

    >>> _distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    earlier = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, earlier, strict=True)]


class _Reader(threading.Thread):
    """Reads one source into a few places for frames."""

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
        """Open it in the caller's thread, unless it may be away."""
        if not self._patient:
            self._open()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._over or self._closed.is_set()

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        return bool(self._frames)

    def take(self) -> Frame:
        """The oldest frame kept; with the lock held."""
        frame = self._frames.popleft()
        self._ready.notify_all()
        return frame

    def stop(self) -> None:
        """Read no more, and give nothing more."""
        self._closed.set()
        with self._ready:
            self._frames.clear()
            self._ready.notify_all()

    def run(self) -> None:
        """Until the source ends or is stopped."""
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
        """Whether what is away now is waited for."""
        return self._live or (self._patient and not self._opened)

    @property
    def _now_s(self) -> float:
        """The time of day that never steps back: that would shuffle a live stream.

        A machine without a clock of its own learns the time some while after its start.
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
        """Frames until the end of what is open."""
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
                if min(image.shape[:2]) > 1:  # no film can be written of less
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
        """Say once that it is lost; a pause with jitter, each longer than the last."""
        if self._lost_s is None:
            self._lost_s = time.monotonic()
            self._report(Event("source lost", self._now_s, self.source, {"reason": lost}))
        self._closed.wait(self._pause * random.uniform(0.5, 1.5))  # noqa: S311  no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
