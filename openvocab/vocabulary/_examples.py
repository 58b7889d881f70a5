"""`Example`: a picture of an object of a class, or one box of a picture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ClassesError, describe

if TYPE_CHECKING:
    import PIL.Image

Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Example:
    """An example image of a class or of a negative: a whole picture, or one box of it.

    A whole picture is encoded as it is, so crop it tightly. A box is encoded like the detector's
    own boxes, with the preset's context around it.

    Raises:
        ClassesError: the box is not four numbers `x1, y1, x2, y2` with `x1 < x2` and `y1 < y2`.

    >>> Example("street.jpg", box=(31, 230, 800, 746))
    Example('street.jpg', box=(31, 230, 800, 746))
    """

    image: "str | os.PathLike[str] | bytes | BinaryIO | PIL.Image.Image | NDArray[Any]"
    """As for `openvocab.io.load_image`; a string is a path here."""
    box: Sequence[float] | NDArray[Any] | None = None
    """`x1, y1, x2, y2` in pixels, such as a row of `xyxy`; None for the whole picture."""

    def __post_init__(self) -> None:
        if self.box is not None:
            object.__setattr__(self, "box", _check_box(self.box))

    def __repr__(self) -> str:
        box = "" if self.box is None else f", box=({', '.join(map('{:g}'.format, self.box))})"
        return f"Example({describe(self._file or self.image)}{box})"

    def __str__(self) -> str:
        """The file name, followed by the box; `example image` if the image is not a file.

        >>> str(Example("photos/street.jpg", box=(31, 230, 800, 746)))
        'street.jpg#31,230,800,746'
        """
        name = os.path.basename(self._file) or "example image"  # noqa: PTH119  `_file` is a string
        return name if self.box is None else f"{name}#{','.join(map('{:g}'.format, self.box))}"

    @property
    def _file(self) -> str:
        return os.fspath(self.image) if isinstance(self.image, str | os.PathLike) else ""


def as_example(part: object) -> Example | None:
    """A picture as an `Example`; None for anything else, such as a string, which is a name.

    >>> as_example("bus") is None, as_example(np.zeros((4, 4, 3), np.uint8))
    (True, Example(an array of shape (4, 4, 3)))
    """
    if isinstance(part, Example):
        return part
    is_pil_image = hasattr(part, "getexif") and hasattr(part, "convert")
    if is_pil_image or isinstance(part, os.PathLike | np.ndarray):
        return Example(part)  # type: ignore[arg-type]
    return None


def _check_box(box: object) -> Box:
    try:
        x1, y1, x2, y2 = map(float, () if isinstance(box, str) else box)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        pass
    else:
        if all(map(isfinite, (x1, y1, x2, y2))) and x1 < x2 and y1 < y2:
            return x1, y1, x2, y2
    raise ClassesError(
        f"The box of an example is {describe(box)}; give four numbers in pixels, "
        "(x1, y1, x2, y2) with x1 < x2 and y1 < y2."
    )
