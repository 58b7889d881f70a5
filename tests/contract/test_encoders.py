"""The contract of every encoder: the fake, the bundled one and random ones of the real formats."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from bundles import OPENAI, SIGMOID, SMALL, SMALL_TEXT, SQUASH, export_bundle, save_bundle
from fakes import ColourEncoder
from safetensors.torch import load_file, save_file

from openvocab import weights
from openvocab.encoders import OpenClipEncoder
from openvocab.errors import ModelError, WeightsNotFoundError
from openvocab.io import load_image
from openvocab.types import Encoder, Features, Image

BOXES = np.array(
    [[17, 230, 801, 768], [48, 398, 245, 902], [670, 392, 810, 878], [300, 300, 303, 304]],
    np.float32,
)
NO_BOXES = np.empty((0, 4), np.float32)


def bundle(model_cfg: dict, preprocess_cfg: dict) -> Callable[[Path], Encoder]:
    return lambda folder: OpenClipEncoder(save_bundle(folder, model_cfg, preprocess_cfg))


def exported(runtime: str, precision: str) -> Callable[[Path], Encoder]:
    def make(folder: Path) -> Encoder:
        save_bundle(folder, SMALL, OPENAI)
        export_bundle(folder, runtime, precision)
        return OpenClipEncoder(folder)

    return make


ENCODERS: dict[str, Callable[[Path], Encoder]] = {
    "fake": lambda _: ColourEncoder(),
    "starter": lambda _: OpenClipEncoder(weights.resolve("starter-encoder")),
    "ViT-B-32": bundle(open_clip.get_model_config("ViT-B-32"), OPENAI),
    "small softmax": bundle(SMALL, OPENAI),
    "small sigmoid": bundle(SIGMOID, SQUASH),
    "onnx fp32": exported("onnx", "fp32"),
    "onnx int8": exported("onnx", "int8"),
    "openvino fp32": exported("openvino", "fp32"),
    "openvino bf16": exported("openvino", "bf16"),
}
# Dynamic int8 derives its scales from all regions of a batch.
TOLERANCES = {"onnx int8": 2e-2}
SLOW = {"onnx int8", "openvino fp32", "openvino bf16"}
PARAMS = [
    pytest.param(
        name,
        marks=pytest.mark.slow if name in SLOW else () if name == "fake" else pytest.mark.weights,
    )
    for name in ENCODERS
]


@pytest.fixture(scope="module", params=PARAMS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return ENCODERS[request.param](tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def photos(assets: Path) -> list[Image]:
    return [load_image(assets / name) for name in ("bus.jpg", "zidane.jpg")]


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    return TOLERANCES.get(request.node.callspec.params["encoder"], 1e-4)


def cosines(left: Features, right: Features) -> Features:
    return (left * right).sum(axis=1)


def test_the_constants_of_an_encoder_are_in_range(encoder):
    assert encoder.logit_scale > 1
    assert encoder.logit_bias is None or encoder.logit_bias < 0
    assert encoder.fingerprint


def test_features_are_unit_rows_of_one_width(encoder, photos):
    (regions,) = encoder.encode_regions(photos[:1], [BOXES])
    words = encoder.encode_text(["a bus", "a person", "word " * 200])
    assert regions.shape == (4, words.shape[1])
    for rows in (regions, words):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


def test_no_images_boxes_or_prompts_give_no_features(encoder, photos):
    width = encoder.encode_text(["a"]).shape[1]
    assert encoder.encode_text([]).shape == (0, width)
    assert encoder.encode_regions([], []) == []
    first, second = encoder.encode_regions(photos, [NO_BOXES, BOXES[:1]])
    assert first.shape == (0, width)
    assert second.shape == (1, width)


def test_a_batch_equals_one_by_one_in_order(encoder, photos, tolerance):
    together = encoder.encode_regions(photos, [BOXES, BOXES[:2]])
    apart = [
        encoder.encode_regions([photo], [boxes])[0]
        for photo, boxes in zip(photos, [BOXES, BOXES[:2]], strict=True)
    ]
    for left, right in zip(together, apart, strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance)
    np.testing.assert_allclose(
        encoder.encode_text(["a bus", "a dog"])[1:], encoder.encode_text(["a dog"]), atol=1e-4
    )


def test_threads_get_the_same_features(encoder, photos):
    (expected,) = encoder.encode_regions(photos[:1], [BOXES])
    with ThreadPoolExecutor(4) as pool:
        features = pool.map(lambda _: encoder.encode_regions(photos[:1], [BOXES])[0], range(8))
    for rows in features:
        np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.weights
def test_preprocessing_is_that_of_open_clip(photos):
    """The starter encoder squashes crops, as open_clip's own transform does."""
    folder = weights.resolve("starter-encoder")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    photo = PIL.Image.fromarray(photos[0][:, :, ::-1])
    crops = [photo.crop(tuple(box)) for box in BOXES.astype(int).tolist()]
    with torch.inference_mode():
        batch = torch.stack([transform(crop) for crop in crops])
        expected = model.encode_image(batch, normalize=True).numpy()
    (features,) = OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])
    assert cosines(features, expected).min() > 0.995


