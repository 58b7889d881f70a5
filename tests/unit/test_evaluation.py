"""The whole of an evaluation, on drawn pictures and fakes whose answers can be seen."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector, Preset
from openvocab.errors import ConfigError, DatasetError
from openvocab.evaluation import calibration, calibration_report, report
from openvocab.evaluation.calibration import calibrate
from openvocab.evaluation.datasets import Dataset, Photo
from openvocab.evaluation.evaluator import evaluate
from openvocab.evaluation.feature_cache import FeatureCache
from openvocab.evaluation.inference import absent_words
from openvocab.evaluation.prompt_variants import PromptMap, PromptVariant, prompt_variants
from openvocab.evaluation.provenance import provenance

LEFT, RIGHT = (10, 10, 50, 50), (60, 10, 100, 50)
RED, BLUE, GREY = (0, 0, 255), (255, 0, 0), (128, 128, 128)
CLASSES = ("red", "blue")
PRESET = Preset(name="mine", detector="none", encoder="none", background=("background",))


def drawn(folder: Path, number: int, left: tuple, right: tuple) -> Photo:
    picture = np.full((60, 110, 3), 255, np.uint8)
    for (x1, y1, x2, y2), colour in ((LEFT, left), (RIGHT, right)):
        picture[y1:y2, x1:x2] = colour
    path = folder / f"{number:03}.png"
    cv2.imwrite(str(path), picture)
    known = {RED: 0, BLUE: 1}
    pairs = [(box, known[c]) for box, c in ((LEFT, left), (RIGHT, right)) if c in known]
    boxes = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
    ids = np.array([class_id for _, class_id in pairs], np.intp)
    areas = np.full(len(ids), 1600.0)
    return Photo(number, path, (110, 60), boxes, ids, np.zeros(len(ids), bool), areas)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    pairs = [(RED, BLUE), (BLUE, RED), (RED, GREY), (GREY, GREY)]
    photos = [drawn(tmp_path, number, *pair) for number, pair in enumerate(pairs)]
    return Dataset("drawn", "coco", CLASSES, tuple(photos), "hash")


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder) -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET)


def test_what_is_right_is_counted_right_in_any_words(detector, dataset):
    words = PromptMap(tables={"synonyms": {"red": "crimson"}})
    found = evaluate(detector, dataset, prompt_variants(CLASSES, words))
    figures = found.figures()["prompt_variants"]
    assert list(figures) == ["names", "upper case", "a photo of", "synonyms"]
    for name in ("names", "a photo of", "synonyms"):
        assert figures[name]["AP50"] == pytest.approx(1)
        assert figures[name]["encoder_accuracy"] == 1


def test_swapped_words_are_counted_wrong(detector, dataset):
    found = evaluate(detector, dataset, [PromptVariant("swapped", ("blue", "red"))])
    assert found.figures()["prompt_variants"]["swapped"]["AP50"] == 0
    assert found.confusion[:2, :2].trace() == 0


def test_the_proposals_are_judged_without_names(detector, dataset):
    recall = evaluate(detector, dataset, [PromptVariant("swapped", ("blue", "red"))]).recall
    assert recall == dict.fromkeys((10, 30, 100, 300), 1.0)


@pytest.mark.parametrize(
    ("labels", "known"),
    [(("red", "blue"), True), (("red", "thing"), True), (("thing",) * 2, False)],
)
def test_the_detector_by_itself_is_measured_if_it_knows_a_class(encoder, dataset, labels, known):
    proposer = FakeProposer(LEFT, RIGHT, labels=labels)
    found = evaluate(
        OpenVocabDetector(proposer, encoder, PRESET), dataset, prompt_variants(CLASSES)[:1]
    )
    assert (found.own is not None) == known


def test_absent_classes_are_not_in_the_photo_and_the_same_each_time(dataset):
    words = [f"word {number}" for number in range(9)]
    ten = Dataset("ten", "coco", tuple(f"class {n}" for n in range(10)), dataset.photos, "")
    for photo in ten.photos:
        asked = absent_words(ten, photo, words)
        assert asked == absent_words(ten, photo, words)
        assert {len(each) for each in asked.values()} == {5}
        there = {ten.classes[place] for place in photo.labelled}
        assert not there & set(asked["classes of the dataset"])


def test_false_labels_are_boxes_for_what_is_not_there(detector, dataset):
    calm = evaluate(
        detector, dataset, prompt_variants(CLASSES)[:1], absent=["cat", "dog", "cow", "hat", "pen"]
    )
    assert calm.false_labels == {"absent words": 0}
    wild = evaluate(
        detector,
        dataset,
        prompt_variants(CLASSES)[:1],
        absent=["green", "dog", "cow", "hat", "crimson"],
    )
    assert wild.false_labels["absent words"] > 0


def test_a_run_goes_on_where_it_stopped(detector, encoder, dataset, tmp_path):
    def stopped(photos):
        yield from photos[:2]
        raise KeyboardInterrupt

    see = FeatureCache(detector, tmp_path / "seen")
    with pytest.raises(KeyboardInterrupt):
        evaluate(detector, dataset, prompt_variants(CLASSES), see=see, track=stopped)
    first = encoder.image_forwards
    whole = evaluate(detector, dataset, prompt_variants(CLASSES), see=see)
    assert encoder.image_forwards == 2 * first
    again = evaluate(detector, dataset, prompt_variants(CLASSES), see=see)
    assert encoder.image_forwards == 2 * first
    first, second = ({**each.figures(), "seconds_per_photo": 0} for each in (whole, again))
    assert json.dumps(first) == json.dumps(second)  # NaN is not equal to NaN


def test_a_damaged_file_is_seen_again(detector, encoder, dataset, tmp_path):
    see = FeatureCache(detector, tmp_path / "seen")
    see(dataset.photos[0])
    (kept,) = (tmp_path / "seen").rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    before = encoder.image_forwards
    assert len(see(dataset.photos[0]).regions.features) == 2
    assert encoder.image_forwards > before


def test_another_preset_sees_for_itself(detector, dataset, tmp_path):
    FeatureCache(detector, tmp_path)(dataset.photos[0])
    FeatureCache(detector.tuned(context_scales=(1.0,)), tmp_path)(dataset.photos[0])
    FeatureCache(detector.tuned(fusion_exponent=0.9), tmp_path)(dataset.photos[0])
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2


def test_photos_that_cannot_be_read_are_left_out_and_named(detector, dataset):
    dataset.photos[1].path.write_bytes(b"no")
    found = evaluate(detector, dataset, prompt_variants(CLASSES)[:1])
    assert len(found.dataset) == 3
    assert "001.png" in found.figures()["dataset"]["unread"][0]


def test_photos_of_one_name_and_changed_photos_are_not_mistaken(detector, encoder, tmp_path):
    see = FeatureCache(detector, tmp_path / "seen")
    for camera, colour in (("one", RED), ("two", BLUE)):
        (tmp_path / camera).mkdir()
        photo = drawn(tmp_path / camera, 1, colour, GREY)
        first = see(photo).regions.features
        photo.path.write_bytes(drawn(tmp_path, 9, GREY, colour).path.read_bytes())
        assert not np.allclose(first, see(photo).regions.features)
    assert len(list((tmp_path / "seen").rglob("*.npz"))) == 4


def test_nothing_labelled_is_an_error(detector, tmp_path):
    empty = Dataset("empty", "coco", CLASSES, (drawn(tmp_path, 1, GREY, GREY),), "hash")
    with pytest.raises(DatasetError, match="has a labelled box; label some"):
        evaluate(detector, empty, prompt_variants(CLASSES)[:1])


def test_a_class_that_is_there_is_never_absent(dataset):
    words = ["red", "Blue", "cat", "dog", "cow", "hat", "pen"]
    for photo in dataset.photos:
        assert not {"red", "Blue"} & set(absent_words(dataset, photo, words)["absent words"])


def test_no_photo_at_all_is_an_error(detector, dataset):
    for photo in dataset.photos:
        photo.path.unlink()
    with pytest.raises(DatasetError, match="No photo of drawn can be read"):
        evaluate(detector, dataset, prompt_variants(CLASSES)[:1])


def test_the_page_needs_nothing_else_and_escapes_names(detector, dataset, encoder):
    evil = Dataset("<script>", "coco", ("<b>red</b>", "blue"), dataset.photos, "hash")
    found = evaluate(detector, evil, [PromptVariant("names", ("crimson", "red"))])
    results = {"provenance": provenance(detector), "preset": {"name": "mine"}} | found.figures()
    text = report.html(found, results)
    assert "<script>" not in text
    assert "<b>red" not in text
    assert "data:image/jpeg;base64," in text  # mistakes
    for outside in ("http://", "https://", 'src="/', "@import"):
        inside = text.replace("http://www.w3.org", "").replace("http://purl.org", "")
        inside = inside.replace("http://creativecommons.org", "").replace(
            "https://matplotlib.org", ""
        )
        assert outside not in inside


def many(folder: Path, count: int) -> Dataset:
    chance = np.random.default_rng(0)
    colours = [RED, BLUE, GREY]
    photos = [
        drawn(folder, number, *(colours[place] for place in chance.integers(0, 3, 2)))
        for number in range(count)
    ]
    return Dataset("drawn", "coco", CLASSES, tuple(photos), "hash")


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_BOXES", 20)


@pytest.mark.parametrize(("photos", "boxes"), [(49, 20), (60, 300)])
def test_too_little_is_not_fitted_to(detector, tmp_path, monkeypatch, photos, boxes):
    monkeypatch.setattr(calibration, "LEAST_BOXES", boxes)
    with pytest.raises(DatasetError, match="label at least 50 photos"):
        calibrate(detector, many(tmp_path, photos), prompt_variants(CLASSES)[:1])


@pytest.mark.usefixtures("little")
def test_a_bad_number_is_mended_and_a_good_one_stays(encoder, tmp_path):
    data = many(tmp_path, 60)
    # Grey boxes score as high as coloured ones when the posterior does not count at all.
    blind = OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET).tuned(fusion_exponent=0.0)
    fitted = calibrate(blind, data, prompt_variants(CLASSES)[:1])
    assert fitted.better
    assert fitted.numbers["fusion_exponent"] > 0
    assert fitted.after.objective > fitted.before.objective
    again = calibrate(blind.tuned(**fitted.numbers), data, prompt_variants(CLASSES)[:1])
    assert again.numbers["fusion_exponent"] == fitted.numbers["fusion_exponent"]
    assert again.after.objective >= fitted.after.objective


@pytest.mark.usefixtures("little")
def test_before_is_the_preset_at_its_own_threshold(detector, tmp_path):
    data = many(tmp_path, 60)
    deaf = detector.tuned(score_threshold=0.99)
    fitted = calibrate(deaf, data, prompt_variants(CLASSES)[:1])
    assert (fitted.before.threshold, fitted.before.f1) == (0.99, 0)
    assert fitted.after.f1 > 0.5
    assert fitted.numbers["score_threshold"] == fitted.after.threshold
    assert np.isnan(fitted.after.false_labels)  # no absent class was asked for
    lines = calibration_report.report(fitted)
    assert not any("absent" in line for line in lines)
    told = [line.split(":")[0] for line in lines]
    assert fitted.changed.keys() == set(told) & fitted.numbers.keys()


@pytest.mark.usefixtures("little")
def test_a_scale_that_the_encoder_had_is_told_when_it_changes(encoder, tmp_path):
    steep = OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, replace(PRESET, logit_scale=None))
    data = many(tmp_path, 60)
    fitted = calibrate(steep, data, prompt_variants(CLASSES)[:1])
    assert fitted.start["logit_scale"] == encoder.logit_scale
    written = calibration_report.toml(steep.preset, fitted, data, "all")
    told = f"# logit_scale: {encoder.logit_scale:g} -> "
    assert (told in written) == ("\nlogit_scale" in written) == ("logit_scale" in fitted.changed)
    moved = replace(fitted, numbers=fitted.numbers | {"logit_scale": 14.0})
    assert f"{told}14\n" in calibration_report.toml(steep.preset, moved, data, "all")


@pytest.mark.usefixtures("little")
def test_an_unreadable_photo_is_left_out_of_a_fit(detector, tmp_path):
    data = many(tmp_path, 60)
    data.photos[5].path.write_bytes(b"no")
    assert calibrate(detector, data, prompt_variants(CLASSES)[:1]).after.f1 > 0


@pytest.mark.usefixtures("little")
def test_what_was_fitted_is_a_preset_that_says_why(detector, tmp_path):
    data = many(tmp_path, 60)
    fitted = calibrate(detector, data, prompt_variants(CLASSES)[:1])
    file = tmp_path / "mine.toml"
    file.write_text(calibration_report.toml(PRESET, fitted, data, "all"))
    preset = Preset.from_file(file)
    assert {key: getattr(preset, key) for key in fitted.numbers} == fitted.numbers
    assert preset.background == PRESET.background
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert "AP50" in "".join(comments)
    assert "60 photos" in "".join(comments)


def test_tuned_shares_the_networks_and_the_words(detector, encoder):
    detector.vocabulary(["red"])
    before = len(encoder.text_forwards)
    other = detector.tuned(fusion_exponent=0.9)
    other.vocabulary(["red"])
    assert len(encoder.text_forwards) == before
    assert (other.proposer, other.encoder) == (detector.proposer, detector.encoder)
    assert detector.preset.fusion_exponent == PRESET.fusion_exponent
    detector.tuned(templates="none").vocabulary(["red"])
    assert encoder.text_forwards[-1] == ("red",)


@pytest.mark.parametrize("key", ["detector", "max_boxes", "tile_size", "no_such_number"])
def test_what_is_fixed_at_loading_cannot_be_tuned(detector, key):
    with pytest.raises(ConfigError, match=f"{key} cannot be changed once loaded"):
        detector.tuned(**{key: 1})
