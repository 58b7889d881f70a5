"""Names boxes from their features, in one vocabulary of one detector: posterior, fusion, choice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab import matching
from openvocab.errors import ModelError
from openvocab.presets import Preset
from openvocab.protocols import Encoder, Features, Proposals
from openvocab.vocabulary import Vocabulary

__all__ = ["Naming", "RegionClassifier", "Regions", "Scores", "Share"]

SAME = 0.999  # cosine over which two prompts are the same word
# Overlap over which two boxes of two classes are one box, which has one label. At .6 what stands
# before something else (a bowl on a table) goes as well, which costs 1.2 of 46 AP50; without it, one
# box in 17 has two labels, and one in 60 so.
SAME_BOX = 0.85


class Regions(NamedTuple):
    """What a detector saw in one image, before anything is given a name."""

    proposals: Proposals
    """N boxes that may be named."""
    features: Features
    """`(N, D)` of the proposals."""
    lowest: float = 0.0
    """The lowest score that was to be asked for: boxes that cannot reach it are left out."""


class Share(NamedTuple):
    """What speaks for one class of a box, or against it."""

    kind: str
    """`class`, `negative`, `background` or `detector` (a name of its own)."""
    name: str
    """As it was given: of a class, a negative, a background prompt or the detector's label."""
    share: float
    """Of a class its posterior; of what competes its part of the best class's softmax."""


class Scores(NamedTuple):
    """Every box of an image against every class."""

    similarity: NDArray[np.float32]
    """`(N, K)` cosine."""
    posterior: NDArray[np.float32]
    """`(N, K)` probability against all that competes with the class."""
    claims: NDArray[np.float32]
    """`(N, K)` whose largest decides the class of a box."""


