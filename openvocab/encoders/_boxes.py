"""Box geometry before cropping: context, and whole pixels inside the image."""

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ClassesError
from openvocab.types import Boxes
from openvocab.vocabulary import Example


def expand_boxes(xyxy: Boxes, scale: float) -> Boxes:
    """Scale each box `(N, 4)` about its centre.

    >>> expand_boxes(np.array([[2, 2, 4, 6]], np.float32), 1.5)
    array([[1.5, 1. , 4.5, 7. ]], dtype=float32)
    """
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    half = (xyxy[:, 2:] - xyxy[:, :2]) / 2 * scale
    return np.hstack([centre - half, centre + half]).astype(np.float32)


def example_box(example: Example, resolution_wh: tuple[int, int], scale: float) -> Boxes:
    """The part `(1, 4)` of an example image to encode: all of it, or its box with context.

    Args:
        example: whole or with a box, which is first clipped to the image, as a detector's are.
        resolution_wh: width and height of the image.
        scale: of the box, as for `expand_boxes`.

    Raises:
        ClassesError: the box is outside the image.

    >>> example_box(Example("a.jpg", box=(2, 2, 4, 6)), (10, 10), 1.5)
    array([[1.5, 1. , 4.5, 7. ]], dtype=float32)
    """
    width, height = resolution_wh
    whole = np.array([[0, 0, width, height]], np.float32)
    if example.box is None:
        return whole
    x1, y1, x2, y2 = example.box
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise ClassesError(
            f"The box of {example} is outside the image of {width}x{height} pixels; "
            "give pixels inside it."
        )
    clipped = np.array([[x1, y1, x2, y2]], np.float32).clip(0, whole[:, [2, 3, 2, 3]])
    return expand_boxes(clipped, scale)


def clip_to_pixels(
    xyxy: Boxes, resolution_wh: tuple[int, int], *, square: bool = False
) -> NDArray[np.int64]:
    """Each box `(N, 4)` in whole pixels, clipped to the image, with sides of at least one pixel.

    Args:
        xyxy: boxes in pixels.
        resolution_wh: width and height of the image.
        square: first extend the short side to the length of the long one, so that a model that
            crops the centre sees context instead of losing the ends.

    >>> clip_to_pixels(np.array([[1.5, 1, 4.5, 7]], np.float32), (10, 6))
    array([[1, 1, 5, 6]])
    >>> clip_to_pixels(np.array([[-9, -9, -8, -8]], np.float32), (10, 10))
    array([[0, 0, 1, 1]])
    """
    centre = (xyxy[:, :2] + xyxy[:, 2:]).astype(np.float64) / 2
    half = (xyxy[:, 2:] - xyxy[:, :2]).astype(np.float64) / 2
    if square:
        half = np.repeat(half.max(axis=1, keepdims=True), 2, axis=1)
    limit = np.array(resolution_wh, np.int64)
    top_left = np.floor(centre - half).astype(np.int64).clip(0, limit - 1)
    bottom_right = np.ceil(centre + half).astype(np.int64).clip(top_left + 1, limit)
    return np.hstack([top_left, bottom_right])
