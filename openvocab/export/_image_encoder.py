"""Exports the image encoder of a bundle as a graph, if it is as accurate as fp32 and faster."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvocab._internal.environment import require_packages
from openvocab._internal.files import sha256
from openvocab.encoders import _image_encoder_runtime as runtimes
from openvocab.encoders._image_encoder_runtime import CONFIG, GRAPH, INT8_GRAPH, REPORTS, WEIGHTS
from openvocab.encoders._openclip import OpenClipEncoder, bundle_folder
from openvocab.encoders._text_cache import TextFeatureCache
from openvocab.errors import ModelError, OpenVocabError
from openvocab.export._graph import quantize, trace
from openvocab.export._parity import ExportTolerances, check_parity, check_samples, compare
from openvocab.io._folders import writing_to
from openvocab.types import Boxes, Features, Image

Samples = Sequence[tuple[Image, Boxes]]
PRECISIONS = {
    "onnx": ("fp32", "int8"),  # ONNX Runtime has no bf16 kernels on a CPU
    "openvino": ("fp32", "bf16"),
}
BATCH = 16


def export(
    bundle: str | os.PathLike[str],
    runtime: str,
    precision: str,
    *,
    samples: Samples = (),
    words: Sequence[str] = (),
    out: Path | None = None,
    tolerances: ExportTolerances | None = None,
) -> runtimes.ExportReport:
    """Write the image encoder of an open_clip bundle as a graph, if it passes `check_parity`.

    Args:
        bundle: folder of the bundle, or `MODEL:TAG` in open_clip's cache.
        runtime: `onnx` or `openvino`.
        precision: `fp32`, `bf16` (OpenVINO) or `int8` (ONNX Runtime).
        samples: real images, BGR, and boxes `(N, 4)` in them; needed for all but fp32.
        words: words to name the regions with, to count those that keep their name.
        out: folder for a whole bundle with the graph; None adds the graph to the bundle itself.
        tolerances: limits in place of the defaults.

    Returns:
        The measurements; also written to `image.json` in the bundle, except for ONNX Runtime in
        fp32.

    Raises:
        WeightsNotFoundError: there is no such bundle.
        ModelError: a package is missing, there are too few regions, or the export was refused
            (nothing is written).
        OpenVocabError: the folder cannot be written to.
    """
    check_kind(runtime, precision)
    regions = sum(len(boxes) for _, boxes in samples)
    check_samples(precision, regions, words)
    folder = bundle_folder(bundle)
    _check_target(folder, out)
    encoder = OpenClipEncoder(folder, device="cpu", graphs=False, batch_size=BATCH)
    is_baseline = (runtime, precision) == ("onnx", "fp32")
    with staged_bundle(folder, out) as stage:
        weights, graph = stage / WEIGHTS, runtimes.graph_of(stage, precision)
        if is_baseline or not (stage / GRAPH).is_file():
            (stage / GRAPH).write_bytes(trace(encoder.image_encoder, encoder.crop_size, weights))
        if precision == "int8":
            graph.write_bytes(quantize(stage / GRAPH))
        onnx_fp32 = exported = runtimes.load(stage / GRAPH, weights, "onnx", "fp32")
        if not is_baseline:
            exported = runtimes.load(graph, weights, runtime, precision)

        report = runtimes.ExportReport(
            runtime=runtime,
            precision=precision,
            bundle_sha256=runtimes.identity(stage),
            graph_sha256=sha256(graph),
            regions=regions,
            **_measure(encoder, exported, onnx_fp32, samples or [_noise()], words),
        )
        check_parity(report, tolerances or ExportTolerances())
        if not is_baseline:
            runtimes.add_report(stage, report)
    return report


def check_kind(runtime: str, precision: str) -> None:
    """Check that there is such an export, and that what it needs is installed.

    Raises:
        ModelError: there is no such export, or a package is missing.
    """
    if precision not in PRECISIONS.get(runtime, ()):
        kinds = ", ".join(
            f"{name} {option}" for name, options in PRECISIONS.items() for option in options
        )
        raise ModelError(f"No image encoder is exported to {runtime} {precision}; use {kinds}.")
    if runtime == "openvino":
        require_packages("The export", "export", "openvino")
    if precision == "int8":
        require_packages("The export", "export", "onnx")


def _measure(
    encoder: OpenClipEncoder,
    exported: runtimes.Forward,
    onnx_fp32: runtimes.Forward,
    samples: Samples,
    words: Sequence[str],
) -> dict[str, Any]:
    def torch_fp32(batch: NDArray[np.uint8]) -> Features:
        features: Features = encoder.encode_crops(torch.from_numpy(batch)).numpy()
        return features

    images, boxes = zip(*samples, strict=True)
    batches = [batch.numpy() for batch in encoder.crop_batches(images, boxes)]
    word_features = TextFeatureCache(encoder, "simple")(words) if words else None
    return compare(exported, torch_fp32, onnx_fp32, batches, word_features)


def _noise() -> tuple[Image, Boxes]:
    """An image of noise, enough to check whether a graph computes the same."""
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    corners = np.arange(BATCH, dtype=np.float32)[:, None] * 8
    return image, np.hstack([corners, corners, corners + 64, corners + 128]).astype(np.float32)


def _check_target(folder: Path, out: Path | None) -> None:
    """A whole bundle goes to a new folder, or replaces another bundle."""
    if out is None:
        if (folder / WEIGHTS).is_symlink():
            raise OpenVocabError(f"{folder} is a cache of links; give another folder (--out).")
    elif out.exists() and (out.samefile(folder) or not out.is_dir()):
        raise OpenVocabError(f"{out} is the bundle itself or a file; choose another for --out.")
    elif out.is_dir() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise OpenVocabError(f"{out} holds other things than a bundle; choose another for --out.")


@contextmanager
def staged_bundle(folder: Path, out: Path | None) -> Iterator[Path]:
    """A temporary copy of the bundle; if the block succeeds, its files move into `out`.

    Without `out`, only the graphs and reports move, into the bundle itself.
    """
    target = out or folder
    home = target.parent if out else folder
    with writing_to(target):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=home) as name:
            stage = Path(name)
            for path in folder.iterdir():
                if path.is_file():
                    _copy(path.resolve(), stage / path.name)
            yield stage
            target.mkdir(exist_ok=True)
            made = list(stage.iterdir()) if out else [stage / GRAPH, stage / INT8_GRAPH]
            for path in [*made, stage / REPORTS]:  # the reports last
                if path.is_file():
                    path.replace(target / path.name)


def _copy(source: Path, target: Path) -> None:
    """Hard-link the weights, which are large; copy files that are small or on another disk."""
    if target.name == WEIGHTS:
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, or one without links
        else:
            return
    shutil.copyfile(source, target)
