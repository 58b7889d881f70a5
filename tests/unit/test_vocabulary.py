"""Classes as prompts, features and files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes import PRESET, ColourEncoder, FakeProposer
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab import OpenVocabDetector, Vocabulary
from openvocab.encoders._text_cache import TextFeatureCache
from openvocab.errors import ClassesError, ConfigError
from openvocab.vocabulary._prompts import get_templates, render_prompts

LVIS = 1203


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def detector(encoder: ColourEncoder) -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(), encoder, PRESET)


@pytest.mark.parametrize(
    ("word", "templates", "prompt"),
    [
        ("bus", "simple", "a photo of a bus"),
        ("umbrella", "simple", "a photo of an umbrella"),
        ("traffic_light", "simple", "a photo of a traffic light"),
        ("  the  Eiffel Tower ", "simple", "a photo of the Eiffel Tower"),
        ("an apple", "simple", "a photo of an apple"),
        ("{}", "simple", "a photo of a {}"),
        ("cafe\u0301", "none", "caf\u00e9"),  # two code points become one
        ("地下鉄", "none", "地下鉄"),
        ("bus", "openai", "itap of a bus"),
    ],
)
def test_a_word_is_put_into_prompts(word, templates, prompt):
    assert render_prompts(word, get_templates(templates))[0] == prompt


def test_an_unknown_template_set_is_refused():
    with pytest.raises(ConfigError, match="use one of"):
        get_templates("loud")


def test_every_synonym_is_a_prototype_of_its_class(detector):
    vocabulary = detector.vocabulary({"warm": ["red", "green"], "cold": "blue"}, ["gold"])
    assert vocabulary.words == ("red", "green", "blue", "gold")
    assert vocabulary.class_ids.tolist() == [0, 0, 1, 2] and vocabulary.negative_count == 1
    names = detector.vocabulary(["red", "green", "blue", "gold"])
    np.testing.assert_array_equal(vocabulary.features, names.features)


def test_the_words_of_lvis_cost_one_text_forward_and_then_none(detector, encoder):
    words = [f"word {index}" for index in range(LVIS)]
    assert len(detector.vocabulary(words)) == LVIS
    assert len(encoder.text_forwards) == 1
    detector.vocabulary(words[::-1])
    assert len(encoder.text_forwards) == 1


def test_classes_and_negatives_share_one_text_forward(detector, encoder):
    detector.vocabulary({"car": ["car", "automobile"]}, negatives=["toy car"])
    assert encoder.text_forwards == [("car", "automobile", "toy car")]


def test_the_words_used_longest_ago_are_forgotten_first(encoder):
    words = TextFeatureCache(encoder, "none", capacity=2)
    words(["red", "green"])
    words(["red"])
    words(["blue"])  # green goes
    encoder.text_forwards.clear()
    words(["red", "blue"])
    assert encoder.text_forwards == []
    words(["green"])
    assert encoder.text_forwards == [("green",)]


def test_more_words_than_are_remembered_still_get_their_features(encoder):
    words = TextFeatureCache(encoder, "none", capacity=1)
    assert words(["red", "green", "blue"]).shape[0] == 3


def test_a_vocabulary_brings_its_own_negatives(detector):
    vocabulary = detector.vocabulary(["red"])
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ClassesError, match="its own negatives"):
        detector.detect(image, vocabulary, negatives=["blue"])


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", None])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClassesError, match="not a saved vocabulary"):
        Vocabulary.load(path)


def test_an_npz_with_pickles_or_of_something_else_is_refused(tmp_path):
    path = tmp_path / "vocabulary.npz"
    np.savez(path, names=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ClassesError, match="not a saved vocabulary"):
        Vocabulary.load(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ClassesError, match="not a saved vocabulary"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "classes is empty"),
        ({"names": ("red", "Red")}, "are the same; remove one"),
        ({"features": np.zeros((2, 4), np.float32)}, "not unit rows"),
        ({"features": np.full((2, 4), np.nan, np.float32)}, "not numbers"),
        ({"features": np.eye(3, 4, dtype=np.float32)}, "2 names, but features"),
        ({"class_ids": np.array([0, 2])}, "2 names, but features"),
        ({"class_ids": np.array([0, 0])}, "2 names, but features"),
        ({"words": ("red",)}, "2 names, but features"),
    ],
)
def test_arrays_that_are_no_vocabulary_are_refused(change, message):
    rows = np.eye(2, 4, dtype=np.float32)
    words, class_ids = ("red", "blue"), np.arange(2)
    whole = {
        "names": words, "features": rows, "class_ids": class_ids, "words": words, "fingerprint": "x"
    }  # fmt: skip
    assert len(Vocabulary(**whole)) == 2
    with pytest.raises(ClassesError, match=message):
        Vocabulary(**(whole | change))


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
def test_a_damaged_file_is_refused_or_gives_a_valid_vocabulary(changes, kept):
    detector = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.npz"
        detector.vocabulary(["red", "blue"], ["green"]).save(path)
        payload = bytearray(path.read_bytes())
        for position, value in changes:
            payload[int(position * len(payload))] = value
        path.write_bytes(payload[: int(kept * len(payload))])
        try:
            vocabulary = Vocabulary.load(path)
        except ClassesError as error:
            message = str(error)
        else:
            message = None
            assert len(vocabulary) == len(vocabulary.features) > 0
    assert message is None or message.endswith("write one with Vocabulary.save.")
