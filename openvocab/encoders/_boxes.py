"""Box geometry before cropping: context, and whole pixels inside the image."""

import numpy as np
from numpy.typing import NDArray

from openvocab.types import Boxes


def expand_boxes(xyxy: Boxes, scale: float) -> Boxes:
    """Scale each box `(N, 4)` about its centre.

    >>> expand_boxes(np.array([[2, 2, 4, 6]], np.float32), 1.5)
    array([[1.5, 1. , 4.5, 7. ]], dtype=float32)
    """
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    half = (xyxy[:, 2:] - xyxy[:, :2]) / 2 * scale
    return np.hstack([centre - half, centre + half]).astype(np.float32)


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
