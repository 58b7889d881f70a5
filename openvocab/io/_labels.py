"""Detections as label files: to train on, or to correct in other tools."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab._internal.files import numbered_paths, write_atomic
from openvocab.errors import ConfigError
from openvocab.io._folders import writing_to
from openvocab.io._images import load_image


class LabelledImage(NamedTuple):
    """An image file with its detections."""

    path: Path
    size_wh: tuple[int, int]
    """Width and height, upright."""
    detections: sv.Detections
    """Detections whose `class_id` is an index into the classes that are written with it."""


class _Box(NamedTuple):
    """One detection in plain numbers."""

    xyxy: list[float]
    mask: NDArray[np.bool_] | None
    score: float
    class_id: int
    name: str


def compress_masks(detections: sv.Detections, size_wh: tuple[int, int]) -> sv.Detections:
    """Run-length encode dense masks, of which thousands may wait for `write_labels`."""
    if not isinstance(detections.mask, np.ndarray):
        return detections
    width, height = size_wh
    whole = np.tile([0, 0, width - 1, height - 1], (len(detections), 1))
    mask = sv.CompactMask.from_dense(detections.mask, whole, (height, width))
    return replace(detections, mask=mask)


def prepare_folder(label_format: str, folder: Path) -> None:
    """Make the folder and check it, before hours are spent on labels that cannot be written.

    Raises:
        ConfigError: the format is unknown, or the folder already holds labels, which somebody may
            have corrected.
        OpenVocabError: the folder cannot be written to.

    >>> prepare_folder("voc", Path("labels"))
    Traceback (most recent call last):
    openvocab.errors.ConfigError: Unknown format 'voc'; use one of coco, yolo, label-studio, cvat.
    """
    if label_format not in FORMATS:
        raise ConfigError(f"Unknown format {label_format!r}; use one of {', '.join(FORMATS)}.")
    with writing_to(folder):
        for name in FORMATS[label_format].outputs:
            if (folder / name).exists():
                raise ConfigError(f"{folder} already holds {name}; choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_labels(
    label_format: str, images: Sequence[LabelledImage], classes: Sequence[str], folder: Path
) -> Path:
    """Write all labels into a folder that holds no labels of this format yet.

    Args:
        label_format: one of `FORMATS`: `coco` (JSON with scores, as in COCO results), `yolo`
            (images, a text file for each, and a `data.yaml` for `yolo train`), `label-studio`
            (tasks with predictions), `cvat` (XML, CVAT for images 1.1).
        images: all images, each path once.
        classes: the caller's names, by `class_id`.
        folder: created if missing.

    Returns:
        The file to open in the other tool.

    Raises:
        ConfigError: the format is unknown, or the folder already holds labels, which somebody may
            have corrected.
        OpenVocabError: the folder cannot be written to.
    """
    prepare_folder(label_format, folder)
    with writing_to(folder):
        writer, (file, *_) = FORMATS[label_format]
        text = writer(images, classes, folder)
        write_atomic(folder / file, text.encode(errors="backslashreplace"))
    return folder / file


def _coco(images: Sequence[LabelledImage], classes: Sequence[str], _: Path) -> str:
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (image, name) in enumerate(zip(images, _names(images), strict=True), 1):
        width, height = image.size_wh
        entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for box in _boxes(image.detections):
            x1, y1, x2, y2 = box.xyxy
            bbox = [round(edge, 2) for edge in (x1, y1, x2 - x1, y2 - y1)]
            area = bbox[2] * bbox[3] if box.mask is None else float(box.mask.sum())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.class_id + 1,
                    "bbox": bbox,
                    "area": round(area, 2),
                    "iscrowd": 0,
                    "segmentation": [polygon.ravel().tolist() for polygon in _polygons(box.mask)],
                    "score": round(box.score, 4),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    dataset = {"images": entries, "annotations": annotations, "categories": categories}
    return json.dumps(dataset, ensure_ascii=False)


def _yolo(images: Sequence[LabelledImage], classes: Sequence[str], folder: Path) -> str:
    with_masks = any(image.detections.mask is not None for image in images)
    taken: set[Path] = set()
    for image, name in zip(images, _names(images), strict=True):
        # x.jpg and x.png would share one file of labels.
        candidates = numbered_paths(_yolo_path(name))
        path = next(path for path in candidates if path.with_suffix("") not in taken)
        taken.add(path.with_suffix(""))
        copy = folder / "images" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.suffix == image.path.suffix:
            shutil.copyfile(image.path, copy)
        else:
            write_atomic(copy, cv2.imencode(copy.suffix, load_image(image.path))[1].tobytes())
        labels = (folder / "labels" / path).with_suffix(".txt")
        write_atomic(labels, "".join(_yolo_lines(image, with_masks=with_masks)).encode())
    # Paths are relative to the file: the folder may be moved. YAML is a superset of JSON, except
    # that some characters have to be escaped.
    table = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
    text = json.dumps(table, ensure_ascii=False, indent=1)
    return UNPRINTABLE_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _yolo_path(name: str) -> Path:
    """The name under which Ultralytics reads an image and finds its labels.

    It replaces the last `images` of the path by `labels`, and ignores GIFs.

    >>> _yolo_path("train/images/a.gif").as_posix()
    'train/images_/a.png'
    """
    *folders, file = Path(name).parts
    path = Path(*("images_" if folder == "images" else folder for folder in folders), file)
    return path.with_suffix(".png") if path.suffix.lower() == ".gif" else path


def _yolo_lines(image: LabelledImage, *, with_masks: bool) -> Iterator[str]:
    """Centre and size, relative to the image; or outlines of all boxes if there are masks."""
    for box in _boxes(image.detections):
        x1, y1, x2, y2 = box.xyxy
        points = [((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)]
        if with_masks:
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
            points = max(_polygons(box.mask), key=len, default=corners)
        relative = (np.array(points, np.float64) / image.size_wh).clip(0, 1).ravel()
        yield " ".join([str(box.class_id), *(f"{value:.6f}" for value in relative)]) + "\n"


def _label_studio(images: Sequence[LabelledImage], _: Sequence[str], __: Path) -> str:
    tasks = []
    for image, name in zip(images, _names(images), strict=True):
        result = []
        width, height = image.size_wh
        for number, box in enumerate(_boxes(image.detections)):
            x1, y1, x2, y2 = (np.array(box.xyxy) * 100 / [width, height, width, height]).tolist()
            rectangle = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            result.append(
                {
                    "id": str(number),
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {**rectangle, "rectanglelabels": [box.name]},
                    "score": round(box.score, 4),
                }
            )
        prediction: dict[str, Any] = {"model_version": "openvocab", "result": result}
        scores = image.detections.confidence
        if scores is not None and len(scores):
            prediction["score"] = round(float(scores.mean()), 4)
        tasks.append({"data": {"image": name}, "predictions": [prediction]})
    return json.dumps(tasks, ensure_ascii=False)


def _cvat(images: Sequence[LabelledImage], _: Sequence[str], __: Path) -> str:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (image, name) in enumerate(zip(images, _names(images), strict=True)):
        width, height = map(str, image.size_wh)
        entry = ElementTree.SubElement(
            root, "image", id=str(number), name=name, width=width, height=height
        )
        for box in _boxes(image.detections):
            edges = zip(("xtl", "ytl", "xbr", "ybr"), box.xyxy, strict=True)
            attributes = {"label": box.name, "source": "auto", "occluded": "0"}
            attributes |= {edge: f"{value:.2f}" for edge, value in edges}
            ElementTree.SubElement(entry, "box", attributes)
    text = ElementTree.tostring(root, encoding="unicode")
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


class _Format(NamedTuple):
    write: Callable[[Sequence[LabelledImage], Sequence[str], Path], str]
    """Returns the text of the main file, after writing any others."""
    outputs: tuple[str, ...]
    """The main file, and any other files and folders that it writes."""


FORMATS = {
    "coco": _Format(_coco, ("annotations.json",)),
    "yolo": _Format(_yolo, ("data.yaml", "images", "labels")),
    "label-studio": _Format(_label_studio, ("tasks.json",)),
    "cvat": _Format(_cvat, ("annotations.xml",)),
}
UNPRINTABLE_IN_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029]")
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _boxes(detections: sv.Detections) -> Iterator[_Box]:
    for xyxy, mask, score, class_id, _, data in detections:
        name = str(data.get("class_name", class_id))
        yield _Box(xyxy.astype(float).tolist(), mask, float(score or 0), int(class_id or 0), name)


def _names(images: Sequence[LabelledImage]) -> list[str]:
    """Paths below the folder that holds all images, with slashes; links keep their own names."""
    paths = [Path(os.path.abspath(image.path)) for image in images]  # noqa: PTH100  resolve() follows links
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [path.relative_to(common).as_posix() for path in paths]


def _polygons(mask: Any) -> list[Any]:  # noqa: ANN401  (H, W) bool, or None
    """Outlines `(M, 2)` of three or more points."""
    if mask is None:
        return []
    return [polygon for polygon in sv.mask_to_polygons(np.asarray(mask)) if len(polygon) > 2]
