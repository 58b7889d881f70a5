"""Reads the labels of COCO JSON, LVIS JSON and YOLO text files."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from openvocab.errors import DatasetError
from openvocab.evaluate.datasets import Dataset, Photo
from openvocab.images import FORMATS, SUFFIXES

__all__ = ["labels_of", "load"]

# Where the labels of a folder are looked for, in this order.
PLACES = ("data.yaml", "instances.json", "_annotations.coco.json", "annotations/instances*.json")


def load(path: Path, images_folder: Path | None = None, split: str = "val") -> Dataset:
    """Read labels; the pictures are looked for beside them, and not opened yet.

    Args:
        path: a `.json` of COCO or LVIS, the `.yaml` of a YOLO dataset, or a folder with one.
        images_folder: where the pictures of a `.json` are; None looks where COCO has them.
        split: of a YOLO dataset.

    Raises:
        DatasetError: no labels or pictures there, or not of a known form.
    """
    file = labels_of(path)
    if not file.is_file():
        raise DatasetError(f"There are no labels {file}; give a .json, a .yaml, or their folder.")
    if file.suffix.lower() in {".yaml", ".yml"}:
        dataset = _yolo(file, split)
    else:
        dataset = _json(file, images_folder)
    if not dataset.photos:
        raise DatasetError(f"{file} names no pictures; give labels that do.")
    missing = next((photo.path for photo in dataset.photos if not photo.path.is_file()), None)
    if missing is not None:
        raise DatasetError(f"There is no picture {missing}; say where they are with --images.")
    return dataset


def labels_of(path: Path) -> Path:
    """The file of labels: itself, or what is found in a folder.

    Raises:
        DatasetError: the folder has none.
    """
    if not path.is_dir():
        return path
    found = [file for place in PLACES for file in sorted(path.glob(place))]
    if not found:
        raise DatasetError(f"{path} holds none of {', '.join(PLACES)}; give the file of labels.")
    return found[0]


def _json(file: Path, folder: Path | None) -> Dataset:
    raw = file.read_bytes()
    try:
        data = json.loads(raw)
        categories = sorted(data["categories"], key=lambda each: each["id"])
        places = {each["id"]: place for place, each in enumerate(categories)}
        labels: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for each in data["annotations"]:
            labels[each["image_id"]].append(each)
        names = {each["id"]: _file_name(each) for each in data["images"]}
        home = folder or _images_of(file, next(iter(names.values()), ""))
        photos = tuple(
            _photo(each, home / names[each["id"]], labels[each["id"]], places)
            for each in data["images"]
        )
        lvis = bool(categories) and "frequency" in categories[0]
        frequencies = tuple(str(each["frequency"]) for each in categories) if lvis else None
        classes = tuple(str(each["name"]) for each in categories)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{file} is no COCO or LVIS file ({type(error).__name__}: {error}); give one that is."
        ) from error
    kind = "lvis" if lvis else "coco"
    digest = hashlib.sha256(raw).hexdigest()
    return Dataset(file.stem, kind, classes, photos, digest, frequencies)


def _file_name(image: dict[str, Any]) -> PurePosixPath:
    """LVIS names COCO's pictures by their address: the last two parts are folder and file."""
    given = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
    name = PurePosixPath(given)
    if name.is_absolute() or ".." in name.parts:
        raise DatasetError(f"A picture is called {given!r}; names must stay in their folder.")
    return name


def _images_of(file: Path, first: PurePosixPath | str) -> Path:
    """COCO's own layout (`annotations/instances_val2017.json`, `val2017/`), or beside the labels."""
    beside, above = file.parent, file.parent.parent
    split = file.stem.rpartition("_")[2]
    homes = [beside / "images", beside, above / split, above / "images" / split, above]
    return next((home for home in homes if (home / first).is_file()), homes[0])


