"""Films and cameras: frames in, tracked and named detections out, for as long as they run."""

from openvocab.stream.events import Event
from openvocab.stream.memory import MemorySettings
from openvocab.stream.processor import StreamProcessor
from openvocab.stream.records import CsvSink, JsonLinesSink
from openvocab.stream.source import VideoSources
from openvocab.stream.video import VideoSink, WindowSink
from openvocab.stream.zones import Zones
from openvocab.types import Frame, Sink

__all__ = [
    "CsvSink",
    "Event",
    "Frame",
    "JsonLinesSink",
    "MemorySettings",
    "Sink",
    "StreamProcessor",
    "VideoSink",
    "VideoSources",
    "WindowSink",
    "Zones",
]
