"""What every encoder keeps, over the fake, the bundled one and random ones of the real formats."""

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
from openvocab.encoders.openclip import OpenClipEncoder
from openvocab.errors import ModelError, WeightsNotFoundError
from openvocab.io import images
from openvocab.types import Encoder, Features, Image

BOXES = np.array(
    [[17, 230, 801, 768], [48, 398, 245, 902], [670, 392, 810, 878], [300, 300, 303, 304]],
    np.float32,
)
NONE = np.empty((0, 4), np.float32)


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
# Dynamic int8 chooses the scale of what goes through it from all regions of a batch.
COARSE = {"onnx int8": 2e-2}


SLOW = {"onnx int8", "openvino fp32", "openvino bf16"}
PARAMS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ENCODERS]


@pytest.fixture(scope="module", params=PARAMS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return ENCODERS[request.param](tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def photos(assets: Path) -> list[Image]:
    return [images.load_image(assets / name) for name in ("bus.jpg", "zidane.jpg")]


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    return COARSE.get(request.node.callspec.params["encoder"], 1e-4)


def cosines(left: Features, right: Features) -> Features:
    return (left * right).sum(axis=1)


def test_it_keeps_the_protocol(encoder):
    assert isinstance(encoder, Encoder)
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


def test_nothing_in_gives_nothing_out(encoder, photos):
    width = encoder.encode_text(["a"]).shape[1]
    assert encoder.encode_text([]).shape == (0, width)
    assert encoder.encode_regions([], []) == []
    first, second = encoder.encode_regions(photos, [NONE, BOXES[:1]])
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
        found = list(pool.map(lambda _: encoder.encode_regions(photos[:1], [BOXES])[0], range(8)))
    for rows in found:
        np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_preprocessing_is_open_clips_own(photos):
    """The starter squashes: a box goes through open_clip's transform as the crop would."""
    folder = weights.resolve("starter-encoder")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    photo = PIL.Image.fromarray(photos[0][:, :, ::-1])
    crops = [photo.crop(tuple(box)) for box in BOXES.astype(int).tolist()]
    with torch.inference_mode():
        batch = torch.stack([transform(crop) for crop in crops])
        expected = model.encode_image(batch, normalize=True).numpy()
    (found,) = OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])
    assert cosines(found, expected).min() > 0.995


def test_the_graph_beside_a_bundle_gives_what_its_torch_model_gives(photos, tmp_path):
    folder = weights.resolve("starter-encoder")
    plain = shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("*.onnx"))
    (fast,) = OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])
    (slow,) = OpenClipEncoder(plain).encode_regions(photos[:1], [BOXES])
    np.testing.assert_allclose(fast, slow, atol=1e-4)


@pytest.mark.parametrize("damage", ["other weights", "other preprocessing", "no graph"])
def test_a_graph_that_does_not_fit_its_bundle_is_refused(tmp_path, damage):
    folder = shutil.copytree(weights.resolve("starter-encoder"), tmp_path / "bundle")
    if damage == "no graph":
        (folder / "image.onnx").write_bytes(b"this is no graph")
    elif damage == "other preprocessing":
        config = folder / "open_clip_config.json"
        config.write_text(config.read_text().replace("0.498", "0.5"))
    else:
        file = folder / "open_clip_model.safetensors"
        save_file(load_file(file), file, metadata={"trained": "again"})
    with pytest.raises(ModelError, match=r"image\.onnx .*delete it"):
        OpenClipEncoder(folder)


def test_the_resize_is_as_close_to_pils_as_the_docstring_says(photos):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    crops = torch.cat(list(encoder.regions(photos[:1], [BOXES]))).flip(3).numpy()
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


def test_a_large_box_is_cut_from_a_halved_image(large):
    """As close to PIL's resize as the docstring says, where its edges are those of the halves."""
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    crops = torch.cat(list(encoder.regions([large], [LARGE.astype(np.float32)]))).flip(3).numpy()
    photo = PIL.Image.fromarray(large[:, :, ::-1])
    for crop, box in zip(crops, LARGE.tolist(), strict=True):
        reference = photo.crop(tuple(box)).resize((224, 224), PIL.Image.Resampling.BICUBIC)
        assert np.abs(crop.astype(float) - np.asarray(reference, float)).mean() <= 1


