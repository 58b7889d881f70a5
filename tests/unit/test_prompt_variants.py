"""Maps of classes: what may stand in one, and that the shipped one is sound."""

import tomllib

import pytest

from openvocab._internal.files import package_data
from openvocab.errors import ConfigError, DatasetError
from openvocab.evaluation.prompt_variants import PromptMap, prompt_variants
from openvocab.vocabulary.prompts import normalize_name

COCO = package_data("configs") / "classes" / "coco.toml"


def written(folder, text: str) -> str:
    file = folder / "map.toml"
    file.write_text(text)
    return str(file)


def test_a_map_renames_some_classes_and_leaves_the_rest(tmp_path):
    words = PromptMap.from_file(written(tmp_path, '[mine]\ncar = "auto"\n'))
    assert {each.name: each.classes for each in prompt_variants(["car", "bus"], words)}["mine"] == (
        "auto",
        "bus",
    )


def test_distractors_may_stand_in_a_file_and_are_never_classes(tmp_path):
    (tmp_path / "more.txt").write_text("# why\nCar\n\n" + "\n".join(f"word {n}" for n in range(60)))
    words = PromptMap.from_file(written(tmp_path, 'distractors = "more.txt"'))
    (asked,) = [each for each in prompt_variants(["car"], words) if "distractors" in each.name]
    assert asked.name == "+50 distractors"
    assert len(asked.classes) == 51
    assert "Car" not in asked.classes


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("car = [1]", DatasetError, "no table of words"),
        ("absent = 5", DatasetError, "a list of words"),
        ('absent = "piano"', DatasetError, "a list of words"),
        ("distractors = 5", DatasetError, "a list of words"),
        ('[names]\ncar = "bus"', DatasetError, "a name of its own"),
        ("absent = [1]", DatasetError, "where a word should be"),
        ('absent = [" "]', DatasetError, "where a word should be"),
        ("[mine]\ncar = 1", DatasetError, "where a word should be"),
        ('distractors = "none.txt"', ConfigError, "cannot be read"),
        ("[", ConfigError, "not a readable TOML"),
    ],
)
def test_a_wrong_map_is_said_in_one_line(tmp_path, text, error, said):
    with pytest.raises(error, match=said) as caught:
        PromptMap.from_file(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_class_that_is_none_is_refused(tmp_path):
    words = PromptMap.from_file(written(tmp_path, '[mine]\nlorry = "truck"'))
    with pytest.raises(DatasetError, match="'lorry', which is no class"):
        prompt_variants(["car"], words)


def test_two_classes_of_one_word_are_refused(tmp_path):
    words = PromptMap.from_file(written(tmp_path, '[mine]\ncar = "auto"\nbus = "Auto"'))
    with pytest.raises(DatasetError, match="mine: classes holds 'auto' and 'Auto', the same"):
        prompt_variants(["car", "bus"], words)


def test_there_is_no_such_map():
    with pytest.raises(ConfigError, match="no file nothing"):
        PromptMap.from_file("nothing")


@pytest.fixture
def names(shared) -> list[str]:
    from openvocab.evaluation.formats import load

    return list(load(shared / "coco-dev").classes)


def test_the_shipped_map_fits_cocos_names(names):
    asked = prompt_variants(names, PromptMap.from_file("coco"))
    assert [each.name for each in asked] == [
        "names", "upper case", "a photo of", "synonyms", "more synonyms", "plural",
        "+50 distractors", "+1,000 distractors",
    ]  # fmt: skip
    assert len(asked[-1].classes) == 1080
    for each in asked:
        parse_classes(each.classes)  # no word twice


def test_the_shipped_words_for_absent_things_and_distractors_are_no_other_words_for_coco(names):
    words = PromptMap.from_file("coco")
    table = tomllib.loads(COCO.read_text())
    taken = {*names, *table["plural"].values(), *table["synonyms"].values()}
    assert not taken & set(words.absent)
    assert not set(names) & {normalize_name(word) for word in words.distractors}
    assert len(set(words.distractors)) == 1000
