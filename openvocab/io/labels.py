"""Detections in the formats of other tools: to train on, to correct by hand, or Hugging Face's."""

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
from openvocab.errors import ConfigError, OpenVocabError
from openvocab.io.images import load


class _Thing(NamedTuple):
    """One row of detections in plain numbers."""

    box: list[float]
    mask: NDArray[np.bool_] | None
    score: float
    class_id: int
    name: str


class LabelledImage(NamedTuple):
    """A picture and what was found in it."""

    path: Path
    """Path of its file."""
    size_wh: tuple[int, int]
    """Width and height of the picture, upright."""
    found: sv.Detections
    """Detections whose `class_id` is an index into the classes that are written with it."""


def rows(found: sv.Detections) -> Iterator[dict[str, Any]]:
    """Each box in plain numbers and strings: class, score, `xyxy`, track, all parts of the score.

    Scores are rounded to four digits, pixels to two.

    >>> list(rows(sv.Detections.empty()))
    []
    """
    for xyxy, _, score, class_id, track, data in found:
        row = {
            "class_name": data.get("class_name", class_id),
            "class_id": class_id,
            "confidence": score,
        }
        row |= {"xyxy": [_short(edge) for edge in xyxy]}
        row |= {} if track is None else {"tracker_id": track}
        row |= {key: value for key, value in data.items() if key != "class_name"}
        yield {key: _plain(value) for key, value in row.items()}


def compress_masks(path: Path, size_wh: tuple[int, int], found: sv.Detections) -> LabelledImage:
    """A picture's detections with masks run-length encoded, as thousands wait for `write_labels`."""
    if isinstance(found.mask, np.ndarray):
        width, height = size_wh
        whole = np.tile([0, 0, width - 1, height - 1], (len(found), 1))
        found = replace(found, mask=sv.CompactMask.from_dense(found.mask, whole, (height, width)))
    return LabelledImage(path, size_wh, found)


def to_hf(detections: sv.Detections) -> list[dict[str, Any]]:
    """Convert to what the zero-shot-object-detection pipeline of transformers returns.

    >>> to_hf(sv.Detections.empty())
    []
    """
    edges = ("xmin", "ymin", "xmax", "ymax")
    return [
        {
            "score": each.score,
            "label": each.name,
            "box": dict(zip(edges, map(round, each.box), strict=True)),
        }
        for each in _things(detections)
    ]


def prepare(kind: str, folder: Path) -> None:
    """Make the folder and check it, before hours are spent on labels that cannot be written.

    Raises:
        ConfigError: there is no such format, or the folder already holds labels, which somebody
            may have corrected.
        OpenVocabError: the folder cannot be written to.

    >>> prepare("voc", Path("labels"))
    Traceback (most recent call last):
    openvocab.errors.ConfigError: There is no format 'voc'; use one of coco, yolo, label-studio, cvat.
    """
    if kind not in FORMATS:
        raise ConfigError(f"There is no format {kind!r}; use one of {', '.join(FORMATS)}.")
    try:
        for name in TARGETS[kind]:
            if (folder / name).exists():
                raise ConfigError(f"{folder} holds {name} already; choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OpenVocabError(
            f"{folder} cannot be written to ({error.strerror}); choose another folder."
        ) from error


def write_labels(
    kind: str, pictures: Sequence[LabelledImage], classes: Sequence[str], folder: Path
) -> Path:
    """Write all labels into a folder that holds no labels of this format yet.

    Args:
        kind: one of `FORMATS`: `coco` (JSON with scores, as in COCO results), `yolo` (pictures, a
            text file for each, and a `data.yaml` for `yolo train`), `label-studio` (tasks with
            predictions), `cvat` (XML, CVAT for images 1.1).
        pictures: all pictures, each path once.
        classes: the caller's names, by `class_id`.
        folder: created if missing.

    Returns:
        The file to open in the other tool.

    Raises:
        ConfigError: there is no such format, or the folder already holds labels, which somebody
            may have corrected.
        OpenVocabError: the folder cannot be written to.
    """
    prepare(kind, folder)
    try:
        return FORMATS[kind](pictures, classes, folder)
    except OSError as error:
        raise OpenVocabError(
            f"{folder} cannot be written to ({error.strerror}); choose another folder."
        ) from error


def _coco(pictures: Sequence[LabelledImage], classes: Sequence[str], folder: Path) -> Path:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (picture, name) in enumerate(zip(pictures, _names(pictures), strict=True), 1):
        width, height = picture.size_wh
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), mask, score, class_id, _ in _things(picture.found):
            box = [_short(edge) for edge in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": class_id + 1,
                    "bbox": box,
                    "area": _short(mask.sum() if mask is not None else box[2] * box[3]),
                    "iscrowd": 0,
                    "segmentation": [part.ravel().tolist() for part in _outlines(mask)],
                    "score": _short(score, 4),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    table = {"images": images, "annotations": annotations, "categories": categories}
    return _written(folder / "annotations.json", json.dumps(table, ensure_ascii=False))


def _yolo(pictures: Sequence[LabelledImage], classes: Sequence[str], folder: Path) -> Path:
    masked = any(picture.found.mask is not None for picture in pictures)
    taken: set[Path] = set()
    for picture, name in zip(pictures, _names(pictures), strict=True):
        # x.jpg and x.png would share one file of labels.
        free = (
            path for path in numbered_paths(_for_yolo(name)) if path.with_suffix("") not in taken
        )
        place = next(free)
        taken.add(place.with_suffix(""))
        target = folder / "images" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == picture.path.suffix:
            shutil.copyfile(picture.path, target)
        else:
            write_atomic(target, cv2.imencode(target.suffix, load(picture.path))[1].tobytes())
        lines = [
            " ".join([str(class_id), *(f"{value:.6f}" for value in values)])
            for class_id, values in _yolo_rows(picture, masked=masked)
        ]
        label = (folder / "labels" / place).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(label, "".join(f"{line}\n" for line in lines).encode())
    # Paths are relative to the file: the folder may be moved. YAML is a superset of JSON, except
    # that some characters have to be escaped.
    table = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
    text = json.dumps(table, ensure_ascii=False, indent=1)
    escaped = UNPRINTED.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)
    return _written(folder / "data.yaml", escaped)


