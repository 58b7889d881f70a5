"""`openvocab detect`: from files, folders and globs to a table, annotated images, JSON and labels."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.table import Table

from openvocab._internal.files import numbered_paths, write_atomic
from openvocab.cli import _options as options
from openvocab.cli._console import complain, err, out, progress, write_json
from openvocab.cli._findings import (
    MAX_NEAR_MISSES,
    Finder,
    detection_lines,
    near_miss_lines,
)
from openvocab.errors import ConfigError, ImageError, one_line
from openvocab.io import _images as images
from openvocab.types import Image

if TYPE_CHECKING:
    import supervision as sv

_Result: TypeAlias = "tuple[dict[str, Any], sv.Detections | None]"
"""A row of the JSON report, and the detections; None if the image could not be read."""
MAX_ROWS = 20  # images; for more, counts by class are more useful than a row per box


def detect(  # noqa: PLR0913  a command has as many parameters as it has options
    sources: Annotated[
        list[str], typer.Argument(help="Image files, folders, globs, or - for standard input.")
    ],
    *,
    classes: options.Classes = "",
    example: options.Examples = None,
    preset: options.PresetName = "starter",
    negatives: options.Negatives = "",
    negative_example: options.NegativeExamples = None,
    threshold: options.Threshold = None,
    imgsz: options.ImageSize = None,
    tile: options.TileSize = None,
    device: options.Device = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save annotated images in this folder.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the result as JSON.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show each annotated image.")] = False,
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
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why each box has its class, and what competes.")
    ] = False,
) -> None:
    """Find CLASSES in images.

    Exit code: 0 all images were read, 1 some were not, 2 none was, or an option is wrong.
    """
    paths = sources if sources == ["-"] else [str(path) for path in images.find_images(sources)]
    prompts = options.read_class_options(classes, example)
    targets = _targets(paths, save)
    _check_labels(paths, label_format, labels)
    if show and not options.has_display():
        raise ConfigError("--show needs a display and there is none; use --save DIR instead.")

    from openvocab.detector import OpenVocabDetector

    detector = OpenVocabDetector.from_preset(
        options.read_preset(preset, imgsz, tile), device=device
    )
    similar = options.read_negative_options(negatives, negative_example)
    vocabulary = detector.vocabulary(prompts, similar)
    run = Finder(
        detector, vocabulary, similar, threshold, explain=explain, thorough=len(paths) == 1
    )
    names = list(vocabulary.names)
    results: list[_Result] = []
    # After Ctrl-C, the results so far are still reported.
    with suppress(KeyboardInterrupt), progress(quiet=len(paths) < 2) as bar:
        for path, target in bar.track([*zip(paths, targets, strict=True)], description="detecting"):
            results.append(_detect_file(run, path, target, show=show))
    failed = sum(detections is None for _, detections in results)
    if failed == len(paths):
        raise typer.Exit(2)
    header = {"classes": names, "preset": preset}
    _report([record for record, _ in results], header, json_file, explain=explain)
    if save is not None and json_file != "-":
        out.print(f"annotated images are in {save}{os.sep}", soft_wrap=True)
    if label_format is not None:
        _write_labels(label_format, results, names, labels)
    if len(results) < len(paths):
        _complain_of_interrupt(len(results), len(paths), label_format)
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


def _complain_of_interrupt(done: int, count: int, label_format: str | None) -> None:
    rest = "the rest again" if label_format is None else "it again with other --labels"
    complain(f"interrupted after {done} of {count} images; run {rest}.")


def _detect_file(run: Finder, path: str, target: Path | None, *, show: bool) -> _Result:
    """Detect, save and show; an image that cannot be read is reported, not raised."""
    from openvocab.io._labels import compress_masks

    try:
        image = (
            images.load_image(sys.stdin.buffer.read(), name="standard input")
            if path == "-"
            else images.load_image(path)
        )
    except ImageError as error:
        complain(str(error))
        return {"image": path, "error": str(error)}, None
    detections, found = run(image)
    _annotate(image, detections, target, show=show)
    height, width = image.shape[:2]
    record = {"image": path, "width": width, "height": height} | found
    return record, compress_masks(detections, (width, height))


def _targets(paths: list[str], folder: Path | None) -> list[Path | None]:
    """Where to write each annotated image; equal names are numbered, no source is replaced."""
    if folder is None:
        return [None] * len(paths)
    taken = {Path(path).resolve() for path in paths}
    targets: list[Path | None] = []
    for path in map(Path, paths):
        if folder.resolve() == path.resolve().parent:
            raise ImageError(f"{folder} holds the source {path.name}; save to another folder.")
        stem = "stdin" if path.name == "-" else path.stem
        suffix = path.suffix.lower() if path.suffix.lower() in {".png", ".webp"} else ".jpg"
        candidates = numbered_paths(folder / f"{stem}{suffix}")
        target = next(path for path in candidates if path.resolve() not in taken)
        taken.add(target.resolve())
        targets.append(target)
    return targets


def _annotate(
    image: Image, detections: "sv.Detections", target: Path | None, *, show: bool
) -> None:
    if target is None and not show:
        return
    import cv2

    from openvocab.io._annotation import annotate

    annotated = annotate(image, detections)
    if target is not None:
        encoded, payload = cv2.imencode(target.suffix, annotated)
        if not encoded:
            raise ImageError(f"{target} is too large for {target.suffix}; use a smaller image.")
        write_atomic(target, payload.tobytes())
    if show:
        cv2.imshow("openvocab: any key for the next", annotated)
        cv2.waitKey(0)


def _check_labels(paths: list[str], label_format: str | None, folder: Path | None) -> None:
    """Check that labels can be written, before anything is detected."""
    if label_format is None:
        if folder is not None:
            raise ConfigError("--labels writes nothing by itself; give --format, too.")
        return
    from openvocab.io._labels import prepare_folder

    if paths == ["-"]:
        raise ConfigError("Labels need files, not standard input; leave --format out.")
    prepare_folder(label_format, folder or Path("labels"))


def _write_labels(
    label_format: str, results: Sequence[_Result], names: list[str], folder: Path | None
) -> None:
    from openvocab.io._labels import LabelledImage, write_labels

    labelled = [
        LabelledImage(Path(record["image"]), (record["width"], record["height"]), detections)
        for record, detections in results
        if detections is not None
    ]
    for path in numbered_paths(folder or Path("labels")):
        with suppress(ConfigError):  # somebody has written there meanwhile
            file = write_labels(label_format, labelled, names, path)
            err.print(f"{label_format} labels are in {file}", soft_wrap=True)
            return


def _report(
    records: list[dict[str, Any]], header: dict[str, Any], json_file: str | None, *, explain: bool
) -> None:
    text = json.dumps(header | {"images": records}, ensure_ascii=False, indent=1) + "\n"
    # A file name may contain bytes that are not UTF-8; JSON has the same escape for them.
    payload = text.encode(errors="backslashreplace")
    if write_json(payload, json_file):
        return
    if len(records) > MAX_ROWS:
        out.print(_summary(records))
        return
    out.print(_table(records))
    few_classes = len(header["classes"]) <= MAX_NEAR_MISSES
    for line in _lines(records, near_misses=few_classes or len(records) == 1, explain=explain):
        out.print(one_line(line), soft_wrap=True)


def _lines(records: list[dict[str, Any]], *, near_misses: bool, explain: bool) -> Iterator[str]:
    """What the table does not say: why a box has its class, and what came closest to a class."""
    for record in records:
        if "error" in record:
            continue
        lines = [*detection_lines(record)] if explain else []
        lines += near_miss_lines(record, explain=explain) if near_misses else []
        name = "" if len(records) == 1 else f"{Path(record['image']).name}: "
        yield from (line if line.startswith(" ") else name + line for line in lines)


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table("image", "class", "score", "box (x1 y1 x2 y2)", box=None)
    for record in records:
        name = one_line(Path(record["image"]).name)
        if not record.get("detections"):
            table.add_row(name, "unreadable" if "error" in record else "no detections")
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
    image_counts = Counter(name for name, _ in set(rows))
    table = Table("class", "boxes", f"images (of {len(records)})", box=None)
    for name, count in Counter(name for name, _ in rows).most_common():
        table.add_row(one_line(name), str(count), str(image_counts[name]))
    return table
