"""Example pictures of a dataset's classes: crops of their labelled boxes."""

import random
from collections import defaultdict

import numpy as np

from openvocab.encoders._boxes import clip_to_pixels
from openvocab.errors import ImageError
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.types import Image

_MIN_SIDE = 32  # pixels; users would not choose a smaller picture


def example_crops(dataset: Dataset, count: int) -> dict[str, list[Image]]:
    """Up to `count` crops of each class that has a labelled box of 32 pixels or more.

    The choice is random but reproducible, and from different images as far as possible. A smaller
    `count` gives the first crops of a larger one.
    """
    boxes_by_class: dict[int, list[tuple[DatasetImage, int]]] = defaultdict(list)
    for image in dataset.images:
        sides = image.xyxy[:, 2:] - image.xyxy[:, :2]
        is_large = sides.min(axis=1, initial=np.inf) >= _MIN_SIDE
        for row in np.flatnonzero(is_large & ~image.crowd).tolist():
            boxes_by_class[int(image.class_ids[row])].append((image, row))
    crops_by_name = {}
    for class_id, name in enumerate(dataset.classes):
        boxes = _shuffle(boxes_by_class[class_id], name)[:count]
        crops = [crop for image, row in boxes if (crop := _crop(image, row)) is not None]
        if crops:
            crops_by_name[name] = crops
    return crops_by_name


def _shuffle(boxes: list[tuple[DatasetImage, int]], seed: str) -> list[tuple[DatasetImage, int]]:
    """The boxes in random order, but one of every image before the second of any."""
    shuffled = random.Random(seed).sample(boxes, len(boxes))  # noqa: S311  not for secrets
    counts: dict[int, int] = defaultdict(int)  # boxes so far, by image
    ranked = []
    for image, row in shuffled:
        ranked.append((counts[image.id], image, row))
        counts[image.id] += 1
    return [(image, row) for _, image, row in sorted(ranked, key=lambda entry: entry[0])]


def _crop(image: DatasetImage, row: int) -> Image | None:
    """Crop the image to a box; None if the image cannot be read."""
    try:
        pixels = image.load()
    except ImageError:
        return None
    x1, y1, x2, y2 = clip_to_pixels(image.xyxy[[row]], image.size_wh)[0].tolist()
    return pixels[y1:y2, x1:x2].copy()
