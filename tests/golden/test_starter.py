"""open_clip alone gives the features stored beside the bundled encoder, without a network."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from openvocab import weights

BUNDLE = weights.resolve("starter-encoder")


@pytest.fixture(scope="module")
def bundle() -> tuple[torch.nn.Module, Callable[[list[str]], torch.Tensor]]:
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{BUNDLE}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{BUNDLE}")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """The test image of `training/bundle.py`."""
    down, right = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    return torch.stack([torch.sin(down / 9), torch.cos(right / 13), torch.sin((down + right) / 21)])


def test_features_equal_the_golden_file(bundle, image):
    model, tokenize = bundle
    golden = np.load(Path(BUNDLE) / "golden.npz")
    with torch.inference_mode():
        image_features = model.encode_image(image[None], normalize=True).numpy()
        text_features = model.encode_text(
            tokenize(golden["prompts"].tolist()), normalize=True
        ).numpy()
    np.testing.assert_allclose(image_features, golden["image"], atol=1e-4)
    np.testing.assert_allclose(text_features, golden["text"], atol=1e-4)
    assert "transformers" not in sys.modules  # open_clip's own tokenizer


def test_the_bundle_is_at_most_45_mb():
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
def test_words_of_similar_meaning_have_similar_features(bundle, near, far):
    model, tokenize = bundle
    with torch.inference_mode():
        rows = model.encode_text(tokenize([*near, *far]), normalize=True)
    close, apart = float(rows[0] @ rows[1]), float(rows[2] @ rows[3])
    assert close > apart + 0.1
    assert close > 0.5
