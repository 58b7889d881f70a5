"""`openvocab eval` and `openvocab calibrate`: measure how good a preset is, and improve it."""

import dataclasses
import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from openvocab._internal.environment import require_packages
from openvocab._internal.files import write_atomic
from openvocab.cli.console import complain, out, progress
from openvocab.cli.options import Device, ImageSize, PresetName, TileSize, read_preset
from openvocab.config import preset_path

if TYPE_CHECKING:
    from openvocab.evaluation.datasets import Dataset
    from openvocab.evaluation.prompt_variants import PromptMap, PromptVariant

Labels = Annotated[
    Path, typer.Argument(metavar="DATASET", help="COCO or LVIS .json, YOLO .yaml or its folder.")
]
Images = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the pictures that a .json names.")
]
Split = Annotated[str, typer.Option(help="Split of a YOLO dataset.")]
Part = Annotated[str, typer.Option(help="all, or one of two fixed halves: calibration or test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many photos.")]
Map = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Other words for the classes: a .toml, or the bundled coco."),
]
Runs = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where to write results.  (default: runs/DATASET-PRESET)"
    ),
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
    """Measure a preset on labelled pictures.

    Prints a table, and writes results.json and report.html. What the networks saw is kept in the
    folder, so a stopped run continues where it was, and asking with other words costs little.
    """
    labelled, words, asked = _given(dataset, images, split, part, limit, classes_map)
    chosen = read_preset(preset, imgsz, tile)
    home = folder or Path("runs") / f"{labelled.name}-{chosen.name}"

    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation.evaluator import evaluate as measure
    from openvocab.evaluation.feature_cache import FeatureCache
    from openvocab.evaluation.provenance import provenance
    from openvocab.evaluation.report import html

    detector = OpenVocabDetector.from_preset(chosen, device=device)
    see = FeatureCache(detector, home / "seen")
    with _bars() as track:
        found = measure(detector, labelled, asked, absent=words.absent, see=see, track=track)
    for problem in found.unread:
        complain(problem)
    results = _finite(
        {"provenance": provenance(detector), "preset": dataclasses.asdict(detector.preset)}
        | {"part": part}
        | found.figures()
    )
    write_atomic(home / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(home / "report.html", html(found, results).encode(errors="replace"))
    out.print(_table(results))
    out.print(_below(results))
    out.print(f"{home / 'report.html'}, {home / 'results.json'}", soft_wrap=True)


def calibrate(  # noqa: PLR0913  as above
    dataset: Labels,
    *,
    preset: PresetName = "starter",
    classes_map: Map = None,
    limit: Limit = 300,
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
    """Fit a preset's numbers to labelled pictures.

    The numbers are temperature, background weight, label prior, fusion and threshold. Writes a
    preset with the measurements behind them. Use pictures that neither network was trained on.
    """
    labelled, words, asked = _given(dataset, images, split, part, limit, classes_map)
    chosen = read_preset(preset, imgsz, tile)
    home = folder or Path("runs") / f"{labelled.name}-{chosen.name}"
    target = preset_path(preset) if in_place else home / f"{chosen.name}.toml"

    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation.calibration import calibrate as fit
    from openvocab.evaluation.calibration_report import report, toml
    from openvocab.evaluation.feature_cache import FeatureCache

    detector = OpenVocabDetector.from_preset(chosen, device=device)
    see, some = (
        FeatureCache(detector, home / "seen"),
        [each for each in asked if not each.automatic],
    )
    gc.freeze()  # torch's objects stay: no need to scan them for each of 10,000 small tables
    with _bars() as track:
        fitted = fit(detector, labelled, some, absent=words.absent, see=see, track=track)
    write_atomic(target, toml(detector.preset, fitted, labelled, part).encode())
    for line in report(fitted):
        out.print(line, soft_wrap=True)
    out.print(str(target), soft_wrap=True)


def _given(
    path: Path,
    images: Path | None,
    split: str,
    part: str,
    limit: int | None,
    classes_map: str | None,
) -> "tuple[Dataset, PromptMap, list[PromptVariant]]":
    """Read the photos and the words, before any network is loaded."""
    require_packages("The evaluation", "eval", "faster_coco_eval")
    from openvocab.evaluation.formats import load
    from openvocab.evaluation.prompt_variants import PromptMap, prompt_variants

    labelled = load(path, images, split).part(part)
    labelled = labelled.only(labelled.photos[:limit])
    words = PromptMap() if classes_map is None else PromptMap.from_file(classes_map)
    return labelled, words, prompt_variants(labelled.classes, words)


@contextmanager
def _bars() -> Iterator[Any]:
    """Show how many photos, then steps, are done; if stopped, what was seen is kept."""

    def track(items: Sequence[Any]) -> Iterable[Any]:
        return bar.track(items, description="fitting" if isinstance(items, range) else "seeing")

    try:
        with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            yield track
    except KeyboardInterrupt as stopped:
        complain("stopped; what was seen is kept: run it again to go on.")
        raise typer.Exit(130) from stopped


def _table(results: dict[str, Any]) -> Table:
    threshold = results["threshold"]
    heads = "AP50", "AP", "AR", f"F1 at {threshold:.2f}", "best F1", "ECE", "encoder alone"
    table = Table("asked for", *heads, box=None, title=None)
    for name, row in results["prompt_variants"].items():
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
        *(
            [f"false labels a photo, five absent classes asked: {', '.join(false)}"]
            if false
            else []
        ),
        f"milliseconds a photo: {', '.join(times)}",
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _finite(value: Any) -> Any:  # noqa: ANN401  JSON
    """Replace what JSON does not have, such as NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
