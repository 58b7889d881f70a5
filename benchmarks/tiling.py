"""What tiles find that a look at the whole image does not, on COCO photos and mosaics of them.

    .venv/bin/python benchmarks/tiling.py ../shared/data/coco-dev --json benchmarks/results/tiling.json

Mosaics are of photos at their own size, 2x2 and 3x3, labels moved along: there are no large photos
with labels at hand. Recall is class-agnostic, at IoU .5; AP50 that of the detector's own labels.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import supervision as sv

from openvocab import OpenVocabDetector
from openvocab.evaluation import matching, metrics
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.evaluation.formats import load as load_dataset
from openvocab.evaluation.provenance import provenance
from openvocab.proposers.tiled import TiledProposer
from openvocab.types import Image, Proposals, Proposer

COUNTS = (10, 30, 100, 300)
SIDES = {"small": (0, 32), "medium": (32, 96), "large": (96, 1e5)}  # square roots of areas


class Counted:
    """A proposer that counts how many images it sees."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer, self.names, self.looks = proposer, proposer.names, 0

    def propose(self, pictures: Sequence[Image]) -> list[Proposals]:
        """Of the proposer."""
        self.looks += len(pictures)
        return self._proposer.propose(pictures)


def mosaics(dataset: Dataset, across: int, folder: Path) -> Dataset:
    """Photos side by side, upright ones last, each in a cell of the size of the largest."""
    order = sorted(dataset.photos, key=lambda photo: photo.size_wh[1] > photo.size_wh[0])
    cells = across**2
    groups = [order[first : first + cells] for first in range(0, len(order), cells)]
    return dataset.only([_mosaic(group, across, folder) for group in groups])


def _mosaic(photos: Sequence[Photo], across: int, folder: Path) -> Photo:
    width, height = np.max([photo.size_wh for photo in photos], axis=0).tolist()
    canvas = np.full((-(-len(photos) // across) * height, across * width, 3), 114, np.uint8)
    boxes = []
    for cell, photo in enumerate(photos):
        y, x = cell // across * height, cell % across * width
        canvas[y : y + photo.size_wh[1], x : x + photo.size_wh[0]] = photo.load()
        boxes.append(photo.xyxy + np.array([x, y, x, y], np.float32))
    path = folder / f"{across}-{photos[0].id}.png"
    cv2.imwrite(str(path), canvas)
    return Photo(
        id=photos[0].id,
        path=path,
        size_wh=(canvas.shape[1], canvas.shape[0]),
        xyxy=np.concatenate(boxes),
        class_ids=np.concatenate([photo.class_ids for photo in photos]),
        crowd=np.concatenate([photo.crowd for photo in photos]),
        areas=np.concatenate([photo.areas for photo in photos]),
    )


def figures(dataset: Dataset, found: Sequence[Proposals]) -> dict[str, Any]:
    """With and without classes; per cent."""
    places = {name: place for place, name in enumerate(dataset.classes)}
    named = [
        sv.Detections(
            each.xyxy,
            confidence=each.objectness,
            class_id=np.array([places.get(label, len(places)) for label in each.labels], np.intp),
        )
        for each in found
    ]
    alike = [
        sv.Detections(each.xyxy, confidence=each.confidence, class_id=np.zeros(len(each), np.intp))
        for each in named
    ]
    by_size = {
        name: matching.proposal_recall(_of_size(dataset, *sides), alike, [100])[100]
        for name, sides in SIDES.items()
    }
    recall = matching.proposal_recall(dataset, alike, COUNTS)
    return {
        "recall": {str(count): _percent(share) for count, share in recall.items()},
        "recall_100": {name: _percent(share) for name, share in by_size.items()},
        "AP50": _percent(metrics.ap50(matching.matches(dataset, named))),
        "proposals": round(float(np.mean([len(each) for each in found])), 1),
    }


def _of_size(dataset: Dataset, low: float, high: float) -> Dataset:
    """The same; boxes of other sizes need not be found."""
    return dataset.only(
        [
            dataclasses.replace(
                photo,
                crowd=photo.crowd | (np.sqrt(photo.areas) < low) | (np.sqrt(photo.areas) >= high),
            )
            for photo in dataset.photos
        ]
    )


def _percent(share: float) -> float:
    return round(100 * share, 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """For each mosaic and tile size, the figures and the cost."""
    dataset = load_dataset(options.dataset).part(options.part)
    preset = dataclasses.replace(load(options.preset), max_boxes=max(COUNTS))
    detector = OpenVocabDetector.from_preset(preset)
    proposer = Counted(detector.proposer)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for across in options.mosaics:
            pictures = dataset if across == 1 else mosaics(dataset, across, Path(folder))
            loaded = [photo.load() for photo in pictures.photos]
            whole_s = 0.0
            for size in [None, *options.tiles]:
                tiled = (
                    proposer
                    if size is None
                    else TiledProposer(
                        proposer, size, iou=preset.proposal_iou, max_boxes=preset.max_boxes
                    )
                )
                proposer.looks, begun = 0, time.perf_counter()
                found = tiled.propose(loaded)
                seconds = time.perf_counter() - begun
                whole_s = whole_s or seconds
                rows.append(
                    {"photos": f"{across}x{across}", "tile": size}
                    | figures(pictures, found)
                    | {
                        "looks": round(proposer.looks / len(pictures), 1),
                        "time_ratio": round(seconds / whole_s, 1),
                    }
                )
    return {"provenance": provenance(detector), "part": options.part, "rows": rows}


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", default="test", help="calibration is for choosing")
    parser.add_argument("--tiles", type=int, nargs="*", default=[416, 640, 960])
    parser.add_argument("--mosaics", type=int, nargs="*", default=[1, 2, 3], help="photos a side")
    parser.add_argument("--preset", default="starter")
    options = parser.parse_args()
    options.json.write_text(json.dumps(measure(options), indent=1) + "\n")


if __name__ == "__main__":
    main()
