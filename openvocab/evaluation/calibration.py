"""Fits the numbers of a preset to labelled photos, and measures what they are worth on others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.config import ScoringConfig
from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError
from openvocab.evaluation import matching, metrics
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.evaluation.evaluator import THRESHOLDS, Track
from openvocab.evaluation.feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation.inference import VariantClassifier, absent_words, iter_readable
from openvocab.evaluation.prompt_variants import PromptVariant

LEAST_PHOTOS, LEAST_BOXES = 50, 300
FOLDS, ROUNDS = 5, 2
# A number is changed only for a gain above this; smaller gains occur by chance.
GAIN = 0.1
CHANCE = 0.05  # calibration error that counts as none
MAX_FP_PER_IMAGE = 0.10  # most false labels per photo, when asked for five absent classes
FACTORS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)
VALUES = {
    "competitor_weight": (1.0, 2.0, 4.0, 8.0),
    "prior_weight": (2.0, 5.0, 8.0, 12.0),
    "fusion_exponent": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
}

Floats = NDArray[np.float64]
Numbers = tuple[tuple[str, float], ...]


class Fit(NamedTuple):
    """What certain numbers of a preset give on certain photos, as fractions of 1."""

    ap50: dict[str, float]
    """AP50 by variant."""
    f1: float
    """F1 at the threshold, asked by the dataset's names."""
    threshold: float
    ece: float
    """Expected calibration error, asked by the dataset's names."""
    false_labels: float
    """False labels per photo at the threshold, when asked for five absent classes; NaN if none
    were asked for."""

    @property
    def objective(self) -> float:
        """What is maximised: points of mean AP50, less a cost for miscalibration and false labels.

        A false label in every twentieth photo costs a point. So does each 0.02 of calibration error
        above 0.05, since that much comes from matching a few hundred boxes in ten bins.

        >>> Fit({"names": 0.4, "synonyms": 0.38}, 0.5, 0.3, 0.07, 0.05).objective
        37.0
        """
        fp_per_image = 0.0 if np.isnan(self.false_labels) else self.false_labels
        return 100 * fmean(self.ap50.values()) - 50 * max(self.ece - CHANCE, 0) - 20 * fp_per_image


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted numbers of a preset, and what they give."""

    start: dict[str, float]
    """The preset's numbers with its threshold, and the encoder's own scale if it sets none."""
    numbers: dict[str, float]
    """Fitted numbers; those of the start if nothing better was found."""
    before: Fit
    """The preset as it was."""
    after: Fit
    """These numbers on the same photos."""
    unseen: Fit
    """Numbers and threshold fitted to four fifths of the photos and measured on the remaining
    fifth; the mean of five such folds."""
    unseen_before: Fit
    """The preset as it was, on the same fifths."""

    @property
    def changed(self) -> dict[str, float]:
        """The numbers that differ from before."""
        return {key: value for key, value in self.numbers.items() if value != self.start[key]}

    @property
    def better(self) -> bool:
        """Whether fitting helps on photos that were left out of it."""
        return self.unseen.objective > self.unseen_before.objective


class Tried(NamedTuple):
    """What certain numbers find in P photos."""

    matches: dict[str, matching.Matches]
    """Matches by variant, the dataset's own names first."""
    over: Floats
    """`(P, T)`, boxes above each of `THRESHOLDS` for five absent classes; NaN if none were asked
    for."""


