"""Draws detections on a picture with supervision's annotators, sized to the picture."""

import colorsys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import supervision as sv

from openvocab.errors import ConfigError
from openvocab.io.images import ImageLike, load
from openvocab.types import Image

GOLDEN = (5**0.5 - 1) / 2  # steps of this size never come back near an earlier one
LARGEST = 20  # times; at this scale, letters fill the picture
LONGEST = 40  # characters in a label; a longer one hides the picture


def annotate(image: ImageLike, detections: sv.Detections, *, scale: float = 1.0) -> Image:
    """Draw masks, boxes and "name 0.87" labels on a copy of the picture.

    A class keeps its colour as long as it keeps its number. Lines and text grow with the picture.

    Args:
        image: as for `detect`: a path, bytes, PIL image or array `(H, W, 3)` uint8 BGR.
        detections: as `detect` returns them; without `class_name`, the number of the class is
            drawn. Names in scripts other than Latin, Greek, Cyrillic or Arabic need a system font
            that has the letters.
        scale: factor on lines and text; 1.0 suits a desk, a phone needs more.

    Returns:
        `(H, W, 3)` uint8 BGR; the input is left unchanged.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: the scale is not a usable number.

    >>> picture = np.zeros((32, 32, 3), np.uint8)
    >>> annotate(picture, sv.Detections.empty()).shape
    (32, 32, 3)
    """
    if not 0 < scale <= LARGEST:
        raise ConfigError(f"The scale of an annotation is {scale}; give more than 0, to {LARGEST}.")
    canvas = load(image).copy()
    if not len(detections):
        return canvas
    names = _names(detections)
    ids = np.zeros(len(names), int) if detections.class_id is None else detections.class_id
    distinct, colours = np.unique(ids, return_inverse=True)
    palette = sv.ColorPalette([_colour(int(number)) for number in distinct])
    height, width = canvas.shape[:2]
    thickness = max(2, round(scale * (width + height) / 2 * 0.003))  # as wide as Ultralytics draws
    if detections.mask is not None:
        canvas = sv.MaskAnnotator(palette, opacity=0.35).annotate(canvas, detections, colours)
    canvas = sv.BoxAnnotator(palette, thickness).annotate(canvas, detections, colours)
    text_px = max(10, round(scale * min(width, height) / 45))
    texts = [
        f"{cut(name)} {score:.2f}" for name, score in zip(names, _scores(detections), strict=True)
    ]
    labels = sv.RichLabelAnnotator(
        color=palette,
        font_path=_font([cut(name) for name in names]),
        font_size=text_px,
        text_padding=max(2, text_px // 4),
        smart_position=True,
    )
    result: Image = labels.annotate(canvas, detections, texts, colours)
    return result


def _colour(number: int) -> sv.Color:
    """A hue for the class, as bright as white text allows (contrast 4.5, WCAG 2)."""
    turn = number * GOLDEN % 1
    hue = (80 + 320 * turn) / 360 % 1  # no yellow: that dark, it looks like mud
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 1.0)
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    dim = min(1.0, (0.18 / luminance) ** (1 / 2.2))  # (1 + 0.05) / (0.18 + 0.05) = 4.57
    return sv.Color(*(round(255 * dim * part) for part in (red, green, blue)))


def _names(detections: sv.Detections) -> list[str]:
    ids = detections.class_id
    numbers = ["object"] * len(detections) if ids is None else ids
    return [str(name) for name in detections.data.get("class_name", numbers)]


def _scores(detections: sv.Detections) -> np.ndarray:
    return np.ones(len(detections)) if detections.confidence is None else detections.confidence


def cut(name: str) -> str:
    """A name on one line, shortened if it is too long for a label."""
    flat = " ".join(name.split())
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _font(names: Sequence[str]) -> str | None:
    """DejaVu Sans from matplotlib (which Ultralytics needs), or a system font with more letters."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():
        return None
    letters = frozenset("".join(names)) - {" "}
    known = letters & _letters(path)
    if known == letters:
        return str(path)
    return _installed(letters | set("0123456789."), len(known) + len("0123456789.")) or str(path)


@lru_cache(maxsize=1)
def _letters(path: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(path).get_charmap()))


@lru_cache(maxsize=64)  # asked at every frame of a video
def _installed(letters: frozenset[str], more_than: int) -> str | None:
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
