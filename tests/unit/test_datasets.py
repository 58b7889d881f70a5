"""Labels in the three formats, invalid labels, and the two halves."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from openvocab.errors import DatasetError, ImageError
from openvocab.evaluation._datasets import Dataset
from openvocab.evaluation._formats import load_dataset

SIZE = (40, 30)


def save_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, "red").save(path)
    return path


def coco(images: list[dict], boxes: list[dict], categories: list[dict] | None = None) -> dict:
    categories = categories or [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
    return {"images": images, "annotations": boxes, "categories": categories}


IMAGE = {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30}
BOX = {
    "id": 1,
    "image_id": 5,
    "category_id": 7,
    "bbox": [1, 2, 10, 20],
    "area": 150.5,
    "iscrowd": 0,
}


def written(folder: Path, table: object, name: str = "instances.json") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(table if isinstance(table, str) else json.dumps(table))
    return file


def test_coco_classes_are_sorted_by_id(tmp_path):
    save_image(tmp_path / "images/a.jpg")
    data = load_dataset(
        written(tmp_path, coco([IMAGE], [BOX, BOX | {"category_id": 3, "iscrowd": 1}]))
    )
    (image,) = data.images
    assert (data.kind, data.classes) == ("coco", ("bus", "car"))
    assert image.xyxy.tolist() == [[1, 2, 11, 22]] * 2
    assert image.class_ids.tolist() == [1, 0]
    assert image.crowd.tolist() == [False, True]
    assert image.areas.tolist() == [150.5, 150.5]
    assert image.load().shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        ("instances.json", "images"),
        ("_annotations.coco.json", "."),
        ("annotations/instances_val2017.json", "val2017"),
    ],
)
def test_labels_and_images_are_found_in_the_usual_folders(tmp_path, labels, images):
    save_image(tmp_path / images / "a.jpg")
    written(tmp_path, coco([IMAGE], [BOX]), labels)
    assert load_dataset(tmp_path).images[0].path.is_file()


@pytest.mark.parametrize("area", [None, -1, float("nan")])
def test_a_missing_area_is_that_of_the_box(tmp_path, area):
    save_image(tmp_path / "images/a.jpg")
    data = load_dataset(written(tmp_path, coco([IMAGE], [BOX | {"area": area}])))
    assert data.images[0].areas.tolist() == [200]


def test_the_folder_of_images_can_be_given(tmp_path):
    save_image(tmp_path / "far/a.jpg")
    assert len(load_dataset(written(tmp_path, coco([IMAGE], [BOX])), tmp_path / "far")) == 1


def test_lvis_has_verified_classes(tmp_path):
    save_image(tmp_path / "val2017/9.jpg")
    categories = [
        {"id": 1, "name": "bow_(weapon)", "frequency": "r"},
        {"id": 2, "name": "cab", "frequency": "f"},
    ]
    image = {
        "id": 9, "coco_url": "http://images.cocodataset.org/val2017/9.jpg", "width": 40, "height": 30,
        "neg_category_ids": [1], "not_exhaustive_category_ids": [2],
    }  # fmt: skip
    box = {"id": 1, "image_id": 9, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16}
    data = load_dataset(written(tmp_path, coco([image], [box], categories)))
    assert (data.kind, data.frequencies) == ("lvis", ("r", "f"))
    assert (data.images[0].absent, data.images[0].not_exhaustive) == ({0}, {1})


def yolo(folder: Path, text: str, extra: str = "") -> Path:
    save_image(folder / "images/val/a.jpg")
    written(folder, text, "labels/val/a.txt")
    return written(
        folder, f"path: .\nval: images/val\nnames: {{0: bus, 1: car}}\n{extra}", "data.yaml"
    )


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("1 .5 .5 .5 .2\n", [[10, 12, 30, 18]]),
        ("0 0 0 1 0 1 1\n", [[0, 0, 40, 30]]),  # a polygon
        ("", []),
        ("0 .5 .5 1 1\n\n1 .5 .5 .5 .2", [[0, 0, 40, 30], [10, 12, 30, 18]]),
        ("0.0 .5 .5 1 1\n0 .5 .5 1.0 1", [[0, 0, 40, 30]]),  # repeated, as Ultralytics reads it
    ],
)
def test_yolo_boxes_and_outlines_are_parts_of_the_save_image(tmp_path, text, boxes):
    data = load_dataset(yolo(tmp_path, text))
    assert data.classes == ("bus", "car")
    np.testing.assert_allclose(data.images[0].xyxy, np.array(boxes).reshape(-1, 4), atol=1e-4)


def test_yolo_images_may_be_listed_and_names_be_a_list(tmp_path):
    file = yolo(tmp_path, "1 .5 .5 .5 .2")
    written(tmp_path, "./images/val/a.jpg\n", "few.txt")
    file.write_text("test: few.txt\nnames: [bus, car]\n")
    assert load_dataset(file, split="test").images[0].class_ids.tolist() == [1]


def test_yolo_as_json_has_quoted_numbers(tmp_path):
    folder = yolo(tmp_path, "1 0.5 0.5 0.5 0.5").parent
    names = {"path": str(folder), "val": "images/val", "names": {"0": "bus", "1": "car"}}
    (folder / "data.yaml").write_text(json.dumps(names))
    assert load_dataset(folder).classes == ("bus", "car")


def test_size_follows_the_exif_orientation(tmp_path):
    file = yolo(tmp_path, "0 .5 .5 1 1")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", SIZE).save(tmp_path / "images/val/a.jpg", exif=exif)
    (image,) = load_dataset(file).images
    assert image.size_wh == (30, 40)
    assert image.load().shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "is not a valid COCO or LVIS file"),
        ("[]", "is not a valid COCO or LVIS file"),
        ({"images": []}, "is not a valid COCO or LVIS file"),
        (coco([IMAGE | {"id": "5"}], [BOX]), "is not a unique integer"),
        (coco([IMAGE, IMAGE], [BOX]), "is not a unique integer"),
        (
            coco([IMAGE], [BOX], [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]),
            "is not a unique integer",
        ),
        (coco([IMAGE], [BOX | {"image_id": 6}]), "unknown image 6"),
        (coco([IMAGE], [BOX | {"bbox": [0] * 8}]), "does not have four numbers"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, 1e30, 1]}]), "is not in pixels"),
        (coco([IMAGE | {"width": float("inf")}], []), "is not a valid COCO or LVIS file"),
        (coco([IMAGE | {"file_name": "..\\a.jpg"}], []), "leaves the folder"),
        (coco([IMAGE | {"file_name": "C:/a.jpg"}], []), "leaves the folder"),
        (coco([], []), "lists no images"),
        (coco([IMAGE | {"file_name": "../a.jpg"}], []), "leaves the folder"),
        (coco([IMAGE | {"file_name": "/etc/a.jpg"}], []), "leaves the folder"),
        (coco([IMAGE | {"file_name": "b.jpg"}], []), "with --images"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, float("nan"), 1]}]), "is not in pixels"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, 1]}]), "does not have four numbers"),
        (coco([IMAGE], [BOX | {"category_id": 99}]), "unknown category 99"),
        (coco([IMAGE], [BOX | {"bbox": [9, 9, -5, 5]}]), "has a negative size"),
    ],
)
def test_invalid_json_is_refused(tmp_path, table, message):
    save_image(tmp_path / "images/a.jpg")
    with pytest.raises(DatasetError, match=message):
        load_dataset(written(tmp_path, table))


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        ("7 .5 .5 1 1", "", "has an unknown class"),
        ("0.7 .5 .5 1 1", "", "has an unknown class"),
        ("nan .5 .5 1 1", "", "has an unknown class"),
        ("", "names:", "has no `names`"),
        ("", "names: {0: bus, 2: car}", "skips a number"),
        ("0 12 14 30 40", "", "invalid box"),
        ("0 .5 .5 -1 1", "", "invalid box"),
        ("", "names: [no, yes]", "write it in quotes"),
        ("0 .5 .5", "", "invalid box"),
        ("bus .5 .5 1 1", "", "invalid box"),
        ("0 nan 0 1 1", "", "invalid box"),
        ("", "names: [", "is not a valid YOLO dataset"),
        ("", "val: nowhere", "no folder of images"),
        ("", "val:", "no split 'val'"),
    ],
)
def test_invalid_yolo_is_refused(tmp_path, text, extra, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(yolo(tmp_path, text, extra))


def test_the_split_selects_the_file(tmp_path):
    for split in ("train", "val"):
        save_image(tmp_path / f"{split}2017/a.jpg")
        written(
            tmp_path,
            coco([IMAGE], [BOX] * (split == "val")),
            f"annotations/instances_{split}2017.json",
        )
    assert load_dataset(tmp_path).box_count == 1
    assert load_dataset(tmp_path, split="train").box_count == 0


def test_a_generic_file_name_is_replaced_by_the_folder(tmp_path):
    save_image(tmp_path / "street/images/a.jpg")
    assert load_dataset(written(tmp_path / "street", coco([IMAGE], [BOX]))).name == "street"
    assert (
        load_dataset(written(tmp_path / "street", coco([IMAGE], [BOX]), "night.json")).name
        == "night"
    )


def test_an_unreadable_image_does_not_refuse_the_dataset(tmp_path):
    file = yolo(tmp_path, "0 .5 .5 1 1")
    (tmp_path / "images/val/b.jpg").write_bytes(b"no")
    good, bad = load_dataset(file).images
    assert good.load().shape == (30, 40, 3)
    with pytest.raises(ImageError, match=r"b\.jpg"):
        bad.load()


@pytest.mark.parametrize("path", ["none.json", "none.yaml", "."])
def test_missing_labels(tmp_path, path):
    with pytest.raises(DatasetError, match="give"):
        load_dataset(tmp_path / path)


def test_yolo_yaml_runs_no_code(tmp_path):
    file = written(tmp_path, "names: !!python/object/apply:os.mkdir ['hacked']\nval: x\n", "d.yaml")
    with pytest.raises(DatasetError, match="not a valid YOLO dataset"):
        load_dataset(file)
    assert not Path("hacked").exists()


def test_an_image_of_another_size_than_its_labels_is_refused(tmp_path):
    save_image(tmp_path / "images/a.jpg", (30, 40))
    (image,) = load_dataset(written(tmp_path, coco([IMAGE], [BOX]))).images
    with pytest.raises(DatasetError, match="30x40 pixels, its labels are for 40x30"):
        image.load()


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"no")
    (image,) = load_dataset(written(tmp_path, coco([IMAGE], [BOX]))).images
    with pytest.raises(ImageError, match=r"a\.jpg"):
        image.load()


def test_the_halves_are_fixed_and_share_nothing(tmp_path):
    entries = [IMAGE | {"id": number, "file_name": f"{number}.jpg"} for number in range(9)]
    for entry in entries:
        save_image(tmp_path / "images" / entry["file_name"])

    def halves(order: list[dict]) -> list[set[str]]:
        data = load_dataset(written(tmp_path, coco(order, [])))
        return [{p.path.name for p in data.part(part).images} for part in ("calibration", "test")]

    first, second = halves(entries)
    assert halves(entries[::-1]) == [first, second]
    assert not first & second
    assert len(first | second) == 9


def test_an_unknown_part_is_refused():
    with pytest.raises(DatasetError, match="use one of all, calibration, test"):
        Dataset("mine", "coco", ("bus",), (), "").part("train")
