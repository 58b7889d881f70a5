"""A preset is read completely, or refused with the key at fault."""

import pytest

from openvocab.config import (
    ModelConfig,
    Preset,
    ProposalConfig,
    ScoringConfig,
    available_presets,
    load_preset,
)
from openvocab.errors import ConfigError
from openvocab.weights import manifest

MODELS = '[models]\ndetector = "a"\nencoder = "b"\n'


def test_every_bundled_preset_loads():
    assert {"starter", "fast", "balanced", "accurate"} <= set(available_presets())
    names = [load_preset(name).name for name in available_presets()]
    assert names == list(available_presets())


def test_every_preset_names_weights_of_the_manifest():
    """So that `openvocab weights pull NAME` can pull all of it."""
    for models in (load_preset(name).models for name in available_presets()):
        assert {models.detector, models.encoder} <= set(manifest())


def test_a_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        MODELS + "[proposals]\ntile_size = 640\n[scoring]\nscore_threshold = 0.5\nbackground = []\n"
    )
    assert load_preset(path) == Preset(
        ModelConfig("a", "b"),
        ProposalConfig(tile_size=640),
        ScoringConfig(score_threshold=0.5, background=()),
        name="mine",
    )


def test_what_is_written_reads_back_equal(tmp_path):
    preset = Preset(
        ModelConfig("a", "b", trust_pickle=True),
        ProposalConfig(image_size=320),
        ScoringConfig(background=("sky", "Fluß"), class_agnostic_nms=True),
        thresholds={"traffic light": 0.2, "Fluß": 1},
        name="mine",
        description='a "quoted" one',
    )
    (tmp_path / "mine.toml").write_text(preset.to_toml(), encoding="utf-8")
    assert load_preset(tmp_path / "mine.toml") == preset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODELS + "[scoring]\nscore_treshold = 0.5", "did you mean 'score_threshold'"),
        (MODELS + "[scoring]\nscore_threshold = 'a'", "give a number"),
        ("thresholds = 0.5\n" + MODELS, "give a table"),
        (MODELS + "[thresholds]\nbus = 2", "thresholds has 2 for 'bus'; use 0 to 1"),
        (MODELS + "[thresholds]\nbus = true", "thresholds has True for 'bus'; use 0 to 1"),
        (MODELS + "[scoring]\nscore_threshold = 2", "use 0 to 1"),
        (MODELS + "[scoring]\nscore_threshold = true", "give a number"),
        (MODELS + "[scoring]\nnms_iou = 2.0", "use 0 to 1"),
        (MODELS + "[scoring]\nlabel_weight = nan", "use 0 to"),
        (MODELS + "[scoring]\nlogit_scale = 0.0", "use 0.01 to"),
        (MODELS + "[scoring]\nlogit_scale = 201", "use 0.01 to 200"),
        (MODELS + "[scoring]\nbackground = 'sky'", "give a list"),
        (MODELS + "[proposals]\nmax_boxes = 1.5", "a whole number"),
        (MODELS + "[proposals]\ntile_size = 640.5", "a whole number"),
        (MODELS + "[proposals]\nmax_regions = 0", "use 1 to"),
        (MODELS + "[proposals]\nmax_regions = true", "a whole number"),
        (MODELS + "[proposals]\ntile_size = 63", "use 64 to 8192"),
        (MODELS + "[proposals]\ntile_size = 8193", "use 64 to 8192"),
        (MODELS + "[proposals]\ncontext_scale = nan", "use 1 to 8"),
        (MODELS + "[proposals]\ncontext_scale = 0.5", "use 1 to 8"),
        ("name = 3\n" + MODELS, "name is 3; give a string"),
        (MODELS + "[scorign]\nnms_iou = 0.5", "did you mean 'scoring'"),
        ("scoring = 1\n" + MODELS, r"\[scoring\] is not a table"),
        ('detector = "a"\nencoder = "b"', r"'detector' belongs in \[models\]; move it there"),
        (MODELS + "nms_iou = 0.5", r"'nms_iou' belongs in \[scoring\]; move it there"),
        ("background_weight = 4.0\n" + MODELS, r"'competitor_weight' in \[scoring\]; rename it"),
        (MODELS + "[scoring]\nprior_scale = 20.0", "is a constant now; remove it"),
        ("[models]\ndetector = 'a'", "'encoder' is missing"),
        ("", "'detector' is missing"),
        ("= nonsense", "not a readable TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_preset(path)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ProposalConfig, {"image_size": 640.5}, "give a whole number"),
        (ScoringConfig, {"score_threshold": True}, "give a number"),
        (ScoringConfig, {"score_threshold": None}, "give a number"),
        (ScoringConfig, {"score_threshold": "high"}, "give a number"),
        (ModelConfig, {"detector": "a", "encoder": "b", "trust_pickle": 1}, "give true or false"),
        (ScoringConfig, {"background": [1]}, "give a list"),
        (ModelConfig, {"detector": 3, "encoder": "b"}, "give a string"),
    ],
)
def test_values_in_python_are_checked_as_those_of_a_file(section, values, message):
    with pytest.raises(ConfigError, match=message):
        section(**values)


def test_a_list_equals_a_tuple_and_a_path_a_string(tmp_path):
    assert hash(ScoringConfig(background=["sky"])) == hash(ScoringConfig(background=("sky",)))
    assert ModelConfig(tmp_path, "b") == ModelConfig(str(tmp_path), "b")


def test_a_path_is_relative_to_its_file(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.onnx").touch()
    (tmp_path / "mine.toml").write_text(
        '[models]\ndetector = "nets/net.onnx"\nencoder = "starter-encoder"\n'
    )
    models = load_preset(tmp_path / "mine.toml").models
    assert models.detector == str(tmp_path / "nets" / "net.onnx")
    assert models.encoder == "starter-encoder"


def test_a_preset_is_returned_as_it_is():
    preset = load_preset("starter")
    assert load_preset(preset) is preset
    with pytest.raises(ConfigError, match="pass a name"):
        load_preset(None)
    with pytest.raises(ConfigError, match="There is no preset"):
        load_preset("missing.toml")


def test_an_unknown_name_suggests_the_closest_one():
    with pytest.raises(ConfigError, match="did you mean 'starter'"):
        load_preset("startr")
    with pytest.raises(ConfigError, match=r"give a \.toml file with detector = 'yolo.onnx'"):
        load_preset("yolo.onnx")


def test_sizes_of_a_call_replace_those_of_the_preset():
    preset = Preset(ModelConfig("a", "b"), ProposalConfig(image_size=320))
    assert preset.with_sizes(None, None) == preset
    assert preset.with_sizes(640, 416).proposals == ProposalConfig(image_size=640, tile_size=416)
