"""A detector on a dataset: sees every photo once, asks in every wording, and counts."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.classifier import RegionClassifier
from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError, ImageError
from openvocab.evaluate import metrics
from openvocab.evaluate.datasets import Dataset, Photo
from openvocab.evaluate.seen import Seen, SeenOnce
from openvocab.evaluate.stress import Wording
from openvocab.prompts import tidy
from openvocab.protocols import Proposals

__all__ = ["Asked", "Evaluation", "Names", "absent_words", "evaluate"]

LEAST = 0.001  # scores under this do not move AP, and are most of all boxes
COUNTS = (10, 30, 100, 300)
ASKED_ABSENT = 5  # absent classes a photo
THRESHOLDS = np.arange(0.02, 0.99, 0.01)

Track = Callable[[Sequence[Photo]], Iterable[Photo]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a detector found when it was asked in one wording."""

    wording: Wording
    found: list[sv.Detections]
    """Of each photo, down to the lowest scores."""
    precision: metrics.Precision
    matches: metrics.Matches
    encoder_accuracy: float
    """Share of the labelled boxes that the encoder alone gives the right one of all classes."""

    @property
    def f1(self) -> NDArray[np.float64]:
        """`(T,)` at `THRESHOLDS`."""
        return metrics.f1(*self.matches.judged(), self.matches.labelled, THRESHOLDS)

    def figures(self, threshold: float) -> dict[str, Any]:
        """As a table for JSON; parts of 1."""
        curve, precision = self.f1, self.precision
        judged, over = self.matches.judged(), self.matches.judged(threshold)
        at = metrics.f1(*judged, self.matches.labelled, np.array([threshold]))
        return {
            "classes": len(self.wording.classes),
            "AP": precision.ap,
            "AP50": precision.ap50,
            "AP75": precision.ap75,
            "AP_small": precision.small,
            "AP_medium": precision.medium,
            "AP_large": precision.large,
            "AR": precision.ar,
            **{f"AP_{key}": value for key, value in precision.by_frequency.items()},
            "F1": float(at[0]),
            "best_F1": float(curve.max()),
            "best_F1_threshold": float(THRESHOLDS[curve.argmax()]),
            "ECE": metrics.calibration_error(*judged),
            "ECE_over_threshold": metrics.calibration_error(*over),
            "encoder_accuracy": self.encoder_accuracy,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that is known of a detector on a dataset."""

    dataset: Dataset
    threshold: float
    """Lowest score that the preset returns."""
    asked: list[Asked]
    """By wording, the dataset's own names first."""
    own: metrics.Precision | None
    """Of the detector's own labels, where they are the dataset's names."""
    recall: dict[int, float]
    """Of the best so many proposals a photo, whatever they are called."""
    false_labels: dict[str, float]
    """Boxes a photo over the threshold when five things are asked for that are not there."""
    seconds: dict[str, float]
    """A photo: `propose`, `encode`, `name`."""
    unread: list[str]
    """Why photos were left out."""

    @property
    def confusion(self) -> NDArray[np.intp]:
        """`(K + 1, K + 1)` what labelled boxes (down) were called (across); the last is nothing."""
        first = self.asked[0]
        keep = [np.ones(len(each), np.bool_) for each in first.found]
        neither = first.matches.verdicts == metrics.NEITHER
        for photo, row in zip(
            first.matches.photos[neither], first.matches.rows[neither], strict=True
        ):
            keep[photo][row] = False
        judged = [
            sv.Detections(each.xyxy[kept], confidence=scores[kept], class_id=classes[kept])
            for each, kept in zip(first.found, keep, strict=True)
            if (scores := each.confidence) is not None and (classes := each.class_id) is not None
        ]
        return metrics.confusion(self.dataset, judged, first.wording.classes, self.threshold)

    def figures(self) -> dict[str, Any]:
        """As a table for JSON; parts of 1."""
        own, first = self.own, self.asked[0]
        return {
            "dataset": {
                "name": self.dataset.name, "kind": self.dataset.kind,
                "sha256": self.dataset.sha256, "photos": len(self.dataset),
                "boxes": first.matches.labelled, "classes": len(self.dataset.classes),
                "unread": self.unread,
            },
            "threshold": self.threshold,
            "detector_alone": own and {"AP": own.ap, "AP50": own.ap50, "AR": own.ar},
            "wordings": {each.wording.name: each.figures(self.threshold) for each in self.asked},
            "proposal_recall": {str(count): value for count, value in self.recall.items()},
            "false_labels_per_photo": self.false_labels,
            "seconds_per_photo": self.seconds,
            "classes": self._by_class(first),
            "reliability": metrics.reliability(*first.matches.judged()).tolist(),
            "confusion": _pairs(self.confusion, [*first.wording.classes, "(nothing)"]),
        }  # fmt: skip

    def _by_class(self, asked: Asked) -> list[dict[str, Any]]:
        labels = np.concatenate([p.class_ids[~p.crowd] for p in self.dataset.photos])
        counts = np.bincount(labels, minlength=len(self.dataset.classes))
        return [
            {"class": name, "boxes": int(count), "AP": float(ap), "AP50": float(ap50)}
            for name, count, (ap, ap50) in zip(
                self.dataset.classes, counts, asked.precision.by_class, strict=True
            )
            if count
        ]


class Names:
    """Names what was seen, in one wording, with one detector's numbers."""

    def __init__(
        self, detector: OpenVocabDetector, wording: Wording, negatives: Sequence[str] = ()
    ) -> None:
        self.wording = wording
        bank = detector.vocabulary(wording.classes, negatives)
        self._classifier: RegionClassifier = detector.classifier(bank)
        self._features = bank.features
        self._lowest = np.full(len(bank), LEAST, np.float32)

    def __call__(self, seen: Seen) -> sv.Detections:
        """Boxes, scores and classes of a photo, down to the lowest scores."""
        regions = seen.regions
        scores = self._classifier.scores(*regions)
        named = self._classifier.detections(regions.proposals, scores, self._lowest)
        return sv.Detections(named.xyxy, confidence=named.confidence, class_id=named.class_id)

    def right(self, photo: Photo, seen: Seen, classes: int) -> int:
        """Labelled boxes that the encoder alone gives the right one of the dataset's classes."""
        guesses = (seen.truth @ self._features[:classes].T).argmax(axis=1)
        return int((guesses == photo.class_ids)[~photo.crowd].sum())


def evaluate(
    detector: OpenVocabDetector,
    dataset: Dataset,
    wordings: Sequence[Wording],
    *,
    absent: Sequence[str] = (),
    see: SeenOnce | None = None,
    track: Track = iter,
) -> Evaluation:
    """Evaluate a detector.

    Args:
        detector: of any preset.
        dataset: N labelled photos.
        wordings: how its classes are asked for, its own names first.
        absent: words of which nothing is in any photo, besides the classes that are not.
        see: what sees, and keeps what was seen; None keeps nothing.
        track: wraps the photos, to show progress.

    Raises:
        DatasetError: no photo can be read, or one is of another size than its labels say.
        ClassesError: a wording cannot be used.
    """
    see = see or SeenOnce(detector)
    asking = [Names(detector, wording) for wording in wordings]
    found: list[list[sv.Detections]] = [[] for _ in asking]
    right = np.zeros(len(asking))
    proposals, times, false, kept, unread = [], [], [], [], []
    for photo in track(dataset.photos):
        try:
            seen = see(photo)
        except ImageError as error:
            unread.append(str(error))
            continue
        kept.append(photo)
        begun = perf_counter()
        found[0].append(asking[0](seen))
        times.append((seen.propose_s, seen.encode_s, perf_counter() - begun))
        for others, names in zip(found[1:], asking[1:], strict=True):
            others.append(names(seen))
        right += [names.right(photo, seen, len(dataset.classes)) for names in asking]
        proposals.append(seen.regions.proposals)
        asked = absent_words(dataset, photo, absent)
        false += [(kind, len(detector.name(seen.regions, asked[kind]))) for kind in asked]
    if not kept:
        raise DatasetError(f"No photo of {dataset.name} can be read: {unread[0]}")
    dataset = dataset.only(kept)
    boxes = sum(int((~photo.crowd).sum()) for photo in kept)
    answers = [
        Asked(names.wording, each, *_compared(dataset, each), share)
        for names, each, share in zip(asking, found, (right / max(boxes, 1)).tolist(), strict=True)
    ]
    return Evaluation(
        dataset,
        detector.preset.score_threshold,
        answers,
        _own(dataset, proposals, detector.proposer.names),
        metrics.proposal_recall(dataset, [_plain(each, None) for each in proposals], COUNTS),
        {kind: fmean(count for each, count in false if each == kind) for kind, _ in false},
        dict(zip(("propose", "encode", "name"), np.mean(times, axis=0).tolist(), strict=True)),
        unread,
    )


def _compared(
    dataset: Dataset, found: Sequence[sv.Detections]
) -> tuple[metrics.Precision, metrics.Matches]:
    return metrics.precision(dataset, found), metrics.matches(dataset, found)


def absent_words(dataset: Dataset, photo: Photo, absent: Sequence[str]) -> dict[str, list[str]]:
    """Five of the dataset's classes and five words, by kind, of which nothing is in a photo.

    The same ones in every run; a kind that has fewer than five is left out.
    """
    chance = random.Random(photo.id)  # noqa: S311  not for secrets
    known = photo.absent
    others = [
        name
        for place, name in enumerate(dataset.classes)
        if place not in photo.labelled and (known is None or place in known)
    ]
    kinds = {"classes of the dataset": others, "absent words": list(absent)}
    return {
        kind: chance.sample(words, ASKED_ABSENT)
        for kind, words in kinds.items()
        if len(words) >= ASKED_ABSENT
    }


def _own(
    dataset: Dataset, proposals: Sequence[Proposals], names: Sequence[str]
) -> metrics.Precision | None:
    """What the detector finds with its own labels; None if it does not know all classes."""
    places = {tidy(name).casefold(): place for place, name in enumerate(dataset.classes)}
    known = {name: places.get(tidy(name).casefold(), len(places)) for name in names}
    if not set(range(len(places))) <= set(known.values()):
        return None
    return metrics.precision(dataset, [_plain(each, known) for each in proposals])


def _plain(found: Proposals, places: dict[str, int] | None) -> sv.Detections:
    """Proposals as detections, of the classes at those places, or all of the first."""
    ids = [0 if places is None else places[label] for label in found.labels]
    return sv.Detections(found.xyxy, confidence=found.objectness, class_id=np.array(ids, np.intp))


def _pairs(table: NDArray[np.intp], names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells that are not empty, the largest first."""
    rows, columns = np.nonzero(table)
    cells = zip(rows.tolist(), columns.tolist(), table[rows, columns].tolist(), strict=True)
    return [
        {"truth": names[row], "found": names[column], "boxes": count}
        for row, column, count in sorted(cells, key=lambda cell: -cell[2])
    ]
