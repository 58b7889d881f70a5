"""Detection with the bundled weights on two real photos, without a network."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

import openvocab
from openvocab import OpenVocabDetector
from openvocab.config import load_preset
from openvocab.errors import ConfigError, ModelError, WeightsNotFoundError
from openvocab.io import load_image
from openvocab.types import Image

BUS, PEOPLE = (17, 230, 801, 768), ((48, 398, 245, 902), (221, 405, 345, 861), (670, 392, 810, 878))
TIE = (437, 434, 524, 717)


@pytest.fixture(scope="module")
def detector() -> OpenVocabDetector:
    return OpenVocabDetector.from_preset("starter")


@pytest.fixture(scope="module")
def bus(assets: Path) -> Image:
    return load_image(assets / "bus.jpg")


@pytest.fixture(scope="module")
def zidane(assets: Path) -> Image:
    return load_image(assets / "zidane.jpg")


def contains(
    detections: sv.Detections, name: str, box: tuple[float, ...], overlap: float = 0.5
) -> bool:
    """Whether a detection of that class overlaps the box."""
    xyxy = detections.xyxy[detections.data["class_name"] == name]
    return bool((sv.box_iou_batch(np.array([box], float), xyxy) > overlap).any())


def class_names(detections: sv.Detections) -> set[str]:
    return set(detections.data["class_name"])


def test_detect_finds_the_bus_and_the_people_and_nothing_else(assets):
    classes = ["bus", "person", "traffic light", "dog"]
    detections = openvocab.detect(assets / "bus.jpg", classes)
    assert contains(detections, "bus", BUS)
    assert sum(contains(detections, "person", person) for person in PEOPLE) == 3
    assert class_names(detections) == {"bus", "person"}
    assert (detections.data["class_name"] == "bus").sum() == 1
    assert (detections.confidence >= 0.3).all()


def test_synonyms_are_recognised(detector, bus, zidane):
    street, match = detector.detect_batch([bus, zidane], ["automobile", "pedestrian", "necktie"])
    assert sum(contains(street, "pedestrian", person) for person in PEOPLE) == 3
    assert class_names(street) == {"pedestrian"}
    assert class_names(match) == {"pedestrian", "necktie"}
    assert (match.data["class_name"] == "pedestrian").sum() == 2
    assert contains(match, "necktie", TIE)


def test_absent_classes_are_not_detected(detector, bus, zidane):
    for detections in detector.detect_batch([bus, zidane], ["giraffe", "pizza"]):
        assert len(detections) == 0


def test_a_broader_word_covers_its_kinds(detector, bus):
    assert contains(detector.detect(bus, ["vehicle"]), "vehicle", BUS)


def test_every_column_is_present_and_in_range(detector, bus):
    detections = detector.detect(bus, ["bus", "person"])
    assert set(detections.data) == {
        "class_name", "objectness", "similarity", "posterior", "margin", "proposal_label",
        "region_id",
    }  # fmt: skip
    for key in ("objectness", "posterior"):
        assert ((detections.data[key] >= 0) & (detections.data[key] <= 1)).all()
    assert (np.abs(detections.data["similarity"]) <= 1).all()
    assert (np.diff(detections.confidence) <= 0).all()
    assert len(detections[detections.confidence > 0.9]) >= 1


def test_an_example_image_defines_a_class(detector, bus):
    x1, y1, x2, y2 = BUS
    example = np.ascontiguousarray(bus[y1:y2, x1:x2])
    detections = detector.detect(bus, {"our shuttle": [example, "bus"]})
    assert contains(detections, "our shuttle", BUS)


def test_1203_classes_and_very_long_names_are_accepted(detector, bus):
    classes = ["bus", "a bus " * 100, *[f"thing number {index}" for index in range(1201)]]
    detections = detector.detect(bus, classes)
    assert contains(detections, "bus", BUS) or contains(detections, classes[1], BUS)


def test_a_blank_image_and_an_empty_batch_give_no_detections(detector):
    blank = np.full((64, 64, 3), 127, np.uint8)
    assert len(detector.detect(blank, ["bus"])) == 0
    assert detector.detect_batch([], ["bus"]) == []


@pytest.mark.parametrize("preset", ["fast", "balanced", "accurate"])
def test_a_preset_whose_weights_are_missing_names_the_command(tmp_path, monkeypatch, preset):
    monkeypatch.setenv("OPENVOCAB_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsNotFoundError, match=f"openvocab weights pull {preset}"):
        OpenVocabDetector.from_preset(preset)


def test_a_preset_with_damaged_weights_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a network")
    preset = tmp_path / "mine.toml"
    preset.write_text(
        f'[models]\ndetector = "{tmp_path}/net.onnx"\nencoder = "starter-encoder"\n',
        encoding="utf-8",
    )
    with pytest.raises(ModelError, match=r"net\.onnx cannot be loaded"):
        OpenVocabDetector.from_preset(preset)


def test_the_box_limit_of_a_preset_applies_with_tiles(bus, detector):
    starter = load_preset("starter")
    proposals = dataclasses.replace(starter.proposals, tile_size=480, max_boxes=7)
    preset = dataclasses.replace(starter, proposals=proposals)
    (tiled,) = OpenVocabDetector.from_preset(preset).proposer.propose([bus])
    (whole,) = detector.proposer.propose([bus])
    assert len(tiled) == 7
    assert tiled.objectness.sum() > whole.objectness[:7].sum()


def test_a_preset_file_is_read_on_every_call_relative_to_the_working_directory(
    assets, tmp_path, monkeypatch
):
    text = """[models]
detector = "starter-detector"
encoder = "starter-encoder"
[scoring]
score_threshold = """
    for folder, threshold in (("a", 0.3), ("b", 0.999)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f"{text}{threshold}\n")

    def count() -> int:
        return len(openvocab.detect(assets / "bus.jpg", ["person"], preset="mine.toml"))

    monkeypatch.chdir(tmp_path / "a")
    assert count() > 0
    monkeypatch.chdir(tmp_path / "b")
    assert count() == 0
    (tmp_path / "b/mine.toml").write_text(f"{text}0.3\n")
    assert count() > 0
    with pytest.raises(ConfigError, match="pass a name, a path or a Preset"):
        openvocab.detect(assets / "bus.jpg", ["person"], preset=5)
