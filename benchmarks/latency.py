"""How near `detect` comes to its floor, the two networks themselves, and how far others stay from it.

    .venv/bin/python benchmarks/latency.py PHOTO --json benchmarks/results/latency.json

What is compared takes turns in one process, after a warm-up, on the same weights: medians and
quartiles in milliseconds, ratios of one round. A detector finds what it finds; for a given number of
boxes, its work is done and its boxes replaced.

- floor: the detector alone, then the image tower on pixels that are ready, in batches.
- crop by crop: as autodistill does it (a temporary JPEG, one region, one forward each).
- label by label: as a zero-shot pipeline that runs the picture once for each label.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch

from openvocab import OpenVocabDetector, Preset, images
from openvocab.encoders.openclip import OpenClipEncoder
from openvocab.evaluate.provenance import provenance
from openvocab.files import bundled
from openvocab.presets import load
from openvocab.protocols import Image, Proposals, Proposer

BOXES = (1, 10, 30, 100, 300)
CLASSES = (1, 10, 100, 1000)
FEW = ("bus", "person", "traffic light", "dog", "bicycle", "car", "tree", "hat", "bag", "sign")
ROUNDS = 11
SLOW = 30  # boxes over which the slow ways are not waited for


class Given:
    """A detector that does its work and then gives so many boxes of its own choice."""

    def __init__(self, proposer: Proposer, count: int) -> None:
        self._proposer, self.names, self._count = proposer, proposer.names, count

    def propose(self, pictures: Sequence[Image]) -> list[Proposals]:
        """As the detector, but for the boxes."""
        self._proposer.propose(pictures)
        return [self._boxes(*picture.shape[:2]) for picture in pictures]

    def _boxes(self, height: int, width: int) -> Proposals:
        chance = np.random.default_rng(self._count)
        sides = chance.uniform(0.05, 0.5, (self._count, 2)) * (width, height)
        first = chance.uniform(0, 1, (self._count, 2)) * ((width, height) - sides)
        xyxy = np.hstack([first, first + sides]).astype(np.float32)
        labels = tuple(self.names[number % len(self.names)] for number in range(self._count))
        return Proposals(xyxy, np.full(self._count, 0.9, np.float32), labels)


def times(ways: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of each way, and its ratio to the first, the median of rounds in turn."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if number:  # the first round warms up
                spent[name].append(1000 * (time.perf_counter() - begun))
    first = next(iter(spent.values()))
    return {
        name: {
            "ms": [round(value, 2) for value in np.percentile(each, (25, 50, 75))],
            "ratio": round(statistics.median(a / b for a, b in zip(each, first, strict=True)), 3),
        }
        for name, each in spent.items()
    }


def floor(detector: OpenVocabDetector, pictures: list[Image]) -> Callable[[], None]:
    """The two networks on what they take, ready made."""
    encoder, proposer = detector.encoder, detector.proposer
    boxes = [each.xyxy for each in proposer.propose(pictures)]
    batches = list(encoder.regions(pictures, boxes))

    def run() -> None:
        proposer.propose(pictures)
        for batch in batches:
            encoder.forward(batch)

    return run


def crop_by_crop(
    detector: OpenVocabDetector, eager: OpenClipEncoder, picture: Image
) -> Callable[[], None]:
    """Each box through a file, one forward each, in torch; the text is remembered."""
    text = eager.encode_text(FEW)

    def run() -> None:
        (found,) = detector.proposer.propose([picture])
        with tempfile.TemporaryDirectory() as folder:
            for x1, y1, x2, y2 in found.xyxy.astype(int).tolist():
                file = Path(folder) / "crop.jpg"
                cv2.imwrite(str(file), picture[y1:y2, x1:x2])
                crop = np.asarray(PIL.Image.open(file).convert("RGB"))[:, :, ::-1]
                whole = np.array([[0, 0, crop.shape[1], crop.shape[0]]], np.float32)
                (feature,) = eager.encode_regions([np.ascontiguousarray(crop)], [whole])
                (feature @ text.T).argmax()

    return run


def label_by_label(
    detector: OpenVocabDetector, eager: OpenClipEncoder, picture: Image
) -> Callable[[], None]:
    """All boxes in batches, in torch, but once for each label."""

    def run() -> None:
        (found,) = detector.proposer.propose([picture])
        for label in FEW:
            (features,) = eager.encode_regions([picture], [found.xyxy])
            features @ eager.encode_text([label]).T

    return run


def by_boxes(
    whole: OpenVocabDetector, eager: OpenClipEncoder, picture: Image
) -> dict[str, dict[str, Any]]:
    """Every way at every number of boxes."""
    rows = {}
    for count in BOXES:
        detector = OpenVocabDetector(Given(whole.proposer, count), whole.encoder, whole.preset)
        ways = {
            "floor": floor(detector, [picture]),
            "detect": lambda detector=detector: detector.detect(picture, FEW, score_threshold=0),
        }
        rows[str(count)] = times(ways)
        if count <= SLOW:
            slow = {
                "detect": ways["detect"],
                "crop by crop": crop_by_crop(detector, eager, picture),
                "label by label": label_by_label(detector, eager, picture),
            }
            rows[str(count)]["others"] = times(slow, rounds=3)
    return rows


def by_classes(whole: OpenVocabDetector, picture: Image) -> dict[str, Any]:
    """The same 30 boxes and more and more classes, whose text is known; and one that is new."""
    detector = OpenVocabDetector(Given(whole.proposer, 30), whole.encoder, whole.preset)
    lines = (bundled("configs") / "classes/distractors.txt").read_text().splitlines()
    words = [*FEW, *(line for line in lines if not line.startswith("#") and line not in FEW)]
    lists = {str(count): words[:count] for count in CLASSES}
    detector.vocabulary(words[: max(CLASSES)])
    ways = {
        name: lambda some=some: detector.detect(picture, some, score_threshold=0)
        for name, some in {"10": lists["10"], **lists}.items()
    }
    known = times({"look-up of ten": lambda: detector.vocabulary(FEW)}, rounds=50)
    fresh = iter(range(10_000))
    new = times({"one new word": lambda: detector.vocabulary([f"thing {next(fresh)}"])})
    return times(ways) | known | new


def stages(whole: OpenVocabDetector, picture: Image) -> dict[str, Any]:
    """Where the time of 30 boxes goes."""
    detector = OpenVocabDetector(Given(whole.proposer, 30), whole.encoder, whole.preset)
    encoder = whole.encoder
    (found,) = detector.proposer.propose([picture])
    batches = list(encoder.regions([picture], [found.xyxy]))
    (features,) = encoder.encode_regions([picture], [found.xyxy])
    bank = detector.vocabulary(FEW)
    classifier, lowest = detector.classifier(bank), np.zeros(len(FEW), np.float32)
    return times(
        {
            "propose": lambda: detector.proposer.propose([picture]),
            "cut": lambda: list(encoder.regions([picture], [found.xyxy])),
            "encode": lambda: [encoder.forward(batch) for batch in batches],
            "vocabulary": lambda: detector.classifier(detector.vocabulary(FEW)),
            "name": lambda: classifier.detections(
                found, classifier.scores(found, features), lowest
            ),
        }
    )


def measured(whole: OpenVocabDetector, eager: OpenClipEncoder, picture: Image) -> dict[str, Any]:
    """Everything about one pair of networks."""
    batch = torch.rand(16, 3, eager.size, eager.size)
    tower = times(
        {"chosen": lambda: whole.encoder.forward(batch), "torch": lambda: eager.forward(batch)}
    )
    pictures = [np.roll(picture, number, axis=1) for number in range(8)]
    eight = OpenVocabDetector(Given(whole.proposer, 10), whole.encoder, whole.preset)
    rows = by_boxes(whole, eager, picture)
    medians = np.array([rows[str(count)]["detect"]["ms"][1] for count in BOXES])
    fit = np.polyfit(BOXES, medians, 1)
    residual = medians - np.polyval(fit, BOXES)
    return {
        "boxes": rows,
        "linear": {
            "ms": round(float(fit[1]), 1),
            "ms_a_box": round(float(fit[0]), 2),
            "r2": round(float(1 - residual.var() / medians.var()), 4),
        },
        "batch of 8, 10 boxes each": times(
            {
                "floor": floor(eight, pictures),
                "detect_batch": lambda: eight.detect_batch(pictures, FEW, score_threshold=0),
            }
        ),
        "classes": by_classes(whole, picture),
        "stages of 30 boxes": stages(whole, picture),
        "tower at batch 16": tower,
    }


def random_networks(folder: Path) -> Preset:
    """ViT-B-32 and yolo26n as they are published, but for the weights: speed does not need them."""
    import open_clip  # noqa: TID251  its stock configuration
    from safetensors.torch import save_file

    from openvocab.proposers.ultralytics import _load_ultralytics

    torch.manual_seed(0)
    detector = folder / "yolo26n.pt"
    _load_ultralytics().YOLO("yolo26n.yaml").save(detector)
    bundle = folder / "vit"
    bundle.mkdir()
    config = {
        "model_cfg": open_clip.get_model_config("ViT-B-32"),
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (bundle / "open_clip_config.json").write_text(json.dumps(config))
    state = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    tensors = {key: value.contiguous() for key, value in state.items()}
    save_file(tensors, bundle / "open_clip_model.safetensors")
    return Preset(name="random", detector=str(detector), encoder=str(bundle), trust_pickle=True)


def memory(preset: str, photo: Path) -> float:
    """MiB that 300 boxes of a 12-megapixel photo need over what a small one does."""
    command = [sys.executable, __file__, str(photo), "--json", os.devnull, "--memory", preset]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  own words
    return float(done.stdout.split()[-1])


def peak(preset: str, photo: Path) -> float:
    """In a process of its own: MiB at the most, after a small picture and after a large one."""
    picture = images.load(photo)
    whole = OpenVocabDetector.from_preset(preset)
    detector = OpenVocabDetector(Given(whole.proposer, 300), whole.encoder, whole.preset)
    few = OpenVocabDetector(Given(whole.proposer, 64), whole.encoder, whole.preset)
    few.detect(cv2.resize(picture, (640, 480)), FEW, score_threshold=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector.detect(cv2.resize(picture, (4000, 3000)), FEW, score_threshold=0)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(photo: Path) -> dict[str, Any]:
    """Both pairs of networks."""
    picture = images.load(photo)
    starter = OpenVocabDetector.from_preset("starter")
    results: dict[str, Any] = {"provenance": provenance(starter)}
    with tempfile.TemporaryDirectory() as folder:
        for preset in (load("starter"), random_networks(Path(folder))):
            whole = OpenVocabDetector.from_preset(preset)
            source = preset.encoder
            if preset.name == "starter":
                source = str(bundled("weights") / "starter/encoder")
            eager = OpenClipEncoder(source, device="cpu", graphs=False)
            results[preset.name] = measured(whole, eager, picture)
            print(json.dumps({preset.name: results[preset.name]}), flush=True)  # noqa: T201
    results["MiB of 300 boxes in 12 megapixels"] = round(memory("starter", photo), 1)
    return results


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        print(peak(options.memory, options.photo))  # noqa: T201
        return
    if options.photo is not None:
        options.json.write_text(json.dumps(measure(options.photo), indent=1) + "\n")


if __name__ == "__main__":
    main()
