"""How close `detect` comes to its floor, the two networks themselves, and how far other ways are from it.

    .venv/bin/python benchmarks/latency.py ../shared/data/coco-dev/images --json benchmarks/results/latency.json

What is compared takes turns in one process, after a warm-up, with the same weights: medians and
quartiles in milliseconds, ratios within each round. Boxes are the detector's best proposals on the
bus image of Ultralytics' wheel, without near-duplicates. The folder of images is for the checks of exports.

- floor: Ultralytics' `predict`, then the image encoder on crops that are ready in memory, in batches.
- crop by crop: as autodistill does it (a temporary JPEG, one crop and one forward pass each).
- label by label: as a zero-shot pipeline that runs the image once for each label.

Two pairs of networks: the starter preset, and ViT-B-32 with yolo26n in random weights, which take as
long as trained ones; its image encoder is exported to OpenVINO in bf16, as `openvocab export` does it.
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
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from torchvision.ops import nms

from openvocab import OpenVocabDetector, Preset
from openvocab._internal.files import package_data
from openvocab.cli._export import sample_regions
from openvocab.config import ModelConfig, ProposalConfig, load_preset
from openvocab.encoders import OpenClipEncoder
from openvocab.encoders._boxes import expand_boxes
from openvocab.errors import ModelError
from openvocab.evaluation._provenance import provenance
from openvocab.export._detector import export_detector
from openvocab.export._image_encoder import export
from openvocab.io._images import find_images, load_image
from openvocab.proposers import UltralyticsProposer
from openvocab.types import Boxes, Image, Proposals, Proposer
from openvocab.weights import resolve

BOXES = (1, 10, 30, 100, 300)
CLASSES = (1, 10, 100, 1000, 1203)
FEW = ("bus", "person", "traffic light", "dog", "bicycle", "car", "tree", "hat", "bag", "sign")
ROUNDS, FEW_ROUNDS = 15, 3
MAX_SLOW_BOXES = 30  # the slow ways are measured up to this number of boxes
BATCHES = (1, 4, 8, 16, 32)
MEGAPIXELS_12 = (4000, 3000)

Function = Callable[[], Any]


class FixedProposer:
    """Runs a proposer, and then returns fixed boxes."""

    def __init__(self, proposer: Proposer, proposals: Proposals) -> None:
        self._proposer, self._proposals, self.labels = proposer, proposals, proposer.labels

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """The fixed boxes, once the proposer has run."""
        self._proposer.propose(images)
        return [self._proposals for _ in images]


def measure_times(functions: dict[str, Function], rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of each function, and its ratio to the first: medians of rounds in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if number:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - started))
    first = next(iter(times.values()))
    return {
        name: {
            "ms": [round(float(value), 3) for value in np.percentile(of_name, (25, 50, 75))],
            "ratio": round(
                statistics.median(a / b for a, b in zip(of_name, first, strict=True)), 3
            ),
        }
        for name, of_name in times.items()
    }


class Pair:
    """Two networks, an image, and any number of boxes in it."""

    def __init__(self, preset: Preset, image: Image) -> None:
        self.full = OpenVocabDetector.from_preset(preset)
        self.eager = OpenClipEncoder(resolve(preset.models.encoder), device="cpu", graphs=False)
        self.image = image
        starter = self.full if preset.name == "starter" else OpenVocabDetector.from_preset()
        self._boxes = _distinct_boxes(starter.proposer, image, max(BOXES))

    def detector(self, count: int) -> OpenVocabDetector:
        """A detector that proposes this number of boxes."""
        boxes, labels = self._boxes[:count], self.full.proposer.labels
        scores = np.full(count, 0.9, np.float32)
        proposals = Proposals(boxes, scores, np.arange(count, dtype=np.intp) % len(labels))
        fixed = FixedProposer(self.full.proposer, proposals)
        return OpenVocabDetector(fixed, self.full.encoder, self.full.preset)

    def floor(self, detector: OpenVocabDetector, images: list[Image]) -> Function:
        """The two networks alone, with prepared crops."""
        scale = self.full.preset.proposals.context_scale
        boxes = [expand_boxes(p.xyxy, scale) for p in detector.proposer.propose(images)]
        batches = list(self.full.encoder.crop_batches(images, boxes))
        yolo = self.full.proposer

        def run() -> None:
            for image in images:
                with yolo._limit_torch():
                    yolo._predict(image)
            for batch in batches:
                self.full.encoder.encode_crops(batch)

        return run

    def crop_by_crop(self, detector: OpenVocabDetector) -> Function:
        """A file and a forward pass in torch per box; the text features are cached."""
        text = self.eager.encode_text(FEW)

        def run() -> None:
            (proposals,) = detector.proposer.propose([self.image])
            with tempfile.TemporaryDirectory() as folder:
                for x1, y1, x2, y2 in proposals.xyxy.astype(int).tolist():
                    file = Path(folder) / "crop.jpg"
                    cv2.imwrite(str(file), self.image[y1 : y2 + 1, x1 : x2 + 1])
                    crop = np.asarray(PIL.Image.open(file).convert("RGB"))[:, :, ::-1]
                    box = np.array([[0, 0, crop.shape[1], crop.shape[0]]], np.float32)
                    (feature,) = self.eager.encode_regions([np.ascontiguousarray(crop)], [box])
                    (feature @ text.T).argmax()

        return run

    def label_by_label(self, detector: OpenVocabDetector) -> Function:
        """All boxes in batches, in torch, but once for each label."""

        def run() -> None:
            for label in FEW:
                (proposals,) = detector.proposer.propose([self.image])
                (features,) = self.eager.encode_regions([self.image], [proposals.xyxy])
                features @ self.eager.encode_text([label]).T

        return run


def _distinct_boxes(proposer: Proposer, image: Image, count: int) -> Boxes:
    """The best proposals, then those of the mirrored image, without near-duplicates."""
    mirrored = np.ascontiguousarray(image[:, ::-1])
    boxes = np.vstack([p.xyxy for p in proposer.propose([image, mirrored])])
    order = torch.arange(len(boxes), 0, -1, dtype=torch.float32)
    keep = nms(torch.from_numpy(boxes), order, 0.9)
    return boxes[keep.numpy()][:count]


def measure_boxes(pair: Pair) -> dict[str, Any]:
    """Every way at every number of boxes."""
    rows: dict[str, Any] = {}
    for count in BOXES:
        detector = pair.detector(count)
        functions = {
            "floor": pair.floor(detector, [pair.image]),
            "detect": lambda one=detector: one.detect(pair.image, FEW, score_threshold=0),
        }
        rows[str(count)] = measure_times(functions)
        if count <= MAX_SLOW_BOXES:
            slow = {
                "detect": functions["detect"],
                "crop by crop": pair.crop_by_crop(detector),
                "label by label": pair.label_by_label(detector),
            }
            rows[str(count)]["others"] = measure_times(slow, FEW_ROUNDS)
    return rows


def fit_line(rows: dict[str, Any]) -> dict[str, float]:
    """A line through the medians of `detect`."""
    medians = np.array([rows[str(count)]["detect"]["ms"][1] for count in BOXES])
    slope, intercept = np.polyfit(BOXES, medians, 1)
    residuals = medians - (slope * np.array(BOXES) + intercept)
    r2 = 1 - residuals.var() / medians.var()
    return {
        "ms": round(intercept, 1), "ms_per_box": round(slope, 2), "r2": round(float(r2), 5),
    }  # fmt: skip


def measure_classes(pair: Pair) -> dict[str, Any]:
    """The same 30 boxes with more and more cached classes, and with a new one."""
    detector = pair.detector(30)
    lines = (package_data("configs") / "classes/distractors.txt").read_text().splitlines()
    names = [*FEW, *(line for line in lines if line[:1] not in ("", "#") and line not in FEW)]
    names += [f"thing number {number}" for number in range(max(CLASSES) - len(names))]
    lists = {str(count): names[:count] for count in CLASSES}
    for classes in lists.values():
        detector.detect(pair.image, classes)
    functions = {
        count: lambda classes=classes: detector.detect(pair.image, classes, score_threshold=0)
        for count, classes in {"10": lists["10"], **lists}.items()
    }
    vocabulary, new = detector.vocabulary(FEW), iter(range(10_000))
    regions = detector.encode_image(pair.image)
    return {
        "cached": measure_times(functions),
        "list instead of a Vocabulary": measure_times(
            {
                "Vocabulary": lambda: detector.classify(regions, vocabulary),
                "list": lambda: detector.classify(regions, FEW),
            },
            rounds=100,
        ),
        "one new class": measure_times(
            {
                "vocabulary": lambda: detector.vocabulary([f"thing {next(new)}"]),
                "text encoder": lambda: detector.encoder.encode_text([f"thing {next(new)}"]),
            }
        ),
    }


def measure_stages(pair: Pair) -> dict[str, Any]:
    """Where the time of 30 boxes goes."""
    detector, encoder, yolo = pair.detector(30), pair.full.encoder, pair.full.proposer
    (proposals,) = detector.proposer.propose([pair.image])
    batches = list(encoder.crop_batches([pair.image], [proposals.xyxy]))
    (regions,) = detector.encode([pair.image], [proposals])
    head = detector.class_head(FEW, score_threshold=0)
    return measure_times(
        {
            "detector (Ultralytics predict)": lambda: yolo._predict(pair.image),
            "detector, as a proposer": lambda: detector.proposer.propose([pair.image]),
            "crop": lambda: list(encoder.crop_batches([pair.image], [proposals.xyxy])),
            "image encoder": lambda: [encoder.encode_crops(batch) for batch in batches],
            "class head of ten cached classes": lambda: detector.class_head(FEW),
            "classify": lambda: head.classify(regions),
        }
    )


def measure_image_encoder(pair: Pair) -> dict[str, Any]:
    """The runtime that is used by default, and eager torch in fp32."""
    encoder, side = pair.full.encoder, pair.eager.crop_size
    crops = torch.randint(0, 256, (max(BATCHES), side, side, 3), dtype=torch.uint8)
    rows = {}
    for count in BATCHES:
        batch = crops[:count]
        rows[str(count)] = measure_times(
            {
                "default": lambda batch=batch: encoder.encode_crops(batch),
                "torch": lambda batch=batch: pair.eager.encode_crops(batch),
            },
            FEW_ROUNDS + 2,
        )
    return rows


def measure_pair(preset: Preset, image: Image) -> dict[str, Any]:
    """Everything about one pair of networks."""
    pair = Pair(preset, image)
    rows = measure_boxes(pair)
    images = [np.roll(image, number, axis=1) for number in range(8)]
    ten = pair.detector(10)
    return {
        "boxes": rows,
        "linear": fit_line(rows),
        "batch of 8, 10 boxes each": measure_times(
            {
                "floor": pair.floor(ten, images),
                "detect_batch": lambda: ten.detect_batch(images, FEW, score_threshold=0),
                "detect of each": lambda: [
                    ten.detect(one, FEW, score_threshold=0) for one in images
                ],
            }
        ),
        "classes": measure_classes(pair),
        "stages of 30 boxes": measure_stages(pair),
        "image encoder": measure_image_encoder(pair),
    }


def random_networks(folder: Path) -> Preset:
    """ViT-B-32 and yolo26n as published, except for the weights, which do not change the speed."""
    import open_clip  # noqa: TID251  its stock configuration
    from safetensors.torch import save_file

    from openvocab._internal.runtimes import isolated_ultralytics

    torch.manual_seed(0)
    detector = folder / "yolo26n.pt"
    with isolated_ultralytics() as ultralytics:
        ultralytics.YOLO("yolo26n.yaml").save(detector)
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
    models = ModelConfig(str(detector), str(bundle), trust_pickle=True)
    return Preset(models, ProposalConfig(context_scale=1.0), name="random")


def measure_exports(
    preset: Preset, bundle: Path, paths: list[Path], folder: Path
) -> dict[str, Any]:
    """The report of each export of an image encoder, or why it is refused."""
    samples, words = sample_regions(load_preset("starter"), paths)
    rows: dict[str, Any] = {}
    for runtime, precision in (
        ("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
    ):  # fmt: skip
        name = f"{runtime} {precision}"
        try:
            report = export(
                bundle, runtime, precision, samples=samples, words=words, out=folder / name
            )
        except ModelError as error:
            rows[name] = {"refused": str(error)}
            continue
        keys = ("cosine_min", "cosine_mean", "agreement", "over_torch", "speed")
        rows[name] = {key: getattr(report, key) for key in keys}
    print(json.dumps({preset.name: rows}), flush=True)  # noqa: T201  progress
    return rows


def measure_detectors(file: Path, image: Image, paths: list[Path], folder: Path) -> dict[str, Any]:
    """yolo26n at 640 pixels in torch, and as `openvocab export` writes it."""
    proposers = {"torch": UltralyticsProposer(file, device="cpu", trust_pickle=True)}
    for runtime, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "int8")):
        if runtime == "openvino" and find_spec("openvino") is None:
            continue
        out = folder / f"{runtime} {precision}"
        path = export_detector(file, runtime, precision, out=out, images=paths, trust_pickle=True)
        proposers[out.name] = UltralyticsProposer(path, device="cpu")
    return measure_times(
        {name: lambda one=one: one.propose([image]) for name, one in proposers.items()}
    )


def measure_memory(preset: str, path: Path) -> dict[str, float]:
    """Peak MiB of the networks alone, then of `detect`, in a process of its own."""
    command = [sys.executable, __file__, str(path), "--json", os.devnull, "--memory", preset]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  a fixed command
    networks, detect = map(float, result.stdout.split()[-2:])
    return {"networks": networks, "detect": detect, "difference": round(detect - networks, 1)}


def peaks(preset: str, path: Path) -> tuple[float, float]:
    """300 boxes of a 12-megapixel image: the detector and one batch, then `detect`."""
    image = cv2.resize(load_image(path), MEGAPIXELS_12)
    pair = Pair(load_preset(preset), image)
    detector = pair.detector(300)

    def peak() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)

    pair.floor(pair.detector(16), [image])()
    networks = peak()
    detector.detect(image, FEW, score_threshold=0)
    return networks, peak()


def measure(paths: list[Path], path: Path) -> dict[str, Any]:
    """Both pairs of networks."""
    image, starter = load_image(path), load_preset("starter")
    results: dict[str, Any] = {
        "provenance": provenance(OpenVocabDetector.from_preset(starter)),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "MiB of 300 boxes in 12 megapixels": measure_memory("starter", path),
        "exports": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random = random_networks(folder)
        for preset in (starter, random):
            out = folder / f"exports of {preset.name}"
            bundle = resolve(preset.models.encoder)
            results["exports"][preset.name] = measure_exports(preset, bundle, paths, out)
        detector = Path(random.models.detector)
        results["detectors"] = measure_detectors(detector, image, paths, folder)
        encoder = str(folder / "exports of random/openvino bf16")
        exported = replace(random, models=replace(random.models, encoder=encoder))
        for preset in (starter, exported):
            results[preset.name] = measure_pair(preset, image)
            print(json.dumps({preset.name: results[preset.name]}), flush=True)  # noqa: T201
    return results


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder of images, for the checks of exports")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        print(*peaks(options.memory, options.images))  # noqa: T201
        return
    # Not imported: that would change how many threads torch has.
    package = find_spec("ultralytics").submodule_search_locations[0]
    bus = Path(package) / "assets/bus.jpg"
    results = measure(find_images([str(options.images)]), bus)
    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
