"""Reads the labels of COCO JSON, LVIS JSON and YOLO text files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import DatasetError, ImageError, one_line
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.io.images import SUFFIXES, image_size_wh

# Where to look for the labels of a folder, in this order.
PLACES = (
    "data.yaml",
    "instances.json",
    "annotations.json",
    "_annotations.coco.json",
    "annotations/*_{split}*.json",
)
# File names that do not tell what they label, as the folder's name does.
GENERIC = {"data", "dataset", "instances", "_annotations.coco", "annotations", "labels"}
FAR = 1e6  # pixels; no picture is this large
ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError)


def load(path: Path, images_folder: Path | None = None, split: str = "val") -> Dataset:
    """Read labels, and find their pictures.

    Args:
        path: a `.json` of COCO or LVIS, the `.yaml` of a YOLO dataset, or a folder with one.
        images_folder: folder of a `.json`'s pictures; None looks where COCO has them.
        split: split of a YOLO dataset, or of a COCO folder with several files.

    Raises:
        DatasetError: there are no labels or pictures, or they are not in a known format.
    """
    file = labels_of(path, split)
    if not file.is_file():
        raise DatasetError(f"There are no labels {file}; give a .json, a .yaml, or their folder.")
    is_yolo = file.suffix.lower() in {".yaml", ".yml"}
    try:
        dataset = _yolo(file, split) if is_yolo else _json(file, images_folder)
    except DatasetError:
        raise
    except ERRORS as error:
        form = "YOLO dataset" if is_yolo else "COCO or LVIS file"
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DatasetError(f"{file} is no {form} ({reason}); give one that is.") from error
    if not dataset.photos:
        raise DatasetError(f"{file} names no pictures; give labels that do.")
    missing = next((photo.path for photo in dataset.photos if not photo.path.is_file()), None)
    if missing is not None:
        raise DatasetError(f"There is no picture {missing}; say where they are with --images.")
    return dataset


def labels_of(path: Path, split: str = "val") -> Path:
    """The file of labels: the path itself, or the one found in a folder.

    Raises:
        DatasetError: the folder has no labels.
    """
    if not path.is_dir():
        return path
    places = [place.format(split=split) for place in PLACES]
    found = [file for place in places for file in sorted(path.glob(place))]
    if not found:
        raise DatasetError(f"{path} holds none of {', '.join(places)}; give the file of labels.")
    return found[0]


def _name(file: Path) -> str:
    return file.resolve().parent.name if file.stem in GENERIC else file.stem


def _json(file: Path, folder: Path | None) -> Dataset:
    raw = file.read_bytes()
    data = json.loads(raw)
    categories = sorted(_unique(data["categories"], "category"), key=lambda each: each["id"])
    places = {each["id"]: place for place, each in enumerate(categories)}
    pictures = _unique(data["images"], "image")
    labels: dict[int, list[dict[str, Any]]] = {each["id"]: [] for each in pictures}
    for each in data["annotations"]:
        if each["image_id"] not in labels:
            raise DatasetError(
                f"A box is of image {each['image_id']!r}, which is none; mend {file}."
            )
        labels[each["image_id"]].append(each)
    lvis = bool(categories) and "frequency" in categories[0]
    names = {each["id"]: _file_name(each) for each in pictures}
    home = folder or _images_of(file, next(iter(names.values()), ""))
    photos = tuple(
        _photo(each, home / names[each["id"]], labels[each["id"]], places, lvis=lvis)
        for each in pictures
    )
    return Dataset(
        _name(file),
        "lvis" if lvis else "coco",
        tuple(one_line(each["name"]) for each in categories),
        photos,
        hashlib.sha256(raw).hexdigest(),
        tuple(str(each["frequency"]) for each in categories) if lvis else None,
    )


def _unique(rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    seen: set[int] = set()
    for row in rows:
        number = row["id"]
        if type(number) is not int or number in seen:
            raise DatasetError(
                f"{what} {number!r} has no whole number of its own; mend the labels."
            )
        seen.add(number)
    return rows


def _file_name(image: dict[str, Any]) -> PurePosixPath:
    """The name of a picture; LVIS has an address instead, which ends in folder and file."""
    given = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
    for name in (PurePosixPath(given), PureWindowsPath(given)):
        if name.is_absolute() or name.drive or ".." in name.parts:
            raise DatasetError(f"A picture is called {given!r}; names must stay in their folder.")
    return PurePosixPath(given)


def _images_of(file: Path, first: PurePosixPath | str) -> Path:
    """COCO's folder (`val2017/` of `annotations/instances_val2017.json`), or beside the labels."""
    beside, above = file.parent, file.parent.parent
    split = file.stem.rpartition("_")[2]
    homes = [beside / "images", beside, above / split, above / "images" / split, above]
    return next((home for home in homes if (home / first).is_file()), homes[0])


