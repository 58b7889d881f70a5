"""Names boxes from their features, for one vocabulary and detector: posterior, fusion, choice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.config import Preset
from openvocab.errors import ModelError
from openvocab.scoring import log_odds
from openvocab.types import Encoder, Features, Proposals
from openvocab.vocabulary import Vocabulary

SAME = 0.999  # cosine above which two prompts are the same word
# Overlap above which boxes of two classes count as one box, which gets one label. At 0.6, things
# in front of other things (a bowl on a table) are lost as well, which costs 1.2 of 46 AP50. Without
# the rule, one box in 17 has two labels; with it, one in 60.
SAME_BOX = 0.85


class Regions(NamedTuple):
    """What a detector saw in one image, before anything is named."""

    proposals: Proposals
    """N boxes that may be named."""
    features: Features
    """`(N, D)`, the features of the proposals."""
    lowest: float = 0.0
    """The lowest threshold that may be asked for; boxes that cannot reach it are left out."""


class Share(NamedTuple):
    """One thing that speaks for or against the class of a box, with its share."""

    kind: str
    """`class`, `negative`, `background`, or `detector` (one of the detector's own names)."""
    name: str
    """The class, negative or detector name as given; `background` for all background prompts."""
    share: float
    """The posterior of a class; for a competitor, its part of the best class's softmax."""


class Scores(NamedTuple):
    """Every box of an image against every class."""

    similarity: NDArray[np.float32]
    """`(N, K)`, cosine."""
    posterior: NDArray[np.float32]
    """`(N, K)`, probability of the class against everything that competes with it."""
    claims: NDArray[np.float32]
    """`(N, K)`; the largest claim decides the class of a box."""


class RegionClassifier:
    """A vocabulary as one detector understands it; immutable, and safe to share by threads.

    A class competes with the caller's negatives, the background prompts, and every name of the
    detector that it does not stand for. So a person does not become a giraffe just because nobody
    asked for people.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        names: tuple[str, ...],
        name_features: Features,
        background: Features,
        encoder: Encoder,
        preset: Preset,
    ) -> None:
        """Compare the vocabulary with everything that is the same for every image, once.

        Args:
            vocabulary: K classes and J negatives.
            names: the detector's own names, L of them.
            name_features: `(L, D)`, the features of `names`.
            background: `(B, D)`, the features of the background prompts.
            encoder: gives the logit scale and bias.
            preset: gives the numbers.
        """
        self.names = vocabulary.names
        self._labels = {name: index for index, name in enumerate(names)}
        self._preset = preset
        self._scale = encoder.logit_scale if preset.logit_scale is None else preset.logit_scale
        self._bias = encoder.logit_bias
        self._backgrounds = len(background)
        words = np.concatenate([vocabulary.features, vocabulary.negatives])  # (K + J, D)
        scale, floor = preset.prior_scale, preset.prior_floor
        zero = log_odds.unrelated(np.concatenate([name_features, background]))
        near = log_odds.nearness(words, name_features, zero)
        among = log_odds.nearness(name_features, name_features, zero)
        self._near = near[: len(vocabulary)]
        self._affinity = log_odds.label_affinity(near, scale, floor)
        self._covered = log_odds.covers(near, among, self._affinity, scale, floor)
        self._rows = np.concatenate([words, background, name_features])
        # If the caller asks for the sky, the background prompt "sky" must not compete with it.
        same = log_odds.matmul_nt(vocabulary.features, background) > SAME
        negatives = np.ones((len(vocabulary), len(vocabulary.negatives)), np.bool_)
        nothing = np.ones((len(vocabulary), 1), np.bool_)
        covered = self._covered[: len(vocabulary)]
        # (K, J + B + L + 1): which of the other rows compete with which class.
        self._competes = np.hstack([negatives, ~same, ~covered, nothing])

    @property
    def width(self) -> int:
        """Length D of a feature."""
        return int(self._rows.shape[1])

    def scores(self, found: Proposals, features: Features) -> Scores:
        """Cosines, posteriors and claims of N boxes with features `(N, D)`."""
        similarity, logits = self._logits(found, features)
        count = len(self.names)
        posterior = log_odds.posterior(logits[:, :count], logits[:, count:], self._competes)
        near = self._near[:, self._label_ids(found)].T
        claims = log_odds.claims(posterior, near, self._trust(found))
        return Scores(similarity[:, :count], posterior, claims)

    def explain(
        self, found: Proposals, features: Features, negatives: Sequence[str]
    ) -> list[Share]:
        """Explain the class of one box: every posterior, then what competes with its class.

        Args:
            found: one box.
            features: `(1, D)`.
            negatives: names for the vocabulary's negatives.
        """
        _, (logits,) = self._logits(found, features)
        scores = self.scores(found, features)
        (posterior,), (claims,) = scores.posterior, scores.claims
        count, best = len(self.names), int(claims.argmax())
        kinds = ["negative"] * len(negatives) + ["background"] * self._backgrounds
        kinds += ["detector"] * len(self._labels) + ["background"]
        called = [*negatives, *["background"] * self._backgrounds, *self._labels, "background"]
        others = np.where(self._competes[best], logits[count:], -np.inf)
        shares = log_odds.softmax(np.append(logits[best], others))[1:].tolist()
        summed: dict[tuple[str, str], float] = {}
        for kind, name, share in zip(kinds, called, shares, strict=True):
            summed[kind, name] = summed.get((kind, name), 0.0) + share
        return [
            *(Share("class", *each) for each in zip(self.names, posterior.tolist(), strict=True)),
            *(Share(*key, share) for key, share in summed.items()),
        ]

    def _logits(self, found: Proposals, features: Features) -> tuple[Features, Features]:
        """Cosines `(N, R)` with all rows, and logits `(N, R + 1)`, the last for "nothing at all"."""
        preset, worded = self._preset, len(self._affinity)
        evidence = log_odds.label_evidence(self._affinity, self._covered, self._label_ids(found))
        similarity = log_odds.matmul_nt(features, self._rows)
        logits = self._scale * similarity
        logits[:, :worded] += self._trust(found) * evidence
        logits[:, worded:] += np.log(preset.background_weight)
        # A sigmoid model's bias is one more competitor, with a constant logit for every box.
        nothing = -np.inf if self._bias is None else -self._bias
        return similarity, np.hstack([logits, np.full((len(found), 1), nothing, np.float32)])

    def _label_ids(self, found: Proposals) -> NDArray[np.intp]:
        try:
            return np.array([self._labels[label] for label in found.labels], np.intp)
        except KeyError as error:
            raise ModelError(
                f"A box has the label {error}, which is no name of the proposer; add it there."
            ) from error

    def _trust(self, found: Proposals) -> NDArray[np.float32]:
        """Logits `(N, 1)` that each label is worth."""
        # Square root: a label with objectness 0.3 is right far more often than 3 times in 10.
        return np.float32(self._preset.prior_weight) * np.sqrt(found.objectness)[:, None]

    def detections(
        self,
        found: Proposals,
        scores: Scores,
        thresholds: NDArray[np.float32],
        class_ids: NDArray[np.intp] | None = None,
        tracker_ids: NDArray[np.intp] | None = None,
    ) -> sv.Detections:
        """Keep boxes that reach their class's threshold, best first, without overlaps.

        Args:
            found: N boxes.
            scores: the scores of these boxes.
            thresholds: `(K,)`, the lowest fused score of each class.
            class_ids: `(N,)`, the class of each box; None uses the class with the largest claim.
            tracker_ids: `(N,)`, the track of each box, if there are tracks.
        """
        chosen = scores.claims.argmax(axis=1) if class_ids is None else class_ids
        posterior = scores.posterior[np.arange(len(found)), chosen]
        score = log_odds.fuse(found.objectness, posterior, self._preset.fusion_exponent)
        over = np.flatnonzero(score >= thresholds[chosen])
        rows = self._distinct(over[np.argsort(-score[over], kind="stable")], found, score, chosen)
        return sv.Detections(
            xyxy=found.xyxy[rows],
            mask=None if found.masks is None else found.masks[rows],
            confidence=score[rows],
            class_id=chosen[rows],
            tracker_id=None if tracker_ids is None else tracker_ids[rows],
            data={
                "class_name": np.array([self.names[index] for index in chosen[rows]], dtype=object),
                "objectness": found.objectness[rows],
                "similarity": scores.similarity[rows, chosen[rows]],
                "posterior": posterior[rows],
                "margin": log_odds.top2_margin(scores.posterior[rows], chosen[rows]),
                "proposal_label": np.array([found.labels[row] for row in rows], dtype=object),
            },
        )

    def _distinct(
        self,
        rows: NDArray[np.intp],
        found: Proposals,
        score: NDArray[np.float32],
        chosen: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        """Rows, best first, that no better box of their class, or in the same place, overlaps."""
        for iou, label in (
            (self._preset.nms_iou, chosen),
            (max(SAME_BOX, self._preset.nms_iou), np.zeros_like(chosen)),
        ):
            if not len(rows):
                break  # supervision's functions do not accept empty arrays
            scored = np.column_stack([found.xyxy[rows], score[rows], label[rows]])
            if found.masks is None:
                rows = rows[sv.box_non_max_suppression(scored, iou)]
            else:
                rows = rows[sv.mask_non_max_suppression(scored, found.masks[rows], iou)]
        return rows


class Naming(NamedTuple):
    """A classifier and its thresholds, replaced together so that no thread sees half a change."""

    classifier: RegionClassifier
    thresholds: NDArray[np.float32]
    """`(K,)`, the lowest fused score of each class."""

    @property
    def lowest(self) -> float:
        """The lowest threshold of any class."""
        return float(self.thresholds.min())

    def detections(self, regions: Regions) -> sv.Detections:
        """Turn the regions of one image into detections."""
        scores = self.classifier.scores(regions.proposals, regions.features)
        return self.classifier.detections(regions.proposals, scores, self.thresholds)
