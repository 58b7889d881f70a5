"""What each part of a preset is worth: one change at a time, the rest as it is.

    .venv/bin/python benchmarks/accuracy.py ../shared/data/coco-dev --json benchmarks/results/accuracy.json
    .venv/bin/python benchmarks/accuracy.py --json benchmarks/results/accuracy.json --page docs/accuracy.md

The first command measures, the second writes the page (with the results of tiling.py). Intervals: paired bootstrap over images.
"""

import argparse
import dataclasses
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import supervision as sv
from faster_coco_eval import COCO
from numpy.typing import NDArray
from rich.progress import track

from openvocab import OpenVocabDetector, Preset
from openvocab.config import ScoringConfig, load_preset
from openvocab.encoders import load_encoder
from openvocab.evaluation._calibration import TaskMatches, compute_metrics, match_task
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._evaluator import evaluate
from openvocab.evaluation._feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation._formats import find_labels, load_dataset
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptMap
from openvocab.evaluation._provenance import provenance
from openvocab.types import Image, Proposals, Proposer
from openvocab.weights import resolve

VARIANTS = ("names", "synonyms", "more synonyms", "+1,000 distractors")
PARTS = ("all", "calibration", "test")
RESAMPLES = 100
NEGATIVES = ("statue", "poster", "reflection", "shadow", "mannequin", "drawing", "toy", "screen")
NO_LABELS = ("thing",)
# Rows that encode all images again start from fewer boxes (70 per image instead of 160), which keeps the whole under half an hour.
FEWER = "`threshold` 0.01"

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Change:
    """One change of a preset or of its proposals."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of any part of the preset."""
    negatives: tuple[str, ...] = ()
    keep: Callable[[Proposals], Rows] | None = None
    """Which proposals are kept."""
    labels: tuple[str, ...] | None = None
    """The only label of the detector, in place of its own."""
    encodes: bool = False
    """Whether the change gives other features."""
    compared_with: str = ""
    """Name of another row that this one is compared with; default: the unchanged preset."""


# Values to try, by field; what the preset has already is left out.
VALUES: dict[str, tuple[Any, ...]] = {
    "templates": ("none", "simple"),
    "logit_scale": (10.0, 40.0),
    "background": ((),),
    "competitor_weight": (1.0, 8.0),
    "label_weight": (0.0, 1.0, 2.0),
    "rank_weight": (0.0, 5.0, 20.0),
    "lexicon": (True, False),
    "prototype_weight": (0.0, 0.25, 1.0),
    "pooling": ("mean", "best"),
    "novel_weight": (1.0, 5.0, 80.0),
    "novel_fusion_exponent": (0.3, 0.7),
    "example_offset": (0.0, 0.12),
    "fusion_exponent": (0.0, 0.2, 0.4, 1.0),
    "nms_iou": (0.7, 1.0),
    "class_agnostic_nms": (True, False),
}
# Changes that matter for other words than the detector's own names.
RELATION_CHANGES: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "no lexicon": {"lexicon": False},
    "no evidence from the label (`label_weight` 0)": {"label_weight": 0.0},
    "the label does not choose (`rank_weight` 0)": {"rank_weight": 0.0},
    "the label chooses more (`rank_weight` 20)": {"rank_weight": 20.0},
    "labels compete by their texts alone (`prototype_weight` 0)": {"prototype_weight": 0.0},
    "all prototypes of a class averaged (`pooling` mean)": {"pooling": "mean"},
    "no prototypes averaged (`pooling` best)": {"pooling": "best"},
    "novel classes as base classes (`novel_weight` 1, exponent .3)": {
        "novel_weight": 1.0,
        "novel_fusion_exponent": 0.3,
    },
    "examples without an offset (`example_offset` 0)": {"example_offset": 0.0},
}
NOTES = {
    "`background` []": "no background prompts",
    "`label_weight` 0.0": "the label is no evidence",
    "`rank_weight` 0.0": "the posterior alone chooses the class",
    "`lexicon` false": "the text encoder alone relates words to labels",
    "`prototype_weight` 0.0": "labels compete by their texts alone",
    "`prototype_weight` 1.0": "labels compete by their looks alone",
    '`pooling` "mean"': "all prototypes of a class are averaged",
    '`pooling` "best"': "examples are not averaged",
    "`novel_weight` 1.0": "novel classes have the prior odds of base classes",
    "`fusion_exponent` 0.0": "objectness is the score",
    "`fusion_exponent` 1.0": "the posterior is the score",
    "`nms_iou` 1.0": "no NMS",
    "`class_agnostic_nms` true": "NMS across classes",
}


