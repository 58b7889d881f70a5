"""Label files, read back by the tools they are for or by their rules."""

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import supervision as sv
from PIL import Image

from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.errors import ConfigError, OpenVocabError
from openvocab.evaluation._formats import load_dataset
from openvocab.io import LabelledImage, to_hf, write_labels
from openvocab.io._labels import FORMATS, compress_masks

CLASSES = ("bus", 'a "red" <Löwe>, & more')
SIZE = (200, 100)


def detections(*, masks: bool = False) -> sv.Detections:
    xyxy = np.array([[10, 20, 60, 80], [100.5, 10, 190, 99]], np.float32)
    mask = None
    if masks:
        mask = np.zeros((2, SIZE[1], SIZE[0]), bool)
        mask[0, 20:80, 10:60] = True
        mask[1, 10:99, 101:190] = True
    return sv.Detections(
        xyxy=xyxy,
        mask=mask,
        confidence=np.array([0.9, 0.5], np.float32),
        class_id=np.array([0, 1]),
        data={"class_name": np.array(CLASSES, dtype=object)},
    )


@pytest.fixture
def images(tmp_path: Path) -> list[LabelledImage]:
    """Two of one name in two folders, and one without detections."""
    results = [detections(), detections()[[1]], detections()[np.zeros(2, bool)]]
    paths = [tmp_path / "photos" / name for name in ("a/x.jpg", "b/x.jpg", "nichts ä.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imencode(path.suffix, np.zeros((SIZE[1], SIZE[0], 3), np.uint8))[1].tofile(path)
    return [LabelledImage(path, SIZE, result) for path, result in zip(paths, results, strict=True)]


def by_name(dataset: sv.DetectionDataset) -> dict[str, sv.Detections]:
    return {"/".join(Path(path).parts[-2:]): found for path, _, found in dataset}


def test_coco_is_read_by_supervision(images, tmp_path):
    file = write_labels("coco", images, CLASSES, tmp_path / "out")
    dataset = sv.DetectionDataset.from_coco(str(tmp_path / "photos"), str(file))
    assert tuple(dataset.classes) == CLASSES
    found = by_name(dataset)
    np.testing.assert_allclose(found["a/x.jpg"].xyxy, detections().xyxy, atol=0.01)
    assert found["a/x.jpg"].class_id.tolist() == [0, 1]
    assert found["b/x.jpg"].class_id.tolist() == [1]
    assert len(found["photos/nichts ä.png"]) == 0
    scores = [row["score"] for row in json.loads(file.read_text())["annotations"]]
    assert scores == [0.9, 0.5, 0.5]


def test_coco_has_outlines_where_there_are_masks(images, tmp_path):
    masked = [images[0]._replace(detections=detections(masks=True))]
    file = write_labels("coco", masked, CLASSES, tmp_path / "out")
    dataset = sv.DetectionDataset.from_coco(str(images[0].path.parent), str(file), force_masks=True)
    ((_, _, found),) = list(dataset)
    expected = detections(masks=True).mask
    assert (found.mask == expected).mean() > 0.99
    areas = [row["area"] for row in json.loads(file.read_text())["annotations"]]
    assert areas == [3000, 7921]


@pytest.mark.parametrize("kind", FORMATS)
def test_compressed_masks_give_the_same_labels(kind, images, tmp_path):
    dense = images[0]._replace(detections=detections(masks=True))
    compressed = compress_masks(dense.detections, SIZE)
    assert not isinstance(compressed.mask, np.ndarray)
    small = dense._replace(detections=compressed)
    first = write_labels(kind, [dense], CLASSES, tmp_path / "dense").read_text()
    second = write_labels(kind, [small], CLASSES, tmp_path / "small").read_text()
    assert first.replace("dense", "small") == second
    lines = [sorted(folder.rglob("*.txt")) for folder in (tmp_path / "dense", tmp_path / "small")]
    for one, other in zip(*lines, strict=True):
        assert one.read_text() == other.read_text()


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_labels_can_be_evaluated(images, tmp_path, kind):
    file = write_labels(kind, images, CLASSES, tmp_path / "out")
    dataset = load_dataset(file.parent, tmp_path / "photos" if kind == "coco" else None)
    assert dataset.classes == CLASSES
    assert [len(image.xyxy) for image in dataset.images] == [
        len(image.detections) for image in images
    ]


@pytest.mark.parametrize("masks", [False, True])
def test_yolo_is_read_by_supervision(images, tmp_path, masks):
    images[0] = images[0]._replace(detections=detections(masks=masks))
    file = write_labels("yolo", images, CLASSES, tmp_path / "out")
    for folder, expected in (("a", detections()), ("b", detections()[[1]])):
        dataset = sv.DetectionDataset.from_yolo(
            str(tmp_path / "out/images" / folder), str(tmp_path / "out/labels" / folder), str(file)
        )
        ((_, _, found),) = list(dataset)
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1.01 if masks else 0.1)
        assert found.class_id.tolist() == expected.class_id.tolist()
    assert (tmp_path / "out/labels/nichts ä.txt").read_text() == ""
    assert json.loads(file.read_text())["names"] == {"0": CLASSES[0], "1": CLASSES[1]}


def test_two_images_of_one_stem_get_a_label_file_each(tmp_path):
    images = []
    for suffix, some in ((".jpg", [0, 1]), (".png", [1])):
        path = tmp_path / f"x{suffix}"
        cv2.imwrite(str(path), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
        images.append(LabelledImage(path, SIZE, detections()[some]))
    write_labels("yolo", images, CLASSES, tmp_path / "out")
    lines = {
        file.name: len(file.read_text().splitlines())
        for file in (tmp_path / "out/labels").iterdir()
    }
    assert lines == {"x.txt": 2, "x-2.txt": 1}
    assert {file.name for file in (tmp_path / "out/images").iterdir()} == {"x.jpg", "x-2.png"}


def test_links_keep_their_own_names(tmp_path):
    (tmp_path / "blobs").mkdir()
    cv2.imwrite(str(tmp_path / "blobs/ab12.jpg"), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    (tmp_path / "photos").mkdir()
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "blobs/ab12.jpg")
    images = [
        LabelledImage(tmp_path / "photos" / name, SIZE, detections())
        for name in ("one.jpg", "two.jpg")
    ]
    table = json.loads(write_labels("coco", images, CLASSES, tmp_path / "out").read_text())
    assert [image["file_name"] for image in table["images"]] == ["one.jpg", "two.jpg"]


@pytest.mark.parametrize("kind", FORMATS)
def test_existing_labels_are_not_overwritten(kind, images, tmp_path):
    file = write_labels(kind, images, CLASSES, tmp_path / "out")
    file.write_text("corrected")
    with pytest.raises(ConfigError, match="choose another folder"):
        write_labels(kind, images, CLASSES, tmp_path / "out")
    assert file.read_text() == "corrected"


def test_another_dataset_is_not_written_into(images, tmp_path):
    (tmp_path / "out/labels").mkdir(parents=True)
    with pytest.raises(ConfigError, match="already holds labels"):
        write_labels("yolo", images, CLASSES, tmp_path / "out")


@pytest.mark.weights
def test_yolo_finds_the_labels_of_every_image_even_when_the_folder_was_moved(tmp_path):
    names = ("train/images/x.jpg", "val/images/x.gif", "other/" + 250 * "y" + ".jpg", "a.b.png")
    paths = [tmp_path / "photos" / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, "red").save(path)
    images = [LabelledImage(path, SIZE, detections()) for path in paths]
    write_labels("yolo", images, ("a\x7fb\u2028", "x: y"), tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    with isolated_ultralytics() as ultralytics:
        table = ultralytics.data.utils.check_det_dataset(str(moved / "data.yaml"))
        dataset = ultralytics.data.YOLODataset(table["train"], data=table, imgsz=64)
    assert [len(label["cls"]) for label in dataset.labels] == [2, 2, 2, 2]
    assert table["names"] == {0: "a\x7fb\u2028", 1: "x: y"}


def test_cvat_reads_names_with_characters_that_xml_lacks(tmp_path):
    image = LabelledImage(tmp_path / "a\x1b.jpg", SIZE, detections())
    root = ElementTree.parse(write_labels("cvat", [image], CLASSES, tmp_path))  # noqa: S314  ours
    assert root.find("image").get("name") == "a\N{REPLACEMENT CHARACTER}.jpg"


def test_label_studio_gets_per_cent(images, tmp_path):
    tasks = json.loads(write_labels("label-studio", images, CLASSES, tmp_path).read_text())
    assert [task["data"]["image"] for task in tasks] == ["a/x.jpg", "b/x.jpg", "nichts ä.png"]
    first, _ = tasks[0]["predictions"][0]["result"]
    assert first["value"] == {
        "x": 5, "y": 20, "width": 25, "height": 60, "rotation": 0, "rectanglelabels": ["bus"]
    }  # fmt: skip
    assert tasks[0]["predictions"][0]["score"] == pytest.approx(0.7)
    assert tasks[2]["predictions"][0]["result"] == []


def test_cvat_gets_the_names_as_they_are(images, tmp_path):
    root = ElementTree.parse(write_labels("cvat", images, CLASSES, tmp_path))  # noqa: S314  ours
    assert next(root.iter("image")).get("name") == "a/x.jpg"
    boxes = [dict(box.attrib) for box in root.find("image").iter("box")]
    assert boxes[1]["label"] == CLASSES[1]
    assert float(boxes[1]["xtl"]) == 100.5


@pytest.mark.parametrize("kind", FORMATS)
def test_no_images_give_valid_labels(kind, tmp_path):
    assert write_labels(kind, [], CLASSES, tmp_path / "out").is_file()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_that_cannot_be_written_to_is_refused(kind, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenVocabError, match="choose another"):
        write_labels(kind, images, CLASSES, tmp_path / "file/out")
    with pytest.raises(OpenVocabError, match="Unknown format 'voc'"):
        write_labels("voc", images, CLASSES, tmp_path)


def test_hugging_face_gets_its_own_keys():
    first, _ = to_hf(detections())
    assert first == {
        "score": pytest.approx(0.9),
        "label": "bus",
        "box": {"xmin": 10, "ymin": 20, "xmax": 60, "ymax": 80},
    }
