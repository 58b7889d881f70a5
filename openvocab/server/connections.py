"""Closes idle connections, which uvicorn would keep for ever, one file descriptor each."""

from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_Protocol: Any = AutoHTTPProtocol


def idle_timeout(seconds: float) -> Any:  # noqa: ANN401  a class, for `uvicorn.Config(http=...)`
    """Uvicorn's protocol, but closing connections on which no request comes, or only half of one.

    Args:
        seconds: time between checks; a connection that is idle at two checks in a row is closed.
    """

    class Impatient(_Protocol):  # type: ignore[misc]  # uvicorn chooses it as it is imported
        idle_since: Any = ()  # at the last check: the last request answered; () if it was busy

        def connection_made(self, transport: Any) -> None:  # noqa: ANN401
            super().connection_made(transport)
            self.next_look = self.loop.call_later(seconds, self.look)

        def connection_lost(self, exc: Exception | None) -> None:
            self.next_look.cancel()
            super().connection_lost(exc)

        def look(self) -> None:
            if self.transport.get_protocol() is not self:
                return  # it has become a websocket
            works = self.cycle is not None and not self.cycle.response_complete
            if not works and self.idle_since is self.cycle:
                self.transport.close()
                return
            self.idle_since = () if works else self.cycle
            self.next_look = self.loop.call_later(seconds, self.look)

    return Impatient
