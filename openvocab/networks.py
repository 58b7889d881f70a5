"""The two networks of a preset, found on this machine and loaded."""

from pathlib import Path

from openvocab import weights
from openvocab.errors import WeightsNotFoundError
from openvocab.presets import Preset, available
from openvocab.protocols import Encoder, Proposer

__all__ = ["networks", "proposer_of"]


def networks(preset: Preset, device: str | None = None) -> tuple[Proposer, Encoder]:
    """Load the proposer and the encoder. Never downloads.

    Args:
        preset: names the weights, and the numbers that they are loaded with.
        device: a torch device; None takes CUDA where there is one.

    Raises:
        WeightsNotFoundError: its weights are not here; the message says how to pull them.
        ModelError: a weights file is damaged or of an unsupported kind.
    """
    from openvocab.encoders.openclip import OpenClipEncoder

    detector_file, bundle = _locate(preset)
    return proposer_of(preset, detector_file, device), OpenClipEncoder(bundle, device=device)


def proposer_of(preset: Preset, file: Path, device: str | None = None) -> Proposer:
    """A detector with the numbers of a preset; `networks` says what is raised."""
    from openvocab.proposers.tiled import TiledProposer
    from openvocab.proposers.ultralytics import UltralyticsProposer

    proposer = UltralyticsProposer(
        file,
        threshold=preset.proposal_threshold,
        iou=preset.proposal_iou,
        max_boxes=preset.max_boxes,
        image_size=preset.image_size,
        device=device,
        trust_pickle=preset.trust_pickle,
    )
    if preset.tile_size is None:
        return proposer
    return TiledProposer(
        proposer, preset.tile_size, iou=preset.proposal_iou, max_boxes=preset.max_boxes
    )


def _locate(preset: Preset) -> tuple[Path, str | Path]:
    """Where the weights of a preset lie; what lacks can be pulled at once by the preset's name."""
    try:
        in_cache = ":" in preset.encoder and not Path(preset.encoder).exists()
        encoder = preset.encoder if in_cache else weights.resolve(preset.encoder)
        return weights.resolve(preset.detector), encoder
    except WeightsNotFoundError as error:
        if preset.name not in available():
            raise
        raise WeightsNotFoundError(
            f"The weights of preset {preset.name!r} are not on this machine; "
            f"run `openvocab weights pull {preset.name}`."
        ) from error
