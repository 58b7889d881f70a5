"""`openvocab export`: networks as graphs that run faster on a CPU, if the results are the same."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openvocab import config, weights
from openvocab.cli._console import complain, out, progress
from openvocab.cli._options import ImageSize
from openvocab.config import Preset
from openvocab.encoders._boxes import expand_boxes
from openvocab.errors import ConfigError, ImageError, ModelError
from openvocab.io import _images as images
from openvocab.types import Boxes, Image

if TYPE_CHECKING:
    from openvocab.encoders._image_encoder_runtime import ExportReport

MAX_IMAGES, MAX_BOXES = 40, 20  # boxes per image
DETECTORS = {".pt", ".onnx"}


def export(
    network: Annotated[
        str, typer.Argument(help="A preset (for its encoder), a bundle's name or folder, or a .pt.")
    ],
    *,
    runtime: Annotated[str, typer.Option(help="Runtime of the graph: onnx or openvino.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 (openvino) or int8 (onnx; openvino for detectors).")
    ] = "fp32",
    images_folder: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Images to compare with fp32 on; fp32 needs none."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to write it.  (default: beside the network, used from then on)",
        ),
    ] = None,
    imgsz: ImageSize = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Allow a .pt, which can run any code.")
    ] = False,
) -> None:
    """Export a network for faster CPU inference.

    Writes a graph for ONNX Runtime or OpenVINO. An image encoder is compared with torch in fp32 on
    regions of your images, and refused if its features differ or it is no faster. An export takes
    any classes: words are data, not part of the graph.
    """
    preset, path = _locate(network)
    paths = images.find_images([images_folder]) if images_folder is not None else []
    if path.suffix.lower() in DETECTORS:
        from openvocab.export._detector import export_detector

        exported = export_detector(
            path, runtime, precision, out=folder, images=paths, image_size=imgsz,
            trust_pickle=trust_pickle,
        )  # fmt: skip
        out.print(f"{exported}: name it as the detector of a preset.", soft_wrap=True)
        return
    if imgsz is not None:
        raise ConfigError("--imgsz is for detectors; leave it out for an encoder.")

    from openvocab.export import _image_encoder as image_encoder

    image_encoder.check_kind(runtime, precision)  # before the step that takes a minute
    samples, words = sample_regions(preset, paths) if paths else ([], ())
    report = image_encoder.export(
        path, runtime, precision, samples=samples, words=words, out=folder
    )
    _print_report(report)
    users = f'encoder = "{folder}" in a preset' if folder else "every preset of this encoder"
    out.print(f"{folder or path}: on a CPU, {users} uses its fastest graph.", soft_wrap=True)


def _locate(network: str) -> tuple[Preset, Path]:
    """The preset whose detector finds regions for the comparison, and the network to export."""
    if network in config.available_presets() or network.endswith(".toml"):
        preset = config.load_preset(network)
        return preset, _bundle(preset.models.encoder)
    return config.load_preset("starter"), _bundle(network)


def _bundle(name: str) -> Path:
    if ":" in name and not Path(name).exists():
        from openvocab.encoders._openclip import bundle_folder

        return bundle_folder(name)
    return weights.resolve(name)


def sample_regions(
    preset: Preset, paths: Sequence[Path]
) -> tuple[list[tuple[Image, Boxes]], tuple[str, ...]]:
    """Boxes of the preset's detector in images, scaled as for the encoder, and its class names."""
    from openvocab.proposers import load_proposer

    config = dataclasses.replace(preset.proposals, max_boxes=MAX_BOXES, tile_size=None)
    proposer = load_proposer(dataclasses.replace(preset, proposals=config), "cpu")
    step = max(1, len(paths) // MAX_IMAGES)
    samples = []
    with progress() as bar:
        for path in bar.track(paths[::step][:MAX_IMAGES], description="detecting"):
            try:
                image = images.load_image(path)
            except ImageError as error:
                complain(str(error))
                continue
            (proposals,) = proposer.propose([image])
            samples.append((image, expand_boxes(proposals.xyxy, config.context_scale)))
    if not samples:
        raise ModelError("None of the images can be read; give others (--images).")
    return samples, proposer.labels


def _print_report(report: "ExportReport") -> None:
    kind = f"{report.runtime} {report.precision}"
    data = f"{report.regions} regions" if report.regions else "noise, for want of --images"
    lines = [
        f"{kind}, compared with torch fp32 on {data}: cosine {report.cosine_min:.5f} at worst, "
        f"{report.cosine_mean:.5f} on average",
        f"{report.over_torch:.1f} times as fast as torch in fp32, at batches of 16",
    ]
    if report.agreement is not None:
        lines.insert(1, f"{report.agreement:.1%} keep their nearest word")
    if kind != "onnx fp32":
        lines[-1] += f", {report.speed:.1f} times as fast as ONNX Runtime in fp32"
    for line in lines:
        out.print(line, soft_wrap=True)
