"""The code, commands and links of the README work."""

import re
import shutil
from pathlib import Path

import pytest
from videos import pan

from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.weights import resolve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_blocks_run(tmp_path, monkeypatch, capsys, assets):
    shutil.copy(assets / "bus.jpg", tmp_path / "street.jpg")
    shutil.copy(assets / "zidane.jpg", tmp_path / "match.jpg")
    pan(assets / "bus.jpg", tmp_path / "street.mp4", 6, (600, 600))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shutil.copy(resolve("starter-detector"), tmp_path / "yolo.onnx")
    shutil.copy(assets / "bus.jpg", tmp_path / "yard.jpg")
    examples, images, plugin, video = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with isolated_ultralytics():  # without the side effects of its import
        exec(plugin, {})  # noqa: S102
    printed = capsys.readouterr().out
    assert printed.count("pedestrian") >= 3
    assert "bus" in printed
    exec(video, {})  # noqa: S102  our own README
    assert re.search(r"^5 \[", capsys.readouterr().out, re.MULTILINE)
    exec(examples, names)  # noqa: S102
    assert {"bus", "pedestrian"} == set(names["detections"].data["class_name"])
    exec(images, names)  # noqa: S102
    printed = capsys.readouterr().out
    assert re.search(r"^bus 0\.\d\d$", printed, re.MULTILINE)
    assert len(re.findall("pedestrian", printed)) == 4
    assert len(names["busy"]) > 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_the_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_the_links_lead_to_existing_files(link):
    assert (ROOT / link).exists()
