"""`openvocab eval` and `openvocab calibrate`: how right a preset is, and how to make it righter."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from openvocab.cli.console import complain, err, out
from openvocab.cli.options import Device, ImageSize, PresetName, TileSize, read_preset
from openvocab.errors import ConfigError
from openvocab.files import write
from openvocab.presets import Preset, path_of

if TYPE_CHECKING:
    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluate.datasets import Dataset, Photo
    from openvocab.evaluate.stress import ClassesMap

__all__ = ["calibrate", "evaluate"]

Labels = Annotated[
    Path, typer.Argument(metavar="DATASET", help="COCO or LVIS .json, YOLO .yaml, or its folder.")
]
Images = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the pictures of a .json are.")
]
Split = Annotated[str, typer.Option(help="Of a YOLO dataset.")]
Part = Annotated[str, typer.Option(help="all, or one of two fixed halves: calibration, test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Photos at the most.")]
Map = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The classes in other words, a .toml; or coco, bundled."),
]
Runs = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="[default: runs/DATASET-PRESET]")
]


def evaluate(  # noqa: PLR0913  a command has as many parameters as it has options
    dataset: Labels,
    *,
    preset: PresetName = "starter",
    classes_map: Map = None,
    limit: Limit = None,
    images: Images = None,
    split: Split = "val",
    part: Part = "all",
    folder: Runs = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
) -> None:
    """Measure a preset on labelled pictures: a table, results.json and report.html.

    What was seen is kept in the folder: a run that was stopped goes on, and other words cost little.
    """
    labelled, words = _given(dataset, images, split, part, limit, classes_map)
    detector, home = _ready(read_preset(preset, imgsz, tile), device, labelled, folder)

    from openvocab.evaluate.evaluation import evaluate as measure
    from openvocab.evaluate.provenance import provenance
    from openvocab.evaluate.report import html
    from openvocab.evaluate.seen import SeenOnce
    from openvocab.evaluate.stress import wordings

    asked = wordings(labelled.classes, words)
    with _bar(labelled) as track:
        found = measure(
            detector,
            labelled,
            asked,
            absent=words.absent,
            see=SeenOnce(detector, home / "seen"),
            track=track,
        )
    for problem in found.unread:
        complain(problem)
    results = _finite(
        {"provenance": provenance(detector), "preset": dataclasses.asdict(detector.preset)}
        | {"part": part}
        | found.figures()
    )
    write(home / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    write(home / "report.html", html(found, results).encode())
    out.print(_table(results))
    out.print(_below(results))
    out.print(f"{home / 'report.html'}, {home / 'results.json'}", soft_wrap=True)


def calibrate(  # noqa: PLR0913  as above
    dataset: Labels,
    *,
    preset: PresetName = "starter",
    classes_map: Map = None,
    limit: Limit = 1000,
    images: Images = None,
    split: Split = "val",
    part: Part = "all",
    folder: Runs = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Write into the preset's own file.")
    ] = False,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
) -> None:
    """Fit temperature, background, label prior, fusion and threshold to labelled pictures.

    Writes a preset with the figures that chose its numbers. Give pictures nothing was trained on.
    """
    labelled, words = _given(dataset, images, split, part, limit, classes_map)
    detector, home = _ready(read_preset(preset, imgsz, tile), device, labelled, folder)
    target = path_of(preset) if in_place else home / f"{detector.preset.name}.toml"

    from openvocab.evaluate.calibration import calibrate as fit
    from openvocab.evaluate.calibration import report, toml
    from openvocab.evaluate.seen import SeenOnce
    from openvocab.evaluate.stress import wordings

    asked = [each for each in wordings(labelled.classes, words) if not each.automatic]
    with _bar(labelled) as track:
        fitted = fit(
            detector,
            labelled,
            asked,
            absent=words.absent,
            see=SeenOnce(detector, home / "seen"),
            track=track,
        )
    write(target, toml(detector.preset, fitted, labelled, part).encode())
    for line in report(detector.preset, fitted):
        out.print(line, soft_wrap=True)
    out.print(str(target), soft_wrap=True)


def _given(
    path: Path,
    images: Path | None,
    split: str,
    part: str,
    limit: int | None,
    classes_map: str | None,
) -> "tuple[Dataset, ClassesMap]":
    """The photos and the words, before any network is loaded."""
    if find_spec("faster_coco_eval") is None:
        raise ConfigError('This needs faster-coco-eval; run `pip install "openvocab[eval]"`.')
    from openvocab.evaluate.formats import load
    from openvocab.evaluate.stress import ClassesMap, wordings

    labelled = load(path, images, split).part(part)
    labelled = labelled.only(labelled.photos[:limit])
    words = ClassesMap() if classes_map is None else ClassesMap.from_file(classes_map)
    wordings(labelled.classes, words)
    return labelled, words


def _ready(
    preset: Preset, device: str | None, labelled: "Dataset", folder: Path | None
) -> "tuple[OpenVocabDetector, Path]":
    from openvocab.detector import OpenVocabDetector

    home = folder or Path("runs") / f"{labelled.name}-{preset.name}"
    return OpenVocabDetector.from_preset(preset, device=device), home


@contextmanager
def _bar(labelled: "Dataset") -> Iterator[Any]:
    """Shows how many photos are done; what is stopped can go on."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    done = 0

    def track(photos: "Sequence[Photo]") -> "Iterator[Photo]":
        nonlocal done
        for photo in bar.track(photos, description="seeing"):
            yield photo
            done += 1

    try:
        with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
            bar.disable = not err.is_terminal
            yield track
    except KeyboardInterrupt as stopped:
        complain(f"stopped after {done} of {len(labelled)} photos; run it again to go on.")
        raise typer.Exit(130) from stopped


def _table(results: dict[str, Any]) -> Table:
    threshold = results["threshold"]
    heads = "AP50", "AP", "AR", f"F1 at {threshold:.2f}", "best F1", "ECE", "encoder alone"
    table = Table("asked for", *heads, box=None, title=None)
    for name, row in results["wordings"].items():
        keys = "AP50", "AP", "AR", "F1", "best_F1", "ECE", "encoder_accuracy"
        table.add_row(name, *(_percent(row[key]) for key in keys))
    if results["detector_alone"]:
        alone = results["detector_alone"]
        own = [_percent(alone[key]) for key in ("AP50", "AP", "AR")]
        table.add_row("the detector's own labels", *own)
    return table


def _below(results: dict[str, Any]) -> str:
    recall = [f"{count}: {_percent(v)}" for count, v in results["proposal_recall"].items()]
    false = [f"{v:.3f} ({key})" for key, v in results["false_labels_per_photo"].items()]
    times = [f"{key} {1000 * v:.0f}" for key, v in results["seconds_per_photo"].items()]
    lines = [
        f"recall of the best proposals, %: {', '.join(recall)}",
        f"false labels a photo, five absent classes asked: {', '.join(false)}",
        f"milliseconds a photo: {', '.join(times)}",
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _finite(value: Any) -> Any:  # noqa: ANN401  JSON
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
