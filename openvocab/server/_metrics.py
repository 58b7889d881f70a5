"""Metrics for Prometheus: requests and their durations, images, batches and streams."""

import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openvocab.server._service import Service

CLIENT_CLOSED_REQUEST = 499
"""Status counted if the client disconnected before the response, as in nginx."""
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


def create_registry(service: Service) -> CollectorRegistry:
    """A registry with the metrics of a service and of this process."""
    registry = CollectorRegistry()
    gauges = {
        "waiting_images": ("Images that wait for a batch.", lambda: service.batcher.waiting),
        "admitted_images": ("Images of unanswered requests.", lambda: service.admitted),
        "running_streams": ("Streams that run.", lambda: service.streams.running),
    }
    for name, (description, value) in gauges.items():
        Gauge(f"openvocab_{name}", description, registry=registry).set_function(value)
    sizes = range(1, service.settings.max_batch + 1)
    batches = Histogram(
        "openvocab_batch_images", "Images per batch.", buckets=sizes, registry=registry
    )
    service.batcher.on_batch = batches.observe
    ProcessCollector(registry=registry)
    return registry


class MetricsMiddleware:
    """Counts and times responses by route and status, including those of other middleware."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, paths: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: the application that answers.
            registry: where the metrics are registered.
            paths: templates of the routes; all other paths count as `other`.
        """
        self._app, self._paths = app, frozenset(paths)
        self._seconds = Histogram(
            "openvocab_request_seconds", "Time until the response started.", ["path", "status"],
            buckets=BUCKETS_S, registry=registry,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, end, status = time.perf_counter(), None, CLIENT_CLOSED_REQUEST

        async def observe(message: Message) -> None:
            nonlocal status, end
            if message["type"] == "http.response.start":
                status, end = message["status"], time.perf_counter()
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            status = 500
            raise
        finally:
            # The template of the route: actual paths would be an unbounded set of labels.
            path = getattr(scope.get("route"), "path", scope["path"])
            path = path if path in self._paths else "other"
            seconds = (end or time.perf_counter()) - begin
            self._seconds.labels(path, status).observe(seconds)
