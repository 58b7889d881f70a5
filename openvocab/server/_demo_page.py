"""The demo's Gradio page and the options to serve it with, alone or beside the API."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from openvocab.errors import ConfigError

if TYPE_CHECKING:
    from openvocab.detector import OpenVocabDetector

MIN_GRADIO = 6, 31  # as in pyproject.toml
MAX_SESSIONS = 64  # visitors whose images are kept in memory


@contextmanager
def demo_page(
    *, public: bool, loaded: "Mapping[str, OpenVocabDetector] | None" = None
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The page (`gradio.Blocks`), and the options for Gradio to serve it with.

    On exit, everything that visitors uploaded is deleted. Gradio's telemetry is off, and URLs that
    visitors send are not fetched.

    Args:
        public: no password is required. Gradio's MCP never asks for one, so it is on only then.
        loaded: detectors that are already loaded, by the names of their presets.

    Raises:
        ConfigError: the demo is not installed, or Gradio is too old for it.
    """
    if tuple(map(int, version("gradio").split(".")[:2])) < MIN_GRADIO:
        raise ConfigError('The demo needs a newer Gradio; run `pip install "openvocab[demo]"`.')
    if find_spec("openvocab_demo") is None:
        raise ConfigError("The demo is not installed; reinstall openvocab.")
    with tempfile.TemporaryDirectory(prefix="openvocab-demo-") as folder:
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        _disable_url_fetching()
        import openvocab_demo as demo  # here, because it imports Gradio, which reads the variables

        page = demo.build(loaded or {})
        page.state_session_capacity = MAX_SESSIONS
        options = {
            "css": demo.CSS,
            "theme": demo.theme(),
            "footer_links": ["api"],
            "max_file_size": f"{demo.UPLOAD_MB}mb",
            "ssr_mode": False,
            "show_error": False,  # hides unexpected errors; openvocab's own are still shown
            "mcp_server": public and find_spec("mcp") is not None,
        }
        yield page, options


def _disable_url_fetching() -> None:
    """Disable the two functions with which Gradio fetches files from URLs that it is sent.

    It accepts any public URL in place of a file, of any size, and resolves its host with Google.
    """

    async def refuse(*_: object, **__: object) -> None:
        raise ValueError("URLs are not fetched here; upload the file itself.")

    vars(import_module("safehttpx")).update(get=refuse, async_validate_url=refuse)
