"""Annotated pictures: written to a film that survives a crash, or shown in a window."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import supervision as sv

from openvocab._internal.files import numbered_paths
from openvocab.errors import SinkError
from openvocab.io.annotation import annotate
from openvocab.stream.zones import Zones
from openvocab.types import Frame, Image

TICKS = 60_000  # per second in a film; MPEG-4 can count to 65,535
GAP_S = 10.0  # after a gap this long, or a step back in time, another film begins
# Fragments: what is written stays readable, whatever happens to the program.
FRAGMENTS = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer",
    "flush_packets": "1",
}

Draw = Callable[[Frame, sv.Detections], Image]


def plain(frame: Frame, detections: sv.Detections) -> Image:
    """Draw boxes and labels, nothing else."""
    return annotate(frame.image, detections)


def drawing(zones: Zones | None) -> Draw:
    """Return a function that draws boxes and labels, and over them zones with their counts."""
    if zones is None:
        return plain
    return lambda frame, detections: zones.draw(plain(frame, detections), frame.source)


class VideoSink:
    """Writes an annotated film: H.264 if FFmpeg has it, else MPEG-4; a new file for each size.

    The MP4 has fragments of a second or two, so it plays in a browser, and after a crash plays up
    to the last fragment.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        *,
        draw: Draw = plain,
        max_bytes: int | None = None,
    ) -> None:
        """Prepare a film, which is opened at the first frame and never replaces another film.

        Args:
            path: `.mp4` or `.mkv`; further files, or the first if this one exists, are
                `out-2.mp4`, `out-3.mp4`, ...
            fps: for key frames and as the rate stated to players; frames keep their own times.
            draw: makes the picture from a frame and its detections.
            max_bytes: size at which the next file begins.

        Raises:
            SinkError: the name does not end in `.mp4` or `.mkv`.
        """
        if Path(path).suffix.lower() not in {".mp4", ".mkv"}:
            raise SinkError(f"{path} is no film that is written here; name it .mp4 or .mkv.")
        self._paths = numbered_paths(Path(path))
        self._fps, self._draw, self._max_bytes = fps, draw, max_bytes
        self._path = Path(path)
        self._container: Any = None
        self._stream: Any = None
        self._begun_s, self._last_s, self._last_tick = 0.0, 0.0, -1

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Draw and write one frame.

        Raises:
            SinkError: the file cannot be written.
        """
        picture = _even(self._draw(frame, detections))
        height, width = picture.shape[:2]
        try:
            if self._container is not None and self._is_over(width, height, frame.time_s):
                self._finish()
            if self._container is None:
                self._open(width, height, frame.time_s)
            encoded = av.VideoFrame.from_ndarray(picture, format="bgr24")
            self._last_s = frame.time_s
            tick = max(self._last_tick + 1, round((frame.time_s - self._begun_s) * TICKS))
            encoded.pts, encoded.time_base, self._last_tick = tick, Fraction(1, TICKS), tick
            self._container.mux(self._stream.encode(encoded))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"{self._path} cannot be written ({error}); check the disk.") from error

    def close(self) -> None:
        """Write frames that are still held back, and close the file."""
        try:
            self._finish()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(
                f"{self._path} cannot be finished ({error}); check the disk."
            ) from error

    def _is_over(self, width: int, height: int, time_s: float) -> bool:
        same_size = (self._stream.width, self._stream.height) == (width, height)
        if not same_size or not 0 <= time_s - self._last_s <= GAP_S:
            return True
        if self._max_bytes is None or not self._path.exists():
            return False
        return self._path.stat().st_size >= self._max_bytes

    def _open(self, width: int, height: int, time_s: float) -> None:
        self._path = next(path for path in self._paths if not _has_content(path))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        options = FRAGMENTS if self._path.suffix.lower() == ".mp4" else {"flush_packets": "1"}
        self._container = av.open(str(self._path.absolute()), "w", options=options)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(
            codec, rate=Fraction(self._fps).limit_denominator(1001)
        )
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.gop_size = max(1, round(self._fps))
        if codec == "libx264":
            self._stream.options = {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}
        self._begun_s, self._last_tick = time_s, -1

    def _finish(self) -> None:
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()


class WindowSink:
    """Shows annotated pictures in a window; pressing `q` or Escape there calls `quit_`."""

    def __init__(self, quit_: Callable[[], None], draw: Draw = plain) -> None:
        self._quit, self._draw = quit_, draw

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Show one frame."""
        cv2.imshow(f"openvocab {frame.source}", self._draw(frame, detections))
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            self._quit()

    def close(self) -> None:
        """Close the windows."""
        cv2.destroyAllWindows()


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _even(picture: Image) -> Image:
    """Make both sides even, as H.264 with yuv420p requires."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[: height - height % 2, : width - width % 2])
