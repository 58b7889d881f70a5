"""Words by their relation to the detector's labels, and thresholds, on drawn images and fakes."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import BLUE, CLASSES, LEFT, PRESET, RED, RIGHT, draw, names_only
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector, Preset
from openvocab.errors import DatasetError
from openvocab.evaluation import _thresholds as thresholds
from openvocab.evaluation._calibration import TaskMatches
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._evaluator import Evaluation, evaluate
from openvocab.evaluation._example_crops import example_crops
from openvocab.evaluation._feature_cache import FeatureCache
from openvocab.evaluation._matching import FP, TP, Matches
from openvocab.evaluation._metrics import THRESHOLDS
from openvocab.evaluation._other_detectors import (
    CoarserProposer,
    LeftOutLabels,
    dissimilar_folds,
)
from openvocab.evaluation._prompt_variants import EvaluationTask, PromptMap
from openvocab.evaluation._thresholds import Thresholds, fit_thresholds
from openvocab.io import load_image

NEW = (12, 10, 50, 50)  # a box that only the detector without "red" proposes
GREEN = (0, 255, 0)
COLOUR = {"colour": ("red", "blue")}


class ForgetfulProposer(FakeProposer):
    """Knows a red square on the left; without "red", it has other boxes, and calls them things."""

    def with_ignored_labels(self, names: Collection[str]) -> FakeProposer:
        other = FakeProposer(NEW, RIGHT, labels=("thing", "thing" if "blue" in names else "blue"))
        assert not set(names) & set(other.labels)
        return other


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder) -> OpenVocabDetector:
    """Its labels are always red on the left, blue on the right, whatever is there."""
    return OpenVocabDetector(
        ForgetfulProposer(LEFT, RIGHT, labels=("red", "blue")), encoder, PRESET
    )


@pytest.fixture
def task(tmp_path) -> EvaluationTask:
    rng = np.random.default_rng(0)
    pairs = [[(RED, BLUE)[index] for index in rng.integers(0, 2, 2)] for _ in range(20)]
    images = tuple(draw(tmp_path, number, *pair) for number, pair in enumerate(pairs))
    return names_only(Dataset("drawn", "coco", CLASSES, images, "hash"))


def of_relation(evaluation: Evaluation, name: str) -> dict:
    return evaluation.to_dict()["relations"][name]


def test_boxes_of_a_word_are_those_of_its_classes(task):
    grouped = task.dataset.grouped({"colour": ("red", "blue"), "bluish": ("blue",)})
    for image, original in zip(grouped.images, task.dataset.images, strict=True):
        blue = int((original.class_ids == 1).sum())
        counts = np.bincount(image.class_ids, minlength=2).tolist()
        assert counts == [len(original.xyxy), blue]
        np.testing.assert_array_equal(image.xyxy[: len(original.xyxy)], original.xyxy)


def test_a_word_of_two_groups_is_verified_absent_only_if_all_its_classes_are(task):
    image = replace(
        task.dataset.images[0], absent=frozenset({0}), not_exhaustive=frozenset({1})
    ).grouped([frozenset({0, 1}), frozenset({0})])
    assert (image.absent, image.not_exhaustive) == ({1}, {0})


def test_without_broader_words_there_is_only_the_same(detector, task):
    assert list(evaluate(detector, task).to_dict()["relations"]) == ["same"]


def test_a_broader_word_needs_the_boxes_of_all_its_classes(detector, task):
    """The fake encoder knows colours only: crimson is a word for red things, not for blue ones."""
    words = {"crimson": ("red",), "crimson thing": ("red", "blue")}
    result = of_relation(evaluate(detector, replace(task, broader=words)), "broader")
    right, half = result["by_word"]
    assert right["AP50"] == pytest.approx(1)
    assert half["AP50"] < 0.7  # its blue boxes are not found
    assert half["boxes"] == task.dataset.box_count
    assert half["detector_alone_AP50"] > half["AP50"]  # all labels together: every box


def test_kinds_are_asked_of_a_detector_with_broader_labels(detector, encoder, task):
    result = of_relation(evaluate(detector, replace(task, broader=COLOUR)), "kind")
    assert [row["word"] for row in result["by_word"]] == ["red", "blue"]
    assert result["AP50"] == pytest.approx(1)  # by the encoder, as the label is the same for both
    assert result["detector_alone_AP50"] < 1


def test_a_coarser_proposer_suppresses_boxes_of_the_same_word():
    inside = (11, 10, 50, 50)
    proposer = FakeProposer(LEFT, inside, RIGHT, labels=("red", "blue", "thing"))
    coarser = CoarserProposer(proposer, {"red": "colour", "blue": "colour"}, iou=0.7)
    assert coarser.labels == ("thing", "colour")
    (proposals,) = coarser.propose([np.zeros((60, 110, 3), np.uint8)])
    assert [coarser.labels[index] for index in proposals.label_ids] == ["colour", "thing"]


def test_left_out_names_are_asked_of_a_detector_without_them(detector, task):
    evaluation = evaluate(detector, task, all_relations=True)
    result = of_relation(evaluation, "left out")
    assert result["words"] == 2
    assert result["AP50"] == pytest.approx(1)
    assert result["false_boxes_per_image"] == pytest.approx(0, abs=0.5)


def test_features_of_a_left_out_label_are_reused_and_kept(detector, encoder, task, tmp_path):
    image = task.dataset.images[0]
    cache = FeatureCache(detector, tmp_path / "features")
    left_out = LeftOutLabels(detector, [["red"]], cache)
    cached = cache(image)
    (regions,) = left_out.regions(image, cached)
    assert regions.proposals.xyxy.tolist() == [list(NEW), list(RIGHT)]
    (other,) = left_out.detectors
    (direct,) = other.encode([load_image(image.path)], [regions.proposals])
    np.testing.assert_allclose(regions.features, direct.features, atol=1e-6)
    before = encoder.image_forwards
    (again,) = LeftOutLabels(detector, [["red"]], cache).regions(image, cached)
    np.testing.assert_array_equal(again.features, regions.features)
    assert encoder.image_forwards == before
    (others,) = LeftOutLabels(detector, [["red", "blue"]], cache).regions(image, cached)
    assert encoder.image_forwards > before  # another key
    assert set(others.proposals.label_ids) != set(regions.proposals.label_ids)


def test_a_proposer_that_cannot_leave_out_labels_is_named(encoder, task):
    proposer = FakeProposer(LEFT, RIGHT, labels=("red", "blue"))
    evaluation = evaluate(OpenVocabDetector(proposer, encoder, PRESET), task, all_relations=True)
    assert "left out" not in evaluation.to_dict()["relations"]
    (reason,) = evaluation.skipped
    assert "with_ignored_labels" in reason


def test_folds_hold_every_name_once_and_separate_the_similar():
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32).repeat(5, axis=0)  # eight groups of five similar names
    features = centres + rng.normal(0, 0.05, (40, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    folds = dissimilar_folds(features)
    assert sorted(name for fold in folds for name in fold) == list(range(40))
    assert len(folds) == 10
    for fold in folds:
        assert len({name // 5 for name in fold}) == len(fold) == 4


def test_example_pictures_are_of_images_that_are_not_evaluated(detector, task):
    whole = task.dataset
    task = replace(task, examples=whole.part("calibration"))
    result = of_relation(evaluate(detector, task, all_relations=True), "8 pictures")
    assert result["images"] == len(whole.part("test"))
    assert result["AP50"] == pytest.approx(1)


def test_example_crops_are_reproducible_and_of_the_class(task):
    crops = example_crops(task.dataset, 3)
    assert {name: len(of_class) for name, of_class in crops.items()} == {"red": 3, "blue": 3}
    for name, colour in (("red", RED), ("blue", BLUE)):
        assert all((crop == colour).all() for crop in crops[name])
    (first,) = example_crops(task.dataset, 1)["red"]
    np.testing.assert_array_equal(first, crops["red"][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broader = 5", "broader is not a table"),
        ('[broader]\nanimal = "dog"', "a list of prompts"),
    ],
)
def test_an_invalid_table_of_broader_words_is_refused(tmp_path, text, message):
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        PromptMap.from_file(str(tmp_path / "map.toml"))


def test_an_unknown_class_of_a_broader_word_is_refused(task):
    with pytest.raises(DatasetError, match=r"\[animal\] has an unknown class 'dog'; remove it"):
        EvaluationTask.from_map(task.dataset, PromptMap(broader={"animal": ("dog",)}))


# Thresholds alone


def labelled_boxes(folder: Path, count: int) -> EvaluationTask:
    """One red box per image, and one green square that is no object and scores lower."""
    images = tuple(draw(folder, number, RED, GREEN) for number in range(count))
    return names_only(Dataset("drawn", "coco", CLASSES, images, "hash"))


def test_twenty_boxes_are_enough_for_a_threshold(detector, tmp_path):
    strict = detector.with_config(score_threshold=0.99)
    fit = fit_thresholds(strict, labelled_boxes(tmp_path, 20))
    assert fit.improves
    assert (fit.before.f1, fit.held_out_before.f1) == (0, 0)
    assert fit.after.f1 > 0.9
    assert fit.fitted.score_threshold < 0.99


@pytest.mark.parametrize(("images", "boxes"), [(19, 20), (20, 21), (1, 1)])
def test_too_few_boxes_for_a_threshold_are_refused(detector, tmp_path, monkeypatch, images, boxes):
    monkeypatch.setattr(thresholds, "MIN_BOXES", boxes)
    with pytest.raises(DatasetError, match="label at least 2 images and"):
        fit_thresholds(detector, labelled_boxes(tmp_path, images))


def test_classes_get_thresholds_of_their_own_if_one_for_all_is_worse():
    """In each of 30 images, each class has a true box, and a false one that scores lower."""
    scores = {(0, TP): 0.8, (0, FP): 0.6, (1, TP): 0.4, (1, FP): 0.2}
    rows = [(image, *key, score) for image in range(30) for key, score in scores.items()]
    images, class_ids, outcomes, scored = map(np.array, zip(*rows, strict=True))
    none = np.full(len(rows), -1)
    counts = np.ones((30, 2), np.intp)
    matches = Matches(images, none, scored, class_ids, outcomes, counts, none)
    found = TaskMatches({"names": matches}, np.full((30, len(THRESHOLDS)), np.nan), 1.0)
    fit = thresholds._fit_folds(found, ("red", "blue"), Thresholds(0.3, {}))
    assert fit.improves
    assert fit.held_out.f1 == 1
    assert 0.6 < fit.fitted.by_class["red"] <= 0.8
    assert 0.2 < fit.fitted.by_class["blue"] <= 0.4
    few = matches.label_counts.copy()
    few[19:, 1] = 0  # 19 blue boxes
    found = found._replace(by_variant={"names": replace(matches, label_counts=few)})
    assert "blue" not in thresholds._fit_folds(found, ("red", "blue"), fit.initial).fitted.by_class


def test_a_good_threshold_is_left_alone(detector, tmp_path):
    task = labelled_boxes(tmp_path, 20)
    best = fit_thresholds(detector.with_config(score_threshold=0.99), task).fitted
    fit = fit_thresholds(detector.with_config(score_threshold=best.score_threshold), task)
    assert not fit.improves
    assert fit.fitted == fit.initial
    assert "nothing is changed" in fit.report()[0]


def test_fitted_thresholds_are_a_preset_that_detect_uses(detector, tmp_path):
    task = labelled_boxes(tmp_path, 20)
    fit = fit_thresholds(detector.with_config(score_threshold=0.99), task)
    fit = replace(fit, fitted=fit.fitted._replace(by_class={"Red": 0.61}))
    file = tmp_path / "mine.toml"
    file.write_text(fit.to_toml(PRESET, task.dataset, "all"))
    preset = Preset.from_file(file)
    assert preset.thresholds == {"Red": 0.61}
    fitted = OpenVocabDetector(detector.proposer, detector.encoder, preset)
    measured = evaluate(fitted, task).to_dict()["prompt_variants"]["names"]
    assert measured["F1"] == pytest.approx(fit.after.f1)
    strict = OpenVocabDetector(
        detector.proposer, detector.encoder, replace(preset, thresholds={"red": 1.0})
    )
    assert evaluate(strict, task).to_dict()["prompt_variants"]["names"]["F1"] == 0
    head = fitted.class_head
    overall = np.float32(preset.scoring.score_threshold)
    assert head(["red", "blue"]).thresholds.tolist() == [np.float32(0.61), overall]
    assert head(["red"], thresholds={"red": 0.5}).thresholds.tolist() == [0.5]
    assert head(["red"], score_threshold=0.75).thresholds.tolist() == [0.75]
