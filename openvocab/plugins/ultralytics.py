"""Open-vocabulary classes for an Ultralytics model that is loaded already."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import supervision as sv
import torch

from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.config import Preset, load_preset
from openvocab.detector import OpenVocabDetector, load_prototypes
from openvocab.encoders import load_encoder
from openvocab.errors import ModelError, first_line
from openvocab.io._images import ImageLike, load_image
from openvocab.proposers._labels import label_names
from openvocab.scoring import ClassHead
from openvocab.types import Image, Proposals
from openvocab.vocabulary import Classes, ClassOptions, Vocabulary

__all__ = ["UltralyticsHandle", "attach", "to_results"]

_CLASSIFY_EVENT = "on_predict_postprocess_end"
_SPEED_KEY = "openvocab"
"""Key in `Results.speed` of the milliseconds that classification took."""


def attach(
    yolo: Any,  # noqa: ANN401  ultralytics is untyped
    classes: Classes | Vocabulary,
    *,
    preset: str | os.PathLike[str] | Preset = "starter",
    device: str | None = None,
    **options: Unpack[ClassOptions],
) -> "UltralyticsHandle":
    """Make an Ultralytics detect or segment model return the caller's classes.

    `predict` (also with `stream=True`), `track` and `val` then give ordinary `Results` whose
    `names`, `cls` and `conf` refer to these classes; masks and track ids stay with their boxes.
    The model proposes the boxes: those that it drops because of its own `conf` (0.25 by default),
    `max_det` or `classes` (its own class numbers) cannot be classified. `track` follows boxes
    before they are classified, so the ids are those of the plain model. `yolo.names` does not
    change: use the names of the results.

    Args:
        yolo: an `ultralytics.YOLO` object, loaded by the caller.
        classes: as for `OpenVocabDetector.detect`.
        preset: gives the encoder and the scoring; its detector is not loaded.
        device: a torch device for the encoder; None uses CUDA where available.
        options: negatives and thresholds, as for `OpenVocabDetector.detect`.

    Raises:
        ModelError: this is not a detect or segment model, it cannot be loaded, or it is attached
            already.
        ConfigError: there is no such preset.
        WeightsNotFoundError: the encoder's weights are not on this machine.
        ClassesError: the classes, negatives or thresholds cannot be used.
    """
    task = getattr(yolo, "task", None)
    if not hasattr(yolo, "callbacks") or task not in {"detect", "segment"}:
        kind = task if task and hasattr(yolo, "callbacks") else type(yolo).__name__
        raise ModelError(f"attach takes a detect or segment model, not {kind}; pass another YOLO.")
    if any(
        isinstance(callback, _Callback) and callback.is_active for callback in _callbacks_of(yolo)
    ):
        raise ModelError("This model is attached already; use its set_classes, or detach it.")
    preset = load_preset(preset)
    try:
        # The names of an export need loading it, which may install packages.
        with isolated_ultralytics():
            labels = label_names(str(name) for name in yolo.names.values())
    except Exception as error:  # loading a file with Ultralytics may raise anything
        raise ModelError(
            f"The model cannot be loaded ({first_line(error)}); check its file, or export it again."
        ) from error
    encoder = load_encoder(preset, device)
    prototypes = load_prototypes(preset, encoder)
    detector = OpenVocabDetector(ExternalProposer(labels), encoder, preset, prototypes=prototypes)
    head = detector.class_head(classes, **options)
    handle = UltralyticsHandle(yolo, detector, head, options.get("score_threshold"))
    handle._add_callbacks()
    return handle


def to_results(
    detections: sv.Detections,
    image: ImageLike,
    classes: Sequence[str] | Vocabulary,
    path: str = "image.jpg",
) -> Any:  # noqa: ANN401  ultralytics is untyped
    """Convert detections to Ultralytics' `Results`; `sv.Detections.from_ultralytics` goes back.

    Args:
        detections: N boxes, with masks and track ids if there are any.
        image: their image: a path, bytes, PIL image or array `(H, W, 3)` uint8 BGR.
        classes: names by `class_id`.
        path: the name of the image for `save` and `save_txt`.

    Raises:
        ImageError: the image cannot be read.
    """
    names = classes.names if isinstance(classes, Vocabulary) else classes
    count, ids = len(detections), detections.tracker_id
    # float32 as in Ultralytics, as long as it can hold every track number.
    dtype = np.float64 if ids is not None and ids.max(initial=0) > 2**24 else np.float32
    zeros = np.zeros(count)
    columns = [
        *detections.xyxy.reshape(-1, 4).T,
        *(() if ids is None else (ids,)),
        zeros if detections.confidence is None else detections.confidence,
        zeros if detections.class_id is None else detections.class_id,
    ]
    masks = detections.mask
    with isolated_ultralytics() as ultralytics:
        return ultralytics.engine.results.Results(
            load_image(image),
            path,
            dict(enumerate(names)),
            boxes=torch.from_numpy(np.column_stack(columns).astype(dtype)),
            masks=None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
        )


@dataclass(frozen=True)
class ExternalProposer:
    """Placeholder that only supplies labels: Ultralytics finds the boxes, and calls openvocab."""

    labels: tuple[str, ...]

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Never called."""
        raise NotImplementedError


