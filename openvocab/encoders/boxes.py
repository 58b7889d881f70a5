"""Boxes worth encoding: expand_boxes by their context, laid on whole pixels, without near-duplicates."""

import numpy as np
from numpy.typing import NDArray

from openvocab.config import Preset
from openvocab.types import Boxes, Proposals


def reachable(found: Proposals, threshold: float, preset: Preset) -> NDArray[np.intp]:
    """Rows worth encoding, as no score can exceed objectness**(1 - fusion_exponent)."""
    power = 1 / max(1 - preset.fusion_exponent, 1e-6)
    return np.flatnonzero(found.objectness >= threshold**power)[: preset.max_regions]


def expand_boxes(xyxy: Boxes, scale: float | NDArray[np.float32]) -> Boxes:
    """Grow each box `(N, 4)` about its centre, by one `scale` or one per box `(N,)`.

    Source: the two context scales 1.0 and 1.5 are from ViLD (Gu et al., ICLR 2022).

    >>> expand_boxes(np.array([[2, 2, 4, 6]], np.float32), 1.5)
    array([[1.5, 1. , 4.5, 7. ]], dtype=float32)
    """
    factor = np.reshape(scale, (-1, 1))
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    half = (xyxy[:, 2:] - xyxy[:, :2]) / 2 * factor
    return np.hstack([centre - half, centre + half]).astype(np.float32)


def clip_to_pixels(
    xyxy: Boxes, size_wh: tuple[int, int], *, square: bool = False
) -> NDArray[np.int64]:
    """Each box `(N, 4)` in whole pixels, clipped to the image, with sides of at least one pixel.

    `square` first grows the short side to the length of the long one, so a model that crops the
    centre sees context instead of losing the ends.

    >>> clip_to_pixels(np.array([[1.5, 1, 4.5, 7]], np.float32), (10, 6))
    array([[1, 1, 5, 6]])
    >>> clip_to_pixels(np.array([[-9, -9, -8, -8]], np.float32), (10, 10))
    array([[0, 0, 1, 1]])
    """
    centre = (xyxy[:, :2] + xyxy[:, 2:]).astype(np.float64) / 2
    half = (xyxy[:, 2:] - xyxy[:, :2]).astype(np.float64) / 2
    if square:
        half = np.repeat(half.max(axis=1, keepdims=True), 2, axis=1)
    limit = np.array(size_wh, np.int64)
    first = np.floor(centre - half).astype(np.int64).clip(0, limit - 1)
    last = np.ceil(centre + half).astype(np.int64).clip(first + 1, limit)
    return np.hstack([first, last])


def shown(xyxy: Boxes, iou: float) -> NDArray[np.intp]:
    """Row `(N,)` of the box to encode for each box `(N, 4)`: an earlier one above `iou`, or itself.

    >>> shown(np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9.5]], np.float32), 0.9)
    array([0, 1, 0])
    """
    low, high = xyxy[:, :2], xyxy[:, 2:]
    area = (high - low).prod(axis=1)
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    shared = sides.clip(min=0).prod(axis=2)
    same = (shared > 0) & (shared >= iou * (area[:, None] + area - shared))
    first = np.arange(len(xyxy))
    for row in first.tolist():
        if first[row] == row:
            later = np.flatnonzero(same[row, row + 1 :]) + row + 1
            first[later] = np.minimum(first[later], row)
    return first
