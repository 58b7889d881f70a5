"""Accuracy by the relation of a word to the detector's labels: same, kind, broader, left out.

Ground truth is exact for every relation. The boxes of a broader word are those of all its classes.
Kinds are detected after the detector's labels were replaced by broader ones, left-out words after
their labels were removed. Example pictures are crops of images that are not evaluated. Words go
through the public pipeline; the detector's own, unchanged labels are evaluated for comparison.
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
"""By word, the names of the dataset classes that it covers."""


@dataclass(frozen=True)
class Relation:
    """Words of one relation, and the class heads that detect them."""

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
        results, offset = [], 0
        for head, regions in zip(self.calls, self.regions(image, cached), strict=True):
            detections = head.classify(regions)
            class_id = np.asarray(detections.class_id, np.intp) + offset
            results.append((detections.xyxy, detections.confidence, class_id))
            offset += len(head.names)
        xyxy, confidence, class_id = (
            np.concatenate(arrays) for arrays in zip(*results, strict=True)
        )
        return sv.Detections(xyxy, confidence=confidence, class_id=class_id)


@dataclass(frozen=True)
class RelationResult:
    """The detections of one relation's words."""

    name: str
    dataset: Dataset
    """The evaluated images, with the words as classes."""
    matches: matching.Matches
    detector_alone: NDArray[np.float64]
    """AP50 `(K,)` of the detector's own labels, those of a word taken together; NaN for a word
    without labelled boxes."""

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Metrics from 0 to 1, as a JSON-able table."""
        ap50 = metrics.ap50_by_class(self.matches)
        f1_by_word = metrics.f1_by_class(self.matches, np.append(metrics.THRESHOLDS, threshold))
        *f1, f1_at_threshold = _mean(f1_by_word).tolist()
        fp_per_image, fp_per_absent_word = metrics.false_positives(
            self.matches, self._absent(), threshold
        )
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
            "mean_F1": f1_at_threshold,
            "best_mean_F1": max(f1),
            "best_mean_F1_threshold": round(float(metrics.THRESHOLDS[int(np.argmax(f1))]), 2),
            "ECE": metrics.calibration_error(*self.matches.counted()),
            "ECE_above_threshold": metrics.calibration_error(*self.matches.counted(threshold)),
            "false_boxes_per_image": fp_per_image,
            "false_boxes_of_five_absent_words": ABSENT_COUNT * fp_per_absent_word,
            "reliability": metrics.reliability(*self.matches.counted()).tolist(),
            "by_word": [dict(zip(keys, row, strict=True)) for row in rows],
        }

    def _absent(self) -> NDArray[np.bool_]:
        """`(P, K)`: no box of the image has the word, and its absence was verified."""
        is_absent = np.ones(self.matches.label_counts.shape, np.bool_)
        for row, image in zip(is_absent, self.dataset.images, strict=True):
            row[list(image.present)] = False
            if image.absent is not None:
                row[[word_id for word_id in range(len(row)) if word_id not in image.absent]] = False
        return is_absent


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
        """Match the detections; None if no word has a labelled box."""
        groups = self.relation.groups
        word_dataset = dataset.with_images(self.images).grouped(groups)
        if not word_dataset.box_count:
            return None
        labels, nms_iou = detector.proposer.labels, detector.preset.scoring.nms_iou
        label_detections = own_label_detections(self.proposals, labels, groups, nms_iou)
        return RelationResult(
            self.relation.name,
            word_dataset,
            matching.match(word_dataset, self.detections),
            metrics.ap50_by_class(matching.match(word_dataset, label_detections)),
        )


def find_relations(
    detector: OpenVocabDetector, task: EvaluationTask, cache: FeatureCache, *, slow: bool
) -> tuple[list[RelationRun], list[str]]:
    """The relations that a task has words for, and the reasons why others are skipped.

    Args:
        detector: the detector to evaluate.
        task: if it has no broader words, both "broader" and "kind" are skipped.
        cache: features of the detector.
        slow: include left-out names and example pictures, which run the networks again.
    """
    relations, skipped = [], []
    if task.broader:
        relations += [_kinds(detector, task), _broader(detector, task)]
    if slow:
        try:
            relations.append(_left_out(detector, task, cache))
        except ModelError as error:
            skipped.append(f"No left-out names: {error}")
        relations += [_examples(detector, task, count) for count in EXAMPLE_COUNTS]
    return [RelationRun(relation) for relation in relations if relation is not None], skipped


def _kinds(detector: OpenVocabDetector, task: EvaluationTask) -> Relation | None:
    """Class names, for a detector that has only a broader word for each as a label; one call."""
    broader_words: dict[str, str] = {}  # by label
    label_by_key = {name_key(label): label for label in detector.proposer.labels}
    groups = {}
    for word, names in task.broader.items():
        names_with_label = [name for name in names if name_key(name) in label_by_key]
        for name in names_with_label if len(names_with_label) > 1 else ():
            broader_words.setdefault(label_by_key[name_key(name)], word)
            groups[name] = (name,)
    if not groups:
        return None
    proposer = CoarserProposer(detector.proposer, broader_words, iou=detector.preset.proposals.iou)
    coarser_detector = OpenVocabDetector(proposer, detector.encoder, detector.preset)
    return Relation("kind", groups, [_head(coarser_detector, task, list(groups))], proposer.regions)


def _broader(detector: OpenVocabDetector, task: EvaluationTask) -> Relation:
    """Broader words, one call each: some share classes, and a call gives a box only one word."""
    calls = [_head(detector, task, [word]) for word in task.broader]
    return Relation("broader", task.broader, calls, lambda _, cached: [cached.regions] * len(calls))


def _left_out(
    detector: OpenVocabDetector, task: EvaluationTask, cache: FeatureCache
) -> Relation | None:
    """Names whose labels are removed; one call for each fold of names that differ in meaning."""
    label_by_key = {name_key(label): label for label in detector.proposer.labels}
    names = [name for name in task.dataset.classes if name_key(name) in label_by_key]
    if not names or len(label_by_key) < 2:
        return None
    folds = [
        [names[index] for index in fold]
        for fold in dissimilar_folds(detector.vocabulary(names).features)
    ]
    label_folds = [[label_by_key[name_key(name)] for name in fold] for fold in folds]
    left_out = LeftOutLabels(detector, label_folds, cache)
    calls = [
        _head(fold_detector, task, fold)
        for fold_detector, fold in zip(left_out.detectors, folds, strict=True)
    ]
    groups = {name: (name,) for fold in folds for name in fold}
    return Relation("left out", groups, calls, left_out.regions)


def _examples(detector: OpenVocabDetector, task: EvaluationTask, count: int) -> Relation | None:
    """Classes given by example pictures only, cut from images that are not evaluated; one call."""
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
    """Proposals as detections of the words that cover their labels.

    Args:
        proposals: the proposals of P images.
        labels: the detector's own labels.
        groups: by word, names of classes.
        nms_iou: IoU above which the weaker of two boxes of the same word is dropped. The proposer
            suppresses boxes of the same label only, and a word may cover several labels.
    """
    word_keys = [{name_key(name) for name in names} for names in groups.values()]
    is_covered = np.array([[name_key(label) in keys for keys in word_keys] for label in labels])
    needs_nms = (is_covered.sum(axis=0) > 1).any()
    results = []
    for image_proposals in proposals:
        rows, word_ids = np.nonzero(is_covered[image_proposals.label_ids])
        detections = sv.Detections(
            image_proposals.xyxy[rows],
            confidence=image_proposals.objectness[rows],
            class_id=word_ids,
        )
        results.append(detections.with_nms(nms_iou) if needs_nms and len(rows) else detections)
    return results


def _mean(by_word: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the words (first axis) that have a value; NaN if none has."""
    is_valid = ~np.isnan(by_word)
    totals = np.where(is_valid, by_word, 0).sum(axis=0)
    counts = np.where(is_valid.any(axis=0), is_valid.sum(axis=0), np.nan)
    mean: NDArray[np.float64] = totals / counts
    return mean
