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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import supervision as sv
from faster_coco_eval import COCO
from rich.progress import track

from openvocab import OpenVocabDetector, Preset, weights
from openvocab.config import load_preset
from openvocab.detector import AT_LOADING
from openvocab.evaluation.calibration import Tried, fit, try_numbers
from openvocab.evaluation.datasets import Dataset
from openvocab.evaluation.evaluator import evaluate
from openvocab.evaluation.feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation.formats import labels_of
from openvocab.evaluation.formats import load as load_dataset
from openvocab.evaluation.inference import VariantClassifier
from openvocab.evaluation.prompt_variants import PromptMap, PromptVariant, prompt_variants
from openvocab.evaluation.provenance import provenance
from openvocab.scoring.class_head import Regions
from openvocab.types import Image, Proposals, Proposer

ASKED = ("names", "synonyms", "more synonyms", "+1,000 distractors")
PARTS = ("all", "calibration", "test")
RESAMPLES = 100
LOOK_ALIKES = ("statue", "poster", "reflection", "shadow", "mannequin", "drawing", "toy", "screen")

Post = Callable[[sv.Detections], sv.Detections]


class Switch(NamedTuple):
    """One thing done otherwise."""

    name: str
    changes: dict[str, Any]
    """Of the preset."""
    negatives: tuple[str, ...] = ()
    post: Post = lambda found: found
    """Done to what was found."""
    keep: Callable[[Proposals], Proposals] | None = None
    """Of what was seen: fewer proposals, or without their labels."""
    names: tuple[str, ...] | None = None
    """Of the detector, where they are others."""


OTHERWISE: dict[str, tuple[Any, ...]] = {
    "templates": ("none", "simple"),
    "logit_scale": (10.0, 40.0),
    "background_weight": (1.0, 8.0),
    "prior_weight": (5.0, 12.0),
    "prior_scale": (10.0, 40.0),
    "prior_floor": (0.4, 0.6),
    "fusion_exponent": (0.2, 0.4),
    "nms_iou": (0.7,),
}


def switches(preset: Preset, square: Path, *, twice: bool) -> list[Switch]:
    """Every default otherwise or left out; what the preset says already is not repeated."""
    values = [
        Switch(f"`{key}` {list(each) if isinstance(each, tuple) else each}", {key: each})
        for key, some in OTHERWISE.items()
        for each in some
        if each != getattr(preset, key)
    ]
    iou, alone = preset.nms_iou, {"nms_iou": 1.0}
    proposals = [
        *(Switch(f"`proposal_threshold` {low}", {}, keep=_over(low)) for low in (0.01, 0.05)),
        *(Switch(f"`max_boxes` {most}", {}, keep=_first(most)) for most in (10, 100)),
        Switch("proposals suppressed whatever their label", {}, keep=_alike),
    ]
    return [
        *values,
        *proposals,
        Switch("no background prompts", {"background": ()}),
        Switch("eight look-alikes as negatives", {}, LOOK_ALIKES),
        Switch("no label prior, nor choice by it", {"prior_weight": 0.0}),
        Switch("a detector without names", {}, keep=_nameless, names=("thing",)),
        Switch(
            "a detector without names, no background",
            {"background": ()},
            keep=_nameless,
            names=("thing",),
        ),
        Switch("objectness alone is the score", {"fusion_exponent": 0.0}),
        Switch("posterior alone is the score", {"fusion_exponent": 1.0}),
        Switch("no second suppression", alone),
        Switch(
            "second suppression whatever the class",
            {},
            post=lambda found: found.with_nms(iou, class_agnostic=True),
        ),
        Switch(
            "second suppression within a class only",
            alone,
            post=lambda found: found.with_nms(iou),
        ),
        Switch(
            "soft second suppression",
            alone,
            post=lambda found: found.with_soft_nms(class_agnostic=True),
        ),
        # These see the photos anew, which takes minutes each.
        Switch("regions made square, not squashed", {"encoder": str(square)}),
        *([Switch("`context_scales` [1.0, 1.5]", {"context_scales": (1.0, 1.5)})] if twice else []),
    ]


