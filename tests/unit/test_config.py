"""A preset is read whole or refused with the key at fault."""

import pytest

from openvocab.config import Preset, available, load
from openvocab.errors import ConfigError
from openvocab.weights import manifest

GOOD = 'detector = "a"\nencoder = "b"\n'


def test_every_bundled_preset_loads():
    assert {"starter", "fast", "balanced", "accurate"} <= set(available())
    assert [load(name).name for name in available()] == list(available())


def test_every_preset_names_weights_of_the_manifest():
    """So that `openvocab weights pull NAME` can fetch all of it."""
    for preset in map(load, available()):
        assert {preset.detector, preset.encoder} <= set(manifest())


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "score_threshold = 0.5\ncontext_scales = [1.0]\ntile_size = 640\n")
    assert load(path) == Preset(
        name="mine",
        detector="a",
        encoder="b",
        score_threshold=0.5,
        context_scales=(1.0,),
        tile_size=640,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "score_treshold = 0.5", "did you mean 'score_threshold'"),
        (GOOD + "score_threshold = 'a'", "give a number"),
        (GOOD + "score_threshold = 2", "use 0 to 1"),
        (GOOD + "score_threshold = true", "give a number"),
        (GOOD + "templates = 'loud'", "use one of"),
        (GOOD + "nms_iou = 2.0", "use 0 to 1"),
        (GOOD + "max_boxes = 1.5", "a whole number"),
        (GOOD + "tile_size = 640.5", "a whole number"),
        (GOOD + "max_regions = 0", "use 1 to"),
        (GOOD + "max_regions = true", "a whole number"),
        (GOOD + "tile_size = 63", "use 64 to 8192"),
        (GOOD + "tile_size = 8193", "use 64 to 8192"),
        (GOOD + "prior_weight = nan", "use 0 to"),
        (GOOD + "logit_scale = 0.0", "use 1e-06 to"),
        (GOOD + "context_scales = [nan]", "1.0 to 8.0"),
        (GOOD + "background = 'sky'", "give a list"),
        (GOOD + "context_scales = [0.5]", "1.0 to 8.0"),
        ("detector = 'a'", "'encoder' is missing"),
        ("= nonsense", "not a readable TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert "mine" in str(caught.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ({"image_size": 640.5}, "give a whole number"),
        ({"score_threshold": True}, "give a number"),
        ({"score_threshold": None}, "give a number"),
        ({"trust_pickle": 1}, "give true or false"),
        ({"context_scales": 1.0}, "give a list"),
        ({"background": [1]}, "give a list"),
        ({"detector": 3}, "give a string"),
    ],
)
def test_what_python_gives_is_checked_as_a_file_is(number, message):
    with pytest.raises(ConfigError, match=message):
        Preset(**({"name": "mine", "detector": "a", "encoder": "b"} | number))


def test_a_list_is_as_good_as_a_tuple():
    lists = Preset(name="mine", detector="a", encoder="b", context_scales=[1, 2.0])
    assert lists == Preset(name="mine", detector="a", encoder="b", context_scales=(1, 2.0))
    assert hash(lists)


def test_a_path_is_relative_to_the_file_it_stands_in(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.onnx").touch()
    (tmp_path / "mine.toml").write_text('detector = "nets/net.onnx"\nencoder = "starter-encoder"\n')
    assert load(tmp_path / "mine.toml").detector == str(tmp_path / "nets" / "net.onnx")
    assert load(tmp_path / "mine.toml").encoder == "starter-encoder"


def test_a_preset_is_a_preset():
    assert load(load("starter")) == load("starter")
    with pytest.raises(ConfigError, match="pass a name"):
        load(None)
    with pytest.raises(ConfigError, match="give a number"):
        Preset(name="mine", detector="a", encoder="b", score_threshold="high")
    with pytest.raises(ConfigError, match="There is no preset"):
        load("missing.toml")


def test_an_unknown_name_suggests_a_near_one():
    with pytest.raises(ConfigError, match="did you mean 'starter'"):
        load("startr")
