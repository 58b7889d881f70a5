"""Films give every frame; cameras give the newest, and come back."""

import itertools
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from videos import CameraServer, pan

from openvocab.errors import SourceError
from openvocab.stream import capture as capture_module
from openvocab.stream import source as module
from openvocab.stream.capture import open_capture, shown_name
from openvocab.stream.source import VideoSources
from openvocab.types import Source

FFMPEG = shutil.which("ffmpeg")


@pytest.fixture
def film(assets, tmp_path):
    return pan(assets / "bus.jpg", tmp_path / "film.mp4", frames=25)


@pytest.fixture
def camera():
    server = CameraServer()
    yield server
    server.kill()


def threads() -> int:
    return sum(each.name.startswith("openvocab source") for each in threading.enumerate())


def test_a_film_gives_every_frame_in_order_with_its_time(film):
    source = VideoSources(film)
    assert isinstance(source, Source)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(25))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(25) / 10, atol=1e-3)
    assert frames[0].image.shape == (360, 480, 3)
    assert source.fps == 10
    assert source.dropped == 0


def test_a_picture_of_a_pixel_is_none_and_a_clock_that_is_set_is_followed_forward(monkeypatch):
    sides, days, clock = [8, 1, 8, 8, 8], [1e9, 1e9, 1e9, 1.7e9, 1e9], [1e9]
    taken = threading.Semaphore(0)

    class Camera:
        live, fps = True, 25.0

        def frames(self):
            for side, day in zip(sides, days, strict=True):
                clock[0] = day
                yield None, np.zeros((side, side, 3), np.uint8)
                assert side == 1 or taken.acquire(timeout=10)
            raise SourceError("over")

        def close(self):
            pass

    monkeypatch.setattr(module, "open_capture", lambda _: Camera())
    told = SimpleNamespace(time=lambda: clock[0], monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", told)
    times = []
    with closing(VideoSources(0)) as source:
        for frame in source:
            times.append(frame.time_s)
            assert frame.image.shape == (8, 8, 3)
            taken.release()
            if len(times) == 4:
                break
    assert times == sorted(times)
    assert times[1] < 1.1e9 < 1.7e9 <= times[2]


def test_a_slow_consumer_of_a_film_loses_nothing(film):
    count = 0
    for _ in VideoSources(film):
        time.sleep(0.01)
        count += 1
    assert count == 25


def test_a_looping_film_goes_on_with_rising_times(film):
    source = VideoSources(film, loop=True)
    times = [frame.time_s for frame, _ in zip(source, range(60), strict=False)]
    source.close()
    assert len(times) == 60
    assert (np.diff(times) > 0).all()


def test_pictures_of_a_folder_are_a_source(assets):
    frames = list(VideoSources(assets))
    assert len(frames) == 2


def test_a_picture_that_cannot_be_read_is_named_after_the_others(assets, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.jpg").write_bytes((assets / "bus.jpg").read_bytes())
    frames = iter(VideoSources(tmp_path))
    assert next(frames).image.shape == (1080, 810, 3)
    with pytest.raises(SourceError, match=r"1 of 2 pictures could not be read: .*a\.jpg"):
        next(frames)


def test_several_films_are_told_apart(film, assets, tmp_path):
    other = pan(assets / "zidane.jpg", tmp_path / "other.mp4", frames=5)
    frames = list(VideoSources([film, other]))
    counts = {name: sum(f.source == name for f in frames) for name in {f.source for f in frames}}
    assert counts == {str(film): 25, str(other): 5}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("absent.mp4", "no film"),
        ("87", "no camera 87"),
        ("ftp://127.0.0.1/x", "unknown scheme"),
        ("rtsp://user:secret@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_one_error_without_the_password(where, said):
    with pytest.raises(SourceError, match=said) as caught:
        VideoSources(where)
    assert "secret" not in str(caught.value)


def test_text_named_as_a_film_is_an_error(tmp_path):
    (tmp_path / "x.mp4").write_text("no film")
    with pytest.raises(SourceError, match="cannot be opened as a film"):
        VideoSources(tmp_path / "x.mp4")


def test_a_playlist_may_not_lead_out_of_the_files(tmp_path, camera):
    """A file from elsewhere must not make this machine fetch an address."""
    (tmp_path / "x.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{camera.url}a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError):
        list(VideoSources(tmp_path / "x.m3u8"))


def test_a_playlist_may_not_name_other_films_of_this_machine(film, tmp_path):
    """Named as a film and uploaded: what it names would come back annotated."""
    with av.open(str(film)) as given, av.open(str(tmp_path / "a.ts"), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    lines = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.5,\n{tmp_path / 'a.ts'}\n#EXT-X-ENDLIST\n"
    for name in ("x.m3u8", "x.mp4"):
        (tmp_path / name).write_text(lines)
        with pytest.raises(SourceError):
            VideoSources(tmp_path / name)


def test_a_truncated_film_gives_what_can_be_read(film, assets, tmp_path):
    data = film.read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"half\.mp4"):  # an MP4 has its index at the end
        list(VideoSources(half))
    avi = pan(assets / "bus.jpg", tmp_path / "whole.avi", frames=25)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(avi.read_bytes()[: avi.stat().st_size // 2])
    assert 5 < len(list(VideoSources(cut))) < 25


def test_a_live_source_gives_the_newest_frame_and_counts_the_dropped(camera):
    source = VideoSources(camera.url)
    ages, indices = [], []
    for frame in source:
        ages.append(time.monotonic() - frame.captured_s)
        indices.append(frame.index)
        time.sleep(0.1)  # five times as slow as the camera
        if len(ages) == 15:
            source.close()
    assert max(ages) < 0.1
    assert source.dropped >= 3 * len(ages) // 2
    assert indices == sorted(indices)


def test_a_lost_camera_comes_back_with_another_size(camera, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.1)
    events = []
    source = VideoSources(camera.url, report=events.append)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shapes, killed = set(), 0
    for frame in source:
        shapes.add(frame.image.shape[:2])
        backs = sum(event.kind == "source back" for event in events)
        if killed == backs and killed < 2 and frame.index % 5 == 4:
            camera.kill()
            camera.start()
            killed += 1
        if backs == 2:
            assert threads() == 1
            assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
            source.close()
    assert shapes == {(240, 320), (360, 480)}
    assert [event.kind for event in events] == ["source lost", "source back"] * 2
    assert threads() == 0


def test_a_dead_camera_does_not_slow_another(camera, film):
    events = []
    source = VideoSources([film, "http://127.0.0.1:1/"], report=events.append)
    begun = time.monotonic()
    for frame in source:
        if frame.index == 24:
            source.close()
    assert time.monotonic() - begun < 5
    assert [event.kind for event in events] == ["source lost"]


def test_close_from_another_thread_ends_the_iteration(camera):
    source = VideoSources(camera.url)
    threading.Timer(0.3, source.close).start()
    begun = time.monotonic()
    for _ in source:
        pass
    assert time.monotonic() - begun < 3
    source.close()  # waits for the thread
    assert threads() == 0


def test_a_film_that_changes_its_size_goes_on(tmp_path):
    path = tmp_path / "x.mjpeg"
    pictures = [np.full((side, 2 * side, 3), 90, np.uint8) for side in (64, 64, 128, 128)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", each)[1].tobytes() for each in pictures))
    assert {frame.image.shape for frame in VideoSources(path)} == {(64, 128, 3), (128, 256, 3)}


def test_a_camera_that_is_away_at_the_start_is_waited_for_among_several(film, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.05)
    server, events = CameraServer(), []
    server.kill()
    source = VideoSources([film, server.url], report=events.append)
    for frame in source:
        if frame.source == str(film) and frame.index == 24:
            server.start()
        if frame.source == server.url:
            source.close()
    server.kill()
    assert [event.kind for event in events] == ["source lost", "source back"]


def test_a_single_camera_is_waited_for_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.05)
    server = CameraServer()
    server.kill()
    with pytest.raises(SourceError):
        VideoSources(server.url)
    source = VideoSources(server.url, patient=True)
    server.start()
    assert next(iter(source)).source == server.url
    source.close()
    server.kill()


def test_a_mistyped_film_among_several_is_an_error(film):
    with pytest.raises(SourceError, match="no film"):
        VideoSources([film, "absent.mp4"])
    with pytest.raises(SourceError, match="no film"):
        VideoSources("absent.mp4", patient=True)
    assert threads() == 0


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    """It takes the connection and no more."""
    monkeypatch.setattr(capture_module, "OPEN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(SourceError, match="cannot be opened"):
            VideoSources(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - begun < 5


def test_passwords_are_not_shown():
    for address in ("rtsp://a:secret@host/1", "rtsp://a:s@cr/secret@host/1"):
        assert shown_name(address) == "rtsp://***@host/1"
    assert shown_name("http://host/v?pwd=secret") == "http://host/v?***"
    assert shown_name("film.mp4") == "film.mp4"


def test_a_capture_says_whether_it_is_live(film, camera):
    for where, live in ((str(film), False), (camera.url, True)):
        capture = open_capture(where)
        assert capture.live is live
        capture.close()


def test_a_film_without_a_frame_rate_gives_every_frame(tmp_path):
    """A raw H.264 stream, as cameras save it: no container, no times."""
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(12):
            picture = np.full((48, 64, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    source = VideoSources(path)
    frames = list(source)
    assert source.fps > 0
    assert len(frames) == 12
    times = [frame.time_s for frame in frames]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg; apt-get install ffmpeg")
def test_a_film_that_was_turned_stands_upright(film, tmp_path):
    """As phones write them: the pictures lie, and a note says so."""
    path = tmp_path / "turned.mp4"
    turn = ["-c", "copy", "-metadata:s:v:0", "rotate=90"]
    quiet = [FFMPEG, "-loglevel", "error", "-i"]
    subprocess.run([*quiet, str(film), *turn, str(path)], check=True)
    subprocess.run([*quiet, str(path), "-frames:v", "1", str(tmp_path / "up.png")], check=True)
    upright = next(iter(VideoSources(path))).image
    assert upright.shape == (480, 360, 3)
    assert np.abs(upright.astype(int) - cv2.imread(str(tmp_path / "up.png"))).mean() < 2


def test_two_cameras_that_differ_in_what_is_hidden_are_told_apart(camera):
    source = VideoSources([f"{camera.url}?channel=1", f"{camera.url}?channel=2"])
    assert len(set(source.names)) == 2
    frames = iter(source)
    seen = set()
    while len(seen) < 2:
        seen.add(next(frames).source)
    source.close()
    assert seen == set(source.names)