@pytest.mark.weights
def test_the_onnx_graph_of_a_bundle_gives_the_features_of_its_torch_model(photos, tmp_path):
    folder = weights.resolve("starter-encoder")
    plain = shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("*.onnx"))
    (from_graph,) = OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])
    (from_torch,) = OpenClipEncoder(plain).encode_regions(photos[:1], [BOXES])
    np.testing.assert_allclose(from_graph, from_torch, atol=1e-4)


@pytest.mark.weights
@pytest.mark.parametrize("damage", ["other weights", "other preprocessing", "not a graph"])
def test_a_graph_that_does_not_match_its_bundle_is_refused(tmp_path, damage):
    folder = shutil.copytree(weights.resolve("starter-encoder"), tmp_path / "bundle")
    if damage == "not a graph":
        (folder / "image.onnx").write_bytes(b"not a graph")
    elif damage == "other preprocessing":
        config = folder / "open_clip_config.json"
        config.write_text(config.read_text().replace("0.498", "0.5"))
    else:
        file = folder / "open_clip_model.safetensors"
        save_file(load_file(file), file, metadata={"trained": "again"})
    with pytest.raises(ModelError, match=r"image\.onnx .*delete it"):
        OpenClipEncoder(folder)


@pytest.mark.weights
def test_the_resize_is_as_close_to_pils_as_the_docstring_says(photos):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    crops = torch.cat(list(encoder.crop_batches(photos[:1], [BOXES]))).flip(3).numpy()
    photo = PIL.Image.fromarray(photos[0][:, :, ::-1])
    for crop, box in zip(crops, BOXES.astype(int).tolist(), strict=True):
        reference = photo.crop(tuple(box)).resize((224, 224), PIL.Image.Resampling.BICUBIC)
        difference = np.abs(crop.astype(float) - np.asarray(reference, float))
        assert difference.max() <= 8
        assert difference.mean() <= 0.2


LARGE = np.array(
    [[0, 0, 3232, 4320], [104, 1008, 2200, 2904], [1296, 2000, 3232, 4320], [8, 16, 1000, 1000]]
)


@pytest.fixture(scope="module")
def large(photos) -> Image:
    return cv2.resize(photos[0], (3239, 4321), interpolation=cv2.INTER_CUBIC)


@pytest.mark.weights
def test_a_large_box_is_cropped_from_a_halved_image(large):
    """As close to PIL's resize as the docstring says, for boxes with even edges."""
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    crops = (
        torch.cat(list(encoder.crop_batches([large], [LARGE.astype(np.float32)]))).flip(3).numpy()
    )
    photo = PIL.Image.fromarray(large[:, :, ::-1])
    for crop, box in zip(crops, LARGE.tolist(), strict=True):
        reference = photo.crop(tuple(box)).resize((224, 224), PIL.Image.Resampling.BICUBIC)
        assert np.abs(crop.astype(float) - np.asarray(reference, float)).mean() <= 1


@pytest.mark.weights
def test_a_large_box_with_odd_edges_gives_nearly_the_same_features(large, monkeypatch):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    boxes = (LARGE + np.array([1, 3, 2, 1])).astype(np.float32)
    (halved,) = encoder.encode_regions([large], [boxes])
    monkeypatch.setattr("openvocab.encoders._crops._REDUCING_GAP", 1000)
    (exact,) = encoder.encode_regions([large], [boxes])
    assert 0.99 < cosines(halved, exact).min() < 1 - 1e-6


