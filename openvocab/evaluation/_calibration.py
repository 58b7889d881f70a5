"""Fits the scoring of a preset to labelled images, and measures the gain on held-out images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvocab import __version__
from openvocab.config import Preset, ScoringConfig
from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError, one_line
from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._evaluator import Progress, TaskClassifier
from openvocab.evaluation._feature_cache import CachedFeatures, FeatureCache, iter_readable
from openvocab.evaluation._metrics import THRESHOLDS
from openvocab.evaluation._prompt_variants import EvaluationTask
from openvocab.weights import manifest

MIN_IMAGES, MIN_BOXES = 50, 300
MAX_FP_PER_IMAGE = 0.10  # at the chosen threshold, for five absent classes
_FOLDS, _ROUNDS = 5, 2
_MIN_GAIN = 0.1  # of the objective; smaller gains occur by chance
_ECE_BY_CHANCE = 0.05  # calibration error that is not penalised
_SCALE_FACTORS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)
_CANDIDATES = {
    "competitor_weight": (1.0, 2.0, 4.0, 8.0),
    "label_weight": (0.5, 1.0, 1.5, 2.5),
    "fusion_exponent": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "novel_weight": (2.0, 8.0, 32.0),
    "novel_fusion_exponent": (0.1, 0.3, 0.5, 0.7),
}
_FITTED = ("logit_scale", *_CANDIDATES)

Floats = NDArray[np.float64]


class Metrics(NamedTuple):
    """Metrics of some settings on some images, as fractions of 1."""

    ap50: dict[str, float]
    """AP50 by variant."""
    f1: float
    """F1 at the threshold, with the dataset's names."""
    threshold: float
    ece: float
    """Expected calibration error, with the dataset's names."""
    fp_per_image: float
    """Detections per image above the threshold for five absent classes; NaN without any."""

    @property
    def objective(self) -> float:
        """What is maximised: points of mean AP50, minus miscalibration and false positives.

        A false positive in every twentieth image costs a point. So does each 0.02 of calibration
        error above 0.05, since that much comes from matching a few hundred boxes in ten bins.

        >>> Metrics({"names": 0.4, "synonyms": 0.38}, 0.5, 0.3, 0.07, 0.05).objective
        37.0
        """
        penalty = 50 * max(self.ece - _ECE_BY_CHANCE, 0) + 20 * float(
            np.nan_to_num(self.fp_per_image)
        )
        return 100 * fmean(self.ap50.values()) - penalty


class TaskMatches(NamedTuple):
    """Detections of a task in P images, matched to labels; input of `compute_metrics`."""

    by_variant: dict[str, matching.Matches]
    """The dataset's own names first."""
    fp_counts: Floats
    """`(P, T)`, boxes above each of `THRESHOLDS` for five absent classes; NaN without any."""
    encoder_accuracy: float
    """Share of labelled boxes that the encoder alone classifies correctly, by the names."""


def match_task(
    detector: OpenVocabDetector, task: EvaluationTask, features: Sequence[CachedFeatures]
) -> TaskMatches:
    """Classify encoded images with a detector's settings, in all variants.

    Args:
        detector: detector with the settings.
        task: P images and prompts.
        features: of the P images.
    """
    results = list(map(TaskClassifier(detector, task), task.dataset.images, features))
    by_variant = {
        variant.name: matching.match(task.dataset, [result.detections[index] for result in results])
        for index, variant in enumerate(task.variants)
    }
    fp_counts = np.full((len(results), len(THRESHOLDS)), np.nan)
    for row, result in zip(fp_counts, results, strict=True):
        by_kind = [scores >= THRESHOLDS[:, None] for scores in result.fp_scores.values()]
        if by_kind:
            row[:] = np.mean([above.sum(axis=1) for above in by_kind], axis=0)
    accuracy = sum(result.correct[0] for result in results) / task.dataset.box_count
    return TaskMatches(by_variant, fp_counts, accuracy)


