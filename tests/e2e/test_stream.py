"""The command on real videos, in a process of its own, with the bundled weights."""

import json
import shutil
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
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def video(assets, tmp_path_factory):
    """People on a street who move through the image."""
    return pan(assets / "bus.jpg", tmp_path_factory.mktemp("video") / "bus.mp4", 40, (600, 600))


def test_a_video_is_tracked_classified_and_written(video, tmp_path):
    done = run(
        video, "--classes", "person, bus, dog", "--save", tmp_path / "out.mp4",
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
    metrics = events[-1]
    assert metrics["event"] == "metrics"
    assert metrics["frames"] == 40
    assert metrics["reused"] > 0.5
    assert "40 frames" in done.stderr


def test_sigterm_ends_it_and_every_file_opens(tmp_path):
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
        _, stderr = process.communicate(timeout=30)
    finally:
        server.kill()
    assert process.returncode == 0, stderr
    assert "stopping; press Ctrl-C again to discard pending output" in stderr
    assert frames_of(tmp_path / "out.mp4") == len(lines_of(tmp_path / "out.jsonl")) >= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["VIDEO", "--example", "crop.png"], '"NAME=FILE"'),
        (["absent.mp4"], "There is no absent.mp4"),
        (["63"], "no camera 63"),
        (["VIDEO", "--tracker", "magic"], "bytetrack"),
        (["VIDEO", "--zones", "absent.toml"], "absent.toml"),
        (["VIDEO", "--save", "VIDEO"], "the source itself"),
        (["VIDEO", "--jsonl", "/dev/full"], "/dev/full cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(video, arguments, message):
    replaced = [str(video) if argument == "VIDEO" else argument for argument in arguments]
    done = run("--classes", "person", *replaced)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)],  # noqa: S607
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_full_disk_ends_it_and_what_was_written_opens(video, small_disk, tmp_path):
    done = run(
        *[video] * 8, "--classes", "person",
        "--save", small_disk / "out.mp4", "--jsonl", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert "check the disk" in errors[0]
    videos = [path for path in small_disk.glob("*.mp4") if path.stat().st_size > 20_000]
    assert videos
    frames = {path.stat().st_size: len(list(VideoSources(path))) for path in videos}
    assert min(frames.values()) >= 5, frames  # a fragment at least; their last second may be cut
    assert lines_of(tmp_path / "out.jsonl")


def test_a_larger_input_works(video, tmp_path):
    out = tmp_path / "out.jsonl"
    done = run(video, "--classes", "person", "--imgsz", 960, "--jsonl", out)
    assert done.returncode == 0, done.stderr
    assert lines_of(out)


def test_images_of_a_folder_are_independent(assets, tmp_path):
    done = run(assets, "--classes", "bus", "--jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    names = [
        row["class_name"]
        for record in lines_of(tmp_path / "out.jsonl")
        for row in record["detections"]
    ]
    assert names == ["bus"]
