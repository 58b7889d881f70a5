"""The detectors of the page, one per preset, shared by all visitors."""

import threading
from collections.abc import Mapping
from contextlib import suppress

from openvocab import OpenVocabDetector, OpenVocabError, config, weights

_detectors: dict[str, OpenVocabDetector] = {}
_loading = threading.Lock()


def add_detectors(detectors: Mapping[str, OpenVocabDetector]) -> None:
    """Share detectors that are loaded already, by preset; the first one becomes the default."""
    _detectors.update(detectors)


def get_detector(preset: str | None = None) -> OpenVocabDetector:
    """The detector of a preset, loaded on first use; without a preset, the default one.

    Raises:
        OpenVocabError: the preset cannot be loaded.
    """
    name = preset or next(iter(_detectors), "starter")
    if name in _detectors:  # without the lock: visitors do not wait for another preset to load
        return _detectors[name]
    with _loading:
        if name not in _detectors:
            _detectors[name] = OpenVocabDetector.from_preset(name)
        return _detectors[name]


def local_presets() -> list[str]:
    """Names of the presets that are loaded, and of those whose weights are on this machine."""
    names = list(_detectors)
    for name in config.available_presets():
        if name in names:
            continue
        models = config.load_preset(name).models
        with suppress(OpenVocabError):
            weights.resolve(models.detector)
            weights.resolve(models.encoder)
            names.append(name)
    return names
