"""Every example runs as a user would run it, away from the checkout, and says what is true."""

import ast
import csv
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import cv2
import httpx
import matplotlib as mpl
import numpy as np
import pytest
from servers import serving
from videos import CameraServer, free_port, pan

import openvocab
from openvocab.weights import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
PUBLIC = re.compile(r"openvocab|openvocab\.(stream|labels|plugins\.\w+)")
# Whatever library reaches out, and whether or not it hides that it failed.
CLOSED = """
import os, sys
HERE = (None, "127.0.0.1", "::1", "localhost")
def watch(event, arguments):
    host = None
    if event == "socket.getaddrinfo":
        host = arguments[0]
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if host not in HERE:
        with open(os.environ["REACHED_OUT"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError("the tests have no network")
sys.addaudithook(watch)
"""


class Place:
    """A folder with photos and a film, where examples run."""

    def __init__(self, folder: Path, assets: Path) -> None:
        self.folder = folder
        (folder / "photos").mkdir()
        for name in ("bus.jpg", "zidane.jpg"):
            shutil.copy(assets / name, folder / "photos" / name)
        self.bus = cv2.imread(str(assets / "bus.jpg"))
        pan(assets / "bus.jpg", folder / "street.mp4", 24, (600, 600))
        (folder / "closed").mkdir()
        (folder / "closed/sitecustomize.py").write_text(CLOSED)
        # Ultralytics downloads a font before it trains, unless its folder has one.
        (folder / "Ultralytics").mkdir()
        font = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
        shutil.copy(font, folder / "Ultralytics/Arial.ttf")
        self.environment = os.environ | {
            "PYTHONPATH": str(folder / "closed"),
            "PYTHONUNBUFFERED": "1",
            "REACHED_OUT": str(folder / "reached"),
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "true",
        }

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """An example that is talked to while it runs; it must end well."""
        command = [sys.executable, str(EXAMPLES / str(arguments[0])), *map(str, arguments[1:])]
        pipe = subprocess.PIPE
        with (
            (self.folder / "errors").open("w+") as errors,
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, text=True,
                stdin=pipe, stdout=pipe, stderr=errors,
            ) as process,
        ):  # fmt: skip
            end = threading.Timer(300, process.kill)
            end.start()
            try:
                yield process
                process.stdin.close()
                code = process.wait()
            finally:
                process.kill()
                end.cancel()
            errors.seek(0)
            assert code == 0, errors.read()[-3000:]

    def run(self, *arguments: object) -> str:
        """What an example prints."""
        with self.started(*arguments) as process:
            return process.stdout.read()

    def picture(self, name: str) -> np.ndarray:
        found = cv2.imread(str(self.folder / name))
        assert found is not None, f"{name} is no picture"
        return found

    def frames(self, name: str) -> int:
        film, count = cv2.VideoCapture(str(self.folder / name)), 0
        while film.read()[0]:
            count += 1
        return count


