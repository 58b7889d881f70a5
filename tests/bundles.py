"""open_clip bundles of the real format with random weights, for tests of the encoder."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from openvocab.encoders._image_encoder_runtime import ExportReport
from openvocab.export._image_encoder import export
from openvocab.export._parity import ExportTolerances
from openvocab.types import Boxes, Image

OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SQUASH = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
SMALL_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": SMALL_TEXT,
}
SIGMOID = SMALL | {"init_logit_scale": 2.3, "init_logit_bias": -10.0, "custom_text": True}


def save_bundle(folder: Path, model_cfg: dict, preprocess_cfg: dict) -> Path:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` with seeded weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def samples(count: int = 200) -> list[tuple[Image, Boxes]]:
    """An image of coloured noise with boxes, as many as the parity check of an export needs."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    corners = rng.uniform(0, 300, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(20, 180, (count, 2))])
    return [(image, boxes.astype(np.float32))]


def export_bundle(
    folder: Path,
    runtime: str,
    precision: str,
    tolerances: ExportTolerances | None = None,
    **options: object,
) -> ExportReport:
    """Export a random bundle; without tolerances, any export is accepted."""
    words: Sequence[str] = ("cat", "dog", "bus", "tree")
    tolerances = tolerances or ExportTolerances(fp32=-1, bf16=-1, int8=-1, speed=0)
    return export(
        folder, runtime, precision, samples=samples(), words=words, tolerances=tolerances, **options
    )
