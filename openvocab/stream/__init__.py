"""Videos and cameras: frames in, tracked and classified detections out, for as long as they run."""

from openvocab.stream.events import Event
from openvocab.stream.memory import TrackingSettings
from openvocab.stream.metrics import Metrics
from openvocab.stream.processor import StreamProcessor
from openvocab.stream.sinks import CsvSink, EventLog, JsonLinesSink, SinkLike
from openvocab.stream.source import VideoSources
from openvocab.stream.video_sinks import VideoSink, WindowSink
from openvocab.stream.zones import Zones
from openvocab.types import Frame, Sink, Source

__all__ = [
    "CsvSink",
    "Event",
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
