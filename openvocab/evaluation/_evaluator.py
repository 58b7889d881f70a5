"""Evaluates a detector: encodes each image once, classifies it in every variant, and measures."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError
from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.evaluation._feature_cache import CachedFeatures, FeatureCache, iter_readable
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptVariant
from openvocab.evaluation._relations import MIN_SCORE, RelationResult, find_relations
from openvocab.types import EncodedRegions, Proposals
from openvocab.vocabulary._prompts import name_key

RECALL_COUNTS = (10, 30, 100, 300)
_STAGES = ("propose", "encode", "classify")

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Iterates over a sequence and shows how far it is."""


class ImageResult(NamedTuple):
    """The detections of a task in one image."""

    detections: list[sv.Detections]
    """In each variant, down to the lowest scores."""
    correct: list[int]
    """Labelled boxes whose feature is closest to their own of the dataset's classes, in each
    variant."""
    fp_scores: dict[str, NDArray[np.float32]]
    """Scores of all boxes detected for five absent prompts, by kind of prompt."""
    classify_s: float
    """Seconds per variant."""


class TaskClassifier:
    """Classifies encoded images with a detector's settings, in all variants of a task."""

    def __init__(self, detector: OpenVocabDetector, task: EvaluationTask) -> None:
        self._detector, self._task = detector, task
        self._heads = [
            detector.class_head(
                variant.classes,
                negatives=task.negatives_for(variant.classes),
                score_threshold=MIN_SCORE,
            )
            for variant in task.variants
        ]

    def __call__(self, image: DatasetImage, cached: CachedFeatures) -> ImageResult:
        """Classify the proposals and the labelled boxes of one image."""
        started = perf_counter()
        detections = [_without_data(head.classify(cached.regions)) for head in self._heads]
        classify_s = (perf_counter() - started) / len(self._heads)
        count = len(self._task.dataset.classes)
        closest = [
            head.similarity(cached.ground_truth)[:, :count].argmax(axis=1) for head in self._heads
        ]
        correct = [int((ids == image.class_ids)[~image.crowd].sum()) for ids in closest]
        fp_scores = {
            kind: self._scores(cached.regions, prompts)
            for kind, prompts in self._task.absent_prompts(image).items()
        }
        return ImageResult(detections, correct, fp_scores, classify_s)

    def _scores(self, regions: EncodedRegions, prompts: list[str]) -> NDArray[np.float32]:
        negatives = self._task.negatives_for(prompts)
        head = self._detector.class_head(prompts, negatives=negatives, score_threshold=0)
        return np.asarray(head.classify(regions).confidence)


