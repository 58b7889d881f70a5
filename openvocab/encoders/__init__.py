"""Encoders that map crops and prompts into the same space."""

from pathlib import Path
from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports
from openvocab.config import Preset
from openvocab.types import Encoder
from openvocab.weights._locate import locate_model

if TYPE_CHECKING:
    from openvocab.encoders._openclip import OpenClipEncoder

__all__ = ["OpenClipEncoder", "load_encoder"]

__getattr__ = lazy_imports(__name__, {"OpenClipEncoder": "openvocab.encoders._openclip"})


def load_encoder(preset: Preset, device: str | None = None) -> Encoder:
    """Load the encoder of a preset; never downloads.

    Args:
        preset: names the weights.
        device: a torch device; None uses CUDA where available.

    Raises:
        WeightsNotFoundError: its weights are not on this machine; the message says how to pull
            them.
        ModelError: a weights file is damaged or of an unsupported kind.
    """
    from openvocab.encoders._openclip import OpenClipEncoder

    name = preset.models.encoder
    is_cached_model = ":" in name and not Path(name).exists()
    return OpenClipEncoder(name if is_cached_model else locate_model(preset, name), device=device)
