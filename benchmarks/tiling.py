"""What tiles find that a run on the whole image does not, on COCO images and mosaics of them.

    .venv/bin/python benchmarks/tiling.py ../shared/data/coco-dev --json benchmarks/results/tiling.json

Mosaics are of images at their own size, 2x2 and 3x3, with their labels: no large labelled images were at hand. Recall is
class-agnostic, at IoU .5; AP50 is that of the detector's own labels.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import supervision as sv

from openvocab import OpenVocabDetector
from openvocab.config import load_preset
from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.evaluation._formats import load_dataset
from openvocab.evaluation._provenance import provenance
from openvocab.proposers import TiledProposer
from openvocab.types import Image, Proposals, Proposer

COUNTS = (10, 30, 100, 300)
SIDES = {"small": (0, 32), "medium": (32, 96), "large": (96, 1e5)}  # square roots of areas


class CountingProposer:
    """A proposer that counts its runs."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer, self.labels, self.runs = proposer, proposer.labels, 0

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Boxes of the proposer."""
        self.runs += len(images)
        return self._proposer.propose(images)


def mosaics(dataset: Dataset, side: int, folder: Path) -> Dataset:
    """Mosaics of `side` x `side` images, upright ones last, in cells of the size of the largest."""
    order = sorted(dataset.images, key=lambda image: image.size_wh[1] > image.size_wh[0])
    groups = [order[first : first + side**2] for first in range(0, len(order), side**2)]
    return dataset.with_images([_mosaic(group, side, folder) for group in groups])


def _mosaic(images: Sequence[DatasetImage], side: int, folder: Path) -> DatasetImage:
    width, height = np.max([image.size_wh for image in images], axis=0).tolist()
    canvas = np.full((-(-len(images) // side) * height, side * width, 3), 114, np.uint8)
    boxes = []
    for cell, image in enumerate(images):
        y, x = cell // side * height, cell % side * width
        canvas[y : y + image.size_wh[1], x : x + image.size_wh[0]] = image.load()
        boxes.append(image.xyxy + np.array([x, y, x, y], np.float32))
    path = folder / f"{side}-{images[0].id}.png"
    cv2.imwrite(str(path), canvas)
    return DatasetImage(
        id=images[0].id,
        path=path,
        size_wh=(canvas.shape[1], canvas.shape[0]),
        xyxy=np.concatenate(boxes),
        class_ids=np.concatenate([image.class_ids for image in images]),
        crowd=np.concatenate([image.crowd for image in images]),
        areas=np.concatenate([image.areas for image in images]),
    )


def compute(
    dataset: Dataset, proposals: Sequence[Proposals], labels: Sequence[str]
) -> dict[str, Any]:
    """Metrics with and without classes, in per cent."""
    class_ids = {name: class_id for class_id, name in enumerate(dataset.classes)}
    by_label = np.array([class_ids.get(label, len(class_ids)) for label in labels], np.intp)
    classified = [
        sv.Detections(boxes.xyxy, confidence=boxes.objectness, class_id=by_label[boxes.label_ids])
        for boxes in proposals
    ]
    agnostic = [
        dataclasses.replace(detections, class_id=np.zeros(len(detections), np.intp))
        for detections in classified
    ]
    by_size = {
        name: matching.proposal_recall(_of_size(dataset, *sides), agnostic, [100])[100]
        for name, sides in SIDES.items()
    }
    recall = matching.proposal_recall(dataset, agnostic, COUNTS)
    return {
        "recall": {str(count): _percent(share) for count, share in recall.items()},
        "recall_100": {name: _percent(share) for name, share in by_size.items()},
        "AP50": _percent(metrics.ap50(matching.match(dataset, classified))),
        "proposals": round(float(np.mean([len(boxes) for boxes in proposals])), 1),
    }


def _of_size(dataset: Dataset, low: float, high: float) -> Dataset:
    """The same dataset, in which boxes of other sizes are crowds and need not be found."""
    images = []
    for image in dataset.images:
        sides = np.sqrt(image.areas)
        crowd = image.crowd | (sides < low) | (sides >= high)
        images.append(dataclasses.replace(image, crowd=crowd))
    return dataset.with_images(images)


def _percent(share: float) -> float:
    return round(100 * share, 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """For each mosaic and tile size, the metrics and the cost."""
    dataset = load_dataset(options.dataset).part(options.part)
    preset = load_preset(options.preset)
    proposals = dataclasses.replace(preset.proposals, max_boxes=max(COUNTS))
    detector = OpenVocabDetector.from_preset(dataclasses.replace(preset, proposals=proposals))
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for side in options.mosaics
            for row in _rows(
                detector,
                dataset if side == 1 else mosaics(dataset, side, Path(folder)),
                f"{side}x{side}",
                options.tiles,
            )
        ]
    return {"provenance": provenance(detector), "part": options.part, "rows": rows}


def _rows(
    detector: OpenVocabDetector, dataset: Dataset, mosaic: str, tiles: Sequence[int]
) -> Iterator[dict[str, Any]]:
    config = detector.preset.proposals
    whole = CountingProposer(detector.proposer)
    images = [image.load() for image in dataset.images]
    whole_s = 0.0
    for size in (None, *tiles):
        proposer: Proposer = whole
        if size is not None:
            proposer = TiledProposer(whole, size, iou=config.iou, max_boxes=config.max_boxes)
        whole.runs, started = 0, time.perf_counter()
        proposals = proposer.propose(images)
        seconds = time.perf_counter() - started
        whole_s = whole_s or seconds
        yield {
            "mosaic": mosaic,
            "tile": size,
            **compute(dataset, proposals, whole.labels),
            "runs": round(whole.runs / len(images), 1),
            "time_ratio": round(seconds / whole_s, 1),
        }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", default="test", help="calibration is for choosing")
    parser.add_argument("--tiles", type=int, nargs="*", default=[416, 640, 960])
    parser.add_argument("--mosaics", type=int, nargs="*", default=[1, 2, 3], help="images per side")
    parser.add_argument("--preset", default="starter")
    options = parser.parse_args()
    options.json.write_text(json.dumps(measure(options), indent=1) + "\n")


if __name__ == "__main__":
    main()
