"""The image tower of a bundle as a graph: which of its graphs to run, and in which runtime."""

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
RECORDS = "image.json"
"""Lists the exports besides `image.onnx`, with their measurements, as `Record`s."""
LAYOUT = "layout_sha256"
"""Key in a graph's metadata, written by the export, for a hash of what the graph was made for: the
positions in the weights' file, and the mean and deviation of pixels."""

Forward = Callable[[NDArray[np.uint8]], Features]
"""Regions `(N, S, S, 3)` BGR to unit features `(N, D)`; thread-safe."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A tower that passed its gate, tied to the weights with which it was measured."""

    runtime: str
    """`onnx` or `openvino`."""
    precision: str
    """`fp32`, `bf16` or `int8`."""
    bundle_sha256: str
    """Hash of weights and configuration."""
    graph_sha256: str
    regions: int
    """Regions of real pictures on which it was compared with torch in fp32; 0 means noise."""
    cosine_min: float
    cosine_mean: float
    agreement: float | None
    """Share of the regions that keep their nearest word; None without words."""
    over_torch: float
    """Speed relative to torch in fp32, with batches of 16, on the machine that exported it."""
    speed: float
    """Speed relative to `image.onnx` in ONNX Runtime, measured in the same way."""

    @property
    def mark(self) -> str:
        """Suffix for a fingerprint; empty if the features are those of fp32."""
        if self.precision == "fp32":
            return ""
        of = f"/{self.graph_sha256[:16]}" if self.precision == "int8" else ""
        return f"/{self.runtime}-{self.precision}{of}"


def fastest(folder: Path, bundle_sha256: str) -> tuple[Forward, str] | None:
    """The fastest tower of a bundle that this machine can run, and its mark; None without graphs.

    Raises:
        ModelError: a graph or a record is damaged, or was made from another bundle.
    """
    weights = folder / WEIGHTS
    records = sorted(read_records(folder), key=lambda record: -record.speed)
    for record in records:
        if record.bundle_sha256 != bundle_sha256:
            raise ModelError(
                f"{folder / RECORDS} is not of the weights and configuration beside it; "
                "delete it and run `openvocab export` again."
            )
        if record.runtime == "openvino" and find_spec("openvino") is None:
            logger.warning(
                "%s was exported for OpenVINO, which is not installed; for its speed run "
                '`pip install "openvocab[export]"`.', folder,
            )  # fmt: skip
            continue
        graph = graph_of(folder, record.precision)
        if graph.is_file() and sha256(graph) != record.graph_sha256:
            raise ModelError(f"{graph} is not the one of {RECORDS}; run `openvocab export` again.")
        return load(graph, weights, record.runtime, record.precision), record.mark
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
    make = _openvino if runtime == "openvino" else _onnx
    try:
        forward, metadata = make(graph, precision)
    # Both runtimes raise a dozen errors, few of them public.
    except Exception as error:
        raise ModelError(
            f"{graph} cannot be loaded ({type(error).__name__}); delete it or pull it again."
        ) from error
    # OpenVINO does not expose the metadata; the record beside it holds the hash of both files.
    if metadata is not None and precision == "fp32" and metadata.get(LAYOUT) != layout(weights):
        raise ModelError(f"{graph} is not of the {weights.name} and {CONFIG} beside it; delete it.")
    return forward


def _onnx(graph: Path, _: str) -> tuple[Forward, dict[str, str] | None]:
    session = onnx_session(graph, torch.get_num_threads())

    def forward(regions: NDArray[np.uint8]) -> Features:
        (features,) = session.run(None, {"regions": regions})
        return features

    return forward, session.get_modelmeta().custom_metadata_map


def _openvino(graph: Path, precision: str) -> tuple[Forward, dict[str, str] | None]:
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

    return forward, None


def read_records(folder: Path) -> list[ExportReport]:
    """Read the records of `image.json`; none if there is no such file.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / RECORDS
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["towers"]
        records = [ExportReport(**row | {"speed": float(row["speed"])}) for row in rows]
        for record in records:
            if (record.runtime, record.precision) not in {
                ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
            }:  # fmt: skip
                raise ValueError(f"{record.runtime} {record.precision}")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); delete it and run `openvocab export` again."
        ) from error
    return records


def to_json(records: list[ExportReport]) -> bytes:
    """Write records in the form that `read_records` reads."""
    return (json.dumps({"towers": [asdict(each) for each in records]}, indent=1) + "\n").encode()


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
    process = json.loads(weights.with_name(CONFIG).read_bytes()).get("preprocess_cfg", {})
    normalised = json.dumps([process.get(key) for key in ("mean", "std")])
    return hashlib.sha256(header(weights) + normalised.encode()).hexdigest()


def header(weights: Path) -> bytes:
    """Header of a safetensors file, JSON: type, shape and position of each tensor."""
    with weights.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))
