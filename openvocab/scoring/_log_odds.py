r"""The mathematics of a score, in log-odds; pure NumPy.

For box `n` with objectness `o` and detector label `l` of confidence `c`, class `k` with prototypes
`P_k`, and the competitors `C_k` of the class (negatives, background prompts, and the labels that do
not mean it):

    z[n, p]   = s * similarity(f_n, p) + w * sqrt(c_n) * log P(l_n | p) + prior log-odds of p
    z[n, k]   = max over p in P_k of z[n, p]
    lo[n, k]  = z[n, k] - logsumexp over m in C_k of (z[n, m] + log g)
    posterior = sigmoid(lo)
    o[n, k]   = o_n ** (1 - b_k) * c_n ** b_k
    score     = o[n, k] ** (1 - a_k) * posterior ** a_k
    class     = argmax over k of (lo + r * sqrt(c_n) * log P(l_n | k))

`s` is the logit scale, `w` the label weight, `r` the rank weight and `g` the competitor weight of a
`ScoringConfig`. `P(l | p)` is in `_label_model`. The share `b_k` of a class's meaning that the
labels cover is 1 for a base class and 0 for a novel one; prior log-odds and exponent `a_k` go with
it. Classes do not compete with each other, so a score does not depend on the other classes of the
call.
"""

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.threads import matmul_nt
from openvocab.types import Features

Floats = NDArray[np.float32]

# Constants of `label_posterior`. Changing them has no significant effect (docs/accuracy.md of commit
# 2244b9a): scale 10 -0.1 (-0.7 to +0.3), 40 -0.0 (-0.3 to +0.1); floor 0.4 +0.1 (-0.2 to +0.3), 0.6
# -0.2 (-0.6 to 0).
_TINY = 1e-300  # its logarithm is finite
LABEL_SCALE = 20.0  # of the softmax over the labels
LABEL_FLOOR = 0.5  # similarity, 0 (unrelated) to 1 (the same), of "none of the labels"


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis of `(N, M)`; every row sums to one.

    >>> softmax(np.array([[0.0, 0.0]], np.float32))
    array([[0.5, 0.5]], dtype=float32)
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def sigmoid(log_odds: NDArray[np.floating]) -> Floats:
    """Probability of given log-odds.

    >>> sigmoid(np.array([0.0, 1000.0])).tolist()
    [0.5, 1.0]
    """
    # Beyond 500, float64 has reached 0 or 1 and exp would overflow.
    result: Floats = (1 / (1 + np.exp(-log_odds.clip(-500, 500)))).astype(np.float32)
    return result


def class_log_odds(logits: Floats, competitors: Floats, weights: Floats) -> NDArray[np.float64]:
    """Log-odds `(N, K)` of each class against its competitors.

    Args:
        logits: `(N, K)`, logits of the classes.
        competitors: `(N, M)`, logits of the competitors, within 600 of each other.
        weights: `(K, M)` in [0, 1], how far a competitor counts: 0 if it means the class. A class
            without competitors has log-odds of several hundred.

    >>> bus, road, coach = np.float32([[2.0]]), [1.0], [2.0]
    >>> class_log_odds(bus, np.float32([road + coach]), np.float32([[1, 0]])).round(3)
    array([[1.]])
    """
    exact = competitors.astype(np.float64)
    top = exact.max(axis=1, keepdims=True, initial=-600)
    sums = matmul_nt(np.exp(exact - top), weights.astype(np.float64))
    result: NDArray[np.float64] = logits - (np.log(sums + _TINY) + top)
    return result


def fuse(objectness: Floats, posterior: Floats, exponent: Floats | float) -> Floats:
    """Geometric fusion `objectness**(1 - exponent) * posterior**exponent`, elementwise.

    Source: F-VLM (Kuo et al., ICLR 2023).

    >>> fuse(np.array([0.25], np.float32), np.array([1.0], np.float32), 0.5)
    array([0.5], dtype=float32)
    """
    result: Floats = objectness ** (1 - exponent) * posterior**exponent
    return result.astype(np.float32)