def _photo(
    image: dict[str, Any], path: Path, labels: list[dict[str, Any]], places: dict[int, int]
) -> Photo:
    xywh = np.array([each["bbox"] for each in labels], np.float64).reshape(-1, 4)
    if not np.isfinite(xywh).all():
        raise DatasetError(f"A box in {path.name} is not of numbers; mend the labels.")
    negative = image.get("neg_category_ids")
    unfinished = image.get("not_exhaustive_category_ids", [])
    return Photo(
        id=int(image["id"]),
        path=path,
        size_wh=(int(image["width"]), int(image["height"])),
        xyxy=np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.float32),
        class_ids=np.array([places[each["category_id"]] for each in labels], np.intp),
        crowd=np.array([bool(each.get("iscrowd", 0)) for each in labels], np.bool_),
        areas=np.array(
            [each.get("area", each["bbox"][2] * each["bbox"][3]) for each in labels], np.float64
        ),
        absent=None if negative is None else frozenset(places[each] for each in negative),
        unfinished=frozenset(places[each] for each in unfinished),
    )


def _yolo(file: Path, split: str) -> Dataset:
    import yaml

    raw = file.read_bytes()
    try:
        data = yaml.safe_load(raw)
        names = data["names"]
        by_id = dict(enumerate(names)) if isinstance(names, list) else names
        classes = tuple(str(by_id[place]) for place in range(len(by_id)))
        root = file.parent / (data.get("path") or ".")
        given = data.get(split) or []
        entries = [root / entry for entry in ([given] if isinstance(given, str) else given)]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(
            f"{file} is no YOLO dataset ({type(error).__name__}: {reason}); "
            "it needs names and a list of pictures."
        ) from error
    if not entries:
        raise DatasetError(f"{file} has no split {split!r}; choose one with --split.")
    digest = hashlib.sha256(raw)
    photos = [
        _yolo_photo(place, path, len(classes), digest)
        for place, path in enumerate(path for entry in entries for path in _yolo_files(entry))
    ]
    return Dataset(file.stem, "yolo", classes, tuple(photos), digest.hexdigest())


def _yolo_files(entry: Path) -> Iterator[Path]:
    if entry.suffix == ".txt" and entry.is_file():
        lines = entry.read_text(encoding="utf-8").split("\n")
        yield from (entry.parent / line.strip() for line in lines if line.strip())
        return
    if not entry.is_dir():
        raise DatasetError(f"There are no pictures in {entry}; mend the path in the .yaml.")
    yield from sorted(f for f in entry.rglob("*") if f.suffix.lower() in SUFFIXES)


def _yolo_photo(place: int, path: Path, classes: int, digest: "hashlib._Hash") -> Photo:
    size_wh = _size(path)
    labels = _labels_of(path)
    text = labels.read_text(encoding="utf-8") if labels.is_file() else ""
    digest.update(f"{path.name}\n{text}".encode())
    ids, boxes = [], []
    try:
        for line in filter(str.strip, text.splitlines()):
            number, *values = line.split()
            ids.append(int(float(number)))
            boxes.append(_corners(np.array(values, np.float64)))
    except ValueError as error:
        raise DatasetError(f"{labels} holds what is no box ({error}); mend the line.") from error
    xyxy = np.array(boxes, np.float64).reshape(-1, 4)
    if any(not 0 <= number < classes for number in ids) or not np.isfinite(xyxy).all():
        raise DatasetError(f"{labels} holds a class or a box that cannot be; mend the line.")
    xyxy *= np.array(size_wh * 2)
    return Photo(
        id=place,
        path=path,
        size_wh=size_wh,
        xyxy=xyxy.astype(np.float32),
        class_ids=np.array(ids, np.intp),
        crowd=np.zeros(len(ids), np.bool_),
        areas=(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1),
    )


def _corners(values: NDArray[np.float64]) -> list[float]:
    """`x1 y1 x2 y2` of a box `cx cy w h`, or of an outline `x y x y ...`; parts of the picture."""
    if len(values) == 4:
        (x, y), half = values[:2], values[2:] / 2
        return [x - half[0], y - half[1], x + half[0], y + half[1]]
    points = values.reshape(-1, 2)
    if len(points) < 3:
        raise ValueError(f"{len(values)} numbers")
    return [*points.min(axis=0), *points.max(axis=0)]


def _labels_of(path: Path) -> Path:
    """Ultralytics' rule: the last folder called `images` becomes `labels`."""
    parts = list(path.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _size(path: Path) -> tuple[int, int]:
    """Width and height as the picture is shown, from its header."""
    try:
        with PIL.Image.open(path, formats=FORMATS) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientations on their side
            return (picture.height, picture.width) if turned else (picture.width, picture.height)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); remove it.") from error
