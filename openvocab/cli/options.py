"""Options that several commands share, and what they are read as."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from openvocab.errors import OpenVocabError
from openvocab.presets import Preset, load
from openvocab.prompts import split_list

__all__ = [
    "HERE",
    "Classes",
    "Device",
    "Host",
    "ImageSize",
    "Negatives",
    "Port",
    "PresetName",
    "Threshold",
    "TileSize",
    "has_display",
    "read_classes",
    "read_preset",
]

Classes = Annotated[
    str, typer.Option("--classes", "-c", help='"bus, person", or a .txt file with one a line.')
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", help="Name of a preset, or a .toml file.")
]
Negatives = Annotated[str, typer.Option(help="Look-alikes that compete and are never returned.")]
Threshold = Annotated[
    float | None, typer.Option(help="Lowest score, 0 to 1.  (default: the preset's)")
]
Host = Annotated[str, typer.Option(help="Address to serve; 0.0.0.0 for others, too.")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
HERE = {"127.0.0.1", "localhost", "::1"}
"""Addresses by which nobody but this machine is served."""
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda:0, ...  (default: CUDA where there is one)")
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Longer side the detector sees, in pixels.  (default: the preset's)", min=32, max=8192
    ),
]
TileSize = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="See tiles of this size as well, for small things.  (default: the preset's)",
        min=64,
        max=8192,
    ),
]


def read_classes(text: str) -> list[str]:
    """Words of the option, or the lines of the file it names."""
    if not text.endswith(".txt"):
        return list(split_list(text))
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OpenVocabError(f"{text} cannot be read ({error}); give a text file.") from error
    return [line.strip() for line in lines if line.strip()]


def read_preset(name: str, image_size: int | None = None, tile_size: int | None = None) -> Preset:
    """The preset of that name or file, with the sizes that are given in place of its own."""
    preset = load(name)
    return dataclasses.replace(
        preset,
        image_size=image_size or preset.image_size,
        tile_size=tile_size or preset.tile_size,
    )


def has_display() -> bool:
    """Whether a window can be opened."""
    on_linux = sys.platform.startswith("linux")
    return not on_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
