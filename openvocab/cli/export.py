"""`openvocab export`: networks as graphs that run faster on a CPU, if the results are the same."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openvocab import config, weights
from openvocab.cli.console import complain, out, progress
from openvocab.cli.options import ImageSize
from openvocab.config import Preset
from openvocab.encoders.boxes import expand_boxes
from openvocab.errors import ConfigError, ImageError, ModelError
from openvocab.io import images
from openvocab.types import Boxes, Image

if TYPE_CHECKING:
    from openvocab.encoders.image_encoder_runtime import ExportReport

PICTURES, BOXES = 40, 20  # at most; boxes per picture, at each of the preset's scales
DETECTORS = {".pt", ".onnx"}


Network = Annotated[
    str, typer.Argument(help="A preset (for its encoder), a bundle's name or folder, or a .pt.")
]
Runtime = Annotated[str, typer.Option(help="Runtime of the graph: onnx or openvino.")]
Precision = Annotated[
    str, typer.Option(help="fp32, bf16 (openvino) or int8 (onnx; openvino for detectors).")
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Pictures to compare with fp32 on; fp32 needs none."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Where to write it.  (default: beside the network, used from then on)",
    ),
]
Trust = Annotated[bool, typer.Option("--trust-pickle", help="Allow a .pt, which can run any code.")]


def export(
    network: Network,
    *,
    runtime: Runtime = "onnx",
    precision: Precision = "fp32",
    pictures: Pictures = None,
    folder: Out = None,
    imgsz: ImageSize = None,
    trust_pickle: Trust = False,
) -> None:
    """Export a network for faster CPU inference.

    Writes a graph for ONNX Runtime or OpenVINO. An encoder's image tower is compared with torch in
    fp32 on regions of your pictures, and refused if its results differ or it is no faster. An
    export takes any classes: words are data, not part of the graph.
    """
    preset, found = _found(network)
    paths = images.find([str(pictures)]) if pictures is not None else []
    if found.suffix.lower() in DETECTORS:
        from openvocab.export.detector import export_detector

        written = export_detector(
            found, runtime, precision, out=folder, images=paths, image_size=imgsz,
            trust_pickle=trust_pickle,
        )  # fmt: skip
        out.print(f"{written}: name it as the detector of a preset.", soft_wrap=True)
        return
    if imgsz is not None:
        raise ConfigError("--imgsz is of detectors; leave it out for an encoder.")

    from openvocab.export.image_encoder import check_kind
    from openvocab.export.image_encoder import export as export_tower

    check_kind(runtime, precision)  # before the step that takes a minute
    seen, words = regions_of(preset, paths) if paths else ([], ())
    made = export_tower(found, runtime, precision, seen=seen, words=words, out=folder)
    _report(made)
    where = folder or found
    used = f'encoder = "{folder}" in a preset' if folder else "every preset of this encoder"
    out.print(f"{where}: on a CPU, {used} uses its fastest graph.", soft_wrap=True)


def _found(network: str) -> tuple[Preset, Path]:
    """The preset whose detector finds regions for the comparison, and the network to export."""
    if network in config.available_presets() or network.endswith(".toml"):
        preset = config.load_preset(network)
        return preset, _bundle(preset.models.encoder)
    return config.load_preset("starter"), _bundle(network)


def _bundle(name: str) -> Path:
    if ":" in name and not Path(name).exists():
        from openvocab.encoders.openclip import bundle_folder

        return bundle_folder(name)
    return weights.resolve(name)


def regions_of(
    preset: Preset, paths: Sequence[Path]
) -> tuple[list[tuple[Image, Boxes]], tuple[str, ...]]:
    """Boxes of the preset's detector in pictures, as the encoder sees them, and its names."""
    from openvocab.proposers import load_proposer

    config = dataclasses.replace(preset.proposals, max_boxes=BOXES, tile_size=None)
    proposer = load_proposer(dataclasses.replace(preset, proposals=config), "cpu")
    step = max(1, len(paths) // PICTURES)
    seen = []
    for path in _progress(paths[::step][:PICTURES]):
        try:
            picture = images.load(path)
        except ImageError as error:
            complain(str(error))
            continue
        (found,) = proposer.propose([picture])
        seen.append((picture, expand_boxes(found.xyxy, config.context_scale)))
    if not seen:
        raise ModelError("None of the pictures can be read; give others (--images).")
    return seen, proposer.labels


def _progress(paths: Sequence[Path]) -> Iterator[Path]:
    with progress() as bar:
        yield from bar.track(paths, description="looking")


def _report(made: "ExportReport") -> None:
    compared = f"{made.regions} regions" if made.regions else "noise, for want of --images"
    out.print(
        f"{made.runtime} {made.precision}, compared with torch fp32 on {compared}: "
        f"cosine {made.cosine_min:.5f} at worst, {made.cosine_mean:.5f} on average",
        soft_wrap=True,
    )
    if made.agreement is not None:
        out.print(f"{made.agreement:.1%} keep their nearest word")
    against = "" if (made.runtime, made.precision) == ("onnx", "fp32") else (
        f", {made.speed:.1f} times as fast as ONNX Runtime in fp32"
    )  # fmt: skip
    out.print(
        f"{made.over_torch:.1f} times as fast as torch in fp32, at batches of 16{against}",
        soft_wrap=True,
    )
