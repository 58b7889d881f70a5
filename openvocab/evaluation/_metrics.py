"""Metrics that COCO lacks, from matched detections: F1, calibration error, bootstrapped AP50."""

import numpy as np
from numpy.typing import NDArray

from openvocab.evaluation._matching import FP, IGNORED, TP, Matches

THRESHOLDS = np.arange(0.02, 0.99, 0.01)

Floats = NDArray[np.float64]
_RECALLS = np.linspace(0, 1, 101)


def ap50(matches: Matches, image_weights: Floats | None = None) -> float:
    """AP50 as in `matching.precision`, from existing matches.

    Args:
        matches: matches of P images.
        image_weights: `(P,)`, how often each image counts, as in a bootstrap; None: once.
    """
    by_class = ap50_by_class(matches, image_weights)
    labelled = by_class[~np.isnan(by_class)]
    return float(labelled.mean()) if len(labelled) else float("nan")


def ap50_by_class(matches: Matches, image_weights: Floats | None = None) -> Floats:
    """AP50 of each of K classes `(K,)`; NaN for a class without labelled boxes."""
    if image_weights is None:
        image_weights = np.ones(len(matches.label_counts))
    counted = np.flatnonzero(matches.outcomes != IGNORED)
    order = counted[np.lexsort((-matches.scores[counted], matches.class_ids[counted]))]
    weights = image_weights[matches.image_indices[order]]
    hits = weights * (matches.outcomes[order] == TP)
    positives = image_weights @ matches.label_counts  # (K,)
    edges = np.searchsorted(matches.class_ids[order], np.arange(len(positives) + 1))
    values = np.full(len(positives), np.nan)
    for class_id in np.flatnonzero(positives):
        rows = slice(edges[class_id], edges[class_id + 1])
        tp, total = hits[rows].cumsum(), weights[rows].cumsum()
        precision = np.divide(tp, total, out=np.zeros_like(tp), where=total > 0)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        indices = np.searchsorted(tp / positives[class_id], _RECALLS, side="left")
        values[class_id] = envelope[indices].mean()
    return values


def f1(
    scores: Floats,
    correct: NDArray[np.bool_],
    label_count: float,
    thresholds: Floats,
    weights: Floats | None = None,
) -> Floats:
    """F1 `(T,)` of all boxes together at each threshold.

    >>> f1(np.array([0.9, 0.4]), np.array([True, False]), 1, np.array([0.5, 0.3])).round(2)
    array([1.  , 0.67])
    """
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    above = np.searchsorted(-scores[order], -thresholds, side="right")  # boxes per threshold
    total = np.append(0, np.cumsum(weights[order]))[above]
    tp = np.append(0, np.cumsum((weights * correct)[order]))[above]
    result: Floats = 2 * tp / np.maximum(total + label_count, 1)
    return result


def f1_above(matches: Matches, thresholds: NDArray[np.floating]) -> float:
    """F1 of all boxes together, with a threshold for each class.

    Args:
        matches: matches of K classes.
        thresholds: `(K,)` or more, by class.
    """
    above = matches.scores >= thresholds[matches.class_ids]
    found = int((above & (matches.outcomes != IGNORED)).sum())
    correct = int((above & (matches.outcomes == TP)).sum())
    return 2 * correct / max(found + matches.label_count, 1)


def f1_by_class(matches: Matches, thresholds: Floats) -> Floats:
    """F1 `(K, T)` of each class at each of T thresholds; NaN for a class without labelled boxes."""
    counts = matches.label_counts.sum(axis=0)
    values = np.full((len(counts), len(thresholds)), np.nan)
    for class_id in np.flatnonzero(counts):
        rows = (matches.class_ids == class_id) & (matches.outcomes != IGNORED)
        correct = matches.outcomes[rows] == TP
        values[class_id] = f1(matches.scores[rows], correct, counts[class_id], thresholds)
    return values


def false_positives(
    matches: Matches, absent: NDArray[np.bool_], threshold: float
) -> tuple[float, float]:
    """False positives per image above a threshold: of all classes, and of an absent one.

    Args:
        matches: matches of P images.
        absent: `(P, K)`, which classes are in none of an image's objects.
        threshold: lowest score that counts.
    """
    rows = (matches.outcomes == FP) & (matches.scores >= threshold)
    images, classes = matches.image_indices[rows], matches.class_ids[rows]
    share = absent[images, classes].sum() / absent.sum() if absent.any() else float("nan")
    return len(images) / max(len(absent), 1), float(share)


def reliability(
    scores: Floats, correct: NDArray[np.bool_], bins: int = 10, weights: Floats | None = None
) -> Floats:
    """Bins of equal width `(B, 3)`: mean score, precision, count; empty ones are left out.

    >>> reliability(np.array([0.91, 0.93, 0.1]), np.array([True, False, False])).round(2)
    array([[0.1 , 0.  , 1.  ],
           [0.92, 0.5 , 2.  ]])
    """
    weights = np.ones(len(scores)) if weights is None else weights
    index = np.minimum((scores * bins).astype(np.intp), bins - 1)
    columns = weights * scores, weights * correct, weights
    sums = np.column_stack([np.bincount(index, column, bins) for column in columns])
    table: Floats = sums[sums[:, 2] > 0].astype(np.float64)
    table[:, :2] /= table[:, 2:]
    return table


def calibration_error(
    scores: Floats, correct: NDArray[np.bool_], bins: int = 10, weights: Floats | None = None
) -> float:
    """Mean difference between a score and the precision of the boxes with that score.

    Source: expected calibration error (Naeini et al., AAAI 2015), for detections as in Küppers et
    al., CVPR workshops 2020.

    >>> calibration_error(np.array([0.8, 0.8]), np.array([True, False])).__round__(2)
    0.3
    """
    rows = reliability(scores, correct, bins, weights)
    if not len(rows):
        return float("nan")
    return float((np.abs(rows[:, 0] - rows[:, 1]) * rows[:, 2]).sum() / rows[:, 2].sum())
