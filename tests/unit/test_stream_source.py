"""Videos give every frame; cameras give the newest, and are opened again."""

import itertools
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from videos import CameraServer, pan

from openvocab.errors import SourceError
from openvocab.stream import _capture as capture_module
from openvocab.stream import _source as module
from openvocab.stream._capture import open_capture, redact
from openvocab.stream._source import VideoSources
from openvocab.types import Source

FFMPEG = shutil.which("ffmpeg")


@pytest.fixture
def video(assets, tmp_path):
    return pan(assets / "bus.jpg", tmp_path / "video.mp4", frames=25)


@pytest.fixture
def camera():
    server = CameraServer()
    yield server
    server.kill()


def raw_h264(path):
    """A raw H.264 stream, as cameras save it: no container, no times."""
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(12):
            image = np.full((48, 64, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def threads() -> int:
    return sum(thread.name.startswith("openvocab source") for thread in threading.enumerate())


def test_a_video_gives_every_frame_in_order_with_its_time(video):
    source = VideoSources(video)
    assert isinstance(source, Source)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(25))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(25) / 10, atol=1e-3)
    assert frames[0].image.shape == (360, 480, 3)
    assert {frame.fps for frame in frames} == {10}
    assert source.dropped == 0


def test_frames_of_a_pixel_are_dropped_and_a_clock_that_is_set_is_followed_forward(monkeypatch):
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
    clocks = SimpleNamespace(time=lambda: clock[0], monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clocks)
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


def test_a_slow_consumer_of_a_video_loses_nothing(video):
    count = 0
    for _ in VideoSources(video):
        time.sleep(0.01)
        count += 1
    assert count == 25


def test_a_looping_video_continues_with_rising_times(video):
    source = VideoSources(video, loop=True)
    times = [frame.time_s for frame, _ in zip(source, range(60), strict=False)]
    source.close()
    assert len(times) == 60
    assert (np.diff(times) > 0).all()


def test_images_of_a_folder_are_a_source(assets):
    frames = list(VideoSources(assets))
    assert len(frames) == 2


def test_an_unreadable_image_is_reported_after_the_others(assets, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "b.jpg").write_bytes((assets / "bus.jpg").read_bytes())
    frames = iter(VideoSources(tmp_path))
    assert next(frames).image.shape == (1080, 810, 3)
    with pytest.raises(SourceError, match=r"1 of 2 images could not be read: .*a\.jpg"):
        next(frames)


def test_several_videos_have_their_own_names_and_rates(video, assets, tmp_path):
    other = pan(assets / "zidane.jpg", tmp_path / "other.mp4", frames=5)
    raw = tmp_path / "raw.h264"  # no container: FFmpeg takes 25 fps
    frames = list(VideoSources([video, other, raw_h264(raw)]))
    counts = Counter((frame.source, frame.fps) for frame in frames)
    assert counts == {(str(video), 10): 25, (str(other), 10): 5, (str(raw), 25): 12}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("absent.mp4", "not a video"),
        ("87", "no camera 87"),
        ("ftp://127.0.0.1/x", "unknown scheme"),
        ("rtsp://user:secret@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_opened_is_an_error_without_the_password(address, message):
    with pytest.raises(SourceError, match=message) as caught:
        VideoSources(address)
    assert "secret" not in str(caught.value)


def test_text_named_as_a_video_is_an_error(tmp_path):
    (tmp_path / "x.mp4").write_text("not a video")
    with pytest.raises(SourceError, match="cannot be opened as a video"):
        VideoSources(tmp_path / "x.mp4")


def test_a_playlist_may_not_refer_to_an_address(tmp_path, camera):
    """A file from elsewhere must not make this machine fetch an address."""
    (tmp_path / "x.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{camera.url}a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError):
        list(VideoSources(tmp_path / "x.m3u8"))


def test_a_playlist_may_not_refer_to_other_videos_of_this_machine(video, tmp_path):
    """Named as a video and uploaded: the files it lists would come back annotated."""
    with av.open(str(video)) as whole, av.open(str(tmp_path / "a.ts"), "w") as out:
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    lines = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.5,\n{tmp_path / 'a.ts'}\n#EXT-X-ENDLIST\n"
    for name in ("x.m3u8", "x.mp4"):
        (tmp_path / name).write_text(lines)
        with pytest.raises(SourceError):
            VideoSources(tmp_path / name)


def test_a_truncated_video_gives_what_can_be_read(video, assets, tmp_path):
    data = video.read_bytes()
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
    assert np.median(ages) < 0.1  # in a queue, they would grow; on a busy machine, one may be late
    assert source.dropped >= 3 * len(ages) // 2
    assert indices == sorted(indices)


def test_a_lost_camera_is_opened_again_with_another_size(camera, monkeypatch):
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.1)
    events = []
    source = VideoSources(camera.url, on_event=events.append)
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


def test_a_dead_camera_does_not_slow_another(camera, video):
    events = []
    source = VideoSources([video, "http://127.0.0.1:1/"], on_event=events.append)
    start_s = time.monotonic()
    for frame in source:
        if frame.index == 24:
            source.close()
    assert time.monotonic() - start_s < 5
    assert [event.kind for event in events] == ["source lost"]


def test_close_from_another_thread_ends_the_iteration(camera):
    source = VideoSources(camera.url)
    threading.Timer(0.3, source.close).start()
    start_s = time.monotonic()
    for _ in source:
        pass
    assert time.monotonic() - start_s < 3
    source.close()  # waits for the thread
    assert threads() == 0


def test_a_video_that_changes_its_size_continues(tmp_path):
    path = tmp_path / "x.mjpeg"
    images = [np.full((side, 2 * side, 3), 90, np.uint8) for side in (64, 64, 128, 128)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in images))
    assert {frame.image.shape for frame in VideoSources(path)} == {(64, 128, 3), (128, 256, 3)}


