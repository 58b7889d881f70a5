"""The Image tab: an image is encoded once and classified again whenever the classes change."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import supervision as sv

from openvocab import OpenVocabError
from openvocab.io import detections_to_rows, load_image, shorten_label
from openvocab.types import EncodedRegions, Image

from .detectors import get_detector, local_presets
from .drawn_examples import SCRIPT, DrawnExamples
from .formatting import (
    count_classes,
    draw,
    draw_near_miss,
    error_message,
    shorten_near_miss,
    shown_errors,
    status,
    swap_channels,
)
from .inputs import MAX_NAME_LENGTH, Classes, image_path, parse_classes, parse_names

MAX_SIDE = 1920  # pixels; larger than the page shows would only cost time
HEADERS = ["#", "class", "score", "objectness", "similarity", "detector label"]
SUFFIXES = {"negative": " (negative)", "detector": " (detector label)"}
MAX_NEAR_MISSES = 3  # in the status line
MIN_NEAR_SCORE = 0.1  # of a near miss that is drawn; below, it is just some box
INPUT_SIZES, TILE_SIZES = (320, 416, 512, 640, 960, 1280), (320, 416, 640)  # pixels
MAX_BARS = 5  # classes, and as many competitors
ASSETS = Path(find_spec("ultralytics").submodule_search_locations[0]) / "assets"  # type: ignore[union-attr,index]
EXAMPLES = [
    [str(path), classes]
    for path, classes in (
        (ASSETS / "bus.jpg", "bus, pedestrian, traffic light"),
        (ASSETS / "zidane.jpg", "man, necktie, microphone"),
    )
    if path.is_file()
]
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class EncodedImage(NamedTuple):
    """An uploaded image with its encoded regions, kept for the visitor who sent it."""

    image: Image
    regions: EncodedRegions
    preset: str


class Result(NamedTuple):
    """Detections as rows, with the classes and negatives that they were classified with."""

    rows: list[dict[str, Any]]
    classes: Classes
    negatives: list[str]


def encode(
    source: str | Image | None, preset: str, imgsz: int = 0, tile: int = 0
) -> EncodedImage | str | None:
    """Encode the regions of an image, the part that takes time; or return the error message.

    A size of 0 is the preset's.
    """
    if source is None:
        return None
    try:
        image = load_image(source, name="The image")
        if max(image.shape[:2]) > MAX_SIDE:
            image = sv.resize_image(image, (MAX_SIDE, MAX_SIDE), keep_aspect_ratio=True)
        regions = get_detector(preset).encode_image(image, imgsz=imgsz or None, tile=tile or None)
        return EncodedImage(image, regions, preset)
    except OpenVocabError as error:
        return error_message(error)


def encode_again(
    encoded: EncodedImage | str | None, preset: str, imgsz: int, tile: int
) -> EncodedImage | str | None:
    """Encode the same image with other settings; its upload may be deleted by now."""
    if isinstance(encoded, EncodedImage):
        return encode(encoded.image, preset, imgsz, tile)
    return encoded


def classify(
    encoded: EncodedImage | str | None,
    class_text: str,
    negative_text: str,
    threshold: float,
    examples: list[str] | None,
    drawn: DrawnExamples,
) -> tuple[Image | None, str, list[list[Any]], Result | None]:
    """Annotated image, status line, table and result; encodes nothing but new classes."""
    if not isinstance(encoded, EncodedImage):
        hint = "Choose an image: drop or paste one, or use an example."
        return None, status(encoded or hint), [], None
    try:
        classes = drawn.add_to(parse_classes(class_text, examples))
        negatives = parse_names(negative_text)
        if not classes:
            hint = "Enter class names, such as: bus, person."
            return swap_channels(encoded.image), status(hint), [], None
        detector = get_detector(encoded.preset)
        vocabulary = detector.vocabulary(classes, negatives)  # encodes examples once for both
        options = encoded.regions, vocabulary
        detections = detector.classify(*options, score_threshold=threshold)
        near_misses = detector.near_misses(*options, score_threshold=threshold)
    except OpenVocabError as error:
        return swap_channels(encoded.image), status(error_message(error)), [], None
    annotated = draw(encoded.image, detections)
    text = f"Found: {count_classes(detections)}." if len(detections) else "No detections."
    if not len(detections) and near_misses and near_misses[0].score >= MIN_NEAR_SCORE:
        annotated = draw_near_miss(annotated, near_misses[0])
        text += " The grey box came closest."
    text += "".join(f" {shorten_near_miss(near)}." for near in near_misses[:MAX_NEAR_MISSES])
    rows = list(detections_to_rows(detections))
    return swap_channels(annotated), status(text), table(rows), Result(rows, classes, negatives)


def add_example(
    event: gr.EventData, encoded: EncodedImage | str | None, name: str, drawn: DrawnExamples
) -> DrawnExamples:
    """Take a box drawn on the annotated image as an example of the class."""
    if not isinstance(encoded, EncodedImage):
        return drawn
    with shown_errors():
        return drawn.add(encoded.image, name, getattr(event, "box", None))


def table(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """The detections, best first, with the columns of `HEADERS`."""
    return [
        [
            number,
            row["class_name"],
            round(row["confidence"], 2),
            round(row["objectness"], 2),
            round(row["similarity"], 2),
            row["proposal_label"],
        ]
        for number, row in enumerate(rows, start=1)
    ]


def explain(
    event: gr.SelectData, encoded: EncodedImage | str | None, result: Result | None
) -> tuple[dict[str, float] | None, str]:
    """What contributed to the score of the selected row, as bars and as a sentence."""
    number = int(event.row_value[0] or 0)
    if (
        not isinstance(encoded, EncodedImage)
        or result is None
        or not 1 <= number <= len(result.rows)
    ):
        return None, status("There is nothing to explain; choose an image.")
    row = result.rows[number - 1]
    try:
        contributions = get_detector(encoded.preset).explain(
            encoded.regions, row["region_id"], result.classes, negatives=result.negatives
        )
    except OpenVocabError as error:
        return None, status(error_message(error))
    contributions = sorted(contributions, key=lambda contribution: -contribution.share)
    classes = [contribution for contribution in contributions if contribution.kind == "class"]
    others = [contribution for contribution in contributions if contribution.kind != "class"]
    bars = {
        shorten_label(contribution.name) + SUFFIXES.get(contribution.kind, ""): contribution.share
        for contribution in classes[:MAX_BARS] + others[:MAX_BARS]
    }
    return bars, status(
        f"Row {number}, {row['class_name']}: the detector proposes this box with an objectness "
        f"of {row['objectness']:.2f} and the label {row['proposal_label']}. The cosine "
        f"similarity of the crop and the class is {row['similarity']:.2f}. The posterior of the "
        f"class, among all competitors, is {row['posterior']:.0%}."
    )


def draw_baseline(encoded: EncodedImage | str | None, threshold: float, visible: bool) -> Any:
    """The closed-set result for comparison: the detector's own boxes and labels."""
    if not isinstance(encoded, EncodedImage) or not visible:
        return gr.update(visible=visible, value=None)
    proposals = encoded.regions.proposals
    proposals = proposals[proposals.objectness >= threshold]
    labels = np.array(get_detector(encoded.preset).proposer.labels)
    detections = sv.Detections(
        proposals.xyxy,
        confidence=proposals.objectness,
        class_id=proposals.label_ids,
        data={"class_name": labels[proposals.label_ids]},
    )
    return gr.update(visible=True, value=swap_channels(draw(encoded.image, detections)))


