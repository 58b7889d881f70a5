"""The tab of the camera: the newest picture, tracked and named, live."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
import supervision as sv

from openvocab import OpenVocabError
from openvocab.stream import StreamProcessor
from openvocab.types import Frame

from .words import detector, drawn, note, rgb, said_by, summary, typed, wanted


class Live:
    """A stream whose frames the page pushes: one in, one out, tracked and named steadily."""

    fps = 10.0

    def __init__(self, classes: str, threshold: float) -> None:
        self.asked = classes, threshold
        self._frames: deque[Frame] = deque()
        self._count = 0
        self.processor = StreamProcessor(detector(), wanted(classes), score_threshold=threshold)
        self._run = self.processor.run(self)

    def __iter__(self) -> Iterator[Frame]:
        while self._frames:
            yield self._frames.popleft()

    @property
    def ended(self) -> bool:
        """An error ended the run."""
        return self._run.gi_frame is None

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
    try:
        if image is None or not typed(classes):
            return gr.skip(), note("Start the camera and type what to look for."), stream
        if stream is None or stream.ended or stream.asked[1] != threshold:
            if stream is not None:
                stream.end()
            stream = Live(classes, threshold)
        elif stream.asked[0] != classes:
            stream.processor.set_classes(wanted(classes))
            stream.asked = classes, threshold
        frame, found = stream.push(np.ascontiguousarray(image[:, :, ::-1]))
    except OpenVocabError as error:
        return gr.skip(), note(said_by(error)), stream
    figures = stream.processor.metrics.snapshot()
    said = (
        f"{summary(found)} · {figures['fps']:.1f} fps, {figures['latency_ms_p50']:.0f} ms a frame"
    )
    return rgb(drawn(frame.image, found)), note(said), stream


def tab() -> None:
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
