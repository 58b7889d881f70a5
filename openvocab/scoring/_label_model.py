"""`LabelModel`: what a detector's labels say about a class, and what they look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.threads import matmul_nt
from openvocab.scoring import _log_odds as log_odds
from openvocab.scoring._image_prototypes import ImagePrototypes
from openvocab.types import Features
from openvocab.vocabulary import load_lexicon, synsets_for

Floats = NDArray[np.float32]

# Constants of P(label | class); docs/accuracy.md says what changing them does.
CONFUSION = 0.2  # share of a thing's boxes that get another label than its own
SHARPNESS = 8.0  # of the softmax by which look-alikes share those boxes
UNIFORM = 0.05  # share that no likeness explains
RIVAL_LOG_ODDS = 6.0  # by which a label competes less with a kind of it
NEAR = (0.5, 0.65)  # similarities from which a label competes less, and as little as with a kind
RELATED = 0.25  # share of a word's meaning from which a relation to a label counts
# Detectors of a word list (YOLOE's 4,585 labels) would need a gigabyte for all pairs in the lexicon.
_MAX_LEXICON_LABELS = 1500


class WordRelations(NamedTuple):
    """What the lexicon and the text encoder make of R words, for L labels."""

    likelihood: Floats
    """`(R, L)`, P(label | word): how often a detector gives each label to what the word means."""
    covers: NDArray[np.bool_]
    """`(R, L)`: the label means the word or a kind of it, so it is no evidence against the word."""
    rivalry: Floats
    """`(R, L)`, log-odds by which a label that does not cover the word competes less: it hardly does
    if the word is a kind of it or nearly the same (tangerine, of orange)."""
    base: Floats
    """`(R,)`, share of the word's meaning that the labels cover, 0 (novel) to 1 (base class)."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelModel:
    """The labels of one detector as competitors of any class, and as evidence for it.

    A label says something about every class: P(label | class) is concentrated for a synonym or a
    kind of the label (settee, boy), shared among the kinds of a broader word (food), spread over
    look-alikes for a thing that the detector has no name for (it calls a raccoon cat, dog or
    bear), and nearly flat for an unrelated one.

    Source: the relations come from WordNet, as in YOLO9000's WordTree (Redmon and Farhadi, CVPR
    2017) and CHiLS (Novack et al., ICML 2023); they enter by Bayes' rule. Image prototypes are the
    class means of prototypical networks (Snell et al., NeurIPS 2017).
    """

    labels: tuple[str, ...]
    """`(L,)`."""
    text: Features
    """`(L, D)`."""
    classifier: Floats
    """`(L, D)`: for each label, its text feature and its image prototype, weighted; the similarity
    of a region to a label is their product. Not unit rows."""
    classifier_bias: Floats
    """`(L,)`, added to that product: the modality gap, where a prototype is in it."""
    likelihood: Floats
    """`(L, L)`, P(label | label): row j for a thing that the detector has label j for."""
    modality_gap: float
    """By how much two unrelated images are more similar than an image and an unrelated text; 0 if
    there are no prototypes to measure it."""
    baseline: float
    """Cosine of two unrelated texts."""
    synsets: tuple[str | None, ...] | None
    """`(L,)`, of the labels, from `synsets_for`; None leaves the lexicon out."""

    @classmethod
    def build(
        cls,
        labels: tuple[str, ...],
        text: Features,
        background: Features,
        prototypes: ImagePrototypes | None,
        *,
        prototype_weight: float,
        use_lexicon: bool,
    ) -> Self:
        """Prepare what depends on the detector and the encoder only, not on the classes.

        Args:
            labels: the detector's L labels.
            text: `(L, D)`, features of the labels.
            background: `(B, D)`, features of the background prompts.
            prototypes: what some of the labels look like; None uses their texts only.
            prototype_weight: weight of a prototype relative to the text, 0 to 1.
            use_lexicon: False compares texts only.
        """
        use_lexicon = use_lexicon and len(labels) <= _MAX_LEXICON_LABELS
        synsets = synsets_for(labels) if use_lexicon else None
        classifier, gap = text.astype(np.float32), 0.0
        bias = np.zeros(len(labels), np.float32)
        if prototypes is not None and prototype_weight:
            image, known = prototypes.for_labels(labels)
            gap = _modality_gap(text[known], image[known])
            weight = np.where(known, np.float32(prototype_weight), np.float32(0))
            classifier = text + weight[:, None] * (image - text)
            bias = -weight * np.float32(gap)
        baseline = log_odds.baseline_cosine(np.concatenate([text, background]))
        similarity = log_odds.normalized_similarity(text, text, baseline)
        if synsets is not None:
            relations = load_lexicon().relations(labels, labels, synsets)
            both = np.outer(relations.label_known, relations.label_known)
            similarity = _mean_where(both, similarity, relations.nearness)
        np.fill_diagonal(similarity, -np.inf)
        likelihood = np.float32(CONFUSION) * _spread(similarity, SHARPNESS)
        np.fill_diagonal(likelihood, likelihood.diagonal() + np.float32(1 - CONFUSION))
        return cls(labels, text, classifier, bias, likelihood, gap, baseline, synsets)

    def relate(self, words: Sequence[str], features: Features) -> WordRelations:
        """Relate R words, with features `(R, D)`, to the labels."""
        similarity = log_odds.normalized_similarity(features, self.text, self.baseline)
        # Without the lexicon, the text encoder has only one relation to tell: the same.
        same = log_odds.label_posterior(similarity)[:, :-1]
        same = np.where(same > 0.5, same, np.float32(0))
        kind, broader = np.zeros_like(same), np.zeros_like(same)
        if self.synsets is not None and words:
            lexicon = load_lexicon().relations(words, self.labels, self.synsets)
            known = lexicon.known[:, None]
            same = np.where(known, lexicon.same, same)
            kind, broader = lexicon.kind * known, lexicon.broader * known
            similarity = _mean_where(known & lexicon.label_known, similarity, lexicon.nearness)
        own = np.maximum(same, kind)
        own /= np.maximum(own.sum(axis=1, keepdims=True), 1)
        rest = 1 - own.sum(axis=1, keepdims=True)
        below = np.where(own > 0, np.float32(0), broader)
        below_share = rest * below.max(axis=1, initial=0, keepdims=True).clip(max=1)
        below *= below_share / np.maximum(below.sum(axis=1, keepdims=True), np.float32(1e-6))
        rest = rest - below.sum(axis=1, keepdims=True)
        means = matmul_nt(own + below, self.likelihood.T)
        covers = np.maximum(same, broader) > RELATED
        return WordRelations(
            likelihood=means + rest * _spread(similarity, SHARPNESS),
            covers=covers,
            rivalry=np.where(kind > RELATED, 1, _ramp(similarity)) * np.float32(-RIVAL_LOG_ODDS),
            base=(1 - rest[:, 0]).astype(np.float32),
        )

    def relate_images(self, features: Features, logit_scale: float) -> WordRelations:
        """Relate the classes of R example images, unit rows `(R, D)`, to the labels.

        As a label classifies the example, it says what else the class looks like; the label
        competes only as far as the example is none of its own.
        """
        shares = _spread(self.similarity(features), logit_scale, 0)
        return WordRelations(
            likelihood=matmul_nt(_mix_uniform(shares, 2 * UNIFORM), self.likelihood.T),
            covers=np.zeros(shares.shape, np.bool_),
            rivalry=np.log(np.maximum(1 - shares, np.float32(np.exp(-RIVAL_LOG_ODDS)))),
            base=(2 * shares.max(axis=1) - 1).clip(0),  # 0 if the labels disagree
        )

    def similarity(self, features: Features) -> Floats:
        """Similarity `(N, L)` of regions or images `(N, D)` to the labels."""
        result: Floats = matmul_nt(features, self.classifier) + self.classifier_bias
        return result


