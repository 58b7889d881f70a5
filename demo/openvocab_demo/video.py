"""The Video tab: tracks, annotates and counts objects in an uploaded video, within limits."""

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

from openvocab.io import shorten_label
from openvocab.stream import JsonLinesSink, StreamProcessor, VideoSink, VideoSources
from openvocab.types import Frame, Sink

from .detectors import get_detector
from .formatting import draw, shown_errors, status
from .inputs import parse_classes

MAX_DURATION_S = 60.0  # of the video
MAX_FRAMES = 1800
MAX_PROCESSING_S = 300.0
MAX_FRAME_AREA = 4096 * 2304  # pixels
UPLOAD_MB = 64
COLOURS = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d"]


class UploadedVideo:
    """The frames of an uploaded video, up to the limits; the source is named without its folder."""

    def __init__(self, path: str) -> None:
        self._video, self._name = VideoSources(path), Path(path).name

    def __iter__(self) -> Iterator[Frame]:
        started = time.monotonic()
        for frame in self._video:
            height, width = frame.image.shape[:2]
            if width * height > MAX_FRAME_AREA:
                raise gr.Error(
                    f"The video is {width} x {height}; use one of 4K at most.",
                    print_exception=False,
                )
            yield dataclasses.replace(frame, source=self._name)
            late = time.monotonic() - started > MAX_PROCESSING_S
            if late or frame.time_s >= MAX_DURATION_S or frame.index >= MAX_FRAMES:
                return

    def close(self) -> None:
        """Close the video."""
        self._video.close()


def detect_video(path: str | None, class_text: str, threshold: float) -> Iterator[tuple[Any, ...]]:
    """Yield progress; at last the annotated video, class counts over time, and JSON Lines."""
    counts: list[tuple[float, str, int]] = []
    with tempfile.TemporaryDirectory(prefix="openvocab-video-") as folder, shown_errors():
        classes = parse_classes(class_text)
        if path is None or not classes:
            raise gr.Error("Choose a video and enter class names.", print_exception=False)
        annotated, json_lines = Path(folder) / "annotated.mp4", Path(folder) / "detections.jsonl"
        # closing(): also when the visitor cancels, which ends this generator at a yield.
        with closing(UploadedVideo(path)) as video:
            sinks: list[Sink] = [
                VideoSink(annotated, draw=lambda frame, detections: draw(frame.image, detections)),
                JsonLinesSink(json_lines),
            ]
            processor = StreamProcessor(
                get_detector(), classes, score_threshold=threshold, sinks=sinks
            )
            with closing(processor.run(video)) as run:
                for frame, detections in run:
                    in_frame = Counter(detections.data.get("class_name", ()))
                    counts += [(frame.time_s, name, in_frame[name]) for name in classes]
                    if frame.index % 10 == 0:
                        yield gr.skip(), progress(frame), gr.skip(), gr.skip()
        colours = dict(zip(classes, itertools.cycle(COLOURS), strict=False))
        # Gradio copies the files, so the folder may be deleted afterwards.
        yield (
            str(annotated),
            status(f"{frame.index + 1} frames, {frame.time_s:.0f} seconds.") + legend(colours),
            gr.LinePlot(timeline(counts), color_map=colours),
            str(json_lines),
        )


def progress(frame: Frame) -> str:
    """A progress bar up to the time limit, since a video file need not state its duration."""
    return (
        status(f"{frame.index} frames, {frame.time_s:.0f} seconds so far.")
        + f'<progress aria-label="seconds processed" max="{MAX_DURATION_S}" '
        + f'value="{frame.time_s:.1f}"></progress>'
    )


def timeline(counts: list[tuple[float, str, int]]) -> pd.DataFrame:
    """The largest count of each class in a frame, per second."""
    table = pd.DataFrame(counts, columns=["seconds", "class", "count"])
    table["seconds"] = table["seconds"].round()
    return table.groupby(["seconds", "class"], as_index=False)["count"].max()


def legend(colours: dict[str, str]) -> str:
    """The legend of the timeline as HTML: the chart's own stays empty in Gradio 6.31."""
    return " ".join(
        f'<span style="color: {colour}">■</span> {html.escape(shorten_label(name))}'
        for name, colour in colours.items()
    )


def build_tab() -> None:
    """A video file and class names beside the annotated video and the counts over time."""
    with gr.Row():
        with gr.Column():
            # Not gr.Video: it calls many a video "not playable" that openvocab reads.
            video = gr.File(label="Video", file_types=["video"], elem_id="video", height=160)
            classes = gr.Textbox("person, car", label="What to look for", elem_id="video-classes")
            threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Score threshold")
            with gr.Row():
                start = gr.Button("Detect", variant="primary", elem_id="video-start")
                cancel = gr.Button("Cancel")
            gr.Markdown(
                f"At most {UPLOAD_MB} MB and 4K; the first {MAX_DURATION_S:.0f} seconds are used."
            )
        with gr.Column():
            result = gr.Video(
                label="Detections", interactive=False, elem_id="video-result", autoplay=True
            )
            message = gr.HTML(elem_id="video-status")
            plot = gr.LinePlot(
                x="seconds", y="count", color="class", color_title=" ",
                label="Count over time", height=300, buttons=[], elem_id="timeline",
            )  # fmt: skip
            json_lines = gr.File(label="Detections as JSON Lines", elem_id="json-lines")
    run = start.click(
        detect_video, [video, classes, threshold], [result, message, plot, json_lines],
        api_visibility="private", show_progress="hidden", concurrency_limit=1,
    )  # fmt: skip
    cancel.click(
        lambda: status("Cancelled."), None, message, cancels=[run], api_visibility="private"
    )
