"""Fits thresholds alone, for which a few labelled boxes are enough."""

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

MIN_BOXES = 20  # of all classes for one threshold, and of a class for one of its own
_FOLDS = 5
_FP_COST = 0.2  # F1 that a false positive for absent classes in every image costs

Floats = NDArray[np.float64]


class Thresholds(NamedTuple):
    """The lowest score of all classes, and those of some."""

    score_threshold: float
    by_class: Mapping[str, float]

    def of(self, classes: tuple[str, ...]) -> Floats:
        """The lowest score `(K,)` of each class."""
        return np.array([self.by_class.get(name, self.score_threshold) for name in classes])


class Figures(NamedTuple):
    """What thresholds achieve on some images, as fractions of 1."""

    f1: float
    """Of all boxes together."""
    fp_per_image: float
    """Detections per image for five absent classes; NaN without any."""

    @property
    def objective(self) -> float:
        """What must rise: F1, less a point for a false positive in every twentieth image.

        >>> Figures(0.5, 0.05).objective.__round__(3)
        0.49
        """
        return self.f1 - _FP_COST * float(np.nan_to_num(self.fp_per_image))


@dataclass(frozen=True, slots=True)
class ThresholdFit:
    """Fitted thresholds, and their figures."""

    initial: Thresholds
    fitted: Thresholds
    """The initial ones if no better ones were found."""
    before: Figures
    after: Figures
    """Of the fitted thresholds, on the images that they were fitted to."""
    held_out_before: Figures
    held_out: Figures
    """Of thresholds fitted to the other folds; those of the better of the two kinds of fit."""

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
    """Fit the score threshold and, for classes with 20 boxes or more, one of their own.

    Scores stay as they are. Thresholds of classes are used only if they are better on held-out
    images than one for all, and a fit only if it is better there than the preset (five folds).

    Args:
        detector: detector of the preset.
        task: labelled images that no network was trained on; the first variant is used.
        cache: encodes images; None writes no features.
        progress: wraps the images, to show progress.

    Raises:
        DatasetError: there are fewer than 20 boxes, or only one image.
    """
    cache = cache or FeatureCache(detector)
    readable, features = encode_task(cache, task, _check_size, progress)
    found = match_task(detector, replace(readable, variants=task.variants[:1]), features)
    scoring, own = detector.preset.scoring, detector.preset.thresholds
    return _fit_folds(found, readable.dataset.classes, Thresholds(scoring.score_threshold, own))


def _check_size(dataset: Dataset) -> None:
    if len(dataset) < 2 or dataset.box_count < MIN_BOXES:
        raise DatasetError(
            f"{len(dataset)} images with {dataset.box_count} boxes are too few for a threshold; "
            f"label at least 2 images and {MIN_BOXES} boxes."
        )


def _fit_folds(found: TaskMatches, classes: tuple[str, ...], initial: Thresholds) -> ThresholdFit:
    """Choose between one threshold and some of classes by the held-out images."""
    weights = list(_fold_weights(len(found.fp_counts)))
    everything = np.ones(len(found.fp_counts))

    held_out = {
        by_class: _figures(
            found,
            classes,
            [_fit(found, classes, 1 - fold, by_class=by_class) for fold in weights],
            weights,
        )
        for by_class in (False, True)
    }
    by_class = max(held_out, key=lambda kind: held_out[kind].objective)
    before = _figures(found, classes, [initial], [everything])
    held_out_before = _figures(found, classes, [initial] * len(weights), weights)
    fit = ThresholdFit(initial, initial, before, before, held_out_before, held_out[by_class])
    if not fit.improves:
        return fit
    fitted = _fit(found, classes, everything, by_class=by_class)
    return replace(fit, fitted=fitted, after=_figures(found, classes, [fitted], [everything]))


def _fold_weights(count: int) -> Iterator[Floats]:
    """Which images `(P,)` are held out, in each of at most five folds."""
    for fold in np.array_split(np.arange(count), min(_FOLDS, count)):
        weights = np.zeros(count)
        weights[fold] = 1
        yield weights


def _fit(
    found: TaskMatches, classes: tuple[str, ...], weights: Floats, *, by_class: bool
) -> Thresholds:
    """The thresholds with the best F1 on some of the images."""
    overall = compute_metrics(found, weights).threshold
    if not by_class:
        return Thresholds(overall, {})
    matches = next(iter(found.by_variant.values()))
    counts = weights @ matches.label_counts
    own = {
        classes[class_id]: _best(matches, class_id, weights, float(counts[class_id]))
        for class_id in np.flatnonzero(counts >= MIN_BOXES).tolist()
    }
    return Thresholds(overall, own)


def _best(matches: matching.Matches, class_id: int, weights: Floats, label_count: float) -> float:
    """The threshold with the best F1 of a class; the middle one of several."""
    rows = (matches.class_ids == class_id) & (matches.outcomes != matching.IGNORED)
    scores, correct = matches.scores[rows], matches.outcomes[rows] == matching.TP
    row_weights = weights[matches.image_indices[rows]]
    f1 = metrics.f1(scores, correct, label_count, metrics.THRESHOLDS, row_weights)
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    return round(float(metrics.THRESHOLDS[best[len(best) // 2]]), 2)


def _figures(
    found: TaskMatches,
    classes: tuple[str, ...],
    thresholds: list[Thresholds],
    weights: list[Floats],
) -> Figures:
    """Figures over several groups of images, each with its own thresholds.

    Args:
        found: matches of P images.
        classes: their names.
        thresholds: for each group.
        weights: `(P,)` each, 1 for the images of a group.
    """
    matches = next(iter(found.by_variant.values()))
    counted, correct = matches.outcomes != matching.IGNORED, matches.outcomes == matching.TP
    sums, absent = np.zeros(3), np.zeros(2)  # true positives, detections, labels
    for chosen, of_image in zip(thresholds, weights, strict=True):
        above = counted & (matches.scores >= chosen.of(classes)[matches.class_ids])
        of_row = of_image[matches.image_indices] * above
        sums += of_row @ correct, of_row.sum(), of_image @ matches.label_counts.sum(axis=1)
        at = int(np.abs(metrics.THRESHOLDS - chosen.score_threshold).argmin())
        asked = of_image * ~np.isnan(found.fp_counts[:, at])
        absent += asked @ np.nan_to_num(found.fp_counts[:, at]), asked.sum()
    fp_per_image = absent[0] / absent[1] if absent[1] else float("nan")
    return Figures(float(2 * sums[0] / max(sums[1] + sums[2], 1)), float(fp_per_image))