class RegionClassifier:
    """A vocabulary as one detector understands it; immutable, may be shared by threads.

    What competes with the classes: the caller's negatives, the background prompts, and every name
    of the detector that a class does not stand for. So a person is not a giraffe just because
    nobody asked for persons.
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
        """Compare the vocabulary once with all that is the same for every image.

        Args:
            vocabulary: K classes and J negatives.
            names: the detector's own words, L of them.
            name_features: `(L, D)`.
            background: `(B, D)`.
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
        zero = matching.unrelated(np.concatenate([name_features, background]))
        near = matching.nearness(words, name_features, zero)
        among = matching.nearness(name_features, name_features, zero)
        self._near = near[: len(vocabulary)]
        self._affinity = matching.label_affinity(near, scale, floor)
        self._covered = matching.covers(near, among, self._affinity, scale, floor)
        self._rows = np.concatenate([words, background, name_features])
        # Who asks for the sky wants the sky.
        same = matching.products(vocabulary.features, background) > SAME
        negatives = np.ones((len(vocabulary), len(vocabulary.negatives)), np.bool_)
        nothing = np.ones((len(vocabulary), 1), np.bool_)
        covered = self._covered[: len(vocabulary)]
        # (K, J + B + L + 1): which of the other rows competes with which class.
        self._competes = np.hstack([negatives, ~same, ~covered, nothing])

    @property
    def width(self) -> int:
        """Of a feature."""
        return int(self._rows.shape[1])

    def scores(self, found: Proposals, features: Features) -> Scores:
        """Cosine and posterior of N boxes with features `(N, D)`."""
        similarity, logits = self._logits(found, features)
        count = len(self.names)
        posterior = matching.posterior(logits[:, :count], logits[:, count:], self._competes)
        near = self._near[:, self._label_ids(found)].T
        claims = matching.claims(posterior, near, self._trust(found))
        return Scores(similarity[:, :count], posterior, claims)

    def explain(
        self, found: Proposals, features: Features, negatives: Sequence[str]
    ) -> list[Share]:
        """Why one box got its class: every posterior, then what competes with its class.

        Args:
            found: one box.
            features: `(1, D)`.
            negatives: what the vocabulary's negatives are called.
        """
        _, (logits,) = self._logits(found, features)
        scores = self.scores(found, features)
        (posterior,), (claims,) = scores.posterior, scores.claims
        count, best = len(self.names), int(claims.argmax())
        kinds = ["negative"] * len(negatives) + ["background"] * self._backgrounds
        kinds += ["detector"] * len(self._labels) + ["background"]
        called = [*negatives, *["background"] * self._backgrounds, *self._labels, "background"]
        others = np.where(self._competes[best], logits[count:], -np.inf)
        shares = matching.softmax(np.append(logits[best], others))[1:].tolist()
        summed: dict[tuple[str, str], float] = {}
        for kind, name, share in zip(kinds, called, shares, strict=True):
            summed[kind, name] = summed.get((kind, name), 0.0) + share
        return [
            *(Share("class", *each) for each in zip(self.names, posterior.tolist(), strict=True)),
            *(Share(*key, share) for key, share in summed.items()),
        ]

    def _logits(self, found: Proposals, features: Features) -> tuple[Features, Features]:
        """Cosines `(N, R)` with all rows, and logits `(N, R + 1)`: the last is of nothing at all."""
        preset, worded = self._preset, len(self._affinity)
        evidence = matching.label_evidence(self._affinity, self._covered, self._label_ids(found))
        similarity = matching.products(features, self._rows)
        logits = self._scale * similarity
        logits[:, :worded] += self._trust(found) * evidence
        logits[:, worded:] += np.log(preset.background_weight)
        # A sigmoid model's bias is one more competitor: of a constant logit, whatever is shown.
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
        # The square root: a label of objectness 0.3 is right far more often than 3 times in 10.
        return np.float32(self._preset.prior_weight) * np.sqrt(found.objectness)[:, None]

    def detections(
        self,
        found: Proposals,
        scores: Scores,
        thresholds: NDArray[np.float32],
        class_ids: NDArray[np.intp] | None = None,
        tracker_ids: NDArray[np.intp] | None = None,
    ) -> sv.Detections:
        """Boxes over their class's threshold, best first, without overlaps.

        Args:
            found: N boxes.
            scores: of these boxes.
            thresholds: `(K,)` lowest fused score of each class.
            class_ids: `(N,)` the class of each box; None takes the one of the largest claim.
            tracker_ids: `(N,)` the track of each box, where there are tracks.
        """
        chosen = scores.claims.argmax(axis=1) if class_ids is None else class_ids
        posterior = scores.posterior[np.arange(len(found)), chosen]
        score = matching.fuse(found.objectness, posterior, self._preset.fusion_exponent)
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
                "margin": matching.margins(scores.posterior[rows], chosen[rows]),
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
        """Of rows, best first, those that no better one of their class, or at one place, overlaps."""
        for iou, label in (
            (self._preset.nms_iou, chosen),
            (max(SAME_BOX, self._preset.nms_iou), np.zeros_like(chosen)),
        ):
            if not len(rows):
                break  # supervision's functions do not take nothing
            scored = np.column_stack([found.xyxy[rows], score[rows], label[rows]])
            if found.masks is None:
                rows = rows[sv.box_non_max_suppression(scored, iou)]
            else:
                rows = rows[sv.mask_non_max_suppression(scored, found.masks[rows], iou)]
        return rows


class Naming(NamedTuple):
    """A vocabulary and its thresholds: replaced as a whole, so that nothing sees half a change."""

    classifier: RegionClassifier
    thresholds: NDArray[np.float32]
    """`(K,)` lowest fused score of each class."""

    @property
    def lowest(self) -> float:
        """The lowest score that any class may have."""
        return float(self.thresholds.min())

    def detections(self, regions: Regions) -> sv.Detections:
        """What is in one image."""
        scores = self.classifier.scores(regions.proposals, regions.features)
        return self.classifier.detections(regions.proposals, scores, self.thresholds)
