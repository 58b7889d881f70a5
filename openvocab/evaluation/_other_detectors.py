"""The detector as if it knew less: broader words for its labels, or some labels left out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab._internal.threads import matmul_nt
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ModelError
from openvocab.evaluation._datasets import DatasetImage
from openvocab.evaluation._feature_cache import ArrayStore, CachedFeatures, FeatureCache
from openvocab.types import EncodedRegions, Features, Image, Proposals, Proposer

_FOLDS = 10  # of the left-out names: each image costs so many runs of the detector


class CoarserProposer:
    """A proposer that has broader words for some of its labels: "animal", and neither dog nor cat."""

    def __init__(self, proposer: Proposer, words: Mapping[str, str], *, iou: float) -> None:
        """Wrap a proposer.

        Args:
            proposer: proposes the boxes.
            words: by label, its broader word; other labels stay.
            iou: IoU above which the weaker of two boxes of the same word is dropped, as the
                proposer does with those of the same label.
        """
        renamed = [words.get(label, label) for label in proposer.labels]
        self._proposer, self._iou = proposer, iou
        self.labels = tuple(dict.fromkeys(renamed))
        self._ids = np.array([self.labels.index(word) for word in renamed], np.intp)

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        return [self.rename(proposals)[0] for proposals in self._proposer.propose(images)]

    def rename(self, proposals: Proposals) -> tuple[Proposals, NDArray[np.intp]]:
        """Proposals with the broader words, and the rows that they have in the original."""
        label_ids = self._ids[proposals.label_ids]
        rows = np.arange(len(proposals))
        if len(rows):  # supervision's function does not accept empty arrays
            scored = np.column_stack([proposals.xyxy, proposals.objectness, label_ids])
            rows = np.flatnonzero(sv.box_non_max_suppression(scored, self._iou))
        return replace(proposals, label_ids=label_ids)[rows], rows

    def regions(self, _: DatasetImage, cached: CachedFeatures) -> list[EncodedRegions]:
        """The encoded regions of this proposer, from those of the original."""
        proposals, rows = self.rename(cached.regions.proposals)
        return [EncodedRegions(proposals, cached.features[rows])]


class LeftOutLabels:
    """A detector without some of its labels: several detectors that each lack a part of them.

    The boxes of the complete detector keep their features, which do not depend on labels; others
    are encoded once, and kept in the folder of the cache.
    """

    def __init__(
        self, detector: OpenVocabDetector, folds: Sequence[Sequence[str]], cache: FeatureCache
    ) -> None:
        """Make the detectors.

        Args:
            detector: its proposer has the method `with_ignored_labels`.
            folds: the labels that each of the detectors lacks.
            cache: of the complete detector.

        Raises:
            ModelError: the proposer cannot leave out labels.
        """
        ignoring = getattr(detector.proposer, "with_ignored_labels", None)
        if ignoring is None:
            raise ModelError(
                "The proposer cannot leave out labels; use an UltralyticsProposer, or give yours "
                "the method with_ignored_labels."
            )
        self.detectors = [
            OpenVocabDetector(
                ignoring(names), detector.encoder, detector.preset, prototypes=detector.prototypes
            )
            for names in folds
        ]
        key = cache.key | {"left out": [list(names) for names in folds]}
        self._store = ArrayStore(cache.folder, key)

    def regions(self, image: DatasetImage, cached: CachedFeatures) -> list[EncodedRegions]:
        """The encoded regions of each of the detectors in one image."""
        arrays = self._store.get(image)
        if arrays is None:
            pixels, arrays = image.load(), {}
            for index, detector in enumerate(self.detectors):
                columns = _encode(detector, pixels, cached)
                arrays |= {f"{name}_{index}": column for name, column in columns.items()}
            self._store.put(image, arrays)
        return [_decode(arrays, index, cached) for index in range(len(self.detectors))]


def _encode(
    detector: OpenVocabDetector, pixels: Image, cached: CachedFeatures
) -> dict[str, NDArray[np.generic]]:
    """The proposals of a detector: features of new boxes only, and the rows of the others."""
    (proposals,) = detector.propose([pixels], [0.0])
    known = {box.tobytes(): row for row, box in enumerate(cached.xyxy)}
    rows = np.array([known.get(box.tobytes(), -1) for box in proposals.xyxy], np.intp)
    (new,) = detector.encode([pixels], [proposals[rows < 0]])
    return {
        "xyxy": proposals.xyxy,
        "objectness": proposals.objectness,
        "label_ids": proposals.label_ids,
        "rows": rows,
        "features": new.features,
    }


def _decode(
    arrays: Mapping[str, NDArray[np.generic]], index: int, cached: CachedFeatures
) -> EncodedRegions:
    columns = {key: arrays[f"{key}_{index}"] for key in ("xyxy", "objectness", "label_ids")}
    rows = np.asarray(arrays[f"rows_{index}"], np.intp)
    features = np.empty((len(rows), cached.features.shape[1]), np.float32)
    features[rows >= 0] = cached.features[rows[rows >= 0]]
    features[rows < 0] = arrays[f"features_{index}"]
    return EncodedRegions(Proposals(**columns), features)  # type: ignore[arg-type]  # as written


def dissimilar_folds(features: Features) -> list[list[int]]:
    """Split names into at most ten folds of equal size, each of names that differ in meaning.

    So a left-out name keeps the labels that come closest to it, as a name that the detector never
    knew has.

    Args:
        features: `(K, D)`, unit rows of the names.

    >>> dissimilar_folds(np.eye(2, dtype=np.float32)[[0, 0, 1]])
    [[0], [1], [2]]
    """
    size = -(-len(features) // _FOLDS)
    folds: list[list[int]] = [[] for _ in range(-(-len(features) // size))]
    similarity = matmul_nt(features, features)
    for name in range(len(features)):
        free = [fold for fold in folds if len(fold) < size]
        closest = [float(similarity[name, fold].max(initial=-1)) for fold in free]
        free[int(np.argmin(closest))].append(name)
    return folds
