"""An evaluation as one HTML page that needs no other file."""

import base64
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import supervision as sv

from openvocab.encoders.boxes import clip_to_pixels, expand_boxes
from openvocab.errors import OpenVocabError
from openvocab.evaluation.datasets import Photo
from openvocab.evaluation.evaluator import Evaluation
from openvocab.evaluation.matching import WRONG
from openvocab.evaluation.plots import plots
from openvocab.io.annotation import annotate
from openvocab.types import Boxes

MISTAKES = 12
SIDE = 320  # pixels, of the pictures of mistakes
CONTEXT = 1.8


class Mistake(NamedTuple):
    """A wrong box with a high score."""

    jpeg: str
    """The picture in base64; labelled boxes are white."""
    photo: str
    called: str
    score: float
    labelled: str
    """The label of the nearest box."""
    overlap: float
    """Intersection over union with that box; 0 if there is none."""


def html(evaluation: Evaluation, results: dict[str, Any]) -> str:
    """Write the page.

    Args:
        evaluation: the evaluation to show.
        results: its figures, with the preset and the provenance.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    source = files("openvocab.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        results=results, plots=plots(evaluation), mistakes=list(_mistakes(evaluation))
    )


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f}"  # noqa: RUF001  a dash in a table


def _mistakes(evaluation: Evaluation) -> Iterator[Mistake]:
    """The wrong boxes with the highest scores, one per photo."""
    asked, matches, classes = (
        evaluation.asked[0],
        evaluation.asked[0].matches,
        evaluation.dataset.classes,
    )
    seen: set[int] = set()
    wrong = np.flatnonzero(matches.verdicts == WRONG)
    for index in wrong[np.argsort(-matches.scores[wrong], kind="stable")].tolist():
        place = int(matches.photos[index])
        if place in seen:
            continue
        seen.add(place)
        photo = evaluation.dataset.photos[place]
        box = asked.found[place].xyxy[[matches.rows[index]]].astype(np.float32)  # (1, 4)
        called, score = classes[int(matches.class_ids[index])], float(matches.scores[index])
        overlaps = sv.box_iou_batch(box, photo.xyxy)[0] if len(photo.xyxy) else np.zeros(0)
        best = int(overlaps.argmax()) if overlaps.any() else -1
        labelled = classes[int(photo.class_ids[best])] if best >= 0 else ""
        overlap = float(overlaps[best]) if best >= 0 else 0.0
        jpeg = _drawn(photo, box, called, score)
        yield Mistake(jpeg, photo.path.name, called, score, labelled, overlap)
        if len(seen) == MISTAKES:
            return


def _drawn(photo: Photo, box: Boxes, called: str, score: float) -> str:
    """The box with its surroundings, cut out before drawing, so that all pictures look alike."""
    x1, y1, x2, y2 = clip_to_pixels(expand_boxes(box, CONTEXT), photo.size_wh)[0].tolist()
    cut = photo.load()[y1:y2, x1:x2]
    scale = SIDE / max(cut.shape[:2])
    smoothing = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=smoothing)
    picture = resized.astype(np.uint8)
    moved = np.array([x1, y1, x1, y1], np.float32)
    for left, top, right, bottom in ((photo.xyxy - moved) * scale).round().astype(int).tolist():
        cv2.rectangle(picture, (left, top), (right, bottom), (255, 255, 255), 1)
    one = sv.Detections(
        (box - moved) * np.float32(scale),
        confidence=np.array([score]),
        class_id=np.zeros(1, int),
        data={"class_name": np.array([called], dtype=object)},
    )
    done, encoded = cv2.imencode(".jpg", annotate(picture, one))
    if not done:
        raise OpenVocabError("A picture of the report cannot be written; use smaller photos.")
    return base64.b64encode(encoded.tobytes()).decode()
