"""What each part of a preset is worth: one switch at a time, the others as they are.

    .venv/bin/python benchmarks/accuracy.py ../shared/data/coco-dev --json benchmarks/results/accuracy.json
    .venv/bin/python benchmarks/accuracy.py --json benchmarks/results/accuracy.json --page docs/accuracy.md

The first line measures, the second writes the page (with what tiling.py measured). Intervals: bootstrap over photos, in pairs with
the preset as it is.
"""

import argparse
import dataclasses
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import supervision as sv
from faster_coco_eval import COCO
from rich.progress import track

from openvocab import OpenVocabDetector, Preset, weights
from openvocab.detector import AT_LOADING
from openvocab.evaluate import metrics
from openvocab.evaluate.calibration import value
from openvocab.evaluate.datasets import Dataset
from openvocab.evaluate.evaluation import Names, absent_words, evaluate
from openvocab.evaluate.formats import labels_of
from openvocab.evaluate.formats import load as load_dataset
from openvocab.evaluate.provenance import provenance
from openvocab.evaluate.seen import SeenOnce
from openvocab.evaluate.stress import ClassesMap, Wording, wordings
from openvocab.presets import load as load_preset

ASKED = ("names", "synonyms", "more synonyms", "+1,000 distractors")
PARTS = ("all", "calibration", "test")
RESAMPLES = 100
LOOK_ALIKES = ("statue", "poster", "reflection", "shadow", "mannequin", "drawing", "toy", "screen")

Post = Callable[[sv.Detections], sv.Detections]


class Switch(NamedTuple):
    """One thing done otherwise."""

    group: str
    name: str
    changes: dict[str, Any]
    """Of the preset."""
    negatives: tuple[str, ...] = ()
    post: Post | None = None
    """Done to what was found."""


def switches(preset: Preset, square: Path) -> Iterator[Switch]:
    """Every default once without or otherwise; what the preset says already is left out."""

    def other(group: str, key: str, *values: Any) -> Iterator[Switch]:  # noqa: ANN401
        for each in values:
            if each != getattr(preset, key):
                name = f"{key} {each if isinstance(each, str | float | int) else list(each)}"
                yield Switch(group, name, {key: each})

    yield from other("context scales", "context_scales", (1.0,), (1.5,), (1.0, 1.5))
    yield Switch("aspect", "regions made square, not squashed", {"encoder": str(square)})
    yield from other("templates", "templates", "none", "openai")
    yield from other("temperature", "logit_scale", 10.0, 14.0, 28.0, 40.0)
    yield Switch("background", "no background prompts", {"background": ()})
    yield from other("background", "background_weight", 0.25, 1.0, 2.0, 8.0)
    yield Switch("negatives", "eight look-alikes as negatives", {}, LOOK_ALIKES)
    yield Switch("label prior", "no label prior", {"prior_weight": 0.0})
    yield from other("label prior", "prior_weight", 3.0, 5.0, 12.0)
    yield from other("label prior", "prior_scale", 10.0, 40.0)
    yield from other("label prior", "prior_floor", 0.3, 0.4, 0.6)
    yield Switch("fusion", "objectness alone is the score", {"fusion_exponent": 0.0})
    yield Switch("fusion", "posterior alone is the score", {"fusion_exponent": 1.0})
    yield from other("fusion", "fusion_exponent", 0.2, 0.4, 0.5)
    yield Switch("overlaps", "no second suppression", {"nms_iou": 1.0})
    yield from other("overlaps", "nms_iou", 0.5, 0.7)
    per_class = {"nms_iou": 1.0}
    yield Switch("overlaps", "suppression within a class only", per_class, post=_per_class(preset))
    yield Switch("overlaps", "soft suppression", {"nms_iou": 1.0}, post=_soft)
    yield from other("proposals", "proposal_threshold", 0.01, 0.1, 0.2)
    yield from other("proposals", "proposal_iou", 0.5, 0.8)
    yield from other("proposals", "max_boxes", 10, 30, 300)
    yield from other("tiling", "tile_size", 416)


