"""Plays a film over and over while you type what to look for, separated by commas; Ctrl-D ends it.

python examples/live_classes.py street.mp4
"""

import argparse
import sys
import threading

from openvocab import OpenVocabDetector, OpenVocabError
from openvocab.stream import StreamProcessor, VideoSources


def watch(processor: StreamProcessor, source: VideoSources) -> None:
    shown = None
    for _, found in processor.run(source):
        seen = ", ".join(sorted(set(found.data["class_name"]))) or "nothing"
        if seen != shown:
            print(f"seen: {seen}", flush=True)
        shown = seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="film, address, or number of a camera")
    source = VideoSources(parser.parse_args().source, loop=True)
    processor = StreamProcessor(OpenVocabDetector.from_preset("starter"), ["person"])
    threading.Thread(target=watch, args=(processor, source)).start()
    try:
        for line in sys.stdin:
            try:
                processor.set_classes([word.strip() for word in line.split(",")])
            except OpenVocabError as error:  # it keeps the classes that it has
                print(error, flush=True)
    finally:
        processor.stop()


if __name__ == "__main__":
    main()