def _for_yolo(name: str) -> Path:
    """The name under which Ultralytics reads a picture and finds its labels.

    It replaces the last `images` of the path by `labels`, and ignores GIFs.

    >>> _for_yolo("train/images/a.gif").as_posix()
    'train/images_/a.png'
    """
    *folders, file = Path(name).parts
    place = Path(*(f"{each}_" if each == "images" else each for each in folders), file)
    return place.with_suffix(".png") if place.suffix.lower() == ".gif" else place


def _yolo_rows(picture: LabelledImage, *, masked: bool) -> list[tuple[int, list[float]]]:
    """Centre and size, relative to the picture; or outlines of all boxes if there are masks."""
    size, rows = np.array(picture.size_wh, np.float64), []
    for box, mask, _, class_id, _ in _things(picture.found):
        (x1, y1, x2, y2), outlines = box, _outlines(mask)
        if masked:
            points = max(outlines, key=len, default=[(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        else:
            points = [((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)]
        rows.append((class_id, (np.array(points) / size).clip(0, 1).ravel().tolist()))
    return rows


def _label_studio(pictures: Sequence[LabelledImage], _: Sequence[str], folder: Path) -> Path:
    tasks = []
    for picture, name in zip(pictures, _names(pictures), strict=True):
        (width, height), result = picture.size_wh, []
        for number, each in enumerate(_things(picture.found)):
            x1, x2 = (100 * edge / width for edge in each.box[::2])
            y1, y2 = (100 * edge / height for edge in each.box[1::2])
            place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            result.append(
                {
                    "id": str(number),
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {**place, "rectanglelabels": [each.name]},
                    "score": _short(each.score, 4),
                }
            )
        found = picture.found.confidence
        prediction: dict[str, Any] = {"model_version": "openvocab", "result": result}
        if found is not None and len(found):
            prediction["score"] = _short(found.mean(), 4)
        tasks.append({"data": {"image": name}, "predictions": [prediction]})
    return _written(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))


def _cvat(pictures: Sequence[LabelledImage], _: Sequence[str], folder: Path) -> Path:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (picture, name) in enumerate(zip(pictures, _names(pictures), strict=True)):
        width, height = map(str, picture.size_wh)
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=name, width=width, height=height
        )
        for each in _things(picture.found):
            edges = zip(("xtl", "ytl", "xbr", "ybr"), each.box, strict=True)
            places = {edge: f"{value:.2f}" for edge, value in edges}
            kind = {"label": each.name, "source": "auto", "occluded": "0"}
            ElementTree.SubElement(image, "box", kind | places)
    text = ElementTree.tostring(root, encoding="unicode")
    return _written(folder / "annotations.xml", NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))


Writer = Callable[[Sequence[LabelledImage], Sequence[str], Path], Path]
FORMATS: dict[str, Writer] = {
    "coco": _coco,
    "yolo": _yolo,
    "label-studio": _label_studio,
    "cvat": _cvat,
}
TARGETS = {
    "coco": ("annotations.json",),
    "yolo": ("data.yaml", "images", "labels"),
    "label-studio": ("tasks.json",),
    "cvat": ("annotations.xml",),
}
"""The files and folders that each format writes."""
UNPRINTED = re.compile(r"[\x7f-\x9f\u2028\u2029]")
NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _things(found: sv.Detections) -> Iterator[_Thing]:
    for box, mask, score, class_id, _, data in found:
        yield _Thing(
            box.astype(float).tolist(), mask, float(score or 0), int(class_id or 0),
            str(data.get("class_name", class_id)),
        )  # fmt: skip


def _names(pictures: Sequence[LabelledImage]) -> list[str]:
    """Paths below the folder that holds all pictures, with slashes; links keep their own names."""
    paths = [Path(os.path.abspath(picture.path)) for picture in pictures]  # noqa: PTH100  resolve() follows links
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [path.relative_to(common).as_posix() for path in paths]


def _outlines(mask: Any) -> list[Any]:  # noqa: ANN401  (H, W) bool, or None
    """Polygons `(M, 2)` of three or more points."""
    if mask is None:
        return []
    return [part for part in sv.mask_to_polygons(np.asarray(mask)) if len(part) > 2]


def _plain(value: Any) -> Any:  # noqa: ANN401  of a row
    value = value.item() if isinstance(value, np.generic) else value
    return _short(value, 4) if isinstance(value, float) else value


def _short(value: Any, digits: int = 2) -> float:  # noqa: ANN401  any number
    return round(float(value), digits)


def _written(file: Path, text: str) -> Path:
    write_atomic(file, text.encode(errors="backslashreplace"))
    return file
