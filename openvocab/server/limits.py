"""What is refused before it is read: bodies that are too large, callers without the token."""

import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

__all__ = ["BodyLimit", "Token"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""What a load balancer asks, without a token."""


class _TooLargeError(Exception):
    """More came than was announced."""


class BodyLimit:
    """Answers 413 to a body of more bytes than that, announced or not, without keeping it."""

    def __init__(self, app: App, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._most:
            await self._refuse(send)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._most:
                raise _TooLargeError
            return message

        async def unless_too_large(message: Message) -> None:
            if came <= self._most:
                await send(message)

        # The application may make an answer of its own of what is raised here: that is not sent.
        with suppress(_TooLargeError):
            await self._app(scope, counted, unless_too_large)
        if came > self._most:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        await _answer(send, 413, f"The body has more than {self._most} bytes; send less.")


class Token:
    """Answers 401 to whoever does not bring the token, but for what says whether we live."""

    def __init__(self, app: App, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                message = "Give the token: Authorization: Bearer TOKEN."
                await _answer(send, 401, message, (b"www-authenticate", b"Bearer"))
                return
        await self._app(scope, receive, send)


async def _answer(send: Send, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    kinds = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # What is left of the body is not read: the connection cannot serve another request.
    closing = [(b"connection", b"close")] if status == 413 else []
    start = {"type": "http.response.start", "status": status}
    await send(start | {"headers": [*kinds, *closing, *headers]})
    await send({"type": "http.response.body", "body": body})
