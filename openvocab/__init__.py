"""Open-vocabulary object detection: YOLO proposes boxes, CLIP classifies them by your names."""

from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports
from openvocab.errors import OpenVocabError

if TYPE_CHECKING:
    from openvocab.config import Preset
    from openvocab.detector import OpenVocabDetector, detect
    from openvocab.io import annotate
    from openvocab.vocabulary import Example, Vocabulary

__all__ = [
    "Example", "OpenVocabDetector", "OpenVocabError", "Preset", "Vocabulary", "annotate", "detect",
]  # fmt: skip

__version__ = "0.1.0"

__getattr__ = lazy_imports(
    __name__,
    {
        "Example": "openvocab.vocabulary",
        "OpenVocabDetector": "openvocab.detector",
        "Preset": "openvocab.config",
        "Vocabulary": "openvocab.vocabulary",
        "annotate": "openvocab.io",
        "detect": "openvocab.detector",
    },
)
