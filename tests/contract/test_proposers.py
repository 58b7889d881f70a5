"""The contract of every proposer: fakes, the bundled detector, Ultralytics files, and tiled ones."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import supervision as sv
from fakes import FakeProposer

from openvocab import weights
from openvocab.config import ProposalConfig
from openvocab.errors import ModelError, WeightsNotFoundError
from openvocab.io import load_image
from openvocab.proposers import ONNXProposer, TiledProposer, UltralyticsProposer
from openvocab.types import Image, Proposer

IOU = 0.7
CONFIG = ProposalConfig(iou=IOU)
Build = Callable[[pytest.FixtureRequest], Proposer]


def starter(_: pytest.FixtureRequest) -> Proposer:
    return ONNXProposer(weights.resolve("starter-detector"), CONFIG)


def starter_by_ultralytics(_: pytest.FixtureRequest) -> Proposer:
    return UltralyticsProposer(weights.resolve("starter-detector"), CONFIG)


def shared_file(name: str) -> Build:
    def build(request: pytest.FixtureRequest) -> Proposer:
        path = request.getfixturevalue("shared") / "models" / name
        if path.suffix == ".onnx":
            return ONNXProposer(path, CONFIG)
        return UltralyticsProposer(path, CONFIG, trust_pickle=True)

    return build


def untrained(config: str) -> Build:
    """A checkpoint of the real format, with random weights: it proposes boxes everywhere."""

    def build(request: pytest.FixtureRequest) -> Proposer:
        path = request.getfixturevalue("checkpoint")(config)
        return UltralyticsProposer(path, ProposalConfig(threshold=1e-7, iou=IOU), trust_pickle=True)

    return build


def fake(_: pytest.FixtureRequest) -> Proposer:
    return FakeProposer((10, 10, 60, 60), (20, 20, 30, 30))


def tiled(build: Build) -> Build:
    """With tiles small enough to cut both photos, and objects in them."""
    return lambda request: TiledProposer(build(request), 640, iou=IOU)


PROPOSERS = {
    "fake": fake,
    "starter": starter,
    "starter, ultralytics": starter_by_ultralytics,
    "yolo11n.onnx": shared_file("yolo11n.onnx"),
    "yolo26n-e2e.onnx": shared_file("yolo26n-e2e.onnx"),
    "yolo11n.pt": shared_file("yolo11n.pt"),
    "yolo26n": untrained("yolo26n.yaml"),
    "yolo26n-seg": untrained("yolo26n-seg.yaml"),
    "tiled fake": tiled(fake),
    "tiled starter": tiled(starter),
    "tiled yolo26n-seg": tiled(untrained("yolo26n-seg.yaml")),
}
TRAINED = {
    "starter",
    "starter, ultralytics",
    "tiled starter",
    "yolo11n.onnx",
    "yolo26n-e2e.onnx",
    "yolo11n.pt",
}


PARAMS = [
    pytest.param(name, marks=() if name.endswith("fake") else pytest.mark.weights)
    for name in PROPOSERS
]


@pytest.fixture(scope="module", params=PARAMS)
def case(request: pytest.FixtureRequest) -> tuple[str, Proposer]:
    return request.param, PROPOSERS[request.param](request)


@pytest.fixture(scope="module")
def photos(assets: Path) -> list[Image]:
    return [load_image(assets / name) for name in ("bus.jpg", "zidane.jpg")]


def test_labels_are_unique_and_no_images_give_no_proposals(case):
    _, proposer = case
    assert len(set(proposer.labels)) == len(proposer.labels) > 0
    assert proposer.propose([]) == []


def test_boxes_lie_inside_best_first_without_near_duplicates(case, photos):
    _, proposer = case
    for photo, proposals in zip(photos, proposer.propose(photos), strict=True):
        height, width = photo.shape[:2]
        assert len(proposals) > 0
        assert proposals.xyxy.dtype == np.float32
        assert (proposals.xyxy >= 0).all()
        assert (proposals.xyxy[:, 2:] <= (width, height)).all()
        assert (proposals.xyxy[:, 2:] - proposals.xyxy[:, :2] >= 1).all()
        assert ((proposals.objectness >= 0) & (proposals.objectness <= 1)).all()
        assert (np.diff(proposals.objectness) <= 0).all()
        assert ((proposals.label_confidence >= 0) & (proposals.label_confidence <= 1)).all()
        labels = proposals.label_ids
        assert ((labels >= 0) & (labels < len(proposer.labels))).all()
        is_named = proposals.label_confidence >= proposals.objectness
        is_better = np.tri(len(proposals), k=-1, dtype=bool)  # [weaker, better]
        same = is_named[:, None] & is_named & (labels[:, None] == labels)
        others = is_better & (same | ~is_named[:, None])
        overlap = sv.box_iou_batch(proposals.xyxy, proposals.xyxy)[others]
        assert (overlap <= IOU + 1e-3).all()


def test_a_batch_equals_one_by_one(case, photos):
    _, proposer = case
    small = np.ascontiguousarray(photos[0][300:620, 100:500])
    batch = [*photos, small]
    singles = [proposer.propose([photo])[0] for photo in batch]
    for left, right in zip(proposer.propose(batch), singles, strict=True):
        np.testing.assert_allclose(left.xyxy, right.xyxy, atol=1e-2)
        np.testing.assert_allclose(left.objectness, right.objectness, atol=1e-4)
        np.testing.assert_array_equal(left.label_ids, right.label_ids)


def test_masks_have_the_size_of_the_image_or_are_none(case, photos):
    name, proposer = case
    (proposals,) = proposer.propose(photos[:1])
    if not name.endswith("-seg"):
        assert proposals.masks is None
    else:
        assert proposals.masks is not None
        assert proposals.masks.shape == (len(proposals), *photos[0].shape[:2])
        assert proposals.masks.dtype == np.bool_


@pytest.mark.parametrize("shape", [(2, 2, 3), (3, 700, 3), (900, 5, 3)])
def test_images_of_any_shape_are_accepted(case, shape):
    name, proposer = case
    if not name.endswith("fake"):
        (proposals,) = proposer.propose([np.full(shape, 90, np.uint8)])
        assert (proposals.xyxy[:, 2:] <= (shape[1], shape[0])).all()


def test_a_trained_detector_proposes_the_bus_and_the_people(case, photos):
    name, proposer = case
    if name in TRAINED:
        (proposals,) = proposer.propose(photos[:1])
        label_ids = proposals.label_ids[proposals.label_confidence > 0.4]
        confident = [proposer.labels[label_id] for label_id in label_ids]
        assert confident.count("bus") == 1 or (name == "tiled starter" and "bus" in confident)
        assert confident.count("person") >= 3


def test_a_box_of_an_ignored_label_gets_the_next_best(case, photos):
    name, proposer = case
    if name not in TRAINED or "e2e" in name:
        return
    (before,) = proposer.propose(photos[:1])
    without = proposer.with_ignored_labels(["bus", "car"])
    assert set(proposer.labels) - set(without.labels) == {"bus", "car"}
    (proposals,) = without.propose(photos[:1])
    is_bus = before.label_ids == proposer.labels.index("bus")
    bus = before.xyxy[is_bus & (before.objectness > 0.5)][0]  # tiles may add parts of it
    on_it = sv.box_iou_batch(bus[None], proposals.xyxy)[0] > 0.8
    others = {without.labels[label_id] for label_id in proposals.label_ids[on_it]}
    no_label_fits = name in {"starter, ultralytics", "tiled starter"}
    assert others & {"truck", "train"} or no_label_fits
    assert proposals.label_confidence[on_it].max() < 0.3
    people = [
        boxes.xyxy[(boxes.label_ids == of.labels.index("person")) & (boxes.label_confidence > 0.5)]
        for boxes, of in ((before, proposer), (proposals, without))
    ]
    np.testing.assert_array_equal(*people)
    (after,) = proposer.propose(photos[:1])  # the two share a network
    np.testing.assert_array_equal(after.objectness, before.objectness)
    with pytest.raises(ModelError, match="no label 'bus'"):
        without.with_ignored_labels(["bus"])
    with pytest.raises(ModelError, match="leave one"):
        proposer.with_ignored_labels(proposer.labels)


def test_ignored_labels_leave_the_masks(case, photos):
    name, proposer = case
    if not name.endswith("-seg"):
        return
    (before,) = proposer.propose(photos[:1])
    ignored = {proposer.labels[label_id] for label_id in before.label_ids[:5]}
    without = proposer.with_ignored_labels(ignored)
    (proposals,) = without.propose(photos[:1])
    assert not ignored & {without.labels[label_id] for label_id in proposals.label_ids}
    assert proposals.masks.any(axis=(1, 2)).all()


def test_labels_of_a_head_with_one_label_per_box_cannot_be_ignored(case):
    name, proposer = case
    if "e2e" in name:
        with pytest.raises(ModelError, match="one label per box"):
            proposer.with_ignored_labels(proposer.labels[:1])


@pytest.mark.weights
@pytest.mark.parametrize("suffix", [".pt", ".PT", ".pth", ".torchscript", ".engine", ".pb", ""])
def test_a_format_that_can_run_code_needs_trust_pickle(checkpoint, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    shutil.copy(checkpoint("yolo26n.yaml"), path)
    with pytest.raises(ModelError, match="trust_pickle=True"):
        UltralyticsProposer(path)


def test_a_model_without_weights_is_refused_and_not_evaluated(tmp_path):
    """Ultralytics evaluates the activation of a model configuration."""
    path, marker = tmp_path / "net.yaml", tmp_path / "ran"
    path.write_text(f"nc: 1\nactivation: open({str(marker)!r}, 'w')\nbackbone: []\nhead: []\n")
    with pytest.raises(ModelError, match="without weights"):
        UltralyticsProposer(path, trust_pickle=True)
    assert not marker.exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"nope\.onnx"):
        UltralyticsProposer(tmp_path / "nope.onnx")


@pytest.mark.weights
@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".torchscript", ".engine", ".txt", ""])
@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused_and_nothing_is_written_beside_it(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        UltralyticsProposer(path, trust_pickle=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.weights
def test_a_truncated_export_is_refused(tmp_path):
    whole = weights.resolve("starter-detector").read_bytes()
    path = tmp_path / "half.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        UltralyticsProposer(path)


@pytest.mark.weights
def test_a_model_of_another_task_is_refused(checkpoint):
    with pytest.raises(ModelError, match="classify model"):
        UltralyticsProposer(checkpoint("yolo26n-cls.yaml"), trust_pickle=True)


@pytest.mark.weights
def test_a_file_may_have_any_name(tmp_path):
    path = tmp_path / "my detector (1).onnx"
    shutil.copy(weights.resolve("starter-detector"), path)
    assert "bus" in UltralyticsProposer(path).labels


@pytest.fixture(params=["starter", "yolo11n.onnx", "yolo26n-e2e.onnx"])
def onnx_file(request) -> Path:
    if request.param == "starter":
        return weights.resolve("starter-detector")
    return request.getfixturevalue("shared") / "models" / request.param


@pytest.mark.weights
@pytest.mark.parametrize("size", [320, 640])
def test_onnx_runtime_alone_gives_the_boxes_of_ultralytics(onnx_file, photos, size):
    config = ProposalConfig(threshold=0.05, image_size=size)
    square = np.ascontiguousarray(photos[0][:810, :810])  # which neither of the two pads
    (ours,), (theirs,) = (
        build(onnx_file, config).propose([square]) for build in (ONNXProposer, UltralyticsProposer)
    )
    ours, theirs = (  # Ultralytics gives one class per box: "object", or a label
        boxes[boxes.label_confidence >= boxes.objectness] for boxes in (ours, theirs)
    )
    order, their_order = (np.lexsort(boxes.xyxy.round().T) for boxes in (ours, theirs))
    ours, theirs = ours[order], theirs[their_order]
    assert len(ours) == len(theirs) > 5
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=0.05)
    np.testing.assert_allclose(ours.objectness, theirs.objectness, atol=1e-4)
    np.testing.assert_array_equal(ours.label_ids, theirs.label_ids)


@pytest.mark.weights
def test_the_starter_takes_any_size_and_batch(photos):
    proposer = ONNXProposer(weights.resolve("starter-detector"), CONFIG)
    for size in (320, 640, 1280):
        sized = proposer.with_image_size(size)
        (alone,) = sized.propose(photos[:1])
        people = (alone.label_ids == 0) & (alone.label_confidence > 0.5)
        assert people.sum() >= 3
        for boxes in sized.propose([photos[0]] * 9):  # more than go through in one run
            np.testing.assert_allclose(boxes.xyxy, alone.xyxy, atol=1e-2)
            np.testing.assert_allclose(boxes.objectness, alone.objectness, atol=1e-4)


@pytest.mark.weights
def test_threads_share_a_detector(photos):
    proposer = ONNXProposer(weights.resolve("starter-detector"), CONFIG)
    alone = [proposer.propose([photo])[0] for photo in photos]
    with ThreadPoolExecutor(16) as pool:
        results = list(
            pool.map(lambda number: proposer.propose([photos[number % 2]])[0], range(64))
        )
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result.xyxy, alone[number % 2].xyxy)
        np.testing.assert_array_equal(result.objectness, alone[number % 2].objectness)


@pytest.mark.weights
@pytest.mark.parametrize("build", [ONNXProposer, UltralyticsProposer])
def test_objects_without_a_label_are_proposed_but_are_no_label(photos, build):
    proposer = build(weights.resolve("starter-detector"), CONFIG)
    assert len(proposer.labels) == 80
    assert "object" not in proposer.labels
    (proposals,) = proposer.propose(photos[:1])
    is_unnamed = proposals.label_confidence < proposals.objectness
    assert is_unnamed.any()
    assert not is_unnamed.all()


@pytest.mark.weights
def test_a_fixed_export_refuses_other_sizes(request, tmp_path):
    path = tmp_path / "fixed.onnx"
    model = onnx.load(request.getfixturevalue("shared") / "models" / "yolo11n.onnx")
    shape = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, value in zip(shape, (1, 3, 640, 640), strict=True):
        dimension.dim_value = value
    onnx.save(model, path)
    proposer = ONNXProposer(path)
    assert proposer.with_image_size(640).labels == proposer.labels
    with pytest.raises(ModelError, match="exported for 640 pixels, not 320"):
        proposer.with_image_size(320)
    with pytest.raises(ModelError, match="exported for 640 pixels, not 320"):
        ONNXProposer(path, ProposalConfig(image_size=320))