def build_tab() -> None:
    """An image and class names beside the annotated image; below, options and explanations."""
    encoded, result = gr.State(None, time_to_live=3600), gr.State(None, time_to_live=3600)
    drawn = gr.State(DrawnExamples(), time_to_live=3600)
    # In this order, a phone shows the result right below the class names.
    with gr.Row():
        with gr.Column():
            image = image_path(
                label="Image", sources=["upload", "clipboard"], height=380, elem_id="image",
                buttons=[],
            )  # fmt: skip
            classes = gr.Textbox(
                "bus, person", label="What to look for", elem_id="classes", max_length=20_000,
                info="Any class names, separated by commas.",
            )  # fmt: skip
        with gr.Column():
            annotated, message, baseline = _result_images()
    with gr.Row():
        with gr.Column():
            example_name, remove = _example_options()
            if EXAMPLES:
                gr.Examples(EXAMPLES, [image, classes], label="Examples")
            compare = gr.Checkbox(label="Compare with the detector's own labels", elem_id="compare")
            threshold, negatives, settings, examples = _advanced_options()
        with gr.Column():
            detection_table, explanation, bars = _detection_table()

    on_classify = PRIVATE | {
        "fn": classify,
        "inputs": [encoded, classes, negatives, threshold, examples, drawn],
        "outputs": [annotated, message, detection_table, result],
    }
    on_compare = PRIVATE | {
        "fn": draw_baseline, "inputs": [encoded, threshold, compare], "outputs": baseline,
    }  # fmt: skip
    slow: dict[str, Any] = {"show_progress_on": annotated, "api_visibility": "private"}
    for encoding in (
        image.change(encode, [image, *settings], encoded, **slow),
        gr.on(
            [setting.change for setting in settings],
            encode_again,
            [encoded, *settings],
            encoded,
            **slow,
        ),
    ):
        encoding.then(**on_classify).then(**on_compare)
    options = [classes.change, negatives.change, threshold.change, examples.change]
    gr.on(options, **on_classify, trigger_mode="always_last")
    box = gr.HTML(js_on_load=SCRIPT)
    added = box.select(add_example, [encoded, example_name, drawn], drawn, **PRIVATE)
    removed = remove.click(DrawnExamples, None, drawn, **PRIVATE)
    for changed in (added, removed):
        changed.then(**on_classify)
    gr.on([compare.change, threshold.change], **on_compare, trigger_mode="always_last")
    detection_table.select(explain, [encoded, result], [bars, explanation], **PRIVATE)


