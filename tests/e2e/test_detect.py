"""The main job, with the bundled weights on two real photos and no network."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from numpy.testing import assert_allclose

import openvocab
from openvocab import OpenVocabDetector, OpenVocabError, detector, errors, weights
from openvocab.encoders.openclip import OpenClipEncoder
from openvocab.errors import ConfigError, ModelError, WeightsNotFoundError
from openvocab.io import images
from openvocab.types import Features, Image

BUS, PEOPLE = (17, 230, 801, 768), ((48, 398, 245, 902), (221, 405, 345, 861), (670, 392, 810, 878))
TIE = (980, 302, 1028, 423)


class CountingEncoder(OpenClipEncoder):
    """The real encoder; also says how many text forwards were made."""

    forwards: list[list[str]]

    def encode_text(self, prompts) -> Features:
        self.__dict__.setdefault("forwards", []).append(list(prompts))
        return super().encode_text(prompts)


@pytest.fixture(scope="module")
def detector() -> OpenVocabDetector:
    loaded = OpenVocabDetector.from_preset("starter")
    encoder = CountingEncoder(weights.resolve("starter-encoder"))
    return OpenVocabDetector(loaded.proposer, encoder, loaded.preset)


@pytest.fixture(scope="module")
def bus(assets: Path) -> Image:
    return images.load(assets / "bus.jpg")


@pytest.fixture(scope="module")
def zidane(assets: Path) -> Image:
    return images.load(assets / "zidane.jpg")


def named(found: sv.Detections, name: str, box: tuple[float, ...], overlap: float = 0.5) -> bool:
    """Whether a box of that name lies there."""
    ours = found.xyxy[found.data["class_name"] == name]
    return bool((sv.box_iou_batch(np.array([box], float), ours) > overlap).any())


def names(found: sv.Detections) -> set[str]:
    return set(found.data["class_name"])


def test_the_public_function_finds_the_bus_and_the_people_and_nothing_else(assets):
    found = openvocab.detect(assets / "bus.jpg", ["bus", "person", "traffic light", "dog"])
    assert named(found, "bus", BUS)
    assert sum(named(found, "person", person) for person in PEOPLE) == 3
    assert names(found) == {"bus", "person"}
    assert (found.data["class_name"] == "bus").sum() == 1
    assert (found.confidence >= 0.3).all()


def test_other_words_for_the_same_things_are_understood(detector, bus, zidane):
    words = ["automobile", "pedestrian", "necktie"]
    street, pitch = detector.detect_batch([bus, zidane], words)
    assert sum(named(street, "pedestrian", person) for person in PEOPLE) == 3
    assert names(street) == {"pedestrian"}
    assert names(pitch) == {"pedestrian", "necktie"}
    assert (pitch.data["class_name"] == "pedestrian").sum() == 2
    assert named(pitch, "necktie", TIE)


def test_nothing_is_found_of_what_is_not_there(detector, bus, zidane):
    for found in detector.detect_batch([bus, zidane], ["giraffe", "pizza"]):
        assert len(found) == 0


def test_a_broader_word_covers_its_kinds(detector, bus):
    assert named(detector.detect(bus, ["vehicle"]), "vehicle", BUS)


def test_every_column_is_there_and_in_range(detector, bus):
    found = detector.detect(bus, ["bus", "person"])
    assert set(found.data) == {
        "class_name", "objectness", "similarity", "posterior", "margin", "proposal_label"
    }  # fmt: skip
    for key in ("objectness", "posterior"):
        assert ((found.data[key] >= 0) & (found.data[key] <= 1)).all()
    assert (np.abs(found.data["similarity"]) <= 1).all()
    assert (np.diff(found.confidence) <= 0).all()
    assert len(found[found.confidence > 0.9]) >= 1


def test_permuting_classes_permutes_only_the_ids(detector, bus):
    one = detector.detect(bus, ["bus", "person", "dog"])
    two = detector.detect(bus, ["dog", "bus", "person"])
    assert_allclose(one.xyxy, two.xyxy)
    assert_allclose(one.confidence, two.confidence, atol=1e-5)
    assert [(index + 1) % 3 for index in one.class_id] == list(two.class_id)


def test_an_unrelated_class_changes_no_score(detector, bus):
    few = detector.detect(bus, ["bus", "person"])
    many = detector.detect(bus, ["bus", "violin", "person", "giraffe", "lighthouse"])
    assert list(few.data["class_name"]) == list(many.data["class_name"])
    assert_allclose(few.confidence, many.confidence, atol=1e-5)


def test_a_batch_equals_one_by_one(detector, bus, zidane):
    words = ["bus", "person", "tie"]
    for image, found in zip(
        (bus, zidane), detector.detect_batch([bus, zidane], words), strict=True
    ):
        alone = detector.detect(image, words)
        assert_allclose(found.xyxy, alone.xyxy, atol=1e-4)
        assert_allclose(found.confidence, alone.confidence, atol=1e-4)
        assert list(found.class_id) == list(alone.class_id)


def test_eight_threads_with_eight_class_lists_give_the_single_thread_results(detector, bus):
    lists = [
        ["bus"], ["person"], ["bus", "dog"], ["pedestrian", "wheel"], ["coach", "tie"],
        ["giraffe"], ["vehicle", "woman"], ["man", "bus", "traffic light"],
    ]  # fmt: skip
    expected = [detector.detect(bus, words) for words in lists]
    fresh = OpenVocabDetector(detector.proposer, detector.encoder, detector.preset)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda words: fresh.detect(bus, words), lists))
    for left, right in zip(expected, found, strict=True):
        assert_allclose(left.xyxy, right.xyxy, atol=1e-4)
        assert_allclose(left.confidence, right.confidence, atol=1e-4)
        assert list(left.class_id) == list(right.class_id)


def test_known_classes_make_no_text_forward_and_a_new_word_exactly_one(detector, bus):
    detector.detect(bus, ["bus", "person"])
    detector.encoder.forwards.clear()
    detector.detect(bus, ["person", "bus"])
    assert detector.encoder.forwards == []
    detector.detect(bus, ["person", "unicycle", "bus"])
    assert len(detector.encoder.forwards) == 1
    assert all("unicycle" in prompt for prompt in detector.encoder.forwards[0])


def test_an_example_picture_stands_for_a_class(detector, bus):
    x1, y1, x2, y2 = BUS
    example = np.ascontiguousarray(bus[y1:y2, x1:x2])
    found = detector.detect(bus, {"our shuttle": [example, "bus"]})
    assert named(found, "our shuttle", BUS)


def test_the_words_of_lvis_and_very_long_ones_are_taken(detector, bus):
    words = ["bus", "a bus " * 100, *[f"thing number {index}" for index in range(1201)]]
    found = detector.detect(bus, words)
    assert len(detector.vocabulary(words)) == 1203
    assert found.class_id.max() < 1203
    assert named(found, "bus", BUS) or named(found, words[1], BUS)


def test_a_picture_with_nothing_in_it_is_no_trouble(detector):
    blank = np.full((64, 64, 3), 127, np.uint8)
    assert len(detector.detect(blank, ["bus"])) == 0
    assert detector.detect_batch([], ["bus"]) == []


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("fast", "openvocab weights pull fast"),
        ("balanced", "openvocab weights pull balanced"),
        ("accurate", "openvocab weights pull accurate"),
    ],
)
def test_a_preset_without_its_weights_names_the_command(tmp_path, monkeypatch, preset, message):
    monkeypatch.setenv("OPENVOCAB_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsNotFoundError, match=message):
        OpenVocabDetector.from_preset(preset)


def test_an_unknown_preset_suggests_a_near_one():
    with pytest.raises(ConfigError, match="did you mean 'starter'"):
        OpenVocabDetector.from_preset("startr")


def test_a_preset_of_ones_own_with_damaged_weights_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no network")
    preset = tmp_path / "mine.toml"
    preset.write_text(f'detector = "{tmp_path}/net.onnx"\nencoder = "starter-encoder"\n')
    with pytest.raises(ModelError, match=r"net\.onnx cannot be loaded"):
        OpenVocabDetector.from_preset(preset)


def test_the_number_of_boxes_of_a_preset_holds_with_tiles(bus):
    preset = dataclasses.replace(load("starter"), tile_size=480, max_boxes=7)
    (found,) = OpenVocabDetector.from_preset(preset).proposer.propose([bus])
    (whole,) = OpenVocabDetector.from_preset("starter").proposer.propose([bus])
    assert len(found) == 7
    assert found.objectness.sum() > whole.objectness[:7].sum()


def test_every_error_of_ours_is_one_family():
    family = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(family) >= 7
    assert all(issubclass(error, OpenVocabError) for error in family)


def test_a_preset_is_what_its_file_says_now_and_here(assets, tmp_path, monkeypatch):
    text = 'detector = "starter-detector"\nencoder = "starter-encoder"\nscore_threshold = '
    for place, threshold in (("a", 0.3), ("b", 0.999)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.toml").write_text(f"{text}{threshold}\n")
    counts = []
    for place in ("a", "b"):
        monkeypatch.chdir(tmp_path / place)
        counts.append(len(openvocab.detect(assets / "bus.jpg", ["person"], preset="mine.toml")))
    (tmp_path / "b/mine.toml").write_text(f"{text}0.3\n")
    counts.append(len(openvocab.detect(assets / "bus.jpg", ["person"], preset="mine.toml")))
    assert counts[1] == 0 < counts[0] == counts[2]
    starter, other = api._detector(load("starter")), api._detector(load("mine.toml"))
    assert starter.encoder is other.encoder  # nothing is loaded twice
    with pytest.raises(ConfigError, match="pass a name, a path or a Preset"):
        openvocab.detect(assets / "bus.jpg", ["person"], preset=5)
