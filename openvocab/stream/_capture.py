"""Opens one video, camera, network stream or set of images, and reads its frames."""

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

from openvocab.errors import ImageError, SourceError, os_reason
from openvocab.io import _images as images
from openvocab.types import Image

OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 5.0  # OpenCV's own would block for 30 s
MAX_DAMAGED = 50  # unreadable packets in a row, after which a video counts as ended
DEFAULT_FPS = 25.0  # of a source that does not state its rate
MAX_FPS = 240.0  # a video that claims more states its time base, not its rate
# What a video refers to must be of the same kind: a file never leads to an address, or vice versa.
FILE_ONLY = {"protocol_whitelist": "file,crypto,data"}
NETWORK_ONLY = {"protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto"}
# An uploaded video must not refer to other files on this machine.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"<CompositionPlaylist", b"<AssetMap")
PASSWORD = re.compile(r"((?:pass(?:word|wd)?|psw|pwd|pw)=)[^/&;]*", re.IGNORECASE)
SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")


class Capture(Protocol):
    """Frames of one source, from opening it until it ends or is lost."""

    fps: float
    live: bool
    """Whether frames keep coming even if nobody reads them."""

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        """Yield time in seconds from the start (None: unknown) and image, until the source ends.

        Raises:
            SourceError: the source was lost.
        """
        ...

    def close(self) -> None:
        """Close whatever is open."""
        ...


def open_capture(source: str) -> Capture:
    """Open a camera by its number, an address, a video, or a folder or glob of images.

    Raises:
        SourceError: the source cannot be opened.
    """
    if source.isdecimal():
        return _Camera(int(source))
    if is_address(source):
        return _Video(source, NETWORK_ONLY)
    if "://" in source:
        raise SourceError(f"{redact(source)} has an unknown scheme; use {', '.join(SCHEMES)}.")
    if _is_video(source):
        return _Video(source, FILE_ONLY)
    try:
        return _Images([str(path) for path in images.find_images([source])])
    except ImageError as error:
        raise SourceError(f"{source} is not a video, image, folder or glob; check it.") from error


def check_exist(sources: Iterable[str]) -> None:
    """Check that videos and images exist before anything is loaded; addresses are not checked.

    Raises:
        SourceError: there is no such file or folder.
    """
    for source in sources:
        if not (is_address(source) or "://" in source or Path(source).exists() or glob(source)):  # noqa: PTH207
            raise SourceError(f"There is no {source}; check the path.")


def is_still(source: str | int | Path) -> bool:
    """Whether the source is a set of separate images, not one changing scene."""
    return not is_address(source) and not _is_video(source)


def is_address(source: str | int | Path) -> bool:
    """Whether the source is a camera or a network stream, which may be unavailable for a while."""
    return str(source).isdecimal() or str(source).lower().startswith(SCHEMES)


def _is_video(source: str | int | Path) -> bool:
    path = Path(str(source))
    return path.is_file() and path.suffix.lower() not in images.SUFFIXES


def redact(source: str) -> str:
    """The source without the secret parts of an address: user, password and query.

    Some recorders have the password in the path.

    >>> redact("rtsp://admin:s@cr/t@10.0.0.7/live?pwd=x")
    'rtsp://***@10.0.0.7/live?***'
    >>> redact("rtsp://10.0.0.7:554/user=admin_password=x_channel=1_stream=0.sdp")
    'rtsp://10.0.0.7:554/user=admin_password=***'
    """
    if "://" not in source:
        return source
    scheme, _, rest = source.partition("://")
    secret, at, rest = rest.rpartition("@")
    path, query, _ = rest.partition("?")
    path = PASSWORD.sub(r"\1***", path)
    return f"{scheme}://{'***@' if at else ''}{path}{'?***' if query or '?' in secret else ''}"


class _Video:
    """A video file or network stream, read by FFmpeg (PyAV)."""

    def __init__(self, source: str, options: dict[str, str]) -> None:
        self._name = redact(source)
        local = options is FILE_ONLY
        if source.lower().startswith("rtsp"):
            options = options | {"rtsp_transport": "tcp", "allowed_media_types": "video"}
        # An absolute path: FFmpeg would take anything before a colon for a protocol.
        url = str(Path(source).absolute()) if local else source
        if local and _is_playlist(Path(source)):
            raise SourceError(f"{self._name} is a list of other files; name those.")
        try:
            self._container = av.open(
                url, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._name} cannot be opened as a video ({_reason(error)}); check it."
            ) from None  # FFmpeg's error contains the password
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{self._name} has no video stream; use another file.")
        self._stream = self._container.streams.video[0]
        width, height = self._stream.width or 0, self._stream.height or 0
        if width * height > images.MAX_PIXELS:
            self._container.close()
            raise SourceError(f"{self._name} is {width} x {height}; scale it down first.")
        self.live = not local and not self._container.duration
        # Frame threads hold frames back, which a live source cannot afford.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"
        self.fps = _valid_fps(self._stream.average_rate or self._stream.guessed_rate or 0)

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        decoded, start_s = False, None
        last_frame_s = time.monotonic()
        for packet in self._packets():
            for frame in self._decode(packet):
                last_frame_s = time.monotonic()
                image = np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90)
                start_s = frame.time if start_s is None else start_s
                timed = frame.time is not None and start_s is not None
                yield frame.time - start_s if timed else None, np.ascontiguousarray(image)
                decoded = True
            if self.live and time.monotonic() - last_frame_s > READ_TIMEOUT_S:
                raise SourceError(f"{self._name} sends no frames; check the source.")
        if not decoded:
            raise SourceError(f"{self._name} has no frame that can be decoded; check it.")

    def _packets(self) -> Iterator[Any]:
        """Packets of the video; damaged ones are skipped, and many in a row end it."""
        damaged = 0
        while damaged < MAX_DAMAGED:
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
    def _decode(packet: Any) -> Any:  # noqa: ANN401
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            return ()  # decoding continues at the next intact frame

    def close(self) -> None:
        self._container.close()


class _Camera:
    """A camera of this machine, by its number."""

    live = True

    def __init__(self, index: int) -> None:
        self._name = f"camera {index}"
        log_level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:  # every backend that OpenCV tries logs its own error
            self._device = cv2.VideoCapture(index)
        finally:
            cv2.utils.logging.setLogLevel(log_level)
        if not self._device.isOpened():
            self._device.release()
            raise SourceError(f"There is no {self._name}; check its number, plug and permissions.")
        self._device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.fps = _valid_fps(self._device.get(cv2.CAP_PROP_FPS))

    def frames(self) -> Iterator[tuple[float | None, Image]]:
        while True:
            read, image = self._device.read()
            if not read:
                raise SourceError(f"{self._name} gives no image; check its plug.")
            yield None, np.asarray(image, np.uint8)

    def close(self) -> None:
        self._device.release()


class _Images:
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
                f"{len(errors)} of {len(self._paths)} images could not be read: {errors[0]}"
            )

    def close(self) -> None:
        """Nothing stays open."""


def _valid_fps(rate: Any) -> float:  # noqa: ANN401  a fraction from FFmpeg, a float from OpenCV
    return float(rate) if 0 < rate <= MAX_FPS else DEFAULT_FPS


def _is_playlist(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False  # FFmpeg will say what is wrong with it
    return any(mark in head for mark in PLAYLISTS)


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):  # FFmpeg's name for a time-out
        return "timed out"
    return os_reason(error)
