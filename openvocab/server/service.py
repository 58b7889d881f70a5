"""What the routes share: requests are admitted, understood, decoded and answered in time."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import cv2
import supervision as sv
from fastapi.concurrency import run_in_threadpool

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ConfigError, ImageError
from openvocab.io import images
from openvocab.server import schemas
from openvocab.server.batching import Batcher
from openvocab.server.errors import BusyError, NotFoundError, ShuttingDownError
from openvocab.server.image_inputs import Pictures
from openvocab.server.schemas import DetectResponse, Example, Query, Words, answer
from openvocab.server.streams import Stream, Streams
from openvocab.server.vocabularies import Vocabularies
from openvocab.stream.capture import is_still
from openvocab.stream.zones import Zones
from openvocab.types import Image
from openvocab.vocabulary import Classes, Vocabulary

MIB = 1024**2
ORIGIN = re.compile(r"https?://[^/\s*?#@]+")
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server allows, and to whom."""

    max_batch: int = 8
    """Images per batch."""
    max_waiting: int = 32
    """Images that may wait; the next request gets 429."""
    timeout_s: float = 30.0
    """Seconds after which a request gets 504, or 408 if its body has not arrived."""
    max_mb: int = 32
    """MiB of a body, and of all pictures that are fetched for it."""
    max_megapixels: float = 25.0
    """Megapixels of one picture, checked before it is decoded."""
    max_words: int = 5000
    """Words of one request or vocabulary, including synonyms and negatives."""
    hosts: tuple[str, ...] = ()
    """Names, without ports, by which requests may address this server, such as those in
    `openvocab._internal.environment.LOOPBACK_HOSTS`; an empty tuple allows all."""
    origins: tuple[str, ...] = ()
    """Sites whose pages may send requests from a browser, such as `https://app.example.com`."""
    token: str = ""
    """Token that callers must send; an empty string means that none is needed."""
    vocabularies: Path | None = None
    """Folder for stored vocabularies; None keeps them in memory."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Films and cameras that callers may watch: addresses by name."""
    zones: Mapping[str, Zones] = field(default_factory=dict)
    """Polygons and lines in the pictures of these sources, by the same names."""
    max_streams: int = 4
    """Streams at once; the next one gets 429."""
    allow_urls: tuple[str, ...] = ()
    """Prefixes such as `https://host/folder/`: pictures there may be sent as an address."""
    upload_mb: int | None = None
    """MiB of an upload to a page at `/` that guards itself; None means that there is no page."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail too late.

        Raises:
            ConfigError: no caller could send the token, no page can have one of the origins, or
                zones are given for an unknown source or one of single pictures.
        """
        token = self.token.strip()  # read from a file, it ends with a line break
        if (self.token and not token) or not token.isprintable():
            raise ConfigError("The token is blank or holds control characters; give another.")
        object.__setattr__(self, "token", token)
        hosts = tuple(host.strip("[]").lower() for host in self.hosts)
        origins = tuple(origin.rstrip("/").lower() for origin in self.origins)
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "origins", origins)
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(f"{origin!r} is the origin of no page; give https://HOST[:PORT].")
        for name in self.zones:
            if name not in self.sources:
                raise ConfigError(f"There are zones for {name!r} and no such source; name one.")
            if is_still(self.sources[name]):
                raise ConfigError(f"{name!r} is of single pictures; zones need a film or camera.")


