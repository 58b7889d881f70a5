"""The demo page: find things in photos, films and a camera, in words of the visitor's own."""

from collections.abc import Mapping

import gradio as gr
import numpy as np

from openvocab import OpenVocabDetector

from . import camera, film, photo
from .film import UPLOAD_MB
from .words import detector, detectors

__all__ = ["CSS", "UPLOAD_MB", "build", "theme"]

CSS = """
.gradio-container {max-width: 1280px !important; margin: auto;}
#answer {min-height: 1.7em;} #answer p, #live p {font-size: 1.1em; margin: .2em 0;}
#table th span {overflow-wrap: normal !important; word-break: normal !important;}
#table {max-width: calc(100vw - 64px);}  /* else it is as wide as its words, on a phone, too */
.dark {--color-accent: #34d399 !important;}
"""


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


def build(loaded: Mapping[str, OpenVocabDetector]) -> gr.Blocks:
    """The page, with the networks loaded: the first visitor does not wait for them."""
    detectors.update(loaded)
    detector().detect(np.zeros((32, 32, 3), np.uint8), ["thing"])
    with gr.Blocks(title="openvocab", analytics_enabled=False, delete_cache=(300, 900)) as page:
        gr.Markdown(
            "# openvocab\nYOLO says where things are, CLIP says what they are, in your own words."
        )
        with gr.Tab("Photo"):
            photo.tab()
        with gr.Tab("Film"):
            film.tab()
        with gr.Tab("Camera"):
            camera.tab()
        photo.api()
    return page.queue(max_size=64, default_concurrency_limit=2)
