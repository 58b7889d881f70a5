"""Runs a proposer on the whole image and on overlapping tiles, to find small objects."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.config import ProposalConfig
from openvocab.errors import ModelError
from openvocab.types import Boxes, Image, Proposals, Proposer

# Chosen on mosaics of COCO images, 3x3 and 2x2 (benchmarks/tiling.py --part calibration), with the
# starter detector. Recall of the best 100 boxes of a 3x3 mosaic in tiles of 416, and how many
# confident boxes (.3) are only a part of an object of their label: 55 %, 40 of 703. Dropping all
# truncated boxes: 54 %, 35 of 667; keeping all: 52 %, 165 of 1,082; by intersection over smaller,
# which also takes objects in front of others: 46 %, 61 of 616.
_OVERLAP = 0.2  # of a tile: .1 loses 3 points; .3 gains none among 100 boxes, for a third more runs
_BATCH = 8  # tiles in one call of the proposer
_EDGE = 0.01  # of a tile: a box that ends this close to a tile's edge is truncated there
_COVERED = 0.5  # share of a truncated box inside a whole one, from which it is a part of that


class TiledProposer:
    """Proposes boxes of the whole image and of its tiles, each object once.

    An image of W x H pixels costs one run of the proposer and, if a side is longer than a tile of
    T pixels, about `(1.25 W / T) * (1.25 H / T)` more, in batches of eight: 10,000 x 10,000 in tiles
    of 640 are 401 images. Thread-safe if the proposer is. Source: `supervision.InferenceSlicer`, and
    slicing aided inference with a run on the whole image (Akyon et al., ICIP 2022).
    """

    def __init__(
        self, proposer: Proposer, tile_size: int, *, iou: float = 0.65, max_boxes: int = 100
    ) -> None:
        """Wrap a proposer.

        Args:
            proposer: runs on the image and on each tile, with its own limits for each.
            tile_size: side of a tile, in pixels of the image. An object wider than a fifth of it
                may be truncated by every tile; one wider than a tile is found in the whole image
                only.
            iou: IoU above which the weaker box is dropped, whatever its label.
            max_boxes: most boxes per image.

        Raises:
            ValueError: the tile size is not a positive whole number.
        """
        self.proposer, self._tile_size = proposer, tile_size
        self._iou, self._max_boxes = iou, max_boxes
        # Its own merging does not know which boxes are truncated, and keeps the IoU of all pairs:
        # tens of GiB for a thousand tiles.
        self._slicer = sv.InferenceSlicer(
            self._detect_tiles,
            slice_wh=tile_size,
            overlap_wh=round(_OVERLAP * tile_size),
            overlap_filter=sv.OverlapFilter.NONE,
            batch_size=_BATCH,
        )

    def with_ignored_labels(self, names: Collection[str]) -> Self:
        """The same tiles for the proposer without some labels; see `UltralyticsProposer`.

        Raises:
            ModelError: the proposer cannot leave out these labels.
        """
        ignoring = getattr(self.proposer, "with_ignored_labels", None)
        if ignoring is None:
            raise ModelError(
                "The proposer cannot leave out labels; use an UltralyticsProposer, or give yours "
                "the method with_ignored_labels."
            )
        return type(self)(
            ignoring(names), self._tile_size, iou=self._iou, max_boxes=self._max_boxes
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The proposer's own labels, each once."""
        return self.proposer.labels

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        return [self._propose(image) for image in images]

    def _propose(self, image: Image) -> Proposals:
        (untiled,) = self.proposer.propose([image])
        if max(image.shape[:2]) <= self._tile_size:
            return untiled[: self._max_boxes]
        merged = sv.Detections.merge([self._to_detections(image, untiled), self._slicer(image)])
        if not len(merged):  # an empty result, once merged, has no columns
            return untiled
        proposals = Proposals(
            merged.xyxy.astype(np.float32),
            np.asarray(merged.confidence, np.float32),
            np.asarray(merged.class_id, np.intp),
            label_confidence=np.asarray(merged.data["label_confidence"], np.float32),
        )
        at_tile_edge = np.asarray(merged.data["edges"]) & ~self._edges(proposals.xyxy, image)
        rows = self._distinct(proposals, np.any(at_tile_edge, axis=1))
        kept = proposals[rows]
        masks = None if merged.mask is None else np.asarray(merged.mask[rows], bool)  # dense again
        return replace(kept, masks=masks)

    def _detect_tiles(self, tiles: list[Image]) -> list[sv.Detections]:
        return list(map(self._to_detections, tiles, self.proposer.propose(tiles)))

    def _to_detections(self, image: Image, proposals: Proposals) -> sv.Detections:
        """Detections for the slicer, with run-length encoded masks: dense ones fill the memory."""
        masks: sv.CompactMask | None = None
        if proposals.masks is not None:
            height, width = image.shape[:2]
            whole_image = np.tile([0, 0, width - 1, height - 1], (len(proposals), 1))
            masks = sv.CompactMask.from_dense(proposals.masks, whole_image, (height, width))
        return sv.Detections(
            proposals.xyxy,
            masks,
            proposals.objectness,
            proposals.label_ids,
            data={
                "edges": self._edges(proposals.xyxy, image),
                "label_confidence": proposals.label_confidence,
            },
        )

    def _edges(self, xyxy: Boxes, image: Image) -> NDArray[np.bool_]:
        """Which boxes end at the left, top, right, bottom of the image: `(N, 4)`."""
        margin = _EDGE * self._tile_size
        limit = np.array([image.shape[1], image.shape[0]]) - margin
        return np.hstack([xyxy[:, :2] <= margin, xyxy[:, 2:] >= limit])

    def _distinct(self, proposals: Proposals, truncated: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Rows to keep, best first: whole boxes, and truncated ones that no whole box covers."""
        xyxy, objectness = proposals.xyxy, proposals.objectness
        whole, parts = np.flatnonzero(~truncated), np.flatnonzero(truncated)
        whole = whole[_nms(xyxy[whole], objectness[whole], self._iou, self._max_boxes)]
        for box in xyxy[whole]:
            parts = parts[_covered(xyxy[parts], box) < _COVERED]
        rows = np.concatenate([whole, parts])
        return rows[_nms(xyxy[rows], objectness[rows], self._iou, self._max_boxes)]


def tile(proposer: Proposer, config: ProposalConfig) -> Proposer:
    """A proposer on tiles of the size in `config`; the proposer itself if there is none."""
    if config.tile_size is None:
        return proposer
    return TiledProposer(proposer, config.tile_size, iou=config.iou, max_boxes=config.max_boxes)


def with_sizes(proposer: Proposer, config: ProposalConfig) -> Proposer:
    """The same network with the input size and the tile size of `config`.

    Raises:
        ModelError: the proposer has one input size only.
    """
    if isinstance(proposer, TiledProposer):
        proposer = proposer.proposer
    if config.image_size is not None:
        resize = getattr(proposer, "with_image_size", None)
        if resize is None:
            raise ModelError(
                "The proposer has one input size; leave the size out, or give yours the method "
                "with_image_size."
            )
        proposer = resize(config.image_size)
    return tile(proposer, config)


def tile_count(shape: tuple[int, int], tile_size: int) -> int:
    """How many tiles an image of height and width `shape` is cut into; 0 if it is no larger.

    >>> tile_count((1080, 1920), 640), tile_count((480, 640), 640)
    (8, 0)
    """
    if max(shape) <= tile_size:
        return 0
    step = tile_size - round(_OVERLAP * tile_size)
    rows, columns = (-(-max(side - tile_size, 0) // step) + 1 for side in shape)
    return rows * columns


def _covered(xyxy: Boxes, by: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share `(N,)` of the area of each box that is inside the box `by` `(4,)`.

    >>> _covered(np.array([[0, 0, 4, 4], [0, 0, 8, 8]], np.float32), np.array([2, 0, 9, 9]))
    array([0.5 , 0.75])
    """
    sides = np.minimum(xyxy[:, 2:], by[2:]) - np.maximum(xyxy[:, :2], by[:2])
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    return sides.clip(min=0).prod(axis=1) / np.maximum(areas, 1e-6)  # no division by zero


def _nms(xyxy: Boxes, objectness: NDArray[np.float32], iou: float, limit: int) -> NDArray[np.intp]:
    """Rows that class-agnostic NMS keeps, best first; one row of IoUs in memory at a time.

    >>> boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], np.float32)
    >>> _nms(boxes, np.array([0.5, 0.6, 0.9], np.float32), iou=0.65, limit=100)
    array([2, 1])
    """
    order = np.argsort(-objectness, kind="stable")
    kept: list[np.intp] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[sv.box_iou_batch(xyxy[[best]], xyxy[order])[0] <= iou]
    return np.array(kept, np.intp)
