"""Every example runs as a user would run it, outside the checkout, and prints correct results."""

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
PUBLIC = re.compile(r"openvocab|openvocab\.(stream|io|plugins\.\w+)")
# Also reports a library that hides its failed connection.
NO_NETWORK = """
import os, sys
LOOPBACK = (None, "127.0.0.1", "::1", "localhost")
def watch(event, arguments):
    host = None
    if event == "socket.getaddrinfo":
        host = arguments[0]
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if host not in LOOPBACK:
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError("the tests have no network")
sys.addaudithook(watch)
"""


class Workspace:
    """A folder with photos and a video, where examples run."""

    def __init__(self, folder: Path, assets: Path) -> None:
        self.folder = folder
        (folder / "photos").mkdir()
        for name in ("bus.jpg", "zidane.jpg"):
            shutil.copy(assets / name, folder / "photos" / name)
        self.bus = cv2.imread(str(assets / "bus.jpg"))
        pan(assets / "bus.jpg", folder / "street.mp4", 24, (600, 600))
        (folder / "no_network").mkdir()
        (folder / "no_network/sitecustomize.py").write_text(NO_NETWORK)
        # Ultralytics downloads a font before it trains, unless its folder has one.
        (folder / "Ultralytics").mkdir()
        font = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
        shutil.copy(font, folder / "Ultralytics/Arial.ttf")
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                [str(folder / "no_network"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "PYTHONUNBUFFERED": "1",
            "CONNECTIONS": str(folder / "connections"),
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "true",
        }

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """An example while it runs; it must exit without an error."""
        command = [sys.executable, str(EXAMPLES / str(arguments[0])), *map(str, arguments[1:])]
        pipe = subprocess.PIPE
        with (
            (self.folder / "errors").open("w+", encoding="utf-8") as errors,
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, encoding="utf-8",
                stdin=pipe, stdout=pipe, stderr=errors,
            ) as process,
        ):  # fmt: skip
            timeout = threading.Timer(300, process.kill)
            timeout.start()
            try:
                yield process
                process.stdin.close()
                code = process.wait()
            finally:
                process.kill()
                timeout.cancel()
            errors.seek(0)
            assert code == 0, errors.read()[-3000:]

    def run(self, *arguments: object) -> str:
        """What an example prints."""
        with self.started(*arguments) as process:
            return process.stdout.read()

    def read_image(self, name: str) -> np.ndarray:
        image = cv2.imread(str(self.folder / name))
        assert image is not None, f"{name} is not an image"
        return image

    def count_frames(self, name: str) -> int:
        video, count = cv2.VideoCapture(str(self.folder / name)), 0
        while video.read()[0]:
            count += 1
        return count


def image(workspace: Workspace) -> None:
    output = workspace.run("image.py", "photos/bus.jpg")
    assert len(re.findall(r"^bus 0\.\d\d, at \[", output, re.MULTILINE)) == 1
    assert len(re.findall(r"^pedestrian 0\.\d\d, at \[", output, re.MULTILINE)) >= 3
    assert "the detector calls it 'person'" in output
    labelled = workspace.read_image("labelled.jpg")
    assert labelled.shape == workspace.bus.shape
    assert np.abs(labelled.astype(int) - workspace.bus).mean() > 1


def many_images(workspace: Workspace) -> None:
    output = workspace.run("many_images.py", "photos")
    assert re.search(r"^bus\.jpg: .*\b1 bus\b", output, re.MULTILINE)
    assert re.search(r"^zidane\.jpg: 2 pedestrian$", output, re.MULTILINE)
    assert openvocab.Vocabulary.load(workspace.folder / "classes.npz").names == (
        "bus",
        "pedestrian",
    )


def image_prompts(workspace: Workspace) -> None:
    """The image shows a man and the word is "bus": either finds what it means."""
    cv2.imwrite(str(workspace.folder / "guest.png"), workspace.bus[400:900, 50:210])
    words = ("--name", "guest", "--words", "bus", "--examples", "guest.png")
    output = workspace.run("image_prompts.py", "photos/bus.jpg", *words)
    assert "'guest' by words: 1 found" in output
    assert "'guest' by examples: 4 found" in output
    assert "'guest' by both: 5 found" in output


def explain(workspace: Workspace) -> None:
    output = workspace.run("explain.py", "photos/bus.jpg")
    first, *others = re.split(r"^classes .*:\n", output, flags=re.MULTILINE)[1:]
    assert first.count("  bus") == 1
    assert first.count("  person") >= 3
    assert [part.count("against") for part in others] == [first.count("against")] * 2
    assert "(detector)" in output


def slicing(workspace: Workspace) -> None:
    """The same two men 36 times, too small to be detected in the whole image."""
    small = cv2.resize(
        workspace.read_image("photos/zidane.jpg"), (320, 180), interpolation=cv2.INTER_AREA
    )
    cv2.imwrite(str(workspace.folder / "crowd.png"), np.tile(small, (6, 6, 1)))
    output = workspace.run("slicing.py", "crowd.png")
    whole, sliced = map(int, re.findall(r"\d+", output))
    assert whole < 36 < 60 <= sliced
    assert workspace.read_image("sliced.jpg").shape == (1080, 1920, 3)


def video(workspace: Workspace) -> None:
    output = workspace.run("video.py", "street.mp4")
    assert len(re.findall(r"^track \d+: person$", output, re.MULTILINE)) >= 3
    assert len(re.findall(r"^track \d+: bus$", output, re.MULTILINE)) == 1
    assert workspace.count_frames("tracked.mp4") == 24
    with (workspace.folder / "tracked.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class_name"] for row in rows} == {"bus", "person"}
    assert len({row["frame"] for row in rows}) > 15


