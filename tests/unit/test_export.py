"""Exported image image_encoder_runtime: the gate, the tie to the weights, the choice, the fingerprint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import OPENAI, SMALL, export_bundle, save_bundle, seen
from safetensors.torch import load_file, save_file

from openvocab._internal.environment import required
from openvocab.encoders import image_encoder_runtime
from openvocab.encoders.openclip import WEIGHTS, OpenClipEncoder
from openvocab.errors import ModelError, OpenVocabError
from openvocab.export.graph import traced
from openvocab.export.image_encoder import ExportTolerances, export

KINDS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16")]

pytestmark = pytest.mark.slow  # exports take seconds each


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A bundle of random weights with one export, made once."""
    root = tmp_path_factory.mktemp("exports")

    def make(runtime: str, precision: str) -> Path:
        folder = root / f"{runtime}-{precision}"
        if not folder.exists():
            save_bundle(folder, SMALL, OPENAI)
            export_bundle(folder, runtime, precision)
        return folder

    return make


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "plain", SMALL, OPENAI)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_an_export_sees_what_torch_sees_and_is_used(made, kind):
    folder = made(*kind)
    ((image, boxes),) = seen(8)
    (exact,) = OpenClipEncoder(folder, graphs=False).encode_regions([image], [boxes])
    (found,) = OpenClipEncoder(folder).encode_regions([image], [boxes])
    assert (exact * found).sum(axis=1).min() > 0.999
    assert (np.abs(exact - found).max() < 1e-4) == (kind[1] == "fp32")


def test_fingerprints_change_where_features_do(made):
    prints = {kind: OpenClipEncoder(made(*kind)).fingerprint for kind in KINDS}
    exact = OpenClipEncoder(made("onnx", "fp32"), graphs=False).fingerprint
    assert prints["onnx", "fp32"] == prints["openvino", "fp32"] == exact
    assert len({exact, prints["onnx", "int8"], prints["openvino", "bf16"]}) == 3


def test_figures_stand_beside_the_graph(made):
    (record,) = image_encoder_runtime.read_records(made("openvino", "bf16"))
    assert record.regions == 200
    assert 0.99 < record.cosine_min <= record.cosine_mean <= 1
    assert 0.9 < record.agreement <= 1
    assert record.bundle_sha256 == image_encoder_runtime.identity(made("openvino", "bf16"))
    assert image_encoder_runtime.read_records(made("onnx", "fp32")) == []


