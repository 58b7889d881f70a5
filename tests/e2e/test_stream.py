"""The command on real films, in a process of its own, with the bundled weights."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from videos import CameraServer, pan

from openvocab.stream import VideoSources

COMMAND = [sys.executable, "-m", "openvocab", "stream"]


def run(*arguments, timeout=300):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def frames_of(path: Path) -> int:
    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(video=0))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def film(assets, tmp_path_factory):
    """People on a street who move through the picture."""
    return pan(assets / "bus.jpg", tmp_path_factory.mktemp("film") / "bus.mp4", 40, (600, 600))


def test_a_film_is_tracked_named_and_written(film, tmp_path):
    done = run(
        film, "--classes", "person, bus, dog", "--save", tmp_path / "out.mp4",
        "--jsonl", tmp_path / "out.jsonl", "--csv", tmp_path / "out.csv",
        "--events", tmp_path / "ev.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert frames_of(tmp_path / "out.mp4") == 40
    records = lines_of(tmp_path / "out.jsonl")
    assert [record["frame"] for record in records] == list(range(40))
    names = [row["class_name"] for record in records for row in record["detections"]]
    assert names.count("person") > 40
    assert "dog" not in names
    events = lines_of(tmp_path / "ev.jsonl")
    assert any(event["event"] == "appeared" for event in events)
    figures = events[-1]
    assert figures["event"] == "metrics"
    assert figures["frames"] == 40
    assert figures["reused"] > 0.5
    assert "40 frames" in done.stderr


def test_sigterm_ends_it_and_every_file_opens(assets, film, tmp_path):
    server = CameraServer(fps=20)
    try:
        process = subprocess.Popen(
            [*COMMAND, server.url, "--classes", "person", "--save", str(tmp_path / "out.mp4"),
             "--jsonl", str(tmp_path / "out.jsonl")],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (
            not (tmp_path / "out.jsonl").exists()
            or (tmp_path / "out.jsonl").read_bytes().count(b"\n") < 10
        ):
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        server.kill()
    assert process.returncode == 0, said
    assert "stopping" in said
    assert frames_of(tmp_path / "out.mp4") == len(lines_of(tmp_path / "out.jsonl")) >= 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.mp4"], "There is no absent.mp4"),
        (["63"], "no camera 63"),
        (["FILM", "--tracker", "magic"], "bytetrack"),
        (["FILM", "--zones", "absent.toml"], "absent.toml"),
        (["FILM", "--save", "FILM"], "the source itself"),
        (["FILM", "--jsonl", "/dev/full"], "/dev/full cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(film, arguments, said):
    done = run(
        "--classes", "person", *[str(film) if each == "FILM" else each for each in arguments]
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert said in errors[0]
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(place)],  # noqa: S607
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)  # noqa: S607


def test_a_disk_that_fills_up_ends_it_and_what_was_written_opens(film, small_disk, tmp_path):
    done = run(
        film, film, film, film, film, film, film, film, "--classes", "person",
        "--save", small_disk / "out.mp4", "--jsonl", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert "check the disk" in errors[0]
    films = [path for path in small_disk.glob("*.mp4") if path.stat().st_size > 20_000]
    assert films
    frames = {path.stat().st_size: len(list(VideoSources(path))) for path in films}
    assert min(frames.values()) >= 5, frames  # a fragment at least; their last second may be cut
    assert lines_of(tmp_path / "out.jsonl")


def test_an_image_size_that_the_detector_was_not_made_for_is_refused(film):
    done = run(film, "--classes", "person", "--imgsz", 640)
    assert done.returncode == 2
    assert "exported for 416 pixels" in done.stderr


def test_pictures_are_looked_at_each_on_its_own(assets, tmp_path):
    done = run(assets, "--classes", "bus", "--jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    names = [
        row["class_name"]
        for record in lines_of(tmp_path / "out.jsonl")
        for row in record["detections"]
    ]
    assert names == ["bus"]
