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
from openvocab.proposers._labels import OutputClasses
from openvocab.proposers._nms import distinct_rows
from openvocab.types import Boxes, Image, Proposals

_MAX_BATCH = 8  # images in one run, which bounds the memory
_MAX_CANDIDATES = 30_000  # boxes that enter NMS, as in Ultralytics
_MAX_UNNAMED = 600  # candidates for boxes that no label fits, of some 2,000; NMS takes 2 ms
_GREY = (114, 114, 114)  # of the border around an image


class OtherTaskError(ModelError):
    """The file is a model of another task than `detect`."""


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
            ModelError: the file is damaged, or no detector that Ultralytics exported; an
                `OtherTaskError` if it is a model of another task, such as `segment`.
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
        if metadata["task"] != "detect":
            raise OtherTaskError(
                f"{path} is a {metadata['task']} model; load it as an UltralyticsProposer."
            )
        self._input = entry.name
        self._fixed_batch = batch if isinstance(batch, int) else None
        self._is_dynamic = not isinstance(height, int)
        self._path, self._size = path, native_size
        if self._config.image_size is not None:
            self._size = self._input_size(self._config.image_size)
        self._is_single_label = bool(metadata.get("end2end") or metadata["args"].get("nms"))
        self._set_classes(OutputClasses(names))

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

    def _set_classes(self, classes: OutputClasses) -> None:
        """Set which rows of the output score labels, and which score objects without one."""
        self._classes = classes
        self._label_rows = np.array(list(classes.label_ids), np.intp)
        self._label_ids = np.array(list(classes.label_ids.values()), np.intp)
        self._unnamed_rows = np.array(
            [number for number in classes.names if number not in classes.label_ids], np.intp
        )

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
        other = copy(self)
        other._set_classes(self._classes.without(names, one_per_box=self._is_single_label))
        return other

    @property
    def labels(self) -> tuple[str, ...]:
        """The detector's own labels, each once."""
        return self._classes.labels

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
            label_ids, label_confidence = self._classes.label_boxes(output[:, 5], objectness)
        else:
            scores = output[4:]
            label_confidence = scores[self._label_rows].max(axis=0)
            unnamed = scores[self._unnamed_rows].max(axis=0, initial=0)
            objectness = np.maximum(label_confidence, unnamed)
            anchors = self._candidates(objectness, label_confidence)
            xyxy = _to_xyxy(output[:4, anchors])
            objectness, label_confidence = objectness[anchors], label_confidence[anchors]
            label_rows = scores[np.ix_(self._label_rows, anchors)].argmax(axis=0)
            label_ids = self._label_ids[label_rows]
        proposals = Proposals(
            letterbox.restore(xyxy),
            objectness.astype(np.float32).clip(0, 1),
            label_ids,
            label_confidence=label_confidence.astype(np.float32).clip(0, 1),
        )
        return proposals[distinct_rows(proposals, self._config.iou)[: self._config.max_boxes]]

    def _candidates(
        self, objectness: NDArray[np.float32], label_confidence: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """Anchors whose boxes enter NMS, best first."""
        anchors = np.flatnonzero(objectness >= self._config.threshold)
        order = np.argsort(-objectness[anchors], kind="stable")[:_MAX_CANDIDATES]
        anchors = anchors[order]
        is_unnamed = label_confidence[anchors] < objectness[anchors]
        return anchors[~is_unnamed | (np.cumsum(is_unnamed) <= _MAX_UNNAMED)]


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
