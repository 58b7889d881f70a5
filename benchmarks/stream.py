"""Cost of tracking and classification on top of the detector, frame for frame, in one run.

    .venv/bin/python benchmarks/stream.py VIDEO --classes "person, car, dog, bicycle"

Each frame goes through the detector alone and through the stream processor, in turn.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openvocab import OpenVocabDetector
from openvocab.stream import Frame, StreamProcessor, VideoSources
from openvocab.vocabulary._prompts import split_class_list


class Timed:
    """A source that times the detector alone on each frame before it yields the frame."""

    def __init__(self, source: VideoSources, detector: OpenVocabDetector) -> None:
        self._source, self._detector = source, detector
        self.alone: list[float] = []
        self.yielded = 0.0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            start = time.perf_counter()
            self._detector.proposer.propose([frame.image])
            self.alone.append(time.perf_counter() - start)
            self.yielded = time.perf_counter()
            yield frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--classes", default="person, car, dog, bicycle")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--warm-up", type=int, default=20, help="frames that do not count")
    options = parser.parse_args()
    detector = OpenVocabDetector.from_preset(options.preset)
    source = Timed(VideoSources(options.video), detector)
    processor = StreamProcessor(detector, split_class_list(options.classes))
    streamed = np.array([time.perf_counter() - source.yielded for _ in processor.run(source)])
    alone = np.array(source.alone)
    steady = slice(options.warm_up, None)
    metrics = processor.metrics.snapshot() | {
        "cores": os.cpu_count(),
        "detector_ms": round(1000 * float(alone[steady].mean()), 2),
        "stream_ms": round(1000 * float(streamed[steady].mean()), 2),
        "ratio": round(float(streamed[steady].sum() / alone[steady].sum()), 3),
    }
    print(json.dumps(metrics))  # noqa: T201  a script's result


if __name__ == "__main__":
    main()
