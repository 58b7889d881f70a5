"""The order of the stages, on fakes: what is returned, what is refused, what is computed once."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector, OpenVocabError, Preset, Vocabulary
from openvocab.errors import ClassesError, ImageError, ModelError
from openvocab.scoring.class_head import RegionClassifier
from openvocab.types import Encoder, Proposer

LEFT, RIGHT = (0, 0, 20, 20), (20, 0, 40, 20)
PRESET = Preset(name="test", detector="", encoder="", templates="none", context_scales=(1.0,))


@pytest.fixture
def picture() -> np.ndarray:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20, 2] = 255  # red left
    image[:, 20:, 0] = 255  # blue right
    return image


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder: ColourEncoder) -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(LEFT, RIGHT), encoder, PRESET)


def by_name(detections) -> dict[str, list[float]]:
    names = detections.data["class_name"]
    return {name: box.tolist() for name, box in zip(names, detections.xyxy, strict=True)}


def test_the_fakes_keep_the_protocols(encoder):
    assert isinstance(encoder, Encoder)
    assert isinstance(FakeProposer(LEFT), Proposer)


def test_each_box_gets_the_class_it_shows(detector, picture):
    found = by_name(detector.detect(picture, ["blue", "red"]))
    assert found == {"red": list(LEFT), "blue": list(RIGHT)}


def test_features_are_averaged_over_the_context_scales(picture):
    box = np.array(
        [[4, 4, 18, 16]], np.float32
    )  # expand_boxes by half it sees the blue on the right

    def features(*scales: float) -> np.ndarray:
        preset = dataclasses.replace(PRESET, context_scales=scales)
        detector = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), preset)
        return detector.encode([picture, picture], [box, box[:0]])[0]

    mean = features(1.0) + features(1.5)
    np.testing.assert_allclose(features(1.0, 1.5), mean / np.linalg.norm(mean), atol=1e-6)
    assert features(1.0) @ features(1.5).T < 0.999


def test_nothing_is_returned_for_what_is_not_there(detector, picture):
    assert len(detector.detect(picture, ["zebra"])) == 0


def test_an_empty_result_has_every_column(detector, picture):
    nothing = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET).detect(picture, ["red"])
    assert set(nothing.data) == set(detector.detect(picture, ["red"]).data)
    assert nothing.xyxy.shape == (0, 4)


def test_negatives_compete_and_are_never_returned(detector, picture):
    plain = detector.detect(picture, ["crimson"])
    against = detector.detect(picture, ["crimson"], negatives=["red"])
    assert plain.confidence.max() > against.confidence.max(initial=0)
    assert set(against.data["class_name"]) <= {"crimson"}


def test_who_asks_for_a_background_word_is_not_held_back_by_it(picture):
    preset = dataclasses.replace(PRESET, background=("red", "wall"))
    found = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), preset).detect(picture, ["red"])
    assert found.data["posterior"][0] > 0.9


def test_permuting_classes_permutes_only_ids(detector, picture):
    one = detector.detect(picture, ["blue", "red", "green"])
    two = detector.detect(picture, ["green", "blue", "red"])
    np.testing.assert_allclose(one.confidence, two.confidence, rtol=1e-6)
    assert list(one.data["class_name"]) == list(two.data["class_name"])
    assert [["blue", "red", "green"][i] for i in one.class_id] == list(one.data["class_name"])


def test_an_unrelated_class_does_not_reorder_the_rest(detector, picture):
    one = detector.detect(picture, ["blue", "red"])
    two = detector.detect(picture, ["blue", "red", "zebra"])
    assert list(one.data["class_name"]) == list(two.data["class_name"])


def test_a_batch_equals_one_by_one(detector, picture):
    flipped = np.ascontiguousarray(picture[:, ::-1])
    batch = detector.detect_batch([picture, flipped], ["blue", "red"])
    singles = [detector.detect(image, ["blue", "red"]) for image in (picture, flipped)]
    for left, right in zip(batch, singles, strict=True):
        np.testing.assert_allclose(left.xyxy, right.xyxy)
        np.testing.assert_allclose(left.confidence, right.confidence, atol=1e-4)


class RedPart:
    """Proposes the half of the picture that is red."""

    names = ("thing",)

    def propose(self, images):
        halves = [LEFT if image[0, 0, 2] else RIGHT for image in images]
        return [
            FakeProposer(half).propose([image])[0]
            for half, image in zip(halves, images, strict=True)
        ]


def test_the_boxes_of_a_batch_stay_with_their_pictures(picture):
    flipped = np.ascontiguousarray(picture[:, ::-1])
    detector = OpenVocabDetector(RedPart(), ColourEncoder(), PRESET)
    found = detector.detect_batch([picture, flipped, picture], ["red", "blue"])
    assert [by_name(each) for each in found] == [
        {"red": list(LEFT)}, {"red": list(RIGHT)}, {"red": list(LEFT)}
    ]  # fmt: skip


def test_known_words_do_not_wait_for_a_new_one(picture):
    started, finish = threading.Event(), threading.Event()

    class SlowEncoder(ColourEncoder):
        def encode_text(self, prompts):
            if "slow" in prompts:
                started.set()
                assert finish.wait(10)
            return super().encode_text(prompts)

    detector = OpenVocabDetector(FakeProposer(LEFT), SlowEncoder(), PRESET)
    detector.detect(picture, ["red"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(detector.detect, picture, ["red", "slow"])
        assert started.wait(10)
        assert len(detector.detect(picture, ["red"])) == 1  # would hang if it waited
        finish.set()
        assert len(waiting.result(10)) == 1


def test_known_classes_cost_no_text_forward_and_a_new_word_exactly_one(detector, encoder, picture):
    detector.detect(picture, ["blue", "red"])
    encoder.text_forwards.clear()
    detector.detect(picture, ["red", "blue"])
    assert encoder.text_forwards == []
    detector.detect(picture, ["red", "green", "blue"])
    assert encoder.text_forwards == [("green",)]


def test_classes_are_compared_with_the_detectors_words_once(detector, picture, monkeypatch):
    built = []
    whole = RegionClassifier
    monkeypatch.setattr(
        "openvocab.detector.RegionClassifier", lambda *parts: built.append(parts) or whole(*parts)
    )
    bank = detector.vocabulary(["red"])
    for _ in range(2):
        for classes in (["red"], ("red",), {"red": ["red"]}, {"red": "red"}, bank, {"red": "blue"}):
            detector.detect(picture, classes)
    # Of ["red"] in four ways, of the vocabulary, and of red by another word.
    assert len(built) == 3


def test_what_is_remembered_of_classes_is_what_they_were(detector, picture):
    classes, words = ["red"], {"ours": ["red"]}
    assert by_name(detector.detect(picture, classes)) == {"red": list(LEFT)}
    assert by_name(detector.detect(picture, words)) == {"ours": list(LEFT)}
    classes[0], words["ours"] = "blue", ["blue"]
    assert by_name(detector.detect(picture, classes)) == {"blue": list(RIGHT)}
    assert by_name(detector.detect(picture, words)) == {"ours": list(RIGHT)}
    with pytest.raises(ClassesError, match="the same"):
        detector.detect(picture, ["blue", "blue"])
    bank = detector.vocabulary(["red"])
    detector.detect(picture, bank)
    with pytest.raises(ClassesError, match="brings its own negatives"):
        detector.detect(picture, bank, negatives=["blue"])


def test_example_pictures_are_looked_at_each_time(detector, picture, tmp_path):
    file = tmp_path / "ours.png"
    for box, colour in ((LEFT, (0, 0, 255)), (RIGHT, (255, 0, 0))):
        cv2.imwrite(str(file), np.full((8, 8, 3), colour, np.uint8))
        assert by_name(detector.detect(picture, {"ours": file})) == {"ours": list(box)}


def test_other_numbers_are_used_at_once(detector, picture):
    before = detector.detect(picture, ["red"]).confidence
    after = detector.tuned(fusion_exponent=1.0).detect(picture, ["red"]).confidence
    assert before != after


class Counting(ColourEncoder):
    """MetricsMiddleware the regions it is shown."""

    shown = 0

    def encode_regions(self, images, boxes):
        self.shown += sum(len(found) for found in boxes)
        return super().encode_regions(images, boxes)


def test_boxes_that_show_the_same_are_looked_at_once(picture):
    encoder = Counting()
    boxes = (LEFT, RIGHT, (0, 0, 19, 20), (1, 0, 20, 20), (0, 0, 12, 20))
    detector = OpenVocabDetector(FakeProposer(*boxes), encoder, PRESET)
    (features,) = detector.regions(picture).features[None]
    assert encoder.shown == 3
    np.testing.assert_array_equal(features[0], features[2])
    np.testing.assert_array_equal(features[0], features[3])
    assert (features[0] != features[1]).any()


def test_no_more_regions_are_encoded_than_the_budget_allows(picture):
    encoder = Counting()
    proposer = FakeProposer(LEFT, RIGHT, (0, 0, 10, 10))
    detector = OpenVocabDetector(proposer, encoder, PRESET).tuned(max_regions=1)
    assert by_name(detector.detect(picture, ["red", "blue"])) == {"red": list(LEFT)}
    assert encoder.shown == 1


def test_eight_threads_with_eight_class_lists_give_the_single_thread_results(picture):
    lists = [["blue", "red", f"word {index}"] for index in range(8)]
    detector = OpenVocabDetector(FakeProposer(LEFT, RIGHT), ColourEncoder(), PRESET)
    expected = [detector.detect(picture, classes).confidence for classes in lists]
    fresh = OpenVocabDetector(FakeProposer(LEFT, RIGHT), ColourEncoder(), PRESET)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda classes: fresh.detect(picture, classes).confidence, lists))
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_allclose(left, right)


@pytest.mark.parametrize("image", ["street.jpg", b"bytes", np.zeros((8, 8, 3), np.uint8)])
def test_a_single_image_is_no_batch(detector, image):
    with pytest.raises(ImageError, match="pass a list"):
        detector.detect_batch(image, ["red"])


def test_an_array_of_images_is_a_batch_and_its_images_are_called_by_number(detector, picture):
    assert len(detector.detect_batch(np.stack([picture, picture]), ["red"])) == 2
    with pytest.raises(ImageError, match="image 1 has shape"):
        detector.detect_batch([picture, np.zeros(3, np.uint8)], ["red"])


def test_numpy_words_and_numbers_and_generators_are_taken(detector, picture):
    plain = detector.detect(picture, ["blue", "red"], score_threshold=0.5)
    found = detector.detect(
        picture, np.array(["blue", "red"]), score_threshold=np.float32(0.5), thresholds={}
    )
    assert list(found.class_id) == list(plain.class_id)
    lazily = detector.detect(picture, (word for word in ("blue", "red")), score_threshold=0.5)
    assert list(lazily.class_id) == list(plain.class_id)


def test_a_class_may_have_its_own_threshold(detector, picture):
    found = detector.detect(picture, ["blue", "red"], thresholds={"red": 1.0})
    assert set(found.data["class_name"]) == {"blue"}


def test_overlapping_boxes_keep_the_better_score_whatever_its_class(picture):
    proposer = FakeProposer(LEFT, (0, 0, 20, 19))
    detector = OpenVocabDetector(proposer, ColourEncoder(), PRESET)
    assert len(detector.detect(picture, ["red", "blue"])) == 1


def test_the_detectors_own_label_helps_a_synonym_and_hurts_what_it_contradicts(picture):
    boxes = FakeProposer(LEFT, labels=["red"])
    detector = OpenVocabDetector(boxes, ColourEncoder(), PRESET)
    silent = OpenVocabDetector(FakeProposer(LEFT), ColourEncoder(), PRESET)
    posterior = [d.detect(picture, ["crimson"]).data["posterior"][0] for d in (detector, silent)]
    assert posterior[0] > posterior[1]


def test_an_example_picture_defines_a_class(detector, picture):
    example = np.zeros((8, 8, 3), np.uint8)
    example[..., 0] = 255
    found = by_name(detector.detect(picture, {"ours": [example]}))
    assert found == {"ours": list(RIGHT)}


def test_a_single_picture_or_word_need_not_be_in_a_list(detector, picture, tmp_path):
    example = np.zeros((8, 8, 3), np.uint8)
    example[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), example)
    for part in (example, tmp_path / "blue.png", "blue"):
        assert by_name(detector.detect(picture, {"ours": part})) == {"ours": list(RIGHT)}


def test_a_vocabulary_is_written_whole_or_not_at_all(detector, tmp_path):
    with pytest.raises(OpenVocabError, match="choose another path"):
        detector.vocabulary(["red"]).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClassesError, match="not numbers"):
        Vocabulary(("a",), np.full((1, 3), np.nan, np.float32), np.empty((0, 3)), "x")


def test_a_saved_vocabulary_gives_the_same_result(detector, picture, tmp_path):
    bank = detector.vocabulary({"blood": ["red", "crimson"]}, negatives=["blue"])
    bank.save(tmp_path / "bank.npz")
    loaded = Vocabulary.load(tmp_path / "bank.npz")
    np.testing.assert_array_equal(
        detector.detect(picture, bank).confidence, detector.detect(picture, loaded).confidence
    )


def test_a_vocabulary_of_another_encoder_is_refused(detector, picture):
    other = OpenVocabDetector(FakeProposer(), ColourEncoder("other"), PRESET)
    with pytest.raises(ClassesError, match="another encoder"):
        detector.detect(picture, other.vocabulary(["red"]))


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        ([], {}, "empty"),
        ("dog", {}, "pass a list"),
        ([1, 2], {}, "use strings"),
        (["dog", " "], {}, "empty string"),
        (["dog", "Dog"], {}, "the same"),
        (["traffic light", "traffic_light"], {}, "the same"),
        ({"dog": []}, {}, "no words or pictures"),
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
def test_unusable_classes_are_one_line_errors(detector, picture, classes, more, message):
    with pytest.raises(ClassesError, match=message) as caught:
        detector.detect(picture, classes, **more)
    assert "\n" not in str(caught.value)


def test_regions_are_not_asked_for_what_they_were_not_seen_for(detector, picture):
    seen = detector.regions(picture, score_threshold=0.7)
    detector.name(seen, ["red"], score_threshold=0.7)
    with pytest.raises(ClassesError, match=r"scores from 0\.7, and 0\.3 is asked for; see"):
        detector.name(seen, ["red"])
    low = detector.tuned(score_threshold=0.05)
    assert len(low.name(low.regions(picture), ["red"]))


@pytest.mark.parametrize("lowest", [float("nan"), 2, -1, "a"])
def test_regions_are_seen_for_a_score(detector, picture, lowest):
    with pytest.raises(ClassesError, match="0 to 1"):
        detector.regions(picture, score_threshold=lowest)


def test_a_score_is_a_number_whatever_the_scale_and_whoever_else_is_asked_for(detector, picture):
    steep = detector.tuned(logit_scale=1e6)
    seen = steep.regions(picture, score_threshold=0.0)
    alone = steep.name(seen, ["red"], score_threshold=0.0)
    beside = steep.name(seen, ["red", "blue", "zebra"], score_threshold=0.0)
    assert np.isfinite(beside.data["posterior"]).all()
    again = beside[beside.data["class_name"] == "red"]
    at = {tuple(box): score for box, score in zip(alone.xyxy, alone.confidence, strict=True)}
    assert [at[tuple(box)] for box in again.xyxy] == pytest.approx(again.confidence.tolist())


def test_parts_of_ones_own_that_do_not_fit_are_said(encoder, picture):
    preset = Preset(name="mine", detector="", encoder="")
    for names in ((), ("a", "a")):
        with pytest.raises(ModelError, match="give it some"):
            OpenVocabDetector(SimpleNamespace(names=names), encoder, preset)
    proposer = FakeProposer([[0, 0, 20, 20]])
    proposer.names = ("another",)
    with pytest.raises(ModelError, match="no name of the proposer; add it there"):
        OpenVocabDetector(proposer, encoder, preset).detect(picture, ["red"])


def test_an_explanation_takes_what_a_name_takes(detector, picture):
    seen = detector.regions(picture)
    box = detector.name(seen, ["red"]).xyxy[0]
    usual = detector.explain(seen, box, ["red"], negatives=["crimson"])
    for negatives in (np.array(["crimson"]), (word for word in ["crimson"])):
        assert detector.explain(seen, box, ["red"], negatives=negatives) == usual
    for other in (box[:3], np.stack([box, box]), 5):
        with pytest.raises(ClassesError, match="No region has this box"):
            detector.explain(seen, other, ["red"])


def test_regions_are_named_again_without_a_look(detector, encoder, picture):
    seen = detector.regions(picture)
    looks = encoder.image_forwards
    for classes in (["red", "blue"], ["crimson", "zebra"]):
        again, whole = detector.name(seen, classes), detector.detect(picture, classes)
        np.testing.assert_allclose(again.xyxy, whole.xyxy)
        np.testing.assert_allclose(again.confidence, whole.confidence, atol=1e-6)
        assert again.data["class_name"].tolist() == whole.data["class_name"].tolist()
    assert encoder.image_forwards == looks + 2  # those of detect


def test_an_explanation_sums_up_to_what_the_class_lacks(detector, picture):
    seen, asked = detector.regions(picture), {"classes": ["red", "blue"], "negatives": ["crimson"]}
    found = detector.name(seen, **asked)
    shares = detector.explain(seen, found.xyxy[0], **asked)
    best = max(share.share for share in shares if share.kind == "class")
    assert best == pytest.approx(float(found.data["posterior"][0]), abs=1e-5)
    others = {share.name: share.share for share in shares if share.kind != "class"}
    assert sum(others.values()) == pytest.approx(1 - best, abs=1e-5)
    assert {"crimson", "background", "thing"} <= others.keys()
    with pytest.raises(ClassesError, match="No region"):
        detector.explain(seen, np.zeros(4, np.float32), ["red"])


def test_a_vocabulary_is_explained_with_its_negatives_by_number(detector, picture):
    seen = detector.regions(picture)
    bank = detector.vocabulary(["red"], ["crimson", "gold"])
    box = detector.name(seen, bank).xyxy[0]
    named = {share.name for share in detector.explain(seen, box, bank)}
    assert {"negative 1", "negative 2"} <= named
