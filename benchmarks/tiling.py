"""What tiles find that a look at the whole image does not, on COCO photos and mosaics of them.

    .venv/bin/python benchmarks/tiling.py COCO_FOLDER --tiles 416 640 960

COCO_FOLDER holds `instances.json` and `images/`; needs pycocotools. Mosaics are of photos at their
own size, 2x2 and 3x3, labels moved along; crowd boxes are left out. Recall is class-agnostic, at
IoU .5; AP50 that of the detector's own labels. `parts` counts the boxes over .3, of all images,
that are but a part of a labelled thing of their label: nine tenths inside, IoU under .5; `sure`
all over .3.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from openvocab import OpenVocabDetector, images
from openvocab.presets import load
from openvocab.proposers.tiled import TiledProposer
from openvocab.protocols import Image, Proposals, Proposer

COUNTS = (10, 30, 100, 300)
SIZES = ("small", "medium", "large")
Labelled = tuple[Image, list[dict[str, Any]]]


class Counted:
    """A proposer that counts how many images it sees."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer, self.names, self.looks = proposer, proposer.names, 0

    def propose(self, pictures: Sequence[Image]) -> list[Proposals]:
        """Of the proposer."""
        self.looks += len(pictures)
        return self._proposer.propose(pictures)


def photos(coco: COCO, folder: Path, half: int) -> list[Labelled]:
    """One half of the photos, sorted by name, upright ones last."""
    infos = sorted(coco.dataset["images"], key=lambda info: str(info["file_name"]))
    middle = len(infos) // 2
    infos = infos[middle:] if half == 2 else infos[:middle]
    infos.sort(key=lambda info: bool(info["height"] > info["width"]))
    return [
        (images.load(folder / "images" / info["file_name"]), coco.imgToAnns[info["id"]])
        for info in infos
    ]


def mosaic(some: Sequence[Labelled], across: int) -> Labelled:
    """Photos side by side, each in a cell of the size of the largest."""
    height, width = np.max([photo.shape[:2] for photo, _ in some], axis=0)
    canvas = np.full((-(-len(some) // across) * height, across * width, 3), 114, np.uint8)
    labels: list[dict[str, Any]] = []
    for cell, (photo, own) in enumerate(some):
        y, x = cell // across * height, cell % across * width
        canvas[y : y + photo.shape[0], x : x + photo.shape[1]] = photo
        for label in own:
            left, top, *sides = label["bbox"]
            labels.append(label | {"bbox": [float(left + x), float(top + y), *sides]})
    return canvas, labels


def figures(coco: COCO, pictures: Sequence[Labelled], found: Sequence[Proposals]) -> dict[str, Any]:
    """COCO's own counting, with and without classes."""
    numbers = {kind["name"]: kind["id"] for kind in coco.dataset["categories"]}
    truth, boxes, parts, sure = [], [], 0, 0
    for image, ((_, labels), proposals) in enumerate(zip(pictures, found, strict=True)):
        truth += [label | {"id": len(truth) + n + 1, "image_id": image} for n, label in enumerate(labels)]  # fmt: skip
        kinds = np.array([numbers.get(label, 0) for label in proposals.labels])
        parts += count_parts(proposals, kinds, labels)
        sure += int((proposals.objectness >= 0.3).sum())
        xywh = sv.xyxy_to_xywh(proposals.xyxy) if len(proposals) else proposals.xyxy
        boxes += [
            {"image_id": image, "category_id": int(kind), "bbox": box.tolist(), "score": float(score)}
            for kind, box, score in zip(kinds, xywh, proposals.objectness, strict=True)
        ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = coco.dataset | {
            "images": [{"id": number} for number in range(len(pictures))],
            "annotations": truth,
        }
        labelled.createIndex()
        detected = labelled.loadRes(boxes)
        recall = evaluate(labelled, detected, with_classes=False)["recall"][0, 0]  # (areas, counts)
        precision = evaluate(labelled, detected, with_classes=True)["precision"][0, :, :, 0, -1]
    return {
        "recall": {count: percent(recall[0, n]) for n, count in enumerate(COUNTS)},
        "recall_100": {size: percent(recall[1 + n, 2]) for n, size in enumerate(SIZES)},
        "ap50": percent(precision[precision >= 0].mean()),
        "proposals": round(len(boxes) / len(pictures), 1),
        "parts": parts,
        "sure": sure,
    }


def count_parts(found: Proposals, kinds: NDArray[np.intp], labels: Sequence[dict[str, Any]]) -> int:
    """How many sure boxes are but a part of a labelled thing."""
    if not len(found) or not labels:
        return 0
    things = sv.xywh_to_xyxy(np.array([label["bbox"] for label in labels]))
    same = kinds[:, None] == np.array([label["category_id"] for label in labels])
    areas = (things[:, 2:] - things[:, :2]).prod(axis=1)
    smaller = (found.xyxy[:, 2:] - found.xyxy[:, :2]).prod(axis=1)[:, None] < areas
    inside = sv.box_iou_batch(found.xyxy, things, overlap_metric=sv.OverlapMetric.IOS) >= 0.9
    inside &= smaller
    known = sv.box_iou_batch(found.xyxy, things).max(axis=1) >= 0.5
    known |= inside[:, [label["iscrowd"] == 1 for label in labels]].any(axis=1)
    part = (inside & same).any(axis=1) & ~known & (found.objectness >= 0.3)
    return int(part.sum())


def evaluate(labelled: COCO, detected: COCO, *, with_classes: bool) -> dict[str, Any]:
    """Precision and recall at IoU .5."""
    run = COCOeval(labelled, detected, "bbox")
    run.params.iouThrs = np.array([0.5])
    run.params.maxDets = list(COUNTS)
    run.params.useCats = int(with_classes)
    run.evaluate()
    run.accumulate()
    return dict(run.eval)


def percent(share: float) -> float:
    """Of a hundred, to one decimal."""
    return round(100 * float(share), 1)


def main() -> None:
    """Print one JSON object: for each mosaic and tile size, the figures and the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco", type=Path)
    parser.add_argument("--tiles", type=int, nargs="*", default=[416, 640, 960])
    parser.add_argument("--mosaics", type=int, nargs="*", default=[1, 2, 3], help="photos a side")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--half", type=int, choices=[1, 2], default=2, help="1 is for choosing")
    options = parser.parse_args()
    preset = dataclasses.replace(load(options.preset), max_boxes=max(COUNTS))
    proposer = Counted(OpenVocabDetector.from_preset(preset).proposer)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(options.coco / "instances.json")
    singles = photos(coco, options.coco, options.half)
    report: dict[str, Any] = {}
    for across in options.mosaics:
        cells = across**2
        pictures = [mosaic(singles[n : n + cells], across) for n in range(0, len(singles), cells)]
        seconds: dict[str, float] = {}
        for size in [None, *options.tiles]:
            way = "whole" if size is None else f"tiles of {size}"
            looker = (
                proposer
                if size is None
                else TiledProposer(
                    proposer, size, iou=preset.proposal_iou, max_boxes=preset.max_boxes
                )
            )
            proposer.looks, begun = 0, time.perf_counter()
            found = looker.propose([picture for picture, _ in pictures])
            seconds[way] = time.perf_counter() - begun
            report.setdefault(f"{across}x{across}", {})[way] = figures(coco, pictures, found) | {
                "looks": round(proposer.looks / len(pictures), 1),
                "time_ratio": round(seconds[way] / seconds["whole"], 1),
            }
    print(json.dumps(report))  # noqa: T201  a script's result


if __name__ == "__main__":
    main()
