"""Examples from the image itself: a class name and a box that the visitor draws."""

import math
from pathlib import Path
from typing import NamedTuple, Self

from openvocab import Example
from openvocab.types import Image

from .inputs import MAX_EXAMPLES, Classes, parse_names

SCRIPT = Path(__file__).with_name("draw_box.js").read_text("utf-8")
CSS = """
.drawing-boxes #image-result img {cursor: crosshair; touch-action: none;}
.drawn-box {position: fixed; z-index: 99; pointer-events: none; border: 2px dashed white; outline: 2px solid black;}
"""
MIN_SIDE = 4  # pixels; a click is not a box


class DrawnExamples(NamedTuple):
    """The boxes that a visitor has drawn, each with its class."""

    examples: tuple[tuple[str, Example], ...] = ()

    def add(self, image: Image, name: str, box: object) -> Self:
        """Make a box of the image an example of the class; what is not a box changes nothing.

        Args:
            image: BGR.
            name: of the class; empty changes nothing.
            box: left, top, right, bottom in pixels, as the browser sends them.

        Raises:
            ClassesError: the name is too long.
        """
        names = parse_names(name)
        if len(names) != 1 or not isinstance(box, list) or len(box) != 4:
            return self
        if not all(isinstance(side, int | float) and math.isfinite(side) for side in box):
            return self
        height, width = image.shape[:2]
        left, right = (min(max(round(side), 0), width) for side in box[::2])
        top, bottom = (min(max(round(side), 0), height) for side in box[1::2])
        if min(right - left, bottom - top) < MIN_SIDE:
            return self
        drawn = names[0], Example(image, (left, top, right, bottom))
        return type(self)((*self.examples, drawn)[-MAX_EXAMPLES:])

    def add_to(self, classes: Classes) -> Classes:
        """The classes with these examples; a new name becomes a class."""
        extended: Classes = {name: [*parts] for name, parts in classes.items()}
        for name, example in self.examples:
            extended.setdefault(name, []).append(example)
        return extended
