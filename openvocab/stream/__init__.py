"""Videos and cameras: frames in, tracked and classified detections out, for as long as they run."""

from openvocab.stream._events import Event, EventCallback
from openvocab.stream._memory import TrackingSettings
from openvocab.stream._metrics import Metrics
from openvocab.stream._processor import StreamProcessor
from openvocab.stream._sinks import CsvSink, EventLog, JsonLinesSink, SinkLike
from openvocab.stream._source import VideoSources
from openvocab.stream._video_sinks import VideoSink, WindowSink
from openvocab.stream._zones import Zones
from openvocab.types import Frame, Sink, Source

__all__ = [
    "CsvSink",
    "Event",
    "EventCallback",
    "EventLog",
    "Frame",
    "JsonLinesSink",
    "Metrics",
    "Sink",
    "SinkLike",
    "Source",
    "StreamProcessor",
    "TrackingSettings",
    "VideoSink",
    "VideoSources",
    "WindowSink",
    "Zones",
]