def compute_metrics(
    matches: TaskMatches, image_weights: Floats, threshold: float | None = None
) -> Metrics:
    """Compute the metrics of some of the images.

    Args:
        matches: matches of P images.
        image_weights: `(P,)`, how often each image counts: 0 or 1 to select some, more in a
            bootstrap.
        threshold: None uses the one with the best F1 among those with few enough false positives.
    """
    names_matches = next(iter(matches.by_variant.values()))
    scores, correct = names_matches.counted()
    weights = image_weights[names_matches.image_indices[names_matches.outcomes != matching.IGNORED]]
    label_count = float(image_weights @ names_matches.label_counts.sum(axis=1))
    fp_weights = image_weights * ~np.isnan(matches.fp_counts[:, 0])
    fp_per_image = np.full(len(THRESHOLDS), np.nan)
    if fp_weights.any():
        fp_per_image = fp_weights @ np.nan_to_num(matches.fp_counts) / fp_weights.sum()
    if threshold is None:
        f1 = metrics.f1(scores, correct, label_count, THRESHOLDS, weights)
        too_many = np.nan_to_num(fp_per_image) > MAX_FP_PER_IMAGE
        threshold = float(THRESHOLDS[np.where(too_many, -fp_per_image, f1).argmax()])
    (f1_there,) = metrics.f1(scores, correct, label_count, np.array([threshold]), weights)
    return Metrics(
        {name: metrics.ap50(of, image_weights) for name, of in matches.by_variant.items()},
        float(f1_there),
        round(threshold, 2),
        metrics.calibration_error(scores, correct, weights=weights),
        float(np.interp(threshold, THRESHOLDS, fp_per_image)),
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The fitted scoring of a preset, and its metrics."""

    initial: ScoringConfig
    """The preset's scoring, with the encoder's own logit scale if it sets none."""
    fitted: ScoringConfig
    """The fitted scoring; the initial one if no better one was found."""
    before: Metrics
    """Of the initial scoring."""
    after: Metrics
    """Of the fitted scoring, on the same images."""
    held_out: Metrics
    """Of a scoring fitted to four fifths of the images, on the other fifth; mean of five folds."""
    held_out_before: Metrics
    """Of the initial scoring, on the same fifths."""

    @property
    def changed(self) -> dict[str, Any]:
        """The fields whose values were changed by the fit."""
        return {
            name: getattr(self.fitted, name)
            for name in (*_FITTED, "score_threshold")
            if getattr(self.fitted, name) != getattr(self.initial, name)
        }

    @property
    def improves(self) -> bool:
        """Whether fitting helps on held-out images."""
        return self.held_out.objective > self.held_out_before.objective

    def report(self) -> list[str]:
        """Readable lines: the changed values, then the metrics."""
        lines = [
            f"{name}: {getattr(self.initial, name):g} -> {value:g}"
            for name, value in self.changed.items()
        ]
        if not self.improves:
            lines.append("The fit is no better on held-out images: nothing is changed.")
        rows = {
            "before": self.before,
            "fitted": self.after,
            "held-out images, before": self.held_out_before,
            "held-out images, fitted": self.held_out,
        }
        return lines + [f"{name}: {_line(of_row)}" for name, of_row in rows.items()]

    def to_toml(self, preset: Preset, dataset: Dataset, part: str) -> str:
        """The preset with the fitted scoring as TOML, with the measurements in comments."""
        fitted = replace(preset, scoring=replace(preset.scoring, **self.changed))
        what = f"{', '.join(_FITTED)} and score_threshold"
        return fitted_toml(fitted, what, dataset, part, self.report())


def fitted_toml(
    preset: Preset, what: str, dataset: Dataset, part: str, report: Sequence[str]
) -> str:
    """A fitted preset as TOML, with the measurements in comments.

    Args:
        preset: the fitted preset.
        what: the names of the values that were fitted.
        dataset: the images that they were fitted to.
        part: which part of the dataset these are.
        report: the measurements.
    """
    lines = [
        f"openvocab {__version__} fitted {what}",
        f"to {len(dataset)} images of {dataset.name} "
        f"(part: {part}; SHA-256 {dataset.sha256[:16]}).",
        *report,
    ]
    comments = "".join(f"# {one_line(line)}\n" for line in lines)
    # A path is relative to the file it is in, and this is another file.
    models: dict[str, Any] = {
        key: str(Path(path).resolve())
        for key in ("detector", "encoder", "prototypes")
        if (path := getattr(preset.models, key)) not in (None, *manifest()) and Path(path).exists()
    }
    return comments + replace(preset, models=replace(preset.models, **models)).to_toml()


def _line(of: Metrics) -> str:
    ap50 = ", ".join(f"{variant} {100 * value:.1f}" for variant, value in of.ap50.items())
    line = f"AP50 {ap50}; F1 {100 * of.f1:.1f} at {of.threshold:.2f}; ECE {of.ece:.3f}"
    return line + fp_phrase(of.fp_per_image)


def fp_phrase(fp_per_image: float) -> str:
    """The end of a line of figures: false positives, if they were measured."""
    if np.isnan(fp_per_image):
        return ""
    return f"; {fp_per_image:.3f} false positives per image for five absent classes"


def calibrate(
    detector: OpenVocabDetector,
    task: EvaluationTask,
    *,
    cache: FeatureCache | None = None,
    progress: Progress = iter,
) -> Calibration:
    """Fit the numbers of the scoring that have the most effect.

    These are logit scale, the weights of competitors, labels and novel classes, both fusion
    exponents, and the score threshold. One at a time, in two rounds; each gets the value with the
    best `Metrics.objective`. A fit that is no better than the preset's own values on held-out
    images (five folds) changes nothing.

    Args:
        detector: detector of the preset.
        task: labelled images that no network was trained on, and prompts.
        cache: encodes images; None writes no features.
        progress: wraps the images, then the steps of the search, to show progress.

    Raises:
        DatasetError: there are fewer than 50 images or 300 boxes.
    """
    task, features = encode_task(cache or FeatureCache(detector), task, _check_size, progress)
    return _Search(detector, task, features).run(progress)


def encode_task(
    cache: FeatureCache,
    task: EvaluationTask,
    check_size: Callable[[Dataset], None],
    progress: Progress,
) -> tuple[EvaluationTask, list[CachedFeatures]]:
    """The task with its readable images by file name, and their features.

    Args:
        cache: encodes the images.
        task: images and prompts.
        check_size: raises an error if a dataset is too small; before and after reading.
        progress: wraps the images, to show progress.
    """
    check_size(task.dataset)
    pairs = list(iter_readable(cache, progress(task.dataset.images), []))
    # Neighbouring frames of a video go into the same fold.
    pairs.sort(key=lambda pair: (pair[0].path.name, str(pair[0].path)))
    readable = task.dataset.with_images([image for image, _ in pairs])
    check_size(readable)
    return replace(task, dataset=readable), [cached for _, cached in pairs]


def _check_size(dataset: Dataset) -> None:
    if len(dataset) < MIN_IMAGES or dataset.box_count < MIN_BOXES:
        raise DatasetError(
            f"{len(dataset)} images with {dataset.box_count} boxes are too few to fit to; "
            f"label at least {MIN_IMAGES} images and {MIN_BOXES} boxes."
        )


class _Search:
    """Tries settings on encoded images, classifying them once with each."""

    def __init__(
        self, detector: OpenVocabDetector, task: EvaluationTask, features: Sequence[CachedFeatures]
    ) -> None:
        self._detector, self._task, self._features = detector, task, features
        self._matches: dict[ScoringConfig, TaskMatches] = {}
        scoring = detector.preset.scoring
        if scoring.logit_scale is None:
            scoring = replace(scoring, logit_scale=detector.encoder.logit_scale)
        self._initial = scoring
        self._candidates = {name: _candidates(name, getattr(scoring, name)) for name in _FITTED}

    def run(self, progress: Progress) -> Calibration:
        """Fit on all folds, then on all images."""
        count, own_threshold = len(self._features), self._initial.score_threshold
        candidate_count = sum(map(len, self._candidates.values()))
        steps = iter(progress(range((_FOLDS + 1) * _ROUNDS * candidate_count)))
        held_out, held_out_before = [], []
        for fold in np.array_split(np.arange(count), _FOLDS):
            weights = np.zeros(count)
            weights[fold] = 1
            best = self._fit(1 - weights, steps)
            threshold = self._measure(best, 1 - weights).threshold
            held_out.append(self._measure(best, weights, threshold))
            held_out_before.append(self._measure(self._initial, weights, own_threshold))
        everything = np.ones(count)
        fitted = self._fit(everything, steps)
        calibration = Calibration(
            initial=self._initial,
            fitted=fitted,
            before=self._measure(self._initial, everything, own_threshold),
            after=self._measure(fitted, everything),
            held_out=_mean(held_out),
            held_out_before=_mean(held_out_before),
        )
        if not calibration.improves:
            return replace(calibration, fitted=self._initial, after=calibration.before)
        fitted = replace(calibration.fitted, score_threshold=calibration.after.threshold)
        return replace(calibration, fitted=fitted)

    def _fit(self, weights: Floats, steps: Iterator[Any]) -> ScoringConfig:
        """Find the best settings on some of the images."""
        best, reached = self._initial, self._measure(self._initial, weights).objective
        for _ in range(_ROUNDS):
            for name, candidates in self._candidates.items():
                for candidate in candidates:
                    change: dict[str, Any] = {name: candidate}
                    scoring = replace(best, **change)
                    objective = self._measure(scoring, weights).objective
                    if objective > reached + _MIN_GAIN:
                        best, reached = scoring, objective
                    next(steps, None)
        return best

    def _measure(
        self, scoring: ScoringConfig, weights: Floats, threshold: float | None = None
    ) -> Metrics:
        if scoring not in self._matches:
            detector = self._detector.with_config(**{k: getattr(scoring, k) for k in _FITTED})
            self._matches[scoring] = match_task(detector, self._task, self._features)
        return compute_metrics(self._matches[scoring], weights, threshold)


def _candidates(name: str, initial: float) -> list[float]:
    low, high = ScoringConfig.RANGES[name]
    values = _CANDIDATES.get(name) or [float(f"{initial * f:.3g}") for f in _SCALE_FACTORS]
    return [value for value in values if low <= value <= high and value != initial]


def _mean(folds: Sequence[Metrics]) -> Metrics:
    _, *columns = zip(*folds, strict=True)
    ap50 = {name: fmean(fold.ap50[name] for fold in folds) for name in folds[0].ap50}
    return Metrics(ap50, *map(fmean, columns))
