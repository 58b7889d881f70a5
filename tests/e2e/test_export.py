"""`openvocab export` on the command line: encoders and detectors."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from bundles import OPENAI, SMALL, save_bundle

from openvocab import cli
from openvocab.config import ModelConfig, Preset, ProposalConfig
from openvocab.encoders import OpenClipEncoder
from openvocab.errors import ModelError
from openvocab.proposers import ONNXProposer, UltralyticsProposer, load_proposer

pytestmark = pytest.mark.slow  # exports take seconds each


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `openvocab export ...` in this process; gives exit code, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["openvocab", "export", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    """Twelve different views of the two photos, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("bus.jpg", "zidane.jpg"):
        with PIL.Image.open(assets / name) as photo:
            for number in range(8):
                turned = photo.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
                view = turned if number % 2 else photo
                edge = 20 * number
                view.crop((edge, edge, *photo.size)).save(folder / f"{number}-{name}")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def test_an_encoder_is_exported_used_and_its_measurements_are_printed(run, tmp_path, images):
    folder = save_bundle(tmp_path / "bundle", SMALL, OPENAI)
    before = OpenClipEncoder(folder).fingerprint
    code, text, error = run(folder)
    assert (code, error) == (0, "")
    assert "compared with torch fp32 on noise" in text and "times as fast as torch" in text
    assert (folder / "image.onnx").is_file()
    code, text, error = run(
        folder, "--runtime", "openvino", "--precision", "bf16", "--images", images,
        "--out", tmp_path / "fast",
    )  # fmt: skip
    assert "broken.jpg" in error
    if code:  # without bf16 in the processor there may be nothing to gain
        assert "no gain; nothing was written" in error
        assert not (tmp_path / "fast").exists()
        return
    assert "keep their nearest word" in text and 'encoder = "' in text
    assert OpenClipEncoder(folder).fingerprint == before
    assert OpenClipEncoder(tmp_path / "fast").fingerprint.endswith("openvino-bf16")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["nothing-of-that-name"], "did you mean|use one of"),
        (["starter", "--precision", "int8", "--out", "new"], "--images"),
        (["starter", "--precision", "fp8", "--out", "new"], "use onnx fp32"),
        (["starter", "--imgsz", "320"], "leave it out"),
        (["starter", "--images", "no-folder"], "give an image file"),
        (["starter-detector"], r"give the \.pt"),
    ],
)
def test_errors_are_one_line_that_ends_with_the_remedy(
    run, tmp_path, monkeypatch, arguments, remedy
):
    monkeypatch.chdir(tmp_path)
    code, text, error = run(*arguments)
    assert (code, text) == (2, "")
    assert len(error.strip().splitlines()) == 1
    assert re.search(remedy, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_detector_is_exported_by_ultralytics(run, tmp_path, checkpoint, runtime):
    path = checkpoint("yolo11n.yaml")
    before = sorted(path.parent.iterdir())
    code, text, error = run(path, "--runtime", runtime, "--out", tmp_path, "--trust-pickle",
                            "--imgsz", 128)  # fmt: skip
    assert (code, error) == (0, "")
    (made,) = tmp_path.iterdir()
    assert str(made) in text.replace("\n", "")
    assert sorted(path.parent.iterdir()) == before
    proposer = UltralyticsProposer(made)
    assert len(proposer.labels) == 80
    assert len(proposer.propose([np.zeros((128, 128, 3), np.uint8)])) == 1


def test_an_exported_segmenter_keeps_its_masks(run, tmp_path, checkpoint):
    path = checkpoint("yolo26n-seg.yaml")
    code, _, error = run(path, "--runtime", "onnx", "--out", tmp_path, "--trust-pickle",
                         "--imgsz", 128)  # fmt: skip
    assert (code, error) == (0, "")
    (made,) = tmp_path.iterdir()
    with pytest.raises(ModelError, match="segment model; load it as an UltralyticsProposer"):
        ONNXProposer(made)
    models = ModelConfig(detector=str(made), encoder="starter-encoder")
    proposer = load_proposer(Preset(models, ProposalConfig(threshold=1e-7)), "cpu")
    (proposals,) = proposer.propose([np.full((128, 128, 3), 90, np.uint8)])
    assert proposals.masks is not None
    assert proposals.masks.shape == (len(proposals), 128, 128)


@pytest.mark.slow
def test_a_detector_is_exported_in_int8_on_the_users_images(run, tmp_path, checkpoint, images):
    path = checkpoint("yolo11n.yaml")
    whole = tmp_path / "whole"
    whole.mkdir()
    for image in images.glob("*[!n].jpg"):
        (whole / image.name).write_bytes(image.read_bytes())
    code, _, error = run(
        path, "--runtime", "openvino", "--precision", "int8", "--images", whole,
        "--out", tmp_path / "out", "--trust-pickle", "--imgsz", 128,
    )  # fmt: skip
    assert (code, error) == (0, "")
    (made,) = (tmp_path / "out").iterdir()
    assert made.name.endswith("_int8_openvino_model")
    assert len(UltralyticsProposer(made).labels) == 80


def test_a_detector_says_what_it_needs(run, tmp_path, checkpoint):
    path = checkpoint("yolo11n.yaml")
    for options, remedy in (
        ([], "trust_pickle"),
        (["--trust-pickle", "--precision", "bf16"], "openvino int8"),
        (["--trust-pickle", "--runtime", "openvino", "--precision", "int8"], "--images"),
    ):
        code, _, error = run(path, "--out", tmp_path, *options)
        assert code == 2 and remedy in error and len(error.splitlines()) == 1
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model")
    code, _, error = run(broken, "--trust-pickle")
    assert code == 2 and "cannot be exported" in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [broken]
