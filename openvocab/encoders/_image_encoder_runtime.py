"""Runs the image encoder of a bundle as a graph: chooses the graph, and the runtime for it."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from openvocab._internal.files import sha256
from openvocab._internal.runtimes import onnx_session, openvino
from openvocab.errors import ModelError
from openvocab.types import Features

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
GRAPH, INT8_GRAPH = "image.onnx", "image-int8.onnx"
REPORTS = "image.json"
"""Lists the exports besides `image.onnx`, as `ExportReport`s."""
LAYOUT = "layout_sha256"
"""Key in a graph's metadata, written by the export, for a hash of what the graph was made for: the
positions in the weights' file, and the mean and deviation of pixels."""

RUNS = {("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16")}
"""Runtimes and precisions that have a report: all but ONNX Runtime in fp32."""

Forward = Callable[[NDArray[np.uint8]], Features]
"""Regions `(N, S, S, 3)` BGR to unit features `(N, D)`; thread-safe."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Measurements of an export, tied to the weights with which it was made."""

    runtime: str
    """`onnx` or `openvino`."""
    precision: str
    """`fp32`, `bf16` or `int8`."""
    bundle_sha256: str
    """Hash of weights and configuration."""
    graph_sha256: str
    regions: int
    """Regions of real images on which it was compared with torch in fp32; 0 means noise."""
    cosine_min: float
    cosine_mean: float
    agreement: float | None
    """Share of the regions that keep their nearest word; None without words."""
    over_torch: float
    """Speed relative to torch in fp32, with batches of 16, on the machine that exported it."""
    speed: float
    """Speed relative to `image.onnx` in ONNX Runtime, measured in the same way."""

    @property
    def fingerprint(self) -> str:
        """Suffix for the fingerprint of an encoder; empty if the features are those of fp32."""
        if self.precision == "fp32":
            return ""
        graph = f"/{self.graph_sha256[:16]}" if self.precision == "int8" else ""
        return f"/{self.runtime}-{self.precision}{graph}"


def fastest(folder: Path, bundle_sha256: str) -> tuple[Forward, str] | None:
    """The fastest graph of a bundle that this machine can run; None without graphs.

    Returns:
        The loaded graph, and a suffix for the fingerprint of the encoder.

    Raises:
        ModelError: a graph or a report is damaged, or was made from another bundle.
    """
    weights = folder / WEIGHTS
    for report in sorted(read_reports(folder), key=lambda report: -report.speed):
        if report.bundle_sha256 != bundle_sha256:
            raise ModelError(
                f"{folder / REPORTS} was made from other weights or another configuration; "
                "delete it and run `openvocab export` again."
            )
        if report.runtime == "openvino" and find_spec("openvino") is None:
            logger.warning(
                "%s was exported for OpenVINO, which is not installed; for its speed run "
                '`pip install "openvocab[export]"`.', folder,
            )  # fmt: skip
            continue
        graph = graph_of(folder, report.precision)
        if graph.is_file() and sha256(graph) != report.graph_sha256:
            raise ModelError(f"{graph} is not that of {REPORTS}; run `openvocab export` again.")
        return load(graph, weights, report.runtime, report.precision), report.fingerprint
    if (folder / GRAPH).is_file():
        return load(folder / GRAPH, weights, "onnx", "fp32"), ""
    return None


def load(graph: Path, weights: Path, runtime: str, precision: str) -> Forward:
    """Load a graph in its runtime, with as many threads as torch has.

    `image.onnx` holds no weights but refers to those in the safetensors file beside it (ONNX
    external data), so text and images cannot come from two trainings.

    Raises:
        ModelError: the file is not a graph, or belongs to another safetensors file.
    """
    try:
        if runtime == "openvino":
            return _openvino(graph, precision)
        forward, metadata = _onnx(graph)
    # Both runtimes raise a dozen errors, few of them public.
    except Exception as error:
        raise ModelError(
            f"{graph} cannot be loaded ({type(error).__name__}); delete it or pull it again."
        ) from error
    # OpenVINO does not expose the metadata; the report beside it holds the hash of both files.
    if precision == "fp32" and metadata.get(LAYOUT) != layout(weights):
        raise ModelError(f"{graph} was made for another {weights.name} or {CONFIG}; delete it.")
    return forward


def _onnx(graph: Path) -> tuple[Forward, dict[str, str]]:
    session = onnx_session(graph, torch.get_num_threads())

    def forward(regions: NDArray[np.uint8]) -> Features:
        (features,) = session.run(None, {"regions": regions})
        return features

    return forward, session.get_modelmeta().custom_metadata_map


def _openvino(graph: Path, precision: str) -> Forward:
    core = openvino().Core()
    # By default, it computes in bf16 if the processor can.
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    lock = threading.Lock()  # a compiled model has one request, which all calls share

    def forward(regions: NDArray[np.uint8]) -> Features:
        with lock:
            features: Features = compiled(regions)[0]
        return features

    return forward


def read_reports(folder: Path) -> list[ExportReport]:
    """Read the reports in `image.json`; none if there is no such file.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / REPORTS
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["exports"]
        reports = [ExportReport(**row | {"speed": float(row["speed"])}) for row in rows]
        if unknown := {(report.runtime, report.precision) for report in reports} - RUNS:
            raise ValueError(f"unknown {unknown}")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); delete it and run `openvocab export` again."
        ) from error
    return reports


def add_report(folder: Path, report: ExportReport) -> None:
    """Add a report to `image.json`, in place of an older one of its kind or of other weights."""
    reports = [
        other
        for other in read_reports(folder)
        if (other.runtime, other.precision) != (report.runtime, report.precision)
        and other.bundle_sha256 == report.bundle_sha256
    ]
    rows = [asdict(report) for report in (*reports, report)]
    (folder / REPORTS).write_text(json.dumps({"exports": rows}, indent=1) + "\n")


def graph_of(folder: Path, precision: str) -> Path:
    """The graph's file: int8 has its own, with weights; OpenVINO reads that of ONNX Runtime."""
    return folder / (INT8_GRAPH if precision == "int8" else GRAPH)


def identity(folder: Path) -> str:
    """SHA-256 of weights and configuration."""
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update((folder / CONFIG).read_bytes())
    return digest.hexdigest()


def layout(weights: Path) -> str:
    """The value of `LAYOUT` for a bundle with these weights."""
    preprocessing = json.loads(weights.with_name(CONFIG).read_bytes()).get("preprocess_cfg", {})
    normalization = json.dumps([preprocessing.get(key) for key in ("mean", "std")])
    return hashlib.sha256(header(weights) + normalization.encode()).hexdigest()


def header(weights: Path) -> bytes:
    """Header of a safetensors file, JSON: type, shape and position of each tensor."""
    with weights.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))