def _inactive(_event: object) -> None:
    """The callback of a copied model, which does nothing."""


@dataclass(frozen=True)
class _Callback:
    """A callback of Ultralytics; in a copied or unpickled model, it does nothing."""

    act: Callable[[Any], None]

    def __call__(self, event: Any) -> None:  # noqa: ANN401
        self.act(event)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Callback, (_inactive,)

    @property
    def is_active(self) -> bool:
        """Whether it belongs to the original model, not to a copy."""
        return self.act is not _inactive


class UltralyticsHandle:
    """What `attach` added to a model; `detach` removes it again.

    A copied or pickled model behaves as it did before `attach`.
    """

    def __init__(
        self,
        yolo: Any,  # noqa: ANN401
        detector: OpenVocabDetector,
        head: ClassHead,
        score_threshold: float | None,
    ) -> None:
        self._yolo, self._detector = yolo, detector
        self._head, self._score_threshold = head, score_threshold
        self._classify_ms = 0.0

    def set_classes(
        self,
        classes: Classes | Vocabulary,
        **options: Unpack[ClassOptions],
    ) -> None:
        """Return other classes from the next image on; from any thread.

        Only the new names are encoded. Without `score_threshold`, that of `attach` stays; other
        options are replaced by those given here.

        Raises:
            ClassesError: they cannot be used; the present ones stay.
            ModelError: the model is no longer attached.
        """
        registered = _callbacks_of(self._yolo)
        if not all(callback in registered for callback in self._callbacks.values()):
            raise ModelError("The model is no longer attached; detach it, and attach it again.")
        self._head = self._detector.class_head(
            classes, **({"score_threshold": self._score_threshold} | options)
        )

    def detach(self) -> None:
        """Restore the model to what it was before `attach`; further calls do nothing."""
        for event, callback in self._callbacks.items():
            registered = self._yolo.callbacks.get(event, [])
            # A new list: Ultralytics may be iterating over this one.
            self._yolo.callbacks[event] = [other for other in registered if other != callback]

    @property
    def _callbacks(self) -> dict[str, _Callback]:
        return {
            "on_predict_start": _Callback(self._move_last),
            _CLASSIFY_EVENT: _Callback(self._classify_results),
            "on_predict_batch_end": _Callback(self._report_speed),
            "on_val_start": _Callback(self._wrap_validator),
        }

    def _add_callbacks(self) -> None:
        for event, callback in self._callbacks.items():
            self._yolo.add_callback(event, callback)

    def _move_last(self, predictor: Any) -> None:  # noqa: ANN401
        """Run after the trackers, even late ones: they need the model's own boxes and scores."""
        registered, callback = (
            predictor.callbacks[_CLASSIFY_EVENT],
            self._callbacks[_CLASSIFY_EVENT],
        )
        if callback in registered and registered[-1] != callback:
            registered[:] = [*(other for other in registered if other != callback), callback]

    def _classify_results(self, predictor: Any) -> None:  # noqa: ANN401
        start = time.perf_counter()
        results, head = predictor.results, self._head
        images = [_check_channels(result.orig_img) for result in results]
        proposals = [
            self._proposals(result.boxes.xyxy, result.boxes.conf, result.boxes.cls, result.names)
            for result in results
        ]
        for index, (rows, class_ids, scores) in enumerate(self._classify(head, images, proposals)):
            result = results[index][rows]
            boxes = result.boxes.data.clone()  # (N, 6), or (N, 7) with track ids before the score
            boxes[:, -2], boxes[:, -1] = scores, class_ids
            result.update(boxes=boxes)
            result.names = dict(enumerate(head.names))
            results[index] = result
        self._classify_ms = 1000 * (time.perf_counter() - start) / max(len(results), 1)

    def _report_speed(self, predictor: Any) -> None:  # noqa: ANN401
        for result in predictor.results:
            result.speed = {**result.speed, _SPEED_KEY: self._classify_ms}

    def _wrap_validator(self, validator: Any) -> None:  # noqa: ANN401
        """Make a validator compare the caller's classes, in the data's order, with the labels."""
        if validator.training or validator.args.mode != "val":
            return  # training uses the model's own classes
        own_names = dict(validator.names)
        names = dict(enumerate(self._head.names))
        if len(names) != validator.data["nc"]:
            raise ModelError(
                f"val compares with the {validator.data['nc']} classes of the data, and there are "
                f"{len(names)} here; set_classes to as many, in the order of the data's."
            )
        head = self._head.with_thresholds(np.full(len(names), validator.args.conf, np.float32))
        preprocess, postprocess = validator.preprocess, validator.postprocess
        init_metrics = validator.init_metrics
        images: list[Image] = []

        def keep_images(batch: dict[str, Any]) -> dict[str, Any]:
            prepared: dict[str, Any] = preprocess(batch)
            images[:] = _to_images(prepared["img"])
            return prepared

        def classify(outputs: Any) -> list[dict[str, torch.Tensor]]:  # noqa: ANN401
            predictions = postprocess(outputs)
            proposals = [
                self._proposals(boxes["bboxes"], boxes["conf"], boxes["cls"], own_names)
                for boxes in predictions
            ]
            return [
                {key: value[rows.to(value.device)] for key, value in boxes.items()}
                | {"conf": scores.to(boxes["conf"]), "cls": class_ids.to(boxes["cls"])}
                for boxes, (rows, class_ids, scores) in zip(
                    predictions, self._classify(head, images, proposals), strict=True
                )
            ]

        def rename(model: Any) -> None:  # noqa: ANN401
            init_metrics(_Renamed(model, names))
            validator.nc = len(own_names)  # of the model's output, before classification

        validator.preprocess, validator.postprocess = keep_images, classify
        validator.init_metrics = rename

    def _proposals(
        self,
        xyxy: torch.Tensor,
        objectness: torch.Tensor,
        numbers: torch.Tensor,
        names: dict[int, str],
    ) -> Proposals:
        """Proposals from Ultralytics' `(N, 4)`, `(N,)` and `(N,)` tensors, on any device."""
        labels = self._detector.proposer.labels
        if not set(label_names(names.values())) <= set(labels):  # training has changed them
            raise ModelError("The model has other classes now; detach it, and attach it again.")
        box_names = [str(names[int(number)]) for number in numbers.tolist()]
        confidence = torch.as_tensor(objectness).cpu().float().numpy().clip(0, 1)
        is_labelled = np.array([name in labels for name in box_names], np.bool_)
        return Proposals(
            torch.as_tensor(xyxy).cpu().float().numpy().reshape(-1, 4),
            confidence,
            np.array([labels.index(name) if name in labels else 0 for name in box_names], np.intp),
            label_confidence=np.where(is_labelled, confidence, 0).astype(np.float32),
        )

    def _classify(
        self, head: ClassHead, images: Sequence[Image], proposals: Sequence[Proposals]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each image, the rows to keep, best first, with their classes and scores."""
        rows = [self._detector.prefilter(boxes, head.min_objectness) for boxes in proposals]
        kept = [boxes[keep] for boxes, keep in zip(proposals, rows, strict=True)]
        for keep, regions in zip(rows, self._detector.encode(images, kept), strict=True):
            detections = head.classify(regions)
            yield (
                torch.from_numpy(keep[detections.data["region_id"]]),
                torch.from_numpy(detections.class_id).float(),
                torch.from_numpy(detections.confidence),
            )


class _Renamed:
    """A model with other names."""

    def __init__(self, model: Any, names: dict[int, str]) -> None:  # noqa: ANN401
        self._model, self.names = model, names

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)


def _check_channels(image: Image) -> Image:
    if image.ndim == 3 and image.shape[2] not in (1, 3):
        raise ModelError(
            f"The images have {image.shape[2]} channels, and the encoder needs three; "
            "attach a model of colour images."
        )
    return np.ascontiguousarray(image)


def _callbacks_of(yolo: Any) -> list[Any]:  # noqa: ANN401
    return [callback for registered in yolo.callbacks.values() for callback in registered]


def _to_images(batch: torch.Tensor) -> list[Image]:
    """The BGR images of a validator's batch `(B, 3, H, W)`, RGB from 0 to 1."""
    pixels = (batch.float() * 255).round().byte().permute(0, 2, 3, 1).flip(3)
    return list(pixels.cpu().numpy())
