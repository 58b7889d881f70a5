"""Non-maximum suppression of proposals."""

from typing import Any

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.types import Proposals


def distinct_rows(proposals: Proposals, iou: float) -> NDArray[np.intp]:
    """Rows to keep, best first, without degenerate boxes and near-duplicates.

    A box is dropped if a better one of the same label overlaps it; and one that no label fits, which
    drops no others, if any better one does. Needed after NMS-free heads as well, which return some
    near-duplicates.

    Args:
        proposals: N boxes.
        iou: IoU above which two boxes overlap.

    >>> xyxy = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [5, 5, 5, 9]], np.float32)
    >>> boxes = Proposals(xyxy, np.array([0.5, 0.6, 0.9], np.float32), np.array([4, 4, 7]))
    >>> distinct_rows(boxes, 0.7)
    array([1])
    """
    sides = proposals.xyxy[:, 2:] - proposals.xyxy[:, :2]
    rows = np.flatnonzero(np.isfinite(sides).all(axis=1) & (sides >= 1).all(axis=1))
    if not len(rows):
        return rows
    # OpenCV's type hints ask for lists, which are slower.
    xywh: Any = np.hstack([proposals.xyxy[rows, :2], sides[rows]]).astype(np.float64)
    objectness: Any = proposals.objectness[rows]
    label_ids: Any = proposals.label_ids[rows].astype(np.int32)
    named = np.flatnonzero(proposals.label_confidence[rows] >= objectness)
    keep = named[
        np.asarray(
            cv2.dnn.NMSBoxesBatched(xywh[named], objectness[named], label_ids[named], 0, iou),
            np.intp,
        )
    ]
    if len(named) < len(rows):
        unnamed = np.setdiff1d(np.arange(len(rows)), named)
        distinct = cv2.dnn.NMSBoxes(xywh[unnamed], objectness[unnamed], 0, iou)
        unnamed = unnamed[np.asarray(distinct, np.intp)]
        xyxy = proposals.xyxy[rows]
        overlaps = sv.box_iou_batch(xyxy[unnamed], xyxy[keep]) > iou
        is_worse = objectness[unnamed][:, None] < objectness[keep]
        keep = np.concatenate([keep, unnamed[~(overlaps & is_worse).any(axis=1)]])
        keep = keep[np.argsort(-objectness[keep], kind="stable")]
    return rows[keep]
