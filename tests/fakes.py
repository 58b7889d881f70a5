"""Fakes with meaning: a crop's feature is its mean colour, a prompt's the colour it names."""

import zlib
from collections.abc import Sequence

import numpy as np

from openvocab.config import ModelConfig, Preset, ProposalConfig
from openvocab.encoders._boxes import clip_to_pixels
from openvocab.types import Boxes, Features, Image, Proposals

# Directions in BGR space. Every other word has an axis of its own, which no crop has a part of,
# except "background", of which there is a little in every crop.
COLOURS = {"blue": (1, 0, 0), "green": (0, 1, 0), "red": (0, 0, 1), "crimson": (0.05, 0, 1)}
OTHERS = 509

PRESET = Preset(ModelConfig("fake", "fake", templates="none"), ProposalConfig(context_scale=1.0))
"""For detectors composed of fakes: the name alone as prompt, and the box alone as crop."""


class FakeProposer:
    """Proposes the boxes it was given, on every image."""

    def __init__(self, *boxes: tuple[float, ...], labels: Sequence[str] = (), score: float = 0.9):
        self._xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        names = tuple(labels) or ("thing",) * len(boxes)
        self._score = score
        self.labels = tuple(dict.fromkeys(("thing", *names)))
        self._label_ids = np.array([self.labels.index(name) for name in names], np.intp)

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        scores = np.full(len(self._xyxy), self._score, np.float32)
        return [Proposals(self._xyxy, scores, self._label_ids) for _ in images]


class ColourEncoder:
    """Counts its forward passes, so that a test can say how many a call may cost."""

    logit_scale = 20.0
    logit_bias = None

    def __init__(self, fingerprint: str = "colour") -> None:
        self.fingerprint = fingerprint
        self.text_forwards: list[tuple[str, ...]] = []
        self.image_forwards = 0

    def encode_text(self, prompts: Sequence[str]) -> Features:
        self.text_forwards.append(tuple(prompts))
        rows = np.array([_direction(prompt) for prompt in prompts], np.float32)
        return _unit(rows.reshape(-1, 3 + OTHERS))

    def encode_regions(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        self.image_forwards += 1
        return [_encode(image, xyxy) for image, xyxy in zip(images, boxes, strict=True)]


def _direction(prompt: str) -> Features:
    row = np.zeros(3 + OTHERS, np.float32)
    words = prompt.casefold().split()
    for word in words:
        if word in COLOURS:
            row[:3] = COLOURS[word]
            return row
    row[3 + zlib.crc32(words[-1].encode()) % OTHERS] = 1
    return row


def _encode(image: Image, boxes: Boxes) -> Features:
    rows = np.tile(_direction("background") * np.float32(0.3), (len(boxes), 1))
    inside = clip_to_pixels(boxes, (image.shape[1], image.shape[0]))
    for row, (x1, y1, x2, y2) in zip(rows, inside, strict=True):
        row[:3] = image[y1:y2, x1:x2].reshape(-1, 3).mean(axis=0) / 255
    return _unit(rows)


def _unit(rows: Features) -> Features:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
