"""The loop: steady names, classes that change on the run, errors that come out, clean ends."""

import threading
import time

import numpy as np
import pytest
import supervision as sv
from fakes import ColourEncoder, FakeProposer

from openvocab import OpenVocabDetector, Preset
from openvocab.errors import ClassesError, ConfigError
from openvocab.stream.memory import MemorySettings
from openvocab.stream.processor import StreamProcessor
from openvocab.stream.zones import Zones
from openvocab.types import Frame

PRESET = Preset(name="test", detector="", encoder="", templates="none", context_scales=(1.0,))
RED, BLUE = (0, 0, 255), (255, 0, 0)


def picture(colour=RED):
    image = np.full((120, 160, 3), 40, np.uint8)
    image[20:80, 30:90] = colour
    return image


class Film:
    """So many frames, given as fast as they are asked for."""

    fps = 10.0

    def __init__(self, frames=20, sources=("film",)):
        self.count, self.sources, self.closed = frames, sources, 0

    def __iter__(self):
        for index in range(self.count):
            for source in self.sources:
                if self.closed:
                    return
                yield Frame(index, index / 10, picture(), source)

    def close(self):
        self.closed += 1


@pytest.fixture
def detector():
    return OpenVocabDetector(FakeProposer((30, 20, 90, 80)), ColourEncoder(), PRESET)


def test_a_thing_keeps_its_number_and_name_at_the_cost_of_few_looks(detector):
    processor = StreamProcessor(detector, ["red", "blue"])
    results = list(processor.run(Film(50)))
    assert [frame.index for frame, _ in results] == list(range(50))
    later = [found for _, found in results[3:]]
    assert {int(found.tracker_id[0]) for found in later} == {int(later[0].tracker_id[0])}
    assert {name for found in later for name in found.data["class_name"]} == {"red"}
    assert detector.encoder.image_forwards <= 3 + 3
    figures = processor.metrics.snapshot()
    assert figures["frames"] == 50
    assert figures["reused"] > 0.85


def test_other_classes_count_from_the_next_frame_on_without_a_look(detector):
    processor = StreamProcessor(detector, ["blue"], memory=MemorySettings(refresh_s=1e6))
    run = processor.run(Film(30))
    for _ in range(10):
        _, found = next(run)
        assert not len(found)
    looks = detector.encoder.image_forwards
    processor.set_classes(["green", "gold", "red"])
    _, found = next(run)
    assert found.data["class_name"].tolist() == ["red"]
    assert found.class_id.tolist() == [2]
    assert len(list(run)) == 19
    assert detector.encoder.image_forwards == looks


def test_classes_that_cannot_be_used_leave_the_stream_as_it_is(detector):
    processor = StreamProcessor(detector, ["red"])
    run = processor.run(Film(20))
    for _ in range(5):
        next(run)
    with pytest.raises(ClassesError):
        processor.set_classes([])
    assert next(run)[1].data["class_name"].tolist() == ["red"]


def test_frames_between_repeat_the_last_detections(detector):
    calls = []
    propose = detector.proposer.propose
    detector.proposer.propose = lambda images: calls.append(1) or propose(images)
    found = [found for _, found in StreamProcessor(detector, ["red"], every=4).run(Film(20))]
    assert len(calls) == 5
    assert [len(each) for each in found[8:]] == [1] * 12


def test_without_a_tracker_each_frame_is_on_its_own(detector):
    processor = StreamProcessor(detector, ["red"], tracker=None)
    results = list(processor.run(Film(5)))
    assert processor.metrics.snapshot()["reused"] == 0
    assert all(found.tracker_id is None and len(found) == 1 for _, found in results)
    assert detector.encoder.image_forwards == 5


def test_sources_have_tracks_of_their_own(detector):
    processor = StreamProcessor(detector, ["red"])
    results = list(processor.run(Film(10, sources=("a", "b"))))
    assert len(results) == 20
    assert processor.metrics.snapshot()["tracks"] == 2


class Broken:
    """Breaks at the third frame; says whether it was closed."""

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
    broken, whole, film = Broken(where), Broken("never"), Film(500)
    processor = StreamProcessor(detector, ["red"], sinks=[broken, whole])
    with pytest.raises(RuntimeError, match="disk is full"):
        for _ in processor.run(film):
            pass
    assert broken.closed
    assert whole.closed
    assert film.closed
    assert not [each for each in threading.enumerate() if each.name == "openvocab sinks"]


def test_a_function_is_a_sink_and_sees_every_frame(detector):
    seen = []
    processor = StreamProcessor(
        detector, ["red"], sinks=[lambda frame, found: seen.append((frame.index, len(found)))]
    )
    list(processor.run(Film(12)))
    assert [index for index, _ in seen] == list(range(12))


def test_a_caller_who_breaks_off_or_raises_leaves_nothing_open(detector):
    film, sink = Film(100), Broken("never")
    run = StreamProcessor(detector, ["red"], sinks=[sink]).run(film)
    next(run)
    run.close()
    assert film.closed
    assert sink.closed


