"""`openvocab eval` and `openvocab calibrate`: measure how good a preset is, and improve it."""

import dataclasses
import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Column, Table

from openvocab._internal.environment import require_packages
from openvocab._internal.files import write_atomic
from openvocab.cli._console import complain, out, progress
from openvocab.cli._options import Device, ImageSize, PresetName, TileSize, read_preset
from openvocab.cli._unlabelled import calibrate_unlabelled, refuse_labelled_options
from openvocab.config import Preset, preset_path
from openvocab.errors import ConfigError

if TYPE_CHECKING:
    from openvocab.evaluation._prompt_variants import EvaluationTask

Labels = Annotated[
    Path, typer.Argument(metavar="DATASET", help="COCO or LVIS .json, YOLO .yaml or its folder.")
]
Images = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the images that a .json lists.")
]
Split = Annotated[str, typer.Option(help="Split of a YOLO dataset.")]
Part = Annotated[str, typer.Option(help="all, or one of two fixed halves: calibration or test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many images.")]
ClassesMap = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Other prompts for the classes: a .toml, or the bundled coco."
    ),
]
OutputFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where to write results.  (default: runs/DATASET-PRESET)"
    ),
]


def evaluate(  # noqa: PLR0913  a command has as many parameters as it has options
    dataset: Labels,
    *,
    preset: PresetName = "starter",
    classes_map: ClassesMap = None,
    limit: Limit = None,
    images: Images = None,
    split: Split = "val",
    part: Part = "all",
    folder: OutputFolder = None,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
    relations: Annotated[
        bool,
        typer.Option(
            "--relations",
            help="Also names that the detector lacks (ten more runs of it per image), and "
            "example pictures.",
        ),
    ] = False,
) -> None:
    """Measure a preset on labelled images.

    Prints a table, and writes results.json and report.html. Features of the images are cached in
    the folder, so a stopped run can be continued, and other prompts cost little.
    """
    task = _load_task(dataset, images, split, part, limit, classes_map)
    config = read_preset(preset, imgsz, tile)
    folder = folder or _default_folder(task, config)

    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation import _evaluator as evaluator
    from openvocab.evaluation._feature_cache import FeatureCache
    from openvocab.evaluation._provenance import provenance
    from openvocab.evaluation._report import html

    detector = OpenVocabDetector.from_preset(config, device=device)
    cache = FeatureCache(detector, folder / "features")
    gc.freeze()  # as below
    with _progress_bar() as track:
        evaluation = evaluator.evaluate(
            detector, task, cache=cache, all_relations=relations, progress=track
        )
    for message in (*evaluation.unreadable, *evaluation.skipped):
        complain(message)
    settings = {"preset": dataclasses.asdict(detector.preset), "part": part}
    results = {"provenance": provenance(detector)} | settings | evaluation.to_dict()
    write_atomic(folder / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(folder / "report.html", html(evaluation, results).encode(errors="replace"))
    out.print(_table(results))
    if len(evaluation.relations) > 1:
        out.print(_relations_table(results))
    for line in _summary(results):
        out.print(line)
    out.print(f"{folder / 'report.html'}, {folder / 'results.json'}", soft_wrap=True)


def calibrate(  # noqa: PLR0913  as above
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET",
            help="COCO or LVIS .json, YOLO .yaml or its folder; not with --unlabelled.",
        ),
    ] = None,
    *,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTOS",
            help="Instead of fitting to a DATASET, learn what the detector's labels look like from "
            "any photos: a file, a folder or a glob; repeat it for more.",
        ),
    ] = None,
    preset: PresetName = "starter",
    classes_map: ClassesMap = None,
    limit: Limit = 300,
    images: Images = None,
    split: Split = "val",
    part: Part = "all",
    folder: OutputFolder = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Write into the preset's own file.")
    ] = False,
    thresholds_only: Annotated[
        bool,
        typer.Option(
            "--thresholds-only",
            help="Fit the threshold, and those of classes with 20 boxes or more: from 20 boxes on.",
        ),
    ] = False,
    imgsz: ImageSize = None,
    tile: TileSize = None,
    device: Device = None,
) -> None:
    """Fit a preset to labelled images, or to unlabelled ones.

    Fits logit scale, competitor weight, label weight, fusion exponent and score threshold, and
    writes a preset with the measurements as comments. Use images that neither model was trained on.
    Nothing is written if the fit is no better on held-out images (exit code 1).

    With --unlabelled PHOTOS, the photos need no labels: the detector labels them itself, and the
    mean features of its confident boxes are written as prototypes.npz beside the preset.
    """
    config = read_preset(preset, imgsz, tile)
    own_file = preset_path(preset) if in_place else None
    if unlabelled:
        labelled_only = {
            "DATASET": dataset is not None,
            "--classes-map": classes_map is not None,
            "--images": images is not None,
            "--split": split != "val",
            "--part": part != "all",
            "--thresholds-only": thresholds_only,
        }
        refuse_labelled_options([name for name, given in labelled_only.items() if given])
        calibrate_unlabelled(unlabelled, config, folder, own_file, limit=limit, device=device)
        return
    if dataset is None:
        raise ConfigError("calibrate has no images; give a DATASET or --unlabelled PHOTOS.")
    task = _load_task(dataset, images, split, part, limit, classes_map)
    folder = folder or _default_folder(task, config)
    _fit(
        task,
        config,
        folder,
        own_file or folder / f"{config.name}.toml",
        part=part,
        thresholds_only=thresholds_only,
        device=device,
    )


