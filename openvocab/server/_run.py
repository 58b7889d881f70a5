"""Runs the application with uvicorn, with the demo at `/` if the settings ask for it."""

import secrets
import signal
import socket
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.routing import Match, Mount

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ConfigError
from openvocab.server._app import create_app
from openvocab.server._demo_page import demo_page
from openvocab.server._middleware import API_PATHS
from openvocab.server._settings import MIB, Settings

DEMO_UPLOAD_MB = 80  # a form with a video; the demo's own limit for the file is a little lower


def run(
    detector: OpenVocabDetector,
    settings: Settings,
    *,
    host: str,
    port: int,
    on_start: Callable[[str], None],
    on_stop: Callable[[], None],
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then answer running requests and return.

    Args:
        detector: detector that answers.
        settings: limits and access rules.
        host: address to listen at.
        port: port to listen at.
        on_start: called with the URL once the server listens.
        on_stop: called once when the server begins to shut down.

    Raises:
        ClassesError, ConfigError: as `build`; or the server cannot listen there, or the demo is not
            installed.
    """
    app = create_app(detector, settings)
    address = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=int(settings.timeout_s) + 5,
    )  # fmt: skip
    with suppress(KeyboardInterrupt), _mounted_demo(app, detector, settings) as stop_demo:

        def stop() -> None:
            if not app.state.service.ending:
                on_stop()
            app.state.service.end()
            stop_demo()

        server = _Server(config, lambda: on_start(f"http://{address}:{port}"), stop)
        hangup = getattr(signal, "SIGHUP", None)  # uvicorn itself handles SIGINT and SIGTERM
        if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(hangup, server.handle_exit)
        try:
            server.run()
        except SystemExit as error:  # uvicorn could not bind
            raise ConfigError(
                f"Cannot listen at {address}:{port}; check --host and --port."
            ) from error


class _Server(uvicorn.Server):
    """Reports its start, and ends endless responses on a signal, before it waits for the rest."""

    def __init__(
        self, config: uvicorn.Config, on_start: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


@contextmanager
def _mounted_demo(
    app: FastAPI, detector: OpenVocabDetector, settings: Settings
) -> Iterator[Callable[[], None]]:
    """Serve the demo at `/` inside the block; yields a function that ends its endless responses."""
    if not settings.demo:
        yield lambda: None
        return
    token = settings.token
    loaded = {detector.preset.name: detector}
    with demo_page(public=not token, loaded=loaded) as (page, options):
        import gradio as gr

        def is_token(_user: str, password: str) -> bool:
            return secrets.compare_digest(password.encode(), token.encode())

        if token:
            options |= {"auth": is_token, "auth_message": "Any name; the password is the token."}
        gr.mount_gradio_app(app, page, "/", **options)
        gradio_app: Any = app.router.routes.pop().app  # type: ignore[attr-defined]
        app.router.routes.append(_BesideApi("", app=gradio_app, max_body_size=DEMO_UPLOAD_MB * MIB))
        yield gradio_app.stop_event.set


class _BesideApi(Mount):
    """A mount at `/` that leaves unknown methods of the API's paths to the API, for its 405."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        if scope["type"] == "http" and scope["path"].startswith(API_PATHS):
            return Match.NONE, {}
        return super().matches(scope)