@pytest.mark.weights
@pytest.mark.parametrize("size_wh", [(3000, 40), (40, 3000), (897, 897), (1, 1)])
def test_boxes_of_any_shape_are_cropped(size_wh):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    width, height = size_wh
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    (batch,) = encoder.crop_batches([image], [np.array([[0, 0, width, height]], np.float32)])
    assert tuple(batch.shape) == (1, 224, 224, 3)


@pytest.mark.weights
def test_the_fingerprint_covers_the_preprocessing_and_is_reproducible(tmp_path):
    plain = save_bundle(tmp_path / "plain", SMALL, OPENAI)
    other = save_bundle(tmp_path / "other", SMALL, SQUASH)
    prints = {
        OpenClipEncoder(plain).fingerprint,
        OpenClipEncoder(other).fingerprint,
    }
    assert len(prints) == 2
    assert OpenClipEncoder(plain).fingerprint in prints


@pytest.mark.weights
def test_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"open_clip_config\.json"):
        OpenClipEncoder(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="not in the local cache"):
        OpenClipEncoder("ViT-B-32:laion2b_s34b_b79k")
    with pytest.raises(WeightsNotFoundError, match="not in the local cache"):
        OpenClipEncoder("no such:model")


@pytest.mark.weights
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "config", "shapes", "no tower"])
def test_a_damaged_bundle_is_refused_and_never_gets_random_weights(tmp_path, damage):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    file, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if damage == "config":
        config.write_text("{")
    elif damage == "no tower":
        config.write_text(json.dumps({"model_cfg": {"embed_dim": 32}, "preprocess_cfg": OPENAI}))
    elif damage == "shapes":
        config.write_text(config.read_text().replace('"embed_dim": 32', '"embed_dim": 48'))
    else:
        whole = file.read_bytes()
        cut = {"empty": b"", "text": b"not a model", "truncated": whole[: len(whole) // 2]}
        file.write_bytes(cut[damage])
    with pytest.raises(ModelError, match="cannot be loaded"):
        OpenClipEncoder(folder)


@pytest.mark.weights
@pytest.mark.parametrize(
    "preprocessing",
    [{"size": []}, {"size": 96}, {"size": "big"}, {"interpolation": "random"}, {"mean": "dark"},
     {"mean": [0.5]}, {"std": [0, 0, 0]}, {"size": [64, 32]}, {"resize_mode": "odd"}, None],
)  # fmt: skip
def test_invalid_preprocessing_is_refused_on_loading(tmp_path, preprocessing):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    config = {"model_cfg": SMALL, "preprocess_cfg": preprocessing and OPENAI | preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"again\.$"):
        OpenClipEncoder(folder)


def test_a_batch_size_of_zero_is_refused(tmp_path):
    with pytest.raises(ModelError, match="give 1 or more"):
        OpenClipEncoder(tmp_path, batch_size=0)


@pytest.mark.weights
def test_weights_that_are_not_finite_are_reported_on_first_use(tmp_path, photos):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.proj"][3] = float("nan")
    save_file(state, file)
    with pytest.raises(ModelError, match="not numbers"):
        OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])


@pytest.mark.weights
def test_a_read_only_image_is_accepted(photos):
    locked = photos[0].copy()
    locked.setflags(write=False)
    (rows,) = OpenClipEncoder(weights.resolve("starter-encoder")).encode_regions([locked], [BOXES])
    assert len(rows) == len(BOXES)


@pytest.mark.weights
@pytest.mark.parametrize("device", ["toaster", "cuda:99", "", "meta"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(ModelError, match="no device"):
        OpenClipEncoder(weights.resolve("starter-encoder"), device=device)


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
@pytest.mark.weights
def test_a_tokenizer_that_needs_transformers_names_the_extra_to_install(tmp_path):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = SMALL_TEXT | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"openvocab\[transformers\]"):
        OpenClipEncoder(folder)


@pytest.mark.weights
def test_a_model_in_the_cache_of_open_clip_is_used(tmp_path, monkeypatch):
    """The layout is that of huggingface_hub; no network is used."""
    hub = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = tmp_path / f"models--{hub.replace('/', '--')}" / "snapshots" / "abc"
    save_bundle(snapshot, SMALL, OPENAI)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert OpenClipEncoder("ViT-B-32:laion2b_s34b_b79k").encode_text(["a"]).shape == (1, 32)
    shutil.rmtree(snapshot)
