"""Public names of a package that are imported on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_imports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose import must not load torch, OpenCV or FastAPI.

    Args:
        package: `__name__` of the package.
        modules: public names, and the modules that define them.

    >>> get = lazy_imports("openvocab", {"Preset": "openvocab.config"})
    >>> get("Preset").__name__
    'Preset'
    """

    def get(name: str) -> Any:  # noqa: ANN401  a module attribute may be anything
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get
