"""`openvocab demo`: serves the demo page, by default to this machine only."""

import signal
from contextlib import suppress
from typing import Annotated, Any

import typer

from openvocab._internal.environment import LOOPBACK_HOSTS, require_packages
from openvocab.cli._console import err, out
from openvocab.cli._options import ENDS, Host, Port, refuse_taken
from openvocab.errors import ConfigError
from openvocab.server._demo_page import demo_page


def demo(
    *,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    auth: Annotated[
        str, typer.Option(envvar="OPENVOCAB_DEMO_AUTH", help="Require a login, as user:password.")
    ] = "",
    share: Annotated[
        bool, typer.Option("--share", help="Get a public address through Gradio's servers.")
    ] = False,
) -> None:
    """Serve the demo page until Ctrl-C."""
    user, _, password = auth.partition(":")
    if auth and not (user and password):
        raise ConfigError("--auth lacks a user or a password; use --auth user:password.")
    require_packages("The demo", "demo", "gradio")
    refuse_taken(host, port)
    for number in ENDS:  # as KeyboardInterrupt, so that uploaded files are deleted
        signal.signal(number, signal.default_int_handler)
    with demo_page(public=not auth) as (page, options):
        if auth:
            options["auth"] = user, password
        with suppress(KeyboardInterrupt):
            _serve(page, host, port, share=share, **options)


def _serve(page: Any, host: str, port: int, **options: Any) -> None:  # noqa: ANN401  Gradio's
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            state_session_capacity=page.state_session_capacity,
            **options,
        )
    except OSError as error:
        raise ConfigError(f"{host} cannot be served; check --host and --port.") from error
    out.print(f"openvocab is at {page.local_url} (Ctrl-C ends it)")
    if host not in LOOPBACK_HOSTS and "auth" not in options:
        err.print("Anyone who can reach this machine can use the demo; --auth requires a login.")
    page.block_thread()