class Renamed:
    """A detector's boxes, as those of a detector with other names."""

    def __init__(self, proposer: Proposer, names: tuple[str, ...]) -> None:
        self._proposer, self.names = proposer, names

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Of the detector."""
        return [_nameless(each) for each in self._proposer.propose(images)]


def _nameless(found: Proposals) -> Proposals:
    return dataclasses.replace(found, labels=("thing",) * len(found))


def _over(low: float) -> Callable[[Proposals], Proposals]:
    return lambda found: found[found.objectness >= low]


def _first(most: int) -> Callable[[Proposals], Proposals]:
    return lambda found: found[np.arange(min(most, len(found)))]


def _alike(found: Proposals) -> Proposals:
    scored = np.column_stack([found.xyxy, found.objectness])
    return found[sv.box_non_max_suppression(scored, 0.7)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    dataset = load_dataset(options.dataset)
    words, preset = PromptMap.from_file("coco"), load_preset(options.preset)
    asked = [each for each in prompt_variants(dataset.classes, words) if each.name in ASKED]
    whole = OpenVocabDetector.from_preset(preset)
    gc.freeze()  # the collector need not look through all of torch each time
    chance = np.random.default_rng(0)
    share = np.full(len(dataset), 1 / len(dataset))
    samples = chance.multinomial(len(dataset), share, RESAMPLES).astype(np.float64)
    with tempfile.TemporaryDirectory() as folder:
        home = options.seen or Path(folder) / "seen"
        see = FeatureCache(whole, home)
        own = see
        evaluated = _evaluated(whole, dataset.part("test"), words, own)
        rows: list[dict[str, Any]] = []
        before: list[float] = []
        square = _square_bundle(preset, Path(folder) / "square")
        for switch in [
            Switch(f"{preset.name} as it is", {}),
            *switches(preset, square, twice=not options.quick),
        ]:
            detector = _detector(whole, switch)
            see = FeatureCache(detector, home)
            seen = [_seen(see(photo), switch) for photo in dataset.photos]
            found = try_numbers(
                detector, dataset, seen, asked, words.absent,
                negatives=switch.negatives, post=switch.post,
            )  # fmt: skip
            after = [fit(found, sample).objective for sample in samples]
            row = _row(switch, found, dataset) | {
                "encoder_accuracy": _accuracy(detector, dataset, seen)
            }
            if before:
                change = np.array(after) - np.array(before)
                row["interval"] = np.percentile(change, (2.5, 97.5)).round(2).tolist()
            before = before or after
            rows.append(row)
            print(json.dumps(row), flush=True)  # noqa: T201  what is done so far
        return {
            "provenance": provenance(whole),
            "preset": dataclasses.asdict(preset),
            "dataset": {"name": dataset.name, "sha256": dataset.sha256, "photos": len(dataset)},
            "rows": rows,
            "test": evaluated,
            "calibration": _evaluated(whole, dataset.part("calibration"), words, own),
            "masks": _blurred(whole, dataset, labels_of(options.dataset)),
        }


def _seen(seen: CachedFeatures, switch: Switch) -> CachedFeatures:
    if switch.keep is None:
        return seen
    found, features = seen.regions
    rows = {tuple(box): row for row, box in enumerate(found.xyxy.tolist())}
    kept = switch.keep(found)
    features = features[[rows[tuple(box)] for box in kept.xyxy.tolist()]]
    return seen._replace(regions=Regions(kept, features))


def _row(switch: Switch, found: Tried, dataset: Dataset) -> dict[str, Any]:
    places = {photo.id: place for place, photo in enumerate(dataset.photos)}
    figures = {}
    for part in PARTS:
        weights = np.zeros(len(dataset))
        weights[[places[photo.id] for photo in dataset.part(part).photos]] = 1
        fitted = fit(found, weights)
        figures[part] = fitted._asdict() | {"objective": fitted.objective}
    return {"name": switch.name, "parts": figures}


def _accuracy(
    detector: OpenVocabDetector, dataset: Dataset, seen: Sequence[CachedFeatures]
) -> float:
    """Of the encoder alone, on labelled boxes."""
    namer = VariantClassifier(detector, PromptVariant("names", dataset.classes))
    pairs = zip(dataset.photos, seen, strict=True)
    right = sum(namer.right(photo, each, len(dataset.classes)) for photo, each in pairs)
    return right / dataset.boxes


def _evaluated(
    detector: OpenVocabDetector, dataset: Dataset, words: PromptMap, see: FeatureCache
) -> dict[str, Any]:
    """The whole evaluation, without its longest tables."""
    asked = prompt_variants(dataset.classes, words)
    table = evaluate(detector, dataset, asked, absent=words.absent, see=see).figures()
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


def _detector(whole: OpenVocabDetector, switch: Switch) -> OpenVocabDetector:
    if switch.changes.keys() & AT_LOADING:
        preset = dataclasses.replace(whole.preset, **switch.changes)
        return OpenVocabDetector.from_preset(preset)
    tuned = whole.tuned(**switch.changes)
    if switch.names is None:
        return tuned
    renamed = Renamed(whole.proposer, switch.names)
    return OpenVocabDetector(renamed, whole.encoder, tuned.preset)


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
            change, on_test = (
                parts[k]["objective"] - first[k]["objective"] for k in ("all", "test")
            )
            low, high = row["interval"]
            rows[-1]["change"] = f"{change:+.1f} ({low:+.1f} to {high:+.1f})"
            rows[-1]["on_test"] = f"{on_test:+.1f}"
    return template.render(
        results=results,
        test=results["test"],
        first=first,
        own=100 * results["calibration"]["detector_alone"]["AP50"],
        rows=rows,
        asked=ASKED,
        tiling=tiling,
    )


def main() -> None:
    """Measure, or write the page of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="COCO labels, to measure")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--seen", type=Path, help="folder to keep what was seen")
    parser.add_argument("--quick", action="store_true", help="leave out the two looks a box")
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
