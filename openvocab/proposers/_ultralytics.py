"""Any detector that Ultralytics can load, as a proposer."""

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from openvocab._internal.environment import resolve_device
from openvocab._internal.runtimes import isolated_ultralytics, onnx_session, onnxruntime, openvino
from openvocab._internal.threads import limit_threads_after_fork, single_openmp_thread
from openvocab.config import ProposalConfig
from openvocab.errors import ModelError, WeightsNotFoundError, first_line
from openvocab.proposers._labels import OutputClasses
from openvocab.proposers._nms import distinct_rows
from openvocab.types import Image, Proposals

_OPENVINO_SUFFIX = "_openvino_model"
_MAX_STRIDE = 64  # the coarsest of any YOLO, to which Ultralytics rounds image sizes up

# Arguments whose default Ultralytics changed recently, or which save and show by default.
_PINNED: dict[str, Any] = {
    "agnostic_nms": False,
    "nms": None,
    "quantize": None,
    "augment": False,
    "rect": True,
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

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: ProposalConfig | None = None,
        *,
        device: str | None = None,
        trust_pickle: bool = False,
    ) -> None:
        """Load the model; nothing is downloaded or installed.

        Args:
            path: a file or folder that `ultralytics.YOLO` loads: `.onnx`, `.pt`, OpenVINO, ...
            config: lowest objectness, IoU of NMS, most boxes, and input size; None uses the
                defaults.
            device: a torch device; None uses CUDA where available.
            trust_pickle: allow formats other than ONNX and OpenVINO, which can run any code; a
                `.pt`, for one, is a pickle.

        Raises:
            WeightsNotFoundError: there is no such file.
            ModelError: the format needs `trust_pickle`, the file is damaged, or it is not a
                detector.
        """
        path = Path(path)
        if not path.exists():
            raise WeightsNotFoundError(f"No detector at {path}; give the path of an existing file.")
        check_format(path, trust_pickle=trust_pickle)
        config = config or ProposalConfig()
        self._path = path
        self._iou = config.iou
        # The runtime runs the network in its own threads; torch only prepares its input.
        self._limit_torch = single_openmp_thread if _is_export(path) else contextlib.nullcontext
        self._lock = threading.Lock()
        self._ignored_numbers: tuple[int, ...] = ()
        self._arguments = _PINNED | {
            "conf": config.threshold,
            "iou": config.iou,
            "max_det": config.max_boxes,
            "device": resolve_device(device),
        }
        if config.image_size is not None:
            self._arguments["imgsz"] = config.image_size
        self._classes = OutputClasses(self._load(path))

    def with_ignored_labels(self, names: Collection[str]) -> Self:
        """The same network without some of its labels; both share its weights and its lock.

        A box of such a label gets the label with the next highest score, and that score as its
        objectness, before NMS and the limits apply: as if the network had never learnt the name.

        Args:
            names: labels, all of which the network has.

        Raises:
            ModelError: a name is not among the labels, no label would be left, or the network
                outputs one label per box instead of a score for each.
        """
        other = copy(self)
        is_end2end = getattr(self._model.predictor.model, "end2end", False)
        other._classes = self._classes.without(names, one_per_box=is_end2end)
        ignored = self._classes.names.keys() - other._classes.names.keys()
        other._ignored_numbers = (*self._ignored_numbers, *sorted(ignored))
        return other

    def _load(self, path: Path) -> dict[int, str]:
        """Load the model and run it once; returns its class names by number."""
        limit_threads_after_fork()
        threads = torch.get_num_threads()  # before Ultralytics changes it
        try:
            with isolated_ultralytics() as ultralytics:
                _import_runtime(path)
                self._model = ultralytics.YOLO(str(path))
                # The task and names of an export are known only once it runs.
                (result,) = self._predict(np.zeros((32, 32, 3), np.uint8))
                self._replace_onnx_session(path, threads)
        # Ultralytics, its eighteen backends and pickle may raise anything on a damaged file.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be loaded as a detector ({first_line(error)}); "
                "check the file, or pull or export it again."
            ) from error
        if "imgsz" in self._arguments:
            self._check_image_size(self._arguments["imgsz"])
        if self._model.task not in {"detect", "segment"}:
            raise ModelError(
                f"{path} is a {self._model.task} model; use one for detect or segment."
            )
        return {int(number): str(name) for number, name in dict(result.names).items()}

    def _check_image_size(self, image_size: int) -> None:
        """An export of fixed size ignores the argument; the network has just run with it."""
        native_size = max(self._model.predictor.imgsz)
        if abs(native_size - image_size) >= _MAX_STRIDE:
            raise ModelError(
                f"{self._path} was exported for {native_size} pixels, not {image_size}; leave the "
                "image size out, or export it again."
            )

    def with_image_size(self, image_size: int) -> Self:
        """The same network with another longer side of its input; both share weights and lock.

        Args:
            image_size: in pixels.

        Raises:
            ModelError: the file is an export of another, fixed size.
        """
        backend = self._model.predictor.model
        if backend.format != "pt" and not getattr(backend, "dynamic", False):
            self._check_image_size(image_size)
        other = copy(self)
        other._arguments = self._arguments | {"imgsz": image_size}
        return other

    def _replace_onnx_session(self, path: Path, threads: int) -> None:
        """Ultralytics sets no session options; see `runtimes.onnx_session` for those needed."""
        backend = self._model.predictor.model.backend
        if path.suffix.lower() == ".onnx" and backend.device.type == "cpu":
            backend.session = onnx_session(path, threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The detector's own labels, each once."""
        return self._classes.labels

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        limit_threads_after_fork()
        # One by one: exports often have a fixed batch of one, and on a CPU a batch gains nothing.
        with self._lock, self._limit_torch():
            results = [self._predict(image)[0] for image in images]
        return [
            self._proposals(result, image) for result, image in zip(results, images, strict=True)
        ]

    def _predict(self, image: Image) -> Any:  # noqa: ANN401  ultralytics is untyped
        with _zeroed_scores(self._model.predictor, self._ignored_numbers):
            return self._model.predict(np.ascontiguousarray(image), **self._arguments)

    def _proposals(self, result: Any, image: Image) -> Proposals:  # noqa: ANN401
        height, width = image.shape[:2]
        boxes = result.boxes.cpu().numpy()
        xyxy = boxes.xyxy.astype(np.float32).reshape(-1, 4)
        objectness = boxes.conf.astype(np.float32).clip(0, 1)
        label_ids, label_confidence = self._classes.label_boxes(boxes.cls, objectness)
        proposals = Proposals(
            xyxy.clip(0, np.array([width, height] * 2, np.float32)),
            objectness,
            label_ids,
            self._masks(result, (height, width)),
            label_confidence,
        )
        return proposals[distinct_rows(proposals, self._iou)]

    def _masks(self, result: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:  # noqa: ANN401
        if self._model.task != "segment":
            return None
        if result.masks is None:
            return np.zeros((0, *shape), np.bool_)
        masks: NDArray[np.bool_] = result.masks.data.cpu().numpy().astype(np.bool_)
        return masks


@contextlib.contextmanager
def _zeroed_scores(predictor: Any, numbers: Sequence[int]) -> Iterator[None]:  # noqa: ANN401
    """Zero the scores of some classes in a predictor's raw output, before its NMS.

    Of its own it can only drop boxes whose best class is unwanted. The caller holds the lock.
    """
    if not numbers:
        yield
        return
    postprocess = predictor.postprocess

    def masked(outputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        boxes = outputs
        while isinstance(boxes, list | tuple):  # with training outputs, or with mask prototypes
            boxes = boxes[0]
        boxes[:, [4 + number for number in numbers]] = 0  # (1, 4 + classes + masks, anchors)
        return postprocess(outputs, *args, **options)

    predictor.postprocess = masked
    try:
        yield
    finally:
        del predictor.postprocess  # the class's own is found again


def check_format(path: Path, *, trust_pickle: bool) -> None:
    """Refuse files that could run code, unless the user trusts them, and files without weights.

    Raises:
        ModelError: the file is of such a format.
    """
    if path.suffix.lower() in {".yaml", ".yml"}:
        raise ModelError(f"{path} describes a model without weights; give a trained one.")
    if not _is_export(path) and not trust_pickle:
        raise ModelError(
            f"{path} is of a format that can run code when loaded; pass trust_pickle=True (in a "
            "preset: trust_pickle = true; to `openvocab export`: --trust-pickle) if you trust its "
            "source, or export it to ONNX."
        )


def _is_export(path: Path) -> bool:
    """Whether a file is of a format that holds data, not code, and that torch does not run."""
    return path.suffix.lower() == ".onnx" or (
        path.is_dir() and path.name.endswith(_OPENVINO_SUFFIX)
    )


def _import_runtime(path: Path) -> None:
    """Import the runtime before Ultralytics does, which would leave its telemetry on."""
    if path.name.endswith(_OPENVINO_SUFFIX) and find_spec("openvino"):
        openvino()
    elif path.suffix.lower() == ".onnx":
        onnxruntime()