def _ramp(similarity: Floats) -> Floats:
    """0 up to a similarity of `NEAR`, 1 from that of near synonyms on."""
    low, high = NEAR
    return ((similarity - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def _spread(similarity: Floats, sharpness: float, uniform: float = UNIFORM) -> Floats:
    """Softmax over the labels, mixed with a uniform share."""
    if similarity.shape[1] == 1:  # the only label, also where it is excluded
        return np.ones_like(similarity)
    return _mix_uniform(log_odds.softmax(np.float32(sharpness) * similarity), uniform)


def _mix_uniform(shares: Floats, uniform: float) -> Floats:
    """Replace a part of the shares `(R, L)`, whose rows sum to one, by a uniform distribution."""
    count = max(shares.shape[1], 1)
    result: Floats = np.float32(1 - uniform) * shares + np.float32(uniform / count)
    return result


def _mean_where(known: NDArray[np.bool_], text: Floats, lexicon: Floats) -> Floats:
    """The mean of two similarities in [0, 1] where both are known, else that of the texts."""
    return np.where(known, (text + lexicon) / 2, text).astype(np.float32)


def _modality_gap(text: Features, image: Features) -> float:
    """Mean cosine of images of different labels, less that of an image and another label's text."""
    count = len(text)
    if count < 2:
        return 0.0
    pairs = ~np.eye(count, dtype=np.bool_)
    return float(matmul_nt(image, image)[pairs].mean() - matmul_nt(image, text)[pairs].mean())
