"""The command line, as it is typed: what it prints, writes and returns."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import PIL.Image
import pytest

from openvocab import OpenVocabDetector, cli, weights
from openvocab.io import _images as images


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `openvocab ...` in this process; gives exit code, standard output and error."""

    def call(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["openvocab", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return call


@pytest.fixture
def folder(tmp_path: Path, assets: Path) -> Path:
    """Two photos and a broken one."""
    inside = tmp_path / "photos"
    inside.mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        shutil.copy(assets / name, inside)
    (inside / "broken.jpg").write_bytes((assets / "bus.jpg").read_bytes()[:5000])
    return inside


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("detect -c bus", "Missing argument 'sources'; see `openvocab detect --help`."),
        ("detect x.jpg -c bus --thr 1", "--threshold); see `openvocab detect --help`."),
        ("detekt x.jpg", "Did you mean 'detect'; see `openvocab --help`."),
        (
            "stream 0 -c bus --frame-stride none",
            "parse string as an integer; see `openvocab stream --help`.",
        ),
        ("weights", "Missing command; see `openvocab weights --help`."),
    ],
)
def test_a_usage_error_is_one_line_that_points_to_help(run, typed, message):
    code, text, error = run(*typed.split())
    assert (code, text) == (2, "")
    assert error.startswith("error: ") and error.endswith(message + "\n")
    assert error.count("\n") == 1


def test_openvocab_alone_lists_the_commands(run):
    code, text, error = run()
    assert (code, error) == (0, "")
    assert all(name in text for name in ("detect", "stream", "serve", "weights"))


def test_an_image_gives_a_table_an_annotated_image_and_json(run, tmp_path, assets):
    out, report = tmp_path / "out", tmp_path / "deep" / "report.json"
    code, text, error = run(
        "detect", assets / "bus.jpg", "-c", "bus, person", "--save", out, "--json", report
    )
    assert (code, error) == (0, "")
    assert "bus" in text and "person" in text
    with PIL.Image.open(out / "bus.jpg") as drawn:
        assert drawn.size == (810, 1080)
    (image,) = json.loads(report.read_text())["images"]
    assert [image["width"], image["height"]] == [810, 1080]
    best = image["detections"][0]
    assert best["class_name"] in {"bus", "person"}
    assert best["class_id"] == ["bus", "person"].index(best["class_name"])
    assert len(best["xyxy"]) == 4
    assert {
        "confidence",
        "objectness",
        "similarity",
        "posterior",
        "margin",
        "proposal_label",
    } < set(best)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "bus.jpg",
        "report.json",
    ]