def _fit(
    task: "EvaluationTask",
    config: Preset,
    folder: Path,
    target: Path,
    *,
    part: str,
    thresholds_only: bool,
    device: str | None,
) -> None:
    from openvocab.detector import OpenVocabDetector
    from openvocab.evaluation import _calibration as calibration
    from openvocab.evaluation import _thresholds as thresholds
    from openvocab.evaluation._feature_cache import FeatureCache

    detector = OpenVocabDetector.from_preset(config, device=device)
    cache = FeatureCache(detector, folder / "features")
    variants = tuple(variant for variant in task.variants if not variant.generated)
    task = dataclasses.replace(task, variants=variants)
    gc.freeze()  # the collector need not scan torch's objects for each of 10,000 small tables
    fit = thresholds.fit_thresholds if thresholds_only else calibration.calibrate
    with _progress_bar() as track:
        fitted = fit(detector, task, cache=cache, progress=track)
    for line in fitted.report():
        out.print(line, soft_wrap=True)
    if not fitted.improves:
        complain(_nothing_written(thresholds_only=thresholds_only))
        raise typer.Exit(1)
    write_atomic(target, fitted.to_toml(detector.preset, task.dataset, part).encode())
    out.print(str(target), soft_wrap=True)


def _nothing_written(*, thresholds_only: bool) -> str:
    remedy = "" if thresholds_only else ", or fit only the threshold with --thresholds-only"
    return f"The fit is no better on held-out images and is not written; label more{remedy}."


def _load_task(
    path: Path,
    images: Path | None,
    split: str,
    part: str,
    limit: int | None,
    classes_map: str | None,
) -> "EvaluationTask":
    """Read labels and prompts, before any network is loaded."""
    require_packages("The evaluation", "eval", "faster_coco_eval")
    from openvocab.evaluation._formats import load_dataset
    from openvocab.evaluation._prompt_variants import EvaluationTask, PromptMap

    labelled = load_dataset(path, images, split)
    dataset = labelled.part(part)
    dataset = dataset.with_images(dataset.images[:limit])
    prompt_map = None if classes_map is None else PromptMap.from_file(classes_map)
    # The other half; of all images, those that the evaluation with pictures then leaves out.
    examples = labelled.part("test" if part == "calibration" else "calibration")
    return EvaluationTask.from_map(dataset, prompt_map, examples)


def _default_folder(task: "EvaluationTask", preset: Preset) -> Path:
    return Path("runs") / f"{task.dataset.name}-{preset.name}"


@contextmanager
def _progress_bar() -> Iterator[Any]:
    """Count images, then steps; if stopped, the cached features are kept."""

    def track(items: Sequence[Any]) -> Iterable[Any]:
        return bar.track(items, description="fitting" if isinstance(items, range) else "encoding")

    try:
        with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            yield track
    except KeyboardInterrupt as error:
        complain("stopped; the features are cached: run it again to continue.")
        raise typer.Exit(130) from error


def _table(results: dict[str, Any]) -> Table:
    columns = ("AP50", "AP", "AR", "F1", "best_F1", "best_F1_threshold", "ECE", "encoder_accuracy")
    headers = (
        "AP50", "AP", "AR", f"F1 at {results['threshold']:.2f}", "best F1", "at", "ECE",
        "encoder alone",
    )  # fmt: skip
    table = Table(Column("prompts", no_wrap=True), *headers, box=None, pad_edge=False)
    rows = dict(results["prompt_variants"])
    if results["detector_alone"]:
        rows["the detector's own labels"] = results["detector_alone"]
    for name, row in rows.items():
        table.add_row(name, *(_cell(key, row[key]) for key in columns if key in row))
    return table


def _relations_table(results: dict[str, Any]) -> Table:
    """By relation to the detector's labels; F1 is the mean over the words."""
    columns = {
        "AP50": "AP50",
        "detector_alone_AP50": "own AP50",
        "mean_F1": f"F1 at {results['threshold']:.2f}",
        "best_mean_F1": "best F1",
        "best_mean_F1_threshold": "at",
        "ECE": "ECE",
        "false_boxes_per_image": "false boxes",
        "false_boxes_of_five_absent_words": "of 5 absent",
    }
    name_column = Column("relation", no_wrap=True)
    table = Table(name_column, "words", *columns.values(), box=None, pad_edge=False)
    for name, row in results["relations"].items():
        table.add_row(name, str(row["words"]), *(_cell(key, row[key]) for key in columns))
    return table


def _cell(key: str, value: float | None) -> str:
    """Thresholds and numbers of boxes as they are, the rest in per cent."""
    is_share = not key.endswith("_threshold") and not key.startswith("false_boxes")
    return _percent(value) if is_share or value is None else f"{value:.2f}"


def _summary(results: dict[str, Any]) -> Iterator[str]:
    recall = [f"{count}: {_percent(v)}" for count, v in results["proposal_recall"].items()]
    yield f"recall of the best proposals, %: {', '.join(recall)}"
    fp = [f"{value:.3f} ({kind})" for kind, value in results["fp_per_image"].items()]
    if fp:
        yield f"false positives per image for five absent classes: {', '.join(fp)}"
    times = [f"{stage} {1000 * s:.0f}" for stage, s in results["seconds_per_image"].items()]
    yield f"milliseconds per image: {', '.join(times)}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
