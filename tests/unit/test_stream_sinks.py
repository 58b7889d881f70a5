"""Videos that play, up to a crash and past a new size; lines that are on the disk at once."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import supervision as sv

from openvocab.errors import ConfigError, SinkError
from openvocab.stream._events import Event
from openvocab.stream._sinks import CsvSink, EventLog, JsonLinesSink
from openvocab.stream._video_sinks import VideoSink, drawing, video_sinks
from openvocab.stream._zones import Zones
from openvocab.types import Frame, Sink


def frame(index=0, size=(64, 48), time_s=None, source="cam", fps=10.0):
    image = np.full((size[1], size[0], 3), 5 * index % 255, np.uint8)
    return Frame(index, index / 10 if time_s is None else time_s, image, source, fps=fps)


def cars(count=1):
    return sv.Detections(
        np.tile(np.array([[1, 2, 30, 40]], np.float32), (count, 1)),
        confidence=np.full(count, 0.5, np.float32),
        class_id=np.zeros(count, int),
        tracker_id=np.arange(count),
        data={"class_name": np.array(["Brücke 🚗"] * count, object)},
    )


def decoded(path):
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        images = [image.to_ndarray(format="bgr24") for image in video.decode(stream)]
        return stream.codec_context.name, stream.codec_context.pix_fmt, images


@pytest.mark.parametrize("sink", [VideoSink, JsonLinesSink, CsvSink])
def test_all_follow_the_protocol(sink, tmp_path):
    opened = sink(tmp_path / "x.mp4")
    assert isinstance(opened, Sink)
    opened.close()


def test_a_video_has_every_frame_as_browsers_play_it(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4")
    for index in range(25):
        sink.write(frame(index, (65, 49)), cars(0))  # odd sides
    sink.close()
    codec, pixels, images = decoded(tmp_path / "a.mp4")
    assert (codec, pixels, len(images)) == ("h264", "yuv420p", 25)
    assert images[0].shape == (48, 64, 3)
    assert [int(image.mean()) for image in images[::8]] == pytest.approx([0, 40, 80, 120], abs=6)


def test_frames_keep_their_times(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4")
    for index, time_s in enumerate((1e9, 1e9 + 0.1, 1e9 + 0.1, 1e9 + 2)):  # two at one time
        sink.write(frame(index, time_s=time_s), cars(0))
    sink.close()
    with av.open(str(tmp_path / "a.mp4")) as video:
        times = [float(image.time) for image in video.decode(video=0)]
    assert times == pytest.approx([0, 0.1, 0.1, 2], abs=0.01)


def test_a_new_size_and_a_full_file_begin_another(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4")
    for index in range(6):
        sink.write(frame(index, (64, 48) if index < 3 else (96, 64)), cars(0))
    sink.close()
    assert [len(decoded(tmp_path / name)[2]) for name in ("a.mp4", "a-2.mp4")] == [3, 3]

    rng = np.random.default_rng(0)
    sink = VideoSink(tmp_path / "b.mp4", max_bytes=100_000)
    for index in range(60):
        image = rng.integers(0, 255, (120, 160, 3), np.uint8)
        sink.write(Frame(index, index / 10, image, "cam"), cars(0))
    sink.close()
    files = sorted(tmp_path.glob("b*.mp4"))
    assert len(files) > 2
    assert sum(len(decoded(file)[2]) for file in files) == 60


def test_what_was_written_before_a_kill_can_be_read(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import time
from test_stream_sinks import *
video, lines, table = VideoSink("a.mp4"), JsonLinesSink("a.jsonl"), CsvSink("a.csv")
for index in range(100000):
    for sink in (video, lines, table):
        sink.write(frame(index), cars())
    if index == 100:
        print("ready", flush=True)
    time.sleep(0.001)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(decoded(tmp_path / "a.mp4")[2]) >= 60
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines[:-1]]
    assert len(records) >= 100
    assert records[7]["detections"][0] == {
        "class_name": "Brücke 🚗", "class_id": 0, "confidence": 0.5, "xyxy": [1, 2, 30, 40],
        "tracker_id": 0,
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text("utf-8").splitlines()))
    assert rows[3]["class_name"] == "Brücke 🚗"


def test_a_restart_keeps_what_was_recorded(tmp_path):
    for _ in range(2):
        for sink in (
            VideoSink(tmp_path / "a.mp4"),
            JsonLinesSink(tmp_path / "a.jsonl"),
            CsvSink(tmp_path / "a.csv"),
        ):
            for index in range(3):
                sink.write(frame(index), cars())
            sink.close()
    assert [len(decoded(tmp_path / name)[2]) for name in ("a.mp4", "a-2.mp4")] == [3, 3]
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 6
    assert len((tmp_path / "a.csv").read_text("utf-8").splitlines()) == 7


def test_a_long_gap_and_a_clock_that_goes_back_begin_another_file(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4")
    for index, time_s in enumerate((5.0, 5.1, 4000.0, 4000.1, 10.0)):
        sink.write(frame(index, time_s=time_s), cars())
    sink.close()
    files = [tmp_path / name for name in ("a.mp4", "a-2.mp4", "a-3.mp4")]
    assert [len(decoded(file)[2]) for file in files] == [2, 2, 1]


def test_without_h264_a_video_is_mpeg_4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    sink = VideoSink(tmp_path / "a.mp4")
    for index in range(5):
        sink.write(frame(index), cars())
    sink.close()
    monkeypatch.undo()
    assert decoded(tmp_path / "a.mp4")[0] == "mpeg4"
    assert len(decoded(tmp_path / "a.mp4")[2]) == 5


def test_an_unsupported_suffix_is_refused(tmp_path):
    with pytest.raises(SinkError, match=r"\.mp4 or \.mkv"):
        VideoSink(tmp_path / "out")


def test_each_source_gets_a_video_at_its_own_rate(tmp_path):
    path = tmp_path / "a.mp4"
    sinks = video_sinks(path, ["left", "right"], drawing(), None)
    for index in range(6):
        for sink in sinks:
            sink.write(frame(index, source="left", fps=10), cars(0))
            sink.write(frame(index, time_s=index / 50, source="right", fps=50), cars(0))
    for sink in sinks:
        sink.close()
    rates = []
    for name in ("a.0.mp4", "a.1.mp4"):
        with av.open(str(tmp_path / name)) as video:
            assert sum(1 for _ in video.decode(video=0)) == 6
            rates.append(float(video.streams.video[0].average_rate))
    assert rates == pytest.approx([10, 50], rel=0.3)


def events(count):
    return [Event("appeared", number, "cam") for number in range(count)]


def test_lines_rotate_by_size(tmp_path):
    log = EventLog(tmp_path / "e.jsonl", max_bytes=200)
    for event in events(30):
        log(event)
    log.close()
    files = sorted(tmp_path.glob("e*.jsonl"))
    assert len(files) > 1
    times = [json.loads(line)["time_s"] for file in files for line in file.read_text().splitlines()]
    assert sorted(times) == list(range(30))


def test_after_a_restart_full_files_stay_as_they_are(tmp_path):
    sizes = []
    for _ in range(2):
        log = EventLog(tmp_path / "e.jsonl", max_bytes=200)
        for event in events(40):
            log(event)
        log.close()
        sizes.append([path.stat().st_size for path in sorted(tmp_path.glob("e*.jsonl"))])
    assert max(sizes[1]) < 200 + 60
    assert len(sizes[1]) > len(sizes[0])


def test_a_line_that_was_cut_off_leaves_the_next_one_intact(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"frames": 0}\n{"fra')
    log = EventLog(tmp_path / "e.jsonl")
    log.write_metrics({"frames": 1})
    log.close()
    lines = (tmp_path / "e.jsonl").read_text().splitlines()
    assert lines == ['{"frames": 0}', '{"fra', '{"event": "metrics", "frames": 1}']


def test_tables_rotate_by_size_and_each_has_a_header(tmp_path):
    table = CsvSink(tmp_path / "e.csv", max_bytes=300)
    for number in range(30):
        table.write(frame(number), cars())
    table.close()
    files = sorted(tmp_path.glob("e*.csv"))
    assert len(files) > 1
    rows = [row for file in files for row in csv.DictReader(file.read_text("utf-8").splitlines())]
    assert {int(row["frame"]) for row in rows} == set(range(30))


@pytest.mark.parametrize("name", ["a.mp4", "a.jsonl", "a.csv"])
def test_a_full_disk_is_an_error_that_names_the_file(name, tmp_path):
    path = tmp_path / name
    path.symlink_to("/dev/full")

    def fill():
        sink = {"a.mp4": VideoSink, "a.jsonl": JsonLinesSink, "a.csv": CsvSink}[name](path)
        for index in range(50):
            sink.write(frame(index), cars())
        sink.close()

    with pytest.raises(SinkError, match=name):
        fill()


@pytest.mark.parametrize(
    "text",
    ["x = 1", "zones = 3", "[zones]\na = [[0, 0], [1, 1]]", "[lines]\na = [[0, 0], [1, 1], [2, 2]]",
     "[zones]\na = 'b'", "not toml ["],
)  # fmt: skip
def test_zone_files_that_cannot_be_used_are_refused(text, tmp_path):
    (tmp_path / "z.toml").write_text(text)
    with pytest.raises(ConfigError):
        Zones.from_file(tmp_path / "z.toml")


ZONES = {
    "z.toml": "[zones]\ndoor = [[0, 0], [50, 0], [50, 40]]\n[lines]\ngate = [[0, 10], [60, 10]]\n",
    "z.json": '{"zones": {"door": [[0, 0], [50, 0], [50, 40]]}, "lines": {"gate": [[0, 9], [60, 9]]}}',
}


@pytest.mark.parametrize("name", ZONES)
def test_a_zone_file_is_read(name, tmp_path):
    (tmp_path / name).write_text(ZONES[name])
    zones = Zones.from_file(tmp_path / name)
    image = zones.draw(frame(1, (160, 120)).image, "cam")
    assert image.max() > 200
