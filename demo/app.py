"""The demo page: find things in photos, films and a camera, in words of the visitor's own."""

import html
import itertools
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pandas as pd
import supervision as sv

from openvocab import OpenVocabDetector, OpenVocabError, annotate
from openvocab.images import load
from openvocab.presets import available
from openvocab.prompts import split_list
from openvocab.protocols import Frame
from openvocab.stream import JsonLinesSink, Sources, StreamProcessor, VideoSink

LONGEST_S, LONGEST_FRAMES = 60.0, 1800  # of a film
LARGEST = 1920  # pixels; a picture that is shown larger costs only time
MANY = 200  # classes
TEXT = 1.4  # labels are read on phones, too
HUES = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d"]
COLUMNS = ["#", "class", "score", "a thing?", "similar", "YOLO says"]
CSS = """
.gradio-container {max-width: 1280px !important; margin: auto;}
#answer {min-height: 1.7em;} #answer p, #live p {font-size: 1.1em; margin: .2em 0;}
.dark {--color-accent: #34d399 !important;}
"""
PHOTOS = Path(find_spec("ultralytics").submodule_search_locations[0]) / "assets"  # type: ignore[union-attr,index]
EXAMPLES = [
    [str(PHOTOS / "bus.jpg"), "bus, pedestrian, traffic light"],
    [str(PHOTOS / "zidane.jpg"), "man, necktie, microphone"],
]


class Seen(NamedTuple):
    """A photo that was looked at, kept for the visitor who gave it."""

    picture: np.ndarray
    regions: Any
    preset: str


@cache
def detector(preset: str) -> OpenVocabDetector:
    """Loaded once and shared: it keeps no state of a call."""
    return OpenVocabDetector.from_preset(preset)


def wanted(classes: str, examples: list[str] | None = None) -> Any:
    """What was typed, and what a picture called `logo.png` shows: an example of `logo`."""
    words: dict[str, list[Any]] = {word: [word] for word in split_list(classes)[:MANY]}
    for path in examples or []:
        words.setdefault(Path(path).stem, []).append(Path(path))
    return words


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
        found = detector("starter").detect(
            photo, wanted(classes), negatives=split_list(negatives), score_threshold=threshold
        )
    except OpenVocabError as error:
        raise gr.Error(str(error), print_exception=False) from error
    rows = zip(found.data["class_name"], found.confidence, found.xyxy, strict=True)  # type: ignore[arg-type]
    return [
        {"class_name": str(name), "score": round(float(score), 4), "box": box.round(1).tolist()}
        for name, score, box in rows
    ]


def look(photo: str | np.ndarray | None, preset: str) -> Seen | None:
    """The regions of a photo: the part that costs time, done once a photo."""
    if photo is None:
        return None
    try:
        picture = load(photo)
        height, width = picture.shape[:2]
        if max(height, width) > LARGEST:
            picture = sv.resize_image(picture, (LARGEST, LARGEST), keep_aspect_ratio=True)
        return Seen(picture, detector(preset).regions(picture), preset)
    except OpenVocabError as error:
        raise gr.Error(str(error), print_exception=False) from error


