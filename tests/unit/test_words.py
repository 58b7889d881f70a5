"""What `openvocab explain-word` says about a word, on fakes."""

import json
from dataclasses import replace

import pytest
from fakes import PRESET, ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector
from openvocab.cli._words import describe_word, word_lines
from openvocab.errors import ClassesError

BOX = (0, 0, 10, 10)
LABELS = ("person", "dog", "cat", "orange", "truck")


@pytest.fixture
def detector() -> OpenVocabDetector:
    proposer = FakeProposer(*[BOX] * len(LABELS), labels=LABELS)
    return OpenVocabDetector(proposer, ColourEncoder(), PRESET)


def relations(record) -> dict[str, str]:
    return {row["label"]: row["relation"] for row in record["related"]}


@pytest.mark.parametrize(
    ("word", "label", "relation", "competes"),
    [
        ("lorry", "truck", "the same as", 0),
        ("boy", "person", "a kind of", pytest.approx(0.0025, abs=1e-3)),
        ("animal", "dog", "broader than", 0),
        ("wolf", "dog", "near", 1),
    ],
)
def test_a_word_is_related_to_labels(detector, word, label, relation, competes):
    record = describe_word(detector, word)
    (row,) = [row for row in record["related"] if row["label"] == label]
    assert (row["relation"], row["competes"]) == (relation, competes)


def test_a_base_class_has_other_settings_than_a_novel_one(detector):
    scoring = detector.preset.scoring
    base, novel = describe_word(detector, "lorry"), describe_word(detector, "zorblax")
    assert (base["class"], novel["class"]) == ("base", "novel")
    assert novel["covered"] == 0
    assert novel["fusion_exponent"] == scoring.novel_fusion_exponent
    assert novel["prior_odds"] == pytest.approx(scoring.novel_weight)
    assert base["fusion_exponent"] == pytest.approx(scoring.fusion_exponent, abs=0.02)
    assert "truck" in [row["label"] for row in base["likely_labels"][:2]]  # the other is "thing"


def test_a_record_is_json_and_has_every_label_that_competes_less(detector):
    record = describe_word(detector, "animal")
    assert json.loads(json.dumps(record)) == record
    assert record["competitors"]["not_at_all"] == ["dog", "cat"]
    counts = record["competitors"]["fully"] + len(record["competitors"]["less"]) + 2
    assert counts == record["labels"] == len(LABELS) + 1


def test_a_phrase_is_known_by_its_head(detector):
    record = describe_word(detector, "big yellow truck")
    assert record["senses"][0]["head_only"]
    assert "only its head noun is known" in next(word_lines(record))


def test_an_unknown_word_is_left_to_the_text_encoder(detector):
    record = describe_word(detector, "zorblax")
    lines = "\n".join(word_lines(record))
    assert "zorblax is not in the lexicon" in lines
    assert "no label is related to it" in lines
    assert record["related"] == []
    # To the fake encoder, the last word of a phrase is its meaning.
    record = describe_word(detector, "zorblax dog")
    assert relations(record)["dog"] in ("a kind of", "the same as")


def test_without_the_lexicon_texts_are_compared(detector):
    scoring = replace(PRESET.scoring, lexicon=False)
    detector = detector._with_preset(replace(PRESET, scoring=scoring))
    record = describe_word(detector, "a dog")
    assert (record["lexicon"], record["senses"]) == (False, [])
    assert relations(record) == {"dog": "the same as"}
    assert record["related"][0]["nearness"] is None
    assert next(word_lines(record)).startswith("the lexicon is not used")


def test_a_background_prompt_that_is_the_word_does_not_compete(detector):
    record = describe_word(detector, "sky")
    assert record["competitors"]["background_not_at_all"] == ["sky"]
    assert "sky (background)" in "\n".join(word_lines(record))


def test_an_empty_word_is_refused(detector):
    with pytest.raises(ClassesError):
        describe_word(detector, " ")
