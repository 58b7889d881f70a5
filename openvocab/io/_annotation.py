"""Draws detections on an image with supervision's annotators, scaled to the image."""

import colorsys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import supervision as sv

from openvocab.errors import ConfigError
from openvocab.io._images import ImageLike, load_image
from openvocab.types import Image

GOLDEN_RATIO = (5**0.5 - 1) / 2  # hues in steps of it stay far apart, however many there are
MAX_SCALE = 20  # at this scale, letters fill the image
MAX_LABEL = 40  # characters; a longer label hides the image


def annotate(image: ImageLike, detections: sv.Detections, *, scale: float = 1.0) -> Image:
    """Draw masks, boxes and "name 0.87" labels on a copy of the image.

    The colour of a class depends on its `class_id` only. Lines and text scale with the image.

    Args:
        image: as for `detect`: a path, bytes, PIL image or array `(H, W, 3)` uint8 BGR.
        detections: as `detect` returns them; without `class_name`, the class id is drawn. Names in
            scripts other than Latin, Greek, Cyrillic or Arabic need a system font that has the
            letters.
        scale: factor on lines and text; 1.0 suits a desktop screen, a phone needs more.

    Returns:
        `(H, W, 3)` uint8 BGR; the input is left unchanged.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: the scale is out of range.

    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> annotate(image, sv.Detections.empty()).shape
    (32, 32, 3)
    """
    if not 0 < scale <= MAX_SCALE:
        raise ConfigError(f"The annotation scale is {scale}; use more than 0, up to {MAX_SCALE}.")
    canvas = load_image(image).copy()
    if not len(detections):
        return canvas
    names = _names(detections)
    ids = np.zeros(len(names), int) if detections.class_id is None else detections.class_id
    distinct, colours = np.unique(ids, return_inverse=True)
    palette = sv.ColorPalette([_colour(int(class_id)) for class_id in distinct])
    height, width = canvas.shape[:2]
    thickness = max(2, round(scale * (width + height) / 2 * 0.003))  # as wide as Ultralytics draws
    if detections.mask is not None:
        canvas = sv.MaskAnnotator(palette, opacity=0.35).annotate(canvas, detections, colours)
    canvas = sv.BoxAnnotator(palette, thickness).annotate(canvas, detections, colours)
    scores = np.ones(len(names)) if detections.confidence is None else detections.confidence
    text_px = max(10, round(scale * min(width, height) / 45))
    labels = sv.RichLabelAnnotator(
        color=palette,
        font_path=_font_path(names),
        font_size=text_px,
        text_padding=max(2, text_px // 4),
        smart_position=True,
    )
    texts = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    annotated: Image = labels.annotate(canvas, detections, texts, colours)
    return annotated


def _colour(class_id: int) -> sv.Color:
    """A hue for the class, as bright as white text allows (contrast 4.5, WCAG 2)."""
    turn = class_id * GOLDEN_RATIO % 1
    hue = (80 + 320 * turn) / 360 % 1  # no yellow: dark yellow is illegible
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 1.0)
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    dim = min(1.0, (0.18 / luminance) ** (1 / 2.2))  # (1 + 0.05) / (0.18 + 0.05) = 4.57
    return sv.Color(*(round(255 * dim * channel) for channel in (red, green, blue)))


def _names(detections: sv.Detections) -> list[str]:
    ids = ["object"] * len(detections) if detections.class_id is None else detections.class_id
    return [shorten_label(str(name)) for name in detections.data.get("class_name", ids)]


def shorten_label(name: str) -> str:
    """A name on one line, shortened if it is too long for a label."""
    flat = " ".join(name.split())
    return flat if len(flat) <= MAX_LABEL else flat[: MAX_LABEL - 1] + "…"


def _font_path(names: Sequence[str]) -> str | None:
    """DejaVu Sans from matplotlib (which Ultralytics needs), or a system font with more letters."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():
        return None
    letters = frozenset("".join(names)) - {" "}
    covered = letters & _letters(path)
    if covered == letters:
        return str(path)
    digits = frozenset("0123456789.")
    return _system_font(letters | digits, len(covered) + len(digits)) or str(path)


@lru_cache(maxsize=1)
def _letters(path: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(path).get_charmap()))


@lru_cache(maxsize=64)  # a video needs the same letters at every frame
def _system_font(letters: frozenset[str], more_than: int) -> str | None:
    """The system font with most of these letters; None if none has more than `more_than`."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    best, most, codes = None, more_than, set(map(ord, letters))
    for path in sorted(findSystemFonts()):
        with suppress(RuntimeError, OSError, UnicodeError):  # as damaged fonts raise
            font = FT2Font(path)
            count = len(codes & font.get_charmap().keys())
            if font.scalable and count > most:
                best, most = path, count
    return best
