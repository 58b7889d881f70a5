"""Open vocabulary for an existing YOLO object: `attach(yolo, classes=[...])`."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import supervision as sv
import torch

from openvocab import config
from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.config import Preset
from openvocab.detector import OpenVocabDetector
from openvocab.encoders.boxes import reachable
from openvocab.errors import ModelError, first_line
from openvocab.io.images import ImageLike, load_image
from openvocab.networks import encoder_of
from openvocab.scoring.class_head import Naming
from openvocab.types import Image, Proposals
from openvocab.vocabulary import Classes, Vocabulary

NAMED_AT = "on_predict_postprocess_end"
STAGE = "openvocab"
"""Key in `Results.speed` of the milliseconds that naming took."""


def attach(  # noqa: PLR0913  keywords, each with a default
    yolo: Any,  # noqa: ANN401  ultralytics is untyped
    classes: Classes | Vocabulary,
    *,
    preset: str | os.PathLike[str] | Preset = "starter",
    negatives: Sequence[str] = (),
    score_threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    device: str | None = None,
) -> "UltralyticsHandle":
    """Make an Ultralytics detect or segment model answer in the caller's classes.

    `predict` (also with `stream=True`), `track` and `val` then give ordinary `Results` whose
    `names`, `cls` and `conf` refer to these classes; masks and track ids stay with their boxes.
    The model proposes the boxes: those that it drops because of its own `conf` (0.25 by default),
    `max_det` or `classes` (its own class numbers) cannot be named. `track` follows boxes before
    they are named, so the ids are those of the plain model. `yolo.names` does not change: use the
    names of the results.

    Args:
        yolo: an `ultralytics.YOLO` object, loaded by the caller.
        classes: as for `OpenVocabDetector.detect`.
        preset: gives the encoder that names the boxes, and the numbers; its detector is not
            loaded.
        negatives: as for `OpenVocabDetector.detect`.
        score_threshold: as for `OpenVocabDetector.detect`.
        thresholds: as for `OpenVocabDetector.detect`.
        device: a torch device for the encoder; None uses CUDA where available.

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
    if any(isinstance(each, _Listener) and each.hears for each in _listed(yolo)):
        raise ModelError("This model is attached to already; use its set_classes, or detach it.")
    numbers = config.load(preset)
    try:
        with (
            isolated_ultralytics()
        ):  # names of an export need loading it, which may install packages
            names = tuple(dict.fromkeys(str(name) for name in yolo.names.values()))
    except Exception as error:  # loading a file with Ultralytics may raise anything
        raise ModelError(
            f"The model cannot be loaded ({first_line(error)}); check its file, or export it again."
        ) from error
    detector = OpenVocabDetector(ExternalProposer(names), encoder_of(numbers, device), numbers)
    naming = detector.naming(
        classes, negatives=negatives, score_threshold=score_threshold, thresholds=thresholds
    )
    attached = UltralyticsHandle(yolo, detector, naming, score_threshold)
    attached._listen()
    return attached


def to_results(
    detections: sv.Detections,
    image: ImageLike,
    classes: Sequence[str] | Vocabulary,
    path: str = "image.jpg",
) -> Any:  # noqa: ANN401  ultralytics is untyped
    """Convert detections to Ultralytics' `Results`; `sv.Detections.from_ultralytics` goes back.

    Args:
        detections: N boxes, with masks and track ids if there are any.
        image: the image they are from: a path, bytes, PIL image or array `(H, W, 3)` uint8 BGR.
        classes: names by `class_id`.
        path: the name of the image for `save` and `save_txt`.

    Raises:
        ImageError: the image cannot be read.
    """
    names = classes.names if isinstance(classes, Vocabulary) else classes
    count = len(detections)
    ids = detections.tracker_id
    # As in Ultralytics, as long as a 32-bit float can hold every track number.
    kind = np.float64 if ids is not None and ids.max(initial=0) > 2**24 else np.float32
    nothing = np.zeros(count)
    columns = [
        *detections.xyxy.reshape(-1, 4).T,
        *(() if ids is None else (ids,)),
        nothing if detections.confidence is None else detections.confidence,
        nothing if detections.class_id is None else detections.class_id,
    ]
    masks = detections.mask
    with isolated_ultralytics() as ultralytics:
        return ultralytics.engine.results.Results(
            load_image(image),
            path,
            dict(enumerate(names)),
            boxes=torch.from_numpy(np.column_stack(columns).astype(kind)),
            masks=None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
        )


