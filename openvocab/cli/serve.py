"""`openvocab serve`: detection over HTTP, by default for this machine only."""

import logging
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openvocab._internal.environment import LOOPBACK_HOSTS, require_packages
from openvocab.cli.console import err, out
from openvocab.cli.options import (
    ENDS,
    Device,
    Host,
    Port,
    PresetName,
    read_preset,
    refuse_taken,
)
from openvocab.errors import ConfigError
from openvocab.server.demo_page import demo_page

if TYPE_CHECKING:
    from fastapi import FastAPI

    from openvocab.detector import OpenVocabDetector

IDLE_S = 10.0  # an idle connection is closed after once or twice this time
UPLOAD_MB = 80  # for a form with a film for the demo, whose own limit is a little lower


def serve(  # noqa: PLR0913  a command has as many parameters as it has options
    *,
    preset: PresetName = "starter",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str, typer.Option(envvar="OPENVOCAB_TOKEN", help="Token that callers must send (bearer).")
    ] = "",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images per batch at most.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; above that, 429.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds per request; then 504.")] = 30.0,
    max_mb: Annotated[int, typer.Option(min=1, help="MiB per request; above that, 413.")] = 32,
    vocabularies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep stored vocabularies in this folder.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADDRESS", envvar="OPENVOCAB_SOURCES",
            help="Camera or film that callers may watch by this name; repeat for more.",
        ),
    ] = None,
    zones: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Polygons and lines in pictures of that source, TOML or JSON; repeat for more.",
        ),
    ] = None,
    streams: Annotated[int, typer.Option(min=0, help="Streams at once; above that, 429.")] = 4,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="https://HOST/FOLDER/",
            help="Pictures there may be sent as an address; repeat for more.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="https://SITE", help="Let its pages call from a browser; repeat for more."
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option(help="The demo at /, if Gradio is installed; the token is its password.")
    ] = True,
    device: Device = None,
) -> None:  # fmt: skip
    """Serve detection over HTTP.

    POST /v1/detect and more, described at /openapi.json. Ctrl-C or SIGTERM stops the server once
    running requests are answered.
    """
    require_packages("The server", "serve", "fastapi", "uvicorn", "prometheus_client")
    refuse_taken(host, port)
    from openvocab.detector import OpenVocabDetector
    from openvocab.server.app import build
    from openvocab.server.service import Settings
    from openvocab.stream.zones import Zones

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    demo = demo and find_spec("gradio") is not None
    settings = Settings(
        max_batch=batch, max_waiting=queue, timeout_s=timeout, max_mb=max_mb, token=token,
        vocabularies=vocabularies, hosts=() if token or host not in LOOPBACK_HOSTS else LOOPBACK_HOSTS,
        sources=_named(source or (), "--source", "NAME=ADDRESS"),
        zones={
            name: Zones.from_file(file)
            for name, file in _named(zones or (), "--zones", "NAME=FILE").items()
        },
        max_streams=streams, allow_urls=tuple(allow_url or ()),
        origins=tuple(allow_origin or ()),
        upload_mb=UPLOAD_MB if demo else None,
    )  # fmt: skip
    for number in ENDS:  # then visitors' files are deleted, too
        signal.signal(number, signal.default_int_handler)
    detector = OpenVocabDetector.from_preset(read_preset(preset), device=device)
    app = build(detector, settings)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        end = (
            stack.enter_context(_demo(app, settings.token, {detector.preset.name: detector}))
            if demo
            else _nothing
        )
        if host not in LOOPBACK_HOSTS and not settings.token:
            err.print("Everybody who reaches this machine may use it; --token asks for a token.")
        _run(app, host, port, timeout, end)


def _nothing() -> None:
    """Do nothing: there is no page to end."""


def _named(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    """The values of a repeated option, by name: `gate=rtsp://camera/1`."""
    named: dict[str, str] = {}
    for each in given:
        name, _, value = (part.strip() for part in each.partition("="))
        if not (name and value) or name in named or "://" in name:
            # The value is not shown: it may contain a password.
            raise ConfigError(f"Each {option} needs a name of its own; give {option} {form}.")
        named[name] = value
    return named


@contextmanager
def _demo(
    app: "FastAPI", token: str, loaded: dict[str, "OpenVocabDetector"]
) -> Iterator[Callable[[], None]]:
    """Serve the demo at / inside the block; yields a function that ends its endless answers."""
    from openvocab.server.app import mount

    with demo_page(public=not token, loaded=loaded) as (page, options):
        import gradio as gr

        def is_token(_user: str, password: str) -> bool:
            return secrets.compare_digest(password.encode(), token.encode())

        if token:
            options |= {"auth": is_token, "auth_message": "Any name; the password is the token."}
        gr.mount_gradio_app(app, page, "/", **options)
        mounted: Any = app.router.routes.pop()  # where it answers all paths, including the API's
        mount(app, mounted.app)
        yield mounted.app.stop_event.set


def _run(app: "FastAPI", host: str, port: int, timeout: float, end: Callable[[], None]) -> None:
    import uvicorn

    from openvocab.server.connections import idle_timeout

    shown = f"[{host}]" if ":" in host else host

    class Server(uvicorn.Server):
        """Tells the application to end endless answers, and waits for the rest."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                out.print(f"openvocab is at http://{shown}:{port} (Ctrl-C ends it)")

        def handle_exit(self, sig: int, frame: object) -> None:
            if not app.state.service.ending:
                err.print("stopping; what was asked is answered first.")
            app.state.service.end()
            end()
            super().handle_exit(sig, frame)  # type: ignore[arg-type]

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=int(timeout) + 5, http=idle_timeout(IDLE_S),
    )  # fmt: skip
    server = Server(config)
    for number in set(ENDS) - {signal.SIGTERM}:  # which uvicorn handles
        signal.signal(number, server.handle_exit)
    try:
        server.run()
    except SystemExit as ended:  # uvicorn's way of saying that it cannot listen
        raise ConfigError(
            f"Nothing can be served at {shown}:{port}; check --host and --port."
        ) from ended
