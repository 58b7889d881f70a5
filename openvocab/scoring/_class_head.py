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
from openvocab.types import Contribution, EncodedRegions, Encoder, Features, NearMiss, Proposals
from openvocab.vocabulary import Vocabulary

_SAME_PROMPT = 0.999  # cosine above which a background prompt is the class itself
_MAX_LOGIT_SCALE = 200.0  # keeps logits within the range of `log_odds.class_log_odds`


class Scores(NamedTuple):
    """Every box of an image against every class."""

    similarity: NDArray[np.float32]
    """`(N, K)`, cosine."""
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
    class_agnostic_nms: bool
    """Whether NMS suppresses across classes."""
    labels: tuple[str, ...]
    """`(L,)`, the detector's own labels."""
    config: ScoringConfig
    logit_scale: float
    logit_bias: float | None
    text: Features
    """`(K + J + B + L, D)`: classes, negatives, background prompts, labels."""
    prior: NDArray[np.float32]
    """`(K + J, L)` in [-1, 1], from `log_odds.label_prior`."""
    label_similarity: NDArray[np.float32]
    """`(K, L)`, from `log_odds.normalized_similarity`."""
    competes: NDArray[np.bool_]
    """`(K, J + B + L)` and a last column if there is a `logit_bias`."""

    @classmethod
    def build(
        cls,
        vocabulary: Vocabulary,
        labels: tuple[str, ...],
        label_features: Features,
        background: Features,
        encoder: Encoder,
        config: ScoringConfig,
    ) -> Self:
        """Prepare everything that is the same for every image.

        Args:
            vocabulary: K classes and J negatives.
            labels: the detector's own labels, L of them.
            label_features: `(L, D)`.
            background: `(B, D)`, the features of the background prompts.
            encoder: gives the logit scale and bias.
            config: gives the weights.

        Raises:
            ModelError: the encoder's logit scale is out of range.
        """
        scale = encoder.logit_scale if config.logit_scale is None else config.logit_scale
        if not 0 < scale <= _MAX_LOGIT_SCALE:
            raise ModelError(
                f"The encoder has a logit scale of {scale:g}; set one up to {_MAX_LOGIT_SCALE:g} "
                "in the preset (logit_scale under [scoring])."
            )
        name_features = np.concatenate([vocabulary.features, vocabulary.negatives])  # (K + J, D)
        baseline = log_odds.baseline_cosine(np.concatenate([label_features, background]))
        similarity = log_odds.normalized_similarity(name_features, label_features, baseline)
        posterior = log_odds.label_posterior(similarity)
        matches = posterior[:, :-1] > 0.5  # synonyms
        if config.hyponyms:
            to_labels = log_odds.normalized_similarity(label_features, label_features, baseline)
            matches |= log_odds.label_is_hyponym(similarity, to_labels)
        count = len(vocabulary)
        # If the class is "sky", the background prompt "sky" must not compete with it.
        is_background = matmul_nt(vocabulary.features, background) > _SAME_PROMPT
        negatives_compete = np.ones((count, len(vocabulary.negatives)), np.bool_)
        bias_competes = np.ones((count, int(encoder.logit_bias is not None)), np.bool_)
        return cls(
            names=vocabulary.names,
            thresholds=np.full(count, config.score_threshold, np.float32),
            class_agnostic_nms=config.class_agnostic_nms,
            labels=labels,
            config=config,
            logit_scale=scale,
            logit_bias=encoder.logit_bias,
            text=np.concatenate([name_features, background, label_features]),
            prior=log_odds.label_prior(posterior, matches),
            label_similarity=similarity[:count],
            competes=np.hstack(
                [negatives_compete, ~is_background, ~matches[:count], bias_competes]
            ),
        )

    @property
    def min_score(self) -> float:
        """The lowest threshold of any class."""
        return float(self.thresholds.min())

    @property
    def feature_size(self) -> int:
        """Length D of a feature."""
        return int(self.text.shape[1])

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
        """Cosine `(N, K)` of features `(N, D)` to the classes."""
        result: NDArray[np.float32] = matmul_nt(features, self.text[: len(self.names)])
        return result

    def score(self, regions: EncodedRegions) -> Scores:
        """Similarity, posterior and rank logits of N regions."""
        proposals, count = regions.proposals, len(self.names)
        similarity, logits = self._logits(regions)
        class_log_odds = log_odds.class_log_odds(
            logits[:, :count], logits[:, count:], self.competes
        )
        rank = class_log_odds
        if self.config.rank_by_label:
            to_label = self.label_similarity[:, proposals.label_ids].T
            rank = log_odds.rank_logits(class_log_odds, to_label, self._label_weight(proposals))
        return Scores(similarity[:, :count], log_odds.sigmoid(class_log_odds), rank)

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
        score = log_odds.fuse(proposals.objectness, posterior, self.config.fusion_exponent)
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
        objectness, exponent = regions.proposals.objectness[:, None], self.config.fusion_exponent
        fused = log_odds.fuse(objectness, scores.posterior[:, missing], exponent)  # (N, missing)
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
        _, (logits,) = self._logits(region)
        (posterior,), (rank,) = self.score(region)[1:]
        count, best = len(self.names), int(rank.argmax())
        backgrounds = self.competes.shape[1] - len(negatives) - len(self.labels)
        competitors = [("negative", name) for name in negatives]
        backgrounds -= int(self.logit_bias is not None)
        competitors += [("background", "background")] * backgrounds
        competitors += [("detector", label) for label in self.labels]
        competitors += [("background", "background")] * int(self.logit_bias is not None)
        rivals = np.where(self.competes[best], logits[count:], -np.inf)
        shares = log_odds.softmax(np.append(logits[best], rivals))[1:]
        totals: dict[tuple[str, str], float] = {}
        for competitor, share in zip(competitors, shares.tolist(), strict=True):
            totals[competitor] = totals.get(competitor, 0.0) + share
        classes = zip(self.names, posterior.tolist(), strict=True)
        return [
            *(Contribution("class", name, share) for name, share in classes),
            *(Contribution(*competitor, share) for competitor, share in totals.items()),
        ]

    def _logits(self, regions: EncodedRegions) -> tuple[Features, Features]:
        """Cosines `(N, R)` to all texts, and logits of classes and competitors."""
        proposals, name_count = regions.proposals, len(self.prior)
        if len(proposals) and int(proposals.label_ids.max()) >= len(self.labels):
            raise ModelError(
                f"A box has label {int(proposals.label_ids.max())}, but the proposer has "
                f"{len(self.labels)} labels; add it to them."
            )
        similarity = matmul_nt(regions.features, self.text)
        logits = np.float32(self.logit_scale) * similarity
        if self.config.label_prior:
            prior = self.prior[:, proposals.label_ids].T
            logits[:, :name_count] += self._label_weight(proposals) * prior
        logits[:, name_count:] += np.float32(np.log(self.config.competitor_weight))
        if self.logit_bias is not None:
            # A sigmoid model's bias is one more competitor, with the same logit for every box.
            bias_logits = np.full((len(proposals), 1), -self.logit_bias, np.float32)
            logits = np.hstack([logits, bias_logits])
        return similarity, logits

    def _label_weight(self, proposals: Proposals) -> NDArray[np.float32]:
        """Logits `(N, 1)` that each label is worth."""
        # Square root: a label with objectness 0.3 is right far more often than 3 times in 10.
        return np.float32(self.config.prior_weight) * np.sqrt(proposals.objectness)[:, None]

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
