"""Write `weights/starter/encoder/`: the two towers as one open_clip bundle, and a golden file."""

import argparse
import hashlib
import json
import logging
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from images import ARCHITECTURE, MEAN, SCALE, STD, pretrained
from safetensors.torch import save_file
from teacher import WIDTH
from text import TEXT
from torch import Tensor

logger = logging.getLogger("bundle")

CONFIG = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "init_logit_scale": math.log(SCALE),
        "vision_cfg": {
            "timm_model_name": ARCHITECTURE,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "mlp",
            "timm_proj_bias": True,
            "image_size": 224,
        },
        "text_cfg": TEXT,
    },
    "preprocess_cfg": {
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def assemble(work: Path, out: Path) -> None:
    """The frozen stages, the trained ones, the text tower; half precision."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False)
    state = {
        f"visual.trunk.{key}": value
        for key, value in pretrained().state_dict().items()
        if not key.startswith("classifier")
    }
    upper = torch.load(work / "upper.pt", weights_only=True)
    state |= {_place(key): value for key, value in upper.items()}
    state |= torch.load(work / "text.pt", weights_only=True)
    state["logit_scale"] = torch.tensor(math.log(SCALE))
    model.load_state_dict(state)
    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(half, out / "open_clip_model.safetensors")


def golden(out: Path) -> None:
    """Features of a drawn picture and of three prompts, for the test that loads the bundle."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{out}")
    model.eval()
    prompts = ["a photo of a bus", "a red umbrella", "dog"]
    with torch.inference_mode():
        np.savez(
            out / "golden.npz",
            image=model.encode_image(_picture()[None], normalize=True).numpy(),
            prompts=np.array(prompts),
            text=model.encode_text(tokenize(prompts), normalize=True).numpy(),
        )


def _picture() -> Tensor:
    """Waves of three colours, as the model takes them: nothing that needs a licence."""
    down, right = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    return torch.stack([torch.sin(down / 9), torch.cos(right / 13), torch.sin((down + right) / 21)])


def _place(key: str) -> str:
    """Where a tensor of `images.Upper` belongs in the bundle."""
    part, _, rest = key.partition(".")
    return f"visual.head.mlp.{rest}" if part == "mlp" else f"visual.trunk.{key}"


def main() -> None:
    """Assemble, and print what the manifest needs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="what text.py and images.py left")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "weights/starter/encoder"
    )
    options = parser.parse_args()
    assemble(options.work, options.out)
    golden(options.out)
    for path in sorted(options.out.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        logger.info("%s: bytes = %d, sha256 = %s", path.name, path.stat().st_size, digest)


if __name__ == "__main__":
    main()