def test_several_sources_wait_for_a_camera_that_is_unavailable_at_first(video, monkeypatch):
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.05)
    server, events = CameraServer(), []
    server.kill()
    source = VideoSources([video, server.url], on_event=events.append)
    for frame in source:
        if frame.source == str(video) and frame.index == 24:
            server.start()
        if frame.source == server.url:
            source.close()
    server.kill()
    assert [event.kind for event in events] == ["source lost", "source back"]


def test_a_single_camera_is_waited_for_on_request(monkeypatch):
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.05)
    server = CameraServer()
    server.kill()
    with pytest.raises(SourceError):
        VideoSources(server.url)
    source = VideoSources(server.url, retry_open=True)
    server.start()
    assert next(iter(source)).source == server.url
    source.close()
    server.kill()


def test_a_mistyped_video_among_several_is_an_error(video):
    with pytest.raises(SourceError, match="not a video"):
        VideoSources([video, "absent.mp4"])
    with pytest.raises(SourceError, match="not a video"):
        VideoSources("absent.mp4", retry_open=True)
    assert threads() == 0


def test_a_silent_server_times_out(monkeypatch):
    """It accepts the connection and sends nothing."""
    monkeypatch.setattr(capture_module, "OPEN_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        with pytest.raises(SourceError, match="cannot be opened"):
            VideoSources(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - start_s < 5


def test_passwords_are_redacted():
    for address in ("rtsp://a:secret@host/1", "rtsp://a:s@cr/secret@host/1"):
        assert redact(address) == "rtsp://***@host/1"
    assert redact("http://host/v?pwd=secret") == "http://host/v?***"
    assert redact("video.mp4") == "video.mp4"


def test_a_capture_is_live_or_not(video, camera):
    for address, live in ((str(video), False), (camera.url, True)):
        capture = open_capture(address)
        assert capture.live is live
        capture.close()


def test_a_video_without_a_frame_rate_gives_every_frame(tmp_path):
    frames = list(VideoSources(raw_h264(tmp_path / "raw.h264")))
    assert len(frames) == 12
    assert frames[0].fps > 0
    times = [frame.time_s for frame in frames]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg; apt-get install ffmpeg")
def test_a_rotated_video_stands_upright(video, tmp_path):
    """As phones write them: with a rotation in the metadata."""
    path = tmp_path / "rotated.mp4"
    rotation = ["-c", "copy", "-metadata:s:v:0", "rotate=90"]
    ffmpeg = [FFMPEG, "-loglevel", "error", "-i"]
    subprocess.run([*ffmpeg, str(video), *rotation, str(path)], check=True)
    subprocess.run([*ffmpeg, str(path), "-frames:v", "1", str(tmp_path / "up.png")], check=True)
    upright = next(iter(VideoSources(path))).image
    assert upright.shape == (480, 360, 3)
    assert np.abs(upright.astype(int) - cv2.imread(str(tmp_path / "up.png"))).mean() < 2


def test_cameras_whose_redacted_names_are_equal_get_different_names(camera):
    source = VideoSources([f"{camera.url}?channel=1", f"{camera.url}?channel=2"])
    assert len(set(source.names)) == 2
    frames = iter(source)
    names = set()
    while len(names) < 2:
        names.add(next(frames).source)
    source.close()
    assert names == set(source.names)