@dataclass(frozen=True)
class ExternalProposer:
    """Stands for a model that finds its boxes itself, before openvocab is called."""

    names: tuple[str, ...]

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Never called: Ultralytics calls openvocab, not the other way round."""
        raise NotImplementedError


def _nothing(_caller: object) -> None:
    """The callback of a copy, which does nothing."""


@dataclass(frozen=True)
class _Listener:
    """One callback; in a copied or unpickled model, it does nothing."""

    act: Callable[[Any], None]

    def __call__(self, caller: Any) -> None:  # noqa: ANN401
        self.act(caller)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Listener, (_nothing,)

    @property
    def hears(self) -> bool:
        """Whether it belongs to the original model, not to a copy."""
        return self.act is not _nothing


class UltralyticsHandle:
    """What `attach` added to a model; `detach` removes it again.

    A copied or pickled model behaves as it did before `attach`.
    """

    def __init__(
        self,
        yolo: Any,  # noqa: ANN401
        detector: OpenVocabDetector,
        naming: Naming,
        score_threshold: float | None,
    ) -> None:
        self._yolo, self._detector = yolo, detector
        self._naming, self._threshold = naming, score_threshold
        self._spent_ms = 0.0

    def set_classes(
        self,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """Answer in other classes from the next picture on; from any thread.

        Only the new classes are encoded. Without `score_threshold`, that of `attach` stays;
        negatives and thresholds are replaced by those given here.

        Raises:
            ClassesError: they cannot be used; the present ones stay.
            ModelError: the model is no longer attached.
        """
        listed = _listed(self._yolo)
        if not all(ours in listed for ours in self._callbacks.values()):
            raise ModelError("The model is attached no longer; detach it, and attach it again.")
        self._naming = self._detector.naming(
            classes,
            negatives=negatives,
            score_threshold=self._threshold if score_threshold is None else score_threshold,
            thresholds=thresholds,
        )

    def detach(self) -> None:
        """Restore the model to what it was before `attach`; further calls do nothing."""
        for event, ours in self._callbacks.items():
            listed = self._yolo.callbacks.get(event, [])
            # A new list: Ultralytics may be iterating over this one.
            self._yolo.callbacks[event] = [each for each in listed if each != ours]

    @property
    def _callbacks(self) -> dict[str, _Listener]:
        return {
            "on_predict_start": _Listener(self._come_last),
            NAMED_AT: _Listener(self._name_results),
            "on_predict_batch_end": _Listener(self._tell_time),
            "on_val_start": _Listener(self._name_in),
        }

    def _listen(self) -> None:
        for event, ours in self._callbacks.items():
            self._yolo.add_callback(event, ours)

    def _come_last(self, predictor: Any) -> None:  # noqa: ANN401
        """Run after the trackers, even late ones: they need the model's own boxes and scores."""
        listed, ours = predictor.callbacks[NAMED_AT], self._callbacks[NAMED_AT]
        if ours in listed and listed[-1] != ours:
            listed[:] = [*(each for each in listed if each != ours), ours]

    def _name_results(self, predictor: Any) -> None:  # noqa: ANN401
        begun = time.perf_counter()
        results, naming = predictor.results, self._naming
        images = [_picture(result.orig_img) for result in results]
        found = [
            _proposals(
                result.boxes.xyxy, result.boxes.conf, result.boxes.cls, self._own(result.names)
            )
            for result in results
        ]
        for place, (rows, classes, scores) in enumerate(self._named(naming, images, found)):
            named = results[place][rows]
            boxes = named.boxes.data.clone()  # (N, 6), or (N, 7) with track ids before the score
            boxes[:, -2], boxes[:, -1] = scores, classes
            named.update(boxes=boxes)
            named.names = dict(enumerate(naming.classifier.names))
            results[place] = named
        self._spent_ms = 1000 * (time.perf_counter() - begun) / max(len(results), 1)

    def _own(self, names: dict[int, str]) -> dict[int, str]:
        """The model's names; raises an error if training has changed them."""
        if not set(names.values()) <= set(self._detector.proposer.names):
            raise ModelError("The model has other classes now; detach it, and attach again.")
        return dict(names)

    def _tell_time(self, predictor: Any) -> None:  # noqa: ANN401
        for result in predictor.results:
            result.speed = {**result.speed, STAGE: self._spent_ms}

    def _name_in(self, validator: Any) -> None:  # noqa: ANN401
        """Make a validator compare the caller's classes, in the data's order, with the labels."""
        if validator.training or validator.args.mode != "val":
            return  # training uses the model's own classes
        naming, own = self._naming, self._own(validator.names)
        names = dict(enumerate(naming.classifier.names))
        if len(names) != validator.data["nc"]:
            raise ModelError(
                f"val compares with the {validator.data['nc']} classes of the data, and there are "
                f"{len(names)} here; set_classes to as many, in the order of the data's."
            )
        naming = naming._replace(thresholds=np.full(len(names), validator.args.conf, np.float32))
        before, after, prepare = validator.preprocess, validator.postprocess, validator.init_metrics
        images: list[Image] = []

        def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
            ready: dict[str, Any] = before(batch)
            images[:] = _images(ready["img"])
            return ready

        def postprocess(predictions: Any) -> list[dict[str, torch.Tensor]]:  # noqa: ANN401
            found = after(predictions)
            boxes = [_proposals(each["bboxes"], each["conf"], each["cls"], own) for each in found]
            return [
                {key: value[rows.to(value.device)] for key, value in each.items()}
                | {"conf": scores.to(each["conf"]), "cls": classes.to(each["cls"])}
                for each, (rows, classes, scores) in zip(
                    found, self._named(naming, images, boxes), strict=True
                )
            ]

        def init_metrics(model: Any) -> None:  # noqa: ANN401
            prepare(_Renamed(model, names))
            validator.nc = len(own)  # of the model's output, before naming

        validator.preprocess, validator.postprocess = preprocess, postprocess
        validator.init_metrics = init_metrics

    def _named(
        self, naming: Naming, images: Sequence[Image], found: Sequence[Proposals]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each image, the rows to keep, best first, with their classes and scores."""
        preset, lowest = self._detector.preset, naming.lowest
        # Tracks are not sorted by score, and a budget keeps the best.
        orders = [np.argsort(-each.objectness, kind="stable") for each in found]
        rows = [
            order[reachable(each[order], lowest, preset)]
            for each, order in zip(found, orders, strict=True)
        ]
        kept = [each[some] for each, some in zip(found, rows, strict=True)]
        features = self._detector.encode(images, [each.xyxy for each in kept])
        for each, some, seen in zip(kept, rows, features, strict=True):
            scores = naming.classifier.scores(each, seen)
            # The rows travel along as ids.
            named = naming.classifier.detections(each, scores, naming.thresholds, tracker_ids=some)
            yield (
                torch.from_numpy(named.tracker_id),
                torch.from_numpy(named.class_id).float(),
                torch.from_numpy(named.confidence),
            )


class _Renamed:
    """A model with other names."""

    def __init__(self, model: Any, names: dict[int, str]) -> None:  # noqa: ANN401
        self._model, self.names = model, names

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)


def _picture(pixels: Image) -> Image:
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        raise ModelError(
            f"The pictures have {pixels.shape[2]} channels, and the encoder sees three; "
            "attach a model of colour pictures."
        )
    return np.ascontiguousarray(pixels)


def _listed(yolo: Any) -> list[Any]:  # noqa: ANN401
    return [each for some in yolo.callbacks.values() for each in some]


def _proposals(
    xyxy: torch.Tensor, objectness: torch.Tensor, labels: torch.Tensor, names: dict[int, str]
) -> Proposals:
    """Proposals from Ultralytics' `(N, 4)`, `(N,)` and `(N,)` tensors, on any device."""
    return Proposals(
        torch.as_tensor(xyxy).cpu().float().numpy().reshape(-1, 4),
        torch.as_tensor(objectness).cpu().float().numpy().clip(0, 1),
        tuple(str(names[int(label)]) for label in labels.tolist()),
    )


def _images(batch: torch.Tensor) -> list[Image]:
    """The images of a validator's batch `(B, 3, H, W)`, RGB from 0 to 1."""
    pixels = (batch.float() * 255).round().byte().permute(0, 2, 3, 1).flip(3)
    return list(pixels.cpu().numpy())
