"""Exports the image tower of a bundle, and refuses what loses accuracy or is no faster."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from openvocab._internal.environment import require_packages
from openvocab._internal.files import sha256
from openvocab.encoders import image_encoder_runtime
from openvocab.encoders.image_encoder_runtime import (
    CONFIG,
    GRAPH,
    INT8_GRAPH,
    RECORDS,
    WEIGHTS,
    ExportReport,
    Forward,
)
from openvocab.encoders.openclip import OpenClipEncoder, bundle_folder
from openvocab.encoders.text_cache import TextFeatureCache
from openvocab.errors import ModelError, OpenVocabError
from openvocab.export.graph import quantised, traced
from openvocab.types import Boxes, Features, Image

Samples = Sequence[tuple[Image, Boxes]]
KINDS = {
    "onnx": ("fp32", "int8"),  # ONNX Runtime has no bf16 kernels on a CPU
    "openvino": ("fp32", "bf16"),
}
MANY = 200  # regions; with fewer, a share of 98 % means little
ROUNDS, BATCH = 7, 16
LARGE = 10_000_000  # bytes


@dataclass(frozen=True, slots=True)
class ExportTolerances:
    """Limits below which a tower is refused.

    The cosine is that of the worst region, not the mean: the starter in bf16 has a mean of 0.997,
    a worst region of 0.94, and gives 1 region in 10 another name.
    """

    fp32: float = 0.9999
    """Lowest cosine to the features of torch in fp32, for a tower in fp32."""
    bf16: float = 0.99
    """The same for a tower in bf16."""
    int8: float = 0.98
    """Share of the regions that keep their nearest word."""
    speed: float = 1.0
    """Speed relative to torch, and to ONNX Runtime in fp32, which all other image_encoder_runtime must beat."""


def export(
    bundle: str | os.PathLike[str],
    runtime: str,
    precision: str,
    *,
    seen: Samples = (),
    words: Sequence[str] = (),
    out: Path | None = None,
    floors: ExportTolerances | None = None,
) -> ExportReport:
    """Write the image tower of an open_clip bundle as a graph, if it passes the gate.

    Args:
        bundle: folder of the bundle, or `MODEL:TAG` in open_clip's cache.
        runtime: `onnx` or `openvino`.
        precision: `fp32`, `bf16` (OpenVINO) or `int8` (ONNX Runtime).
        seen: real pictures, BGR, and boxes `(N, 4)` in them; needed for all but fp32.
        words: words to name the regions with, to count those that keep their name.
        out: folder for a whole bundle with the graph; None adds the graph to the bundle itself.
        floors: limits in place of the defaults.

    Returns:
        The measurements; also written to `image.json` in the bundle, except for ONNX Runtime in
        fp32.

    Raises:
        WeightsNotFoundError: there is no such bundle.
        ModelError: a package is missing, there are too few regions, or the tower was refused
            (nothing is written).
        OpenVocabError: the folder cannot be written to.
    """
    floors = floors or ExportTolerances()
    check_kind(runtime, precision)
    _check_regions(precision, sum(len(boxes) for _, boxes in seen), words)
    folder = bundle_folder(bundle)
    target = _target(folder, out)
    torch_encoder = OpenClipEncoder(folder, device="cpu", graphs=False, batch_size=BATCH)
    with _staged(folder, target) as stage:
        weights = stage / WEIGHTS
        if not (stage / GRAPH).is_file() or (runtime, precision) == ("onnx", "fp32"):
            graph = traced(torch_encoder.image_encoder, torch_encoder.crop_size, weights)
            (stage / GRAPH).write_bytes(graph)
        if precision == "int8":
            (stage / INT8_GRAPH).write_bytes(quantised(stage / GRAPH))
        tower = image_encoder_runtime.load(
            image_encoder_runtime.graph_of(stage, precision), weights, runtime, precision
        )
        record = _measured(torch_encoder, tower, stage, (runtime, precision), seen, words)
        check_parity(record, floors)
        if (runtime, precision) != ("onnx", "fp32"):
            _remember(stage, record)
        _deliver(stage, target, whole=out is not None)
    return record


def check_kind(runtime: str, precision: str) -> None:
    """Check that there is such an export, and that what it needs is installed.

    Raises:
        ModelError: there is no such export, or a package is missing.
    """
    if precision not in KINDS.get(runtime, ()):
        known = ", ".join(f"{name} {each}" for name, all_ in KINDS.items() for each in all_)
        raise ModelError(f"An image tower is not exported to {runtime} {precision}; use {known}.")
    if runtime == "openvino":
        require_packages("The export", "export", "openvino")
    if precision == "int8":
        require_packages("The export", "export", "onnx")


def _check_regions(precision: str, regions: int, words: Sequence[str]) -> None:
    if precision == "fp32" and not regions:
        return
    if regions < MANY or (precision == "int8" and not words):
        raise ModelError(
            f"{precision} must be compared with fp32 on {MANY} regions of real pictures or more, "
            f"and has {regions}; give a folder of more pictures (--images)."
        )


def _measured(
    encoder: OpenClipEncoder,
    tower: Forward,
    stage: Path,
    kind: tuple[str, str],
    seen: Samples,
    words: Sequence[str],
) -> ExportReport:
    """Compare features with torch in fp32, and speed with torch and ONNX Runtime in fp32."""
    runtime, precision = kind
    images, boxes = zip(*(seen or [_noise()]), strict=True)
    batches = list(encoder.crop_batches(images, boxes))
    expected = np.vstack([encoder.encode_crops(batch).numpy() for batch in batches])
    found = np.vstack([tower(batch.numpy()) for batch in batches])
    cosines = _cosines(expected, found)
    agreement = None
    if words:
        text = TextFeatureCache(encoder, "simple")(words).T
        same = (expected @ text).argmax(axis=1) == (found @ text).argmax(axis=1)
        agreement = round(float(same.mean()), 4)
    plain = tower
    if kind != ("onnx", "fp32"):
        plain = image_encoder_runtime.load(stage / GRAPH, stage / WEIGHTS, "onnx", "fp32")
    over_torch, over_plain = _speeds(encoder, tower, plain, batches[0])
    return ExportReport(
        runtime=runtime,
        precision=precision,
        bundle_sha256=image_encoder_runtime.identity(stage),
        graph_sha256=sha256(image_encoder_runtime.graph_of(stage, precision)),
        regions=len(expected) if seen else 0,
        cosine_min=round(float(cosines.min()), 6),
        cosine_mean=round(float(cosines.mean()), 6),
        agreement=agreement,
        over_torch=round(over_torch, 2),
        speed=round(over_plain, 2),
    )


def _cosines(expected: Features, found: Features) -> Features:
    cosines: Features = (expected * found).sum(axis=1) / np.linalg.norm(found, axis=1)
    return cosines


def _noise() -> tuple[Image, Boxes]:
    """A picture of noise, enough to see whether a graph computes the same."""
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    corners = np.arange(BATCH, dtype=np.float32)[:, None] * 8
    return image, np.hstack([corners, corners, corners + 64, corners + 128]).astype(np.float32)


def _speeds(
    encoder: OpenClipEncoder, tower: Forward, plain: Forward, regions: torch.Tensor
) -> tuple[float, float]:
    """Speed relative to torch and to `plain`: medians of rounds in which all take turns."""
    array = regions.numpy()
    ratios = []
    for number in range(ROUNDS + 1):
        spent = []
        for run in (
            lambda: encoder.encode_crops(regions),
            lambda: plain(array),
            lambda: tower(array),
        ):
            start = time.perf_counter()
            run()
            spent.append(time.perf_counter() - start)
        if number:  # the first round warms up
            ratios.append((spent[0] / spent[2], spent[1] / spent[2]))
    over_torch, over_plain = (statistics.median(each) for each in zip(*ratios, strict=True))
    return over_torch, 1.0 if plain is tower else over_plain


def check_parity(record: ExportReport, floors: ExportTolerances) -> None:
    """Refuse a tower below a floor."""
    name = f"{record.runtime} {record.precision}"
    if record.precision == "int8":
        low = (record.agreement or 0) < floors.int8
        said = f"keeps the name of {record.agreement or 0:.1%} of {record.regions} regions"
        floor = f"{floors.int8:.0%}"
    else:
        floor = str(floors.bf16 if record.precision == "bf16" else floors.fp32)
        low = not record.cosine_min >= float(floor)  # NaN counts as low, too
        said = f"has a cosine of {record.cosine_min:.4f} to fp32 on its worst region"
    if low:
        raise ModelError(
            f"Refused: {name} {said}, under {floor}; nothing was written, use another precision."
        )
    if record.over_torch <= floors.speed:
        raise ModelError(
            f"Refused: {name} is {record.over_torch:.2f} times as fast here as torch in fp32, no "
            "gain; nothing was written, use another runtime, or torch as it is."
        )
    if (record.runtime, record.precision) != ("onnx", "fp32") and record.speed <= floors.speed:
        raise ModelError(
            f"Refused: {name} is {record.speed:.2f} times as fast here as ONNX Runtime in fp32, "
            "no gain; nothing was written, use --runtime onnx --precision fp32."
        )


def _target(folder: Path, out: Path | None) -> Path:
    """The folder for the graph; a whole bundle goes to a new folder, or replaces such a bundle."""
    if out is None:
        if (folder / WEIGHTS).is_symlink():
            raise OpenVocabError(f"{folder} is a cache of links; give another folder (--out).")
        if not os.access(folder, os.W_OK):
            raise OpenVocabError(f"{folder} cannot be written to; give another folder (--out).")
        return folder
    if out.exists() and (out.samefile(folder) or not out.is_dir()):
        raise OpenVocabError(f"{out} is the bundle itself, or no folder; choose another for --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise OpenVocabError(f"{out} holds other things than a bundle; choose another for --out.")
    return out


@contextmanager
def _staged(folder: Path, target: Path) -> Iterator[Path]:
    """A copy of the bundle on the target's disk, with links to large files."""
    home = target if target == folder else target.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".export-", dir=home)
        stage = Path(place.name)
    except OSError as error:
        raise OpenVocabError(
            f"{home} cannot be written to ({error.strerror}); give another folder (--out)."
        ) from error
    with place:
        for path in folder.iterdir():
            if path.is_file():
                _link(path.resolve(), stage / path.name)
        yield stage