def camera(workspace: Workspace) -> None:
    output = workspace.run("camera.py", "street.mp4")
    assert output.count("appeared: street.mp4") >= 3
    assert output.count("left: street.mp4") == output.count("appeared: street.mp4")
    server = CameraServer()
    try:
        with workspace.started("camera.py", server.url, "--seconds", 12) as process:
            assert "watching" in process.stdout.readline()
            server.kill()
            assert "source lost" in process.stdout.readline()
            server.start()
            assert "source back" in process.stdout.readline()
    finally:
        server.kill()


def count_in_zones(workspace: Workspace) -> None:
    output = workspace.run("count_in_zones.py", "street.mp4")
    counts = {
        event: int(count) for event, count in re.findall(r"^(.+): (\d+)$", output, re.MULTILINE)
    }
    assert counts["person entered zone left half"] >= 2
    assert workspace.count_frames("counted.mp4") == 24


def live_classes(workspace: Workspace) -> None:
    with workspace.started("live_classes.py", "street.mp4") as process:
        output = queue.Queue[str]()
        threading.Thread(target=lambda: [*map(output.put, process.stdout)], daemon=True).start()

        def wait_for(line: str) -> None:
            while output.get(timeout=60).strip() != line:
                pass

        wait_for("detected: person")
        print("bus", file=process.stdin, flush=True)
        wait_for("detected: bus")
        print("bus,,", file=process.stdin, flush=True)
        wait_for("classes has an empty string; remove it.")
        print("human, a b c", file=process.stdin, flush=True)
        wait_for("detected: human")


def ultralytics_plugin(workspace: Workspace) -> None:
    shutil.copy(resolve("starter-detector"), workspace.folder / "yolo.onnx")
    output = workspace.run("ultralytics_plugin.py", "yolo.onnx", "street.mp4")
    assert len(re.findall(r"^track \d+: pedestrian$", output, re.MULTILINE)) >= 2
    assert len(re.findall(r"^track \d+: bus$", output, re.MULTILINE)) == 1
    assert re.search(r"^without it: .*\bperson\b", output, re.MULTILINE)


def label_and_train(workspace: Workspace) -> None:
    output = workspace.run("label_and_train.py", "photos")
    boxes = int(re.search(r"^(\d+) boxes", output, re.MULTILINE)[1])
    labels = [
        path.read_text().splitlines() for path in (workspace.folder / "labelled/labels").iterdir()
    ]
    assert sum(map(len, labels)) == boxes >= 5
    assert {line.split()[0] for lines in labels for line in lines} == {"0", "1"}
    (last,) = (workspace.folder / "trained").rglob("last.pt")
    assert str(last) in output


def ask_server(workspace: Workspace) -> None:
    with serving("--token", "secret", "--no-demo") as (client, _):
        command = ("ask_server.py", "photos/bus.jpg", "--url", client.base_url)
        output = workspace.run(*command, "--token", "secret")
        with pytest.raises(AssertionError, match="401: Send the token"):
            workspace.run(*command)
    assert len(re.findall(r"^bus 0\.\d+ at \[", output, re.MULTILINE)) == 1
    assert len(re.findall(r"^pedestrian 0\.\d+ at \[", output, re.MULTILINE)) >= 3


def ray_data(workspace: Workspace) -> None:
    del workspace.environment["PYTHONPATH"]  # Ray's processes connect to the machine's own address
    output = workspace.run("ray_data.py", "photos")
    assert re.search(r"^bus\.jpg: bus", output, re.MULTILINE)
    assert re.search(r"^zidane\.jpg: person, person", output, re.MULTILINE)
    assert list((workspace.folder / "detections").glob("*.parquet"))


def ray_serve(workspace: Workspace) -> None:
    del workspace.environment["PYTHONPATH"]
    port = free_port()
    with workspace.started(
        "ray_serve.py", "--replicas", "2", "--cores", "0.5", "--port", port
    ) as process:
        while "serving at" not in process.stdout.readline():
            assert process.poll() is None
        file = {"image": (workspace.folder / "photos/bus.jpg").read_bytes()}
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/detect/file",
            data={"classes": "bus"},
            files=file,
            timeout=60,
        )
        assert [row["class_name"] for row in response.json()["detections"]] == ["bus"]
        process.send_signal(signal.SIGTERM)


CHECKS: dict[str, Callable[[Workspace], None]] = {
    f"{check.__name__}.py": check
    for check in (
        image, many_images, image_prompts, explain, slicing, video, camera, count_in_zones,
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
def test_an_example_prints_what_it_should(name, tmp_path, assets):
    assert name in CHECKS, "no test runs this example; add one to CHECKS"
    workspace = Workspace(tmp_path, assets)
    CHECKS[name](workspace)
    connections = tmp_path / "connections"
    assert not connections.exists(), connections.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert 15 <= len(text.splitlines()) <= 40
    assert docstring.splitlines()[0].endswith(".")
    assert f"python examples/{path.name} " in docstring


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_uses_public_names_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "openvocab":
            assert PUBLIC.fullmatch(node.module)
            module = __import__(node.module, fromlist=["__all__"])
            assert {alias.name for alias in node.names} <= set(module.__all__)


def test_the_readme_lists_every_example():
    listed = re.findall(
        r"^\| \[(\w+\.py)\]\(\1\)", (EXAMPLES / "README.md").read_text("utf-8"), re.M
    )
    assert sorted(listed) == [path.name for path in FILES]
