"""The routes: detection, stored vocabularies, streams, health and metrics."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import generate_latest

from openvocab import __version__
from openvocab.server._errors import BusyError, ShuttingDownError
from openvocab.server._schemas import (
    DetectBatchRequest,
    DetectForm,
    DetectRequest,
    DetectResponse,
    ErrorResponse,
    Info,
    Query,
    StreamRequest,
    StreamState,
    VocabularyRequest,
)
from openvocab.server._service import Service
from openvocab.server._streams import Stream

MAX_LISTENERS = 64  # to the events of streams, at once
POLL_S = 0.2  # between checks for new events, which come from other threads

Responses = dict[int | str, dict[str, Any]]
_ERROR = {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
_ERRORS: Responses = {
    # Not by `model`, which would be described with the media type of the successful response.
    status: {"description": "`detail` says why.", "content": {"application/json": _ERROR}}
    for status in ("4XX", "5XX")
}
_NO_EVENTS: Responses = {
    204: {"description": "The stream has ended, and all of its events were sent."}
}


def _content(media_type: str) -> Responses:
    """Describe a successful response that is not JSON."""
    return {200: {"content": {media_type: {}}}}


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _stream(number: int, request: Request) -> Stream:
    return (await _service(request)).streams.get(number)


ServiceDep = Annotated[Service, Depends(_service)]
StreamDep = Annotated[Stream, Depends(_stream)]

detection = APIRouter(prefix="/v1/detect", tags=["detection"], responses=_ERRORS)
vocabularies = APIRouter(prefix="/v1/vocabularies", tags=["vocabularies"], responses=_ERRORS)
streams = APIRouter(prefix="/v1", tags=["streams"], responses=_ERRORS)
about = APIRouter(tags=["health"], responses=_ERRORS)
health = APIRouter(tags=["health"])


@detection.post("", response_model_exclude_none=True)
async def detect(body: DetectRequest, service: ServiceDep) -> DetectResponse:
    """Detect in one image, sent in base64."""
    (response,) = await service.detect([body.image], body)
    return response


@detection.post("/file", response_model_exclude_none=True)
async def detect_file(
    form: Annotated[DetectForm, Form(media_type="multipart/form-data")], service: ServiceDep
) -> DetectResponse:
    """Detect in one image, sent as a file."""
    (response,) = await service.detect([await form.image.read()], form)
    return response


@detection.post("/batch", response_model_exclude_none=True)
async def detect_batch(body: DetectBatchRequest, service: ServiceDep) -> list[DetectResponse]:
    """Detect in several images; if one cannot be read, the whole request is refused."""
    return await service.detect(body.images, body)


@vocabularies.get("")
async def list_vocabularies(service: ServiceDep) -> list[str]:
    """List the names of the stored vocabularies."""
    return service.vocabularies.names


@vocabularies.put("/{name}", status_code=204)
async def store_vocabulary(name: str, body: VocabularyRequest, service: ServiceDep) -> None:
    """Encode classes once, and keep them under a name."""
    await service.store_vocabulary(name, body)


@vocabularies.get("/{name}")
async def list_classes(name: str, service: ServiceDep) -> list[str]:
    """List the classes of a stored vocabulary."""
    return list(service.vocabularies.get(name).names)


@vocabularies.delete("/{name}", status_code=204)
async def delete_vocabulary(name: str, service: ServiceDep) -> None:
    """Delete a stored vocabulary."""
    await run_in_threadpool(service.vocabularies.remove, name)


@streams.get("/sources")
async def list_sources(service: ServiceDep) -> list[str]:
    """List the sources that a stream can be started of."""
    return sorted(service.streams.sources)


@streams.get("/streams")
async def list_streams(service: ServiceDep) -> list[StreamState]:
    """List the streams and their states."""
    return [StreamState.of(stream) for stream in service.streams.all()]


@streams.post("/streams", status_code=201)
async def start_stream(body: StreamRequest, service: ServiceDep) -> StreamState:
    """Start a stream; its state and events say whether the source could be opened."""
    return StreamState.of(await service.start_stream(body.source, body))


@streams.get("/streams/{number}")
async def get_stream(stream: StreamDep) -> StreamState:
    """Get the state of a stream."""
    return StreamState.of(stream)


@streams.put("/streams/{number}/classes", status_code=204)
async def set_classes(body: Query, stream: StreamDep, service: ServiceDep) -> None:
    """Change the classes from the next frame on; existing tracks are classified again."""
    await service.set_classes(stream, body)


@streams.delete("/streams/{number}", status_code=204)
async def delete_stream(number: int, service: ServiceDep) -> None:
    """Stop and delete a stream."""
    await run_in_threadpool(service.streams.remove, number)


@streams.get("/streams/{number}/frame", response_class=Response, responses=_content("image/jpeg"))
async def get_frame(stream: StreamDep, service: ServiceDep) -> Response:
    """Get the newest frame with its detections drawn, as JPEG."""
    return Response(await service.frame(stream), media_type="image/jpeg")


async def _open_events(
    number: int,
    service: ServiceDep,
    last_event_id: Annotated[str, Header(pattern=r"^\d{0,20}$")] = "",
) -> AsyncGenerator[ServerSentEvent, None]:
    # A dependency, because the response has started when the route itself runs.
    stream, last = service.streams.get(number), int(last_event_id or 0)
    if not stream.running and not stream.events_after(last):
        raise HTTPException(204)  # stops a browser from reconnecting
    if service.listeners >= MAX_LISTENERS:
        raise BusyError("Too many event listeners; try again later.")
    return _follow(service, stream, last)


@streams.get("/streams/{number}/events", response_class=EventSourceResponse, responses=_NO_EVENTS)
async def stream_events(
    events: Annotated[AsyncGenerator[ServerSentEvent, None], Depends(_open_events)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow events, as server-sent events, from `Last-Event-ID` on; "ended" is the last."""
    async with aclosing(events):  # else a client that left counts until it is garbage collected
        async for event in events:
            yield event


