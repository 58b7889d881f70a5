"""Labels of the three forms, what is wrong with them, and the two halves."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from openvocab.errors import DatasetError, ImageError
from openvocab.evaluation.datasets import Dataset
from openvocab.evaluation.formats import load

SIZE = (40, 30)


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
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


def test_coco_classes_stand_in_the_order_of_their_numbers(tmp_path):
    picture(tmp_path / "images/a.jpg")
    data = load(written(tmp_path, coco([IMAGE], [BOX, BOX | {"category_id": 3, "iscrowd": 1}])))
    (photo,) = data.photos
    assert (data.kind, data.classes) == ("coco", ("bus", "car"))
    assert photo.xyxy.tolist() == [[1, 2, 11, 22]] * 2
    assert photo.class_ids.tolist() == [1, 0]
    assert photo.crowd.tolist() == [False, True]
    assert photo.areas.tolist() == [150.5, 150.5]
    assert photo.load().shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("labels", "pictures"),
    [
        ("instances.json", "images"),
        ("_annotations.coco.json", "."),
        ("annotations/instances_val2017.json", "val2017"),
    ],
)
def test_a_folder_is_enough_where_pictures_are_where_they_use_to_be(tmp_path, labels, pictures):
    picture(tmp_path / pictures / "a.jpg")
    written(tmp_path, coco([IMAGE], [BOX]), labels)
    assert load(tmp_path).photos[0].path.is_file()


@pytest.mark.parametrize("area", [None, -1, float("nan")])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path, area):
    picture(tmp_path / "images/a.jpg")
    data = load(written(tmp_path, coco([IMAGE], [BOX | {"area": area}])))
    assert data.photos[0].areas.tolist() == [200]


def test_pictures_may_be_elsewhere(tmp_path):
    picture(tmp_path / "far/a.jpg")
    assert len(load(written(tmp_path, coco([IMAGE], [BOX])), tmp_path / "far")) == 1


def test_lvis_knows_what_was_looked_for(tmp_path):
    picture(tmp_path / "val2017/9.jpg")
    categories = [
        {"id": 1, "name": "bow_(weapon)", "frequency": "r"},
        {"id": 2, "name": "cab", "frequency": "f"},
    ]
    image = {
        "id": 9, "coco_url": "http://images.cocodataset.org/val2017/9.jpg", "width": 40, "height": 30,
        "neg_category_ids": [1], "not_exhaustive_category_ids": [2],
    }  # fmt: skip
    box = {"id": 1, "image_id": 9, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16}
    data = load(written(tmp_path, coco([image], [box], categories)))
    assert (data.kind, data.frequencies) == ("lvis", ("r", "f"))
    assert (data.photos[0].absent, data.photos[0].not_exhaustive) == ({0}, {1})


def yolo(folder: Path, text: str, extra: str = "") -> Path:
    picture(folder / "images/val/a.jpg")
    written(folder, text, "labels/val/a.txt")
    return written(
        folder, f"path: .\nval: images/val\nnames: {{0: bus, 1: car}}\n{extra}", "data.yaml"
    )


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("1 .5 .5 .5 .2\n", [[10, 12, 30, 18]]),
        ("0 0 0 1 0 1 1\n", [[0, 0, 40, 30]]),  # an outline
        ("", []),
        ("0 .5 .5 1 1\n\n1 .5 .5 .5 .2", [[0, 0, 40, 30], [10, 12, 30, 18]]),
        ("0.0 .5 .5 1 1\n0 .5 .5 1.0 1", [[0, 0, 40, 30]]),  # said twice, as Ultralytics reads it
    ],
)
def test_yolo_boxes_and_outlines_are_parts_of_the_picture(tmp_path, text, boxes):
    data = load(yolo(tmp_path, text))
    assert data.classes == ("bus", "car")
    np.testing.assert_allclose(data.photos[0].xyxy, np.array(boxes).reshape(-1, 4), atol=1e-4)


def test_yolo_pictures_may_be_listed_and_names_be_a_list(tmp_path):
    file = yolo(tmp_path, "1 .5 .5 .5 .2")
    written(tmp_path, "./images/val/a.jpg\n", "few.txt")
    file.write_text("test: few.txt\nnames: [bus, car]\n")
    assert load(file, split="test").photos[0].class_ids.tolist() == [1]


def test_yolo_as_json_has_numbers_in_quotes(tmp_path):
    folder = yolo(tmp_path, "1 0.5 0.5 0.5 0.5").parent
    names = {"path": str(folder), "val": "images/val", "names": {"0": "bus", "1": "car"}}
    (folder / "data.yaml").write_text(json.dumps(names))
    assert load(folder).classes == ("bus", "car")


def test_a_turned_picture_has_the_size_it_is_shown_at(tmp_path):
    file = yolo(tmp_path, "0 .5 .5 1 1")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", SIZE).save(tmp_path / "images/val/a.jpg", exif=exif)
    (photo,) = load(file).photos
    assert photo.size_wh == (30, 40)
    assert photo.load().shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{", "is no COCO or LVIS file"),
        ("[]", "is no COCO or LVIS file"),
        ({"images": []}, "is no COCO or LVIS file"),
        (coco([IMAGE | {"id": "5"}], [BOX]), "no whole number of its own"),
        (coco([IMAGE, IMAGE], [BOX]), "no whole number of its own"),
        (coco([IMAGE], [BOX], [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]), "of its own"),
        (coco([IMAGE], [BOX | {"image_id": 6}]), "of image 6, which is none"),
        (coco([IMAGE], [BOX | {"bbox": [0] * 8}]), "has not four numbers"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, 1e30, 1]}]), "is not of numbers of pixels"),
        (coco([IMAGE | {"width": float("inf")}], []), "is no COCO or LVIS file"),
        (coco([IMAGE | {"file_name": "..\\a.jpg"}], []), "names must stay in their folder"),
        (coco([IMAGE | {"file_name": "C:/a.jpg"}], []), "names must stay in their folder"),
        (coco([], []), "names no pictures"),
        (coco([IMAGE | {"file_name": "../a.jpg"}], []), "names must stay in their folder"),
        (coco([IMAGE | {"file_name": "/etc/a.jpg"}], []), "names must stay in their folder"),
        (coco([IMAGE | {"file_name": "b.jpg"}], []), "say where they are with --images"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, float("nan"), 1]}]), "is not of numbers"),
        (coco([IMAGE], [BOX | {"bbox": [0, 0, 1]}]), "has not four numbers"),
        (coco([IMAGE], [BOX | {"category_id": 99}]), "category 99, which is none"),
        (coco([IMAGE], [BOX | {"bbox": [9, 9, -5, 5]}]), "has a negative size"),
    ],
)
def test_wrong_json_is_said_in_one_line(tmp_path, table, said):
    picture(tmp_path / "images/a.jpg")
    with pytest.raises(DatasetError, match=said) as caught:
        load(written(tmp_path, table))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "extra", "said"),
    [
        ("7 .5 .5 1 1", "", "a class that is none"),
        ("0.7 .5 .5 1 1", "", "a class that is none"),
        ("nan .5 .5 1 1", "", "a class that is none"),
        ("", "names:", "has no `names`"),
        ("", "names: {0: bus, 2: car}", "leaves out a number"),
        ("0 12 14 30 40", "", "no box"),
        ("0 .5 .5 -1 1", "", "no box"),
        ("", "names: [no, yes]", "write it in quotes"),
        ("0 .5 .5", "", "no box"),
        ("bus .5 .5 1 1", "", "no box"),
        ("0 nan 0 1 1", "", "no box"),
        ("", "names: [", "is no YOLO dataset"),
        ("", "val: nowhere", "no pictures in"),
        ("", "val:", "no split 'val'"),
    ],
)
def test_wrong_yolo_is_said_in_one_line(tmp_path, text, extra, said):
    with pytest.raises(DatasetError, match=said) as caught:
        load(yolo(tmp_path, text, extra))
    assert "\n" not in str(caught.value)


def test_of_several_files_the_split_is_taken(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"{split}2017/a.jpg")
        written(
            tmp_path,
            coco([IMAGE], [BOX] * (split == "val")),
            f"annotations/instances_{split}2017.json",
        )
    assert load(tmp_path).boxes == 1
    assert load(tmp_path, split="train").boxes == 0


def test_a_name_that_says_nothing_gives_way_to_the_folders(tmp_path):
    picture(tmp_path / "street/images/a.jpg")
    assert load(written(tmp_path / "street", coco([IMAGE], [BOX]))).name == "street"
    assert load(written(tmp_path / "street", coco([IMAGE], [BOX]), "night.json")).name == "night"


def test_a_broken_picture_is_no_reason_to_refuse_the_rest(tmp_path):
    file = yolo(tmp_path, "0 .5 .5 1 1")
    (tmp_path / "images/val/b.jpg").write_bytes(b"no")
    good, bad = load(file).photos
    assert good.load().shape == (30, 40, 3)
    with pytest.raises(ImageError, match=r"b\.jpg"):
        bad.load()


@pytest.mark.parametrize("path", ["none.json", "none.yaml", "."])
def test_no_labels_there(tmp_path, path):
    with pytest.raises(DatasetError, match="give"):
        load(tmp_path / path)


def test_yolo_lists_run_no_code(tmp_path):
    file = written(tmp_path, "names: !!python/object/apply:os.mkdir ['hacked']\nval: x\n", "d.yaml")
    with pytest.raises(DatasetError, match="no YOLO dataset"):
        load(file)
    assert not Path("hacked").exists()


def test_a_picture_of_another_size_than_its_labels_is_refused(tmp_path):
    picture(tmp_path / "images/a.jpg", (30, 40))
    (photo,) = load(written(tmp_path, coco([IMAGE], [BOX]))).photos
    with pytest.raises(DatasetError, match="30x40 pixels, its labels are for 40x30"):
        photo.load()


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"no")
    (photo,) = load(written(tmp_path, coco([IMAGE], [BOX]))).photos
    with pytest.raises(ImageError, match=r"a\.jpg"):
        photo.load()


def test_the_halves_are_fixed_and_share_nothing(tmp_path):
    entries = [IMAGE | {"id": number, "file_name": f"{number}.jpg"} for number in range(9)]
    for entry in entries:
        picture(tmp_path / "images" / entry["file_name"])

    def halves(order: list[dict]) -> list[set[str]]:
        data = load(written(tmp_path, coco(order, [])))
        return [{p.path.name for p in data.part(part).photos} for part in ("calibration", "test")]

    first, second = halves(entries)
    assert halves(entries[::-1]) == [first, second]
    assert not first & second
    assert len(first | second) == 9


def test_there_is_no_third_half():
    with pytest.raises(DatasetError, match="use one of all, calibration, test"):
        Dataset("mine", "coco", ("bus",), (), "").part("train")
