"""`openvocab demo`: the page for a browser, on this machine alone unless told otherwise."""

import os
import signal
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Annotated, Any

import typer

from openvocab.cli.console import out
from openvocab.errors import ConfigError
from openvocab.files import bundled

__all__ = ["demo"]

UPLOAD = "64mb"
VISITORS = 64  # whose photos are kept in memory


def demo(
    *,
    host: Annotated[str, typer.Option(help="Address to serve; 0.0.0.0 for others, too.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
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
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the folder goes then, too
        options: dict[str, Any] = {"auth": (user, password)} if colon else {}
        with suppress(KeyboardInterrupt):
            _serve(host, port, share=share, **options)


def _load_app() -> Any:  # noqa: ANN401  a module
    """`demo/app.py`, which stands beside the package and uses its public names only."""
    spec = spec_from_file_location("openvocab_demo", bundled("demo") / "app.py")
    if spec is None or spec.loader is None:
        raise ConfigError("The demo is not installed; reinstall openvocab.")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _serve(host: str, port: int, **options: Any) -> None:  # noqa: ANN401  Gradio's
    app = _load_app()
    page = app.build()
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        css=app.CSS,
        theme=app.theme(),
        footer_links=["api"],
        max_file_size=UPLOAD,
        state_session_capacity=VISITORS,
        ssr_mode=False,
        mcp_server=find_spec("mcp") is not None,
        **options,
    )
    out.print(f"openvocab is at {page.local_url} (Ctrl-C ends it)")
    page.block_thread()
