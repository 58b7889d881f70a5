"""Against the real OpenAI ViT-B/32: our pixels against its own, our softmax on its features."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
from bundles import OPENAI, save_bundle

from openvocab.encoders.openclip import OpenClipEncoder
from openvocab.io import images
from openvocab.scoring import log_odds

# The four of the seven photos that show a thing with a name in LVIS, among the three best names.
EXPECTED = {
    "123_456": "cat",
    "456_123": "kitten",
    "321_421": "coconut",
    "389_535": "street_sign",
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "clip-golden"


def test_pixels_are_those_of_the_reference(golden, tmp_path):
    """The middle square of a photo, which is what the reference crops to."""
    folder = save_bundle(tmp_path, open_clip.get_model_config("ViT-B-32"), OPENAI)
    encoder = OpenClipEncoder(folder)
    reference = np.load(golden / "vit-b-32-openai-photos.npz")
    for name, expected in zip(reference["names"], reference["pixels"], strict=True):
        photo = images.load_image(golden / "photos" / f"{name}.jpg")
        height, width = photo.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        box = np.array([[left, top, left + side, top + side]], np.float32)
        (crop,) = encoder.regions([photo], [box])
        crop = crop.permute(0, 3, 1, 2).flip(1).float()
        found = (crop * encoder.tower.factor + encoder.tower.offset)[0].numpy()
        # The reference resizes first and crops then: half a pixel of the square may differ.
        levels = np.abs(found - expected) * np.array(OPENAI["std"]).reshape(3, 1, 1) * 255
        assert np.median(levels) <= 2.5
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


def test_the_photos_get_the_names_that_clip_gives_them(golden):
    reference = np.load(golden / "vit-b-32-openai-photos.npz")
    regions = reference["image_features"].astype(np.float32)
    table = np.load(golden / "lvis_v1_clip_a+cname.npy").astype(np.float32)
    words = table / np.linalg.norm(table, axis=1, keepdims=True)
    info = json.loads((golden / "lvis_v1_train_cat_info.json").read_text())
    names = [entry["name"] for entry in info]
    found = log_odds.softmax(100 * regions @ words.T)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    best = {
        name: [names[index] for index in row.argsort()[::-1][:3]]
        for name, row in zip(reference["names"], found, strict=True)
    }
    for name, expected in EXPECTED.items():
        assert expected in best[name], best[name]
    assert best["456_123"][0] == "kitten"
    assert best["389_535"][0] == "street_sign"
