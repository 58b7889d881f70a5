"""Accuracy by the relation of a word to the detector's labels: same, kind, broader, left out.

Ground truth is exact in all of them. A broader word means the boxes of all its classes; a kind is
asked of a detector whose labels were made broader; a left-out word of one that lacks the label; an
example picture is a crop of an image that is not evaluated. Words go through the pipeline that
users call, and come with the result of the detector's own, unchanged labels for comparison.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ModelError
from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.evaluation._example_crops import example_crops
from openvocab.evaluation._feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation._other_detectors import (
    CoarserProposer,
    LeftOutLabels,
    dissimilar_folds,
)
from openvocab.evaluation._prompt_variants import ABSENT_COUNT, EvaluationTask
from openvocab.scoring import ClassHead
from openvocab.types import EncodedRegions, Proposals
from openvocab.vocabulary import Classes
from openvocab.vocabulary._prompts import name_key

MIN_SCORE = 0.001  # detections with lower scores do not change AP
EXAMPLE_COUNTS = (1, 8)

Groups = Mapping[str, Sequence[str]]
"""By word, the dataset's classes whose boxes it means."""


@dataclass(frozen=True)
class Relation:
    """Words of one relation, and the calls that ask for them."""

    name: str
    groups: Groups
    calls: Sequence[ClassHead]
    """The words of all calls together are those of `groups`, in order."""
    regions: Callable[[DatasetImage, CachedFeatures], Sequence[EncodedRegions]]
    """The encoded regions of an image for each call."""
    excluded: frozenset[Path] = frozenset()
    """Images that are not evaluated."""

    def detect(self, image: DatasetImage, cached: CachedFeatures) -> sv.Detections:
        """The detections of all calls; `class_id` is an index into `groups`."""
        found, first = [], 0
        for head, regions in zip(self.calls, self.regions(image, cached), strict=True):
            detections = head.classify(regions)
            ids = np.asarray(detections.class_id, np.intp) + first
            found.append((detections.xyxy, detections.confidence, ids))
            first += len(head.names)
        xyxy, confidence, class_ids = (
            np.concatenate(column) for column in zip(*found, strict=True)
        )
        return sv.Detections(xyxy, confidence=confidence, class_id=class_ids)


@dataclass(frozen=True)
class RelationResult:
    """The detections of one relation's words."""

    name: str
    dataset: Dataset
    """The evaluated images, with the words as classes."""
    matches: matching.Matches
    detector_alone: NDArray[np.float64]
    """AP50 `(K,)` of the detector's own labels, all of a word's together; NaN without any."""

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Metrics as a table for JSON, from 0 to 1."""
        ap50 = metrics.ap50_by_class(self.matches)
        f1_by_word = metrics.f1_by_class(self.matches, np.append(metrics.THRESHOLDS, threshold))
        *f1, f1_there = _mean(f1_by_word).tolist()
        per_image, per_absent = metrics.false_positives(self.matches, self._absent(), threshold)
        counts = self.matches.label_counts.sum(axis=0).tolist()
        columns = ap50.tolist(), self.detector_alone.tolist(), f1_by_word[:, -1].tolist()
        keys = ("word", "boxes", "AP50", "detector_alone_AP50", "F1")
        rows = zip(self.dataset.classes, counts, *columns, strict=True)
        return {
            "words": len(self.dataset.classes),
            "images": len(self.dataset),
            "boxes": sum(counts),
            "AP50": float(_mean(ap50)),
            "detector_alone_AP50": float(
                _mean(np.where(np.isnan(ap50), np.nan, self.detector_alone))
            ),
            "mean_F1": f1_there,
            "best_mean_F1": max(f1),
            "best_mean_F1_threshold": round(float(metrics.THRESHOLDS[int(np.argmax(f1))]), 2),
            "ECE": metrics.calibration_error(*self.matches.counted()),
            "ECE_above_threshold": metrics.calibration_error(*self.matches.counted(threshold)),
            "false_boxes_per_image": per_image,
            "false_boxes_of_five_absent_words": ABSENT_COUNT * per_absent,
            "reliability": metrics.reliability(*self.matches.counted()).tolist(),
            "by_word": [dict(zip(keys, row, strict=True)) for row in rows],
        }

    def _absent(self) -> NDArray[np.bool_]:
        """`(P, K)`, words that are in none of an image's boxes, and were verified to be."""
        absent = np.ones(self.matches.label_counts.shape, np.bool_)
        for row, image in zip(absent, self.dataset.images, strict=True):
            row[list(image.present)] = False
            if image.absent is not None:
                row[[word for word in range(len(row)) if word not in image.absent]] = False
        return absent


@dataclass
class RelationRun:
    """Collects the detections of a relation, image by image."""

    relation: Relation
    images: list[DatasetImage] = field(default_factory=list)
    detections: list[sv.Detections] = field(default_factory=list)
    proposals: list[Proposals] = field(default_factory=list)

    def add(self, image: DatasetImage, cached: CachedFeatures) -> None:
        """Detect the words in an image, unless it is excluded."""
        if image.path not in self.relation.excluded:
            self.images.append(image)
            self.detections.append(self.relation.detect(image, cached))
            self.proposals.append(cached.regions.proposals)

    def result(self, dataset: Dataset, detector: OpenVocabDetector) -> RelationResult | None:
        """Match what was found; None if no word has a labelled box."""
        groups = self.relation.groups
        grouped = dataset.with_images(self.images).grouped(groups)
        if not grouped.box_count:
            return None
        labels, nms_iou = detector.proposer.labels, detector.preset.scoring.nms_iou
        alone = own_label_detections(self.proposals, labels, groups, nms_iou)
        return RelationResult(
            self.relation.name,
            grouped,
            matching.match(grouped, self.detections),
            metrics.ap50_by_class(matching.match(grouped, alone)),
        )


