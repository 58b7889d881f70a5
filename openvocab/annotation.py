"""Detections drawn on a picture with supervision's annotators, sized to the picture."""

import zlib
from pathlib import Path

import numpy as np
import supervision as sv

from openvocab.protocols import Image

__all__ = ["annotate"]

# Twelve hues far apart, dark enough for white text (contrast 4.5:1 and more).
PALETTE = sv.ColorPalette.from_hex(
    [
        "#1f5fbf", "#b3261e", "#1b7340", "#8e24aa", "#a04000", "#00707a",
        "#ad1457", "#5d4037", "#3949ab", "#6b7000", "#c2185b", "#37474f",
    ]
)  # fmt: skip
LONGEST = 40  # characters of a label; a longer one hides the picture


def annotate(image: Image, detections: sv.Detections) -> Image:
    """A copy of the picture with masks, boxes and "name 0.87" labels.

    A class keeps its colour in every picture; lines and text grow with the picture.

    Args:
        image: `(H, W, 3)` uint8 BGR.
        detections: as `detect` returns them: `confidence`, and `class_name` in `data`.

    Returns:
        `(H, W, 3)` uint8 BGR; the input is left as it was.

    >>> picture = np.zeros((32, 32, 3), np.uint8)
    >>> annotate(picture, sv.Detections.empty()).shape
    (32, 32, 3)
    """
    canvas = image.copy()
    if not len(detections):
        return canvas
    names = [str(name) for name in detections.data["class_name"]]
    colours = np.array([zlib.crc32(name.encode()) % len(PALETTE.colors) for name in names])
    height, width = image.shape[:2]
    thickness = max(2, round((width + height) / 2 * 0.003))  # as wide as Ultralytics draws
    if detections.mask is not None:
        canvas = sv.MaskAnnotator(PALETTE, opacity=0.35).annotate(canvas, detections, colours)
    canvas = sv.BoxAnnotator(PALETTE, thickness).annotate(canvas, detections, colours)
    text_px = max(10, round(min(width, height) / 45))
    labels = sv.RichLabelAnnotator(
        color=PALETTE,
        font_path=_font(),
        font_size=text_px,
        text_padding=max(2, text_px // 4),
        smart_position=True,
    )
    texts = [
        f"{_cut(name)} {score:.2f}" for name, score in zip(names, _scores(detections), strict=True)
    ]
    result: Image = labels.annotate(canvas, detections, texts, colours)
    return result


def _scores(detections: sv.Detections) -> np.ndarray:
    return np.ones(len(detections)) if detections.confidence is None else detections.confidence


def _cut(name: str) -> str:
    one_line = " ".join(name.split())
    return one_line if len(one_line) <= LONGEST else one_line[: LONGEST - 1] + "…"


def _font() -> str | None:
    """DejaVu Sans of matplotlib (which Ultralytics needs): Latin, Greek, Cyrillic, Arabic."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path) if path.is_file() else None
