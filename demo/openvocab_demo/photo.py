"""The tab of photos: looked at once, named as often as words change, with the reason why."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import supervision as sv

from openvocab import OpenVocabError
from openvocab.io.annotation import shorten_label
from openvocab.io.images import load_image

from .words import answer, detector, drawn, here, note, rgb, said_by, typed, wanted

LARGEST = 1920  # pixels; a picture that is shown larger costs only time
COLUMNS = ["#", "class", "score", "a thing?", "similar", "YOLO says"]
PHOTOS = Path(find_spec("ultralytics").submodule_search_locations[0]) / "assets"  # type: ignore[union-attr,index]
EXAMPLES = [
    [str(PHOTOS / "bus.jpg"), "bus, pedestrian, traffic light"],
    [str(PHOTOS / "zidane.jpg"), "man, necktie, microphone"],
]


class CachedFeatures(NamedTuple):
    """A photo that was looked at, kept for the visitor who gave it."""

    picture: np.ndarray
    regions: Any
    preset: str


class Named(NamedTuple):
    """What was found, and what was asked for."""

    found: sv.Detections
    words: dict[str, list[Any]]
    negatives: list[str]


def look(photo: str | np.ndarray | None, preset: str) -> CachedFeatures | str | None:
    """The regions of a photo, or why there are none: the part that costs time, once a photo."""
    if photo is None:
        return None
    try:
        picture = load_image(photo, name="The photo")
        if max(picture.shape[:2]) > LARGEST:
            picture = sv.resize_image(picture, (LARGEST, LARGEST), keep_aspect_ratio=True)
        return CachedFeatures(picture, detector(preset).regions(picture), preset)
    except OpenVocabError as error:
        return said_by(error)


def name(
    seen: CachedFeatures | str | None,
    classes: str,
    negatives: str,
    threshold: float,
    examples: list[str] | None,
) -> tuple[np.ndarray | None, str, list[list[Any]], Named | None]:
    """Picture, answer and table for what was typed; no network looks at the photo again."""
    if not isinstance(seen, CachedFeatures):
        hint = "Choose a photo: drop one here, paste one, or take an example."
        return None, note(seen or hint), [], None
    try:
        words, rejected = wanted(classes, examples), typed(negatives)
        if not words:
            hint = "Type what to look for, such as: bus, person."
            return rgb(seen.picture), note(hint), [], None
        found = detector(seen.preset).name(
            seen.regions, words, negatives=rejected, score_threshold=threshold
        )
    except OpenVocabError as error:
        return rgb(seen.picture), note(said_by(error)), [], None
    shown = drawn(seen.picture, found)
    return rgb(shown), answer(found), rows(found), Named(found, words, rejected)


def rows(found: sv.Detections) -> list[list[Any]]:
    """The table, best first."""
    data = found.data
    return [
        [
            row + 1,
            str(data["class_name"][row]),
            round(float(found.confidence[row]), 2),  # type: ignore[index]
            round(float(data["objectness"][row]), 2),
            round(float(data["similarity"][row]), 2),
            str(data["proposal_label"][row]),
        ]
        for row in range(len(found))
    ]


def why(
    event: gr.SelectData, seen: CachedFeatures | str | None, named: Named | None
) -> tuple[dict[str, float] | None, str]:
    """What spoke for and against the row that was chosen."""
    row = int(event.row_value[0] or 0) - 1
    if not isinstance(seen, CachedFeatures) or named is None or not 0 <= row < len(named.found):
        return None, note("There is nothing to explain; choose a photo.")
    found, data = named.found, named.found.data
    try:
        shares = detector(seen.preset).explain(
            seen.regions, found.xyxy[row], named.words, negatives=named.negatives
        )
    except OpenVocabError as error:
        return None, note(said_by(error))
    kinds = {
        "class": "",
        "negative": " (not meant)",
        "background": ", nothing",
        "detector": " (YOLO)",
    }
    asked = [each for each in shares if each.kind == "class"]
    others = [each for each in shares if each.kind != "class"]
    top = [each for few in (asked, others) for each in sorted(few, key=lambda it: -it.share)[:5]]
    bars = {shorten_label(each.name) + kinds[each.kind]: each.share for each in top}
    return bars, note(
        f"Row {row + 1}, {data['class_name'][row]}: YOLO is {data['objectness'][row]:.0%} sure that "
        f"there is a thing and calls it {data['proposal_label'][row]}. The region is "
        f"{data['similarity'][row]:.2f} similar to the words; with all that competes the class gets "
        f"{data['posterior'][row]:.0%}."
    )


def compare(seen: CachedFeatures | str | None, threshold: float, shown: bool) -> Any:
    """What YOLO says by itself, in its own eighty words."""
    if not isinstance(seen, CachedFeatures) or not shown:
        return gr.update(visible=shown, value=None)
    found = seen.regions.proposals
    found = found[found.objectness >= threshold]
    known = list(dict.fromkeys(found.labels))
    own = sv.Detections(
        found.xyxy,
        confidence=found.objectness,
        class_id=np.array([known.index(label) for label in found.labels], int),
        data={"class_name": np.array(found.labels, dtype=object)},
    )
    return gr.update(visible=True, value=rgb(drawn(seen.picture, own)))


def unopened(photo: gr.Image) -> gr.Image:
    """The same, that gives the path of an upload, which Gradio has checked to be one.

    Gradio opens it first, by other rules than `openvocab.io.images`, and says "Error" if it cannot.
    """
    read = photo.preprocess
    photo.preprocess = lambda payload: getattr(payload, "path", None) or read(payload)  # type: ignore[method-assign]
    return photo


def tab() -> None:  # noqa: PLR0915  as many statements as the page has parts
    """A photo, words, the answer and why."""
    seen, found = gr.State(None, time_to_live=3600), gr.State(None, time_to_live=3600)
    # In this order a phone shows the answer right under the words.
    with gr.Row():
        with gr.Column():
            photo = gr.Image(
                label="Photo", type="filepath", sources=["upload", "clipboard"], height=380,
                elem_id="photo", buttons=[],
            )  # fmt: skip
            unopened(photo)
            classes = gr.Textbox(
                "bus, person", label="What to look for", info="Any words, separated by commas.",
                elem_id="classes", max_length=20_000,
            )  # fmt: skip
        with gr.Column():
            result = gr.Image(
                label="Found", format="jpeg", interactive=False, elem_id="result",
                buttons=["download", "fullscreen"],
            )  # fmt: skip
            said = gr.HTML(note(""), elem_id="answer")
            other = gr.Image(
                label="YOLO alone", format="jpeg", interactive=False, visible=False,
                elem_id="closed-set", buttons=["fullscreen"],
            )  # fmt: skip
    with gr.Row():
        with gr.Column():
            there = [example for example in EXAMPLES if Path(example[0]).is_file()]
            if there:
                gr.Examples(there, [photo, classes], label="Examples")
            closed = gr.Checkbox(label="Compare with YOLO's own labels", elem_id="compare")
            with gr.Accordion("Advanced", open=False):
                threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Lowest score")
                negatives = gr.Textbox(
                    "", label="What it is not", info="Look-alikes that compete and are never shown."
                )
                preset = gr.Dropdown(here(), label="Preset")
                examples = gr.File(
                    label="Example pictures: logo.png shows the class logo",
                    file_count="multiple", file_types=["image"], height=160,
                )  # fmt: skip
        with gr.Column():
            table = gr.Dataframe(
                headers=COLUMNS, interactive=False, label="Choose a row to see why",
                elem_id="table", wrap=True, buttons=[],
            )  # fmt: skip
            reason = gr.HTML(elem_id="reason")
            bars = gr.Label(
                label="Why: probability of each class, and of what competes with the best",
                num_top_classes=10, show_heading=False, elem_id="why", buttons=[],
            )  # fmt: skip
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    naming = {
        "fn": name,
        "inputs": [seen, classes, negatives, threshold, examples],
        "outputs": [result, said, table, found],
        "api_visibility": "private",
    }
    beside = {"fn": compare, "inputs": [seen, threshold, closed], "outputs": other} | quiet
    looked = [
        photo.change(
            look, [photo, preset], seen, show_progress_on=result, api_visibility="private"
        ),
        preset.change(
            lambda seen, preset: look(seen.picture, preset) if isinstance(seen, CachedFeatures) else seen,
            [seen, preset], seen, show_progress_on=result, api_visibility="private",
        ),
    ]  # fmt: skip
    for each in looked:
        each.then(**naming, show_progress="hidden").then(**beside)
    gr.on(
        [classes.change, negatives.change, threshold.change, examples.change],
        **naming, show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip
    gr.on([closed.change, threshold.change], **beside, trigger_mode="always_last")
    table.select(why, [seen, found], [bars, reason], **quiet)


def detect(
    photo: str | None, classes: str, negatives: str = "", threshold: float = 0.3
) -> list[dict]:
    """Find things in a photo.

    Args:
        photo: the picture.
        classes: what to look for, separated by commas.
        negatives: look-alikes that are not meant, separated by commas.
        threshold: lowest score that is returned, 0 to 1.

    Returns:
        The things found, best first: class_name, score, and box [x1, y1, x2, y2] in pixels.
    """
    if photo is None:
        raise gr.Error("No photo was given; send one.", print_exception=False)
    try:
        found = detector().detect(
            photo, wanted(classes), negatives=typed(negatives), score_threshold=threshold
        )
    except OpenVocabError as error:
        raise gr.Error(said_by(error), print_exception=False) from error
    rows = zip(found.data["class_name"], found.confidence, found.xyxy, strict=True)  # type: ignore[arg-type]
    return [
        {
            "class_name": str(name),
            "score": round(float(score), 4),
            "box": box.astype(float).round(1).tolist(),
        }
        for name, score, box in rows
    ]


def api() -> None:
    """What programs call: of components that nobody sees, so that Gradio checks every file."""
    with gr.Row(visible=False):
        given = [
            unopened(gr.Image(label="photo", type="filepath")),
            gr.Textbox(label="classes"),
            gr.Textbox("", label="negatives"),
            gr.Slider(0, 1, 0.3, label="threshold"),
        ]
        gr.Button().click(detect, given, gr.JSON(label="found"), api_name="detect")
