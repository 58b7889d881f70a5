"""Region-like views of the training photos: what an encoder meets behind a detector.

Tight, with context, shifted, cut off, small and upsampled; and background, between the boxes.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import names
import numpy as np
import PIL.Image
from numpy.typing import NDArray

__all__ = ["SIDE", "View", "build", "read"]

SIDE = 224
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class View:
    """Where a view comes from, and what it shows (empty: background)."""

    source: str
    """`coco`, `background`, `imagenet`, `caltech`, `yolo` or `tiny`."""
    name: str
    kind: str
    """`tight`, `wide`, `shifted`, `cut` or `whole`."""


def build(data: Path, yolo: Path, work: Path) -> None:
    """Write `views.npy` `(N, 224, 224, 3)` uint8 RGB and `views.json`; one pass, fixed seed.

    Args:
        data: the unpacked training sets.
        yolo: a COCO detector; what it is sure of in the other photos becomes views, too.
        work: where they go.
    """
    dice = random.Random(0)
    pairs = [
        *_coco(data / "coco-train", dice),
        *_whole("imagenet", names.imagenet(data / "imagenet-sample"), dice, cuts=2),
        *_whole("caltech", names.caltech(data / "caltech81"), dice, cuts=1),
        *_labelled(data, yolo, dice),
        *_whole("tiny", names.tiny_imagenet(data / "tinyimagenet-80"), dice, cuts=0),
    ]
    np.save(work / "views.npy", np.stack([picture for _, picture in pairs]))
    (work / "views.json").write_text(json.dumps([asdict(view) for view, _ in pairs]))


def read(work: Path) -> tuple[list[View], NDArray[np.uint8]]:
    """What `build` wrote; the pictures stay on disk."""
    views = [View(**entry) for entry in json.loads((work / "views.json").read_text())]
    return views, np.load(work / "views.npy", mmap_mode="r")


def cut(photo: PIL.Image.Image, box: Box, scale: float = 1.0) -> NDArray[np.uint8]:
    """A box grown about its centre, clipped, squashed to a square: as openvocab cuts regions."""
    x1, y1, x2, y2 = box
    centre_x, centre_y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    left = min(max(0, int(centre_x - width * scale / 2)), photo.width - 1)
    top = min(max(0, int(centre_y - height * scale / 2)), photo.height - 1)
    right = min(photo.width, max(left + 1, int(np.ceil(centre_x + width * scale / 2))))
    bottom = min(photo.height, max(top + 1, int(np.ceil(centre_y + height * scale / 2))))
    region = photo.crop((left, top, right, bottom))
    return np.asarray(region.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC))


def _shift(box: Box, dice: random.Random, share: float) -> Box:
    x1, y1, x2, y2 = box
    right, down = dice.uniform(-share, share) * (x2 - x1), dice.uniform(-share, share) * (y2 - y1)
    return x1 + right, y1 + down, x2 + right, y2 + down


def _part(box: Box, dice: random.Random, low: float, high: float) -> Box:
    """A part of the box, as where something stands in front of it or the picture ends."""
    x1, y1, x2, y2 = box
    shares = [dice.uniform(low, high), dice.uniform(high, 1)]
    dice.shuffle(shares)
    width, height = (x2 - x1) * shares[0], (y2 - y1) * shares[1]
    left, top = dice.uniform(x1, x2 - width), dice.uniform(y1, y2 - height)
    return left, top, left + width, top + height


def _coco(folder: Path, dice: random.Random) -> Iterator[tuple[View, NDArray[np.uint8]]]:
    boxes: dict[Path, list[names.Box]] = {}
    for each in names.coco_boxes(folder):
        boxes.setdefault(each.photo, []).append(each)
    for path, found in boxes.items():
        photo = PIL.Image.open(path).convert("RGB")
        for each in found:
            box = each.xyxy
            if min(box[2] - box[0], box[3] - box[1]) < 10:
                continue
            yield View("coco", each.name, "tight"), cut(photo, box)
            yield View("coco", each.name, "wide"), cut(photo, box, 1.5)
            if each.name != "person" or dice.random() < 0.4:  # a third of all boxes are people
                shifted = cut(photo, _shift(box, dice, 0.1), dice.uniform(0.95, 1.7))
                yield View("coco", each.name, "shifted"), shifted
                part = cut(photo, _part(box, dice, 0.55, 0.9), dice.uniform(1, 1.3))
                yield View("coco", each.name, "cut"), part
        for box in _empty(photo.size, [each.xyxy for each in found], dice):
            yield View("background", "", "cut"), cut(photo, box)


def _empty(size: tuple[int, int], boxes: list[Box], dice: random.Random) -> Iterator[Box]:
    """Up to eight places of which no box covers a twelfth."""
    found = 0
    for _ in range(60):
        width = dice.uniform(0.1, 0.5) * size[0]
        height = min(width * dice.uniform(0.6, 1.6), size[1])
        left, top = dice.uniform(0, size[0] - width), dice.uniform(0, size[1] - height)
        place = (left, top, left + width, top + height)
        if found < 8 and all(_overlap(place, box) < width * height / 12 for box in boxes):
            found += 1
            yield place


def _overlap(one: Box, two: Box) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(0.0, width) * max(0.0, height)


def _whole(
    source: str, photos: list[tuple[Path, str]], dice: random.Random, cuts: int
) -> Iterator[tuple[View, NDArray[np.uint8]]]:
    for path, name in photos:
        photo = PIL.Image.open(path).convert("RGB")
        box = (0.0, 0.0, float(photo.width), float(photo.height))
        yield View(source, name, "whole"), cut(photo, box)
        for _ in range(cuts):
            yield View(source, name, "cut"), cut(photo, _part(box, dice, 0.55, 0.9))


def _labelled(
    data: Path, yolo: Path, dice: random.Random
) -> Iterator[tuple[View, NDArray[np.uint8]]]:
    """What a COCO detector is sure of in the ImageNet photos and every fourth Caltech photo."""
    from openvocab.config import ProposalConfig
    from openvocab.io import load_image
    from openvocab.proposers import UltralyticsProposer

    proposer = UltralyticsProposer(yolo, ProposalConfig(threshold=0.5))
    photos = [path for path, _ in names.imagenet(data / "imagenet-sample")]
    for path in photos + [path for path, _ in names.caltech(data / "caltech81")][::4]:
        photo = PIL.Image.open(path).convert("RGB")
        photo.thumbnail((640, 640))
        (found,) = proposer.propose([load_image(photo)])
        labels = [proposer.labels[index] for index in found.label_ids]
        for box, label in zip(found.xyxy.tolist(), labels, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) >= 16:
                yield View("yolo", label, "tight"), cut(photo, box)
                shifted = cut(photo, _shift(box, dice, 0.05), dice.uniform(1.1, 1.6))
                yield View("yolo", label, "shifted"), shifted
