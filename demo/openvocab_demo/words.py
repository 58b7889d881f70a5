"""What visitors type and read: not more than anybody needs, and text as text."""

import html
import os
import re
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from openvocab import OpenVocabDetector, OpenVocabError, annotate, config, weights
from openvocab.errors import ClassesError
from openvocab.io.annotation import cut
from openvocab.vocabulary.prompts import split_class_list

MANY, LONGEST_WORD = 200, 320  # classes, and letters of one
EXAMPLE_PICTURES = 10
TEXT = 1.4  # labels are read on phones, too


detectors: dict[str, OpenVocabDetector] = {}
"""By preset; whoever serves the page may bring some, the first of which is used where none is chosen."""
_loading = threading.Lock()


def detector(preset: str | None = None) -> OpenVocabDetector:
    """Loaded once and shared: it keeps no state of a call."""
    chosen = preset or next(iter(detectors), "starter")
    if chosen in detectors:  # who has theirs does not wait for others
        return detectors[chosen]
    with _loading:
        if chosen not in detectors:
            detectors[chosen] = OpenVocabDetector.from_preset(chosen)
        return detectors[chosen]


def typed(text: str | None) -> list[str]:
    """The words of a box: a browser is not believed to have sent no more than the box takes.

    Raises:
        ClassesError: more or longer ones than anybody needs.
    """
    words = split_class_list((text or "")[: 10 * MANY * LONGEST_WORD])
    if len(words) > MANY:
        raise ClassesError(f"These are {len(words)} words; type {MANY} at the most.")
    longest = max(map(len, words), default=0)
    if longest > LONGEST_WORD:
        raise ClassesError(f"A word has {longest} letters; separate words by commas.")
    return words


def wanted(classes: str, examples: list[str] | None = None) -> dict[str, list[Any]]:
    """What was typed, and what a picture called `logo.png` shows: an example of `logo`."""
    words: dict[str, list[Any]] = {word: [word] for word in typed(classes)}
    for path in (examples or [])[:EXAMPLE_PICTURES]:
        words.setdefault(Path(path).stem, []).append(Path(path))
    return words


def said_by(error: Exception) -> str:
    """Without the places of this server: uploads lie in folders named by a hash."""
    place = re.escape(str(Path(os.environ["GRADIO_TEMP_DIR"])))
    return re.sub(rf"{place}/(?:[0-9a-f]{{64}}/)?", "", str(error))


def here() -> list[str]:
    """Presets that are loaded, and those whose weights are on this machine."""
    found = list(detectors)
    for each in config.available_presets():
        if each in found:
            continue
        preset = config.load_preset(each)
        with suppress(OpenVocabError):
            weights.resolve(preset.detector)
            weights.resolve(preset.encoder)
            found.append(each)
    return found


def rgb(picture: np.ndarray) -> np.ndarray:
    """As Gradio shows it."""
    return np.ascontiguousarray(picture[:, :, ::-1])


def drawn(picture: np.ndarray, found: sv.Detections) -> np.ndarray:
    """A picture as it is shown, BGR."""
    return annotate(picture, found, scale=TEXT)


def summary(found: sv.Detections) -> str:
    """`2 person, 1 bus`, most first."""
    counts = Counter(map(str, found.data.get("class_name", ())))
    return ", ".join(f"{number} {cut(word)}" for word, number in counts.most_common()) or "nothing"


def answer(found: sv.Detections) -> str:
    """What was found, in a sentence."""
    if len(found):
        return note(f"Found: {summary(found)}.")
    return note(
        "Nothing of this is in the picture. Another word or a lower threshold may find more."
    )


def note(text: str) -> str:
    """Text of a visitor or of a file, as text and nothing else; read out when it changes."""
    return f'<p role="status" aria-live="polite" dir="auto">{html.escape(text)}</p>'
