"""One loop: detect, track, remember, name; other threads read the frames and write the results."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ConfigError
from openvocab.scoring.class_head import ClassHead
from openvocab.stream.events import Event, Report, TrackEvents, ignore
from openvocab.stream.memory import MemorySettings, TrackMemory
from openvocab.stream.metrics import Metrics
from openvocab.stream.sink import SinkLike, Writer
from openvocab.stream.tracking import Tracker
from openvocab.stream.zones import Zones
from openvocab.types import EncodedRegions, Frame, Proposals, Source
from openvocab.vocabulary import Classes, Vocabulary

WAIT_S = 0.5  # between checks whether a pause is over, so that Ctrl-C gets through


class StreamProcessor:
    """Names the things in a stream steadily, in the caller's words; one run at a time.

    Boxes are tracked by objectness, tracks remember their averaged features, and the label comes
    from those. So most boxes in most frames need no pass of the encoder, and classes can change at
    any moment.
    """

    def __init__(  # noqa: PLR0913  keywords, each with a default
        self,
        detector: OpenVocabDetector,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        tracker: str | None = "bytetrack",
        memory: MemorySettings | None = None,
        every: int = 1,
        zones: Zones | None = None,
        sinks: Iterable[SinkLike] = (),
        report: Report = ignore,
    ) -> None:
        """Compose a processor; nothing is read yet.

        Args:
            detector: may be shared with other processors and threads.
            classes: as for `OpenVocabDetector.detect`.
            negatives: as for `OpenVocabDetector.detect`.
            score_threshold: as for `OpenVocabDetector.detect`.
            thresholds: as for `OpenVocabDetector.detect`.
            tracker: `bytetrack`, `ocsort` or `sort`; None treats each frame on its own.
            memory: when tracks are encoded again, and how steady labels are.
            every: detect in every n-th frame; frames in between repeat the last detections.
            zones: polygons and lines to report events for; needs a tracker.
            sinks: objects with `write` and `close`, or functions of a frame and its detections;
                each takes every frame, in one thread that all sinks share.
            report: called with every event, in the thread where it happens.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used.
            ConfigError: there is no such tracker, `every` is less than 1, or there are zones but
                no tracker.
        """
        if every < 1:
            raise ConfigError(f"every is {every}; use 1 or more.")
        if tracker is None and zones is not None:
            raise ConfigError("Zones count tracks and there is no tracker; name one.")
        if tracker is not None:
            Tracker(tracker)  # an unknown tracker is an error here, not in the loop
        self._detector, self._tracker, self._every = detector, tracker, every
        self._memory, self._zones = memory, zones
        self._takers, self._report = list(sinks), report
        self._threshold = score_threshold
        self._stopped, self._running = threading.Event(), threading.Event()
        self._running.set()
        self._source: Source | None = None
        self.metrics = Metrics()
        self.set_classes(classes, negatives=negatives, thresholds=thresholds)

    def set_classes(
        self,
        classes: Classes | Vocabulary,
        *,
        negatives: Sequence[str] = (),
        score_threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """Look for other things from the next frame on, without encoding a frame; from any thread.

        Without `score_threshold`, that of the processor stays. Negatives and thresholds are
        replaced by those given here.

        Raises:
            ClassesError: they cannot be used; the stream continues with the present ones.
        """
        self._naming = self._detector.class_head(
            classes,
            negatives=negatives,
            score_threshold=self._threshold if score_threshold is None else score_threshold,
            thresholds=thresholds,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are looked for at present."""
        return self._naming.names

    def pause(self) -> None:
        """Take no frames until `resume`; meanwhile, a live source drops its frames."""
        self._running.clear()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._running.set()

    def stop(self) -> None:
        """End `run` after the current frame; from any thread."""
        self._stopped.set()
        self._running.set()
        if self._source is not None:
            self._source.close()

    def run(self, source: Source) -> Iterator[tuple[Frame, sv.Detections]]:
        """Yield frames with detections and their `tracker_id`, until the source ends or `stop`.

        Closes the source and the sinks, however it ends.

        Raises:
            SourceError: a film cannot be read.
            Exception: an error of a sink, raised at the next frame.
        """
        self._source = source
        self.metrics = Metrics()
        lanes: dict[str, SourceState] = {}
        with Writer(self._takers, self.metrics.frame_out) as writer:
            try:
                for frame in self._taken(source):
                    if frame.source not in lanes:
                        lanes[frame.source] = self._lane(source.fps)
                    lane = lanes[frame.source]
                    found = lane.process(frame, self._naming, self.metrics)
                    for event in self._events(lane, frame, found):
                        self._report(event)
                    writer.put(frame, found)
                    self.metrics.tracks = sum(len(each.memory) for each in lanes.values())
                    self.metrics.frame_done()
                    yield frame, found
                for event in self._last_events(lanes.values()):
                    self._report(event)
            finally:
                self._stopped.clear()
                source.close()

    def _taken(self, source: Source) -> Iterator[Frame]:
        """The frames of the source until `stop`; none while paused."""
        frames = iter(source)
        while True:
            while not self._running.wait(WAIT_S):
                pass
            frame = None if self._stopped.is_set() else next(frames, None)
            if frame is None or self._stopped.is_set():
                return
            yield frame

    def _events(self, lane: "SourceState", frame: Frame, found: sv.Detections) -> Iterator[Event]:
        if self._tracker is not None:
            yield from lane.events.update(frame, found)
            if self._zones is not None and lane.looked:
                yield from self._zones.update(frame, found)

    def _last_events(self, lanes: Iterable["SourceState"]) -> Iterator[Event]:
        if self._zones is not None:
            yield from self._zones.end()
        for lane in lanes:
            yield from lane.events.end()

    def _lane(self, fps: float) -> "SourceState":
        tracker = None if self._tracker is None else Tracker(self._tracker, fps / self._every)
        return SourceState(self._detector, self._every, tracker, TrackMemory(self._memory))