def try_numbers(
    detector: OpenVocabDetector,
    dataset: Dataset,
    seen: Sequence[CachedFeatures],
    prompt_variants: Sequence[PromptVariant],
    absent: Sequence[str],
    *,
    negatives: Sequence[str] = (),
    post: Callable[[sv.Detections], sv.Detections] = lambda found: found,
) -> Tried:
    """Name what was seen with a detector's numbers.

    Args:
        detector: detector with the numbers to try.
        dataset: P photos.
        seen: what is seen in each of the P photos.
        prompt_variants: ways to ask for the classes, the dataset's own names first.
        absent: words for things that are in none of the photos.
        negatives: look-alikes that compete with everything that is asked for.
        post: function applied to what is found.
    """
    found = {}
    for variant in prompt_variants:
        namer = VariantClassifier(detector, variant, negatives)
        found[variant.name] = matching.matches(dataset, [post(namer(each)) for each in seen])
    rows = []
    for photo, each in zip(dataset.photos, seen, strict=True):
        counts = []
        for words in absent_words(dataset, photo, absent).values():
            others = [word for word in negatives if word not in words]
            fp_per_image = detector.classify(
                each.regions, words, negatives=others, score_threshold=0
            )
            scores = np.asarray(post(fp_per_image).confidence)
            counts.append((scores[None] >= THRESHOLDS[:, None]).sum(axis=1))
        rows.append(np.mean(counts, axis=0) if counts else np.full(len(THRESHOLDS), np.nan))
    return Tried(found, np.array(rows))


def fit(tried: Tried, weights: Floats, threshold: float | None = None) -> Fit:
    """Compute the figures of what was tried.

    Args:
        tried: what was found in P photos.
        weights: `(P,)`, how often each photo counts: 0 or 1 to select some, more in a bootstrap.
        threshold: None uses the one with the best F1 among those with few enough false labels.
    """
    first = next(iter(tried.matches.values()))
    keep = first.verdicts != matching.IGNORED
    scores, right = first.scores[keep], first.verdicts[keep] == matching.RIGHT
    each = weights[first.photos[keep]]
    labelled = float(weights @ first.labels.sum(axis=1))
    asked = weights * ~np.isnan(tried.over[:, 0])
    fp_per_image = asked @ np.nan_to_num(tried.over) / asked.sum() if asked.any() else None
    if threshold is None:
        curve = metrics.f1(scores, right, labelled, THRESHOLDS, each)
        calm = np.zeros_like(curve) if fp_per_image is None else fp_per_image
        threshold = float(THRESHOLDS[np.where(calm <= MAX_FP_PER_IMAGE, curve, -calm).argmax()])
    (at,) = metrics.f1(scores, right, labelled, np.array([threshold]), each)
    return Fit(
        {name: metrics.ap50(matches, weights) for name, matches in tried.matches.items()},
        float(at),
        round(threshold, 2),
        metrics.calibration_error(scores, right, weights=each),
        float("nan")
        if fp_per_image is None
        else float(np.interp(threshold, THRESHOLDS, fp_per_image)),
    )


def calibrate(
    detector: OpenVocabDetector,
    dataset: Dataset,
    prompt_variants: Sequence[PromptVariant],
    *,
    absent: Sequence[str] = (),
    see: FeatureCache | None = None,
    track: Track = iter,
) -> Calibration:
    """Fit temperature, background weight, label prior, fusion exponent and threshold.

    One number at a time, in two rounds; each gets the value with the best `Fit.objective`. Numbers
    that do no better than the preset's own on photos left out (five folds) are not used.

    Args:
        detector: detector of the preset.
        dataset: labelled photos that no network was trained on.
        prompt_variants: ways to ask for its classes, its own names first.
        absent: words for things that are in none of the photos.
        see: sees photos, and may keep what it saw; None keeps nothing.
        track: wraps the photos, then the steps of the search, to show progress.

    Raises:
        DatasetError: there are fewer than 50 photos or 300 boxes.
    """
    if len(dataset) < LEAST_PHOTOS or dataset.boxes < LEAST_BOXES:
        raise DatasetError(
            f"{len(dataset)} photos with {dataset.boxes} boxes are too few to fit to; label at "
            f"least {LEAST_PHOTOS} photos and {LEAST_BOXES} boxes."
        )
    pairs = list(iter_readable(see or FeatureCache(detector), track(dataset.photos), []))
    # Neighbouring frames of a film go into the same fold.
    pairs.sort(key=lambda pair: (pair[0].path.name, str(pair[0].path)))
    trial = _Trial(
        detector, dataset.only([photo for photo, _ in pairs]), pairs, prompt_variants, absent
    )
    return trial.run(track)


