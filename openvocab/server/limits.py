"""Middleware that refuses bodies which are too large or too slow, and counts all answers."""

import asyncio
import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openvocab.server.error_responses import error_response

NOBODY = 499
"""Status counted if the caller had already gone, as in nginx."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
UPLOAD = "/gradio_api/upload"
UPLOAD_S = 600.0  # for a film from a phone


class _RefusedError(Exception):
    """A body is too large or too slow."""


class BodyLimit:
    """Answers 413 to bodies that are too large, announced or not, and 408 to those too slow."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, seconds: float, upload: int | None = None
    ) -> None:
        """Wrap an application.

        Args:
            app: the application to protect.
            max_bytes: largest body.
            seconds: time within which its last byte must arrive.
            upload: bytes of an upload to the page, which may take ten minutes; None: as for any
                body.
        """
        self._app, self._max_bytes, self._seconds, self._upload = app, max_bytes, seconds, upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes, seconds = self._max_bytes, self._seconds
        if self._upload is not None and scope["path"] == UPLOAD:
            max_bytes, seconds = self._upload, UPLOAD_S
        body = _Body(receive, max_bytes, seconds)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > max_bytes:
            body.refused = 413
        else:
            await self._answered(scope, body, send)
        if body.refused and not body.answered:
            said = {
                408: f"The body took more than {seconds:g} s to come; send less.",
                413: f"The body has more than {max_bytes} bytes; send less.",
            }
            await error_response(body.refused, said[body.refused])(scope, receive, send)

    async def _answered(self, scope: Scope, body: "_Body", send: Send) -> None:
        """Let the application answer, unless the body is refused meanwhile."""

        async def unless_refused(message: Message) -> None:
            if not body.refused or body.answered:
                body.answered = True
                await send(message)

        try:
            # The application may turn an error raised here into an answer, which is not sent.
            await self._app(scope, body.receive, unless_refused)
        except (_RefusedError, BaseExceptionGroup):
            if not body.refused:
                raise


class _Body:
    """One body as it arrives."""

    def __init__(self, receive: Receive, max_bytes: int, seconds: float) -> None:
        self._receive, self._left, self._whole = receive, max_bytes, False
        self._deadline = asyncio.get_running_loop().time() + seconds
        self.refused = 0
        """The status with which it is refused; 0 if it is not."""
        self.answered = False
        """Whether the answer has begun."""

    async def receive(self) -> Message:
        """Receive the next part; once all parts are there, wait until the caller has gone."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.refused = 408
            raise _RefusedError from None
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            self.refused = 413
            raise _RefusedError
        return message


class MetricsMiddleware:
    """MetricsMiddleware answers for Prometheus, including refusals, and how long they took."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, paths: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: the application that answers.
            registry: registry for the counts.
            paths: templates of the routes; all other paths count as `other`.
        """
        self._app, self._paths = app, frozenset(paths)
        self._requests = Counter(
            "openvocab_requests", "Answered.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "openvocab_seconds", "Until it was answered.", ["path"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, spent = time.perf_counter(), NOBODY, 0.0

        async def counted(message: Message) -> None:
            nonlocal status, spent
            if message["type"] == "http.response.start":
                status, spent = message["status"], time.perf_counter() - begun
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            status = 500
            raise
        finally:
            # The route, not the actual path: names of vocabularies would be endless labels.
            route = getattr(scope.get("route"), "path", scope["path"])
            path = route if route in self._paths else "other"
            self._requests.labels(path, status).inc()
            if status != NOBODY:
                self._seconds.labels(path).observe(spent or time.perf_counter() - begun)
