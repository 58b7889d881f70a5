"""A model that somebody has already, asked in other words: everything of Ultralytics keeps working."""

import copy
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from openvocab import OpenVocabDetector
from openvocab._internal.runtimes import isolated_ultralytics
from openvocab.errors import ClassesError, ModelError
from openvocab.io import load_image
from openvocab.plugins.ultralytics import attach
from openvocab.weights import resolve

TRACKERS = ("bytetrack", "botsort")
WORDS = ["bus", "pedestrian", "dog"]


def load(source) -> object:
    with isolated_ultralytics() as ultralytics:
        return ultralytics.YOLO(
            str(source), task="detect" if str(source).endswith("onnx") else None
        )


@pytest.fixture
def starter() -> object:
    return load(resolve("starter-detector"))


@pytest.fixture(scope="module")
def film(tmp_path_factory, assets) -> Path:
    """The bus, moving."""
    path = tmp_path_factory.mktemp("film") / "bus.mp4"
    photo = cv2.resize(load_image(assets / "bus.jpg"), (405, 540))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (405, 540))
    for step in range(12):
        writer.write(np.roll(photo, 2 * step, axis=1))
    writer.release()
    return path


def quiet(**more) -> dict:
    return {"verbose": False, "device": "cpu"} | more


def test_results_are_of_the_callers_classes(starter, assets):
    attach(starter, WORDS)
    (result,) = starter.predict(assets / "bus.jpg", **quiet(conf=0.05))
    assert result.names == dict(enumerate(WORDS))
    called = [result.names[int(index)] for index in result.boxes.cls]
    assert called.count("bus") == 1
    assert called.count("pedestrian") >= 3
    assert "dog" not in called
    assert result.speed["openvocab"] > 0
    frame = result.to_df()
    assert set(frame["name"].to_list()) == {"bus", "pedestrian"}
    assert result.plot().shape == result.orig_img.shape


def test_they_are_those_of_detect(starter, assets):
    attach(starter, WORDS)
    (result,) = starter.predict(assets / "bus.jpg", **quiet(conf=0.001, iou=0.7, max_det=300))
    expected = OpenVocabDetector.from_preset().detect(assets / "bus.jpg", WORDS)
    np.testing.assert_allclose(result.boxes.xyxy.numpy(), expected.xyxy, atol=0.5)
    np.testing.assert_allclose(result.boxes.conf.numpy(), expected.confidence, atol=1e-3)
    assert result.boxes.cls.int().tolist() == expected.class_id.tolist()


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo26n-seg.yaml", "starter"])
def test_a_model_is_given_back_bit_by_bit(config, checkpoint, assets):
    yolo = load(resolve("starter-detector") if config == "starter" else checkpoint(config))
    arguments = quiet(conf=1e-9, max_det=20)  # random weights are sure of nothing
    (before,) = yolo.predict(assets / "bus.jpg", **arguments)
    assert len(before) > 0
    listed = {event: list(some) for event, some in yolo.callbacks.items()}
    attached = attach(yolo, ["bus", "person"], score_threshold=0.0)
    (during,) = yolo.predict(assets / "bus.jpg", **arguments)
    assert during.names == {0: "bus", 1: "person"}
    assert len(during) > 0
    assert (during.masks is None) == (before.masks is None)
    if during.masks is not None:
        assert len(during.masks) == len(during.boxes)
    attached.detach()
    attached.detach()
    assert {event: list(some) for event, some in yolo.callbacks.items()} == listed
    (after,) = yolo.predict(assets / "bus.jpg", **arguments)
    assert torch.equal(before.boxes.data, after.boxes.data)
    assert before.names == after.names
    assert "openvocab" not in after.speed
    if before.masks is not None:
        assert torch.equal(before.masks.data, after.masks.data)


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("late", [False, True])
def test_tracks_are_those_of_the_plain_model(tracker, late, film):
    def run(yolo) -> list[dict[int, list[float]]]:
        frames = yolo.track(film, stream=True, tracker=f"{tracker}.yaml", **quiet(conf=0.1))
        return [
            {} if each.boxes.id is None
            else dict(zip(each.boxes.id.int().tolist(), each.boxes.xyxy.tolist(), strict=True))
            for each in frames
        ]  # fmt: skip

    plain = run(load(resolve("starter-detector")))
    yolo = load(resolve("starter-detector"))
    if late:  # after the tracker's callbacks were registered
        run(yolo)
    attach(yolo, ["bus", "person"], score_threshold=0.05)
    named = run(yolo)
    assert sum(map(len, named)) > 10
    for whole, some in zip(plain, named, strict=True):
        for track, box in some.items():
            assert box == pytest.approx(whole[track])


def test_classes_change_while_a_film_runs(starter, film):
    attached = attach(starter, ["bus"])
    seen = []
    for number, result in enumerate(starter.predict(film, stream=True, **quiet(conf=0.05))):
        seen.append(set(result.names.values()))
        if number == 5:
            attached.set_classes(["person"])
    assert seen == [{"bus"}] * 6 + [{"person"}] * 6
    with pytest.raises(ClassesError):
        attached.set_classes([])


def test_labels_are_saved_by_the_new_numbers(starter, assets, tmp_path):
    attach(starter, WORDS)
    starter.predict(
        assets / "bus.jpg",
        **quiet(conf=0.05, save_txt=True, save=True, project=str(tmp_path), name="run"),
    )
    (labels,) = tmp_path.rglob("*.txt")
    numbers = [int(line.split()[0]) for line in labels.read_text().splitlines()]
    assert numbers.count(0) == 1
    assert set(numbers) == {0, 1}
    assert len(list(tmp_path.rglob("*.jpg"))) == 1


