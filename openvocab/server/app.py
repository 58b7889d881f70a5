"""The application: routes, refusals, health and metrics, for any ASGI server."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from starlette.routing import Match, Mount

from openvocab import __version__
from openvocab.detector import OpenVocabDetector
from openvocab.server import routes
from openvocab.server.error_responses import add_error_handlers
from openvocab.server.errors import ShuttingDownError
from openvocab.server.limits import BodyLimit, MetricsMiddleware
from openvocab.server.middleware import API, CancelOnDisconnect, OriginGuard, Token
from openvocab.server.schemas import ErrorResponse
from openvocab.server.service import MIB, Service, Settings


def build(detector: OpenVocabDetector, settings: Settings | None = None) -> FastAPI:
    """Build the application, which answers all open requests before it stops.

    For a server that waits for its connections to close, `app.state.service.end()` first ends the
    answers that are endless (events of streams).

    Raises:
        ClassesError: a stored vocabulary was made with another encoder.
        ConfigError: an allowed address is not valid, or the folder cannot keep vocabularies.
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
        # These pages fetch scripts from other hosts; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # would be an empty answer, useless to a program
    )
    app.state.service = service
    registry = CollectorRegistry()
    add_error_handlers(app)
    asked = [Depends(HTTPBearer(auto_error=False))] if settings.token else []  # for OpenAPI
    for made in (
        routes.detection, routes.vocabularies, routes.streams, routes.watching, routes.about,
    ):  # fmt: skip
        app.include_router(made(service), dependencies=asked)
    _health(app, service, registry)
    app.include_router(routes.metrics(registry), dependencies=asked)
    # What is added last comes first.
    page = settings.upload_mb is not None
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_mb * MIB, seconds=settings.timeout_s,
        upload=settings.upload_mb * MIB if settings.upload_mb is not None else None,
    )  # fmt: skip
    if settings.token:
        app.add_middleware(Token, token=settings.token, page=page)
    app.add_middleware(OriginGuard, hosts=settings.hosts, origins=settings.origins)
    # Gradio drops its own rules where it finds these.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    app.add_middleware(MetricsMiddleware, registry=registry, paths=app.openapi()["paths"])
    return app


def mount(app: FastAPI, page: Any) -> None:  # noqa: ANN401  any ASGI application
    """Mount a page at `/`, but not below the API, whose unknown methods it would answer."""
    app.router.routes.append(_Beside("", app=page))


class _Beside(Mount):
    """All paths that do not belong to the API."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Match any path except those of the API."""
        if scope["type"] == "http" and scope["path"].startswith(API):
            return Match.NONE, {}
        return super().matches(scope)


def _health(app: FastAPI, service: Service, registry: CollectorRegistry) -> None:
    waiting = Gauge("openvocab_waiting", "Images that wait.", registry=registry)
    waiting.set_function(lambda: service.batcher.waiting)
    inside = Gauge(
        "openvocab_inside", "Images of requests that are not answered.", registry=registry
    )
    inside.set_function(lambda: service.inside)
    running = Gauge("openvocab_streams", "Streams that run.", registry=registry)
    running.set_function(lambda: sum(each.runs for each in service.streams.all()))
    batches = Histogram(
        "openvocab_batch_images", "Images per batch.", buckets=range(1, service.settings.max_batch + 1),
        registry=registry,
    )  # fmt: skip
    service.batcher.told = batches.observe
    ProcessCollector(registry=registry)

    @app.head("/healthz", include_in_schema=False)  # as uptime monitors ask
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        tags=["health"],
        responses={503: {"description": "The server stops.", "model": ErrorResponse}},
    )
    async def readyz() -> dict[str, str]:
        """Whether a request would be answered at this moment."""
        if service.ending or not service.batcher.alive:
            raise ShuttingDownError("The server stops; try another one.")
        return {"status": "ready"}
