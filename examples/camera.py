"""Watches a camera, prints events, and opens it again if it is lost; Ctrl-C ends it.

python examples/camera.py rtsp://user:password@camera/1 --classes person dog --seconds 60
"""

import argparse
import threading
from contextlib import suppress

from openvocab import OpenVocabDetector
from openvocab.stream import Event, StreamProcessor, VideoSources


def print_event(event: Event) -> None:
    details = ", ".join(f"{key} {value}" for key, value in event.data.items())
    print(f"{event.kind}: {event.source} ({details})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", default="0", help="camera number, address or video")
    parser.add_argument("--classes", nargs="+", default=["person"], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=threading.TIMEOUT_MAX, help="to end after")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    processor = StreamProcessor(detector, arguments.classes, on_event=print_event)
    # retry_open: the camera may be unavailable at first
    camera = VideoSources(arguments.source, on_event=print_event, retry_open=True)
    timer = threading.Timer(arguments.seconds, processor.stop)  # even if no frames come
    timer.daemon = True
    timer.start()
    with suppress(KeyboardInterrupt):
        for frame, _ in processor.run(camera):
            if frame.index == 0:
                print(f"watching {frame.source}", flush=True)


if __name__ == "__main__":
    main()
