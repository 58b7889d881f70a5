"""The routes of the API: detection, stored vocabularies, streams."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from openvocab import __version__
from openvocab.server.errors import BusyError
from openvocab.server.schemas import (
    DetectBatchRequest,
    DetectForm,
    DetectRequest,
    DetectResponse,
    ErrorResponse,
    Info,
    Query,
    StreamRequest,
    StreamState,
    Words,
)
from openvocab.server.service import Service
from openvocab.server.streams import Stream

LISTENERS = 64  # to the events of streams, at once
POLL_S = 0.2  # between checks for new events, which come from threads at their own rate

_SAID = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    404: "There is nothing of that name.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    422: "What is asked for cannot be done.",
    429: "Too many requests wait; `Retry-After` says when to come back.",
    500: "The server failed; its log says why.",
    503: "The server stops.",
    504: "It took too long.",
}
_REFUSED = {
    "application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorResponse.__name__}"}}
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    # Not by `model`, which would be described with the media type of the good answer.
    status: {"description": said, "content": _REFUSED}
    for status, said in _SAID.items()
}

_OVER: dict[int | str, dict[str, Any]] = {
    204: {"description": "The stream has ended, and all of its events were sent."}
}


def detection(service: Service) -> APIRouter:
    """Routes that find things in pictures."""
    routes = APIRouter(prefix="/v1/detect", tags=["detection"], responses=_REFUSALS)

    @routes.post("")
    async def detect(asked: DetectRequest) -> DetectResponse:
        """Find things in one picture, sent in base64."""
        (found,) = await service.detect([asked.image], asked)
        return found

    @routes.post("/file")
    async def detect_file(
        asked: Annotated[DetectForm, Form(media_type="multipart/form-data")],
    ) -> DetectResponse:
        """Find things in one picture, sent as a file."""
        try:
            question = asked.question()
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from error
        (found,) = await service.detect([await asked.image.read()], question)
        return found

    @routes.post("/batch")
    async def detect_batch(asked: DetectBatchRequest) -> list[DetectResponse]:
        """Find things in several pictures: all are answered, or none is."""
        return await service.detect(asked.images, asked)

    return routes


def vocabularies(service: Service) -> APIRouter:
    """Routes for stored vocabularies."""
    routes = APIRouter(prefix="/v1/vocabularies", tags=["vocabularies"], responses=_REFUSALS)

    @routes.get("")
    async def names() -> list[str]:
        """List the names of the stored vocabularies."""
        return service.vocabularies.names

    @routes.put("/{name}", status_code=204)
    async def put(name: str, words: Words) -> None:
        """Encode classes once, and keep them under a name."""
        await service.store(name, words)

    @routes.get("/{name}")
    async def classes(name: str) -> list[str]:
        """List the classes of a stored vocabulary."""
        return list(service.vocabularies.get(name).names)

    @routes.delete("/{name}", status_code=204)
    async def delete(name: str) -> None:
        """Forget a stored vocabulary."""
        await run_in_threadpool(service.vocabularies.remove, name)

    return routes


def streams(service: Service) -> APIRouter:
    """Routes for films and cameras that the operator has named."""
    routes = APIRouter(prefix="/v1", tags=["streams"], responses=_REFUSALS)

    @routes.get("/sources")
    async def sources() -> list[str]:
        """List the sources that may be watched."""
        return sorted(service.streams.sources)

    @routes.get("/streams")
    async def listed() -> list[StreamState]:
        """List the streams and their states."""
        return [StreamState.of(stream) for stream in service.streams.all()]

    @routes.post("/streams", status_code=201)
    async def start(asked: StreamRequest) -> StreamState:
        """Start to watch a source; state and events tell whether it could be opened."""
        return StreamState.of(await service.watch(asked.source, asked))

    @routes.get("/streams/{number}")
    async def state(number: int) -> StreamState:
        """Show how a stream is doing."""
        return StreamState.of(service.streams.get(number))

    @routes.put("/streams/{number}/classes", status_code=204)
    async def classes(number: int, asked: Query) -> None:
        """Look for other things from the next frame on; tracks are named anew."""
        await service.change(service.streams.get(number), asked)

    @routes.delete("/streams/{number}", status_code=204)
    async def stop(number: int) -> None:
        """Stop a stream and forget it."""
        await run_in_threadpool(service.streams.remove, number)

    return routes


def watching(service: Service) -> APIRouter:
    """Routes for the output of a stream."""
    routes = APIRouter(prefix="/v1/streams/{number}", tags=["streams"], responses=_REFUSALS)

    async def known(number: int) -> Stream:
        return service.streams.get(number)

    async def heard(
        number: int, last_event_id: Annotated[str, Header(pattern=r"^\d{0,20}$")] = ""
    ) -> AsyncGenerator[ServerSentEvent, None]:
        # Here, because in the route the answer has begun. 204 stops a browser from reconnecting.
        stream, last = service.streams.get(number), int(last_event_id or 0)
        if not stream.runs and not stream.after(last):
            raise HTTPException(204)
        if service.listeners >= LISTENERS:
            raise BusyError("As many listen as may; try again later.")
        return _happening(service, stream, last)

    @routes.get("/picture", response_class=Response, responses=_kind("image/jpeg"))
    async def picture(stream: Annotated[Stream, Depends(known)]) -> Response:
        """Get the newest frame with its detections drawn, as JPEG."""
        return Response(await service.draw(stream), media_type="image/jpeg")

    @routes.get("/events", response_class=EventSourceResponse, responses=_OVER)
    async def events(
        happening: Annotated[AsyncGenerator[ServerSentEvent, None], Depends(heard)],
    ) -> AsyncIterator[ServerSentEvent]:
        """Follow events, as server-sent events, from `Last-Event-ID` on; "ended" is the last."""
        async with aclosing(happening):  # else a listener who left counts until it is collected
            async for event in happening:
                yield event

    return routes


def about(service: Service) -> APIRouter:
    """The route that describes this server."""
    routes = APIRouter(prefix="/v1/info", tags=["health"], responses=_REFUSALS)

    @routes.get("")
    async def info() -> Info:
        """Show which networks answer, and within which limits."""
        preset, settings = service.detector.preset, service.settings
        return Info(
            version=__version__, preset=preset.name, detector=Path(preset.models.detector).name,
            encoder=Path(preset.models.encoder).name, fingerprint=service.detector.encoder.fingerprint,
            detector_labels=list(service.detector.proposer.labels),
            score_threshold=preset.scoring.score_threshold, max_pictures=settings.max_waiting,
            max_megapixels=settings.max_megapixels, max_mb=settings.max_mb,
            max_words=settings.max_words, timeout_s=settings.timeout_s,
        )  # fmt: skip

    return routes


def metrics(registry: CollectorRegistry) -> APIRouter:
    """The route for Prometheus."""
    routes = APIRouter(prefix="/metrics", tags=["health"])

    @routes.get("", response_class=Response, responses=_kind("text/plain"))
    async def metrics() -> Response:
        """Get metrics in the format of Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return routes


def _kind(media_type: str) -> dict[int | str, dict[str, Any]]:
    """Describe a good answer that is not JSON."""
    return {200: {"content": {media_type: {}}}}


async def _happening(
    service: Service, stream: Stream, place: int
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield events after a number, until the stream or the server ends."""
    service.listeners += 1
    try:
        over = False
        while not over:
            over = service.ending or not stream.runs
            for told in stream.after(place):
                yield ServerSentEvent(data=told.record, id=str(told.number))
                place = told.number
            if not over:
                await asyncio.sleep(POLL_S)
    finally:
        service.listeners -= 1
