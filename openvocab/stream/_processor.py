"""The loop of a stream: propose, track, encode what is due, classify, report events, write."""

import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Unpack

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ConfigError
from openvocab.scoring import ClassHead
from openvocab.stream._events import Event, EventCallback, TrackEvents, ignore_event
from openvocab.stream._memory import TrackingSettings, TrackMemory
from openvocab.stream._metrics import Metrics
from openvocab.stream._sinks import SinkLike, SinkThread
from openvocab.stream._tracking import Tracker
from openvocab.stream._zones import Zones
from openvocab.types import EncodedRegions, Frame, Image, Proposals, Source
from openvocab.vocabulary import Classes, ClassOptions, Vocabulary

POLL_S = 0.5  # between checks whether a pause is over, so that Ctrl-C gets through


class StreamProcessor:
    """Detects and tracks the caller's classes in a stream, with steady labels; one run at a time.

    Boxes are tracked by objectness, tracks keep a running average of their features, and labels
    come from those. So most boxes in most frames are not encoded, and classes can change at any
    moment.
    """

    def __init__(
        self,
        detector: OpenVocabDetector,
        classes: Classes | Vocabulary,
        *,
        tracking: TrackingSettings | None = TrackingSettings(),  # noqa: B008  immutable
        frame_stride: int = 1,
        zones: Zones | None = None,
        sinks: Iterable[SinkLike] = (),
        on_event: EventCallback = ignore_event,
        **options: Unpack[ClassOptions],
    ) -> None:
        """Compose a processor; nothing is read yet.

        Args:
            detector: may be shared with other processors and threads.
            classes: as for `OpenVocabDetector.detect`.
            tracking: the tracker, when tracks are encoded again, and how stable labels are; None
                detects in each frame separately.
            frame_stride: detect in every n-th frame; frames in between repeat the last detections.
            zones: polygons and lines to report events for; needs a tracker.
            sinks: objects with `write` and `close`, or functions of a frame and its detections;
                each takes every frame, in one thread that all sinks share.
            on_event: called with every event, in the thread where it happens.
            options: negatives and thresholds, as for `OpenVocabDetector.detect`.

        Raises:
            ClassesError: the classes, negatives or thresholds cannot be used.
            ConfigError: there is no such tracker, `frame_stride` is less than 1, or there are
                zones but no tracker.
        """
        if frame_stride < 1:
            raise ConfigError(f"frame_stride is {frame_stride}; use 1 or more.")
        if tracking is None and zones is not None:
            raise ConfigError("Zones count tracks, and tracking is None; give TrackingSettings.")
        if tracking is not None:
            Tracker(tracking.tracker)  # an unknown tracker is an error here, not in the loop
        self._detector, self._tracking, self._stride = detector, tracking, frame_stride
        self._zones = zones or Zones()
        self._sinks, self._on_event = list(sinks), on_event
        self._score_threshold = options.get("score_threshold")
        self._running = threading.Event()
        self._running.set()
        self._stopped = False
        self._source: Source | None = None
        self._waker: threading.Thread | None = None
        self.metrics = Metrics()
        self.set_classes(classes, **options)

    def set_classes(self, classes: Classes | Vocabulary, **options: Unpack[ClassOptions]) -> None:
        """Detect other classes from the next frame on, without encoding a frame; from any thread.

        Without `score_threshold`, that of the processor stays; other options are replaced by those
        given here.

        Raises:
            ClassesError: they cannot be used; the stream continues with the present ones.
        """
        self._head = self._detector.class_head(
            classes, **({"score_threshold": self._score_threshold} | options)
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are detected at present."""
        return self._head.names

    def pause(self) -> None:
        """Take no frames until `resume`; meanwhile, a live source drops its frames."""
        self._running.clear()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._running.set()

    def stop(self) -> None:
        """End `run` after the current frame; from any thread or signal handler, without waiting."""
        self._stopped = True
        # In a thread: a signal handler must not wait for a lock, nor a reader for itself.
        waker = threading.Thread(target=self._wake, args=(self._source,), daemon=True)
        waker.start()
        self._waker = waker  # once it can be joined

    def _wake(self, source: Source | None) -> None:
        self._running.set()
        if source is not None:
            source.close()

    def run(self, source: Source) -> Generator[tuple[Frame, sv.Detections], None, None]:
        """Yield frames with detections and their `tracker_id`, until the source ends or `stop`.

        Closes the source and the sinks, however it ends.

        Raises:
            SourceError: a video cannot be read.
            Exception: an error of a sink, raised at the next frame.
        """
        self._source = source
        self.metrics = Metrics()
        states: dict[str, SourceState] = {}
        with SinkThread(self._sinks, self.metrics.frame_written) as sinks:
            try:
                for frame in self._frames(source):
                    if frame.source not in states:
                        states[frame.source] = self._new_state(frame)
                    state = states[frame.source]
                    detections = state.update(frame, self._head, self.metrics)
                    for event in self._events(state, frame, detections):
                        self._on_event(event)
                    sinks.put(frame, detections)
                    self.metrics.tracks = sum(len(state.memory) for state in states.values())
                    self.metrics.frame_done()
                    yield frame, detections
                last_events = [state.events.end() for state in states.values()]
                for event in chain(self._zones.end(), *last_events):
                    self._on_event(event)
            finally:
                self._stopped = False
                source.close()
                if self._waker is not None:  # none of its calls may outlive the interpreter
                    self._waker.join()

    def _frames(self, source: Source) -> Iterator[Frame]:
        """The frames of the source until `stop`; none while paused."""
        frames = iter(source)
        while True:
            while not self._running.wait(POLL_S):
                pass
            frame = None if self._stopped else next(frames, None)
            if frame is None or self._stopped:
                return
            yield frame

    def _events(
        self, state: "SourceState", frame: Frame, detections: sv.Detections
    ) -> Iterator[Event]:
        yield from state.events.update(frame, detections)
        if not state.skipped:
            yield from self._zones.update(frame, detections)

    def _new_state(self, frame: Frame) -> "SourceState":
        tracker = None
        if self._tracking is not None:
            tracker = Tracker(self._tracking.tracker, frame.fps / self._stride)
        memory, events = TrackMemory(self._tracking), TrackEvents(frame.source)
        return SourceState(self._detector, self._stride, tracker, memory, events)


@dataclass(eq=False)
class SourceState:
    """The state of one source: its tracker, the memory of its tracks, and the last detections."""

    detector: OpenVocabDetector
    stride: int
    tracker: Tracker | None
    memory: TrackMemory
    events: TrackEvents
    skipped: bool = False
    """Whether the last frame was skipped, because of the stride."""
    _count: int = 0
    _head: ClassHead | None = None
    _tracked: tuple[Proposals, NDArray[np.intp]] | None = None
    _detections: sv.Detections = field(default_factory=sv.Detections.empty)

    def update(self, frame: Frame, head: ClassHead, metrics: Metrics) -> sv.Detections:
        """Return the detections of a frame."""
        self.skipped = self._count % self.stride != 0
        self._count += 1
        if head is not self._head:
            self.memory.relabel()
            self._head = head
        elif self.skipped:
            return self._detections
        if self.tracker is None:
            self._detections = self._detect(frame.image, head, metrics)
        else:
            if not self.skipped or self._tracked is None:
                self._tracked = self._track(frame, self.tracker, metrics)
            self._detections = self._classify(*self._tracked, head)
        return self._detections

    def _track(
        self, frame: Frame, tracker: Tracker, metrics: Metrics
    ) -> tuple[Proposals, NDArray[np.intp]]:
        """Proposals `(N,)` and their track ids `(N,)`; encodes the tracks that are due."""
        (proposals,) = self.detector.propose([frame.image], [0.0])
        ids = tracker.update(proposals, frame.time_s)
        metrics.regions_seen += int((ids >= 0).sum())
        rows = self.memory.due(frame.image, proposals, ids, frame.time_s)
        if len(rows):
            metrics.regions_encoded += len(rows)
            (regions,) = self.detector.encode([frame.image], [proposals[rows]])
            self.memory.update(proposals.xyxy[rows], ids[rows], regions.features, frame.time_s)
        return proposals, ids

    def _classify(
        self, proposals: Proposals, ids: NDArray[np.intp], head: ClassHead
    ) -> sv.Detections:
        """Detections of the tracks that were encoded, from the average of their features."""
        encoded, features = self.memory.features(ids)
        ids = ids[encoded]
        proposals = self.memory.smooth(proposals[encoded], ids)
        # Without such a track, features are (0,).
        regions = EncodedRegions(proposals, features.reshape(-1, head.feature_size))
        scores = head.score(regions)
        labels = self.memory.labels(ids, scores.rank_logits)
        return head.select(proposals, scores, labels, ids)

    def _detect(self, image: Image, head: ClassHead, metrics: Metrics) -> sv.Detections:
        """Detections of one frame without tracks."""
        (regions,) = self.detector.encode_images([image], [head.min_objectness])
        metrics.regions_seen += len(regions.proposals)
        metrics.regions_encoded += len(regions.proposals)
        return head.classify(regions)
