"""Images in; detections out as annotated images, rows and label files."""

from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports

if TYPE_CHECKING:
    from openvocab.io._annotation import annotate, shorten_label
    from openvocab.io._images import ImageLike, load_image
    from openvocab.io._labels import LabelledImage, write_labels
    from openvocab.io._rows import detections_to_rows, to_hf

__all__ = [
    "ImageLike", "LabelledImage", "annotate", "detections_to_rows", "load_image", "shorten_label",
    "to_hf", "write_labels",
]  # fmt: skip

# Reading images must not import supervision or OpenCV.
__getattr__ = lazy_imports(
    __name__,
    {
        "ImageLike": "openvocab.io._images",
        "LabelledImage": "openvocab.io._labels",
        "annotate": "openvocab.io._annotation",
        "detections_to_rows": "openvocab.io._rows",
        "load_image": "openvocab.io._images",
        "shorten_label": "openvocab.io._annotation",
        "to_hf": "openvocab.io._rows",
        "write_labels": "openvocab.io._labels",
    },
)