def changes(preset: Preset, square_encoder: Path, *, quick: bool) -> Iterator[Change]:
    """All changes, in the order of the table."""
    yield Change(f"{preset.name}, unchanged")
    current = _fields(preset)
    for name, values in VALUES.items():
        for value in values:
            if value != current[name]:
                row = f"`{name}` {json.dumps(value) if name != 'templates' else value}"
                note = f" ({NOTES[row]})" if row in NOTES else ""
                yield Change(row + note, {name: value})
    yield Change("eight negatives", negatives=NEGATIVES)
    yield Change("no detector labels", labels=NO_LABELS)
    yield Change("no detector labels, no background prompts", {"background": ()}, labels=NO_LABELS)
    yield Change(FEWER, keep=_above(0.01))
    yield Change("`threshold` 0.05", keep=_above(0.05))
    yield Change("`max_boxes` 10", keep=lambda proposals: np.arange(len(proposals))[:10])
    yield Change("`max_boxes` 100", keep=lambda proposals: np.arange(len(proposals))[:100])
    yield Change("proposals: NMS across labels", keep=_class_agnostic)
    if not quick:
        fewer = Change(
            "", {"threshold": 0.01}, keep=_above(0.01), encodes=True, compared_with=FEWER
        )
        for scale in (1.0, 1.5):
            config = fewer.config | {"context_scale": scale}
            yield dataclasses.replace(fewer, name=f"`context_scale` {scale}", config=config)
        config = fewer.config | {"encoder": str(square_encoder)}
        yield dataclasses.replace(fewer, name="square crops, not squashed", config=config)


def _fields(preset: Preset) -> dict[str, Any]:
    """The fields of all parts of a preset."""
    return {
        name: value
        for part in dataclasses.asdict(preset).values()
        if isinstance(part, dict)
        for name, value in part.items()
    }


def _changed(preset: Preset, config: dict[str, Any]) -> Preset:
    """The preset with other values of fields, whichever part they are in."""
    parts = {}
    for part in dataclasses.fields(preset):
        section = getattr(preset, part.name)
        if dataclasses.is_dataclass(section):
            names = {spec.name for spec in dataclasses.fields(section)} & config.keys()
            parts[part.name] = dataclasses.replace(section, **{k: config[k] for k in names})
    return dataclasses.replace(preset, **parts)


def _above(threshold: float) -> Callable[[Proposals], Rows]:
    return lambda proposals: np.flatnonzero(proposals.objectness >= threshold)


def _class_agnostic(proposals: Proposals) -> Rows:
    scored = np.column_stack([proposals.xyxy, proposals.objectness])
    return np.flatnonzero(sv.box_non_max_suppression(scored, 0.7))


class ChangedProposer:
    """A proposer whose boxes, or labels, are those of a change."""

    def __init__(self, proposer: Proposer, change: Change) -> None:
        self._proposer, self._change = proposer, change
        self.labels = change.labels or proposer.labels

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """Boxes of the proposer, with the change."""
        return [self._apply(proposals) for proposals in self._proposer.propose(images)]

    def _apply(self, proposals: Proposals) -> Proposals:
        kept = proposals if self._change.keep is None else proposals[self._change.keep(proposals)]
        if self._change.labels is None:
            return kept
        return dataclasses.replace(kept, label_ids=np.zeros_like(kept.label_ids))


def _detector(detector: OpenVocabDetector, change: Change) -> OpenVocabDetector:
    scoring = {spec.name for spec in dataclasses.fields(ScoringConfig)}
    if change.labels is None and change.config.keys() <= scoring:
        return detector.with_config(**change.config)  # shares the text features
    preset = _changed(detector.preset, change.config)
    encoder = load_encoder(preset) if "encoder" in change.config else detector.encoder
    prototypes = None if "encoder" in change.config else detector.prototypes
    proposer = ChangedProposer(detector.proposer, change)
    return OpenVocabDetector(proposer, encoder, preset, prototypes=prototypes)