def find_relations(
    detector: OpenVocabDetector, task: EvaluationTask, cache: FeatureCache, *, slow: bool
) -> tuple[list[RelationRun], list[str]]:
    """The relations that a task has words for, and why others are left out.

    Args:
        detector: the detector to evaluate.
        task: without broader words, there are neither these nor kinds.
        cache: of the detector.
        slow: also left-out names and example pictures, which run the networks again.
    """
    found, problems = [], []
    if task.broader:
        found += [_kinds(detector, task), _broader(detector, task)]
    if slow:
        try:
            found.append(_left_out(detector, task, cache))
        except ModelError as error:
            problems.append(f"No left-out names: {error}")
        found += [_examples(detector, task, count) for count in EXAMPLE_COUNTS]
    return [RelationRun(relation) for relation in found if relation is not None], problems


def _kinds(detector: OpenVocabDetector, task: EvaluationTask) -> Relation | None:
    """Names of classes whose labels the detector has under a broader word only; one call."""
    words: dict[str, str] = {}
    by_key = {name_key(label): label for label in detector.proposer.labels}
    groups = {}
    for word, names in task.broader.items():
        known = [name for name in names if name_key(name) in by_key]
        for name in known if len(known) > 1 else ():
            words.setdefault(by_key[name_key(name)], word)
            groups[name] = (name,)
    if not groups:
        return None
    proposals = detector.preset.proposals
    coarser = CoarserProposer(detector.proposer, words, iou=proposals.iou)
    other = OpenVocabDetector(coarser, detector.encoder, detector.preset)
    return Relation("kind", groups, [_head(other, task, list(groups))], coarser.regions)


def _broader(detector: OpenVocabDetector, task: EvaluationTask) -> Relation:
    """Broader words, each in a call of its own: some share classes, and a box gets one word only."""
    calls = [_head(detector, task, [word]) for word in task.broader]
    return Relation("broader", task.broader, calls, lambda _, cached: [cached.regions] * len(calls))


def _left_out(
    detector: OpenVocabDetector, task: EvaluationTask, cache: FeatureCache
) -> Relation | None:
    """Names that the detector lacks; one call for each fold of names that differ in meaning."""
    by_key = {name_key(label): label for label in detector.proposer.labels}
    names = [name for name in task.dataset.classes if name_key(name) in by_key]
    if not names or len(by_key) < 2:
        return None
    folds = [
        [names[index] for index in fold]
        for fold in dissimilar_folds(detector.vocabulary(names).features)
    ]
    labels = [[by_key[name_key(name)] for name in fold] for fold in folds]
    left_out = LeftOutLabels(detector, labels, cache)
    pairs = zip(left_out.detectors, folds, strict=True)
    calls = [_head(other, task, fold) for other, fold in pairs]
    groups = {name: (name,) for fold in folds for name in fold}
    return Relation("left out", groups, calls, left_out.regions)


def _examples(detector: OpenVocabDetector, task: EvaluationTask, count: int) -> Relation | None:
    """Classes by pictures alone, cut from images that are not evaluated; one call."""
    crops = {} if task.examples is None else example_crops(task.examples, count)
    if task.examples is None or not crops:
        return None
    plural = "s" if count > 1 else ""
    return Relation(
        f"{count} picture{plural}",
        {name: (name,) for name in crops},
        [_head(detector, task, crops)],
        lambda _, cached: [cached.regions],
        frozenset(image.path for image in task.examples.images),
    )


def _head(detector: OpenVocabDetector, task: EvaluationTask, classes: Classes) -> ClassHead:
    negatives = task.negatives_for(classes)
    return detector.class_head(classes, negatives=negatives, score_threshold=MIN_SCORE)


def own_label_detections(
    proposals: Sequence[Proposals], labels: Sequence[str], groups: Groups, nms_iou: float
) -> list[sv.Detections]:
    """The detector's own labels as detections of words that mean them.

    Args:
        proposals: boxes of P images.
        labels: the detector's own.
        groups: by word, names of classes.
        nms_iou: IoU above which the weaker of two boxes of the same word is dropped, since labels
            that a word shares were not suppressed by each other.
    """
    keys = [{name_key(name) for name in names} for names in groups.values()]
    means = np.array([[name_key(label) in of_word for of_word in keys] for label in labels])
    shared = (means.sum(axis=0) > 1).any()
    found = []
    for boxes in proposals:
        rows, words = np.nonzero(means[boxes.label_ids])
        detections = sv.Detections(
            boxes.xyxy[rows], confidence=boxes.objectness[rows], class_id=words
        )
        found.append(detections.with_nms(nms_iou) if shared and len(rows) else detections)
    return found


def _mean(by_word: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the words (first axis) that have a value; NaN if none has."""
    valid = ~np.isnan(by_word)
    totals = np.where(valid, by_word, 0).sum(axis=0)
    result: NDArray[np.float64] = totals / np.where(valid.any(axis=0), valid.sum(axis=0), np.nan)
    return result
