"""`openvocab serve`: detection over HTTP, on this machine alone unless told otherwise."""

import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from openvocab.cli.console import err, out
from openvocab.cli.options import HERE, Device, Host, Port, PresetName, read_preset
from openvocab.errors import ConfigError

__all__ = ["serve"]

NAMES = "127.0.0.1", "localhost", "[::1]"


def serve(  # noqa: PLR0913  a command has as many parameters as it has options
    *,
    preset: PresetName = "starter",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str, typer.Option(envvar="OPENVOCAB_TOKEN", help="That callers must bring (bearer).")
    ] = "",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images a batch at the most.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; then 429.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a request; then 504.")] = 30.0,
    max_mb: Annotated[int, typer.Option(min=1, help="MiB of a request; then 413.")] = 32,
    vocabularies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep stored vocabularies there.")
    ] = None,
    device: Device = None,
) -> None:
    """Answer POST /v1/detect and more (/openapi.json), until Ctrl-C or SIGTERM; what came is answered."""
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise ConfigError('The server needs FastAPI; run `pip install "openvocab[serve]"`.')
    import uvicorn

    from openvocab.detector import OpenVocabDetector
    from openvocab.server.app import Settings, build

    settings = Settings(
        most=batch, waiting=queue, timeout_s=timeout, max_mb=max_mb, token=token,
        vocabularies=vocabularies, hosts=() if token or host not in HERE else NAMES,
    )  # fmt: skip
    detector = OpenVocabDetector.from_preset(read_preset(preset), device=device)
    app = build(detector, settings)
    if host not in HERE and not token:
        err.print("Everybody who reaches this machine may use it; --token asks for a token.")
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=int(timeout) + 5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    out.print(f"openvocab is at http://{host}:{port} (/openapi.json says how; Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raised again when all is answered
    try:
        with suppress(KeyboardInterrupt):
            server.run()
    except SystemExit as ended:  # uvicorn's way to say that it cannot listen
        raise ConfigError(
            f"Nothing can be served at {host}:{port}; check --host and --port."
        ) from ended