def _select(cached: CachedFeatures, change: Change) -> CachedFeatures:
    """The features that the changed proposer would give."""
    if change.keep is not None and not change.encodes:
        rows = change.keep(cached.regions.proposals)
        names = ("xyxy", "objectness", "label_ids", "features")
        cached = cached._replace(**{name: getattr(cached, name)[rows] for name in names})
    if change.labels is not None:
        cached = cached._replace(label_ids=np.zeros_like(cached.label_ids))
    return cached


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows, and the evaluation of both halves."""
    dataset = load_dataset(options.dataset)
    task = EvaluationTask.from_map(dataset, PromptMap.from_file("coco"))
    detector = OpenVocabDetector.from_preset(options.preset)
    gc.freeze()  # the collector need not scan torch's objects each time
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.features or Path(temporary) / "features"
        square_encoder = _square_bundle(detector.preset, Path(temporary) / "square")
        halves = {
            part: _evaluate_part(detector, task, part, folder) for part in ("test", "calibration")
        }
        rows = list(
            _rows(
                detector,
                task,
                folder,
                changes(detector.preset, square_encoder, quick=options.quick),
            )
        )
    return {
        "provenance": provenance(detector),
        "preset": dataclasses.asdict(detector.preset),
        "dataset": {"name": dataset.name, "sha256": dataset.sha256, "images": len(dataset)},
        "rows": rows,
        "relations": {
            name: _evaluate_relations(detector.with_config(**change), task, folder)
            for name, change in RELATION_CHANGES.items()
        },
        **halves,
        "masks": _blurred(detector, dataset, find_labels(options.dataset)),
    }


def _evaluate_part(
    detector: OpenVocabDetector, task: EvaluationTask, part: str, folder: Path
) -> dict[str, Any]:
    """The whole evaluation, without its longest tables."""
    table = _evaluate(detector, task, part, folder)
    for row in table["relations"].values():
        del row["by_word"], row["reliability"]
    return {key: value for key, value in table.items() if key not in {"confusion", "classes"}}


def _evaluate_relations(
    detector: OpenVocabDetector, task: EvaluationTask, folder: Path
) -> dict[str, dict[str, float]]:
    """AP50 and mean F1 at the threshold, by relation, on the test half."""
    names_only = dataclasses.replace(task, variants=task.variants[:1])
    table = _evaluate(detector, names_only, "test", folder)["relations"]
    return {
        name: {key: row[key] for key in ("AP50", "mean_F1", "ECE")} for name, row in table.items()
    }


def _evaluate(
    detector: OpenVocabDetector, task: EvaluationTask, part: str, folder: Path
) -> dict[str, Any]:
    """Evaluate on one half, with example pictures of the other."""
    other = "test" if part == "calibration" else "calibration"
    task = dataclasses.replace(
        task, dataset=task.dataset.part(part), examples=task.dataset.part(other)
    )
    cache = FeatureCache(detector, folder)
    return evaluate(detector, task, cache=cache, all_relations=True).to_dict()


def _rows(
    detector: OpenVocabDetector, task: EvaluationTask, folder: Path, changes: Iterable[Change]
) -> Iterator[dict[str, Any]]:
    """The row of each change, with a bootstrap of its difference to another row."""
    dataset = task.dataset
    variants = tuple(variant for variant in task.variants if variant.name in VARIANTS)
    share = np.full(len(dataset), 1 / len(dataset))
    samples = np.random.default_rng(0).multinomial(len(dataset), share, RESAMPLES).astype(float)
    unchanged = list(map(FeatureCache(detector, folder), dataset.images))
    objectives: dict[str, NDArray[np.float64]] = {}
    for change in changes:
        changed = _detector(detector, change)
        if change.encodes:
            images = track(dataset.images, description=change.name, transient=True)
            features = list(map(FeatureCache(changed, folder), images))
        else:
            features = [_select(cached, change) for cached in unchanged]
        changed_task = dataclasses.replace(task, variants=variants, negatives=change.negatives)
        matches = match_task(changed, changed_task, features)
        row = _row(change, matches, dataset)
        objectives[change.name] = np.array(
            [compute_metrics(matches, sample).objective for sample in samples]
        )
        reference = change.compared_with or next(iter(objectives))
        if reference != change.name:
            difference = objectives[change.name] - objectives[reference]
            row["compared_with"] = reference
            row["interval"] = np.percentile(difference, (2.5, 97.5)).round(2).tolist()
        print(json.dumps(row), flush=True)  # noqa: T201  progress
        yield row


def _row(change: Change, matches: TaskMatches, dataset: Dataset) -> dict[str, Any]:
    parts = {}
    for part in PARTS:
        ids = [image.id for image in dataset.part(part).images]
        weights = np.isin([image.id for image in dataset.images], ids).astype(float)
        metrics = compute_metrics(matches, weights)
        parts[part] = metrics._asdict() | {"objective": metrics.objective}
    return {"name": change.name, "parts": parts, "encoder_accuracy": matches.encoder_accuracy}


def _blurred(detector: OpenVocabDetector, dataset: Dataset, labels: Path) -> dict[str, float]:
    """Encoder accuracy on labelled boxes, with and without what surrounds the object.

    The best that masks could give: these were drawn by people.
    """
    coco = COCO(str(labels))
    class_ids = {row["id"]: index for index, row in enumerate(coco.dataset["categories"])}
    text = detector.vocabulary(dataset.classes).features
    correct = np.zeros(2)
    for image in track(dataset.images, description="masks", transient=True):
        pixels = image.load()
        blurred = cv2.GaussianBlur(pixels, (0, 0), sigmaX=10)
        for label in coco.loadAnns(coco.getAnnIds(imgIds=[image.id], iscrowd=False)):
            mask = coco.annToMask(label).astype(bool)
            x, y, width, height = label["bbox"]
            box = Proposals(
                np.array([[x, y, x + width, y + height]], np.float32),
                np.ones(1, np.float32),
                np.zeros(1, np.intp),
            )
            pair = [pixels, np.where(mask[..., None], pixels, blurred)]
            features = np.concatenate([r.features for r in detector.encode(pair, [box, box])])
            correct += (features @ text.T).argmax(axis=1) == class_ids[label["category_id"]]
    unchanged, outside_blurred = (correct / dataset.box_count).tolist()
    return {"unchanged": unchanged, "outside blurred": outside_blurred}


def _square_bundle(preset: Preset, folder: Path) -> Path:
    """The same encoder with a configuration that keeps the aspect ratio, so crops become square."""
    shutil.copytree(resolve(preset.models.encoder), folder)
    config = folder / "open_clip_config.json"
    table = json.loads(config.read_text())
    table["preprocess_cfg"]["resize_mode"] = "shortest"
    config.write_text(json.dumps(table))
    return folder


def page(results: dict[str, Any], tiling: dict[str, Any]) -> str:
    """The results as Markdown."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  Markdown
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    template = environment.from_string(Path(__file__).with_name("accuracy.md.j2").read_text())
    by_name = {row["name"]: row["parts"] for row in results["rows"]}
    rows = []
    for row in results["rows"]:
        parts = row["parts"]
        rows.append(row | {"all": parts["all"], "change": "", "on_test": ""})
        if "interval" in row:
            reference = by_name[row["compared_with"]]
            change, on_test = (
                parts[part]["objective"] - reference[part]["objective"] for part in ("all", "test")
            )
            low, high = row["interval"]
            rows[-1]["change"] = f"{change:+.1f} ({low:+.1f} to {high:+.1f})"
            rows[-1]["on_test"] = f"{on_test:+.1f}"
    return template.render(
        results=results,
        test=results["test"],
        unchanged=results["rows"][0]["parts"],
        detector_alone=results["calibration"]["detector_alone"]["AP50"],
        rows=rows,
        fewer=FEWER,
        variants=VARIANTS,
        tiling=tiling,
    )


def main() -> None:
    """Measure, or write the page of earlier results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="COCO labels, to measure")
    parser.add_argument("--preset", default="starter", type=load_preset)
    parser.add_argument("--features", type=Path, help="folder of cached features")
    parser.add_argument("--quick", action="store_true", help="only rows that encode nothing")
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
