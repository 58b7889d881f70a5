"""Detection over HTTP."""

from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports

if TYPE_CHECKING:
    from openvocab.server._app import create_app
    from openvocab.server._settings import Settings

__all__ = ["Settings", "create_app"]

# The demo uses modules of this package without the extra `serve`.
__getattr__ = lazy_imports(
    __name__,
    {"Settings": "openvocab.server._settings", "create_app": "openvocab.server._app"},
)
