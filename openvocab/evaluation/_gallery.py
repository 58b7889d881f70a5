"""Crops for the report: the most confident mistakes and the largest missed objects."""

import base64
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import supervision as sv

from openvocab.encoders._boxes import clip_to_pixels, expand_boxes
from openvocab.errors import OpenVocabError
from openvocab.evaluation._datasets import DatasetImage
from openvocab.evaluation._evaluator import Evaluation
from openvocab.evaluation._matching import FP, TP
from openvocab.io._annotation import annotate
from openvocab.types import Boxes

_MAX_CROPS = 12  # of each gallery
_SIDE = 320  # pixels, of a crop
_CONTEXT = 1.8
_MIN_IOU = 0.5  # of a detection and the labelled box that it is a candidate for


class Mistake(NamedTuple):
    """A false positive with a high score."""

    jpeg: str
    """The crop in base64; labelled boxes are white."""
    image: str
    class_name: str
    score: float
    label: str
    """Class of the labelled box with the highest IoU; empty if the image has no labelled box."""
    iou: float


class Missed(NamedTuple):
    """A labelled box without a detection above the threshold."""

    jpeg: str
    """The crop in base64, with the nearest candidate; labelled boxes are white."""
    image: str
    class_name: str
    candidate: str
    """Class of the nearest candidate: a detection of the right class below the threshold, else the
    detection of any class with the highest IoU; empty if no IoU is at least 0.5."""
    score: float
    """Score of the candidate."""
    iou: float


def mistakes(evaluation: Evaluation) -> Iterator[Mistake]:
    """The false positives with the highest scores, one per image."""
    names_result, classes = evaluation.variants[0], evaluation.dataset.classes
    matches = names_result.matches
    order = np.argsort(-matches.scores, kind="stable")
    order = order[matches.outcomes[order] == FP]
    _, first_of_image = np.unique(matches.image_indices[order], return_index=True)
    for index in order[np.sort(first_of_image)[:_MAX_CROPS]].tolist():
        image = evaluation.dataset.images[matches.image_indices[index]]
        detections = names_result.detections[matches.image_indices[index]]
        box = detections.xyxy[[matches.rows[index]]].astype(np.float32)  # (1, 4)
        name, score = classes[matches.class_ids[index]], float(matches.scores[index])
        label, iou = "", 0.0
        if len(image.xyxy):
            ious = sv.box_iou_batch(box, image.xyxy)[0]
            label, iou = classes[image.class_ids[ious.argmax()]], float(ious.max())
        jpeg = _draw(image, box, _single(box, name, score))
        yield Mistake(jpeg, image.path.name, name, score, label, iou)


def missed(evaluation: Evaluation) -> Iterator[Missed]:
    """The largest labelled boxes without a detection above the threshold, one per image."""
    matches = evaluation.variants[0].matches
    is_correct = (matches.outcomes == TP) & (matches.scores >= evaluation.threshold)
    largest = []
    for image_index, image in enumerate(evaluation.dataset.images):
        detected_rows = matches.label_rows[is_correct & (matches.image_indices == image_index)]
        areas = image.areas.copy()
        areas[image.crowd] = 0
        areas[detected_rows] = 0
        if areas.any():
            largest.append((float(areas.max()), image_index, int(areas.argmax())))
    for _, image_index, row in sorted(largest, reverse=True)[:_MAX_CROPS]:
        yield _missed(evaluation, image_index, row)


def _missed(evaluation: Evaluation, image_index: int, row: int) -> Missed:
    """A labelled box with its nearest candidate."""
    image, names_result = evaluation.dataset.images[image_index], evaluation.variants[0]
    detections, classes = names_result.detections[image_index], names_result.variant.classes
    box, class_id = image.xyxy[[row]], int(image.class_ids[row])
    candidate, score, iou = "", 0.0, 0.0
    candidate_detections = sv.Detections.empty()
    if len(detections) and detections.class_id is not None and detections.confidence is not None:
        ious = sv.box_iou_batch(box, detections.xyxy)[0]
        same_class = np.flatnonzero((ious >= _MIN_IOU) & (detections.class_id == class_id))
        best = int(ious.argmax())
        if len(same_class):
            best = int(same_class[detections.confidence[same_class].argmax()])
        if ious[best] >= _MIN_IOU:
            candidate, iou = classes[detections.class_id[best]], float(ious[best])
            score = float(detections.confidence[best])
            candidate_box = detections.xyxy[[best]].astype(np.float32)
            candidate_detections = _single(candidate_box, candidate, score)
    jpeg = _draw(image, box, candidate_detections)
    name = evaluation.dataset.classes[class_id]
    return Missed(jpeg, image.path.name, name, candidate, score, iou)


def _single(box: Boxes, name: str, score: float) -> sv.Detections:
    return sv.Detections(
        box,
        confidence=np.array([score]),
        class_id=np.zeros(1, int),
        data={"class_name": np.array([name], dtype=object)},
    )


def _draw(image: DatasetImage, box: Boxes, detections: sv.Detections) -> str:
    """Draw on a crop of fixed size, so that lines and text have the same size in all crops.

    Args:
        image: its labelled boxes are drawn in white.
        box: `(1, 4)`, the centre of the crop; drawn with a thicker line if it is a labelled box.
        detections: drawn with class name and score.
    """
    x1, y1, x2, y2 = clip_to_pixels(expand_boxes(box, _CONTEXT), image.size_wh)[0].tolist()
    crop = image.load()[y1:y2, x1:x2]
    scale = _SIDE / max(crop.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=interpolation)
    canvas = resized.astype(np.uint8)
    offset = np.array([x1, y1, x1, y1], np.float32)
    labelled_xyxy = ((image.xyxy - offset) * scale).round().astype(int).tolist()
    line_widths = np.where((image.xyxy == box).all(axis=1), 4, 1).tolist()
    for (left, top, right, bottom), line_width in zip(labelled_xyxy, line_widths, strict=True):
        cv2.rectangle(canvas, (left, top), (right, bottom), (255, 255, 255), line_width)
    if len(detections):
        detections.xyxy = (detections.xyxy - offset) * np.float32(scale)
        canvas = annotate(canvas, detections)
    is_encoded, jpeg = cv2.imencode(".jpg", canvas)
    if not is_encoded:
        raise OpenVocabError("A crop of the report cannot be encoded; use smaller images.")
    return base64.b64encode(jpeg.tobytes()).decode()
