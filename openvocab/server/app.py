"""The HTTP interface: detection, stored vocabularies, health, metrics."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError

from openvocab import __version__
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ImageError, OpenVocabError, one_line
from openvocab.prompts import split_list
from openvocab.server.batching import BusyError
from openvocab.server.limits import BodyLimit, Token
from openvocab.server.schemas import Answer, Asked, AskedBatch, Question, Refused, Words
from openvocab.server.service import Service, Settings
from openvocab.server.vocabularies import LacksError

__all__ = ["Settings", "build"]

MIB = 1024**2
TOLD = 20  # mistakes of one request


def build(detector: OpenVocabDetector, settings: Settings | None = None) -> FastAPI:
    """The application, for any ASGI server; it stops with what it was asked answered.

    Raises:
        ClassesError: a stored vocabulary is of another encoder.
    """
    settings = settings or Settings()
    service = Service(detector, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.batcher.close)

    app = FastAPI(
        title="openvocab",
        version=__version__,
        description="Find things in pictures, in your own words.",
        lifespan=lifespan,
        # Their pages fetch scripts from other hosts; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    _errors(app)
    _detection(app, service)
    _vocabularies(app, service)
    _health(app, service)
    # Added last is met first.
    app.add_middleware(BodyLimit, most=settings.max_mb * MIB)
    if settings.hosts:  # else a page elsewhere could give its own name this address
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))
    if settings.token:
        app.add_middleware(Token, token=settings.token)
    return app


def _errors(app: FastAPI) -> None:
    """Ours are the caller's fault, and one line."""
    statuses = {
        BusyError: 429, LacksError: 404, ImageError: 422, ClassesError: 422, OpenVocabError: 500
    }  # fmt: skip

    async def told(_: Request, error: Exception) -> Response:
        status = next(number for kind, number in statuses.items() if isinstance(error, kind))
        headers = {"Retry-After": "1"} if status == 429 else None
        return JSONResponse({"detail": str(error)}, status, headers)

    async def late(_: Request, __: Exception) -> Response:
        return JSONResponse({"detail": "This took too long; try again later."}, 504)

    async def misread(_: Request, error: Exception) -> Response:
        # Without what was sent, which may be of any size, or no JSON.
        rows = error.errors() if isinstance(error, RequestValidationError) else []
        said = [
            f"{'.'.join(str(part)[:100] for part in row['loc'])}: {row['msg']}"
            for row in list(rows)[:TOLD]
        ]
        return JSONResponse({"detail": one_line("; ".join(said) or "malformed")}, 422)

    app.add_exception_handler(OpenVocabError, told)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(TimeoutError, late)


def _detection(app: FastAPI, service: Service) -> None:
    @app.post("/v1/detect", tags=["detection"], responses=_REFUSALS)
    async def detect(asked: Asked) -> Answer:
        """Find things in one picture, sent in base64."""
        (found,) = await service.detect([_base64(asked.image)], asked)
        return found

    @app.post("/v1/detect/file", tags=["detection"], responses=_REFUSALS)
    async def detect_file(
        image: Annotated[UploadFile, File()],
        classes: Annotated[str, Form(description='"bus, pedestrian"')] = "",
        negatives: Annotated[str, Form()] = "",
        vocabulary: Annotated[str | None, Form()] = None,
        score_threshold: Annotated[float | None, Form(ge=0, le=1)] = None,
    ) -> Answer:
        """Find things in one picture, sent as a file."""
        try:
            question = Question(
                classes=list(split_list(classes)) or None,
                negatives=list(split_list(negatives)),
                vocabulary=vocabulary,
                score_threshold=score_threshold,
            )
        except ValidationError as error:
            raise HTTPException(422, error.errors(include_url=False)[0]["msg"]) from error
        (found,) = await service.detect([await image.read()], question)
        return found

    @app.post("/v1/detect/batch", tags=["detection"], responses=_REFUSALS)
    async def detect_batch(asked: AskedBatch) -> list[Answer]:
        """Find things in several pictures; all of them or none."""
        return await service.detect([_base64(each) for each in asked.images], asked)


def _vocabularies(app: FastAPI, service: Service) -> None:
    @app.get("/v1/vocabularies", tags=["vocabularies"])
    async def names() -> list[str]:
        """Which ones are stored."""
        return service.vocabularies.names

    @app.put("/v1/vocabularies/{name}", tags=["vocabularies"], status_code=204, responses=_REFUSALS)
    async def put(name: str, words: Words) -> None:
        """Encode classes once, and keep them by a name."""
        service.vocabularies.check(name)
        service.check_words(words.classes, words.negatives)
        async with asyncio.timeout(service.settings.timeout_s):
            vocabulary = service.detector.vocabulary
            made = await run_in_threadpool(vocabulary, words.classes, words.negatives)
            await run_in_threadpool(service.vocabularies.put, name, made)

    @app.get("/v1/vocabularies/{name}", tags=["vocabularies"], responses=_REFUSALS)
    async def classes(name: str) -> list[str]:
        """The classes of one."""
        return list(service.vocabularies.get(name).names)

    @app.delete(
        "/v1/vocabularies/{name}", tags=["vocabularies"], status_code=204, responses=_REFUSALS
    )
    async def delete(name: str) -> None:
        """Forget one."""
        await run_in_threadpool(service.vocabularies.remove, name)


def _health(app: FastAPI, service: Service) -> None:
    registry = CollectorRegistry()
    requests = Counter("openvocab_requests", "Answered.", ["path", "status"], registry=registry)
    seconds = Histogram("openvocab_seconds", "From asked to answered.", ["path"], registry=registry)
    waiting = Gauge("openvocab_waiting", "Images that wait.", registry=registry)
    waiting.set_function(lambda: service.batcher.waiting)
    batches = Histogram(
        "openvocab_batch_images", "Images a batch.", buckets=range(1, service.settings.most + 1),
        registry=registry,
    )  # fmt: skip
    service.batcher.told = batches.observe

    @app.middleware("http")
    async def counted(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        begun, status = time.perf_counter(), 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            # The route, not what was typed: names of vocabularies are no end of labels.
            path = getattr(request.scope.get("route"), "path", "other")
            requests.labels(path, status).inc()
            seconds.labels(path).observe(time.perf_counter() - begun)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get(
        "/readyz", tags=["health"], responses={503: {"description": "It is not.", "model": Refused}}
    )
    async def readyz() -> dict[str, str]:
        """Whether a request would be answered now."""
        if not service.batcher.alive:
            raise HTTPException(503, "The server stops.")
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


_SAID = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    404: "There is no such vocabulary.",
    413: "The body is too large.",
    422: "What is asked for cannot be done.",
    429: "Too many requests wait; `Retry-After` says when to come back.",
    504: "It took too long.",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "model": Refused} for status, said in _SAID.items()
}


def _base64(text: str) -> bytes:
    """The bytes of a picture; of an address, nothing is fetched."""
    if text.startswith(("http:", "https:", "file:", "ftp:")):
        raise ImageError("Addresses are not fetched here; send the picture itself.")
    _, _, tail = text.rpartition(",") if text.startswith("data:") else ("", "", text)
    try:
        return base64.b64decode(tail, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("The image is no base64; send a JPEG or PNG encoded so.") from error
