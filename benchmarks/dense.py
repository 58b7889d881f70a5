"""What one look at the whole image, pooled by box, names right, against a look at each box.

    .venv/bin/python benchmarks/dense.py ../shared/data/coco-dev --json benchmarks/results/dense.json

Dense: the image tower's map of features over the whole photo, RoIAlign (Mask R-CNN, He et al., ICCV
2017) by box to the size that the tower's head takes, then the head: of towers without attention,
such as the starter's, nothing else changes. It costs as much as the photo has pixels of a region.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.nn.functional import interpolate, normalize
from torchvision.ops import roi_align

from openvocab import OpenVocabDetector
from openvocab.encoders.boxes import expand_boxes
from openvocab.encoders.openclip import OpenClipEncoder
from openvocab.evaluation.calibration import fit, try_numbers
from openvocab.evaluation.datasets import Dataset
from openvocab.evaluation.feature_cache import CachedFeatures, FeatureCache
from openvocab.evaluation.formats import load as load_dataset
from openvocab.evaluation.inference import VariantClassifier
from openvocab.evaluation.prompt_variants import PromptMap, PromptVariant, prompt_variants
from openvocab.evaluation.provenance import provenance
from openvocab.scoring.class_head import Regions
from openvocab.types import Boxes, Features, Image
from openvocab.weights import resolve

SIDES = (448, 896)  # pixels of the longer side
STRIDE = 32
ASKED = ("names", "synonyms")


class Dense:
    """The starter's tower, over whole photos of one size."""

    def __init__(self, bundle: Path, side: int) -> None:
        encoder = OpenClipEncoder(bundle, device="cpu", graphs=False)
        self._tower, self._side, self._map = encoder.tower, side, encoder.size // STRIDE
        self._pixels, self._looks, self._region = 0, 0, encoder.size**2

    @torch.inference_mode()
    def __call__(self, image: Image, boxes: Boxes) -> Features:
        """Features `(N, D)`."""
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        high, wide = (max(1, round(side * scale / STRIDE)) * STRIDE for side in (height, width))
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        planes = interpolate(planes, (high, wide), mode="bicubic", antialias=True)
        pixels = planes[:, [2, 1, 0]].float() * self._tower.factor + self._tower.offset
        self._pixels, self._looks = self._pixels + high * wide, self._looks + 1
        trunk, head = self._tower.visual.trunk, self._tower.visual.head
        places = torch.from_numpy(boxes) * torch.tensor([wide / width, high / height] * 2)
        pooled = roi_align(
            trunk.forward_features(pixels), [places], self._map, 1 / STRIDE, 2, aligned=True
        )
        return normalize(head(trunk.forward_head(pooled)), dim=-1).numpy()

    @property
    def regions(self) -> float:
        """How many regions a look costs, by pixels."""
        return round(self._pixels / self._looks / self._region, 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A row for regions that are cut out, and one for each size of photo."""
    dataset, words = load_dataset(options.dataset), PromptMap.from_file("coco")
    asked = [each for each in prompt_variants(dataset.classes, words) if each.name in ASKED]
    whole = OpenVocabDetector.from_preset("starter")
    with tempfile.TemporaryDirectory() as folder:
        see = FeatureCache(whole, options.seen or Path(folder))
        seen = [see(photo) for photo in dataset.photos]
    rows = [_row("cut out", whole, dataset, seen, asked)]
    for side in SIDES:
        dense = Dense(resolve(whole.preset.encoder), side)
        pooled = [
            _pooled(dense, whole.preset.context_scales[0], photo.load(), each, photo.xyxy)
            for photo, each in zip(track(dataset.photos, transient=True), seen, strict=True)
        ]
        row = _row(f"dense, {side} pixels", whole, dataset, pooled, asked)
        rows.append(row | {"costs_regions": dense.regions})
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201
    return {"provenance": provenance(whole), "photos": len(dataset), "rows": rows}


def _pooled(
    dense: Dense, scale: float, image: Image, seen: CachedFeatures, labelled: Boxes
) -> CachedFeatures:
    found = seen.regions.proposals
    features = dense(
        image, np.vstack([expand_boxes(found.xyxy, scale), expand_boxes(labelled, scale)])
    )
    return seen._replace(
        regions=Regions(found, features[: len(found)]), truth=features[len(found) :]
    )


def _row(
    name: str,
    whole: OpenVocabDetector,
    dataset: Dataset,
    seen: list[CachedFeatures],
    asked: list[PromptVariant],
) -> dict[str, Any]:
    found = fit(try_numbers(whole, dataset, seen, asked, ()), np.ones(len(dataset)))
    namer = VariantClassifier(whole, PromptVariant("names", dataset.classes))
    pairs = zip(dataset.photos, seen, strict=True)
    right = sum(namer.right(photo, each, len(dataset.classes)) for photo, each in pairs)
    return {
        "name": name,
        "ap50": {key: round(value, 4) for key, value in found.ap50.items()},
        "encoder_accuracy": round(right / dataset.boxes, 4),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="COCO labels")
    parser.add_argument("--seen", type=Path, help="folder to keep what was seen")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.json.write_text(json.dumps(measure(options), indent=1) + "\n")


if __name__ == "__main__":
    main()
