"""Fits the numbers of a preset to labelled photos, and says what they are worth on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab import __version__
from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError, one_line
from openvocab.evaluate import metrics
from openvocab.evaluate.datasets import Dataset, Photo
from openvocab.evaluate.evaluation import THRESHOLDS, Names, Track, absent_words
from openvocab.evaluate.seen import Seen, SeenOnce
from openvocab.evaluate.stress import Wording
from openvocab.presets import Preset

__all__ = ["Calibration", "Fit", "calibrate", "report", "toml", "value"]

LEAST_PHOTOS, LEAST_BOXES = 50, 300
FOLDS, ROUNDS = 5, 2
# A number is changed only for a gain over this; what is less, chance gives as well.
GAIN = 0.1
CHANCE = 0.05  # calibration error that is none
CALM = 0.10  # false labels a photo at the most, with five absent classes asked for
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
EXPONENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def value(ap50: Sequence[float], ece: float, false_labels: float) -> float:
    """What is maximised: points of mean AP50, less what uncalibrated and false labels cost.

    A false label in each twentieth photo costs a point, and so does each .02 of calibration error
    over .05, as so much comes of counting a few hundred boxes in ten bins.

    >>> value([0.40, 0.38], 0.03, 0.05), value([0.40, 0.38], 0.07, 0.05)
    (38.0, 37.0)
    """
    return 100 * fmean(ap50) - 50 * max(ece - CHANCE, 0) - 20 * false_labels


class Fit(NamedTuple):
    """What some numbers give on some photos; parts of 1."""

    ap50: dict[str, float]
    """By wording."""
    f1: float
    """At the threshold, by names."""
    threshold: float
    """Of the best F1 among those that are calm."""
    ece: float
    false_labels: float
    """A photo, at the threshold, when five absent classes are asked for."""

    @property
    def value(self) -> float:
        """What is maximised."""
        return value(list(self.ap50.values()), self.ece, self.false_labels)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Numbers of a preset, and what they give."""

    numbers: dict[str, float]
    """Of the preset, the threshold among them; what it had where nothing better was found."""
    before: Fit
    """The preset as it was, on all photos."""
    after: Fit
    """These numbers on the same photos."""
    unseen: Fit
    """Numbers fitted to four fifths of the photos, on the fifth left out, five times."""

    @property
    def better(self) -> bool:
        """Whether fitting helps on photos left out."""
        return self.unseen.value > self.before.value


def calibrate(
    detector: OpenVocabDetector,
    dataset: Dataset,
    wordings: Sequence[Wording],
    *,
    absent: Sequence[str] = (),
    see: SeenOnce | None = None,
    track: Track = iter,
) -> Calibration:
    """Fit temperature, background weight, label prior, fusion exponent and threshold.

    One number at a time, twice round; each takes the value of the best `Fit.value`. Numbers that
    do no better than the preset's own on photos left out (five folds) are not taken.

    Args:
        detector: of the preset.
        dataset: labelled photos that nothing was trained on.
        wordings: how its classes are asked for, its own names first.
        absent: words of which nothing is in any photo.
        see: what sees, and keeps what was seen; None keeps nothing.
        track: wraps the photos, to show progress.

    Raises:
        DatasetError: fewer than 50 photos or 300 boxes.
    """
    boxes = sum(int((~photo.crowd).sum()) for photo in dataset.photos)
    if len(dataset) < LEAST_PHOTOS or boxes < LEAST_BOXES:
        raise DatasetError(
            f"{len(dataset)} photos with {boxes} boxes are too few to fit to; label at least "
            f"{LEAST_PHOTOS} photos and {LEAST_BOXES} boxes."
        )
    see = see or SeenOnce(detector)
    seen = [see(photo) for photo in track(dataset.photos)]
    trial = _Trial(detector, dataset, seen, wordings, absent)
    everything = range(len(dataset))
    folds = [range(fold, len(dataset), FOLDS) for fold in range(FOLDS)]
    chosen = [trial.search(sorted({*everything} - {*fold})) for fold in folds]
    left_out = {
        place: numbers for fold, numbers in zip(folds, chosen, strict=True) for place in fold
    }
    before = trial.fit(dict.fromkeys(everything, trial.start))
    unseen = trial.fit(left_out)
    best = trial.search(everything) if unseen.value > before.value else trial.start
    after = trial.fit(dict.fromkeys(everything, best))
    return Calibration(dict(best) | {"score_threshold": after.threshold}, before, after, unseen)


def report(preset: Preset, fitted: Calibration) -> list[str]:
    """What was fitted, in lines for people."""
    lines = [
        f"{key}: {getattr(preset, key)} -> {value:g}"
        for key, value in fitted.numbers.items()
        if getattr(preset, key) != value
    ]
    if not fitted.better:
        lines.append("Fitted numbers do no better on photos left out: only the threshold is set.")
    for name, fit in (
        ("before", fitted.before),
        ("fitted", fitted.after),
        ("on photos left out", fitted.unseen),
    ):
        ap50 = ", ".join(f"{wording} {100 * value:.1f}" for wording, value in fit.ap50.items())
        lines.append(
            f"{name}: AP50 {ap50}; F1 {100 * fit.f1:.1f} at {fit.threshold:.2f}, ECE {fit.ece:.3f}, "
            f"{fit.false_labels:.3f} false labels a photo for five absent classes"
        )
    return lines


