"""`detect()`: builds and keeps one detector a preset."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from openvocab.detector import OpenVocabDetector
from openvocab.images import ImageLike
from openvocab.presets import Preset, load
from openvocab.vocabulary import Classes, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

__all__ = ["detect"]

_detectors: dict[Preset, OpenVocabDetector] = {}
"""By what a preset says, not by its name: a file may change, or be another one elsewhere."""
_lock = threading.Lock()


def detect(
    image: ImageLike,
    classes: Classes | Vocabulary,
    *,
    preset: str | os.PathLike[str] | Preset = "starter",
    negatives: Sequence[str] = (),
    score_threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> "sv.Detections":
    """Find the caller's classes in one image, with a preset that is loaded once and kept.

    Never downloads. Arguments, result, shapes and errors are those of
    `OpenVocabDetector.detect`, and `preset` as for `OpenVocabDetector.from_preset`. For other
    numbers and the same networks, `OpenVocabDetector.tuned` loads nothing again.

    Raises:
        OpenVocabError: one of its children, as the two methods name them.
    """
    return _detector(load(preset)).detect(
        image,
        classes,
        negatives=negatives,
        score_threshold=score_threshold,
        thresholds=thresholds,
    )


def _detector(preset: Preset) -> OpenVocabDetector:
    with _lock:
        if preset not in _detectors:
            _detectors[preset] = OpenVocabDetector.from_preset(preset)
        return _detectors[preset]
