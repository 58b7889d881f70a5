"""What the routes call: admits requests, decodes their images, and answers within the time limit."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

import cv2
import supervision as sv
from fastapi.concurrency import run_in_threadpool

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ImageError, ModelError
from openvocab.io import _images as images
from openvocab.proposers._tiled import tile_count
from openvocab.scoring import ClassHead
from openvocab.server._batching import Batcher, Sizes
from openvocab.server._errors import BusyError, NotFoundError, ShuttingDownError, SizeError
from openvocab.server._image_inputs import ImageReader
from openvocab.server._schemas import (
    ClassList,
    DetectQuery,
    DetectResponse,
    ExampleImage,
    Query,
    VocabularyRequest,
    to_response,
)
from openvocab.server._settings import MIB, Settings
from openvocab.server._streams import Stream, Streams
from openvocab.server._vocabularies import Vocabularies
from openvocab.types import EncodedRegions, Image, NearMiss
from openvocab.vocabulary import Classes, Example, Vocabulary

MAX_TILES = 200  # of all images of a request; some ten seconds on two cores

T = TypeVar("T")
P = ParamSpec("P")
_Result: TypeAlias = tuple[sv.Detections, list[NearMiss] | None]


class Service:
    """The detector with its batcher, stored vocabularies and streams."""

    def __init__(self, detector: OpenVocabDetector, settings: Settings) -> None:
        """Prepare the service; `start` starts it.

        Raises:
            ClassesError: a stored vocabulary was made with another encoder.
            ConfigError: an allowed URL is not valid.
        """
        self.detector, self.settings = detector, settings
        self.vocabularies = Vocabularies(detector, settings.vocabularies)
        self.streams = Streams(detector, settings.sources, settings.zones, settings.max_streams)
        self.batcher = Batcher(detector, max_batch=settings.max_batch)
        self._reader = ImageReader(settings.allow_urls)
        self.ending = False
        """Whether endless responses should end now."""
        self.listeners = 0
        """Number of clients that are listening to the events of streams."""
        self.admitted = 0
        """Number of images in requests that have not been answered yet."""

    def start(self) -> None:
        """Start answering requests."""
        self.batcher.start()

    def end(self) -> None:
        """Accept no more requests, and end streams and other endless responses soon."""
        self.ending = True
        self.streams.end()

    async def close(self) -> None:
        """Answer waiting requests, and stop everything."""
        self.end()
        await run_in_threadpool(self.streams.close)
        await run_in_threadpool(self.batcher.close)
        await self._reader.close()

    async def detect(
        self, inputs: Sequence[bytes | str], query: DetectQuery
    ) -> list[DetectResponse]:
        """Detect in files, or in images as `ImageReader` reads them, in order: all or none."""
        async with self._admit(query, len(inputs)):
            arguments = await self._class_arguments(query)
            head = await self._in_thread(self.detector.class_head, **arguments)
            decoded = await self._decode(inputs, "image")
            sizes = self._sizes(query, decoded)
            classify = partial(_classify, head, near_misses=query.near_misses)
            futures: list[Future[_Result]] = []
            try:
                futures += (
                    self.batcher.submit(image, head.min_objectness, classify, sizes)
                    for image in decoded
                )
                results = await asyncio.gather(*map(asyncio.wrap_future, futures))
            finally:
                for future in futures:  # if one has failed, the others are not needed
                    future.cancel()
            return [
                to_response(image, *result) for image, result in zip(decoded, results, strict=True)
            ]

    def _sizes(self, query: DetectQuery, decoded: Sequence[Image]) -> Sizes:
        """The sizes of a request, if the detector can be run at them in reasonable time.

        Raises:
            SizeError: it cannot.
        """
        try:
            self.detector.with_sizes(query.imgsz, query.tile)
        except ModelError as error:
            raise SizeError(str(error)) from error
        if query.tile is not None:
            tiles = sum(tile_count(image.shape[:2], query.tile) for image in decoded)
            if tiles > MAX_TILES:
                raise SizeError(
                    f"tile = {query.tile} cuts the images into about {tiles} tiles, more than "
                    f"{MAX_TILES}; use larger tiles."
                )
        return query.imgsz, query.tile

    async def store_vocabulary(self, name: str, request: VocabularyRequest) -> None:
        """Encode classes once, and keep them under a name.

        Raises:
            ClassesError: the name or the classes are invalid.
            ImageError: an example image cannot be read.
        """
        self.vocabularies.check_name(name)
        async with self._admit(request):
            classes = await self._read_classes(request.classes, request.negatives)
            vocabulary = await self._in_thread(self.detector.vocabulary, classes, request.negatives)
            await self._in_thread(self.vocabularies.put, name, vocabulary)

    async def start_stream(self, source: str, query: Query) -> Stream:
        """Start a stream.

        Raises:
            NotFoundError, BusyError, ClassesError: as `Streams.start`.
            ImageError: an example image cannot be read.
        """
        async with self._admit(query):
            self.streams.check(source)
            arguments = await self._class_arguments(query)
            stream = await self._in_thread(self.streams.prepare, source, arguments)
            self.streams.start(stream)  # not in a thread: a cancelled request starts nothing
            return stream

    async def set_classes(self, stream: Stream, query: Query) -> None:
        """Change the classes of a stream.

        Raises:
            NotFoundError: the stream has ended.
            ClassesError: they are invalid; the stream continues with its present classes.
            ImageError: an example image cannot be read.
        """
        if not stream.running:
            raise NotFoundError(f"Stream {stream.number} has ended; start another.")
        async with self._admit(query):
            await self._in_thread(stream.set_classes, await self._class_arguments(query))

    async def frame(self, stream: Stream) -> bytes:
        """The newest frame of a stream with its detections drawn, as JPEG.

        Raises:
            NotFoundError: there is no frame yet.
        """
        async with self._admit(images=1):
            return await self._in_thread(_frame_jpeg, stream)

    @asynccontextmanager
    async def _admit(
        self, request: Query | VocabularyRequest | None = None, images: int = 0
    ) -> AsyncIterator[None]:
        """Hold room for the images of a request, and limit its time."""
        settings = self.settings
        images += 0 if request is None else len(_examples(request.classes))
        if images > settings.max_waiting:
            raise ImageError(f"A request may have {settings.max_waiting} images; send fewer.")
        images = max(images, 1)
        if self.admitted + images > settings.max_waiting + settings.max_batch:
            raise BusyError("Too many requests are waiting; try again later.")
        if self.ending:
            raise ShuttingDownError("The server is shutting down; try another one.")
        self.admitted += images  # before anything is decoded, which limits the images in memory
        try:
            async with asyncio.timeout(settings.timeout_s):
                yield
        finally:
            self.admitted -= images

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in a thread; after a timeout or disconnect, it continues and holds room until done."""
        work = asyncio.ensure_future(run_in_threadpool(function, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.admitted += 1
            work.add_done_callback(self._leave)
            raise

    def _leave(self, work: "asyncio.Future[Any]") -> None:
        self.admitted -= 1
        if not work.cancelled():
            work.exception()  # nobody else retrieves it

    async def _class_arguments(self, query: Query) -> dict[str, Any]:
        """Classes, negatives and thresholds, as keyword arguments of the detector and of streams."""
        if (query.classes is None) == (query.vocabulary is None):
            raise ClassesError("Send either classes or the name of a stored vocabulary.")
        classes: Classes | Vocabulary
        if query.vocabulary is not None:
            classes = self.vocabularies.get(query.vocabulary)
        else:
            classes = await self._read_classes(query.classes or [], query.negatives)
        return {
            "classes": classes,
            "negatives": query.negatives,
            "score_threshold": query.score_threshold,
            "thresholds": query.thresholds,
        }

    async def _read_classes(self, classes: ClassList, negatives: list[str]) -> Classes:
        """Classes with their example images decoded.

        Raises:
            ClassesError: there are too many words.
            ImageError: an example image cannot be read.
        """
        words = len(negatives)
        words += sum(map(len, classes.values())) if isinstance(classes, dict) else len(classes)
        if words > self.settings.max_words:
            raise ClassesError(f"A request may have {self.settings.max_words} words; send fewer.")
        if isinstance(classes, list):
            return classes
        examples = [example.image for example in _examples(classes)]
        decoded = iter(await self._decode(examples, "example"))
        return {
            name: [
                prompt if isinstance(prompt, str) else Example(next(decoded), prompt.box)
                for prompt in prompts
            ]
            for name, prompts in classes.items()
        }

    async def _decode(self, inputs: Sequence[bytes | str], kind: str) -> list[Image]:
        """Decode images, whose files together may be no larger than a body."""
        files: list[bytes] = []
        left = self.settings.max_mb * MIB
        for data in inputs:
            files.append(data if isinstance(data, bytes) else await self._reader.read(data, left))
            left -= len(files[-1])
        names = [kind] if len(files) == 1 else [f"{kind} {index}" for index in range(len(files))]
        return [
            await self._in_thread(self._load, name, file)
            for name, file in zip(names, files, strict=True)
        ]

    def _load(self, name: str, file: bytes) -> Image:
        limit = self.settings.max_megapixels
        width, height = images.image_size_wh(file, name=name)  # from the header, before decoding
        if width * height > limit * 1e6:
            raise ImageError(f"{name} has more than {limit:g} megapixels; send a smaller one.")
        return images.load_image(file, name=name)


def _examples(classes: ClassList | None) -> list[ExampleImage]:
    """The example images among the classes."""
    groups = classes.values() if isinstance(classes, dict) else ()
    return [prompt for group in groups for prompt in group if isinstance(prompt, ExampleImage)]


def _classify(head: ClassHead, regions: EncodedRegions, *, near_misses: bool) -> _Result:
    """The detections of an image and, if wanted, what came closest to the other classes."""
    detections = head.classify(regions)
    return detections, head.near_misses(regions, detections) if near_misses else None


def _frame_jpeg(stream: Stream) -> bytes:
    frame = stream.annotated_frame()
    if frame is None:
        remedy = "try again in a second" if stream.running else "see its state"
        raise NotFoundError(f"Stream {stream.number} has no frame; {remedy}.")
    _, encoded = cv2.imencode(".jpg", frame)
    return encoded.tobytes()
