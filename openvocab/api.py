"""`detect()`: builds one detector per preset and keeps it."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from openvocab.config import Preset, load
from openvocab.detector import AT_LOADING, OpenVocabDetector
from openvocab.io.images import ImageLike
from openvocab.vocabulary import Classes, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

_detectors: dict[tuple[object, ...], OpenVocabDetector] = {}
"""Keyed by the networks of a preset, not by its name: its file may change, or be elsewhere."""
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
    `OpenVocabDetector.detect`; `preset` is as for `OpenVocabDetector.from_preset`.

    Raises:
        OpenVocabError: one of its subclasses, as listed for those two methods.
    """
    return _detector(load(preset)).detect(
        image,
        classes,
        negatives=negatives,
        score_threshold=score_threshold,
        thresholds=thresholds,
    )


def _detector(preset: Preset) -> OpenVocabDetector:
    key = tuple(getattr(preset, name) for name in AT_LOADING)
    with _lock:
        known = _detectors.get(key)
        if known is None:
            known = OpenVocabDetector.from_preset(preset)
        elif known.preset != preset:  # other numbers, the same networks
            names = {field.name for field in fields(Preset)} - AT_LOADING
            known = known.tuned(**{name: getattr(preset, name) for name in names})
        _detectors[key] = known
        return known
