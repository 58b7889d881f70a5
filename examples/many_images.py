"""Detects objects in a folder of images, one batch at a time; the classes are encoded once and saved.

python examples/many_images.py photos/ --classes bus pedestrian dog
"""

import argparse
from collections import Counter
from pathlib import Path

from openvocab import OpenVocabDetector, Vocabulary

BATCH = 16  # images in memory at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", default=["bus", "pedestrian"], metavar="WORD")
    parser.add_argument("--vocabulary", default="classes.npz", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    detector = OpenVocabDetector.from_preset("starter")
    detector.vocabulary(arguments.classes, negatives=["tram"]).save(arguments.vocabulary)
    # A later run, on any machine with the same preset, can begin here.
    vocabulary = Vocabulary.load(arguments.vocabulary)

    paths = sorted(arguments.folder.glob("*.jpg"))
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        for path, detections in zip(batch, detector.detect_batch(batch, vocabulary), strict=True):
            counts = Counter(detections.data["class_name"])
            summary = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{path.name}: {summary or 'nothing'}")


if __name__ == "__main__":
    main()