@pytest.mark.parametrize(
    ("kind", "floors", "reason"),
    [
        (("openvino", "bf16"), ExportTolerances(bf16=1.1, speed=0), "cosine of .* under 1.1"),
        (
            ("onnx", "int8"),
            ExportTolerances(int8=1.1, speed=0),
            r"keeps the name of .*% of 200 .* under 110%",
        ),
        (("onnx", "fp32"), ExportTolerances(fp32=1.1), "cosine of .* under 1.1"),
        (("openvino", "bf16"), ExportTolerances(speed=1e6), "no gain"),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in place", "out"])
def test_a_tower_below_a_floor_is_refused_and_nothing_is_written(
    plain, tmp_path, kind, floors, reason, apart
):
    before = files(tmp_path)
    with pytest.raises(ModelError, match=f"Refused: .*{reason}.*nothing was written"):
        export_bundle(plain, *kind, floors=floors, out=tmp_path / "out" if apart else None)
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", [("openvino", "bf16"), ("onnx", "int8")], ids=" ".join)
def test_what_is_not_fp32_needs_real_regions(plain, kind):
    with pytest.raises(ModelError, match=r"200 regions of real pictures.*has 0; .*--images"):
        export(plain, *kind)
    with pytest.raises(ModelError, match=r"has 199;"):
        export(plain, *kind, seen=seen(199), words=["cat"])


@pytest.mark.parametrize("kind", [("onnx", "bf16"), ("openvino", "int8"), ("engine", "fp32")])
def test_what_cannot_be_exported_is_said_with_what_can(plain, kind):
    with pytest.raises(ModelError, match=r"use onnx fp32, onnx int8, openvino fp32, openvino bf16"):
        export(plain, *kind)


def test_a_package_that_lacks_is_named():
    with pytest.raises(ModelError, match=r'needs no-such; run `pip install "openvocab\[export\]"`'):
        required("The export", "export", "onnx", "no_such")


def test_the_fastest_that_can_run_is_chosen(made, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(made("onnx", "int8"), tmp_path / "both")
    export_bundle(folder, "openvino", "bf16")
    records = image_encoder_runtime.read_records(folder)
    assert {record.precision for record in records} == {"int8", "bf16"}
    for first in ("int8", "bf16"):
        rows = json.loads((folder / image_encoder_runtime.RECORDS).read_text())["towers"]
        for row in rows:
            row["speed"] = 2.0 if row["precision"] == first else 1.5
        (folder / image_encoder_runtime.RECORDS).write_text(json.dumps({"towers": rows}))
        assert f"-{first}" in OpenClipEncoder(folder).fingerprint
    monkeypatch.setattr(image_encoder_runtime, "find_spec", lambda _: None)
    assert "-int8" in OpenClipEncoder(folder).fingerprint
    assert "OpenVINO, which is not installed" in caplog.text


def test_exporting_again_replaces(made, tmp_path):
    folder = shutil.copytree(made("openvino", "bf16"), tmp_path / "again")
    export_bundle(folder, "openvino", "bf16")
    assert len(image_encoder_runtime.read_records(folder)) == 1


@pytest.mark.parametrize("kind", KINDS[1:], ids=" ".join)
def test_a_tower_of_other_weights_is_refused(made, tmp_path, kind):
    folder = shutil.copytree(made(*kind), tmp_path / "bundle")
    state = load_file(folder / WEIGHTS)
    state["visual.proj"] = state["visual.proj"] * 2
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"image\.json is not of the .*delete it"):
        OpenClipEncoder(folder)
    assert OpenClipEncoder(folder, graphs=False).encode_text(["a"]).shape == (1, 32)


@pytest.mark.parametrize("text", ["{", "[]", '{"towers": [{}]}', '{"towers": 3}', "\x80"])
def test_a_damaged_record_is_a_one_line_error(made, tmp_path, text):
    folder = shutil.copytree(made("openvino", "bf16"), tmp_path / "bundle")
    (folder / image_encoder_runtime.RECORDS).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"image\.json cannot be read .*delete it") as caught:
        OpenClipEncoder(folder)
    assert "\n" not in str(caught.value)


def test_a_graph_that_was_exchanged_is_refused(made, tmp_path):
    folder = shutil.copytree(made("onnx", "int8"), tmp_path / "bundle")
    shutil.copy(folder / image_encoder_runtime.GRAPH, folder / image_encoder_runtime.INT8_GRAPH)
    with pytest.raises(ModelError, match=r"image-int8\.onnx is not the one of image\.json"):
        OpenClipEncoder(folder)
    (folder / image_encoder_runtime.INT8_GRAPH).unlink()
    with pytest.raises(ModelError, match=r"image-int8\.onnx cannot be loaded"):
        OpenClipEncoder(folder)


def test_out_is_a_whole_bundle_and_leaves_the_first_as_it_was(plain, tmp_path):
    before, out = files(plain), tmp_path / "deep" / "out"
    (plain / "sub").mkdir()
    export_bundle(plain, "openvino", "bf16", out=out)
    assert files(plain) == before | {"sub"}
    assert files(out) == before | {"image.onnx", "image.json"}
    assert "-bf16" in OpenClipEncoder(out).fingerprint
    export_bundle(plain, "onnx", "int8", out=out)
    assert files(out) == before | {"image.onnx", "image.json", "image-int8.onnx"}
    shutil.rmtree(plain)
    assert OpenClipEncoder(out).encode_text(["a"]).shape == (1, 32)


def test_a_folder_of_other_things_is_not_written_to(plain, tmp_path):
    with pytest.raises(OpenVocabError, match=r"other things than a bundle.*--out"):
        export(plain, "onnx", "fp32", out=tmp_path)
    with pytest.raises(OpenVocabError, match=r"the bundle itself.*--out"):
        export(plain, "onnx", "fp32", out=plain)
    (tmp_path / "file").touch()
    with pytest.raises(OpenVocabError, match=r"--out"):
        export(plain, "onnx", "fp32", out=tmp_path / "file" / "deep")


def test_a_cache_of_links_is_not_written_to(plain, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in plain.iterdir():
        (cache / path.name).symlink_to(path)
    with pytest.raises(OpenVocabError, match=r"cache of links; .*--out"):
        export(cache, "onnx", "fp32")
    export(cache, "onnx", "fp32", out=tmp_path / "out")
    assert not (tmp_path / "out" / WEIGHTS).is_symlink()


def test_weights_that_are_stored_otherwise_are_refused(plain):
    """open_clip converts some old checkpoints as it loads them: no graph can refer to those."""
    state = load_file(plain / WEIGHTS)
    tower = OpenClipEncoder(plain).tower
    save_file({f"old.{name}": value for name, value in state.items()}, plain / WEIGHTS)
    with pytest.raises(ModelError, match=r"does not hold visual\.\S+ as the model has it"):
        traced(tower, 64, plain / WEIGHTS)


def test_the_starters_graph_is_made_again_byte_for_byte(tmp_path):
    from openvocab import weights

    folder = weights.resolve("starter-encoder")
    export(folder, "onnx", "fp32", out=tmp_path / "out")
    assert (tmp_path / "out" / "image.onnx").read_bytes() == (folder / "image.onnx").read_bytes()
