"""Finds and tracks things in a film, and writes a labelled film and a table of all boxes.

python examples/video.py street.mp4 --classes person bicycle --save found.mp4 --csv found.csv
"""

import argparse

from openvocab import OpenVocabDetector
from openvocab.stream import CsvSink, StreamProcessor, VideoSink, VideoSources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film")
    parser.add_argument("--classes", nargs="+", default=["bus", "person"], metavar="WORD")
    parser.add_argument("--save", default="found.mp4", metavar="FILE")
    parser.add_argument("--csv", default="found.csv", metavar="FILE")
    arguments = parser.parse_args()

    film = VideoSources(arguments.film)
    detector = OpenVocabDetector.from_preset("starter")
    sinks = [VideoSink(arguments.save, film.fps), CsvSink(arguments.csv)]
    processor = StreamProcessor(detector, arguments.classes, sinks=sinks)

    things: dict[int, str] = {}  # the last name of each track
    for _, found in processor.run(film):
        things |= zip(found.tracker_id.tolist(), found.data["class_name"], strict=True)
    for track, name in things.items():
        print(f"track {track}: {name}")
    figures = processor.metrics.snapshot()
    print(f"{figures['frames']} frames at {figures['fps']} fps, in {arguments.save}")


if __name__ == "__main__":
    main()
