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
from openvocab.errors import ModelError, OpenVocabError, first_line
from openvocab.proposers.ultralytics import check_format

NEEDS = {
    ("onnx", "fp32"): ("onnx",),
    ("openvino", "fp32"): ("openvino",),
    ("openvino", "int8"): ("openvino", "nncf"),
}
CALIBRATED_ON = 300  # pictures at most; NNCF uses as many


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
        images: pictures like those it will be used on; for int8 only.
        image_size: longer side that it will see, in pixels; None uses the size it was trained for.
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
    _check(runtime, precision, images)
    arguments: dict[str, Any] = {"format": runtime, "device": "cpu", "verbose": False}
    arguments |= {"dynamic": False, "nms": False}
    if runtime == "onnx":
        arguments["simplify"] = False  # needs a package, for less than ONNX Runtime does itself
    if image_size is not None:
        arguments["imgsz"] = image_size
    with tempfile.TemporaryDirectory(prefix="openvocab-export-") as place:
        checkpoint = Path(place) / path.name
        shutil.copyfile(path, checkpoint)
        if precision == "int8":
            arguments |= {"quantize": 8, "data": str(_dataset(Path(place), images))}
            # One picture per step, else an incomplete batch would be dropped.
            arguments |= {"batch": 1, "fraction": 1.0}
        made = _export(checkpoint, path, arguments)
        return _deliver(made, out or path.parent)


def _check(runtime: str, precision: str, images: Sequence[Path]) -> None:
    if (runtime, precision) not in NEEDS:
        known = ", ".join(" ".join(kind) for kind in NEEDS)
        raise ModelError(f"A detector is not exported to {runtime} {precision}; use {known}.")
    require_packages("The export", "export", *NEEDS[runtime, precision])
    if precision == "int8" and not images:
        raise ModelError("int8 is calibrated on real pictures; give a folder of them (--images).")


def _export(checkpoint: Path, path: Path, arguments: dict[str, Any]) -> Path:
    try:
        with isolated_ultralytics() as ultralytics, _elsewhere():
            if arguments["format"] == "openvino":
                openvino()  # before Ultralytics does, which would leave its telemetry on
            model = ultralytics.YOLO(str(checkpoint))
            if arguments.get("data"):
                _names(Path(arguments["data"]), model.names)
            return Path(model.export(**arguments))
    # Ultralytics, torch, the exporters and pickle may raise anything.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be exported ({first_line(error)}); check that it is a detector of "
            "Ultralytics, or use another runtime."
        ) from error


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Silence what Ultralytics and NNCF print: only the command line prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), silence_logs():
        yield


def _dataset(place: Path, images: Sequence[Path]) -> Path:
    """A list of pictures without labels, in Ultralytics' form."""
    pictures = place / "pictures"
    pictures.mkdir()
    step = max(1, len(images) // CALIBRATED_ON)
    for number, image in enumerate(images[::step][:CALIBRATED_ON]):
        shutil.copyfile(image, pictures / f"{number:04}{image.suffix.lower()}")
    return place / "pictures.yaml"


def _names(file: Path, names: dict[int, str]) -> None:
    """Write the names as JSON, of which YAML is a superset."""
    listed = {"path": str(file.parent), "train": "pictures", "val": "pictures"}
    file.write_text(json.dumps(listed | {"names": {str(k): v for k, v in names.items()}}))


def _deliver(made: Path, folder: Path) -> Path:
    """Move an exported file or folder to its place, replacing an older one."""
    target = folder / made.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if made.is_file():
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(made, part)
            part.replace(target)
        else:
            part = folder / f".{made.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(made, part)
            shutil.rmtree(target, ignore_errors=True)
            part.replace(target)
    except OSError as error:
        raise OpenVocabError(
            f"{target} cannot be written ({error.strerror}); give another folder (--out)."
        ) from error
    return target
