"""Variants of a detector with fewer labels: some replaced by broader words, or left out."""

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

_FOLDS = 10  # of the left-out names; the detector runs once per fold on every image


class CoarserProposer:
    """A proposer with some labels replaced by broader words, such as dog and cat by "animal"."""

    def __init__(self, proposer: Proposer, words: Mapping[str, str], *, iou: float) -> None:
        """Wrap a proposer.

        Args:
            proposer: proposes the boxes.
            words: by label, its broader word; other labels are kept.
            iou: IoU above which the weaker of two boxes of the same word is dropped, as the
                proposer does for boxes of the same label.
        """
        new_labels = [words.get(label, label) for label in proposer.labels]
        self._proposer, self._iou = proposer, iou
        self.labels = tuple(dict.fromkeys(new_labels))
        self._new_ids = np.array([self.labels.index(label) for label in new_labels], np.intp)

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        return [self.rename(proposals)[0] for proposals in self._proposer.propose(images)]

    def rename(self, proposals: Proposals) -> tuple[Proposals, NDArray[np.intp]]:
        """Proposals with the broader words, and their rows in `proposals`."""
        label_ids = self._new_ids[proposals.label_ids]
        rows = np.arange(len(proposals))
        if len(rows):  # supervision's function does not accept empty arrays
            predictions = np.column_stack([proposals.xyxy, proposals.objectness, label_ids])
            rows = np.flatnonzero(sv.box_non_max_suppression(predictions, self._iou))
        return replace(proposals, label_ids=label_ids)[rows], rows

    def regions(self, _: DatasetImage, cached: CachedFeatures) -> list[EncodedRegions]:
        """The encoded regions of this proposer, from those of the wrapped one."""
        proposals, rows = self.rename(cached.regions.proposals)
        return [EncodedRegions(proposals, cached.features[rows])]


class LeftOutLabels:
    """Several copies of a detector, each without one fold of its labels.

    Features do not depend on labels, so boxes that the complete detector also finds reuse its
    features. Other boxes are encoded once, and stored in the folder of the cache.
    """

    def __init__(
        self, detector: OpenVocabDetector, folds: Sequence[Sequence[str]], cache: FeatureCache
    ) -> None:
        """Make the detectors.

        Args:
            detector: the complete detector, whose proposer has the method `with_ignored_labels`.
            folds: the labels that each of the detectors lacks.
            cache: features of the complete detector.

        Raises:
            ModelError: the proposer cannot leave out labels.
        """
        with_ignored_labels = getattr(detector.proposer, "with_ignored_labels", None)
        if with_ignored_labels is None:
            raise ModelError(
                "The proposer cannot leave out labels; use an UltralyticsProposer, or give yours "
                "the method with_ignored_labels."
            )
        self.detectors = [
            OpenVocabDetector(
                with_ignored_labels(labels),
                detector.encoder,
                detector.preset,
                prototypes=detector.prototypes,
            )
            for labels in folds
        ]
        key = cache.key | {"left out": [list(labels) for labels in folds]}
        self._store = ArrayStore(cache.folder, key)

    def regions(self, image: DatasetImage, cached: CachedFeatures) -> list[EncodedRegions]:
        """The encoded regions of each of the detectors in one image."""
        arrays = self._store.get(image)
        if arrays is None:
            pixels, arrays = image.load(), {}
            for index, detector in enumerate(self.detectors):
                encoded = _encode(detector, pixels, cached)
                arrays |= {f"{name}_{index}": array for name, array in encoded.items()}
            self._store.put(image, arrays)
        return [_decode(arrays, index, cached) for index in range(len(self.detectors))]


def _encode(
    detector: OpenVocabDetector, pixels: Image, cached: CachedFeatures
) -> dict[str, NDArray[np.generic]]:
    """The proposals, the features of new boxes, and the cached rows of the others (else -1)."""
    (proposals,) = detector.propose([pixels], [0.0])
    cached_rows = {box.tobytes(): row for row, box in enumerate(cached.xyxy)}
    rows = np.array([cached_rows.get(box.tobytes(), -1) for box in proposals.xyxy], np.intp)
    (new_regions,) = detector.encode([pixels], [proposals[rows < 0]])
    return {
        "xyxy": proposals.xyxy,
        "objectness": proposals.objectness,
        "label_ids": proposals.label_ids,
        "label_confidence": proposals.label_confidence,
        "rows": rows,
        "features": new_regions.features,
    }


def _decode(
    arrays: Mapping[str, NDArray[np.generic]], index: int, cached: CachedFeatures
) -> EncodedRegions:
    names = ("xyxy", "objectness", "label_ids", "label_confidence")
    fields = {name: arrays[f"{name}_{index}"] for name in names}
    rows = np.asarray(arrays[f"rows_{index}"], np.intp)
    features = np.empty((len(rows), cached.features.shape[1]), np.float32)
    features[rows >= 0] = cached.features[rows[rows >= 0]]
    features[rows < 0] = arrays[f"features_{index}"]
    return EncodedRegions(Proposals(**fields), features)  # type: ignore[arg-type]  # as stored


def dissimilar_folds(features: Features) -> list[list[int]]:
    """Split names into at most ten folds of equal size, each of names that differ in meaning.

    The labels nearest to a left-out name then stay in the detector, as they would for a name that
    it was never trained on.

    Args:
        features: `(K, D)`, unit rows of the names.

    >>> dissimilar_folds(np.eye(2, dtype=np.float32)[[0, 0, 1]])
    [[0], [1], [2]]
    """
    fold_size = -(-len(features) // _FOLDS)
    folds: list[list[int]] = [[] for _ in range(-(-len(features) // fold_size))]
    similarity = matmul_nt(features, features)
    for name_id in range(len(features)):
        open_folds = [fold for fold in folds if len(fold) < fold_size]
        max_similarity = [float(similarity[name_id, fold].max(initial=-1)) for fold in open_folds]
        open_folds[int(np.argmin(max_similarity))].append(name_id)
    return folds
