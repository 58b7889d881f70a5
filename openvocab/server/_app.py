"""The FastAPI application: routes, error handlers and middleware, for any ASGI server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from openvocab import __version__
from openvocab.detector import OpenVocabDetector
from openvocab.server import _routes as routes
from openvocab.server._error_responses import add_error_handlers
from openvocab.server._metrics import MetricsMiddleware, create_registry
from openvocab.server._middleware import (
    OriginGuard,
    RequestGuard,
    TokenBackend,
    bearer,
    unauthorized,
)
from openvocab.server._service import Service
from openvocab.server._settings import MIB, Settings


def create_app(detector: OpenVocabDetector, settings: Settings | None = None) -> FastAPI:
    """Build the application, which answers all open requests before it stops.

    For a server that waits for its connections to close, `app.state.service.end()` first ends the
    endless responses (events of streams).

    Raises:
        ClassesError: a stored vocabulary was made with another encoder.
        ConfigError: an allowed URL is not valid, or the folder cannot keep vocabularies.
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
        description="Open-vocabulary object detection in images and streams.",
        lifespan=lifespan,
        # These pages load scripts from other hosts; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # clients would need to follow an empty response
    )
    app.state.service, app.state.registry = service, create_registry(service)
    add_error_handlers(app)
    app.include_router(routes.health)
    # Describes the token in /openapi.json; `TokenBackend` checks it, before the body is read.
    dependencies = [Depends(bearer)] if settings.token else []
    for router in (routes.detection, routes.vocabularies, routes.streams, routes.about):
        app.include_router(router, dependencies=dependencies)
    _add_middleware(app, settings)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add middleware from the innermost to the outermost."""
    app.add_middleware(RequestGuard, max_bytes=settings.max_mb * MIB, timeout_s=settings.timeout_s)
    if settings.token:
        backend = TokenBackend(settings.token, demo=settings.demo)
        app.add_middleware(AuthenticationMiddleware, backend=backend, on_error=unauthorized)
    app.add_middleware(OriginGuard, origins=settings.origins)
    if settings.hosts:
        # A page elsewhere could point its own host name at this address (DNS rebinding).
        hosts = [f"[{host}]" if ":" in host else host for host in settings.hosts]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(  # also for the demo: Gradio leaves out its own where it finds this one
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    app.add_middleware(MetricsMiddleware, registry=app.state.registry, paths=app.openapi()["paths"])