def _result_images() -> tuple[gr.Image, gr.HTML, gr.Image]:
    annotated = gr.Image(
        label="Detections", format="jpeg", interactive=False, elem_id="image-result",
        buttons=["download", "fullscreen"],
    )  # fmt: skip
    message = gr.HTML(status(""), elem_id="image-status")
    baseline = gr.Image(
        label="The detector alone", format="jpeg", interactive=False, visible=False,
        elem_id="baseline", buttons=["fullscreen"],
    )  # fmt: skip
    return annotated, message, baseline


def _example_options() -> tuple[gr.Textbox, gr.Button]:
    with gr.Accordion("Use an object in the image as an example", open=False):
        name = gr.Textbox(
            "", label="Class of the example", elem_id="example-name", max_length=MAX_NAME_LENGTH,
            info="Enter a class name, then drag a box around the object in the detections. The "
            "example stays when you choose another image.",
        )  # fmt: skip
        remove = gr.Button("Remove these examples", size="sm")
    return name, remove


def _advanced_options() -> tuple[gr.Slider, gr.Textbox, list[gr.Dropdown], gr.File]:
    """The third are preset, input size and tile size, with which an image is encoded."""
    with gr.Accordion("Advanced", open=False):
        threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Score threshold")
        negatives = gr.Textbox(
            "", label="Negatives", info="Similar objects that compete and are never returned."
        )
        preset = gr.Dropdown(local_presets(), label="Preset")
        with gr.Row():
            imgsz = gr.Dropdown(
                [("of the preset", 0), *INPUT_SIZES], value=0, label="Input size",
                info="Pixels. A larger input finds smaller objects, and takes longer.",
            )  # fmt: skip
            tile = gr.Dropdown(
                [("of the preset", 0), *TILE_SIZES], value=0, label="Tile size",
                info="Also detect in tiles of the image, for objects that are very small.",
            )  # fmt: skip
        examples = gr.File(
            label="Example images: logo.png is an example of the class logo",
            file_count="multiple", file_types=["image"], height=160,
        )  # fmt: skip
    return threshold, negatives, [preset, imgsz, tile], examples


def _detection_table() -> tuple[gr.Dataframe, gr.HTML, gr.Label]:
    table = gr.Dataframe(
        headers=HEADERS, interactive=False, label="Select a row to explain its score",
        elem_id="detections", wrap=True, buttons=[],
    )  # fmt: skip
    explanation = gr.HTML(elem_id="explanation")
    bars = gr.Label(
        label="Probability of each class, and of the strongest competitors",
        num_top_classes=2 * MAX_BARS, show_heading=False, elem_id="contributions", buttons=[],
    )  # fmt: skip
    return table, explanation, bars