async def _follow(
    service: Service, stream: Stream, last: int
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield events after a number, until the stream or the server ends."""
    service.listeners += 1
    try:
        ended = False
        while not ended:
            ended = service.ending or not stream.running
            for event in stream.events_after(last):
                yield ServerSentEvent(data=event.record, id=str(event.number))
                last = event.number
            if not ended:
                await asyncio.sleep(POLL_S)
    finally:
        service.listeners -= 1


@about.get("/v1/info")
async def info(service: ServiceDep) -> Info:
    """Get the models and limits of this server."""
    preset, settings = service.detector.preset, service.settings
    return Info(
        version=__version__, preset=preset.name, detector=Path(preset.models.detector).name,
        encoder=Path(preset.models.encoder).name, fingerprint=service.detector.encoder.fingerprint,
        detector_labels=list(service.detector.proposer.labels),
        score_threshold=preset.scoring.score_threshold, max_images=settings.max_waiting,
        max_megapixels=settings.max_megapixels, max_mb=settings.max_mb,
        max_words=settings.max_words, timeout_s=settings.timeout_s,
    )  # fmt: skip


@about.get("/metrics", response_class=Response, responses=_content("text/plain"))
async def metrics(request: Request) -> Response:
    """Get metrics in the format of Prometheus."""
    text = generate_latest(request.app.state.registry)
    return Response(text, media_type="text/plain; version=0.0.4")


@health.head("/healthz", include_in_schema=False)  # as uptime monitors ask
@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Check whether the process is alive."""
    return {"status": "ok"}


@health.head("/readyz", include_in_schema=False)
@health.get("/readyz", responses={503: {"model": ErrorResponse}})
async def readyz(service: ServiceDep) -> dict[str, str]:
    """Check whether a request would be answered now."""
    if service.ending or not service.batcher.alive:
        raise ShuttingDownError("The server is shutting down; try another one.")
    return {"status": "ready"}
