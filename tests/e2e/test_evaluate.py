"""`openvocab eval` and `openvocab calibrate` as commands, with the real starter."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openvocab import OpenVocabDetector, Preset
from openvocab._internal.files import package_data
from openvocab.scoring import ImagePrototypes

LABELS = {
    "images": [
        {"id": 1, "file_name": "bus.jpg", "width": 810, "height": 1080},
        {"id": 2, "file_name": "zidane.jpg", "width": 1280, "height": 720},
    ],
    "categories": [{"id": n, "name": name} for n, name in enumerate(("bus", "person", "tie", "dog"))],
    "annotations": [
        {"id": n, "image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1],
         "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        for n, (image, category, (x1, y1, x2, y2)) in enumerate((
            (1, 0, (22, 231, 805, 756)),
            (1, 1, (49, 399, 245, 903)), (1, 1, (670, 379, 810, 877)), (1, 1, (222, 407, 345, 857)),
            (2, 1, (748, 41, 1148, 711)), (2, 1, (140, 195, 1130, 711)), (2, 2, (437, 434, 528, 717)),
        ), start=1)
    ],
}  # fmt: skip


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "openvocab", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1200, cwd=cwd, check=False
    )


@pytest.fixture
def labels(tmp_path, assets) -> Path:
    for name in ("bus.jpg", "zidane.jpg"):
        shutil.copy(assets / name, tmp_path / name)
    file = tmp_path / "street.json"
    file.write_text(json.dumps(LABELS))
    return file


def test_eval_writes_a_table_json_and_a_report(labels, tmp_path):
    done = run("eval", labels, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "+1,000" not in done.stdout
    assert "the detector's own" in done.stdout
    home = tmp_path / "runs/street-starter"
    results = json.loads((home / "results.json").read_text())
    assert results["dataset"]["boxes"] == 7
    classes = {row["class"]: row["AP50"] for row in results["classes"]}
    assert classes["bus"] == pytest.approx(1)
    assert classes["person"] > 0.7
    assert (
        results["prompt_variants"]["upper case"]["AP50"]
        == results["prompt_variants"]["names"]["AP50"]
    )
    weights, versions = (results["provenance"][key] for key in ("weights", "versions"))
    assert len(weights["detector"]) == len(weights["encoder"]) == 64
    assert versions["ultralytics"]
    assert "<svg" in (home / "report.html").read_text()
    assert len(list((home / "features").rglob("*.npz"))) == 2


def test_eval_measures_words_by_their_relation_to_the_labels(labels, tmp_path):
    (tmp_path / "words.toml").write_text('[broader]\n"living being" = ["person", "dog"]\n')
    done = run("eval", labels, "--classes-map", "words.toml", "--relations", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout
    home = tmp_path / "runs/street-starter"
    relations = json.loads((home / "results.json").read_text())["relations"]
    pictures = ["1 picture", "8 pictures"]
    assert list(relations) == ["same", "kind", "broader", "left out", *pictures]
    left_out = {row["word"]: row for row in relations["left out"]["by_word"]}
    assert left_out["bus"]["detector_alone_AP50"] == pytest.approx(1)
    assert relations["same"]["AP50"] > relations["left out"]["AP50"] > 0
    assert relations["broader"]["by_word"][0]["boxes"] == 5
    assert relations["8 pictures"]["images"] == 1
    again = run("eval", labels, "--classes-map", "words.toml", "--relations", cwd=tmp_path)
    assert again.returncode == 0
    repeated = json.loads((home / "results.json").read_text())["relations"]
    assert repeated == relations  # from the cached regions of the detector without the names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "none.json"), "no labels none.json; give"),
        (("eval", "street.json", "--classes-map", "none"), "no file none; check"),
        (("eval", "street.json", "--classes-map", "coco"), "unknown class"),
        (("eval", "street.json", "--part", "train"), "use one of all, calibration, test"),
        (("eval", "street.json", "--images", "nowhere"), "give the folder with --images"),
        (("eval", "street.json", "--preset", "big"), "Unknown preset 'big'"),
        (("calibrate", "street.json"), "label at least 50 images and 300 boxes"),
        (("calibrate", "street.json", "--thresholds-only"), "at least 2 images and 20 boxes"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(labels, tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_stopped_run_says_so_and_continues(shared, tmp_path):
    command = [sys.executable, "-m", "openvocab", "eval", str(shared / "coco-dev"), "--limit", "12"]
    started = subprocess.Popen(
        [*command, "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while len(list((tmp_path / "out").rglob("*.npz"))) < 3:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "run it again to continue" in stderr
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.npz")}
    again = subprocess.run([*command, "--out", "out"], cwd=tmp_path, timeout=300, check=True)
    assert again.returncode == 0
    second = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.npz")}
    assert len(second) == 12
    assert first.items() <= second.items()


@pytest.mark.slow
def test_the_starter_reaches_its_accuracy_goals(shared, tmp_path):
    """The accuracy goals, on the half of the images that chose no setting."""
    done = run(
        "eval", shared / "coco-dev", "--part", "test", "--classes-map", "coco", "--out", "out",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    ap50 = {name: row["AP50"] for name, row in results["prompt_variants"].items()}
    names = results["prompt_variants"]["names"]
    assert ap50["names"] >= results["detector_alone"]["AP50"] - 0.005
    assert ap50["synonyms"] >= 0.85 * ap50["names"]
    assert ap50["more synonyms"] >= 0.85 * ap50["names"]
    assert ap50["+1,000 distractors"] >= 0.75 * ap50["names"]
    assert max(results["fp_per_image"].values()) <= 0.10
    assert names["F1"] >= 0.9 * names["best_F1"]
    assert max(names["ECE"], names["ECE_above_threshold"]) <= 0.08


@pytest.mark.slow
def test_calibrate_writes_a_preset_of_its_own(shared, assets, tmp_path):
    before = {
        file: file.read_bytes() for file in package_data("configs").rglob("*") if file.is_file()
    }
    detuned = (package_data("configs") / "starter.toml").read_text()
    (tmp_path / "starter.toml").write_text(detuned + "\n[scoring]\nfusion_exponent = 1.0\n")
    arguments = ("calibrate", shared / "coco-dev", "--limit", 50, "--out", "out")
    done = run(*arguments, "-p", "starter.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(file.read_bytes() == content for file, content in before.items())
    text = (tmp_path / "out/starter.toml").read_text()
    assert "# held-out images, fitted: AP50" in text
    done = run(
        "detect",
        assets / "bus.jpg",
        "-c",
        "bus",
        "-p",
        "out/starter.toml",
        "--json",
        "-",
        cwd=tmp_path,
    )
    (image,) = json.loads(done.stdout)["images"]
    assert image["detections"][0]["class_name"] == "bus"
    shutil.copy(tmp_path / "out/starter.toml", tmp_path / "mine.toml")
    again = run(*arguments, "-p", "mine.toml", "--in-place", cwd=tmp_path)
    written = (tmp_path / "mine.toml").read_text() != text  # fitted again, from the first fit
    assert again.returncode == (0 if written else 1)
    assert written or "no better on held-out images" in again.stderr


def test_calibrate_makes_prototypes_from_unlabelled_photos(assets, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(assets, photos, ignore=lambda _, names: {n for n in names if n[-3:] != "jpg"})
    (photos / "broken.jpg").write_bytes(b"no image")
    bundled = (package_data("configs") / "starter.toml").read_text()
    bare = "".join(line for line in bundled.splitlines(keepends=True) if "prototypes" not in line)
    (tmp_path / "bare.toml").write_text(bare)
    done = run("calibrate", "--unlabelled", photos, "-p", "bare.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of 80 labels have a prototype, from 2 of 3 photos" in done.stdout
    assert "broken.jpg is not a whole image" in done.stderr
    home = tmp_path / "runs/photos-bare"
    assert sorted(path.name for path in home.iterdir()) == ["bare.toml", "prototypes.npz"]
    assert Preset.from_file(home / "bare.toml").models.prototypes == str(home / "prototypes.npz")
    assert "person" in ImagePrototypes.load(home / "prototypes.npz").labels
    # With prototypes that cannot be used, too: they are what is to be made anew.
    (home / "prototypes.npz").write_bytes(b"damaged")
    arguments = "calibrate", "--unlabelled", photos / "*.jpg", "-p", home / "bare.toml"
    again = run(*arguments, "--in-place", "--limit", 3, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    detector = OpenVocabDetector.from_preset(home / "bare.toml", device="cpu")
    assert "person" in detector.prototypes.labels
    assert (home / "bare-prototypes.npz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "calibrate has no images; give a DATASET or --unlabelled PHOTOS."),
        (
            ("street.json", "--unlabelled", ".", "--part", "test"),
            "--unlabelled makes no use of DATASET and --part; leave that out, or --unlabelled.",
        ),
        (("--unlabelled", "nowhere"), "give an image file, a folder or a glob of them."),
    ],
)
def test_calibrate_takes_labelled_images_or_unlabelled_ones(tmp_path, arguments, message):
    done = run("calibrate", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(message + "\n") and done.stderr.count("\n") == 1
