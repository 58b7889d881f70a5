"""The loop: steady labels, classes that change while it runs, errors that surface, clean ends."""

import threading
import time

import numpy as np
import pytest
import supervision as sv
from fakes import PRESET, ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector
from openvocab.errors import ClassesError, ConfigError
from openvocab.stream import _processor as module
from openvocab.stream._memory import TrackingSettings
from openvocab.stream._processor import StreamProcessor
from openvocab.stream._tracking import Tracker
from openvocab.stream._zones import Zones
from openvocab.types import Frame

RED = (0, 0, 255)


def red_square():
    image = np.full((120, 160, 3), 40, np.uint8)
    image[20:80, 30:90] = RED
    return image


class Video:
    """A number of frames, as fast as they are taken."""

    def __init__(self, frames=20, sources=("video",)):
        self.count, self.sources, self.closed = frames, sources, 0

    def __iter__(self):
        for index in range(self.count):
            for source in self.sources:
                if self.closed:
                    return
                yield Frame(index, index / 10, red_square(), source, fps=10)

    def close(self):
        self.closed += 1


@pytest.fixture
def detector():
    return OpenVocabDetector(FakeProposer((30, 20, 90, 80)), ColourEncoder(), PRESET)


def test_an_object_keeps_its_track_and_class_at_the_cost_of_few_encodings(detector):
    processor = StreamProcessor(detector, ["red", "blue"])
    results = list(processor.run(Video(50)))
    assert [frame.index for frame, _ in results] == list(range(50))
    later = [detections for _, detections in results[3:]]
    assert len({int(detections.tracker_id[0]) for detections in later}) == 1
    assert {name for detections in later for name in detections.data["class_name"]} == {"red"}
    assert detector.encoder.image_forwards <= 3 + 3
    metrics = processor.metrics.snapshot()
    assert metrics["frames"] == 50
    assert metrics["reused"] > 0.85


def test_other_classes_count_from_the_next_frame_on_without_an_encoding(detector):
    processor = StreamProcessor(detector, ["blue"], tracking=TrackingSettings(refresh_s=1e6))
    run = processor.run(Video(30))
    for _ in range(10):
        _, detections = next(run)
        assert not len(detections)
    encodings = detector.encoder.image_forwards
    processor.set_classes(["green", "gold", "red"])
    _, detections = next(run)
    assert detections.data["class_name"].tolist() == ["red"]
    assert detections.class_id.tolist() == [2]
    assert len(list(run)) == 19
    assert detector.encoder.image_forwards == encodings


def test_classes_that_cannot_be_used_leave_the_stream_as_it_is(detector):
    processor = StreamProcessor(detector, ["red"])
    run = processor.run(Video(20))
    for _ in range(5):
        next(run)
    with pytest.raises(ClassesError):
        processor.set_classes([])
    assert next(run)[1].data["class_name"].tolist() == ["red"]


def test_frames_between_repeat_the_last_detections(detector):
    calls = []
    propose = detector.proposer.propose
    detector.proposer.propose = lambda images: calls.append(1) or propose(images)
    run = StreamProcessor(detector, ["red"], frame_stride=4).run(Video(20))
    counts = [len(detections) for _, detections in run]
    assert len(calls) == 5
    assert counts[8:] == [1] * 12


def test_without_a_tracker_frames_are_independent(detector):
    processor = StreamProcessor(detector, ["red"], tracking=None)
    results = list(processor.run(Video(5)))
    assert processor.metrics.snapshot()["reused"] == 0
    assert all(result.tracker_id is None and len(result) == 1 for _, result in results)
    assert detector.encoder.image_forwards == 5


def test_sources_have_tracks_of_their_own(detector):
    processor = StreamProcessor(detector, ["red"])
    results = list(processor.run(Video(10, sources=("a", "b"))))
    assert len(results) == 20
    assert processor.metrics.snapshot()["tracks"] == 2


class Broken:
    """A sink that fails at the third frame, or when it is closed."""

    def __init__(self, where="write"):
        self.where, self.count, self.closed = where, 0, False

    def write(self, *_):
        self.count += 1
        if self.where == "write" and self.count == 3:
            raise RuntimeError("the disk is full")

    def close(self):
        self.closed = True
        if self.where == "close":
            raise RuntimeError("the disk is full")