def test_validation_is_of_the_callers_classes(starter, assets, tmp_path):
    """Two classes of our own, in which the bus and its people are labelled."""
    found = OpenVocabDetector.from_preset().detect(assets / "bus.jpg", ["bus", "person"])
    height, width = load_image(assets / "bus.jpg").shape[:2]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images/bus.jpg").write_bytes((assets / "bus.jpg").read_bytes())
    lines = []
    for (x1, y1, x2, y2), index in zip(found.xyxy, found.class_id, strict=True):
        middle = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
        lines.append(f"{index} {middle[0]} {middle[1]} {(x2 - x1) / width} {(y2 - y1) / height}")
    (tmp_path / "labels/bus.txt").write_text("\n".join(lines))
    data = tmp_path / "data.yaml"
    data.write_text(
        f"path: {tmp_path}\ntrain: images\nval: images\nnames: {{0: coach, 1: human}}\n"
    )
    attached = attach(starter, ["coach", "human"])
    more = quiet(data=str(data), plots=False, project=str(tmp_path), name="val", imgsz=640)
    metrics = starter.val(**more)
    assert metrics.box.map50 > 0.9
    assert metrics.names == {0: "coach", 1: "human"}
    attached.set_classes(["coach"])
    with pytest.raises(ModelError, match="as many"):
        starter.val(**more)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is meant to only be:UserWarning")  # Ray's, if it is there
def test_an_attached_model_can_be_trained(checkpoint, assets, tmp_path):
    """It learns and validates its own classes, as ever."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images/bus.jpg").write_bytes((assets / "bus.jpg").read_bytes())
    (tmp_path / "labels/bus.txt").write_text("0 0.5 0.5 0.9 0.5\n")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: {{0: coach}}\n")
    yolo = load(checkpoint("yolo26n.yaml"))
    attach(yolo, ["bus"])
    more = {"epochs": 1, "imgsz": 64, "batch": 1, "workers": 0, "plots": False, "amp": False}
    metrics = yolo.train(data=str(data), project=str(tmp_path), name="run", **more, **quiet())
    assert metrics.names == {0: "coach"}
    with pytest.raises(ModelError, match="attach it again"):
        yolo.predict(assets / "bus.jpg", **quiet(conf=1e-9))


def test_what_cannot_be_attached_to_is_said(starter, checkpoint):
    attach(starter, ["bus"])
    with pytest.raises(ModelError, match="attached already"):
        attach(starter, ["bus"])
    with pytest.raises(ModelError, match="not classify"):
        attach(load(checkpoint("yolo26n-cls.yaml")), ["bus"])
    with pytest.raises(ModelError, match="not str"):
        attach("yolo26n.pt", ["bus"])
    with pytest.raises(ModelError, match="not DetectionModel"):
        attach(load(checkpoint("yolo26n.yaml")).model, ["bus"])
    starter.predict(np.zeros((32, 32, 3), np.uint8), **quiet())
    with pytest.raises(ModelError, match="Predictor; pass"):
        attach(starter.predictor, ["bus"])
    damaged = checkpoint("yolo26n.yaml").with_name("damaged.onnx")
    damaged.write_bytes(b"no model")
    with pytest.raises(ModelError, match="export it again"):
        attach(load(damaged), ["bus"])


def test_a_threshold_stays_when_classes_change(starter, assets):
    attached = attach(starter, ["bus"], score_threshold=0.999)
    assert not len(starter.predict(assets / "bus.jpg", **quiet())[0])
    attached.set_classes(["bus", "person"])
    assert not len(starter.predict(assets / "bus.jpg", **quiet())[0])
    attached.set_classes(["bus", "person"], score_threshold=0.3)
    assert len(starter.predict(assets / "bus.jpg", **quiet())[0]) >= 4


def test_a_copy_of_an_attached_model_is_the_plain_model(checkpoint, assets):
    yolo = load(checkpoint("yolo26n.yaml"))
    attached = attach(yolo, ["bus"])
    for other in (copy.deepcopy(yolo), pickle.loads(pickle.dumps(yolo))):  # noqa: S301  our own
        (result,) = other.predict(assets / "bus.jpg", **quiet())
        assert len(result.names) == 80
        assert attach(other, ["dog"]) is not attached
        assert other.predict(assets / "bus.jpg", **quiet())[0].names == {0: "dog"}
    assert yolo.predict(assets / "bus.jpg", **quiet())[0].names == {0: "bus"}


def test_callbacks_that_are_taken_off_are_missed_by_nobody_but_set_classes(starter, assets):
    attached, heard = attach(starter, ["bus"]), []
    starter.add_callback("on_predict_batch_end", lambda _: attached.detach())
    starter.add_callback("on_predict_batch_end", lambda _: heard.append(1))
    starter.predict(assets / "bus.jpg", **quiet())
    assert heard == [1]
    with pytest.raises(ModelError, match="attach it again"):
        attached.set_classes(["dog"])
    attach(starter, ["bus"])
    starter.clear_callback("on_predict_postprocess_end")
    (result,) = starter.predict(assets / "bus.jpg", **quiet())
    assert len(result.names) == 81


def test_pictures_of_other_channels_are_refused_in_a_line(checkpoint):
    yolo = load(checkpoint("yolo26n.yaml"))
    with isolated_ultralytics() as ultralytics:
        yolo.model = ultralytics.nn.tasks.DetectionModel("yolo26n.yaml", ch=4, verbose=False)
    attach(yolo, ["bus"])
    with pytest.raises(ModelError, match="4 channels"):
        yolo.predict(np.zeros((64, 64, 4), np.uint8), **quiet(conf=1e-9))