@dataclass(frozen=True)
class VariantResult:
    """The detections of one prompt variant."""

    variant: PromptVariant
    detections: list[sv.Detections]
    """Detections of each image, down to the lowest scores."""
    precision: matching.Precision
    matches: matching.Matches
    encoder_accuracy: float
    """Share of labelled boxes that the encoder alone classifies correctly."""
    thresholds: NDArray[np.float32]
    """The preset's lowest score of each prompt."""

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """F1 `(T,)` at `metrics.THRESHOLDS`."""
        return metrics.f1(*self.matches.counted(), self.matches.label_count, metrics.THRESHOLDS)

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Metrics as a table for JSON, from 0 to 1."""
        counted = self.matches.counted()
        return {
            "classes": len(self.variant.classes),
            **self.precision.metrics,
            "F1": metrics.f1_above(self.matches, self.thresholds),
            "best_F1": float(self.f1.max()),
            "best_F1_threshold": round(float(metrics.THRESHOLDS[self.f1.argmax()]), 2),
            "ECE": metrics.calibration_error(*counted),
            "ECE_above_threshold": metrics.calibration_error(*self.matches.counted(threshold)),
            "encoder_accuracy": self.encoder_accuracy,
        }


@dataclass(frozen=True)
class Evaluation:
    """The results of a detector on a dataset."""

    dataset: Dataset
    threshold: float
    """The preset's score threshold."""
    variants: list[VariantResult]
    """The dataset's own names first."""
    detector_alone: matching.Precision | None
    """Precision of the proposals with the detector's own labels, if some are classes of the
    dataset. With a preset's default numbers, this is the detector as `yolo val` measures it:
    confidence 0.001, NMS within a class at IoU 0.7, 300 boxes."""
    recall: dict[int, float]
    """Recall by number of best proposals per image, whatever their label."""
    fp_per_image: dict[str, float]
    """Detections per image above the threshold for five absent prompts, by kind of prompt."""
    seconds: dict[str, float]
    """Per image: `propose` and `encode`, when it was first encoded; `classify`, per variant."""
    unreadable: list[str]
    """Errors of images that were left out."""
    relations: list[RelationResult]
    """By relation to the detector's labels; the dataset's own names first."""
    skipped: list[str]
    """Why relations were left out."""

    @cached_property
    def confusion(self) -> NDArray[np.intp]:
        """`(C + 1, C + 1)`: labelled classes in rows, detected classes in columns, none last."""
        names_result = self.variants[0]
        detections = names_result.matches.without_ignored(names_result.detections)
        return matching.confusion(
            self.dataset, detections, names_result.variant.classes, self.threshold
        )

    def to_dict(self) -> dict[str, Any]:
        """Metrics as a table for JSON, from 0 to 1; None for what has no value."""
        alone, names_result = self.detector_alone, self.variants[0]
        table: dict[str, Any] = {
            "dataset": {
                "name": self.dataset.name, "kind": self.dataset.kind,
                "sha256": self.dataset.sha256, "images": len(self.dataset),
                "boxes": self.dataset.box_count, "classes": len(self.dataset.classes),
                "unreadable": self.unreadable,
            },
            "threshold": self.threshold,
            "detector_alone": alone and alone.metrics,
            "prompt_variants": {
                result.variant.name: result.to_dict(self.threshold) for result in self.variants
            },
            "relations": {
                result.name: result.to_dict(self.threshold) for result in self.relations
            },
            "proposal_recall": {str(count): value for count, value in self.recall.items()},
            "fp_per_image": self.fp_per_image,
            "seconds_per_image": self.seconds,
            "classes": self._by_class(),
            "reliability": metrics.reliability(*names_result.matches.counted()).tolist(),
            "confusion": _cells(self.confusion, [*names_result.variant.classes, "(none)"]),
        }  # fmt: skip
        result: dict[str, Any] = _without_nan(table)
        return result

    def _by_class(self) -> list[dict[str, Any]]:
        names_result = self.variants[0]
        counts = names_result.matches.label_counts.sum(axis=0).tolist()
        rows = zip(
            self.dataset.classes, counts, names_result.precision.by_class.tolist(), strict=True
        )
        return [
            {"class": name, "boxes": count, "AP": ap, "AP50": ap50}
            for name, count, (ap, ap50) in rows
            if count
        ]