@pytest.mark.parametrize("where", ["write", "close"])
def test_an_error_of_a_sink_reaches_the_caller_and_closes_the_others(detector, where):
    broken, intact, video = Broken(where), Broken("never"), Video(500)
    processor = StreamProcessor(detector, ["red"], sinks=[broken, intact])
    with pytest.raises(RuntimeError, match="disk is full"):
        for _ in processor.run(video):
            pass
    assert broken.closed
    assert intact.closed
    assert video.closed
    assert "openvocab sinks" not in {thread.name for thread in threading.enumerate()}


def test_a_function_is_a_sink_and_gets_every_frame(detector):
    indices = []
    processor = StreamProcessor(
        detector, ["red"], sinks=[lambda frame, _: indices.append(frame.index)]
    )
    list(processor.run(Video(12)))
    assert indices == list(range(12))


def test_a_caller_that_breaks_off_leaves_nothing_open(detector):
    video, sink = Video(100), Broken("never")
    run = StreamProcessor(detector, ["red"], sinks=[sink]).run(video)
    next(run)
    run.close()
    assert video.closed
    assert sink.closed


def test_every_source_is_tracked_at_its_own_rate(detector, monkeypatch):
    rates = []

    class Recorded(Tracker):
        def __init__(self, name, fps=25.0):
            rates.append(fps)
            super().__init__(name, fps)

    class Mixed(Video):
        def __iter__(self):
            for index in range(5):
                yield Frame(index, index / 10, red_square(), "a", fps=10)
                yield Frame(index, index / 50, red_square(), "b", fps=50)

    monkeypatch.setattr(module, "Tracker", Recorded)
    processor = StreamProcessor(detector, ["red"], frame_stride=2)
    rates.clear()  # of the check when it was composed
    list(processor.run(Mixed()))
    assert rates == [5, 25]


def test_stop_and_pause_from_another_thread(detector):
    processor = StreamProcessor(detector, ["red"])
    count = 0
    run = processor.run(Video(10_000_000))
    next(run)
    processor.pause()
    threading.Timer(0.3, processor.resume).start()
    start_s = time.monotonic()
    next(run)
    assert time.monotonic() - start_s > 0.25
    threading.Timer(0.2, processor.stop).start()
    for _ in run:
        count += 1
    assert count > 0
    processor.pause()
    processor.stop()  # a paused one ends as well


def test_events_of_tracks_that_appear_and_leave(detector):
    events = []
    processor = StreamProcessor(detector, ["red", "blue"], on_event=events.append)
    run = processor.run(Video(80))
    for frame, _ in run:
        if frame.index == 20:
            detector.proposer._xyxy = np.empty((0, 4), np.float32)
            detector.proposer._label_ids = np.empty(0, np.intp)
    assert [event.kind for event in events] == ["appeared", "left"]
    assert events[0].data["class_name"] == "red"
    assert events[1].time_s == pytest.approx(2.0, abs=0.11)


def test_events_of_tracks_that_enter_and_cross(detector):
    events = []
    zones = Zones(
        {"left half": [(0, 0), (80, 0), (80, 119), (0, 119)]}, {"gate": [(110, 119), (110, 0)]}
    )
    processor = StreamProcessor(detector, ["red"], zones=zones, on_event=events.append)

    class Moving(Video):
        def __iter__(self):
            for index in range(40):
                left = 5 + 2.5 * index
                detector.proposer._xyxy = np.array([[left, 20, left + 40, 80]], np.float32)
                image = np.full((120, 160, 3), 40, np.uint8)
                image[20:80, int(left) : int(left) + 40] = RED
                yield Frame(index, index / 10, image, "video")

    for frame, detections in processor.run(Moving()):
        zones.draw(frame.image, frame.source)
        assert isinstance(detections, sv.Detections)
    kinds = [event.kind for event in events]
    assert kinds == ["appeared", "entered zone", "left zone", "crossed line", "left"]
    assert events[3].data["direction"] == "out"  # upwards, from left to right
    assert events[3].data["class_name"] == "red"


