"""The application: routes, refusals, health and metrics, for any ASGI server."""

from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from starlette.routing import Match, Mount, compile_path

from openvocab import __version__
from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ImageError, OpenVocabError, one_line
from openvocab.server import routes
from openvocab.server.errors import BusyError, LacksError
from openvocab.server.limits import API, BodyLimit, Counts, Token
from openvocab.server.schemas import Refused
from openvocab.server.service import MIB, Service, Settings

__all__ = ["Settings", "build", "mount"]

TOLD = 20  # mistakes of one request


def build(detector: OpenVocabDetector, settings: Settings | None = None) -> FastAPI:
    """The application; it stops with what it was asked answered.

    `app.state.service.ending = True` ends its endless answers (events of streams) beforehand, for
    a server that waits for its connections.

    Raises:
        ClassesError: a stored vocabulary is of another encoder.
        ConfigError: an allowed address is none.
    """
    settings = settings or Settings()
    service = Service(detector, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="openvocab",
        version=__version__,
        description="Find things in pictures, in your own words.",
        lifespan=lifespan,
        # Their pages fetch scripts from other hosts; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    registry = CollectorRegistry()
    _errors(app)
    for made in (routes.detection, routes.vocabularies, routes.streams, routes.watching):
        app.include_router(made(service))
    _health(app, service, registry)
    # Added last is met first.
    page = settings.upload_mb is not None
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_mb * MIB, seconds=settings.timeout_s,
        upload=settings.upload_mb * MIB if settings.upload_mb is not None else None,
    )  # fmt: skip
    if settings.hosts:  # else a page elsewhere could give its own name this address
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))
    if settings.token:
        app.add_middleware(Token, token=settings.token, page=page)
    # No other site's page may ask; Gradio's own rules are off where it finds these.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Counts, registry=registry, paths=app.openapi()["paths"])
    return app


def mount(app: FastAPI, page: Any) -> None:  # noqa: ANN401  any ASGI application
    """Put a page at `/`, beside our own paths: else it would answer other methods of those, too."""
    app.router.routes.append(_Beside("", app=page))


class _Beside(Mount):
    """All paths that are not our own."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Not one of ours."""
        if scope["type"] == "http" and scope["path"].startswith(API):
            return Match.NONE, {}
        return super().matches(scope)


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
        rows = error.errors() if isinstance(error, RequestValidationError) else []
        said = dict.fromkeys(_mistake(row["loc"], row["msg"]) for row in list(rows)[:TOLD])
        text = "; ".join([*said, "/openapi.json says what is taken."])
        return JSONResponse({"detail": one_line(text)}, 422)

    async def unknown(_: Request, __: Exception) -> Response:
        return JSONResponse({"detail": "There is no such path; /openapi.json lists them."}, 404)

    async def other_method(request: Request, _: Exception) -> Response:
        """With all that the path takes: Starlette names those of the first route that fits."""
        allowed = {
            way.upper()
            for path, ways in app.openapi()["paths"].items()
            if compile_path(path)[0].match(request.url.path)
            for way in ways
        }
        headers = {"Allow": ", ".join(sorted(allowed))}
        return JSONResponse({"detail": f"Use {headers['Allow']}."}, 405, headers)

    app.add_exception_handler(404, unknown)
    app.add_exception_handler(405, other_method)
    app.add_exception_handler(OpenVocabError, told)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(TimeoutError, late)


def _mistake(where: Sequence[str | int], what: str) -> str:
    """One of a request, without what was sent, which may be of any size, or no JSON."""
    if "classes" in where[:2]:  # told for each of the forms that it could have
        return f"{where[0]}.classes: give names in a list, or a list of words for each name"
    return f"{'.'.join(str(part)[:100] for part in where)}: {what}"


def _health(app: FastAPI, service: Service, registry: CollectorRegistry) -> None:
    waiting = Gauge("openvocab_waiting", "Images that wait.", registry=registry)
    waiting.set_function(lambda: service.batcher.waiting)
    running = Gauge("openvocab_streams", "Streams that run.", registry=registry)
    running.set_function(lambda: sum(each.runs for each in service.streams.all()))
    batches = Histogram(
        "openvocab_batch_images", "Images a batch.", buckets=range(1, service.settings.max_batch + 1),
        registry=registry,
    )  # fmt: skip
    service.batcher.told = batches.observe

    @app.head("/healthz", include_in_schema=False)  # as uptime monitors ask
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz", tags=["health"], responses={503: {"description": "It is not.", "model": Refused}}
    )
    async def readyz() -> dict[str, str]:
        """Whether a request would be answered now."""
        if service.ending or not service.batcher.alive:
            raise HTTPException(503, "The server stops.")
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")