def toml(preset: Preset, fitted: Calibration, dataset: Dataset, part: str) -> str:
    """The preset with its new numbers, and the figures that chose them as comments."""
    chosen = [
        f"openvocab {__version__} fitted {', '.join(fitted.numbers)}",
        f"to {len(dataset)} photos of {dataset.name} (part: {part}; SHA-256 {dataset.sha256[:16]}).",
        *report(preset, fitted),
    ]
    comments = "".join(f"# {one_line(line)}\n" for line in chosen)
    # A path is relative to the file it stands in, and this is another one.
    paths = {key: getattr(preset, key) for key in ("detector", "encoder")}
    moved = {key: str(Path(path).resolve()) for key, path in paths.items() if Path(path).exists()}
    changed: dict[str, Any] = fitted.numbers | moved
    return comments + replace(preset, **changed).to_toml()


Numbers = tuple[tuple[str, float], ...]


class _Tried(NamedTuple):
    """What some numbers give for each photo."""

    found: list[list[sv.Detections]]
    """By wording."""
    false: list[list[NDArray[np.float64]]]
    """Scores of what was found of absent classes, by kind of class."""


class _Trial:
    """Tries numbers on photos that were seen; each setting is computed once."""

    def __init__(
        self,
        detector: OpenVocabDetector,
        dataset: Dataset,
        seen: Sequence[Seen],
        wordings: Sequence[Wording],
        absent: Sequence[str],
    ) -> None:
        self._detector, self._dataset, self._seen = detector, dataset, seen
        self._wordings, self._absent = wordings, absent
        self._tried: dict[Numbers, _Tried] = {}
        preset, own = detector.preset, detector.encoder.logit_scale
        scale = own if preset.logit_scale is None else preset.logit_scale
        self.start: Numbers = (
            ("logit_scale", scale),
            ("background_weight", preset.background_weight),
            ("prior_weight", preset.prior_weight),
            ("fusion_exponent", preset.fusion_exponent),
        )

    def search(self, places: Sequence[int]) -> Numbers:
        """The best numbers on some of the photos."""
        best, reached = self.start, self.fit(dict.fromkeys(places, self.start)).value
        for _ in range(ROUNDS):
            for key, start in self.start:
                values = EXPONENTS if key == "fusion_exponent" else [start * f for f in FACTORS]
                for candidate in values:
                    numbers = tuple((dict(best) | {key: round(candidate, 4)}).items())
                    found = self.fit(dict.fromkeys(places, numbers)).value
                    if found > reached + GAIN:
                        best, reached = numbers, found
        return best

    def fit(self, numbers: Mapping[int, Numbers]) -> Fit:
        """Figures on some of the photos, by place, each with numbers of its own."""
        places = sorted(numbers)
        part = self._dataset.only([self._dataset.photos[place] for place in places])
        tried = [self._try(numbers[place]) for place in places]
        found = [
            [each.found[wording][place] for each, place in zip(tried, places, strict=True)]
            for wording in range(len(self._wordings))
        ]
        false = [each.false[place] for each, place in zip(tried, places, strict=True)]
        judged = metrics.matches(part, found[0])
        over = np.mean([self._over(scores) for scores in false], axis=0)
        f1 = metrics.f1(*judged.judged(), judged.labelled, THRESHOLDS)
        best = int(np.where(over <= CALM, f1, -over).argmax())
        return Fit(
            {
                wording.name: metrics.ap50(part, each)
                for wording, each in zip(self._wordings, found, strict=True)
            },
            float(f1[best]),
            round(float(THRESHOLDS[best]), 2),
            metrics.calibration_error(*judged.judged()),
            float(over[best]),
        )

    def _try(self, numbers: Numbers) -> _Tried:
        if numbers not in self._tried:
            tuned = self._detector.tuned(**dict(numbers))
            asking = [Names(tuned, wording) for wording in self._wordings]
            self._tried[numbers] = _Tried(
                [[names(seen) for seen in self._seen] for names in asking],
                [
                    self._false(tuned, *pair)
                    for pair in zip(self._dataset.photos, self._seen, strict=True)
                ],
            )
        return self._tried[numbers]

    @staticmethod
    def _over(kinds: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Boxes `(T,)` over each threshold, the mean of what was asked for."""
        counts = [(scores[None] >= THRESHOLDS[:, None]).sum(axis=1) for scores in kinds]
        return np.mean(counts, axis=0) if counts else np.zeros(len(THRESHOLDS))

    def _false(
        self, tuned: OpenVocabDetector, photo: Photo, seen: Seen
    ) -> list[NDArray[np.float64]]:
        """Scores of what was found of absent classes, by kind of class."""
        asked = absent_words(self._dataset, photo, self._absent).values()
        found = [tuned.name(seen.regions, words, score_threshold=0) for words in asked]
        return [np.asarray(each.confidence, np.float64) for each in found]
