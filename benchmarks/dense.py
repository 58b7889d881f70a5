"""Accuracy of features pooled from one run on the whole image, compared with a crop per box.

    .venv/bin/python benchmarks/dense.py ../shared/data/coco-dev --json benchmarks/results/dense.json

Dense: the image encoder's feature map of the whole image, RoIAlign (Mask R-CNN, He et al., ICCV
2017) per box to the size that the encoder's head takes, then the head. For encoders without
attention, such as the starter's, nothing else changes. The cost grows with the pixels of the image.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.nn.functional import interpolate, normalize
from torchvision.ops import roi_align

from openvocab import OpenVocabDetector
from openvocab.encoders import OpenClipEncoder
from openvocab.encoders._boxes import expand_boxes
from openvocab.evaluation._calibration import compute_metrics, match_task
from openvocab.evaluation._feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation._formats import load_dataset
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptMap
from openvocab.evaluation._provenance import provenance
from openvocab.types import Boxes, Features, Image
from openvocab.weights import resolve

SIDES = (448, 896)  # pixels of the longer side
STRIDE = 32
VARIANTS = ("names", "synonyms")


class DenseEncoder:
    """The starter's image encoder, on whole images of one size."""

    def __init__(self, bundle: Path, side: int) -> None:
        encoder = OpenClipEncoder(bundle, device="cpu", graphs=False)
        self._encoder, self._side = encoder.image_encoder, side
        self._map_size, self._crop_pixels = encoder.crop_size // STRIDE, encoder.crop_size**2
        self._pixels, self._runs = 0, 0

    @torch.inference_mode()
    def __call__(self, image: Image, boxes: Boxes) -> Features:
        """Features `(N, D)` of the boxes."""
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        rows, columns = (max(1, round(side * scale / STRIDE)) * STRIDE for side in (height, width))
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        planes = interpolate(planes, (rows, columns), mode="bicubic", antialias=True)
        pixels = planes[:, [2, 1, 0]].float() * self._encoder.factor + self._encoder.offset
        self._pixels, self._runs = self._pixels + rows * columns, self._runs + 1
        trunk, head = self._encoder.visual.trunk, self._encoder.visual.head
        scaled = torch.from_numpy(boxes) * torch.tensor([columns / width, rows / height] * 2)
        feature_map = trunk.forward_features(pixels)
        pooled = roi_align(feature_map, [scaled], self._map_size, 1 / STRIDE, 2, aligned=True)
        return normalize(head(trunk.forward_head(pooled)), dim=-1).numpy()

    @property
    def cost_in_crops(self) -> float:
        """Crops that have as many pixels as a run."""
        return round(self._pixels / self._runs / self._crop_pixels, 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A row for crops, and one for each size of the whole image."""
    task = EvaluationTask.from_map(load_dataset(options.dataset), PromptMap.from_file("coco"))
    variants = tuple(variant for variant in task.variants if variant.name in VARIANTS)
    task = dataclasses.replace(task, variants=variants, absent=())
    detector = OpenVocabDetector.from_preset("starter")
    images = task.dataset.images
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(detector, options.features or Path(folder))
        features = [cache(image) for image in images]
    rows = [_row("crops", detector, task, features)]
    scale = detector.preset.proposals.context_scale
    for side in SIDES:
        encoder = DenseEncoder(resolve(detector.preset.models.encoder), side)
        dense = [
            _pool(encoder, scale, image.load(), cached, image.xyxy)
            for image, cached in zip(track(images, transient=True), features, strict=True)
        ]
        row = _row(f"dense, {side} pixels", detector, task, dense)
        rows.append(row | {"cost_in_crops": encoder.cost_in_crops})
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201  progress
    return {"provenance": provenance(detector), "images": len(images), "rows": rows}


def _pool(
    encoder: DenseEncoder, scale: float, image: Image, cached: CachedFeatures, labelled: Boxes
) -> CachedFeatures:
    features = encoder(image, expand_boxes(np.vstack([cached.xyxy, labelled]), scale))
    count = len(cached.xyxy)
    return cached._replace(features=features[:count], ground_truth=features[count:])


def _row(
    name: str,
    detector: OpenVocabDetector,
    task: EvaluationTask,
    features: Sequence[CachedFeatures],
) -> dict[str, Any]:
    matches = match_task(detector, task, features)
    ap50 = compute_metrics(matches, np.ones(len(features))).ap50
    return {
        "name": name,
        "ap50": {variant: round(value, 4) for variant, value in ap50.items()},
        "encoder_accuracy": round(matches.encoder_accuracy, 4),
    }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="COCO labels")
    parser.add_argument("--features", type=Path, help="folder of cached features")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.json.write_text(json.dumps(measure(options), indent=1) + "\n")


if __name__ == "__main__":
    main()
