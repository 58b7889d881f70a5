"""The bundled encoder gives the features that stand beside it, by open_clip alone, with no network."""

import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from openvocab import weights

BUNDLE = weights.resolve("starter-encoder")


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """As `training/bundle.py` draws it."""
    down, right = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    return torch.stack([torch.sin(down / 9), torch.cos(right / 13), torch.sin((down + right) / 21)])


def test_features_are_those_of_the_golden_file(picture):
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{BUNDLE}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{BUNDLE}")
    model.eval()
    golden = np.load(Path(BUNDLE) / "golden.npz")
    with torch.inference_mode():
        image = model.encode_image(picture[None], normalize=True).numpy()
        text = model.encode_text(tokenize(golden["prompts"].tolist()), normalize=True).numpy()
    np.testing.assert_allclose(image, golden["image"], atol=1e-4)
    np.testing.assert_allclose(text, golden["text"], atol=1e-4)
    assert "transformers" not in sys.modules  # open_clip's own tokenizer


def test_it_is_small():
    assert sum(file.stat().st_size for file in Path(BUNDLE).iterdir()) <= 45e6


@pytest.mark.parametrize(
    ("near", "far"),
    [
        (("bicycle", "bike"), ("bicycle", "boat")),
        (("sofa", "couch"), ("sofa", "chair")),
        (("rucksack", "backpack"), ("rucksack", "suitcase")),
        (("pedestrian", "person"), ("pedestrian", "parking meter")),
        (("a photo of the dog", "dog"), ("dog", "cat")),
        (("Dogs", "dog"), ("fork", "spoon")),
    ],
)
def test_words_lie_where_they_mean(near, far):
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{BUNDLE}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{BUNDLE}")
    model.eval()
    with torch.inference_mode():
        rows = model.encode_text(tokenize([*near, *far]), normalize=True)
    close, apart = float(rows[0] @ rows[1]), float(rows[2] @ rows[3])
    assert close > apart + 0.1
    assert close > 0.5
