"""The demo's page with what it needs around it, served alone or beside the API."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

from openvocab._internal.files import package_data
from openvocab.errors import ConfigError

if TYPE_CHECKING:
    from openvocab.detector import OpenVocabDetector

OLDEST = 6, 31  # see pyproject.toml
VISITORS = 64  # whose photos are kept in memory


@contextmanager
def demo_page(
    *, public: bool, loaded: "Mapping[str, OpenVocabDetector] | None" = None
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The page (`gradio.Blocks`), and the options for Gradio to serve it with.

    On exit, everything that visitors sent is deleted. Nothing is reported to Gradio's makers, and
    addresses that visitors send are not fetched.

    Args:
        public: no password is asked for. Gradio's MCP never asks for one, so it is on only then.
        loaded: detectors that are loaded already, by the names of their presets.

    Raises:
        ConfigError: the page is not installed, or Gradio is too old for it.
    """
    if tuple(map(int, version("gradio").split(".")[:2])) < OLDEST:
        raise ConfigError('The demo needs a newer Gradio; run `pip install "openvocab[demo]"`.')
    with tempfile.TemporaryDirectory(prefix="openvocab-demo-") as folder:
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        _fetch_nothing()
        app = _load_app()
        page = app.build(loaded or {})
        page.state_session_capacity = VISITORS
        yield (
            page,
            {
                "css": app.CSS,
                "theme": app.theme(),
                "footer_links": ["api"],
                "max_file_size": f"{app.UPLOAD_MB}mb",
                "ssr_mode": False,
                "show_error": False,  # hides unforeseen errors; openvocab's own are still shown
                "mcp_server": public and find_spec("mcp") is not None,
            },
        )


def _fetch_nothing() -> None:
    """Disable the two functions with which Gradio fetches files from addresses that it is sent.

    It accepts any public address in place of a file, of any size, and asks Google for its host.
    """

    async def refused(*_: object, **__: object) -> None:
        raise ValueError("Addresses are not fetched here; send the file itself.")

    vars(import_module("safehttpx")).update(get=refused, async_validate_url=refused)


def _load_app() -> Any:  # noqa: ANN401  a module
    """The package `demo`, which is beside this one and uses only its public names."""
    name, folder = "openvocab_demo", package_data("demo")
    spec = spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise ConfigError("The demo is not installed; reinstall openvocab.")
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return import_module(f"{name}.app")
