"""Open-vocabulary object detection: YOLO says where things are, CLIP what, in your own words."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openvocab.errors import OpenVocabError

if TYPE_CHECKING:
    from openvocab.config import Preset
    from openvocab.detector import OpenVocabDetector, detect
    from openvocab.io.annotation import annotate
    from openvocab.vocabulary import Vocabulary

__all__ = ["OpenVocabDetector", "OpenVocabError", "Preset", "Vocabulary", "annotate", "detect"]

__version__ = "0.1.0"

# Imported on first use: importing the package must not import torch, ultralytics or OpenCV.
_MODULES = {
    "OpenVocabDetector": "openvocab.detector",
    "Preset": "openvocab.config",
    "Vocabulary": "openvocab.vocabulary",
    "annotate": "openvocab.io.annotation",
    "detect": "openvocab.detector",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module attribute may be anything
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'openvocab' has no attribute {name!r}")
