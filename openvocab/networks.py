"""Finds the two networks of a preset on this machine and loads them."""

from pathlib import Path

from openvocab import weights
from openvocab.config import Preset, available
from openvocab.errors import WeightsNotFoundError
from openvocab.types import Encoder, Proposer


def networks(preset: Preset, device: str | None = None) -> tuple[Proposer, Encoder]:
    """Load the proposer and the encoder; never downloads.

    Args:
        preset: names the weights, and gives the numbers that they are loaded with.
        device: a torch device; None uses CUDA where available.

    Raises:
        WeightsNotFoundError: its weights are not on this machine; the message says how to pull
            them.
        ModelError: a weights file is damaged or of an unsupported kind.
    """
    detector_file = _located(preset, preset.detector)
    encoder = encoder_of(preset, device)
    return proposer_of(preset, detector_file, device), encoder


def encoder_of(preset: Preset, device: str | None = None) -> Encoder:
    """Load only the encoder of a preset; raises what `networks` raises."""
    from openvocab.encoders.openclip import OpenClipEncoder

    in_cache = ":" in preset.encoder and not Path(preset.encoder).exists()
    bundle = preset.encoder if in_cache else _located(preset, preset.encoder)
    return OpenClipEncoder(bundle, device=device)


def proposer_of(preset: Preset, file: Path, device: str | None = None) -> Proposer:
    """Load a detector with the numbers of a preset; raises what `networks` raises."""
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


def _located(preset: Preset, name: str) -> Path:
    """Where the weights are; those of a bundled preset can be pulled by the preset's name."""
    try:
        return weights.resolve(name)
    except WeightsNotFoundError as error:
        if preset.name not in available():
            raise
        raise WeightsNotFoundError(
            f"The weights of preset {preset.name!r} are not on this machine; "
            f"run `openvocab weights pull {preset.name}`."
        ) from error
