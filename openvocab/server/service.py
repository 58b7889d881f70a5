"""What the routes share: what is let in, understood, decoded and answered in time."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import supervision as sv
from fastapi.concurrency import run_in_threadpool

from openvocab import images
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ImageError
from openvocab.protocols import Image
from openvocab.server.batching import Batcher, BusyError
from openvocab.server.schemas import Answer, Question, answer
from openvocab.server.vocabularies import Vocabularies

__all__ = ["Service", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server."""

    most: int = 8
    """Images a batch."""
    waiting: int = 32
    """Images that may wait; the next request gets 429."""
    timeout_s: float = 30.0
    """Seconds until a request gets 504."""
    max_mb: int = 32
    """MiB of a body."""
    max_megapixels: float = 25.0
    """Of one picture, looked at before it is decoded."""
    max_words: int = 5000
    """Of one request or vocabulary, synonyms and negatives among them."""
    hosts: tuple[str, ...] = ()
    """Names that a request may call this server by; none allows all."""
    token: str = ""
    """That callers must bring; none asks for none."""
    vocabularies: Path | None = None
    """Folder that stored vocabularies are kept in; None keeps them in memory."""


class Service:
    """What the routes share."""

    def __init__(self, detector: OpenVocabDetector, settings: Settings) -> None:
        self.detector, self.settings = detector, settings
        self.vocabularies = Vocabularies(detector, settings.vocabularies)
        self._inside = 0
        room = settings.waiting + settings.most
        self.batcher = Batcher(detector, most=settings.most, waiting=room)

    async def detect(self, pictures: list[bytes], question: Question) -> list[Answer]:
        """Answers in order; all or none."""
        if len(pictures) > self.settings.waiting:
            raise ImageError(
                f"{self.settings.waiting} pictures a request, at the most; send fewer."
            )
        if self._inside + len(pictures) > self.settings.waiting + self.settings.most:
            raise BusyError("Too many requests wait; try again later.")
        # Counted before anything is decoded: so many pictures are in memory, and no more.
        self._inside += len(pictures)
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await self._detect(pictures, question)
        finally:
            self._inside -= len(pictures)

    async def _detect(self, pictures: list[bytes], question: Question) -> list[Answer]:
        classifier, thresholds = await run_in_threadpool(self._understood, question)
        loaded = [await run_in_threadpool(self._load, *each) for each in enumerate(pictures)]
        futures = [self.batcher.submit(image, classifier, thresholds) for image in loaded]
        try:
            found: list[sv.Detections] = await asyncio.gather(
                *(asyncio.wrap_future(future) for future in futures)
            )
        finally:
            for future in futures:  # of those that nobody waits for any more
                future.cancel()
        return [
            answer((image.shape[1], image.shape[0]), each)
            for image, each in zip(loaded, found, strict=True)
        ]

    def _understood(self, question: Question) -> Any:  # noqa: ANN401  classifier and thresholds
        if (question.classes is None) == (question.vocabulary is None):
            raise ClassesError("Give either classes or the name of a stored vocabulary.")
        self.check_words(question.classes or [], question.negatives)
        classes: Any = question.classes
        if question.vocabulary is not None:
            classes = self.vocabularies.get(question.vocabulary)
        classifier = self.detector.classifier(classes, question.negatives)
        names = classifier.names
        cut = self.detector.thresholds(names, question.score_threshold, question.thresholds)
        return classifier, cut

    def check_words(self, classes: Any, negatives: list[str]) -> None:  # noqa: ANN401  list or dict
        """Refuse more than would be encoded while others wait.

        Raises:
            ClassesError: there are too many.
        """
        groups = classes.values() if isinstance(classes, dict) else [classes]
        if sum(map(len, groups)) + len(negatives) > self.settings.max_words:
            raise ClassesError(f"{self.settings.max_words} words at the most; ask for fewer.")

    def _load(self, place: int, picture: bytes) -> Image:
        name, limit = f"image {place}", self.settings.max_megapixels
        width, height = images.size_wh(picture, name=name)
        if width * height > limit * 1e6:
            raise ImageError(f"{name} has more than {limit:g} megapixels; send a smaller one.")
        return images.load(picture, name=name)
