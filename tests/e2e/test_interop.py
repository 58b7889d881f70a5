"""Detections exchanged with other libraries, in both directions."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch

from openvocab import OpenVocabDetector
from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.io import detections_to_rows, load_image
from openvocab.plugins.ultralytics import to_results

WORDS = ["bus", "pedestrian"]


def detect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openvocab", "detect", *map(str, arguments)]
    return subprocess.run(
        [*command, "-c", "bus, person"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo26n-seg.yaml"])
def test_results_go_to_detections_and_back_without_loss(config, checkpoint, assets):
    with isolated_ultralytics() as ultralytics:
        yolo = ultralytics.YOLO(str(checkpoint(config)))
    more = {"verbose": False, "device": "cpu", "conf": 1e-9, "max_det": 5, "retina_masks": True}
    (result,) = yolo.predict(assets / "bus.jpg", **more)
    assert len(result) > 0
    detections = sv.Detections.from_ultralytics(result)
    back = to_results(detections, result.orig_img, list(result.names.values()), result.path)
    assert torch.equal(back.boxes.data, result.boxes.data)
    assert (back.names, back.path) == (result.names, result.path)
    if result.masks is not None:
        assert torch.equal(back.masks.data.bool(), result.masks.data.bool())
    again = sv.Detections.from_ultralytics(back)
    np.testing.assert_array_equal(again.xyxy, detections.xyxy)
    assert again.data["class_name"].tolist() == detections.data["class_name"].tolist()


def test_tracks_are_converted_too(assets):
    image = load_image(assets / "bus.jpg")
    found = OpenVocabDetector.from_preset().detect(image, WORDS)
    found.tracker_id = np.arange(len(found)) + 7
    result = to_results(found, image, WORDS)
    assert result.boxes.id.int().tolist() == found.tracker_id.tolist()
    np.testing.assert_array_equal(result.boxes.conf.numpy(), found.confidence)
    assert result.plot().shape == image.shape
    assert [row["name"] for row in result.summary()] == found.data["class_name"].tolist()
    assert len(to_results(found[:0], image, WORDS)) == 0
    found.tracker_id += 2**25 + 1
    numbers = to_results(found, image, WORDS).boxes.id.long().tolist()
    assert numbers == found.tracker_id.tolist()


def test_other_detections_become_results_and_rows_too(assets):
    detector, photo = OpenVocabDetector.from_preset(), assets / "bus.jpg"
    mirrored = np.zeros((1, 1080, 810), bool)
    mirrored[0, 100:200, 100:150] = True
    plain = sv.Detections(np.array([[100, 100, 150, 200]], np.float32), mask=mirrored[:, ::-1])
    result = to_results(plain, photo, detector.vocabulary(WORDS))
    assert result.names == dict(enumerate(WORDS))
    assert result.masks.data.numpy().astype(bool).tolist() == plain.mask.tolist()
    assert [row["class_name"] for row in detections_to_rows(plain)] == [None]


def test_a_strip_left_by_slicing_is_a_valid_image(assets):
    detector, image = OpenVocabDetector.from_preset(), load_image(assets / "bus.jpg")
    slicer = sv.InferenceSlicer(
        callback=lambda tile: detector.detect(tile, WORDS), slice_wh=640, overlap_wh=0
    )
    assert "bus" in slicer(image[:641, :641]).data["class_name"]


def test_supervision_slices_for_our_detector(assets):
    detector, image = OpenVocabDetector.from_preset(), load_image(assets / "bus.jpg")
    slicer = sv.InferenceSlicer(
        callback=lambda tile: detector.detect(tile, WORDS), slice_wh=640, overlap_wh=200
    )
    found = slicer(image)
    names = found.data["class_name"].tolist()
    assert names.count("pedestrian") >= 3
    assert "objectness" in found.data


@pytest.mark.slow
def test_labels_of_the_command_line_can_be_trained_on(tmp_path, assets):
    done = detect(assets, "--format", "yolo", "--labels", tmp_path / "labelled")
    assert done.returncode == 0, done.stderr
    program = (
        "from ultralytics import YOLO\n"
        f"YOLO('yolo26n.yaml').train(data={str(tmp_path / 'labelled/data.yaml')!r}, epochs=1,"
        " imgsz=64, batch=2, device='cpu', workers=0, plots=False,"
        f" project={str(tmp_path / 'runs')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.rglob("last.pt"))


def test_labels_of_a_folder_are_coco(tmp_path, assets):
    done = detect(assets, "--format", "coco", "--labels", tmp_path / "labelled")
    assert done.returncode == 0, done.stderr
    dataset = sv.DetectionDataset.from_coco(
        str(assets), str(tmp_path / "labelled/annotations.json")
    )
    assert len(dataset) == 2
    counts = {Path(path).name: len(found) for path, _, found in dataset}
    assert counts["bus.jpg"] >= 4
    table = json.loads((tmp_path / "labelled/annotations.json").read_text())
    assert all(0.3 <= row["score"] <= 1 for row in table["annotations"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--format", "voc"], "use one of coco"), (["-", "--format", "coco"], "need files")],
)
def test_labels_that_cannot_be_written_are_refused(arguments, message, assets):
    done = detect(*([] if "-" in arguments else [assets]), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
