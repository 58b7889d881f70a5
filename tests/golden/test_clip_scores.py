"""The class head with the features of a real CLIP, by the benchmark that measures it."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "golden.py"


@pytest.fixture(scope="module")
def benchmark() -> dict:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def fifty_photos(benchmark, shared: Path):
    folder = shared / "clip-golden"
    if not (folder / "vit-b-32-openai-names.npz").is_file():
        pytest.skip(f"needs the features of photos and names in {folder}")
    return benchmark["Golden"].load(folder, 50)


@pytest.fixture(scope="module")
def rows(benchmark, fifty_photos) -> dict:
    setting = benchmark["Setting"]
    pictures = {"examples": 5, "gap_corrected": False}
    settings = [
        setting("words"),
        setting("scale 20", {"logit_scale": 20.0}),
        setting("starter's offset", {"example_offset": 0.04}, **pictures),
        setting("preset's offset", benchmark["preset_numbers"](), **pictures),
    ]
    measured = benchmark["measure"](fifty_photos, settings)
    return {row["name"]: row["checking"] for row in measured}


def test_names_of_captions_rank_high(rows):
    """A name and its photos are told from other photos; at the starter's scale, one threshold is not."""
    assert rows["words"]["AUC"] > 80
    assert rows["words"]["AP even"] > rows["scale 20"]["AP even"] + 10


def test_an_example_picture_does_not_match_every_photo(rows):
    """Images are nearer to each other than to words, which the presets of CLIPs allow for."""
    assert rows["starter's offset"]["wrong"] > 95
    assert rows["preset's offset"]["wrong"] < 20
    assert rows["preset's offset"]["found"] > rows["preset's offset"]["wrong"]


def test_what_captions_say(fifty_photos):
    """A girl is a person and no dog; nobody knows of what is more special than what is said."""
    first = dict(zip(fifty_photos.names, fifty_photos.truth[0].tolist(), strict=True))
    assert first["girl"] == first["person"] == 1  # "A little girl climbing into a wooden playhouse"
    assert first["dog"] == 0
    assert first["wheelchair"] == 0
