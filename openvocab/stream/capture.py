"""One open film, camera or folder of pictures: reads frames, or says why it cannot."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import cv2
import numpy as np

from openvocab.errors import ImageError, SourceError
from openvocab.io import images
from openvocab.types import Image

OPEN_S, READ_S = 10.0, 5.0  # time-outs; OpenCV's own would block for 30 s
DAMAGED = 50  # unreadable places in a row, after which a film counts as ended
FPS = 25.0  # for a source that does not state its rate
FASTEST = 240.0  # frames per second; a film that claims more states its time base, not its rate
# What a film refers to must be of the same kind: a file never leads to an address, or vice versa.
FILE_ONLY = {"protocol_whitelist": "file,crypto,data"}
NETWORK_ONLY = {"protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto"}
# An uploaded film must not refer to other files on this machine.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"<CompositionPlaylist", b"<AssetMap")
PASSWORD = re.compile(r"((?:pass(?:word|wd)?|psw|pwd|pw)=)[^/&;]*", re.IGNORECASE)
SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")


class Capture(Protocol):
    """Frames of one source, from opening it until it ends or is lost."""

    fps: float
    live: bool
    """Whether frames keep coming even if nobody reads them."""

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        """Yield time in seconds from the start (None: unknown) and picture, until the source ends.

        Raises:
            SourceError: the source was lost.
        """
        ...

    def close(self) -> None:
        """Close whatever is open."""
        ...


def open_capture(where: str) -> Capture:
    """Open a camera by its number, an address, a film, or a folder or glob of pictures.

    Raises:
        SourceError: the source cannot be opened.
    """
    if where.isdecimal():
        return _Camera(int(where))
    if where.lower().startswith(SCHEMES):
        return _Film(where, NETWORK_ONLY)
    if "://" in where:
        raise SourceError(f"{shown_name(where)} has an unknown scheme; use {', '.join(SCHEMES)}.")
    if _is_film(where):
        return _Film(where, FILE_ONLY)
    try:
        return _Pictures([str(path) for path in images.find_images([where])])
    except ImageError as error:
        raise SourceError(f"{where} is no film, picture, folder or glob; check it.") from error


def refuse_missing(sources: Iterable[str]) -> None:
    """Check that films and pictures exist before anything is loaded; addresses are not checked.

    Raises:
        SourceError: there is no such file or folder.
    """
    for source in sources:
        if not (is_address(source) or "://" in source or Path(source).exists() or glob(source)):  # noqa: PTH207
            raise SourceError(f"There is no {source}; check the path.")


def is_still(where: str | int | Path) -> bool:
    """Whether the source is a set of separate pictures, not one changing scene."""
    return not is_address(where) and not _is_film(where)


def is_address(where: str | int | Path) -> bool:
    """Whether the source is a camera or a network stream, which may be away for a while."""
    return str(where).isdecimal() or str(where).lower().startswith(SCHEMES)


def _is_film(where: str | int | Path) -> bool:
    path = Path(str(where))
    return path.is_file() and path.suffix.lower() not in images.SUFFIXES


def shown_name(where: str) -> str:
    """The source without the parts of an address that are secret: user, password and query.

    Some recorders have the password in the path.

    >>> shown_name("rtsp://admin:s@cr/t@10.0.0.7/live?pwd=x")
    'rtsp://***@10.0.0.7/live?***'
    >>> shown_name("rtsp://10.0.0.7:554/user=admin_password=x_channel=1_stream=0.sdp")
    'rtsp://10.0.0.7:554/user=admin_password=***'
    """
    if "://" not in where:
        return where
    scheme, _, rest = where.partition("://")
    secret, at, rest = rest.rpartition("@")
    path, query, _ = rest.partition("?")
    path = PASSWORD.sub(r"\1***", path)
    return f"{scheme}://{'***@' if at else ''}{path}{'?***' if query or '?' in secret else ''}"


class _Film:
    """A film or network stream, read by FFmpeg (PyAV)."""

    def __init__(self, where: str, options: dict[str, str]) -> None:
        self._name = shown_name(where)
        local, rtsp = options is FILE_ONLY, where.lower().startswith("rtsp")
        if rtsp:
            options = options | {"rtsp_transport": "tcp", "allowed_media_types": "video"}
        # An absolute path: FFmpeg would take anything before a colon for a protocol.
        url = str(Path(where).absolute()) if local else where
        if local and _is_playlist(Path(where)):
            raise SourceError(f"{self._name} is a list of other files; name those.")
        try:
            self._container = av.open(url, options=options, timeout=(OPEN_S, READ_S))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._name} cannot be opened as a film ({_reason(error)}); check it."
            ) from None  # FFmpeg's error contains the password
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{self._name} holds no pictures; give a film.")
        self._stream = self._container.streams.video[0]
        width, height = self._stream.width or 0, self._stream.height or 0
        if width * height > images.MAX_PIXELS:
            self._container.close()
            raise SourceError(f"{self._name} is {width} x {height}; scale it down first.")
        self.live = not local and not self._container.duration
        # Frame threads hold frames back, which a live source cannot afford.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.fps = rate if 0 < rate <= FASTEST else FPS

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        shown, first = False, None
        last = time.monotonic()
        for packet in self._packets():
            for picture in self._decoded(packet):
                last = time.monotonic()
                turned = np.rot90(picture.to_ndarray(format="bgr24"), picture.rotation // 90)
                first = picture.time if first is None else first
                known = picture.time is not None and first is not None
                yield picture.time - first if known else None, np.ascontiguousarray(turned)
                shown = True
            if self.live and time.monotonic() - last > READ_S:
                raise SourceError(f"{self._name} sends no picture; check the source.")
        if not shown:
            raise SourceError(f"{self._name} has no picture that can be decoded; check it.")

    def _packets(self) -> Iterator[Any]:
        """Packets of the film; damaged places are skipped, and many in a row end it."""
        damaged = 0
        while damaged < DAMAGED:
            try:
                for packet in self._container.demux(self._stream):
                    damaged = 0
                    yield packet
            except av.error.InvalidDataError:
                damaged += 1
            except (av.error.FFmpegError, OSError) as error:
                raise SourceError(
                    f"{self._name} was lost ({_reason(error)}); check the source."
                ) from None
            else:
                return

    @staticmethod
    def _decoded(packet: Any) -> Any:  # noqa: ANN401
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            return ()  # the next whole picture continues

    def close(self) -> None:
        self._container.close()


class _Camera:
    """A camera on this machine, by its number."""

    live = True

    def __init__(self, index: int) -> None:
        self._name = f"camera {index}"
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:  # every backend that OpenCV tries complains separately
            self._device = cv2.VideoCapture(index)
        finally:
            cv2.utils.logging.setLogLevel(before)
        if not self._device.isOpened():
            self._device.release()
            raise SourceError(f"There is no {self._name}; check its number, plug and permissions.")
        self._device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._device.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate <= FASTEST else FPS

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        while True:
            done, picture = self._device.read()
            if not done:
                raise SourceError(f"{self._name} gives no picture; check its plug.")
            yield None, np.asarray(picture, np.uint8)

    def close(self) -> None:
        self._device.release()


class _Pictures:
    """Image files, one per second; those that cannot be read are reported at the end."""

    live, fps = False, 1.0

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        errors = []
        for index, path in enumerate(self._paths):
            try:
                yield float(index), images.load_image(path)
            except ImageError as error:
                errors.append(error)
        if errors:
            raise SourceError(
                f"{len(errors)} of {len(self._paths)} pictures could not be read: {errors[0]}"
            )

    def close(self) -> None:
        """Nothing stays open."""


def _is_playlist(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False  # FFmpeg will say what is wrong with it
    return any(mark in head for mark in PLAYLISTS)


def _reason(error: Any) -> str:  # noqa: ANN401  FFmpeg's errors carry strerror, others do not
    if isinstance(error, av.error.ExitError):  # FFmpeg's name for a time-out
        return "nothing came in time"
    return str(getattr(error, "strerror", None) or error)
