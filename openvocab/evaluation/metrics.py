"""Figures that COCO does not have, from matched detections: F1, calibration, bootstrapped AP."""

import numpy as np
from numpy.typing import NDArray

from openvocab.evaluation.matching import IGNORED, RIGHT, Matches

Floats = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)


def ap50(matches: Matches, weights: Floats | None = None) -> float:
    """AP50 as in `precision`, from existing matches.

    Args:
        matches: matches of P photos.
        weights: `(P,)`, how often each photo counts, as in a bootstrap; None: once.
    """
    weights = np.ones(len(matches.labels)) if weights is None else weights
    judged = np.flatnonzero(matches.verdicts != IGNORED)
    order = judged[np.lexsort((-matches.scores[judged], matches.class_ids[judged]))]
    weights = weights[matches.photos[order]]
    right = weights * (matches.verdicts[order] == RIGHT)
    positives = weights @ matches.labels  # (K,)
    edges = np.searchsorted(matches.class_ids[order], np.arange(len(positives) + 1))
    values = []
    for class_id in np.flatnonzero(positives):
        rows = slice(edges[class_id], edges[class_id + 1])
        true, every = right[rows].cumsum(), weights[rows].cumsum()
        held = np.divide(true, every, out=np.zeros_like(true), where=every > 0)
        envelope = np.append(np.maximum.accumulate(held[::-1])[::-1], 0)
        places = np.searchsorted(true / positives[class_id], RECALLS, side="left")
        values.append(envelope[places].mean())
    return float(np.mean(values)) if values else float("nan")


def f1(
    scores: Floats,
    right: NDArray[np.bool_],
    labelled: float,
    thresholds: Floats,
    weights: Floats | None = None,
) -> Floats:
    """F1 `(T,)` of all boxes together at each threshold.

    >>> f1(np.array([0.9, 0.4]), np.array([True, False]), 1, np.array([0.5, 0.3])).round(2)
    array([1.  , 0.67])
    """
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    over = np.searchsorted(-scores[order], -thresholds, side="right")  # boxes above each threshold
    every, hits = (
        np.append(0, np.cumsum(each[order]))[over] for each in (weights, weights * right)
    )
    result: Floats = 2 * hits / np.maximum(every + labelled, 1)
    return result


def reliability(
    scores: Floats, right: NDArray[np.bool_], bins: int = 10, weights: Floats | None = None
) -> Floats:
    """Bins of equal width `(B, 3)`: mean score, share right, count; empty ones are left out.

    >>> reliability(np.array([0.91, 0.93, 0.1]), np.array([True, False, False])).round(2)
    array([[0.1 , 0.  , 1.  ],
           [0.92, 0.5 , 2.  ]])
    """
    weights = np.ones(len(scores)) if weights is None else weights
    places = np.minimum((scores * bins).astype(np.intp), bins - 1)
    columns = [
        np.bincount(places, each, bins) for each in (weights * scores, weights * right, weights)
    ]
    table: Floats = np.column_stack(columns).astype(np.float64)[columns[2] > 0]
    table[:, :2] /= table[:, 2:]
    return table


def calibration_error(
    scores: Floats, right: NDArray[np.bool_], bins: int = 10, weights: Floats | None = None
) -> float:
    """Mean difference between a score and the share of boxes with that score that are right.

    VideoSources: expected calibration error (Naeini et al., AAAI 2015), for detections as in Küppers et
    al., CVPR workshops 2020.

    >>> calibration_error(np.array([0.8, 0.8]), np.array([True, False])).__round__(2)
    0.3
    """
    rows = reliability(scores, right, bins, weights)
    if not len(rows):
        return float("nan")
    return float((np.abs(rows[:, 0] - rows[:, 1]) * rows[:, 2]).sum() / rows[:, 2].sum())