def _per_class(preset: Preset) -> Post:
    return lambda found: found.with_nms(preset.nms_iou, class_agnostic=False)


def _soft(found: sv.Detections) -> sv.Detections:
    return found.with_soft_nms(class_agnostic=True)


class Measured:
    """What was found with some switch, and its figures on any photos."""

    def __init__(
        self,
        detector: OpenVocabDetector,
        switch: Switch,
        dataset: Dataset,
        asked: Sequence[Wording],
        words: ClassesMap,
        seen_folder: Path,
    ) -> None:
        see = SeenOnce(detector, seen_folder)
        self._dataset = dataset
        self._threshold = detector.preset.score_threshold
        naming = [Names(detector, wording, switch.negatives) for wording in asked]
        self._found: list[list[sv.Detections]] = [[] for _ in asked]
        right, self._false = 0, []
        for photo in track(dataset.photos, description=switch.name, transient=True):
            seen = see(photo)
            for found, names in zip(self._found, naming, strict=True):
                one = names(seen)
                found.append(one if switch.post is None else switch.post(one))
            right += naming[0].right(photo, seen, len(dataset.classes))
            kinds = absent_words(dataset, photo, words.absent).values()
            lists = [
                detector.name(seen.regions, kind, negatives=switch.negatives) for kind in kinds
            ]
            self._false.append(fmean(map(len, lists)))
        self._matches = metrics.matches(dataset, self._found[0])
        self.encoder_accuracy = right / self._matches.labelled
        self._names = [wording.name for wording in asked]

    def figures(self, places: Sequence[int]) -> dict[str, float]:
        """On some of the photos; a place may come twice."""
        part = self._dataset.only([self._dataset.photos[place] for place in places])
        ap50 = [metrics.ap50(part, [found[place] for place in places]) for found in self._found]
        judged = metrics.matches(part, [self._found[0][place] for place in places])
        f1 = metrics.f1(*judged.judged(), judged.labelled, np.array([self._threshold]))
        ece = metrics.calibration_error(*judged.judged())
        false = fmean(self._false[place] for place in places)
        return dict(zip(self._names, ap50, strict=True)) | {
            "F1": float(f1[0]),
            "ECE": ece,
            "false labels": false,
            "value": value(ap50, ece, false),
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    dataset = load_dataset(options.dataset)
    words = ClassesMap.from_file("coco")
    asked = [each for each in wordings(dataset.classes, words) if each.name in ASKED]
    preset = load_preset(options.preset)
    whole = OpenVocabDetector.from_preset(preset)
    gc.freeze()  # the collector need not look through all of torch each time
    places = {photo.id: place for place, photo in enumerate(dataset.photos)}
    parts = {part: [places[photo.id] for photo in dataset.part(part).photos] for part in PARTS}
    chance = np.random.default_rng(0)
    samples = [chance.integers(len(dataset), size=len(dataset)) for _ in range(RESAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        given = dataset, asked, words, options.seen or Path(folder) / "seen"
        base = Measured(whole, Switch("", "as it is", {}), *given)
        before = [base.figures(sample) for sample in samples]
        rows = [{"group": "", "name": f"{preset.name} as it is", **_row(base, parts)}]
        for switch in switches(preset, _square_bundle(preset, Path(folder) / "square")):
            measured = Measured(_detector(whole, switch), switch, *given)
            after = [measured.figures(sample) for sample in samples]
            change = [b["value"] - a["value"] for a, b in zip(before, after, strict=True)]
            interval = np.percentile(change, (2.5, 97.5)).round(2).tolist()
            row = {"group": switch.group, "name": switch.name, **_row(measured, parts)}
            rows.append(row | {"interval": interval})
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201  what is done so far
        return {
            "provenance": provenance(whole),
            "preset": dataclasses.asdict(preset),
            "dataset": {"name": dataset.name, "sha256": dataset.sha256, "photos": len(dataset)},
            "rows": rows,
            "test": _evaluated(whole, dataset, words, given[-1]),
            "masks": _blurred(whole, dataset, labels_of(options.dataset)),
        }


def _evaluated(
    detector: OpenVocabDetector, dataset: Dataset, words: ClassesMap, folder: Path
) -> dict[str, Any]:
    """The whole evaluation of the test half, without its longest tables."""
    test, see = dataset.part("test"), SeenOnce(detector, folder)
    asked = wordings(test.classes, words)
    table = evaluate(detector, test, asked, absent=words.absent, see=see).figures()
    return {key: each for key, each in table.items() if key not in {"confusion", "classes"}}


def _blurred(detector: OpenVocabDetector, dataset: Dataset, labels: Path) -> dict[str, float]:
    """Share of the outlined boxes that the encoder names right, with and without what is around.

    What masks could give at best: these are drawn by people.
    """
    truth = COCO(str(labels))
    places = {each["id"]: place for place, each in enumerate(truth.dataset["categories"])}
    bank = detector.vocabulary(dataset.classes).features
    plain, blurred, boxes = 0, 0, 0
    for photo in track(dataset.photos, description="masks", transient=True):
        image = photo.load()
        soft = cv2.GaussianBlur(image, (0, 0), sigmaX=10)
        for each in truth.loadAnns(truth.getAnnIds(imgIds=[photo.id], iscrowd=False)):
            mask = truth.annToMask(each).astype(bool)
            x, y, width, height = each["bbox"]
            box = np.array([[x, y, x + width, y + height]], np.float32)
            pictures = [image, np.where(mask[..., None], image, soft)]
            rows = np.concatenate(detector.encode(pictures, [box, box]))
            called = (rows @ bank.T).argmax(axis=1) == places[each["category_id"]]
            plain, blurred, boxes = plain + called[0], blurred + called[1], boxes + 1
    return {"as they are": float(plain / boxes), "blurred outside": float(blurred / boxes)}


def _row(measured: Measured, parts: dict[str, list[int]]) -> dict[str, Any]:
    figures = {part: measured.figures(places) for part, places in parts.items()}
    return {"encoder_accuracy": measured.encoder_accuracy, "parts": figures}


def _detector(whole: OpenVocabDetector, switch: Switch) -> OpenVocabDetector:
    if switch.changes.keys() & AT_LOADING:
        preset = dataclasses.replace(whole.preset, **switch.changes)
        return OpenVocabDetector.from_preset(preset)
    return whole.tuned(**switch.changes)


def _square_bundle(preset: Preset, folder: Path) -> Path:
    """The same encoder, told to keep the aspect: regions are then made square first."""
    shutil.copytree(weights.resolve(preset.encoder), folder)
    config = folder / "open_clip_config.json"
    table = json.loads(config.read_text())
    table["preprocess_cfg"]["resize_mode"] = "shortest"
    config.write_text(json.dumps(table))
    return folder


def page(results: dict[str, Any], tiling: dict[str, Any]) -> str:
    """The rows as Markdown."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  Markdown
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    template = environment.from_string(Path(__file__).with_name("accuracy.md.j2").read_text())
    first = results["rows"][0]["parts"]
    rows = []
    for row in results["rows"]:
        parts = row["parts"]
        rows.append(row | {"all": parts["all"], "change": "", "on_test": ""})
        if "interval" in row:
            change, on_test = (parts[k]["value"] - first[k]["value"] for k in ("all", "test"))
            low, high = row["interval"]
            rows[-1]["change"] = f"{change:+.1f} ({low:+.1f} to {high:+.1f})"
            rows[-1]["on_test"] = f"{on_test:+.1f}"
    return template.render(
        results=results, test=results["test"], rows=rows, asked=ASKED, tiling=tiling
    )


def main() -> None:
    """Measure, or write the page of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="COCO labels, to measure")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--seen", type=Path, help="folder to keep what was seen")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="write it from the JSON")
    options = parser.parse_args()
    if options.dataset is not None:
        options.json.write_text(json.dumps(measure(options), indent=1) + "\n")
    if options.page is not None:
        tiling = json.loads(options.json.with_name("tiling.json").read_text())
        options.page.write_text(page(json.loads(options.json.read_text()), tiling))


if __name__ == "__main__":
    main()
