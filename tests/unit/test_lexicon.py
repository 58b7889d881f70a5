"""What words mean: senses, relations to the labels of a detector, kinds, and tables of datasets."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHARED

from openvocab.errors import ClassesError, ConfigError, OpenVocabError
from openvocab.vocabulary import Lexicon, load_lexicon, synsets_for
from openvocab.vocabulary._nouns import Nouns
from openvocab.vocabulary._phrases import phrase_key

TABLES = ROOT / "configs" / "synsets"
DATASETS = {"coco": 80, "objects365": 365, "lvis": 1203}
GOLDEN = SHARED / "clip-golden"
MOST = 0.8  # of the meaning of a word


def table(name: str) -> dict[str, str]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text("utf-8"))


COCO = table("coco")
LABELS = list(COCO)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon()


def relations(lexicon, *words):
    return lexicon.relations(words, LABELS, synsets_for(LABELS))


def labels_of(row, least=MOST) -> set[str]:
    return {label for label, value in zip(LABELS, row, strict=True) if value >= least}


def nearest(lexicon, word, count) -> set[str]:
    """The labels that are as near as the `count` nearest."""
    (near,) = relations(lexicon, word).nearness
    return labels_of(near, np.sort(near)[-count])


@pytest.mark.parametrize(
    ("phrase", "synset", "is_head"),
    [
        ("dog", "dog.n.01", False),
        ("Dogs", "dog.n.01", False),
        ("a photo of two dogs", "dog.n.01", False),
        ("traffic_light", "traffic_light.n.01", False),
        ("hot-air balloon", "hot-air_balloon.n.01", False),
        ("T shirts", "jersey.n.03", False),
        ("wolves", "wolf.n.01", False),
        ("geese", "goose.n.01", False),
        ("people", "person.n.01", False),
        ("baseball caps", "baseball_cap.n.01", False),
        ("tyre", "tire.n.01", False),
        ("grey wolf", "timber_wolf.n.01", False),
        ("piñata", "pinata.n.01", False),
        ("house plant", "houseplant.n.01", False),
        ("firetruck", "fire_engine.n.01", False),
        ("pair of scissors", "scissors.n.01", False),
        ("a close-up of the scissors", "scissors.n.01", False),
        ("two-wheeler", "two-wheeler.n.00", False),
        ("all-terrain bike", "mountain_bike.n.01", False),
        ("bat_(animal)", "bat.n.01", False),
        ("physics", "physics.n.01", False),  # abstract, but known
        ("double decker bus", "bus.n.01", True),
        ("old delivery van", "delivery_truck.n.01", True),
        ("man in the car", "man.n.01", True),
        ("person with a hat", "person.n.01", True),
        ("dog on a leash", "dog.n.01", True),
        ("red car", "car.n.01", True),
        ("woman walking", "woman.n.01", True),
        ("dog chasing a cat", "dog.n.01", True),
        ("car parked in the street", "car.n.01", True),
        ("old painting", "painting.n.01", True),
        ("bottle of wine", "bottle.n.01", True),
        ("toy car", "plaything.n.01", True),
    ],
)
def test_a_phrase_is_found(lexicon, phrase, synset, is_head):
    first = lexicon.senses(phrase)[0]
    assert (first.synset, first.is_head) == (synset, is_head)


@pytest.mark.parametrize(
    "phrase", ["zorblax", "red zorblax", "地下鉄", "the", "-", "", "\ud800", "()", "x" * 10**5]
)
def test_what_is_no_noun_has_no_senses(lexicon, phrase):
    assert lexicon.senses(phrase) == ()


def test_a_phrase_of_any_length_is_read(lexicon):
    assert lexicon.senses("very " * 10**5 + "dog") == ()
    assert lexicon.senses("dog " + "in a box " * 10**5)[0].synset == "dog.n.01"


@pytest.mark.parametrize("word", ["dog", "coach", "bear", "mouse", "train", "man", "ring", "date"])
def test_weights_are_shares_in_order(lexicon, word):
    weights = [sense.weight for sense in lexicon.senses(word)]
    assert sum(weights) == pytest.approx(1)
    assert weights == sorted(weights, reverse=True)


def test_things_outweigh_nicknames_and_abstractions(lexicon):
    weights = {
        word: {sense.synset: sense.weight for sense in lexicon.senses(word)}
        for word in ("bear", "dog", "train", "mouse")
    }
    assert weights["bear"]["bear.n.02"] < 0.15  # on the stock market
    assert weights["dog"]["dog.n.03"] < 0.05  # a chap
    assert weights["train"]["string.n.04"] < 0.05  # of thought
    assert weights["mouse"]["mouse.n.04"] > 0.05  # of a computer


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("telly", "tv"),
        ("settee", "couch"),
        ("houseplant", "potted plant"),
        ("lorry", "truck"),
        ("human", "person"),
        ("motorbike", "motorcycle"),
        ("aeroplane", "airplane"),
        ("fridge", "refrigerator"),
        ("mobile phone", "cell phone"),
        ("hairdryer", "hair drier"),
        ("wineglass", "wine glass"),
        ("rucksack", "backpack"),
        ("mouse", "mouse"),  # whatever its senses: it is the same word
        ("A Mouse", "mouse"),
    ],
)
def test_a_synonym_is_the_same(lexicon, word, label):
    found = relations(lexicon, word)
    assert labels_of(found.same[0]) == {label}
    assert label not in labels_of(found.kind[0]) | labels_of(found.broader[0])
    assert found.nearness[0, LABELS.index(label)] == 1


def test_one_sense_of_several_is_the_same_in_part(lexicon):
    found = relations(lexicon, "coach")
    assert 0.2 < found.same[0, LABELS.index("bus")] < MOST
    assert found.kind[0, LABELS.index("person")] > 0.05  # the trainer


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("boy", "person"),
        ("police officer", "person"),
        ("taxi", "car"),
        ("penguin", "bird"),
        ("puppy", "dog"),
        ("armchair", "chair"),
        ("double decker bus", "bus"),
        ("woman walking", "person"),
        ("red car", "car"),
        ("smartphone", "cell phone"),
        ("van", "truck"),
        ("ferry", "boat"),
        ("kitten", "cat"),
        ("lamb", "sheep"),
        ("mug", "cup"),
    ],
)
def test_a_kind_is_no_synonym(lexicon, word, label):
    found = relations(lexicon, word)
    assert labels_of(found.kind[0]) == {label}
    assert labels_of(found.same[0], 0.1) == set()


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("animal", "bird cat dog horse sheep cow elephant bear zebra giraffe"),
        ("vehicle", "bicycle car motorcycle airplane bus train truck boat skateboard"),
        ("furniture", "bench chair couch bed dining_table"),
        ("food", "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake"),
        ("electronics", "tv laptop mouse remote keyboard cell_phone"),
        ("appliance", "microwave oven toaster refrigerator hair_drier"),
        ("fruit", "banana apple orange"),
        ("produce", "banana apple orange broccoli carrot"),
        ("cutlery", "fork knife spoon"),
        ("accessories", "backpack umbrella handbag tie suitcase"),
        ("luggage", "backpack suitcase"),
        ("livestock", "horse sheep cow"),
        ("wildlife", "bird elephant bear zebra giraffe"),
        ("pets", "cat dog"),
        ("container", "backpack handbag suitcase bottle wine_glass cup spoon bowl vase"),
        (
            "sports equipment",
            "frisbee skis snowboard sports_ball baseball_bat baseball_glove skateboard surfboard "
            "tennis_racket",
        ),
        ("two-wheeler", "bicycle motorcycle"),
        ("public transport", "bus train"),
        ("musical instrument", ""),
    ],
)
def test_a_collective_word_is_broader(lexicon, word, labels):
    found = relations(lexicon, word)
    assert labels_of(found.broader[0]) == {each.replace("_", " ") for each in labels.split()}
    assert not found.same.any() and not found.kind.any()


def test_of_a_head_noun_the_kinds_may_be_meant(lexicon):
    found = relations(lexicon, "stray animal")
    assert labels_of(found.broader[0], 0.4) > {"dog", "cat"}
    assert found.broader.max() == 0.5


@pytest.mark.parametrize(
    ("word", "near", "count"),
    [
        ("raccoon", {"cat", "dog", "bear"}, 3),
        ("kangaroo", {"cat", "dog", "horse", "cow", "sheep", "bear", "elephant"}, 7),
        ("playing card", {"book"}, 1),
        ("circuit board", {"tv", "laptop", "cell phone", "keyboard", "mouse", "remote"}, 6),
        ("helicopter", {"airplane"}, 1),
        ("crayfish", {"dog", "bird"}, 10),
        ("stethoscope", {"clock"}, 2),
        ("strawberry", {"banana", "apple", "orange"}, 3),
        ("cactus", {"potted plant"}, 1),
        ("van", {"truck", "car"}, 2),
        ("wrench", {"knife", "scissors"}, 2),
    ],
)
def test_the_nearest_labels_are_those_one_would_name(lexicon, word, near, count):
    assert near <= nearest(lexicon, word, count)
    assert "person" not in nearest(lexicon, word, count)


def test_all_relations_are_in_range_and_share_the_meaning(lexicon):
    words = list(table("lvis"))[::7]
    found = relations(lexicon, *words)
    for array in (found.same, found.kind, found.broader, found.nearness):
        assert array.shape == (len(words), len(LABELS))
        assert array.dtype == np.float32
        assert array.min() >= 0 and array.max() <= 1
    assert (found.same + found.kind + found.broader).max() <= 1 + 1e-6
    assert found.known.all() and found.label_known.all()


def test_relations_do_not_depend_on_the_other_words(lexicon):
    words = ["zorblax", "taxi", "coach", "wild animal"]
    together = relations(lexicon, *words)
    for row, word in enumerate(words):
        alone = relations(lexicon, word)
        for name in ("same", "kind", "broader", "nearness", "known"):
            np.testing.assert_array_equal(getattr(together, name)[row], getattr(alone, name)[0])


def test_an_unknown_word_is_related_to_nothing_but_itself(lexicon):
    found = lexicon.relations(["zorblax"], ["dog", "Zorblax"])
    assert found.same.tolist() == [[0, 1]]
    assert not found.kind.any() and not found.broader.any()
    assert found.known.tolist() == [False]
    assert found.label_known.tolist() == [True, False]


def test_no_words_or_no_labels(lexicon):
    assert lexicon.relations([], LABELS).same.shape == (0, 80)
    assert lexicon.relations(["dog"], []).nearness.shape == (1, 0)


def test_a_label_without_a_synset_is_looked_up(lexicon):
    found = lexicon.relations(["vehicle", "truck"], ["small forklift truck", "mouse"])
    assert found.broader[0, 0] == 1
    assert found.same[1, 0] == 0  # a kind of what its head noun says
    assert lexicon.relations(["animal"], ["mouse"]).broader[0, 0] > 0.5
    assert lexicon.relations(["animal"], ["mouse"], ["mouse.n.04"]).broader[0, 0] == 0


def test_labels_that_differ_in_brackets_only_are_different(lexicon):
    found = lexicon.relations(
        ["bat (animal)"], ["bat_(animal)", "bat_(sports)"], ["bat.n.01", "bat.n.05"]
    )
    assert found.same[0, 0] == 1
    assert found.same[0, 1] < 0.5


def test_a_wrong_synset_is_refused(lexicon):
    with pytest.raises(ClassesError, match=r"no synset 'dog\.n\.99'; give one"):
        lexicon.relations(["dog"], ["dog"], ["dog.n.99"])
    with pytest.raises(ClassesError, match="1 synsets for 2 labels"):
        lexicon.relations(["dog"], ["dog", "cat"], ["dog.n.01"])
    with pytest.raises(ClassesError, match="no synset"):
        lexicon.kinds("dog", synset="dog")


def test_kinds_are_listed_breadth_first_and_the_commonest_first(lexicon):
    found = lexicon.kinds("dogs")
    depths = [kind.depth for kind in found]
    assert depths == sorted(depths) and depths[0] == 1 and depths[-1] > 3
    first = [kind.frequency for kind in found if kind.depth == 1]
    assert first == sorted(first, reverse=True)
    assert len({kind.synset for kind in found}) == len(found)
    assert {"puppy", "dalmatian", "beagle"} <= {kind.phrase for kind in found}


def test_kinds_of_another_sense_of_a_collective_word_and_of_nothing(lexicon):
    mice = lexicon.kinds("mouse")
    assert "house mouse" in {kind.phrase for kind in mice}
    assert lexicon.kinds("mouse", synset="mouse.n.04") == []
    assert {"telephone", "laptop"} <= {kind.phrase for kind in lexicon.kinds("gadgets")}
    assert lexicon.kinds("zorblax") == []


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_of_a_dataset_is_complete(lexicon, name):
    synsets = table(name)
    assert len(synsets) == DATASETS[name]
    assert [label for label, synset in synsets.items() if not lexicon.has_synset(synset)] == []
    assert synsets_for(list(synsets)) == tuple(synsets.values())


def test_the_tables_have_the_names_of_the_datasets():
    if not GOLDEN.is_dir():
        pytest.skip(f"no {GOLDEN}")
    lvis = json.loads((GOLDEN / "lvis_v1_train_cat_info.json").read_text())
    synsets = table("lvis")
    assert list(synsets) == [category["name"] for category in lvis]
    other = {each["name"] for each in lvis if synsets[each["name"]] != each["synset"]}
    assert other == {"ball", "cow", "refrigerator", "stop_sign", "toy"}
    with np.load(GOLDEN / "vit-b-32-openai-names.npz") as arrays:
        assert list(table("objects365")) == arrays["objects365_names"].tolist()


def test_the_words_of_coco_are_among_the_senses_of_its_labels(lexicon):
    """A synset of the table that the look-up does not even consider is a slip of the pen."""
    ours = {"boat", "cow", "keyboard"}  # all vessels, cattle, and of a computer
    for label in sorted(set(LABELS) - ours):
        assert COCO[label] in {sense.synset for sense in lexicon.senses(label)}, label


def test_the_labels_of_a_dataset_are_recognized_in_any_spelling():
    assert synsets_for([label.upper().replace(" ", "_") for label in LABELS]) == synsets_for(LABELS)
    added = [*LABELS[:-1], "my own thing"]
    assert synsets_for(added) == (*synsets_for(LABELS)[:-1], None)
    with_synonyms = [name.replace("_", " ") + "/other word" for name in table("lvis")]
    assert synsets_for(with_synonyms) == tuple(table("lvis").values())


@pytest.mark.parametrize(
    "labels",
    [[], ["mouse"], ["cat", "dog", "mouse"], LABELS[:60] + [f"part {n}" for n in range(20)]],
)
def test_the_labels_of_another_detector_are_looked_up(labels):
    assert synsets_for(labels) == (None,) * len(labels)


def test_all_synsets_are_below_the_root(lexicon):
    tree = lexicon._tree
    root = tree.number("entity.n.01")
    size = len(tree.nouns.kind) + len(
        tomllib.loads((TABLES / "everyday.toml").read_text())["synsets"]
    )
    for synset in (*range(0, size, 97), *range(len(tree.nouns.kind), size)):
        lineage = tree.lineage(synset)
        assert root in lineage.synsets
        assert 0 <= lineage.content <= 1
        assert tree.number(tree.name(synset)) == synset


def test_the_words_of_the_everyday_table_are_found_as_they_are_typed():
    everyday = tomllib.loads((TABLES / "everyday.toml").read_text("utf-8"))
    words = [*everyday["meanings"]]
    for name, entry in everyday["synsets"].items():
        words += [name, *entry.get("words", ())]
    keys = [phrase_key(word) for word in words]
    assert [key for key in keys if keys.count(key) > 1] == []
    assert "" not in keys


def test_a_table_with_an_unknown_synset_is_refused():
    nouns = Nouns.load(ROOT / "lexicon" / "nouns.npz")
    with pytest.raises(ConfigError, match=r"'dog\.n\.99', which is no synset; correct it"):
        Lexicon(nouns, {"meanings": {"dog": "dog.n.99"}})


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged"])
def test_a_damaged_lexicon_is_refused(tmp_path: Path, content):
    path = tmp_path / "nouns.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        OpenVocabError, match=r"is not a readable lexicon .*; install openvocab again"
    ):
        Nouns.load(path)


def test_the_licence_is_beside_the_data():
    folder = ROOT / "lexicon"
    assert "Princeton University" in (folder / "LICENSE-WordNet").read_text("utf-8")
    assert (folder / "nouns.npz").stat().st_size < 2 * 10**6
