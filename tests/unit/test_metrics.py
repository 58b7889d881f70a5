"""Metrics against the reference implementations, and against cases that can be counted by hand."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from openvocab.evaluation import _matching as matching
from openvocab.evaluation import _metrics as metrics
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.evaluation._formats import load_dataset

EXACT = 1e-6


def labelled(
    image_id: int, boxes: list, classes: list[int], crowd: list[bool] | None = None
) -> DatasetImage:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return DatasetImage(
        id=image_id,
        path=Path(f"{image_id}.jpg"),
        size_wh=(100, 100),
        xyxy=xyxy,
        class_ids=np.array(classes, np.intp),
        crowd=np.array(crowd or [False] * len(classes), np.bool_),
        areas=(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1).astype(np.float64),
    )


def detected(boxes: list, classes: list[int], scores: list[float]) -> sv.Detections:
    return sv.Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.array(scores, np.float32),
        class_id=np.array(classes, np.intp),
    )


LEFT, RIGHT, AWAY = [0, 0, 40, 40], [50, 0, 90, 40], [0, 60, 40, 100]


def dataset(*images: DatasetImage, **fields) -> Dataset:
    return Dataset("mine", fields.pop("kind", "coco"), ("bus", "car"), images, "", **fields)


def random_results(seed: int) -> tuple[dict, list[dict]]:
    """COCO JSON and results: moved, missed, confused, doubled and crowded boxes."""
    chance = np.random.default_rng(seed)
    images = [
        {"id": n * 3 + 1, "width": 200, "height": 200, "file_name": f"{n}.jpg"} for n in range(12)
    ]
    categories = [{"id": n, "name": f"class {n}"} for n in (2, 5, 11)]
    truth, results = [], []
    for image in images:
        for _ in range(int(chance.integers(0, 8))):
            x, y, w, h = np.append(chance.uniform(0, 100, 2), chance.uniform(5, 100, 2))
            category = int(chance.choice([2, 5, 11]))
            truth.append({
                "id": len(truth) + 1, "image_id": image["id"], "category_id": category,
                "bbox": [x, y, w, h], "area": 0.8 * w * h, "iscrowd": int(chance.random() < 0.15),
            })  # fmt: skip
            for _ in range(int(chance.integers(0, 3))):
                moved = np.array([x, y, w, h]) * chance.uniform(0.85, 1.15, 4)
                wrong = int(chance.choice([2, 5, 11]))
                results.append({
                    "image_id": image["id"], "score": float(chance.random()),
                    "category_id": wrong if chance.random() < 0.2 else category,
                    "bbox": moved.tolist(),
                })  # fmt: skip
    return {"images": images, "annotations": truth, "categories": categories}, results


def detections(data: Dataset, table: dict, results: list[dict]) -> list[sv.Detections]:
    places = {each["id"]: place for place, each in enumerate(table["categories"])}
    grouped = []
    for each in data.images:
        rows = [row for row in results if row["image_id"] == each.id]
        xywh = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        xyxy = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])  # float64, as pycocotools has it
        ids = np.array([places[row["category_id"]] for row in rows], int)
        scores = np.array([row["score"] for row in rows])
        grouped.append(sv.Detections(xyxy, confidence=scores, class_id=ids))
    return grouped


def read(folder: Path, table: dict) -> Dataset:
    import PIL.Image

    (folder / "images").mkdir()
    for image in table["images"]:
        size = image["width"], image["height"]
        PIL.Image.new("RGB", size).save(folder / "images" / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(table))
    return load_dataset(folder)


def by_pycocotools(file: Path, results: list[dict]) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def ours(precision: matching.Precision) -> list[float]:
    return list(precision.metrics.values())[:7]


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_pycocotools(tmp_path, seed):
    table, results = random_results(seed)
    data = read(tmp_path, table)
    reference = by_pycocotools(tmp_path / "instances.json", results)[[0, 1, 2, 3, 4, 5, 8]]
    reference[reference == -1] = np.nan
    computed = ours(matching.precision(data, detections(data, table, results)))
    # Labels are kept in float32 pixels, so that a box at IoU .75 to seven digits may fall either way.
    np.testing.assert_allclose(computed, reference, atol=EXACT, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # lvis is of 2020
@pytest.mark.parametrize("seed", range(5))
def test_federated_precision_is_that_of_lvis(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # gone since NumPy 1.24
    from lvis import LVIS, LVISEval, LVISResults

    table, results = random_results(seed)
    chance = np.random.default_rng(seed)
    for category, frequency in zip(table["categories"], "rcf", strict=True):
        category |= {"frequency": frequency, "image_count": 5, "instance_count": 9}
    for box in table["annotations"]:
        box["iscrowd"] = 0
        box["segmentation"] = [[0, 0, 1, 0, 1, 1]]
    for image in table["images"]:
        there = {b["category_id"] for b in table["annotations"] if b["image_id"] == image["id"]}
        rest = [number for number in (2, 5, 11) if number not in there]
        image["neg_category_ids"] = [number for number in rest if chance.random() < 0.5]
        image["not_exhaustive_category_ids"] = [n for n in there if chance.random() < 0.3]
        image["coco_url"] = f"http://images.cocodataset.org/images/{image['file_name']}"
    data = read(tmp_path, table)
    truth = LVIS(str(tmp_path / "instances.json"))
    run = LVISEval(truth, LVISResults(truth, results), "bbox")
    run.run()
    reference = run.get_results()
    precision = matching.precision(data, detections(data, table, results))
    values = precision.metrics
    computed = [values[key] for key in ("AP", "AP50", "AP75", "AR", "AP_r", "AP_c", "AP_f")]
    expected = [reference[key] for key in ("AP", "AP50", "AP75", "AR@300")]
    expected += [reference[f"AP{key}"] for key in "rcf"]
    np.testing.assert_allclose(np.nan_to_num(computed, nan=-1), expected, atol=EXACT, rtol=0)


def test_average_precision_on_real_images_is_that_of_pycocotools(shared):
    """Boxes of the labels, moved and confused: as many as a detector finds."""
    data = load_dataset(shared / "coco-dev")
    table = json.loads((shared / "coco-dev/instances.json").read_text())
    chance = np.random.default_rng(0)
    numbers = [each["id"] for each in table["categories"]]
    results = [
        {
            "image_id": each["image_id"], "score": float(chance.random()),
            "category_id": each["category_id"] if chance.random() < 0.8 else int(chance.choice(numbers)),
            "bbox": (np.array(each["bbox"]) * chance.uniform(0.9, 1.1, 4)).tolist(),
        }
        for each in table["annotations"]
    ]  # fmt: skip
    reference = by_pycocotools(shared / "coco-dev/instances.json", results)[[0, 1, 2, 3, 4, 5, 8]]
    computed = ours(matching.precision(data, detections(data, table, results)))
    np.testing.assert_allclose(computed, reference, atol=EXACT, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_ap50_of_matches_is_that_of_coco_and_weights_images(tmp_path, seed):
    table, results = random_results(seed)
    data = read(tmp_path, table)
    found = detections(data, table, results)
    matches = matching.match(data, found)
    assert metrics.ap50(matches) == pytest.approx(
        matching.precision(data, found).metrics["AP50"], abs=1e-9
    )
    some = np.arange(0, len(data), 2)
    weights = np.zeros(len(data))
    weights[some] = 3  # thrice as often is the same as once
    part = data.with_images([data.images[place] for place in some])
    expected = matching.precision(part, [found[place] for place in some]).metrics["AP50"]
    assert metrics.ap50(matches, weights) == pytest.approx(expected, abs=1e-9)


def test_lvis_counts_the_best_300_of_an_image():
    one = labelled(1, [LEFT, RIGHT], [0, 1])
    data = dataset(one, kind="lvis", frequencies=("r", "f"))
    many = detected([AWAY] * 300 + [RIGHT], [0] * 300 + [1], [0.9] * 300 + [0.1])
    assert matching.precision(data, [many]).metrics["AP50"] == 0


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_proposals_need_no_class_of_the_labels(kind):
    data = dataset(labelled(1, [LEFT], [1]), kind=kind, frequencies=("r", "f"))
    assert matching.proposal_recall(data, [detected([LEFT], [0], [0.9])], [10]) == {10: 1.0}


@pytest.mark.parametrize(
    ("boxes", "classes", "scores", "outcomes"),
    [
        ([LEFT], [0], [0.9], [1]),
        ([LEFT], [1], [0.9], [0]),  # another class
        ([AWAY], [0], [0.9], [0]),  # nothing there
        ([LEFT, LEFT], [0, 0], [0.9, 0.8], [1, 0]),  # each labelled box once
        ([[0, 0, 10, 10]], [0], [0.9], [0]),  # IoU under .5
        ([RIGHT, RIGHT], [1, 1], [0.9, 0.8], [-1, -1]),  # in a crowd
        ([], [], [], []),
    ],
)
def test_a_box_is_true_false_or_ignored(boxes, classes, scores, outcomes):
    data = dataset(labelled(1, [LEFT, RIGHT], [0, 1], [False, True]))
    matches = matching.match(data, [detected(boxes, classes, scores)])
    assert matches.outcomes.tolist() == outcomes
    assert matches.label_count == 1


def test_lvis_ignores_classes_that_were_not_verified():
    one = labelled(1, [LEFT, RIGHT], [0, 0])
    every = dict.fromkeys(("absent", "not_exhaustive"), frozenset())
    looked = {"absent": frozenset({1}), "not_exhaustive": frozenset()}
    not_exhaustive = {"absent": frozenset(), "not_exhaustive": frozenset({0})}
    more = detected([LEFT, AWAY, AWAY], [0, 1, 0], [0.9, 0.8, 0.7])

    def outcomes(**known) -> list[int]:
        from dataclasses import replace

        data = dataset(replace(one, **known), kind="lvis", frequencies=("r", "f"))
        return matching.match(data, [more]).outcomes.tolist()

    assert outcomes(**every) == [1, -1, 0]
    assert outcomes(**looked) == [1, 0, 0]
    assert outcomes(**not_exhaustive) == [1, -1, -1]


def test_matches_have_the_image_and_the_row():
    data = dataset(labelled(1, [LEFT], [0]), labelled(2, [RIGHT], [1]))
    rows = [detected([AWAY, LEFT], [5, 0], [0.9, 0.8]), detected([RIGHT], [1], [0.7])]
    matches = matching.match(data, rows)
    assert matches.image_indices.tolist() == [0, 1]
    assert matches.rows.tolist() == [1, 0]  # class 5 is a distractor: left out
    assert matches.class_ids.tolist() == [0, 1]


def test_proposals_are_counted_from_the_best():
    data = dataset(labelled(1, [LEFT, RIGHT], [0, 1]))
    proposals = detected([AWAY, LEFT, RIGHT], [0, 0, 0], [0.9, 0.8, 0.1])
    assert matching.proposal_recall(data, [proposals], (1, 2, 3)) == {1: 0.0, 2: 0.5, 3: 1.0}


def test_confusion_counts_labels_by_detected_class():
    data = dataset(labelled(1, [LEFT, RIGHT, AWAY], [0, 0, 1], [False, False, True]))
    called = [detected([LEFT, RIGHT], [1, 0], [0.9, 0.2])]
    table = matching.confusion(data, called, data.classes, 0.3)
    assert table.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_scores_equal_to_precision_have_no_calibration_error():
    scores = np.repeat([0.25, 0.75], 400)
    right = np.tile([True, False, False, False], 100).tolist() + [True, True, True, False] * 100
    assert metrics.calibration_error(scores, np.array(right)) == pytest.approx(0)
    assert metrics.calibration_error(scores, ~np.array(right)) == pytest.approx(0.5)


def test_without_detections_there_is_no_metric():
    assert np.isnan(metrics.calibration_error(np.zeros(0), np.zeros(0, bool)))
    empty = matching.precision(dataset(labelled(1, [LEFT], [0])), [detected([], [], [])])
    assert (empty.metrics["AP50"], empty.by_class[1, 0]) == (0, pytest.approx(np.nan, nan_ok=True))