class _Trial:
    """Tries numbers on photos that were seen, computing each setting once."""

    def __init__(
        self,
        detector: OpenVocabDetector,
        dataset: Dataset,
        pairs: Sequence[tuple[Photo, CachedFeatures]],
        prompt_variants: Sequence[PromptVariant],
        absent: Sequence[str],
    ) -> None:
        self._detector = detector
        seen = [each for _, each in pairs]
        self._given = dataset, seen, prompt_variants, absent
        self._tried: dict[Numbers, Tried] = {}
        config, own = detector.preset.scoring, detector.encoder.logit_scale
        self._start: Numbers = (
            ("logit_scale", own if config.logit_scale is None else config.logit_scale),
            ("competitor_weight", config.competitor_weight),
            ("prior_weight", config.prior_weight),
            ("fusion_exponent", config.fusion_exponent),
        )

    def run(self, track: Callable[[Sequence[Any]], Iterable[Any]]) -> Calibration:
        """Fit on all folds, then on all photos."""
        count = len(self._given[0])
        all_of_them = np.ones(count)
        folds = np.array_split(np.arange(count), FOLDS)
        candidates = sum(len(self._candidates(*each)) for each in self._start)
        steps = iter(track(range((FOLDS + 1) * ROUNDS * candidates)))
        own = self._detector.preset.scoring.score_threshold
        unseen, unseen_before = [], []
        for fold in folds:
            inside = np.zeros(count)
            inside[fold] = 1
            numbers = self._search(1 - inside, steps)
            threshold = fit(self._try(numbers), 1 - inside).threshold
            unseen.append(fit(self._try(numbers), inside, threshold))
            unseen_before.append(fit(self._try(self._start), inside, own))
        best = self._search(all_of_them, steps)
        found = Calibration(
            dict(self._start) | {"score_threshold": own},
            dict(best),
            fit(self._try(self._start), all_of_them, own),
            fit(self._try(best), all_of_them),
            _mean(unseen),
            _mean(unseen_before),
        )
        if not found.better:
            kept = fit(self._try(self._start), all_of_them)
            found = replace(found, numbers=dict(self._start), after=kept)
        return replace(found, numbers=found.numbers | {"score_threshold": found.after.threshold})

    def _search(self, weights: Floats, steps: Iterator[Any]) -> Numbers:
        """Find the best numbers on some of the photos."""
        best, reached = self._start, fit(self._try(self._start), weights).objective
        for _ in range(ROUNDS):
            for key, start in self._start:
                for candidate in self._candidates(key, start):
                    numbers = tuple((dict(best) | {key: candidate}).items())
                    found = fit(self._try(numbers), weights).objective
                    if found > reached + GAIN:
                        best, reached = numbers, found
                    next(steps, None)
        return best

    @staticmethod
    def _candidates(key: str, start: float) -> list[float]:
        low, high = ScoringConfig.RANGES[key]
        values = VALUES.get(key) or [float(f"{start * factor:.3g}") for factor in FACTORS]
        return [value for value in values if low <= value <= high and value != start]

    def _try(self, numbers: Numbers) -> Tried:
        if numbers not in self._tried:
            tuned = self._detector.with_config(**dict(numbers))
            self._tried[numbers] = try_numbers(tuned, *self._given)
        return self._tried[numbers]


def _mean(fits: Sequence[Fit]) -> Fit:
    columns = [[getattr(each, key) for each in fits] for key in Fit._fields[1:]]
    ap50 = {name: fmean(each.ap50[name] for each in fits) for name in fits[0].ap50}
    return Fit(ap50, *(fmean(column) for column in columns))
