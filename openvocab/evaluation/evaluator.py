"""Evaluates a detector on a dataset: sees each photo once, asks in every variant, and counts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError
from openvocab.evaluation import matching, metrics
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.evaluation.feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation.inference import VariantClassifier, absent_words, iter_readable
from openvocab.evaluation.prompt_variants import PromptVariant
from openvocab.types import Proposals
from openvocab.vocabulary.prompts import name_key

COUNTS = (10, 30, 100, 300)
THRESHOLDS = np.arange(0.02, 0.99, 0.01)

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class DetectRequest:
    """What a detector found when asked in one variant."""

    variant: PromptVariant
    found: list[sv.Detections]
    """Detections of each photo, down to the lowest scores."""
    precision: matching.Precision
    matches: matching.Matches
    encoder_accuracy: float
    """Share of labelled boxes to which the encoder alone gives the right one of all the dataset's
    classes."""

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """F1 `(T,)` at `THRESHOLDS`."""
        return metrics.f1(*self.matches.judged(), self.matches.labelled, THRESHOLDS)

    def figures(self, threshold: float) -> dict[str, Any]:
        """As a table for JSON; parts of 1."""
        precision = self.precision
        judged, over = self.matches.judged(), self.matches.judged(threshold)
        at = metrics.f1(*judged, self.matches.labelled, np.array([threshold]))
        return {
            "classes": len(self.variant.classes),
            "AP": precision.ap,
            "AP50": precision.ap50,
            "AP75": precision.ap75,
            "AP_small": precision.small,
            "AP_medium": precision.medium,
            "AP_large": precision.large,
            "AR": precision.ar,
            **{f"AP_{key}": value for key, value in precision.by_frequency.items()},
            "F1": float(at[0]),
            "best_F1": float(self.f1.max()),
            "best_F1_threshold": round(float(THRESHOLDS[self.f1.argmax()]), 2),
            "ECE": metrics.calibration_error(*judged),
            "ECE_over_threshold": metrics.calibration_error(*over),
            "encoder_accuracy": self.encoder_accuracy,
        }


@dataclass(frozen=True)
class Evaluation:
    """Everything that is known of a detector on a dataset."""

    dataset: Dataset
    threshold: float
    """Lowest score that the preset returns."""
    asked: list[DetectRequest]
    """Results by variant, the dataset's own names first."""
    own: matching.Precision | None
    """Precision of the proposals with the detector's own labels, if it has names for the classes.
    With a preset's default numbers, this is the detector as `yolo val` measures it: confidence
    0.001, suppression within a class at IoU 0.7, 300 boxes."""
    recall: dict[int, float]
    """Recall by number of best proposals per photo, whatever they are called."""
    false_labels: dict[str, float]
    """Boxes per photo above the threshold when asked for five things that are absent."""
    seconds: dict[str, float]
    """Per photo: `propose` and `encode`, when it was first seen; `name`, per variant."""
    unread: list[str]
    """Why photos were left out."""

    @cached_property
    def confusion(self) -> NDArray[np.intp]:
        """`(K + 1, K + 1)`, what labelled boxes (down) were called (across), nothing last."""
        first = self.asked[0]
        keep = [np.ones(len(each), np.bool_) for each in first.found]
        ignored = first.matches.verdicts == matching.IGNORED
        places = zip(first.matches.photos[ignored], first.matches.rows[ignored], strict=True)
        for photo, row in places:
            keep[photo][row] = False
        judged = [
            sv.Detections(each.xyxy[kept], confidence=scores[kept], class_id=classes[kept])
            for each, kept in zip(first.found, keep, strict=True)
            if (scores := each.confidence) is not None and (classes := each.class_id) is not None
        ]
        return matching.confusion(self.dataset, judged, first.variant.classes, self.threshold)

    def figures(self) -> dict[str, Any]:
        """As a table for JSON; parts of 1."""
        own, first = self.own, self.asked[0]
        return {
            "dataset": {
                "name": self.dataset.name, "kind": self.dataset.kind,
                "sha256": self.dataset.sha256, "photos": len(self.dataset),
                "boxes": self.dataset.boxes, "classes": len(self.dataset.classes),
                "unread": self.unread,
            },
            "threshold": self.threshold,
            "detector_alone": own and {"AP": own.ap, "AP50": own.ap50, "AR": own.ar},
            "prompt_variants": {each.variant.name: each.figures(self.threshold) for each in self.asked},
            "proposal_recall": {str(count): value for count, value in self.recall.items()},
            "false_labels_per_photo": self.false_labels,
            "seconds_per_photo": self.seconds,
            "classes": self._by_class(first),
            "reliability": metrics.reliability(*first.matches.judged()).tolist(),
            "confusion": _pairs(self.confusion, [*first.variant.classes, "(nothing)"]),
        }  # fmt: skip

    def _by_class(self, asked: DetectRequest) -> list[dict[str, Any]]:
        counts = asked.matches.labels.sum(axis=0)
        return [
            {"class": name, "boxes": int(count), "AP": float(ap), "AP50": float(ap50)}
            for name, count, (ap, ap50) in zip(
                self.dataset.classes, counts, asked.precision.by_class, strict=True
            )
            if count
        ]