def test_a_broken_file_in_a_folder_is_reported_and_the_rest_is_done(run, tmp_path, folder):
    code, text, error = run(
        "detect", folder, "-c", "bus,tie", "--save", tmp_path / "out", "--json", "-"
    )
    assert code == 1
    assert "broken.jpg" in error
    report = json.loads(text)
    assert [Path(image["image"]).name for image in report["images"]] == [
        "broken.jpg", "bus.jpg", "zidane.jpg"
    ]  # fmt: skip
    assert "error" in report["images"][0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bus.jpg", "zidane.jpg"]


def test_a_photo_on_standard_input(run, assets):
    photo = (assets / "bus.jpg").read_bytes()
    code, text, _ = run("detect", "-", "-c", "bus", "--json", "-", stdin=photo)
    assert code == 0
    assert json.loads(text)["images"][0]["detections"][0]["class_name"] == "bus"


def test_tiles_find_people_too_small_for_the_whole_image(run, tmp_path, assets):
    with PIL.Image.open(assets / "bus.jpg") as photo:
        square = PIL.Image.new("RGB", (2000, 2000), "grey")
        square.paste(photo.resize((135, 180)), (800, 500))
    square.save(tmp_path / "far.png")

    def people(*options: object) -> int:
        code, text, _ = run(
            "detect", tmp_path / "far.png", "-c", "bus, person", "--json", "-", *options
        )
        assert code == 0
        (image,) = json.loads(text)["images"]
        return sum(row["class_name"] == "person" for row in image["detections"])

    assert people("--imgsz", 320) == 0
    assert people("--tile", 416) >= 3


def test_classes_from_a_file_negatives_and_a_threshold(run, tmp_path, assets):
    (tmp_path / "classes.txt").write_text("# on the street\nbus\n\nperson\n")
    code, text, _ = run(
        "detect", assets / "bus.jpg", "-c", tmp_path / "classes.txt", "--json", "-",
        "--negatives", "van, tram", "--threshold", 0.9,
    )  # fmt: skip
    report = json.loads(text)
    assert code == 0
    assert report["classes"] == ["bus", "person"]
    scores = [row["confidence"] for row in report["images"][0]["detections"]]
    assert len(scores) >= 1
    assert min(scores) >= 0.9


def test_two_files_of_one_name_are_both_saved_and_many_images_are_summed_up(run, tmp_path, assets):
    for index in range(21):
        inner = tmp_path / f"{index:02}"
        inner.mkdir()
        shutil.copy(assets / "bus.jpg", inner)
    shutil.copy(assets / "bus.jpg", tmp_path / "00" / "bus-2.jpg")
    code, text, _ = run(
        "detect", tmp_path / "*" / "bus*.jpg", "-c", "bus", "--save", tmp_path / "o"
    )
    assert code == 0
    assert len(list((tmp_path / "o").iterdir())) == 22
    assert ["bus", "22", "22"] in [line.split() for line in text.splitlines()]


def bad_images(folder: Path, assets: Path) -> dict[str, Path]:
    files = {
        "empty.jpg": b"",
        "text.jpg": b"I am a letter",
        "half.jpg": (assets / "bus.jpg").read_bytes()[:9000],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "nothing here").mkdir()
    (folder / "letters").mkdir()
    (folder / "letters" / "a.txt").write_text("not an image")
    names = [*files, "nothing here", "letters", "missing.jpg", "*.bmp"]
    return {name: folder / name for name in names}


@pytest.mark.parametrize(
    "name",
    [
        "empty.jpg",
        "text.jpg",
        "half.jpg",
        "nothing here",
        "letters",
        "missing.jpg",
        "*.bmp",
    ],
)
def test_a_source_that_is_not_an_image_is_one_line_and_code_2(run, tmp_path, assets, name):
    source = bad_images(tmp_path, assets)[name]
    report = tmp_path / "report.json"
    code, text, error = run(
        "detect", source, "-c", "bus", "--json", report, "--save", tmp_path / "out"
    )
    assert code == 2
    assert text == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not report.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", ""], "classes is empty"),
        ([], "give --classes or --example"),
        (["--example", "crop.png"], '"NAME=FILE"'),
        (["--example", "a=absent.png"], "absent.png cannot be opened"),
        (["--example", "a=absent.png#1,2,3"], "absent.png#1,2,3 cannot be opened"),
        (["--example", "a=b.png#9,2,3,4"], "x1 < x2"),
        (["-c", "bus, Bus"], "the same"),
        (["-c", "bus", "-p", "startr"], "did you mean 'starter'"),
        (["-c", "bus", "-p", "missing.toml"], "missing.toml"),
        (["-c", "bus", "--threshold", "7"], "from 0 to 1"),
        (["-c", "missing.txt"], "missing.txt"),
        (["-c", "bus", "--device", "toaster"], "toaster"),
        (["-c", "bus", "--json", "/dev/null/report.json"], "report.json"),
        (["-c", "bus", "--show"], "--save DIR"),
    ],
)
def test_a_wrong_option_is_one_line_and_code_2(run, monkeypatch, assets, options, message):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, _, error = run("detect", assets / "bus.jpg", *options)
    assert code == 2
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_source_is_never_overwritten(run, folder):
    before = (folder / "bus.jpg").read_bytes()
    code, _, error = run("detect", folder / "bus.jpg", "-c", "bus", "--save", folder)
    assert code == 2
    assert "save to another folder" in error
    assert (folder / "bus.jpg").read_bytes() == before


def test_a_file_name_of_odd_bytes_is_escaped_in_table_and_json(run, tmp_path, assets):
    name = os.fsencode(tmp_path) + b"/\xff\n\x1b[31m.jpg"
    shutil.copy(assets / "bus.jpg", os.fsdecode(name))
    code, text, _ = run("detect", tmp_path, "-c", "bus", "--json", tmp_path / "report.json")
    assert code == 0
    assert "\x1b" not in text
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert os.fsencode(report["images"][0]["image"]) == name


def test_ctrl_c_keeps_the_results_so_far(run, tmp_path, folder, monkeypatch):
    load_image = images.load_image

    def interrupted(image, **options):
        if str(image).endswith("zidane.jpg"):
            raise KeyboardInterrupt
        return load_image(image, **options)

    monkeypatch.setattr(images, "load_image", interrupted)
    code, text, error = run("detect", folder, "-c", "bus", "--json", "-")
    assert code == 130
    assert "interrupted after 2 of 3 images" in error
    assert len(json.loads(text)["images"]) == 2


