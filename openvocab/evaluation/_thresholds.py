"""Fits only the thresholds, which needs few labelled boxes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvocab.config import Preset
from openvocab.detector import OpenVocabDetector
from openvocab.errors import DatasetError
from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._calibration import (
    TaskMatches,
    compute_metrics,
    encode_task,
    fitted_toml,
    fp_phrase,
    match_task,
)
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._evaluator import Progress
from openvocab.evaluation._feature_cache import FeatureCache
from openvocab.evaluation._prompt_variants import EvaluationTask

MIN_BOXES = 20  # in total for the common threshold, and of a class for its own threshold
_FOLDS = 5
_FP_COST = 0.2  # in F1, of one false positive for absent classes per image

Floats = NDArray[np.float64]


class Thresholds(NamedTuple):
    """The score threshold, and separate ones of some classes."""

    score_threshold: float
    by_class: Mapping[str, float]

    def of(self, classes: tuple[str, ...]) -> Floats:
        """The threshold `(K,)` of each class."""
        return np.array([self.by_class.get(name, self.score_threshold) for name in classes])


class Figures(NamedTuple):
    """Metrics of thresholds on some images, as fractions of 1."""

    f1: float
    """Over all boxes, whatever their class."""
    fp_per_image: float
    """Detections per image for five absent classes; NaN if there are no absent classes."""

    @property
    def objective(self) -> float:
        """The value to maximize: F1, minus 0.01 for one false positive per 20 images.

        >>> Figures(0.5, 0.05).objective.__round__(3)
        0.49
        """
        return self.f1 - _FP_COST * float(np.nan_to_num(self.fp_per_image))


@dataclass(frozen=True, slots=True)
class ThresholdFit:
    """Fitted thresholds and their metrics."""

    initial: Thresholds
    fitted: Thresholds
    """The initial thresholds if the fit is no better."""
    before: Figures
    after: Figures
    """Metrics of the fitted thresholds on the images that they were fitted to."""
    held_out_before: Figures
    held_out: Figures
    """Metrics of thresholds fitted to the other folds, for the better of the two kinds of fit."""

    @property
    def improves(self) -> bool:
        """Whether fitting helps on held-out images."""
        return self.held_out.objective > self.held_out_before.objective

    def report(self) -> list[str]:
        """Readable lines: the changed values, then the figures."""
        old, new = self.initial.score_threshold, self.fitted.score_threshold
        lines = [] if old == new else [f"score_threshold: {old:g} -> {new:g}"]
        lines += [
            f"threshold of {name}: {self.initial.by_class.get(name, old):g} -> {value:g}"
            for name, value in self.fitted.by_class.items()
        ]
        if not self.improves:
            lines.append("The fit is no better on held-out images: nothing is changed.")
        rows = {
            "before": self.before,
            "fitted": self.after,
            "held-out images, before": self.held_out_before,
            "held-out images, fitted": self.held_out,
        }
        return lines + [f"{name}: {_line(figures)}" for name, figures in rows.items()]

    def to_toml(self, preset: Preset, dataset: Dataset, part: str) -> str:
        """The preset with the fitted thresholds as TOML, with the figures in comments."""
        scoring = replace(preset.scoring, score_threshold=self.fitted.score_threshold)
        fitted = replace(preset, scoring=scoring, thresholds=dict(self.fitted.by_class))
        return fitted_toml(fitted, "the thresholds", dataset, part, self.report())


def _line(figures: Figures) -> str:
    return f"F1 {100 * figures.f1:.1f}{fp_phrase(figures.fp_per_image)}"


def fit_thresholds(
    detector: OpenVocabDetector,
    task: EvaluationTask,
    *,
    cache: FeatureCache | None = None,
    progress: Progress = iter,
) -> ThresholdFit:
    """Fit the score threshold, and separate ones for classes with 20 boxes or more.

    Scores do not change. Separate thresholds are used only if they are better on held-out images
    than a common one, and a fit only if it is better there than the preset (five folds).

    Args:
        detector: detector of the preset.
        task: labelled images that no network was trained on; the first variant is used.
        cache: encodes the images; None does not write the features to disk.
        progress: wraps the images, to show progress.

    Raises:
        DatasetError: there are fewer than 20 boxes, or only one image.
    """
    cache = cache or FeatureCache(detector)
    readable, features = encode_task(cache, task, _check_size, progress)
    task_matches = match_task(detector, replace(readable, variants=task.variants[:1]), features)
    preset = detector.preset
    initial = Thresholds(preset.scoring.score_threshold, preset.thresholds)
    return _fit_folds(task_matches, readable.dataset.classes, initial)


def _check_size(dataset: Dataset) -> None:
    if len(dataset) < 2 or dataset.box_count < MIN_BOXES:
        raise DatasetError(
            f"{len(dataset)} images with {dataset.box_count} boxes are too few for a threshold; "
            f"label at least 2 images and {MIN_BOXES} boxes."
        )


def _fit_folds(
    task_matches: TaskMatches, classes: tuple[str, ...], initial: Thresholds
) -> ThresholdFit:
    """Choose between a common threshold and separate ones on the held-out images."""
    weights = list(_fold_weights(len(task_matches.fp_counts)))
    all_images = np.ones(len(task_matches.fp_counts))

    held_out = {
        by_class: _figures(
            task_matches,
            classes,
            [_fit(task_matches, classes, 1 - fold, by_class=by_class) for fold in weights],
            weights,
        )
        for by_class in (False, True)
    }
    by_class = max(held_out, key=lambda option: held_out[option].objective)
    before = _figures(task_matches, classes, [initial], [all_images])
    held_out_before = _figures(task_matches, classes, [initial] * len(weights), weights)
    fit = ThresholdFit(initial, initial, before, before, held_out_before, held_out[by_class])
    if not fit.improves:
        return fit
    fitted = _fit(task_matches, classes, all_images, by_class=by_class)
    after = _figures(task_matches, classes, [fitted], [all_images])
    return replace(fit, fitted=fitted, after=after)


def _fold_weights(count: int) -> Iterator[Floats]:
    """For each of at most five folds, weights `(P,)`: 1 for a held-out image, else 0."""
    for fold in np.array_split(np.arange(count), min(_FOLDS, count)):
        weights = np.zeros(count)
        weights[fold] = 1
        yield weights


def _fit(
    task_matches: TaskMatches, classes: tuple[str, ...], weights: Floats, *, by_class: bool
) -> Thresholds:
    """The thresholds with the best F1 on the weighted images."""
    score_threshold = compute_metrics(task_matches, weights).threshold
    if not by_class:
        return Thresholds(score_threshold, {})
    matches = next(iter(task_matches.by_variant.values()))
    label_counts = weights @ matches.label_counts
    class_thresholds = {
        classes[class_id]: _best(matches, class_id, weights, float(label_counts[class_id]))
        for class_id in np.flatnonzero(label_counts >= MIN_BOXES).tolist()
    }
    return Thresholds(score_threshold, class_thresholds)


def _best(matches: matching.Matches, class_id: int, weights: Floats, label_count: float) -> float:
    """The threshold with the best F1 of a class; the middle one of equals."""
    rows = (matches.class_ids == class_id) & (matches.outcomes != matching.IGNORED)
    scores, is_correct = matches.scores[rows], matches.outcomes[rows] == matching.TP
    row_weights = weights[matches.image_indices[rows]]
    f1 = metrics.f1(scores, is_correct, label_count, metrics.THRESHOLDS, row_weights)
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    return round(float(metrics.THRESHOLDS[best[len(best) // 2]]), 2)


def _figures(
    task_matches: TaskMatches,
    classes: tuple[str, ...],
    thresholds: list[Thresholds],
    weights: list[Floats],
) -> Figures:
    """Metrics over several groups of images, each with its own thresholds.

    Args:
        task_matches: the matches of P images.
        classes: the class names.
        thresholds: the thresholds of each group.
        weights: for each group, `(P,)`, 1 for its images, else 0.
    """
    matches = next(iter(task_matches.by_variant.values()))
    is_counted, is_correct = matches.outcomes != matching.IGNORED, matches.outcomes == matching.TP
    totals = np.zeros(3)  # true positives, detections, labels
    fp_totals = np.zeros(2)  # false positives for absent classes, images that have absent classes
    for group, image_weights in zip(thresholds, weights, strict=True):
        is_above = is_counted & (matches.scores >= group.of(classes)[matches.class_ids])
        row_weights = image_weights[matches.image_indices] * is_above
        label_count = image_weights @ matches.label_counts.sum(axis=1)
        totals += row_weights @ is_correct, row_weights.sum(), label_count
        nearest = int(np.abs(metrics.THRESHOLDS - group.score_threshold).argmin())
        fp_counts = task_matches.fp_counts[:, nearest]
        has_absent = image_weights * ~np.isnan(fp_counts)
        fp_totals += has_absent @ np.nan_to_num(fp_counts), has_absent.sum()
    fp_per_image = fp_totals[0] / fp_totals[1] if fp_totals[1] else float("nan")
    return Figures(float(2 * totals[0] / max(totals[1] + totals[2], 1)), float(fp_per_image))
