"""`openvocab detect`: from files, folders and globs to a table, annotated pictures and JSON."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from openvocab._internal.files import numbered_paths, write_atomic
from openvocab.cli.console import complain, err, out, progress
from openvocab.cli.options import (
    Classes,
    Device,
    ImageSize,
    Negatives,
    PresetName,
    Threshold,
    TileSize,
    has_display,
    read_classes,
    read_preset,
)
from openvocab.errors import ConfigError, ImageError, one_line
from openvocab.io import images
from openvocab.types import Image
from openvocab.vocabulary.prompts import split_class_list

if TYPE_CHECKING:
    import supervision as sv

    from openvocab.detector import OpenVocabDetector
    from openvocab.vocabulary import Vocabulary

_Work = tuple[str, Path | None]  # an image, and where its annotated picture goes
MANY = 20  # images; from here on, counts by class are more useful than a row per box


def detect(  # noqa: PLR0913  a command has as many parameters as it has options
    sources: Annotated[
        list[str], typer.Argument(help="Image files, folders, globs, or - for standard input.")
    ],
    *,
    classes: Classes,
    preset: PresetName = "starter",
    negatives: Negatives = "",
    threshold: Threshold = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save annotated pictures in this folder.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the result as JSON.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show each annotated picture.")] = False,
    label_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Write labels for other tools: coco, yolo, label-studio or cvat."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="DIR", help="Where --format writes.  (default: labels)"),
    ] = None,
) -> None:
    """Find CLASSES in pictures.

    Exit code: 0 all pictures were read, 1 some were not, 2 none was, or an option is wrong.
    """
    paths = _sources(sources)
    wanted = read_classes(classes)
    targets = _targets(paths, save)
    collected = _Labels(label_format, labels, paths)
    if show and not has_display():
        raise ConfigError("--show needs a display and there is none; use --save DIR instead.")

    from openvocab.detector import OpenVocabDetector

    detector = OpenVocabDetector.from_preset(read_preset(preset, imgsz, tile), device=device)
    bank = detector.vocabulary(wanted, split_class_list(negatives))
    names = list(bank.names)
    records: list[dict[str, Any]] = []
    with suppress(KeyboardInterrupt):  # what was found so far is still reported
        for path, target in _progress(list(zip(paths, targets, strict=True))):
            record, found = _detect_one(detector, bank, path, target, threshold, show=show)
            records.append(record)
            collected.add(record, found)
    failed = sum("error" in record for record in records)
    if failed and failed == len(paths):
        raise typer.Exit(2)
    _report(records, {"classes": names, "preset": preset}, json_file)
    if save is not None and json_file != "-":
        out.print(f"annotated pictures are in {save}{os.sep}", soft_wrap=True)
    collected.write(names)
    if len(records) < len(paths):
        rest = "the rest again" if label_format is None else "it again with other --labels"
        complain(f"interrupted after {len(records)} of {len(paths)} images; run {rest}.")
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


class _Labels:
    """The labels that --format writes at the end."""

    def __init__(self, kind: str | None, folder: Path | None, paths: list[str]) -> None:
        self._kind, self._folder = kind, folder or Path("labels")
        self._found: list[Any] = []
        if kind is None:
            if folder is not None:
                raise ConfigError("--labels writes nothing by itself; give --format, too.")
            return
        from openvocab.io.labels import prepare

        if paths == ["-"]:
            raise ConfigError("Labels need files, not standard input; leave --format out.")
        prepare(kind, self._folder)

    def add(self, record: dict[str, Any], found: "sv.Detections | None") -> None:
        """Add an image, unless it could not be read."""
        if self._kind is not None and found is not None:
            from openvocab.io.labels import compress_masks

            size = record["width"], record["height"]
            self._found.append(compress_masks(Path(record["image"]), size, found))

    def write(self, classes: list[str]) -> None:
        """Write the labels of all images that were looked at."""
        if self._kind is not None:
            from openvocab.io.labels import write_labels

            for folder in numbered_paths(self._folder):
                with suppress(ConfigError):  # somebody has written there meanwhile
                    written = write_labels(self._kind, self._found, classes, folder)
                    break
            err.print(f"{self._kind} labels are in {written}", soft_wrap=True)


def _detect_one(
    detector: "OpenVocabDetector",
    bank: "Vocabulary",
    path: str,
    target: Path | None,
    threshold: float | None,
    *,
    show: bool,
) -> tuple[dict[str, Any], "sv.Detections | None"]:
    """Detect, save, show; an image that cannot be read is reported, not raised."""
    try:
        picture = _read(path)
    except ImageError as error:
        complain(str(error))
        return {"image": path, "error": str(error)}, None
    found = detector.detect(picture, bank, score_threshold=threshold)
    _deliver(picture, found, target, show=show)
    return _record(path, picture.shape, found), found


def _sources(sources: list[str]) -> list[str]:
    if sources == ["-"]:
        return sources
    return [str(path) for path in images.find(sources)]


def _read(path: str) -> Image:
    if path == "-":
        return images.load(sys.stdin.buffer.read(), name="standard input")
    return images.load(path)


def _targets(paths: list[str], folder: Path | None) -> list[Path | None]:
    """Where to write each annotated picture; equal names are numbered, no source is replaced."""
    if folder is None:
        return [None] * len(paths)
    taken = {Path(path).resolve() for path in paths}
    targets: list[Path | None] = []
    for path in map(Path, paths):
        stem = "stdin" if path.name == "-" else path.stem
        suffix = path.suffix.lower() if path.suffix.lower() in {".png", ".webp"} else ".jpg"
        if folder.resolve() == path.resolve().parent:
            raise ImageError(f"{folder} holds the source {path.name}; save to another folder.")
        free = (
            to for to in numbered_paths(folder / f"{stem}{suffix}") if to.resolve() not in taken
        )
        target = next(free)
        taken.add(target.resolve())
        targets.append(target)
    return targets


def _deliver(picture: Image, found: "sv.Detections", target: Path | None, *, show: bool) -> None:
    if target is None and not show:
        return
    import cv2

    from openvocab.io.annotation import annotate

    drawn = annotate(picture, found)
    if target is not None:
        done, encoded = cv2.imencode(target.suffix, drawn)
        if not done:
            raise ImageError(f"{target} is too large for {target.suffix}; use a smaller picture.")
        write_atomic(target, encoded.tobytes())
    if show:
        cv2.imshow("openvocab: any key for the next", drawn)
        cv2.waitKey(0)


def _record(path: str, shape: tuple[int, ...], found: "sv.Detections") -> dict[str, Any]:
    """One image for JSON: the contents of `Detections`, in plain numbers."""
    from openvocab.io.labels import rows

    listed = list(rows(found))
    return {"image": path, "width": shape[1], "height": shape[0], "detections": listed}


def _report(records: list[dict[str, Any]], head: dict[str, Any], json_file: str | None) -> None:
    text = json.dumps(head | {"images": records}, ensure_ascii=False, indent=1) + "\n"
    # A file name may contain bytes that are not UTF-8; JSON has the same escape for them.
    payload = text.encode(errors="backslashreplace")
    if json_file == "-":
        sys.stdout.buffer.write(payload)
        sys.stdout.flush()
        return
    if json_file is not None:
        write_atomic(json_file, payload)
    out.print(_summary(records) if len(records) > MANY else _table(records))


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table("image", "class", "score", "box (x1 y1 x2 y2)", box=None)
    for record in records:
        name = one_line(Path(record["image"]).name)
        if not record.get("detections"):
            table.add_row(name, "not readable" if "error" in record else "nothing found", "", "")
        for row in record.get("detections", []):
            box = " ".join(f"{edge:.0f}" for edge in row["xyxy"])
            table.add_row(name, one_line(row["class_name"]), f"{row['confidence']:.2f}", box)
            name = ""
    return table


def _summary(records: list[dict[str, Any]]) -> Table:
    rows = [
        (row["class_name"], record["image"])
        for record in records
        for row in record.get("detections", [])
    ]
    boxes = Counter(name for name, _ in rows)
    pictures = Counter(name for name, _ in set(rows))
    table = Table("class", "boxes", f"images (of {len(records)})", box=None)
    for name, number in boxes.most_common():
        table.add_row(one_line(name), str(number), str(pictures[name]))
    return table


def _progress(work: list[_Work]) -> Iterator[_Work]:
    """Yield the work, with a bar on standard error if it is a terminal and images are several."""
    with progress(quiet=len(work) < 2) as bar:
        yield from bar.track(work, description="detecting")
