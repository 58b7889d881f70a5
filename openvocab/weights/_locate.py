"""Where the models of a preset are on this machine."""

from pathlib import Path

from openvocab.config import Preset, available_presets
from openvocab.errors import WeightsNotFoundError
from openvocab.weights._manifest import resolve


def locate_model(preset: Preset, name: str) -> Path:
    """The path of a model of a preset; the weights of a bundled preset are pulled by its name.

    Raises:
        WeightsNotFoundError: it is not on this machine; the message says how to pull it.
    """
    try:
        return resolve(name)
    except WeightsNotFoundError as error:
        if preset.name not in available_presets():
            raise
        raise WeightsNotFoundError(
            f"The weights of preset {preset.name!r} are not on this machine; "
            f"run `openvocab weights pull {preset.name}`."
        ) from error
