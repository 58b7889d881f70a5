"""Images in; detections out as annotated images, rows and label files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvocab.io.annotation import annotate
    from openvocab.io.images import load_image
    from openvocab.io.labels import LabelledImage, write_labels
    from openvocab.io.rows import detections_to_rows, to_hf

__all__ = [
    "LabelledImage", "annotate", "detections_to_rows", "load_image", "to_hf", "write_labels",
]  # fmt: skip

# Loaded on first use: reading images must not import supervision or OpenCV.
_MODULES = {
    "LabelledImage": "labels",
    "annotate": "annotation",
    "detections_to_rows": "rows",
    "load_image": "images",
    "to_hf": "rows",
    "write_labels": "labels",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module attribute may be anything
    if name in _MODULES:
        return getattr(import_module(f"openvocab.io.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'openvocab.io' has no attribute {name!r}")