def test_a_track_that_is_missed_now_and_then_stays_in_its_zone():
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    present = sv.Detections(
        np.array([[30, 20, 90, 80]], np.float32),
        confidence=np.ones(1),
        class_id=np.zeros(1, int),
        tracker_id=np.array([4]),
        data={"class_name": np.array(["red"], object)},
    )
    absent = present[np.zeros(1, bool)]
    for index in range(60):
        detected = index < 30 and index % 3 != 1
        frame = Frame(index, index / 10, red_square(), "a")
        events += zones.update(frame, present if detected else absent)
    assert [event.kind for event in events] == ["entered zone", "left zone"]
    assert events[1].time_s == pytest.approx(2.9, abs=0.2)


def test_tracks_in_a_zone_when_the_video_ends_have_left(detector):
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    processor = StreamProcessor(detector, ["red"], zones=zones, on_event=events.append)
    *_, (last, _) = processor.run(Video(10))
    kinds = [event.kind for event in events]
    assert kinds.count("entered zone") == kinds.count("left zone") >= 1
    assert kinds[-1] == "left"
    left = next(event for event in events if event.kind == "left zone")
    assert left.time_s == last.time_s


def test_a_jittering_edge_enters_once_and_crosses_once():
    zones = Zones(
        {"left": [(0, 0), (80, 0), (80, 119), (0, 119)]}, {"middle": [(80, 119), (80, 0)]}
    )
    events = []
    # Right of the edge, to and fro over it, left of it, to and fro, and left for good.
    centers = [100] * 5 + [78, 82] * 10 + [60] * 5 + [82, 78] * 10 + [60] * 5
    for index, x in enumerate(centers):
        detections = sv.Detections(
            np.array([[x - 20, 20, x + 20, 80]], np.float32),
            confidence=np.ones(1),
            class_id=np.zeros(1, int),
            tracker_id=np.array([4]),
            data={"class_name": np.array(["red"], object)},
        )
        events += zones.update(Frame(index, index / 10, red_square(), "a"), detections)
    assert [event.kind for event in events] == ["entered zone", "crossed line"]


def test_skipped_frames_do_not_count_for_zones(detector):
    """With frame_stride=3, a position is observed once in three frames."""
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    processor = StreamProcessor(
        detector, ["red"], frame_stride=3, zones=zones, on_event=events.append
    )
    entered = {}
    for frame, _ in processor.run(Video(30)):
        for event in events:
            if event.kind == "entered zone":
                entered.setdefault("frame", frame.index)
    assert entered["frame"] >= 6


def test_unusable_options_are_refused_before_a_frame_is_read(detector):
    for options in (
        {"frame_stride": 0},
        {"tracking": TrackingSettings(tracker="magic")},
        {"tracking": None, "zones": Zones()},
    ):
        with pytest.raises(ConfigError):
            StreamProcessor(detector, ["red"], **options)


@pytest.mark.parametrize(
    "shapes",
    [
        {"lines": {"a": [[5, 5], [5, 5]]}},
        {"polygons": {"a": [[0, 0], [99999999999, 0], [9, 9]]}},
        {"polygons": {"a": [[0, 0], [10**22, 1], [2, 2]]}},
        {"lines": {"a": [[1e300, 0], [0, 0]]}},
        {"polygons": {"a": [[0, 0], [0.1, 0], [0, 0.1]]}},
        {"polygons": {"a": [["0", "0"], ["9", "0"], ["9", "9"]]}},
        {"polygons": {"a": [[True, False], [False, True], [True, True]]}},
        {"polygons": {"a": [[0, 0], [9]]}},
        {"lines": {"a": [[0, 0], [9, 9], [3, 0]]}},
        {"polygons": {"a": [[-50, -50], [-10, -5], [-10, -30]]}},
        {"polygons": {"a": np.full((5, 2), 3)}},
    ],
)
def test_unusable_zones_are_refused_when_they_are_defined(shapes):
    with pytest.raises(ConfigError, match=r"give [^\\]*\.$"):
        Zones(**shapes)
