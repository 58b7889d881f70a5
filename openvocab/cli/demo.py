"""`openvocab demo`: the page for a browser, on this machine alone unless told otherwise."""

import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Annotated, Any

import typer

from openvocab.cli.console import err, out
from openvocab.cli.options import HERE, Host, Port
from openvocab.errors import ConfigError
from openvocab.files import bundled

__all__ = ["demo"]

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
VISITORS = 64  # whose photos are kept in memory


def demo(
    *,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    auth: Annotated[
        str, typer.Option(envvar="OPENVOCAB_DEMO_AUTH", help="user:password that is asked for.")
    ] = "",
    share: Annotated[
        bool, typer.Option("--share", help="A public address, through Gradio's servers.")
    ] = False,
) -> None:
    """Open the demo page, until Ctrl-C."""
    user, colon, password = auth.partition(":")
    if auth and not (user and password):
        raise ConfigError("--auth needs a user and a password; give user:password.")
    if find_spec("gradio") is None:
        raise ConfigError('The demo needs Gradio; run `pip install "openvocab[demo]"`.')
    with tempfile.TemporaryDirectory(prefix="openvocab-demo-") as folder:
        # What visitors give is gone when the page is. Nothing is told to Gradio's makers.
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        for number in ENDS:  # the folder goes then, too
            signal.signal(number, signal.default_int_handler)
        options: dict[str, Any] = {"auth": (user, password)} if colon else {}
        with suppress(KeyboardInterrupt):
            _serve(host, port, share=share, **options)


def _load_app() -> Any:  # noqa: ANN401  a module
    """The package `demo`, which stands beside this one and uses its public names only."""
    name, folder = "openvocab_demo", bundled("demo")
    spec = spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise ConfigError("The demo is not installed; reinstall openvocab.")
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return import_module(f"{name}.app")


def _serve(host: str, port: int, **options: Any) -> None:  # noqa: ANN401  Gradio's
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise ConfigError(f"Port {port} is in use; choose another with --port.")
    app = _load_app()
    page = app.build()
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            css=app.CSS,
            theme=app.theme(),
            footer_links=["api"],
            max_file_size=f"{app.UPLOAD_MB}mb",
            state_session_capacity=VISITORS,
            ssr_mode=False,
            # Gradio's MCP asks for no password, so it is off where there is one.
            mcp_server=find_spec("mcp") is not None and "auth" not in options,
            **options,
        )
    except OSError as error:
        raise ConfigError(f"Nothing can be served at {host}; check --host and --port.") from error
    out.print(f"openvocab is at {page.local_url} (Ctrl-C ends it)")
    if host not in HERE and "auth" not in options:
        err.print("Everybody who reaches this machine may use it; --auth asks for a password.")
    page.block_thread()