def _link(source: Path, target: Path) -> None:
    """Hard-link weights; copy files that are small, made here, or on another disk."""
    large = source.stat().st_size > LARGE
    if large and target.name not in {GRAPH, INT8_GRAPH, RECORDS}:
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, or one without links
        else:
            return
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise OpenVocabError(
            f"{target} cannot be written ({error.strerror}); give another folder (--out)."
        ) from error


def _remember(stage: Path, record: ExportReport) -> None:
    """Add the record to those of the bundle, replacing an older one of its kind."""
    kind = record.runtime, record.precision
    others = [
        each
        for each in image_encoder_runtime.read_records(stage)
        if (each.runtime, each.precision) != kind and each.bundle_sha256 == record.bundle_sha256
    ]
    (stage / RECORDS).write_bytes(image_encoder_runtime.to_json([*others, record]))


def _deliver(stage: Path, target: Path, *, whole: bool) -> None:
    """Move the new files into the target, the record last."""
    made = sorted(path.name for path in stage.iterdir()) if whole else [GRAPH, INT8_GRAPH, RECORDS]
    made.sort(key=lambda name: name == RECORDS)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in made:
            if (stage / name).is_file():
                (stage / name).replace(target / name)
    except OSError as error:
        raise OpenVocabError(
            f"{target} cannot be written to ({error.strerror}); give another folder (--out)."
        ) from error
