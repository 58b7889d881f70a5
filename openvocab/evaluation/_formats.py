"""Reads the labels of COCO JSON, LVIS JSON and YOLO text files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import DatasetError, ImageError, one_line
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.io._images import SUFFIXES, image_size_wh

# Files of labels that are looked for in a folder, in this order.
_LABEL_FILES = (
    "data.yaml",
    "instances.json",
    "annotations.json",
    "_annotations.coco.json",
    "annotations/*_{split}*.json",
)
# File names that say nothing about the dataset; the folder's name is used instead.
_GENERIC_NAMES = {"data", "dataset", "instances", "_annotations.coco", "annotations", "labels"}
_MAX_COORDINATE = 1e6  # pixels
_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError)


def load_dataset(path: Path, images_folder: Path | None = None, split: str = "val") -> Dataset:
    """Read labels, and locate their images.

    Args:
        path: a `.json` of COCO or LVIS, the `.yaml` of a YOLO dataset, or a folder with one.
        images_folder: folder of the images of a `.json`; None looks where COCO has them.
        split: split of a YOLO dataset, or of a COCO folder with several files.

    Raises:
        DatasetError: there are no labels or images, or the labels are invalid.
    """
    file = find_labels(path, split)
    if not file.is_file():
        raise DatasetError(f"There are no labels {file}; give a .json, a .yaml, or their folder.")
    is_yolo = file.suffix.lower() in {".yaml", ".yml"}
    try:
        dataset = _read_yolo(file, split) if is_yolo else _read_json(file, images_folder)
    except DatasetError:
        raise
    except _ERRORS as error:
        kind = "YOLO dataset" if is_yolo else "COCO or LVIS file"
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DatasetError(f"{file} is not a valid {kind} ({reason}); correct it.") from error
    if not dataset.images:
        raise DatasetError(f"{file} lists no images; give labels of images.")
    missing = next((image.path for image in dataset.images if not image.path.is_file()), None)
    if missing is not None:
        raise DatasetError(f"There is no image {missing}; give the folder with --images.")
    return dataset


def find_labels(path: Path, split: str = "val") -> Path:
    """The file of labels: the path itself, or the one in a folder.

    Raises:
        DatasetError: the folder has no labels.
    """
    if not path.is_dir():
        return path
    patterns = [pattern.format(split=split) for pattern in _LABEL_FILES]
    files = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    if not files:
        raise DatasetError(f"{path} has none of {', '.join(patterns)}; give the file of labels.")
    return files[0]


def _dataset_name(file: Path) -> str:
    return file.resolve().parent.name if file.stem in _GENERIC_NAMES else file.stem


def _read_json(file: Path, images_folder: Path | None) -> Dataset:
    raw = file.read_bytes()
    data = json.loads(raw)
    categories = sorted(_by_id(data["categories"], "category").items())
    class_ids = {category_id: class_id for class_id, (category_id, _) in enumerate(categories)}
    is_lvis = bool(categories) and "frequency" in categories[0][1]
    images = _by_id(data["images"], "image")
    annotations: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for annotation in data["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in annotations:
            raise DatasetError(f"{file}: a box has the unknown image {image_id!r}; correct it.")
        annotations[image_id].append(annotation)
    names = {image_id: _file_name(image) for image_id, image in images.items()}
    folder = images_folder or _images_folder(file, next(iter(names.values()), ""))
    return Dataset(
        _dataset_name(file),
        "lvis" if is_lvis else "coco",
        tuple(one_line(category["name"]) for _, category in categories),
        tuple(
            _json_image(image, folder / names[image_id], annotations[image_id], class_ids, is_lvis)
            for image_id, image in images.items()
        ),
        hashlib.sha256(raw).hexdigest(),
        tuple(str(category["frequency"]) for _, category in categories) if is_lvis else None,
    )


def _by_id(rows: list[dict[str, Any]], kind: str) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for row in rows:
        if type(row["id"]) is not int or row["id"] in by_id:
            raise DatasetError(f"{kind} id {row['id']!r} is not a unique integer; correct it.")
        by_id[row["id"]] = row
    return by_id


def _file_name(image: dict[str, Any]) -> PurePosixPath:
    """The name of an image file; LVIS has a URL instead, which ends in folder and file."""
    text = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
    for name in (PurePosixPath(text), PureWindowsPath(text)):
        if name.is_absolute() or name.drive or ".." in name.parts:
            raise DatasetError(f"Image name {text!r} leaves the folder; use names inside it.")
    return PurePosixPath(text)


def _images_folder(file: Path, first: PurePosixPath | str) -> Path:
    """COCO's folder (`val2017/` of `annotations/instances_val2017.json`), or beside the labels."""
    parent, grandparent = file.parent, file.parent.parent
    split = file.stem.rpartition("_")[2]
    folders = [
        parent / "images", parent, grandparent / split, grandparent / "images" / split, grandparent,
    ]  # fmt: skip
    return next((folder for folder in folders if (folder / first).is_file()), folders[0])


