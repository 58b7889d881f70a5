"""The Camera tab: frames of the visitor's camera, tracked and classified live."""

import inspect
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
import supervision as sv

from openvocab import OpenVocabError
from openvocab.stream import StreamProcessor
from openvocab.types import Frame, Image

from .detectors import get_detector
from .formatting import count_classes, draw, error_message, status, swap_channels
from .inputs import Classes, parse_classes

FPS = 10.0  # at which the page sends frames


class LiveStream:
    """A stream whose frames are pushed by the page, one at a time."""

    def __init__(self, classes: Classes, threshold: float) -> None:
        self.classes, self.threshold = classes, threshold
        self._queue: deque[Frame] = deque()
        self._frame_count = 0
        self._processor = StreamProcessor(get_detector(), classes, score_threshold=threshold)
        self._run = self._processor.run(self)

    def __iter__(self) -> Iterator[Frame]:
        while self._queue:
            yield self._queue.popleft()

    @property
    def ended(self) -> bool:
        """Whether the run has ended, as it does after an error."""
        return inspect.getgeneratorstate(self._run) == inspect.GEN_CLOSED

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the run."""
        return self._processor.metrics.snapshot()

    def set_classes(self, classes: Classes) -> None:
        """Detect other classes from the next frame on.

        Raises:
            ClassesError: the classes cannot be used; the stream continues with the earlier ones.
        """
        self._processor.set_classes(classes)
        self.classes = classes

    def push(self, image: Image) -> sv.Detections:
        """Detections of the next frame, `(H, W, 3)` BGR."""
        frame = Frame(self._frame_count, time.monotonic(), image, "camera", fps=FPS)
        self._queue.append(frame)
        self._frame_count += 1
        _, detections = next(self._run)
        return detections

    def close(self) -> None:
        """Called at the end of the run, as for any source; there is nothing to free."""

    def end(self) -> None:
        """End the run; the visitor has left."""
        self._run.close()


def detect_frame(
    image: np.ndarray | None, class_text: str, threshold: float, stream: LiveStream | None
) -> tuple[Any, str, LiveStream | None]:
    """The annotated frame, a status line, and the stream of this visitor."""
    try:
        classes = parse_classes(class_text)
        if image is None or not classes:
            return gr.skip(), status("Start the camera and enter class names."), stream
        if stream is None or stream.ended or stream.threshold != threshold:
            if stream is not None:
                stream.end()
            stream = LiveStream(classes, threshold)
        elif stream.classes != classes:
            stream.set_classes(classes)
        frame = swap_channels(image)
        detections = stream.push(frame)
    except OpenVocabError as error:
        return gr.skip(), status(error_message(error)), stream
    metrics = stream.metrics
    speed = f"{metrics['fps']:.1f} fps, {metrics['latency_ms_p50']:.0f} ms per frame"
    text = status(f"{count_classes(detections)} · {speed}")
    return swap_channels(draw(frame, detections)), text, stream


def build_tab() -> None:
    """A camera input beside the annotated frames."""
    stream = gr.State(None, time_to_live=600, delete_callback=lambda it: it and it.end())
    with gr.Row():
        with gr.Column():
            camera = gr.Image(
                label="Camera", sources=["webcam"], streaming=True, type="numpy", format="jpeg",
                elem_id="camera", webcam_options=gr.WebcamOptions(mirror=False),
            )  # fmt: skip
            classes = gr.Textbox("person, cup", label="What to look for", elem_id="camera-classes")
            threshold = gr.Slider(0.1, 0.9, 0.3, step=0.05, label="Score threshold")
        with gr.Column():
            result = gr.Image(
                label="Detections", format="jpeg", interactive=False, elem_id="camera-result",
                buttons=[],
            )  # fmt: skip
            message = gr.HTML(status("Start the camera."), elem_id="camera-status")
    camera.stream(
        detect_frame, [camera, classes, threshold, stream], [result, message, stream],
        stream_every=1 / FPS, concurrency_limit=2, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
