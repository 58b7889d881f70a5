"""Drawn images with two squares, labelled by their colours; grey ones are no objects."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from fakes import PRESET as FAKE_PRESET

from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptVariant

LEFT, RIGHT = (10, 10, 50, 50), (60, 10, 100, 50)
RED, BLUE, GREY = (0, 0, 255), (255, 0, 0), (128, 128, 128)
CLASSES = ("red", "blue")
PRESET = replace(
    FAKE_PRESET, name="mine", scoring=replace(FAKE_PRESET.scoring, background=("background",))
)


def draw(folder: Path, number: int, left: tuple, right: tuple) -> DatasetImage:
    pixels = np.full((60, 110, 3), 255, np.uint8)
    for (x1, y1, x2, y2), colour in ((LEFT, left), (RIGHT, right)):
        pixels[y1:y2, x1:x2] = colour
    path = folder / f"{number:03}.png"
    cv2.imwrite(str(path), pixels)
    class_ids = {RED: 0, BLUE: 1}
    pairs = [(box, class_ids[c]) for box, c in ((LEFT, left), (RIGHT, right)) if c in class_ids]
    boxes = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
    ids = np.array([class_id for _, class_id in pairs], np.intp)
    areas = np.full(len(ids), 1600.0)
    return DatasetImage(number, path, (110, 60), boxes, ids, np.zeros(len(ids), bool), areas)


def draw_many(folder: Path, count: int) -> EvaluationTask:
    rng = np.random.default_rng(0)
    colours = [RED, BLUE, GREY]
    images = [
        draw(folder, number, *(colours[index] for index in rng.integers(0, 3, 2)))
        for number in range(count)
    ]
    return names_only(Dataset("drawn", "coco", CLASSES, tuple(images), "hash"))


def names_only(dataset: Dataset, **fields) -> EvaluationTask:
    return EvaluationTask(dataset, (PromptVariant("names", CLASSES),), **fields)
