"""The tab of films: annotated, counted over time, within limits."""

import dataclasses
import html
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from openvocab import OpenVocabError
from openvocab.io.annotation import shorten_label
from openvocab.stream import JsonLinesSink, StreamProcessor, VideoSink, VideoSources
from openvocab.types import Frame

from .words import detector, drawn, note, said_by, wanted

LONGEST_S, LONGEST_FRAMES, LONGEST_WORK_S = 60.0, 1800, 300.0
LARGEST_FRAME = 4096 * 2304  # pixels
UPLOAD_MB = 64
HUES = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d"]


class Upload:
    """A visitor's film, without the place it has on this server; as long as is allowed."""

    def __init__(self, path: str) -> None:
        self._source, self._name = VideoSources(path), Path(path).name
        self.fps = self._source.fps

    def __iter__(self) -> Iterator[Frame]:
        begun = time.monotonic()
        for frame in self._source:
            height, width = frame.image.shape[:2]
            if width * height > LARGEST_FRAME:
                raise gr.Error(
                    f"The film is {width} x {height}; at most 4K.", print_exception=False
                )
            yield dataclasses.replace(frame, source=self._name)
            late = time.monotonic() - begun > LONGEST_WORK_S
            if late or frame.time_s >= LONGEST_S or frame.index >= LONGEST_FRAMES:
                return

    def close(self) -> None:
        """Of the film."""
        self._source.close()


def look(path: str | None, classes: str, threshold: float) -> Iterator[tuple[Any, ...]]:
    """An annotated film, counts of each class over time, and the detections as JSON Lines."""
    try:
        words = wanted(classes)
    except OpenVocabError as error:
        raise gr.Error(said_by(error), print_exception=False) from error
    if path is None or not words:
        raise gr.Error("Choose a film and type what to look for.", print_exception=False)
    counts: list[tuple[float, str, int]] = []
    with tempfile.TemporaryDirectory(prefix="openvocab-film-") as place:
        film, lines = Path(place) / "found.mp4", Path(place) / "found.jsonl"
        try:
            # Whatever ends this, a visitor who cancels too, closes the film and the run.
            with closing(Upload(path)) as source:
                sinks = [
                    VideoSink(
                        film, source.fps, draw=lambda frame, found: drawn(frame.image, found)
                    ),
                    JsonLinesSink(lines),
                ]
                processor = StreamProcessor(
                    detector(), words, score_threshold=threshold, sinks=sinks
                )
                with closing(processor.run(source)) as run:
                    for frame, found in run:
                        here = Counter(found.data.get("class_name", ()))
                        counts += [(frame.time_s, word, here[word]) for word in words]
                        if frame.index % 10 == 0:
                            yield gr.skip(), progress(frame), gr.skip(), gr.skip()
        except OpenVocabError as error:
            raise gr.Error(said_by(error), print_exception=False) from error
        hues = dict(zip(words, itertools.cycle(HUES), strict=False))
        # Gradio keeps copies; the folder goes when the visitor has them.
        yield (
            str(film),
            note(f"{frame.index + 1} frames, {frame.time_s:.0f} seconds.") + legend(hues),
            gr.LinePlot(timeline(counts), color_map=hues),
            str(lines),
        )


def progress(frame: Frame) -> str:
    """A bar up to the longest film that is taken: how long this one is, its file need not say."""
    return (
        note(f"{frame.index} frames, {frame.time_s:.0f} seconds so far.")
        + f'<progress aria-label="seconds looked at" max="{LONGEST_S}" value="{frame.time_s:.1f}">'
        + "</progress>"
    )


def timeline(counts: list[tuple[float, str, int]]) -> pd.DataFrame:
    """The most of each class at once, second by second."""
    table = pd.DataFrame(counts, columns=["seconds", "class", "count"])
    table["seconds"] = table["seconds"].round()
    return table.groupby(["seconds", "class"], as_index=False)["count"].max()


def legend(hues: dict[str, str]) -> str:
    """Of the timeline: the chart's own stays empty in Gradio 6.31."""
    return " ".join(
        f'<span style="color: {hue}">■</span> {html.escape(shorten_label(word))}'
        for word, hue in hues.items()
    )


def tab() -> None:
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
            gr.Markdown(f"The first {LONGEST_S:.0f} seconds, 4K and {UPLOAD_MB} MB at most.")
        with gr.Column():
            result = gr.Video(
                label="Found", interactive=False, elem_id="film-result", autoplay=True
            )
            said = gr.HTML(elem_id="film-answer")
            counts = gr.LinePlot(
                x="seconds", y="count", color="class", color_title=" ",
                label="How many, over time", height=300, buttons=[], elem_id="timeline",
            )  # fmt: skip
            lines = gr.File(label="Detections, JSON Lines", elem_id="lines")
    run = start.click(
        look, [given, classes, threshold], [result, said, counts, lines],
        api_visibility="private", show_progress="hidden", concurrency_limit=1,
    )  # fmt: skip
    stop.click(lambda: note("Cancelled."), None, said, cancels=[run], api_visibility="private")