def class_objectness(objectness: Floats, label_confidence: Floats, coverage: Floats) -> Floats:
    """How surely a box holds an object of a class: the label's confidence, for one with labels.

    For a class without labels, the objectness, whatever the labels say; elementwise.

    Args:
        objectness: of the box.
        label_confidence: of the detector's label of the box, at most the objectness.
        coverage: share of the meaning of the class that the labels cover, 0 to 1.

    >>> class_objectness(np.float32([0.6, 0.6]), np.float32([0.1, 0.1]), np.float32([0, 1]))
    array([0.6, 0.1], dtype=float32)
    """
    result: Floats = objectness ** (1 - coverage) * label_confidence**coverage
    return result.astype(np.float32)


def min_objectness(score: float, exponent: float) -> float:
    """The lowest objectness that `fuse` can turn into a score, as a posterior is at most 1.

    >>> round(min_objectness(0.5, 0.5), 2)
    0.25
    """
    return float(score ** (1 / max(1 - exponent, 1e-6)))


def baseline_cosine(features: Features) -> float:
    """Cosine of two unrelated texts: the median over all pairs of rows `(N, D)`.

    Text features of CLIP lie close together (0.8); those of other encoders do not (0.05).

    >>> baseline_cosine(np.float32([[1, 0], [0, 1]]))
    0.0
    """
    pairs = matmul_nt(features, features)[np.triu_indices(len(features), 1)]
    return float(np.median(pairs)) if len(pairs) else 0.0


def normalized_similarity(names: Features, labels: Features, baseline: float) -> Floats:
    """Similarity `(K, L)` of each name `(K, D)` to each label `(L, D)`: 1 the same, 0 unrelated.

    With it, one floor serves every encoder. With a floor of 0.5, CLIP ViT-B/32 matches 43 % of
    LVIS's 127 kinds of COCO objects, as it did with bare cosines (scale 100, floor 0.9), but only
    12 % of its 1,012 other names instead of 40 % (WordNet says which are kinds).

    Args:
        names: unit rows.
        labels: unit rows.
        baseline: cosine of unrelated names, see `baseline_cosine`.

    >>> normalized_similarity(np.float32([[1, 0]]), np.float32([[1, 0], [0.8, 0.6]]), 0.8).round(2)
    array([[1., 0.]], dtype=float32)
    """
    result: Floats = (matmul_nt(names, labels) - np.float32(baseline)) / np.float32(1 - baseline)
    return result


def label_posterior(similarity: Floats) -> Floats:
    """Probability `(K, L + 1)` that a name means each of the detector's labels, or none of them.

    A softmax over all labels and a last column, "none of the labels", at `LABEL_FLOOR`. So a name
    is compared with the detector's whole vocabulary, and with no other class. Rows sum to one.

    Args:
        similarity: `(K, L)`, from `normalized_similarity`.

    >>> label_posterior(np.float32([[1, 0]])).round(2)
    array([[1., 0., 0.]], dtype=float32)
    """
    none = np.full((len(similarity), 1), LABEL_FLOOR, np.float32)
    return softmax(np.float32(LABEL_SCALE) * np.hstack([similarity, none]))


def top2_margin(posterior: Floats, class_ids: NDArray[np.intp]) -> Floats:
    """Lead of each row's class over the next best class or "none of them"; `(N, K)` to `(N,)`.

    The posterior of the class, minus the larger of the next best class's and one minus its own.
    Negative if the posterior is below 0.5.

    >>> top2_margin(np.float32([[0.9, 0.4], [0.6, 0.1]]), np.array([0, 0])).round(1)
    array([0.5, 0.2], dtype=float32)
    """
    rows = np.arange(len(posterior))
    own = posterior[rows, class_ids]
    others = posterior.copy()
    others[rows, class_ids] = 0
    result: Floats = own - np.maximum(others.max(axis=1, initial=0), 1 - own)
    return result
