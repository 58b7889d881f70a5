"""Class names, example images and uploads, as the browser sends them."""

from pathlib import Path
from typing import Any

import gradio as gr

from openvocab import Example
from openvocab.errors import ClassesError
from openvocab.vocabulary import split_class_list

MAX_CLASSES = 200
MAX_NAME_LENGTH = 320
MAX_EXAMPLES = 10

Classes = dict[str, list[str | Path | Example]]
"""Class names, each with its prompts and example images."""


def parse_names(text: str | None) -> list[str]:
    """Split comma-separated class names, within limits that a browser cannot lift.

    Raises:
        ClassesError: there are too many names, or one is too long.
    """
    text = (text or "")[: 10 * MAX_CLASSES * MAX_NAME_LENGTH]
    names = split_class_list(text)
    if len(names) > MAX_CLASSES:
        raise ClassesError(f"There are {len(names)} names; enter at most {MAX_CLASSES}.")
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME_LENGTH:
        raise ClassesError(f"A name has {longest} characters; separate names by commas.")
    return names


def parse_classes(text: str | None, examples: list[str] | None = None) -> Classes:
    """Classes from typed names and example images; `logo.png` is an example of `logo`.

    Raises:
        ClassesError: see `parse_names`.
    """
    classes: Classes = {name: [name] for name in parse_names(text)}
    for path in map(Path, (examples or [])[:MAX_EXAMPLES]):
        classes.setdefault(path.stem, []).append(path)
    return classes


def image_path(*, label: str, **options: Any) -> gr.Image:
    """An image input that gives its handler the path of the uploaded file, unopened.

    `gr.Image` would decode the file first, accept other files than `openvocab.io` does, and show
    only "Error" for the rest. Gradio has checked that the path is one of an upload.
    """
    image = gr.Image(label=label, type="filepath", **options)
    preprocess = image.preprocess
    image.preprocess = lambda payload: getattr(payload, "path", None) or preprocess(payload)
    return image
