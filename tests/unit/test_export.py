"""Exported image encoders: what is refused, the tie to the weights, the choice, the fingerprint."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import OPENAI, SMALL, export_bundle, samples, save_bundle
from safetensors.torch import load_file, save_file

from openvocab._internal.environment import require_packages
from openvocab.encoders import _image_encoder_runtime as runtimes
from openvocab.encoders._image_encoder_runtime import (
    REPORTS,
    ExportReport,
    add_report,
    read_reports,
)
from openvocab.encoders._openclip import WEIGHTS, OpenClipEncoder
from openvocab.errors import ModelError, OpenVocabError
from openvocab.export._graph import trace
from openvocab.export._image_encoder import export, staged_bundle
from openvocab.export._parity import ExportTolerances, check_parity, compare

KINDS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16")]
REPORT = ExportReport(
    runtime="openvino", precision="bf16", bundle_sha256="b", graph_sha256="g", regions=200,
    cosine_min=0.995, cosine_mean=0.999, agreement=0.99, over_torch=2.0, speed=1.5,
)  # fmt: skip
INT8 = replace(REPORT, runtime="onnx", precision="int8", cosine_min=0.5)
FP32 = replace(REPORT, runtime="onnx", precision="fp32", cosine_min=1.0, speed=1.0)

slow = pytest.mark.slow  # real exports take seconds each


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


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        INT8,
        FP32,
        replace(REPORT, cosine_min=0.99),
        replace(INT8, agreement=0.98),
        replace(FP32, cosine_min=0.9999, speed=0.5),  # it is itself the baseline
        replace(REPORT, agreement=None),
    ],
)
def test_an_export_within_the_tolerances_is_accepted(report):
    check_parity(report, ExportTolerances())


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (
            replace(REPORT, cosine_min=0.9899),
            r"openvino bf16 has a cosine of 0\.9899 .* under 0\.99;",
        ),
        (replace(REPORT, precision="fp32"), r"openvino fp32 .* 0\.9950 .* under 0\.9999;"),
        (replace(FP32, cosine_min=float("nan")), r"onnx fp32 has a cosine of nan"),
        (replace(INT8, agreement=0.979), r"keeps the nearest word of 97\.9% of 200 .* under 98%;"),
        (replace(INT8, agreement=None), r"nearest word of 0\.0%"),
        (replace(REPORT, over_torch=1.0), r"1\.00 times as fast here as torch in fp32, no gain"),
        (replace(FP32, over_torch=0.9), r"0\.90 times as fast here as torch in fp32, no gain"),
        (replace(REPORT, speed=0.9), r"0\.90 times as fast here as ONNX Runtime in fp32, no gain"),
        (replace(INT8, speed=1.0), r"1\.00 times as fast here as ONNX Runtime in fp32, no gain"),
    ],
)
def test_an_export_outside_the_tolerances_is_refused(report, reason):
    with pytest.raises(ModelError, match=f"^Refused: .*{reason}.*nothing was written, use another"):
        check_parity(report, ExportTolerances())


def test_accuracy_and_speed_are_measured_against_fp32():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 5)).astype(np.float32)
    words = np.eye(5, dtype=np.float32)
    batches = [rng.integers(0, 256, (count, 2, 2, 3), np.uint8) for count in (8, 3)]

    def features(batch: np.ndarray) -> np.ndarray:
        rows = (batch.reshape(-1, 12) - 128.0) @ weights
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def slower(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return features(batch)

    def reversed_in_the_last_batch(batch: np.ndarray) -> np.ndarray:
        return features(batch) * (1 if len(batch) == 8 else -1)

    same = compare(features, slower, slower, batches, words)
    assert (same["cosine_min"], same["cosine_mean"], same["agreement"]) == (1, 1, 1)
    assert same["over_torch"] > 2 and same["speed"] > 2
    check_parity(replace(REPORT, **same), ExportTolerances())

    other = compare(reversed_in_the_last_batch, slower, slower, batches, words)
    assert other["cosine_min"] == -1
    assert other["cosine_mean"] == pytest.approx((8 - 3) / 11, abs=1e-5)
    assert 8 / 11 <= other["agreement"] < 1

    late = compare(slower, features, slower, batches, None)
    assert late["over_torch"] < 1
    assert (late["speed"], late["agreement"]) == (1.0, None)
    with pytest.raises(ModelError, match="no gain"):
        check_parity(replace(REPORT, **late), ExportTolerances())


def test_reports_replace_those_of_their_kind_and_of_other_weights(tmp_path):
    assert read_reports(tmp_path) == []
    add_report(tmp_path, REPORT)
    add_report(tmp_path, INT8)
    add_report(tmp_path, faster := replace(REPORT, speed=3.0))
    assert read_reports(tmp_path) == [INT8, faster]
    add_report(tmp_path, retrained := replace(INT8, bundle_sha256="other"))
    assert read_reports(tmp_path) == [retrained]


@pytest.mark.parametrize(
    ("report", "suffix"),
    [
        (REPORT, "/openvino-bf16"),
        (replace(INT8, graph_sha256="0123456789abcdef0"), "/onnx-int8/0123456789abcdef"),
        (FP32, ""),
    ],
)
def test_a_fingerprint_names_what_is_not_fp32(report, suffix):
    assert report.fingerprint == suffix


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    for name in (WEIGHTS, runtimes.CONFIG, runtimes.GRAPH, "README.md"):
        (folder / name).write_text(f"old {name}")
    return folder


@pytest.mark.parametrize("out", [None, "deep/out"])
def test_a_refused_export_leaves_no_files(bundle, tmp_path, out):
    before = files(bundle)
    target = None if out is None else tmp_path / out
    with pytest.raises(ModelError), staged_bundle(bundle, target) as stage:  # noqa: PT012
        (stage / runtimes.GRAPH).write_text("new")
        add_report(stage, REPORT)
        check_parity(replace(REPORT, speed=0.5), ExportTolerances())
    assert files(bundle) == before
    assert (bundle / runtimes.GRAPH).read_text() == "old image.onnx"
    assert target is None or not target.exists()


@pytest.mark.parametrize("out", [None, "deep/out"])
def test_an_accepted_export_is_moved_into_place(bundle, tmp_path, out):
    before, target = files(bundle), bundle if out is None else tmp_path / out
    with staged_bundle(bundle, None if out is None else target) as stage:
        (stage / runtimes.GRAPH).write_text("new")
        add_report(stage, REPORT)
    assert (target / runtimes.GRAPH).read_text() == "new"
    assert read_reports(target) == [REPORT]
    assert (target / WEIGHTS).read_text() == f"old {WEIGHTS}"
    assert files(target) - {"sub"} == before - {"sub"} | {REPORTS}
    if out is not None:
        assert files(bundle) == before
        assert (bundle / runtimes.GRAPH).read_text() == "old image.onnx"


@slow
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_an_export_computes_what_torch_computes_and_is_used(made, kind):
    folder = made(*kind)
    ((image, boxes),) = samples(8)
    (expected,) = OpenClipEncoder(folder, graphs=False).encode_regions([image], [boxes])
    (features,) = OpenClipEncoder(folder).encode_regions([image], [boxes])
    assert (expected * features).sum(axis=1).min() > 0.999
    assert (np.abs(expected - features).max() < 1e-4) == (kind[1] == "fp32")


@slow
def test_fingerprints_change_where_features_do(made):
    prints = {kind: OpenClipEncoder(made(*kind)).fingerprint for kind in KINDS}
    exact = OpenClipEncoder(made("onnx", "fp32"), graphs=False).fingerprint
    assert prints["onnx", "fp32"] == prints["openvino", "fp32"] == exact
    assert len({exact, prints["onnx", "int8"], prints["openvino", "bf16"]}) == 3


@slow
def test_measurements_are_written_beside_the_graph(made):
    (report,) = read_reports(made("openvino", "bf16"))
    assert report.regions == 200
    assert 0.99 < report.cosine_min <= report.cosine_mean <= 1
    assert 0.9 < report.agreement <= 1
    assert report.bundle_sha256 == runtimes.identity(made("openvino", "bf16"))
    assert read_reports(made("onnx", "fp32")) == []


@slow
@pytest.mark.parametrize(
    ("kind", "tolerances", "reason"),
    [
        (("openvino", "bf16"), ExportTolerances(bf16=1.1, speed=0), "cosine of .* under 1.1"),
        (
            ("onnx", "int8"),
            ExportTolerances(int8=1.1, speed=0),
            r"keeps the nearest word of .*% of 200 .* under 110%",
        ),
        (("onnx", "fp32"), ExportTolerances(fp32=1.1), "cosine of .* under 1.1"),
        (("openvino", "bf16"), ExportTolerances(speed=1e6), "no gain"),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in place", "out"])
def test_a_refused_export_writes_nothing(plain, tmp_path, kind, tolerances, reason, apart):
    before = files(tmp_path)
    with pytest.raises(ModelError, match=f"Refused: .*{reason}.*nothing was written"):
        export_bundle(plain, *kind, tolerances=tolerances, out=tmp_path / "out" if apart else None)
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", [("openvino", "bf16"), ("onnx", "int8")], ids=" ".join)
def test_a_lower_precision_needs_real_regions(plain, kind):
    with pytest.raises(ModelError, match=r"200 regions of real images.*has 0; .*--images"):
        export(plain, *kind)
    with pytest.raises(ModelError, match=r"has 199;"):
        export(plain, *kind, samples=samples(199), words=["cat"])


@pytest.mark.parametrize("kind", [("onnx", "bf16"), ("openvino", "int8"), ("engine", "fp32")])
def test_an_unknown_kind_of_export_is_refused_with_the_known_ones(plain, kind):
    with pytest.raises(ModelError, match=r"use onnx fp32, onnx int8, openvino fp32, openvino bf16"):
        export(plain, *kind)


def test_a_missing_package_is_named():
    with pytest.raises(ModelError, match=r'needs no-such; run `pip install "openvocab\[export\]"`'):
        require_packages("The export", "export", "onnx", "no_such")


@slow
def test_the_fastest_graph_that_can_run_is_chosen(made, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(made("onnx", "int8"), tmp_path / "both")
    export_bundle(folder, "openvino", "bf16")
    reports = read_reports(folder)
    assert {report.precision for report in reports} == {"int8", "bf16"}
    for first in ("int8", "bf16"):
        rows = json.loads((folder / REPORTS).read_text())["exports"]
        for row in rows:
            row["speed"] = 2.0 if row["precision"] == first else 1.5
        (folder / REPORTS).write_text(json.dumps({"exports": rows}))
        assert f"-{first}" in OpenClipEncoder(folder).fingerprint
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    assert "-int8" in OpenClipEncoder(folder).fingerprint
    assert "OpenVINO, which is not installed" in caplog.text


@slow
def test_exporting_again_replaces(made, tmp_path):
    folder = shutil.copytree(made("openvino", "bf16"), tmp_path / "again")
    export_bundle(folder, "openvino", "bf16")
    assert len(read_reports(folder)) == 1


@slow
@pytest.mark.parametrize("kind", KINDS[1:], ids=" ".join)
def test_an_export_of_other_weights_is_refused(made, tmp_path, kind):
    folder = shutil.copytree(made(*kind), tmp_path / "bundle")
    state = load_file(folder / WEIGHTS)
    state["visual.proj"] = state["visual.proj"] * 2
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"image\.json was made from other weights.*delete it"):
        OpenClipEncoder(folder)
    assert OpenClipEncoder(folder, graphs=False).encode_text(["a"]).shape == (1, 32)


@pytest.mark.parametrize("text", ["{", "[]", '{"exports": [{}]}', '{"exports": 3}', "\x80"])
def test_a_damaged_report_is_refused(tmp_path, text):
    (tmp_path / REPORTS).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"image\.json cannot be read .*delete it"):
        read_reports(tmp_path)


@slow
def test_another_graph_is_refused(made, tmp_path):
    folder = shutil.copytree(made("onnx", "int8"), tmp_path / "bundle")
    shutil.copy(folder / runtimes.GRAPH, folder / runtimes.INT8_GRAPH)
    with pytest.raises(ModelError, match=r"image-int8\.onnx is not that of image\.json"):
        OpenClipEncoder(folder)
    (folder / runtimes.INT8_GRAPH).unlink()
    with pytest.raises(ModelError, match=r"image-int8\.onnx cannot be loaded"):
        OpenClipEncoder(folder)


@slow
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
    with pytest.raises(OpenVocabError, match="choose another folder"):
        export(plain, "onnx", "fp32", out=tmp_path / "file" / "deep")


@slow
def test_a_cache_of_links_is_not_written_to(plain, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in plain.iterdir():
        (cache / path.name).symlink_to(path)
    with pytest.raises(OpenVocabError, match=r"cache of links; .*--out"):
        export(cache, "onnx", "fp32")
    export(cache, "onnx", "fp32", out=tmp_path / "out")
    assert not (tmp_path / "out" / WEIGHTS).is_symlink()


@slow
def test_weights_that_are_stored_differently_are_refused(plain):
    """open_clip converts some old checkpoints as it loads them: no graph can refer to those."""
    state = load_file(plain / WEIGHTS)
    image_encoder = OpenClipEncoder(plain).image_encoder
    save_file({f"old.{name}": value for name, value in state.items()}, plain / WEIGHTS)
    with pytest.raises(ModelError, match=r"does not hold visual\.\S+ as the model has it"):
        trace(image_encoder, 64, plain / WEIGHTS)


@slow
def test_the_starters_graph_is_made_again_byte_for_byte(tmp_path):
    from openvocab import weights

    folder = weights.resolve("starter-encoder")
    export(folder, "onnx", "fp32", out=tmp_path / "out")
    assert (tmp_path / "out" / "image.onnx").read_bytes() == (folder / "image.onnx").read_bytes()
