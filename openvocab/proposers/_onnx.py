"""Runs YOLO detectors that were exported to ONNX, with ONNX Runtime alone."""

import ast
import os
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from openvocab._internal.runtimes import onnx_session
from openvocab._internal.threads import limit_threads_after_fork
from openvocab.config import ProposalConfig
from openvocab.errors import ModelError, WeightsNotFoundError, first_line
from openvocab.proposers._labels import label_names
from openvocab.proposers._nms import distinct_rows
from openvocab.types import Boxes, Image, Proposals

_MAX_BATCH = 8  # images in one run, which bounds the memory
_MAX_CANDIDATES = 30_000  # boxes that enter NMS, as in Ultralytics
_MAX_UNNAMED = 600  # candidates for boxes that no label fits, of some 2,000; NMS takes 2 ms
_GREY = (114, 114, 114)  # of the border around an image


class ONNXProposer:
    """Proposes boxes, objectness and labels from a detector in ONNX, as Ultralytics exports it.

    Exports of fixed and of dynamic size are supported, with NMS and without. With a dynamic size,
    an image is padded to whole strides only, and images of one shape go through in one run.
    Thread-safe, without a lock. Source: letterbox and NMS of Ultralytics `YOLO.predict`, whose
    boxes it returns within float error.
    """

    def __init__(self, path: str | os.PathLike[str], config: ProposalConfig | None = None) -> None:
        """Load the model.

        Args:
            path: an `.onnx` file with the metadata that Ultralytics writes.
            config: lowest objectness, IoU of NMS, most boxes, and input size; None uses the
                defaults.

        Raises:
            WeightsNotFoundError: there is no such file.
            ModelError: the file is damaged, or no detector that Ultralytics exported.
        """
        path = Path(path)
        if not path.exists():
            raise WeightsNotFoundError(f"No detector at {path}; give the path of an existing file.")
        self._config = config or ProposalConfig()
        try:
            self._session = onnx_session(path, torch.get_num_threads())
            metadata = read_metadata(self._session)
            (entry,) = self._session.get_inputs()
            batch, _, height, _ = entry.shape
            self._stride, native_size = int(metadata["stride"]), max(metadata["imgsz"])
            names = {int(number): str(name) for number, name in metadata["names"].items()}
        # ONNX Runtime and `literal_eval` raise many types on a damaged file.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be loaded as a detector ({first_line(error)}); "
                "check the file, or pull or export it again."
            ) from error
        self._input = entry.name
        self._fixed_batch = batch if isinstance(batch, int) else None
        self._is_dynamic = not isinstance(height, int)
        self._path, self._size = path, native_size
        if self._config.image_size is not None:
            self._size = self._input_size(self._config.image_size)
        self._is_single_label = bool(metadata.get("end2end") or metadata["args"].get("nms"))
        self._set_names(names)

    def _input_size(self, image_size: int) -> int:
        """A size in whole strides.

        Raises:
            ModelError: the file has another, fixed size.
        """
        size = -(-image_size // self._stride) * self._stride
        if size != self._size and not self._is_dynamic:
            raise ModelError(
                f"{self._path} was exported for {self._size} pixels, not {image_size}; leave the "
                "image size out, or export it again."
            )
        return size

    def with_image_size(self, image_size: int) -> Self:
        """The same network with another longer side of its input, in pixels.

        Raises:
            ModelError: the file has another, fixed size.
        """
        other = copy(self)
        other._size = self._input_size(image_size)
        return other

    def _set_names(self, names: dict[int, str]) -> None:
        """Set the labels, and which columns of the output score them."""
        self._names, self._labels = names, label_names(names.values())
        labelled = {number: name for number, name in names.items() if name in self._labels}
        self._columns = np.array(list(names), np.intp)
        self._label_columns = np.array(list(labelled), np.intp)
        self._label_ids = np.zeros(max(names) + 1, np.intp)
        for number, name in labelled.items():
            self._label_ids[number] = self._labels.index(name)

    def with_ignored_labels(self, names: Collection[str]) -> Self:
        """The same network without some of its labels; both share its weights.

        A box of such a label gets the label with the next highest score, before NMS and the limits
        apply: as if the network had never learnt the name.

        Args:
            names: labels, all of which the network has.

        Raises:
            ModelError: a name is not among the labels, no label would be left, or the network
                outputs one label per box instead of a score for each.
        """
        unknown = [name for name in names if name not in self._labels]
        if unknown:
            raise ModelError(f"The detector has no label {unknown[0]!r}; name one of its labels.")
        if self._is_single_label:
            raise ModelError(
                "This detector outputs one label per box, so none can be left out; use one that "
                "scores every label, or export it without NMS and with end2end=False."
            )
        if set(self._labels) <= set(names):
            raise ModelError("Every label of the detector would be ignored; leave one.")
        other = copy(self)
        other._set_names({n: name for n, name in self._names.items() if name not in names})
        return other

    @property
    def labels(self) -> tuple[str, ...]:
        """The detector's own labels, each once."""
        return self._labels

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Find boxes in images `(H, W, 3)` BGR, best objectness first; one result per image."""
        limit_threads_after_fork()
        letterboxes = [self._letterbox(image) for image in images]
        numbers_by_shape: dict[tuple[int, int], list[int]] = {}
        for number, letterbox in enumerate(letterboxes):
            numbers_by_shape.setdefault(letterbox.input_shape, []).append(number)
        proposals: dict[int, Proposals] = {}
        step = self._fixed_batch or _MAX_BATCH
        for numbers in numbers_by_shape.values():
            for start in range(0, len(numbers), step):
                batch = numbers[start : start + step]
                outputs = self._run([letterboxes[number].apply(images[number]) for number in batch])
                for number, output in zip(batch, outputs, strict=True):
                    proposals[number] = self._proposals(output, letterboxes[number])
        return [proposals[number] for number in range(len(images))]

    def _letterbox(self, image: Image) -> "Letterbox":
        height, width = image.shape[:2]
        scale = min(self._size / height, self._size / width)
        resized = max(round(height * scale), 1), max(round(width * scale), 1)
        if self._is_dynamic:
            shape = tuple(-(-side // self._stride) * self._stride for side in resized)
        else:
            shape = (self._size, self._size)
        return Letterbox((height, width), resized, (shape[0], shape[1]), scale)

    def _run(self, inputs: list[Image]) -> NDArray[np.float32]:
        pixels = cv2.dnn.blobFromImages(inputs, 1 / 255, swapRB=True)
        if self._fixed_batch is not None:
            empty = np.zeros((self._fixed_batch - len(inputs), *pixels.shape[1:]), np.float32)
            pixels = np.concatenate([pixels, empty])
        outputs: NDArray[np.float32] = self._session.run(None, {self._input: pixels})[0]
        return outputs[: len(inputs)]

    def _proposals(self, output: NDArray[np.float32], letterbox: "Letterbox") -> Proposals:
        """Boxes from rows `(M, 6)` after NMS, or from columns `(4 + classes, M)` before it."""
        if output.shape[1] == 6:
            output = output[output[:, 4] >= self._config.threshold]
            xyxy, objectness = output[:, :4], output[:, 4]
            confidence, numbers = objectness, output[:, 5].astype(np.intp)
        else:
            scores = output[4:]
            objectness = scores[self._columns].max(axis=0)
            rows = np.flatnonzero(objectness >= self._config.threshold)
            rows = rows[np.argsort(-objectness[rows], kind="stable")[:_MAX_CANDIDATES]]
            confidence = scores[self._label_columns].max(axis=0)[rows]
            is_unnamed = confidence < objectness[rows]
            rows = rows[~is_unnamed | (np.cumsum(is_unnamed) <= _MAX_UNNAMED)]
            xyxy, objectness = _to_xyxy(output[:4, rows]), objectness[rows]
            scores = scores[np.ix_(self._label_columns, rows)]
            confidence = scores.max(axis=0)
            numbers = self._label_columns[scores.argmax(axis=0)]
        proposals = Proposals(
            letterbox.restore(xyxy),
            objectness.astype(np.float32).clip(0, 1),
            self._label_ids[numbers],
            label_confidence=confidence.astype(np.float32).clip(0, 1),
        )
        return proposals[distinct_rows(proposals, self._config.iou)[: self._config.max_boxes]]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image is resized and padded to the input of a network; sizes are height and width."""

    image_shape: tuple[int, int]
    resized_shape: tuple[int, int]
    input_shape: tuple[int, int]
    scale: float

    @property
    def _margins(self) -> tuple[int, int]:
        """Pixels above and to the left of the image."""
        pairs = zip(self.input_shape, self.resized_shape, strict=True)
        top, left = (round((side - resized) / 2 - 0.1) for side, resized in pairs)
        return top, left

    def apply(self, image: Image) -> Image:
        """Resize an image `(H, W, 3)` and pad it with grey."""
        height, width = self.resized_shape
        resized: Any = image
        if image.shape[:2] != self.resized_shape:
            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        top, left = self._margins
        bottom, right = self.input_shape[0] - height - top, self.input_shape[1] - width - left
        padded = cv2.copyMakeBorder(
            resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_GREY
        )
        return np.asarray(padded, np.uint8)

    def restore(self, xyxy: NDArray[np.float32]) -> Boxes:
        """Boxes `(N, 4)` in pixels of the image, clipped, from those in pixels of the input."""
        top, left = self._margins
        height, width = self.image_shape
        restored = (xyxy - np.array([left, top] * 2, np.float32)) / np.float32(self.scale)
        result: Boxes = restored.clip(0, np.array([width, height] * 2, np.float32))
        return result


def _to_xyxy(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners `(N, 4)` of boxes given as rows of centre and size `(4, N)`."""
    center, half = columns[:2], columns[2:] / 2
    return np.concatenate([center - half, center + half]).T


def read_metadata(session: Any) -> dict[str, Any]:  # noqa: ANN401  ONNX Runtime ships no types
    """What Ultralytics wrote into an export, such as `names` and `stride`.

    Raises:
        ValueError, SyntaxError: a value is not a Python literal.
    """
    texts = session.get_modelmeta().custom_metadata_map
    literals = ("names", "imgsz", "args", "stride", "end2end")
    values = {key: ast.literal_eval(texts[key]) for key in literals if key in texts}
    return {"task": "detect", "args": {}} | texts | values
