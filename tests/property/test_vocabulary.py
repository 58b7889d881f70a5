"""A vocabulary keeps the caller's words exactly, in memory and on disk."""

import numpy as np
import pytest
from fakes import PRESET, ColourEncoder, FakeProposer
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab import OpenVocabDetector, Vocabulary
from openvocab.errors import ClassesError
from openvocab.vocabulary import parse_classes
from openvocab.vocabulary.prompts import name_key, normalize_name

WORD = st.text(min_size=1, max_size=20).filter(normalize_name)
WORDS = st.lists(WORD, min_size=1, max_size=8, unique_by=name_key)


@pytest.fixture(scope="module")
def detector() -> OpenVocabDetector:
    return OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)


@settings(max_examples=50)
@given(words=WORDS, negatives=st.lists(st.just("sky"), max_size=1))
def test_a_round_trip_through_a_file_changes_nothing(detector, tmp_path_factory, words, negatives):
    bank = detector.vocabulary(words, negatives)
    path = tmp_path_factory.mktemp("bank") / "bank.npz"
    bank.save(path)
    loaded = Vocabulary.load(path)
    assert loaded.names == bank.names == tuple(words)
    assert loaded.fingerprint == bank.fingerprint
    np.testing.assert_array_equal(loaded.features, bank.features)
    np.testing.assert_array_equal(loaded.negatives, bank.negatives)


@given(WORDS)
def test_every_class_is_one_unit_row(words):
    detector = OpenVocabDetector(FakeProposer(), ColourEncoder(), PRESET)
    bank = detector.vocabulary(words)
    assert len(bank) == len(words)
    np.testing.assert_allclose(np.linalg.norm(bank.features, axis=1), 1, rtol=1e-5)


@given(st.lists(WORD, min_size=1, max_size=6))
def test_two_names_that_would_share_a_prompt_are_refused(words):
    keys = [name_key(word) for word in words]
    if len(set(keys)) == len(keys):
        assert list(parse_classes(words)) == words
    else:
        with pytest.raises(ClassesError, match="the same"):
            parse_classes(words)
