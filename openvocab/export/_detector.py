"""Exports a detector with Ultralytics' own exporter, and contains its side effects."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openvocab._internal.environment import require_packages, silence_logs
from openvocab._internal.runtimes import isolated_ultralytics, openvino
from openvocab.errors import ModelError, first_line
from openvocab.io._folders import writing_to
from openvocab.proposers._ultralytics import check_format

PACKAGES = {
    ("onnx", "fp32"): ("onnx",),
    ("openvino", "fp32"): ("openvino",),
    ("openvino", "int8"): ("openvino", "nncf"),
}
MAX_CALIBRATION_IMAGES = 300  # NNCF uses as many


def export_detector(
    path: Path,
    runtime: str,
    precision: str,
    *,
    out: Path | None = None,
    images: Sequence[Path] = (),
    image_size: int | None = None,
    trust_pickle: bool = False,
) -> Path:
    """Write a `.pt` detector as ONNX, or as an OpenVINO folder; nothing is installed.

    Args:
        path: a checkpoint of Ultralytics.
        runtime: `onnx` or `openvino`.
        precision: `fp32`, or `int8` in OpenVINO, with scales calibrated on `images`.
        out: folder to write to; None uses that of `path`.
        images: images like those it will be used on; for int8 only.
        image_size: longer side of its input, in pixels; None uses the size it was trained for.
        trust_pickle: allow a `.pt`, which is a pickle and can run any code.

    Returns:
        What was written, to be used as the `detector` of a preset.

    Raises:
        ModelError: the file is an export already, an untrusted pickle or damaged, or a package is
            missing.
        OpenVocabError: the folder cannot be written to.
    """
    if path.suffix.lower() != ".pt":
        raise ModelError(f"{path} is an export already; give the .pt that it was made of.")
    check_format(path, trust_pickle=trust_pickle)
    _check_kind(runtime, precision, images)
    arguments: dict[str, Any] = {"format": runtime, "device": "cpu", "verbose": False}
    arguments |= {"dynamic": False, "nms": False}
    if runtime == "onnx":
        arguments["simplify"] = False  # needs a package, for less than ONNX Runtime does itself
    if image_size is not None:
        arguments["imgsz"] = image_size
    folder = out or path.parent
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:
            checkpoint = Path(name) / path.name
            shutil.copyfile(path, checkpoint)
            exported = _export(checkpoint, path, arguments, images if precision == "int8" else ())
            target = folder / exported.name
            if target.is_dir():
                shutil.rmtree(target)
            return exported.replace(target)


def _check_kind(runtime: str, precision: str, images: Sequence[Path]) -> None:
    if (runtime, precision) not in PACKAGES:
        kinds = ", ".join(" ".join(kind) for kind in PACKAGES)
        raise ModelError(f"No detector is exported to {runtime} {precision}; use {kinds}.")
    require_packages("The export", "export", *PACKAGES[runtime, precision])
    if precision == "int8" and not images:
        raise ModelError("int8 is calibrated on real images; give a folder of them (--images).")


def _export(
    checkpoint: Path, path: Path, arguments: dict[str, Any], calibration_images: Sequence[Path]
) -> Path:
    """Export a copy of `path`, with scales calibrated on the images, if any."""
    try:
        with isolated_ultralytics() as ultralytics, _silenced():
            if arguments["format"] == "openvino":
                openvino()  # before Ultralytics does, which would leave its telemetry on
            model = ultralytics.YOLO(str(checkpoint))
            if calibration_images:
                data = _write_dataset(checkpoint.parent, calibration_images, model.names)
                # One image per step, else an incomplete batch would be dropped.
                arguments |= {"quantize": 8, "data": str(data), "batch": 1, "fraction": 1.0}
            return Path(model.export(**arguments))
    # Ultralytics, torch, the exporters and pickle may raise anything.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be exported ({first_line(error)}); check that it is a detector of "
            "Ultralytics, or use another runtime."
        ) from error


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence what Ultralytics and NNCF print: only the command line prints."""
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), silence_logs():
        yield


def _write_dataset(folder: Path, images: Sequence[Path], names: dict[int, str]) -> Path:
    """Write a dataset of images without labels, in Ultralytics' form."""
    (folder / "images").mkdir()
    step = max(1, len(images) // MAX_CALIBRATION_IMAGES)
    for number, image in enumerate(images[::step][:MAX_CALIBRATION_IMAGES]):
        shutil.copyfile(image, folder / "images" / f"{number:04}{image.suffix.lower()}")
    data = folder / "data.yaml"
    # JSON, of which YAML is a superset.
    table = {"path": str(folder), "train": "images", "val": "images", "names": names}
    data.write_text(json.dumps(table))
    return data