class Service:
    """What the routes share."""

    def __init__(self, detector: OpenVocabDetector, settings: Settings) -> None:
        """Prepare the service; `start` starts it.

        Raises:
            ClassesError: a stored vocabulary was made with another encoder.
            ConfigError: an allowed address is not valid.
        """
        self.detector, self.settings = detector, settings
        self.vocabularies = Vocabularies(detector, settings.vocabularies)
        self.streams = Streams(detector, settings.sources, settings.zones, settings.max_streams)
        self.ending = False
        """Whether endless answers should end now."""
        self.listeners = 0
        """Number of callers that are listening to the events of streams."""
        self._pictures = Pictures(settings.allow_urls)
        self.inside = 0
        """Number of pictures in requests that have not been answered yet."""
        room = settings.max_waiting + settings.max_batch
        self.batcher = Batcher(detector, max_batch=settings.max_batch, max_waiting=room)

    def start(self) -> None:
        """Start answering requests."""
        self.batcher.start()

    def end(self) -> None:
        """Take no more requests, and end streams and other endless answers soon."""
        self.ending = True
        self.streams.end()

    async def close(self) -> None:
        """Answer waiting requests, and stop everything."""
        self.end()
        await run_in_threadpool(self.streams.close)
        await run_in_threadpool(self.batcher.close)
        await self._pictures.close()

    async def detect(
        self, pictures: Sequence[bytes | str], question: Query
    ) -> list[DetectResponse]:
        """Answer for files, or pictures as `Pictures` reads them, in order; all or none."""
        count = len(pictures) + len(_shown(question.classes))
        return await self._in_time(count, self._detect, pictures, question)

    async def store(self, name: str, words: Words) -> None:
        """Encode classes once, and keep them under a name.

        Raises:
            ClassesError: the name or the classes cannot be used.
            ImageError: an example picture cannot be read.
        """
        self.vocabularies.check(name)
        await self._in_time(len(_shown(words.classes)), self._store, name, words)

    async def watch(self, source: str, question: Query) -> Stream:
        """Start a stream.

        Raises:
            NotFoundError, BusyError, ClassesError: as `Streams.start`.
            ImageError: an example picture cannot be read.
        """
        return await self._in_time(len(_shown(question.classes)), self._watch, source, question)

    async def change(self, stream: Stream, question: Query) -> None:
        """Make a stream look for other things.

        Raises:
            NotFoundError: the stream has ended.
            ClassesError: they cannot be used; the stream continues with the present ones.
            ImageError: an example picture cannot be read.
        """
        if not stream.runs:
            raise NotFoundError(f"Stream {stream.number} has ended; start another.")
        await self._in_time(len(_shown(question.classes)), self._change, stream, question)

    async def draw(self, stream: Stream) -> bytes:
        """Draw the newest frame of a stream with its detections, as JPEG.

        Raises:
            NotFoundError: there is no frame yet.
        """
        return await self._in_time(1, _threaded, _jpeg, stream)

    async def _in_time(
        self,
        pictures: int,
        work: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **more: P.kwargs,
    ) -> T:
        """Do `work` if there is room for so many pictures, and within the time of a request.

        Work that still runs in a thread after the caller got a time-out keeps its room.
        """
        if pictures > self.settings.max_waiting:
            raise ImageError(
                f"{self.settings.max_waiting} pictures a request, at the most; send fewer."
            )
        taken = max(pictures, 1)
        if self.inside + taken > self.settings.max_waiting + self.settings.max_batch:
            raise BusyError("Too many requests wait; try again later.")
        if self.ending:
            raise ShuttingDownError("The server stops; try another one.")
        # Counted before anything is decoded, which limits the pictures in memory.
        self.inside += taken
        task = asyncio.create_task(work(*args, **more))

        def leave(_: object) -> None:
            self.inside -= taken

        task.add_done_callback(leave)
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await asyncio.shield(task)
        finally:
            task.cancel()

    async def _detect(
        self, pictures: Sequence[bytes | str], question: Query
    ) -> list[DetectResponse]:
        head = await _threaded(self.detector.class_head, **await self._wanted(question))
        loaded = await self._loaded(pictures, "image")
        futures: list[Future[sv.Detections]] = []
        try:
            futures += (self.batcher.submit(image, head) for image in loaded)
            found: list[sv.Detections] = await asyncio.gather(
                *(asyncio.wrap_future(future) for future in futures)
            )
        finally:
            for future in futures:  # nobody is waiting for these any more
                future.cancel()
        return [
            answer((image.shape[1], image.shape[0]), each)
            for image, each in zip(loaded, found, strict=True)
        ]

    async def _store(self, name: str, words: Words) -> None:
        classes = await self._classes(words.classes, words.negatives)
        made = await _threaded(self.detector.vocabulary, classes, words.negatives)
        await _threaded(self.vocabularies.put, name, made)

    async def _watch(self, source: str, question: Query) -> Stream:
        self.streams.check(source)
        stream = await _threaded(self.streams.prepare, source, await self._wanted(question))
        self.streams.start(stream)  # not in a thread: a request given up meanwhile starts nothing
        return stream

    async def _change(self, stream: Stream, question: Query) -> None:
        await _threaded(stream.set_classes, await self._wanted(question))

    async def _wanted(self, question: Query) -> dict[str, Any]:
        """Classes, negatives and thresholds, as keyword arguments of `class_head` and of streams."""
        if (question.classes is None) == (question.vocabulary is None):
            raise ClassesError("Give either classes or the name of a stored vocabulary.")
        classes: Classes | Vocabulary
        if question.vocabulary is not None:
            classes = self.vocabularies.get(question.vocabulary)
        else:
            classes = await self._classes(question.classes or [], question.negatives)
        return {
            "classes": classes,
            "negatives": question.negatives,
            "score_threshold": question.score_threshold,
            "thresholds": question.thresholds,
        }

    async def _classes(self, classes: schemas.Classes, negatives: list[str]) -> Classes:
        """Classes as the detector takes them, and no more than may be encoded while others wait."""
        groups: Iterable[Sequence[object]] = (
            classes.values() if isinstance(classes, dict) else [classes]
        )
        if sum(map(len, groups)) + len(negatives) > self.settings.max_words:
            raise ClassesError(f"{self.settings.max_words} words at the most; ask for fewer.")
        if isinstance(classes, list):
            return classes
        examples = iter(await self._loaded([each.image for each in _shown(classes)], "example"))
        return {
            name: [part if isinstance(part, str) else next(examples) for part in parts]
            for name, parts in classes.items()
        }

    async def _loaded(self, pictures: Sequence[bytes | str], what: str) -> list[Image]:
        """Decode pictures, whose files together may be no larger than a body."""
        files: list[bytes] = []
        left = self.settings.max_mb * MIB
        for sent in pictures:
            files.append(sent if isinstance(sent, bytes) else await self._pictures.read(sent, left))
            left -= len(files[-1])
        several = len(files) > 1
        return [
            await _threaded(self._load, f"{what} {place}" if several else what, file)
            for place, file in enumerate(files)
        ]

    def _load(self, name: str, picture: bytes) -> Image:
        limit = self.settings.max_megapixels
        width, height = images.image_size_wh(picture, name=name)
        if width * height > limit * 1e6:
            raise ImageError(f"{name} has more than {limit:g} megapixels; send a smaller one.")
        return images.load_image(picture, name=name)


def _shown(classes: schemas.Classes | None) -> list[Example]:
    """The example pictures among the classes."""
    groups = classes.values() if isinstance(classes, dict) else ()
    return [part for parts in groups for part in parts if isinstance(part, Example)]


async def _threaded(function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Run in a thread; a cancelled caller still waits for it, as its work cannot be undone."""
    work = asyncio.ensure_future(run_in_threadpool(function, *args, **more))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _jpeg(stream: Stream) -> bytes:
    picture = stream.picture()
    if picture is None:
        later = "ask again in a second" if stream.runs else "its state says why"
        raise NotFoundError(f"There is no frame of stream {stream.number}; {later}.")
    _, encoded = cv2.imencode(".jpg", picture)
    return encoded.tobytes()