def name(
    seen: Seen | None, classes: str, negatives: str, threshold: float, examples: list[str] | None
) -> tuple[np.ndarray | None, str, list[list[Any]], sv.Detections | None]:
    """Picture, answer and table for what was typed; no network looks at the picture again."""
    if seen is None:
        return None, note("Choose a photo: drop one here, paste one, or take an example."), [], None
    words = wanted(classes, examples)
    if not words:
        return rgb(seen.picture), note("Type what to look for, such as: bus, person."), [], None
    try:
        found = detector(seen.preset).name(
            seen.regions, words, negatives=split_list(negatives), score_threshold=threshold
        )
    except OpenVocabError as error:
        return rgb(seen.picture), note(str(error)), [], None
    data = found.data
    table = [
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
    return rgb(annotate(seen.picture, found, scale=TEXT)), answer(found), table, found


def why(
    event: gr.SelectData,
    seen: Seen,
    found: sv.Detections,
    classes: str,
    negatives: str,
    examples: list[str] | None,
) -> tuple[dict[str, float], str]:
    """What spoke for and against the row that was chosen."""
    row = int(event.row_value[0]) - 1
    shares = detector(seen.preset).explain(
        seen.regions, found.xyxy[row], wanted(classes, examples), negatives=split_list(negatives)
    )
    kinds = {
        "class": "",
        "negative": " (not meant)",
        "background": ", nothing",
        "detector": " (YOLO)",
    }
    asked = [each for each in shares if each.kind == "class"]
    others = [each for each in shares if each.kind != "class"]
    top = [row for rows in (asked, others) for row in sorted(rows, key=lambda r: -r.share)[:5]]
    bars = {cut(each.name) + kinds[each.kind]: each.share for each in top}
    data = found.data
    return bars, note(
        f"Row {row + 1}, {data['class_name'][row]}: YOLO is {data['objectness'][row]:.0%} sure that "
        f"there is a thing and calls it {data['proposal_label'][row]}. The region is "
        f"{data['similarity'][row]:.2f} similar to the words; with all that competes the class gets "
        f"{data['posterior'][row]:.0%}."
    )


def compare(seen: Seen | None, threshold: float, shown: bool) -> Any:
    """What YOLO says by itself, in its own eighty words."""
    if seen is None or not shown:
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
    return gr.update(visible=True, value=rgb(annotate(seen.picture, own, scale=TEXT)))


def film(
    path: str | None,
    classes: str,
    threshold: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio's way
) -> Iterator[tuple[Any, ...]]:
    """An annotated film, counts of each class over time, and the detections as JSON Lines."""
    words = wanted(classes)
    if path is None or not words:
        raise gr.Error("Choose a film and type what to look for.", print_exception=False)
    counts: list[tuple[float, str, int]] = []
    with tempfile.TemporaryDirectory(prefix="openvocab-film-") as place:
        folder = Path(place)
        try:
            source = Sources(path)
            total = min(sv.VideoInfo.from_video_path(path).total_frames or 0, LONGEST_FRAMES)
            sinks = [
                VideoSink(folder / "found.mp4", source.fps, draw=drawn),
                JsonLinesSink(folder / "found.jsonl"),
            ]
            processor = StreamProcessor(
                detector("starter"), words, score_threshold=threshold, sinks=sinks
            )
            with closing(processor.run(source)) as run:  # a visitor who cancels ends it here
                for frame, found in run:
                    here = Counter(found.data.get("class_name", ()))
                    counts += [(frame.time_s, word, here[word]) for word in words]
                    progress((frame.index, total or None), desc="looking", unit="frames")
                    if frame.time_s >= LONGEST_S or frame.index >= LONGEST_FRAMES:
                        break
                    if frame.index % 20 == 0:
                        yield gr.skip(), note(f"{frame.index} frames"), gr.skip(), gr.skip()
        except OpenVocabError as error:
            raise gr.Error(str(error), print_exception=False) from error
        hues = dict(zip(words, itertools.cycle(HUES), strict=False))
        # Gradio keeps copies; the folder goes when the visitor has them.
        yield (
            str(folder / "found.mp4"),
            note(f"{frame.index + 1} frames, {frame.time_s:.0f} seconds.") + legend(hues),
            gr.LinePlot(timeline(counts), color_map=hues),
            str(folder / "found.jsonl"),
        )


def drawn(frame: Frame, found: sv.Detections) -> np.ndarray:
    """A frame as it is shown."""
    return annotate(frame.image, found, scale=TEXT)


def timeline(counts: list[tuple[float, str, int]]) -> pd.DataFrame:
    """The most of each class at once, second by second."""
    table = pd.DataFrame(counts, columns=["seconds", "class", "count"])
    table["seconds"] = table["seconds"].round()
    return table.groupby(["seconds", "class"], as_index=False)["count"].max()


def legend(hues: dict[str, str]) -> str:
    """Of the timeline: the chart's own stays empty in Gradio 6.31."""
    return " ".join(
        f'<span style="color: {hue}">■</span> {html.escape(cut(word))}'
        for word, hue in hues.items()
    )


class Live:
    """A stream whose frames the page pushes: one in, one out, tracked and named steadily."""

    fps = 10.0

    def __init__(self, classes: str, threshold: float) -> None:
        self.asked = classes, threshold
        self._frames: deque[Frame] = deque()
        self._count = 0
        self.processor = StreamProcessor(
            detector("starter"), wanted(classes), score_threshold=threshold
        )
        self._run = self.processor.run(self)

    def __iter__(self) -> Iterator[Frame]:
        while self._frames:
            yield self._frames.popleft()

    def push(self, image: np.ndarray) -> tuple[Frame, sv.Detections]:
        """What is in a picture `(H, W, 3)` BGR."""
        self._frames.append(Frame(self._count, time.monotonic(), image, "camera"))
        self._count += 1
        return next(self._run)

    def close(self) -> None:
        """The run closes its source; there is nothing to close here."""

    def end(self) -> None:
        """The visitor has gone."""
        self._run.close()


def live(
    image: np.ndarray | None, classes: str, threshold: float, stream: Live | None
) -> tuple[Any, str, Live | None]:
    """One picture of a camera."""
    if image is None or not split_list(classes):
        return gr.skip(), note("Start the camera and type what to look for."), stream
    try:
        if stream is None or stream.asked[1] != threshold:
            if stream is not None:
                stream.end()
            stream = Live(classes, threshold)
        elif stream.asked[0] != classes:
            stream.processor.set_classes(wanted(classes))
            stream.asked = classes, threshold
        frame, found = stream.push(np.ascontiguousarray(image[:, :, ::-1]))
    except OpenVocabError as error:
        return gr.skip(), note(str(error)), stream
    figures = stream.processor.metrics.snapshot()
    said = (
        f"{summary(found)} · {figures['fps']:.1f} fps, {figures['latency_ms_p50']:.0f} ms a frame"
    )
    return rgb(annotate(frame.image, found, scale=TEXT)), note(said), stream


def rgb(picture: np.ndarray) -> np.ndarray:
    """As Gradio shows it."""
    return np.ascontiguousarray(picture[:, :, ::-1])


def cut(text: str, longest: int = 40) -> str:
    """Short enough for a line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def summary(found: sv.Detections) -> str:
    """`2 person, 1 bus`, most first."""
    counts = Counter(map(str, found.data.get("class_name", ())))
    return ", ".join(f"{number} {cut(word)}" for word, number in counts.most_common()) or "nothing"


def answer(found: sv.Detections) -> str:
    """What was found, in a sentence."""
    if len(found):
        return note(f"Found: {summary(found)}.")
    return note(
        "Nothing of this is in the picture. A broader word or a lower threshold finds more."
    )


def note(text: str) -> str:
    """Text of a visitor or of a file, as text and nothing else; read out when it changes."""
    return f'<p role="status" aria-live="polite" dir="auto">{html.escape(text)}</p>'


def saying_why(photo: gr.Image) -> gr.Image:
    """The same, that says what is wrong with a file that is no image; Gradio says "Error"."""
    read = photo.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except (OSError, ValueError) as error:
            said = "This is no image that can be read; give a JPEG, PNG or WebP."
            raise gr.Error(said, print_exception=False) from error

    photo.preprocess = preprocess  # type: ignore[method-assign]
    return photo


def photo_tab() -> None:  # noqa: PLR0915  as many statements as the page has parts
    """A photo, words, the answer and why."""
    seen, found = gr.State(None, time_to_live=3600), gr.State(None, time_to_live=3600)
    # In this order a phone shows the answer right under the words.
    with gr.Row():
        with gr.Column():
            photo = gr.Image(
                label="Photo", type="filepath", sources=["upload", "clipboard"], height=380,
                elem_id="photo", buttons=[],
            )  # fmt: skip
            saying_why(photo)
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
            gr.Examples(EXAMPLES, [photo, classes], label="Examples")
            closed = gr.Checkbox(label="Compare with YOLO's own labels", elem_id="compare")
            with gr.Accordion("Advanced", open=False):
                threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Lowest score")
                negatives = gr.Textbox(
                    "", label="What it is not", info="Look-alikes that compete and are never shown."
                )
                preset = gr.Dropdown(list(available()), value="starter", label="Preset")
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
            lambda seen, preset: look(None if seen is None else seen.picture, preset),
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
    table.select(why, [seen, found, classes, negatives, examples], [bars, reason], **quiet)


def film_tab() -> None:
    """A film in, an annotated film out."""
    with gr.Row():
        with gr.Column():
            # No gr.Video: it says "not playable" of many a film that is read here.
            given = gr.File(label="Film", file_types=["video"], elem_id="film", height=160)
            classes = gr.Textbox("person, car", label="What to look for", elem_id="film-classes")
            threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Lowest score")
            with gr.Row():
                start = gr.Button("Look", variant="primary", elem_id="look")
                stop = gr.Button("Cancel")
            gr.Markdown(f"At most {LONGEST_S:.0f} seconds and 64 MB.")
        with gr.Column():
            result = gr.Video(
                label="Found", interactive=False, elem_id="film-result", autoplay=True
            )
            said = gr.HTML(elem_id="film-answer")
            counts = gr.LinePlot(
                x="seconds", y="count", color="class", color_title=" ", label="How many, over time", height=300,
                buttons=[], elem_id="timeline",
            )  # fmt: skip
            lines = gr.File(label="Detections, JSON Lines", elem_id="lines")
    run = start.click(
        film, [given, classes, threshold], [result, said, counts, lines],
        api_visibility="private", show_progress_on=said, concurrency_limit=1,
    )  # fmt: skip
    stop.click(lambda: note("Cancelled."), None, said, cancels=[run], api_visibility="private")


def camera_tab() -> None:
    """The visitor's camera, live."""
    stream = gr.State(None, time_to_live=600, delete_callback=lambda it: it and it.end())
    with gr.Row():
        with gr.Column():
            camera = gr.Image(
                label="Camera", sources=["webcam"], streaming=True, type="numpy", format="jpeg",
                elem_id="camera", webcam_options=gr.WebcamOptions(mirror=False),
            )  # fmt: skip
            classes = gr.Textbox("person, cup", label="What to look for", elem_id="live-classes")
            threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Lowest score")
        with gr.Column():
            result = gr.Image(
                label="Found", format="jpeg", interactive=False, elem_id="live-result", buttons=[]
            )
            said = gr.HTML(note("Start the camera."), elem_id="live")
    camera.stream(
        live, [camera, classes, threshold, stream], [result, said, stream], stream_every=0.1,
        concurrency_limit=2, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def api() -> None:
    """What programs call: of components that nobody sees, so that Gradio checks every file."""
    with gr.Row(visible=False):
        given = [
            saying_why(gr.Image(label="photo", type="filepath")),
            gr.Textbox(label="classes"),
            gr.Textbox("", label="negatives"),
            gr.Slider(0, 1, 0.3, label="threshold"),
        ]
        gr.Button().click(detect, given, gr.JSON(label="found"), api_name="detect")


def theme() -> gr.Theme:
    """Quiet, with the fonts that the visitor's machine has: no host is asked for one."""
    plain = ["system-ui", "sans-serif"]
    quiet = {"light": "#52525b", "dark": "#c4c4cc"}  # 7:1 on the page, Gradio's own has 2.6:1
    return gr.themes.Default(primary_hue="emerald", font=plain, font_mono=plain).set(
        **{
            f"{part}{'_dark' if mode == 'dark' else ''}": colour
            for mode, colour in quiet.items()
            for part in (
                "body_text_color_subdued", "block_info_text_color", "block_label_text_color",
                "block_title_text_color", "input_placeholder_color",
            )
        },
        button_primary_background_fill="#047857", button_primary_background_fill_dark="#047857",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        color_accent="#047857",
        link_text_color="#047857", link_text_color_dark="#34d399",
    )  # fmt: skip


def build() -> gr.Blocks:
    """The page, with the networks loaded: the first visitor does not wait for them."""
    detector("starter").detect(np.zeros((32, 32, 3), np.uint8), ["thing"])
    with gr.Blocks(title="openvocab", analytics_enabled=False, delete_cache=(300, 900)) as page:
        gr.Markdown(
            "# openvocab\nYOLO says where things are, CLIP says what they are, in your own words."
        )
        with gr.Tab("Photo"):
            photo_tab()
        with gr.Tab("Film"):
            film_tab()
        with gr.Tab("Camera"):
            camera_tab()
        api()
    return page.queue(max_size=64, default_concurrency_limit=2)
