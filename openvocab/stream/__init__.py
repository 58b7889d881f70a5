"""Films and cameras: frames in, tracked and named detections out, for as long as they run."""

from openvocab.protocols import Frame, Sink
from openvocab.stream.events import Event
from openvocab.stream.film import VideoSink, WindowSink
from openvocab.stream.memory import MemorySettings
from openvocab.stream.processor import StreamProcessor
from openvocab.stream.records import CsvSink, JsonLinesSink
from openvocab.stream.source import Sources
from openvocab.stream.zones import Zones

__all__ = [
    "CsvSink",
    "Event",
    "Frame",
    "JsonLinesSink",
    "MemorySettings",
    "Sink",
    "Sources",
    "StreamProcessor",
    "VideoSink",
    "WindowSink",
    "Zones",
]
