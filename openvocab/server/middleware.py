"""Middleware for who asks: by which name, from which site, with which token, and whether they still wait."""

import asyncio
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openvocab.server.error_responses import error_response

OPEN = ("/healthz", "/readyz")
"""Paths for load balancers, which need no token."""
API = ("/v1/", "/metrics", "/openapi.json", *OPEN)
"""Prefixes of the API's paths; all others belong to the page, if there is one."""
WORK = "/v1/"
"""Prefix of the paths whose work is dropped when the caller has gone."""
HARMLESS = ("GET", "HEAD", "OPTIONS")


class CancelOnDisconnect:
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


class OriginGuard:
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
                await error_response(400, said)(scope, receive, send)
                return
            if scope["method"] not in HARMLESS and self._elsewhere(headers, host):
                said = "The page of another site may not ask; the server's --allow-origin lets it."
                await error_response(403, said)(scope, receive, send)
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
                await error_response(401, message)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return path not in OPEN and (path.startswith(API) or not self._page)
