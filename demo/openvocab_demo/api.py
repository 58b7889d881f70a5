"""The `/detect` endpoint of the page, for programs and MCP clients."""

from typing import Any

import gradio as gr

from openvocab.io import detections_to_rows, load_image
from openvocab.io._rows import near_misses_to_rows

from .detectors import get_detector
from .formatting import shown_errors
from .inputs import image_path, parse_classes, parse_names


def detect(
    image: str | None, classes: str, negatives: str = "", threshold: float = 0.3
) -> dict[str, list[dict[str, Any]]]:
    """Detect objects in an image.

    Args:
        image: the image file.
        classes: names of the classes to detect, separated by commas.
        negatives: names of similar objects that must not be detected, separated by commas.
        threshold: lowest score that is returned, 0 to 1.

    Returns:
        `detections`, best first: class_name, score, and box [x1, y1, x2, y2] in pixels. And
        `near_misses`: for each class without a detection, the box that came closest; no detection.
    """
    if image is None:
        raise gr.Error("There is no image; send one.", print_exception=False)
    with shown_errors():
        detector = get_detector()
        head = detector.class_head(
            parse_classes(classes),
            negatives=parse_names(negatives),
            score_threshold=threshold,
        )
        # No more boxes than `detect` encodes, and what came closest is one of them.
        (regions,) = detector.encode_images([load_image(image)], [head.min_objectness])
        detections = head.classify(regions)
        near_misses = head.near_misses(regions, detections)
    return {
        "detections": [
            {"class_name": row["class_name"], "score": row["confidence"], "box": row["xyxy"]}
            for row in detections_to_rows(detections)
        ],
        "near_misses": [
            {"class_name": row["class_name"], "score": row["score"], "box": row["xyxy"]}
            for row in near_misses_to_rows(near_misses)
        ],
    }


def build_endpoint() -> None:
    """Add the endpoint; its components are hidden, but let Gradio check every file it is sent."""
    with gr.Row(visible=False):
        inputs = [
            image_path(label="image"),
            gr.Textbox(label="classes"),
            gr.Textbox("", label="negatives"),
            gr.Slider(0, 1, 0.3, label="threshold"),
        ]
        gr.Button().click(detect, inputs, gr.JSON(label="result"), api_name="detect")