def test_where_its_edges_lie_between_it_shows_the_same(large, monkeypatch):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    boxes = (LARGE + np.array([1, 3, 2, 1])).astype(np.float32)
    (halved,) = encoder.encode_regions([large], [boxes])
    monkeypatch.setattr("openvocab.encoders.crops.GAP", 1000)
    (exact,) = encoder.encode_regions([large], [boxes])
    assert 0.99 < cosines(halved, exact).min() < 1 - 1e-6


@pytest.mark.parametrize("size_wh", [(3000, 40), (40, 3000), (897, 897), (1, 1)])
def test_boxes_of_any_shape_are_cut(size_wh):
    encoder = OpenClipEncoder(weights.resolve("starter-encoder"))
    width, height = size_wh
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    (batch,) = encoder.regions([image], [np.array([[0, 0, width, height]], np.float32)])
    assert tuple(batch.shape) == (1, 224, 224, 3)


def test_fingerprints_tell_weights_and_preprocessing_apart(tmp_path):
    plain = save_bundle(tmp_path / "plain", SMALL, OPENAI)
    other = save_bundle(tmp_path / "other", SMALL, SQUASH)
    prints = {
        OpenClipEncoder(plain).fingerprint,
        OpenClipEncoder(other).fingerprint,
    }
    assert len(prints) == 2
    assert OpenClipEncoder(plain).fingerprint in prints


def test_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"open_clip_config\.json"):
        OpenClipEncoder(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="not in the local cache"):
        OpenClipEncoder("ViT-B-32:laion2b_s34b_b79k")
    with pytest.raises(WeightsNotFoundError, match="not in the local cache"):
        OpenClipEncoder("no such:model")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "config", "shapes", "no tower"])
def test_a_damaged_bundle_is_a_one_line_error_and_never_random_weights(tmp_path, damage):
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
        cut = {"empty": b"", "text": b"this is no model", "truncated": whole[: len(whole) // 2]}
        file.write_bytes(cut[damage])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        OpenClipEncoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "process",
    [{"size": []}, {"size": 96}, {"size": "big"}, {"interpolation": "random"}, {"mean": "dark"},
     {"mean": [0.5]}, {"std": [0, 0, 0]}, {"size": [64, 32]}, {"resize_mode": "odd"}, None],
)  # fmt: skip
def test_preprocessing_that_cannot_be_done_is_refused_at_once(tmp_path, process):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    config = {"model_cfg": SMALL, "preprocess_cfg": process and OPENAI | process}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"again\.$") as caught:
        OpenClipEncoder(folder)
    assert "\n" not in str(caught.value)


def test_a_batch_of_none_is_refused(tmp_path):
    with pytest.raises(ModelError, match="give 1 or more"):
        OpenClipEncoder(tmp_path, batch_size=0)


def test_damage_that_loads_is_noticed_as_it_is_used(tmp_path, photos):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.proj"][3] = float("nan")
    save_file(state, file)
    with pytest.raises(ModelError, match="not numbers"):
        OpenClipEncoder(folder).encode_regions(photos[:1], [BOXES])


def test_a_read_only_image_is_read(photos):
    locked = photos[0].copy()
    locked.setflags(write=False)
    (rows,) = OpenClipEncoder(weights.resolve("starter-encoder")).encode_regions([locked], [BOXES])
    assert len(rows) == len(BOXES)


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_said_to_be(device):
    with pytest.raises(ModelError, match="no device"):
        OpenClipEncoder(weights.resolve("starter-encoder"), device=device)


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
def test_a_tokenizer_that_needs_transformers_says_how_to_get_it(tmp_path):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = SMALL_TEXT | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"openvocab\[transformers\]"):
        OpenClipEncoder(folder)


def test_a_bundle_found_in_the_cache_of_open_clip_is_used(tmp_path, monkeypatch):
    """Laid out as huggingface_hub lays it out; nothing is asked of the network."""
    hub = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = tmp_path / f"models--{hub.replace('/', '--')}" / "snapshots" / "abc"
    save_bundle(snapshot, SMALL, OPENAI)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert OpenClipEncoder("ViT-B-32:laion2b_s34b_b79k").encode_text(["a"]).shape == (1, 32)
    shutil.rmtree(snapshot)
