"""The demo page: open-vocabulary detection in images, videos and a camera."""

from collections.abc import Mapping

import gradio as gr
import numpy as np

from openvocab import OpenVocabDetector

from . import api, camera, drawn_examples, image, video
from .detectors import add_detectors, get_detector
from .video import UPLOAD_MB

__all__ = ["CSS", "UPLOAD_MB", "build", "theme"]

CSS = (
    """
.gradio-container {max-width: 1280px !important; margin: auto;}
#image-status {min-height: 1.7em;} #image-status p, #camera-status p {font-size: 1.1em; margin: .2em 0;}
#detections th span {overflow-wrap: normal !important; word-break: normal !important;}
#detections {max-width: calc(100vw - 64px);}  /* otherwise as wide as its words, even on a phone */
.dark {--color-accent: #34d399 !important;}
"""
    + drawn_examples.CSS
)


def theme() -> gr.Theme:
    """A plain theme with system fonts, which need no request to another host."""
    fonts = ["system-ui", "sans-serif"]
    secondary = {"": "#52525b", "_dark": "#c4c4cc"}  # contrast of 7:1; Gradio's default has 2.6:1
    return gr.themes.Default(primary_hue="emerald", font=fonts, font_mono=fonts).set(
        **{
            f"{part}{mode}": colour
            for mode, colour in secondary.items()
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


def build(detectors: Mapping[str, OpenVocabDetector]) -> gr.Blocks:
    """Build the page, and load the models, for which the first visitor would have to wait.

    Args:
        detectors: loaded detectors by preset; the first one is the default. May be empty.

    Raises:
        OpenVocabError: there is no detector and the `starter` preset cannot be loaded.
    """
    add_detectors(detectors)
    get_detector().detect(np.zeros((32, 32, 3), np.uint8), ["object"])
    with gr.Blocks(title="openvocab", analytics_enabled=False, delete_cache=(300, 900)) as page:
        gr.Markdown(
            "# openvocab\n"
            "Open-vocabulary object detection: YOLO proposes boxes, CLIP classifies them by the "
            "names that you enter."
        )
        with gr.Tab("Image"):
            image.build_tab()
        with gr.Tab("Video"):
            video.build_tab()
        with gr.Tab("Camera"):
            camera.build_tab()
        api.build_endpoint()
    return page.queue(max_size=64, default_concurrency_limit=2)
