"""Matches detections to labels, and computes average precision, as COCO and LVIS do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import supervision as sv
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from openvocab.evaluation._datasets import Dataset

Floats = NDArray[np.float64]
TP, FP, IGNORED = 1, 0, -1
_FREQUENCIES = ("r", "c", "f")
_LVIS_MAX_DETECTIONS = 300  # per image, all classes together


class Precision(NamedTuple):
    """COCO's metrics, from 0 to 1; NaN if nothing is labelled."""

    metrics: dict[str, float]
    """`AP`, the mean over IoU 0.50 to 0.95 and classes; `AP50`; `AP75`; `AP_small`, under 32x32
    pixels; `AP_medium`; `AP_large`, over 96x96 pixels; `AR`, recall with the maximum number of
    detections; for LVIS, `AP_r`, `AP_c` and `AP_f`: rare, common and frequent classes."""
    by_class: Floats
    """`(K, 2)`, AP and AP50 of each class."""


def precision(dataset: Dataset, detections: Sequence[sv.Detections]) -> Precision:
    """Compute average precision and recall; for LVIS, by its federated rules.

    Source: COCO (Lin et al., ECCV 2014) and LVIS (Gupta et al., CVPR 2019), by faster-coco-eval.

    Args:
        dataset: P images, K classes.
        detections: detections of each image; those with a `class_id` of K or more, which are not
            classes of the dataset, are left out.
    """
    run = _evaluator(dataset, detections)
    run.params.maxDets = [_LVIS_MAX_DETECTIONS] if dataset.kind == "lvis" else [1, 10, 100]
    run.evaluate()
    run.accumulate()
    table = run.eval["precision"][:, :, :, :, -1]  # (IoU, recall, class, area)
    all_areas, *by_area = np.moveaxis(table, 3, 0)
    values = {"AP": all_areas, "AP50": all_areas[0], "AP75": all_areas[5]}
    values |= zip(("AP_small", "AP_medium", "AP_large"), by_area, strict=True)
    values["AR"] = run.eval["recall"][:, :, 0, -1]
    if dataset.frequencies:
        frequencies = np.array(dataset.frequencies)
        values |= {f"AP_{key}": all_areas[:, :, frequencies == key] for key in _FREQUENCIES}
    by_class = [[_mean(rows), _mean(rows[0])] for rows in np.moveaxis(all_areas, 2, 0)]
    return Precision({name: _mean(value) for name, value in values.items()}, np.array(by_class))


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """All D detections in a dataset's P images, matched to labels at IoU 0.5."""

    image_indices: NDArray[np.intp]
    """`(D,)`, index of the image in the dataset."""
    rows: NDArray[np.intp]
    """`(D,)`, row among the detections of the image."""
    scores: Floats
    class_ids: NDArray[np.intp]
    outcomes: NDArray[np.int8]
    """`(D,)`: `TP`, `FP`, or `IGNORED` (in a crowd, or of a class not verified in the image)."""
    label_counts: NDArray[np.intp]
    """`(P, K)`, labelled boxes per image and class."""
    label_rows: NDArray[np.intp]
    """`(D,)`, row of the matched box among the labelled boxes of the image; -1 for none."""

    @property
    def label_count(self) -> int:
        """Number of labelled boxes."""
        return int(self.label_counts.sum())

    def counted(self, threshold: float = 0.0) -> tuple[Floats, NDArray[np.bool_]]:
        """Scores of true and false positives above a threshold, and which are true."""
        keep = (self.outcomes != IGNORED) & (self.scores >= threshold)
        return self.scores[keep], self.outcomes[keep] == TP

    def without_ignored(self, detections: Sequence[sv.Detections]) -> list[sv.Detections]:
        """The detections of each image that are true or false positives."""
        keep = [np.ones(len(image_detections), np.bool_) for image_detections in detections]
        ignored = self.outcomes == IGNORED
        for index, row in zip(self.image_indices[ignored], self.rows[ignored], strict=True):
            keep[index][row] = False
        pairs = zip(detections, keep, strict=True)
        return [image_detections[rows] for image_detections, rows in pairs]  # type: ignore[misc]


def match(dataset: Dataset, detections: Sequence[sv.Detections]) -> Matches:
    """Match as COCO does: best score first, each labelled box once."""
    run = _evaluator(dataset, detections, extra_calc=True)
    run.params.iouThrs = np.array([0.5])
    _run_all_areas(run, [max(map(len, detections), default=0) or 1])
    labels, rows = run.cocoGt.anns, list(run.cocoDt.anns.values())
    outcomes, label_rows = np.full(len(rows), FP, np.int8), np.full(len(rows), -1, np.intp)
    offsets = np.cumsum([0, *(len(image.xyxy) for image in dataset.images)])
    for index, row in enumerate(rows):
        image, class_id = dataset.images[row["image_id"]], row["category_id"]
        is_verified = image.absent is None or class_id in image.absent | image.present
        if "gt_id" in row:
            outcomes[index] = IGNORED if labels[row["gt_id"]]["iscrowd"] else TP
            # `_annotations` numbers the boxes of all images from 1.
            label_rows[index] = row["gt_id"] - 1 - offsets[row["image_id"]]
        elif not is_verified or class_id in image.not_exhaustive:
            outcomes[index] = IGNORED
    class_count = len(dataset.classes)
    counts = [
        np.bincount(image.class_ids[~image.crowd], minlength=class_count)
        for image in dataset.images
    ]
    return Matches(
        np.array([row["image_id"] for row in rows], np.intp),
        np.array([row["row"] for row in rows], np.intp),
        np.array([row["score"] for row in rows], np.float64),
        np.array([row["category_id"] for row in rows], np.intp),
        outcomes,
        np.array(counts).reshape(-1, class_count),
        label_rows,
    )


