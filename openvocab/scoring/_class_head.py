"""`ClassHead`: scores encoded regions for the classes of a call, and selects the detections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab._internal.threads import matmul_nt
from openvocab.config import ScoringConfig
from openvocab.errors import ModelError
from openvocab.scoring import _log_odds as log_odds
from openvocab.scoring._class_prototypes import ClassPrototypes, Evidence
from openvocab.scoring._label_model import LabelModel
from openvocab.types import Contribution, EncodedRegions, Encoder, Features, NearMiss, Proposals
from openvocab.vocabulary import Vocabulary

_SAME_PROMPT = 0.999  # cosine above which a background prompt is the class itself
_MAX_LOGIT_SCALE = 200.0  # keeps logits within the range of `log_odds.class_log_odds`


class Scores(NamedTuple):
    """Every box of an image against every class."""

    similarity: NDArray[np.float32]
    """`(N, K)`, cosine to the nearest prototype of the class."""
    posterior: NDArray[np.float32]
    """`(N, K)`, probability of the class against everything that competes with it."""
    rank_logits: NDArray[np.float64]
    """`(N, K)`; the largest of a row is the class of the box."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassHead:
    """A vocabulary and its thresholds, prepared for one detector; immutable and thread-safe.

    A class competes with the negatives, the background prompts, and the detector's labels that do
    not mean the class. Without these, a person would be labelled "giraffe" whenever "person" is not
    among the classes.
    """

    names: tuple[str, ...]
    """`(K,)`, the classes."""
    thresholds: NDArray[np.float32]
    """`(K,)`, the lowest score of each class."""
    coverage: NDArray[np.float32]
    """`(K,)`, share of the meaning of each class that the labels cover, 0 to 1."""
    class_agnostic_nms: bool
    """Whether NMS suppresses across classes."""
    labels: tuple[str, ...]
    """`(L,)`, the detector's own labels."""
    config: ScoringConfig
    logit_scale: float
    logit_bias: float | None
    classifier: NDArray[np.float32]
    """`(P + B + L, D)`: prototypes of classes and negatives, background prompts, labels."""
    classifier_bias: NDArray[np.float32]
    """`(P + B + L,)`, added to the product of a region's feature and the classifier."""
    evidence: Evidence
    log_likelihood: NDArray[np.float32]
    """`(B + L, L)`, log P(label | competitor)."""
    competitor_weights: NDArray[np.float32]
    """`(K, J + B + L)`, how far each competes; and a last column if there is a `logit_bias`."""

    @classmethod
    def build(
        cls,
        vocabulary: Vocabulary,
        labels: LabelModel,
        background: Features,
        encoder: Encoder,
        config: ScoringConfig,
    ) -> Self:
        """Prepare everything that is the same for every image.

        Args:
            vocabulary: K classes and J negatives.
            labels: the detector's own labels, L of them.
            background: `(B, D)`, the features of the background prompts.
            encoder: gives the logit bias.
            config: gives the weights.

        Raises:
            ModelError: the encoder's logit scale is out of range.
        """
        scale = _logit_scale(encoder, config)
        prototypes = ClassPrototypes.build(vocabulary, labels, config.pooling, scale)
        label_start = len(prototypes.features) + len(background)
        base = prototypes.relations.base
        prior = np.where(
            prototypes.is_image,
            -scale * config.example_offset,
            (1 - base) * np.log(config.novel_weight),
        ).astype(np.float32)
        weights = _competitor_weights(prototypes, vocabulary, background)
        bias_competes = np.ones((len(vocabulary), int(encoder.logit_bias is not None)), np.float32)
        label_count = len(labels.labels)
        flat = np.full((len(background), label_count), 1 / label_count, np.float32)
        return cls(
            names=vocabulary.names,
            thresholds=np.full(len(vocabulary), config.score_threshold, np.float32),
            coverage=_coverage(prototypes, len(vocabulary)),
            class_agnostic_nms=config.class_agnostic_nms,
            labels=labels.labels,
            config=config,
            logit_scale=scale,
            logit_bias=encoder.logit_bias,
            classifier=np.concatenate([prototypes.features, background, labels.classifier]),
            classifier_bias=np.concatenate(
                [np.zeros(label_start, np.float32), labels.classifier_bias]
            ),
            evidence=Evidence.build(prototypes, prior, label_start),
            log_likelihood=np.log(np.concatenate([flat, labels.likelihood])),
            competitor_weights=np.hstack([weights, bias_competes]),
        )

    @property
    def exponents(self) -> NDArray[np.float32]:
        """Weight of the posterior `(K,)`, by how far labels cover a class."""
        config = self.config
        base, novel = config.fusion_exponent, config.novel_fusion_exponent
        return (novel + self.coverage * (base - novel)).astype(np.float32)

    @property
    def min_objectness(self) -> float:
        """The lowest objectness with which a box can reach the threshold of any class."""
        return min(map(log_odds.min_objectness, self.thresholds, self.exponents))

    @property
    def min_score(self) -> float:
        """The lowest threshold of any class."""
        return float(self.thresholds.min())

    @property
    def feature_size(self) -> int:
        """Length D of a feature."""
        return int(self.classifier.shape[1])

    def with_thresholds(
        self, thresholds: NDArray[np.float32], *, class_agnostic_nms: bool | None = None
    ) -> Self:
        """The same classes with other thresholds `(K,)`; None keeps the kind of NMS."""
        nms = self.class_agnostic_nms if class_agnostic_nms is None else class_agnostic_nms
        return replace(self, thresholds=thresholds, class_agnostic_nms=nms)

    def classify(self, regions: EncodedRegions) -> sv.Detections:
        """Score the regions of one image, and select its detections."""
        return self.select(regions.proposals, self.score(regions))

    def similarity(self, features: Features) -> NDArray[np.float32]:
        """Cosine `(N, K)` of features `(N, D)` to the nearest prototype of each class."""
        return self._own_similarity(matmul_nt(features, self.classifier))

    def _own_similarity(self, similarity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce the columns of the classifier to the classes `(N, K)`."""
        prototype_count = len(self.classifier) - len(self.log_likelihood)
        return self.evidence.own_similarity(similarity[:, :prototype_count])[:, : len(self.names)]

    def score(self, regions: EncodedRegions) -> Scores:
        """Similarity, posterior and log-odds of N regions."""
        return self._score(regions.proposals, *self._logits(regions))

    def _score(
        self,
        proposals: Proposals,
        similarity: NDArray[np.float32],
        logits: NDArray[np.float32],
        competitors: NDArray[np.float32],
    ) -> Scores:
        """The scores of N boxes from what `_logits` returns for them."""
        class_log_odds = log_odds.class_log_odds(logits, competitors, self.competitor_weights)
        to_label = self.evidence.class_log_likelihood[: len(self.names), proposals.label_ids].T
        rank = class_log_odds + self.config.rank_weight * (
            np.sqrt(proposals.label_confidence)[:, None] * to_label
        )
        return Scores(self._own_similarity(similarity), log_odds.sigmoid(class_log_odds), rank)

    def select(
        self,
        proposals: Proposals,
        scores: Scores,
        class_ids: NDArray[np.intp] | None = None,
        tracker_ids: NDArray[np.intp] | None = None,
    ) -> sv.Detections:
        """Keep boxes that reach the threshold of their class, best first, after NMS.

        Args:
            proposals: N boxes.
            scores: the scores of these boxes.
            class_ids: `(N,)`, the class of each box; None uses the largest rank logit.
            tracker_ids: `(N,)`, the track of each box, if there are tracks.
        """
        if class_ids is None:
            class_ids = scores.rank_logits.argmax(axis=1)
        posterior = scores.posterior[np.arange(len(proposals)), class_ids]
        objectness = log_odds.class_objectness(
            proposals.objectness, proposals.label_confidence, self.coverage[class_ids]
        )
        score = log_odds.fuse(objectness, posterior, self.exponents[class_ids])
        rows = np.flatnonzero(score >= self.thresholds[class_ids])
        rows = rows[np.argsort(-score[rows], kind="stable")]
        rows = self._nms(rows, proposals, score, class_ids)
        class_ids, labels = class_ids[rows], proposals.label_ids[rows]
        return sv.Detections(
            xyxy=proposals.xyxy[rows],
            mask=None if proposals.masks is None else proposals.masks[rows],
            confidence=score[rows],
            class_id=class_ids,
            tracker_id=None if tracker_ids is None else tracker_ids[rows],
            data={
                "class_name": np.array([self.names[index] for index in class_ids], dtype=object),
                "objectness": proposals.objectness[rows],
                "similarity": scores.similarity[rows, class_ids],
                "posterior": posterior[rows],
                "margin": log_odds.top2_margin(scores.posterior[rows], class_ids),
                "proposal_label": np.array([self.labels[index] for index in labels], dtype=object),
                "region_id": rows,
            },
        )

    def near_misses(self, regions: EncodedRegions, detections: sv.Detections) -> list[NearMiss]:
        """For each class without a detection, the box with the best score; the best first.

        Args:
            regions: N regions of one image.
            detections: those that `classify` returned for them.
        """
        found = set(detections.data["class_name"])
        missing = [class_id for class_id, name in enumerate(self.names) if name not in found]
        thresholds = self.thresholds.tolist()
        if not len(regions.proposals):
            return [NearMiss(self.names[index], 0.0, thresholds[index]) for index in missing]
        scores = self.score(regions)
        objectness = log_odds.class_objectness(  # (N, missing)
            regions.proposals.objectness[:, None],
            regions.proposals.label_confidence[:, None],
            self.coverage[missing],
        )
        fused = log_odds.fuse(objectness, scores.posterior[:, missing], self.exponents[missing])
        box_classes = scores.rank_logits.argmax(axis=1)
        near_misses = []
        for column, (class_id, row) in enumerate(zip(missing, fused.argmax(axis=0), strict=True)):
            better = int(box_classes[row])
            near_misses.append(
                NearMiss(
                    class_name=self.names[class_id],
                    score=float(fused[row, column]),
                    threshold=thresholds[class_id],
                    xyxy=tuple(regions.proposals.xyxy[row].tolist()),
                    region_id=int(row),
                    box_class=None if better == class_id else self.names[better],
                )
            )
        return sorted(near_misses, key=lambda near_miss: -near_miss.score)

    def explain(self, region: EncodedRegions, negatives: Sequence[str]) -> list[Contribution]:
        """The posterior of every class, then what competes with the best class of one region.

        Args:
            region: one region.
            negatives: names for the vocabulary's negatives.
        """
        similarity, all_logits, all_competitors = self._logits(region)
        (logits,), (competitor_logits,) = all_logits, all_competitors
        _, (posterior,), (rank,) = self._score(
            region.proposals, similarity, all_logits, all_competitors
        )
        best = int(rank.argmax())
        background = ("background", "background")
        competitors = [("negative", name) for name in negatives]
        competitors += [background] * (len(self.log_likelihood) - len(self.labels))
        competitors += [("detector", label) for label in self.labels]
        competitors += [background] * int(self.logit_bias is not None)
        with np.errstate(divide="ignore"):  # the logarithm of no weight
            rivals = competitor_logits + np.log(self.competitor_weights[best])
        shares = log_odds.softmax(np.append(logits[best], rivals))[1:]
        totals: dict[tuple[str, str], float] = {}
        for competitor, share in zip(competitors, shares.tolist(), strict=True):
            totals[competitor] = totals.get(competitor, 0.0) + share
        classes = zip(self.names, posterior.tolist(), strict=True)
        return [
            *(Contribution("class", name, share) for name, share in classes),
            *(Contribution(*competitor, share) for competitor, share in totals.items()),
        ]

    def _logits(
        self, regions: EncodedRegions
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Similarities `(N, P + B + L)`, logits of classes `(N, K)` and of competitors `(N, M)`."""
        proposals, label_count = regions.proposals, len(self.labels)
        if len(proposals) and int(proposals.label_ids.max()) >= label_count:
            raise ModelError(
                f"A box has label {int(proposals.label_ids.max())}, but the proposer has "
                f"{label_count} labels; add it to them."
            )
        similarity = matmul_nt(regions.features, self.classifier) + self.classifier_bias
        scaled = np.float32(self.logit_scale) * similarity
        # Square root: a label with confidence 0.3 is right far more often than 3 times in 10.
        confidence = np.sqrt(proposals.label_confidence)[:, None]
        label_weight = np.float32(self.config.label_weight) * confidence
        classes = self.evidence.logits(scaled, proposals.label_ids, label_weight)  # (N, K + J)
        likelihood = self.log_likelihood[:, proposals.label_ids].T
        others = scaled[:, -len(self.log_likelihood) :] + label_weight * likelihood
        competitors = np.hstack([classes[:, len(self.names) :], others])
        competitors += np.float32(np.log(self.config.competitor_weight))
        if self.logit_bias is not None:
            # A sigmoid model's bias is one more competitor, with the same logit for every box.
            bias_logits = np.full((len(proposals), 1), -self.logit_bias, np.float32)
            competitors = np.hstack([competitors, bias_logits])
        return similarity, classes[:, : len(self.names)], competitors

    def _nms(
        self,
        rows: NDArray[np.intp],
        proposals: Proposals,
        score: NDArray[np.float32],
        class_ids: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        """Rows, best first, without those that a better one overlaps."""
        if not len(rows):
            return rows  # supervision's functions do not accept empty arrays
        groups = np.zeros_like(class_ids) if self.class_agnostic_nms else class_ids
        scored = np.column_stack([proposals.xyxy[rows], score[rows], groups[rows]])
        if proposals.masks is None:
            return rows[sv.box_non_max_suppression(scored, self.config.nms_iou)]
        keep = sv.mask_non_max_suppression(scored, proposals.masks[rows], self.config.nms_iou)
        return rows[keep]


def _logit_scale(encoder: Encoder, config: ScoringConfig) -> float:
    """The factor on similarities.

    Raises:
        ModelError: the encoder's is out of range.
    """
    scale = encoder.logit_scale if config.logit_scale is None else config.logit_scale
    if not 0 < scale <= _MAX_LOGIT_SCALE:
        raise ModelError(
            f"The encoder has a logit scale of {scale:g}; set one up to {_MAX_LOGIT_SCALE:g} "
            "in the preset (logit_scale under [scoring])."
        )
    return scale


def _competitor_weights(
    prototypes: ClassPrototypes, vocabulary: Vocabulary, background: Features
) -> NDArray[np.float32]:
    """How far negatives, background prompts and labels compete with each class, `(K, J + B + L)`.

    What means a class, or one of its prototypes, does not compete with it.
    """
    class_count, negative_count = len(vocabulary), vocabulary.negative_count
    relations = prototypes.relations
    # If the class is "sky", the background prompt "sky" must not compete with it.
    same_prompt = matmul_nt(prototypes.features, background) > _SAME_PROMPT
    weights = np.hstack(
        [
            np.ones((len(same_prompt), negative_count), np.float32),
            np.where(same_prompt, np.float32(0), np.float32(1)),
            np.where(relations.covers, np.float32(0), np.exp(relations.rivalry)),
        ]
    )
    starts = np.searchsorted(prototypes.class_ids, np.arange(class_count))
    end = np.searchsorted(prototypes.class_ids, class_count)
    result: NDArray[np.float32] = np.minimum.reduceat(weights[:end], starts, axis=0)
    return result


def _coverage(prototypes: ClassPrototypes, class_count: int) -> NDArray[np.float32]:
    """The largest share of the meaning of a word or example that labels cover, by class `(K,)`."""
    coverage = np.zeros(class_count, np.float32)
    is_class = prototypes.class_ids < class_count
    np.maximum.at(coverage, prototypes.class_ids[is_class], prototypes.relations.base[is_class])
    return coverage
