"""Names and pictures of the training sets in `../shared/data/train`, where they are unpacked."""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HELD_OUT", "MEANT", "Box", "caltech", "coco", "coco_boxes", "imagenet", "tiny_imagenet"]

# Caltech classes that no setting was chosen on: the final training leaves them out as well.
HELD_OUT = frozenset(
    "accordion anchor ant bass brain buddha cannon ceiling_fan crayfish dollar_bill emu ewer "
    "hedgehog kangaroo lotus mandolin okapi pagoda rooster wrench".split()
)
# Which WordNet sense a COCO name has, where it is not the commonest one.
MEANT = {
    "banana": 1, "book": 1, "broccoli": 1, "cake": 2, "carrot": 2, "hot dog": 2, "kite": 2,
    "microwave": 1, "mouse": 3, "toaster": 1, "toilet": 1, "tv": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled box of a photo: `x1, y1, x2, y2` in pixels."""

    photo: Path
    name: str
    xyxy: tuple[float, float, float, float]


def coco(folder: Path) -> list[str]:
    """The 80 names, in the order of COCO's own numbers."""
    return [category["name"] for category in _instances(folder)["categories"]]


def coco_boxes(folder: Path, photos: str = "images") -> list[Box]:
    """All boxes that are not crowds and have at least 2 pixels a side."""
    data = _instances(folder)
    names = {category["id"]: category["name"] for category in data["categories"]}
    files = {image["id"]: folder / photos / image["file_name"] for image in data["images"]}
    boxes = []
    for each in data["annotations"]:
        x, y, width, height = each["bbox"]
        if not each.get("iscrowd") and min(width, height) >= 2:
            box = (x, y, x + width, y + height)
            boxes.append(Box(files[each["image_id"]], names[each["category_id"]], box))
    return boxes


def imagenet(folder: Path) -> list[tuple[Path, str]]:
    """One photo for each of the 1,000 classes, in the order of the classifier's outputs."""
    files = sorted(folder.rglob("*.JPEG"))
    return [(file, _plain(file.stem.split("_", 1)[1])) for file in files]


def caltech(folder: Path) -> list[tuple[Path, str]]:
    """Photos and class names of Caltech-101 (the folder is the class)."""
    return [(file, file.parent.name) for file in sorted(folder.rglob("*.jpg"))]


def tiny_imagenet(folder: Path, *, aside: bool = False) -> list[tuple[Path, str]]:
    """64x64 pictures and the first word of their synset; `aside`: the tenth kept for evaluation."""
    lines = (folder / "words.txt").read_text().splitlines()
    words = {line.split("\t")[0]: line.split("\t")[1].split(",")[0].strip() for line in lines}
    files = sorted(folder.rglob("*.JPEG"))
    return [
        (file, words[file.parent.name])
        for index, file in enumerate(files)
        if (index % 10 == 0) == aside
    ]


def _instances(folder: Path) -> dict:
    return json.loads((folder / "instances.json").read_text())


def _plain(name: str) -> str:
    return name.replace("_", " ")