def proposal_recall(
    dataset: Dataset, detections: Sequence[sv.Detections], counts: Sequence[int]
) -> dict[int, float]:
    """Share of labelled boxes matched at IoU 0.5 by one of the best `counts` proposals per image.

    Args:
        dataset: P images.
        detections: proposals of each image, whose classes do not matter.
        counts: numbers of proposals per image.
    """
    run = _evaluator(replace(dataset, kind="coco"), detections)  # all classes are verified
    run.params.useCats = 0
    run.params.iouThrs = np.array([0.5])
    _run_all_areas(run, sorted(counts))
    recalls = run.eval["recall"].reshape(-1, 1)
    return {limit: _mean(recall) for limit, recall in zip(sorted(counts), recalls, strict=True)}


def confusion(
    dataset: Dataset, detections: Sequence[sv.Detections], classes: Sequence[str], threshold: float
) -> NDArray[np.intp]:
    """Confusion matrix `(C + 1, C + 1)`: labels in rows, detections in columns, "none" last.

    Args:
        dataset: P images; crowds are left out.
        detections: detections of each image, of the C `classes`.
        classes: names of the rows, the dataset's first.
        threshold: lowest score that counts.
    """
    targets = [
        sv.Detections(image.xyxy[~image.crowd], class_id=image.class_ids[~image.crowd])
        for image in dataset.images
    ]
    table = sv.ConfusionMatrix.from_detections(
        predictions=list(detections),
        targets=targets,
        classes=list(classes),
        conf_threshold=threshold,
    )
    return table.matrix.astype(np.intp)


def _evaluator(
    dataset: Dataset, detections: Sequence[sv.Detections], *, extra_calc: bool = False
) -> COCOeval_faster:
    """COCO's evaluator, with indices into the dataset as ids."""
    is_lvis = dataset.kind == "lvis"
    frequencies = dataset.frequencies or [""] * len(dataset.classes)
    labels = COCO({
        "images": [
            {"id": index, "width": image.size_wh[0], "height": image.size_wh[1],
             "neg_category_ids": list(image.absent or ()),
             "not_exhaustive_category_ids": list(image.not_exhaustive)}
            for index, image in enumerate(dataset.images)
        ],
        "categories": [
            {"id": class_id, "name": name, "frequency": frequency}
            for class_id, (name, frequency) in enumerate(
                zip(dataset.classes, frequencies, strict=True)
            )
        ],
        "annotations": list(_annotations(dataset)),
    })  # fmt: skip
    results = list(_results(detections, len(dataset.classes)))
    if is_lvis:
        ranked = sorted(results, key=lambda row: (row["image_id"], -row["score"]))
        by_image = groupby(ranked, key=itemgetter("image_id"))
        results = [row for _, rows in by_image for row in islice(rows, _LVIS_MAX_DETECTIONS)]
    return COCOeval_faster(
        labels, labels.loadRes(results), "bbox", lvis_style=is_lvis, extra_calc=extra_calc
    )


def _run_all_areas(run: COCOeval_faster, max_detections: list[int]) -> None:
    """Run the evaluator for boxes of all sizes together."""
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
    run.params.maxDets = max_detections
    run.evaluate()
    run.accumulate()


def _annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    ids = count(1)
    for index, image in enumerate(dataset.images):
        columns = image.class_ids, image.crowd, image.areas, _xywh(image.xyxy)
        for class_id, crowd, area, xywh in zip(*(c.tolist() for c in columns), strict=True):
            yield {"id": next(ids), "image_id": index, "category_id": class_id,
                   "iscrowd": int(crowd), "area": area, "bbox": xywh}  # fmt: skip


def _results(detections: Sequence[sv.Detections], class_count: int) -> Iterator[dict[str, Any]]:
    for index, image_detections in enumerate(detections):
        if image_detections.class_id is None or image_detections.confidence is None:
            continue
        rows = np.flatnonzero(image_detections.class_id < class_count)
        scores = image_detections.confidence[rows].astype(np.float64)
        columns = rows, image_detections.class_id[rows], scores, _xywh(image_detections.xyxy[rows])
        for row, class_id, score, xywh in zip(*(c.tolist() for c in columns), strict=True):
            yield {"image_id": index, "category_id": class_id, "row": row,
                   "score": score, "bbox": xywh}  # fmt: skip


def _xywh(xyxy: NDArray[np.number[Any]]) -> Floats:
    corners = xyxy.astype(np.float64)
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def _mean(table: NDArray[np.float64]) -> float:
    """Mean of the values other than -1, COCO's mark for "nothing labelled"."""
    valid = table[table > -1]
    return float(valid.mean()) if valid.size else float("nan")