def test_a_preset_with_an_unknown_key_is_refused(run, tmp_path, assets):
    preset = tmp_path / "mine.toml"
    preset.write_text('[models]\ndetector = "a"\nencoder = "b"\n[scoring]\nscore_treshold = 0.5\n')
    code, _, error = run("detect", assets / "bus.jpg", "-c", "bus", "-p", preset)
    assert code == 2
    assert "did you mean 'score_threshold'" in error


def test_classes_of_a_file_have_synonyms_and_example_images(run, tmp_path, assets):
    street = cv2.imread(str(assets / "bus.jpg"))
    cv2.imwrite(str(tmp_path / "man.png"), street[400:900, 50:210])
    file = tmp_path / "mine.toml"
    file.write_text(
        'shuttle = ["coach", "bus"]\nguest = { image = "man.png" }\n"no such" = "zebra"\n'
    )
    code, text, _ = run("detect", str(assets / "bus.jpg"), "-c", str(file), "--json", "-")
    assert code == 0
    report = json.loads(text)
    assert report["classes"] == ["shuttle", "guest", "no such"]
    names = [row["class_name"] for row in report["images"][0]["detections"]]
    assert set(names) == {"guest", "shuttle"} and names.count("shuttle") == 1
    file.write_text("x = [3]\n")
    code, _, error = run("detect", str(assets / "bus.jpg"), "-c", str(file))
    assert (code, "as parts of a class" in error) == (2, True)
    for absent in ("absent.toml", "absent.npz", str(assets / "bus.jpg")):
        assert run("detect", str(assets / "bus.jpg"), "-c", absent)[0] == 2
    OpenVocabDetector.from_preset().vocabulary(["bus"]).save(tmp_path / "kept.npz")
    code, text, _ = run("detect", str(assets / "bus.jpg"), "-c", str(tmp_path / "kept.npz"))
    assert (code, "bus" in text) == (0, True)


def test_example_images_and_boxes_of_pictures_are_classes(run, tmp_path, assets):
    bus, box = assets / "bus.jpg", "0,232,792,775"
    shutil.copy(bus, tmp_path / "a#1,2,3,4")  # a file may be named like a box
    code, text, _ = run(
        "detect", bus, "-c", "Man, dog", "--example", f"ours={bus}#{box}", "--example",
        f"man={bus}#49,395,212,900", "--example", f"all={tmp_path / 'a#1,2,3,4'}", "--json", "-",
    )  # fmt: skip
    assert code == 0
    report = json.loads(text)
    assert report["classes"] == ["Man", "dog", "ours", "all"]
    rows = report["images"][0]["detections"]
    assert sorted(row["class_name"] for row in rows) == ["Man"] * 4 + ["ours"]
    (ours,) = (row for row in rows if row["class_name"] == "ours")
    assert ours["similarity"] > 0.99  # the box is encoded as the detector's own box
    OpenVocabDetector.from_preset().vocabulary(["bus"]).save(tmp_path / "kept.npz")
    code, _, error = run("detect", bus, "-c", tmp_path / "kept.npz", "--example", f"a={bus}")
    assert (code, "leave --example out" in error) == (2, True)


