"""Where frames come from: a thread a source reads ahead; a live source keeps the newest only."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from openvocab.errors import SourceError
from openvocab.protocols import Frame, Image
from openvocab.stream.capture import Capture, open_capture, shown_name
from openvocab.stream.events import Event, Report, ignore

__all__ = ["Sources"]

AHEAD = 4  # frames that are read before they are asked for, of a film
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
JOIN_S = 3.0  # a reader that hangs in its driver is left behind after this


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
    ) -> None:
        """Open them.

        Args:
            where: a film, a picture, a folder or glob of pictures, the number of a camera, an
                `rtsp://` or `http://` address; or several of these.
            report: told when a source is lost and back, from its thread.
            loop: start a film or folder again when it ends.

        Raises:
            SourceError: it cannot be opened. Of several, one that cannot is tried again and again,
                and only the last to fail is an error.
        """
        names = [where] if isinstance(where, str | int | Path) else list(where)
        if not names:
            raise SourceError("No source was given; name a film or a camera.")
        self._ready = threading.Condition()
        self._report = report
        self._readers = [
            _Reader(str(name), self._ready, report, loop=loop, patient=len(names) > 1)
            for name in names
        ]
        for reader in self._readers:
            reader.start()

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
                    self._ready.wait()
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
        for reader in self._readers:
            reader.join(JOIN_S)


class _Reader(threading.Thread):
    """Reads one source into a few places for frames."""

    def __init__(
        self, where: str, ready: threading.Condition, report: Report, *, loop: bool, patient: bool
    ) -> None:
        super().__init__(name=f"openvocab source {shown_name(where)}", daemon=True)
        self._where, self.source = where, shown_name(where)
        self._ready, self._report, self._loop = ready, report, loop
        self._frames: deque[Frame] = deque()
        self._closed = threading.Event()
        self._index = 0
        self.ended = False
        self.dropped = 0
        self.error: Exception | None = None
        self._capture: Capture | None = None
        self._missing = SourceError(f"{self.source} was not there.")
        self._next_s = 0.0
        try:
            self._capture = open_capture(where)
        except SourceError as error:
            if not patient:
                raise
            self._missing = error
        self.fps = self._capture.fps if self._capture else 25.0

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
                lost = self._read()
                if lost is None and not self._loop:
                    break
                if lost is not None and not self._reopen(lost):
                    break
                if lost is None:
                    self._capture = open_capture(self._where)
        except Exception as error:  # noqa: BLE001  raised again by whoever iterates
            self.error = error
        finally:
            with self._ready:
                self.ended = True
                self._ready.notify_all()

    def _read(self) -> SourceError | None:
        """Frames until the end of the capture; the error of a live source that was lost."""
        capture = self._capture
        if capture is None:
            return self._missing
        try:
            begun = self._next_s
            for count, (time_s, image) in enumerate(capture.frames()):
                if self._closed.is_set():
                    return None
                in_film = begun + (count / capture.fps if time_s is None else time_s)
                self._next_s = in_film + 1 / capture.fps
                self._keep(image, time.time() if capture.live else in_film, live=capture.live)
        except SourceError as error:
            if not capture.live:
                raise
            return error
        finally:
            self._capture = None
            capture.close()
        return SourceError(f"{self.source} ended.") if capture.live else None

    def _keep(self, image: Image, time_s: float, *, live: bool) -> None:
        with self._ready:
            if live and self._frames:
                self._frames.clear()
                self.dropped += 1
            while len(self._frames) >= AHEAD and not self._closed.is_set():
                self._ready.wait()
            if not self._closed.is_set():
                self._frames.append(Frame(self._index, time_s, image, self.source))
                self._index += 1
                self._ready.notify_all()

    def _reopen(self, lost: SourceError) -> bool:
        """Try again with growing pauses, with jitter, until it is open or this is stopped."""
        self._report(Event("source lost", time.time(), self.source, {"reason": str(lost)}))
        pause, since = FIRST_PAUSE_S, time.monotonic()
        while not self._closed.wait(pause * random.uniform(0.5, 1.5)):  # noqa: S311  jitter is no secret
            try:
                self._capture = open_capture(self._where)
            except SourceError:
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            away = round(time.monotonic() - since, 3)
            self._report(Event("source back", time.time(), self.source, {"away_s": away}))
            return True
        return False
