"""Middleware that refuses requests before the routes see them, and counts all answers."""

import asyncio
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openvocab.server.refusals import refusal

__all__ = ["API", "BodyLimit", "Counts", "Gone", "Site", "Token"]

OPEN = ("/healthz", "/readyz")
"""Paths for load balancers, which need no token."""
API = ("/v1/", "/metrics", "/openapi.json", *OPEN)
"""Prefixes of the API's paths; all others belong to the page, if there is one."""
WORK = "/v1/"
HARMLESS = ("GET", "HEAD", "OPTIONS")
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
            await refusal(body.refused, said[body.refused])(scope, receive, send)

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


class Gone:
    """Ends the work for callers who have gone, so that repeated attempts do not pile up."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(WORK):
            await self._app(scope, receive, send)
            return
        caller, begun = _Caller(receive, sends=_has_body(scope)), False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def watch() -> None:
            await caller.left()
            if not begun:
                work.cancel()

        work = asyncio.ensure_future(self._app(scope, caller.receive, told))
        watching = asyncio.create_task(watch())
        try:
            await work
        except asyncio.CancelledError:
            if not caller.gone.is_set():
                raise
        finally:
            work.cancel()
            watching.cancel()


class _Caller:
    """The caller of one request, who may go before it is answered."""

    def __init__(self, receive: Receive, *, sends: bool) -> None:
        self._receive, self._whole, self.gone = receive, asyncio.Event(), asyncio.Event()
        self._told = sends  # whether it is known that nothing more will come
        if not sends:
            self._whole.set()

    async def receive(self) -> Message:
        """Receive the next part; once all are there, the caller's leaving, which wakes `left`."""
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._whole.is_set():
            await self.gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if not message.get("more_body", False):
            self._whole.set()
        return message

    async def left(self) -> None:
        """Wait until all parts are there and the caller has gone."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class Site:
    """Answers 400 to a foreign host name, and 403 to requests from the pages of other sites.

    A foreign page could point its own host name at this address, or post a form, which browsers
    send without asking first.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        """Wrap an application.

        Args:
            app: the application to protect.
            hosts: names by which it may be called; an empty collection allows all.
            origins: sites whose pages may send requests.
        """
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if self._hosts and _name(host) not in self._hosts:
                said = f"This server is called otherwise; ask it as {' or '.join(self._hosts)}."
                await refusal(400, said)(scope, receive, send)
                return
            if scope["method"] not in HARMLESS and self._elsewhere(headers, host):
                said = "The page of another site may not ask; the server's --allow-origin lets it."
                await refusal(403, said)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _elsewhere(self, headers: Headers, host: str) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None or origin.lower() in self._origins or site in ("same-origin", "none"):
            return False
        return origin.partition("://")[2] != host


def _name(host: str) -> str:
    """The name in a `Host` header, without its port.

    >>> _name("[::1]:8000"), _name("LOCALHOST:80"), _name("[")
    ('::1', 'localhost', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Token:
    """Answers 401 to requests without the token, except those for the health of the server."""

    def __init__(self, app: ASGIApp, token: str, *, page: bool = False) -> None:
        """Wrap an application.

        Args:
            app: the application to protect.
            token: the token that callers must send.
            page: leave paths outside the API to the page, which asks for a password itself.
        """
        self._app, self._expected, self._page = app, token.encode(), page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and self._guards(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, token = given.partition(b" ")
            same = secrets.compare_digest(token.strip(), self._expected)
            if scheme.lower() != b"bearer" or not same:
                message = "Give the token: Authorization: Bearer TOKEN."
                await refusal(401, message)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return path not in OPEN and (path.startswith(API) or not self._page)


class Counts:
    """Counts answers for Prometheus, including refusals, and how long they took."""

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
