"""Example pictures of a dataset's classes: crops of their labelled boxes."""

import random
from collections import defaultdict

import numpy as np

from openvocab.encoders._boxes import clip_to_pixels
from openvocab.errors import ImageError
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.types import Image

_MIN_SIDE = 32  # pixels; nobody would choose a smaller picture


def example_crops(dataset: Dataset, count: int) -> dict[str, list[Image]]:
    """Up to `count` crops of each class that has a labelled box of 32 pixels or more.

    At random, but the same in every run, and from different images as far as possible. Fewer are
    the first of more.
    """
    boxes: dict[int, list[tuple[DatasetImage, int]]] = defaultdict(list)
    for image in dataset.images:
        large = (image.xyxy[:, 2:] - image.xyxy[:, :2]).min(axis=1, initial=np.inf) >= _MIN_SIDE
        for row in np.flatnonzero(large & ~image.crowd).tolist():
            boxes[int(image.class_ids[row])].append((image, row))
    crops = {}
    for class_id, name in enumerate(dataset.classes):
        cut = [_crop(*box) for box in _chosen(boxes[class_id], name)[:count]]
        readable = [crop for crop in cut if crop is not None]
        if readable:
            crops[name] = readable
    return crops


def _chosen(boxes: list[tuple[DatasetImage, int]], name: str) -> list[tuple[DatasetImage, int]]:
    """The boxes in random order, the first of each image before the others."""
    shuffled = random.Random(name).sample(boxes, len(boxes))  # noqa: S311  not for secrets
    seen: dict[int, int] = defaultdict(int)
    ranked = []
    for image, row in shuffled:
        ranked.append((seen[image.id], image, row))
        seen[image.id] += 1
    return [(image, row) for _, image, row in sorted(ranked, key=lambda entry: entry[0])]


def _crop(image: DatasetImage, row: int) -> Image | None:
    """The box as a picture of its own; None if the image cannot be read."""
    try:
        pixels = image.load()
    except ImageError:
        return None
    x1, y1, x2, y2 = clip_to_pixels(image.xyxy[[row]], image.size_wh)[0].tolist()
    return pixels[y1:y2, x1:x2].copy()