def evaluate(
    detector: OpenVocabDetector,
    task: EvaluationTask,
    *,
    cache: FeatureCache | None = None,
    all_relations: bool = False,
    progress: Progress = iter,
) -> Evaluation:
    """Evaluate a detector.

    Args:
        detector: a detector with any preset.
        task: labelled images and prompts.
        cache: encodes images; None writes no features.
        all_relations: also ask for names that the detector lacks, which runs it ten more times on
            each image, and for example pictures.
        progress: wraps the images, to show progress.

    Raises:
        DatasetError: no image can be read, none has a labelled box, or the size of one differs
            from the size in its labels.
        ClassesError: a variant cannot be used.
    """
    cache = cache or FeatureCache(detector)
    classifier = TaskClassifier(detector, task)
    runs, skipped = find_relations(detector, task, cache, slow=all_relations)
    threshold = detector.preset.scoring.score_threshold
    images, proposals, results, seconds = [], [], [], []
    fp_counts: dict[str, list[int]] = defaultdict(list)
    unreadable: list[str] = []
    # Features are not kept: they would fill the memory.
    for image, cached in iter_readable(cache, progress(task.dataset.images), unreadable):
        result = classifier(image, cached)
        images.append(image)
        proposals.append(cached.regions.proposals)
        results.append(result)
        for run in runs:
            run.add(image, cached)
        seconds.append([*cached.seconds, result.classify_s])
        for kind, scores in result.fp_scores.items():
            fp_counts[kind].append(int((scores >= threshold).sum()))
    dataset = task.dataset.with_images(images)
    if not images:
        raise DatasetError(f"No image of {dataset.name} can be read: {' '.join(unreadable[:1])}")
    if not dataset.box_count:
        raise DatasetError(f"No image of {dataset.name} has a labelled box; label some.")
    variants = [
        _variant_result(
            dataset, variant, index, results, detector.class_head(variant.classes).thresholds
        )
        for index, variant in enumerate(task.variants)
    ]
    alone = _detector_alone(dataset, proposals, detector.proposer.labels)
    own_ap50 = np.full(len(dataset.classes), np.nan) if alone is None else alone.by_class[:, 1]
    same = RelationResult("same", dataset, variants[0].matches, own_ap50)
    others = [run.result(dataset, detector) for run in runs]
    return Evaluation(
        dataset=dataset,
        threshold=threshold,
        variants=variants,
        detector_alone=alone,
        recall=_proposal_recall(dataset, proposals),
        fp_per_image={kind: fmean(counts) for kind, counts in fp_counts.items()},
        seconds=dict(zip(_STAGES, np.mean(seconds, axis=0).tolist(), strict=True)),
        unreadable=unreadable,
        relations=[same, *(result for result in others if result is not None)],
        skipped=skipped,
    )


def _variant_result(
    dataset: Dataset,
    variant: PromptVariant,
    index: int,
    results: Sequence[ImageResult],
    thresholds: NDArray[np.float32],
) -> VariantResult:
    detections = [result.detections[index] for result in results]
    correct = sum(result.correct[index] for result in results)
    precision = matching.precision(dataset, detections)
    matches = matching.match(dataset, detections)
    accuracy = correct / dataset.box_count
    return VariantResult(variant, detections, precision, matches, accuracy, thresholds)


def _proposal_recall(dataset: Dataset, proposals: Sequence[Proposals]) -> dict[int, float]:
    detections = [_to_detections(boxes, np.zeros_like(boxes.label_ids)) for boxes in proposals]
    return matching.proposal_recall(dataset, detections, RECALL_COUNTS)


def _detector_alone(
    dataset: Dataset, proposals: Sequence[Proposals], labels: Sequence[str]
) -> matching.Precision | None:
    """Precision with the detector's labels; None if none of them is a class of the dataset."""
    class_ids = {name_key(name): class_id for class_id, name in enumerate(dataset.classes)}
    other = len(class_ids)
    by_label = np.array([class_ids.get(name_key(label), other) for label in labels], np.intp)
    if not (by_label < other).any():
        return None
    labelled = [replace(boxes, objectness=boxes.label_confidence) for boxes in proposals]
    return matching.precision(
        dataset, [_to_detections(boxes, by_label[boxes.label_ids]) for boxes in labelled]
    )


def _to_detections(proposals: Proposals, class_ids: NDArray[np.intp]) -> sv.Detections:
    return sv.Detections(proposals.xyxy, confidence=proposals.objectness, class_id=class_ids)


def _without_data(detections: sv.Detections) -> sv.Detections:
    return sv.Detections(
        detections.xyxy, confidence=detections.confidence, class_id=detections.class_id
    )


def _cells(table: NDArray[np.intp], names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells that are not empty, largest first."""
    cells = [
        {"label": names[row], "detected": names[column], "boxes": int(table[row, column])}
        for row, column in np.argwhere(table)
    ]
    return sorted(cells, key=lambda cell: -cell["boxes"])


def _without_nan(value: Any) -> Any:  # noqa: ANN401  JSON
    """Replace NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
