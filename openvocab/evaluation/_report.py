"""An evaluation as one self-contained HTML page."""

import base64
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import supervision as sv

from openvocab.encoders._boxes import clip_to_pixels, expand_boxes
from openvocab.errors import OpenVocabError
from openvocab.evaluation._datasets import DatasetImage
from openvocab.evaluation._evaluator import Evaluation
from openvocab.evaluation._matching import FP
from openvocab.evaluation._plots import plots
from openvocab.io._annotation import annotate
from openvocab.types import Boxes

_MAX_MISTAKES = 12
_SIDE = 320  # pixels, of the crops of mistakes
_CONTEXT = 1.8


class _Mistake(NamedTuple):
    """A false positive with a high score."""

    jpeg: str
    """The crop in base64; labelled boxes are white."""
    image: str
    class_name: str
    score: float
    label: str
    """The label with the highest IoU; empty if there is no label."""
    iou: float


def html(evaluation: Evaluation, results: dict[str, Any]) -> str:
    """Render the page.

    Args:
        evaluation: the evaluation to show.
        results: its metrics, with the preset and the provenance.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.1f}"  # noqa: RUF001  a dash in a table
    source = files("openvocab.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        results=results, plots=plots(evaluation), mistakes=list(_mistakes(evaluation))
    )


def _mistakes(evaluation: Evaluation) -> Iterator[_Mistake]:
    """The false positives with the highest scores, one per image."""
    names_result, classes = evaluation.variants[0], evaluation.dataset.classes
    matches = names_result.matches
    order = np.argsort(-matches.scores, kind="stable")
    order = order[matches.outcomes[order] == FP]
    _, first = np.unique(matches.image_indices[order], return_index=True)
    for index in order[np.sort(first)[:_MAX_MISTAKES]].tolist():
        image = evaluation.dataset.images[matches.image_indices[index]]
        detections = names_result.detections[matches.image_indices[index]]
        box = detections.xyxy[[matches.rows[index]]].astype(np.float32)  # (1, 4)
        name, score = classes[matches.class_ids[index]], float(matches.scores[index])
        label, iou = "", 0.0
        if len(image.xyxy):
            ious = sv.box_iou_batch(box, image.xyxy)[0]
            label, iou = classes[image.class_ids[ious.argmax()]], float(ious.max())
        yield _Mistake(_draw(image, box, name, score), image.path.name, name, score, label, iou)


def _draw(image: DatasetImage, box: Boxes, name: str, score: float) -> str:
    """Draw on a crop of fixed size, so that lines and text are equally large in all of them."""
    x1, y1, x2, y2 = clip_to_pixels(expand_boxes(box, _CONTEXT), image.size_wh)[0].tolist()
    crop = image.load()[y1:y2, x1:x2]
    scale = _SIDE / max(crop.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=interpolation)
    canvas = resized.astype(np.uint8)
    offset = np.array([x1, y1, x1, y1], np.float32)
    for left, top, right, bottom in ((image.xyxy - offset) * scale).round().astype(int).tolist():
        cv2.rectangle(canvas, (left, top), (right, bottom), (255, 255, 255), 1)
    detection = sv.Detections(
        (box - offset) * np.float32(scale),
        confidence=np.array([score]),
        class_id=np.zeros(1, int),
        data={"class_name": np.array([name], dtype=object)},
    )
    encoded, jpeg = cv2.imencode(".jpg", annotate(canvas, detection))
    if not encoded:
        raise OpenVocabError("A crop of the report cannot be encoded; use smaller images.")
    return base64.b64encode(jpeg.tobytes()).decode()