def _photo(
    image: dict[str, Any],
    path: Path,
    labels: list[dict[str, Any]],
    places: dict[int, int],
    *,
    lvis: bool,
) -> Photo:
    if any(len(each["bbox"]) != 4 for each in labels):
        raise DatasetError(f"A box in {path.name} has not four numbers; mend the labels.")
    xywh = np.array([each["bbox"] for each in labels], np.float64).reshape(-1, 4)
    _check(xywh, path)
    given = np.array([each.get("area") for each in labels], np.float64)  # None becomes NaN
    areas = np.where(given >= 0, given, xywh[:, 2] * xywh[:, 3])
    named = [each["category_id"] for each in labels]
    negative = image.get("neg_category_ids", [])
    partly = image.get("not_exhaustive_category_ids", [])
    unknown = next((each for each in [*named, *negative, *partly] if each not in places), None)
    if unknown is not None:
        raise DatasetError(f"{path.name} has category {unknown!r}, which is none; mend the labels.")
    return Photo(
        id=image["id"],
        path=path,
        size_wh=(int(image["width"]), int(image["height"])),
        xyxy=np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.float32),
        class_ids=np.array([places[each] for each in named], np.intp),
        crowd=np.array([int(each.get("iscrowd", 0)) != 0 for each in labels], np.bool_),
        areas=areas,
        absent=frozenset(places[each] for each in negative) if lvis else None,
        not_exhaustive=frozenset(places[each] for each in partly) if lvis else frozenset(),
    )


def _check(boxes: NDArray[np.float64], path: Path) -> None:
    if not (np.isfinite(boxes).all() and (np.abs(boxes) < FAR).all()):
        raise DatasetError(f"A box in {path.name} is not of numbers of pixels; mend the labels.")
    if not (boxes[:, 2:] >= 0).all():  # COCO itself has one or two of width 0
        raise DatasetError(f"A box in {path.name} has a negative size; mend the labels.")


def _yolo(file: Path, split: str) -> Dataset:
    import yaml

    raw = file.read_bytes()
    try:
        data = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    names = data.get("names")
    if not names:
        raise DatasetError(f"{file} has no `names`; list the classes there.")
    # JSON, which is valid YAML, allows numbers as keys only in quotes.
    by_id = dict(enumerate(names)) if isinstance(names, list) else {int(k): names[k] for k in names}
    if by_id.keys() != set(range(len(by_id))):
        raise DatasetError(f"{file} leaves out a number among its `names`; count from 0.")
    classes = [by_id[place] for place in range(len(by_id))]
    wrong = next((each for each in classes if not isinstance(each, str)), None)
    if wrong is not None:  # YAML reads "no" and "yes" as booleans
        raise DatasetError(f"{file} names a class {str(wrong)[:50]!r}; write it in quotes.")
    root = file.parent / (data.get("path") or ".")
    given = data.get(split) or []
    entries = [root / entry for entry in ([given] if isinstance(given, str) else given)]
    if not entries:
        raise DatasetError(f"{file} has no split {split!r}; choose one with --split.")
    paths = dict.fromkeys(path for entry in entries for path in _yolo_files(entry))
    digest = hashlib.sha256(raw)
    photos = [_yolo_photo(place, path, len(classes), digest) for place, path in enumerate(paths)]
    cleaned = tuple(one_line(each) for each in classes)
    return Dataset(_name(file), "yolo", cleaned, tuple(photos), digest.hexdigest())


def _yolo_files(entry: Path) -> Iterator[Path]:
    if not entry.exists() and ".." in entry.parts:  # as Roboflow's ../valid/images
        entry = Path(*(part for part in entry.parts if part != ".."))
    if entry.suffix == ".txt" and entry.is_file():
        lines = entry.read_text(encoding="utf-8").split("\n")
        yield from (entry.parent / line.strip() for line in lines if line.strip())
        return
    if not entry.is_dir():
        raise DatasetError(f"There are no pictures in {entry}; mend the path in the .yaml.")
    yield from sorted(f for f in entry.rglob("*") if f.suffix.lower() in SUFFIXES)


def _yolo_photo(place: int, path: Path, classes: int, digest: "hashlib._Hash") -> Photo:
    try:
        size = image_size_wh(path)
    except ImageError:  # reported when the photo is used
        size = (1, 1)
    labels = _labels_of(path)
    text = labels.read_text(encoding="utf-8") if labels.is_file() else ""
    digest.update(f"{path.name}\n{text}".encode(errors="replace"))
    rows: dict[tuple[float, ...], list[float]] = {}
    try:
        for line in filter(str.strip, text.splitlines()):
            row = tuple(map(float, line.split()))
            rows[row] = _corners(np.array(row[1:]))  # repeated rows are dropped, as in Ultralytics
    except ValueError as error:
        raise DatasetError(f"{labels} holds what is no box ({error}); mend the line.") from error
    if not all(row[0].is_integer() and 0 <= row[0] < classes for row in rows):
        raise DatasetError(f"{labels} holds a class that is none; mend the line.")
    ids = [int(row[0]) for row in rows]
    xyxy = np.array(list(rows.values()), np.float64).reshape(-1, 4) * np.array(size * 2)
    return Photo(
        id=place,
        path=path,
        size_wh=size,
        xyxy=xyxy.astype(np.float32),
        class_ids=np.array(ids, np.intp),
        crowd=np.zeros(len(ids), np.bool_),
        areas=(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1),
    )


def _corners(values: NDArray[np.float64]) -> list[float]:
    """`x1 y1 x2 y2` of a box `cx cy w h` or outline `x y x y ...`; fractions of the picture."""
    if not ((values >= -0.01) & (values <= 1.01)).all():
        raise ValueError("not parts of the picture, from 0 to 1")
    if len(values) == 4:
        (x, y), half = values[:2], values[2:] / 2
        return [x - half[0], y - half[1], x + half[0], y + half[1]]
    points = values.reshape(-1, 2)
    if len(points) < 3:
        raise ValueError(f"{len(values)} numbers")
    return [*points.min(axis=0), *points.max(axis=0)]


def _labels_of(path: Path) -> Path:
    """The file of labels, by Ultralytics' rule: the last folder `images` becomes `labels`."""
    parts = list(path.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")
