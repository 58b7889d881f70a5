"""Evaluation and calibration as a whole, on drawn images and fakes with predictable features."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from drawn import BLUE, CLASSES, GREY, LEFT, PRESET, RED, RIGHT, draw, draw_many, names_only
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector, Preset
from openvocab.errors import DatasetError
from openvocab.evaluation import _calibration as calibration
from openvocab.evaluation import _report as report
from openvocab.evaluation._calibration import calibrate
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._evaluator import Evaluation, evaluate
from openvocab.evaluation._feature_cache import FeatureCache
from openvocab.evaluation._gallery import missed, mistakes
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptMap, PromptVariant
from openvocab.evaluation._provenance import provenance

SWAPPED = PromptVariant("swapped", ("blue", "red"))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    pairs = [(RED, BLUE), (BLUE, RED), (RED, GREY), (GREY, GREY)]
    images = [draw(tmp_path, number, *pair) for number, pair in enumerate(pairs)]
    return Dataset("drawn", "coco", CLASSES, tuple(images), "hash")


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder) -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET)


@pytest.fixture
def evaluate_swapped(detector, dataset) -> Callable[[], Evaluation]:
    return lambda: evaluate(detector, EvaluationTask(dataset, (SWAPPED,)))


def test_correct_detections_are_correct_in_every_variant(detector, dataset):
    prompt_map = PromptMap(tables={"synonyms": {"red": "crimson"}})
    evaluation = evaluate(detector, EvaluationTask.from_map(dataset, prompt_map))
    variants = evaluation.to_dict()["prompt_variants"]
    assert list(variants) == ["names", "upper case", "a photo of", "synonyms"]
    for name in ("names", "a photo of", "synonyms"):
        assert variants[name]["AP50"] == pytest.approx(1)
        assert variants[name]["encoder_accuracy"] == 1


def test_swapped_prompts_are_wrong(evaluate_swapped):
    evaluation = evaluate_swapped()
    assert evaluation.to_dict()["prompt_variants"]["swapped"]["AP50"] == 0
    assert evaluation.confusion[:2, :2].trace() == 0


def test_recall_of_proposals_does_not_depend_on_classes(evaluate_swapped):
    assert evaluate_swapped().recall == dict.fromkeys((10, 30, 100, 300), 1.0)


@pytest.mark.parametrize(
    ("labels", "has_class"),
    [(("red", "blue"), True), (("red", "thing"), True), (("thing",) * 2, False)],
)
def test_the_detector_alone_is_measured_if_a_label_is_a_class(encoder, dataset, labels, has_class):
    proposer = FakeProposer(LEFT, RIGHT, labels=labels)
    evaluation = evaluate(OpenVocabDetector(proposer, encoder, PRESET), names_only(dataset))
    assert (evaluation.detector_alone is not None) == has_class


def test_absent_prompts_are_absent_and_reproducible(dataset):
    ten = replace(dataset, classes=tuple(f"class {n}" for n in range(10)))
    task = EvaluationTask(ten, (), absent=tuple(f"word {number}" for number in range(9)))
    for image in ten.images:
        prompts = task.absent_prompts(image)
        assert prompts == task.absent_prompts(image)
        assert {len(of_kind) for of_kind in prompts.values()} == {5}
        present = {ten.classes[class_id] for class_id in image.present}
        assert not present & set(prompts["dataset classes"])


def test_a_class_of_the_dataset_is_not_an_absent_prompt(dataset):
    task = names_only(dataset, absent=("red", "Blue", "cat", "dog", "cow", "hat", "pen"))
    for image in dataset.images:
        assert not {"red", "Blue"} & set(task.absent_prompts(image)["absent prompts"])


def test_false_positives_are_detections_of_absent_prompts(detector, dataset):
    none = evaluate(detector, names_only(dataset, absent=("cat", "dog", "cow", "hat", "pen")))
    assert none.fp_per_image == {"absent prompts": 0}
    similar = ("green", "dog", "cow", "hat", "crimson")
    some = evaluate(detector, names_only(dataset, absent=similar))
    assert some.fp_per_image["absent prompts"] > 0


def test_negatives_compete_except_with_the_same_prompt(detector, dataset):
    detector = detector.with_config(score_threshold=0.8)
    task = names_only(dataset, absent=("green", "dog", "cow", "hat", "crimson"))
    assert evaluate(detector, task).fp_per_image["absent prompts"] > 0
    evaluation = evaluate(detector, replace(task, negatives=("red", "blue", "green")))
    assert evaluation.fp_per_image["absent prompts"] == 0  # crimson competes with red
    assert evaluation.variants[0].precision.metrics["AP50"] == pytest.approx(1)


def test_a_stopped_run_continues(detector, encoder, dataset, tmp_path):
    def stop(images):
        yield from images[:2]
        raise KeyboardInterrupt

    task = EvaluationTask.from_map(dataset)
    cache = FeatureCache(detector, tmp_path / "features")
    with pytest.raises(KeyboardInterrupt):
        evaluate(detector, task, cache=cache, progress=stop)
    after_two = encoder.image_forwards
    first = evaluate(detector, task, cache=cache).to_dict()
    assert encoder.image_forwards == 2 * after_two
    second = evaluate(detector, task, cache=cache).to_dict()
    assert encoder.image_forwards == 2 * after_two
    assert first | {"seconds_per_image": 0} == second | {"seconds_per_image": 0}


def test_a_damaged_file_is_encoded_again(detector, encoder, dataset, tmp_path):
    cache = FeatureCache(detector, tmp_path / "features")
    cache(dataset.images[0])
    (file,) = (tmp_path / "features").rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    before = encoder.image_forwards
    assert len(cache(dataset.images[0]).features) == 2
    assert encoder.image_forwards > before


def test_only_settings_of_the_proposals_change_the_cache(detector, encoder, dataset, tmp_path):
    proposals = replace(PRESET.proposals, context_scale=2.0)
    larger = OpenVocabDetector(
        detector.proposer, encoder, replace(detector.preset, proposals=proposals)
    )
    for other in (detector, larger, detector.with_config(fusion_exponent=0.9)):
        FeatureCache(other, tmp_path / "features")(dataset.images[0])
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_unreadable_images_are_left_out_and_named(detector, dataset):
    dataset.images[1].path.write_bytes(b"no")
    evaluation = evaluate(detector, names_only(dataset))
    assert len(evaluation.dataset) == 3
    assert "001.png" in evaluation.to_dict()["dataset"]["unreadable"][0]


def test_images_of_the_same_name_and_changed_images_have_other_features(detector, tmp_path):
    cache = FeatureCache(detector, tmp_path / "features")
    for camera, colour in (("one", RED), ("two", BLUE)):
        (tmp_path / camera).mkdir()
        image = draw(tmp_path / camera, 1, colour, GREY)
        first = cache(image).features
        image.path.write_bytes(draw(tmp_path, 9, GREY, colour).path.read_bytes())
        assert not np.allclose(first, cache(image).features)
    assert len(list((tmp_path / "features").rglob("*.npz"))) == 4


def test_no_labelled_box_is_an_error(detector, tmp_path):
    empty = Dataset("empty", "coco", CLASSES, (draw(tmp_path, 1, GREY, GREY),), "hash")
    with pytest.raises(DatasetError, match="has a labelled box; label some"):
        evaluate(detector, names_only(empty))


def test_no_readable_image_is_an_error(detector, dataset):
    for image in dataset.images:
        image.path.unlink()
    with pytest.raises(DatasetError, match="No image of drawn can be read"):
        evaluate(detector, names_only(dataset))


def test_the_report_is_self_contained_and_escapes_names(detector, dataset):
    evil = replace(dataset, name="<script>", classes=("<b>red</b>", "blue"))
    variant = PromptVariant("names", ("crimson", "red"))
    evaluation = evaluate(detector, EvaluationTask(evil, (variant,)))
    results = {"provenance": provenance(detector), "preset": asdict(PRESET)} | evaluation.to_dict()
    text = report.html(evaluation, results)
    assert "<script>" not in text
    assert "<b>red" not in text
    assert text.count("data:image/jpeg;base64,") > len(list(mistakes(evaluation))) > 0
    assert 'alt="missed' in text
    namespaces = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org")
    for namespace in (*namespaces, "https://matplotlib.org"):
        text = text.replace(namespace, "")
    for external in ("http://", "https://", 'src="/', "@import"):
        assert external not in text


def test_what_was_missed_is_shown_with_its_nearest_candidate(encoder, dataset):
    only_left = OpenVocabDetector(FakeProposer(LEFT), encoder, PRESET)
    found = list(missed(evaluate(only_left, names_only(dataset))))
    assert [(one.image, one.class_name, one.candidate) for one in found] == [
        ("001.png", "red", ""),
        ("000.png", "blue", ""),
    ]
    strict = only_left.with_config(score_threshold=0.99)
    by_image = {one.image: one for one in missed(evaluate(strict, names_only(dataset)))}
    assert by_image["002.png"].candidate == "red"
    assert 0.5 < by_image["002.png"].score < 0.99
    assert by_image["002.png"].iou == pytest.approx(1)


@pytest.fixture
def few_boxes(monkeypatch):
    monkeypatch.setattr(calibration, "MIN_BOXES", 20)


@pytest.mark.parametrize(("images", "boxes"), [(49, 20), (60, 300)])
def test_too_few_images_or_boxes_are_refused(detector, tmp_path, monkeypatch, images, boxes):
    monkeypatch.setattr(calibration, "MIN_BOXES", boxes)
    with pytest.raises(DatasetError, match="label at least 50 images"):
        calibrate(detector, draw_many(tmp_path, images))


@pytest.mark.usefixtures("few_boxes")
def test_a_bad_value_is_replaced_and_a_good_one_stays(encoder, tmp_path):
    task = draw_many(tmp_path, 60)
    # Grey boxes score as high as coloured ones if the posterior does not count.
    detector = OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET).with_config(
        fusion_exponent=0.0, novel_fusion_exponent=0.0
    )
    first = calibrate(detector, task)
    assert first.improves
    fitted = first.fitted.fusion_exponent, first.fitted.novel_fusion_exponent
    assert max(fitted) > 0
    assert first.after.objective > first.before.objective
    second = calibrate(detector.with_config(**first.changed), task)
    assert (second.fitted.fusion_exponent, second.fitted.novel_fusion_exponent) == fitted
    assert second.after.objective >= first.after.objective


@pytest.mark.usefixtures("few_boxes")
def test_a_fit_that_is_no_better_on_held_out_images_changes_nothing(detector, tmp_path):
    task = draw_many(tmp_path, 60)
    for _ in range(8):  # one number at a time, so that the first fit need not be the best
        fitted = calibrate(detector, task)
        if not fitted.improves:
            break
        detector = detector.with_config(**fitted.changed)
    assert not fitted.improves
    assert (fitted.changed, fitted.after) == ({}, fitted.before)
    assert "nothing is changed" in fitted.report()[0]


@pytest.mark.usefixtures("few_boxes")
def test_before_is_the_preset_at_its_own_threshold(detector, tmp_path):
    task = draw_many(tmp_path, 60)
    fitted = calibrate(detector.with_config(score_threshold=0.99), task)
    assert (fitted.before.threshold, fitted.before.f1) == (0.99, 0)
    assert fitted.after.f1 > 0.5
    assert fitted.fitted.score_threshold == fitted.after.threshold
    assert np.isnan(fitted.after.fp_per_image)  # there are no absent prompts
    lines = fitted.report()
    assert not any("absent" in line for line in lines)
    values = [line.split(":")[0] for line in lines]
    assert [name for name in values if hasattr(fitted.fitted, name)] == list(fitted.changed)


@pytest.mark.usefixtures("few_boxes")
def test_a_logit_scale_of_the_encoder_is_written_only_if_it_changes(encoder, tmp_path):
    scoring = replace(PRESET.scoring, logit_scale=None)
    preset = replace(PRESET, scoring=scoring)
    task = draw_many(tmp_path, 60)
    fitted = calibrate(OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, preset), task)
    assert fitted.initial.logit_scale == encoder.logit_scale
    text = fitted.to_toml(preset, task.dataset, "all")
    comment = f"# logit_scale: {encoder.logit_scale:g} -> "
    assert (comment in text) == ("\nlogit_scale" in text) == ("logit_scale" in fitted.changed)
    changed = replace(fitted, fitted=replace(fitted.fitted, logit_scale=14.0))
    text = changed.to_toml(preset, task.dataset, "all")
    assert f"{comment}14\n" in text
    assert "\nlogit_scale = 14.0\n" in text


@pytest.mark.usefixtures("few_boxes")
def test_an_unreadable_image_is_left_out_of_a_fit(detector, tmp_path):
    task = draw_many(tmp_path, 60)
    task.dataset.images[5].path.write_bytes(b"no")
    assert calibrate(detector, task).after.f1 > 0


@pytest.mark.usefixtures("few_boxes")
def test_a_fit_is_written_as_a_preset_with_its_measurements(detector, tmp_path):
    task = draw_many(tmp_path, 60)
    fitted = calibrate(detector, task)
    file = tmp_path / "mine.toml"
    file.write_text(fitted.to_toml(PRESET, task.dataset, "all"))
    scoring = Preset.from_file(file).scoring
    assert scoring == replace(PRESET.scoring, **fitted.changed)
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert "AP50" in "".join(comments)
    assert "60 images" in "".join(comments)


def test_too_few_readable_images_are_refused(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MIN_BOXES", 20)
    task = draw_many(tmp_path, 50)
    task.dataset.images[5].path.write_bytes(b"no")
    with pytest.raises(DatasetError, match="49 images"):
        calibrate(detector, task)


def test_with_config_shares_models_and_text_features(detector, encoder):
    detector.vocabulary(["red"])
    before = len(encoder.text_forwards)
    other = detector.with_config(fusion_exponent=0.9)
    other.vocabulary(["red"])
    assert len(encoder.text_forwards) == before
    assert (other.proposer, other.encoder) == (detector.proposer, detector.encoder)
    assert detector.preset.scoring.fusion_exponent == PRESET.scoring.fusion_exponent