def test_a_picture_may_be_a_negative(run, assets):
    bus = assets / "bus.jpg"
    code, text, _ = run(
        "detect", bus, "-c", "pedestrian", "--negative-example", f"{bus}#49,395,212,900",
        "--explain", "--json", "-",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(text)["images"][0]["detections"]
    assert all(row["xyxy"][0] > 212 for row in rows)  # not the person of the negative
    competitors = [part["name"] for part in rows[0]["contributions"]]
    assert "bus.jpg#49,395,212,900" in competitors


def test_what_came_closest_is_printed_and_in_json(run, assets):
    code, text, _ = run("detect", assets / "bus.jpg", "-c", "bus, giraffe")
    assert code == 0
    (line,) = (line for line in text.splitlines() if line.startswith("giraffe"))
    assert line.startswith("giraffe: nothing above 0.30; closest 0.")
    photos = [assets / "bus.jpg", assets / "zidane.jpg"]
    _, text, _ = run("detect", *photos, "-c", "bus, man")
    assert "zidane.jpg: bus: nothing above 0.30; closest" in text
    many = ", ".join(f"giraffe {number}" for number in range(11))
    _, text, _ = run("detect", *photos, "-c", many)
    assert "closest" not in text
    code, text, _ = run("detect", *photos, "-c", f"{many}, man", "--json", "-")
    near = json.loads(text)["images"][1]["near_misses"]
    assert len(near) == 10
    assert {"class_name", "score", "threshold", "xyxy", "box_class"} < set(near[0])
    assert near[0]["score"] >= near[-1]["score"]


def test_explain_says_why_a_box_has_its_class(run, assets):
    photo = assets / "bus.jpg"
    code, text, _ = run("detect", photo, "-c", "bus, giraffe", "--explain")
    assert code == 0
    why = text[text.index("bus: 0.") :].splitlines()
    assert why[1].endswith("detector label bus")
    assert why[2].startswith("  classes: bus 1.00, giraffe 0.0")
    assert why[3].startswith("  against bus: ")
    (near,) = (line for line in why if line.startswith("giraffe: nothing"))
    assert why[why.index(near) + 2].startswith("  classes: ")
    _, text, _ = run(
        "detect", photo, "-c", "bus", "--negatives", "tram, taxi", "--explain", "--json", "-"
    )
    (row, *_) = json.loads(text)["images"][0]["detections"]
    assert row["contributions"][0]["name"] == "bus"
    names = [part["name"] for part in row["contributions"] if part["kind"] == "negative"]
    assert sorted(names) == ["taxi", "tram"]


def test_weights_are_listed_verified_and_found(run):
    code, text, _ = run("weights", "list")
    assert code == 0
    assert all(name in text for name in weights.manifest())
    code, text, _ = run("weights", "verify")
    assert code == 0
    assert "starter-encoder: whole" in text
    code, text, _ = run("weights", "path", "starter-detector")
    assert Path(text.strip()).is_file()
    code, text, _ = run("weights", "path", "starter")
    assert [Path(line).exists() for line in text.split()] == [True, True]


@pytest.mark.parametrize("command", ["verify", "path", "pull"])
def test_unknown_weights_are_one_line_and_code_2(run, command):
    code, _, error = run("weights", command, "startr-encoder")
    assert code == 2
    assert "did you mean 'starter-encoder'" in error


def test_doctor_says_what_is_missing_and_what_to_do(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENVOCAB_WEIGHTS", str(tmp_path))
    code, text, _ = run("doctor")
    assert code == 0
    assert "preset starter" in text and "ready" in text
    assert "run `openvocab weights pull balanced`" in text


def test_version_and_help(run):
    assert run("--version")[:2] == (0, "0.1.0\n")
    code, text, _ = run("detect", "--help")
    assert code == 0
    assert "--classes" in text


def test_the_module_is_the_command(assets):
    done = subprocess.run(
        [sys.executable, "-m", "openvocab", "detect", "nope.jpg", "-c", "bus"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nope.jpg")
    assert "Traceback" not in done.stderr


def test_pulling_a_preset_offline_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("OPENVOCAB_WEIGHTS", str(tmp_path))
    code, text, error = run("weights", "pull", "balanced")
    assert code == 2
    assert "AGPL-3.0" in text  # the licence is printed before anything is downloaded
    assert "check the network" in error.splitlines()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(find_spec("gradio") is None, reason="the demo needs gradio")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--auth", "anna"], "user:password"), (["--port", "PORT"], "is in use")],
)
def test_a_demo_that_cannot_start_says_why(arguments, message):
    command = [sys.executable, "-m", "openvocab", "demo"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command += [port if argument == "PORT" else argument for argument in arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("detect", "{photo}", "-c", "bus", "--labels", "out"), "give --format, too."),
        (
            ("detect", "{photo}", "-c", "bus", "--preset", "yolo.pt"),
            "detector = 'yolo.pt' under [models].",
        ),
        (("stream", "no.mp4", "-c", "bus"), "There is no no.mp4; check the path."),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(run, assets, arguments, message):
    photo = str(assets / "bus.jpg")
    code, _, err = run(*(argument.format(photo=photo) for argument in arguments))
    assert code == 2
    assert err.strip().endswith(message)


def test_explain_word_says_what_the_starter_makes_of_a_word(run, tmp_path):
    report = tmp_path / "coach.json"
    code, text, error = run("explain-word", "coach", "--json", report)
    assert (code, error) == (0, "")
    assert text.startswith("coach means bus.n.01 0.44, ")
    assert "base class" in text and "not at all: bus\n" in text
    record = json.loads(report.read_text())
    assert (record["preset"], record["class"], record["labels"]) == ("starter", "base", 80)
    assert record["related"][0]["label"] == record["likely_labels"][0]["label"] == "bus"
    code, text, error = run("explain-word", "raccoon", "--json", "-")
    assert (code, error) == (0, "")
    record = json.loads(text)
    assert (record["class"], record["covered"], record["prior_odds"]) == ("novel", 0, 20)
    assert {"dog", "bear", "cat"} <= {row["label"] for row in record["related"]}
    code, text, error = run("explain-word", "  ")
    assert (code, text) == (2, "") and error.startswith("error: ")
