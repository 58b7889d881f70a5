"""Detectors that propose class-agnostic boxes."""

from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports
from openvocab.config import Preset
from openvocab.types import Proposer
from openvocab.weights._locate import locate_model

if TYPE_CHECKING:
    from openvocab.proposers._tiled import TiledProposer
    from openvocab.proposers._ultralytics import UltralyticsProposer

__all__ = ["TiledProposer", "UltralyticsProposer", "load_proposer"]

__getattr__ = lazy_imports(
    __name__,
    {
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
    from openvocab.proposers._tiled import TiledProposer
    from openvocab.proposers._ultralytics import UltralyticsProposer

    config = preset.proposals
    proposer = UltralyticsProposer(
        locate_model(preset, preset.models.detector),
        config,
        device=device,
        trust_pickle=preset.models.trust_pickle,
    )
    if config.tile_size is None:
        return proposer
    return TiledProposer(proposer, config.tile_size, iou=config.iou, max_boxes=config.max_boxes)
