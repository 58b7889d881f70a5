"""The wheel carries the starter weights, the presets and the lexicon, and works away from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import openvocab, openvocab.weights
print(openvocab.__file__)
print(openvocab.weights.resolve("starter-encoder"))
print(sorted(set(openvocab.detect(sys.argv[1], ["bus", "person"]).data["class_name"])))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("openvocab-*.whl")
    return built


def test_it_carries_weights_presets_licences_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {
        "openvocab/py.typed",
        "openvocab/data/configs/starter.toml",
        "openvocab/data/configs/synsets/everyday.toml",
        "openvocab/data/lexicon/LICENSE-WordNet",
        "openvocab/data/lexicon/nouns.npz",
        "openvocab/data/weights/MANIFEST.toml",
        "openvocab/data/weights/starter/detector.onnx",
        "openvocab/data/weights/starter/LICENSE-YOLOX",
        "openvocab/data/weights/starter/encoder/open_clip_model.safetensors",
        "openvocab_demo/__init__.py",
        "openvocab_demo/app.py",
    }
    assert inside <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "training/", "demo/")) for name in names)


def test_it_detects_away_from_the_checkout(wheel, tmp_path, assets):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    program = f"import sys; sys.path.insert(0, {str(target)!r})" + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program, str(assets / "bus.jpg")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    package, bundle, found = done.stdout.splitlines()
    assert package.startswith(str(target))
    assert bundle.startswith(str(target))
    assert found == "['bus', 'person']"
