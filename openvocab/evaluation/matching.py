"""Detections against labels, counted as COCO and LVIS count them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import supervision as sv
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from openvocab.evaluation.datasets import Dataset

Floats = NDArray[np.float64]
RIGHT, WRONG, IGNORED = 1, 0, -1
FREQUENCIES = ("r", "c", "f")
LVIS_MOST = 300  # boxes per photo, all classes together


@dataclass(frozen=True, slots=True, eq=False)
class Precision:
    """COCO's figures, from 0 to 1; NaN if nothing is labelled."""

    ap: float
    """AP, mean over IoU 0.50 to 0.95 and classes."""
    ap50: float
    ap75: float
    small: float
    """AP of boxes under 32x32 pixels."""
    medium: float
    large: float
    """AP of boxes over 96x96 pixels."""
    ar: float
    """Recall with the most detections that count, mean over IoU and classes."""
    by_class: Floats
    """`(K, 2)`, AP and AP50 of each class."""
    by_frequency: dict[str, float]
    """AP of rare, common and frequent classes (LVIS)."""


def precision(dataset: Dataset, found: Sequence[sv.Detections]) -> Precision:
    """Compute average precision and recall; for LVIS, by its federated rules.

    VideoSources: COCO (Lin et al., ECCV 2014) and LVIS (Gupta et al., CVPR 2019), by faster-coco-eval.

    Args:
        dataset: N photos, K classes.
        found: detections of each photo; those with a `class_id` of K or more, which are none of
            the dataset's classes, are left out.
    """
    run = _evaluator(dataset, found)
    run.params.maxDets = [LVIS_MOST] if dataset.kind == "lvis" else [1, 10, 100]
    run.evaluate()
    run.accumulate()
    table = run.eval["precision"][:, :, :, :, -1]  # (IoU, recall, class, area)
    every = table[:, :, :, 0]
    frequencies = np.array(dataset.frequencies or ())
    small, medium, large = (_mean(table[:, :, :, area]) for area in (1, 2, 3))
    return Precision(
        ap=_mean(every),
        ap50=_mean(every[0]),
        ap75=_mean(every[5]),
        small=small,
        medium=medium,
        large=large,
        ar=_mean(run.eval["recall"][:, :, 0, -1]),
        by_class=np.array([[_mean(rows), _mean(rows[0])] for rows in np.moveaxis(every, 2, 0)]),
        by_frequency={
            key: _mean(every[:, :, frequencies == key]) for key in FREQUENCIES if len(frequencies)
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Every detection in a dataset's photos, as right or wrong at IoU 0.5."""

    photos: NDArray[np.intp]
    """`(D,)`, index of its photo."""
    rows: NDArray[np.intp]
    """`(D,)`, its row among the detections there."""
    scores: Floats
    class_ids: NDArray[np.intp]
    verdicts: NDArray[np.int8]
    """`(D,)`: 1 right, 0 wrong, -1 neither: in a crowd, or of a class not labelled there."""
    labels: NDArray[np.intp]
    """`(P, K)`, number of boxes to find, per photo and class."""

    @property
    def labelled(self) -> int:
        """Number of boxes to find."""
        return int(self.labels.sum())

    def judged(self, threshold: float = 0.0) -> tuple[Floats, NDArray[np.bool_]]:
        """Scores and correctness of detections that are right or wrong, and above a threshold."""
        keep = (self.verdicts != IGNORED) & (self.scores >= threshold)
        return self.scores[keep], self.verdicts[keep] == RIGHT


def matches(dataset: Dataset, found: Sequence[sv.Detections]) -> Matches:
    """Match as COCO does: best score first, each labelled box once."""
    run = _evaluator(dataset, found, extra_calc=True)
    run.params.iouThrs = np.array([0.5])
    _over_all_sizes(run, [max(map(len, found), default=0) or 1])
    truth, rows = run.cocoGt.anns, list(run.cocoDt.anns.values())
    verdicts = np.full(len(rows), WRONG, np.int8)
    for index, row in enumerate(rows):
        photo, class_id = dataset.photos[row["image_id"]], row["category_id"]
        looked_for = photo.absent is None or class_id in photo.absent | photo.labelled
        if "gt_id" in row:
            verdicts[index] = IGNORED if truth[row["gt_id"]]["iscrowd"] else RIGHT
        elif not looked_for or class_id in photo.not_exhaustive:
            verdicts[index] = IGNORED
    return Matches(
        np.array([row["image_id"] for row in rows], np.intp),
        np.array([row["row"] for row in rows], np.intp),
        np.array([row["score"] for row in rows], np.float64),
        np.array([row["category_id"] for row in rows], np.intp),
        verdicts,
        np.array(
            [
                np.bincount(photo.class_ids[~photo.crowd], minlength=len(dataset.classes))
                for photo in dataset.photos
            ]
        ).reshape(-1, len(dataset.classes)),
    )


def proposal_recall(
    dataset: Dataset, found: Sequence[sv.Detections], counts: Sequence[int]
) -> dict[int, float]:
    """Share of labelled boxes matched at IoU 0.5 by one of the best `counts` proposals per photo.

    Args:
        dataset: N photos.
        found: proposals of each photo, whose classes do not matter.
        counts: how many proposals per photo may be used.
    """
    run = _evaluator(replace(dataset, kind="coco"), found)  # every box was looked for
    run.params.useCats = 0
    run.params.iouThrs = np.array([0.5])
    _over_all_sizes(run, sorted(counts))
    values = run.eval["recall"].reshape(-1)
    return {most: _mean(value) for most, value in zip(sorted(counts), values[:, None], strict=True)}


def confusion(
    dataset: Dataset, found: Sequence[sv.Detections], classes: Sequence[str], threshold: float
) -> NDArray[np.intp]:
    """Confusion matrix `(C + 1, C + 1)`: labels down, detections across, "none" last.

    Args:
        dataset: N photos; crowds are left out.
        found: detections of each photo, of the C `classes`.
        classes: names of the rows; the dataset's come first.
        threshold: lowest score that counts.
    """
    targets = [
        sv.Detections(photo.xyxy[~photo.crowd], class_id=photo.class_ids[~photo.crowd])
        for photo in dataset.photos
    ]
    table = sv.ConfusionMatrix.from_detections(
        predictions=list(found), targets=targets, classes=list(classes), conf_threshold=threshold
    )
    return table.matrix.astype(np.intp)


def _evaluator(
    dataset: Dataset, found: Sequence[sv.Detections], *, extra_calc: bool = False
) -> COCOeval_faster:
    """Make COCO's evaluator, with indices into the dataset as ids."""
    lvis = dataset.kind == "lvis"
    truth = COCO({
        "images": [
            {"id": place, "width": photo.size_wh[0], "height": photo.size_wh[1],
             "neg_category_ids": list(photo.absent or ()),
             "not_exhaustive_category_ids": list(photo.not_exhaustive)}
            for place, photo in enumerate(dataset.photos)
        ],
        "categories": [
            {"id": place, "name": name}
            | ({"frequency": dataset.frequencies[place]} if dataset.frequencies else {})
            for place, name in enumerate(dataset.classes)
        ],
        "annotations": list(_truth(dataset)),
    })  # fmt: skip
    rows = list(_rows(found, len(dataset.classes)))
    if lvis:
        rows = _best_of_each(rows)
    return COCOeval_faster(
        truth, truth.loadRes(rows), "bbox", lvis_style=lvis, extra_calc=extra_calc
    )


def _best_of_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best boxes of each photo, as many as LVIS counts."""
    ranked = sorted(rows, key=lambda row: (row["image_id"], -row["score"]))
    groups = groupby(ranked, key=itemgetter("image_id"))
    return [row for _, group in groups for row in islice(group, LVIS_MOST)]


def _over_all_sizes(run: COCOeval_faster, counts: list[int]) -> None:
    """Run the evaluator for boxes of all sizes together."""
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
    run.params.maxDets = counts
    run.evaluate()
    run.accumulate()


def _truth(dataset: Dataset) -> Iterator[dict[str, Any]]:
    number = count(1)
    for place, photo in enumerate(dataset.photos):
        columns = photo.class_ids, photo.crowd, photo.areas, _xywh(photo.xyxy)
        for class_id, crowd, area, box in zip(*(each.tolist() for each in columns), strict=True):
            yield {"id": next(number), "image_id": place, "category_id": class_id,
                   "iscrowd": int(crowd), "area": area, "bbox": box}  # fmt: skip


def _rows(found: Sequence[sv.Detections], classes: int) -> Iterator[dict[str, Any]]:
    for place, each in enumerate(found):
        if each.class_id is None or each.confidence is None:
            continue
        known = np.flatnonzero(each.class_id < classes)
        scores = each.confidence[known].astype(np.float64)
        columns = known, each.class_id[known], scores, _xywh(each.xyxy[known])
        for row, class_id, score, box in zip(*(part.tolist() for part in columns), strict=True):
            yield {"image_id": place, "category_id": class_id, "row": row,
                   "score": score, "bbox": box}  # fmt: skip


def _xywh(xyxy: NDArray[np.number[Any]]) -> Floats:
    corners = xyxy.astype(np.float64)
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def _mean(table: NDArray[np.float64]) -> float:
    """Mean of the values other than -1, COCO's mark for "nothing labelled"."""
    known = table[table > -1]
    return float(known.mean()) if known.size else float("nan")
