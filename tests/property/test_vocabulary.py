"""A vocabulary keeps the class names exactly, in memory and in a file."""

import numpy as np
import pytest
from fakes import PRESET, ColourEncoder, FakeProposer
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab import OpenVocabDetector, Vocabulary
from openvocab.errors import ClassesError
from openvocab.vocabulary import parse_classes
from openvocab.vocabulary._prompts import name_key, normalize_name

NAME = st.text(min_size=1, max_size=20).filter(normalize_name)
CLASSES = st.lists(NAME, min_size=1, max_size=8, unique_by=name_key)


@pytest.fixture(scope="module")
def detector() -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)


@settings(max_examples=50)
@given(classes=CLASSES, negatives=st.lists(st.just("sky"), max_size=1))
def test_saving_and_loading_changes_nothing(detector, tmp_path_factory, classes, negatives):
    vocabulary = detector.vocabulary(classes, negatives)
    path = tmp_path_factory.mktemp("vocabulary") / "classes.npz"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded.names == vocabulary.names == tuple(classes)
    assert loaded.fingerprint == vocabulary.fingerprint
    np.testing.assert_array_equal(loaded.features, vocabulary.features)
    np.testing.assert_array_equal(loaded.class_ids, vocabulary.class_ids)
    assert loaded.words == vocabulary.words


@given(CLASSES)
def test_every_class_has_one_unit_feature(classes):
    detector = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)
    vocabulary = detector.vocabulary(classes)
    assert len(vocabulary) == len(classes)
    np.testing.assert_allclose(np.linalg.norm(vocabulary.features, axis=1), 1, rtol=1e-5)


@given(st.lists(NAME, min_size=1, max_size=6))
def test_two_names_with_the_same_prompt_are_refused(names):
    keys = [name_key(name) for name in names]
    if len(set(keys)) == len(keys):
        assert list(parse_classes(names)) == names
    else:
        with pytest.raises(ClassesError, match="the same"):
            parse_classes(names)
