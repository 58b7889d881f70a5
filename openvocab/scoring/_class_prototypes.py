"""`ClassPrototypes`: the prototypes of the classes of a call, and the evidence that they give."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab.scoring._label_model import LabelModel, WordRelations
from openvocab.types import Features
from openvocab.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrototypes:
    """P prototypes of the classes and negatives, in the order of these."""

    class_ids: NDArray[np.intp]
    """`(P,)`, rising; negatives come after the classes."""
    features: Features
    """`(P, D)`, unit rows."""
    is_image: NDArray[np.bool_]
    """`(P,)`, of example images; the others are of words."""
    relations: WordRelations
    """Of each prototype to the detector's labels."""

    @classmethod
    def build(
        cls, vocabulary: Vocabulary, labels: LabelModel, pooling: str, logit_scale: float
    ) -> Self:
        """Average the features that `pooling` says, and relate the rest to the labels.

        Args:
            vocabulary: classes and negatives, each of one or several words and example images.
            labels: of the detector.
            pooling: "mean", "examples" or "best", see `ScoringConfig`.
            logit_scale: factor on the similarities of images to labels.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (class_id, word) in enumerate(
            zip(vocabulary.class_ids.tolist(), vocabulary.words, strict=True)
        ):
            averaged = pooling == "mean" or (pooling == "examples" and word is None)
            groups.setdefault((class_id, -1 if averaged else row), []).append(row)
        keys = sorted(groups)
        rows = [groups[key] for key in keys]
        features = np.stack([_mean_feature(vocabulary.features[group]) for group in rows])
        is_word = np.array([word is not None for word in vocabulary.words], np.bool_)
        word_rows = [[row for row in group if is_word[row]] for group in rows]
        return cls(
            class_ids=np.array([class_id for class_id, _ in keys], np.intp),
            features=features,
            is_image=np.array([not words for words in word_rows], np.bool_),
            relations=_relate(vocabulary, word_rows, features, labels, logit_scale),
        )


def _mean_feature(features: Features) -> Features:
    """The mean of unit rows `(N, D)` as a unit vector `(D,)`."""
    mean = features.mean(axis=0)
    result: Features = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return result


def _relate(
    vocabulary: Vocabulary,
    word_rows: list[list[int]],
    features: Features,
    labels: LabelModel,
    logit_scale: float,
) -> WordRelations:
    """Relate each prototype to the labels: its words together, or else its images."""
    shape = len(word_rows), len(labels.labels)
    relations = WordRelations(
        likelihood=np.empty(shape, np.float32),
        covers=np.empty(shape, np.bool_),
        rivalry=np.empty(shape, np.float32),
        base=np.empty(len(word_rows), np.float32),
    )
    is_image = np.array([not rows for rows in word_rows], np.bool_)
    by_image = labels.relate_images(features[is_image], logit_scale)
    for array, image_rows in zip(relations, by_image, strict=True):
        array[is_image] = image_rows
    flat = [row for rows in word_rows for row in rows]
    words = [word for row in flat if (word := vocabulary.words[row]) is not None]
    by_word = labels.relate(words, vocabulary.features[flat])
    start = 0
    for prototype in np.flatnonzero(~is_image):
        own = slice(start, start + len(word_rows[prototype]))
        relations.likelihood[prototype] = by_word.likelihood[own].mean(axis=0)
        relations.covers[prototype] = by_word.covers[own].any(axis=0)
        relations.rivalry[prototype] = by_word.rivalry[own].min(axis=0)
        relations.base[prototype] = by_word.base[own].max()
        start = own.stop
    return relations


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What speaks for each class: its prototypes, and the labels that mean it or kinds of it."""

    columns: NDArray[np.intp]
    """`(R,)`, the row of the classifier that each piece of evidence compares with."""
    log_likelihood: NDArray[np.float32]
    """`(R, L)`, log P(label | class)."""
    class_log_likelihood: NDArray[np.float32]
    """`(K + J, L)`, the largest of each class."""
    prior: NDArray[np.float32]
    """`(R,)`, prior log-odds."""
    starts: NDArray[np.intp]
    """`(K + J,)`, the first piece of evidence for each class and negative."""
    own_starts: NDArray[np.intp]
    """`(K + J,)`, the first prototype of each class and negative."""

    @classmethod
    def build(
        cls, prototypes: ClassPrototypes, prior: NDArray[np.float32], label_start: int
    ) -> Self:
        """Combine P prototypes with the labels that they cover.

        Args:
            prototypes: of K classes and J negatives.
            prior: `(P,)`, prior log-odds of the prototypes; a label's are 0.
            label_start: the row of the classifier where the labels start.
        """
        class_ids = prototypes.class_ids
        covering, covered_labels = np.nonzero(prototypes.relations.covers)
        source = np.concatenate([np.arange(len(class_ids)), covering])  # prototype of each piece
        order = np.argsort(class_ids[source], kind="stable")
        source = source[order]
        columns = np.concatenate([np.arange(len(class_ids)), label_start + covered_labels])
        classes = np.arange(class_ids[-1] + 1)
        starts = np.searchsorted(class_ids[source], classes)
        log_likelihood = np.log(prototypes.relations.likelihood)[source]
        return cls(
            columns=columns[order],
            log_likelihood=log_likelihood,
            class_log_likelihood=np.maximum.reduceat(log_likelihood, starts, axis=0),
            prior=np.concatenate([prior, np.zeros(len(covering), np.float32)])[order],
            starts=starts,
            own_starts=np.searchsorted(class_ids, classes),
        )

    def logits(
        self,
        scaled: NDArray[np.float32],
        label_ids: NDArray[np.intp],
        label_weight: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Logits `(N, K + J)` of classes and negatives.

        Args:
            scaled: `(N, P + B + L)`, similarities times the logit scale.
            label_ids: `(N,)`, the label of each box.
            label_weight: `(N, 1)`, weight of its log-likelihood.
        """
        likelihood = self.log_likelihood[:, label_ids].T
        evidence = scaled[:, self.columns] + label_weight * likelihood + self.prior
        result: NDArray[np.float32] = np.maximum.reduceat(evidence, self.starts, axis=1)
        return result

    def own_similarity(self, similarity: NDArray[np.float32]) -> NDArray[np.float32]:
        """The best cosine `(N, K + J)` of each class, from those of all prototypes `(N, P)`."""
        result: NDArray[np.float32] = np.maximum.reduceat(similarity, self.own_starts, axis=1)
        return result
