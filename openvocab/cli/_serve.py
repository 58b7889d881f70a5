"""`openvocab serve`: detection over HTTP, by default for this machine only."""

import logging
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from openvocab._internal.environment import LOOPBACK_HOSTS, require_packages
from openvocab.cli._console import err, out
from openvocab.cli._options import ENDS, Device, Host, Port, PresetName, read_preset, refuse_taken
from openvocab.errors import ConfigError


def serve(  # noqa: PLR0913  a command has as many parameters as it has options
    *,
    preset: PresetName = "starter",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str, typer.Option(envvar="OPENVOCAB_TOKEN", help="Bearer token that clients must send.")
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
            help="Camera or video that clients may start a stream of by this name; repeat for more.",
        ),
    ] = None,
    zones: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Polygons and lines in frames of that source, TOML or JSON; repeat for more.",
        ),
    ] = None,
    streams: Annotated[int, typer.Option(min=0, help="Streams at once; above that, 429.")] = 4,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="https://HOST/FOLDER/",
            help="Images there may be sent as a URL; repeat for more.",
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
    from openvocab.server._run import run
    from openvocab.server._settings import Settings
    from openvocab.stream._zones import Zones

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings(
        max_batch=batch, max_waiting=queue, timeout_s=timeout, max_mb=max_mb, token=token,
        vocabularies=vocabularies, hosts=() if token or host not in LOOPBACK_HOSTS else LOOPBACK_HOSTS,
        sources=_parse_named(source or (), "--source", "NAME=ADDRESS"),
        zones={
            name: Zones.from_file(file)
            for name, file in _parse_named(zones or (), "--zones", "NAME=FILE").items()
        },
        max_streams=streams, allow_urls=tuple(allow_url or ()), origins=tuple(allow_origin or ()),
        demo=demo and find_spec("gradio") is not None,
    )  # fmt: skip
    for number in ENDS:  # then the files that visitors of the demo uploaded are deleted, too
        signal.signal(number, signal.default_int_handler)
    detector = OpenVocabDetector.from_preset(read_preset(preset), device=device)
    if host not in LOOPBACK_HOSTS and not settings.token:
        err.print("Anyone who can reach this machine can use the server; set --token.")
    run(
        detector, settings, host=host, port=port,
        on_start=lambda url: out.print(f"openvocab is at {url} (Ctrl-C ends it)"),
        on_stop=lambda: err.print("Shutting down; running requests are answered first."),
    )  # fmt: skip


def _parse_named(values: Sequence[str], option: str, form: str) -> dict[str, str]:
    """The values of a repeated option, by name: `gate=rtsp://camera/1`."""
    named: dict[str, str] = {}
    for text in values:
        name, _, value = (part.strip() for part in text.partition("="))
        if not (name and value) or name in named or "://" in name:
            # The value is not shown: it may contain a password.
            raise ConfigError(f"Each {option} needs a name of its own; use {option} {form}.")
        named[name] = value
    return named
