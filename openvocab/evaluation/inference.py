"""Asks a detector what is in photos that were seen: in one variant, and for absent classes."""

import random
from collections.abc import Iterable, Iterator, Sequence

import supervision as sv

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.evaluation.feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation.prompt_variants import PromptVariant
from openvocab.vocabulary.prompts import name_key

LEAST = 0.001  # scores below this do not change AP
ASKED_ABSENT = 5  # absent classes per photo


class VariantClassifier:
    """Names what was seen, in one variant, with one detector's numbers."""

    def __init__(
        self, detector: OpenVocabDetector, variant: PromptVariant, negatives: Sequence[str] = ()
    ) -> None:
        self.variant = variant
        taken = set(variant.classes)
        bank = detector.vocabulary(variant.classes, [n for n in negatives if n not in taken])
        self._head = detector.class_head(bank, score_threshold=LEAST)
        self._features = bank.features

    def __call__(self, seen: CachedFeatures) -> sv.Detections:
        """Find boxes, scores and classes in a photo, down to the lowest scores."""
        named = self._head.classify(seen.regions)
        return sv.Detections(named.xyxy, confidence=named.confidence, class_id=named.class_id)

    def right(self, photo: Photo, seen: CachedFeatures, classes: int) -> int:
        """Count labelled boxes to which the encoder alone gives the right one of the classes."""
        guesses = (seen.truth @ self._features[:classes].T).argmax(axis=1)
        return int((guesses == photo.class_ids)[~photo.crowd].sum())


def iter_readable(
    see: FeatureCache, photos: Iterable[Photo], unread: list[str]
) -> Iterator[tuple[Photo, CachedFeatures]]:
    """Yield photos with what is seen in them; reasons for unreadable ones go into `unread`."""
    for photo in photos:
        try:
            yield photo, see(photo)
        except ImageError as error:
            unread.append(str(error))


def absent_words(dataset: Dataset, photo: Photo, absent: Sequence[str]) -> dict[str, list[str]]:
    """Five classes of the dataset and five words, by kind, that are absent from a photo.

    They are the same in every run; a kind with fewer than five is left out.
    """
    chance = random.Random(photo.id)  # noqa: S311  not for secrets
    known = photo.absent
    others = [
        name
        for place, name in enumerate(dataset.classes)
        if place not in photo.labelled and (known is None or place in known)
    ]
    classes = {name_key(name) for name in dataset.classes}
    words = [word for word in absent if name_key(word) not in classes]
    kinds = {"classes of the dataset": others, "absent words": words}
    return {
        kind: chance.sample(some, ASKED_ABSENT)
        for kind, some in kinds.items()
        if len(some) >= ASKED_ABSENT
    }
