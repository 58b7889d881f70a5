"""Runs any proposer on the whole image and on overlapping tiles, so that it sees small things."""

from collections.abc import Sequence

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.types import Boxes, Image, Proposals, Proposer

# Chosen on mosaics of COCO photos, 3x3 and 2x2 (benchmarks/tiling.py --part calibration), with the starter
# detector. Recall of the best 100 boxes of a 3x3 mosaic in tiles of 416, and how many sure boxes
# (.3) are but a part of a thing of their label: 55 %, 40 of 703; were all cut boxes dropped: 54 %,
# 35 of 667; all kept: 52 %, 165 of 1,082; by intersection over smaller, which takes what stands
# before something as well: 46 %, 61 of 616.
OVERLAP = 0.2  # of a tile: .1 loses 3 points; .3 gains none among 100 boxes, for a third more looks
EDGE = 0.01  # of a tile: a box that ends this near to a tile's edge is cut off there
COVERED = 0.5  # of a cut box: with this share inside a whole box, it is a part of that


class TiledProposer:
    """Finds what a proposer finds in the whole image and in its tiles, each thing once.

    An image of W x H pixels costs one look and, if a side is longer than a tile of T pixels, about
    `(1.25 W / T) * (1.25 H / T)` more, one at a time: 10,000 x 10,000 in tiles of 640 are 401
    looks. Thread-safe if the proposer is. Source: `supervision.InferenceSlicer`, and slicing aided
    inference with a look at the whole (Akyon et al., ICIP 2022).
    """

    def __init__(
        self, proposer: Proposer, tile_size: int, *, iou: float = 0.65, max_boxes: int = 100
    ) -> None:
        """Wrap a proposer.

        Args:
            proposer: looks at the image and at each tile, with its own limits for each.
            tile_size: side of a tile, in pixels of the image. A thing wider than a fifth of it may
                be cut by every tile; if wider than a tile, it is seen in the whole image only.
            iou: overlap above which the weaker box is dropped, whatever its class.
            max_boxes: most boxes per image.

        Raises:
            ValueError: the tile size is not a positive whole number.
        """
        self._proposer, self._tile_size = proposer, tile_size
        self._iou, self._max_boxes = iou, max_boxes
        # Its own merging does not know which boxes are cut, and holds the overlap of all pairs:
        # tens of GiB for a thousand tiles.
        self._slicer = sv.InferenceSlicer(
            lambda tile: self._detections(tile, *proposer.propose([tile])),
            slice_wh=tile_size,
            overlap_wh=round(OVERLAP * tile_size),
            overlap_filter=sv.OverlapFilter.NONE,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The proposer's own names, each once."""
        return self._proposer.names

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        return [self._propose(image) for image in images]

    def _propose(self, image: Image) -> Proposals:
        (whole,) = self._proposer.propose([image])
        if max(image.shape[:2]) <= self._tile_size:
            return whole[np.arange(min(len(whole), self._max_boxes))]
        found = sv.Detections.merge([self._detections(image, whole), self._slicer(image)])
        if not len(found):  # an empty result, once merged, has no columns
            return whole
        xyxy, objectness = found.xyxy.astype(np.float32), np.asarray(found.confidence, np.float32)
        inner = np.asarray(found.data["ends"]) & ~self._ends(xyxy, image)
        rows = self._rows(xyxy, objectness, np.any(inner, axis=1))
        labels = tuple(np.asarray(found.data["label"])[rows].tolist())
        masks = None if found.mask is None else np.asarray(found.mask[rows], bool)  # dense again
        return Proposals(xyxy[rows], objectness[rows], labels, masks)

    def _detections(self, image: Image, found: Proposals) -> sv.Detections:
        """Detections for the slicer, with run-length coded masks, which else fill the memory."""
        masks: sv.CompactMask | None = None
        if found.masks is not None:
            height, width = image.shape[:2]
            all_of_it = np.tile([0, 0, width - 1, height - 1], (len(found), 1))
            masks = sv.CompactMask.from_dense(found.masks, all_of_it, (height, width))
        detections = sv.Detections(found.xyxy, masks, found.objectness)
        detections["label"] = np.array(found.labels, np.str_)
        detections["ends"] = self._ends(found.xyxy, image)
        return detections

    def _ends(self, xyxy: Boxes, image: Image) -> NDArray[np.bool_]:
        """Which boxes end at the left, top, right, bottom of the image: `(N, 4)`."""
        near = EDGE * self._tile_size
        far = np.array([image.shape[1], image.shape[0]]) - near
        return np.hstack([xyxy[:, :2] <= near, xyxy[:, 2:] >= far])

    def _rows(
        self, xyxy: Boxes, objectness: NDArray[np.float32], cut: NDArray[np.bool_]
    ) -> NDArray[np.intp]:
        """Rows to keep, best first: whole boxes, and cut ones that no whole box covers."""
        whole, parts = np.flatnonzero(~cut), np.flatnonzero(cut)
        whole = whole[_best(xyxy[whole], objectness[whole], self._iou, self._max_boxes)]
        for box in xyxy[whole]:
            parts = parts[_covered(xyxy[parts], box) < COVERED]
        rows = np.concatenate([whole, parts])
        return rows[_best(xyxy[rows], objectness[rows], self._iou, self._max_boxes)]


def _covered(xyxy: Boxes, by: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share `(N,)` of the area of each box that is inside the box `by` `(4,)`.

    >>> _covered(np.array([[0, 0, 4, 4], [0, 0, 8, 8]], np.float32), np.array([2, 0, 9, 9]))
    array([0.5 , 0.75])
    """
    sides = np.minimum(xyxy[:, 2:], by[2:]) - np.maximum(xyxy[:, :2], by[:2])
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    return sides.clip(min=0).prod(axis=1) / np.maximum(areas, 1e-6)  # no division by zero


def _best(xyxy: Boxes, objectness: NDArray[np.float32], iou: float, limit: int) -> NDArray[np.intp]:
    """Rows that class-agnostic suppression keeps, best first; one row of overlaps at a time.

    >>> boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], np.float32)
    >>> _best(boxes, np.array([0.5, 0.6, 0.9], np.float32), iou=0.65, limit=100)
    array([2, 1])
    """
    order = np.argsort(-objectness, kind="stable")
    kept: list[np.intp] = []
    while len(order) and len(kept) < limit:
        first, order = order[0], order[1:]
        kept.append(first)
        order = order[sv.box_iou_batch(xyxy[[first]], xyxy[order])[0] <= iou]
    return np.array(kept, np.intp)
