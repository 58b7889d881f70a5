"""Detectors that propose class-agnostic boxes."""

import contextlib
from typing import TYPE_CHECKING

from openvocab._internal.environment import resolve_device
from openvocab._internal.lazy import lazy_imports
from openvocab.config import Preset
from openvocab.types import Proposer
from openvocab.weights._locate import locate_model

if TYPE_CHECKING:
    from openvocab.proposers._onnx import ONNXProposer
    from openvocab.proposers._tiled import TiledProposer
    from openvocab.proposers._ultralytics import UltralyticsProposer

__all__ = [
    "ONNXProposer",
    "TiledProposer",
    "UltralyticsProposer",
    "load_proposer",
]

__getattr__ = lazy_imports(
    __name__,
    {
        "ONNXProposer": "openvocab.proposers._onnx",
        "TiledProposer": "openvocab.proposers._tiled",
        "UltralyticsProposer": "openvocab.proposers._ultralytics",
    },
)


def load_proposer(preset: Preset, device: str | None = None) -> Proposer:
    """Load the detector of a preset, with tiles if the preset has a tile size; never downloads.

    Args:
        preset: names the weights, and gives the limits of the proposals.
        device: a torch device; None uses CUDA where available.

    Raises:
        WeightsNotFoundError: its weights are not on this machine; the message says how to pull
            them.
        ModelError: a weights file is damaged or of an unsupported kind.
    """
    from openvocab.proposers._tiled import tile

    return tile(_load_detector(preset, device), preset.proposals)


def _load_detector(preset: Preset, device: str | None) -> Proposer:
    """ONNX Runtime for a detector in ONNX on the CPU; Ultralytics for everything else."""
    from openvocab.proposers._onnx import ONNXProposer, OtherTaskError
    from openvocab.proposers._ultralytics import UltralyticsProposer

    path = locate_model(preset, preset.models.detector)
    if path.suffix.lower() == ".onnx" and resolve_device(device) == "cpu":
        with contextlib.suppress(OtherTaskError):  # segment, which Ultralytics runs as well
            return ONNXProposer(path, preset.proposals)
    return UltralyticsProposer(
        path, preset.proposals, device=device, trust_pickle=preset.models.trust_pickle
    )