def photo(place: Place) -> None:
    said = place.run("photo.py", "photos/bus.jpg")
    assert len(re.findall(r"^bus 0\.\d\d, at \[", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^pedestrian 0\.\d\d, at \[", said, re.MULTILINE)) >= 3
    assert "the detector calls it 'person'" in said
    labelled = place.picture("labelled.jpg")
    assert labelled.shape == place.bus.shape
    assert np.abs(labelled.astype(int) - place.bus).mean() > 1


def many_photos(place: Place) -> None:
    said = place.run("many_images.py", "photos")
    assert re.search(r"^bus\.jpg: .*\b1 bus\b", said, re.MULTILINE)
    assert re.search(r"^zidane\.jpg: 2 pedestrian$", said, re.MULTILINE)
    assert openvocab.Vocabulary.load(place.folder / "classes.npz").names == ("bus", "pedestrian")


def image_prompts(place: Place) -> None:
    """The picture shows a man, the word says bus: each finds its own."""
    cv2.imwrite(str(place.folder / "guest.png"), place.bus[400:900, 50:210])
    words = ("--name", "guest", "--words", "bus", "--pictures", "guest.png")
    said = place.run("image_prompts.py", "photos/bus.jpg", *words)
    assert "'guest' by words: 1 found" in said
    assert "'guest' by pictures: 3 found" in said
    assert "'guest' by both: 4 found" in said


def explain(place: Place) -> None:
    said = place.run("explain.py", "photos/bus.jpg")
    first, *others = re.split(r"^asked for .*:\n", said, flags=re.MULTILINE)[1:]
    assert first.count("  bus") == 1
    assert first.count("  person") >= 3
    assert [some.count("against") for some in others] == [first.count("against")] * 2
    assert "(detector)" in said


def slicing(place: Place) -> None:
    """Thirty-six times the same two men, too small to be seen at once."""
    small = cv2.resize(place.picture("photos/zidane.jpg"), (320, 180), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(place.folder / "crowd.png"), np.tile(small, (6, 6, 1)))
    said = place.run("slicing.py", "crowd.png")
    whole, pieces = map(int, re.findall(r"\d+", said))
    assert whole < 36 < 60 <= pieces
    assert place.picture("sliced.jpg").shape == (1080, 1920, 3)


def film(place: Place) -> None:
    said = place.run("film.py", "street.mp4")
    assert len(re.findall(r"^track \d+: person$", said, re.MULTILINE)) >= 3
    assert len(re.findall(r"^track \d+: bus$", said, re.MULTILINE)) == 1
    assert place.frames("found.mp4") == 24
    with (place.folder / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class_name"] for row in rows} == {"bus", "person"}
    assert len({row["frame"] for row in rows}) > 15


def camera(place: Place) -> None:
    said = place.run("camera.py", "street.mp4")
    assert said.count("appeared: street.mp4") >= 3
    assert said.count("left: street.mp4") == said.count("appeared: street.mp4")
    server = CameraServer()
    try:
        with place.started("camera.py", server.url, "--seconds", 12) as process:
            assert "watching" in process.stdout.readline()
            server.kill()
            assert "source lost" in process.stdout.readline()
            server.start()
            assert "source back" in process.stdout.readline()
    finally:
        server.kill()


def count_in_zones(place: Place) -> None:
    said = place.run("count_in_zones.py", "street.mp4")
    counts = {what: int(times) for what, times in re.findall(r"^(.+): (\d+)$", said, re.MULTILINE)}
    assert counts["person entered zone left half"] >= 2
    assert counts["bus crossed line middle"] == 1
    assert place.frames("counted.mp4") == 24


def live_classes(place: Place) -> None:
    with place.started("live_classes.py", "street.mp4") as process:
        said = queue.Queue[str]()
        threading.Thread(target=lambda: [*map(said.put, process.stdout)], daemon=True).start()

        def heard(line: str) -> None:
            while said.get(timeout=60).strip() != line:
                pass

        heard("seen: person")
        print("bus", file=process.stdin, flush=True)
        heard("seen: bus")
        print("bus,,", file=process.stdin, flush=True)
        heard("classes holds an empty string; remove it.")
        print("human, coach with wheels", file=process.stdin, flush=True)
        heard("seen: human")


def ultralytics_plugin(place: Place) -> None:
    shutil.copy(resolve("starter-detector"), place.folder / "yolo.onnx")
    said = place.run("ultralytics_plugin.py", "yolo.onnx", "street.mp4")
    assert len(re.findall(r"^track \d+: pedestrian$", said, re.MULTILINE)) >= 2
    assert len(re.findall(r"^track \d+: bus$", said, re.MULTILINE)) == 1
    assert re.search(r"^without it: .*\bperson\b", said, re.MULTILINE)


def label_and_train(place: Place) -> None:
    said = place.run("label_and_train.py", "photos")
    boxes = int(re.search(r"^(\d+) boxes", said, re.MULTILINE)[1])
    labels = [
        path.read_text().splitlines() for path in (place.folder / "labelled/labels").iterdir()
    ]
    assert sum(map(len, labels)) == boxes >= 5
    assert {line.split()[0] for lines in labels for line in lines} == {"0", "1"}
    (last,) = (place.folder / "trained").rglob("last.pt")
    assert str(last) in said


def ask_server(place: Place) -> None:
    with serving("--token", "secret", "--no-demo") as (client, _):
        asked = ("ask_server.py", "photos/bus.jpg", "--url", client.base_url)
        said = place.run(*asked, "--token", "secret")
        with pytest.raises(AssertionError, match="401: Give the token"):
            place.run(*asked)
    assert len(re.findall(r"^bus 0\.\d+ at \[", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^pedestrian 0\.\d+ at \[", said, re.MULTILINE)) >= 3


def ray_data(place: Place) -> None:
    del place.environment["PYTHONPATH"]  # its processes talk to each other by the machine's address
    said = place.run("ray_data.py", "photos")
    assert re.search(r"^bus\.jpg: bus", said, re.MULTILINE)
    assert re.search(r"^zidane\.jpg: person, person", said, re.MULTILINE)
    assert list((place.folder / "found").glob("*.parquet"))


def ray_serve(place: Place) -> None:
    del place.environment["PYTHONPATH"]
    port = free_port()
    with place.started(
        "ray_serve.py", "--replicas", "2", "--cores", "0.5", "--port", port
    ) as serving_:
        while "serving at" not in serving_.stdout.readline():
            assert serving_.poll() is None
        file = {"image": (place.folder / "photos/bus.jpg").read_bytes()}
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/detect/file",
            data={"classes": "bus"},
            files=file,
            timeout=60,
        )
        assert [row["class_name"] for row in answer.json()["detections"]] == ["bus"]
        serving_.send_signal(signal.SIGTERM)


CHECKS: dict[str, Callable[[Place], None]] = {
    f"{check.__name__}.py": check
    for check in (
        photo, many_photos, image_prompts, explain, slicing, film, camera, count_in_zones,
        live_classes, ultralytics_plugin, label_and_train, ask_server, ray_data, ray_serve,
    )
}  # fmt: skip
RAY = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]
MARKS = {"ray_data.py": RAY, "ray_serve.py": RAY}


@pytest.mark.parametrize(
    "name", [pytest.param(path.name, marks=MARKS.get(path.name, ())) for path in FILES]
)
def test_it_does_what_it_says(name, tmp_path, assets):
    assert name in CHECKS, "an example that nobody runs; add it to CHECKS"
    place = Place(tmp_path, assets)
    CHECKS[name](place)
    reached = tmp_path / "reached"
    assert not reached.exists(), reached.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_short_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text))
    assert 15 <= len(text.splitlines()) <= 40
    assert said.splitlines()[0].endswith(".")
    assert f"python examples/{path.name} " in said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_uses_what_is_public(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "openvocab":
            assert PUBLIC.fullmatch(node.module)
            module = __import__(node.module, fromlist=["__all__"])
            assert {alias.name for alias in node.names} <= set(module.__all__)


def test_the_list_has_all_of_them():
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.M)
    assert sorted(listed) == [path.name for path in FILES]
