"""Asks a detector what is in photos that were seen: in one wording, and for absent classes."""

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import supervision as sv

from openvocab.classifier import Naming
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ImageError
from openvocab.evaluate.datasets import Dataset, Photo
from openvocab.evaluate.seen import Seen, SeenOnce
from openvocab.evaluate.stress import Wording
from openvocab.prompts import folded

__all__ = ["Namer", "absent_words", "readable"]

LEAST = 0.001  # scores below this do not change AP
ASKED_ABSENT = 5  # absent classes per photo


class Namer:
    """Names what was seen, in one wording, with one detector's numbers."""

    def __init__(
        self, detector: OpenVocabDetector, wording: Wording, negatives: Sequence[str] = ()
    ) -> None:
        self.wording = wording
        taken = set(wording.classes)
        bank = detector.vocabulary(wording.classes, [n for n in negatives if n not in taken])
        lowest = np.full(len(bank), LEAST, np.float32)
        self._naming = Naming(detector.classifier(bank), lowest)
        self._features = bank.features

    def __call__(self, seen: Seen) -> sv.Detections:
        """Find boxes, scores and classes in a photo, down to the lowest scores."""
        named = self._naming.detections(seen.regions)
        return sv.Detections(named.xyxy, confidence=named.confidence, class_id=named.class_id)

    def right(self, photo: Photo, seen: Seen, classes: int) -> int:
        """Count labelled boxes to which the encoder alone gives the right one of the classes."""
        guesses = (seen.truth @ self._features[:classes].T).argmax(axis=1)
        return int((guesses == photo.class_ids)[~photo.crowd].sum())


def readable(
    see: SeenOnce, photos: Iterable[Photo], unread: list[str]
) -> Iterator[tuple[Photo, Seen]]:
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
    classes = {folded(name) for name in dataset.classes}
    words = [word for word in absent if folded(word) not in classes]
    kinds = {"classes of the dataset": others, "absent words": words}
    return {
        kind: chance.sample(some, ASKED_ABSENT)
        for kind, some in kinds.items()
        if len(some) >= ASKED_ABSENT
    }
