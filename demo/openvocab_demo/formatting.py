"""Results and messages as the page shows them."""

import html
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import numpy as np
import supervision as sv

from openvocab import OpenVocabError, annotate
from openvocab.io import shorten_label
from openvocab.types import Image, NearMiss

LABEL_SCALE = 1.4  # readable on a phone


def draw(image: Image, detections: sv.Detections) -> Image:
    """Annotate a BGR image, with labels that are readable on a phone."""
    return annotate(image, detections, scale=LABEL_SCALE)


def draw_near_miss(image: Image, near_miss: NearMiss) -> Image:
    """Outline the box that came closest, in grey and without a label: it is no detection."""
    box = sv.Detections(np.array([near_miss.xyxy], np.float32), class_id=np.zeros(1, int))
    thickness = max(2, sum(image.shape[:2]) // 400)
    outlined: Image = sv.BoxAnnotator(sv.Color.from_hex("#a1a1aa"), thickness).annotate(
        image.copy(), box
    )
    return outlined


def swap_channels(image: Image) -> Image:
    """Convert between BGR, which openvocab uses, and RGB, which Gradio uses."""
    return np.ascontiguousarray(image[:, :, ::-1])


def count_classes(detections: sv.Detections) -> str:
    """`2 person, 1 bus`, the most frequent class first."""
    counts = Counter(map(str, detections.data.get("class_name", ())))
    listed = [f"{count} {shorten_label(name)}" for name, count in counts.most_common()]
    return ", ".join(listed) or "no detections"


def shorten_near_miss(near_miss: NearMiss) -> str:
    """The sentence of a near miss, with names that fit the page."""
    better = near_miss.box_class
    return str(
        near_miss._replace(
            class_name=shorten_label(near_miss.class_name),
            box_class=better and shorten_label(better),
        )
    )


def status(text: str) -> str:
    """Text as HTML, escaped, and read aloud by a screen reader when it changes."""
    return f'<p role="status" aria-live="polite" dir="auto">{html.escape(text)}</p>'


def error_message(error: Exception) -> str:
    """The message without paths of this server: Gradio keeps uploads in folders named by a hash."""
    folder = re.escape(str(Path(os.environ["GRADIO_TEMP_DIR"])))
    return re.sub(rf"{folder}/(?:[0-9a-f]{{64}}/)?", "", str(error))


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show the message of an `OpenVocabError` to the visitor; Gradio hides other errors."""
    try:
        yield
    except OpenVocabError as error:
        raise gr.Error(error_message(error), print_exception=False) from error
