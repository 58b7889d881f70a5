"""Our preprocessing, compared with the pixels that the original OpenAI ViT-B/32 got."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
from bundles import OPENAI, save_bundle

from openvocab.encoders import OpenClipEncoder
from openvocab.io import load_image


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "clip-golden"


def test_pixels_are_those_of_the_reference(golden, tmp_path):
    """The centre square of a photo, to which the reference crops."""
    folder = save_bundle(tmp_path, open_clip.get_model_config("ViT-B-32"), OPENAI)
    encoder = OpenClipEncoder(folder)
    reference = np.load(golden / "vit-b-32-openai-photos.npz")
    for name, expected in zip(reference["names"], reference["pixels"], strict=True):
        photo = load_image(golden / "photos" / f"{name}.jpg")
        height, width = photo.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        box = np.array([[left, top, left + side, top + side]], np.float32)
        (crop,) = encoder.crop_batches([photo], [box])
        crop = crop.permute(0, 3, 1, 2).flip(1).float()
        pixels = (crop * encoder.image_encoder.factor + encoder.image_encoder.offset)[0].numpy()
        # The reference resizes before it crops, so edges may differ by half a pixel.
        levels = np.abs(pixels - expected) * np.array(OPENAI["std"]).reshape(3, 1, 1) * 255
        assert np.median(levels) <= 2.5
        assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.97
