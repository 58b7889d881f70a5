"""What the routes share: what is let in, understood, decoded and answered in time."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import supervision as sv
from fastapi.concurrency import run_in_threadpool

from openvocab import images
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ImageError
from openvocab.protocols import Image
from openvocab.server.batching import Batcher
from openvocab.server.errors import BusyError
from openvocab.server.pictures import Pictures
from openvocab.server.schemas import Answer, Question, answer
from openvocab.server.streams import Streams
from openvocab.server.vocabularies import Vocabularies
from openvocab.vocabulary import Classes, Vocabulary

__all__ = ["MIB", "Service", "Settings"]

MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server."""

    most: int = 8
    """Images a batch."""
    waiting: int = 32
    """Images that may wait; the next request gets 429."""
    timeout_s: float = 30.0
    """Seconds until a request gets 504, and one whose body does not come 408."""
    max_mb: int = 32
    """MiB of a body, and of the pictures that are fetched for it."""
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
    sources: Mapping[str, str] = field(default_factory=dict)
    """Films and cameras that may be watched, addresses by name."""
    streams: int = 4
    """Streams at once; the next one gets 429."""
    allowed: tuple[str, ...] = ()
    """`https://host/folder/`: pictures there may be sent by their address."""
    page_mb: int | None = None
    """MiB of a body for a page that is mounted at `/` and guards itself; None says there is none."""


class Service:
    """What the routes share."""

    def __init__(self, detector: OpenVocabDetector, settings: Settings) -> None:
        """Prepare; `start` starts it.

        Raises:
            ClassesError: a stored vocabulary is of another encoder.
            ConfigError: an allowed address is none.
        """
        self.detector, self.settings = detector, settings
        self.vocabularies = Vocabularies(detector, settings.vocabularies)
        self.streams = Streams(detector, settings.sources, settings.streams)
        self.ending = False
        """Whether what would never end by itself is to end now."""
        self._pictures = Pictures(settings.allowed)
        self._inside = 0
        room = settings.waiting + settings.most
        self.batcher = Batcher(detector, most=settings.most, waiting=room)

    def start(self) -> None:
        """From now on requests are answered."""
        self.batcher.start()

    async def close(self) -> None:
        """Answer what waits, and stop all."""
        self.ending = True
        await run_in_threadpool(self.streams.close)
        await run_in_threadpool(self.batcher.close)
        await self._pictures.close()

    async def detect(self, pictures: Sequence[bytes | str], question: Question) -> list[Answer]:
        """Answers in order, of files or of pictures as `Pictures` reads them; all or none."""
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

    async def _detect(self, pictures: Sequence[bytes | str], question: Question) -> list[Answer]:
        classifier, thresholds = await run_in_threadpool(self._understood, question)
        files = await self._read(pictures)
        loaded = [await run_in_threadpool(self._load, *each) for each in enumerate(files)]
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

    def wanted(self, question: Question) -> dict[str, Any]:
        """Classes, negatives and thresholds of a question, by the names that a stream has for them.

        Raises:
            ClassesError: neither or both of classes and vocabulary, or too many words.
            LacksError: the vocabulary is not stored.
        """
        return {
            "classes": self._classes(question),
            "negatives": question.negatives,
            "score_threshold": question.score_threshold,
            "thresholds": question.thresholds,
        }

    def _classes(self, question: Question) -> Classes | Vocabulary:
        self.check_words(question.classes or [], question.negatives)
        if question.vocabulary is not None and question.classes is None:
            return self.vocabularies.get(question.vocabulary)
        if question.classes is None or question.vocabulary is not None:
            raise ClassesError("Give either classes or the name of a stored vocabulary.")
        return question.classes

    def _understood(self, question: Question) -> Any:  # noqa: ANN401  classifier and thresholds
        classifier = self.detector.classifier(self._classes(question), question.negatives)
        cut = self.detector.thresholds(
            classifier.names, question.score_threshold, question.thresholds
        )
        return classifier, cut

    async def _read(self, pictures: Sequence[bytes | str]) -> list[bytes]:
        """Their bytes; all together no more than a body may have."""
        files: list[bytes] = []
        left = self.settings.max_mb * MIB
        for sent in pictures:
            files.append(sent if isinstance(sent, bytes) else await self._pictures.read(sent, left))
            left -= len(files[-1])
        return files

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