def _json_image(
    image: dict[str, Any],
    path: Path,
    annotations: list[dict[str, Any]],
    class_ids: dict[int, int],
    is_lvis: bool,  # noqa: FBT001
) -> DatasetImage:
    if any(len(annotation["bbox"]) != 4 for annotation in annotations):
        raise DatasetError(f"A box in {path.name} does not have four numbers; correct the labels.")
    xywh = np.array([row["bbox"] for row in annotations], np.float64).reshape(-1, 4)
    if not (np.abs(xywh) < _MAX_COORDINATE).all():  # NaN is not less, either
        raise DatasetError(f"A box in {path.name} is not in pixels; correct the labels.")
    if not (xywh[:, 2:] >= 0).all():  # COCO itself has one or two of width 0
        raise DatasetError(f"A box in {path.name} has a negative size; correct the labels.")
    areas = np.array([row.get("area") for row in annotations], np.float64)  # None becomes NaN
    box_categories = [row["category_id"] for row in annotations]
    negative = image.get("neg_category_ids", [])
    not_exhaustive = image.get("not_exhaustive_category_ids", [])
    for category_id in (*box_categories, *negative, *not_exhaustive):
        if category_id not in class_ids:
            raise DatasetError(f"{path.name} has the unknown category {category_id!r}; correct it.")
    return DatasetImage(
        id=image["id"],
        path=path,
        size_wh=(int(image["width"]), int(image["height"])),
        xyxy=np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.float32),
        class_ids=np.array([class_ids[row] for row in box_categories], np.intp),
        crowd=np.array([int(row.get("iscrowd", 0)) != 0 for row in annotations], np.bool_),
        areas=np.where(areas >= 0, areas, xywh[:, 2] * xywh[:, 3]),
        absent=frozenset(class_ids[row] for row in negative) if is_lvis else None,
        not_exhaustive=frozenset(class_ids[row] for row in not_exhaustive if is_lvis),
    )


def _read_yolo(file: Path, split: str) -> Dataset:
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
        raise DatasetError(f"{file} skips a number among its `names`; count from 0.")
    classes = [by_id[class_id] for class_id in range(len(by_id))]
    for name in classes:
        if not isinstance(name, str):  # YAML reads "no" and "yes" as booleans
            raise DatasetError(f"{file} has a class {str(name)[:50]!r}; write it in quotes.")
    entries = data.get(split) or []
    if not entries:
        raise DatasetError(f"{file} has no split {split!r}; choose one with --split.")
    root = file.parent / (data.get("path") or ".")
    paths = dict.fromkeys(
        path
        for entry in ([entries] if isinstance(entries, str) else entries)
        for path in _yolo_files(root / entry)
    )
    digest = hashlib.sha256(raw)
    images = [_yolo_image(index, path, len(classes), digest) for index, path in enumerate(paths)]
    names = tuple(one_line(name) for name in classes)
    return Dataset(_dataset_name(file), "yolo", names, tuple(images), digest.hexdigest())


def _yolo_files(entry: Path) -> Iterator[Path]:
    if not entry.exists() and ".." in entry.parts:  # as Roboflow's ../valid/images
        entry = Path(*(part for part in entry.parts if part != ".."))
    if entry.suffix == ".txt" and entry.is_file():
        lines = entry.read_text(encoding="utf-8").split("\n")
        yield from (entry.parent / line.strip() for line in lines if line.strip())
        return
    if not entry.is_dir():
        raise DatasetError(f"There is no folder of images {entry}; correct the path in the .yaml.")
    yield from sorted(f for f in entry.rglob("*") if f.suffix.lower() in SUFFIXES)


def _yolo_image(index: int, path: Path, class_count: int, digest: "hashlib._Hash") -> DatasetImage:
    try:
        size = image_size_wh(path)
    except ImageError:  # reported when the image is used
        size = (1, 1)
    file = _yolo_labels(path)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    digest.update(f"{path.name}\n{text}".encode(errors="replace"))
    try:
        rows = [tuple(map(float, line.split())) for line in text.splitlines() if line.strip()]
        boxes = {row: _yolo_box(np.array(row[1:])) for row in rows}  # drops repeated rows
    except ValueError as error:
        raise DatasetError(f"{file} has an invalid box ({error}); correct it.") from error
    if not all(row[0].is_integer() and 0 <= row[0] < class_count for row in boxes):
        raise DatasetError(f"{file} has an unknown class; correct it.")
    xyxy = np.array(list(boxes.values()), np.float64).reshape(-1, 4) * np.array(size * 2)
    return DatasetImage(
        id=index,
        path=path,
        size_wh=size,
        xyxy=xyxy.astype(np.float32),
        class_ids=np.array([row[0] for row in boxes], np.intp),
        crowd=np.zeros(len(boxes), np.bool_),
        areas=(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1),
    )


def _yolo_box(values: NDArray[np.float64]) -> list[float]:
    """`x1 y1 x2 y2` of a box `cx cy w h` or polygon `x y x y ...`; fractions of the image."""
    if not ((values >= -0.01) & (values <= 1.01)).all():
        raise ValueError("not fractions of the image, from 0 to 1")
    if len(values) == 4:
        centre, half = values[:2], values[2:] / 2
        return [*(centre - half), *(centre + half)]
    points = values.reshape(-1, 2)
    if len(points) < 3:
        raise ValueError(f"{len(values)} numbers")
    return [*points.min(axis=0), *points.max(axis=0)]


def _yolo_labels(path: Path) -> Path:
    """The file of labels, by Ultralytics' rule: the last folder `images` becomes `labels`."""
    parts = list(path.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")
