"""From features to scores: logits, label prior, posterior, fusion with objectness. Pure NumPy."""

import numpy as np
from numpy.typing import NDArray

from openvocab.protocols import Features

__all__ = ["fuse", "label_affinity", "label_evidence", "margins", "posterior"]

Floats = NDArray[np.float32]


def posterior(logits: Floats) -> Floats:
    """Softmax over the last axis of `(N, M)` logits; every row sums to one.

    Columns are the caller's classes, then what competes with them and is never returned
    (negatives, background): that is how "none of these" becomes an answer.

    >>> posterior(np.array([[0.0, 0.0]], np.float32))
    array([[0.5, 0.5]], dtype=float32)
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def fuse(objectness: Floats, class_posterior: Floats, exponent: float) -> Floats:
    """Geometric fusion `objectness**(1 - exponent) * posterior**exponent` of `(N,)` and `(N,)`.

    As F-VLM (Kuo et al., ICLR 2023) fuses its detector with CLIP.

    >>> fuse(np.array([0.25], np.float32), np.array([1.0], np.float32), 0.5)
    array([0.5], dtype=float32)
    """
    result: Floats = objectness ** (1 - exponent) * class_posterior**exponent
    return result.astype(np.float32)


def label_affinity(words: Features, names: Features, scale: float, floor: float) -> Floats:
    """How far each word `(K, D)` means each of the detector's names `(L, D)`: `(K, L + 1)`.

    A softmax of `scale * cosine` over the names and one more column, "none of the names", whose
    cosine is `floor`: so a word is compared with the whole vocabulary of the detector and with
    nothing else that the caller asked for. Rows sum to one.

    >>> rows = label_affinity(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32), 40, 0.5)
    >>> rows.round(2)
    array([[1., 0., 0.]], dtype=float32)
    """
    cosine = words @ names.T
    none = np.full((len(words), 1), floor, np.float32)
    return posterior(np.float32(scale) * np.hstack([cosine, none]))


def label_evidence(affinity: Floats, label_ids: NDArray[np.intp]) -> Floats:
    """What a detector's label says for and against each word: `(N, K)` in [-1, 1].

    +1: the label is another word for it. -1: the detector has a word for it and said another.
    0: the detector does not know such a thing, so its label says nothing.

    Args:
        affinity: `(K, L + 1)` of `label_affinity`.
        label_ids: `(N,)` index of each box's label among the names.

    >>> label_evidence(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32), np.array([0, 1]))
    array([[ 1.,  0.],
           [-1.,  0.]], dtype=float32)
    """
    agree = affinity[:, label_ids].T  # (N, K)
    unknown = affinity[:, -1]  # (K,)
    result: Floats = 2 * agree + unknown - 1
    return result


def margins(class_posterior: Floats) -> Floats:
    """Best minus second best of `(N, M)`; a single column's margin is its own value.

    >>> margins(np.array([[0.7, 0.2, 0.1]], np.float32)).round(1)
    array([0.5], dtype=float32)
    """
    if class_posterior.shape[1] == 1:
        return class_posterior[:, 0]
    top = np.partition(class_posterior, -2, axis=1)[:, -2:]
    result: Floats = top[:, 1] - top[:, 0]
    return result
