"""Examples from the image itself: a class name and two clicks, at opposite corners of an object."""

from typing import NamedTuple, Self

from openvocab import Example
from openvocab.types import Image

from .inputs import MAX_EXAMPLES, Classes, parse_names

MIN_SIDE = 4  # pixels; a double click is not a box


class Corner(NamedTuple):
    """The first click, on an image."""

    image: Image
    x: int
    y: int


class DrawnExamples(NamedTuple):
    """The boxes that a visitor has drawn, each with its class, and the first corner of the next."""

    examples: tuple[tuple[str, Example], ...] = ()
    corner: Corner | None = None

    def click(self, image: Image, name: str, x: int, y: int) -> Self:
        """Remember a first corner; at the second one, add the box as an example of the class.

        Raises:
            ClassesError: the name is too long.
        """
        names = parse_names(name)
        if len(names) != 1:
            return self._replace(corner=None)
        corner = self.corner_on(image)
        if corner is None:
            return self._replace(corner=Corner(image, x, y))
        (left, right), (top, bottom) = sorted((corner.x, x)), sorted((corner.y, y))
        if min(right - left, bottom - top) < MIN_SIDE:
            return self._replace(corner=Corner(image, x, y))
        drawn = names[0], Example(image, (left, top, right, bottom))
        return type(self)((*self.examples, drawn)[-MAX_EXAMPLES:])

    def corner_on(self, image: Image) -> Corner | None:
        """The first corner, if it is on this image and not on a previous one."""
        return self.corner if self.corner is not None and self.corner.image is image else None

    def add_to(self, classes: Classes) -> Classes:
        """The classes with these examples; a new name becomes a class."""
        extended: Classes = {name: [*parts] for name, parts in classes.items()}
        for name, example in self.examples:
            extended.setdefault(name, []).append(example)
        return extended