def test_stop_and_pause_from_another_thread(detector):
    processor = StreamProcessor(detector, ["red"])
    count = 0
    run = processor.run(Film(10_000_000))
    next(run)
    processor.pause()
    threading.Timer(0.3, processor.resume).start()
    begun = time.monotonic()
    next(run)
    assert time.monotonic() - begun > 0.25
    threading.Timer(0.2, processor.stop).start()
    for _ in run:
        count += 1
    assert count > 0
    processor.pause()
    processor.stop()  # a paused one ends as well


def test_events_tell_who_came_and_left(detector):
    events = []
    processor = StreamProcessor(detector, ["red", "blue"], report=events.append)
    run = processor.run(Film(80))
    for frame, _ in run:
        if frame.index == 20:
            detector.proposer._xyxy = np.empty((0, 4), np.float32)
            detector.proposer._labels = ()
    assert [event.kind for event in events] == ["appeared", "left"]
    assert events[0].data["class_name"] == "red"
    assert events[1].time_s == pytest.approx(2.0, abs=0.11)


def test_zones_tell_who_enters_and_crosses(detector):
    events = []
    zones = Zones(
        {"left half": [(0, 0), (80, 0), (80, 119), (0, 119)]}, {"gate": [(110, 119), (110, 0)]}
    )
    processor = StreamProcessor(detector, ["red"], zones=zones, report=events.append)

    class Moving(Film):
        def __iter__(self):
            for index in range(40):
                left = 5 + 2.5 * index
                detector.proposer._xyxy = np.array([[left, 20, left + 40, 80]], np.float32)
                image = np.full((120, 160, 3), 40, np.uint8)
                image[20:80, int(left) : int(left) + 40] = RED
                yield Frame(index, index / 10, image, "film")

    for frame, found in processor.run(Moving()):
        zones.draw(frame.image, frame.source)
        last = found
    assert isinstance(last, sv.Detections)
    kinds = [event.kind for event in events]
    assert kinds == ["appeared", "entered zone", "left zone", "crossed line", "left"]
    assert events[3].data["direction"] == "out"  # upwards, from left to right
    assert events[3].data["class_name"] == "red"


def test_a_thing_that_blinks_does_not_leave_its_zone():
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    there = sv.Detections(
        np.array([[30, 20, 90, 80]], np.float32),
        confidence=np.ones(1),
        class_id=np.zeros(1, int),
        tracker_id=np.array([4]),
        data={"class_name": np.array(["red"], object)},
    )
    gone = there[np.zeros(1, bool)]
    for index in range(60):
        seen = index < 30 and index % 3 != 1
        events += zones.update(Frame(index, index / 10, picture(), "a"), there if seen else gone)
    assert [event.kind for event in events] == ["entered zone", "left zone"]
    assert events[1].time_s == pytest.approx(2.9, abs=0.2)


def test_who_is_in_a_zone_when_the_film_ends_has_left(detector):
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    processor = StreamProcessor(detector, ["red"], zones=zones, report=events.append)
    *_, (last, _) = processor.run(Film(10))
    kinds = [event.kind for event in events]
    assert kinds.count("entered zone") == kinds.count("left zone") >= 1
    assert kinds[-1] == "left"
    left = next(event for event in events if event.kind == "left zone")
    assert left.time_s == last.time_s


def test_an_edge_that_trembles_enters_once_and_crosses_once():
    zones = Zones(
        {"left": [(0, 0), (80, 0), (80, 119), (0, 119)]}, {"middle": [(80, 119), (80, 0)]}
    )
    events = []
    # Right of the edge, to and fro over it, left of it, to and fro, and left for good.
    places = [100] * 5 + [78, 82] * 10 + [60] * 5 + [82, 78] * 10 + [60] * 5
    for index, x in enumerate(places):
        found = sv.Detections(
            np.array([[x - 20, 20, x + 20, 80]], np.float32),
            confidence=np.ones(1),
            class_id=np.zeros(1, int),
            tracker_id=np.array([4]),
            data={"class_name": np.array(["red"], object)},
        )
        events += zones.update(Frame(index, index / 10, picture(), "a"), found)
    assert [event.kind for event in events] == ["entered zone", "crossed line"]


def test_frames_that_are_passed_over_are_no_proof(detector):
    """With every=3, a place is seen once in three frames."""
    zones, events = Zones({"all": [(0, 0), (160, 0), (160, 120), (0, 120)]}), []
    processor = StreamProcessor(detector, ["red"], every=3, zones=zones, report=events.append)
    entered = {}
    for frame, _ in processor.run(Film(30)):
        for event in events:
            if event.kind == "entered zone":
                entered.setdefault("frame", frame.index)
    assert entered["frame"] >= 6


def test_options_that_cannot_be_used_are_refused_before_a_frame_is_read(detector):
    for options in ({"every": 0}, {"tracker": "magic"}, {"tracker": None, "zones": Zones()}):
        with pytest.raises(ConfigError):
            StreamProcessor(detector, ["red"], **options)


@pytest.mark.parametrize(
    "given",
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
def test_zones_that_are_none_are_refused_when_they_are_named(given):
    with pytest.raises(ConfigError, match=r"give [^\\]*\.$"):
        Zones(**given)
