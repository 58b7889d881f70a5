"""Plays a video in a loop while you type the classes, separated by commas; Ctrl-D ends it.

python examples/live_classes.py street.mp4
"""

import argparse
import sys
import threading

from openvocab import OpenVocabDetector, OpenVocabError
from openvocab.stream import StreamProcessor, VideoSources


def watch(processor: StreamProcessor, source: VideoSources) -> None:
    last = None
    for _, detections in processor.run(source):
        names = ", ".join(sorted(set(detections.data["class_name"]))) or "nothing"
        if names != last:
            print(f"detected: {names}", flush=True)
        last = names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="video, address, or number of a camera")
    source = VideoSources(parser.parse_args().source, loop=True)
    processor = StreamProcessor(OpenVocabDetector.from_preset("starter"), ["person"])
    threading.Thread(target=watch, args=(processor, source)).start()
    try:
        for line in sys.stdin:
            try:
                processor.set_classes([name.strip() for name in line.split(",")])
            except OpenVocabError as error:  # the stream keeps its present classes
                print(error, flush=True)
    finally:
        processor.stop()


if __name__ == "__main__":
    main()
