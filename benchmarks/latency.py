"""How near `detect` comes to its floor, the two networks themselves, and how far others stay from it.

    .venv/bin/python benchmarks/latency.py ../shared/data/coco-dev/images --json benchmarks/results/latency.json

What is compared takes turns in one process, after a warm-up, on the same weights: medians and
quartiles in milliseconds, ratios within each round. Boxes are the detector's best proposals on the
photo of Ultralytics' wheel, no two of them alike. The folder of photos is for the exports' gates.

- floor: Ultralytics' `predict`, then the image tower on regions that lie ready, in batches.
- crop by crop: as autodistill does it (a temporary JPEG, one region, one forward each).
- label by label: as a zero-shot pipeline that runs the picture once for each label.

Two pairs of networks: the starter preset, and ViT-B-32 with yolo26n in random weights, which take as
long as trained ones; its tower is exported to OpenVINO in bf16, as `openvocab export` does it.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch

from openvocab import OpenVocabDetector, Preset
from openvocab._internal.files import package_data
from openvocab.cli._export import sample_regions
from openvocab.encoders import OpenClipEncoder
from openvocab.encoders._boxes import expand_boxes, shown
from openvocab.errors import ModelError
from openvocab.evaluation._provenance import provenance
from openvocab.export._detector import export_detector
from openvocab.export._image_encoder import export
from openvocab.io import _images as images
from openvocab.proposers import UltralyticsProposer
from openvocab.types import Image, Proposals, Proposer
from openvocab.weights import resolve

BOXES = (1, 10, 30, 100, 300)
CLASSES = (1, 10, 100, 1000, 1203)
FEW = ("bus", "person", "traffic light", "dog", "bicycle", "car", "tree", "hat", "bag", "sign")
ROUNDS, FEW_ROUNDS = 15, 3
SLOW = 30  # boxes over which the slow ways are not waited for
BATCHES = (1, 4, 8, 16, 32)
MEGAPIXELS_12 = (4000, 3000)

Way = Callable[[], Any]


class Given:
    """A detector that does its work, and then gives the boxes it was given."""

    def __init__(self, proposer: Proposer, given: Proposals) -> None:
        self._proposer, self._given, self.names = proposer, given, proposer.names

    def propose(self, pictures: Sequence[Image]) -> list[Proposals]:
        """As the detector, but for the boxes."""
        self._proposer.propose(pictures)
        return [self._given for _ in pictures]


def times(ways: dict[str, Way], rounds: int = ROUNDS) -> dict[str, Any]:
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
            "ms": [round(float(value), 3) for value in np.percentile(each, (25, 50, 75))],
            "ratio": round(statistics.median(a / b for a, b in zip(each, first, strict=True)), 3),
        }
        for name, each in spent.items()
    }


class Pair:
    """Two networks, a photo, and as many boxes in it as are wanted."""

    def __init__(self, preset: Preset, picture: Image) -> None:
        self.whole = OpenVocabDetector.from_preset(preset)
        self.eager = OpenClipEncoder(resolve(preset.encoder), device="cpu", graphs=False)
        self.picture = picture
        starter = self.whole if preset.name == "starter" else OpenVocabDetector.from_preset()
        self._boxes = _distinct(starter.proposer, picture, max(BOXES))

    def detector(self, count: int) -> OpenVocabDetector:
        """Which finds so many boxes."""
        boxes, names = self._boxes[:count], self.whole.proposer.names
        labels = tuple(names[number % len(names)] for number in range(count))
        given = Proposals(boxes, np.full(count, 0.9, np.float32), labels)
        return OpenVocabDetector(
            Given(self.whole.proposer, given), self.whole.encoder, self.whole.preset
        )

    def floor(self, detector: OpenVocabDetector, pictures: list[Image]) -> Way:
        """The two networks on what they take, ready made."""
        (scale,) = self.whole.preset.context_scales[:1]
        boxes = [expand_boxes(each.xyxy, scale) for each in detector.proposer.propose(pictures)]
        batches = list(self.whole.encoder.regions(pictures, boxes))
        yolo = self.whole.proposer

        def run() -> None:
            for picture in pictures:
                with yolo._threads():
                    yolo._predict(picture)
            for batch in batches:
                self.whole.encoder.forward(batch)

        return run

    def crop_by_crop(self, detector: OpenVocabDetector) -> Way:
        """Each box through a file, one forward each, in torch; the text is remembered."""
        text = self.eager.encode_text(FEW)

        def run() -> None:
            (found,) = detector.proposer.propose([self.picture])
            with tempfile.TemporaryDirectory() as folder:
                for x1, y1, x2, y2 in found.xyxy.astype(int).tolist():
                    file = Path(folder) / "crop.jpg"
                    cv2.imwrite(str(file), self.picture[y1 : y2 + 1, x1 : x2 + 1])
                    crop = np.asarray(PIL.Image.open(file).convert("RGB"))[:, :, ::-1]
                    whole = np.array([[0, 0, crop.shape[1], crop.shape[0]]], np.float32)
                    (feature,) = self.eager.encode_regions([np.ascontiguousarray(crop)], [whole])
                    (feature @ text.T).argmax()

        return run

    def label_by_label(self, detector: OpenVocabDetector) -> Way:
        """All boxes in batches, in torch, but once for each label."""

        def run() -> None:
            for label in FEW:
                (found,) = detector.proposer.propose([self.picture])
                (features,) = self.eager.encode_regions([self.picture], [found.xyxy])
                features @ self.eager.encode_text([label]).T

        return run


def _distinct(proposer: Proposer, picture: Image, count: int) -> np.ndarray:
    """The best proposals, then those of the mirrored photo; of boxes that show the same, one."""
    (found,), (mirrored,) = (
        proposer.propose([each]) for each in (picture, np.ascontiguousarray(picture[:, ::-1]))
    )
    boxes = np.vstack([found.xyxy, mirrored.xyxy])
    return boxes[np.unique(shown(boxes, 0.9))][:count]


def by_boxes(pair: Pair) -> dict[str, Any]:
    """Every way at every number of boxes."""
    rows: dict[str, Any] = {}
    for count in BOXES:
        detector = pair.detector(count)
        ways = {
            "floor": pair.floor(detector, [pair.picture]),
            "detect": lambda one=detector: one.detect(pair.picture, FEW, score_threshold=0),
        }
        rows[str(count)] = times(ways)
        if count <= SLOW:
            slow = {
                "detect": ways["detect"],
                "crop by crop": pair.crop_by_crop(detector),
                "label by label": pair.label_by_label(detector),
            }
            rows[str(count)]["others"] = times(slow, FEW_ROUNDS)
    return rows


def linear(rows: dict[str, Any]) -> dict[str, float]:
    """A line through the medians of `detect`."""
    medians = np.array([rows[str(count)]["detect"]["ms"][1] for count in BOXES])
    slope, first = np.polyfit(BOXES, medians, 1)
    rest = medians - (slope * np.array(BOXES) + first)
    r2 = 1 - rest.var() / medians.var()
    return {"ms": round(first, 1), "ms_a_box": round(slope, 2), "r2": round(float(r2), 5)}


def by_classes(pair: Pair) -> dict[str, Any]:
    """The same 30 boxes, and more and more classes whose text is known; and one that is new."""
    detector = pair.detector(30)
    lines = (package_data("configs") / "classes/distractors.txt").read_text().splitlines()
    words = [*FEW, *(line for line in lines if line[:1] not in ("", "#") and line not in FEW)]
    words += [f"thing number {number}" for number in range(max(CLASSES) - len(words))]
    lists = {str(count): words[:count] for count in CLASSES}
    for some in lists.values():
        detector.detect(pair.picture, some)
    ways = {
        name: lambda some=some: detector.detect(pair.picture, some, score_threshold=0)
        for name, some in {"10": lists["10"], **lists}.items()
    }
    bank, fresh = detector.vocabulary(FEW), iter(range(10_000))
    return {
        "known": times(ways),
        "list instead of a Vocabulary": times(
            {
                "Vocabulary": lambda: detector.name(seen, bank),
                "list": lambda: detector.name(seen, FEW),
            }
            if (seen := detector.regions(pair.picture))
            else {},
            rounds=100,
        ),
        "one new word": times(
            {
                "vocabulary of it": lambda: detector.vocabulary([f"thing {next(fresh)}"]),
                "text tower": lambda: detector.encoder.encode_text([f"thing {next(fresh)}"]),
            }
        ),
    }


def stages(pair: Pair) -> dict[str, Any]:
    """Where the time of 30 boxes goes."""
    detector, encoder, yolo = pair.detector(30), pair.whole.encoder, pair.whole.proposer
    (found,) = detector.proposer.propose([pair.picture])
    batches = list(encoder.regions([pair.picture], [found.xyxy]))
    (features,) = detector.encode([pair.picture], [found.xyxy])
    classifier, none = detector.classifier(detector.vocabulary(FEW)), np.zeros(len(FEW), np.float32)

    def named() -> None:
        classifier.detections(found, classifier.scores(found, features), none)

    return times(
        {
            "detector (Ultralytics predict)": lambda: yolo._predict(pair.picture),
            "detector, as a proposer": lambda: detector.proposer.propose([pair.picture]),
            "cut out": lambda: list(encoder.regions([pair.picture], [found.xyxy])),
            "image tower": lambda: [encoder.forward(batch) for batch in batches],
            "look up ten known classes": lambda: detector.vocabulary(FEW),
            "name": named,
        }
    )


def towers(pair: Pair) -> dict[str, Any]:
    """The image tower that is chosen by default, and eager torch in fp32."""
    encoder, side = pair.whole.encoder, pair.eager.size
    regions = torch.randint(0, 256, (max(BATCHES), side, side, 3), dtype=torch.uint8)
    rows = {}
    for count in BATCHES:
        batch = regions[:count]
        rows[str(count)] = times(
            {
                "chosen": lambda batch=batch: encoder.forward(batch),
                "torch": lambda batch=batch: pair.eager.forward(batch),
            },
            FEW_ROUNDS + 2,
        )
    return rows


def measured(preset: Preset, picture: Image) -> dict[str, Any]:
    """Everything about one pair of networks."""
    pair = Pair(preset, picture)
    rows = by_boxes(pair)
    pictures = [np.roll(picture, number, axis=1) for number in range(8)]
    ten = pair.detector(10)
    return {
        "boxes": rows,
        "linear": linear(rows),
        "batch of 8, 10 boxes each": times(
            {
                "floor": pair.floor(ten, pictures),
                "detect_batch": lambda: ten.detect_batch(pictures, FEW, score_threshold=0),
                "detect of each": lambda: [
                    ten.detect(each, FEW, score_threshold=0) for each in pictures
                ],
            }
        ),
        "classes": by_classes(pair),
        "stages of 30 boxes": stages(pair),
        "tower": towers(pair),
    }


def random_networks(folder: Path) -> Preset:
    """ViT-B-32 and yolo26n as they are published, but for the weights: speed does not need them."""
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
    return Preset(
        name="random", detector=str(detector), encoder=str(bundle), context_scales=(1.0,),
        trust_pickle=True,
    )  # fmt: skip


def exports(preset: Preset, bundle: Path, photos: list[Path], folder: Path) -> dict[str, Any]:
    """What each export of an image tower gives, or why it is refused."""
    samples, words = sample_regions(load("starter"), photos)
    rows: dict[str, Any] = {}
    for runtime, precision in (
        ("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
    ):  # fmt: skip
        name = f"{runtime} {precision}"
        try:
            made = export(
                bundle, runtime, precision, samples=samples, words=words, out=folder / name
            )
        except ModelError as error:
            rows[name] = {"refused": str(error)}
            continue
        keys = ("cosine_min", "cosine_mean", "agreement", "over_torch", "speed")
        rows[name] = {key: getattr(made, key) for key in keys}
    print(json.dumps({preset.name: rows}), flush=True)  # noqa: T201
    return rows


def detectors(file: Path, picture: Image, photos: list[Path], folder: Path) -> dict[str, Any]:
    """yolo26n at 640 pixels in torch, and as `openvocab export` writes it."""
    proposers = {"torch": UltralyticsProposer(file, device="cpu", trust_pickle=True)}
    for runtime, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "int8")):
        if runtime == "openvino" and find_spec("openvino") is None:
            continue
        out = folder / f"{runtime} {precision}"
        made = export_detector(file, runtime, precision, out=out, images=photos, trust_pickle=True)
        proposers[out.name] = UltralyticsProposer(made, device="cpu")
    return times({name: lambda one=one: one.propose([picture]) for name, one in proposers.items()})


def memory(preset: str, photo: Path) -> dict[str, float]:
    """In a process of its own: MiB at the most of the networks alone, then of `detect`."""
    command = [sys.executable, __file__, str(photo), "--json", os.devnull, "--memory", preset]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  own words
    networks, detect = map(float, done.stdout.split()[-2:])
    return {"networks": networks, "detect": detect, "more": round(detect - networks, 1)}


def peaks(preset: str, photo: Path) -> tuple[float, float]:
    """300 boxes of a 12-megapixel photo: the detector and one batch, then the whole."""
    picture = cv2.resize(images.load_image(photo), MEGAPIXELS_12)
    pair = Pair(load(preset), picture)
    detector = pair.detector(300)

    def peak() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)

    pair.floor(pair.detector(16), [picture])()
    networks = peak()
    detector.detect(picture, FEW, score_threshold=0)
    return networks, peak()


def measure(photos: list[Path], photo: Path) -> dict[str, Any]:
    """Both pairs of networks."""
    picture, starter = images.load_image(photo), load("starter")
    results: dict[str, Any] = {
        "provenance": provenance(OpenVocabDetector.from_preset(starter)),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "MiB of 300 boxes in 12 megapixels": memory("starter", photo),
        "exports": {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random = random_networks(folder)
        for preset in (starter, random):
            home = folder / f"exports of {preset.name}"
            bundle = resolve(preset.encoder)
            results["exports"][preset.name] = exports(preset, bundle, photos, home)
        results["detectors"] = detectors(Path(random.detector), picture, photos, folder)
        exported = Preset(
            name="random", detector=random.detector, context_scales=(1.0,), trust_pickle=True,
            encoder=str(folder / "exports of random/openvino bf16"),
        )  # fmt: skip
        for preset in (starter, exported):
            results[preset.name] = measured(preset, picture)
            print(json.dumps({preset.name: results[preset.name]}), flush=True)  # noqa: T201
    return results


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos, for the exports' gates")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        print(*peaks(options.memory, options.photos))  # noqa: T201
        return
    # Not imported: that would change how many threads torch has.
    package = find_spec("ultralytics").submodule_search_locations[0]
    photo = Path(package) / "assets/bus.jpg"
    found = measure(images.find_images([str(options.photos)]), photo)
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