def evaluate(
    detector: OpenVocabDetector,
    dataset: Dataset,
    prompt_variants: Sequence[PromptVariant],
    *,
    absent: Sequence[str] = (),
    see: FeatureCache | None = None,
    track: Track = iter,
) -> Evaluation:
    """Evaluate a detector.

    Args:
        detector: a detector with any preset.
        dataset: N labelled photos.
        prompt_variants: ways to ask for its classes, its own names first.
        absent: words for things that are in none of the photos, besides the absent classes.
        see: sees photos, and may keep what it saw; None keeps nothing.
        track: wraps the photos, to show progress.

    Raises:
        DatasetError: no photo can be read, none has a labelled box, or the size of one is not the
            one that its labels state.
        ClassesError: a variant cannot be used.
    """
    tally = _Tally(detector, dataset, prompt_variants, absent)
    unread: list[str] = []
    for photo, seen in iter_readable(see or FeatureCache(detector), track(dataset.photos), unread):
        tally.add(photo, seen)
    if not tally.photos:
        raise DatasetError(f"No photo of {dataset.name} can be read: {' '.join(unread[:1])}")
    if not any(photo.boxes for photo in tally.photos):
        raise DatasetError(f"No photo of {dataset.name} has a labelled box; label some.")
    return tally.evaluation(unread)


class _Tally:
    """MetricsMiddleware photo by photo and forgets the features, so memory holds the boxes only."""

    def __init__(
        self,
        detector: OpenVocabDetector,
        dataset: Dataset,
        prompt_variants: Sequence[PromptVariant],
        absent: Sequence[str],
    ) -> None:
        self._detector, self._dataset, self._absent = detector, dataset, absent
        self._namers = [VariantClassifier(detector, variant) for variant in prompt_variants]
        self.photos: list[Photo] = []
        self._found: list[list[sv.Detections]] = [[] for _ in prompt_variants]
        self._right = [0] * len(prompt_variants)
        self._proposals: list[Proposals] = []
        self._seconds: list[tuple[float, float, float]] = []
        self._false: dict[str, list[int]] = {}

    def add(self, photo: Photo, seen: CachedFeatures) -> None:
        """Name and count one photo."""
        self.photos.append(photo)
        begun = perf_counter()
        for found, namer in zip(self._found, self._namers, strict=True):
            found.append(namer(seen))
        name_s = (perf_counter() - begun) / len(self._namers)
        self._seconds.append((seen.propose_s, seen.encode_s, name_s))
        for place, namer in enumerate(self._namers):
            self._right[place] += namer.right(photo, seen, len(self._dataset.classes))
        self._proposals.append(seen.regions.proposals)
        for kind, words in absent_words(self._dataset, photo, self._absent).items():
            false = len(self._detector.classify(seen.regions, words))
            self._false.setdefault(kind, []).append(false)

    def evaluation(self, unread: list[str]) -> Evaluation:
        """The evaluation of the photos so far."""
        dataset = self._dataset.only(self.photos)
        proposals = [
            _to_detections(proposals, np.zeros(len(proposals), np.intp))
            for proposals in self._proposals
        ]
        seconds = np.mean(self._seconds, axis=0).tolist()
        return Evaluation(
            dataset=dataset,
            threshold=self._detector.preset.scoring.score_threshold,
            asked=[
                DetectRequest(
                    namer.variant,
                    found,
                    matching.precision(dataset, found),
                    matching.matches(dataset, found),
                    right / dataset.boxes,
                )
                for namer, found, right in zip(self._namers, self._found, self._right, strict=True)
            ],
            own=_own(dataset, self._proposals, self._detector.proposer.labels),
            recall=matching.proposal_recall(dataset, proposals, COUNTS),
            false_labels={kind: fmean(counts) for kind, counts in self._false.items()},
            seconds=dict(zip(("propose", "encode", "name"), seconds, strict=True)),
            unread=unread,
        )


def _own(
    dataset: Dataset, proposals: Sequence[Proposals], labels: Sequence[str]
) -> matching.Precision | None:
    """Precision under the detector's labels; None if none of them is a class of the dataset."""
    class_ids = {name_key(name): class_id for class_id, name in enumerate(dataset.classes)}
    other = len(class_ids)
    by_label = np.array([class_ids.get(name_key(label), other) for label in labels], np.intp)
    if not (by_label < other).any():
        return None
    return matching.precision(
        dataset, [_to_detections(boxes, by_label[boxes.label_ids]) for boxes in proposals]
    )


def _to_detections(proposals: Proposals, class_ids: NDArray[np.intp]) -> sv.Detections:
    return sv.Detections(proposals.xyxy, confidence=proposals.objectness, class_id=class_ids)


def _pairs(table: NDArray[np.intp], names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells that are not empty, largest first."""
    rows, columns = np.nonzero(table)
    cells = zip(rows.tolist(), columns.tolist(), table[rows, columns].tolist(), strict=True)
    return [
        {"truth": names[row], "found": names[column], "boxes": count}
        for row, column, count in sorted(cells, key=lambda cell: -cell[2])
    ]
