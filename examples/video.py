"""Detects and tracks objects in a video, and writes an annotated video and a table of all boxes.

python examples/video.py street.mp4 --classes person bicycle --save tracked.mp4 --csv tracked.csv
"""

import argparse

from openvocab import OpenVocabDetector
from openvocab.stream import CsvSink, StreamProcessor, VideoSink, VideoSources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("--classes", nargs="+", default=["bus", "person"], metavar="NAME")
    parser.add_argument("--save", default="tracked.mp4", metavar="FILE")
    parser.add_argument("--csv", default="tracked.csv", metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    sinks = [VideoSink(arguments.save), CsvSink(arguments.csv)]
    processor = StreamProcessor(detector, arguments.classes, sinks=sinks)

    tracks: dict[int, str] = {}  # the last class of each track
    for _, detections in processor.run(VideoSources(arguments.video)):
        tracks |= zip(detections.tracker_id.tolist(), detections.data["class_name"], strict=True)
    for track, name in tracks.items():
        print(f"track {track}: {name}")
    metrics = processor.metrics.snapshot()
    print(f"{metrics['frames']} frames at {metrics['fps']} fps, in {arguments.save}")


if __name__ == "__main__":
    main()
