"""What the routes share: what is let in, understood, decoded and answered in time."""

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

from openvocab import images
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ConfigError, ImageError
from openvocab.protocols import Image
from openvocab.server import schemas
from openvocab.server.batching import Batcher
from openvocab.server.errors import BusyError, LacksError, StoppingError
from openvocab.server.pictures import Pictures
from openvocab.server.schemas import Answer, Example, Question, Words, answer
from openvocab.server.streams import Stream, Streams
from openvocab.server.vocabularies import Vocabularies
from openvocab.stream.capture import is_still
from openvocab.stream.zones import Zones
from openvocab.vocabulary import Classes, Vocabulary

__all__ = ["LOCAL", "MIB", "Service", "Settings"]

MIB = 1024**2
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine for itself."""
ORIGIN = re.compile(r"https?://[^/\s*?#@]+")
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server allows, and to whom."""

    max_batch: int = 8
    """Images a batch."""
    max_waiting: int = 32
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
    """Names that a request may call this server by, without ports, such as `LOCAL`; none allows all."""
    origins: tuple[str, ...] = ()
    """`https://app.example.com`: sites whose pages may ask from a browser."""
    token: str = ""
    """That callers must bring; none asks for none."""
    vocabularies: Path | None = None
    """Folder that stored vocabularies are kept in; None keeps them in memory."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Films and cameras that may be watched, addresses by name."""
    zones: Mapping[str, Zones] = field(default_factory=dict)
    """Polygons and lines in the pictures of those, by the same names."""
    max_streams: int = 4
    """Streams at once; the next one gets 429."""
    allow_urls: tuple[str, ...] = ()
    """`https://host/folder/`: pictures there may be sent by their address."""
    upload_mb: int | None = None
    """MiB of a file for a page that is mounted at `/` and guards itself; None says there is none."""

    def __post_init__(self) -> None:
        """Check what would be met too late.

        Raises:
            ConfigError: a token that nobody can bring; an origin that no page has; zones of no
                source, or of single pictures.
        """
        token = self.token.strip()  # a file that it was read from ends with a line
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
        """Prepare; `start` starts it.

        Raises:
            ClassesError: a stored vocabulary is of another encoder.
            ConfigError: an allowed address is none.
        """
        self.detector, self.settings = detector, settings
        self.vocabularies = Vocabularies(detector, settings.vocabularies)
        self.streams = Streams(detector, settings.sources, settings.zones, settings.max_streams)
        self.ending = False
        """Whether what would never end by itself is to end now."""
        self.listeners = 0
        """Who hears the events of streams now."""
        self._pictures = Pictures(settings.allow_urls)
        self.inside = 0
        """Pictures of requests that are not answered yet."""
        room = settings.max_waiting + settings.max_batch
        self.batcher = Batcher(detector, max_batch=settings.max_batch, max_waiting=room)

    def start(self) -> None:
        """From now on requests are answered."""
        self.batcher.start()

    def end(self) -> None:
        """Take no more requests, and have what would never end by itself end soon."""
        self.ending = True
        self.streams.end()

    async def close(self) -> None:
        """Answer what waits, and stop all."""
        self.end()
        await run_in_threadpool(self.streams.close)
        await run_in_threadpool(self.batcher.close)
        await self._pictures.close()

    async def detect(self, pictures: Sequence[bytes | str], question: Question) -> list[Answer]:
        """Answers in order, of files or of pictures as `Pictures` reads them; all or none."""
        count = len(pictures) + len(_shown(question.classes))
        return await self._in_time(count, self._detect, pictures, question)

    async def store(self, name: str, words: Words) -> None:
        """Encode classes once, and keep them by a name.

        Raises:
            ClassesError: the name or the classes cannot be used.
            ImageError: an example picture cannot be read.
        """
        self.vocabularies.check(name)
        await self._in_time(len(_shown(words.classes)), self._store, name, words)

    async def watch(self, source: str, question: Question) -> Stream:
        """Start a stream.

        Raises:
            LacksError, BusyError, ClassesError: as `Streams.start`.
            ImageError: an example picture cannot be read.
        """
        return await self._in_time(len(_shown(question.classes)), self._watch, source, question)

    async def change(self, stream: Stream, question: Question) -> None:
        """Have a stream look for other things.

        Raises:
            LacksError: it has ended.
            ClassesError: they cannot be used; it goes on with those it has.
            ImageError: an example picture cannot be read.
        """
        if not stream.runs:
            raise LacksError(f"Stream {stream.number} has ended; start another.")
        await self._in_time(len(_shown(question.classes)), self._change, stream, question)

    async def draw(self, stream: Stream) -> bytes:
        """The newest frame of a stream with what was found, as JPEG.

        Raises:
            LacksError: there is none yet.
        """
        return await self._in_time(1, _threaded, _jpeg, stream)

    async def _in_time(
        self,
        pictures: int,
        work: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **more: P.kwargs,
    ) -> T:
        """Do it if there is room for so many pictures, and only for as long as a request may take.

        What still runs in a thread when the caller is told that it took too long keeps its room.
        """
        if pictures > self.settings.max_waiting:
            raise ImageError(
                f"{self.settings.max_waiting} pictures a request, at the most; send fewer."
            )
        taken = max(pictures, 1)
        if self.inside + taken > self.settings.max_waiting + self.settings.max_batch:
            raise BusyError("Too many requests wait; try again later.")
        if self.ending:
            raise StoppingError("The server stops; try another one.")
        # Counted before anything is decoded: so many pictures are in memory, and no more.
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

    async def _detect(self, pictures: Sequence[bytes | str], question: Question) -> list[Answer]:
        naming = await _threaded(self.detector.naming, **await self._wanted(question))
        loaded = await self._loaded(pictures, "image")
        futures: list[Future[sv.Detections]] = []
        try:
            futures += (self.batcher.submit(image, naming) for image in loaded)
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

    async def _store(self, name: str, words: Words) -> None:
        classes = await self._classes(words.classes, words.negatives)
        made = await _threaded(self.detector.vocabulary, classes, words.negatives)
        await _threaded(self.vocabularies.put, name, made)

    async def _watch(self, source: str, question: Question) -> Stream:
        self.streams.check(source)
        stream = await _threaded(self.streams.prepare, source, await self._wanted(question))
        self.streams.start(stream)  # not in a thread: who was given up meanwhile starts nothing
        return stream

    async def _change(self, stream: Stream, question: Question) -> None:
        await _threaded(stream.set_classes, await self._wanted(question))

    async def _wanted(self, question: Question) -> dict[str, Any]:
        """Classes, negatives and thresholds, by the names that a stream has for them."""
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
        """As the detector takes them; no more than may be encoded while others wait."""
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
        """Decoded; together their files have no more bytes than a body may have."""
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
        width, height = images.size_wh(picture, name=name)
        if width * height > limit * 1e6:
            raise ImageError(f"{name} has more than {limit:g} megapixels; send a smaller one.")
        return images.load(picture, name=name)


def _shown(classes: schemas.Classes | None) -> list[Example]:
    """The example pictures among them."""
    groups = classes.values() if isinstance(classes, dict) else ()
    return [part for parts in groups for part in parts if isinstance(part, Example)]


async def _threaded(function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """In a thread. Who is cancelled waits for it all the same: its work cannot be taken back."""
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
        raise LacksError(f"There is no frame of stream {stream.number}; {later}.")
    _, encoded = cv2.imencode(".jpg", picture)
    return encoded.tobytes()
