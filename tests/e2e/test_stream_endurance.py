"""What an operator meets in a month, in a few minutes: lost cameras, slow processing, many frames."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes import PRESET, ColourEncoder
from videos import CameraServer, RtspServer, pan

from openvocab import OpenVocabDetector
from openvocab.stream import StreamProcessor, VideoSources
from openvocab.stream import _source as module
from openvocab.types import Proposals

pytestmark = pytest.mark.slow


class Crowd:
    """Two hundred boxes that move, appear and vanish; takes `seconds` per call."""

    labels = ("thing",)

    def __init__(self, count=200, seconds=0.0):
        self._rng, self._seconds = np.random.default_rng(0), seconds
        self._corners = self._rng.uniform(0, 200, (count, 2))

    def propose(self, images):
        time.sleep(self._seconds)
        self._corners = (self._corners + self._rng.normal(0, 2, self._corners.shape)) % 200
        swap = self._rng.random(len(self._corners)) < 0.02
        self._corners[swap] = self._rng.uniform(0, 200, (int(swap.sum()), 2))
        boxes = np.hstack([self._corners, self._corners + 25]).astype(np.float32)
        scores = np.full(len(boxes), 0.9, np.float32)
        return [Proposals(boxes, scores, np.zeros(len(boxes), np.intp)) for _ in images]


def detector(**options):
    return OpenVocabDetector(Crowd(**options), ColourEncoder(), PRESET)


@pytest.fixture(params=[CameraServer, RtspServer])
def server(request):
    if request.param is RtspServer and (why := RtspServer.missing()):
        pytest.skip(why)
    running = request.param()
    yield running
    running.kill()


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.1)
    monkeypatch.setattr(module, "MAX_PAUSE_S", 0.5)


def test_a_server_killed_twenty_times_is_opened_again_twenty_times(server, short_pauses):
    events, rng = [], random.Random(0)  # noqa: S311  not a secret
    source = VideoSources(server.url, on_event=events.append)
    frames, sizes = iter(source), set()
    next(frames)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    try:
        for count in range(1, 21):
            time.sleep(rng.uniform(0, 0.6))
            server.kill()
            server.start()
            while sum(event.kind == "source back" for event in events) < count:
                sizes.add(next(frames).image.shape)
        next(frames)
        assert sum("source" in thread.name for thread in threading.enumerate()) == 1
        assert len(list(Path("/proc/self/fd").iterdir())) <= open_files + 1
    finally:
        source.close()
    assert [event.kind for event in events] == ["source lost", "source back"] * 20
    assert sizes >= {(240, 320, 3), (360, 480, 3)}


def test_a_server_that_hangs_is_lost_and_opened_again(server, short_pauses):
    events = []
    source = VideoSources(server.url, on_event=events.append)
    frames = iter(source)
    next(frames)
    server.suspend()
    threading.Timer(15, server.resume).start()
    try:
        while "source back" not in [event.kind for event in events]:
            next(frames)
    finally:
        source.close()
    assert [event.kind for event in events] == ["source lost", "source back"]
    assert 1 < events[1].data["away_s"] < 30


def test_latency_does_not_grow_when_a_camera_is_faster_than_the_processor():
    server = CameraServer(fps=100)
    compute = 0.03
    processor = StreamProcessor(detector(count=5, seconds=compute), ["red"])
    source, latencies, taken = VideoSources(server.url), [], time.monotonic()
    try:
        for frame, _ in processor.run(source):
            now = time.monotonic()
            latencies.append((now - frame.captured_s) - (now - taken))
            taken = time.monotonic()
            if len(latencies) == 1000:
                processor.stop()
    finally:
        server.kill()
    # Time in the queue: at most two frames of the camera, except for the odd pause.
    waited = np.array(latencies[10:])
    assert np.percentile(waited, 99) < 2 / 100
    assert waited[-200:].mean() < waited[:200].mean() + 0.005
    assert source.dropped > 1000


def test_twenty_thousand_frames_cost_no_memory(assets, tmp_path):
    video = pan(assets / "bus.jpg", tmp_path / "video.mp4", 50)
    processor = StreamProcessor(detector(), ["red", "blue"])
    process, used = psutil.Process(), []
    for index, _ in enumerate(processor.run(VideoSources(video, loop=True))):
        if index in (1000, 20_000):
            used.append(process.memory_info().rss / 2**20)
            assert processor.metrics.tracks <= 2000 + 200
        if index == 20_000:
            processor.stop()
    assert used[1] - used[0] < 30
