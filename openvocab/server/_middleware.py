"""Token, origin, body limits and client disconnects: checked before a route runs."""

import asyncio
import secrets
from collections.abc import Collection

from fastapi.security import HTTPBearer
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openvocab.server._error_responses import error_response

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths for load balancers, which need no token."""
API_PATHS = ("/v1/", "/metrics", "/openapi.json", *OPEN_PATHS)
"""Prefixes of the API's paths; all others belong to the demo, if it is served."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

bearer = HTTPBearer(auto_error=False)


class TokenBackend(AuthenticationBackend):
    """Checks the bearer token, for Starlette's `AuthenticationMiddleware`.

    Not a FastAPI dependency: FastAPI reads and parses the body before it resolves those, so anyone
    could make the server hold and parse bodies, and find out which paths exist.
    """

    def __init__(self, token: str, *, demo: bool = False) -> None:
        """Store the token.

        Args:
            token: token that clients must send.
            demo: leave paths outside the API to the demo, which asks for a password itself.
        """
        self._token, self._demo = token.encode(), demo

    async def authenticate(self, conn: HTTPConnection) -> None:
        """Check one request.

        Raises:
            AuthenticationError: the token is missing or wrong.
        """
        path = conn.scope["path"]
        if path in OPEN_PATHS or (self._demo and not path.startswith(API_PATHS)):
            return
        credentials = await bearer(conn)
        token = credentials.credentials.strip().encode("latin-1") if credentials else b""
        if not secrets.compare_digest(token, self._token):
            raise AuthenticationError("Send the token as `Authorization: Bearer TOKEN`.")


def unauthorized(_: HTTPConnection, error: Exception) -> Response:
    """Answer 401."""
    return error_response(401, str(error))


class OriginGuard:
    """Answers 403 to requests from pages of other sites, such as a form that posts here.

    CORS headers only keep such a page from reading the response; the request itself still arrives.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        """Wrap an application; the pages of `origins` may send requests."""
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        unsafe = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if unsafe and self._is_cross_origin(Headers(scope=scope)):
            detail = "Requests from other sites are refused; allow them with --allow-origin."
            await error_response(403, detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_cross_origin(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._origins:
            return False
        if headers.get("sec-fetch-site") in ("same-origin", "none"):
            return False
        return origin.partition("://")[2] != headers.get("host", "")


class RequestGuard:
    """Reads the body within limits, and cancels the work of a client that has disconnected.

    Only below `/v1/`: FastAPI holds these bodies in memory anyway, and the demo streams uploads.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        """Wrap an application.

        Args:
            app: the application that answers.
            max_bytes: largest body; a larger one gets 413.
            timeout_s: seconds within which the whole body must arrive; else 408.
        """
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        body, size = bytearray(), int(Headers(scope=scope).get("content-length", "0"))
        try:
            async with asyncio.timeout(self._timeout_s):
                chunks = Request(scope, receive).stream()
                while size <= self._max_bytes and (chunk := await anext(chunks, None)) is not None:
                    body += chunk
                    size = max(size, len(body))
        except ClientDisconnect:
            return
        except TimeoutError:
            detail = f"The body took more than {self._timeout_s:g} s to arrive; send less."
            await error_response(408, detail)(scope, receive, send)
            return
        if size > self._max_bytes:
            detail = f"The body has more than {self._max_bytes} bytes; send less."
            await error_response(413, detail)(scope, receive, send)
            return
        await self._respond(scope, bytes(body), receive, send)

    async def _respond(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer, and cancel it if the client disconnects before it starts."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        disconnected, started = asyncio.Event(), asyncio.Event()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def track(message: Message) -> None:
            started.set()
            await send(message)

        async def watch() -> None:
            await _wait_for_disconnect(receive)
            disconnected.set()
            if not started.is_set():
                work.cancel()

        work = asyncio.ensure_future(self._app(scope, replay, track))
        watcher = asyncio.create_task(watch())
        try:
            await work
        except asyncio.CancelledError:
            if not disconnected.is_set():
                raise
        finally:
            work.cancel()
            watcher.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