class SourceState:
    """The state of one source: its tracks, what is known of them, and the last detections."""

    def __init__(
        self, detector: OpenVocabDetector, every: int, tracker: Tracker | None, memory: TrackMemory
    ) -> None:
        self._detector, self._every = detector, every
        self._tracker, self.memory = tracker, memory
        self.events = TrackEvents()
        self.looked = False
        """Whether the last frame was looked at rather than skipped."""
        self._naming: ClassHead | None = None
        self._count = 0
        self._last = sv.Detections.empty()
        self._tracked: tuple[Proposals, NDArray[np.intp]] | None = None

    def process(self, frame: Frame, naming: ClassHead, metrics: Metrics) -> sv.Detections:
        """Return the detections of a frame."""
        passed_over = self._count % self._every
        self._count += 1
        self.looked = not passed_over
        if naming is not self._naming:
            self.memory.relabel()
            self._naming = naming
            if passed_over and self._tracked is not None:  # named anew from what is remembered
                self._last = self._name(*self._tracked, naming)
                return self._last
        elif passed_over:
            return self._last
        min_score = naming.min_score if self._tracker is None else 0.0
        (found,) = self._detector.propose([frame.image], [min_score])
        if self._tracker is None:
            (regions,) = self._detector.encode([frame.image], [found])
            metrics.regions_seen += len(found)
            metrics.regions_encoded += len(found)
            self._last = naming.classify(regions)
        else:
            ids = self._tracker.update(found, frame.time_s)
            metrics.regions_seen += int((ids >= 0).sum())
            self._remember(frame, found, ids, metrics)
            self._tracked = found, ids
            self._last = self._name(found, ids, naming)
        return self._last

    def _remember(
        self, frame: Frame, found: Proposals, ids: NDArray[np.intp], metrics: Metrics
    ) -> None:
        rows = self.memory.due(frame.image, found, ids, frame.time_s)
        if not len(rows):
            return
        metrics.regions_encoded += len(rows)
        (regions,) = self._detector.encode([frame.image], [found[rows]])
        self.memory.update(found.xyxy[rows], ids[rows], regions.features, frame.time_s)

    def _name(self, found: Proposals, ids: NDArray[np.intp], naming: ClassHead) -> sv.Detections:
        known, features = self.memory.features(ids)
        ids = ids[known]
        found = replace(found[known], objectness=self.memory.objectness(ids))
        regions = EncodedRegions(found, features.reshape(-1, naming.feature_size))
        scores = naming.score(regions)
        labels = self.memory.labels(ids, scores.rank_logits)
        return naming.select(found, scores, labels, ids)
