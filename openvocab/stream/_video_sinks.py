"""Annotated frames: written to a video file that survives a crash, or shown in a window."""

from collections.abc import Callable, Sequence
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
from openvocab.io._annotation import annotate
from openvocab.stream._zones import Zones
from openvocab.types import Frame, Image

TICKS = 60_000  # per second of a video; MPEG-4 allows at most 65,535
MAX_GAP_S = 10.0  # after a longer gap, or a step back in time, another file begins
# Fragments: what is written stays readable, whatever happens to the program.
FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer",
    "flush_packets": "1",
}
WRITE_ERRORS = av.error.FFmpegError, OSError, ValueError

Draw = Callable[[Frame, sv.Detections], Image]


def drawing(zones: Zones | None = None) -> Draw:
    """Return a function that draws boxes and labels, and over them zones with their counts."""

    def draw(frame: Frame, detections: sv.Detections) -> Image:
        image = annotate(frame.image, detections)
        return image if zones is None else zones.draw(image, frame.source)

    return draw


def video_sinks(
    path: Path, sources: Sequence[str], draw: Draw, max_bytes: int | None
) -> list["VideoSink"]:
    """One sink per source: `out.mp4`; or for several sources, `out.0.mp4`, `out.1.mp4`, ..."""
    paths = [path]
    if len(sources) > 1:
        paths = [path.with_suffix(f".{n}{path.suffix}") for n in range(len(sources))]
    return [
        VideoSink(file, source=source, draw=draw, max_bytes=max_bytes)
        for file, source in zip(paths, sources, strict=True)
    ]


class VideoSink:
    """Writes an annotated video: H.264 if FFmpeg has it, else MPEG-4; a new file for each size.

    The MP4 has fragments of a second or two, so it plays in a browser, and after a crash plays up
    to the last fragment.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        source: str | None = None,
        draw: Draw | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Prepare a video, which is opened at the first frame and never replaces another file.

        Args:
            path: `.mp4` or `.mkv`; further files, or the first if this one exists, are
                `out-2.mp4`, `out-3.mp4`, ...
            source: `Frame.source` of the frames to write; None writes all frames.
            draw: makes the image from a frame and its detections; None draws boxes and labels.
            max_bytes: size at which the next file begins.

        Raises:
            SinkError: the name does not end in `.mp4` or `.mkv`.
        """
        if Path(path).suffix.lower() not in {".mp4", ".mkv"}:
            raise SinkError(f"{path} has an unsupported video suffix; use .mp4 or .mkv.")
        self._paths = numbered_paths(Path(path))
        self._source, self._draw, self._max_bytes = source, draw or drawing(), max_bytes
        self._path = Path(path)
        self._container: Any = None
        self._stream: Any = None
        self._start_s, self._last_s, self._last_tick = 0.0, 0.0, -1

    def write(self, frame: Frame, detections: sv.Detections) -> None:
        """Draw and write one frame, at its own time.

        Raises:
            SinkError: the file cannot be written.
        """
        if self._source not in {None, frame.source}:
            return
        image = _even(self._draw(frame, detections))
        height, width = image.shape[:2]
        try:
            if self._container is not None and self._needs_new_file(width, height, frame.time_s):
                self._finish()
            if self._container is None:
                self._open(width, height, frame)
            encoded = av.VideoFrame.from_ndarray(image, format="bgr24")
            self._last_s = frame.time_s
            tick = max(self._last_tick + 1, round((frame.time_s - self._start_s) * TICKS))
            encoded.pts, encoded.time_base, self._last_tick = tick, Fraction(1, TICKS), tick
            self._container.mux(self._stream.encode(encoded))
        except WRITE_ERRORS as error:
            raise SinkError(f"{self._path} cannot be written ({error}); check the disk.") from error

    def close(self) -> None:
        """Write frames that the encoder still holds, and close the file.

        Raises:
            SinkError: the file cannot be written.
        """
        try:
            self._finish()
        except WRITE_ERRORS as error:
            raise SinkError(
                f"{self._path} cannot be finished ({error}); check the disk."
            ) from error

    def _needs_new_file(self, width: int, height: int, time_s: float) -> bool:
        same_size = (self._stream.width, self._stream.height) == (width, height)
        if not same_size or not 0 <= time_s - self._last_s <= MAX_GAP_S:
            return True
        if self._max_bytes is None or not self._path.exists():
            return False
        return self._path.stat().st_size >= self._max_bytes

    def _open(self, width: int, height: int, frame: Frame) -> None:
        self._path = next(path for path in self._paths if not _has_content(path))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        options = FRAGMENTED if self._path.suffix.lower() == ".mp4" else {"flush_packets": "1"}
        self._container = av.open(str(self._path.absolute()), "w", options=options)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        rate = Fraction(frame.fps).limit_denominator(1001)
        self._stream = self._container.add_stream(codec, rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.gop_size = max(1, round(frame.fps))
        if codec == "libx264":
            self._stream.options = {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}
        self._start_s, self._last_tick = frame.time_s, -1

    def _finish(self) -> None:
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()


class WindowSink:
    """Shows annotated frames in a window; pressing `q` or Escape there calls `quit_`."""

    def __init__(self, quit_: Callable[[], None], draw: Draw | None = None) -> None:
        self._quit, self._draw = quit_, draw or drawing()

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


def _even(image: Image) -> Image:
    """Make both sides even, as H.264 with yuv420p requires."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[: height - height % 2, : width - width % 2])
