"""Any detector that Ultralytics can load, as a proposer."""

import contextlib
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from openvocab._internal.environment import resolve_device, single_openmp_thread
from openvocab._internal.runtimes import isolated_ultralytics, onnx_session, onnxruntime, openvino
from openvocab.errors import ModelError, WeightsNotFoundError, first_line
from openvocab.types import Boxes, Image, Proposals

OPENVINO = "_openvino_model"
STRIDE = 64  # the coarsest of any YOLO, to which Ultralytics rounds image sizes up

# Given where Ultralytics changed a default recently, or saves and shows by default.
PINNED: dict[str, Any] = {
    "agnostic_nms": False,
    "nms": None,
    "quantize": None,
    "augment": False,
    "rect": False,
    "retina_masks": True,
    "verbose": False,
    "save": False,
    "stream": False,
    "show": False,
}


class UltralyticsProposer:
    """Proposes boxes, objectness, labels and masks from an Ultralytics detect or segment model.

    Thread-safe: an Ultralytics predictor keeps state, so a lock lets one call in at a time.
    Source: Ultralytics `YOLO.predict`, with every argument pinned whose default changed recently.
    """

    def __init__(  # noqa: PLR0913  keywords, each with a default
        self,
        path: str | os.PathLike[str],
        *,
        threshold: float = 0.001,
        iou: float = 0.7,
        max_boxes: int = 300,
        image_size: int | None = None,
        device: str | None = None,
        trust_pickle: bool = False,
    ) -> None:
        """Load the model; nothing is downloaded or installed.

        Args:
            path: a file or folder that `ultralytics.YOLO` loads: `.onnx`, `.pt`, OpenVINO, ...
            threshold: lowest objectness proposed, 0 to 1.
            iou: overlap above which the weaker box of the same label is dropped.
            max_boxes: most boxes per image.
            image_size: longer side that the network sees, in pixels, rounded up to its stride;
                None uses the size it was made for.
            device: a torch device; None uses CUDA where available.
            trust_pickle: allow formats other than ONNX and OpenVINO, which can run any code; a
                `.pt`, for one, is a pickle.

        Raises:
            WeightsNotFoundError: there is no such file.
            ModelError: the format needs `trust_pickle`, the file is damaged, or it is not a
                detector.
        """
        file = Path(path)
        if not file.exists():
            raise WeightsNotFoundError(f"No detector at {file}; give the path of an existing file.")
        check_format(file, trust_pickle=trust_pickle)
        self._iou = iou
        # The runtime runs the network in its own threads; torch only prepares its input.
        self._threads = single_openmp_thread if _is_export(file) else contextlib.nullcontext
        self._lock = threading.Lock()
        self._arguments = PINNED | {
            "conf": threshold,
            "iou": iou,
            "max_det": max_boxes,
            "device": resolve_device(device),
        }
        if image_size is not None:
            self._arguments["imgsz"] = image_size
        self._names = self._load(file)
        self._words = tuple(dict.fromkeys(self._names.values()))
        self._places = {word: place for place, word in enumerate(self._words)}

    def _load(self, file: Path) -> dict[int, str]:
        """Load the model and run it once; returns its names by number."""
        threads = torch.get_num_threads()  # before Ultralytics changes it
        try:
            with isolated_ultralytics() as ultralytics:
                _import_runtime(file)
                self._model = ultralytics.YOLO(str(file))
                # The task and names of an export are known only once it runs.
                (first,) = self._predict(np.zeros((32, 32, 3), np.uint8))
                self._rest_between_runs(file, threads)
        # Ultralytics, its eighteen backends and pickle may raise anything on a damaged file.
        except Exception as error:
            raise ModelError(
                f"{file} cannot be loaded as a detector ({first_line(error)}); "
                "check the file, or pull or export it again."
            ) from error
        made_for, wanted = max(self._model.predictor.imgsz), self._arguments.get("imgsz")
        if wanted is not None and abs(made_for - wanted) >= STRIDE:
            raise ModelError(
                f"{file} was exported for {made_for} pixels, not {wanted}; leave the image size "
                "out, or export it again."
            )
        if self._model.task not in {"detect", "segment"}:
            raise ModelError(
                f"{file} is a {self._model.task} model; use one for detect or segment."
            )
        return {int(key): str(name) for key, name in dict(first.names).items()}

    def _rest_between_runs(self, file: Path, threads: int) -> None:
        """Replace the session: Ultralytics sets no options; see `runtimes.onnx_session` for why."""
        backend = self._model.predictor.model.backend
        if file.suffix.lower() == ".onnx" and backend.device.type == "cpu":
            backend.session = onnx_session(file, threads)

    @property
    def names(self) -> tuple[str, ...]:
        """The detector's own names, each once."""
        return self._words

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        # One by one: exports are often fixed at a batch of one, and on a CPU a batch gains nothing.
        with self._lock, self._threads():
            results = [self._predict(image)[0] for image in images]
        return [
            self._proposals(result, image) for result, image in zip(results, images, strict=True)
        ]

    def _predict(self, image: Image) -> Any:  # noqa: ANN401  ultralytics is untyped
        return self._model.predict(np.ascontiguousarray(image), **self._arguments)

    def _proposals(self, result: Any, image: Image) -> Proposals:  # noqa: ANN401
        height, width = image.shape[:2]
        boxes = result.boxes.cpu().numpy()
        xyxy = boxes.xyxy.astype(np.float32).reshape(-1, 4)
        xyxy = xyxy.clip(0, np.array([width, height] * 2, np.float32))
        objectness = boxes.conf.astype(np.float32).clip(0, 1)
        labels = [self._names[int(index)] for index in boxes.cls]
        rows = self._best(xyxy, objectness, np.array([self._places[each] for each in labels]))
        masks = None
        if self._model.task == "segment":
            found = result.masks
            masks = (
                np.zeros((0, height, width), bool)
                if found is None
                else found.data.cpu().numpy()[rows].astype(bool)
            )
        kept = tuple(labels[row] for row in rows.tolist())
        return Proposals(xyxy[rows], objectness[rows], kept, masks)

    def _best(
        self, xyxy: Boxes, objectness: NDArray[np.float32], words: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Rows to keep, best first, without specks and near-duplicates.

        NMS-free heads skip Ultralytics' NMS, but do return some near-duplicates.
        """
        sides = xyxy[:, 2:] - xyxy[:, :2]
        solid = np.isfinite(xyxy).all(axis=1) & (sides >= 1).all(axis=1)
        rows = np.flatnonzero(solid)
        # Boxes of two labels are moved too far apart to meet; float64 still resolves pixels there.
        apart = xyxy[rows] + words[rows, None] * (float(xyxy[rows].max(initial=0)) + 1)
        scores = torch.from_numpy(objectness[rows].astype(np.float64))
        return rows[nms(torch.from_numpy(apart), scores, self._iou).numpy()]


def check_format(file: Path, *, trust_pickle: bool) -> None:
    """Refuse files that could run code, unless the user trusts them, and files without weights."""
    if file.suffix.lower() in {".yaml", ".yml"}:
        raise ModelError(f"{file} describes a model without weights; give a trained one.")
    if not _is_export(file) and not trust_pickle:
        raise ModelError(
            f"{file} is of a format that can run code when loaded; pass trust_pickle=True (in a "
            "preset: trust_pickle = true; to `openvocab export`: --trust-pickle) if you trust where "
            "it comes from, or export it to ONNX."
        )


def _is_export(file: Path) -> bool:
    """Whether a file is of a format that holds data, not code, and that torch does not run."""
    return file.suffix.lower() == ".onnx" or (file.is_dir() and file.name.endswith(OPENVINO))


def _import_runtime(file: Path) -> None:
    """Import the runtime before Ultralytics does, which would leave its telemetry on."""
    if file.name.endswith(OPENVINO) and find_spec("openvino"):
        openvino()
    elif file.suffix.lower() == ".onnx":
        onnxruntime()
