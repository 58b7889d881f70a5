"""The pipeline on fakes: its results, its errors, and what it computes only once."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
from fakes import PRESET, ColourEncoder, FakeProposer

from openvocab import Example, OpenVocabDetector, OpenVocabError, Vocabulary
from openvocab.errors import ClassesError, ConfigError, ImageError, ModelError
from openvocab.types import Proposals

LEFT, RIGHT = (0, 0, 20, 20), (20, 0, 40, 20)


@pytest.fixture
def image() -> np.ndarray:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 2] = 255  # red left
    pixels[:, 20:, 0] = 255  # blue right
    return pixels


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder: ColourEncoder) -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET)


def by_name(detections) -> dict[str, list[float]]:
    names = detections.data["class_name"]
    return {name: box.tolist() for name, box in zip(names, detections.xyxy, strict=True)}


def test_each_box_gets_the_class_it_shows(detector, image):
    found = by_name(detector.detect(image, ["blue", "red"]))
    assert found == {"red": list(LEFT), "blue": list(RIGHT)}


def test_a_crop_has_the_context_of_the_preset(image):
    box = np.array([[4, 4, 18, 16]], np.float32)  # enlarged by half, it includes some blue
    proposals = Proposals(box, np.ones(1, np.float32), np.zeros(1, np.intp))

    def feature(scale: float) -> np.ndarray:
        config = dataclasses.replace(PRESET.proposals, context_scale=scale)
        preset = dataclasses.replace(PRESET, proposals=config)
        detector = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), preset)
        return detector.encode([image, image], [proposals, proposals[:0]])[0].features[0]

    assert feature(1.0) @ feature(1.5) < 0.999


def test_nothing_is_returned_for_what_is_not_there(detector, image):
    assert len(detector.detect(image, ["zebra"])) == 0


def test_an_empty_result_has_every_column(detector, image):
    nothing = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET).detect(image, ["red"])
    assert set(nothing.data) == set(detector.detect(image, ["red"]).data)
    assert nothing.xyxy.shape == (0, 4)


def test_negatives_compete_and_are_never_returned(detector, image):
    plain = detector.detect(image, ["crimson"])
    against = detector.detect(image, ["crimson"], negatives=["red"])
    assert plain.confidence.max() > against.confidence.max(initial=0)
    assert set(against.data["class_name"]) <= {"crimson"}


def test_a_background_prompt_does_not_compete_with_the_class_of_its_name(image):
    detector = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), PRESET)
    found = detector.with_config(background=("red", "wall")).detect(image, ["red"])
    assert found.data["posterior"][0] > 0.9


def test_permuting_classes_permutes_only_ids(detector, image):
    one = detector.detect(image, ["blue", "red", "green"])
    two = detector.detect(image, ["green", "blue", "red"])
    np.testing.assert_allclose(one.confidence, two.confidence, rtol=1e-6)
    assert list(one.data["class_name"]) == list(two.data["class_name"])
    assert [["blue", "red", "green"][i] for i in one.class_id] == list(one.data["class_name"])


def test_an_unrelated_class_does_not_reorder_the_rest(detector, image):
    one = detector.detect(image, ["blue", "red"])
    two = detector.detect(image, ["blue", "red", "zebra"])
    assert list(one.data["class_name"]) == list(two.data["class_name"])


def test_a_batch_equals_one_by_one(detector, image):
    flipped = np.ascontiguousarray(image[:, ::-1])
    batch = detector.detect_batch([image, flipped], ["blue", "red"])
    singles = [detector.detect(image, ["blue", "red"]) for image in (image, flipped)]
    for left, right in zip(batch, singles, strict=True):
        np.testing.assert_allclose(left.xyxy, right.xyxy)
        np.testing.assert_allclose(left.confidence, right.confidence, atol=1e-4)


class RedPart:
    """Proposes the half of the image that is red."""

    labels = ("thing",)

    def propose(self, images):
        halves = [LEFT if image[0, 0, 2] else RIGHT for image in images]
        return [
            FakeProposer(half).propose([image])[0]
            for half, image in zip(halves, images, strict=True)
        ]


def test_the_boxes_of_a_batch_stay_with_their_images(image):
    flipped = np.ascontiguousarray(image[:, ::-1])
    detector = OpenVocabDetector(RedPart(), ColourEncoder(), PRESET)
    found = detector.detect_batch([image, flipped, image], ["red", "blue"])
    assert [by_name(each) for each in found] == [
        {"red": list(LEFT)}, {"red": list(RIGHT)}, {"red": list(LEFT)}
    ]  # fmt: skip


def test_known_words_do_not_wait_for_a_new_one(image):
    started, finish = threading.Event(), threading.Event()

    class SlowEncoder(ColourEncoder):
        def encode_text(self, prompts):
            if "slow" in prompts:
                started.set()
                assert finish.wait(10)
            return super().encode_text(prompts)

    detector = OpenVocabDetector(FakeProposer(LEFT), SlowEncoder(), PRESET)
    detector.detect(image, ["red"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(detector.detect, image, ["red", "slow"])
        assert started.wait(10)
        assert len(detector.detect(image, ["red"])) == 1  # would hang if it waited
        finish.set()
        assert len(waiting.result(10)) == 1


def test_known_classes_cost_no_text_forward_and_a_new_word_exactly_one(detector, encoder, image):
    detector.detect(image, ["blue", "red"])
    encoder.text_forwards.clear()
    detector.detect(image, ["red", "blue"])
    assert encoder.text_forwards == []
    detector.detect(image, ["red", "green", "blue"])
    assert encoder.text_forwards == [("green",)]


def test_heads_of_recent_class_lists_are_cached(detector):
    vocabulary = detector.vocabulary(["red"])
    first, saved = detector.class_head(["red"]), detector.class_head(vocabulary)
    for classes in (("red",), {"red": ["red"]}, {"red": "red"}, np.array(["red"])):
        assert detector.class_head(classes).evidence is first.evidence
    assert detector.class_head(vocabulary).evidence is saved.evidence
    for classes in ({"red": "blue"}, ["blue"]):
        assert detector.class_head(classes).evidence is not first.evidence


def test_a_class_list_that_is_changed_in_place_is_not_the_cached_one(detector, image):
    classes, words = ["red"], {"ours": ["red"]}
    assert by_name(detector.detect(image, classes)) == {"red": list(LEFT)}
    assert by_name(detector.detect(image, words)) == {"ours": list(LEFT)}
    classes[0], words["ours"] = "blue", ["blue"]
    assert by_name(detector.detect(image, classes)) == {"blue": list(RIGHT)}
    assert by_name(detector.detect(image, words)) == {"ours": list(RIGHT)}
    with pytest.raises(ClassesError, match="the same"):
        detector.detect(image, ["blue", "blue"])
    vocabulary = detector.vocabulary(["red"])
    detector.detect(image, vocabulary)
    with pytest.raises(ClassesError, match="has its own negatives"):
        detector.detect(image, vocabulary, negatives=["blue"])


def test_example_images_are_read_at_every_call(detector, image, tmp_path):
    file = tmp_path / "ours.png"
    for box, colour in ((LEFT, (0, 0, 255)), (RIGHT, (255, 0, 0))):
        cv2.imwrite(str(file), np.full((8, 8, 3), colour, np.uint8))
        assert by_name(detector.detect(image, {"ours": file})) == {"ours": list(box)}


def test_another_scoring_applies_at_once(detector, image):
    before = detector.detect(image, ["red"]).confidence
    after = detector.with_config(fusion_exponent=1.0).detect(image, ["red"]).confidence
    assert before != after


@pytest.mark.parametrize(
    ("scoring", "message"),
    [({"loudness": 1}, "use fields of ScoringConfig"), ({"nms_iou": 2.0}, "use 0 to 1")],
)
def test_an_unknown_or_invalid_scoring_field_is_refused(detector, scoring, message):
    with pytest.raises(ConfigError, match=message):
        detector.with_config(**scoring)


class CountingEncoder(ColourEncoder):
    """Counts the boxes it encodes."""

    boxes = 0

    def encode_regions(self, images, boxes):
        self.boxes += sum(len(xyxy) for xyxy in boxes)
        return super().encode_regions(images, boxes)


def test_no_more_boxes_are_encoded_than_max_regions(image):
    encoder = CountingEncoder()
    proposer = FakeProposer(LEFT, RIGHT, (0, 0, 10, 10))
    config = dataclasses.replace(PRESET.proposals, max_regions=1)
    detector = OpenVocabDetector(proposer, encoder, dataclasses.replace(PRESET, proposals=config))
    assert by_name(detector.detect(image, ["red", "blue"])) == {"red": list(LEFT)}
    assert encoder.boxes == 1


def test_boxes_that_cannot_reach_the_threshold_are_not_encoded(image):
    encoder = CountingEncoder()
    detector = OpenVocabDetector(FakeProposer(LEFT, score=0.1), encoder, PRESET)
    detector.detect(image, ["red"], score_threshold=0.3)
    assert encoder.boxes == 0
    detector.detect(image, ["red"], score_threshold=0.1)
    assert encoder.boxes == 1


def test_eight_threads_with_eight_class_lists_give_the_single_thread_results(image):
    lists = [["blue", "red", f"word {index}"] for index in range(8)]
    detector = OpenVocabDetector(FakeProposer(LEFT, RIGHT), ColourEncoder(), PRESET)
    expected = [detector.detect(image, classes).confidence for classes in lists]
    fresh = OpenVocabDetector(FakeProposer(LEFT, RIGHT), ColourEncoder(), PRESET)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda classes: fresh.detect(image, classes).confidence, lists))
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_allclose(left, right)


@pytest.mark.parametrize("image", ["street.jpg", b"bytes", np.zeros((8, 8, 3), np.uint8)])
def test_a_single_image_is_no_batch(detector, image):
    with pytest.raises(ImageError, match="pass a list"):
        detector.detect_batch(image, ["red"])


def test_an_array_of_images_is_a_batch_and_its_images_are_called_by_number(detector, image):
    assert len(detector.detect_batch(np.stack([image, image]), ["red"])) == 2
    with pytest.raises(ImageError, match="image 1 has shape"):
        detector.detect_batch([image, np.zeros(3, np.uint8)], ["red"])


def test_numpy_words_and_numbers_and_generators_are_taken(detector, image):
    plain = detector.detect(image, ["blue", "red"], score_threshold=0.5)
    found = detector.detect(
        image, np.array(["blue", "red"]), score_threshold=np.float32(0.5), thresholds={}
    )
    assert list(found.class_id) == list(plain.class_id)
    lazily = detector.detect(image, (word for word in ("blue", "red")), score_threshold=0.5)
    assert list(lazily.class_id) == list(plain.class_id)


def test_a_class_may_have_its_own_threshold(detector, image):
    found = detector.detect(image, ["blue", "red"], thresholds={"red": 1.0})
    assert set(found.data["class_name"]) == {"blue"}


def test_nms_is_within_a_class_unless_it_is_class_agnostic(image):
    # IoU 0.41; the first box is mostly red, the second mostly blue.
    boxes = FakeProposer((0, 0, 24, 20), (10, 0, 34, 20))
    detector = OpenVocabDetector(boxes, ColourEncoder(), PRESET).with_config(nms_iou=0.4)
    classes = ["red", "blue"]
    within = detector.detect(image, classes, score_threshold=0)
    across = detector.detect(image, classes, score_threshold=0, class_agnostic_nms=True)
    assert set(within.data["class_name"]) == {"red", "blue"}
    assert across.xyxy.tolist() == within.xyxy[:1].tolist()
    preset = detector.with_config(class_agnostic_nms=True)
    assert len(preset.detect(image, classes, score_threshold=0)) == 1


def test_overlapping_boxes_of_one_class_keep_the_better_score(image):
    proposer = FakeProposer(LEFT, (0, 0, 20, 19))
    detector = OpenVocabDetector(proposer, ColourEncoder(), PRESET)
    assert len(detector.detect(image, ["red", "blue"])) == 1


def test_the_detectors_own_label_helps_a_synonym_and_hurts_what_it_contradicts(image):
    posteriors = []
    for label in ("red", "thing", "zebra"):
        boxes = FakeProposer(LEFT, labels=[label])
        boxes.labels, boxes._label_ids = ("thing", "red", "zebra"), [label]
        boxes._label_ids = np.array([boxes.labels.index(label)])
        detector = OpenVocabDetector(boxes, ColourEncoder(), PRESET).with_config(lexicon=False)
        head = detector.class_head(["crimson"])
        posteriors.append(head.score(detector.encode_image(image)).posterior[0, 0])
    assert posteriors[0] > posteriors[1] and posteriors[0] > posteriors[2]


def test_an_example_picture_defines_a_class(detector, image):
    example = np.zeros((8, 8, 3), np.uint8)
    example[..., 0] = 255
    found = by_name(detector.detect(image, {"ours": [example]}))
    assert found == {"ours": list(RIGHT)}


def test_a_label_that_an_example_shows_does_not_compete_with_it(encoder, image):
    proposer = FakeProposer(LEFT, RIGHT, labels=("red", "blue"))
    detector = OpenVocabDetector(proposer, encoder, PRESET)
    detections = detector.detect(image, {"ours": [image[:, :20]]})
    assert by_name(detections) == {"ours": list(LEFT)}
    assert detections.data["posterior"][0] > 0.9  # 0.14 if the label "red" competed


def test_a_single_picture_or_word_need_not_be_in_a_list(detector, image, tmp_path):
    example = np.zeros((8, 8, 3), np.uint8)
    example[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), example)
    for part in (example, tmp_path / "blue.png", "blue"):
        assert by_name(detector.detect(image, {"ours": part})) == {"ours": list(RIGHT)}


def test_a_vocabulary_is_written_whole_or_not_at_all(detector, tmp_path):
    with pytest.raises(OpenVocabError, match="choose another path"):
        detector.vocabulary(["red"]).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClassesError, match="not numbers"):
        Vocabulary(("a",), np.full((1, 3), np.nan, np.float32), np.zeros(1, np.intp), ("a",), "x")


def test_a_saved_vocabulary_gives_the_same_result(detector, image, tmp_path):
    vocabulary = detector.vocabulary({"blood": ["red", "crimson"]}, negatives=["blue"])
    vocabulary.save(tmp_path / "vocabulary.npz")
    loaded = Vocabulary.load(tmp_path / "vocabulary.npz")
    np.testing.assert_array_equal(
        detector.detect(image, vocabulary).confidence, detector.detect(image, loaded).confidence
    )


def test_a_vocabulary_of_another_encoder_is_refused(detector, image):
    other = OpenVocabDetector(FakeProposer(), ColourEncoder("other"), PRESET)
    with pytest.raises(ClassesError, match="another encoder"):
        detector.detect(image, other.vocabulary(["red"]))


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        ([], {}, "empty"),
        ("dog", {}, "pass a list"),
        ([1, 2], {}, "use strings"),
        (["dog", " "], {}, "empty string"),
        (["dog", "Dog"], {}, "the same"),
        (["traffic light", "traffic_light"], {}, "the same"),
        ({"dog": []}, {}, "no names or images"),
        ({"dog": [3]}, {}, "use strings, Paths"),
        ({"dog": {"puppy"}}, {}, "is a set"),
        ({"dog": b"puppy"}, {}, "is a bytes"),
        ("bus, dog", {}, r'pass a list: classes=\["bus", "dog"\]'),
        (np.array("dog"), {}, "pass a list"),
        (["dog"], {"negatives": None}, "pass a list"),
        (["dog"], {"negatives": {"cat": 1}}, "pass a list"),
        (["dog"], {"thresholds": [0.5]}, "thresholds is a list"),
        (None, {}, "pass a list"),
        ({"dog", "cat"}, {}, "pass a list"),
        (b"dog", {}, "pass a list"),
        (["dog"], {"negatives": "cat"}, "pass a list"),
        (["dog"], {"negatives": ["Dog"]}, "among the classes and the negatives"),
        (["dog"], {"score_threshold": 1.5}, "from 0 to 1"),
        (["dog"], {"score_threshold": float("nan")}, "from 0 to 1"),
        (["dog"], {"thresholds": {"cat": 0.5}}, "not among the classes"),
        ({"people": ["man", "person"]}, {"negatives": ["Person"]}, "among the classes and the"),
        (["dog"], {"thresholds": {"dog": 2}}, "from 0 to 1"),
    ],
)
def test_unusable_classes_are_one_line_errors(detector, image, classes, more, message):
    with pytest.raises(ClassesError, match=message):
        detector.detect(image, classes, **more)


def test_a_threshold_below_that_of_encode_image_is_refused(detector, image):
    regions = detector.encode_image(image, score_threshold=0.7)
    detector.classify(regions, ["red"], score_threshold=0.7)
    with pytest.raises(ClassesError, match=r"than the threshold 0\.3; encode it with that"):
        detector.classify(regions, ["red"])
    low = detector.with_config(score_threshold=0.05)
    assert len(low.classify(low.encode_image(image), ["red"]))


@pytest.mark.parametrize("threshold", [float("nan"), 2, -1, "a"])
def test_encode_image_takes_a_score(detector, image, threshold):
    with pytest.raises(ClassesError, match="0 to 1"):
        detector.encode_image(image, score_threshold=threshold)


def test_a_score_is_finite_at_the_largest_scale_and_independent_of_other_classes(detector, image):
    steep = detector.with_config(logit_scale=200.0, label_weight=10.0, rank_weight=10.0)
    regions = steep.encode_image(image, score_threshold=0.0)
    alone = steep.classify(regions, ["red"], score_threshold=0.0)
    beside = steep.classify(regions, ["red", "blue", "zebra"], score_threshold=0.0)
    assert np.isfinite(beside.data["posterior"]).all()
    again = beside[beside.data["class_name"] == "red"]
    scores = dict(zip(alone.data["region_id"], alone.confidence, strict=True))
    assert [scores[row] for row in again.data["region_id"]] == pytest.approx(
        again.confidence.tolist()
    )


def test_an_encoder_with_a_logit_scale_out_of_range_is_refused(image):
    encoder = ColourEncoder()
    encoder.logit_scale = 1000.0
    detector = OpenVocabDetector(FakeProposer(LEFT), encoder, PRESET)
    with pytest.raises(ModelError, match="logit scale of 1000; set one up to 200"):
        detector.detect(image, ["red"])
    assert len(detector.with_config(logit_scale=20.0).detect(image, ["red"])) == 1


def test_parts_that_do_not_fit_each_other_are_refused(encoder, image):
    for labels in ((), ("a", "a")):
        with pytest.raises(ModelError, match="labels, all different; add them"):
            OpenVocabDetector(SimpleNamespace(labels=labels), encoder, PRESET)
    proposer = FakeProposer(LEFT, labels=["another"])
    proposer.labels = ("another",)
    with pytest.raises(ModelError, match="has label 1, but the proposer has 1 labels"):
        OpenVocabDetector(proposer, encoder, PRESET).detect(image, ["red"])


def test_classify_equals_detect_without_encoding_the_image_again(detector, encoder, image):
    regions = detector.encode_image(image)
    forwards = encoder.image_forwards
    for classes in (["red", "blue"], ["crimson", "zebra"]):
        again, detected = detector.classify(regions, classes), detector.detect(image, classes)
        np.testing.assert_allclose(again.xyxy, detected.xyxy)
        np.testing.assert_allclose(again.confidence, detected.confidence, atol=1e-6)
        assert again.data["class_name"].tolist() == detected.data["class_name"].tolist()
        assert again.data["region_id"].tolist() == detected.data["region_id"].tolist()
    assert encoder.image_forwards == forwards + 2  # those of detect


def test_the_contributions_add_up_to_one(detector, image):
    regions, query = detector.encode_image(image), {"classes": ["red", "blue"]}
    query["negatives"] = ["crimson"]
    detections = detector.classify(regions, **query)
    contributions = detector.explain(regions, detections.data["region_id"][0], **query)
    best = max(part.share for part in contributions if part.kind == "class")
    assert best == pytest.approx(float(detections.data["posterior"][0]), abs=1e-5)
    others = {part.name: part.share for part in contributions if part.kind != "class"}
    assert sum(others.values()) == pytest.approx(1 - best, abs=1e-5)
    assert {"crimson", "background", "thing"} <= others.keys()


def test_explain_takes_any_list_of_negatives_and_only_regions_of_the_image(detector, image):
    regions = detector.encode_image(image)
    region_id = detector.classify(regions, ["red"]).data["region_id"][0]
    expected = detector.explain(regions, region_id, ["red"], negatives=["crimson"])
    for negatives in (np.array(["crimson"]), (name for name in ["crimson"])):
        assert detector.explain(regions, region_id, ["red"], negatives=negatives) == expected
    for other in (-1, 2):
        with pytest.raises(ClassesError, match="There is no region"):
            detector.explain(regions, other, ["red"])


def test_the_negatives_of_a_vocabulary_are_explained_by_number(detector, image):
    regions = detector.encode_image(image)
    vocabulary = detector.vocabulary(["red"], ["crimson", "gold"])
    detections = detector.classify(regions, vocabulary, score_threshold=0.1)
    region_id = detections.data["region_id"][0]
    names = {part.name for part in detector.explain(regions, region_id, vocabulary)}
    assert {"negative 1", "negative 2"} <= names


def test_the_bias_of_a_sigmoid_encoder_is_explained_as_background(image):
    encoder = ColourEncoder()
    encoder.logit_bias = -10.0
    detector = OpenVocabDetector(FakeProposer(LEFT), encoder, PRESET)
    regions = detector.encode_image(image)
    plain = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), PRESET)
    shares = [
        {part.name: part.share for part in d.explain(regions, 0, ["red"], negatives=["gold"])}
        for d in (detector, plain)
    ]
    assert set(shares[0]) == set(shares[1]) == {"red", "gold", "background", "thing"}
    assert shares[0]["background"] > shares[1]["background"]


def test_switches_leave_a_term_out(image):
    labelled = FakeProposer(LEFT, labels=["red"])
    detector = OpenVocabDetector(labelled, ColourEncoder(), PRESET)
    regions = detector.encode_image(image)
    head = detector.class_head(["crimson", "red"])
    assert head.score(regions).rank_logits.argmax() == 1
    plain = detector.with_config(rank_weight=0.0).class_head(["crimson", "red"])
    scores = plain.score(regions)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores.rank_logits)), scores.posterior, atol=1e-6)
    mute = detector.with_config(label_weight=0.0, rank_weight=0.0).class_head(["crimson", "gold"])
    other = regions.proposals[:]
    relabelled = Proposals(other.xyxy, other.objectness, 1 - other.label_ids)
    for ours, theirs in zip(
        mute.score(regions), mute.score(regions._replace(proposals=relabelled)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_near_misses_are_the_best_boxes_of_the_classes_without_a_detection(detector, image):
    detector = detector.with_config(lexicon=False)  # "crimson" is next to "red" by colour alone
    regions = detector.encode_image(image)
    options = {"classes": ["red", "crimson", "zebra"], "thresholds": {"red": 0.97}}
    found = set(detector.classify(regions, **options).data["class_name"])
    missed = {each.class_name: each for each in detector.near_misses(regions, **options)}
    assert found == set() and set(missed) == {"red", "crimson", "zebra"}
    assert missed["red"].xyxy == LEFT and missed["red"].box_class is None
    assert missed["crimson"].xyxy == LEFT and missed["crimson"].box_class == "red"
    # The score is the one that a lower threshold returns.
    lower = detector.classify(regions, ["red"], score_threshold=0.3)
    assert missed["red"].score == pytest.approx(float(lower.confidence[0]), abs=1e-6)
    assert missed["red"].score < missed["red"].threshold == pytest.approx(0.97)
    assert str(missed["red"]) == "red: nothing above 0.97; closest 0.95 at 0,0,20,20"
    assert str(missed["crimson"]).endswith("at 0,0,20,20, where red fits better")
    scores = [each.score for each in detector.near_misses(regions, **options)]
    assert scores == sorted(scores, reverse=True)


def test_a_near_miss_of_an_image_without_boxes_or_behind_a_better_box_says_so(detector, image):
    nothing = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)
    (missed,) = nothing.near_misses(nothing.encode_image(image), ["red"])
    assert missed == ("red", 0.0, pytest.approx(0.3), None, None, None)
    assert str(missed) == "red: nothing above 0.30, and no box to compare"
    assert detector.near_misses(detector.encode_image(image), ["red", "blue"]) == []
    boxes = FakeProposer((0, 0, 24, 20), (10, 0, 34, 20))
    crowded = OpenVocabDetector(boxes, ColourEncoder(), PRESET).with_config(nms_iou=0.4)
    regions = crowded.encode_image(image)
    options = {"classes": ["red", "blue"], "class_agnostic_nms": True}
    (missed,) = crowded.near_misses(regions, **options)
    assert missed.score > missed.threshold
    assert str(missed).endswith(", which a better box overlaps")
    with pytest.raises(ClassesError, match="encode it with that score_threshold"):
        crowded.near_misses(regions, ["red"], score_threshold=0.01)


def test_near_misses_run_no_network(detector, encoder, image):
    regions = detector.encode_image(image)
    detector.classify(regions, ["red", "zebra"])
    encoder.text_forwards.clear()
    forwards = encoder.image_forwards
    detector.near_misses(regions, ["red", "zebra"])
    assert (encoder.image_forwards, encoder.text_forwards) == (forwards, [])


def blue_part(image: np.ndarray) -> list[object]:
    """The blue half of the image in every form that an example has."""
    pixels = np.ascontiguousarray(image[:, 20:])
    pil = PIL.Image.fromarray(pixels[..., ::-1])
    return [
        pixels,
        pil,
        Example(pil),
        Example(image, box=RIGHT),
        Example(image, box=(20, -5, 99, 20)),
    ]


def test_an_example_is_an_array_a_pil_image_a_file_or_a_box(detector, image, tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), image[:, 20:])
    cv2.imwrite(str(tmp_path / "all.png"), image)
    files = [tmp_path / "blue.png", Example(tmp_path / "all.png", np.float32(RIGHT))]
    expected = detector.vocabulary({"ours": files[0]}, ["zebra", files[0]])
    for part in (*blue_part(image), *files, Example(str(tmp_path / "blue.png"))):
        for parts in (part, [part], ["blue", part]):
            assert by_name(detector.detect(image, {"ours": parts})) == {"ours": list(RIGHT)}
        features = detector.vocabulary(["red"], ["zebra", part]).features
        np.testing.assert_allclose(features[1:], expected.features[1:], atol=1e-6)


def test_a_box_of_a_picture_is_encoded_as_the_box_of_a_detection(image):
    config = dataclasses.replace(PRESET.proposals, context_scale=1.5)
    preset = dataclasses.replace(PRESET, proposals=config)
    detector = OpenVocabDetector(FakeProposer((4, 4, 18, 16)), ColourEncoder(), preset)
    region = detector.encode_image(image).features[0]
    (boxed,) = detector.vocabulary({"ours": Example(image, (4, 4, 18, 16))}).features
    (whole,) = detector.vocabulary({"ours": image[4:16, 4:18]}).features  # as it is
    assert region @ boxed == pytest.approx(1, abs=1e-6)
    assert region @ whole < 0.999


def test_pictures_as_negatives_compete_and_are_explained(detector, image):
    blue = Example(image, box=RIGHT)
    negatives = ["gold", blue, image[:, :20]]
    options = {"classes": ["red", "blue"], "score_threshold": 0.85}
    plain = detector.detect(image, **options)
    against = detector.detect(image, **options, negatives=[blue])
    assert set(plain.data["class_name"]) == {"red", "blue"}
    assert set(against.data["class_name"]) == {"red"}
    regions = detector.encode_image(image)
    parts = detector.explain(regions, 1, ["blue"], negatives=negatives)
    shares = {part.name: part.share for part in parts if part.kind == "negative"}
    assert shares["example image#20,0,40,20"] > 0.4
    assert shares.keys() == {"gold", "example image#20,0,40,20", "example image"}


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (3, 1, 2, 4), (0, 0, float("nan"), 1), "1234", 7, [[1] * 9]]
)
def test_an_invalid_box_of_an_example_is_refused(box):
    with pytest.raises(ClassesError, match=r"x1 < x2 and y1 < y2\.$"):
        Example("a.jpg", box)


def test_messages_and_reprs_hold_no_pixels(detector, image):
    vocabulary = detector.vocabulary(["red", "blue"], [image])
    assert repr(vocabulary) == "Vocabulary(2 classes, 1 negative, D=512)"
    assert repr(Example(image, RIGHT)) == (
        "Example(an array of shape (20, 40, 3), box=(20, 0, 40, 20))"
    )
    for call, message in (
        (lambda: detector.detect(image, [image]), "classes has an array of shape"),
        (lambda: detector.detect(image, image), "classes is ndarray; pass a list"),
        (lambda: detector.detect(image, ["red"], negatives=image), "negatives is ndarray"),
        (lambda: detector.detect(image, {"a": [image, 3]}), "has 3; use strings"),
        (lambda: detector.detect(image, np.array(["bus", "Bus"])), "has 'bus' and 'Bus'"),
        (lambda: detector.detect(image, ["red"], score_threshold=image), "is an array of shape"),
        (lambda: detector.detect(image, {"a": Example(image, (50, 0, 60, 9))}), "image of 40x20"),
        (lambda: detector.with_config(nms_iou=image), "is an array of shape"),
    ):
        with pytest.raises(OpenVocabError, match=message) as raised:
            call()
        assert "array(" not in str(raised.value) and "np." not in str(raised.value)
        assert len(str(raised.value)) < 200
