"""Prompt maps: what a file may hold, and that the bundled one is valid."""

import tomllib

import pytest

from openvocab._internal.files import package_data
from openvocab.errors import ConfigError, DatasetError
from openvocab.evaluation._prompt_variants import PromptMap, prompt_variants
from openvocab.vocabulary import parse_classes
from openvocab.vocabulary._prompts import normalize_name

COCO = package_data("configs") / "classes" / "coco.toml"


def written(folder, text: str) -> str:
    file = folder / "map.toml"
    file.write_text(text)
    return str(file)


def test_a_map_replaces_some_names(tmp_path):
    prompt_map = PromptMap.from_file(written(tmp_path, '[mine]\ncar = "auto"\n'))
    assert {
        variant.name: variant.classes for variant in prompt_variants(["car", "bus"], prompt_map)
    }["mine"] == (
        "auto",
        "bus",
    )


def test_distractors_may_be_in_a_file_and_are_never_classes(tmp_path):
    (tmp_path / "more.txt").write_text("# why\nCar\n\n" + "\n".join(f"word {n}" for n in range(60)))
    prompt_map = PromptMap.from_file(written(tmp_path, 'distractors = "more.txt"'))
    (variant,) = [
        variant for variant in prompt_variants(["car"], prompt_map) if "distractors" in variant.name
    ]
    assert variant.name == "+50 distractors"
    assert len(variant.classes) == 51
    assert "Car" not in variant.classes


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("car = [1]", DatasetError, "is not a table of prompts"),
        ("absent = 5", DatasetError, "a list of prompts"),
        ('absent = "piano"', DatasetError, "a list of prompts"),
        ("distractors = 5", DatasetError, "a list of prompts"),
        ('[names]\ncar = "bus"', DatasetError, "reserved name"),
        ("absent = [1]", DatasetError, "instead of a prompt"),
        ('absent = [" "]', DatasetError, "instead of a prompt"),
        ("[mine]\ncar = 1", DatasetError, "instead of a prompt"),
        ('distractors = "none.txt"', ConfigError, "cannot be read"),
        ("[", ConfigError, "not a readable TOML"),
    ],
)
def test_an_invalid_map_is_refused(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        PromptMap.from_file(written(tmp_path, text))


def test_an_unknown_class_is_refused(tmp_path):
    prompt_map = PromptMap.from_file(written(tmp_path, '[mine]\nlorry = "truck"'))
    with pytest.raises(DatasetError, match="unknown class 'lorry'"):
        prompt_variants(["car"], prompt_map)


def test_the_same_prompt_for_two_classes_is_refused(tmp_path):
    prompt_map = PromptMap.from_file(written(tmp_path, '[mine]\ncar = "auto"\nbus = "Auto"'))
    with pytest.raises(
        DatasetError, match="mine: classes has 'auto' and 'Auto', which are the same"
    ):
        prompt_variants(["car", "bus"], prompt_map)


def test_an_unknown_map_is_refused():
    with pytest.raises(ConfigError, match="no file nothing"):
        PromptMap.from_file("nothing")


@pytest.fixture
def names(shared) -> list[str]:
    from openvocab.evaluation._formats import load_dataset

    return list(load_dataset(shared / "coco-dev").classes)


def test_the_bundled_map_fits_the_names_of_coco(names):
    variants = prompt_variants(names, PromptMap.from_file("coco"))
    assert [variant.name for variant in variants] == [
        "names", "upper case", "a photo of", "synonyms", "more synonyms", "plural",
        "+50 distractors", "+1,000 distractors",
    ]  # fmt: skip
    assert len(variants[-1].classes) == 1080
    for variant in variants:
        parse_classes(variant.classes)  # all different


def test_absent_prompts_and_distractors_are_not_synonyms_of_coco_classes(names):
    prompt_map = PromptMap.from_file("coco")
    table = tomllib.loads(COCO.read_text())
    taken = {*names, *table["plural"].values(), *table["synonyms"].values()}
    assert not taken & set(prompt_map.absent)
    assert not set(names) & {normalize_name(word) for word in prompt_map.distractors}
    assert len(set(prompt_map.distractors)) == 1000
